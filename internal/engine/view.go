package engine

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/cockroachdb/pebble/v2"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/views"
)

// view runs a views.View as a Goka view and reads it: a views.Reader. Its
// readers see what is in Pebble, which is whole records up to the end of a
// fetch, never a part of one.
type view struct {
	engine   *Engine
	name     string
	spec     views.View
	log      *slog.Logger
	taken    prometheus.Counter
	failures prometheus.Counter
	records  atomic.Int64

	mu          sync.Mutex
	partitions  int // 0 until the topic was looked up
	meters      map[int32]*meter
	whole       bool // has caught up in all partitions once since the start
	began       time.Time
	changed     chan struct{}
	failed      int64
	lastFailure string
	lastError   string
}

func newView(e *Engine, spec views.View) *view {
	return &view{
		engine: e, name: spec.Name(), spec: spec, log: e.cfg.Logger.With("view", spec.Name()),
		taken: e.metrics.viewRecords.WithLabelValues(spec.Name()), failures: e.metrics.viewFailed.WithLabelValues(spec.Name()),
		meters: map[int32]*meter{}, changed: make(chan struct{}),
	}
}

func (v *view) run(ctx context.Context) {
	v.mu.Lock()
	v.whole, v.began = false, time.Now() // local state may be another than before
	clear(v.meters)
	v.mu.Unlock()
	restart(ctx, v.log, "view", v.runOnce, func(err error) {
		v.mu.Lock()
		v.lastError = oneLine(err)
		v.mu.Unlock()
	})
}

func (v *view) runOnce(ctx context.Context) (err error) {
	db := v.engine.db.handle()
	if db == nil {
		return errClosed
	}
	defer func() { v.engine.db.report(err) }()
	ps, err := v.engine.kafka.partitions(ctx, v.spec.Topic())
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.partitions = len(ps)
	for _, p := range ps {
		if v.meters[p] == nil {
			m := newMeter()
			v.meters[p] = &m
		}
	}
	v.mu.Unlock()
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch.Go(func() { v.engine.kafka.watchEnds(ctx, v.spec.Topic(), func() bool { return true }, v.saw) })
	f := newFollower(&v.engine.cfg, v.engine.kafka, v.name)
	defer f.Close() // Goka does not
	gv, err := goka.NewView(v.engine.cfg.Brokers, goka.Table(v.spec.Topic()), bytesCodec{},
		goka.WithViewLogger(gokaLogger{v.log}),
		goka.WithViewHasher(newHasher),
		goka.WithViewCallback(v.update),
		goka.WithViewConsumerSaramaBuilder(func([]string, string) (sarama.Consumer, error) { return consumer{f}, nil }),
		goka.WithViewTopicManagerBuilder(func([]string) (goka.TopicManager, error) {
			return topicManager{v.engine.kafka, ctx}, nil
		}),
		goka.WithViewStorageBuilder(func(topic string, partition int32) (storage.Storage, error) {
			im := &image{ks: newKeyspace(kindView, v.name, partition), db: db, disk: v.engine.db.disk, owner: v.name, layout: layoutOf(v.spec)}
			st := newStore(im, func() ([16]byte, int64, int64, error) {
				return v.engine.kafka.position(ctx, topic, partition)
			}, func() int64 { return f.batchEnd(topic, partition) })
			st.flushed = func() { v.wrote(partition, st.mark.offset) }
			st.caughtUp = func() { v.reached(partition, st.mark.offset) }
			return st, nil
		}),
	)
	if err != nil {
		return fmt.Errorf("set up goka: %w", err)
	}
	err = gv.Run(ctx)
	if err == nil && ctx.Err() == nil {
		err = errors.New("goka ended without an error")
	}
	return err
}

// layoutOf gives the hash of a view's layout; 0 if it tells none.
func layoutOf(v views.View) uint64 {
	versioned, ok := v.(views.Versioned)
	if !ok {
		return 0
	}
	return hashOf(versioned.Layout())
}

