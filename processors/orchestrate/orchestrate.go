// Package orchestrate is the station that carries out commands: those on one
// entity take turns, and each is a saga over back ends. It asks, and takes
// answers; package domain/saga decides.
//
// It does not call anybody. Requests are carried out by execute, approvals by
// people, and what has become true comes back as a change of the entity.
package orchestrate

import (
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the orchestrate station of one domain. Its state is a lane for each
// entity (*saga.Lane).
type Station struct {
	domain                   string
	plans                    saga.Plans
	asks, reports, refreshes string
}

var _ processors.Waker = (*Station)(nil)

// New makes the orchestrate station of a domain. plans gives the plans by which
// its sagas are carried out: those of now, and those before under which some of
// them began.
func New(domain string, plans saga.Plans) *Station {
	return &Station{domain: domain, plans: plans, asks: topology.Asks(domain), reports: topology.Reports(domain), refreshes: topology.Refreshes(domain)}
}

// Plans gives the plans of definitions.
func Plans(versions ...*definition.Domain) saga.Plans {
	known := map[string]*definition.Command{}
	for _, d := range versions {
		for _, c := range d.Commands() {
			known[c.Fingerprint] = c
		}
	}
	return func(command, fingerprint string) (*definition.Command, bool) {
		c, ok := known[fingerprint]
		return c, ok && c.Name == command
	}
}

// Step gives one record to the lane of its entity.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	lane, _ := state.(*saga.Lane)
	if lane == nil {
		lane = &saga.Lane{}
	}
	var turn saga.Turn
	var err error
	switch v := in.Value.(type) {
	case *command.Intent:
		turn, err = s.submit(lane, v, in.Time)
	case *saga.Snapshot:
		turn, err = lane.Answered(v.Entity, s.plans, in.Time)
	case *event.Change:
		turn = lane.Moved(v.Version, in.Time)
	case *saga.Answer:
		turn, err = lane.Take(v.Saga, v.Reply(), s.plans, in.Time)
	case *saga.Order:
		input, ok := v.Input()
		if !ok {
			return processors.Effects{}, failure.New(failure.Validation, "order for", v.Saga, "found the kind %q, expected cancel, retry, abandon, approve or refuse", v.Kind)
		}
		turn, err = lane.Take(v.Saga, input, s.plans, in.Time)
	}
	if err != nil {
		return processors.Effects{}, err
	}
	if state == nil && lane.Idle() && len(turn.Changed) == 0 {
		return processors.Effects{}, nil // it was not about a command
	}
	return s.effects(lane, turn, in.Key, in.Time), nil
}

func (s *Station) submit(lane *saga.Lane, i *command.Intent, now envelope.Instant) (saga.Turn, error) {
	plan, ok := s.plans(i.Command.Name, i.Plan)
	if !ok {
		return saga.Turn{}, failure.New(failure.Transient, "carry out", i.ID, "the definition %s of command %s is not known here", i.Plan, i.Command.Name)
	}
	x := saga.New(plan, i.Plan, i.ID, i.Values, now)
	x.IfVersion, x.Principal, x.Cause, x.Fingerprint = i.Command.IfVersion, i.Command.Principal, i.Command.Cause, i.Command.Fingerprint()
	return lane.Submit(x, s.plans, now)
}

// Due is part of processors.Waker.
func (s *Station) Due(state any) envelope.Instant { return state.(*saga.Lane).Due() }

// Wake is part of processors.Waker.
func (s *Station) Wake(state any, key string, now envelope.Instant) (processors.Effects, error) {
	lane := state.(*saga.Lane)
	turn, err := lane.Wake(s.plans, now)
	if err != nil {
		return processors.Effects{}, err
	}
	return s.effects(lane, turn, key, now), nil
}

// effects are what a turn of a lane wants of the others, who are all keyed by
// the entity but for those who read reports.
func (s *Station) effects(lane *saga.Lane, turn saga.Turn, key string, now envelope.Instant) processors.Effects {
	effects := processors.Effects{State: lane}
	emit := func(stream, key string, value any) {
		effects.Emit = append(effects.Emit, processors.Emit{Stream: stream, Key: key, Value: value})
	}
	if turn.Ask {
		emit(s.asks, key, &saga.Ask{At: now})
	}
	escalated := map[*saga.Saga]*saga.Reason{}
	for _, a := range turn.Effects {
		r := &saga.Request{Saga: a.Saga.ID, Command: a.Saga.Command}
		switch e := a.Effect.(type) {
		case saga.Call:
			r.Step, r.Undo, r.Attempt, r.Key, r.Kind = e.Step, e.Undo, e.Attempt, e.Key, e.Kind
			r.Connection, r.Operation, r.Args, r.Timeout, r.Last = e.Connection, e.Operation, e.Args, e.Timeout, e.Last
			r.Escalates, r.Masked, r.Cause = e.Escalates, e.Masked, e.Cause
			if e.Kind == definition.Call { // who approves reads the report
				emit(topology.Calls(s.domain, e.Connection), key, r)
			}
		case saga.Withdraw:
			if e.Connection != "" {
				r.Step, r.Attempt, r.Connection, r.Withdrawn = e.Step, e.Attempt, e.Connection, true
				emit(topology.Calls(s.domain, e.Connection), key, r)
			}
		case saga.Refresh:
			emit(s.refreshes, key, &saga.Ask{At: now})
		case saga.Escalate:
			escalated[a.Saga] = &e.Reason
		}
	}
	for _, x := range turn.Changed {
		report := &saga.Report{Key: key, Saga: *x, At: now, Escalated: escalated[x]}
		report.Saga.Entity.Fields = nil // those of its entity are told elsewhere
		emit(s.reports, x.ID, report)
	}
	return effects
}
