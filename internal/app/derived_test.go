package app

import (
	"testing"

	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Oracle: what stations derive is rebuilt after an unclean stop; what others
// write is kept, also if it is called like something of ours.
func TestTopicsOfOthersAreNotDerived(t *testing.T) {
	d := []*definition.Domain{{Name: "sales", Sources: []*definition.Source{
		{Name: "crm", Connector: "cdc", Settings: map[string]any{"topics": []any{"crm.changes", "crm.public.customers"}}},
	}}}
	external, err := followed(d, func(string) (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	derived := derivedTopic(external)
	for topic, want := range map[string]bool{
		"sales.changes": true, "sales.merge-table": true, "sales.events.v1": true, "not-loaded.signals": true,
		"sales.journal": false, "crm.changes": false, "crm.public.customers": false, "orders": false,
	} {
		if derived(topic) != want {
			t.Errorf("%s: derived %v, expected %v", topic, !want, want)
		}
	}
}
