package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/views"
)

// alarmClock is a station whose entries ring: each so many times, so long apart.
type alarmClock struct {
	// refuse, if set, fails the waking of a key.
	refuse func(key string) error
	early  atomic.Int64 // wakes before their time
}

// alarmEntry is its state, and what it is told.
type alarmEntry struct {
	Next  envelope.Instant // 0: rings no more
	Every time.Duration
	Times int // that it has yet to ring
	Rung  int
}

// alarmOrder is its input: ring so many times, first after a while.
type alarmOrder struct {
	After, Every time.Duration
	Times        int
	Off          bool // do not ring any more
	Forget       bool
}

func (c *alarmClock) Step(state any, in processors.Record) (processors.Effects, error) {
	o := in.Value.(*alarmOrder)
	if o.Forget {
		return processors.Effects{Forget: true}, nil
	}
	e, _ := state.(*alarmEntry)
	if e == nil {
		e = &alarmEntry{}
	}
	e.Next, e.Every, e.Times = in.Time+envelope.Instant(o.After.Microseconds()), o.Every, o.Times
	if o.Off {
		e.Next, e.Times = 0, 0
	}
	return processors.Effects{State: e}, nil
}

func (c *alarmClock) Due(state any) envelope.Instant { return state.(*alarmEntry).Next }

func (c *alarmClock) Wake(state any, key string, now envelope.Instant) (processors.Effects, error) {
	e := state.(*alarmEntry)
	if now < e.Next {
		c.early.Add(1)
	}
	if c.refuse != nil {
		if err := c.refuse(key); err != nil {
			return processors.Effects{}, err
		}
	}
	e.Rung++
	e.Times--
	e.Next += envelope.Instant(e.Every.Microseconds())
	if e.Times <= 0 {
		e.Next = 0
	} else if e.Next <= now {
		e.Next = now + 1
	}
	return processors.Effects{State: e, Emit: []processors.Emit{{Stream: "out", Key: key, Value: strconv.Itoa(e.Rung)}}}, nil
}

// jsonCodec has values of one type as JSON.
type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(v any) ([]byte, error) { return json.Marshal(v) }
func (jsonCodec[T]) Decode(b []byte) (any, error) {
	v := new(T)
	return v, json.Unmarshal(b, v)
}

func (w *world) startAlarm(cfg Config, c processors.Station) *running {
	w.t.Helper()
	return w.start(cfg, func(e *Engine) {
		if err := e.AddProcessor(Processor{
			Group: "counter", Station: c, Inputs: []Edge{{"in", jsonCodec[alarmOrder]{}}}, Table: jsonCodec[alarmEntry]{},
			Outputs: []Edge{{"out", textCodec{}}}, DeadLetters: "dead",
		}); err != nil {
			w.t.Fatal(err)
		}
	})
}

func (w *world) order(o alarmOrder, keys ...string) {
	w.t.Helper()
	value, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	rs := make([]*kgo.Record, len(keys))
	for i, k := range keys {
		rs[i] = &kgo.Record{Topic: "in", Key: []byte(k), Value: value}
	}
	if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// rung checks that every key has rung 1, 2, … times and no more.
func (w *world) rung(times map[string]int) error {
	got := map[string]int{}
	for _, r := range w.read("out") {
		got[string(r.Key)]++
		if string(r.Value) != strconv.Itoa(got[string(r.Key)]) {
			return fmt.Errorf("%s rang with %s as the %d. time", r.Key, r.Value, got[string(r.Key)])
		}
	}
	for k, n := range times {
		if got[k] != n {
			return fmt.Errorf("%s has rung %d times, expected %d", k, got[k], n)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		return fmt.Errorf("%v should not have rung", got)
	}
	return nil
}

func alarms(prefix string, n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("%s-%d", prefix, i))
	}
	return keys
}

func times(into map[string]int, n int, keys ...string) map[string]int {
	for _, k := range keys {
		into[k] = n
	}
	return into
}

