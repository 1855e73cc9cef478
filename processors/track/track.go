// Package track is the station that keeps what is told of commands: how far each
// is, its timeline, and the calls that were made for it with their failures. It
// is what is read over HTTP, and decides nothing. What is new to the world it
// tells there.
package track

import (
	"time"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the track station of one domain. Its state is what is told of one
// command (*run.Progress).
type Station struct {
	keep               time.Duration
	domain, activities string
}

var _ processors.Waker = (*Station)(nil)

// New makes the track station of a domain. What is told of a command is forgotten so long
// after its end; zero keeps it for ever.
func New(domain string, keep time.Duration) *Station {
	return &Station{keep: keep, domain: domain, activities: topology.Activities(domain)}
}

// Step takes in what is told of a command, or of an attempt at a call for it.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	p, _ := state.(*run.Progress)
	if p == nil {
		p = &run.Progress{}
	}
	var events []run.Activity
	changed := false
	switch v := in.Value.(type) {
	case *saga.Report:
		events, changed = p.Reported(v)
	case *run.Attempt:
		events, changed = p.Attempted(v)
	}
	if !changed {
		return processors.Effects{}, nil
	}
	// What nobody but a late attempt speaks of any more has ended, too.
	if s.keep > 0 && (p.Report == nil || p.Report.Saga.Status.Final()) {
		p.Forget = p.Last + envelope.Instant(s.keep.Microseconds())
	}
	effects := processors.Effects{State: p}
	for i := range events {
		e := &events[i]
		effects.Emit = append(effects.Emit, processors.Emit{Stream: s.activities, Key: in.Key, Value: e, Headers: codecs.ActivityHeaders(s.domain, e)})
	}
	return effects, nil
}

// Due is part of processors.Waker.
func (*Station) Due(state any) envelope.Instant { return state.(*run.Progress).Forget }

// Wake forgets a command.
func (*Station) Wake(any, string, envelope.Instant) (processors.Effects, error) {
	return processors.Effects{Forget: true}, nil
}
