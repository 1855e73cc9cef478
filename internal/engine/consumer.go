package engine

import (
	"context"
	"sync"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consumer is a follower in the form that Goka wants: its consumer of tables
// and views (a sarama.Consumer).
//
// Goka has recovered a partition when it was given the record before the high
// watermark. In a transactional log that offset belongs to a transaction
// marker, which readers do not see: Goka would wait forever. So each control
// record, and each offset behind invisible records, is delivered as a record
// with markerKey.
type consumer struct{ *follower }

func (c consumer) ConsumePartition(topic string, partition int32, offset int64) (sarama.PartitionConsumer, error) {
	var at kgo.Offset
	switch offset {
	case sarama.OffsetOldest:
		at = kgo.NewOffset().AtStart()
	case sarama.OffsetNewest:
		at = kgo.NewOffset().AtEnd()
	default:
		at = kgo.NewOffset().At(offset)
	}
	part, err := c.follow(topicPartition{topic, partition}, at, max(offset, 0))
	if err != nil {
		return nil, err
	}
	part.batchEnd.Store(-1)
	p := &consumed{followed: part, msgs: make(chan *sarama.ConsumerMessage, 256), errors: make(chan *sarama.ConsumerError, 4), headers: headerSlab{names: map[string][]byte{}}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	go p.run()
	return p, nil
}

func (c consumer) Topics() ([]string, error) {
	td, err := c.kafka.adm.ListTopics(context.Background())
	return td.Names(), err
}

func (c consumer) Partitions(topic string) ([]int32, error) {
	return c.kafka.partitions(context.Background(), topic)
}

func (c consumer) HighWaterMarks() map[string]map[int32]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := map[string]map[int32]int64{}
	for tp, end := range c.ends {
		if m[tp.topic] == nil {
			m[tp.topic] = map[int32]int64{}
		}
		m[tp.topic][tp.partition] = end
	}
	return m
}

// Goka never pauses a table.
func (consumer) Pause(map[string][]int32)  {}
func (consumer) Resume(map[string][]int32) {}
func (consumer) PauseAll()                 {}
func (consumer) ResumeAll()                {}

// consumed is one partition of a consumer (a sarama.PartitionConsumer).
type consumed struct {
	*followed
	msgs    chan *sarama.ConsumerMessage
	headers headerSlab // deliver's
	errors  chan *sarama.ConsumerError
	ctx     context.Context
	stop    context.CancelFunc
	once    sync.Once
}

func (p *consumed) run() {
	defer close(p.msgs)
	defer close(p.errors)
	for {
		fetches, next, err := p.take(p.ctx)
		switch {
		case p.ctx.Err() != nil:
			return
		case err != nil:
			select {
			case p.errors <- &sarama.ConsumerError{Topic: p.tp.topic, Partition: p.tp.partition, Err: err}:
			default:
			}
			continue
		}
		for _, rs := range fetches {
			if !p.deliver(rs) {
				return
			}
		}
		if len(fetches) == 0 && !p.send(next-1, &sarama.ConsumerMessage{Topic: p.tp.topic, Partition: p.tp.partition, Offset: next - 1, Key: []byte(markerKey)}) {
			return
		}
	}
}

// deliver hands one fetch to Goka; false when the partition is closed.
func (p *consumed) deliver(rs []*kgo.Record) bool {
	end := rs[len(rs)-1].Offset
	slab := make([]sarama.ConsumerMessage, len(rs))
	for i, r := range rs {
		m := &slab[i]
		m.Topic, m.Partition, m.Offset, m.Timestamp = r.Topic, r.Partition, r.Offset, r.Timestamp
		m.Key, m.Value, m.Headers = r.Key, r.Value, p.headers.convert(r.Headers)
		if r.Attrs.IsControl() {
			m.Key, m.Value = []byte(markerKey), nil
		}
		if !p.send(end, m) {
			return false
		}
	}
	return true
}

// send delivers one message of a fetch that ends at the offset end.
func (p *consumed) send(end int64, m *sarama.ConsumerMessage) bool {
	p.batchEnd.Store(end)
	select {
	case p.msgs <- m:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func (p *consumed) AsyncClose() {
	p.once.Do(func() {
		p.close()
		p.stop()
	})
}

func (p *consumed) Close() error {
	p.AsyncClose()
	for range p.msgs {
	}
	return nil
}

func (p *consumed) Messages() <-chan *sarama.ConsumerMessage { return p.msgs }
func (p *consumed) Errors() <-chan *sarama.ConsumerError     { return p.errors }

func (p *consumed) HighWaterMarkOffset() int64 {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return p.f.ends[p.tp]
}

func (*consumed) Pause()         {}
func (*consumed) Resume()        {}
func (*consumed) IsPaused() bool { return false }
