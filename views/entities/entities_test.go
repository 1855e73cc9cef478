package entities_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/views/entities"
)

var shop = &definition.Domain{
	Name: "shop",
	Resources: []*definition.Resource{
		{
			Name: "customer",
			Fields: []*definition.Field{
				{Name: "city", Filter: true},
				{Name: "email"},
				{Name: "status"},
				{Name: "tier", Filter: true},
			},
			Lifecycle: &definition.Lifecycle{Field: "status", Initial: "prospect"},
		},
		{Name: "order", Fields: []*definition.Field{{Name: "total"}}},
	},
}

func decode(b []byte) (*canonical.Entity, error) {
	e := &canonical.Entity{}
	return e, json.Unmarshal(b, e)
}

func encode(e *canonical.Entity) []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return b
}

func entity(id, city, tier, state string, exists bool) *canonical.Entity {
	e := &canonical.Entity{Tenant: "default", Resource: "customer", ID: id, Version: 1, Exists: exists, State: state}
	for _, f := range []struct{ name, value string }{{"city", city}, {"tier", tier}} {
		if f.value != "" {
			e.Fields = append(e.Fields, canonical.Field{Name: f.name, Value: canonical.String(f.value)})
		}
	}
	return e
}

func ids(es []*canonical.Entity) []string {
	out := []string{}
	for _, e := range es {
		out = append(out, e.ID)
	}
	return out
}

// The oracle is a map of the latest value of each key: the view, fed any
// sequence of puts, re-puts, ends and tombstones, holds exactly what a fresh
// view holds after the latest values alone, and answers every query as the map
// would.
func TestIndexEqualsRecomputation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		view := entities.New(shop, decode)
		memory, latest := viewtest.NewTable(view, 3), map[string]*canonical.Entity{}
		city := rapid.SampledFrom([]string{"", "Bonn", "Köln", "a/b"})
		tier := rapid.SampledFrom([]string{"", "gold", "iron"})
		state := rapid.SampledFrom([]string{"prospect", "active"})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprintf("c%d", rapid.IntRange(0, 7).Draw(t, "id"))
			e := entity(id, city.Draw(t, "city"), tier.Draw(t, "tier"), state.Draw(t, "state"), rapid.IntRange(0, 4).Draw(t, "exists") > 0)
			key := e.Key().String()
			value := encode(e)
			if rapid.IntRange(0, 9).Draw(t, "tombstone") == 0 {
				e, value = nil, nil
			}
			for range rapid.IntRange(1, 2).Draw(t, "times") {
				if err := memory.Feed(key, value); err != nil {
					t.Fatal(err)
				}
			}
			if e == nil {
				delete(latest, key)
			} else {
				latest[key] = e
			}
		}
		fresh := viewtest.NewTable(view, 3)
		for k, e := range latest {
			if err := fresh.Feed(k, encode(e)); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(fresh.Contents(), memory.Contents()); d != "" {
			t.Fatalf("recomputed (-) and kept (+) differ:\n%s", d)
		}
		reader := view.Reader(memory)
		q := entities.Query{Tenant: "default", Resource: "customer", Limit: rapid.IntRange(1, 5).Draw(t, "limit")}
		for _, f := range []struct {
			name   string
			values []string
		}{{"city", []string{"Bonn", "a/b"}}, {"tier", []string{"gold"}}, {"status", []string{"active"}}} {
			if rapid.Bool().Draw(t, "by "+f.name) {
				q.Filters = append(q.Filters, entities.Filter{Field: f.name, Value: canonical.String(rapid.SampledFrom(f.values).Draw(t, f.name))})
			}
		}
		want := []string{}
		for _, k := range slices.Sorted(maps.Keys(latest)) {
			e, holds := latest[k], true
			for _, f := range q.Filters {
				v := canonical.String(e.State)
				if f.Field != "status" {
					v = ""
					if got, ok := e.Field(f.Field); ok {
						v = got.Value
					}
				}
				holds = holds && v == f.Value
			}
			if e.Exists && holds {
				want = append(want, e.ID)
			}
		}
		got := []string{}
		for {
			page, err := reader.List(q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ids(page.Entities)...)
			if page.Next == "" {
				break
			}
			q.After = page.Next
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("query %+v: wanted (-) and got (+) differ:\n%s", q, d)
		}
		for i := range 8 {
			id := fmt.Sprintf("c%d", i)
			e, err := reader.Get("default", "customer", id)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(latest["default/customer/"+id], e); d != "" {
				t.Fatalf("Get(%s): %s", id, d)
			}
		}
	})
}

