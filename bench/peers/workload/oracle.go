package workload

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// Oracle folds facts one after the other and keeps what must come of them. Of
// values and changes it keeps 64-bit hashes, so that a million accounts fit into
// memory. It is written without the product's merge: with the policy of
// priority alone, no deletions and no lifecycle, the fold is a few lines.
type Oracle struct {
	seed   maphash.Seed
	domain string
	// fields and, for each, the columns of its authorities in their order.
	fields  []Field
	columns map[string][]int // by source: the column of each field, -1 if it is not claimed
	rank    [][]int          // by field: columns by authority
	width   int
	sources []string

	accounts []account
	facts    int64
	moved    []moved // scratch
}

// moved is a field whose value changed, and a hash of the value before.
type moved struct {
	field  int
	before uint64
}

// claim is a last-writer-wins register: of which fact, and a hash of its value.
type claim struct {
	fact  int64 // the number of the fact, which orders as its stamp does; 0 if none
	value uint64
}

type account struct {
	claims   []claim
	version  int32
	since    []int32  // by field: the version in which it last changed
	newest   [3]int64 // by source: its latest fact
	latest   int64    // fact of the latest version
	created  int64
	seen     int64
	changes  uint64 // sum of the hashes of its changes
	nChanges int32
}

// NewOracle makes the oracle of a specification.
func NewOracle(s Spec) (*Oracle, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	o := &Oracle{seed: maphash.MakeSeed(), domain: Domain, fields: s.Layout(), sources: Sources(), columns: map[string][]int{}, accounts: make([]account, s.Keys)}
	for _, source := range o.sources {
		o.columns[source] = slices.Repeat([]int{-1}, len(o.fields))
	}
	for i, f := range o.fields {
		var rank []int
		for _, a := range f.Authority {
			o.columns[a][i] = o.width
			rank = append(rank, o.width)
			o.width++
		}
		o.rank = append(o.rank, rank)
	}
	return o, nil
}

// Facts is how many facts were folded.
func (o *Oracle) Facts() int64 { return o.facts }

// Changes is how many changes must have come of them.
func (o *Oracle) Changes() (n int64) {
	for i := range o.accounts {
		n += int64(o.accounts[i].nChanges)
	}
	return n
}

// Fold takes one fact.
func (o *Oracle) Fold(f *signal.Fact) error {
	o.facts++
	n, err := accountOf(f.Entity)
	if err != nil || n >= len(o.accounts) {
		return fmt.Errorf("fact about %q: expected one of %d accounts", f.Entity, len(o.accounts))
	}
	a := &o.accounts[n]
	if a.claims == nil {
		a.claims, a.since = make([]claim, o.width), make([]int32, len(o.fields))
	}
	s := &f.Signal
	columns := o.columns[s.Source]
	if columns == nil {
		return fmt.Errorf("fact of source %q: expected one of %v", s.Source, o.sources)
	}
	source := slices.Index(o.sources, s.Source)
	a.seen = max(a.seen, s.Sequence)
	a.newest[source] = max(a.newest[source], s.Sequence)
	o.moved = o.moved[:0]
	i := 0
	for _, named := range s.Fields {
		for i < len(o.fields) && o.fields[i].Name != named.Name {
			i++
		}
		if i == len(o.fields) || columns[i] < 0 {
			return fmt.Errorf("fact of %s with field %q: expected fields that it claims, in order", s.Source, named.Name)
		}
		c := &a.claims[columns[i]]
		if s.Sequence <= c.fact {
			continue
		}
		before, _ := o.winner(a, i)
		*c = claim{s.Sequence, hashOf(o.seed, string(named.Value))}
		after, _ := o.winner(a, i)
		if before.value != after.value {
			o.moved = append(o.moved, moved{i, before.value})
		}
	}
	if len(o.moved) == 0 {
		return nil
	}
	a.version++
	a.latest = s.Sequence
	if a.version == 1 {
		a.created = s.Sequence
	}
	for _, m := range o.moved {
		a.since[m.field] = a.version
	}
	a.nChanges++
	a.changes += o.change(f.Entity, a, s)
	return nil
}

// winner gives the claim that counts for a field and its source; no fact and
// no source if there is none.
func (o *Oracle) winner(a *account, field int) (claim, string) {
	for rank, column := range o.rank[field] {
		if c := a.claims[column]; c.fact > 0 {
			return c, o.fields[field].Authority[rank]
		}
	}
	return claim{}, ""
}

// change hashes the change that the moved fields make.
func (o *Oracle) change(id string, a *account, s *signal.Signal) uint64 {
	w := newImage(o.seed)
	kind, rule := event.Updated, "AccountUpdated"
	if a.version == 1 {
		kind, rule = event.Created, "AccountOpened"
	}
	w.text(id, string(kind), s.Source)
	w.numbers(int64(a.version), s.Sequence)
	for _, m := range o.moved {
		c, source := o.winner(a, m.field)
		w.text(o.fields[m.field].Name, source, id)
		w.hashes(m.before, c.value)
	}
	w.text("after")
	for i := range o.fields {
		if c, _ := o.winner(a, i); c.fact > 0 {
			w.text(o.fields[i].Name)
			w.hashes(c.value)
		}
	}
	key := canonical.EntityKey{Tenant: s.Tenant, Resource: s.Resource, ID: id}.String()
	w.text(event.ID(o.domain, key, int64(a.version), rule), rule)
	return w.sum()
}

// state hashes what the state of an account must be.
func (o *Oracle) state(n int) uint64 {
	a := &o.accounts[n]
	id := Account(n)
	w := newImage(o.seed)
	w.text(id)
	w.numbers(int64(a.version), a.created, a.latest, a.seen)
	for i := range o.fields {
		if c, source := o.winner(a, i); c.fact > 0 {
			w.text(o.fields[i].Name, source)
			w.numbers(int64(a.since[i]))
			w.hashes(c.value)
		}
	}
	for s, source := range o.sources {
		if a.newest[s] == 0 {
			continue
		}
		w.text("contribution", source, id)
		for i, column := range o.columns[source] {
			if column >= 0 && a.claims[column].fact > 0 {
				w.text(o.fields[i].Name)
				w.numbers(a.claims[column].fact)
				w.hashes(a.claims[column].value)
			}
		}
	}
	return w.sum()
}

func hashOf(seed maphash.Seed, value string) uint64 {
	if value == "" {
		return 0
	}
	return maphash.String(seed, value)
}

// image is a hash over texts and numbers in an order that both sides keep.
type image struct {
	h   maphash.Hash
	buf [8]byte
}

func newImage(seed maphash.Seed) *image {
	w := &image{}
	w.h.SetSeed(seed)
	return w
}

func (w *image) text(all ...string) {
	for _, s := range all {
		w.hashes(uint64(len(s)))
		_, _ = w.h.WriteString(s) // never fails
	}
}

func (w *image) numbers(all ...int64) {
	for _, n := range all {
		w.hashes(uint64(n))
	}
}

func (w *image) hashes(all ...uint64) {
	for _, n := range all {
		binary.LittleEndian.PutUint64(w.buf[:], n)
		_, _ = w.h.Write(w.buf[:]) // never fails
	}
}

func (w *image) sum() uint64 { return w.h.Sum64() }
