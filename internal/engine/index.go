package engine

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/touchstone-platform/touchstone/views"
)

// tableIndex is the index of a table: by terms, by the time at which entries
// want to be woken, or both. What it has lies beside the table's data and is
// written in the same batch. A value is kept with its terms in front, so that
// whoever replaces it knows which entries go without decoding it:
//
//	number of terms (uvarint) | terms, 8 bytes each | value
//
// With wakes the first of them is no term but the time, 0 for never.
type tableIndex struct {
	spec     views.Index // nil: nothing is found by terms
	wakes    *wakeIndex  // nil: nothing is woken
	topic    string
	layout   uint64
	log      *slog.Logger
	failures prometheus.Counter

	mu          sync.Mutex
	failed      int64
	lastFailure string
}

// terms gives those of a value, which is decoded unless that was done already.
// A value that the index fails on has none: it must not hold up what comes
// behind it.
func (x *tableIndex) terms(partition int32, key string, value []byte, decoded any) views.Terms {
	ts, err := x.try(key, value, decoded)
	if err == nil {
		return ts
	}
	if x.wakes != nil && len(ts) == 0 {
		// It is woken at once: the step then fails as well, tells it, and tries
		// again until somebody has mended what reads it.
		ts = views.Terms{1}
	}
	x.failures.Inc()
	x.mu.Lock()
	x.failed++
	x.lastFailure = fmt.Sprintf("%s/%d key %s: %v", x.topic, partition, key, err)
	x.mu.Unlock()
	x.log.Error("a value could not be indexed: it is found by its key alone", "partition", partition, "key", key, "error", err)
	return ts
}

func (x *tableIndex) decode(value []byte) (any, error) {
	if x.spec != nil {
		return x.spec.Decode(value)
	}
	return x.wakes.codec.Decode(value)
}

func (x *tableIndex) try(key string, value []byte, decoded any) (ts views.Terms, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if decoded == nil {
		if decoded, err = x.decode(value); err != nil {
			return nil, err
		}
	}
	if x.wakes == nil {
		return x.spec.Terms(key, decoded)
	}
	ts = views.Terms{views.Term(max(x.wakes.due(decoded), 0))}
	if x.spec == nil {
		return ts, nil
	}
	more, err := x.spec.Terms(key, decoded)
	return append(ts, more...), err
}

// putJoined adds the write of a value with its terms to a batch.
func (ks keyspace) putJoined(b *pebble.Batch, k string, ts views.Terms, v []byte) error {
	var buf [binary.MaxVarintLen64 + 8*16]byte
	head := ts.Append(binary.AppendUvarint(buf[:0], uint64(len(ts))))
	op := b.SetDeferred(len(ks)+1+len(k), len(head)+len(v))
	ks.appendKey(op.Key[:0], k)
	copy(op.Value[copy(op.Value, head):], v)
	return op.Finish()
}

// splitTerms divides what putJoined has written. The value is part of b.
func splitTerms(b []byte) (views.Terms, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size)/8 {
		return nil, nil, fmt.Errorf("local state has %d bytes where a number of terms and the terms are expected first", len(b))
	}
	b = b[size:]
	var ts views.Terms
	if n > 0 {
		ts = make(views.Terms, n)
		for i := range ts {
			ts[i], b = views.Term(binary.BigEndian.Uint64(b)), b[8:]
		}
	}
	return ts, b, nil
}

// appendTermKey appends the Pebble key of the index entry of a term and a key.
func (ks keyspace) appendTermKey(b []byte, t views.Term, key string) []byte {
	b = append(b, ks...)
	b = append(b, partIndex)
	b = binary.BigEndian.AppendUint64(b, uint64(t))
	return append(b, key...)
}

