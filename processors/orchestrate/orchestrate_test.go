package orchestrate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/orchestrate"
)

// suspended is the condition that the entity is.
type suspended struct{}

func (suspended) Source() string { return `entity.state == "suspended"` }
func (suspended) Holds(vars map[string]any) (bool, error) {
	return vars["entity"].(map[string]any)["state"] == "suspended", nil
}

func shop(fingerprint string) *definition.Domain {
	step := func(name string, undo bool) *definition.Step {
		s := &definition.Step{Name: name, Kind: definition.Call, Connection: name, Operation: "suspend", Timeout: time.Second, Retry: definition.Retry{Attempts: 3, First: 200 * time.Millisecond}}
		if undo {
			s.Undo = &definition.Undo{Operation: "activate", Timeout: time.Second, Retry: definition.Retry{Attempts: 3, First: 200 * time.Millisecond}}
		}
		return s
	}
	return &definition.Domain{Name: "shop", Connections: []*definition.Connection{{Name: "billing"}, {Name: "crm", Source: "crm", Reads: map[string]string{"customer": "get"}}}, Resources: []*definition.Resource{{Name: "customer", Commands: []*definition.Command{{
		Name: "Suspend", Fingerprint: fingerprint, Deadline: time.Minute, Confirm: definition.Confirmation{If: suspended{}, Within: 5 * time.Second},
		Stages: [][]*definition.Step{{step("billing", true)}, {step("crm", false)}},
	}}}}}
}

// town is everybody around the station: its engine, the back ends and merge. What
// is written arrives after a while, in order per topic.
type town struct {
	t       *rapid.T
	station *orchestrate.Station
	tables  map[string][]byte // lanes as they are kept, by entity
	now     envelope.Instant
	coming  []coming
	// of the entity: its version, and what the back ends have.
	version  map[string]int64
	state    map[string]string
	done     map[string]string // effects by idempotency key
	reports  map[string]*saga.Report
	finals   map[string]int
	requests int
	// refreshed counts how often the entity was read in its sources.
	refreshed int
	outcome   func() (failure.Kind, bool) // of a call: its failure, and whether it is lost
}

type coming struct {
	at    envelope.Instant
	key   string
	value any
}

func (w *town) send(after time.Duration, key string, value any) {
	at := w.now + envelope.Instant(after.Microseconds())
	i, _ := slices.BinarySearchFunc(w.coming, at, func(c coming, at envelope.Instant) int {
		if c.at <= at {
			return -1
		}
		return 1
	})
	w.coming = slices.Insert(w.coming, i, coming{at, key, value})
}

