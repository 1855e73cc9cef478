// Package history is the read model of canonical changes: the versions of an
// entity, and the changes that belong to a journal entry, an event or a
// correlation id.
//
// It reaches back as far as the changes topic did when the view was built.
//
// The store of one partition holds
//
//	h/<entity key>/<version>          the change; the version is inverted and
//	                                  big-endian in hexadecimal: newest first
//	t/<hash>/<entity key>/<version>   that the change has the id that was
//	                                  hashed: its journal, correlation or event id
package history

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// Decode reads a change as the changes topic holds it.
type Decode func([]byte) (*event.Change, error)

// View follows the changes of one domain.
type View struct {
	domain string
	decode Decode
}

var _ views.View = (*View)(nil)

// New makes the view of a domain's changes.
func New(domain string, decode Decode) *View { return &View{domain: domain, decode: decode} }

// Name is "<domain>.history".
func (v *View) Name() string { return v.domain + ".history" }

// Topic is the domain's changes.
func (v *View) Topic() string { return topology.Changes(v.domain) }

// Layout identifies the form of the store; another one has to be rebuilt.
func (v *View) Layout() string { return "history1" }

// Apply takes in one change.
func (v *View) Apply(s views.Store, r views.Record) error {
	if r.Value == nil {
		return nil // a change is never taken back
	}
	c, err := v.decode(r.Value)
	if err != nil {
		return fmt.Errorf("%s: partition %d offset %d: change of %s: %w", v.Topic(), r.Partition, r.Offset, r.Key, err)
	}
	suffix := r.Key + "/" + inverted(c.Version)
	if err := s.Set("h/"+suffix, r.Value); err != nil {
		return err
	}
	for _, id := range ids(c) {
		if err := s.Set(tracePrefix(id)+suffix, []byte{1}); err != nil {
			return err
		}
	}
	return nil
}

// ids by which a change can be traced, distinct.
func ids(c *event.Change) []string {
	all := make([]string, 0, 2+len(c.Events))
	add := func(id string) {
		if id != "" && !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	add(c.Journal)
	add(c.Cause.Correlation)
	for _, e := range c.Events {
		add(e.ID)
	}
	return all
}

// tracePrefix hashes, because correlation ids are given by senders and may be
// of any length and contain slashes.
func tracePrefix(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "t/" + hex.EncodeToString(sum[:16]) + "/"
}

func inverted(version int64) string { return fmt.Sprintf("%016x", ^uint64(version)) }

func version(s string) (int64, error) {
	u, err := strconv.ParseUint(s, 16, 64)
	return int64(^u), err
}

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

// Lag tells how far an entity's history may be behind what is committed.
func (r *Reader) Lag(key canonical.EntityKey) views.Lag { return r.from.Lag(key.String()) }

// Get gives the change that made a version of an entity; nil if it is not, or
// no longer, known.
func (r *Reader) Get(key canonical.EntityKey, version int64) (*event.Change, error) {
	k := key.String()
	b, err := r.from.Get(k, "h/"+k+"/"+inverted(version))
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "read history", k, err)
	}
	if b == nil {
		return nil, nil
	}
	return r.decode(k, b)
}

func (r *Reader) decode(key string, b []byte) (*event.Change, error) {
	c, err := r.view.decode(b)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read history", key, err)
	}
	return c, nil
}

// Query asks for the changes of one entity.
type Query struct {
	Key canonical.EntityKey
	// OldestFirst gives ascending versions instead of descending ones.
	OldestFirst bool
	// After is the version behind which to begin, in the order asked for;
	// zero begins with the first.
	After int64
	// Limit of changes to give, at least 1.
	Limit int
}

// Page is part of the answer to a query.
type Page struct {
	Changes []*event.Change
	// Next is the After of the next page; zero if this is the last one.
	Next int64
}

// List gives one page of the changes of an entity.
func (r *Reader) List(q Query) (Page, error) {
	if q.Limit < 1 {
		return Page{}, failure.New(failure.Validation, "read history", q.Key.String(), "limit: found %d, expected at least 1", q.Limit)
	}
	if q.OldestFirst {
		return r.ascending(q)
	}
	prefix, after := "h/"+q.Key.String()+"/", ""
	if q.After > 0 {
		after = prefix + inverted(q.After)
	}
	var page Page
	var failed error
	err := r.from.Scan(prefix, after, func(_ string, value []byte) bool {
		if len(page.Changes) == q.Limit {
			page.Next = page.Changes[q.Limit-1].Version
			return false
		}
		c, err := r.decode(q.Key.String(), value)
		if err != nil {
			failed = err
			return false
		}
		page.Changes = append(page.Changes, c)
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return Page{}, failure.Wrap(failure.KindOf(err), "read history", q.Key.String(), err)
	}
	return page, nil
}

// ascending reads version by version: they are contiguous from the oldest that
// is kept to the newest, so a binary search finds where to begin.
func (r *Reader) ascending(q Query) (Page, error) {
	newest, err := r.newest(q.Key)
	if err != nil || newest == 0 {
		return Page{}, err
	}
	first := q.After + 1
	if q.After <= 0 {
		var failed error
		first = int64(sort.Search(int(newest), func(i int) bool {
			c, err := r.Get(q.Key, int64(i)+1)
			if err != nil {
				failed = err
			}
			return c != nil
		})) + 1
		if failed != nil {
			return Page{}, failed
		}
	}
	var page Page
	for v := first; v <= newest; v++ {
		if len(page.Changes) == q.Limit {
			page.Next = page.Changes[q.Limit-1].Version
			break
		}
		c, err := r.Get(q.Key, v)
		if err != nil {
			return Page{}, err
		}
		if c != nil {
			page.Changes = append(page.Changes, c)
		}
	}
	return page, nil
}

func (r *Reader) newest(key canonical.EntityKey) (int64, error) {
	prefix := "h/" + key.String() + "/"
	var newest int64
	var failed error
	err := r.from.Scan(prefix, "", func(k string, _ []byte) bool {
		newest, failed = version(k[len(prefix):])
		return false
	})
	if err == nil {
		err = failed
	}
	return newest, failure.Wrap(failure.Transient, "read history", key.String(), err)
}

// Trace gives the changes that have the id as their journal id, correlation id
// or the id of one of their events, ordered by entity key and newest first,
// limit at most.
func (r *Reader) Trace(id string, limit int) ([]*event.Change, error) {
	type ref struct {
		key     string
		version string
	}
	prefix := tracePrefix(id)
	var refs []ref
	err := r.from.Scan(prefix, "", func(k string, _ []byte) bool {
		k = k[len(prefix):]
		i := strings.LastIndexByte(k, '/')
		refs = append(refs, ref{k[:i], k[i+1:]})
		return len(refs) < limit
	})
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "trace", id, err)
	}
	var changes []*event.Change
	for _, f := range refs {
		b, err := r.from.Get(f.key, "h/"+f.key+"/"+f.version)
		if err != nil {
			return nil, failure.Wrap(failure.Transient, "trace", id, err)
		}
		if b == nil {
			continue
		}
		c, err := r.decode(f.key, b)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids(c), id) {
			changes = append(changes, c)
		}
	}
	return changes, nil
}
