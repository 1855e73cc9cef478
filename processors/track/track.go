// Package track is the station that keeps what is told of commands: how far each
// is, its timeline, and the calls that were made for it with their failures. It
// is what is read over HTTP, and decides nothing.
package track

import (
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
)

// Station is the track station of one domain. Its state is what is told of one
// command (*run.Progress).
type Station struct{}

// New makes the track station.
func New() *Station { return &Station{} }

// Step takes in what is told of a command, or of an attempt at a call for it.
func (*Station) Step(state any, in processors.Record) (processors.Effects, error) {
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
	return processors.Effects{State: p}, nil
}