// Entries are woken when they are due and not before, as often as they ask for;
// who was told otherwise meanwhile is not.
func TestWakes(t *testing.T) {
	w := newWorld(t)
	c := &alarmClock{}
	e := w.startAlarm(w.config(t.TempDir()), c)
	once, thrice, late, off, gone := alarms("once", 50), alarms("thrice", 50), alarms("late", 50), alarms("off", 20), alarms("gone", 20)
	w.order(alarmOrder{After: 300 * time.Millisecond, Times: 1}, append(append([]string{}, off...), gone...)...)
	w.order(alarmOrder{Off: true}, off...)
	w.order(alarmOrder{Forget: true}, gone...)
	w.order(alarmOrder{After: 200 * time.Millisecond, Times: 1}, once...)
	w.order(alarmOrder{After: 10 * time.Millisecond, Every: 100 * time.Millisecond, Times: 3}, thrice...)
	w.order(alarmOrder{After: time.Hour, Times: 1}, late...)
	expected := times(times(map[string]int{}, 1, once...), 3, thrice...)
	eventually(t, "wakes", func() error { return w.rung(expected) })
	// One that asks for a time that is over is woken at once.
	w.order(alarmOrder{After: -time.Minute, Times: 2}, "over")
	expected["over"] = 2
	eventually(t, "a wake that is late", func() error { return w.rung(expected) })
	if c.early.Load() > 0 {
		t.Errorf("%d entries were woken before their time", c.early.Load())
	}
	if s := e.group(); s.Aborts > 0 || s.Restarts > 0 {
		t.Errorf("%d aborts, %d restarts, expected none", s.Aborts, s.Restarts)
	}
	if n := len(w.read("dead")); n > 0 {
		t.Errorf("%d dead letters, expected none", n)
	}
}

// What is due while nobody runs is woken by who comes next, with the folder as
// it was or without it.
func TestWakesOutliveProcesses(t *testing.T) {
	for _, folder := range []string{"kept", "wiped"} {
		t.Run(folder, func(t *testing.T) {
			w := newWorld(t)
			dir := t.TempDir()
			e := w.startAlarm(w.config(dir), &alarmClock{})
			keys := alarms("key", 200)
			w.order(alarmOrder{After: time.Hour, Times: 1}, alarms("later", 50)...)
			w.order(alarmOrder{After: 1500 * time.Millisecond, Times: 2}, keys...)
			eventually(t, "taken in", func() error {
				if n := e.group().Records; n < 250 {
					return fmt.Errorf("%d of 250 records", n)
				}
				return nil
			})
			e.stop()
			if folder == "wiped" {
				dir = t.TempDir()
			}
			w.startAlarm(w.config(dir), &alarmClock{})
			expected := times(map[string]int{}, 2, keys...)
			eventually(t, "wakes", func() error { return w.rung(expected) })
		})
	}
}

// Who was down finds what came meanwhile before anything is due by it: an entry
// that was told in time not to ring does not, however late that is read.
func TestWakesWaitForInput(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	keys := alarms("key", 200)
	var rs []*kgo.Record
	at := func(ago time.Duration, o alarmOrder, keys ...string) {
		value, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			rs = append(rs, &kgo.Record{Topic: "in", Key: []byte(k), Value: value, Timestamp: now.Add(-ago)})
		}
	}
	at(time.Minute, alarmOrder{After: 20 * time.Second, Times: 1}, keys...)
	at(time.Minute, alarmOrder{After: 20 * time.Second, Times: 1}, "over")
	for range 20 { // more than a poll
		at(50*time.Second, alarmOrder{After: time.Hour, Times: 1}, alarms("later", 1000)...)
	}
	at(45*time.Second, alarmOrder{Off: true}, keys...)
	at(10*time.Second, alarmOrder{After: time.Hour, Times: 1}, alarms("later", 1000)...)
	if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.startAlarm(w.config(t.TempDir()), &alarmClock{})
	expected := times(map[string]int{}, 1, "over")
	eventually(t, "the wake of one that was told nothing", func() error { return w.rung(expected) })
}

