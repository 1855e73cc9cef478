package authority_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// firstOfSorted is a declared expression in its simplest form: the smallest text.
type firstOfSorted struct{}

func (firstOfSorted) Choose(cs []definition.Claim) (canonical.Value, error) {
	return slices.MinFunc(cs, func(a, b definition.Claim) int {
		if a.Value < b.Value {
			return -1
		}
		return 1
	}).Value, nil
}
func (firstOfSorted) Source() string { return "smallest" }

func domain() (*definition.Domain, *definition.Resource) {
	str, num := canonical.Type{Kind: canonical.KindString}, canonical.Type{Kind: canonical.KindInt}
	all := []string{"crm", "billing", "risk"}
	field := func(name string, t canonical.Type, p definition.Policy) *definition.Field {
		return &definition.Field{Name: name, Type: t, Policy: p, Authority: all}
	}
	city, street := field("city", str, ""), field("street", str, "")
	city.Group, street.Group = "address", "address"
	aged := field("aged", num, definition.Priority)
	aged.MaxAge = 90 * time.Microsecond // of claims that are 70 to 130 old
	weighed := field("weighed", str, definition.Weighted)
	weighed.Trust, weighed.HalfLife = map[string]float64{"crm": 0.9, "billing": 0.5, "risk": 0.1}, 10*time.Microsecond
	expr := field("expressed", str, definition.Expression)
	expr.Resolve = firstOfSorted{}
	only := field("only", str, "")
	only.Authority = []string{"risk"}
	r := &definition.Resource{
		Name: "customer", Identity: []string{"id"},
		Fields: []*definition.Field{
			aged, city, field("earliest", str, definition.Earliest), expr, field("latest", str, definition.Latest),
			field("majority", str, definition.Majority), field("max", num, definition.Max), field("min", num, definition.Min), only,
			field("priority", str, definition.Priority), field("status", canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"a", "b", "c"}}, ""),
			street, field("union", canonical.Type{Kind: canonical.KindList, Elem: &str}, definition.Union), weighed,
		},
		Groups: []*definition.Group{{Name: "address", Fields: []string{"city", "street"}, Authority: all, Policy: definition.Latest}},
		Lifecycle: &definition.Lifecycle{Field: "status", Initial: "a", Moves: map[string][]string{
			"a": {"b"}, "b": {"c", "a"}, "c": {"b"},
		}},
		Events: []*definition.EventRule{
			{Type: "Registered", When: definition.When{Created: true}},
			{Type: "Updated", When: definition.When{AnyChange: true}},
		},
	}
	return &definition.Domain{Name: "test", Resources: []*definition.Resource{r}, Fingerprint: "f1"}, r
}

// facts draws a set of facts about one entity: several sources and records,
// late and equal times, nulls, absent fields, deletions, lifecycle claims.
func facts(t *rapid.T, r *definition.Resource, most int) []*signal.Fact {
	n := rapid.IntRange(1, most).Draw(t, "facts")
	out := make([]*signal.Fact, n)
	for i := range out {
		s := signal.Signal{
			ID: fmt.Sprintf("test:0:%d", i), Journal: fmt.Sprintf("test:0:%d", i), Tenant: "default", Resource: "customer",
			Source:     rapid.SampledFrom([]string{"crm", "billing", "risk", "unknown"}).Draw(t, "source"),
			SourceKey:  rapid.SampledFrom([]string{"1", "2"}).Draw(t, "key"),
			OccurredAt: envelope.Instant(rapid.IntRange(1, 30).Draw(t, "occurred")),
			Sequence:   int64(rapid.IntRange(0, 2).Draw(t, "sequence")),
			ReceivedAt: envelope.Instant(100 + rapid.IntRange(0, 30).Draw(t, "received")),
			Deleted:    rapid.IntRange(0, 9).Draw(t, "deleted") == 0,
		}
		if !s.Deleted {
			for _, f := range r.Fields {
				if !rapid.Bool().Draw(t, f.Name) {
					continue
				}
				s.Fields = append(s.Fields, canonical.Named{Name: f.Name, Value: value(t, f)})
			}
		}
		out[i] = &signal.Fact{Entity: "1", Signal: s}
	}
	return out
}

