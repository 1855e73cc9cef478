// Package views holds the read models: what is kept of a table or stream so
// that it can be read. A view here is a pure function from a record to writes
// in a key-value store; the engine feeds it and keeps the store.
//
// It does not serve HTTP: package api does.
package views

import "time"

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
}
