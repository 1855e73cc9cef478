package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// session is one life of a processor: its transactional client, its
// membership in the group, and the loop that polls, hands out to its tasks and
// commits for all of them together. A session ends with the processor or at
// the first error that it cannot handle by aborting a transaction or by
// starting a task again; the next one starts by fencing it.
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

	group membership
	// wake interrupts the loop when it waits for input: there is something to
	// adopt. due has it commit what is open, because the group waits for that.
	wake, due alarm
	stirred   atomic.Bool // adopt has something to do
	// nudged gets a token when a task has little in flight or has ended.
	nudged chan struct{}
	asked  atomic.Int64               // how often the client asked for a producer id or epoch
	held   atomic.Pointer[time.Timer] // ends the hold on a rebalance

	// recovery brings Goka what a table lacks once its replica is restored,
	// which is seldom anything.
	recovery *follower

	// Of the loop:
	tasks   map[int32]*task // by partition number
	failing map[int32]*failing
	epoch   int64 // of the group, as adopted
	crew    *crew // those that work; nil if nobody does, or nobody asks
	side    *side // what they read again; nil without a control topic
	tx      transaction
	pace    pace
	headers headerSlab

	tables atomic.Pointer[map[int32]*states] // of the tasks at work

	// offsetsJoin: the broker adds the group's offsets to a transaction by itself.
	offsetsJoin bool

	takenOver bool // another process has joined the group as this instance

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

// failing is a task that failed and is started again.
type failing struct {
	wait  *backoff.ExponentialBackOff
	until time.Time
}

var (
	errRevoked = errors.New("partitions were revoked")
	errFatal   = errors.New("session cannot go on")
)

