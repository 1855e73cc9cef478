package engine

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/cockroachdb/pebble/v2"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// session is one life of a processor: its transactional client, its
// membership in the group, and the loop that polls, hands out and commits. It
// is what Goka sees as a sarama.ConsumerGroup. A session ends with the
// processor or at the first error that it cannot handle by aborting a
// transaction; the next one starts by fencing it.
type session struct {
	p   *processor
	cfg *Config
	db  *pebble.DB
	log *slog.Logger
	gts *kgo.GroupTransactSession
	cl  *kgo.Client

	// life ends when a stop in good order has taken too long. What waits for
	// Kafka waits with it.
	life    context.Context
	endLife context.CancelFunc

	mu   sync.Mutex
	gen  *generation        // current assignment; nil if none
	wake context.CancelFunc // of who waits for an assignment

	// recovery brings Goka what a table lacks once its replica is restored,
	// which is seldom anything.
	recovery *follower

	tablesMu sync.Mutex
	tables   atomic.Pointer[[]*states] // by partition; those of this generation

	takenOver bool // another process has joined the group as this instance

	tx      transaction
	side    *side // of this generation; nil without a control topic
	headers headerSlab
	errs    chan error

	// refused are inputs whose output the broker will not take, with how often.
	refusedMu sync.Mutex
	refused   map[position]refusal
}

// position is that of an input record.
type position struct {
	topic     string
	partition int32
	offset    int64
}

var errRevoked = errors.New("partitions were revoked")

// openSession connects, and fences whoever used the transactional id before.
func openSession(ctx context.Context, p *processor, db *pebble.DB) (*session, error) {
	cfg := &p.engine.cfg
	s := &session{
		p: p, cfg: cfg, db: db, log: p.log, errs: make(chan error),
		headers: headerSlab{names: map[string][]byte{}}, refused: map[position]refusal{},
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.recovery = newFollower(cfg, p.engine.kafka, p.spec.Group+"-recovery")
	s.tables.Store(&[]*states{})
	s.tx.init()
	byKey := kgo.StickyKeyPartitioner(nil)
	// franz-go always fetches stable offsets: a group that takes over waits
	// for the transactions of the one before.
	opts := cfg.clientOptions(p.spec.Group,
		kgo.ConsumerGroup(p.spec.Group),
		kgo.InstanceID(cfg.Instance),
		kgo.TransactionalID(p.spec.Group+"."+cfg.Instance),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.Balancers(kgo.RangeBalancer()), // keeps equally numbered partitions of all inputs together
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(cfg.SessionTimeout/5),
		kgo.RebalanceTimeout(cfg.SessionTimeout),
		kgo.OnPartitionsAssigned(s.assigned),
		kgo.OnPartitionsRevoked(s.revoked),
		kgo.OnPartitionsLost(s.revoked),
		kgo.RecordPartitioner(tablePartitioner{table: p.tableTopic, byKey: byKey}),
		kgo.ProducerLinger(5*time.Millisecond), // a flush does not wait for it
		kgo.MaxBufferedRecords(200_000),
		kgo.MaxBufferedBytes(64<<20),
	)
	if failpoint.Enabled {
		opts = append(opts, kgo.WithHooks(endHook{p.spec.Group}))
	}
	var err error
	if s.gts, err = kgo.NewGroupTransactSession(opts...); err != nil {
		s.endLife()
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	s.cl = s.gts.Client()
	fctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err = failpoint.Reach(failpoint.SessionFence, p.spec.Group); err == nil {
		_, _, err = s.cl.ProducerID(fctx)
	}
	if err != nil {
		s.endLife()
		s.cl.CloseAllowingRebalance()
		return nil, fmt.Errorf("begin transactions as %s.%s: %w", p.spec.Group, cfg.Instance, err)
	}
	return s, nil
}

// endHook reaches a failpoint when EndTxn has been sent.
type endHook struct{ group string }

func (h endHook) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == kmsg.EndTxn.Int16() && err == nil {
		_ = failpoint.Reach(failpoint.CommitEndSent, h.group) // it has no error
	}
}

// close leaves the group, so that others take over at once. After a crash the
// static membership holds the partitions for this instance instead.
func (s *session) close() {
	s.endLife()
	s.recovery.Close() // Goka does not always
	member, _ := s.cl.GroupMetadata()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.StopTimeout)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.cl.CloseAllowingRebalance()
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		// A join that is under way is answered when the group's other members
		// have joined or timed out; nothing here depends on it.
		s.log.Warn("client is still closing: the group is in the middle of a rebalance")
	}
	if member != "" {
		s.p.engine.kafka.leave(ctx, s.p.spec.Group, s.cfg.Instance, member)
	}
}