func value(t *rapid.T, f *definition.Field) canonical.Value {
	if f.Name != "status" && rapid.IntRange(0, 7).Draw(t, "null") == 0 {
		return canonical.Null
	}
	switch f.Type.Kind {
	case canonical.KindInt:
		return canonical.Int(int64(rapid.IntRange(-3, 12).Draw(t, "int")))
	case canonical.KindList:
		items := rapid.SliceOfN(rapid.SampledFrom([]any{"x", "y", "z"}), 0, 3).Draw(t, "list")
		v, err := f.Type.Coerce(items)
		if err != nil {
			t.Fatal(err)
		}
		return v
	case canonical.KindEnum:
		return canonical.String(rapid.SampledFrom(f.Type.Symbols).Draw(t, "state"))
	}
	return canonical.String(rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "string"))
}

func clone(f *signal.Fact) *signal.Fact {
	c := *f
	c.Signal.Fields = slices.Clone(f.Signal.Fields)
	return &c
}

func mergeAll(t interface{ Fatal(...any) }, d *definition.Domain, r *definition.Resource, fs []*signal.Fact) (*canonical.Entity, []*event.Change) {
	var e *canonical.Entity
	var changes []*event.Change
	for _, f := range fs {
		res, err := authority.Merge(d, r, e, clone(f))
		if err != nil {
			t.Fatal(err)
		}
		e = res.Entity
		if res.Change != nil {
			changes = append(changes, res.Change)
		}
	}
	return e, changes
}

// state is what must not depend on the order of arrival: everything but the
// version, the times of the versions and in which version a field changed.
func state(e *canonical.Entity) canonical.Entity {
	c := *e
	c.Version, c.CreatedAt, c.UpdatedAt = 0, 0, 0
	c.Fields = slices.Clone(e.Fields)
	for i := range c.Fields {
		c.Fields[i].Since = 0
	}
	if len(c.Rejections) == 0 {
		c.Rejections = nil
	}
	return c
}

// Oracle: whatever order, duplication and interleaving the same facts arrive
// in, canonical state with provenance and all contributions is the same.
func TestAnyOrderAndDuplicationConverges(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, r, authority.MaxMoves)
		want, _ := mergeAll(t, d, r, fs)
		shuffled := slices.Concat(fs, fs[:rapid.IntRange(0, len(fs)).Draw(t, "copies")])
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got, _ := mergeAll(t, d, r, shuffled)
		if diff := cmp.Diff(state(want), state(got)); diff != "" {
			t.Fatalf("order changed the state (-in order +shuffled):\n%s", diff)
		}
	})
}

// Oracle: a merge decides only the fields that the fact may have changed, and
// gives what deciding all of them gives, and tells exactly what changed.
func TestResolvingWhatWasClaimedIsResolvingAll(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		var e *canonical.Entity
		for _, f := range facts(t, r, 80) {
			var before []canonical.Field
			if e != nil {
				before = slices.Clone(e.Fields)
			}
			res, err := authority.Merge(d, r, e, clone(f))
			if err != nil {
				t.Fatal(err)
			}
			e = res.Entity
			all := *e
			all.Fields, all.Rejections = before, slices.Clone(e.Rejections)
			for i := range all.Fields { // of a value that was there before, it is kept
				if now, ok := e.Field(all.Fields[i].Name); ok {
					all.Fields[i].Since = now.Since
				}
			}
			if err := authority.Resolve(r, &all); err != nil {
				t.Fatal(err)
			}
			for i := range all.Fields {
				if all.Fields[i].Since == 0 {
					all.Fields[i].Since = e.Version // a field that is new
				}
			}
			if d := cmp.Diff(&all, e, cmp.Transformer("fields", func(fs []canonical.Field) []canonical.Field {
				if len(fs) == 0 {
					return nil
				}
				return fs
			})); d != "" {
				t.Fatalf("resolving all of it (-) and what %s claimed (+):\n%s", f.Signal.ID, d)
			}
			was := map[string]canonical.Value{}
			for _, x := range before {
				was[x.Name] = x.Value
			}
			var changed []string
			for _, x := range e.Fields {
				if was[x.Name] != x.Value {
					changed = append(changed, x.Name)
				}
				delete(was, x.Name)
			}
			for name := range was {
				changed = append(changed, name)
			}
			slices.Sort(changed)
			var told []string
			if res.Change != nil {
				for _, c := range res.Change.Changed {
					told = append(told, c.Name)
				}
			}
			if !slices.Equal(told, changed) {
				t.Fatalf("%s: told that %v changed, found %v", f.Signal.ID, told, changed)
			}
		}
	})
}

// Oracle: joining facts first and resolving once at the end gives what
// resolving after each gives.
func TestBatchingConverges(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, r, authority.MaxMoves)
		want, _ := mergeAll(t, d, r, fs)
		got := &canonical.Entity{Tenant: "default", Resource: "customer", ID: "1", Definition: d.Fingerprint}
		for _, f := range fs {
			authority.Join(r, got, &clone(f).Signal)
		}
		if err := authority.Resolve(r, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state(want), state(got)); diff != "" {
			t.Fatalf("batching changed the state (-one by one +at once):\n%s", diff)
		}
	})
}

