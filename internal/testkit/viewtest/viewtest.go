// Package viewtest holds in-memory keepers of views and indexes for tests, and
// the conformance suites that every keeper passes, they included.
package viewtest

import (
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/views"
)

// Memory keeps one view in memory, in partitions as a real keeper would.
type Memory struct {
	view views.View

	mu      sync.RWMutex
	parts   []map[string][]byte
	next    []int64
	changed chan struct{}
}

var _ views.Reader = (*Memory)(nil)

// New keeps a view in the given number of partitions.
func New(v views.View, partitions int) *Memory {
	m := &Memory{view: v, parts: make([]map[string][]byte, partitions), next: make([]int64, partitions), changed: make(chan struct{})}
	for i := range m.parts {
		m.parts[i] = map[string][]byte{}
	}
	return m
}

func (m *Memory) partition(key string) int {
	h := fnv.New32a()
	h.Write([]byte(key))
	return int(h.Sum32() % uint32(len(m.parts)))
}

// Feed appends one record to the topic and applies it: all writes or, if the
// view fails, none.
func (m *Memory) Feed(key string, value []byte) error { return m.FeedHeaders(key, value, nil) }

// FeedHeaders feeds a record that has headers.
func (m *Memory) FeedHeaders(key string, value []byte, headers map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partition(key)
	s := &overlay{base: m.parts[p], writes: map[string][]byte{}}
	if err := m.view.Apply(s, views.Record{Partition: int32(p), Offset: m.next[p], Key: key, Value: value, Headers: func() map[string][]byte { return headers }}); err != nil {
		return err
	}
	m.next[p]++
	for k, v := range s.writes {
		if v == nil {
			delete(m.parts[p], k)
		} else {
			m.parts[p][k] = v
		}
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

// Contents gives a copy of everything kept, of all partitions.
func (m *Memory) Contents() map[string]string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := map[string]string{}
	for _, p := range m.parts {
		for k, v := range p {
			all[k] = string(v)
		}
	}
	return all
}

// Get reads a key in the partition of the routing key.
func (m *Memory) Get(routing, key string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.parts[m.partition(routing)][key]), nil
}

// Scan reads all partitions in the order of keys.
func (m *Memory) Scan(prefix, after string, fn func(string, []byte) bool) error {
	found := m.Contents()
	for _, k := range slices.Sorted(maps.Keys(found)) {
		if strings.HasPrefix(k, prefix) && k > after && !fn(k, []byte(found[k])) {
			return nil
		}
	}
	return nil
}

// Ready is always true: records are applied as they are fed.
func (m *Memory) Ready() bool { return true }

// Lag is always none.
func (m *Memory) Lag(string) views.Lag { return views.Lag{} }

// Changed gives a channel that is closed at the next Feed.
func (m *Memory) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed
}

type overlay struct{ base, writes map[string][]byte }

func (o *overlay) Get(key string) ([]byte, error) {
	if v, ok := o.writes[key]; ok {
		return slices.Clone(v), nil
	}
	return slices.Clone(o.base[key]), nil
}

func (o *overlay) Set(key string, value []byte) error {
	o.writes[key] = append([]byte{}, value...) // empty is a value, nil is none
	return nil
}

func (o *overlay) Delete(key string) error {
	o.writes[key] = nil
	return nil
}

// Keeper is what the conformance suite exercises: something that keeps a view
// and lets records be written to the topic that the view follows.
type Keeper interface {
	views.Reader
	// Feed writes one record; it may be applied some time after the return.
	Feed(key string, value []byte) error
}

// Conformance checks a keeper of views. open starts one with an empty topic of
// several partitions and stops it at the end of the test.
func Conformance(t *testing.T, open func(t *testing.T, v views.View) Keeper) {
	t.Run("values are found by routing key, tombstones remove", func(t *testing.T) {
		k := open(t, probe{})
		feed(t, k, "a", "1")
		feed(t, k, "b", "2")
		want(t, k, "a", "by/a", "1")
		want(t, k, "b", "by/b", "2")
		feed(t, k, "a", "")
		want(t, k, "a", "by/a", "")
		want(t, k, "b", "by/b", "2")
	})
	t.Run("a view reads its own writes and counts across records", func(t *testing.T) {
		k := open(t, probe{})
		for range 5 {
			feed(t, k, "a", "x")
		}
		want(t, k, "a", "n/a", "xxxxx")
	})
	t.Run("scan is in order over all partitions, after is exclusive, false stops", func(t *testing.T) {
		k := open(t, probe{})
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		for _, n := range slices.Backward(names) {
			feed(t, k, n, n)
		}
		for _, n := range names {
			want(t, k, n, "by/"+n, n)
		}
		check := func(prefix, after string, stop int, expect ...string) {
			t.Helper()
			var got []string
			if err := k.Scan(prefix, after, func(key string, value []byte) bool {
				got = append(got, key+"="+string(value))
				return len(got) < stop
			}); err != nil {
				t.Fatalf("Scan: %v", err)
			}
			if !slices.Equal(got, expect) {
				t.Errorf("Scan(%q, %q): got %q, want %q", prefix, after, got, expect)
			}
		}
		check("by/", "", 3, "by/a=a", "by/b=b", "by/c=c")
		check("by/", "by/f", 100, "by/g=g", "by/h=h")
		check("by/", "by/ff", 100, "by/g=g", "by/h=h")
		check("by/c", "", 100, "by/c=c")
		check("none/", "", 100)
	})
	t.Run("becomes ready, and Changed wakes a waiting reader", func(t *testing.T) {
		k := open(t, probe{})
		changed := k.Changed()
		select {
		case <-changed:
			t.Fatal("Changed is closed although nothing was fed")
		default:
		}
		feed(t, k, "a", "1")
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("Changed was not closed within 10 s of a record")
		}
		if want(t, k, "a", "by/a", "1"); !k.Ready() {
			t.Error("the view has applied all there is, but is not ready")
		}
	})
}

func feed(t *testing.T, k Keeper, key, value string) {
	t.Helper()
	var b []byte
	if value != "" {
		b = []byte(value)
	}
	if err := k.Feed(key, b); err != nil {
		t.Fatalf("Feed(%q): %v", key, err)
	}
}

// want waits until a key has a value; "" is none.
func want(t *testing.T, k Keeper, routing, key, value string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := k.Changed()
		got, err := k.Get(routing, key)
		if err != nil {
			t.Fatalf("Get(%q, %q): %v", routing, key, err)
		}
		if string(got) == value && (got != nil) == (value != "") {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("Get(%q, %q): got %q for 10 s, want %q", routing, key, got, value)
		}
	}
}

// probe is a view that keeps each value under a key of its own making, and
// appends all values of a key to one another.
type probe struct{}

func (probe) Name() string  { return "probe" }
func (probe) Topic() string { return "probe" }

func (probe) Apply(s views.Store, r views.Record) error {
	if r.Value == nil {
		if err := s.Delete("by/" + r.Key); err != nil {
			return err
		}
		return s.Delete("n/" + r.Key)
	}
	if err := s.Set("by/"+r.Key, r.Value); err != nil {
		return err
	}
	// Written twice to see the first write: half before, half after the read.
	n, err := s.Get("n/" + r.Key)
	if err != nil {
		return err
	}
	half := len(r.Value) / 2
	if err := s.Set("n/"+r.Key, append(n, r.Value[:half]...)); err != nil {
		return err
	}
	if n, err = s.Get("n/" + r.Key); err != nil {
		return err
	}
	return s.Set("n/"+r.Key, append(n, r.Value[half:]...))
}