func TestClockOfTask(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) envelope.Instant { return envelope.At(now.Add(-d)) }
	back := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name     string
		backlogs map[string]*backlog
		at       envelope.Instant
		until    time.Time
	}{
		{"nothing is known", nil, ago(0), now},
		{"just begun", map[string]*backlog{"a": {more: true, seen: back(300 * time.Millisecond)}}, 0, now.Add(700 * time.Millisecond)},
		{"nothing came", map[string]*backlog{"a": {more: true, seen: back(time.Second)}}, ago(0), now},
		{"all is read", map[string]*backlog{"a": {last: ago(time.Minute), seen: now}}, ago(0), now},
		{"little behind", map[string]*backlog{"a": {last: ago(2 * time.Second), more: true, seen: now}}, ago(0), now},
		{"behind", map[string]*backlog{"a": {last: ago(3 * time.Second), more: true, seen: now}}, ago(3 * time.Second), now.Add(time.Second)},
		{"ahead", map[string]*backlog{"a": {last: ago(-time.Minute), more: true, seen: now}}, ago(0), now},
		{"one of two", map[string]*backlog{"a": {last: ago(time.Minute), more: true, seen: now}, "b": {last: ago(0), seen: now}}, ago(time.Minute), now.Add(time.Second)},
		{"both", map[string]*backlog{"a": {last: ago(time.Minute), more: true, seen: now}, "b": {last: ago(time.Hour), more: true, seen: back(500 * time.Millisecond)}}, ago(time.Hour), now.Add(500 * time.Millisecond)},
	} {
		tk := &task{backlogs: c.backlogs}
		if at, until := tk.clock(now); at != c.at || !until.Equal(c.until) {
			t.Errorf("%s: the clock shows %s until %s, expected %s until %s", c.name, at, until, c.at, c.until)
		}
	}
}

// A version of the program that wakes entries finds those that a version before
// left, which did not know of times.
func TestWakesOfOlderState(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	c := &alarmClock{}
	e := w.startAlarm(w.config(dir), stationFunc(c.Step))
	keys := alarms("key", 50)
	w.order(alarmOrder{Times: 1}, keys...)
	eventually(t, "taken in", func() error {
		if n := e.group().Records; n < 50 {
			return fmt.Errorf("%d of 50 records", n)
		}
		return nil
	})
	e.stop()
	if rs := w.read("out"); len(rs) > 0 {
		t.Fatalf("%d wakes of a station that has none", len(rs))
	}
	w.startAlarm(w.config(dir), c)
	expected := times(map[string]int{}, 1, keys...)
	eventually(t, "wakes", func() error { return w.rung(expected) })
}

