// Package signal holds one source's normalised claim about one of its own
// records, and the fact that it becomes once the entity is known.
package signal

import (
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Signal is one source's normalised claim about one of its own records.
type Signal struct {
	// ID is the journal id of the entry, with "#<index>" if the entry gave
	// more than one signal.
	ID string `avro:"id"`
	// Journal is the journal id of the entry it came from; Index its place
	// among that entry's Signals.
	Journal string `avro:"journal"`
	Index   int32  `avro:"index"`
	Signals int32  `avro:"signals"`
	Tenant  string `avro:"tenant"`
	// Source and SourceKey name the source's own record; Resource the kind
	// of entity it speaks of.
	Source    string `avro:"source"`
	SourceKey string `avro:"sourceKey"`
	Resource  string `avro:"resource"`
	// Match holds the values of the identity fields, in the order in which the
	// resource declares them.
	Match []canonical.Value `avro:"match"`
	// Fields are the claims, sorted by name. An absent field is not a claim;
	// the value null is.
	Fields []canonical.Named `avro:"fields"`
	// Deleted says that the source no longer has this record.
	Deleted bool `avro:"deleted"`
	// OccurredAt is when the source says it happened; Sequence orders claims
	// of equal OccurredAt within one source record (a log position, a version).
	OccurredAt envelope.Instant `avro:"occurredAt"`
	Sequence   int64            `avro:"sequence"`
	ReceivedAt envelope.Instant `avro:"receivedAt"`
	// Mapping names the rule of the definition that made this signal.
	Mapping string         `avro:"mapping"`
	Cause   envelope.Cause `avro:"cause"`
}

// Key is the record key of a signal: everything one source says of one of
// its records is kept in order.
func (s *Signal) Key() string {
	return s.Tenant + "/" + s.Source + "/" + s.Resource + "/" + s.SourceKey
}

// Stamp gives the stamp of the signal's claims.
func (s *Signal) Stamp() canonical.Stamp {
	return canonical.Stamp{OccurredAt: s.OccurredAt, Sequence: s.Sequence, ReceivedAt: s.ReceivedAt, Signal: s.ID}
}

// Fact is a signal after identity resolution.
type Fact struct {
	// Entity is the canonical entity id within Tenant and Resource.
	Entity string `avro:"entity"`
	Signal Signal `avro:"signal"`
}

// Key is the record key of a fact: the entity key.
func (f *Fact) Key() string {
	return canonical.EntityKey{Tenant: f.Signal.Tenant, Resource: f.Signal.Resource, ID: f.Entity}.String()
}
