package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/processors"
)

// All tests here have one oracle, audit: whatever happens, each input has its
// effect exactly once, the counts of each key have no gap and no repetition,
// and the table agrees with what was emitted.

func TestExactlyOnceUndisturbed(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 500, 7)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(500, 7)
	w.feed(500, 600, 7)
	w.eventuallyAudit(600, 7)
	e.stop()
	if err := w.audit(600, 7); err != nil {
		t.Fatal(err)
	}
}

// A clean stop leaves nothing to replay: the next start steps only through new
// records.
func TestCleanRestartReplaysNothing(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.feed(0, 300, 5)
	e := w.startCounter(w.config(dir), &counter{})
	w.eventuallyAudit(300, 5)
	e.stop()
	w.feed(300, 310, 5)
	c := &counter{}
	e = w.startCounter(w.config(dir), c)
	w.eventuallyAudit(310, 5)
	if n := c.steps.Load(); n != 10 {
		t.Errorf("second run stepped through %d records, expected 10", n)
	}
	if s := e.group(); s.Restarts != 0 || s.Aborts > spurious {
		t.Errorf("%d restarts, %d aborts, expected none and at most %d", s.Restarts, s.Aborts, spurious)
	}
}

// (a) Panics and errors of a step are dead letters; what is left is counted
// exactly once.
func TestExactlyOnceWithPanics(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 400, 5)
	c := &counter{before: func(n int64, rec processors.Record) error {
		if v := rec.Value.(int); v >= 400 {
			panic("cannot count " + rec.Key)
		}
		return nil
	}}
	w.startCounter(w.config(t.TempDir()), c)
	w.feed(400, 450, 5) // these panic
	eventually(t, "dead letters", func() error {
		if n := len(w.read("dead")); n != 50 {
			return fmt.Errorf("%d dead letters", n)
		}
		return nil
	})
	w.eventuallyAudit(400, 5)
}

// (b) The answer to EndTxn is lost: the connection breaks after the broker has
// carried it out. The outcome is found out and nothing is done twice.
func TestExactlyOnceWithLostAnswers(t *testing.T) {
	w := newWorld(t)
	cut := &answerCutter{every: 3}
	cfg := w.config(t.TempDir())
	cfg.ClientOptions = []kgo.Opt{kgo.Dialer(cut.dial)}
	e := w.startCounter(cfg, &counter{})
	for i := range 10 {
		w.feed(i*20, i*20+20, 5)
		w.eventuallyAudit(i*20+20, 5)
	}
	if cut.cuts.Load() == 0 {
		t.Fatal("no answer was lost: the test tests nothing")
	}
	t.Logf("%d answers lost, %d unknown outcomes, %d restarts", cut.cuts.Load(), e.group().Unknown, e.group().Restarts)
}

// answerCutter breaks a connection when the answer to every n-th EndTxn is due.
type answerCutter struct {
	every int64
	seen  atomic.Int64
	cuts  atomic.Int64
}

func (a *answerCutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: c, a: a}, nil
}

