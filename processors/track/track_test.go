package track_test

import (
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/track"
)

// What is new is kept, and what is not leaves the state alone.
func TestStep(t *testing.T) {
	s := track.New("shop", time.Hour)
	report := &saga.Report{Key: "default/customer/C1", At: 5, Saga: saga.Saga{ID: "cmd-1", Status: saga.Rejected, Revision: 1}}
	effects, err := s.Step(nil, processors.Record{Key: "cmd-1", Value: report})
	if err != nil || effects.State == nil || effects.State.(*run.Progress).Report != report {
		t.Fatalf("%+v, %v", effects, err)
	}
	if len(effects.Emit) != 1 || effects.Emit[0].Stream != "shop.activities" || effects.Emit[0].Key != "cmd-1" || effects.Emit[0].Value.(*run.Activity).Type != "CommandRejected" {
		t.Errorf("the world is told %+v", effects.Emit)
	}
	for k, want := range map[string]string{
		"ce_specversion": "1.0", "ce_id": "cmd-1/1", "ce_source": "/shop/commands", "ce_type": "touchstone.platform.v1.CommandRejected",
		"ce_subject": "cmd-1", "content-type": "application/avro", "tenant": "default",
	} {
		if got := string(effects.Emit[0].Headers[k]); got != want {
			t.Errorf("header %s is %q, expected %q", k, got, want)
		}
	}
	for _, again := range []any{report, nil} {
		if e, err := s.Step(effects.State, processors.Record{Key: "cmd-1", Value: again}); err != nil || e.State != nil {
			t.Errorf("%T: %+v, %v", again, e, err)
		}
	}
	if due := s.Due(effects.State); due != 5+3600e6 {
		t.Errorf("forgotten at %d", due)
	}
	if e, err := s.Wake(effects.State, "cmd-1", 5+3600e6); err != nil || !e.Forget {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := s.Step(nil, processors.Record{Key: "cmd-2", Value: &saga.Report{At: 5, Saga: saga.Saga{ID: "cmd-2", Status: saga.Running, Revision: 1}}}); err != nil || s.Due(e.State) != 0 {
		t.Errorf("one that goes on is forgotten: %+v, %v", e, err)
	}
	e, err := s.Step(effects.State, processors.Record{Key: "cmd-1", Value: &run.Attempt{Saga: "cmd-1", Step: "pause", Attempt: 1, State: run.Running, At: 6}})
	if err != nil || e.State == nil || len(e.State.(*run.Progress).Runs) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
}
