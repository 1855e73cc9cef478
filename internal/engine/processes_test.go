package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// committed gives the end of what is committed in each partition of a topic.
func (w *world) committed(topic string) map[int32]int64 {
	w.t.Helper()
	ends := map[int32]int64{}
	eventually(w.t, "the ends of "+topic, func() error {
		listed, err := w.adm.ListCommittedOffsets(context.Background(), topic)
		if err == nil {
			err = listed.Error()
		}
		listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
		return err
	})
	return ends
}

// advances waits until n more offsets are committed in each partition of the
// changelog.
func (w *world) advances(n int64) {
	w.t.Helper()
	from := w.committed("counter-table")
	eventually(w.t, "every partition to go on", func() error {
		now := w.committed("counter-table")
		for p, at := range from {
			if now[p] < at+n {
				return fmt.Errorf("partition %d went on by %d of %d", p, now[p]-at, n)
			}
		}
		return nil
	})
}

// Oracle: three processes share the work, and again and again one of them is
// killed with SIGKILL at a random moment and started again on its folder, which
// holds nothing but what is committed. Each input has its effect exactly once.
func TestProcessesKilledAtRandom(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	root := t.TempDir()
	dir := func(i int) string { return filepath.Join(root, fmt.Sprint(i)) }
	name := func(i int) string { return string(rune('a' + i)) }
	var ps [3]*worker
	for i := range ps {
		ps[i] = w.work(dir(i), name(i), "")
	}
	stop := w.load(50)
	w.advances(20)
	const kills = 12
	compared := 0
	for range kills {
		i := rnd.IntN(len(ps))
		<-time.After(time.Duration(rnd.IntN(150)) * time.Millisecond)
		ps[i].signal(syscall.SIGKILL)
		ps[i].killed()
		compared += w.checkStore(dir(i))
		ps[i] = w.work(dir(i), name(i), "")
		if rnd.IntN(3) > 0 {
			w.advances(5)
		}
	}
	n := stop()
	w.eventuallyAudit(n, 50)
	for i, p := range ps {
		p.stop()
		compared += w.checkStore(dir(i))
	}
	t.Logf("%d kills, %d inputs, %d entries compared with the changelog", kills, n, compared)
}

// Oracle: the process that has all partitions is stopped with SIGSTOP in the
// middle of its work for longer than its session and its transaction may be
// silent, another one takes the work over, and then the first goes on as if
// nothing had been. Nothing of what it was about is ever committed, it finds
// out, and works on.
func TestZombie(t *testing.T) {
	w := newWorld(t)
	root := t.TempDir()
	dirs := [2]string{filepath.Join(root, "a"), filepath.Join(root, "b")}
	ps := [2]*worker{w.work(dirs[0], "a", ""), nil}
	stop := w.load(50)
	w.advances(50)
	ps[1] = w.work(dirs[1], "b", "")
	for round := range 2 {
		zombie := ps[round]
		zombie.signal(syscall.SIGSTOP)
		w.advances(200) // the partitions of the silent one only go on when its session is over
		zombie.signal(syscall.SIGCONT)
		w.advances(200)
	}
	n := stop()
	w.eventuallyAudit(n, 50)
	for i, p := range ps {
		p.stop()
		w.checkStore(dirs[i])
	}
	if err := w.audit(n, 50); err != nil {
		t.Fatalf("after both had stopped: %v", err)
	}
}

// Oracle: up to eight instances come and go all the time, none for longer than
// a moment, while records arrive. Each input has its effect exactly once, and
// in the end the instances that stay share all partitions.
func TestRebalanceStorm(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(2, 2))
	root := t.TempDir()
	var es [8]*running
	start := func(i int) {
		cfg := w.config(filepath.Join(root, fmt.Sprint(i)))
		cfg.Instance = string(rune('a' + i))
		es[i] = w.startCounter(cfg, &counter{})
	}
	start(0)
	es[0].waitReady()
	stop := w.load(50)
	moves := 0
	for range 30 {
		i := rnd.IntN(len(es))
		if es[i] == nil {
			start(i)
		} else if rnd.IntN(2) == 0 {
			es[i].stop()
			es[i] = nil
		}
		moves++
		<-time.After(time.Duration(rnd.IntN(100)) * time.Millisecond)
	}
	for i := range 3 {
		if es[i] == nil {
			start(i)
		}
	}
	n := stop()
	w.eventuallyAudit(n, 50)
	eventually(t, "all partitions to be shared", func() error {
		has := map[int32]int{}
		for _, e := range es {
			if e == nil {
				continue
			}
			for _, p := range e.group().Partitions {
				has[p.Partition]++
			}
		}
		for p := range int32(testPartitions) {
			if has[p] != 1 {
				return fmt.Errorf("partition %d is worked on by %d instances", p, has[p])
			}
		}
		return nil
	})
	t.Logf("%d comings and goings, %d inputs", moves, n)
}
