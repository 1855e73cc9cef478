package workload_test

import (
	"testing"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

func spec(fields int) workload.Spec {
	return workload.Spec{Keys: 50, Fields: fields, Zipf: 1.1, Changing: 0.5, Duplicates: 0.1, Seed: 7}
}

// made is what the product's merge makes of the facts of a specification.
type made struct {
	entities map[string]*canonical.Entity
	changes  []*event.Change
	oracle   *workload.Oracle
}

func merged(t *testing.T, s workload.Spec, facts int) made {
	t.Helper()
	domain, err := s.Compile()
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Definition())
	}
	r, _ := domain.Resource(workload.Resource)
	g, err := workload.NewGenerator(s)
	if err != nil {
		t.Fatal(err)
	}
	m := made{entities: map[string]*canonical.Entity{}}
	if m.oracle, err = workload.NewOracle(s); err != nil {
		t.Fatal(err)
	}
	for range facts {
		f := g.Next()
		if err := m.oracle.Fold(&f); err != nil {
			t.Fatal(err)
		}
		res, err := authority.Merge(domain, r, m.entities[f.Entity], &f)
		if err != nil {
			t.Fatal(err)
		}
		m.entities[f.Entity] = res.Entity
		if res.Change != nil {
			m.changes = append(m.changes, res.Change)
		}
	}
	return m
}

func (m made) check(t *testing.T) workload.Verdict {
	t.Helper()
	c := workload.NewCheck(m.oracle)
	for _, e := range m.entities {
		if err := c.State(e); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range m.changes {
		if err := c.Change(e); err != nil {
			t.Fatal(err)
		}
	}
	return c.Verdict()
}

// Oracle: two merges that share no code, the product's and that of this
// package, come to the same states and the same changes.
func TestTwoMergesAgree(t *testing.T) {
	for _, fields := range []int{5, 20, 80} {
		m := merged(t, spec(fields), 5000)
		if v := m.check(t); !v.Right() || v.Changes < 2000 {
			t.Errorf("%d fields: %v", fields, v)
		}
	}
}

// Oracle: half of the facts that are no copies change something, and a tenth
// are copies.
func TestShares(t *testing.T) {
	s := spec(20)
	g, err := workload.NewGenerator(s)
	if err != nil {
		t.Fatal(err)
	}
	seen, copies, total := map[string]bool{}, 0, 20_000
	for range total {
		f := g.Next()
		if seen[f.Signal.ID] {
			copies++
		}
		seen[f.Signal.ID] = true
	}
	m := merged(t, s, total)
	changing := float64(len(m.changes)-g.Introductions()) / float64(total-copies-g.Introductions())
	if c := float64(copies) / float64(total); c < 0.09 || c > 0.11 || changing < 0.48 || changing > 0.52 {
		t.Errorf("%.3f copies, %.3f of the others change something", c, changing)
	}
}

// Oracle: a lost, a doubled or an altered change and a wrong value, winner or
// stamp in the state are each found.
func TestCheckFinds(t *testing.T) {
	first := func(m made) *canonical.Entity { return m.entities[workload.Account(0)] }
	for name, spoil := range map[string]func(*made){
		"lost change":     func(m *made) { m.changes = m.changes[1:] },
		"doubled change":  func(m *made) { m.changes = append(m.changes, m.changes[0]) },
		"altered change":  func(m *made) { m.changes[9].Changed[0].After = `"x"` },
		"other event":     func(m *made) { m.changes[9].Events = nil },
		"missing account": func(m *made) { delete(m.entities, workload.Account(0)) },
		"wrong value":     func(m *made) { first(*m).Fields[3].Value = `"x"` },
		"wrong winner":    func(m *made) { first(*m).Fields[3].Winner = (first(*m).Fields[3].Winner + 1) % 3 },
		"wrong version":   func(m *made) { first(*m).Version++ },
		"wrong claim":     func(m *made) { first(*m).Contributions[1].Registers[2].Value = `"x"` },
		"wrong stamp":     func(m *made) { first(*m).Contributions[1].Stamps[0].Sequence++ },
	} {
		m := merged(t, spec(20), 1000)
		spoil(&m)
		if v := m.check(t); v.Right() || len(v.Examples) != 1 {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestNumber(t *testing.T) {
	g, err := workload.NewGenerator(spec(20))
	if err != nil {
		t.Fatal(err)
	}
	var f signal.Fact
	for range 12 {
		f = g.Next()
	}
	if n, err := workload.Number(f.Signal.ID); err != nil || n != 12 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := workload.Number("other:1"); err == nil {
		t.Error("an id of others has a number")
	}
}