// gokaOptions are the seams by which Goka runs on this session.
func (s *session) gokaOptions(ctx context.Context) []goka.ProcessorOption {
	return []goka.ProcessorOption{
		goka.WithLogger(gokaLogger{s.log}),
		goka.WithHasher(newHasher),
		goka.WithNilHandling(goka.NilProcess),
		goka.WithPartitionChannelSize(256),
		goka.WithConsumerGroupBuilder(func([]string, string, string) (sarama.ConsumerGroup, error) { return s, nil }),
		goka.WithConsumerSaramaBuilder(func([]string, string) (sarama.Consumer, error) {
			return consumer{s.recovery}, nil
		}),
		goka.WithProducerBuilder(func([]string, string, func() hash.Hash32) (goka.Producer, error) {
			return transactionProducer{s}, nil
		}),
		goka.WithTopicManagerBuilder(func([]string) (goka.TopicManager, error) {
			return topicManager{s.p.engine.kafka, ctx}, nil
		}),
		goka.WithStorageBuilder(s.openTable()),
	}
}

func (s *session) table(partition int32) *states {
	ts := *s.tables.Load()
	if int(partition) < len(ts) {
		return ts[partition]
	}
	return nil
}

// assigned and revoked run on franz-go's goroutines and must not block.
func (s *session) assigned(_ context.Context, cl *kgo.Client, claims map[string][]int32) {
	cl.PauseFetchPartitions(claims) // withheld until Goka has recovered
	member, id := cl.GroupMetadata()
	s.turn(newGeneration(claims, member, id))
}

func (s *session) revoked(context.Context, *kgo.Client, map[string][]int32) { s.turn(nil) }

func (s *session) turn(g *generation) {
	s.mu.Lock()
	old := s.gen
	s.gen = g
	if s.wake != nil {
		s.wake()
	}
	s.mu.Unlock()
	if old != nil {
		old.revoked.Store(true)
		old.cancel()
	}
}

func (s *session) current() *generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// Errors is part of sarama.ConsumerGroup: errors end Consume instead.
func (s *session) Errors() <-chan error    { return s.errs }
func (*session) Pause(map[string][]int32)  {}
func (*session) Resume(map[string][]int32) {}
func (*session) PauseAll()                 {}
func (*session) ResumeAll()                {}
func (*session) Close() error              { return nil } // runOnce closes the session

// Consume joins the group and works until ctx ends, which it takes as a wish
// to stop in good order, or until something fails.
func (s *session) Consume(ctx context.Context, topics []string, handler sarama.ConsumerGroupHandler) error {
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(s.cfg.StopTimeout):
			s.endLife()
		case <-s.life.Done():
		}
	})()
	s.cl.AddConsumeTopics(topics...)
	for ctx.Err() == nil {
		g := s.current()
		if g == nil {
			if err := s.await(ctx); err != nil {
				return err
			}
			continue
		}
		err := s.serve(ctx, g, handler)
		switch {
		case g.revoked.Load() && !errors.Is(err, errFatal):
			s.log.Debug("generation ended by a rebalance", "generation", g.id, "error", err)
		case err != nil:
			return err
		case ctx.Err() == nil:
			return errors.New("goka ended a generation without an error")
		}
	}
	return nil
}

// await waits for an assignment. It polls meanwhile, because that is how
// franz-go tells why there is none.
func (s *session) await(ctx context.Context) error {
	s.p.status.waiting(nil)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.wake = cancel
	assigned := s.gen != nil
	s.mu.Unlock()
	for !assigned && ctx.Err() == nil {
		fs := s.cl.PollRecords(ctx, 1)
		if err := s.pollError(fs); err != nil {
			return err
		}
		if fs.NumRecords() > 0 {
			return errors.New("records without an assignment")
		}
	}
	return nil
}

// pollError gives what a session cannot live with.
func (s *session) pollError(fs kgo.Fetches) (fatal error) {
	if fs.IsClientClosed() {
		return errors.New("kafka client is closed")
	}
	fs.EachError(func(topic string, partition int32, err error) {
		var lost *kgo.ErrGroupSession
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		case errors.As(err, &lost):
			if fenced(err) {
				s.takenOver = true
				fatal = fmt.Errorf("another process has taken over instance %q of group %s: %w", s.cfg.Instance, s.p.spec.Group, err)
				return
			}
			s.log.Warn("not a member of the group, joining again", "error", err)
			s.p.status.waiting(err)
		default:
			fatal = fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
		}
	})
	return fatal
}

var errFatal = errors.New("session cannot go on")

