package engine

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lovoo/goka/storage"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// markerKey is the key under which a follower delivers what stands for a
// transaction marker or another offset without a record. It carries no state:
// only its offset counts. It is not valid UTF-8, so no key of ours equals it.
const markerKey = "\x00\xfftouchstone-marker"

// Bounds of what a store that follows a log keeps before it writes.
const (
	followRecords = 2000
	followBytes   = 1 << 20
)

// store is Goka's storage of one partition of a table or view. Writes go to
// an overlay that only the writer sees; they reach Pebble in one batch with
// the offset of the log up to which they are whole.
//
// While it follows a log (recovery, views) it decides itself when to write:
// at the end of what one fetch brought, or when it has enough. A group's table
// becomes transactional once it is recovered: then the session writes it,
// after the commit, and drops the overlay after an abort.
type store struct {
	ks    keyspace
	db    *pebble.DB
	log   logPosition
	table bool
	owner string // the group or view that it belongs to
	// layout that a view's store is written by; see mark.
	layout uint64

	// batchEnd gives the last offset of what the follower delivers just now.
	batchEnd func() int64
	// flushed and caughtUp are told to a view.
	flushed, caughtUp func()

	mu            sync.RWMutex
	overlay       map[string][]byte // nil value: deleted
	overlayBytes  int
	mark          mark
	behind        int // records since the last write
	transactional bool
	closed        bool

	// now is the latest time of a record that asked for an entry; sweep's and
	// the step's own, which never run at once.
	now     envelope.Instant
	sweeper sweeper
}

func newStore(db *pebble.DB, ks keyspace, log logPosition, batchEnd func() int64) *store {
	return &store{db: db, ks: ks, log: log, batchEnd: batchEnd, overlay: map[string][]byte{}}
}

// logPosition finds out what there is of the log that a store is the image of.
type logPosition func() (topic [16]byte, start, end int64, err error)

// Open reads up to where the store has followed its log. If the log is not
// what the store was made from, or does not have what the store needs next,
// the store begins anew.
func (s *store) Open() error {
	topic, start, end, err := s.log()
	if err != nil {
		return err
	}
	m, found, err := s.ks.readMark(s.db)
	if err != nil {
		return err
	}
	fresh := mark{topic: topic, layout: s.layout, offset: -1}
	if !found {
		s.mark = fresh
		// Something may be there without a mark: of another version.
		return s.rebuild(fresh)
	}
	switch {
	case m.topic != topic, // recreated
		m.layout != s.layout, // written in another form
		m.offset >= end,      // truncated
		m.offset+1 < start:   // what comes next was deleted
		return s.rebuild(fresh)
	}
	s.mark = m
	return nil
}

func (s *store) rebuild(fresh mark) error {
	b := s.db.NewBatch()
	defer b.Close()
	if err := errors.Join(s.ks.wipe(b), s.ks.putMark(b, fresh)); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("wipe local state: %w", err)
	}
	s.mark = fresh
	return nil
}

// Close writes what a follower has taken in so far; what belongs to an open
// transaction is dropped.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.transactional {
		s.overlay = nil
		return nil
	}
	return s.write()
}

// Get reads what was written last, be it committed or not.
func (s *store) Get(k string) ([]byte, error) {
	s.mu.RLock()
	v, ok := s.overlay[k]
	s.mu.RUnlock()
	if ok {
		return v, nil
	}
	return s.ks.get(s.db, k)
}

func (s *store) Has(k string) (bool, error) {
	v, err := s.Get(k)
	return v != nil, err
}

func (s *store) Set(k string, v []byte) error {
	if v == nil {
		v = []byte{}
	}
	s.put(k, v)
	return nil
}

func (s *store) Delete(k string) error {
	s.put(k, nil)
	return nil
}

func (s *store) put(k string, v []byte) {
	if k == markerKey {
		return
	}
	s.mu.Lock()
	s.overlay[k] = v
	s.overlayBytes += len(k) + len(v)
	s.mu.Unlock()
}

