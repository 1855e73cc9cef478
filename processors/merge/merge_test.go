package merge_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/merge"
)

func station() *merge.Station {
	return merge.New(&definition.Domain{Name: "test", Fingerprint: "f", Resources: []*definition.Resource{{
		Name: "customer", Identity: []string{"number"},
		Fields: []*definition.Field{
			{Name: "email", Type: canonical.Type{Kind: canonical.KindString}, Authority: []string{"crm"}},
			{Name: "status", Type: canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"a", "b", "c"}}, Authority: []string{"crm"}},
		},
		Lifecycle: &definition.Lifecycle{Field: "status", Initial: "a", Moves: map[string][]string{"a": {"b"}, "b": {"c"}}},
		Events:    []*definition.EventRule{{Type: "Registered", When: definition.When{Created: true}}},
	}}})
}

func record(offset int64, source string, fields ...canonical.Named) processors.Record {
	id := fmt.Sprintf("test:1:%d", offset)
	f := &signal.Fact{Entity: "7", Signal: signal.Signal{
		ID: id, Journal: id, Signals: 1, Tenant: "default", Resource: "customer", Source: source, SourceKey: "1",
		OccurredAt: envelope.Instant(offset), ReceivedAt: envelope.Instant(100 + offset), Fields: fields,
	}}
	return processors.Record{Partition: 1, Offset: offset, Key: f.Key(), Value: f}
}

func named(name, value string) canonical.Named {
	return canonical.Named{Name: name, Value: canonical.String(value)}
}

// Oracle: a change is written with its outcome when canonical state changes;
// an outcome alone when it does not; nothing at all when the same fact is read
// again, which a replay does.
func TestStep(t *testing.T) {
	s := station()
	first := record(1, "crm", named("email", "a@x"))
	eff, err := s.Step(nil, first)
	if err != nil {
		t.Fatal(err)
	}
	change, outcome := eff.Emit[0].Value.(*event.Change), eff.Emit[1].Value.(*journal.Outcome)
	if eff.Emit[0].Stream != "test.changes" || eff.Emit[0].Key != "default/customer/7" || change.Version != 1 || len(change.Events) != 1 {
		t.Errorf("change %+v", eff.Emit[0])
	}
	if eff.Emit[1].Key != "test:1:1" || outcome.Disposition != journal.Changed || outcome.Entity != "7" || outcome.Version != 1 || outcome.Events[0] != change.Events[0].ID {
		t.Errorf("outcome %+v", outcome)
	}
	state := eff.State

	eff, err = s.Step(state, first)
	if err != nil || len(eff.Emit) != 0 || eff.State != nil {
		t.Errorf("the same fact again gave %+v, %v", eff, err)
	}
	eff, err = s.Step(state, record(2, "crm", named("email", "a@x")))
	if err != nil || len(eff.Emit) != 1 || eff.Emit[0].Value.(*journal.Outcome).Disposition != journal.Unchanged || eff.State == nil {
		t.Errorf("the same value again gave %+v, %v", eff, err)
	}
	eff, err = s.Step(state, record(3, "crm", named("status", "c")))
	if err != nil || len(eff.Emit) != 1 {
		t.Fatalf("an illegal move gave %+v, %v", eff, err)
	}
	if o := eff.Emit[0].Value.(*journal.Outcome); o.Disposition != journal.Unchanged || o.Reason != "rejected-move" || !strings.Contains(o.Detail, `from "a" to "c"`) {
		t.Errorf("an illegal move is told as %+v", o)
	}
}

func TestFailures(t *testing.T) {
	s := station()
	r := record(1, "crm")
	r.Value.(*signal.Fact).Signal.Resource = "order"
	if _, err := s.Step(nil, r); failure.KindOf(err) != failure.NotFound {
		t.Errorf("an undeclared resource gave %v", err)
	}
	out := s.Failed(r, failure.New(failure.Poison, "merge", "x", "broken"))
	if o := out[0].Value.(*journal.Outcome); o.Disposition != journal.DeadLetter || o.Reason != "Poison" || o.Journal != "test:1:1" {
		t.Errorf("outcome %+v", o)
	}
	if eff, err := s.Step(nil, processors.Record{}); err != nil || len(eff.Emit) != 0 {
		t.Errorf("a tombstone gave %+v, %v", eff, err)
	}
}

// Oracle: a step that stores no state has not touched the one that it was
// given, byte for byte: the engine gives the same value to the next step.
func TestAStateThatIsNotStoredIsUntouched(t *testing.T) {
	s := station()
	var state any
	untouched := 0
	for i, offset := range []int64{5, 5, 1, 5, 8, 3, 8, 3, 9, 1, 9, 12, 5, 12} {
		source := []string{"crm", "billing"}[offset%2]
		before := fmt.Sprintf("%#v", dereferenced(state))
		eff, err := s.Step(state, record(offset, source, named("email", fmt.Sprint(offset)), named("status", string(rune('a'+offset%3)))))
		if err != nil {
			t.Fatal(err)
		}
		if eff.State != nil {
			state = eff.State
			continue
		}
		untouched++
		if after := fmt.Sprintf("%#v", dereferenced(state)); after != before {
			t.Errorf("step %d stored nothing but changed\n%s\nto\n%s", i, before, after)
		}
	}
	if untouched == 0 {
		t.Error("every step stored something")
	}
}

// dereferenced gives an entity without the pointers that %#v prints as addresses.
func dereferenced(state any) []any {
	e, ok := state.(*canonical.Entity)
	if !ok {
		return nil
	}
	c := *e
	c.BaseStamp = nil
	out := []any{c, e.BaseStamp != nil}
	if e.BaseStamp != nil {
		out = append(out, *e.BaseStamp)
	}
	return out
}

// Who asks for an entity is told what it is, or that there is none, and the
// entity stays as it was.
func TestTell(t *testing.T) {
	s := station()
	eff, err := s.Step(nil, record(1, "crm", named("email", "a@x"), named("status", "b")))
	if err != nil {
		t.Fatal(err)
	}
	entity := eff.State
	for _, c := range []struct {
		state any
		want  string
	}{
		{nil, `{"resource":"customer","id":"7","version":0}`},
		{entity, `{"resource":"customer","id":"7","version":1,"state":"b","fields":[{"name":"email","value":"a@x"},{"name":"status","value":"b"}],"refs":[{"source":"crm","key":"1"}]}`},
	} {
		eff, err := s.Step(c.state, processors.Record{Key: "default/customer/7", Value: &saga.Ask{At: 5}})
		if err != nil || eff.State != nil || len(eff.Emit) != 1 || eff.Emit[0].Stream != "test.snapshots" || eff.Emit[0].Key != "default/customer/7" {
			t.Fatalf("%+v, %v", eff, err)
		}
		got, err := json.Marshal(eff.Emit[0].Value.(*saga.Snapshot).Entity)
		if err != nil || string(got) != c.want {
			t.Errorf("got %s, %v\nwant %s", got, err, c.want)
		}
	}
	if _, err := s.Step(nil, processors.Record{Key: "nonsense", Value: &saga.Ask{}}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("%v", err)
	}
}
