// Package authority merges facts into entities: whose word counts, field by
// field. It is algebra on values: no I/O, no clock, no randomness.
//
// Merging is two steps. Join takes a fact into what its source record claims
// (last-writer-wins registers; commutative, associative, idempotent: a
// state-based CRDT, Shapiro et al. 2011). Resolve computes the canonical
// fields from all claims and the definition, and nothing else. So any order,
// duplication or batching of the same facts gives the same canonical state.
package authority

import (
	"cmp"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// Result is what merging one fact did.
type Result struct {
	// Entity is the new snapshot, to be stored even if nothing canonical
	// changed: its contributions or provenance may have.
	Entity *canonical.Entity
	// Stored is false if the snapshot is what it was to the last byte, so
	// that storing it can be left out.
	Stored bool
	// Change is nil if canonical state did not change.
	Change *event.Change
	// Rejected are the lifecycle moves this fact claimed that the state
	// machine does not allow or that came too late to be considered.
	Rejected []canonical.Rejection
}

// Merge joins a fact into the entity, nil if there is none yet, and resolves
// it again. The entity passed in is changed and must not be used afterwards.
// The domain name goes into the ids of the events that follow.
func Merge(domain *definition.Domain, r *definition.Resource, e *canonical.Entity, f *signal.Fact) (Result, error) {
	if e == nil {
		e = &canonical.Entity{Tenant: strings.Clone(f.Signal.Tenant), Resource: strings.Clone(f.Signal.Resource), ID: strings.Clone(f.Entity)}
	}
	before := snapshot{exists: e.Exists, state: e.State, fields: e.Fields, version: e.Version}
	joined, rejected := Join(r, e, &f.Signal)
	if !joined && e.Definition == domain.Fingerprint {
		return Result{Entity: e, Rejected: rejected}, nil
	}
	var changed []event.FieldChange
	var err error
	if e.Definition == domain.Fingerprint && e.Exists && !f.Signal.Deleted && byName(f.Signal.Fields) {
		changed, err = resolveClaimed(r, e, f.Signal.Fields)
	} else {
		e.Definition = domain.Fingerprint
		if err = Resolve(r, e); err == nil {
			changed = changedFields(before.fields, e)
		}
	}
	if err != nil {
		return Result{}, err
	}
	for _, x := range e.Rejections {
		if x.Signal == f.Signal.ID {
			rejected = append(rejected, x)
		}
	}
	change := diff(before, changed, e, &f.Signal)
	if change != nil {
		e.Version++
		if e.Version == 1 {
			e.CreatedAt = f.Signal.ReceivedAt
		}
		e.UpdatedAt = f.Signal.ReceivedAt
		change.Version = e.Version
		for i := range change.Changed {
			if field, ok := e.Field(change.Changed[i].Name); ok {
				field.Since = e.Version
			}
		}
		if err := event.Derive(domain, r, change); err != nil {
			return Result{}, err
		}
	}
	return Result{Entity: e, Stored: true, Change: change, Rejected: rejected}, nil
}

// Join takes a signal into its source record's contribution. It tells whether
// anything was taken in, and which lifecycle moves came too late.
func Join(r *definition.Resource, e *canonical.Entity, s *signal.Signal) (joined bool, late []canonical.Rejection) {
	stamp := s.Stamp()
	stamp.Signal = strings.Clone(stamp.Signal) // see joinRegisters
	if s.ReceivedAt > e.SeenAt {
		e.SeenAt = s.ReceivedAt
		joined = true
	}
	c := contribution(e, s.Source, s.SourceKey)
	if len(c.Stamps) == 0 && c.Deleted == nil {
		joined = true // a source record that was not known before
	}
	if s.Deleted {
		if c.Deleted == nil || stamp.Compare(*c.Deleted) > 0 {
			c.Deleted = &stamp
			joined = true
		}
		return joined, nil
	}
	if joinRegisters(c, s.Fields, stamp) {
		joined = true
	}
	if r.Lifecycle != nil {
		moved, rejection := joinMove(r, e, s, stamp)
		joined = joined || moved
		if rejection != nil {
			late = append(late, *rejection)
		}
	}
	return joined, late
}

// contribution finds or inserts a source record's contribution; they are kept
// sorted by source and key.
func contribution(e *canonical.Entity, source, key string) *canonical.Contribution {
	i, found := slices.BinarySearchFunc(e.Contributions, source, func(c canonical.Contribution, s string) int {
		return cmp.Or(cmp.Compare(c.Source, s), cmp.Compare(c.SourceKey, key))
	})
	if !found {
		e.Contributions = slices.Insert(e.Contributions, i, canonical.Contribution{Source: strings.Clone(source), SourceKey: strings.Clone(key)})
		for j := range e.Fields { // winners are indexes into the list
			if int(e.Fields[j].Winner) >= i {
				e.Fields[j].Winner++
			}
		}
	}
	return &e.Contributions[i]
}

// joinRegisters lets each claim win over an older one for the same field. The
// stamps that no register refers to any more are dropped, all but the newest:
// what remains depends on the set of signals only, not on their order. A signal
// that is read again under another mapping says what it says now: so a replay
// fills in a field that the definition gained.
//
// The texts of a decoded signal share memory. What stays in the entity, perhaps
// for long, is copied out of it.
func joinRegisters(c *canonical.Contribution, claims []canonical.Named, stamp canonical.Stamp) bool {
	at, known := slices.BinarySearchFunc(c.Stamps, stamp, canonical.Stamp.Compare)
	wins := at == len(c.Stamps) // the newest
	for i := 0; i < len(claims) && !wins; i++ {
		j, found := searchRegister(c.Registers, claims[i].Name)
		if !found {
			wins = true
			break
		}
		d := c.Stamps[c.Registers[j].Stamp].Compare(stamp)
		wins = d < 0 || d == 0 && c.Registers[j].Value != claims[i].Value
	}
	if !wins {
		return false
	}
	if !known {
		c.Stamps = slices.Insert(c.Stamps, at, stamp)
		for i := range c.Registers {
			if c.Registers[i].Stamp >= int32(at) {
				c.Registers[i].Stamp++
			}
		}
	}
	for _, claim := range claims {
		i, found := searchRegister(c.Registers, claim.Name)
		switch {
		case !found:
			c.Registers = slices.Insert(c.Registers, i, canonical.Register{Name: strings.Clone(claim.Name), Value: own(claim.Value), Stamp: int32(at)})
		case c.Registers[i].Stamp <= int32(at):
			c.Registers[i].Stamp = int32(at)
			if c.Registers[i].Value != claim.Value {
				c.Registers[i].Value = own(claim.Value)
			}
		}
	}
	dropUnused(c)
	return true
}

func own(v canonical.Value) canonical.Value { return canonical.Value(strings.Clone(string(v))) }

func searchRegister(rs []canonical.Register, name string) (int, bool) {
	return slices.BinarySearchFunc(rs, name, func(r canonical.Register, n string) int { return cmp.Compare(r.Name, n) })
}

func dropUnused(c *canonical.Contribution) {
	var small [16]int32
	moved := small[:0]
	for range c.Stamps {
		moved = append(moved, -1)
	}
	for i := range c.Registers {
		moved[c.Registers[i].Stamp] = 0
	}
	moved[len(moved)-1] = 0
	kept := 0
	for i, s := range c.Stamps {
		if moved[i] < 0 {
			continue
		}
		moved[i] = int32(kept)
		c.Stamps[kept] = s
		kept++
	}
	if kept == len(c.Stamps) {
		return
	}
	c.Stamps = c.Stamps[:kept]
	for i := range c.Registers {
		c.Registers[i].Stamp = moved[c.Registers[i].Stamp]
	}
}

// Resolve computes the canonical fields, the lifecycle state and the existence
// of an entity from its contributions and the definition. Errors come from
// declared expressions only.
func Resolve(r *definition.Resource, e *canonical.Entity) error {
	e.Exists = false
	for i := range e.Contributions {
		if e.Contributions[i].Live() {
			e.Exists = true
			break
		}
	}
	moved := fold(r, e)
	if !e.Exists {
		e.Fields, e.State, e.StateSince = nil, "", 0
		return nil
	}
	previous := e.Fields
	fields := make([]canonical.Field, 0, max(len(previous), len(r.Fields)))
	x := resolver{r: r, e: e, moved: moved, leaders: groupWinners(r, e)}
	x.begin()
	old := 0 // in previous, which is sorted by name as the resource's fields are
	for _, f := range r.Fields {
		w, err := x.resolve(f)
		if err != nil {
			return err
		}
		if !w.value.Present() {
			continue
		}
		field := canonical.Field{Name: f.Name, Value: w.value, Winner: w.contribution, Confidence: w.confidence}
		for old < len(previous) && previous[old].Name != f.Name && previous[old].Name < f.Name {
			old++
		}
		if old < len(previous) && previous[old].Name == f.Name {
			field.Since = previous[old].Since
		}
		fields = append(fields, field)
	}
	e.Fields = fields
	return nil
}

// resolver decides one field after the other, in the order of their names.
type resolver struct {
	r       *definition.Resource
	e       *canonical.Entity
	moved   *canonical.Move
	leaders leaders
	at      cursors
	claims  [8]claim
	small   [8]int
}

func (x *resolver) begin() {
	x.at = append(cursors(x.small[:0]), make([]int, len(x.e.Contributions))...)
}

func (x *resolver) resolve(f *definition.Field) (winner, error) {
	switch {
	case x.r.Lifecycle != nil && f.Name == x.r.Lifecycle.Field:
		return stateWinner(x.e, x.moved), nil
	case f.Group != "":
		return x.leaders.value(x.r, x.e, f), nil
	}
	return choose(f, x.e, x.at.liveClaims(x.claims[:0], f.Name, f.Authority, f.MaxAge, x.e))
}

// byName tells whether claims are in the order in which resolveClaimed walks
// them.
func byName(claims []canonical.Named) bool {
	for i := 1; i < len(claims); i++ {
		if claims[i].Name < claims[i-1].Name {
			return false
		}
	}
	return true
}

// resolveClaimed does what Resolve does, after a signal with these claims was
// joined into an entity that exists and was resolved by the same rules before,
// and gives what changed by name. It leaves alone what cannot have changed: a
// field that nobody made a claim for just now, whose claims do not age, that
// belongs to no group and is not the lifecycle state. A fact that is no deletion
// ends nobody's claims.
func resolveClaimed(r *definition.Resource, e *canonical.Entity, claims []canonical.Named) ([]event.FieldChange, error) {
	x := resolver{r: r, e: e, moved: fold(r, e), leaders: groupWinners(r, e)}
	x.begin()
	var changed []event.FieldChange
	claim, at := 0, 0 // in claims, in e.Fields; both are sorted by name
	for _, f := range r.Fields {
		for claim < len(claims) && claims[claim].Name != f.Name && claims[claim].Name < f.Name {
			claim++
		}
		claimed := claim < len(claims) && claims[claim].Name == f.Name
		if !claimed && f.Group == "" && f.MaxAge <= 0 && f.HalfLife <= 0 && (r.Lifecycle == nil || f.Name != r.Lifecycle.Field) {
			continue
		}
		w, err := x.resolve(f)
		if err != nil {
			return nil, err
		}
		for at < len(e.Fields) && e.Fields[at].Name != f.Name && e.Fields[at].Name < f.Name {
			at++
		}
		has := at < len(e.Fields) && e.Fields[at].Name == f.Name
		switch {
		case has && !w.value.Present():
			changed = append(changed, event.FieldChange{Name: f.Name, Before: e.Fields[at].Value})
			e.Fields = slices.Delete(e.Fields, at, at+1)
		case has:
			field := &e.Fields[at]
			before := field.Value
			field.Value, field.Winner, field.Confidence = w.value, w.contribution, w.confidence
			if before != w.value {
				changed = append(changed, fieldChange(e, field, before))
			}
		case w.value.Present():
			e.Fields = slices.Insert(e.Fields, at, canonical.Field{Name: f.Name, Value: w.value, Winner: w.contribution, Confidence: w.confidence})
			changed = append(changed, fieldChange(e, &e.Fields[at], ""))
		}
	}
	return changed, nil
}

// snapshot is the canonical part of an entity before a fact.
type snapshot struct {
	exists  bool
	state   string
	fields  []canonical.Field
	version int64
}

// diff gives the change from before to e, nil if canonical state is the same.
func diff(before snapshot, changed []event.FieldChange, e *canonical.Entity, s *signal.Signal) *event.Change {
	if len(changed) == 0 && before.exists == e.Exists && before.state == e.State {
		return nil
	}
	kind := event.Updated
	switch {
	case !before.exists && e.Exists && before.version == 0:
		kind = event.Created
	case !before.exists && e.Exists:
		kind = event.Restored
	case before.exists && !e.Exists:
		kind = event.Deleted
	}
	after := make([]canonical.Named, len(e.Fields))
	for i, f := range e.Fields {
		after[i] = canonical.Named{Name: f.Name, Value: f.Value}
	}
	return &event.Change{
		Tenant: e.Tenant, Resource: e.Resource, ID: e.ID, Kind: kind,
		FromState: before.state, ToState: e.State, Changed: changed, After: after,
		Signal: s.ID, Journal: s.Journal, Source: s.Source, OccurredAt: occurred(s), ReceivedAt: s.ReceivedAt,
		Cause: s.Cause, Definition: e.Definition,
	}
}

func occurred(s *signal.Signal) envelope.Instant {
	if s.OccurredAt == 0 {
		return s.ReceivedAt
	}
	return s.OccurredAt
}

// changedFields walks both sorted lists and gives the differences by name.
func changedFields(before []canonical.Field, e *canonical.Entity) []event.FieldChange {
	var out []event.FieldChange
	after := e.Fields
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && before[i].Name < after[j].Name:
			out = append(out, event.FieldChange{Name: before[i].Name, Before: before[i].Value})
			i++
		case i == len(before) || after[j].Name < before[i].Name:
			out = append(out, fieldChange(e, &after[j], ""))
			j++
		default:
			if before[i].Value != after[j].Value {
				out = append(out, fieldChange(e, &after[j], before[i].Value))
			}
			i++
			j++
		}
	}
	return out
}

func fieldChange(e *canonical.Entity, f *canonical.Field, before canonical.Value) event.FieldChange {
	c := event.FieldChange{Name: f.Name, Before: before, After: f.Value}
	if f.Winner >= 0 {
		w := &e.Contributions[f.Winner]
		c.Source, c.SourceKey = w.Source, w.SourceKey
	}
	return c
}
