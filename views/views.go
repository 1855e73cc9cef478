// Package views holds the read models: what is kept of a table or stream so
// that it can be read. There are two kinds. A View is a pure function from a
// record to writes in a key-value store of its own. An Index is a pure function
// from a value of a table to the terms by which it is found: it keeps no copy,
// values are read from the table itself. The engine feeds both and keeps what
// they keep.
//
// It does not serve HTTP: package api does.
package views

import (
	"encoding/binary"
	"slices"
	"time"
)

// Record is one record of the topic that a view follows.
type Record struct {
	Partition int32
	Offset    int64
	Key       string
	Value     []byte // nil is a tombstone
	// Headers gives the headers; the last of equal names wins. It may be nil
	// where there are none, and costs something: few views want them.
	Headers func() map[string][]byte
}

// Store is what a view writes to: one partition's share of it. Writes are
// visible to reads of the same Store at once and become durable together with
// the record's offset.
type Store interface {
	// Get gives nil if there is no value.
	Get(key string) ([]byte, error)
	Set(key string, value []byte) error
	Delete(key string) error
}

// View follows one topic.
type View interface {
	// Name is unique in the process: "customer-management.entities".
	Name() string
	// Topic it follows from its beginning.
	Topic() string
	// Apply takes in one record. It must be deterministic and idempotent: a
	// record may be applied again after a crash.
	Apply(s Store, r Record) error
}

// Versioned is a View that tells by what form, and by what declarations, its
// store is written: a store of another layout is rebuilt.
type Versioned interface {
	Layout() string
}

// Lag tells how far what is read is behind what is committed.
type Lag struct {
	// Records that are missing at most: places of the log, of which some may
	// hold no record.
	Records int64
	// Age is how long ago everything that was committed had been taken in; zero
	// if it is now, as far as can be known.
	Age time.Duration
}

// Max gives the larger of each.
func (l Lag) Max(o Lag) Lag { return Lag{max(l.Records, o.Records), max(l.Age, o.Age)} }

// Reader reads a view over all of its partitions.
type Reader interface {
	// Get gives nil if there is no value. The partition is found by the
	// record key under which the value was written, which is therefore given
	// as routing; most views store under the record key itself.
	Get(routing, key string) ([]byte, error)
	// Scan calls fn in ascending order of key for every key that has the
	// prefix and is greater than after (all if after is empty), over all
	// partitions, until fn returns false. It reads one consistent state.
	Scan(prefix, after string, fn func(key string, value []byte) bool) error
	// Ready tells whether the view has caught up with the topic as it was
	// when the view started.
	Ready() bool
	// Changed gives a channel that is closed at the next update of the view
	// after the call: get it, read, and wait on it if what was read is too old.
	Changed() <-chan struct{}
	// Lag of what is read by the routing key; the largest of all partitions if
	// it is empty.
	Lag(routing string) Lag
}

// Term stands for something that a value of a table is found by: that a field
// has a certain value, that there is a value at all. It is a hash, so who looks
// a term up checks what is found.
type Term uint64

// TermOf gives the term of a list of strings: FNV-1a of 64 bits over each with
// a zero byte behind it.
func TermOf(parts ...string) Term {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * prime
		}
		h *= prime
	}
	return Term(h)
}

// Terms are sorted and distinct.
type Terms []Term

// NewTerms sorts terms and drops repetitions; it takes the slice over.
func NewTerms(ts []Term) Terms {
	slices.Sort(ts)
	return slices.Compact(ts)
}

// Append appends the terms, 8 bytes each, big endian.
func (ts Terms) Append(b []byte) []byte {
	for _, t := range ts {
		b = binary.BigEndian.AppendUint64(b, uint64(t))
	}
	return b
}

// Index is a read model that lies beside a table: the table holds the values,
// and the index the terms by which they are found.
type Index interface {
	// Name is unique in the process: "customer-management.entities".
	Name() string
	// Topic is the changelog of the table.
	Topic() string
	// Layout tells by what declarations terms are made: where it has changed,
	// local state is rebuilt.
	Layout() string
	// Decode reads a value as it is in the changelog. What it gives is what the
	// codec of the table's group gives.
	Decode(value []byte) (any, error)
	// Terms of a decoded value, which it does not change; none for a value that
	// is only found by its key.
	Terms(key string, value any) (Terms, error)
}

// IndexReader reads a table and its index over all partitions: what is
// committed, never what a transaction is still working on.
type IndexReader interface {
	// Get gives the value of a key; nil if there is none.
	Get(key string) ([]byte, error)
	// Lookup calls fn in ascending order for every key that has the prefix, is
	// greater than after (all if after is empty) and whose value has the term,
	// over all partitions, until fn returns false. It reads one consistent state.
	Lookup(t Term, prefix, after string, fn func(key string) bool) error
	// Ready, Changed and Lag are those of a Reader; keys are routing keys.
	Ready() bool
	Changed() <-chan struct{}
	Lag(key string) Lag
}
