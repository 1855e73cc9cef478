package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// follower is Goka's consumer of tables and views (a sarama.Consumer) on
// franz-go. It reads committed records.
//
// Goka has recovered a partition when it was given the record before the high
// watermark. In a transactional log that offset belongs to a transaction
// marker, which readers do not see: Goka would wait forever. So the follower
// keeps control records and delivers each as a record with markerKey; and where
// nothing arrives although the end is not reached (aborted records, gaps that
// compaction left), it looks once for the offset behind them and delivers that.
type follower struct {
	kafka *kafka
	cl    *kgo.Client
	done  chan struct{} // the poll loop has ended

	mu        sync.Mutex
	parts     map[topicPartition]*followed
	ends      map[topicPartition]int64 // high watermarks
	requests  []func()
	interrupt context.CancelFunc // of the poll that is under way
}

type topicPartition struct {
	topic     string
	partition int32
}

func newFollower(cfg *Config, k *kafka, role string) (*follower, error) {
	cl, err := kgo.NewClient(cfg.clientOptions(role,
		kgo.KeepControlRecords(),
		// An offset that is gone must not be skipped silently: as an error it
		// makes the store begin anew, see store.Open.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	f := &follower{kafka: k, cl: cl, done: make(chan struct{}), parts: map[topicPartition]*followed{}, ends: map[topicPartition]int64{}}
	go f.poll()
	return f, nil
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
				case part.errs <- &sarama.ConsumerError{Topic: p.Topic, Partition: p.Partition, Err: p.Err}:
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

func (f *follower) ConsumePartition(topic string, partition int32, offset int64) (sarama.PartitionConsumer, error) {
	tp := topicPartition{topic, partition}
	var at kgo.Offset
	switch offset {
	case sarama.OffsetOldest:
		at = kgo.NewOffset().AtStart()
	case sarama.OffsetNewest:
		at = kgo.NewOffset().AtEnd()
	default:
		at = kgo.NewOffset().At(offset)
	}
	part := &followed{
		f: f, tp: tp, next: max(offset, 0),
		msgs: make(chan *sarama.ConsumerMessage, 256), errs: make(chan *sarama.ConsumerError, 4),
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	part.batchEnd.Store(-1)
	taken := false
	f.between(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if taken = f.parts[tp] != nil; taken {
			return
		}
		f.parts[tp] = part
		f.cl.ResumeFetchPartitions(map[string][]int32{topic: {partition}})
		f.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: at}})
	})
	if taken {
		return nil, fmt.Errorf("%s/%d is followed already", topic, partition)
	}
	go part.run()
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

func (f *follower) Close() error {
	f.cl.Close()
	<-f.done
	return nil
}

func (f *follower) Topics() ([]string, error) {
	td, err := f.kafka.adm.ListTopics(context.Background())
	return td.Names(), err
}

func (f *follower) Partitions(topic string) ([]int32, error) {
	return f.kafka.partitions(context.Background(), topic)
}

func (f *follower) HighWaterMarks() map[string]map[int32]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[string]map[int32]int64{}
	for tp, end := range f.ends {
		if m[tp.topic] == nil {
			m[tp.topic] = map[int32]int64{}
		}
		m[tp.topic][tp.partition] = end
	}
	return m
}

// Goka never pauses a table.
func (*follower) Pause(map[string][]int32)  {}
func (*follower) Resume(map[string][]int32) {}
func (*follower) PauseAll()                 {}
func (*follower) ResumeAll()                {}

// followed is one partition of a follower: a sarama.PartitionConsumer.
type followed struct {
	f        *follower
	tp       topicPartition
	msgs     chan *sarama.ConsumerMessage
	errs     chan *sarama.ConsumerError
	wake     chan struct{}
	stop     chan struct{}
	once     sync.Once
	batchEnd atomic.Int64
	next     int64 // offset to deliver next; run's own

	mu     sync.Mutex
	queue  [][]*kgo.Record
	bytes  int
	paused bool
}

// maxQueued bytes of one partition wait for Goka before its fetches pause.
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

func (p *followed) take() [][]*kgo.Record {
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

func (p *followed) run() {
	defer close(p.msgs)
	defer close(p.errs)
	wait := probeFirst
	idle := time.NewTimer(wait)
	defer idle.Stop()
	for {
		q := p.take()
		for _, rs := range q {
			if !p.deliver(rs) {
				return
			}
		}
		if len(q) > 0 {
			wait = probeFirst
			continue
		}
		idle.Reset(wait)
		select {
		case <-p.wake:
		case <-p.stop:
			return
		case <-idle.C:
			wait = min(2*wait, probeMax)
			if !p.probe() {
				return
			}
		}
	}
}

// deliver hands one fetch to Goka; false when the partition is closed.
func (p *followed) deliver(rs []*kgo.Record) bool {
	p.batchEnd.Store(rs[len(rs)-1].Offset)
	slab := make([]sarama.ConsumerMessage, len(rs))
	for i, r := range rs {
		m := &slab[i]
		m.Topic, m.Partition, m.Offset, m.Timestamp = r.Topic, r.Partition, r.Offset, r.Timestamp
		m.Key, m.Value = r.Key, r.Value
		if r.Attrs.IsControl() {
			m.Key, m.Value = []byte(markerKey), nil
		}
		p.next = r.Offset + 1
		select {
		case p.msgs <- m:
		case <-p.stop:
			return false
		}
	}
	return true
}

// probe delivers the offset behind invisible records, if there are only such.
func (p *followed) probe() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fp, next, err := p.f.kafka.fetch(ctx, p.tp.topic, p.tp.partition, p.next, 1<<20)
	if err != nil || len(fp.Records) > 0 || next <= p.next {
		return true // the poll loop reports errors and brings records
	}
	p.next = next
	p.batchEnd.Store(next - 1)
	select {
	case p.msgs <- &sarama.ConsumerMessage{Topic: p.tp.topic, Partition: p.tp.partition, Offset: next - 1, Key: []byte(markerKey)}:
		return true
	case <-p.stop:
		return false
	}
}

func (p *followed) AsyncClose() {
	p.once.Do(func() {
		p.f.between(func() {
			p.f.cl.RemoveConsumePartitions(map[string][]int32{p.tp.topic: {p.tp.partition}})
			p.f.mu.Lock()
			delete(p.f.parts, p.tp)
			p.f.mu.Unlock()
		})
		close(p.stop)
	})
}

func (p *followed) Close() error {
	p.AsyncClose()
	for range p.msgs {
	}
	return nil
}

func (p *followed) Messages() <-chan *sarama.ConsumerMessage { return p.msgs }
func (p *followed) Errors() <-chan *sarama.ConsumerError     { return p.errs }

func (p *followed) HighWaterMarkOffset() int64 {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return p.f.ends[p.tp]
}

func (*followed) Pause()         {}
func (*followed) Resume()        {}
func (*followed) IsPaused() bool { return false }