// openSession connects, and fences whoever used the transactional id before.
func openSession(ctx context.Context, p *processor, db *pebble.DB) (*session, error) {
	cfg := &p.engine.cfg
	s := &session{
		p: p, cfg: cfg, db: db, log: p.log,
		nudged: make(chan struct{}, 1), tasks: map[int32]*task{}, failing: map[int32]*failing{},
		headers: headerSlab{names: map[string][]byte{}}, refused: map[position]refusal{},
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.tables.Store(&map[int32]*states{})
	s.tx.init()
	s.recovery = newFollower(cfg, p.engine.kafka, p.spec.Group+"-recovery")
	s.group = membership{
		pause: func(ps map[string][]int32) { s.cl.PauseFetchPartitions(ps) }, resume: func(ps map[string][]int32) { s.cl.ResumeFetchPartitions(ps) },
		changed: s.stir, hurry: s.due.ring, began: func() { go s.expectRebalance() },
	}
	byKey := kgo.StickyKeyPartitioner(nil)
	// franz-go always fetches stable offsets: a group that takes over waits
	// for the transactions of the one before.
	opts := cfg.clientOptions(p.spec.Group,
		kgo.ConsumerGroup(p.spec.Group),
		kgo.InstanceID(cfg.Instance),
		kgo.TransactionalID(p.spec.Group+"."+cfg.Instance),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.Balancers(s.balancers()...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(cfg.SessionTimeout),
		// In a rebalance nobody commits before the last member has noticed.
		kgo.HeartbeatInterval(cfg.SessionTimeout/20),
		kgo.RebalanceTimeout(cfg.SessionTimeout),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsCallbackBlocked(s.blocked),
		kgo.OnPartitionsRevoked(s.group.onRevoked),
		kgo.OnPartitionsLost(s.group.onLost),
		kgo.WithHooks(&s.group, askedHook{&s.asked}),
		// A partition that is released while a fetch waits for others to have
		// records is in the next one: Kafka's default, against franz-go's 5 s.
		kgo.FetchMaxWait(500*time.Millisecond),
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

// afterLife is what a session that could not end in time still waits for its
// clients to close.
const afterLife = time.Second

// close leaves the group, so that others take over at once. After a crash the
// static membership holds the partitions for this instance instead.
func (s *session) close() {
	patience := s.cfg.StopTimeout
	if s.life.Err() != nil {
		patience = min(patience, afterLife) // it was all used up: Kafka does not answer
	}
	s.endLife()
	s.recovery.Close()
	member, _ := s.cl.GroupMetadata()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// balancers are what the session offers the group. The members take the first
// one that all of them offer: range, as long as one of a version before
// cooperative rebalancing is among them.
func (s *session) balancers() []kgo.GroupBalancer {
	range_ := s.group.observe(kgo.RangeBalancer())
	if s.cfg.hooks.eager {
		return []kgo.GroupBalancer{range_}
	}
	return []kgo.GroupBalancer{s.group.observe(copartition{}), range_}
}

// sharedFollower stays open when a task closes it.
type sharedFollower struct{ consumer }

func (sharedFollower) Close() error { return nil }

func (s *session) table(partition int32) *states { return (*s.tables.Load())[partition] }

// blocked: the group waits for us to commit what is open. It gets its way
// after a while, even if we do not manage: GroupTransactSession then aborts
// the transaction. Without that, who was thrown out of the group would wait
// for a heartbeat to commit, and the heartbeat for the commit.
func (s *session) blocked(context.Context, *kgo.Client) {
	s.held.Store(time.AfterFunc(s.cfg.SessionTimeout/10, s.cl.AllowRebalance))
	s.due.ring()
}

// allow lets the group rebalance: no transaction is open.
func (s *session) allow() {
	if t := s.held.Swap(nil); t != nil {
		t.Stop()
	}
	s.cl.AllowRebalance()
}

// expectRebalance looks for another rebalance shortly after one: who has to
// give a partition up does so and joins again, and all others must follow before
// anyone commits. Who commits finds out by that; who has nothing to do would
// only by its next heartbeat.
func (s *session) expectRebalance() {
	member, generation := s.cl.GroupMetadata()
	ctx, cancel := context.WithTimeout(s.life, s.cfg.SessionTimeout/10)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.group.joining.Load() {
			return
		}
		if _, now := s.cl.GroupMetadata(); now != generation {
			return
		}
		req := kmsg.NewPtrHeartbeatRequest()
		req.Group, req.MemberID, req.Generation, req.InstanceID = s.p.spec.Group, member, generation, &s.cfg.Instance
		resp, err := req.RequestWith(ctx, s.cl)
		if err == nil && errors.Is(kerr.ErrorForCode(resp.ErrorCode), kerr.RebalanceInProgress) {
			s.cl.ForceRebalance() // join it
			return
		}
	}
}

// stir has the loop adopt what is new as soon as no transaction is open.
func (s *session) stir() {
	s.stirred.Store(true)
	s.wake.ring()
}

// nudge has the loop look at what its tasks have in flight.
func (s *session) nudge() {
	select {
	case s.nudged <- struct{}{}:
	default:
	}
}

// run joins the group and works until ctx ends, which it takes as a wish to
// stop in good order, or until something fails.
func (s *session) run(ctx context.Context) (err error) {
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(s.cfg.StopTimeout):
			s.endLife()
		case <-s.life.Done():
		}
	})()
	defer func() { err = errors.Join(err, s.stop()) }()
	s.p.status.waiting()
	for _, in := range s.p.spec.Inputs {
		s.cl.AddConsumeTopics(in.Stream)
	}
	for ctx.Err() == nil {
		if !s.tx.open {
			s.allow()
			s.adopt()
			s.side.runPending()
			if err := s.next(ctx); err != nil {
				return err
			}
			continue
		}
		dry, err := s.fill(ctx)
		if err != nil {
			return err
		}
		if s.joining() {
			if err := s.joinedBy(ctx); err != nil {
				return err
			}
			continue
		}
		if dry && !s.pause(ctx) {
			continue // more came in
		}
		if err := s.commit(); err != nil {
			return err
		}
		if dry && !s.tx.open {
			s.p.status.dry()
		}
	}
	return s.finish()
}

// finish commits what was handed out before the wish to stop.
func (s *session) finish() error {
	for s.tx.open && s.joining() {
		ctx, heard := s.wake.listen(s.life)
		ctx, cancel := context.WithDeadline(ctx, s.lastCommit())
		<-ctx.Done()
		cancel()
		heard()
	}
	if !s.tx.open {
		return nil
	}
	return s.commit()
}

// stop ends all tasks and aborts what is still open.
func (s *session) stop() error {
	for _, t := range s.tasks {
		t.stop()
	}
	for _, t := range s.tasks {
		<-t.done // no step runs any more
	}
	s.side.close()
	err := s.abortOpen()
	s.tx.discard(s) // after it: what was under way has reported by now
	for _, t := range s.tasks {
		err = errors.Join(err, t.closeTable())
	}
	s.tasks = map[int32]*task{}
	s.tables.Store(&map[int32]*states{})
	s.side, s.crew = nil, nil
	s.p.status.waiting()
	s.p.settle(false)
	s.allow()
	return err
}

// adopt brings the tasks in line with what the group says. No transaction is
// open, so whoever is to go has nothing in flight.
func (s *session) adopt() {
	if !s.stirred.Swap(false) {
		return
	}
	claims, epoch, member := s.group.claims()
	s.adoptEpoch(epoch, claims)
	for p, t := range s.tasks {
		c, ok := claims[p]
		wanted := ok && !c.leaving && c.epoch == t.claim.epoch
		switch {
		case t.ended():
			delete(s.tasks, p)
			s.retire(t)
			if err := t.closeTable(); err != nil {
				s.log.Warn("table was not closed in good order", "partition", p, "error", err)
			}
			if wanted {
				s.again(t)
			}
		case !wanted && !t.stopped.Load():
			s.retire(t)
			t.stop()
			s.p.status.gave(p)
		case wanted && t.recovered.Load() && !t.working:
			s.employ(t)
		}
	}
	for p := range s.failing {
		if c, ok := claims[p]; !ok || c.leaving {
			delete(s.failing, p)
			s.p.status.gave(p)
		}
	}
	for p, c := range claims {
		if c.leaving || s.tasks[p] != nil {
			continue // the old one is still stopping
		}
		if f := s.failing[p]; f != nil && time.Now().Before(f.until) {
			continue
		}
		t := s.newTask(p, c)
		s.tasks[p] = t
		s.p.status.is(c, PartitionRecovering, nil)
		go t.run()
	}
	s.adoptCrew()
	s.p.settle(member)
}

// adoptEpoch tells of a new assignment.
func (s *session) adoptEpoch(epoch int64, claims map[int32]claim) {
	if epoch == s.epoch {
		return
	}
	s.epoch = epoch
	stay, come, leave := 0, 0, 0
	for p, c := range claims {
		t := s.tasks[p]
		switch {
		case c.leaving:
			leave++
		case t != nil && t.claim.epoch == c.epoch:
			stay++
		default:
			come++
		}
	}
	s.p.metrics.rebalances.Inc()
	level := slog.LevelInfo
	if come+leave == 0 {
		level = slog.LevelDebug // others have partitions that move
	}
	s.log.Log(s.life, level, "group has rebalanced", "stay", stay, "come", come, "go", leave)
}

// employ gives a recovered task its records.
func (s *session) employ(t *task) {
	if !s.group.release(t.partition, t.claim.epoch) {
		return // it is to go already: the next look at the claims will tell
	}
	if t.table != nil {
		tables := maps.Clone(*s.tables.Load())
		tables[t.partition] = t.table
		s.tables.Store(&tables)
	}
	t.working = true
	t.begin(time.Now())
	s.p.status.is(t.claim, PartitionRunning, nil)
	s.p.metrics.recovery.Observe(t.took.Seconds())
	s.log.Info("partition is recovered", "partition", t.partition, "took", t.took.Round(time.Millisecond))
}

// retire takes a task from the work.
func (s *session) retire(t *task) {
	if !t.working {
		return
	}
	t.working = false
	tables := maps.Clone(*s.tables.Load())
	delete(tables, t.partition)
	s.tables.Store(&tables)
}

// again has a failed task started once more after a while. Its records are withheld;
// the other tasks go on.
func (s *session) again(t *task) {
	err := t.failed()
	s.group.withhold(t.partition, t.claim.epoch)
	s.p.engine.db.report(err)
	f := s.failing[t.partition]
	if f == nil {
		f = &failing{wait: newBackoff()}
		s.failing[t.partition] = f
	}
	if !t.since.IsZero() && time.Since(t.since) > time.Minute {
		f.wait.Reset()
	}
	d := f.wait.NextBackOff()
	f.until = time.Now().Add(d)
	time.AfterFunc(d, s.stir)
	s.p.metrics.partitionFailures.Inc()
	s.p.status.is(t.claim, PartitionWithheld, err)
	s.log.Error("partition failed and starts again, the others go on", "partition", t.partition, "error", oneLine(err), "after", d.Round(time.Millisecond))
}

// working gives the tasks that are given records.
func (s *session) working(yield func(*task) bool) {
	for _, t := range s.tasks {
		if t.working && !yield(t) {
			return
		}
	}
}

// next waits for the first records of a transaction.
func (s *session) next(ctx context.Context) error {
	ctx, heard := s.wake.listen(ctx)
	defer heard()
	if s.tx.stalled && s.group.joining.Load() {
		<-ctx.Done()
		return nil
	}
	s.tx.stalled = false
	if wait := time.Until(s.tx.notBefore); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		return nil
	}
	_, err := s.take(ctx)
	return err
}