// lane reads what is kept of an entity: each step begins with that.
func (w *town) lane(key string) any {
	b, ok := w.tables[key]
	if !ok {
		return nil
	}
	l := &saga.Lane{}
	if err := json.Unmarshal(b, l); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// perform does what a step wants.
func (w *town) perform(key string, effects processors.Effects) {
	if effects.State != nil {
		b, err := json.Marshal(effects.State)
		if err != nil {
			w.t.Fatal(err)
		}
		w.tables[key] = b
	}
	for _, e := range effects.Emit {
		switch v := e.Value.(type) {
		case *saga.Ask:
			if e.Key != key {
				w.t.Fatalf("an ask about %s has the key %s", key, e.Key)
			}
			if e.Stream == "shop.asks" {
				w.send(20*time.Millisecond, key, &saga.Snapshot{Entity: w.entity(key)})
			}
		case *saga.Request:
			if e.Stream != "shop.calls."+v.Connection {
				w.t.Fatalf("a call of %s goes to %s", v.Connection, e.Stream)
			}
			w.call(key, v)
		case *saga.Report:
			if e.Key != v.Saga.ID {
				w.t.Fatalf("a report about %s has the key %s", v.Saga.ID, e.Key)
			}
			w.reports[v.Saga.ID] = v
			if v.Saga.Status.Final() {
				w.finals[v.Saga.ID]++
			}
			if v.Escalated != nil {
				w.send(100*time.Millisecond, key, &saga.Order{Saga: v.Saga.ID, Kind: saga.OrderAbandon, By: "somebody"})
			}
		default:
			w.t.Fatalf("emitted %T to %s", e.Value, e.Stream)
		}
	}
}

func (w *town) entity(key string) saga.Entity {
	return saga.Entity{Resource: "customer", ID: strings.TrimPrefix(key, "default/customer/"), Version: w.version[key], State: w.state[key], Refs: []saga.Ref{{Source: "crm", Key: "7"}}}
}

// call is a back end: it does what it is asked for once for each key, and may
// fail, or lose the answer.
func (w *town) call(key string, r *saga.Request) {
	w.requests++
	if r.Operation == "get" {
		if r.Step != "refresh.crm" || len(r.Args) != 1 || r.Args[0].Value != `"7"` {
			w.t.Fatalf("a refresh asks %+v", r)
		}
		w.refreshed++
		w.send(30*time.Millisecond, key, &saga.Answer{Saga: r.Saga, Step: r.Step, Attempt: r.Attempt})
		return
	}
	kind, lost := w.outcome()
	if kind == "" {
		of := r.Connection + " " + r.Operation
		if was, ok := w.done[r.Key]; ok && was != of {
			w.t.Fatalf("key %s was used for %s and for %s", r.Key, was, of)
		}
		if _, ok := w.done[r.Key]; !ok {
			w.done[r.Key] = of
			if r.Connection == "crm" {
				// The CRM tells, by the journal: the entity changes.
				w.state[key] = "suspended"
				w.version[key]++
				w.send(150*time.Millisecond, key, &event.Change{Version: w.version[key]})
			}
		}
	}
	if !lost {
		w.send(30*time.Millisecond, key, &saga.Answer{Saga: r.Saga, Step: r.Step, Undo: r.Undo, Attempt: r.Attempt, Kind: kind})
	}
}

// live has everything happen in its order, until nothing is left to happen.
func (w *town) live() {
	for n := 0; ; n++ {
		if n > 20_000 {
			w.t.Fatal("no end")
		}
		// Whoever is due first: a lane, or something that arrives.
		due, at := "", envelope.Instant(0)
		for _, key := range sorted(w.tables) {
			if d := w.station.Due(w.lane(key)); d != 0 && (due == "" || d < at) {
				due, at = key, d
			}
		}
		var effects processors.Effects
		var err error
		var input *coming // nil: a wake
		key := due
		switch {
		case len(w.coming) > 0 && (due == "" || w.coming[0].at <= at):
			c := w.coming[0]
			w.coming, input = w.coming[1:], &c
			w.now, key = max(w.now, c.at), c.key
			if rapid.IntRange(0, 9).Draw(w.t, "again") == 0 {
				w.send(time.Second, c.key, c.value)
			}
			effects, err = w.station.Step(w.lane(key), processors.Record{Key: key, Value: c.value, Time: w.now})
		case due != "":
			w.now = max(w.now, at)
			if effects, err = w.station.Wake(w.lane(key), key, w.now); effects.State == nil {
				w.t.Fatal("a wake leaves the lane as it was")
			}
			if d := w.station.Due(effects.State); d != 0 && d <= w.now {
				w.t.Fatalf("due again at %d, it is %d", d, w.now)
			}
		default:
			return
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if rapid.IntRange(0, 9).Draw(w.t, "crash") == 0 {
			// The transaction is aborted: nothing of it is kept, and what it was
			// about comes again.
			if input != nil {
				w.coming = slices.Insert(w.coming, 0, *input)
			}
			continue
		}
		w.perform(key, effects)
	}
}

func sorted(m map[string][]byte) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func intent(entity, id string) *command.Intent {
	return &command.Intent{ID: id, Plan: "f1", Command: command.Command{Tenant: "default", Resource: "customer", Entity: entity, Name: "Suspend"}, Values: []canonical.Named{}}
}

// Whatever back ends do, and whatever arrives twice or not at all: each command
// comes to one end, and what was undone or confirmed is so.
func TestCommandsComeToAnEnd(t *testing.T) {
	seen := map[saga.Status]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := &town{
			t: t, station: orchestrate.New(shop("f1"), orchestrate.Plans(shop("f1")), nil, nil), tables: map[string][]byte{}, now: 1_000_000_000, version: map[string]int64{}, state: map[string]string{},
			done: map[string]string{}, reports: map[string]*saga.Report{}, finals: map[string]int{},
		}
		w.outcome = func() (failure.Kind, bool) {
			kind := rapid.SampledFrom([]failure.Kind{"", "", "", "", failure.Transient, failure.Validation}).Draw(t, "outcome")
			return kind, rapid.IntRange(0, 9).Draw(t, "lost") == 0
		}
		var ids []string
		for i := range rapid.IntRange(1, 6).Draw(t, "commands") {
			entity := rapid.SampledFrom([]string{"C1", "C2"}).Draw(t, "entity")
			w.version["default/customer/"+entity], w.state["default/customer/"+entity] = 3, "active"
			id := fmt.Sprintf("cmd-%d", i)
			ids = append(ids, id)
			w.send(time.Duration(rapid.IntRange(0, 500).Draw(t, "time"))*time.Millisecond, "default/customer/"+entity, intent(entity, id))
		}
		w.live()
		for _, id := range ids {
			r := w.reports[id]
			if r == nil {
				t.Fatalf("nothing is reported of %s", id)
			}
			if !r.Saga.Status.Final() || w.finals[id] != 1 {
				b, _ := json.MarshalIndent(r, "", " ")
				t.Fatalf("%s ended %d times: %s", id, w.finals[id], b)
			}
			_, billed := w.done[id+"/billing/do"]
			_, unbilled := w.done[id+"/billing/undo"]
			_, told := w.done[id+"/crm/do"]
			switch s := r.Saga.Status; {
			case s == saga.Completed && (!billed || !told || unbilled),
				s == saga.Failed && billed != unbilled && billed,
				len(r.Saga.Entity.Fields) > 0:
				t.Fatalf("%s is %s; billing done %v, undone %v, crm done %v", id, s, billed, unbilled, told)
			}
			seen[r.Saga.Status]++
		}
		for key := range w.tables {
			if l := w.lane(key).(*saga.Lane); !l.Idle() {
				t.Fatalf("%s is not idle: %+v", key, l)
			}
		}
	})
	t.Logf("%v", seen)
	for _, s := range []saga.Status{saga.Completed, saga.Failed} {
		if !t.Failed() && seen[s] == 0 {
			t.Errorf("no command ended as %s: the test tests too little", s)
		}
	}
}

