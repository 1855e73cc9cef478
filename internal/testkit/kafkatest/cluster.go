package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// node gives a broker of ours.
func (c *Cluster) node(i int) (*node, error) {
	if len(c.nodes) == 0 {
		return nil, fmt.Errorf("the brokers are those of %s and not ours to do things to: unset it", EnvBrokers)
	}
	if i < 0 || i >= len(c.nodes) {
		return nil, fmt.Errorf("broker %d: expected 0 to %d", i, len(c.nodes)-1)
	}
	return c.nodes[i], nil
}

// PID is the process id of a broker; after a restart it is another.
func (c *Cluster) PID(i int) (int, error) {
	n, err := c.node(i)
	if err != nil {
		return 0, err
	}
	return n.p.PID(), nil
}

// KillBroker kills a broker with SIGKILL and waits for its end.
func (c *Cluster) KillBroker(i int) error {
	n, err := c.node(i)
	if err == nil {
		n.p.Kill()
	}
	return err
}

// StartKilled starts all brokers that were killed, on their old data and
// addresses, and waits until all replicas are in sync.
func (c *Cluster) StartKilled() error {
	dead := 0
	for i := range c.nodes {
		n, err := c.node(i)
		if err != nil {
			return err
		}
		if alive(n.p) != nil {
			dead++
			if err := c.start(n); err != nil {
				return err
			}
		}
	}
	if dead == 0 {
		return nil
	}
	if err := c.awaitReady(len(c.nodes)); err != nil {
		return fmt.Errorf("restart of %d brokers: %w\n%s", dead, err, c.Excerpt())
	}
	return c.WaitInSync()
}

// WaitInSync waits until every replica of every partition is in sync.
func (c *Cluster) WaitInSync() error {
	err := await(90*time.Second, func(ctx context.Context) error {
		topics, err := c.adm.ListTopicsWithInternal(ctx)
		if err != nil {
			return err
		}
		for _, d := range topics {
			for _, p := range d.Partitions {
				if p.Err != nil || p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
					return fmt.Errorf("%s/%d: leader %d, %d of %d replicas in sync, %v", d.Topic, p.Partition, p.Leader, len(p.ISR), len(p.Replicas), p.Err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("replicas in sync: %w\n%s", err, c.Excerpt())
	}
	return nil
}

// PauseBroker stops a broker with SIGSTOP: its connections stay open and
// nothing answers.
func (c *Cluster) PauseBroker(i int) error {
	n, err := c.node(i)
	if err != nil {
		return err
	}
	if err := n.p.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause broker %d: %w", n.id, err)
	}
	return nil
}

// ResumeBroker lets a paused broker go on. A dead one stays dead.
func (c *Cluster) ResumeBroker(i int) error {
	n, err := c.node(i)
	if err != nil || alive(n.p) != nil {
		return err
	}
	if err := n.p.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("resume broker %d: %w", n.id, errors.Join(err, alive(n.p)))
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// RequireOwn fails a test that does things to brokers if they are another's.
func (c *Cluster) RequireOwn(t testing.TB) {
	t.Helper()
	_, err := c.node(0)
	must(t, err)
}

// Kill kills a broker with SIGKILL. Restart brings it back; if the test does
// not, its end does.
func (c *Cluster) Kill(t testing.TB, i int) {
	t.Helper()
	c.RequireOwn(t)
	t.Cleanup(func() { c.Restart(t) })
	must(t, c.KillBroker(i))
}

// Restart is StartKilled for tests.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	must(t, c.StartKilled())
}

// AwaitInSync is WaitInSync for tests.
func (c *Cluster) AwaitInSync(t testing.TB) {
	t.Helper()
	must(t, c.WaitInSync())
}

// Pause stops a broker with SIGSTOP: its connections stay open and nothing
// answers. Resume lets it go on; if the test does not, its end does.
func (c *Cluster) Pause(t testing.TB, i int) {
	t.Helper()
	c.RequireOwn(t)
	t.Cleanup(func() { c.Resume(t, i) })
	must(t, c.PauseBroker(i))
}

// Resume lets a paused broker go on.
func (c *Cluster) Resume(t testing.TB, i int) {
	t.Helper()
	must(t, c.ResumeBroker(i))
}
