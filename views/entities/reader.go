package entities

import (
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/views"
)

// Reader answers queries from the index. It is safe for concurrent use.
type Reader struct {
	index *Index
	from  views.IndexReader
}

// Reader reads the table and what the engine keeps of the index.
func (x *Index) Reader(from views.IndexReader) *Reader { return &Reader{index: x, from: from} }

// Ready tells whether the table has caught up since the start.
func (r *Reader) Ready() bool { return r.from.Ready() }

// Changed gives a channel that is closed at the next update of the table.
func (r *Reader) Changed() <-chan struct{} { return r.from.Changed() }

// Lag tells how far an entity may be behind what is committed; all of them, if
// no id is given.
func (r *Reader) Lag(tenant, resource, id string) views.Lag {
	if id == "" {
		return r.from.Lag("")
	}
	return r.from.Lag(canonical.EntityKey{Tenant: tenant, Resource: resource, ID: id}.String())
}

// Get gives an entity, one that no longer exists included; nil if it was never
// there.
func (r *Reader) Get(tenant, resource, id string) (*canonical.Entity, error) {
	return r.get(canonical.EntityKey{Tenant: tenant, Resource: resource, ID: id}.String())
}

func (r *Reader) get(key string) (*canonical.Entity, error) {
	b, err := r.from.Get(key)
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "read entity", key, err)
	}
	if b == nil {
		return nil, nil
	}
	e, err := r.index.decode(b)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read entity", key, err)
	}
	return e, nil
}

// Filter asks for entities whose field has exactly this canonical value.
type Filter struct {
	Field string
	Value canonical.Value
}

// Query asks for existing entities in ascending order of id (bytewise).
type Query struct {
	Tenant, Resource string
	// Filters that must all hold, on fields that Filters lists. The first is
	// looked up in the index, the others are checked on what it finds: put
	// the most selective first.
	Filters []Filter
	// After is the id behind which to begin; empty begins with the first.
	After string
	// Limit of entities to give, at least 1.
	Limit int
}

// Page is part of the answer to a query.
type Page struct {
	Entities []*canonical.Entity
	// Next is the After of the next page; empty if this is the last one.
	Next string
}

// Budget is how many candidates one page looks at before it gives what it has
// found, so that filters which hold for next to nothing cost a bounded time. A
// page may therefore have fewer entities than its limit although there is a
// next one.
const Budget = 5000

// List gives one page of a query.
func (r *Reader) List(q Query) (Page, error) {
	if q.Limit < 1 {
		return Page{}, failure.New(failure.Validation, "list entities", q.Resource, "limit: found %d, expected at least 1", q.Limit)
	}
	for _, f := range q.Filters {
		if !slices.Contains(r.index.indexed[q.Resource], f.Field) {
			return Page{}, failure.New(failure.Validation, "list entities", q.Resource, "filter: found %s, expected one of %s", f.Field, strings.Join(r.index.indexed[q.Resource], ", "))
		}
	}
	return r.find(q)
}

// find takes keys from the index in batches and reads their entities. An
// entity may have changed since the index was read, or share only the hash of
// the value: each is checked.
func (r *Reader) find(q Query) (Page, error) {
	prefix, term := q.Tenant+"/"+q.Resource+"/", there
	if len(q.Filters) > 0 {
		term = termOf(q.Filters[0].Field, q.Filters[0].Value)
	}
	var page Page
	from, looked := "", 0
	if q.After != "" {
		from = prefix + q.After
	}
	for {
		batch := min(q.Limit+1, Budget-looked)
		keys := make([]string, 0, batch)
		err := r.from.Lookup(term, prefix, from, func(key string) bool {
			keys = append(keys, key)
			return len(keys) < batch
		})
		if err != nil {
			return Page{}, failure.Wrap(failure.Transient, "list entities", q.Resource, err)
		}
		for _, key := range keys {
			e, err := r.get(key)
			if err != nil {
				return Page{}, err
			}
			if e != nil && e.Exists && r.matches(e, q.Filters) {
				if len(page.Entities) == q.Limit {
					page.Next = page.Entities[q.Limit-1].ID
					return page, nil
				}
				page.Entities = append(page.Entities, e)
			}
			from = key
		}
		looked += len(keys)
		switch {
		case len(keys) < batch: // the index has no more
			return page, nil
		case looked >= Budget:
			page.Next = from[len(prefix):]
			return page, nil
		}
	}
}

func (r *Reader) matches(e *canonical.Entity, filters []Filter) bool {
	for _, f := range filters {
		if r.index.value(e, f.Field) != f.Value {
			return false
		}
	}
	return true
}