// serve works through one generation from recovery to its end.
func (s *session) serve(ctx context.Context, g *generation, handler sarama.ConsumerGroupHandler) (err error) {
	defer func() {
		gerr := g.end() // no step runs any more
		s.side.close()
		aerr := s.abortOpen()
		s.tx.discard(s) // after it: what was under way has reported by now
		s.side = nil
		aerr = errors.Join(aerr, s.closeTables())
		if aerr != nil {
			err = errors.Join(err, aerr)
		} else if err == nil && !g.revoked.Load() {
			err = gerr
		}
	}()
	// No transaction is open: this only resets what the client session
	// remembers of the rebalance, which would abort the first transaction.
	if _, err := s.gts.End(context.Background(), kgo.TryAbort); err != nil {
		return errors.Join(errFatal, err)
	}
	stop := context.AfterFunc(ctx, g.cancel) // a recovery that is to stop has nothing to finish
	began := time.Now()
	err = g.start(handler)
	stop()
	if g.ctx.Err() != nil {
		return err
	}
	if err == nil {
		err = failpoint.Reach(failpoint.RecoveryDone, s.p.spec.Group)
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	s.p.status.recovered(g.claims)
	s.p.metrics.recovery.Observe(time.Since(began).Seconds())
	s.log.Info("processor is recovered", "generation", g.id, "partitions", partitionsOf(g.claims), "took", time.Since(began).Round(time.Millisecond))
	s.side = s.openSide(g)
	s.cl.ResumeFetchPartitions(g.claims)
	return s.work(ctx, g)
}

// The most records of one poll, and how few may be in flight for the next.
const (
	pollRecords = 2000
	pollAgainAt = 500
)

// work polls, hands out and commits until the generation or ctx ends.
func (s *session) work(ctx context.Context, g *generation) error {
	// A poll that waits must end with either of them.
	pollCtx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	for g.ctx.Err() == nil {
		if ctx.Err() != nil {
			return s.finish(g)
		}
		if !s.tx.open {
			if err := s.poll(pollCtx, g); err != nil {
				return err
			}
			continue
		}
		dry, err := s.fill(ctx, g)
		if err != nil {
			return err
		}
		if dry && !s.pause(pollCtx, g) {
			continue // more came in
		}
		if err := s.commit(g); err != nil {
			return err
		}
		if dry && !s.tx.open {
			s.p.status.dry()
		}
	}
	return nil
}

// fill hands out what there is until the transaction is due or the input is
// dry: everything is done and nothing more has arrived.
func (s *session) fill(ctx context.Context, g *generation) (dry bool, err error) {
	due, cancel := context.WithDeadline(s.life, s.tx.began.Add(s.cfg.CommitInterval))
	defer cancel()
	for ctx.Err() == nil && s.tx.records < s.cfg.CommitRecords {
		if !g.waitBelow(due, pollAgainAt) {
			return false, nil
		}
		n, err := s.takeReady(g)
		if err != nil {
			return false, err
		}
		if n > 0 {
			continue
		}
		if !g.waitBelow(due, 0) {
			return false, nil
		}
		if n, err = s.takeReady(g); err != nil {
			return false, err
		}
		if n == 0 {
			return true, nil
		}
	}
	return false, nil
}

// pause waits for more input while the last commit is only just over; true if
// it is time to commit.
func (s *session) pause(ctx context.Context, g *generation) bool {
	wait := s.cfg.CommitPause - time.Since(s.tx.ended)
	if wait <= 0 || ctx.Err() != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	n, err := s.take(ctx, g)
	return n == 0 || err != nil
}

// poll waits for the first records of a transaction.
func (s *session) poll(ctx context.Context, g *generation) error {
	_, err := s.take(ctx, g)
	return err
}

// takeReady hands out what has been fetched already, without waiting.
func (s *session) takeReady(g *generation) (int, error) {
	var doNotWait context.Context // franz-go takes nil as that
	return s.take(doNotWait, g)
}

// take polls once, begins a transaction if none is open and hands out what
// came.
func (s *session) take(ctx context.Context, g *generation) (int, error) {
	ctx, cancel := s.side.poll(ctx)
	defer cancel()
	fs := s.cl.PollRecords(ctx, pollRecords)
	if err := s.pollError(fs); err != nil {
		return 0, err
	}
	n, again := fs.NumRecords(), s.side.waiting()
	if n == 0 && !again {
		return 0, nil
	}
	if !s.tx.open {
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		s.tx.note(fs)
		s.p.status.fetched(fs)
		g.hand(fs, &s.headers)
	}
	if again {
		handed := s.side.hand()
		s.tx.records += handed
		n += handed
	}
	return n, nil
}

// finish commits what was handed out before the wish to stop.
func (s *session) finish(g *generation) error {
	if !s.tx.open {
		return nil
	}
	return s.commit(g)
}

// fenced tells that another member has joined with our instance id.
func fenced(err error) bool {
	return errors.Is(err, kerr.FencedInstanceID) || errors.Is(err, kerr.UnreleasedInstanceID)
}

func partitionsOf(claims map[string][]int32) int {
	for _, ps := range claims {
		return len(ps)
	}
	return 0
}
