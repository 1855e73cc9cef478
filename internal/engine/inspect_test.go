package engine

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// Oracle: what InspectDir finds in the folder of a stopped engine is what a
// reader of the changelog finds up to the offset that the folder names, and the
// folder is what it was.
func TestInspectDir(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 200, 5)
	dir := t.TempDir()
	e := w.startCounter(w.config(dir), &counter{})
	w.eventuallyAudit(200, 5)
	e.stop()
	before := listing(t, dir)
	got := map[string]string{}
	found, err := InspectDir(dir, func(l Local, key string, value []byte) error {
		got[fmt.Sprint(l.Name, l.Partition, key)] = string(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 || len(got) == 0 {
		t.Fatalf("found %v with %d keys", found, len(got))
	}
	up := map[string]int64{}
	for _, l := range found {
		if l.View || l.Name != "counter-table" || l.Offset < 0 {
			t.Errorf("found %+v", l)
		}
		up[fmt.Sprint(l.Name, l.Partition)] = l.Offset
	}
	want := map[string]string{}
	for _, r := range w.read("counter-table") {
		at := fmt.Sprint(r.Topic, r.Partition)
		if r.Offset > up[at] {
			t.Errorf("the folder is at %d of %s, where a record stands at %d", up[at], at, r.Offset)
		}
		want[at+string(r.Key)] = string(r.Value)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the folder holds\n%v\nthe changelog says\n%v", got, want)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the folder was\n%s\nand is\n%s", before, after)
	}
}

func listing(t *testing.T, dir string) (out string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Base(f) == "LOCK" { // taken for the time of the look
			continue
		}
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintln(f, st.Size(), st.ModTime())
	}
	return out
}

// Oracle: the values of a table with an index are those that were written; an
// index that has an entry too few, or one too many, is told.
func TestInspectDirWithIndex(t *testing.T) {
	w := newWorld(t)
	w.topics(testPartitions, "words-table")
	dir := t.TempDir()
	e, r := w.startWords(w.config(dir), true)
	want := map[string]string{"a": "red green", "b": "green"}
	for k, v := range want {
		w.send("in", k, v)
	}
	eventually(t, "the table", func() error {
		for k, v := range want {
			if b, err := r.Get(k); string(b) != v || err != nil {
				return fmt.Errorf("%s is %q, %v", k, b, err)
			}
		}
		return nil
	})
	e.stop()
	inspect := func() (map[string]string, error) {
		got := map[string]string{}
		_, err := InspectDir(dir, func(_ Local, key string, value []byte) error {
			got[key] = string(value)
			return nil
		})
		return got, err
	}
	if got, err := inspect(); err != nil || !maps.Equal(got, want) {
		t.Errorf("found %v, %v, expected %v", got, err, want)
	}
	change := func(do func(db *pebble.DB, entry []byte) error) {
		t.Helper()
		db, err := pebble.Open(dir, &pebble.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		it, err := db.NewIter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			if _, part, _ := splitKey(it.Key()); part == partIndex {
				if err := do(db, bytes.Clone(it.Key())); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
		t.Fatal("no entry of an index: the test tests nothing")
	}
	change(func(db *pebble.DB, entry []byte) error { return db.Set(append(entry, 'x'), nil, pebble.Sync) })
	if _, err := inspect(); err == nil || !strings.Contains(err.Error(), "the indexes have") {
		t.Errorf("an entry too many gave %v", err)
	}
	change(func(db *pebble.DB, entry []byte) error { return db.Delete(entry, pebble.Sync) })
	if _, err := inspect(); err == nil || !strings.Contains(err.Error(), "is not in the index") {
		t.Errorf("an entry too few gave %v", err)
	}
}