// lastCommit is when the open transaction must end: the broker would abort it
// not long after.
func (s *session) lastCommit() time.Time { return s.tx.began.Add(s.cfg.TransactionTimeout / 2) }

// joining tells that the open transaction cannot be committed yet, because the
// group is between two generations.
func (s *session) joining() bool {
	return s.group.joining.Load() && time.Now().Before(s.lastCommit())
}

// joinedBy goes on with the open transaction until the group has its new
// generation: those who stay do not stand still.
func (s *session) joinedBy(ctx context.Context) error {
	ctx, heard := s.wake.listen(ctx)
	defer heard()
	ctx, cancel := context.WithDeadline(ctx, s.lastCommit())
	defer cancel()
	if s.tx.records < s.cfg.CommitRecords && s.waitBelow(ctx, pollAgainAt) {
		_, err := s.take(ctx)
		return err
	}
	select {
	case <-ctx.Done():
	case <-s.life.Done():
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
			// The client would join again as the member it was, and a coordinator
			// that was replaced without noticing lets it, as that takes no write;
			// the positions that it then tells are old. The next session joins as
			// a new member, which only the real one can answer.
			fatal = fmt.Errorf("lost the membership in group %s: %w", s.p.spec.Group, err)
		default:
			fatal = fmt.Errorf("fetch %s/%d: %w", topic, partition, err)
		}
	})
	return fatal
}

