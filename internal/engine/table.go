package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// table is a table as this process has it: a replica of each partition that it
// owns or keeps warm.
type table struct {
	engine  *Engine
	topic   string
	group   string // whose table it is, if a processor of that is here
	standby bool
	index   *tableIndex // nil without one
	log     *slog.Logger
	counter prometheus.Counter
	// followed and owned count records taken in and written.
	followed, owned atomic.Int64

	mu        sync.Mutex
	replicas  map[int32]*replica
	count     int // of the topic's partitions; 0 until it was looked up
	changed   chan struct{}
	lastError string
	began     time.Time // of this run
}

// table gives the table of a changelog, which is made at the first call.
func (e *Engine) table(topic string) *table {
	for _, t := range e.tables {
		if t.topic == topic {
			return t
		}
	}
	t := &table{
		engine: e, topic: topic, log: e.cfg.Logger.With("table", topic), counter: e.metrics.tableRecords.WithLabelValues(topic),
		replicas: map[int32]*replica{}, changed: make(chan struct{}),
	}
	e.tables = append(e.tables, t)
	return t
}

func (t *table) replica(partition int32) *replica {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.replicas[partition]
	if r == nil {
		r = newReplica(t, partition)
		t.replicas[partition] = r
	}
	return r
}

// begin forgets what an earlier run has found out: local state may be another.
func (t *table) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastError, t.began = "", time.Now()
	for p := range t.replicas {
		t.replicas[p] = newReplica(t, p)
	}
}

// each calls fn for every replica in order of partitions.
func (t *table) each(fn func(r *replica)) {
	t.mu.Lock()
	n := int32(t.count)
	for p := range t.replicas {
		n = max(n, p+1)
	}
	rs := make([]*replica, 0, n)
	for p := range n {
		if r := t.replicas[p]; r != nil {
			rs = append(rs, r)
		}
	}
	t.mu.Unlock()
	for _, r := range rs {
		fn(r)
	}
}

// notify wakes who waits for a change.
func (t *table) notify() {
	t.mu.Lock()
	close(t.changed)
	t.changed = make(chan struct{})
	t.mu.Unlock()
}

// progressEvery is how often the progress of a restoration is logged.
const progressEvery = 3 * time.Second

// run keeps the table warm, if it is to be, and tells of its progress.
func (t *table) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { t.tellProgress(ctx) })
	wg.Go(func() {
		t.engine.kafka.watchEnds(ctx, t.topic, t.follows, func(p int32, end int64, at time.Time) { t.replica(p).saw(end, at) })
	})
	if !t.standby {
		return
	}
	restart(ctx, t.log, "standby", t.stand, func(err error) {
		t.mu.Lock()
		t.lastError = oneLine(err)
		t.mu.Unlock()
	})
}

// stand follows the partitions that this process does not own until ctx ends or
// one of them fails.
func (t *table) stand(ctx context.Context) (err error) {
	defer func() { t.engine.db.report(err) }()
	partitions, err := t.engine.kafka.partitions(ctx, t.topic)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.count = len(partitions)
	t.mu.Unlock()
	f := newFollower(&t.engine.cfg, t.engine.kafka, t.topic+"-standby",
		// A broker answers one request of a connection at a time: a partition that
		// is added waits for the answer about those that have nothing new.
		kgo.FetchMaxWait(500*time.Millisecond))
	defer f.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(partitions))
	for _, p := range partitions {
		r := t.replica(p)
		go func() { failed <- r.stand(ctx, f) }()
	}
	for range partitions {
		if perr := <-failed; perr != nil && err == nil {
			err = perr
			cancel()
		}
	}
	return err
}

// tellProgress logs how far long restorations have come, until ctx ends.
func (t *table) tellProgress(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			t.logProgress(now)
		}
	}
}

// follows tells whether a partition is read that others may write.
func (t *table) follows() (yes bool) {
	t.each(func(r *replica) {
		r.mu.Lock()
		defer r.mu.Unlock()
		yes = yes || r.state == ReplicaFollowing || r.state == ReplicaRestoring || r.state == ReplicaIdle && t.indexed()
	})
	return yes
}

// logProgress writes one line about the restorations that are under way, if any
// is.
func (t *table) logProgress(now time.Time) {
	var sum restoration
	n := 0
	t.each(func(r *replica) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.state != ReplicaRestoring || now.Sub(r.restore.began) < watchEvery {
			return
		}
		n++
		x := r.restore
		if sum.began.IsZero() || x.began.Before(sum.began) {
			sum.began = x.began
		}
		sum.to += x.to - x.from
		sum.at += x.at - x.from
		sum.records += x.records
		sum.bytes += x.bytes
	})
	if n == 0 {
		return
	}
	t.log.Info("restoring table", append([]any{"partitions", n}, sum.attrs(now.Sub(sum.began))...)...)
}

// attrs describes a restoration for a log.
func (x restoration) attrs(took time.Duration) []any {
	seconds := max(took.Seconds(), 1e-6)
	attrs := []any{"records", x.records, "MB", x.bytes / 1e6, "records_per_second", int64(float64(x.records) / seconds), "percent", fmt.Sprintf("%.1f", x.percent())}
	if left := x.left(took); left > 0 {
		attrs = append(attrs, "left", left.Round(time.Second))
	}
	return attrs
}

// percent of the offsets that are done.
func (x restoration) percent() float64 {
	if x.to <= x.from {
		return 100
	}
	return 100 * float64(x.at-x.from) / float64(x.to-x.from)
}

// left estimates how long it will still take.
func (x restoration) left(took time.Duration) time.Duration {
	if x.at <= x.from || x.to <= x.at {
		return 0
	}
	return time.Duration(float64(took) * float64(x.to-x.at) / float64(x.at-x.from))
}

// restored takes note of a restoration that is over.
func (t *table) restored(partition int32, x restoration, took time.Duration) {
	m := t.engine.metrics
	m.restored.WithLabelValues(t.topic).Add(float64(x.records))
	m.restoredBytes.WithLabelValues(t.topic).Add(float64(x.bytes))
	m.restore.WithLabelValues(t.topic).Observe(took.Seconds())
	level := slog.LevelDebug
	if took > watchEvery {
		level = slog.LevelInfo
	}
	t.log.Log(context.Background(), level, "table is restored", append([]any{"partition", partition, "took", took.Round(time.Millisecond)}, x.attrs(took)...)...)
}

// status tells how the table is doing.
func (t *table) status(now time.Time) TableStatus {
	t.mu.Lock()
	s := TableStatus{Table: t.topic, Standby: t.standby, Followed: t.followed.Load(), LastError: t.lastError}
	t.mu.Unlock()
	t.each(func(r *replica) { s.Partitions = append(s.Partitions, r.status(now)) })
	return s
}
