package history_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/views/history"
)

func decode(b []byte) (*event.Change, error) {
	c := &event.Change{}
	return c, json.Unmarshal(b, c)
}

func change(id string, version int64, correlation string) *event.Change {
	return &event.Change{
		Tenant: "default", Resource: "customer", ID: id, Version: version, Journal: fmt.Sprintf("shop:0:%d", version),
		Cause:  envelope.Cause{Correlation: correlation},
		Events: []event.Ref{{ID: fmt.Sprintf("event-%s-%d", id, version), Type: "CustomerUpdated"}},
	}
}

func feed(t interface{ Fatal(...any) }, m *viewtest.Memory, c *event.Change) {
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Feed(c.Key(), b); err != nil {
		t.Fatal(err)
	}
}

func versions(cs []*event.Change) []int64 {
	out := []int64{}
	for _, c := range cs {
		out = append(out, c.Version)
	}
	return out
}

// The oracle is the list of versions fed: pages of any size, in both orders,
// give each of them once, also when the oldest have expired and when records
// are applied again.
func TestPagesGiveEveryVersionOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		view := history.New("shop", decode)
		m := viewtest.New(view, 3)
		first := rapid.Int64Range(1, 300).Draw(t, "first")
		n := rapid.Int64Range(0, 40).Draw(t, "n")
		var up, down []int64
		up, down = []int64{}, []int64{}
		for v := first; v < first+n; v++ {
			feed(t, m, change("c1", v, "x"))
			feed(t, m, change("c10", v+7, "x")) // a neighbour whose id has ours as prefix
			up, down = append(up, v), append([]int64{v}, down...)
		}
		if n > 0 {
			before := m.Contents()
			feed(t, m, change("c1", first+rapid.Int64Range(0, n-1).Draw(t, "again"), "x"))
			if d := cmp.Diff(before, m.Contents()); d != "" {
				t.Fatalf("applying a record again changed the view: %s", d)
			}
		}
		r := view.Reader(m)
		for _, oldest := range []bool{true, false} {
			q := history.Query{Key: canonical.EntityKey{Tenant: "default", Resource: "customer", ID: "c1"}, OldestFirst: oldest, Limit: rapid.IntRange(1, 9).Draw(t, "limit")}
			got := []int64{}
			for {
				page, err := r.List(q)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, versions(page.Changes)...)
				if page.Next == 0 {
					break
				}
				q.After = page.Next
			}
			want := down
			if oldest {
				want = up
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("oldest first %v: %s", oldest, d)
			}
		}
	})
}

func TestTraceFindsByJournalEventAndCorrelation(t *testing.T) {
	view := history.New("shop", decode)
	m := viewtest.New(view, 3)
	feed(t, m, change("c1", 1, "signup/4711 of a sender"))
	feed(t, m, change("c2", 1, "signup/4711 of a sender"))
	feed(t, m, change("c2", 2, "other"))
	r := view.Reader(m)
	for _, c := range []struct {
		id    string
		limit int
		want  []string
	}{
		{"signup/4711 of a sender", 9, []string{"c1 v1", "c2 v1"}},
		{"signup/4711 of a sender", 1, []string{"c1 v1"}},
		{"shop:0:1", 9, []string{"c1 v1", "c2 v1"}},
		{"event-c2-2", 9, []string{"c2 v2"}},
		{"event-c2-3", 9, nil},
	} {
		changes, err := r.Trace(c.id, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range changes {
			got = append(got, fmt.Sprintf("%s v%d", x.ID, x.Version))
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("Trace(%q, %d): %s", c.id, c.limit, d)
		}
	}
}

func TestGetAndBadLimit(t *testing.T) {
	view := history.New("shop", decode)
	m := viewtest.New(view, 3)
	feed(t, m, change("c1", 3, ""))
	r, key := view.Reader(m), canonical.EntityKey{Tenant: "default", Resource: "customer", ID: "c1"}
	if c, err := r.Get(key, 3); err != nil || c == nil || c.Version != 3 {
		t.Errorf("Get(3): got %v, %v, want version 3", c, err)
	}
	if c, err := r.Get(key, 4); err != nil || c != nil {
		t.Errorf("Get(4): got %v, %v, want none", c, err)
	}
	if _, err := r.List(history.Query{Key: key}); err == nil || failure.KindOf(err) != failure.Validation {
		t.Errorf("limit 0: got %v, want a failure of kind Validation", err)
	}
}
