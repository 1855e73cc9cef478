package resolve_test

import (
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/resolve"
)

func TestStep(t *testing.T) {
	s := resolve.New(&definition.Domain{Name: "test", Resources: []*definition.Resource{{Name: "leg", Identity: []string{"flight", "day"}}}})
	sig := &signal.Signal{ID: "test:0:1#2", Journal: "test:0:1", Index: 2, Signals: 3, Tenant: "default", Resource: "leg", Match: []canonical.Value{`"AA 7"`, `"2011-12-01"`}}
	eff, err := s.Step(nil, processors.Record{Value: sig})
	if err != nil || len(eff.Emit) != 1 || eff.State != nil {
		t.Fatal(eff, err)
	}
	if e := eff.Emit[0]; e.Stream != "test.facts" || e.Key != "default/leg/AA=207~2011-12-01" || e.Value.(*signal.Fact).Entity != "AA=207~2011-12-01" {
		t.Errorf("fact %+v", e)
	}
	sig.Match[1] = canonical.Null
	_, err = s.Step(nil, processors.Record{Value: sig})
	if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), "identity field day") {
		t.Errorf("a null key gave %v", err)
	}
	out := s.Failed(processors.Record{Value: sig}, err)
	if o := out[0].Value.(*journal.Outcome); out[0].Key != "test:0:1#2" || o.Disposition != journal.DeadLetter || o.Signals != 3 {
		t.Errorf("outcome %+v", out[0])
	}
	sig.Resource = "gate"
	if _, err := s.Step(nil, processors.Record{Value: sig}); failure.KindOf(err) != failure.NotFound {
		t.Errorf("an undeclared resource gave %v", err)
	}
}
