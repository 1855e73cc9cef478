package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/views"
)

// tally is a view that keeps each record, and counts the records of a key by
// reading back what it wrote before.
type tally struct {
	topic   string
	applied atomic.Int64
}

func (*tally) Name() string    { return "tally" }
func (v *tally) Topic() string { return v.topic }

func (v *tally) Apply(s views.Store, r views.Record) error {
	v.applied.Add(1)
	if r.Value == nil {
		if err := s.Delete("count/" + r.Key); err != nil {
			return err
		}
		return s.Delete("item/" + r.Key)
	}
	if err := s.Set("item/"+r.Key, r.Value); err != nil {
		return err
	}
	switch string(r.Value) {
	case "fail":
		return errors.New("cannot take this in")
	case "panic":
		panic("view went wrong")
	}
	n := 0
	b, err := s.Get("count/" + r.Key)
	if err != nil {
		return err
	}
	if b != nil {
		if n, err = strconv.Atoi(string(b)); err != nil {
			return err
		}
	}
	return s.Set("count/"+r.Key, []byte(strconv.Itoa(n+1)))
}

func (w *world) startView(dir string, v views.View) (*running, views.Reader) {
	w.t.Helper()
	var reader views.Reader
	e := w.start(w.config(dir), func(e *Engine) {
		var err error
		if reader, err = e.AddView(v); err != nil {
			w.t.Fatal(err)
		}
	})
	return e, reader
}

func (w *world) send(topic, key, value string) {
	w.t.Helper()
	r := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}
	if value == "" {
		r.Value = nil
	}
	if err := w.cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func keysOf(t *testing.T, r views.Reader, prefix, after string, limit int) []string {
	t.Helper()
	var keys []string
	if err := r.Scan(prefix, after, func(k string, _ []byte) bool {
		keys = append(keys, k)
		return len(keys) < limit
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// (k) A view recovers by batches in which it reads its own writes, goes on
// from where it was after a clean stop, and is read in order of keys.
func TestView(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for i := range 3 {
		for k := range 40 {
			w.send("in", fmt.Sprintf("k%02d", k), strconv.Itoa(i))
		}
	}
	v := &tally{topic: "in"}
	e, r := w.startView(dir, v)
	e.waitReady()
	if !r.Ready() {
		t.Fatal("engine is ready, the view is not")
	}
	expect := func(key, want string) {
		t.Helper()
		eventually(t, key+" to be "+want, func() error {
			changed := r.Changed()
			b, err := r.Get(key, "count/"+key)
			if err != nil {
				return err
			}
			if string(b) == want || (b == nil && want == "") {
				return nil
			}
			select {
			case <-changed:
			default:
			}
			return fmt.Errorf("count is %q", b)
		})
	}
	expect("k07", "3")
	changed := r.Changed()
	w.send("in", "k07", "x")
	<-changed
	expect("k07", "4")

	all := keysOf(t, r, "item/", "", 1000)
	if len(all) != 40 || !slices.IsSorted(all) {
		t.Errorf("%d keys, sorted %v: %v", len(all), slices.IsSorted(all), all)
	}
	if got := keysOf(t, r, "item/", "item/k36", 1000); strings.Join(got, " ") != "item/k37 item/k38 item/k39" {
		t.Errorf("after k36: %v", got)
	}
	if got := keysOf(t, r, "item/", "item/k05", 3); strings.Join(got, " ") != "item/k06 item/k07 item/k08" {
		t.Errorf("three after k05: %v", got)
	}
	if got := keysOf(t, r, "item/k1", "a", 1000); len(got) != 10 {
		t.Errorf("prefix k1: %v", got)
	}
	if got := keysOf(t, r, "item/k1", "item/k2", 1000); len(got) != 0 {
		t.Errorf("after the prefix: %v", got)
	}

	// What fails is skipped with nothing of it done.
	w.send("in", "bad", "fail")
	w.send("in", "bad2", "panic")
	w.send("in", "k07", "") // tombstone
	expect("k07", "")
	eventually(t, "two failures", func() error {
		if s := e.Status().Views[0]; s.Failures != 2 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if b, err := r.Get("bad", "item/bad"); b != nil || err != nil {
		t.Errorf("a failed record left %q, %v", b, err)
	}
	e.stop()
	if _, err := r.Get("k01", "item/k01"); err == nil {
		t.Error("a closed view was read without an error")
	}

	// The next start takes in what is new and nothing else.
	w.send("in", "k08", "y")
	v2 := &tally{topic: "in"}
	e, r = w.startView(dir, v2)
	e.waitReady()
	if n := v2.applied.Load(); n != 1 {
		t.Errorf("%d records taken in after a clean stop, expected 1", n)
	}
	expect("k08", "4")
	e.stop()

	// A wiped folder is rebuilt.
	e, r = w.startView(t.TempDir(), &tally{topic: "in"})
	e.waitReady()
	expect("k08", "4")
	expect("k09", "3")
}

// A view of a table that is written in transactions gets ready, and shows
// committed records alone.
func TestViewOfTransactionalTable(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 100, 5)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(100, 5)
	e.stop()
	e, r := w.startView(t.TempDir(), &tally{topic: "counter-table"})
	e.waitReady()
	for k := range 5 {
		key := "key-" + strconv.Itoa(k)
		if b, err := r.Get(key, "item/"+key); string(b) != "20" || err != nil {
			t.Errorf("%s is %q, %v", key, b, err)
		}
	}
	if got := keysOf(t, r, "", "", 100); len(got) != 10 {
		t.Errorf("keys %q: expected an item and a count each", got)
	}
}

// Views and processors of one process share the folder, and several views may
// follow one topic.
func TestProcessorAndViewsTogether(t *testing.T) {
	w := newWorld(t)
	var table, out views.Reader
	e := w.start(w.config(t.TempDir()), func(e *Engine) {
		var err1, err2 error
		table, err1 = e.AddView(&renamed{tally{topic: "counter-table"}, "table"})
		out, err2 = e.AddView(&renamed{tally{topic: "out"}, "out"})
		if err := errors.Join(err1, err2, e.AddProcessor(counterSpec(&counter{}))); err != nil {
			t.Fatal(err)
		}
	})
	e.waitReady()
	w.feed(0, 300, 3)
	for k := range 3 {
		key := "key-" + strconv.Itoa(k)
		eventually(t, key, func() error {
			a, err1 := table.Get(key, "item/"+key)
			b, err2 := out.Get(key, "count/"+key)
			if string(a) != "100" || string(b) != "100" {
				return fmt.Errorf("%q %q %v", a, b, errors.Join(err1, err2))
			}
			return nil
		})
	}
	if err := e.Ready(); err != nil {
		t.Error(err)
	}
}

type renamed struct {
	tally
	name string
}

func (r *renamed) Name() string { return r.name }
