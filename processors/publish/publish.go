// Package publish is the station that publishes the domain events of each
// change: it gives every event its CloudEvents headers and hands it to the
// domain's event codec. It remembers up to which version an entity's events
// are out, so that reading the changes again publishes nothing again.
//
// It does not decide which events follow from a change; merge did, and wrote
// them into it.
package publish

import (
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Headers gives the headers of a public event; *codecs.EventCodec does.
type Headers interface {
	Headers(codecs.PublicEvent) map[string][]byte
}

// Station is the publish station of one domain.
type Station struct {
	headers Headers
	events  string
}

// New makes the publish station of a domain.
func New(d *definition.Domain, h Headers) *Station {
	return &Station{headers: h, events: topology.Events(d.Name)}
}

// Step publishes the events of one change; the state is what was published of
// its entity (*event.Published). Versions of an entity come in order and
// without gaps, so a version that is not higher was published before.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	c, _ := in.Value.(*event.Change)
	if c == nil || len(c.Events) == 0 {
		return processors.Effects{}, nil
	}
	if p, _ := state.(*event.Published); p != nil && c.Version <= p.Version {
		return processors.Effects{}, nil
	}
	effects := processors.Effects{State: &event.Published{Version: c.Version}, Emit: make([]processors.Emit, len(c.Events))}
	for i, ref := range c.Events {
		e := codecs.PublicEvent{Change: c, Ref: ref}
		effects.Emit[i] = processors.Emit{Stream: s.events, Key: in.Key, Value: e, Headers: s.headers.Headers(e)}
	}
	return effects, nil
}
