package engine

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// rebuild asks for a rebuild of the counter's table and waits for its end.
func (r *running) rebuild(swap bool) *RebuildStatus {
	r.t.Helper()
	id, err := r.Rebuild(r.t.Context(), "control", Rebuild{Group: "counter", Swap: swap, Examples: 10})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	s, err := r.RebuildStatus(ctx, "control", id)
	if err != nil || !s.Done || s.Counts.Error != "" {
		r.t.Fatalf("rebuild came to %+v, %v", s, err)
	}
	return s
}

// Oracle: an image that is as the changelog says has no difference; of three
// entries that are damaged on the disk (another value, one gone, one too many)
// each is found as what it is, also while input goes on, and repaired by a swap:
// afterwards there is no difference, and each key counts on from where its
// changelog stands.
func TestRebuildFindsAndRepairsDamage(t *testing.T) {
	w := newWorld(t)
	w.topics(1, "control")
	cfg := w.config(t.TempDir())
	cfg.StateCacheBytes = -1 // what is on disk is what counts
	r := w.controlled(cfg, &counter{})
	r.waitReady()
	w.feed(0, 200, 20)
	w.eventuallyAudit(200, 20)
	if s := r.rebuild(false); s.Counts.Missing+s.Counts.Extra+s.Counts.Different != 0 || s.Counts.Keys != 20 || s.Counts.Records == 0 {
		t.Fatalf("a sound image: %+v", s.Counts)
	}
	damage := map[string]string{"key-3": "different", "key-5": "missing", "nobody": "extra"}
	r.stop()

	// The folder is written to while nobody uses it.
	db, err := pebble.Open(cfg.Dir, &pebble.Options{DisableWAL: true, FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	for key, kind := range damage {
		ks := newKeyspace(kindTable, "counter-table", Partition(key, testPartitions))
		value := []byte("77")
		if kind == "missing" {
			value = nil
		}
		if err := ks.put(b, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	r = w.controlled(cfg, &counter{})
	r.waitReady()
	s := r.rebuild(false)
	found := map[string]string{}
	for _, d := range s.Counts.Examples {
		found[d.Key] = d.Kind()
	}
	if fmt.Sprint(found) != fmt.Sprint(damage) || s.Counts.Different != 1 || s.Counts.Missing != 1 || s.Counts.Extra != 1 || s.Counts.Repaired != 0 {
		t.Errorf("found %v (%+v), expected %v", found, s.Counts, damage)
	}
	var fed = make(chan struct{})
	go func() {
		defer close(fed)
		for i := range 20 {
			w.feed(200+i, 201+i, 1) // key-0, which is not damaged
		}
	}()
	if s := r.rebuild(true); s.Counts.Repaired != 3 || s.Counts.Overtaken != 0 {
		t.Errorf("swap: %+v", s.Counts)
	}
	<-fed
	if s := r.rebuild(false); s.Counts.Missing+s.Counts.Extra+s.Counts.Different != 0 {
		t.Errorf("after the swap: %+v", s.Counts)
	}
	w.feed(220, 240, 20)
	eventually(t, "the effects", func() error { return w.effects(240, once) })
}