func TestTenantsAndResourcesAreApart(t *testing.T) {
	view := entities.New(shop, decode)
	m := viewtest.NewTable(view, 2)
	for _, tenant := range []string{"default", "default2"} {
		e := entity("c1", "Bonn", "", "active", true)
		e.Tenant = tenant
		if err := m.Feed(e.Key().String(), encode(e)); err != nil {
			t.Fatal(err)
		}
	}
	r := view.Reader(m)
	for _, q := range []entities.Query{
		{Tenant: "default", Resource: "customer", Limit: 9},
		{Tenant: "default", Resource: "customer", Limit: 9, Filters: []entities.Filter{{Field: "city", Value: `"Bonn"`}}},
	} {
		page, err := r.List(q)
		if err != nil || len(page.Entities) != 1 || page.Entities[0].Tenant != "default" {
			t.Errorf("List(%+v): got %v, %v, want one of tenant default", q, page, err)
		}
	}
	if e, err := r.Get("other", "customer", "c1"); e != nil || err != nil {
		t.Errorf("Get of another tenant: got %v, %v, want none", e, err)
	}
}

// A filter that holds for nearly nothing among many candidates ends its page
// at the budget with a cursor, and the pages together are complete.
func TestBudgetBoundsAPage(t *testing.T) {
	view := entities.New(shop, decode)
	m := viewtest.NewTable(view, 1)
	n := entities.Budget + 10
	for i := range n {
		tier := "iron"
		if i == n-1 {
			tier = "gold"
		}
		e := entity(fmt.Sprintf("c%06d", i), "Bonn", tier, "active", true)
		if err := m.Feed(e.Key().String(), encode(e)); err != nil {
			t.Fatal(err)
		}
	}
	q := entities.Query{Tenant: "default", Resource: "customer", Limit: 5000, Filters: []entities.Filter{{Field: "city", Value: `"Bonn"`}, {Field: "tier", Value: `"gold"`}}}
	r := view.Reader(m)
	page, err := r.List(q)
	if err != nil || len(page.Entities) != 0 || page.Next != fmt.Sprintf("c%06d", entities.Budget-1) {
		t.Fatalf("first page: got %d entities, next %q, %v; want none and a cursor at the budget", len(page.Entities), page.Next, err)
	}
	q.After = page.Next
	page, err = r.List(q)
	if err != nil || len(page.Entities) != 1 || page.Next != "" {
		t.Fatalf("second page: got %d entities, next %q, %v; want the one and no cursor", len(page.Entities), page.Next, err)
	}
}

func TestWrongQueriesAreValidationFailures(t *testing.T) {
	view := entities.New(shop, decode)
	r := view.Reader(viewtest.NewTable(view, 1))
	for _, q := range []entities.Query{
		{Tenant: "default", Resource: "customer"},
		{Tenant: "default", Resource: "customer", Limit: 1, Filters: []entities.Filter{{Field: "email", Value: `"x"`}}},
	} {
		if _, err := r.List(q); failure.KindOf(err) != failure.Validation || err == nil {
			t.Errorf("List(%+v): got %v, want a failure of kind Validation", q, err)
		}
	}
}

// A value that cannot be decoded is not found by any term, and a read of it
// says which entity it is.
func TestUnreadableEntityIsNamed(t *testing.T) {
	broken := errors.New("broken bytes")
	view := entities.New(shop, func([]byte) (*canonical.Entity, error) { return nil, broken })
	m := viewtest.NewTable(view, 1)
	if err := m.Feed("default/customer/c1", []byte("?")); !errors.Is(err, broken) {
		t.Errorf("got %v, want the cause", err)
	}
	r := view.Reader(m)
	if _, err := r.Get("default", "customer", "c1"); !errors.Is(err, broken) || !strings.Contains(err.Error(), "default/customer/c1") {
		t.Errorf("got %v, want the entity and the cause", err)
	}
	page, err := r.List(entities.Query{Tenant: "default", Resource: "customer", Limit: 9})
	if err != nil || len(page.Entities) != 0 {
		t.Errorf("got %v, %v, want an empty list", page, err)
	}
}

func TestLayoutFollowsTheIndexedFields(t *testing.T) {
	same := entities.New(shop, decode).Layout()
	other := *shop.Resources[1]
	other.Fields = []*definition.Field{{Name: "total", Filter: true}}
	changed := &definition.Domain{Name: "shop", Resources: []*definition.Resource{shop.Resources[0], &other}}
	if same != entities.New(shop, decode).Layout() {
		t.Error("the layout of equal definitions differs")
	}
	if same == entities.New(changed, decode).Layout() {
		t.Error("the layout is the same although another field is indexed")
	}
}
