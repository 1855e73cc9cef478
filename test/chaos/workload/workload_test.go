package workload

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// Oracle: a seed gives one sequence, another seed another; every class and
// every source is there; what is good is JSON; a copy is one.
func TestGenerator(t *testing.T) {
	const n = 20_000
	take := func(seed uint64) []Delivery {
		g := New(Options{Seed: seed, Epoch: time.Unix(1e9, 0)})
		out := make([]Delivery, n)
		for i := range out {
			out[i] = g.Next()
		}
		return out
	}
	ds := take(7)
	if !reflect.DeepEqual(ds, take(7)) {
		t.Error("the same seed gives other deliveries")
	}
	if reflect.DeepEqual(ds[:100], take(8)[:100]) {
		t.Error("another seed gives the same deliveries")
	}
	classes, sources := map[Class]int{}, map[string]int{}
	for i, d := range ds {
		classes[d.Class]++
		sources[d.Source]++
		if d.N != i || d.Of > i {
			t.Fatalf("delivery %d has number %d and is of %d", i, d.N, d.Of)
		}
		if d.Class == Good && !json.Valid(d.Body) {
			t.Fatalf("delivery %d: %s", i, d.Body)
		}
		if o := ds[d.Of]; (d.Class == Copy || d.Class == Conflict) && (o.Source != d.Source || o.EventID != d.EventID || o.Class != Good) {
			t.Fatalf("delivery %d is a %s of %+v", i, d.Class, o)
		}
	}
	for _, c := range []Class{Good, Copy, Conflict, Foreign, Poison, Big, Refused} {
		if classes[c] == 0 {
			t.Errorf("none is %s: %v", c, classes)
		}
	}
	if len(sources) != 3 || classes[Good] < n*8/10 {
		t.Errorf("%v, %v", sources, classes)
	}
}