// Oracle: versions grow by one with each change, each change really differs,
// the last change's state is the entity's, and merging everything again yields
// no change at all.
func TestNoChangeYieldsNothing(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		fs := facts(t, r, authority.MaxMoves)
		e, changes := mergeAll(t, d, r, fs)
		for i, c := range changes {
			if c.Version != int64(i+1) {
				t.Fatalf("change %d has version %d", i, c.Version)
			}
			for _, f := range c.Changed {
				if f.Before == f.After {
					t.Fatalf("field %s did not change: %s", f.Name, f.Before)
				}
			}
			if len(c.Changed) == 0 && c.FromState == c.ToState && c.Kind == event.Updated {
				t.Fatalf("an empty change: %+v", c)
			}
		}
		if e.Version != int64(len(changes)) {
			t.Fatalf("version %d after %d changes", e.Version, len(changes))
		}
		if len(changes) > 0 {
			after := map[string]canonical.Value{}
			for _, n := range changes[len(changes)-1].After {
				after[n.Name] = n.Value
			}
			for _, f := range e.Fields {
				if after[f.Name] != f.Value {
					t.Fatalf("field %s is %s, the last change says %s", f.Name, f.Value, after[f.Name])
				}
			}
			if len(after) != len(e.Fields) {
				t.Fatalf("the last change has %d fields, the entity %d", len(after), len(e.Fields))
			}
		}
		version := e.Version
		for _, f := range fs {
			res, err := authority.Merge(d, r, e, clone(f))
			if err != nil {
				t.Fatal(err)
			}
			if res.Change != nil || res.Stored {
				t.Fatalf("merging %s again changed something: %+v", f.Signal.ID, res.Change)
			}
			e = res.Entity
		}
		if e.Version != version {
			t.Fatalf("version grew to %d without a change", e.Version)
		}
	})
}

// Oracle: every canonical value is a claim that its named winner really makes
// (or a union of claims, or a state that a legal move led to).
func TestProvenanceNamesTheClaim(t *testing.T) {
	d, r := domain()
	rapid.Check(t, func(t *rapid.T) {
		e, _ := mergeAll(t, d, r, facts(t, r, authority.MaxMoves))
		for _, f := range e.Fields {
			if f.Name == "status" || f.Name == "union" {
				continue
			}
			v, _, ok := e.Contributions[f.Winner].Claim(f.Name)
			if !ok || v != f.Value {
				t.Fatalf("%s = %s, but its winner %s claims %q", f.Name, f.Value, e.Contributions[f.Winner].Source, v)
			}
			if e.Contributions[f.Winner].Source == "unknown" {
				t.Fatalf("%s was won by a source without authority", f.Name)
			}
			x, _ := authority.Explain(r, e, f.Name)
			if len(x.Claims) == 0 || !x.Claims[0].Won || x.Claims[0].Value != f.Value {
				t.Fatalf("explanation of %s does not begin with its winner: %+v", f.Name, x)
			}
			for _, c := range x.Claims[1:] {
				if c.Won || c.Reason == "" {
					t.Fatalf("explanation of %s: a loser without a reason: %+v", f.Name, c)
				}
			}
		}
	})
}

func fact(id int, source, key string, at int64, fields ...canonical.Named) *signal.Fact {
	return &signal.Fact{Entity: "1", Signal: signal.Signal{
		ID: fmt.Sprintf("test:0:%d", id), Journal: fmt.Sprintf("test:0:%d", id), Tenant: "default", Resource: "customer",
		Source: source, SourceKey: key, OccurredAt: envelope.Instant(at), ReceivedAt: envelope.Instant(100 + int64(id)), Fields: fields,
	}}
}

func named(name, v string) canonical.Named {
	return canonical.Named{Name: name, Value: canonical.String(v)}
}

// get gives a canonical value as text, "-" if there is none.
func get(e *canonical.Entity, name string) string {
	if f, ok := e.Field(name); ok {
		return string(f.Value)
	}
	return "-"
}

