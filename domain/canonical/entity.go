package canonical

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// EntityKey names one entity everywhere: in record keys, tables and the API.
type EntityKey struct{ Tenant, Resource, ID string }

// String is "<tenant>/<resource>/<id>"; none of the parts contains a slash.
func (k EntityKey) String() string { return k.Tenant + "/" + k.Resource + "/" + k.ID }

// ParseEntityKey reads what String writes.
func ParseEntityKey(s string) (EntityKey, error) {
	tenant, rest, ok := strings.Cut(s, "/")
	resource, id, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || tenant == "" || resource == "" || id == "" {
		return EntityKey{}, fmt.Errorf("entity key %q: expected <tenant>/<resource>/<id>", s)
	}
	return EntityKey{tenant, resource, id}, nil
}

// Stamp orders the claims of one source record. The order is lexicographic:
// OccurredAt, Sequence, ReceivedAt, Signal; it is total because a signal id
// is unique.
type Stamp struct {
	OccurredAt envelope.Instant `avro:"occurredAt"`
	Sequence   int64            `avro:"sequence"`
	ReceivedAt envelope.Instant `avro:"receivedAt"`
	Signal     string           `avro:"signal"`
}

// Compare gives -1, 0 or 1 as s is before, equal to or after t.
func (s Stamp) Compare(t Stamp) int {
	return cmp.Or(
		cmp.Compare(s.OccurredAt, t.OccurredAt),
		cmp.Compare(s.Sequence, t.Sequence),
		cmp.Compare(s.ReceivedAt, t.ReceivedAt),
		cmp.Compare(s.Signal, t.Signal),
	)
}

// Register is a last-writer-wins register: the newest claim for one field.
type Register struct {
	Name  string `avro:"name"`
	Value Value  `avro:"value"`
	// Stamp is an index into the contribution's Stamps.
	Stamp int32 `avro:"stamp"`
}

// Contribution is what one source record currently claims for an entity.
type Contribution struct {
	Source    string `avro:"source"`
	SourceKey string `avro:"sourceKey"`
	// Stamps that the registers refer to, ascending. Most source records
	// claim all their fields at once, so there are few.
	Stamps []Stamp `avro:"stamps"`
	// Registers are sorted by name.
	Registers []Register `avro:"registers"`
	// Deleted is the newest stamp at which the source said that the record
	// is gone; claims up to it no longer count. Nil if it never did.
	Deleted *Stamp `avro:"deleted"`
}

// Claim gives the live claim for a field: its value and stamp. ok is false if
// there is none, or if a deletion has ended it.
func (c *Contribution) Claim(field string) (v Value, s Stamp, ok bool) {
	i, found := slices.BinarySearchFunc(c.Registers, field, func(r Register, n string) int { return cmp.Compare(r.Name, n) })
	if !found {
		return "", Stamp{}, false
	}
	return c.LiveRegister(i)
}

// LiveRegister gives the claim of the i-th register; ok is false if a deletion
// has ended it.
func (c *Contribution) LiveRegister(i int) (v Value, s Stamp, ok bool) {
	r := &c.Registers[i]
	s = c.Stamps[r.Stamp]
	if c.Deleted != nil && s.Compare(*c.Deleted) <= 0 {
		return "", s, false
	}
	return r.Value, s, true
}

// Live tells whether any claim of the contribution still counts, or whether
// it is a record without claims that has not been deleted.
func (c *Contribution) Live() bool {
	if c.Deleted == nil {
		return true
	}
	for _, s := range c.Stamps {
		if s.Compare(*c.Deleted) > 0 {
			return true
		}
	}
	return false
}

// Move is one source's claim that the entity is in a lifecycle state.
type Move struct {
	To     string `avro:"to"`
	Source string `avro:"source"`
	Stamp  Stamp  `avro:"stamp"`
}

// Rejection is a lifecycle move that the definition does not allow.
type Rejection struct {
	From   string           `avro:"from" json:"from"`
	To     string           `avro:"to" json:"to"`
	Source string           `avro:"source" json:"source"`
	At     envelope.Instant `avro:"at" json:"at"`
	Signal string           `avro:"signal" json:"signal"`
}

// Field is one winning canonical value and who won it.
type Field struct {
	Name  string `avro:"name"`
	Value Value  `avro:"value"`
	// Winner is the index of the contribution whose claim won. For values
	// that several contributions make together (union, majority) it is the
	// most authoritative of them.
	Winner int32 `avro:"winner"`
	// Since is the entity version in which the value last changed.
	Since int64 `avro:"since"`
	// Confidence is 0..1 for weighted fields; 0 where the policy has none.
	Confidence float64 `avro:"confidence"`
}

// Entity is the canonical snapshot with everything it was made from.
type Entity struct {
	Tenant   string `avro:"tenant"`
	Resource string `avro:"resource"`
	ID       string `avro:"id"`
	// Version grows by one on each canonical change and never otherwise; the
	// first is 1.
	Version int64 `avro:"version"`
	// Exists is false while no source record of it is alive.
	Exists bool `avro:"exists"`
	// State is the lifecycle state; empty where none is declared.
	State string `avro:"state"`
	// StateSince is when, in the source's time, the state was entered.
	StateSince envelope.Instant `avro:"stateSince"`
	// Fields are the canonical values, sorted by name.
	Fields        []Field        `avro:"fields"`
	Contributions []Contribution `avro:"contributions"`
	// Moves are the lifecycle claims in stamp order; Base is the state before
	// the first of them, as of BaseStamp.
	Moves     []Move `avro:"moves"`
	Base      string `avro:"base"`
	BaseStamp *Stamp `avro:"baseStamp"`
	// Rejections are the illegal moves among Moves.
	Rejections []Rejection `avro:"rejections"`
	// CreatedAt and UpdatedAt are the received times of the facts that made
	// the first and the latest version. SeenAt is the latest received time of
	// any fact: the clock by which ages are measured.
	CreatedAt envelope.Instant `avro:"createdAt"`
	UpdatedAt envelope.Instant `avro:"updatedAt"`
	SeenAt    envelope.Instant `avro:"seenAt"`
	// Definition is the fingerprint of the definition that resolved it last.
	Definition string `avro:"definition"`
}

// Key names the entity.
func (e *Entity) Key() EntityKey { return EntityKey{e.Tenant, e.Resource, e.ID} }

// Field gives the canonical value of a field; ok is false if it has none.
func (e *Entity) Field(name string) (*Field, bool) {
	i, found := slices.BinarySearchFunc(e.Fields, name, func(f Field, n string) int { return cmp.Compare(f.Name, n) })
	if !found {
		return nil, false
	}
	return &e.Fields[i], true
}

// Provenance of one winning value: whose claim it is and where it was journaled.
type Provenance struct {
	Source     string           `json:"source"`
	SourceKey  string           `json:"sourceKey"`
	OccurredAt envelope.Instant `json:"occurredAt"`
	ReceivedAt envelope.Instant `json:"receivedAt"`
	Signal     string           `json:"signal"`
	Since      int64            `json:"sinceVersion"`
	Confidence float64          `json:"confidence,omitempty"`
}

// Provenance gives the provenance of a field; ok is false if it has no value.
func (e *Entity) Provenance(name string) (Provenance, bool) {
	f, found := e.Field(name)
	if !found || int(f.Winner) >= len(e.Contributions) || f.Winner < 0 {
		return Provenance{}, false
	}
	c := &e.Contributions[f.Winner]
	v, s, _ := c.Claim(name)
	if v != f.Value && e.State != "" && f.Value == String(e.State) {
		// The lifecycle field: the source has claimed another state since, and
		// that move was not allowed. The state rests on an earlier one.
		for i := len(e.Moves) - 1; i >= 0; i-- {
			if m := &e.Moves[i]; m.Source == c.Source && m.To == e.State {
				s = m.Stamp
				break
			}
		}
	}
	return Provenance{
		Source: c.Source, SourceKey: c.SourceKey, OccurredAt: s.OccurredAt, ReceivedAt: s.ReceivedAt,
		Signal: s.Signal, Since: f.Since, Confidence: f.Confidence,
	}, true
}
