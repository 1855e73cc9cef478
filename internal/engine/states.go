package engine

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/views"
)

// states are the values of one partition of a table while its owner works on
// them: decoded where possible, so that what one step leaves is what the next
// one gets. What the open transaction has written is kept here, by key, and
// goes to the changelog and to the store once, as it is at the commit: of
// several states that a key passes through in one transaction nobody can ever
// see but the last.
//
// A step may change the value it is given. So a value is taken out when a step
// asks for it and put back when it is known to be right: a step that failed
// halfway, and a transaction that is aborted, leave bytes alone.
//
// The goroutine of the partition uses it, and the session's between the last
// step of a transaction and the first of the next.
type states struct {
	*store
	cache   *cache
	written map[string]*writtenState
	order   []*writtenState // as first written
	free    []*writtenState
	whole   bool      // a write has shown that recovery read the changelog to its end
	wakes   *schedule // nil if nothing is woken

	codec Codec
	// append is the codec if it can use memory again; what it then has is in
	// spare: that of values which are in Pebble, or which were written over.
	append     appender
	spare      [][]byte
	spareBytes int
}

// writtenState is what the open transaction has written last for a key.
type writtenState struct {
	key   string
	value []byte // nil: deleted
	// state is value decoded; nil if that is not known.
	state any
	again bool // was in the cache before
	by    *outputOrigin
	// terms of the value in local state, and of this one once it is flushed.
	before, terms views.Terms
}

// taken is a value on its way through a step.
type taken struct {
	table  *states
	key    string
	exists bool
	state  any         // nil: to be decoded
	raw    []byte      // set if state was not
	terms  views.Terms // of what is in the store
	// Where it is from: the open transaction, the cache, or the store.
	from   *writtenState
	cached *cached
}

func newStates(st *store, c *cache, codec Codec) *states {
	s := &states{store: st, cache: c, written: map[string]*writtenState{}, codec: codec}
	s.append, _ = codec.(appender)
	return s
}

// take gives the value of a key as it was written last, be it committed or not.
func (s *states) take(key string) (taken, error) {
	t := taken{table: s, key: key}
	if w := s.written[key]; w != nil {
		t.from, t.exists, t.state = w, w.value != nil, w.state
		w.state = nil
		if t.state == nil {
			t.raw = w.value
		}
		return t, nil
	}
	if t.cached = s.cache.take(key); t.cached != nil {
		t.exists, t.state, t.terms = true, t.cached.value, t.cached.terms
		return t, nil
	}
	var err error
	t.raw, t.terms, err = s.get(s.db, key)
	t.exists = t.raw != nil
	return t, err
}

// keep puts back a value that the step has left as it was.
func (s *states) keep(t *taken) {
	switch {
	case t.from != nil:
		t.from.state = t.state
	case t.cached != nil:
		s.cache.restore(t.cached)
	default:
		s.cache.put(t.key, t.state, len(t.raw), false, t.terms)
	}
}

// set writes a value: encoded, and decoded as the next step is to get it. A
// nil value deletes.
func (s *states) set(t *taken, value []byte, state any, by *outputOrigin) {
	w := t.from
	if w == nil {
		if n := len(s.free); n > 0 {
			w, s.free = s.free[n-1], s.free[:n-1]
		} else {
			w = &writtenState{}
		}
		w.key, w.again, w.before = t.key, t.cached != nil, t.terms
		s.written[t.key] = w
		s.order = append(s.order, w)
	}
	s.recycle(w.value)
	w.value, w.state, w.by = value, state, by
}

// Bounds of the memory that is kept for values.
const (
	spareBytes    = 4 << 20 // of a partition
	maxSpareValue = 64 << 10
)

// encode gives the bytes of a value, which set takes.
func (s *states) encode(value any) ([]byte, error) {
	n := len(s.spare)
	if s.append == nil || n == 0 {
		return s.codec.Encode(value)
	}
	buf := s.spare[n-1]
	s.spare[n-1], s.spare = nil, s.spare[:n-1]
	s.spareBytes -= cap(buf)
	return s.append.AppendEncode(buf, value)
}

// recycle keeps the memory of a value that nobody reads any more.
func (s *states) recycle(b []byte) {
	if s.append != nil && cap(b) > 0 && cap(b) <= maxSpareValue && s.spareBytes+cap(b) <= spareBytes {
		s.spare = append(s.spare, b[:0])
		s.spareBytes += cap(b)
	}
}

// flush writes what the transaction leaves into the changelog, and has the
// store keep it for when that is committed.
func (s *states) flush(produce func(context.Context, *kgo.Record), topic string, partition int32) {
	records := make([]kgo.Record, len(s.order))
	for i, w := range s.order {
		w.terms = s.termsOf(w.key, w.value, w.state)
		s.wakes.writes(w.terms)
		s.put(w.key, write{value: w.value, known: true, before: w.before, after: w.terms})
		records[i] = kgo.Record{Topic: topic, Partition: partition, Key: keyBytes(w.key), Value: w.value}
		produce(w.by, &records[i])
	}
}

// applied ends a commit; ok tells that it is in the store. The decoded values
// then serve the next transactions.
func (s *states) applied(ok bool) {
	s.store.applied(ok)
	s.wakes.ended(ok)
	if ok {
		for _, w := range s.order {
			s.cache.put(w.key, w.state, len(w.value), w.again, w.terms)
			// The changelog has it as well: the transaction has ended. One that
			// was aborted may still be on its way out of the client.
			s.recycle(w.value)
		}
	}
	s.forget()
}

// discard drops what the open transaction wrote.
func (s *states) discard() {
	s.store.discard()
	s.wakes.ended(false)
	s.forget()
}

// freeStates is how many entries are kept for the next transaction.
const freeStates = 4096

func (s *states) forget() {
	clear(s.written)
	for i, w := range s.order {
		*w = writtenState{}
		s.order[i] = nil
		if len(s.free) < freeStates {
			s.free = append(s.free, w)
		}
	}
	s.order = s.order[:0]
}
