// Package orchestrate is the station that carries out commands: those on one
// entity take turns, and each is a saga over back ends. It asks, and takes
// answers; package domain/saga decides.
//
// It does not call anybody. Requests are carried out by execute, approvals by
// people, and what has become true comes back as a change of the entity.
package orchestrate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
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
	domain        *definition.Domain
	plans         saga.Plans
	asks, reports string
	// children and parents are the domains that commands are sent to by steps of
	// this one, and those that send some to it.
	children, parents map[string]bool
}

var _ processors.Waker = (*Station)(nil)

// New makes the orchestrate station of a domain. plans gives the plans by which
// its sagas are carried out: those of now, and those before under which some of
// them began. children and parents are the domains that commands are sent to and
// from, as the topology has them.
func New(d *definition.Domain, plans saga.Plans, children, parents []string) *Station {
	s := &Station{domain: d, plans: plans, asks: topology.Asks(d.Name), reports: topology.Reports(d.Name), children: map[string]bool{}, parents: map[string]bool{}}
	for _, c := range children {
		s.children[c] = true
	}
	for _, p := range parents {
		s.parents[p] = true
	}
	return s
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
	return s.effects(lane, turn, in.Key, in.Time)
}

func (s *Station) submit(lane *saga.Lane, i *command.Intent, now envelope.Instant) (saga.Turn, error) {
	plan, ok := s.plans(i.Command.Name, i.Plan)
	if !ok {
		return saga.Turn{}, failure.New(failure.Transient, "carry out", i.ID, "the definition %s of command %s is not known here", i.Plan, i.Command.Name)
	}
	x := saga.New(plan, i.Plan, i.ID, i.Values, now)
	x.IfVersion, x.Principal, x.Cause, x.Fingerprint, x.Parent = i.Command.IfVersion, i.Command.Principal, i.Command.Cause, i.Command.Fingerprint(), i.Command.Parent
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
	return s.effects(lane, turn, key, now)
}

// effects are what a turn of a lane wants of the others, who are all keyed by
// the entity but for those who read reports.
func (s *Station) effects(lane *saga.Lane, turn saga.Turn, key string, now envelope.Instant) (processors.Effects, error) {
	effects := processors.Effects{State: lane}
	emit := func(stream, key string, value any) {
		effects.Emit = append(effects.Emit, processors.Emit{Stream: stream, Key: key, Value: value})
	}
	ask := false
	escalated := map[*saga.Saga]*saga.Reason{}
	var changed []*saga.Saga
	// What a call that cannot be made is answered with may want more.
	for more := []saga.Turn{turn}; len(more) > 0; more = more[1:] {
		ask = ask || more[0].Ask
		for _, x := range more[0].Changed {
			if !slices.Contains(changed, x) {
				changed = append(changed, x)
			}
		}
		for _, a := range more[0].Effects {
			switch e := a.Effect.(type) {
			case saga.Call:
				if e.Kind == definition.Approve {
					break // who approves reads the report
				}
				why := ""
				var child *command.Command
				if e.Kind == definition.Child {
					child, why = s.child(a.Saga, key, e)
				} else if _, ok := s.domain.Connection(e.Connection); !ok {
					why = fmt.Sprintf("domain %s has no connection %q any more", s.domain.Name, e.Connection)
				}
				if why != "" {
					next, err := lane.Take(a.Saga.ID, saga.Reply{Step: e.Step, Undo: e.Undo, Attempt: e.Attempt, Kind: failure.NotFound, Detail: why}, s.plans, now)
					if err != nil {
						return processors.Effects{}, err
					}
					more = append(more, next)
					break
				}
				if child != nil {
					child.At = now
					emit(topology.Commands(e.Connection), child.ID(), child)
					break
				}
				emit(topology.Calls(s.domain.Name, e.Connection), key, &saga.Request{
					Saga: a.Saga.ID, Command: a.Saga.Command, Step: e.Step, Undo: e.Undo, Attempt: e.Attempt, Last: e.Last, Uncertain: e.Uncertain, Escalates: e.Escalates, Key: e.Key, Kind: e.Kind,
					Connection: e.Connection, Operation: e.Operation, Args: e.Args, Timeout: e.Timeout, Masked: e.Masked, Cause: e.Cause,
				})
			case saga.Withdraw:
				if _, ok := s.domain.Connection(e.Connection); ok {
					emit(topology.Calls(s.domain.Name, e.Connection), key, &saga.Request{Saga: a.Saga.ID, Command: a.Saga.Command, Step: e.Step, Undo: e.Undo, Attempt: e.Attempt, Connection: e.Connection, Withdrawn: true})
				}
			case saga.Refresh:
				s.refresh(a.Saga, key, emit)
			case saga.Escalate:
				escalated[a.Saga] = &e.Reason
			}
		}
	}
	if ask {
		effects.Emit = slices.Insert(effects.Emit, 0, processors.Emit{Stream: s.asks, Key: key, Value: &saga.Ask{At: now}})
	}
	for _, x := range changed {
		report := &saga.Report{Key: key, Saga: *x, At: now, Escalated: escalated[x]}
		report.Saga.Entity.Fields = nil // those of its entity are told elsewhere
		emit(s.reports, x.ID, report)
		if p := x.Parent; p != nil && x.Status.Final() && s.parents[p.Domain] {
			emit(topology.Answers(p.Domain), p.Key, saga.AnswerTo(p, x))
		}
	}
	return effects, nil
}

