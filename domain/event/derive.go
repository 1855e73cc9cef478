package event

import (
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Derive sets the events that follow from a change under the resource's rules.
func Derive(d *definition.Domain, r *definition.Resource, c *Change) error {
	c.Events = nil
	var vars map[string]any
	for _, rule := range r.Events {
		if !applies(&rule.When, c) {
			continue
		}
		if rule.When.If != nil {
			if vars == nil {
				vars = variables(c)
			}
			ok, err := rule.When.If.Holds(vars)
			if err != nil {
				return failure.Wrap(failure.Validation, "derive event", rule.Type, err)
			}
			if !ok {
				continue
			}
		}
		c.Events = append(c.Events, Ref{ID: ID(d.Name, c.Key(), c.Version, rule.Type), Type: rule.Type})
	}
	return nil
}

// applies checks every part of a rule that needs no expression. Conditions on
// changed fields are about entities that were there before and still are: the
// first appearance and the end have conditions of their own.
func applies(w *definition.When, c *Change) bool {
	if w.Created || w.Deleted || w.Restored {
		if !(w.Created && c.Kind == Created || w.Deleted && c.Kind == Deleted || w.Restored && c.Kind == Restored) {
			return false
		}
	}
	if len(w.Enters) > 0 && (c.FromState == c.ToState || !slices.Contains(w.Enters, c.ToState)) {
		return false
	}
	if len(w.Leaves) > 0 && (c.FromState == c.ToState || !slices.Contains(w.Leaves, c.FromState)) {
		return false
	}
	if w.AnyChange && c.Kind != Updated {
		return false
	}
	if len(w.Changes) > 0 && (c.Kind != Updated || !slices.ContainsFunc(c.Changed, func(f FieldChange) bool { return slices.Contains(w.Changes, f.Name) })) {
		return false
	}
	return true
}

// variables are what a rule's condition sees.
func variables(c *Change) map[string]any {
	before, after := make(map[string]any, len(c.After)), make(map[string]any, len(c.After))
	for _, n := range c.After {
		v := n.Value.Any()
		before[n.Name], after[n.Name] = v, v
	}
	changed := make([]any, len(c.Changed))
	for i, f := range c.Changed {
		changed[i] = f.Name
		if f.Before.Present() {
			before[f.Name] = f.Before.Any()
		} else {
			delete(before, f.Name)
		}
	}
	return map[string]any{
		"before": before, "after": after, "changed": changed,
		"entity": map[string]any{"resource": c.Resource, "id": c.ID, "version": c.Version, "state": c.ToState},
	}
}

// namespace of event ids: a random constant that must never change.
var namespace = [16]byte{0x9a, 0x5c, 0x1f, 0x0e, 0x6d, 0x0b, 0x5e, 0x6b, 0x8f, 0x10, 0x2b, 0x61, 0x7d, 0x3e, 0x44, 0xc7}

// ID gives the id of an event: a version 5 UUID (RFC 9562 §5.5) of the domain,
// the entity key, the version and the event type. The same change has the same
// id whenever and wherever it is derived.
func ID(domain, entityKey string, version int64, eventType string) string {
	h := sha1.New()
	h.Write(namespace[:])
	h.Write([]byte(domain + "\n" + entityKey + "\n" + strconv.FormatInt(version, 10) + "\n" + eventType))
	var u [20]byte
	h.Sum(u[:0])
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[:8], u[:4])
	s[8] = '-'
	hex.Encode(s[9:13], u[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], u[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], u[8:10])
	s[23] = '-'
	hex.Encode(s[24:], u[10:16])
	return string(s[:])
}

// Field gives a field of the state after the change.
func (c *Change) Field(name string) (canonical.Value, bool) {
	for i := range c.After {
		if c.After[i].Name == name {
			return c.After[i].Value, true
		}
	}
	return "", false
}
