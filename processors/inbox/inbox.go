// Package inbox is the first station behind the journal: it drops duplicates
// and normalises each delivery into signals.
//
// It does not decide which entity a signal speaks of; that is resolve.
package inbox

import (
	"fmt"
	"math"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/topology"
)

// Station is the inbox of one domain.
type Station struct {
	domain     *definition.Domain
	connectors map[string]connectors.Connector
	signals    string
	outcomes   string
}

// New makes the inbox of a domain. cs gives the connector of every source.
func New(d *definition.Domain, cs map[string]connectors.Connector) *Station {
	return &Station{domain: d, connectors: cs, signals: topology.Signals(d.Name), outcomes: topology.Outcomes(d.Name)}
}

// Step handles one journal entry; the state is what the dedupe table remembers
// of its key (*journal.Seen).
//
// The table remembers the offset of the first copy. Reading that offset again
// (a replay, a rebuild) passes as it did the first time, so that a replay can
// repair what is behind; any other offset with the key is a copy.
func (s *Station) Step(state any, in processors.Record) (processors.Effects, error) {
	entry, _ := in.Value.(*journal.Entry)
	if entry == nil {
		return processors.Effects{}, nil
	}
	id := s.id(in)
	seen, _ := state.(*journal.Seen)
	if seen != nil && seen.Offset != in.Offset {
		return s.again(seen, entry, in, id)
	}
	if entry.Quarantine != "" {
		return processors.Effects{}, failure.New(failure.Validation, "take in", entry.Source, "%s", entry.Quarantine)
	}
	signals, err := s.normalise(entry, id)
	if err != nil {
		return processors.Effects{}, err
	}
	effects := processors.Effects{Emit: make([]processors.Emit, 0, len(signals)+1)}
	if seen == nil {
		effects.State = &journal.Seen{At: entry.ReceivedAt, Offset: in.Offset, BodyHash: entry.BodyHash, Last: in.Offset}
	}
	for _, sig := range signals {
		effects.Emit = append(effects.Emit, processors.Emit{Stream: s.signals, Key: sig.Key(), Value: sig})
	}
	// One signal needs no outcome here: merge tells what became of it.
	if len(signals) != 1 {
		o := s.outcome(entry, in, id)
		o.Signals, o.Disposition = int32(len(signals)), journal.Accepted
		if len(signals) == 0 {
			o.Disposition, o.Reason = journal.Ignored, "no-rule"
			o.Detail = fmt.Sprintf("no mapping rule of source %s applies to it", entry.Source)
		}
		effects.Emit = append(effects.Emit, s.emit(o))
	}
	return effects, nil
}

// again handles a further copy of a delivery: a duplicate, or a conflict if it
// says something else under the same vendor event id.
func (s *Station) again(seen *journal.Seen, entry *journal.Entry, in processors.Record, id string) (processors.Effects, error) {
	first := journal.ID{Domain: s.domain.Name, Partition: in.Partition, Offset: seen.Offset}.String()
	conflict := seen.BodyHash != entry.BodyHash
	effects := processors.Effects{}
	if in.Offset > seen.Last {
		seen.Last = in.Offset
		if conflict {
			seen.Conflicts++
		} else {
			seen.Duplicates++
		}
		effects.State = seen
	}
	o := s.outcome(entry, in, id)
	o.First = first
	if !conflict {
		o.Disposition = journal.Duplicate
		o.Detail = "a copy of " + first
		effects.Emit = []processors.Emit{s.emit(o)}
		return effects, nil
	}
	o.Disposition, o.Reason = journal.Conflicting, string(failure.Conflict)
	o.Detail = fmt.Sprintf("vendor event id %q was used before by %s with another body", entry.VendorID, first)
	effects.Emit = []processors.Emit{s.emit(o)}
	// Kept and flagged: the table counts it and its dead letter can be
	// looked at and redriven; it is no failure of the station.
	effects.DeadLetter = failure.New(failure.Conflict, "deduplicate", entry.Source, "%s", o.Detail)
	return effects, nil
}

// Failed tells the outcome of an entry that became a dead letter.
func (s *Station) Failed(in processors.Record, err error) []processors.Emit {
	entry, _ := in.Value.(*journal.Entry)
	if entry == nil {
		entry = &journal.Entry{Tenant: envelope.DefaultTenant}
	}
	o := s.outcome(entry, in, s.id(in))
	processors.Failed(o, err)
	return []processors.Emit{s.emit(o)}
}

func (s *Station) id(in processors.Record) string {
	return journal.ID{Domain: s.domain.Name, Partition: in.Partition, Offset: in.Offset}.String()
}

func (s *Station) outcome(entry *journal.Entry, in processors.Record, id string) *journal.Outcome {
	return &journal.Outcome{
		Journal: id, Index: -1, Source: entry.Source, Tenant: entry.Tenant,
		Correlation: correlation(entry, id), At: entry.ReceivedAt,
	}
}

func (s *Station) emit(o *journal.Outcome) processors.Emit {
	return processors.Emit{Stream: s.outcomes, Key: o.Key(), Value: o}
}

// correlation of an entry: what the sender gave, else the journal id itself.
func correlation(entry *journal.Entry, id string) string {
	if entry.Cause.Correlation != "" {
		return entry.Cause.Correlation
	}
	return id
}

// entryVariables are what mapping expressions see of the entry itself.
func entryVariables(e *journal.Entry) map[string]any {
	headers := make(map[string]any, len(e.Headers))
	for k, v := range e.Headers {
		headers[k] = v
	}
	return map[string]any{"source": e.Source, "tenant": e.Tenant, "receivedAt": e.ReceivedAt.Time(), "headers": headers}
}

// instant reads what an occurredAt expression may give.
func instant(v any) (envelope.Instant, error) {
	switch t := v.(type) {
	case nil:
		return 0, nil
	case time.Time:
		return envelope.At(t), nil
	case int64:
		return epoch(t), nil
	case uint64:
		return epoch(int64(min(t, math.MaxInt64))), nil
	case float64:
		if math.Abs(t) < 1e11 { // seconds with a fraction
			return envelope.Instant(math.Round(t * 1e6)), nil
		}
		return epoch(int64(t)), nil
	case string:
		p, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			return 0, fmt.Errorf("expected a timestamp, an RFC 3339 string or a number since 1970, found string %q", t)
		}
		return envelope.At(p), nil
	}
	return 0, fmt.Errorf("expected a timestamp, an RFC 3339 string or a number since 1970, found %T", v)
}

// epoch reads a number since 1970 in the unit that its size suggests: seconds
// below 10^11 (until the year 5138), milliseconds below 10^14, microseconds
// below 10^17, nanoseconds above.
func epoch(n int64) envelope.Instant {
	abs := max(n, -max(n, -math.MaxInt64))
	switch {
	case abs < 1e11:
		return envelope.Instant(n * 1e6)
	case abs < 1e14:
		return envelope.Instant(n * 1e3)
	case abs < 1e17:
		return envelope.Instant(n)
	}
	return envelope.Instant(n / 1e3)
}
