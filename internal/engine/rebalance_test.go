package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// arrivals tells when what was made of each input partition becomes visible to
// a read-committed reader.
type arrivals struct {
	mu      sync.Mutex
	last    map[int32]time.Time
	longest map[int32]time.Duration
}

// watch follows the topic out until the test ends.
func (w *world) watch(partitions int) *arrivals {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	a := &arrivals{last: map[int32]time.Time{}, longest: map[int32]time.Duration{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			fs := cl.PollFetches(context.Background())
			if fs.IsClientClosed() {
				return
			}
			now := time.Now()
			a.mu.Lock()
			fs.EachRecord(func(r *kgo.Record) { a.seen(Partition(string(r.Key), partitions), now) })
			a.mu.Unlock()
		}
	})
	w.t.Cleanup(func() { cl.Close(); wg.Wait() })
	return a
}

func (a *arrivals) seen(p int32, now time.Time) {
	if last, ok := a.last[p]; ok {
		a.longest[p] = max(a.longest[p], now.Sub(last))
	}
	a.last[p] = now
}

// gap gives the longest time without an arrival in any of the partitions since
// it was last asked.
func (a *arrivals) gap(partitions []int32) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range partitions {
		longest = max(longest, a.longest[p])
	}
	clear(a.longest)
	return longest
}

// has gives the partitions that an instance works on.
func (r *running) has() (ps []int32) {
	s := r.group()
	if !s.Recovered {
		return nil
	}
	for _, p := range s.Partitions {
		ps = append(ps, p.Partition)
	}
	return ps
}

// What stays with an instance goes on while another one comes and goes. The
// tests print for how long it stood still; no verdict depends on it.

// What comes back has a table that has gone on elsewhere.
func TestPartitionsThatStay(t *testing.T) {
	const partitions, keys, rounds = 12, 300, 3
	bulk := 20_000
	if testing.Short() {
		bulk = 4_000
	}
	w := newWorldOf(t, partitions)
	a := w.startNamed("a", t.TempDir())
	dir := t.TempDir()
	a.waitReady()
	w.feed(0, bulk, keys)
	stop := w.loadFrom(bulk, keys)
	seen := w.watch(partitions)
	eventually(t, "a to have it all", a.working(partitions))
	eventually(t, "some commits", a.commits(10))
	aborts := a.group().Aborts
	var joins, leaves []time.Duration
	for range rounds {
		seen.gap(nil)
		b := w.startNamed("b", dir)
		eventually(t, "b to take its share", b.working(partitions/2))
		eventually(t, "a to give it", a.working(partitions/2))
		eventually(t, "some commits", a.commits(10))
		stayed := a.has()
		joins = append(joins, seen.gap(stayed))
		eventually(t, "b to get ahead", b.records(int64(bulk)/4))
		seen.gap(nil)
		b.stop()
		eventually(t, "a to have it all", a.working(partitions))
		eventually(t, "some commits", a.commits(10))
		leaves = append(leaves, seen.gap(stayed))
	}
	fed := stop()
	w.eventuallyAudit(fed, keys)
	s := a.group()
	t.Logf("%d records; longest time without a commit in a partition that stays: when another instance joins %v, when it leaves %v; %d aborts, %d restarts",
		fed, durations(joins), durations(leaves), s.Aborts-aborts, s.Restarts)
}

// Every member must join again before anyone goes on, also one that has
// nothing to do and notices late.
func TestPartitionsThatStayBesideAnIdleInstance(t *testing.T) {
	const partitions, keys, rounds = 2, 60, 4
	w := newWorldOf(t, partitions)
	a := w.startNamed("a", t.TempDir())
	a.waitReady()
	b := w.startNamed("b", t.TempDir())
	eventually(t, "b to take its share", b.working(1))
	idle := w.startNamed("c", t.TempDir())
	idle.waitReady()
	stop := w.load(keys)
	seen := w.watch(partitions)
	eventually(t, "some commits", a.commits(10))
	aborts := a.group().Aborts
	var joins, leaves []time.Duration
	dir := t.TempDir()
	for range rounds {
		eventually(t, "the group to be at rest", a.commits(30))
		seen.gap(nil)
		d := w.startNamed("d", dir)
		d.waitReady()
		eventually(t, "some commits", a.commits(10))
		joins = append(joins, seen.gap([]int32{0, 1}))
		eventually(t, "the group to be at rest", a.commits(30))
		seen.gap(nil)
		d.stop()
		eventually(t, "some commits", a.commits(10))
		leaves = append(leaves, seen.gap([]int32{0, 1}))
	}
	w.eventuallyAudit(stop(), keys)
	t.Logf("longest time without a commit: when another instance joins %v, when it leaves %v; %d aborts", durations(joins), durations(leaves), a.group().Aborts-aborts)
}

