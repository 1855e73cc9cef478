package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// task is one partition number at work: that partition of every input and of
// the table, in a Goka processor of its own, so that tasks come and go without
// the others. To Goka it is a consumer group (sarama.ConsumerGroup) that makes
// one assignment (sarama.ConsumerGroupSession) of one partition.
//
// It recovers as soon as it is started, and is then given records until it is
// stopped or fails.
type task struct {
	s         *session
	partition int32
	claim     claim
	log       *slog.Logger

	// ctx is that of Goka; it ends when the task is to stop or has failed.
	ctx    context.Context
	cancel context.CancelFunc
	// done is closed when Goka has stopped: no step runs any more.
	done chan struct{}

	inputs map[string]chan *sarama.ConsumerMessage
	table  *states // set before recovered; nil without one
	took   time.Duration

	// recovered: it can be given records.
	recovered atomic.Bool

	// Of the session's loop:
	working bool      // it is given records
	since   time.Time // when that began
	// backlogs of its inputs, by topic.
	backlogs map[string]*backlog

	// inFlight counts records handed to Goka and not marked yet; the session
	// is told when it falls to low.
	inFlight, low atomic.Int64

	stopped atomic.Bool // on the session's wish
	failMu  sync.Mutex
	failure error
}

// Nothing is polled while as many records as pollAgainAt are in flight, so a
// task never has more than these.
const taskBuffer = pollRecords + pollAgainAt