func hashOf(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

// update takes in one record. A record that the view fails on is skipped, with
// nothing of it done: it must not hold up what comes behind it.
func (v *view) update(ctx goka.UpdateContext, s storage.Storage, key string, value []byte) error {
	if key == markerKey {
		return nil
	}
	if err := failpoint.Reach(failpoint.ViewRecord, v.name); err != nil {
		return err
	}
	v.taken.Inc()
	v.records.Add(1)
	rs := recordStore{s: s}
	err := v.apply(&rs, views.Record{
		Partition: ctx.Partition(), Offset: ctx.Offset(), Key: key, Value: value,
		Headers: func() map[string][]byte { return ctx.Headers() },
	})
	if rs.err != nil {
		v.engine.db.report(rs.err)
		return rs.err // local state fails, not the view
	}
	if err != nil {
		v.failures.Inc()
		at := fmt.Sprintf("%s/%d@%d: %v", ctx.Topic(), ctx.Partition(), ctx.Offset(), err)
		v.mu.Lock()
		v.failed++
		v.lastFailure = at
		v.mu.Unlock()
		v.log.Error("view skipped a record that it cannot take in", "topic", ctx.Topic(), "partition", ctx.Partition(), "offset", ctx.Offset(), "error", err)
		return nil
	}
	return rs.apply()
}

func (v *view) apply(s views.Store, r views.Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return v.spec.Apply(s, r)
}

// recordStore collects the writes of one record, so that a view which fails in
// the middle leaves nothing.
type recordStore struct {
	s      storage.Storage
	writes []recordWrite
	err    error // of the storage
}

type recordWrite struct {
	key   string
	value []byte // nil deletes
}

func (r *recordStore) Get(key string) ([]byte, error) {
	for i := len(r.writes) - 1; i >= 0; i-- {
		if r.writes[i].key == key {
			return r.writes[i].value, nil
		}
	}
	v, err := r.s.Get(key)
	if err != nil {
		r.err = err
	}
	return v, err
}

func (r *recordStore) Set(key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	r.writes = append(r.writes, recordWrite{key, value})
	return nil
}

func (r *recordStore) Delete(key string) error {
	r.writes = append(r.writes, recordWrite{key, nil})
	return nil
}

func (r *recordStore) apply() error {
	for _, w := range r.writes {
		var err error
		if w.value == nil {
			err = r.s.Delete(w.key)
		} else {
			err = r.s.Set(w.key, w.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *view) notify() {
	v.mu.Lock()
	close(v.changed)
	v.changed = make(chan struct{})
	v.mu.Unlock()
}

// wrote takes note that everything up to an offset is in Pebble.
func (v *view) wrote(partition int32, offset int64) {
	v.mu.Lock()
	v.meters[partition].offset = offset
	v.mu.Unlock()
	v.notify()
}

// reached takes note that a partition has caught up, at an offset.
func (v *view) reached(partition int32, offset int64) {
	v.mu.Lock()
	m := v.meters[partition]
	m.offset, m.whole = offset, true
	became := !v.whole && v.caughtUp() == v.partitions
	v.whole = v.whole || became
	v.mu.Unlock()
	if became {
		v.log.Info("view has caught up")
	}
	v.notify()
}

// saw takes note of the end of what is committed, as of a time.
func (v *view) saw(partition int32, end int64, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m := v.meters[partition]; m != nil {
		m.saw(end, at)
	}
}

// caughtUp counts partitions. Callers hold mu.
func (v *view) caughtUp() (n int) {
	for _, m := range v.meters {
		if m.whole {
			n++
		}
	}
	return n
}

// Lag is part of views.Reader.
func (v *view) Lag(routing string) (worst views.Lag) {
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.partitions > 0 && routing != "" {
		return v.meters[Partition(routing, v.partitions)].lag(now, v.began)
	}
	for _, m := range v.meters {
		worst = worst.Max(m.lag(now, v.began))
	}
	return worst
}

// Changed is part of views.Reader.
func (v *view) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Ready is part of views.Reader.
func (v *view) Ready() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.whole
}

func (v *view) ready() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.whole {
		return nil
	}
	if v.lastError != "" {
		return fmt.Errorf("view %s has caught up with %d of %d partitions; last error: %s", v.name, v.caughtUp(), v.partitions, v.lastError)
	}
	return fmt.Errorf("view %s has caught up with %d of %d partitions", v.name, v.caughtUp(), v.partitions)
}

func (v *view) status() ViewStatus {
	lag := v.Lag("")
	v.mu.Lock()
	defer v.mu.Unlock()
	return ViewStatus{
		Lag:  lag,
		View: v.name, Topic: v.spec.Topic(), Ready: v.whole,
		Recovered: v.caughtUp(), Partitions: v.partitions, Records: v.records.Load(), Failures: v.failed, LastFailure: v.lastFailure, LastError: v.lastError,
	}
}

// partitionCount is that of the topic; an error until it was looked up.
func (v *view) partitionCount() (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.partitions == 0 {
		return 0, fmt.Errorf("view %s is not ready: topic %s was not reached yet", v.name, v.spec.Topic())
	}
	return v.partitions, nil
}

// Get is part of views.Reader.
func (v *view) Get(routing, key string) (value []byte, err error) {
	n, err := v.partitionCount()
	if err != nil {
		return nil, err
	}
	ks := newKeyspace(kindView, v.name, Partition(routing, n))
	err = v.engine.db.view(func(db *pebble.DB) error {
		value, err = ks.get(db, key)
		return err
	})
	return value, err
}

// Scan is part of views.Reader. fn should be quick: iterators hold on to old
// state while it runs.
func (v *view) Scan(prefix, after string, fn func(key string, value []byte) bool) error {
	n, err := v.partitionCount()
	if err != nil {
		return err
	}
	ranges := make([]scanRange, n)
	for p := range n {
		ks := newKeyspace(kindView, v.name, int32(p))
		lower, upper := ks.bounds(prefix)
		ranges[p] = scanRange{lower: lower, upper: upper, strip: len(ks) + 1}
		if after != "" {
			ranges[p].after(ks.appendKey(nil, after))
		}
	}
	return v.engine.db.view(func(db *pebble.DB) (err error) {
		snapshot := db.NewSnapshot()
		defer func() { err = errors.Join(err, snapshot.Close()) }()
		if err := scan(snapshot, ranges, fn); err != nil {
			return fmt.Errorf("scan view %s: %w", v.name, err)
		}
		return nil
	})
}

// scanRange is what a scan reads of one partition: keys from lower on and below
// upper, which are given without their first strip bytes.
type scanRange struct {
	lower, upper []byte
	strip        int
}

// after has the range begin behind a key.
func (r *scanRange) after(key []byte) {
	// The smallest key greater than another is that with a zero byte behind it.
	if key = append(key, 0); bytes.Compare(key, r.lower) > 0 {
		r.lower = key
	}
}

// scan merges the ranges in order of the keys that it gives.
func scan(r pebble.Reader, ranges []scanRange, fn func(string, []byte) bool) (err error) {
	var cursors cursorHeap
	defer func() {
		for _, c := range cursors {
			err = errors.Join(err, c.it.Close())
		}
	}()
	for _, x := range ranges {
		it, err := r.NewIter(&pebble.IterOptions{LowerBound: x.lower, UpperBound: x.upper})
		if err != nil {
			return err
		}
		c := &cursor{strip: x.strip, it: it}
		if !it.First() {
			if err := errors.Join(it.Error(), it.Close()); err != nil {
				return err
			}
			continue
		}
		c.key = it.Key()[c.strip:]
		cursors = append(cursors, c)
	}
	heap.Init(&cursors)
	for len(cursors) > 0 {
		c := cursors[0]
		value, err := c.it.ValueAndErr()
		if err != nil {
			return err
		}
		if !fn(string(c.key), append([]byte(nil), value...)) {
			return nil
		}
		if c.it.Next() {
			c.key = c.it.Key()[c.strip:]
			heap.Fix(&cursors, 0)
			continue
		}
		heap.Pop(&cursors)
		if err := errors.Join(c.it.Error(), c.it.Close()); err != nil {
			return err
		}
	}
	return nil
}

// cursor is where a scan is in one partition.
type cursor struct {
	strip int
	it    *pebble.Iterator
	key   []byte
}

type cursorHeap []*cursor

func (h cursorHeap) Len() int           { return len(h) }
func (h cursorHeap) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) < 0 }
func (h cursorHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursorHeap) Push(x any)        { *h = append(*h, x.(*cursor)) }
func (h *cursorHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}

// pollEvery is how often things are looked at that give no signal.
const pollEvery = 20 * time.Millisecond
