// Package resolve is the station that finds the entity a signal speaks of and
// makes the signal a fact. Identity is direct: see package domain/identity.
package resolve

import (
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/identity"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the resolve station of one domain. It has no state yet: direct
// identity needs none.
type Station struct {
	domain   *definition.Domain
	facts    string
	outcomes string
}

// New makes the resolve station of a domain.
func New(d *definition.Domain) *Station {
	return &Station{domain: d, facts: topology.Facts(d.Name), outcomes: topology.Outcomes(d.Name)}
}

// Step turns a signal into a fact.
func (s *Station) Step(_ any, in processors.Record) (processors.Effects, error) {
	sig, _ := in.Value.(*signal.Signal)
	if sig == nil {
		return processors.Effects{}, nil
	}
	r, ok := s.domain.Resource(sig.Resource)
	if !ok {
		return processors.Effects{}, failure.New(failure.NotFound, "resolve", "resource "+sig.Resource, "domain %s does not declare it", s.domain.Name)
	}
	id, err := identity.Direct(r.Identity, sig.Match)
	if err != nil {
		return processors.Effects{}, failure.Wrap(failure.Validation, "resolve", "signal "+sig.ID, err)
	}
	f := &signal.Fact{Entity: id, Signal: *sig}
	return processors.Effects{Emit: []processors.Emit{{Stream: s.facts, Key: f.Key(), Value: f}}}, nil
}

// Failed tells the outcome of a signal that became a dead letter.
func (s *Station) Failed(in processors.Record, err error) []processors.Emit {
	sig, _ := in.Value.(*signal.Signal)
	if sig == nil {
		return nil
	}
	o := processors.SignalOutcome(sig)
	processors.Failed(o, err)
	return []processors.Emit{{Stream: s.outcomes, Key: o.Key(), Value: o}}
}