// An entry that cannot be woken does not keep the others from it, is tried
// again, and is woken once nothing is in the way any more.
func TestWakeThatFails(t *testing.T) {
	w := newWorld(t)
	var mended atomic.Bool
	var tries sync.Map
	e := w.startAlarm(w.config(t.TempDir()), &alarmClock{refuse: func(key string) error {
		n, _ := tries.LoadOrStore(key, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		switch {
		case mended.Load():
			return nil
		case key == "bad":
			return errors.New("no")
		case key == "worse":
			panic("no way")
		case key == "passing":
			return failure.New(failure.Transient, "ring", key, "not now")
		}
		return nil
	}})
	w.order(alarmOrder{Times: 1}, "bad", "worse", "passing")
	good := alarms("good", 100)
	w.order(alarmOrder{After: 100 * time.Millisecond, Times: 1}, good...)
	expected := times(map[string]int{}, 1, good...)
	eventually(t, "the others", func() error { return w.rung(expected) })
	eventually(t, "another try", func() error {
		n, ok := tries.Load("worse")
		if !ok || n.(*atomic.Int64).Load() < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := w.rung(expected); err != nil {
		t.Error(err)
	}
	mended.Store(true)
	expected["bad"], expected["worse"], expected["passing"] = 1, 1, 1
	eventually(t, "those that failed", func() error { return w.rung(expected) })
	if s := e.group(); s.Restarts > 0 || s.Aborts > 0 {
		t.Errorf("%d restarts, %d aborts, expected none", s.Restarts, s.Aborts)
	}
	if n := len(w.read("dead")); n > 0 {
		t.Errorf("%d dead letters, expected none: there is no record to keep", n)
	}
}

// An entry that could not be woken waits longer and longer; it is another one
// once a record has changed it.
func TestFailedWakesWait(t *testing.T) {
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{testLog(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	im := &image{ks: newKeyspace(kindTable, "t", 1), db: db, index: &tableIndex{wakes: &wakeIndex{codec: jsonCodec[alarmEntry]{}, due: (&alarmClock{}).Due}, topic: "t"}}
	s := &states{store: &store{image: im}, wakes: newSchedule()}
	b := db.NewBatch()
	for _, key := range []string{"a", "b"} {
		v, _ := jsonCodec[alarmEntry]{}.Encode(&alarmEntry{Next: 1000})
		if err := im.add(b, key, write{value: v}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	expect := func(now envelope.Instant, next envelope.Instant, keys ...string) {
		t.Helper()
		got, err := s.due(now)
		if err != nil || !slices.Equal(got, keys) || s.wakes.next != next {
			t.Fatalf("at %d: %q, next look at %d, %v; expected %q, %d", now, got, s.wakes.next, err, keys, next)
		}
	}
	const second = envelope.Instant(1_000_000)
	expect(999, 1000)
	expect(1000, 0, "a", "b")
	if d := s.wakes.fail("a", 1000); d != time.Second {
		t.Errorf("%v", d)
	}
	expect(1000, 0, "b")
	if d := s.wakes.fail("b", 1000); d != time.Second {
		t.Errorf("%v", d)
	}
	expect(1001, 1000+second)
	expect(1000+second, 0, "a", "b")
	if d := s.wakes.fail("a", 1000+second); d != 2*time.Second {
		t.Errorf("%v", d)
	}
	s.wakes.forgive("a")
	expect(1001+second, 0, "a", "b")
	for range 20 {
		s.wakes.fail("a", 1000+second)
	}
	if d := s.wakes.fail("a", 1000+second); d != wakeAgainMax {
		t.Errorf("%v", d)
	}
	// An index entry that no value says, as an accident may leave it.
	if err := db.Set(im.ks.appendWakeKey(nil, 500, "gone"), nil, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	s.wakes.lookAgain()
	expect(1001+second, 0, "b")
	if _, closer, err := db.Get(im.ks.appendWakeKey(nil, 500, "gone")); err == nil {
		closer.Close()
		t.Error("an entry of the index that belongs to nothing is still there")
	}
}

// A version of the program that reads other times out of the same state: what is
// in the index is put right as it comes up, and that comes to an end.
func TestWakesOfOtherTimes(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	e := w.startAlarm(w.config(dir), &alarmClock{})
	w.order(alarmOrder{After: 2 * time.Second, Times: 1}, alarms("later", 20)...)
	w.order(alarmOrder{After: 2 * time.Second, Every: time.Hour, Times: 1}, alarms("never", 20)...)
	eventually(t, "taken in", func() error {
		if n := e.group().Records; n < 40 {
			return fmt.Errorf("%d of 40 records", n)
		}
		return nil
	})
	e.stop()
	e = w.startAlarm(w.config(dir), patientClock{&alarmClock{}})
	later := alarms("later", 20)
	expected := times(map[string]int{}, 1, later...)
	eventually(t, "wakes", func() error { return w.rung(expected) })
	if s := e.group(); s.Commits > 50 {
		t.Errorf("%d commits for 40 entries, expected a few", s.Commits)
	}
	e.stop()
	found := 0
	if _, err := InspectDir(dir, func(l Local, key string, _ []byte) error { found++; return nil }); err != nil || found != 40 {
		t.Errorf("%d entries, %v", found, err)
	}
}

// patientClock rings two seconds later than was ordered, and what rings each hour
// never.
type patientClock struct{ *alarmClock }

func (c patientClock) Due(state any) envelope.Instant {
	e := state.(*alarmEntry)
	if e.Next == 0 || e.Every == time.Hour {
		return 0
	}
	return e.Next + 2_000_000
}

// What is in the folder of a table with times, due and not, is as it should be.
func TestInspectWakes(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	e := w.startAlarm(w.config(dir), &alarmClock{})
	w.order(alarmOrder{After: time.Hour, Times: 1}, alarms("later", 30)...)
	w.order(alarmOrder{Times: 1}, alarms("now", 30)...)
	eventually(t, "wakes", func() error { return w.rung(times(map[string]int{}, 1, alarms("now", 30)...)) })
	e.stop()
	n := 0
	if _, err := InspectDir(dir, func(Local, string, []byte) error { n++; return nil }); err != nil || n != 60 {
		t.Errorf("%d entries, %v, expected 60", n, err)
	}
}

// What expires cannot be woken, and what has no table has nothing to wake.
func TestWakerNeedsTable(t *testing.T) {
	p := Processor{Group: "counter", Station: &alarmClock{}, Inputs: []Edge{{"in", jsonCodec[alarmOrder]{}}}, DeadLetters: "dead"}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "Waker") {
		t.Errorf("%v", err)
	}
	p.Table = jsonCodec[alarmEntry]{}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	p.Retention = &Retention{Window: time.Hour, Since: func(any) envelope.Instant { return 0 }}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "Waker") {
		t.Errorf("%v", err)
	}
}

// A station that leaves an entry due would be called for ever: that is a
// failure, and the entry stays as it was.
func TestWakeThatChangesNothing(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int64
	w.startAlarm(w.config(t.TempDir()), lazyClock{&alarmClock{}, &calls})
	w.order(alarmOrder{Times: 1}, "lazy", "late")
	eventually(t, "two tries of each", func() error {
		if n := calls.Load(); n < 4 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	if n := calls.Load(); n > 50 {
		t.Errorf("%d calls within seconds, expected a wait between them", n)
	}
	if rs := w.read("out"); len(rs) > 0 {
		t.Errorf("%d records of wakes that failed", len(rs))
	}
}

type lazyClock struct {
	*alarmClock
	calls *atomic.Int64
}

func (c lazyClock) Wake(state any, key string, now envelope.Instant) (processors.Effects, error) {
	c.calls.Add(1)
	effects := processors.Effects{Emit: []processors.Emit{{Stream: "out", Key: key, Value: "x"}}}
	if key == "late" {
		effects.State = state // still due
	}
	return effects, nil
}

// Oracle: processes crash before and after they commit, and two of them take
// the partitions from each other, while entries ring again and again. Each rings
// as often as it was told.
func TestWakesExactlyOnce(t *testing.T) {
	w := newWorld(t)
	var crashes, n atomic.Int64
	root := t.TempDir()
	starting := func(instance string) *running {
		cfg := w.config(filepath.Join(root, instance))
		cfg.Instance = instance
		cfg.hooks.beforeApply = func(string) error {
			if n.Add(1)%9 == 0 && crashes.Add(1) <= 3 {
				return errors.New("crash between commit and local state")
			}
			return nil
		}
		return w.startAlarm(cfg, &alarmClock{})
	}
	a := starting("a")
	keys := alarms("key", 40)
	w.order(alarmOrder{After: 50 * time.Millisecond, Every: 60 * time.Millisecond, Times: 30}, keys...)
	b := (*running)(nil)
	done := func() int { return len(w.read("out")) }
	for part := 1; part <= 3; part++ {
		eventually(t, "more wakes", func() error {
			if got := done(); got < part*40*30/5 {
				return fmt.Errorf("%d", got)
			}
			return nil
		})
		if b == nil {
			b = starting("b")
			b.waitReady()
		} else {
			b.stop()
			b = nil
		}
	}
	expected := times(map[string]int{}, 30, keys...)
	eventually(t, "all wakes", func() error { return w.rung(expected) })
	if crashes.Load() == 0 {
		t.Error("there was no crash")
	}
	a.stop()
	if b != nil {
		b.stop()
	}
	if err := w.rung(expected); err != nil {
		t.Errorf("after all had stopped: %v", err)
	}
}

// The index of a table by the times of its entries has each entry that wants to
// be woken once, at its time, however it was written; and a scan finds them in
// order.
func TestWakeIndex(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{testLog(t)}})
		if err != nil {
			rt.Fatal(err)
		}
		defer db.Close()
		codec := jsonCodec[alarmEntry]{}
		spec := &wakeIndex{codec: codec, due: (&alarmClock{}).Due}
		im := &image{ks: newKeyspace(kindTable, "t", 1), db: db, index: &tableIndex{wakes: spec, topic: "t"}}
		other := &image{ks: newKeyspace(kindTable, "t", 2), db: db, index: im.index}
		s := &states{store: &store{image: im}, wakes: newSchedule()}
		model := map[string]envelope.Instant{}
		now := envelope.Instant(1000)
		for range rapid.IntRange(1, 60).Draw(rt, "rounds") {
			b := db.NewBatch()
			for range rapid.IntRange(0, 5).Draw(rt, "writes") {
				key := rapid.SampledFrom([]string{"a", "b", "c", "d", "", "\xff"}).Draw(rt, "key")
				if rapid.IntRange(0, 3).Draw(rt, "what") == 0 {
					if err := im.add(b, key, write{}); err != nil {
						rt.Fatal(err)
					}
					delete(model, key)
				} else {
					due := envelope.Instant(rapid.IntRange(0, 3000).Draw(rt, "due"))
					v, _ := codec.Encode(&alarmEntry{Next: due})
					terms := im.termsOf(key, v, nil)
					s.wakes.writes(terms)
					_, before, err := im.get(db, key)
					if err != nil {
						rt.Fatal(err)
					}
					if err := im.add(b, key, write{value: v, known: true, before: before, after: terms}); err != nil {
						rt.Fatal(err)
					}
					if err := other.add(b, key, write{value: v}); err != nil {
						rt.Fatal(err)
					}
					model[key] = due
				}
				// One write of a key at a time, as in a transaction.
				if err := b.Commit(pebble.NoSync); err != nil {
					rt.Fatal(err)
				}
				b.Close()
				b = db.NewBatch()
			}
			b.Close()
			s.wakes.ended(true)
			now += envelope.Instant(rapid.IntRange(0, 200).Draw(rt, "time"))
			expected, next := 0, never
			for _, due := range model {
				switch {
				case due == 0:
				case due <= now:
					expected++
				default:
					next = min(next, due)
				}
			}
			if s.wakes.next > now {
				if expected > 0 {
					rt.Fatalf("%d entries are due at %d, but it looks at %d", expected, now, s.wakes.next)
				}
				continue
			}
			keys, err := s.due(now)
			if err != nil {
				rt.Fatal(err)
			}
			last := envelope.Instant(0)
			for _, k := range keys {
				due, ok := model[k]
				if !ok || due == 0 || due > now || due < last {
					rt.Fatalf("%q, due at %d after %d, is woken at %d", k, due, last, now)
				}
				last = due
			}
			if len(keys) != expected {
				rt.Fatalf("woken %q, expected %d of %v at %d", keys, expected, model, now)
			}
			if len(keys) == 0 && s.wakes.next != next {
				rt.Fatalf("looks at %d, expected %d", s.wakes.next, next)
			}
		}
	})
}

// An index by terms and one by times of the same table do not disturb each
// other.
func TestWakesBesideIndex(t *testing.T) {
	w := newWorld(t)
	var reader views.IndexReader
	w.start(w.config(t.TempDir()), func(e *Engine) {
		if err := e.AddProcessor(Processor{
			Group: "counter", Station: &alarmClock{}, Inputs: []Edge{{"in", jsonCodec[alarmOrder]{}}}, Table: jsonCodec[alarmEntry]{},
			Outputs: []Edge{{"out", textCodec{}}}, DeadLetters: "dead",
		}); err != nil {
			t.Fatal(err)
		}
		var err error
		if reader, err = e.AddIndex(rungIndex{}); err != nil {
			t.Fatal(err)
		}
	})
	keys := alarms("key", 30)
	w.order(alarmOrder{After: 100 * time.Millisecond, Times: 1}, keys...)
	expected := times(map[string]int{}, 1, keys...)
	eventually(t, "wakes", func() error { return w.rung(expected) })
	eventually(t, "all found by what they are", func() error {
		for rung, n := range map[string]int{"0": 0, "1": 30} {
			found := 0
			if err := reader.Lookup(views.TermOf("rung", rung), "", "", func(string) bool { found++; return true }); err != nil {
				return err
			}
			if found != n {
				return fmt.Errorf("%d have rung %s times, expected %d", found, rung, n)
			}
		}
		return nil
	})
}

// rungIndex finds alarms by how often they have rung.
type rungIndex struct{}

func (rungIndex) Name() string                     { return "alarms" }
func (rungIndex) Topic() string                    { return "counter-table" }
func (rungIndex) Layout() string                   { return "1" }
func (rungIndex) Decode(value []byte) (any, error) { return jsonCodec[alarmEntry]{}.Decode(value) }
func (rungIndex) Terms(_ string, v any) (views.Terms, error) {
	return views.NewTerms([]views.Term{views.TermOf("rung", strconv.Itoa(v.(*alarmEntry).Rung))}), nil
}

// punctual is a station whose entries ring once; it takes note of how late.
type punctual struct {
	mu   sync.Mutex
	late []time.Duration
}

func (*punctual) Step(_ any, in processors.Record) (processors.Effects, error) {
	due := in.Value.(envelope.Instant)
	return processors.Effects{State: &due}, nil
}

func (*punctual) Due(state any) envelope.Instant { return *state.(*envelope.Instant) }

func (p *punctual) Wake(state any, _ string, _ envelope.Instant) (processors.Effects, error) {
	due := state.(*envelope.Instant)
	p.mu.Lock()
	p.late = append(p.late, time.Since(due.Time()))
	p.mu.Unlock()
	return processors.Effects{Forget: true}, nil
}

func (p *punctual) fired() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.late)
}

// quantiles gives how late the last n were: the median, p99 and the worst.
func (p *punctual) quantiles(n int) (p50, p99, worst time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := slices.Sorted(slices.Values(p.late[len(p.late)-n:]))
	return last[n/2], last[n*99/100], last[n-1]
}

// instantCodec is a time as 8 bytes.
type instantCodec struct{ pointer bool }

func (instantCodec) Encode(v any) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, uint64(*v.(*envelope.Instant))), nil
}

