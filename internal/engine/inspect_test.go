package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
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
