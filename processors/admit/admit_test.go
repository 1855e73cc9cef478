package admit_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/admit"
)

func domain() *definition.Domain {
	return &definition.Domain{Name: "shop", Fingerprint: "f1", Resources: []*definition.Resource{{
		Name: "customer", Commands: []*definition.Command{{Name: "Suspend", Fingerprint: "f1", Input: []*definition.Parameter{
			{Name: "reason", Type: canonical.Type{Kind: canonical.KindString}, Required: true},
		}}},
	}}}
}

func suspend() *command.Command {
	return &command.Command{Tenant: "default", Principal: "desk", IdempotencyKey: "k1", Name: "Suspend", Resource: "customer", Entity: "C/1", Input: `{"reason":"fraud"}`}
}

// line is the station with its table.
type line struct {
	t       *testing.T
	station *admit.Station
	table   map[string]any
	intents []*command.Intent
	dead    []error
	reports []*saga.Report
	hops    int
}

// send does with a command what the engine would.
func (l *line) send(key string, c *command.Command) {
	l.t.Helper()
	effects, err := l.station.Step(l.table[key], processors.Record{Stream: "shop.commands", Key: key, Value: c, Time: 7})
	if err != nil {
		l.dead = append(l.dead, err)
		return
	}
	if effects.DeadLetter != nil {
		l.dead = append(l.dead, effects.DeadLetter)
	}
	if effects.State != nil {
		l.table[key] = effects.State
	}
	for _, e := range effects.Emit {
		switch e.Stream {
		case "shop.commands":
			if l.hops++; l.hops > 100 {
				l.t.Fatal("it goes round in a circle")
			}
			l.send(e.Key, e.Value.(*command.Command))
		case "shop.intents":
			i := e.Value.(*command.Intent)
			if e.Key != i.Command.Key().String() {
				l.t.Errorf("an intent about %s has the key %s", i.Command.Key(), e.Key)
			}
			l.intents = append(l.intents, i)
		case "shop.reports":
			l.reports = append(l.reports, e.Value.(*saga.Report))
			if e.Key != e.Value.(*saga.Report).Saga.ID {
				l.t.Errorf("a report has the key %s", e.Key)
			}
		default:
			l.t.Errorf("emitted to %s", e.Stream)
		}
	}
}

func newLine(t *testing.T) *line {
	return &line{t: t, station: admit.New(domain()), table: map[string]any{}}
}

// However often a command comes and whatever it is keyed by, there is one intent.
func TestCopies(t *testing.T) {
	l := newLine(t)
	for _, key := range []string{"", suspend().ID(), "default/customer/C/1", "x", suspend().ID()} {
		c := suspend()
		if key == "x" {
			c.Input = `{ "reason": "fraud" }`
		}
		l.send(key, c)
	}
	if len(l.intents) != 1 || len(l.dead) != 0 || len(l.table) != 1 {
		t.Fatalf("%d intents, %v, %d remembered", len(l.intents), l.dead, len(l.table))
	}
	i := l.intents[0]
	if i.ID != suspend().ID() || i.Plan != "f1" || i.Command.At != 7 || len(i.Values) != 1 || i.Values[0] != (canonical.Named{Name: "reason", Value: `"fraud"`}) {
		t.Errorf("%+v", i)
	}
}

// A key that is used for something else is a conflict, and changes nothing.
func TestKeyUsedTwice(t *testing.T) {
	for name, change := range map[string]func(*command.Command){
		"entity":  func(c *command.Command) { c.Entity = "C2" },
		"input":   func(c *command.Command) { c.Input = `{"reason":"fee"}` },
		"version": func(c *command.Command) { c.IfVersion = 3 },
		"invalid": func(c *command.Command) { c.Input = `{}` },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.send("", suspend())
			c := suspend()
			change(c)
			l.send("", c)
			l.send("", suspend()) // the first one still is the first one
			var f *failure.Error
			if len(l.intents) != 1 || len(l.dead) != 1 || !errors.As(l.dead[0], &f) || f.Kind != failure.Conflict || !strings.Contains(f.Error(), `"k1"`) {
				t.Errorf("%d intents, %v", len(l.intents), l.dead)
			}
		})
	}
}

// What is refused is remembered with the reason, and the same command again gets
// the same answer.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*command.Command)
		kind   failure.Kind
		want   string
	}{
		{"resource", func(c *command.Command) { c.Resource = "custmer" }, failure.NotFound, `there is no resource "custmer" in shop, expected one of customer`},
		{"command", func(c *command.Command) { c.Name = "Suspnd" }, failure.NotFound, `there is no command "Suspnd" of customer, expected one of Suspend`},
		{"input", func(c *command.Command) { c.Input = `{"reason":7,"why":1}` }, failure.Validation,
			"the input is not as declared\n/reason: found 7, expected string\n/why: found an unknown member, expected one of reason"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLine(t)
			x := suspend()
			c.change(x)
			for range 2 {
				again := *x
				l.send("", &again)
			}
			a, _ := l.table[x.ID()].(*command.Admission)
			if len(l.intents) != 0 || len(l.dead) != 0 || a == nil || a.Refusal == nil || a.Refusal.Kind != c.kind || a.Refusal.String() != c.want {
				t.Errorf("%d intents, %v, %+v", len(l.intents), l.dead, a)
			}
			if len(l.reports) != 1 || l.reports[0].Saga.Status != saga.Rejected || l.reports[0].Saga.Reason.Detail != c.want || l.reports[0].Saga.Fingerprint != a.Fingerprint {
				t.Errorf("reported: %+v", l.reports)
			}
		})
	}
}

// What is no command at all is a dead letter, and nothing is remembered of it.
func TestMalformed(t *testing.T) {
	l := newLine(t)
	c := suspend()
	c.IdempotencyKey = ""
	l.send("", c)
	var f *failure.Error
	if len(l.dead) != 1 || !errors.As(l.dead[0], &f) || f.Kind != failure.Validation || len(l.table) != 0 {
		t.Errorf("%v, %v", l.dead, l.table)
	}
	if effects, err := l.station.Step(nil, processors.Record{}); err != nil || effects.State != nil || len(effects.Emit) > 0 {
		t.Errorf("a tombstone: %+v, %v", effects, err)
	}
}