// GetOffset gives the offset of the last record taken in, def if none was.
func (s *store) GetOffset(def int64) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mark.offset < 0 {
		return def, nil
	}
	return s.mark.offset, nil
}

// SetOffset is called by Goka after each record that the store has followed.
func (s *store) SetOffset(o int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transactional {
		return errors.New("offset of a transactional store is set by its session alone")
	}
	if s.closed {
		return nil
	}
	if s.table {
		if err := failpoint.Reach(failpoint.RecoveryRecord, s.owner); err != nil {
			return err
		}
	}
	s.mark.offset = o
	s.behind++
	if s.behind < followRecords && s.overlayBytes < followBytes && o < s.batchEnd() {
		return nil
	}
	return s.write()
}

// MarkRecovered is called by Goka when the store has reached the end of the
// log as it was when recovery began.
func (s *store) MarkRecovered() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if err := s.write(); err != nil {
		return err
	}
	s.transactional = s.table
	if s.caughtUp != nil {
		s.caughtUp()
	}
	return nil
}

// write puts the overlay and the offset into Pebble as one. Callers hold mu.
func (s *store) write() error {
	if s.behind == 0 {
		return nil
	}
	point := failpoint.ViewWrite
	if s.table {
		point = failpoint.RecoveryWrite
	}
	if err := failpoint.Reach(point, s.owner); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	if err := s.addTo(b); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write local state: %w", err)
	}
	s.settle()
	if s.flushed != nil {
		s.flushed()
	}
	return nil
}

func (s *store) addTo(b *pebble.Batch) error {
	for k, v := range s.overlay {
		if err := s.ks.put(b, k, v); err != nil {
			return err
		}
	}
	return s.ks.putMark(b, s.mark)
}

func (s *store) settle() {
	clear(s.overlay)
	s.overlayBytes, s.behind = 0, 0
}

// commitInto adds what the transaction wrote, whole up to the changelog
// offset, to a batch. The overlay stays until committed is called.
func (s *store) commitInto(b *pebble.Batch, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset > s.mark.offset {
		s.mark.offset = offset
	}
	return s.addTo(b)
}

func (s *store) committed() {
	s.mu.Lock()
	s.settle()
	s.mu.Unlock()
}

// discard drops what the open transaction wrote.
func (s *store) discard() {
	s.mu.Lock()
	if s.transactional {
		s.settle()
	}
	s.mu.Unlock()
}

// Iterator and IteratorWithRange read committed state.
func (s *store) Iterator() (storage.Iterator, error) { return s.IteratorWithRange(nil, nil) }

func (s *store) IteratorWithRange(start, limit []byte) (storage.Iterator, error) {
	lower, upper := s.ks.bounds("")
	if len(start) > 0 {
		lower = s.ks.appendKey(nil, string(start))
	}
	if len(limit) > 0 {
		upper = s.ks.appendKey(nil, string(limit))
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("iterate local state: %w", err)
	}
	return &storeIterator{ks: s.ks, it: it}, nil
}

// storeIterator is a Pebble iterator in the form that Goka wants.
type storeIterator struct {
	ks     keyspace
	it     *pebble.Iterator
	placed bool
}

func (i *storeIterator) Next() bool {
	if !i.placed {
		i.placed = true
		return i.it.First()
	}
	return i.it.Next()
}

func (i *storeIterator) Seek(key []byte) bool {
	// Goka calls Next to reach the first pair after a Seek.
	ok := i.it.SeekGE(i.ks.appendKey(nil, string(key)))
	if ok && !i.it.Prev() {
		i.placed = false
	} else {
		i.placed = true
	}
	return ok
}

func (i *storeIterator) Err() error             { return i.it.Error() }
func (i *storeIterator) Key() []byte            { return i.ks.userKey(i.it.Key()) }
func (i *storeIterator) Value() ([]byte, error) { return i.it.ValueAndErr() }
func (i *storeIterator) Release()               { i.it.Close() }