func (c instantCodec) Decode(b []byte) (any, error) {
	at := envelope.Instant(binary.BigEndian.Uint64(b))
	if c.pointer {
		return &at, nil
	}
	return at, nil
}

// BenchmarkWakes opens b.N timers that are due in a day, and then measures what
// they cost while they wait, how late 2,000 are that become due one after the
// other, and how long 100,000 take that are due at once. Run it with a fixed
// count: -benchtime 1000000x.
func BenchmarkWakes(b *testing.B) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "in", "out", "dead", "counter-table"))
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	ctx := context.Background()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	set := func(prefix string, n int, due func(i int) time.Time) {
		for i := range n {
			at := envelope.At(due(i))
			cl.Produce(ctx, &kgo.Record{Topic: "in", Key: fmt.Appendf(nil, "%s/%07d", prefix, i), Value: binary.BigEndian.AppendUint64(nil, uint64(at))}, nil)
		}
		if err := cl.Flush(ctx); err != nil {
			b.Fatal(err)
		}
	}
	e, err := New(Config{Brokers: cluster.ListenAddrs(), Dir: b.TempDir(), Instance: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	p := &punctual{}
	if err := e.AddProcessor(Processor{Group: "counter", Station: p, Table: instantCodec{pointer: true}, DeadLetters: "dead",
		Inputs: []Edge{{"in", instantCodec{}}}, Outputs: []Edge{{"out", textCodec{}}}}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	await := func(ok func() bool) {
		for !ok() {
			<-time.After(time.Millisecond)
		}
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	taken := int64(0)
	open := func(prefix string, n int, due func(i int) time.Time) {
		set(prefix, n, due)
		taken += int64(n)
		await(func() bool { return e.Status().Groups[0].Records >= taken })
	}
	open("day", b.N, func(i int) time.Time { return tomorrow.Add(time.Duration(i) * time.Microsecond) })
	cpu := cpuTime(b)
	<-time.After(5 * time.Second)
	b.ReportMetric((cpuTime(b)-cpu).Seconds()/5*100, "%cpu-waiting")

	soon := time.Now().Add(2 * time.Second)
	const few, many = 2000, 100_000
	open("few", few, func(i int) time.Time { return soon.Add(time.Duration(i) * 2 * time.Millisecond) })
	await(func() bool { return p.fired() >= few })
	p50, p99, worst := p.quantiles(few)
	b.ReportMetric(float64(p50.Microseconds())/1000, "ms-late-p50")
	b.ReportMetric(float64(p99.Microseconds())/1000, "ms-late-p99")
	b.ReportMetric(float64(worst.Microseconds())/1000, "ms-late-max")

	at := time.Now().Add(10 * time.Second)
	open("many", many, func(int) time.Time { return at })
	await(func() bool { return p.fired() >= few+many })
	if took := time.Since(at); took < 0 {
		b.Errorf("all were woken %v too early", -took)
	} else {
		b.ReportMetric(took.Seconds(), "s-for-100k-at-once")
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