// reindex adds to a batch what replaces the index entries of one key. Terms are
// sorted, so both lists are walked once.
func (ks keyspace) reindex(b *pebble.Batch, key string, before, after views.Terms) error {
	var buf [256]byte
	for len(before) > 0 || len(after) > 0 {
		var err error
		switch {
		case len(after) == 0 || len(before) > 0 && before[0] < after[0]:
			err = b.Delete(ks.appendTermKey(buf[:0], before[0], key), nil)
			before = before[1:]
		case len(before) == 0 || after[0] < before[0]:
			err = b.Set(ks.appendTermKey(buf[:0], after[0], key), nil, nil)
			after = after[1:]
		default:
			before, after = before[1:], after[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// AddIndex declares an index over a table and gives what reads both. The
// process keeps all partitions of the table: where it does not own one, it
// follows its changelog.
func (e *Engine) AddIndex(spec views.Index) (views.IndexReader, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.running:
		return nil, errRunning
	case spec.Name() == "" || spec.Topic() == "":
		return nil, fmt.Errorf("index %q of table %q: expected a name and a topic", spec.Name(), spec.Topic())
	case e.named(spec.Name()):
		return nil, fmt.Errorf("view %q is declared twice", spec.Name())
	}
	t := e.table(spec.Topic())
	if t.indexed() {
		return nil, fmt.Errorf("table %s has the index %q already, expected one at most: %q", t.topic, t.index.spec.Name(), spec.Name())
	}
	t.setIndex(spec, nil)
	t.standby = true
	return indexReader{t}, nil
}

// setIndex adds to the index of the table.
func (t *table) setIndex(spec views.Index, wakes *wakeIndex) {
	name := t.topic
	if t.index != nil {
		spec, wakes = cmp.Or(spec, t.index.spec), cmp.Or(wakes, t.index.wakes)
	}
	layout := ""
	if spec != nil {
		name, layout = spec.Name(), spec.Layout()
	}
	if wakes != nil {
		layout += "\x00wakes/1"
	}
	t.index = &tableIndex{spec: spec, wakes: wakes, topic: t.topic, layout: hashOf(layout),
		log: t.engine.cfg.Logger.With("index", name), failures: t.engine.metrics.viewFailed.WithLabelValues(name)}
}

// indexed tells whether the table can be read by terms.
func (t *table) indexed() bool { return t.index != nil && t.index.spec != nil }

// indexReader reads a table and its index: a views.IndexReader. It sees what is
// in Pebble, which is whole transactions and whole fetches.
type indexReader struct{ t *table }

// image gives a partition's, or an error while it is not known to be of the
// form that is read here.
func (r indexReader) image(partition int32) (*image, error) {
	rep := r.t.replica(partition)
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if !rep.readable {
		return nil, fmt.Errorf("table %s is not ready: partition %d was not opened yet", r.t.topic, partition)
	}
	return &rep.image, nil
}

func (r indexReader) partitions() (int, error) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if r.t.count == 0 {
		return 0, fmt.Errorf("table %s is not ready: its topic was not reached yet", r.t.topic)
	}
	return r.t.count, nil
}

// Get is part of views.IndexReader.
func (r indexReader) Get(key string) (value []byte, err error) {
	n, err := r.partitions()
	if err != nil {
		return nil, err
	}
	im, err := r.image(Partition(key, n))
	if err != nil {
		return nil, err
	}
	err = r.t.engine.db.view(func(db *pebble.DB) error {
		value, _, err = im.get(db, key)
		return err
	})
	return value, err
}

// Lookup is part of views.IndexReader. fn should be quick: iterators hold on to
// old state while it runs.
func (r indexReader) Lookup(t views.Term, prefix, after string, fn func(string) bool) error {
	n, err := r.partitions()
	if err != nil {
		return err
	}
	ranges := make([]scanRange, n)
	for p := range n {
		im, err := r.image(int32(p))
		if err != nil {
			return err
		}
		lower := im.ks.appendTermKey(nil, t, prefix)
		ranges[p] = scanRange{lower: lower, upper: successor(lower), strip: len(lower) - len(prefix)}
		if after != "" {
			ranges[p].after(im.ks.appendTermKey(nil, t, after))
		}
	}
	return r.t.engine.db.view(func(db *pebble.DB) (err error) {
		snapshot := db.NewSnapshot()
		defer func() { err = errors.Join(err, snapshot.Close()) }()
		if err := scan(snapshot, ranges, func(key string, _ []byte) bool { return fn(key) }); err != nil {
			return fmt.Errorf("scan index %s: %w", r.t.index.spec.Name(), err)
		}
		return nil
	})
}

// Ready is part of views.IndexReader.
func (r indexReader) Ready() bool { return r.t.ready() == nil }

// Changed is part of views.IndexReader.
func (r indexReader) Changed() <-chan struct{} {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return r.t.changed
}

// Lag is part of views.IndexReader.
func (r indexReader) Lag(key string) views.Lag {
	now := time.Now()
	if n, err := r.partitions(); err == nil && key != "" {
		return r.t.replica(Partition(key, n)).lag(now)
	}
	var worst views.Lag
	r.t.each(func(rep *replica) { worst = worst.Max(rep.lag(now)) })
	return worst
}

// ready gives nil if the table has no index, or has caught up with its log in
// all partitions once since the start; else what it is waiting for.
func (t *table) ready() error {
	if !t.indexed() {
		return nil
	}
	whole := t.wholePartitions()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.count > 0 && whole == t.count:
		return nil
	case t.lastError != "":
		return fmt.Errorf("view %s has caught up with %d of %d partitions; last error: %s", t.index.spec.Name(), whole, t.count, t.lastError)
	}
	return fmt.Errorf("view %s has caught up with %d of %d partitions", t.index.spec.Name(), whole, t.count)
}

func (t *table) wholePartitions() (n int) {
	t.each(func(r *replica) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.meter.whole {
			n++
		}
	})
	return n
}

