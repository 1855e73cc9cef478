package outcomes_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

func decode(b []byte) (*journal.Outcome, error) {
	o := &journal.Outcome{}
	return o, json.Unmarshal(b, o)
}

func feed(t interface{ Fatal(...any) }, m *viewtest.Memory, o *journal.Outcome) {
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Feed(o.Key(), b); err != nil {
		t.Fatal(err)
	}
}

const id = "shop:1:42"

func entry(d journal.Disposition, signals int32) *journal.Outcome {
	return &journal.Outcome{Journal: id, Index: -1, Signals: signals, Disposition: d, Source: "crm", Correlation: id}
}

func part(i int32, d journal.Disposition, reason string) *journal.Outcome {
	return &journal.Outcome{Journal: id, Index: i, Signals: 3, Disposition: d, Reason: reason, Resource: "customer", Correlation: id}
}

func TestStatusCombinesTheEntryWithItsSignals(t *testing.T) {
	one := entry(journal.Changed, 1)
	one.Resource = "customer"
	for _, c := range []struct {
		name     string
		fed      []*journal.Outcome
		want     journal.Disposition
		final    bool
		signals  int
		expected int32
		reason   string
	}{
		{name: "a single signal speaks for the entry", fed: []*journal.Outcome{one}, want: journal.Changed, final: true, signals: 1, expected: 1},
		{name: "a duplicate is final at once", fed: []*journal.Outcome{entry(journal.Duplicate, 0)}, want: journal.Duplicate, final: true},
		{name: "nothing known of the signals yet", fed: []*journal.Outcome{entry(journal.Accepted, 3)}, want: journal.Accepted, expected: 3},
		{name: "some signals", fed: []*journal.Outcome{entry(journal.Accepted, 3), part(0, journal.Changed, ""), part(2, journal.Unchanged, "")}, want: journal.Accepted, signals: 2, expected: 3},
		{name: "one changed something", fed: []*journal.Outcome{entry(journal.Accepted, 3), part(0, journal.Unchanged, ""), part(1, journal.Changed, ""), part(2, journal.Unchanged, "")}, want: journal.Changed, final: true, signals: 3, expected: 3},
		{name: "none changed anything, told before the entry", fed: []*journal.Outcome{part(0, journal.Unchanged, ""), part(1, journal.Unchanged, ""), part(2, journal.Unchanged, ""), entry(journal.Accepted, 3)}, want: journal.Unchanged, final: true, signals: 3, expected: 3},
		{name: "one failed", fed: []*journal.Outcome{entry(journal.Accepted, 3), part(0, journal.Changed, ""), part(1, journal.DeadLetter, "Validation"), part(2, journal.Changed, "")}, want: journal.DeadLetter, final: true, signals: 3, expected: 3, reason: "Validation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			view := outcomes.New("shop", decode)
			m := viewtest.New(view, 4)
			for _, o := range c.fed {
				feed(t, m, o)
			}
			s, ok, err := view.Reader(m).Status(id)
			if err != nil || !ok {
				t.Fatalf("Status: %v, %v", ok, err)
			}
			if s.Disposition != c.want || s.Final != c.final || len(s.Signals) != c.signals || s.Expected != c.expected || s.Reason != c.reason {
				t.Errorf("got %+v, want %+v", s, c)
			}
		})
	}
}

func TestUnknownHasNoStatus(t *testing.T) {
	view := outcomes.New("shop", decode)
	m := viewtest.New(view, 2)
	feed(t, m, part(0, journal.Changed, "")) // a signal's alone does not say how many there are
	if s, ok, err := view.Reader(m).Status(id); ok || err != nil {
		t.Errorf("got %+v, %v, %v, want nothing", s, ok, err)
	}
}

// The oracle is the map of the latest outcome of each key.
func TestIndexEqualsRecomputation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		view := outcomes.New("shop", decode)
		m, latest := viewtest.New(view, 3), map[string]*journal.Outcome{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			o := &journal.Outcome{
				Journal: fmt.Sprintf("shop:0:%d", rapid.IntRange(0, 12).Draw(t, "offset")), Index: int32(rapid.IntRange(-1, 2).Draw(t, "index")),
				Disposition: journal.Changed,
			}
			o.Correlation = rapid.SampledFrom([]string{o.Journal, "a", "b/c"}).Draw(t, "correlation")
			if rapid.IntRange(0, 9).Draw(t, "tombstone") == 0 {
				if err := m.Feed(o.Key(), nil); err != nil {
					t.Fatal(err)
				}
				delete(latest, o.Key())
				continue
			}
			feed(t, m, o)
			if was := latest[o.Key()]; was == nil || was.Disposition != journal.Changed || o.Disposition != journal.Unchanged {
				latest[o.Key()] = o
			}
		}
		fresh, want := viewtest.New(view, 3), map[string]bool{}
		for _, o := range latest {
			feed(t, fresh, o)
			if o.Correlation == "b/c" {
				want[o.Journal] = true
			}
		}
		if d := cmp.Diff(fresh.Contents(), m.Contents()); d != "" {
			t.Fatalf("recomputed (-) and kept (+) differ:\n%s", d)
		}
		got, err := view.Reader(m).ByCorrelation("b/c", 100)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(want)), got); d != "" {
			t.Fatalf("by correlation: %s", d)
		}
	})
}

func TestTheJournalIDIsItsOwnCorrelation(t *testing.T) {
	view := outcomes.New("shop", decode)
	m := viewtest.New(view, 3)
	feed(t, m, entry(journal.Ignored, 0))
	got, err := view.Reader(m).ByCorrelation(id, 10)
	if err != nil || !slices.Equal(got, []string{id}) {
		t.Errorf("got %v, %v, want %s", got, err, id)
	}
}

// A replay ends as "no change" for what was merged before; what the delivery
// did stays told. A redriven dead letter does get its new outcome.
func TestAReplayDoesNotRewriteHistory(t *testing.T) {
	view := outcomes.New("shop", decode)
	for _, tc := range []struct{ first, then, want journal.Disposition }{
		{journal.Changed, journal.Unchanged, journal.Changed},
		{journal.DeadLetter, journal.Unchanged, journal.Unchanged},
		{journal.DeadLetter, journal.Changed, journal.Changed},
	} {
		m := viewtest.New(view, 3)
		feed(t, m, entry(tc.first, 1))
		feed(t, m, entry(tc.then, 1))
		s, ok, err := view.Reader(m).Status(id)
		if err != nil || !ok || s.Disposition != tc.want {
			t.Errorf("%s, then %s: %v %v %v, want %s", tc.first, tc.then, s.Disposition, ok, err, tc.want)
		}
	}
}
