package publish_test

import (
	"testing"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/publish"
)

type ids struct{}

func (ids) Headers(e codecs.PublicEvent) map[string][]byte {
	return map[string][]byte{"ce_id": []byte(e.Ref.ID)}
}

// Oracle: one record per event, under the entity's key, in the order of the
// definition; a change without events publishes nothing.
func TestStep(t *testing.T) {
	s := publish.New(&definition.Domain{Name: "test"}, ids{})
	c := &event.Change{Version: 3, Events: []event.Ref{{ID: "1", Type: "Activated"}, {ID: "2", Type: "Updated"}}}
	eff, err := s.Step(nil, processors.Record{Key: "default/customer/7", Value: c})
	if err != nil || len(eff.Emit) != 2 {
		t.Fatal(eff, err)
	}
	for i, e := range eff.Emit {
		if p := e.Value.(codecs.PublicEvent); e.Stream != "test.events.v1" || e.Key != "default/customer/7" || p.Change != c || p.Ref != c.Events[i] || string(e.Headers["ce_id"]) != p.Ref.ID {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if p := eff.State.(*event.Published); p.Version != 3 {
		t.Errorf("remembered %+v", p)
	}
	if again, err := s.Step(eff.State, processors.Record{Key: "default/customer/7", Value: c}); err != nil || len(again.Emit) != 0 || again.State != nil {
		t.Errorf("the same change again gave %+v, %v", again, err)
	}
	c.Version = 4
	if next, err := s.Step(eff.State, processors.Record{Key: "default/customer/7", Value: c}); err != nil || len(next.Emit) != 2 {
		t.Errorf("the next change gave %+v, %v", next, err)
	}
	c.Events = nil
	if eff, err := s.Step(nil, processors.Record{Value: c}); err != nil || len(eff.Emit) != 0 {
		t.Errorf("a change without events gave %+v, %v", eff, err)
	}
	if eff, err := s.Step(nil, processors.Record{}); err != nil || len(eff.Emit) != 0 {
		t.Errorf("a tombstone gave %+v, %v", eff, err)
	}
}
