package entities

import (
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/views"
)

// Reader answers queries from the view. It is safe for concurrent use.
type Reader struct {
	view *View
	from views.Reader
}

// Reader reads what the engine keeps of the view.
func (v *View) Reader(from views.Reader) *Reader { return &Reader{view: v, from: from} }

// Ready tells whether the view has caught up since it started.
func (r *Reader) Ready() bool { return r.from.Ready() }

// Changed gives a channel that is closed at the next update of the view.
func (r *Reader) Changed() <-chan struct{} { return r.from.Changed() }

// Get gives an entity, one that no longer exists included; nil if it was never
// there.
func (r *Reader) Get(tenant, resource, id string) (*canonical.Entity, error) {
	key := canonical.EntityKey{Tenant: tenant, Resource: resource, ID: id}.String()
	// An entity that ceases to exist, or exists again, moves between the two
	// keys. The second round finds one that moved between our two reads.
	for range 2 {
		b, err := r.from.Get(key, "e/"+key)
		if err != nil {
			return nil, failure.Wrap(failure.Transient, "read entity", key, err)
		}
		if b != nil {
			return r.entity(key, b)
		}
		if b, err = r.from.Get(key, "x/"+key); err != nil {
			return nil, failure.Wrap(failure.Transient, "read entity", key, err)
		}
		if b != nil {
			return r.decode(key, b)
		}
	}
	return nil, nil
}

func (r *Reader) entity(key string, b []byte) (*canonical.Entity, error) {
	_, b, err := split(b)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read entity", key, err)
	}
	return r.decode(key, b)
}

func (r *Reader) decode(key string, b []byte) (*canonical.Entity, error) {
	e, err := r.view.decode(b)
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
		if !slices.Contains(r.view.indexed[q.Resource], f.Field) {
			return Page{}, failure.New(failure.Validation, "list entities", q.Resource, "filter: found %s, expected one of %s", f.Field, strings.Join(r.view.indexed[q.Resource], ", "))
		}
	}
	if len(q.Filters) == 0 {
		return r.all(q)
	}
	return r.filtered(q)
}

// all lists without filters: the entities' own keys are in order.
func (r *Reader) all(q Query) (Page, error) {
	prefix := "e/" + q.Tenant + "/" + q.Resource + "/"
	var page Page
	var failed error
	err := r.from.Scan(prefix, after(prefix, q.After), func(key string, value []byte) bool {
		if len(page.Entities) == q.Limit {
			page.Next = page.Entities[q.Limit-1].ID
			return false
		}
		e, err := r.entity(key[2:], value)
		if err != nil {
			failed = err
			return false
		}
		page.Entities = append(page.Entities, e)
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return Page{}, failure.Wrap(failure.KindOf(err), "list entities", q.Resource, err)
	}
	return page, nil
}

// filtered takes ids from the index in batches and reads their entities. An
// entity may have changed since the index was read, or share only the hash of
// the value: each is checked.
func (r *Reader) filtered(q Query) (Page, error) {
	prefix := indexPrefix(q.Tenant, q.Resource, termOf(q.Filters[0].Field, q.Filters[0].Value))
	var page Page
	from, looked := q.After, 0
	for {
		batch := min(q.Limit+1, Budget-looked)
		ids := make([]string, 0, batch)
		err := r.from.Scan(prefix, after(prefix, from), func(key string, _ []byte) bool {
			ids = append(ids, idOf(key))
			return len(ids) < batch
		})
		if err != nil {
			return Page{}, failure.Wrap(failure.Transient, "list entities", q.Resource, err)
		}
		for _, id := range ids {
			e, err := r.Get(q.Tenant, q.Resource, id)
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
			from = id
		}
		looked += len(ids)
		switch {
		case len(ids) < batch: // the index has no more
			return page, nil
		case looked >= Budget:
			page.Next = from
			return page, nil
		}
	}
}

func (r *Reader) matches(e *canonical.Entity, filters []Filter) bool {
	for _, f := range filters {
		if r.view.value(e, f.Field) != f.Value {
			return false
		}
	}
	return true
}

func after(prefix, id string) string {
	if id == "" {
		return ""
	}
	return prefix + id
}
