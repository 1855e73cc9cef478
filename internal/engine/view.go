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
	caughtUp    map[int32]bool
	changed     chan struct{}
	failed      int64
	lastFailure string
	lastError   string
}

func newView(e *Engine, spec views.View) *view {
	return &view{
		engine: e, name: spec.Name(), spec: spec, log: e.cfg.Logger.With("view", spec.Name()),
		taken: e.metrics.viewRecords.WithLabelValues(spec.Name()), failures: e.metrics.viewFailed.WithLabelValues(spec.Name()),
		caughtUp: map[int32]bool{}, changed: make(chan struct{}),
	}
}

func (v *view) run(ctx context.Context) {
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
	clear(v.caughtUp)
	v.mu.Unlock()
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
			st.flushed = v.notify
			st.caughtUp = func() { v.reached(partition) }
			return st, nil
		}),
	)
	if err != nil {
		return fmt.Errorf("set up goka: %w", err)
	}
	err = gv.Run(ctx)
	v.mu.Lock()
	clear(v.caughtUp)
	v.mu.Unlock()
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
	h := fnv.New64a()
	h.Write([]byte(versioned.Layout()))
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

func (v *view) reached(partition int32) {
	v.mu.Lock()
	v.caughtUp[partition] = true
	whole := len(v.caughtUp) == v.partitions
	v.mu.Unlock()
	if whole {
		v.log.Info("view has caught up")
	}
	v.notify()
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
	return v.partitions > 0 && len(v.caughtUp) == v.partitions
}

func (v *view) ready() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.partitions > 0 && len(v.caughtUp) == v.partitions {
		return nil
	}
	if v.lastError != "" {
		return fmt.Errorf("view %s has caught up with %d of %d partitions; last error: %s", v.name, len(v.caughtUp), v.partitions, v.lastError)
	}
	return fmt.Errorf("view %s has caught up with %d of %d partitions", v.name, len(v.caughtUp), v.partitions)
}

func (v *view) status() ViewStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return ViewStatus{
		View: v.name, Topic: v.spec.Topic(), Ready: v.partitions > 0 && len(v.caughtUp) == v.partitions,
		Recovered: len(v.caughtUp), Partitions: v.partitions, Records: v.records.Load(), Failures: v.failed, LastFailure: v.lastFailure, LastError: v.lastError,
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
	return v.engine.db.view(func(db *pebble.DB) (err error) {
		snapshot := db.NewSnapshot()
		defer func() { err = errors.Join(err, snapshot.Close()) }()
		return scan(snapshot, v.name, n, prefix, after, fn)
	})
}

// scan merges the partitions of a view in order of their keys.
func scan(r pebble.Reader, name string, partitions int, prefix, after string, fn func(string, []byte) bool) (err error) {
	var cursors cursorHeap
	defer func() {
		for _, c := range cursors {
			err = errors.Join(err, c.it.Close())
		}
	}()
	for p := range partitions {
		ks := newKeyspace(kindView, name, int32(p))
		lower, upper := ks.bounds(prefix)
		if after != "" {
			// The smallest key greater than after is after with a zero byte.
			if a := append(ks.appendKey(nil, after), 0); bytes.Compare(a, lower) > 0 {
				lower = a
			}
		}
		it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return fmt.Errorf("scan view %s: %w", name, err)
		}
		c := &cursor{ks: ks, it: it}
		if !it.First() {
			if err := errors.Join(it.Error(), it.Close()); err != nil {
				return fmt.Errorf("scan view %s: %w", name, err)
			}
			continue
		}
		c.key = ks.userKey(it.Key())
		cursors = append(cursors, c)
	}
	heap.Init(&cursors)
	for len(cursors) > 0 {
		c := cursors[0]
		value, err := c.it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("scan view %s: %w", name, err)
		}
		if !fn(string(c.key), append([]byte(nil), value...)) {
			return nil
		}
		if c.it.Next() {
			c.key = c.ks.userKey(c.it.Key())
			heap.Fix(&cursors, 0)
			continue
		}
		heap.Pop(&cursors)
		if err := errors.Join(c.it.Error(), c.it.Close()); err != nil {
			return fmt.Errorf("scan view %s: %w", name, err)
		}
	}
	return nil
}

// cursor is where a scan is in one partition.
type cursor struct {
	ks  keyspace
	it  *pebble.Iterator
	key []byte
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