func (s *session) newTask(partition int32, c claim) *task {
	t := &task{
		s: s, partition: partition, claim: c,
		log:  s.log.With("partition", partition),
		done: make(chan struct{}), inputs: map[string]chan *sarama.ConsumerMessage{}, backlogs: map[string]*backlog{},
	}
	for topic := range c.topics {
		t.inputs[topic] = make(chan *sarama.ConsumerMessage, taskBuffer)
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// run is the life of the task.
func (t *task) run() {
	gp, err := goka.NewProcessor(t.s.cfg.Brokers, t.s.p.graph(&step{s: t.s, p: t.s.p}), t.gokaOptions()...)
	if err != nil {
		err = fmt.Errorf("set up goka: %w", err)
	} else {
		err = gp.Run(t.ctx)
	}
	t.fail(cmp.Or(err, errors.New("goka ended without an error")))
	close(t.done)
	t.s.nudge()
	t.s.stir()
}

// gokaOptions are the seams by which Goka runs on the session.
func (t *task) gokaOptions() []goka.ProcessorOption {
	return []goka.ProcessorOption{
		goka.WithLogger(gokaLogger{t.log}),
		goka.WithHasher(newHasher),
		goka.WithNilHandling(goka.NilProcess),
		goka.WithPartitionChannelSize(256),
		goka.WithConsumerGroupBuilder(func([]string, string, string) (sarama.ConsumerGroup, error) { return t, nil }),
		goka.WithConsumerSaramaBuilder(func([]string, string) (sarama.Consumer, error) { return sharedFollower{consumer{t.s.recovery}}, nil }),
		goka.WithProducerBuilder(func([]string, string, func() hash.Hash32) (goka.Producer, error) {
			return transactionProducer{t.s}, nil
		}),
		goka.WithTopicManagerBuilder(func([]string) (goka.TopicManager, error) {
			return topicManager{t.s.p.engine.kafka, t.ctx}, nil
		}),
		goka.WithStorageBuilder(func(_ string, partition int32) (storage.Storage, error) {
			if hook := t.s.cfg.hooks.recovering; hook != nil {
				if err := hook(t); err != nil {
					return nil, err
				}
			}
			t.table = t.s.openTable(t.ctx, partition)
			return openTable{t.table}, nil
		}),
	}
}

// Consume is called by Goka once: it recovers, works and cleans up.
func (t *task) Consume(_ context.Context, _ []string, handler sarama.ConsumerGroupHandler) error {
	began := time.Now()
	err := handler.Setup(t) // recovers the table
	if err == nil && t.ctx.Err() == nil {
		err = failpoint.Reach(failpoint.RecoveryDone, t.s.p.spec.Group)
	}
	switch {
	case err != nil:
		t.fail(fmt.Errorf("recover: %w", err))
	case t.ctx.Err() == nil: // else Goka was interrupted and says nothing
		t.took = time.Since(began)
		t.recovered.Store(true)
		t.s.stir()
		var claims sync.WaitGroup
		for topic, messages := range t.inputs {
			claims.Go(func() {
				// As with Sarama: when one claim ends the session ends.
				t.fail(handler.ConsumeClaim(t, taskInput{topic, t.partition, messages}))
			})
		}
		claims.Wait()
	}
	return errors.Join(t.failed(), handler.Cleanup(t))
}

// openTable is a table as Goka has it: Goka does not close it, because the
// session may be about to write what the last transaction has left in it.
type openTable struct{ *states }

func (openTable) Close() error { return nil }

// closeTable gives the table up. The session does so when the task has ended
// and no transaction is open.
func (t *task) closeTable() error {
	if t.table == nil {
		return nil
	}
	t.table.cache.close()
	return t.table.Close()
}

// stop ends the task, which takes until done is closed.
func (t *task) stop() {
	t.stopped.Store(true)
	t.cancel()
}

// fail ends the task because of err, unless it is to stop anyway.
func (t *task) fail(err error) {
	t.failMu.Lock()
	if t.failure == nil && !t.stopped.Load() {
		t.failure = err
	}
	t.failMu.Unlock()
	t.cancel()
}

func (t *task) failed() error {
	t.failMu.Lock()
	defer t.failMu.Unlock()
	return t.failure
}

// ended tells that Goka has stopped.
func (t *task) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// hand gives records of one input to Goka. It does not wait for their steps.
func (t *task) hand(topic string, rs []*kgo.Record, headers *headerSlab) {
	t.inFlight.Add(int64(len(rs)))
	input := t.inputs[topic]
	slab := make([]sarama.ConsumerMessage, len(rs))
	for i, r := range rs {
		m := &slab[i]
		m.Topic, m.Partition, m.Offset, m.Timestamp = r.Topic, r.Partition, r.Offset, r.Timestamp
		m.Key, m.Value = r.Key, r.Value
		m.Headers = headers.convert(r.Headers)
		select {
		case input <- m:
		case <-t.ctx.Done():
			return
		}
	}
}

// MarkOffset is called by Goka once for every record it is done with. What is
// committed is not what is marked but what was handed out: they are the same
// when nothing is in flight.
func (t *task) MarkOffset(string, int32, int64, string) {
	if t.inFlight.Add(-1) == t.low.Load() {
		t.s.nudge()
	}
}

func (t *task) MarkMessage(m *sarama.ConsumerMessage, metadata string) {
	t.MarkOffset(m.Topic, m.Partition, m.Offset+1, metadata)
}

func (t *task) Claims() map[string][]int32 { return t.claim.topics }
func (t *task) Context() context.Context   { return t.ctx }
func (t *task) MemberID() string           { return t.s.cfg.Instance }
func (t *task) GenerationID() int32        { return int32(t.claim.epoch) } // for Goka's log
func (*task) Commit()                      {}                              // the transaction does

// The rest of Sarama's interfaces is nothing that Goka needs here.
func (*task) ResetOffset(string, int32, int64, string) {}
func (*task) Errors() <-chan error                     { return nil } // errors end Consume instead
func (*task) Pause(map[string][]int32)                 {}
func (*task) Resume(map[string][]int32)                {}
func (*task) PauseAll()                                {}
func (*task) ResumeAll()                               {}
func (*task) Close() error                             { return nil }

// taskInput is one input of a task (a sarama.ConsumerGroupClaim).
type taskInput struct {
	topic     string
	partition int32
	messages  chan *sarama.ConsumerMessage
}

func (c taskInput) Topic() string                            { return c.topic }
func (c taskInput) Partition() int32                         { return c.partition }
func (c taskInput) InitialOffset() int64                     { return sarama.OffsetOldest }
func (c taskInput) HighWaterMarkOffset() int64               { return 0 } // for Sarama's own statistics
func (c taskInput) Messages() <-chan *sarama.ConsumerMessage { return c.messages }
