// Package entities is the read model of canonical entities: each by its id,
// and lists by equality of declared filter fields in the order of ids.
//
// It keeps what merge wrote and decides nothing about it.
//
// The store of one partition holds
//
//	e/<tenant>/<resource>/<id>         an entity that exists: its index terms, then its bytes
//	x/<tenant>/<resource>/<id>         an entity that existed once: its bytes, no terms
//	i/<tenant>/<resource>/<term>/<id>  that the entity has the field value that term stands for
//
// A term is a hash of a field's name and value. Terms are kept in front of the
// entity's bytes, so that replacing an entity removes its stale index entries
// without decoding the old one. Hashes may collide: every query checks the
// values of what the index finds.
package entities

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// Decode reads an entity as the merge table holds it.
type Decode func([]byte) (*canonical.Entity, error)

// View follows the merge table of one domain.
type View struct {
	domain string
	decode Decode
	// indexed gives the filterable fields of each resource, sorted.
	indexed map[string][]string
	// lifecycle gives the lifecycle field of each resource that has one.
	lifecycle map[string]string
}

var _ views.View = (*View)(nil)

// New makes the view of a domain's entities.
func New(d *definition.Domain, decode Decode) *View {
	v := &View{domain: d.Name, decode: decode, indexed: map[string][]string{}, lifecycle: map[string]string{}}
	for _, r := range d.Resources {
		v.indexed[r.Name] = Filters(r)
		if r.Lifecycle != nil {
			v.lifecycle[r.Name] = r.Lifecycle.Field
		}
	}
	return v
}

// Filters lists the fields of a resource that lists can be filtered by, sorted:
// those declared so, and the lifecycle field.
func Filters(r *definition.Resource) []string {
	var names []string
	for _, f := range r.Fields {
		if f.Filter || r.Lifecycle != nil && r.Lifecycle.Field == f.Name {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Name is "<domain>.entities".
func (v *View) Name() string { return v.domain + ".entities" }

// Topic is the changelog of the domain's merge table.
func (v *View) Topic() string { return topology.TableName(v.domain, topology.Merge) }

// Layout identifies what the stored index covers. A store that was written
// under another layout has to be rebuilt from the topic.
func (v *View) Layout() string {
	h := sha256.New()
	for _, r := range slices.Sorted(func(yield func(string) bool) {
		for r := range v.indexed {
			if !yield(r) {
				return
			}
		}
	}) {
		fmt.Fprintf(h, "%s %q %q\n", r, v.indexed[r], v.lifecycle[r])
	}
	return "entities1-" + hex.EncodeToString(h.Sum(nil)[:6])
}

// Apply takes in one entity, or its tombstone.
func (v *View) Apply(s views.Store, r views.Record) error {
	key, err := canonical.ParseEntityKey(r.Key)
	if err != nil {
		return fmt.Errorf("%s: partition %d offset %d: %w", v.Topic(), r.Partition, r.Offset, err)
	}
	old, err := s.Get("e/" + r.Key)
	if err != nil {
		return err
	}
	oldTerms, _, err := split(old)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Key, err)
	}
	var e *canonical.Entity
	if r.Value != nil {
		if e, err = v.decode(r.Value); err != nil {
			return fmt.Errorf("%s: partition %d offset %d: entity %s: %w", v.Topic(), r.Partition, r.Offset, r.Key, err)
		}
	}
	var terms []term
	if e != nil && e.Exists {
		terms = v.terms(e)
	}
	for _, t := range oldTerms {
		if !slices.Contains(terms, t) {
			if err := s.Delete(indexKey(key, t)); err != nil {
				return err
			}
		}
	}
	for _, t := range terms {
		if !slices.Contains(oldTerms, t) {
			if err := s.Set(indexKey(key, t), []byte{1}); err != nil {
				return err
			}
		}
	}
	switch {
	case e == nil:
		if err := s.Delete("e/" + r.Key); err != nil {
			return err
		}
		return s.Delete("x/" + r.Key)
	case !e.Exists:
		if old != nil {
			if err := s.Delete("e/" + r.Key); err != nil {
				return err
			}
		}
		return s.Set("x/"+r.Key, r.Value)
	}
	if old == nil {
		if err := s.Delete("x/" + r.Key); err != nil {
			return err
		}
	}
	return s.Set("e/"+r.Key, join(terms, r.Value))
}

// term stands for one field having one value.
type term [8]byte

func termOf(field string, value canonical.Value) term {
	sum := sha256.Sum256([]byte(field + "\x00" + string(value)))
	return term(sum[:8])
}

// terms of an entity, sorted and distinct.
func (v *View) terms(e *canonical.Entity) []term {
	fields := v.indexed[e.Resource]
	if len(fields) == 0 {
		return nil
	}
	terms := make([]term, 0, len(fields))
	for _, f := range fields {
		if value := v.value(e, f); value.Present() {
			terms = append(terms, termOf(f, value))
		}
	}
	slices.SortFunc(terms, func(a, b term) int { return cmp.Compare(string(a[:]), string(b[:])) })
	return slices.Compact(terms)
}

// value of a field as filters compare it; absent if it has none.
func (v *View) value(e *canonical.Entity, field string) canonical.Value {
	if f, ok := e.Field(field); ok {
		return f.Value
	}
	if v.lifecycle[e.Resource] == field && e.State != "" {
		return canonical.String(e.State)
	}
	return ""
}

func indexPrefix(tenant, resource string, t term) string {
	return "i/" + tenant + "/" + resource + "/" + hex.EncodeToString(t[:]) + "/"
}

func indexKey(k canonical.EntityKey, t term) string {
	return indexPrefix(k.Tenant, k.Resource, t) + k.ID
}

// join puts the number of terms and the terms before an entity's bytes.
func join(terms []term, entity []byte) []byte {
	b := make([]byte, 0, 2+len(terms)*len(term{})+len(entity))
	b = binary.AppendUvarint(b, uint64(len(terms)))
	for _, t := range terms {
		b = append(b, t[:]...)
	}
	return append(b, entity...)
}

// split is the inverse of join; nil gives nothing.
func split(b []byte) ([]term, []byte, error) {
	if b == nil {
		return nil, nil, nil
	}
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size)/uint64(len(term{})) {
		return nil, nil, fmt.Errorf("stored entity of %d bytes: expected a number of index terms and the terms first", len(b))
	}
	b = b[size:]
	terms := make([]term, n)
	for i := range terms {
		terms[i], b = term(b[:8]), b[8:]
	}
	return terms, b, nil
}

// idOf gives what stands behind the last slash of a key.
func idOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }
