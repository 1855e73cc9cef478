// Package event holds the change, the one step of canonical state that is
// also the outbox record, and derives the public domain events from it.
package event

import (
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// ChangeKind says what a change did to the entity as a whole.
type ChangeKind string

// The kinds of change.
const (
	Created  ChangeKind = "created"
	Updated  ChangeKind = "updated"
	Deleted  ChangeKind = "deleted"
	Restored ChangeKind = "restored" // it was deleted and is there again
)

// FieldChange is one field before and after, and whose claim won.
type FieldChange struct {
	Name string `avro:"name" json:"name"`
	// Before and After are empty where the field had or has no value.
	Before canonical.Value `avro:"before" json:"before,omitempty"`
	After  canonical.Value `avro:"after" json:"after,omitempty"`
	// Source and SourceKey of the claim that won; empty where none did.
	Source    string `avro:"source" json:"source,omitempty"`
	SourceKey string `avro:"sourceKey" json:"sourceKey,omitempty"`
}

// Ref names one domain event that a change gives rise to.
type Ref struct {
	ID   string `avro:"id" json:"id"`
	Type string `avro:"type" json:"type"`
}

// Change is one step of canonical state.
type Change struct {
	Tenant   string     `avro:"tenant" json:"tenant"`
	Resource string     `avro:"resource" json:"resource"`
	ID       string     `avro:"id" json:"id"`
	Version  int64      `avro:"version" json:"version"`
	Kind     ChangeKind `avro:"kind" json:"kind"`
	// FromState and ToState are the lifecycle state before and after.
	FromState string        `avro:"fromState" json:"fromState,omitempty"`
	ToState   string        `avro:"toState" json:"toState,omitempty"`
	Changed   []FieldChange `avro:"changed" json:"changed"`
	// After is the whole canonical state after the change, sorted by name.
	After []canonical.Named `avro:"after" json:"after"`
	// Events that follow from the change, in the order of the definition.
	Events []Ref `avro:"events" json:"events"`
	// Signal and Source name the fact that caused it; OccurredAt and
	// ReceivedAt are that fact's.
	Signal     string           `avro:"signal" json:"signal"`
	Journal    string           `avro:"journal" json:"journal"`
	Source     string           `avro:"source" json:"source"`
	OccurredAt envelope.Instant `avro:"occurredAt" json:"occurredAt"`
	ReceivedAt envelope.Instant `avro:"receivedAt" json:"receivedAt"`
	Cause      envelope.Cause   `avro:"cause" json:"cause"`
	// Definition is the fingerprint of the definition it was derived under.
	Definition string `avro:"definition" json:"definition"`
}

// Key is the record key of a change: the entity key.
func (c *Change) Key() string {
	return canonical.EntityKey{Tenant: c.Tenant, Resource: c.Resource, ID: c.ID}.String()
}

// Published is what the publish station remembers of an entity, so that
// reading its changes again publishes nothing again.
type Published struct {
	// Version is the highest one whose events were published.
	Version int64 `avro:"version"`
}