// The most records of one poll, and how few may be in flight for the next.
const (
	pollRecords = 2000
	pollAgainAt = 500
)

// fill hands out what there is until the transaction is due or the input is
// dry: everything is done and nothing more has arrived.
func (s *session) fill(ctx context.Context) (dry bool, err error) {
	due, cancel := context.WithDeadline(s.life, s.tx.began.Add(s.cfg.CommitInterval))
	defer cancel()
	due, heard := s.due.listen(due)
	defer heard()
	for ctx.Err() == nil && s.tx.records < s.cfg.CommitRecords {
		if !s.waitBelow(due, pollAgainAt) {
			return false, nil
		}
		n, err := s.takeReady()
		if err != nil {
			return false, err
		}
		if n > 0 {
			continue
		}
		if !s.waitBelow(due, 0) {
			return false, nil
		}
		if n, err = s.takeReady(); err != nil {
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
func (s *session) pause(ctx context.Context) bool {
	wait := s.pace.pause(s.cfg.CommitPause) - time.Since(s.tx.ended)
	if wait <= 0 || ctx.Err() != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	n, err := s.take(ctx)
	return n == 0 || err != nil
}

// takeReady hands out what has been fetched already, without waiting.
func (s *session) takeReady() (int, error) {
	var doNotWait context.Context // franz-go takes nil as that
	return s.take(doNotWait)
}

// take polls once, begins a transaction if none is open and hands out what
// came. From the first record until allow, franz-go holds back what would take
// partitions from us.
func (s *session) take(ctx context.Context) (int, error) {
	ctx, cancel := s.side.poll(ctx)
	defer cancel()
	ctx, stop := s.untilWake(ctx)
	defer stop()
	fs := s.cl.PollRecords(ctx, pollRecords)
	if err := s.pollError(fs); err != nil {
		return 0, err
	}
	now := time.Now()
	s.fetched(fs, now)
	due, err := s.toWake(now)
	if err != nil {
		return 0, err
	}
	n, again := fs.NumRecords(), s.side.waiting()
	if n == 0 && !again && len(due) == 0 {
		return 0, nil
	}
	if !s.tx.open {
		if s.group.revoked.Load() || !s.current(fs) {
			// The client session would abort this transaction for a revoke that
			// came before it, or there is something to adopt first.
			return 0, s.rewind()
		}
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		s.tx.note(fs)
		s.p.status.fetched(fs)
		s.hand(fs)
	}
	if again {
		handed := s.side.hand()
		s.tx.records += handed
		n += handed
	}
	for _, w := range due {
		s.rouse(w)
		n += len(w.keys)
	}
	return n, nil
}

// hand gives the records of one poll to their tasks.
func (s *session) hand(fs kgo.Fetches) {
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		t := s.tasks[p.Partition]
		if t == nil || !t.working || t.inputs[p.Topic] == nil {
			s.tx.fail(fmt.Errorf("records of %s/%d, which is not at work", p.Topic, p.Partition))
			return
		}
		t.hand(p.Topic, p.Records, &s.headers)
	})
}

// current tells whether all records belong to tasks at work whose claims stand.
func (s *session) current(fs kgo.Fetches) bool {
	ok := true
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) > 0 {
			t := s.tasks[p.Partition]
			ok = ok && t != nil && t.working && s.group.has(p.Partition, t.claim.epoch)
		}
	})
	return ok
}

