package viewtest

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/views"
)

// Table keeps one table with its index in memory, in partitions as a real
// keeper would.
type Table struct {
	index views.Index
	// Behind is the lag that the table tells of; none if it is zero.
	Behind views.Lag

	mu      sync.RWMutex
	parts   []tablePart
	changed chan struct{}
}

type tablePart struct {
	values map[string][]byte
	terms  map[string]views.Terms
}

var _ views.IndexReader = (*Table)(nil)

// NewTable keeps an index in the given number of partitions.
func NewTable(x views.Index, partitions int) *Table {
	t := &Table{index: x, parts: make([]tablePart, partitions), changed: make(chan struct{})}
	for i := range t.parts {
		t.parts[i] = tablePart{map[string][]byte{}, map[string]views.Terms{}}
	}
	return t
}

func (t *Table) part(key string) *tablePart {
	h := fnv.New32a()
	h.Write([]byte(key))
	return &t.parts[h.Sum32()%uint32(len(t.parts))]
}

// Feed writes one value of the table; nil deletes. A value that the index fails
// on is there, but found by its key alone; the error says why.
func (t *Table) Feed(key string, value []byte) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.part(key)
	delete(p.values, key)
	delete(p.terms, key)
	if value != nil {
		p.values[key] = slices.Clone(value)
		var v any
		if v, err = t.index.Decode(value); err == nil {
			var ts views.Terms
			if ts, err = t.index.Terms(key, v); err == nil {
				p.terms[key] = ts
			}
		}
	}
	close(t.changed)
	t.changed = make(chan struct{})
	return err
}

// Contents gives a copy of everything kept, of all partitions: values by
// "d/<key>", and "i/<term>/<key>" for each term.
func (t *Table) Contents() map[string]string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := map[string]string{}
	for _, p := range t.parts {
		for k, v := range p.values {
			all["d/"+k] = string(v)
		}
		for k, ts := range p.terms {
			for _, x := range ts {
				all["i/"+hex.EncodeToString(views.Terms{x}.Append(nil))+"/"+k] = ""
			}
		}
	}
	return all
}

// Get reads a value.
func (t *Table) Get(key string) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.part(key).values[key]), nil
}

// Lookup reads all partitions in the order of keys.
func (t *Table) Lookup(x views.Term, prefix, after string, fn func(string) bool) error {
	t.mu.RLock()
	found := map[string]bool{}
	for _, p := range t.parts {
		for k, ts := range p.terms {
			if slices.Contains(ts, x) && strings.HasPrefix(k, prefix) && k > after {
				found[k] = true
			}
		}
	}
	t.mu.RUnlock()
	for _, k := range slices.Sorted(maps.Keys(found)) {
		if !fn(k) {
			return nil
		}
	}
	return nil
}

// Ready is always true: values are there as they are fed.
func (t *Table) Ready() bool { return true }

// Lag gives Behind.
func (t *Table) Lag(string) views.Lag { return t.Behind }

// Changed gives a channel that is closed at the next Feed.
func (t *Table) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// TableKeeper is what the conformance suite of tables exercises: something that
// keeps a table with its index and lets values be written.
type TableKeeper interface {
	views.IndexReader
	// Feed writes one value, nil deletes; it may be there some time after the
	// return.
	Feed(key string, value []byte) error
}

// Words is an index over values that are words: each word is a term. A value
// with an exclamation mark cannot be decoded, and one with a question mark has
// no terms.
type Words struct{}

func (Words) Name() string   { return "words" }
func (Words) Topic() string  { return "words-table" }
func (Words) Layout() string { return "words1" }

func (Words) Decode(value []byte) (any, error) {
	if strings.Contains(string(value), "!") {
		return nil, fmt.Errorf("%q: no exclamation marks", value)
	}
	return string(value), nil
}

func (Words) Terms(key string, value any) (views.Terms, error) {
	s := value.(string)
	if strings.ContainsAny(s, "?!") { // a keeper may have decoded it otherwise
		return nil, fmt.Errorf("%s: %q: no question marks", key, s)
	}
	var ts []views.Term
	for w := range strings.FieldsSeq(s) {
		ts = append(ts, views.TermOf(w))
	}
	return views.NewTerms(ts), nil
}