func TestPolicies(t *testing.T) {
	d, r := domain()
	list := func(s string) canonical.Named { return canonical.Named{Name: "union", Value: canonical.Value(s)} }
	num := func(name string, i int64) canonical.Named {
		return canonical.Named{Name: name, Value: canonical.Int(i)}
	}
	for _, tc := range []struct {
		name, field, want string
		facts             []*signal.Fact
	}{
		{"priority takes the first authority", "priority", `"c"`, []*signal.Fact{fact(1, "billing", "1", 9, named("priority", "b")), fact(2, "crm", "1", 1, named("priority", "c"))}},
		{"an explicit null is a value", "priority", `null`, []*signal.Fact{fact(1, "billing", "1", 9, named("priority", "b")), fact(2, "crm", "1", 1, canonical.Named{Name: "priority", Value: canonical.Null})}},
		{"an absent field is no claim", "priority", `"b"`, []*signal.Fact{fact(1, "billing", "1", 9, named("priority", "b")), fact(2, "crm", "1", 1, named("latest", "x"))}},
		{"late data loses", "priority", `"new"`, []*signal.Fact{fact(1, "crm", "1", 9, named("priority", "new")), fact(2, "crm", "1", 5, named("priority", "old"))}},
		{"two records of one source: the later one", "priority", `"two"`, []*signal.Fact{fact(1, "crm", "2", 9, named("priority", "two")), fact(2, "crm", "1", 5, named("priority", "one"))}},
		{"latest", "latest", `"b"`, []*signal.Fact{fact(1, "billing", "1", 9, named("latest", "b")), fact(2, "crm", "1", 1, named("latest", "c"))}},
		{"latest, a tie goes to authority", "latest", `"c"`, []*signal.Fact{fact(2, "crm", "1", 9, named("latest", "c")), fact(1, "billing", "1", 9, named("latest", "b"))}},
		{"earliest", "earliest", `"c"`, []*signal.Fact{fact(1, "billing", "1", 9, named("earliest", "b")), fact(2, "crm", "1", 1, named("earliest", "c"))}},
		{"max compares numbers", "max", `10`, []*signal.Fact{fact(1, "billing", "1", 9, num("max", 9)), fact(2, "crm", "1", 1, num("max", 10))}},
		{"min", "min", `9`, []*signal.Fact{fact(1, "billing", "1", 9, num("min", 9)), fact(2, "crm", "1", 1, num("min", 10))}},
		{"majority counts sources", "majority", `"b"`, []*signal.Fact{fact(1, "crm", "1", 9, named("majority", "c")), fact(2, "crm", "2", 9, named("majority", "c")), fact(3, "billing", "1", 1, named("majority", "b")), fact(4, "risk", "1", 1, named("majority", "b"))}},
		{"union", "union", `["a","b","c"]`, []*signal.Fact{fact(1, "crm", "1", 9, list(`["c","a"]`)), fact(2, "risk", "2", 9, list(`["b","a"]`))}},
		{"weighted", "weighed", `"c"`, []*signal.Fact{fact(1, "crm", "1", 9, named("weighed", "c")), fact(2, "billing", "2", 9, named("weighed", "b")), fact(3, "risk", "1", 9, named("weighed", "b"))}},
		{"maxAge ends a claim", "aged", `2`, []*signal.Fact{fact(1, "crm", "1", 9, num("aged", 1)), fact(2, "billing", "2", 95, num("aged", 2))}},
		{"a group wins as a unit", "street", `-`, []*signal.Fact{fact(1, "crm", "1", 1, named("city", "Rome"), named("street", "Via Appia")), fact(2, "billing", "1", 9, named("city", "Oslo"))}},
		{"no authority, no value", "only", `-`, []*signal.Fact{fact(1, "crm", "1", 1, named("only", "x"))}},
		{"the lifecycle moves", "status", `"b"`, []*signal.Fact{fact(1, "crm", "1", 1, named("status", "b"))}},
		{"an illegal move is rejected", "status", `"a"`, []*signal.Fact{fact(1, "crm", "1", 1, named("status", "c"))}},
		{"a late move takes its place in time", "status", `"c"`, []*signal.Fact{fact(1, "crm", "1", 5, named("status", "c")), fact(2, "crm", "1", 3, named("status", "b"))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, _ := mergeAll(t, d, r, tc.facts)
			if got := get(e, tc.field); got != tc.want {
				t.Errorf("%s = %s, want %s", tc.field, got, tc.want)
			}
		})
	}
}

