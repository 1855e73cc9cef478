package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	const partitions, keys, rounds = 12, 20_000, 3
	bulk := 40_000
	if testing.Short() {
		bulk = 4_000
	}
	w := newWorldOf(t, partitions)
	a := w.startNamed("a", t.TempDir())
	dir := t.TempDir()
	a.waitReady()
	fed := 0
	feed := func(n int) {
		for end := fed + n; fed < end; fed += 2000 {
			w.feed(fed, min(fed+2000, end), keys)
		}
	}
	feed(bulk)
	seen := w.watch(partitions)
	trickle := func(what string, until func() error) {
		eventually(t, what, func() error {
			w.feed(fed, fed+100, keys)
			fed += 100
			return until()
		})
	}
	trickle("a to have it all", a.working(partitions))
	aborts := a.group().Aborts
	var joins, leaves []time.Duration
	for range rounds {
		trickle("some commits", a.commits(20))
		seen.gap(nil)
		b := w.startNamed("b", dir)
		trickle("b to take its share", b.working(partitions/2))
		trickle("a to give it", a.working(partitions/2))
		trickle("some commits", a.commits(20))
		stayed := a.has()
		joins = append(joins, seen.gap(stayed))
		feed(bulk)
		trickle("b to be done with it", b.commits(20))
		seen.gap(nil)
		b.stop()
		trickle("a to have it all", a.working(partitions))
		trickle("some commits", a.commits(20))
		leaves = append(leaves, seen.gap(stayed))
	}
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
	eventually(t, "some commits", a.commits(20))
	aborts := a.group().Aborts
	var joins, leaves []time.Duration
	dir := t.TempDir()
	for range rounds {
		seen.gap(nil)
		d := w.startNamed("d", dir)
		d.waitReady()
		eventually(t, "some commits", a.commits(20))
		joins = append(joins, seen.gap([]int32{0, 1}))
		d.stop()
		eventually(t, "some commits", a.commits(60))
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
