package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
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
// The store of a view follows a log and decides itself when to write: at the
// end of what one fetch brought, or when it has enough. The store of a group's
// table has a replica, which it owns while it is open: opening it recovers the
// table, and what Goka brings after that is at most the last few records. Then
// it becomes transactional: the session writes it, after the commit, and drops
// the overlay after an abort.
type store struct {
	*image
	// replica and the context of its recovery, for a table; log for a view.
	replica *replica
	ctx     context.Context
	log     logPosition

	// batchEnd gives the last offset of what the follower delivers just now.
	batchEnd func() int64
	// flushed and caughtUp are told to a view.
	flushed, caughtUp func()

	mu            sync.RWMutex
	overlay       map[string]write
	overlayBytes  int
	behind        int // records since the last write
	transactional bool
	opened        bool // it has the replica
	closed        bool

	// now is the latest time of a record that asked for an entry; sweep's and
	// the step's own, which never run at once.
	now     envelope.Instant
	sweeper sweeper
}

// newStore makes the store of a view.
func newStore(im *image, log logPosition, batchEnd func() int64) *store {
	return &store{image: im, log: log, batchEnd: batchEnd, overlay: map[string]write{}}
}

// newTableStore makes the store of a group's table. Opening it takes the
// replica, which closing it gives back.
func newTableStore(ctx context.Context, r *replica) *store {
	// Nobody reads it before it is recovered: write when there is enough.
	whenEnough := func() int64 { return math.MaxInt64 }
	return &store{image: &r.image, replica: r, ctx: ctx, batchEnd: whenEnough, overlay: map[string]write{}}
}

// Open reads up to where the store has followed its log.
func (s *store) Open() error {
	if s.replica == nil {
		return s.image.open(s.log)
	}
	err := s.replica.acquire(s.ctx)
	s.opened = err == nil
	return err
}

// Close writes what a follower has taken in so far; what belongs to an open
// transaction is dropped. A store may be closed again, and without having been
// opened.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.replica != nil && !s.opened {
		return nil
	}
	var err error
	if s.transactional {
		s.overlay = nil
	} else {
		err = s.write()
	}
	if s.replica != nil {
		s.replica.release()
	}
	return err
}

// Get reads what was written last, be it committed or not.
func (s *store) Get(k string) ([]byte, error) {
	s.mu.RLock()
	w, ok := s.overlay[k]
	s.mu.RUnlock()
	if ok {
		return w.value, nil
	}
	v, _, err := s.get(s.db, k)
	return v, err
}

func (s *store) Has(k string) (bool, error) {
	v, err := s.Get(k)
	return v != nil, err
}

func (s *store) Set(k string, v []byte) error {
	if v == nil {
		v = []byte{}
	}
	s.put(k, write{value: v})
	return nil
}

func (s *store) Delete(k string) error {
	s.put(k, write{})
	return nil
}

func (s *store) put(k string, w write) {
	if k == markerKey {
		return
	}
	s.mu.Lock()
	s.overlay[k] = w
	s.overlayBytes += len(k) + len(w.value)
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
	s.transactional = s.replica != nil
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
	if s.replica != nil {
		point = failpoint.RecoveryWrite
	}
	if err := failpoint.Reach(point, s.owner); err != nil {
		return err
	}
	if err := s.disk.admit(); err != nil {
		return err
	}
	b := newBatch(s.db, s.batchBytesLocked())
	defer b.Close()
	if err := s.addTo(b); err != nil {
		return err
	}
	if err := commitLocal(b); err != nil {
		return err
	}
	s.settle()
	if s.flushed != nil {
		s.flushed()
	}
	return nil
}

// batchBytes is about how large the batch becomes that takes the overlay.
func (s *store) batchBytes() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.batchBytesLocked()
}

func (s *store) batchBytesLocked() int { return s.overlayBytes + len(s.overlay)*entryBytes }

func (s *store) addTo(b *pebble.Batch) error {
	for k, w := range s.overlay {
		if err := s.add(b, k, w); err != nil {
			return err
		}
	}
	return s.ks.putMark(b, s.mark)
}

func (s *store) settle() {
	clear(s.overlay)
	s.overlayBytes, s.behind = 0, 0
}

// prepare adds what the transaction wrote, whole up to the changelog offset,
// to a batch. Until applied is called, which must follow, nothing else happens
// to the store. A store that was closed adds nothing: the partition was given
// up, and who has it reads the changelog.
func (s *store) prepare(b *pebble.Batch, offset int64) error {
	s.mu.Lock()
	if s.closed {
		return nil
	}
	if offset > s.mark.offset {
		s.mark.offset = offset
	}
	return s.addTo(b)
}

// applied ends what prepare began; ok tells that the batch was written.
func (s *store) applied(ok bool) {
	if ok && !s.closed {
		n := len(s.overlay)
		s.settle()
		if s.replica != nil {
			s.replica.wrote(n)
		}
	}
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
	return &storeIterator{im: s.image, it: it}, nil
}

// storeIterator is a Pebble iterator in the form that Goka wants.
type storeIterator struct {
	im     *image
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
	ok := i.it.SeekGE(i.im.ks.appendKey(nil, string(key)))
	if ok && !i.it.Prev() {
		i.placed = false
	} else {
		i.placed = true
	}
	return ok
}

func (i *storeIterator) Err() error  { return i.it.Error() }
func (i *storeIterator) Key() []byte { return i.im.ks.userKey(i.it.Key()) }
func (i *storeIterator) Value() ([]byte, error) {
	b, err := i.it.ValueAndErr()
	if err != nil {
		return nil, err
	}
	v, _, err := i.im.split(b)
	return v, err
}
func (i *storeIterator) Release() { i.it.Close() }