// TableConformance checks a keeper of tables. open starts one for the index
// Words with an empty table of several partitions and stops it at the end of
// the test.
func TableConformance(t *testing.T, open func(t *testing.T) TableKeeper) {
	t.Run("values are found by key and by term, and no longer by what they were", func(t *testing.T) {
		k := open(t)
		put(t, k, "a", "red round")
		put(t, k, "b", "red")
		lookup(t, k, "red", "", "", "a", "b")
		lookup(t, k, "round", "", "", "a")
		put(t, k, "a", "blue round round")
		lookup(t, k, "red", "", "", "b")
		lookup(t, k, "round", "", "", "a")
		lookup(t, k, "blue", "", "", "a")
		put(t, k, "a", "")
		lookup(t, k, "round", "", "")
		lookup(t, k, "blue", "", "")
		put(t, k, "b", "red")
		lookup(t, k, "red", "", "", "b")
	})
	t.Run("lookup is in order over all partitions, within a prefix, after is exclusive", func(t *testing.T) {
		k := open(t)
		for _, key := range []string{"y/3", "x/4", "x/1", "y/1", "x/3", "x/2", "x"} {
			put(t, k, key, "w")
		}
		lookup(t, k, "w", "", "", "x", "x/1", "x/2", "x/3", "x/4", "y/1", "y/3")
		lookup(t, k, "w", "x/", "", "x/1", "x/2", "x/3", "x/4")
		lookup(t, k, "w", "x/", "x/2", "x/3", "x/4")
		lookup(t, k, "w", "x/", "x/25", "x/3", "x/4")
		lookup(t, k, "w", "x/", "y", []string(nil)...)
		n := 0
		if err := k.Lookup(views.TermOf("w"), "", "", func(string) bool { n++; return n < 3 }); err != nil || n != 3 {
			t.Errorf("a lookup that is stopped at the third key: %d keys, %v", n, err)
		}
	})
	t.Run("a value that cannot be indexed is found by its key alone", func(t *testing.T) {
		for _, bad := range []string{"red!", "red?"} {
			k := open(t)
			put(t, k, "a", "red")
			lookup(t, k, "red", "", "", "a")
			_ = k.Feed("a", []byte(bad)) // some keepers tell, some log
			reads(t, k, "a", bad)
			lookup(t, k, "red", "", "")
			put(t, k, "a", "red")
			lookup(t, k, "red", "", "", "a")
		}
	})
	t.Run("becomes ready, has no lag, and Changed wakes a waiting reader", func(t *testing.T) {
		k := open(t)
		changed := k.Changed()
		put(t, k, "a", "red")
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("Changed was not closed within 10 s of a write")
		}
		for began := time.Now(); !k.Ready() || k.Lag("") != (views.Lag{}) || k.Lag("a") != (views.Lag{}); {
			select {
			case <-k.Changed():
			case <-time.After(50 * time.Millisecond):
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("ready %v, lag %v after 10 s", k.Ready(), k.Lag(""))
			}
		}
	})
}

// put writes a value, "" deletes, and waits until it can be read.
func put(t *testing.T, k TableKeeper, key, value string) {
	t.Helper()
	var b []byte
	if value != "" {
		b = []byte(value)
	}
	if err := k.Feed(key, b); err != nil {
		t.Fatalf("Feed(%q, %q): %v", key, value, err)
	}
	reads(t, k, key, value)
}

func reads(t *testing.T, k TableKeeper, key, value string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := k.Changed()
		b, err := k.Get(key)
		if err != nil {
			t.Fatalf("Get(%q): %v", key, err)
		}
		if string(b) == value && (b != nil) == (value != "") {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("Get(%q): got %q for 10 s, want %q", key, b, value)
		}
	}
}

// lookup checks what a term finds. Values and their terms are written as one,
// so there is nothing to wait for.
func lookup(t *testing.T, k TableKeeper, word, prefix, after string, want ...string) {
	t.Helper()
	var keys []string
	if err := k.Lookup(views.TermOf(word), prefix, after, func(key string) bool { keys = append(keys, key); return true }); err != nil {
		t.Fatalf("Lookup(%q): %v", word, err)
	}
	if !slices.Equal(keys, want) {
		t.Errorf("Lookup(%q, %q, %q): got %q, want %q", word, prefix, after, keys, want)
	}
}
