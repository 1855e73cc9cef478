package authority_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// otherRules is the same resource under other rules: authorities turned round
// and shortened, policies swapped, another lifecycle.
func otherRules() (*definition.Domain, *definition.Resource) {
	d, r := domain()
	d.Fingerprint = "f2"
	for _, f := range r.Fields {
		f.Authority = []string{"risk", "crm"}
		switch f.Policy {
		case definition.Latest:
			f.Policy = definition.Earliest
		case definition.Max:
			f.Policy = definition.Min
		}
	}
	r.Lifecycle = &definition.Lifecycle{Field: "status", Initial: "b", Moves: map[string][]string{"b": {"a"}, "a": {"c"}}}
	return d, r
}

// Oracle: the rules in force when the last fact is merged decide, whatever
// rules the earlier ones were merged under.
func TestRulesChangedMidwayConverge(t *testing.T) {
	d1, r1 := domain()
	d2, r2 := otherRules()
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, r1, authority.MaxMoves)
		want, _ := mergeAll(t, d2, r2, fs)
		shuffled := slices.Clone(fs)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		var got *canonical.Entity
		rules := func(second bool) (*definition.Domain, *definition.Resource) {
			if second {
				return d2, r2
			}
			return d1, r1
		}
		for i, f := range shuffled {
			d, r := rules(i == len(shuffled)-1 || rapid.Bool().Draw(t, "second"))
			res, err := authority.Merge(d, r, got, clone(f))
			if err != nil {
				t.Fatal(err)
			}
			got = res.Entity
		}
		if diff := cmp.Diff(state(want), state(got)); diff != "" {
			t.Fatalf("earlier rules left a trace (-under the last rules alone +changed midway):\n%s", diff)
		}
	})
}

// Oracle: however many lifecycle claims there are, those that come at most a
// window late take their place.
func TestLateMovesWithinTheWindowConverge(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, r, 4*authority.MaxMoves)
		slices.SortFunc(fs, func(a, b *signal.Fact) int { return a.Signal.Stamp().Compare(b.Signal.Stamp()) })
		want, _ := mergeAll(t, d, r, fs)
		late := slices.Clone(fs)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for block := range slices.Chunk(late, authority.MaxMoves) {
			rng.Shuffle(len(block), func(i, j int) { block[i], block[j] = block[j], block[i] })
		}
		got, _ := mergeAll(t, d, r, late)
		if diff := cmp.Diff(state(want), state(got)); diff != "" {
			t.Fatalf("order within a window changed the state (-in order +shuffled):\n%s", diff)
		}
	})
}

// Oracle: a replay after the mapping gained a field fills the field in, and
// replaying again changes nothing.
func TestAReplayFillsInWhatTheMappingGained(t *testing.T) {
	d, r := domain()
	e, _ := mergeAll(t, d, r, []*signal.Fact{fact(1, "crm", "1", 1, named("priority", "p"))})
	more := fact(1, "crm", "1", 1, named("latest", "l"), named("priority", "P"))
	res, err := authority.Merge(d, r, e, more)
	if err != nil {
		t.Fatal(err)
	}
	if get(res.Entity, "latest") != `"l"` || get(res.Entity, "priority") != `"P"` || res.Entity.Version != 2 {
		t.Fatalf("latest %s, priority %s, version %d", get(res.Entity, "latest"), get(res.Entity, "priority"), res.Entity.Version)
	}
	if again, err := authority.Merge(d, r, res.Entity, clone(more)); err != nil || again.Stored || again.Change != nil {
		t.Fatalf("again: %+v, %v", again, err)
	}
}

// Oracle: the provenance and the explanation of a state name the move that led
// to it, not a later one of the same source that was rejected.
func TestARejectedMoveIsNoProvenance(t *testing.T) {
	d, r := domain()
	e, _ := mergeAll(t, d, r, []*signal.Fact{
		fact(1, "crm", "1", 1, named("status", "a")), fact(2, "crm", "2", 2, named("status", "b")),
		fact(3, "crm", "2", 3, named("status", "c")), fact(4, "crm", "2", 4, named("status", "a")), fact(5, "unknown", "9", 5, named("status", "b")),
	})
	if e.State != "c" {
		t.Fatalf("state %s", e.State)
	}
	if p, ok := e.Provenance("status"); !ok || p.Signal != "test:0:3" || p.SourceKey != "2" || p.OccurredAt != 3 {
		t.Errorf("provenance: %+v", p)
	}
	x, _ := authority.Explain(r, e, "status")
	var got []string
	for _, c := range x.Claims {
		got = append(got, c.Signal+" "+c.Value.Text()+": "+c.Reason)
	}
	want := []string{
		"test:0:3 c: its move was the last legal one",
		"test:0:5 b: not an authority for this field",
		`test:0:4 a: a move from "c" to "a" is not allowed`,
		"test:0:2 b: its move was followed by a later one",
		"test:0:1 a: its move was followed by a later one",
	}
	if diff := cmp.Diff(want, got); diff != "" || !x.Claims[0].Won {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
}
