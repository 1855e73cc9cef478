package event_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
)

type grew struct{}

func (grew) Holds(v map[string]any) (bool, error) {
	before, _ := v["before"].(map[string]any)["score"].(int64)
	after, _ := v["after"].(map[string]any)["score"].(int64)
	return after > before && slices.Contains(v["changed"].([]any), any("score")), nil
}
func (grew) Source() string { return "after.score > before.score" }

func TestDerive(t *testing.T) {
	d := &definition.Domain{Name: "customer-management"}
	r := &definition.Resource{Name: "customer", Events: []*definition.EventRule{
		{Type: "Registered", When: definition.When{Created: true}},
		{Type: "Removed", When: definition.When{Deleted: true}},
		{Type: "Activated", When: definition.When{Enters: []string{"active"}}},
		{Type: "Left", When: definition.When{Leaves: []string{"active"}}},
		{Type: "EmailChanged", When: definition.When{Changes: []string{"email"}}},
		{Type: "ScoreGrew", When: definition.When{Changes: []string{"score"}, If: grew{}}},
		{Type: "Updated", When: definition.When{AnyChange: true}},
	}}
	email := event.FieldChange{Name: "email", Before: `"a"`, After: `"b"`}
	score := func(before, after canonical.Value) event.FieldChange {
		return event.FieldChange{Name: "score", Before: before, After: after}
	}
	for _, tc := range []struct {
		name   string
		change event.Change
		want   []string
	}{
		{"creation is no update", event.Change{Kind: event.Created, Changed: []event.FieldChange{email}}, []string{"Registered"}},
		{"created in a state enters it", event.Change{Kind: event.Created, ToState: "active"}, []string{"Registered", "Activated"}},
		{"a move", event.Change{Kind: event.Updated, FromState: "prospect", ToState: "active"}, []string{"Activated", "Updated"}},
		{"staying is no move", event.Change{Kind: event.Updated, FromState: "active", ToState: "active", Changed: []event.FieldChange{email}}, []string{"EmailChanged", "Updated"}},
		{"leaving", event.Change{Kind: event.Updated, FromState: "active", ToState: "closed"}, []string{"Left", "Updated"}},
		{"the end", event.Change{Kind: event.Deleted, FromState: "active", Changed: []event.FieldChange{email}}, []string{"Removed", "Left"}},
		{"a condition that holds", event.Change{Kind: event.Updated, Changed: []event.FieldChange{score("1", "2")}, After: []canonical.Named{{Name: "score", Value: "2"}}}, []string{"ScoreGrew", "Updated"}},
		{"a condition that does not", event.Change{Kind: event.Updated, Changed: []event.FieldChange{score("2", "1")}, After: []canonical.Named{{Name: "score", Value: "1"}}}, []string{"Updated"}},
		{"from nothing", event.Change{Kind: event.Updated, Changed: []event.FieldChange{score("", "1")}, After: []canonical.Named{{Name: "score", Value: "1"}}}, []string{"ScoreGrew", "Updated"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := event.Derive(d, r, &tc.change); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range tc.change.Events {
				got = append(got, e.Type)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("events %v, want %v", got, tc.want)
			}
		})
	}
}

// The id of an event is part of the contract with its consumers: it must never
// change for the same change.
func TestIDIsStable(t *testing.T) {
	id := event.ID("customer-management", "default/customer/C-1001", 7, "CustomerActivated")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("%s is no version 5 UUID", id)
	}
	if want := "fbff1176-12c2-53fb-8fc4-978a93a10734"; id != want {
		t.Errorf("id %s, want %s", id, want)
	}
	for _, other := range []string{
		event.ID("other", "default/customer/C-1001", 7, "CustomerActivated"),
		event.ID("customer-management", "default/customer/C-1002", 7, "CustomerActivated"),
		event.ID("customer-management", "default/customer/C-1001", 8, "CustomerActivated"),
		event.ID("customer-management", "default/customer/C-1001", 7, "CustomerUpdated"),
	} {
		if other == id {
			t.Errorf("two events with one id %s", id)
		}
	}
}
