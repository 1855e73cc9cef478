// Package merge is the station that decides whose word counts: it merges facts
// into canonical entities and writes a change only when canonical state
// changed. It is the only writer of canonical state.
//
// The decision itself is package domain/authority.
package merge

import (
	"fmt"
	"slices"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the merge station of one domain.
type Station struct {
	domain    *definition.Domain
	changes   string
	outcomes  string
	snapshots string
}

// New makes the merge station of a domain.
func New(d *definition.Domain) *Station {
	return &Station{domain: d, changes: topology.Changes(d.Name), outcomes: topology.Outcomes(d.Name), snapshots: topology.Snapshots(d.Name)}
}

// Step merges one fact into its entity (*canonical.Entity), or tells the entity
// to who carries out a command on it and asks.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	if _, asked := in.Value.(*saga.Ask); asked {
		return s.tell(state, in)
	}
	fact, _ := in.Value.(*signal.Fact)
	if fact == nil {
		return processors.Effects{}, nil
	}
	r, ok := s.domain.Resource(fact.Signal.Resource)
	if !ok {
		return processors.Effects{}, failure.New(failure.NotFound, "merge", "resource "+fact.Signal.Resource, "domain %s does not declare it", s.domain.Name)
	}
	entity, _ := state.(*canonical.Entity)
	known := entity != nil && mentions(entity, fact.Signal.Source, fact.Signal.SourceKey, fact.Signal.ID)
	res, err := authority.Merge(s.domain, r, entity, fact)
	if err != nil {
		return processors.Effects{}, err
	}
	effects := processors.Effects{Emit: make([]processors.Emit, 0, 2)}
	if res.Stored {
		effects.State = res.Entity
	}
	if res.Change != nil {
		effects.Emit = append(effects.Emit, processors.Emit{Stream: s.changes, Key: in.Key, Value: res.Change})
	}
	if known && res.Change == nil {
		// A fact that was merged before, read again by a replay: its outcome
		// was told then.
		return effects, nil
	}
	o := outcome(fact, res)
	effects.Emit = append(effects.Emit, processors.Emit{Stream: s.outcomes, Key: o.Key(), Value: o})
	return effects, nil
}

// tell answers who asks for an entity.
func (s *Station) tell(state any, in processors.Record) (processors.Effects, error) {
	key, err := canonical.ParseEntityKey(in.Key)
	if err != nil {
		return processors.Effects{}, failure.Wrap(failure.Validation, "tell entity", in.Key, err)
	}
	entity, _ := state.(*canonical.Entity)
	snapshot := &saga.Snapshot{Entity: saga.EntityOf(key, entity)}
	return processors.Effects{Emit: []processors.Emit{{Stream: s.snapshots, Key: in.Key, Value: snapshot}}}, nil
}

// mentions tells whether a source record's contribution still refers to a
// signal, which is then merged already.
func mentions(e *canonical.Entity, source, key, signalID string) bool {
	for i := range e.Contributions {
		c := &e.Contributions[i]
		if c.Source != source || c.SourceKey != key {
			continue
		}
		return c.Deleted != nil && c.Deleted.Signal == signalID ||
			slices.ContainsFunc(c.Stamps, func(t canonical.Stamp) bool { return t.Signal == signalID })
	}
	return false
}

func outcome(f *signal.Fact, res authority.Result) *journal.Outcome {
	o := processors.SignalOutcome(&f.Signal)
	o.Entity, o.Version = f.Entity, res.Entity.Version
	o.Disposition = journal.Unchanged
	if res.Change != nil {
		o.Disposition = journal.Changed
		for _, e := range res.Change.Events {
			o.Events = append(o.Events, e.ID)
		}
	}
	if len(res.Rejected) > 0 {
		x := res.Rejected[0]
		o.Reason = "rejected-move"
		o.Detail = fmt.Sprintf("lifecycle move from %q to %q is not allowed, or came too late", x.From, x.To)
	}
	return o
}

// Failed tells the outcome of a fact that became a dead letter.
func (s *Station) Failed(in processors.Record, err error) []processors.Emit {
	fact, _ := in.Value.(*signal.Fact)
	if fact == nil {
		return nil
	}
	o := processors.SignalOutcome(&fact.Signal)
	o.Entity = fact.Entity
	processors.Failed(o, err)
	return []processors.Emit{{Stream: s.outcomes, Key: o.Key(), Value: o}}
}