// viewStatus tells how a table's index is doing.
func (t *table) viewStatus() ViewStatus {
	err := t.ready()
	whole := t.wholePartitions()
	x := t.index
	x.mu.Lock()
	s := ViewStatus{Lag: indexReader{t}.Lag(""), View: x.spec.Name(), Topic: t.topic, Ready: err == nil, Recovered: whole, Failures: x.failed, LastFailure: x.lastFailure}
	x.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Partitions, s.LastError, s.Records = t.count, t.lastError, t.followed.Load()+t.owned.Load()
	return s
}

// write is what is to become of one key.
type write struct {
	value []byte // nil: deleted
	// known says that the terms are: of what is in local state now, and of the
	// value.
	known         bool
	before, after views.Terms
}

// termsOf gives the terms of a value, which may be given decoded as well; none
// without an index.
func (im *image) termsOf(key string, value []byte, decoded any) views.Terms {
	if im.index == nil || value == nil {
		return nil
	}
	return im.index.terms(im.partition, key, value, decoded)
}

// add adds a write to a batch, with what follows from it for the index.
func (im *image) add(b *pebble.Batch, key string, w write) error {
	if im.index == nil {
		return im.ks.put(b, key, w.value)
	}
	if !w.known {
		if !im.fresh.add(key) {
			var err error
			if _, w.before, err = im.get(im.db, key); err != nil {
				return err
			}
		}
		w.after = im.termsOf(key, w.value, nil)
	}
	if err := im.reindex(b, key, w.before, w.after); err != nil {
		return err
	}
	if w.value == nil {
		return im.ks.put(b, key, nil)
	}
	return im.ks.putJoined(b, key, w.after, w.value)
}

// keyFilter is a Bloom filter of the keys that were written since an image was
// begun anew: what is not in it needs no look-up. Looking for what is not there
// is the larger part of restoring an index.
type keyFilter struct {
	seed maphash.Seed
	bits []uint64
}

// keyFilterBits holds a million keys with one look-up in 70 in vain, in 2 MiB.
const keyFilterBits = 1 << 24

func newKeyFilter() *keyFilter {
	return &keyFilter{seed: maphash.MakeSeed(), bits: make([]uint64, keyFilterBits/64)}
}

// add adds a key; true if it was certainly not there before. A filter that is
// nil knows nothing.
func (f *keyFilter) add(key string) (absent bool) {
	if f == nil {
		return false
	}
	h := maphash.String(f.seed, key)
	for _, i := range [2]uint64{h % keyFilterBits, (h >> 32) % keyFilterBits} {
		if bit := uint64(1) << (i % 64); f.bits[i/64]&bit == 0 {
			f.bits[i/64] |= bit
			absent = true
		}
	}
	return absent
}

// get reads a value as committed, with its terms; nil if there is none. The
// value is the caller's.
func (im *image) get(db pebble.Reader, key string) ([]byte, views.Terms, error) {
	b, err := im.ks.get(db, key)
	if err != nil || b == nil {
		return nil, nil, err
	}
	return im.split(b)
}

// split divides what is stored into the terms and the value.
func (im *image) split(b []byte) ([]byte, views.Terms, error) {
	if im.index == nil {
		return b, nil, nil
	}
	ts, value, err := splitTerms(b)
	return value, ts, err
}