// child makes the command that a step sends; why not, if it cannot be.
func (s *Station) child(x *saga.Saga, key string, e saga.Call) (c *command.Command, why string) {
	if !s.children[e.Connection] {
		return nil, fmt.Sprintf("commands of domain %q are not sent from domain %s", e.Connection, s.domain.Name)
	}
	own, err := canonical.ParseEntityKey(key)
	if err != nil {
		return nil, err.Error()
	}
	resource, name, _ := strings.Cut(e.Operation, ".")
	c = &command.Command{
		Tenant: own.Tenant, Principal: "command " + x.ID, IdempotencyKey: fmt.Sprintf("%s/%d", e.Key, e.Attempt), Name: name, Resource: resource, Cause: x.Cause,
		Parent: &command.Parent{Domain: s.domain.Name, Key: key, Saga: x.ID, Step: e.Step, Undo: e.Undo, Attempt: e.Attempt},
	}
	c.Cause.Causation = x.ID
	input := map[string]any{}
	for _, a := range e.Args {
		if a.Name == definition.ChildEntity {
			c.Entity = a.Value.Text()
			continue
		}
		input[a.Name] = a.Value.Any()
	}
	if c.Input, err = (canonical.Type{Kind: canonical.KindJSON}).Coerce(input); err != nil {
		return nil, err.Error()
	}
	if err := c.Check(); err != nil {
		return nil, err.Error()
	}
	if e.Connection == s.domain.Name && c.Key() == own {
		// It would wait for its parent, which waits for it.
		return nil, fmt.Sprintf("command %s would be about %s %s, which this one is about", name, resource, c.Entity)
	}
	return c, ""
}

// refreshStep names the calls that read an entity in its sources. It is no step
// of a plan, so that nobody waits for their answers: what was read comes by the
// journal.
const refreshStep = "refresh"

// refresh has the sources of a saga's entity read, those that can be.
func (s *Station) refresh(x *saga.Saga, key string, emit func(stream, key string, value any)) {
	for _, c := range s.domain.Connections {
		op, ok := c.Reads[x.Entity.Resource]
		i := slices.IndexFunc(x.Entity.Refs, func(r saga.Ref) bool { return r.Source == c.Source })
		if !ok || i < 0 {
			continue
		}
		step := refreshStep + "." + c.Name
		emit(topology.Calls(s.domain.Name, c.Name), key, &saga.Request{
			Saga: x.ID, Command: x.Command, Step: step, Attempt: x.Round, Last: true, Key: x.Key(step, false) + "/" + strconv.Itoa(int(x.Round)), Kind: definition.Call,
			Connection: c.Name, Operation: op, Args: []canonical.Named{{Name: "key", Value: canonical.String(x.Entity.Refs[i].Key)}}, Timeout: definition.DefaultTimeout, Cause: x.Cause,
		})
	}
}