func TestDeletion(t *testing.T) {
	d, r := domain()
	gone := fact(3, "crm", "1", 7)
	gone.Signal.Deleted = true
	e, changes := mergeAll(t, d, r, []*signal.Fact{
		fact(1, "crm", "1", 5, named("priority", "c")), fact(2, "billing", "1", 5, named("priority", "b")), gone,
		fact(4, "crm", "1", 6, named("priority", "late: before the deletion")),
	})
	if got := get(e, "priority"); got != `"b"` || !e.Exists {
		t.Errorf("priority = %s, exists %v; want billing's claim to stand", got, e.Exists)
	}
	gone = fact(5, "billing", "1", 7)
	gone.Signal.Deleted = true
	res, err := authority.Merge(d, r, e, gone)
	if err != nil || res.Change == nil || res.Change.Kind != event.Deleted || res.Entity.Exists {
		t.Fatalf("the last record's deletion gave %+v, %v", res.Change, err)
	}
	if len(res.Change.After) != 0 || len(res.Change.Changed) == 0 {
		t.Errorf("a deletion leaves %v and reports %v", res.Change.After, res.Change.Changed)
	}
	res, err = authority.Merge(d, r, res.Entity, fact(6, "crm", "1", 9, named("priority", "back")))
	if err != nil || res.Change == nil || res.Change.Kind != event.Restored || get(res.Entity, "priority") != `"back"` {
		t.Fatalf("a new claim after the deletion gave %+v, %v", res.Change, err)
	}
	if want := int64(len(changes) + 2); res.Entity.Version != want {
		t.Errorf("version %d, want %d", res.Entity.Version, want)
	}
}

func TestRejectedMoveIsReported(t *testing.T) {
	d, r := domain()
	res, err := authority.Merge(d, r, nil, fact(1, "crm", "1", 1, named("status", "c")))
	if err != nil || len(res.Rejected) != 1 || res.Rejected[0].From != "a" || res.Rejected[0].To != "c" {
		t.Fatalf("rejected %+v, %v", res.Rejected, err)
	}
	if len(res.Entity.Rejections) != 1 {
		t.Errorf("the entity does not remember the rejection")
	}
	// Beyond MaxMoves the oldest moves are the base, and what is older is too late.
	e := res.Entity
	for i := range authority.MaxMoves + 5 {
		to := []string{"b", "a"}[i%2]
		if res, err = authority.Merge(d, r, e, fact(10+i, "crm", "1", int64(10+i), named("status", to))); err != nil {
			t.Fatal(err)
		}
		e = res.Entity
	}
	if len(e.Moves) != authority.MaxMoves || e.BaseStamp == nil {
		t.Fatalf("%d moves kept, base %v", len(e.Moves), e.BaseStamp)
	}
	res, err = authority.Merge(d, r, e, fact(99, "billing", "1", 2, named("status", "b")))
	if err != nil || len(res.Rejected) != 1 || res.Change != nil {
		t.Errorf("a move from before the base gave change %v, rejected %+v, %v", res.Change, res.Rejected, err)
	}
}

func TestNewRulesAreARecompute(t *testing.T) {
	d, r := domain()
	e, _ := mergeAll(t, d, r, []*signal.Fact{fact(1, "crm", "1", 1, named("priority", "c")), fact(2, "billing", "1", 1, named("priority", "b"))})
	f, _ := r.Field("priority")
	f.Authority, d.Fingerprint = []string{"billing", "crm"}, "f2"
	// The same fact again: nothing is joined, but the rules are new.
	res, err := authority.Merge(d, r, e, fact(2, "billing", "1", 1, named("priority", "b")))
	if err != nil || res.Change == nil || get(res.Entity, "priority") != `"b"` {
		t.Fatalf("change %+v, %v", res.Change, err)
	}
}

func BenchmarkMerge20Fields(b *testing.B) {
	str := canonical.Type{Kind: canonical.KindString}
	r := &definition.Resource{Name: "customer", Identity: []string{"id"}}
	for i := range 20 {
		r.Fields = append(r.Fields, &definition.Field{Name: fmt.Sprintf("field%02d", i), Type: str, Authority: []string{"crm", "billing", "risk"}})
	}
	d := &definition.Domain{Name: "bench", Resources: []*definition.Resource{r}, Fingerprint: "f"}
	var e *canonical.Entity
	b.ReportAllocs()
	for i := range b.N {
		source := []string{"crm", "billing", "risk"}[i%3]
		f := fact(i, source, "1", int64(i), named("field03", fmt.Sprint(i)), named("field07", "same"), named("field11", fmt.Sprint(i/2)))
		if i < 3 {
			f.Signal.Fields = nil
			for j := range 20 {
				f.Signal.Fields = append(f.Signal.Fields, named(fmt.Sprintf("field%02d", j), "initial"))
			}
		}
		res, err := authority.Merge(d, r, e, f)
		if err != nil {
			b.Fatal(err)
		}
		e = res.Entity
	}
}