// rewind goes back to what is committed and takes note of revokes. No
// transaction is open.
func (s *session) rewind() error {
	s.group.revoked.Store(false)
	if _, err := s.gts.End(s.life, kgo.TryAbort); err != nil {
		return errors.Join(errFatal, err)
	}
	return nil
}

// waitBelow waits until at most n records are in flight; false if a task or
// ctx ended first.
func (s *session) waitBelow(ctx context.Context, n int64) bool {
	each := n / int64(max(1, len(s.tasks)))
	for {
		var inFlight int64
		for t := range s.working {
			t.low.Store(each)
			inFlight += t.inFlight.Load()
			if t.ctx.Err() != nil {
				return false
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if inFlight <= n {
			return true
		}
		select {
		case <-s.nudged:
		case <-ctx.Done():
		}
	}
}

// drain waits until no step runs and none is waiting; an error says why the
// transaction must not be committed.
func (s *session) drain() (failed error) {
	for t := range s.working {
		t.low.Store(0)
		for t.inFlight.Load() > 0 && !t.ended() {
			select {
			case <-s.nudged:
			case <-t.done:
			case <-s.life.Done():
				return errors.Join(errFatal, errors.New("steps did not end in time"))
			}
		}
		if t.inFlight.Load() > 0 {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", t.partition, t.failed()))
		}
	}
	return failed
}

// fenced tells that another member has joined with our instance id.
func fenced(err error) bool {
	return errors.Is(err, kerr.FencedInstanceID) || errors.Is(err, kerr.UnreleasedInstanceID)
}
