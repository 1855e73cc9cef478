// Package entities is the read model of canonical entities: each by its id,
// and lists by equality of declared filter fields in the order of ids.
//
// It keeps no copy of what merge wrote: it is an index over the merge table,
// and decides nothing about what is in there. An entity that exists has one
// term for being there and one for each filter field that has a value; one that
// existed once has none and is found by its id alone.
package entities

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// Decode reads an entity as the merge table holds it.
type Decode func([]byte) (*canonical.Entity, error)

// Index is over the merge table of one domain.
type Index struct {
	domain string
	decode Decode
	// indexed gives the filterable fields of each resource, sorted.
	indexed map[string][]string
	// lifecycle gives the lifecycle field of each resource that has one.
	lifecycle map[string]string
}

var _ views.Index = (*Index)(nil)

// New makes the index of a domain's entities.
func New(d *definition.Domain, decode Decode) *Index {
	x := &Index{domain: d.Name, decode: decode, indexed: map[string][]string{}, lifecycle: map[string]string{}}
	for _, r := range d.Resources {
		x.indexed[r.Name] = Filters(r)
		if r.Lifecycle != nil {
			x.lifecycle[r.Name] = r.Lifecycle.Field
		}
	}
	return x
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
func (x *Index) Name() string { return x.domain + ".entities" }

// Topic is the changelog of the domain's merge table.
func (x *Index) Topic() string { return topology.TableName(x.domain, topology.Merge) }

// Layout identifies what the index covers.
func (x *Index) Layout() string {
	h := sha256.New()
	for _, r := range slices.Sorted(maps.Keys(x.indexed)) {
		fmt.Fprintf(h, "%s %q %q\n", r, x.indexed[r], x.lifecycle[r])
	}
	return "entities2-" + hex.EncodeToString(h.Sum(nil)[:6])
}

// Decode reads an entity.
func (x *Index) Decode(value []byte) (any, error) { return x.decode(value) }

// there is the term of every entity that exists. No field has an empty name.
var there = views.TermOf("")

func termOf(field string, value canonical.Value) views.Term {
	return views.TermOf(field, string(value))
}

// Terms of an entity.
func (x *Index) Terms(_ string, value any) (views.Terms, error) {
	e, ok := value.(*canonical.Entity)
	if !ok {
		return nil, fmt.Errorf("terms of %T: expected an entity", value)
	}
	if !e.Exists {
		return nil, nil
	}
	fields := x.indexed[e.Resource]
	terms := make([]views.Term, 1, len(fields)+1)
	terms[0] = there
	for _, f := range fields {
		if v := x.value(e, f); v.Present() {
			terms = append(terms, termOf(f, v))
		}
	}
	return views.NewTerms(terms), nil
}

// value of a field as filters compare it; absent if it has none.
func (x *Index) value(e *canonical.Entity, field string) canonical.Value {
	if f, ok := e.Field(field); ok {
		return f.Value
	}
	if x.lifecycle[e.Resource] == field && e.State != "" {
		return canonical.String(e.State)
	}
	return ""
}
