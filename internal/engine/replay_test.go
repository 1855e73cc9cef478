package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/processors"
)

// controlled starts the counter with a control topic.
func (w *world) controlled(cfg Config, c processors.Station) *running {
	w.t.Helper()
	return w.start(cfg, func(e *Engine) {
		spec := counterSpec(c)
		spec.Control = "control"
		if err := e.AddProcessor(spec); err != nil {
			w.t.Fatal(err)
		}
	})
}

func at(t testing.TB, s string) Position {
	t.Helper()
	p, err := ParsePosition(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// replay asks for a replay of the counter and waits for its end.
func (r *running) replay(from, to string, change func(*Replay)) *ReplayStatus {
	r.t.Helper()
	id := r.ask(from, to, change)
	return r.ended(id)
}

func (r *running) ask(from, to string, change func(*Replay)) string {
	r.t.Helper()
	ranges, err := r.PlanReplay(r.t.Context(), "counter", []string{"in"}, Bounds{at(r.t, from), at(r.t, to)})
	if err != nil {
		r.t.Fatal(err)
	}
	q := Replay{Group: "counter", Ranges: ranges}
	if change != nil {
		change(&q)
	}
	var id string
	// A group whose only member is between two sessions refuses it.
	eventually(r.t, "the replay to be taken", func() (err error) {
		id, err = r.Replay(r.t.Context(), "control", q)
		return err
	})
	return id
}

func (r *running) ended(id string) *ReplayStatus {
	r.t.Helper()
	var s *ReplayStatus
	eventually(r.t, "the end of the replay", func() (err error) {
		s, err = r.ReplayStatus(r.t.Context(), "control", id, nil)
		if err == nil && !s.Done {
			err = fmt.Errorf("it stands at %+v", s.Parts)
		}
		return err
	})
	return s
}

// effects checks that input i had its effect times(i) times, and that the
// counts of each key follow each other without a gap.
func (w *world) effects(n int, times func(i int) int) error {
	inputs, perKey := map[string]int{}, map[string]int{}
	for _, r := range w.read("out") {
		inputs[string(r.Headers["input"])]++
		perKey[string(r.Key)]++
		if want := strconv.Itoa(perKey[string(r.Key)]); string(r.Value) != want {
			return fmt.Errorf("%s: found count %s, expected %s", r.Key, r.Value, want)
		}
	}
	for i := range n {
		if got := inputs[strconv.Itoa(i)]; got != times(i) {
			return fmt.Errorf("input %d had its effect %d times, expected %d", i, got, times(i))
		}
	}
	state := map[string]string{}
	for _, r := range w.read("counter-table") {
		state[string(r.Key)] = string(r.Value)
	}
	for key, n := range perKey {
		if state[key] != strconv.Itoa(n) {
			return fmt.Errorf("%s: table says %s, emitted %d", key, state[key], n)
		}
	}
	return nil
}

func once(int) int { return 1 }

// Oracle: the counter counts a record that is read again once more. So after a
// replay of what was there, each of those inputs has had its effect exactly
// twice and everything that came in meanwhile exactly once, also if the owner
// fails again and again between a commit and the local state.
func TestReplayTakesEachRecordOnceMore(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
			w := newWorld(t)
			w.topics(1, "control")
			cfg := w.config(t.TempDir())
			cfg.CommitRecords = 50
			var commits, fail atomic.Int64
			cfg.hooks.beforeApply = func(string) error {
				if fail.Load() > 0 && commits.Add(1)%2 == 0 && fail.Add(-1) >= 0 {
					return errors.New("test: crash before the local state")
				}
				return nil
			}
			r := w.controlled(cfg, &counter{})
			r.waitReady()
			const old, all = 400, 800
			w.feed(0, old, 20)
			w.eventuallyAudit(old, 20)
			if crash {
				fail.Store(2)
			}
			var feeding sync.WaitGroup
			feeding.Go(func() {
				for i := old; i < all; i += 20 {
					w.feed(i, i+20, 20)
				}
			})
			s := r.replay("earliest", "", nil)
			feeding.Wait()
			if s.Counts.Records != int64(spanned(s.Ranges)) || s.Counts.Changed != s.Counts.Records || s.Counts.Emitted["out"] != s.Counts.Records || s.Error != "" {
				t.Errorf("the replay tells %+v of ranges %v", s.Counts, s.Ranges)
			}
			again := map[int]bool{}
			for _, x := range w.read("in") {
				for _, rg := range s.Ranges {
					if x.Partition == rg.Partition && x.Offset >= rg.From && x.Offset < rg.To {
						n, _ := strconv.Atoi(string(x.Value))
						again[n] = true
					}
				}
			}
			if len(again) < old {
				t.Errorf("%d inputs in the ranges, expected at least %d", len(again), old)
			}
			eventually(t, "the effects", func() error {
				return w.effects(all, func(i int) int {
					if again[i] {
						return 2
					}
					return 1
				})
			})
			if crash && fail.Load() > 0 {
				t.Error("it did not crash")
			}
		})
	}
}

func spanned(rs []Range) (n int64) {
	for _, r := range rs {
		n += r.To - r.From
	}
	return n
}

// Oracle: a dry run counts what the replay would do, and writes nothing but
// that: no table record, no output. The replay itself then says the same.
func TestDryRunWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.topics(1, "control")
	r := w.controlled(w.config(t.TempDir()), &counter{before: func(_ int64, rec processors.Record) error {
		if rec.Value.(int)%10 == 3 {
			return failure.New(failure.Validation, "count", rec.Key, "threes are not counted")
		}
		return nil
	}})
	r.waitReady()
	w.feed(0, 200, 20)
	eventually(t, "the inputs", func() error {
		if n := len(w.read("out")) + len(w.read("dead")); n != 200 {
			return fmt.Errorf("%d of 200", n)
		}
		return nil
	})
	before := map[string]int{"out": len(w.read("out")), "dead": len(w.read("dead")), "counter-table": len(w.read("counter-table"))}
	dry := r.replay("earliest", "", func(q *Replay) { q.DryRun = true })
	for topic, n := range before {
		if got := len(w.read(topic)); got != n {
			t.Errorf("%s has %d records after the dry run, expected %d", topic, got, n)
		}
	}
	if dry.Counts.Records != 200 || dry.Counts.DeadLetters != 20 || dry.Counts.Changed != 180 || len(dry.Counts.Examples) != maxExamples {
		t.Errorf("the dry run tells %+v", dry.Counts)
	}
	real := r.replay("earliest", "", nil)
	if fmt.Sprint(real.Counts.Emitted, real.Counts.Changed, real.Counts.DeadLetters) != fmt.Sprint(dry.Counts.Emitted, dry.Counts.Changed, dry.Counts.DeadLetters) {
		t.Errorf("dry run %+v, replay %+v", dry.Counts, real.Counts)
	}
}

// Oracle: with a key only the records of the key are taken, and with bounds
// only those between them; the group stands where it stood.
func TestReplayOfAPart(t *testing.T) {
	w := newWorld(t)
	w.topics(1, "control")
	r := w.controlled(w.config(t.TempDir()), &counter{})
	r.waitReady()
	w.feed(0, 200, 20)
	w.eventuallyAudit(200, 20)
	key := "key-7"
	s := r.replay("earliest", "", func(q *Replay) { q.Key = &key })
	if s.Counts.Records != 10 {
		t.Errorf("%d records of the key, expected 10", s.Counts.Records)
	}
	in := map[int32][]Record{}
	for _, x := range w.read("in") {
		in[x.Partition] = append(in[x.Partition], x)
	}
	p := slices.Max(slices.Collect(maps.Keys(in)))
	half := int64(len(in[p]) / 2)
	s = r.replay(fmt.Sprintf("%d:%d", p, half-2), fmt.Sprintf("%d:%d", p, half), nil)
	if s.Counts.Records != 2 || len(s.Ranges) != 1 {
		t.Errorf("found %+v, expected two records", s)
	}
	last := in[p][half-1 : half+1]
	if s.Parts[0].Next != last[1].Offset {
		t.Errorf("it ended at %d, expected %d", s.Parts[0].Next, last[1].Offset)
	}
	w.feed(200, 220, 20)
	eventually(t, "new input", func() error {
		if n := len(w.read("out")); n != 200+10+2+20 {
			return fmt.Errorf("%d outputs, expected %d", n, 232)
		}
		return nil
	})
}

