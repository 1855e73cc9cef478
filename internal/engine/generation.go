package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// generation is one assignment of partitions to this member of the group, in
// the form that Goka wants (a sarama.ConsumerGroupSession). It lives from the
// assignment until it is revoked, until Goka fails, or until the processor
// stops.
type generation struct {
	claims map[string][]int32
	member string
	id     int32
	ctx    context.Context
	cancel context.CancelFunc

	// revoked: the partitions are no longer ours, as opposed to a generation
	// that ended because Goka failed.
	revoked atomic.Bool

	handler sarama.ConsumerGroupHandler
	running sync.WaitGroup // of the goroutines that Goka consumes claims in
	inputs  map[topicPartition]chan *sarama.ConsumerMessage

	// inFlight counts records handed to Goka and not marked yet; drained gets
	// a token when it falls to low or below.
	inFlight atomic.Int64
	low      atomic.Int64
	drained  chan struct{}

	once     sync.Once
	setUp    bool
	failMu   sync.Mutex
	failure  error // of a claim
	endError error
}

func newGeneration(claims map[string][]int32, member string, id int32) *generation {
	g := &generation{claims: claims, member: member, id: id, drained: make(chan struct{}, 1), inputs: map[topicPartition]chan *sarama.ConsumerMessage{}}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

func (g *generation) Claims() map[string][]int32 { return g.claims }
func (g *generation) MemberID() string           { return g.member }
func (g *generation) GenerationID() int32        { return g.id }
func (g *generation) Context() context.Context   { return g.ctx }
func (g *generation) Commit()                    {} // the transaction does

// ResetOffset is part of Sarama's interface; Goka never calls it.
func (g *generation) ResetOffset(string, int32, int64, string) {}

func (g *generation) MarkMessage(m *sarama.ConsumerMessage, metadata string) {
	g.MarkOffset(m.Topic, m.Partition, m.Offset+1, metadata)
}

// MarkOffset is called by Goka once for every record it is done with. What is
// committed is not what is marked but what was handed out: they are the same
// when nothing is in flight.
func (g *generation) MarkOffset(string, int32, int64, string) {
	if g.inFlight.Add(-1) <= g.low.Load() {
		select {
		case g.drained <- struct{}{}:
		default:
		}
	}
}

// waitBelow waits until at most n records are in flight; false if the
// generation or ctx ended first.
func (g *generation) waitBelow(ctx context.Context, n int64) bool {
	g.low.Store(n)
	for g.inFlight.Load() > n {
		select {
		case <-g.drained:
		case <-g.ctx.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
	return g.ctx.Err() == nil && ctx.Err() == nil
}

// start sets Goka up, which recovers its tables, and opens the claims.
func (g *generation) start(handler sarama.ConsumerGroupHandler) error {
	g.handler, g.setUp = handler, true
	if err := handler.Setup(g); err != nil {
		return err
	}
	for topic, partitions := range g.claims {
		for _, p := range partitions {
			c := &claim{topic: topic, partition: p, messages: make(chan *sarama.ConsumerMessage, 1024)}
			g.inputs[topicPartition{topic, p}] = c.messages
			g.running.Add(1)
			go func() {
				defer g.running.Done()
				// As with Sarama: when one claim ends the session ends.
				g.fail(handler.ConsumeClaim(g, c))
			}()
		}
	}
	return nil
}

// fail ends the generation, because of err if it is not nil.
func (g *generation) fail(err error) {
	g.failMu.Lock()
	if g.failure == nil {
		g.failure = err
	}
	g.failMu.Unlock()
	g.cancel()
}

// end stops Goka for this generation and gives what went wrong in it. After
// it no callback of the generation runs any more.
func (g *generation) end() error {
	g.once.Do(func() {
		g.cancel()
		if !g.setUp {
			return
		}
		g.running.Wait()
		g.endError = g.handler.Cleanup(g)
		g.failMu.Lock()
		if g.endError == nil {
			g.endError = g.failure
		}
		g.failMu.Unlock()
	})
	return g.endError
}

// hand gives the records of one poll to Goka. It ends early with the
// generation.
func (g *generation) hand(fs kgo.Fetches, headers *headerSlab) {
	g.inFlight.Add(int64(fs.NumRecords()))
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		input := g.inputs[topicPartition{p.Topic, p.Partition}]
		if input == nil && len(p.Records) > 0 {
			g.fail(fmt.Errorf("records of %s/%d, which is not assigned", p.Topic, p.Partition))
			return
		}
		slab := make([]sarama.ConsumerMessage, len(p.Records))
		for i, r := range p.Records {
			m := &slab[i]
			m.Topic, m.Partition, m.Offset, m.Timestamp = r.Topic, r.Partition, r.Offset, r.Timestamp
			m.Key, m.Value = r.Key, r.Value
			m.Headers = headers.convert(r.Headers)
			select {
			case input <- m:
			case <-g.ctx.Done():
				return
			}
		}
	})
}

// handOne gives Goka one record that was read again. It is false if the
// generation ended.
func (g *generation) handOne(r *kgo.Record, headers *headerSlab) bool {
	input := g.inputs[topicPartition{r.Topic, r.Partition}]
	if input == nil {
		g.fail(fmt.Errorf("record of %s/%d to be read again, which is not assigned", r.Topic, r.Partition))
		return false
	}
	g.inFlight.Add(1)
	m := &sarama.ConsumerMessage{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp,
		Key: r.Key, Value: r.Value, Headers: headers.convert(r.Headers),
	}
	select {
	case input <- m:
		return true
	case <-g.ctx.Done():
		return false
	}
}

// claim is one partition of one input (a sarama.ConsumerGroupClaim).
type claim struct {
	topic     string
	partition int32
	messages  chan *sarama.ConsumerMessage
}

func (c *claim) Topic() string                            { return c.topic }
func (c *claim) Partition() int32                         { return c.partition }
func (c *claim) InitialOffset() int64                     { return sarama.OffsetOldest }
func (c *claim) HighWaterMarkOffset() int64               { return 0 } // for Sarama's own statistics
func (c *claim) Messages() <-chan *sarama.ConsumerMessage { return c.messages }

// headerSlab turns franz-go's headers into Sarama's with few allocations: the
// names of headers repeat, and the headers of many records share memory.
type headerSlab struct {
	names   map[string][]byte
	headers []sarama.RecordHeader
	ptrs    []*sarama.RecordHeader
}

const (
	maxHeaderNames = 1024 // a sender may make them up
	headerChunk    = 1024
)

func (s *headerSlab) convert(hs []kgo.RecordHeader) []*sarama.RecordHeader {
	if len(hs) == 0 {
		return nil
	}
	if len(s.headers) < len(hs) {
		n := max(headerChunk, len(hs))
		s.headers, s.ptrs = make([]sarama.RecordHeader, n), make([]*sarama.RecordHeader, n)
	}
	out := s.ptrs[:len(hs):len(hs)]
	for i, h := range hs {
		name, ok := s.names[h.Key]
		if !ok {
			name = []byte(h.Key)
			if len(s.names) < maxHeaderNames {
				s.names[h.Key] = name
			}
		}
		s.headers[i] = sarama.RecordHeader{Key: name, Value: h.Value}
		out[i] = &s.headers[i]
	}
	s.headers, s.ptrs = s.headers[len(hs):], s.ptrs[len(hs):]
	return out
}