// What is not about a command leaves no trace: most changes are of entities that
// nobody has a command for.
func TestOthersLeaveNoTrace(t *testing.T) {
	s := orchestrate.New(shop("f1"), orchestrate.Plans(shop("f1")), nil, nil)
	for _, v := range []any{nil, &event.Change{Version: 7}, &saga.Snapshot{}, &saga.Answer{Saga: "cmd-1", Step: "crm", Attempt: 1}, &saga.Order{Saga: "cmd-1", Kind: saga.OrderCancel}} {
		effects, err := s.Step(nil, processors.Record{Key: "default/customer/C1", Value: v, Time: 5})
		if err != nil || effects.State != nil || len(effects.Emit) > 0 {
			t.Errorf("%T: %+v, %v", v, effects, err)
		}
	}
}

// A connection that the definition has no more is no back end that could be
// asked: the step fails, and the saga ends.
func TestConnectionIsGone(t *testing.T) {
	d := shop("f1")
	plans := orchestrate.Plans(shop("f1"))
	d.Connections = d.Connections[1:]
	s := orchestrate.New(d, plans, nil, nil)
	key := "default/customer/C1"
	effects, err := s.Step(nil, processors.Record{Key: key, Value: intent("C1", "cmd-1"), Time: 5})
	if err != nil {
		t.Fatal(err)
	}
	entity := saga.Entity{Resource: "customer", ID: "C1", Version: 3, State: "active"}
	if effects, err = s.Step(effects.State, processors.Record{Key: key, Value: &saga.Snapshot{Entity: entity}, Time: 6}); err != nil {
		t.Fatal(err)
	}
	if len(effects.Emit) != 1 || effects.Emit[0].Value.(*saga.Report).Saga.Status != saga.Failed || !strings.Contains(effects.Emit[0].Value.(*saga.Report).Saga.Reason.Detail, `no connection "billing" any more`) {
		t.Errorf("%+v", effects.Emit)
	}
}

// A saga goes on under the definition that it began with; one that nobody here
// knows waits for somebody who does.
func TestVersionsOfDefinitions(t *testing.T) {
	i := intent("C1", "cmd-1")
	i.Plan = "older"
	for _, c := range []struct {
		station *orchestrate.Station
		ok      bool
	}{{orchestrate.New(shop("newer"), orchestrate.Plans(shop("newer"), shop("older")), nil, nil), true}, {orchestrate.New(shop("newer"), orchestrate.Plans(shop("newer")), nil, nil), false}} {
		effects, err := c.station.Step(nil, processors.Record{Key: "default/customer/C1", Value: i, Time: 5})
		var f *failure.Error
		if c.ok != (err == nil && effects.State != nil) || !c.ok && (!errors.As(err, &f) || f.Kind != failure.Transient) {
			t.Errorf("%+v, %v", effects, err)
		}
	}
}

func TestUnknownOrder(t *testing.T) {
	s := orchestrate.New(shop("f1"), orchestrate.Plans(shop("f1")), nil, nil)
	_, err := s.Step(&saga.Lane{}, processors.Record{Key: "k", Value: &saga.Order{Saga: "cmd-1", Kind: "explode"}})
	if err == nil || !strings.Contains(err.Error(), `"explode"`) {
		t.Errorf("%v", err)
	}
}
