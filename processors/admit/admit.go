// Package admit is the station behind the commands' door: it recognises commands
// that come again, refuses what the definitions do not have, and hands the others
// on to the entity that they are about.
//
// It does not look at the entity, and does not decide when a command is carried
// out; that is orchestrate.
package admit

import (
	"slices"

	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the admit station of one domain.
type Station struct {
	domain   *definition.Domain
	commands string
	intents  string
	reports  string
	parents  []string
}

// New makes the admit station of a domain. parents are the domains whose commands
// send commands to it.
func New(d *definition.Domain, parents ...string) *Station {
	return &Station{domain: d, parents: parents, commands: topology.Commands(d.Name), intents: topology.Intents(d.Name), reports: topology.Reports(d.Name)}
}

// Step handles one command; the state is what is remembered of its id
// (*command.Admission).
//
// Whoever writes to the topic may key records as he likes. What is not keyed by
// its id is written again, keyed so, and handled then: copies of a command must
// meet in one partition.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	c, _ := in.Value.(*command.Command)
	if c == nil {
		return processors.Effects{}, nil
	}
	if err := c.Check(); err != nil {
		return processors.Effects{}, err
	}
	id := c.ID()
	if in.Key != id {
		return processors.Effects{Emit: []processors.Emit{{Stream: s.commands, Key: id, Value: c, Headers: in.Headers}}}, nil
	}
	if c.At == 0 {
		c.At = in.Time
	}
	if a, _ := state.(*command.Admission); a != nil {
		// A copy is no failure of the station; a key that was used for something
		// else is kept as a dead letter, for its sender to look at.
		return processors.Effects{DeadLetter: a.Again(c)}, nil
	}
	intent, refusal := command.Admit(s.domain, c)
	effects := processors.Effects{State: &command.Admission{Fingerprint: c.Fingerprint(), At: c.At, Refusal: refusal}}
	if refusal != nil {
		x := saga.Saga{
			ID: id, Revision: 1, Command: c.Name, Fingerprint: c.Fingerprint(), Principal: c.Principal, Cause: c.Cause, IfVersion: c.IfVersion,
			Status: saga.Rejected, Accepted: in.Time, Ended: in.Time, Reason: &saga.Reason{Kind: refusal.Kind, Detail: refusal.String()},
		}
		effects.Emit = []processors.Emit{{Stream: s.reports, Key: id, Value: &saga.Report{Key: c.Key().String(), At: in.Time, Saga: x}}}
		if p := c.Parent; p != nil && slices.Contains(s.parents, p.Domain) {
			effects.Emit = append(effects.Emit, processors.Emit{Stream: topology.Answers(p.Domain), Key: p.Key, Value: saga.AnswerTo(p, &x)})
		}
	}
	if intent != nil {
		effects.Emit = []processors.Emit{{Stream: s.intents, Key: c.Key().String(), Value: intent}}
	}
	return effects, nil
}