func (w *world) startNamed(instance, dir string) *running {
	cfg := w.config(dir)
	cfg.Instance = instance
	return w.startCounter(cfg, &counter{})
}

// working tells whether an instance works on n partitions.
func (r *running) working(n int) func() error {
	return func() error {
		if ps := r.has(); len(ps) != n {
			return fmt.Errorf("instance works on partitions %v, expected %d", ps, n)
		}
		return nil
	}
}

// records tells whether an instance has processed n records from now on.
func (r *running) records(n int64) func() error {
	at := r.group().Records
	return func() error {
		if got := r.group().Records - at; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	}
}

// commits tells whether an instance has committed n times from now on.
func (r *running) commits(n int64) func() error {
	at := r.group().Commits
	return func() error {
		if got := r.group().Commits - at; got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	}
}

func durations(ds []time.Duration) string {
	slices.Sort(ds)
	var s []string
	for _, d := range ds {
		s = append(s, d.Round(time.Millisecond).String())
	}
	return strings.Join(s, " ")
}

// A partition whose table takes long to recover holds nobody up, and neither
// does one that cannot recover at all: the others go on, and it is tried again.
func TestPartitionThatCannotRecover(t *testing.T) {
	const keys = 40
	w := newWorld(t)
	slow, broken := make(chan struct{}), make(chan struct{})
	cfg := w.config(t.TempDir())
	cfg.hooks.recovering = func(t *task) error {
		switch t.partition {
		case 1:
			<-slow
		case 2:
			select {
			case <-broken:
			default:
				return errors.New("the disk is full")
			}
		}
		return nil
	}
	w.feed(0, 400, keys)
	a := w.startCounter(cfg, &counter{})
	done := func(others ...int32) func() error {
		want := 0
		for i := range 400 {
			if slices.Contains(others, Partition(fmt.Sprintf("key-%d", i%keys), testPartitions)) {
				want++
			}
		}
		return func() error {
			if n := a.group().Records; n != int64(want) {
				return fmt.Errorf("%d records, expected %d", n, want)
			}
			return nil
		}
	}
	state := func(p int32, want PartitionState) func() error {
		return func() error {
			for _, ps := range a.group().Partitions {
				if ps.Partition == p && ps.State == want {
					return nil
				}
			}
			return fmt.Errorf("partitions %+v", a.group().Partitions)
		}
	}
	eventually(t, "the others to work", done(0, 3))
	eventually(t, "the slow one to be shown", state(1, PartitionRecovering))
	eventually(t, "the broken one to be shown", state(2, PartitionWithheld))
	if s := a.group(); s.Recovered || s.State != "recovering" || s.Restarts != 0 || !strings.Contains(s.LastError, "disk is full") {
		t.Errorf("status %+v", s)
	}
	if err := a.Ready(); err == nil {
		t.Error("ready before everything has recovered once")
	}
	close(broken)
	eventually(t, "the broken one to work", done(0, 2, 3))
	close(slow)
	eventually(t, "the slow one to work", done(0, 1, 2, 3))
	a.waitReady()
	w.eventuallyAudit(400, keys)
}

// A step that cannot read its table ends its own task; the transaction, which
// is shared, is aborted, and the others go on from there.
func TestTaskFailsAtWork(t *testing.T) {
	const keys = 40
	w := newWorld(t)
	cfg := w.config(t.TempDir())
	var last atomic.Pointer[task]
	cfg.hooks.recovering = func(t *task) error {
		last.Store(t)
		return nil
	}
	a := w.startCounter(cfg, &counter{})
	stop := w.load(keys)
	eventually(t, "some commits", a.commits(10))
	for i := range 3 {
		why := fmt.Sprintf("cannot read the table, %d", i)
		last.Load().fail(errors.New(why))
		eventually(t, "the failure to be noticed", func() error {
			if got := a.group().LastError; !strings.Contains(got, why) {
				return fmt.Errorf("last error %q", got)
			}
			return nil
		})
		eventually(t, "all to work again", a.working(testPartitions))
	}
	w.eventuallyAudit(stop(), keys)
	if s := a.group(); s.Restarts != 0 {
		t.Errorf("%d restarts of the session, expected none", s.Restarts)
	}
}

