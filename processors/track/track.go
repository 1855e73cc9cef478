// Package track is the station that keeps what is told of commands: how far each
// is, its timeline, and the calls that were made for it with their failures. It
// is what is read over HTTP, and decides nothing.
package track

import (
	"time"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
)

// Station is the track station of one domain. Its state is what is told of one
// command (*run.Progress).
type Station struct{ keep time.Duration }

var _ processors.Waker = (*Station)(nil)

// New makes the track station. What is told of a command is forgotten so long
// after its end; zero keeps it for ever.
func New(keep time.Duration) *Station { return &Station{keep} }

// Step takes in what is told of a command, or of an attempt at a call for it.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	p, _ := state.(*run.Progress)
	if p == nil {
		p = &run.Progress{}
	}
	changed := false
	switch v := in.Value.(type) {
	case *saga.Report:
		changed = p.Reported(v)
	case *run.Attempt:
		changed = p.Attempted(v)
	}
	if !changed {
		return processors.Effects{}, nil
	}
	// What nobody but a late attempt speaks of any more has ended, too.
	if s.keep > 0 && (p.Report == nil || p.Report.Saga.Status.Final()) {
		p.Forget = p.Last + envelope.Instant(s.keep.Microseconds())
	}
	return processors.Effects{State: p}, nil
}

// Due is part of processors.Waker.
func (*Station) Due(state any) envelope.Instant { return state.(*run.Progress).Forget }

// Wake forgets a command.
func (*Station) Wake(any, string, envelope.Instant) (processors.Effects, error) {
	return processors.Effects{Forget: true}, nil
}