type cutConn struct {
	net.Conn
	a   *answerCutter
	cut atomic.Bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	// A request begins with its length and its API key.
	if len(b) > 6 && int16(b[4])<<8|int16(b[5]) == int16(kmsg.EndTxn) && c.a.seen.Add(1)%c.a.every == 0 {
		c.cut.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.CompareAndSwap(true, false) && n > 0 {
		c.a.cuts.Add(1)
		c.Conn.Close()
		return 0, errors.New("connection was cut")
	}
	return n, err
}

// (c) A crash between the commit and local state: the table is behind its
// changelog and is recovered from there. The folder's last state on disk is
// taken as a crash would leave it.
func TestExactlyOnceAfterCrashBeforeApply(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	var crashed atomic.Bool
	cfg := w.config(dir)
	cfg.hooks.beforeApply = func(string) error {
		if !crashed.Load() {
			return nil
		}
		return errors.New("crash before apply")
	}
	w.feed(0, 200, 5)
	e := w.startCounter(cfg, &counter{})
	w.eventuallyAudit(200, 5)
	crashed.Store(true)
	for i := range 2 {
		w.feed(200+i*50, 250+i*50, 5)
		eventually(t, "a crash", func() error {
			if n := e.group().Restarts; n <= int64(i) {
				return fmt.Errorf("%d crashes", n)
			}
			return nil
		})
	}
	crashed.Store(false)
	w.feed(300, 350, 5)
	w.eventuallyAudit(350, 5)
}

// (c) A process that is killed: nothing is flushed, and its successor finds
// the folder as it was when it was last durable.
func TestExactlyOnceAfterKill(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	n := 0
	for round := range 3 {
		copied := t.TempDir() + "/state"
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		dir = copied
		cfg := w.config(dir)
		stuck := make(chan struct{})
		release := make(chan struct{})
		var once sync.Once
		var ends atomic.Int64
		cfg.hooks.beforeEnd = func(string) {
			if ends.Add(1) == int64(round+2) {
				once.Do(func() { close(stuck) })
				<-release // the process is as good as dead from here
			}
		}
		e := w.startCounter(cfg, &counter{})
		for i := 0; ; i++ {
			w.feed(n, n+30, 5)
			n += 30
			select {
			case <-stuck:
			case <-time.After(50 * time.Millisecond):
				continue
			}
			break
		}
		// What the dead process had durable is copied before its successor
		// starts; the dead one wakes up afterwards, as a zombie does.
		next := t.TempDir() + "/state"
		if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		os.Remove(next + "/LOCK")
		e2 := w.startCounter(w.config(next), &counter{})
		w.eventuallyAudit(n, 5)
		close(release)
		e2.stop()
		e.stop()
		if err := w.audit(n, 5); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		dir = next
	}
}

// (d) Instances come and go while records arrive.
func TestExactlyOnceWithRebalances(t *testing.T) {
	w := newWorld(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	start := func(i int) *running {
		cfg := w.config(dirs[i])
		cfg.Instance = string(rune('a' + i))
		return w.startCounter(cfg, &counter{})
	}
	feeding := make(chan struct{})
	stopFeeding := make(chan struct{})
	var fed atomic.Int64
	go func() {
		defer close(feeding)
		for {
			select {
			case <-stopFeeding:
				return
			case <-time.After(2 * time.Millisecond):
			}
			n := int(fed.Load())
			w.feed(n, n+20, 9)
			fed.Add(20)
		}
	}()
	a := start(0)
	a.waitReady()
	for range 3 {
		b := start(1)
		eventually(t, "both instances to work", func() error {
			for _, e := range []*running{a, b} {
				if s := e.group(); len(s.Partitions) != testPartitions/2 || s.Records == 0 {
					return fmt.Errorf("%d partitions, %d records", len(s.Partitions), s.Records)
				}
			}
			return nil
		})
		b.stop()
		eventually(t, "one instance to have it all", func() error {
			if n := len(a.group().Partitions); n != testPartitions {
				return fmt.Errorf("%d partitions", n)
			}
			return nil
		})
	}
	close(stopFeeding)
	<-feeding
	w.eventuallyAudit(int(fed.Load()), 9)
}

// network is that of one process: when it is down the process is as good as
// dead, and a zombie when it is up again.
type network struct {
	dialer func(context.Context, string, string) (net.Conn, error)
	mu     sync.Mutex
	isDown bool
	conns  []net.Conn
}

func (n *network) options() []kgo.Opt {
	if n.dialer == nil {
		n.dialer = (&net.Dialer{}).DialContext
	}
	return []kgo.Opt{kgo.Dialer(n.dial)}
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := n.dialer(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isDown {
		c.Close()
		return nil, errors.New("network is down")
	}
	n.conns = append(n.conns, c)
	return c, nil
}

func (n *network) down(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isDown = down
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

// Everything at once, in an order that a seed decides: processes come, go and
// die, folders are wiped, answers are lost, the broker has mishaps, while records
// arrive. Whatever the order, the audit holds at the end.
func TestExactlyOnceUnderEverything(t *testing.T) {
	seed := testSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	cut := &answerCutter{every: 7}
	root := t.TempDir()
	type process struct {
		*running
		net *network
	}
	var procs [2]*process
	var zombies []*process
	dirs := [2]string{root + "/a0", root + "/b0"}
	start := func(i int) {
		cfg := w.config(dirs[i])
		cfg.Instance = string(rune('a' + i))
		cfg.StopTimeout = 100 * time.Millisecond
		p := &process{net: &network{dialer: cut.dial}}
		cfg.ClientOptions = []kgo.Opt{kgo.Dialer(p.net.dial)}
		e, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.AddProcessor(counterSpec(&counter{})); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		p.running = &running{Engine: e, t: t, cancel: cancel, done: make(chan error, 1)}
		go func() { p.done <- e.Run(ctx) }()
		procs[i] = p
	}
	var names int
	fresh := func(i int) string {
		names++
		return fmt.Sprintf("%s/%c%d", root, 'a'+i, names)
	}
	fed := 0
	for range 40 {
		n := rnd.IntN(60)
		w.feed(fed, fed+n, 9)
		fed += n
		i := rnd.IntN(2)
		what := rnd.IntN(7)
		switch {
		case procs[i] == nil:
			start(i)
		case what == 0: // stops in good order
			procs[i].stop()
			procs[i] = nil
		case what == 1: // dies: what it had on disk is its successor's
			procs[i].net.down(true)
			zombies = append(zombies, procs[i])
			next := fresh(i)
			if err := os.CopyFS(next, os.DirFS(dirs[i])); err != nil {
				t.Logf("copy of a folder at work: %v", err) // a file went: as after a crash of the disk
			}
			os.Remove(next + "/LOCK")
			dirs[i], procs[i] = next, nil
		case what == 2: // dies with its disk
			procs[i].net.down(true)
			zombies = append(zombies, procs[i])
			dirs[i], procs[i] = fresh(i), nil
		case what == 3 || what == 4:
			w.mishap(rnd)
		default:
			<-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond)
		}
	}
	for i := range procs {
		if procs[i] == nil {
			start(i)
		}
	}
	w.eventuallyAudit(fed, 9)
	t.Logf("%d records, %d answers lost, %d processes died", fed, cut.cuts.Load(), len(zombies))
	for _, p := range append(zombies, procs[:]...) {
		p.net.down(false)
		p.stop()
	}
	if err := w.audit(fed, 9); err != nil {
		t.Fatalf("after the zombies woke up: %v", err)
	}
}