// An instance that is killed keeps its share for as long as its session
// lasts: when it is back in time nothing moves. When it is not, the others
// take over.
func TestStaticMembership(t *testing.T) {
	const keys = 60
	w := newWorld(t)
	a := w.startNamed("a", t.TempDir())
	a.waitReady()
	root := t.TempDir()
	start := func(n int) (*running, *network) {
		net := &network{}
		cfg := w.config(fmt.Sprintf("%s/%d", root, n))
		cfg.Instance, cfg.StopTimeout = "b", 100*time.Millisecond
		cfg.ClientOptions = net.options()
		return w.startCounter(cfg, &counter{}), net
	}
	b, netB := start(1)
	eventually(t, "b to take its share", b.working(2))
	eventually(t, "a to give it", a.working(2))
	stop := w.load(keys)
	eventually(t, "b to work", b.records(100))
	shareA, shareB := a.has(), b.has()
	netB.down(true)
	b2, net2 := start(2)
	eventually(t, "b to be back", b2.working(2))
	eventually(t, "b to work", b2.records(100))
	if now := b2.has(); !slices.Equal(now, shareB) {
		t.Errorf("b has partitions %v after its restart, expected %v", now, shareB)
	}
	if now := a.has(); !slices.Equal(now, shareA) {
		t.Errorf("a has partitions %v after the restart of b, expected %v", now, shareA)
	}
	net2.down(true)
	eventually(t, "a to take over", a.working(testPartitions))
	n := stop()
	w.eventuallyAudit(n, keys)
	netB.down(false)
	b.stop()
	net2.down(false)
	b2.stop()
	if err := w.audit(n, keys); err != nil {
		t.Fatalf("after the dead woke up: %v", err)
	}
}

// An instance of a version before cooperative rebalancing is replaced under
// load, and one comes back, as when an upgrade is undone: the group uses what
// all members know, and nothing is lost or done twice.
func TestUpgradeFromEagerRebalancing(t *testing.T) {
	const keys = 60
	w := newWorld(t)
	start := func(instance string, eager bool) *running {
		cfg := w.config(t.TempDir())
		cfg.Instance, cfg.hooks.eager = instance, eager
		return w.startCounter(cfg, &counter{})
	}
	protocol := func(want string) func() error {
		return func() error {
			g, err := w.adm.DescribeGroups(context.Background(), "counter")
			if err == nil && (g["counter"].State != "Stable" || g["counter"].Protocol != want) {
				err = fmt.Errorf("group is %s with %s, expected %s", g["counter"].State, g["counter"].Protocol, want)
			}
			return err
		}
	}
	share := func(es ...*running) {
		t.Helper()
		for _, e := range es {
			eventually(t, "an equal share", e.working(testPartitions/len(es)))
			eventually(t, "work", e.records(50))
		}
	}
	a, b := start("a", true), start("b", true)
	stop := w.load(keys)
	share(a, b)
	eventually(t, "the old protocol", protocol("range"))
	a.stop()
	a = start("a", false)
	share(a, b)
	eventually(t, "the old protocol", protocol("range"))
	b.stop()
	b = start("b", false)
	share(a, b)
	eventually(t, "the new protocol", protocol("copartition-sticky"))
	b.stop()
	b = start("b", true) // back to the old version
	share(a, b)
	eventually(t, "the old protocol", protocol("range"))
	b.stop()
	b = start("b", false)
	share(a, b)
	eventually(t, "the new protocol", protocol("copartition-sticky"))
	w.eventuallyAudit(stop(), keys)
}

// Equally numbered partitions of all inputs stay together, as they share one
// partition of the table: counts stay whole although half of the records of
// each key come by another topic.
func TestInputsStayTogether(t *testing.T) {
	const keys = 30
	w := newWorld(t)
	w.topics(testPartitions, "in-too")
	start := func(instance string) *running {
		cfg := w.config(t.TempDir())
		cfg.Instance = instance
		return w.start(cfg, func(e *Engine) {
			spec := counterSpec(&counter{})
			spec.Inputs = append(spec.Inputs, Edge{"in-too", intCodec{}})
			if err := e.AddProcessor(spec); err != nil {
				t.Fatal(err)
			}
		})
	}
	fed := 0
	feed := func() {
		var rs []*kgo.Record
		for i := fed; i < fed+60; i++ {
			rs = append(rs, &kgo.Record{Topic: []string{"in", "in-too"}[i/keys%2], Key: fmt.Appendf(nil, "key-%d", i%keys), Value: fmt.Append(nil, i)})
		}
		if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		fed += 60
	}
	until := func(what string, check func() error) {
		t.Helper()
		eventually(t, what, func() error { feed(); return check() })
	}
	together := func(e *running, n int) func() error {
		return func() error {
			have := map[int32]int{}
			for _, p := range e.has() {
				have[p]++
			}
			if len(have) != n {
				return fmt.Errorf("%d partition numbers, expected %d", len(have), n)
			}
			for p, inputs := range have {
				if inputs != 2 {
					return fmt.Errorf("number %d with %d inputs", p, inputs)
				}
			}
			return nil
		}
	}
	a := start("a")
	until("a to have it all", together(a, testPartitions))
	for range 2 {
		b := start("b")
		until("b to take its share", together(b, testPartitions/2))
		until("a to give it", together(a, testPartitions/2))
		b.stop()
		until("a to have it all", together(a, testPartitions))
	}
	w.eventuallyAudit(fed, keys)
}