// Oracle: what cannot be right is refused, with the place, what was found and
// what was expected.
func TestReplayRefuses(t *testing.T) {
	for _, s := range []string{"latest", "1", "1:", "x:1", "1:-1", "1:1,1:2", "2026-01-31", "99999999999:1"} {
		if _, err := ParsePosition(s); failure.KindOf(err) != failure.Validation {
			t.Errorf("%q gave %v", s, err)
		}
	}
	w := newWorld(t)
	w.topics(1, "control")
	gate := make(chan struct{})
	var hold atomic.Bool
	r := w.controlled(w.config(t.TempDir()), &counter{before: func(int64, processors.Record) error {
		if hold.Load() {
			<-gate
		}
		return nil
	}})
	r.waitReady()
	w.feed(0, 40, 20)
	w.eventuallyAudit(40, 20)
	for _, c := range []struct{ from, to, want string }{
		{"9:0", "", "no such partition"},
		{"0:1000", "", "where the log ends"},
		{"earliest", "1:99", "where the log ends"},
		{"0:3", "0:1", "found from 3 behind to 1"},
		{"2999-01-01T00:00:00Z", "", "nothing lies between"},
	} {
		_, err := r.PlanReplay(t.Context(), "counter", []string{"in"}, Bounds{at(t, c.from), at(t, c.to)})
		if failure.KindOf(err) != failure.Validation || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("from %s to %s: %v, expected %q", c.from, c.to, err, c.want)
		}
	}
	hold.Store(true)
	id := r.ask("earliest", "", nil)
	ranges, err := r.PlanReplay(t.Context(), "counter", []string{"in"}, Bounds{From: at(t, "earliest")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Replay(t.Context(), "control", Replay{Group: "counter", Ranges: ranges}); failure.KindOf(err) != failure.Conflict || !strings.Contains(err.Error(), id) {
		t.Errorf("a second replay gave %v", err)
	}
	hold.Store(false)
	close(gate)
	r.ended(id)
	if err := r.staffed(t.Context(), "nobody"); failure.KindOf(err) != failure.Conflict {
		t.Errorf("a group without members gave %v", err)
	}
	if _, err := r.ReplayStatus(t.Context(), "control", "x", nil); failure.KindOf(err) != failure.NotFound {
		t.Errorf("an unknown replay gave %v", err)
	}
}

// letters gives the dead letters as redrives of the counter.
func (w *world) letters() []Redrive {
	var out []Redrive
	for _, l := range w.read("dead") {
		p, _ := strconv.Atoi(string(l.Headers[HeaderErrorPartition]))
		o, _ := strconv.ParseInt(string(l.Headers[HeaderErrorOffset]), 10, 64)
		out = append(out, Redrive{
			Letter: fmt.Sprintf("dead:%d:%d", l.Partition, l.Offset), Group: "counter", Input: InputRef{"in", int32(p), o},
			Topic: "dead", Partition: l.Partition, Offset: l.Offset,
		})
	}
	return out
}

// Oracle: a letter redriven by many at once is accepted from one of them and
// has one effect; one that fails again is a new letter with one attempt more,
// which names the one before, and can be redriven in turn.
func TestRedriveHasOneEffect(t *testing.T) {
	w := newWorld(t)
	w.topics(1, "control")
	var broken atomic.Bool
	broken.Store(true)
	cfg := w.config(t.TempDir())
	var crash atomic.Bool
	cfg.hooks.beforeApply = func(string) error {
		if crash.CompareAndSwap(true, false) {
			return errors.New("test: crash before the local state")
		}
		return nil
	}
	r := w.controlled(cfg, &counter{before: func(_ int64, rec processors.Record) error {
		if rec.Value.(int) == 13 && broken.Load() {
			return failure.New(failure.Validation, "count", rec.Key, "thirteen is not counted")
		}
		return nil
	}})
	r.waitReady()
	w.feed(0, 40, 20)
	eventually(t, "the letter", func() error {
		if n, m := len(w.read("out")), len(w.read("dead")); n != 39 || m != 1 {
			return fmt.Errorf("%d outputs, %d letters", n, m)
		}
		return nil
	})
	redrive := func(l Redrive) *RedriveStatus {
		t.Helper()
		var accepted atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				switch err := r.Redrive(context.Background(), "control", l); {
				case err == nil:
					accepted.Add(1)
				case failure.KindOf(err) != failure.Conflict:
					t.Errorf("redrive gave %v", err)
				}
			})
		}
		wg.Wait()
		if accepted.Load() != 1 {
			t.Errorf("%d were accepted, expected 1", accepted.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := r.RedriveStatus(ctx, "control", l.Letter)
		if err != nil || s == nil || s.Result == nil {
			t.Fatalf("redrive came to %+v, %v", s, err)
		}
		return s
	}
	first := w.letters()[0]
	if s := redrive(first); s.Result.Resolved || !strings.Contains(s.Result.Error, "thirteen") {
		t.Errorf("the first redrive came to %+v", s.Result)
	}
	var second Redrive
	eventually(t, "the second letter", func() error {
		ls := w.read("dead")
		if len(ls) != 2 {
			return fmt.Errorf("%d letters", len(ls))
		}
		i := slices.IndexFunc(ls, func(l Record) bool { return string(l.Headers[HeaderRedrive]) == first.Letter })
		if i < 0 || string(ls[i].Headers[HeaderFailureAttempt]) != "2" {
			return fmt.Errorf("letters %v", ls)
		}
		second = w.letters()[i]
		return nil
	})
	if second.Input != first.Input {
		t.Errorf("the second letter is of %v, the first of %v", second.Input, first.Input)
	}
	broken.Store(false)
	crash.Store(true)
	if s := redrive(second); !s.Result.Resolved || s.Result.Counts.Emitted["out"] != 1 {
		t.Errorf("the second redrive came to %+v", s.Result)
	}
	w.feed(40, 60, 20)
	eventually(t, "the effects", func() error { return w.effects(60, once) })
	if n := len(w.read("dead")); n != 2 {
		t.Errorf("%d letters", n)
	}
}
