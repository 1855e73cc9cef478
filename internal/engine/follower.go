package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// follower follows partitions of logs with one client, each from an offset on,
// until it is closed. It reads committed records. A replica follows its log by
// it, and consumer makes Goka's consumer of it.
//
// It keeps control records, since the last offset of a transactional log
// belongs to one; and where nothing arrives although there may be more (aborted
// records, gaps that compaction left), it looks now and then for the offset
// behind them. So who follows always gets to the end.
type follower struct {
	kafka *kafka
	opts  []kgo.Opt

	mu        sync.Mutex
	cl        *kgo.Client // nil until something is followed
	closed    bool
	done      chan struct{} // the poll loop has ended
	parts     map[topicPartition]*followed
	ends      map[topicPartition]int64 // high watermarks
	requests  []func()
	interrupt context.CancelFunc // of the poll that is under way
}

type topicPartition struct {
	topic     string
	partition int32
}

func newFollower(cfg *Config, k *kafka, role string, opts ...kgo.Opt) *follower {
	return &follower{
		kafka: k,
		opts: cfg.clientOptions(role, append([]kgo.Opt{
			kgo.KeepControlRecords(),
			// An offset that is gone must not be skipped silently: as an error it
			// makes the local state begin anew, see image.open.
			kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		}, opts...)...),
		done: make(chan struct{}), parts: map[topicPartition]*followed{}, ends: map[topicPartition]int64{},
	}
}

// connect makes the client when the first partition is followed: most sessions
// find their tables recovered and need none.
func (f *follower) connect() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return errors.New("follower is closed")
	case f.cl != nil:
		return nil
	}
	cl, err := kgo.NewClient(f.opts...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	f.cl = cl
	go f.poll()
	return nil
}

func (f *follower) poll() {
	defer close(f.done)
	for {
		ctx, cancel := context.WithCancel(context.Background())
		f.mu.Lock()
		f.interrupt = cancel
		requests := f.requests
		f.requests = nil
		f.mu.Unlock()
		for _, fn := range requests {
			fn()
		}
		fs := f.cl.PollFetches(ctx)
		cancel()
		if fs.IsClientClosed() {
			return
		}
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			tp := topicPartition{p.Topic, p.Partition}
			f.mu.Lock()
			part := f.parts[tp]
			if part != nil {
				f.ends[tp] = p.HighWatermark
			}
			f.mu.Unlock()
			if part == nil {
				return // such as the fake fetch that tells of an interrupt
			}
			if p.Err != nil && !errors.Is(p.Err, context.Canceled) {
				select {
				case part.errs <- p.Err:
				default:
				}
			}
			if len(p.Records) > 0 {
				part.push(p.Records)
			}
		})
	}
}

// between has fn run between two polls and waits for it. What is followed
// changes only there: else a poll that returned before a partition was closed
// could deliver into the one that was opened for it since, and skip records.
func (f *follower) between(fn func()) {
	ran := make(chan struct{})
	f.mu.Lock()
	f.requests = append(f.requests, func() { fn(); close(ran) })
	if f.interrupt != nil {
		f.interrupt()
	}
	f.mu.Unlock()
	select {
	case <-ran:
	case <-f.done:
	}
}

// follow begins to follow a partition; next is the first offset that may come.
func (f *follower) follow(tp topicPartition, at kgo.Offset, next int64) (*followed, error) {
	if err := f.connect(); err != nil {
		return nil, err
	}
	part := &followed{f: f, tp: tp, next: next, wait: probeFirst, wake: make(chan struct{}, 1), errs: make(chan error, 4)}
	taken := false
	f.between(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if taken = f.parts[tp] != nil; taken {
			return
		}
		f.parts[tp] = part
		f.cl.ResumeFetchPartitions(map[string][]int32{tp.topic: {tp.partition}})
		f.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{tp.topic: {tp.partition: at}})
	})
	if taken {
		return nil, fmt.Errorf("%s/%d is followed already", tp.topic, tp.partition)
	}
	return part, nil
}

// batchEnd gives the last offset of what is being delivered for a partition:
// when a store has taken it in, it is time to write.
func (f *follower) batchEnd(topic string, partition int32) int64 {
	f.mu.Lock()
	part := f.parts[topicPartition{topic, partition}]
	f.mu.Unlock()
	if part == nil {
		return -1
	}
	return part.batchEnd.Load()
}

// Close ends all following. It may be called again.
func (f *follower) Close() error {
	f.mu.Lock()
	cl := f.cl
	f.closed = true
	f.mu.Unlock()
	if cl != nil {
		cl.Close()
		<-f.done
	}
	return nil
}

// followed is one partition of a follower: what was fetched and not taken yet.
type followed struct {
	f    *follower
	tp   topicPartition
	wake chan struct{}
	errs chan error
	// batchEnd is the last offset of what Goka is being given.
	batchEnd atomic.Int64

	// The taker's own: the offset to take next, and when to look for it.
	next int64
	wait time.Duration

	mu     sync.Mutex
	queue  [][]*kgo.Record
	bytes  int
	paused bool
}

// maxQueued bytes of one partition wait to be taken before its fetches pause.
const maxQueued = 2 << 20

func (p *followed) push(rs []*kgo.Record) {
	n := 0
	for _, r := range rs {
		n += len(r.Key) + len(r.Value) + 64
	}
	p.mu.Lock()
	p.queue = append(p.queue, rs)
	p.bytes += n
	if p.bytes > maxQueued && !p.paused {
		p.paused = true
		p.f.cl.PauseFetchPartitions(map[string][]int32{p.tp.topic: {p.tp.partition}})
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *followed) queued() [][]*kgo.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queue
	p.queue, p.bytes = nil, 0
	if p.paused {
		p.paused = false
		p.f.cl.ResumeFetchPartitions(map[string][]int32{p.tp.topic: {p.tp.partition}})
	}
	return q
}

// After this long without a record a follower looks for invisible ones; the
// time doubles up to the maximum while there are none.
const (
	probeFirst = 100 * time.Millisecond
	probeMax   = 10 * time.Second
)

// take waits for what the log has next: whole fetches, control records among
// them, and the offset behind them. Where only invisible records are left there
// is that offset alone.
func (p *followed) take(ctx context.Context) (fetches [][]*kgo.Record, next int64, err error) {
	idle := time.NewTimer(p.wait)
	defer idle.Stop()
	for {
		if q := p.queued(); len(q) > 0 {
			last := q[len(q)-1]
			p.next, p.wait = last[len(last)-1].Offset+1, probeFirst
			return q, p.next, nil
		}
		select {
		case <-p.wake:
		case err := <-p.errs:
			return nil, p.next, err
		case <-ctx.Done():
			return nil, p.next, ctx.Err()
		case <-idle.C:
			if p.probe(ctx) {
				p.wait = probeFirst
				return nil, p.next, nil
			}
			p.wait = min(2*p.wait, probeMax)
			idle.Reset(p.wait)
		}
	}
}

// probe moves behind invisible records, if there are only such.
func (p *followed) probe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	fp, next, err := p.f.kafka.fetch(ctx, p.tp.topic, p.tp.partition, p.next, 1<<20)
	if err != nil || len(fp.Records) > 0 || next <= p.next {
		return false // the poll loop reports errors and brings records
	}
	p.next = next
	return true
}

// close ends the following; what was not taken is dropped.
func (p *followed) close() {
	p.f.between(func() {
		p.f.cl.RemoveConsumePartitions(map[string][]int32{p.tp.topic: {p.tp.partition}})
		p.f.mu.Lock()
		delete(p.f.parts, p.tp)
		p.f.mu.Unlock()
	})
}
