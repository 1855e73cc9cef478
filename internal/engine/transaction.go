package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// transaction is what a session knows of its open Kafka transaction. Only the
// session's loop touches it, but for what acknowledgements report.
type transaction struct {
	open    bool
	began   time.Time
	ended   time.Time // of the one before
	records int
	woken   map[int32]bool // partitions in which entries were woken
	wakes   atomic.Int64   // entries that were
	wrote   atomic.Bool    // something was produced
	// ends are the next offsets per input partition: what the commit will move
	// the group to.
	ends   map[topicPartition]int64
	aborts int // in a row
	retry  *backoff.ExponentialBackOff
	// notBefore is when the next one may begin: after aborts in a row later and
	// later.
	notBefore time.Time
	// stalled: the group took so long to rebalance that a transaction had to be
	// aborted. The next one begins when it is done.
	stalled bool

	ackMu sync.Mutex
	// changelog has what was written per partition of the table.
	changelog map[int32]span
	failed    error // first failed write
	biggest   *outputOrigin
	bigBytes  int
}

// span is from the first offset that was written to the last.
type span struct{ first, last int64 }

func (t *transaction) init() {
	t.ends, t.changelog, t.woken = map[topicPartition]int64{}, map[int32]span{}, map[int32]bool{}
	t.retry = backoff.NewExponentialBackOff()
	t.retry.InitialInterval, t.retry.MaxInterval = 20*time.Millisecond, 5*time.Second
}

func (t *transaction) note(fs kgo.Fetches) {
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		if n := len(p.Records); n > 0 {
			t.ends[topicPartition{p.Topic, p.Partition}] = p.Records[n-1].Offset + 1
			t.records += n
		}
	})
}

// discard forgets what the transaction did, here and in the tables.
func (t *transaction) discard(s *session) {
	for _, st := range *s.tables.Load() {
		st.discard()
	}
	t.reset()
}

func (t *transaction) reset() {
	clear(t.ends)
	clear(t.woken)
	t.records = 0
	t.wakes.Store(0)
	t.wrote.Store(false)
	t.ackMu.Lock()
	clear(t.changelog)
	t.failed, t.bigBytes = nil, 0
	t.ackMu.Unlock()
}

func (s *session) begin() error {
	if err := s.gts.Begin(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	s.tx.reset()
	s.tx.open, s.tx.began = true, time.Now()
	s.p.outputs.reset()
	return nil
}

// outputOrigin is carried through franz-go, as the context of what a step
// writes, to know which input is to blame if the broker refuses it.
type outputOrigin struct {
	context.Context
	at position
}

// produce writes into the open transaction. Whether it worked is known at the
// commit.
func (s *session) produce(ctx context.Context, r *kgo.Record) {
	s.tx.wrote.Store(true)
	s.cl.Produce(ctx, r, s.acknowledged)
}

func (s *session) acknowledged(r *kgo.Record, err error) {
	if err == nil && r.Topic != s.p.tableTopic {
		return
	}
	t := &s.tx
	t.ackMu.Lock()
	defer t.ackMu.Unlock()
	if err == nil {
		o, ok := t.changelog[r.Partition]
		if !ok {
			o = span{r.Offset, r.Offset}
		}
		t.changelog[r.Partition] = span{min(o.first, r.Offset), max(o.last, r.Offset)}
		return
	}
	if t.failed == nil {
		t.failed = fmt.Errorf("write to %s: %w", r.Topic, err)
	}
	origin, ok := r.Context.(*outputOrigin)
	if n := recordBytes(r); ok && n > t.bigBytes && refusedForGood(err) {
		t.biggest, t.bigBytes = origin, n
	}
}

// fail makes the open transaction one that cannot be committed.
func (t *transaction) fail(err error) {
	t.ackMu.Lock()
	defer t.ackMu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
}

// refusedForGood tells that the broker will not take the record however often
// it is sent. All records of a batch are refused together: the largest is
// taken to be the reason.
func refusedForGood(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidRecord)
}

func recordBytes(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value) + 64
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 8
	}
	return n
}

// commit ends the transaction: everything that was handed out is done, and
// the changelog, the emitted records and the input offsets become visible
// together or not at all; then local state follows.
func (s *session) commit() error {
	undone := s.drain()
	if errors.Is(undone, errFatal) {
		return undone
	}
	began := time.Now()
	for partition, t := range *s.tables.Load() {
		if undone != nil {
			break // nothing of it is to stay
		}
		t.flush(s.produce, s.p.tableTopic, partition)
	}
	ctx := s.life // cancelling the end of a transaction leaves its outcome unknown
	if err := s.side.seal(); err != nil {
		s.tx.fail(err)
	}
	if err := failpoint.Reach(failpoint.CommitFlush, s.p.spec.Group); err != nil {
		return errors.Join(errFatal, err)
	}
	if err := s.cl.Flush(ctx); err != nil {
		return errors.Join(errFatal, fmt.Errorf("flush: %w", err))
	}
	if s.cfg.hooks.beforeEnd != nil {
		s.cfg.hooks.beforeEnd(s.p.spec.Group)
	}
	if err := failpoint.Reach(failpoint.CommitEnd, s.p.spec.Group); err != nil {
		return errors.Join(errFatal, err)
	}
	failed := cmp.Or(undone, s.tx.failure())
	want := kgo.TryCommit
	switch {
	case failed != nil:
		want = kgo.TryAbort
	case !s.stillOurs():
		want = kgo.TryAbort
		failed = errRevoked
	case s.group.joining.Load():
		// franz-go would wait, and might then commit for partitions that the new
		// generation has given to someone else.
		want = kgo.TryAbort
		failed = errors.New("the group has not finished its rebalance in time")
		s.tx.stalled = true
	default:
		if failed = s.whole(ctx); failed == nil {
			failed = s.hold(ctx)
		}
		if failed != nil {
			want = kgo.TryAbort
		}
	}
	s.group.revoked.Store(false)
	asked := s.asked.Load()
	committed, err := s.gts.End(ctx, want)
	if err == nil && !committed && want == kgo.TryCommit {
		err = s.unsure(ctx, asked)
	}
	ended := time.Now()
	wakes := int(s.tx.wakes.Load())
	s.pace.committed(s.tx.records+wakes, ended.Sub(s.tx.ended))
	s.tx.open, s.tx.ended = false, ended
	if err != nil {
		// Fenced, or the outcome is unknown: local state must not move. The
		// next session fences this one and recovers what became of it.
		s.p.unknown()
		return errors.Join(errFatal, fmt.Errorf("end transaction: %w", err))
	}
	if !committed {
		if failed == nil {
			failed = errors.New("the broker did not commit")
		}
		s.aborted(failed)
		return nil
	}
	if s.cfg.hooks.beforeApply != nil {
		if err := s.cfg.hooks.beforeApply(s.p.spec.Group); err != nil {
			return errors.Join(errFatal, err)
		}
	}
	if err := failpoint.Reach(failpoint.CommitAfterEnd, s.p.spec.Group); err != nil {
		return errors.Join(errFatal, err)
	}
	if err := s.apply(); err != nil {
		return errors.Join(errFatal, err)
	}
	if err := failpoint.Reach(failpoint.CommitAfterApply, s.p.spec.Group); err != nil {
		return errors.Join(errFatal, err)
	}
	s.tx.aborts = 0
	s.tx.retry.Reset()
	s.side.committed()
	s.p.metrics.wakes.Add(float64(wakes))
	s.p.committed(s.tx.records, s.tx.ends, time.Since(began))
	s.tx.reset()
	return s.sweep()
}

// failure gives the first write that failed, or what else forbids the commit.
func (t *transaction) failure() error {
	t.ackMu.Lock()
	defer t.ackMu.Unlock()
	return t.failed
}

// stillOurs checks what must hold for a commit: the claims stand, and what End
// will commit are the offsets of what was processed.
func (s *session) stillOurs() bool {
	uncommitted := s.cl.UncommittedOffsets()
	for tp, end := range s.tx.ends {
		t := s.tasks[tp.partition]
		if t == nil || !s.group.has(tp.partition, t.claim.epoch) || uncommitted[tp.topic][tp.partition].Offset != end {
			return false
		}
	}
	return true
}

// aborted drops what the transaction did; the client has rewound to what is
// committed. After aborts in a row the next transaction begins later and later.
func (s *session) aborted(cause error) {
	s.tx.ackMu.Lock()
	if s.tx.bigBytes > 0 {
		s.refuse(s.tx.biggest.at, s.tx.failed)
	}
	s.tx.ackMu.Unlock()
	s.tx.discard(s)
	s.side.rewind()
	s.tx.aborts++
	s.p.aborted(cause)
	s.log.Warn("transaction aborted, its records are processed again", "cause", cause, "in_a_row", s.tx.aborts)
	if s.tx.aborts > 1 {
		s.tx.notBefore = s.tx.ended.Add(s.tx.retry.NextBackOff())
	}
}

// abortOpen aborts what a session leaves open.
func (s *session) abortOpen() error {
	if !s.tx.open {
		return nil
	}
	s.tx.open, s.tx.ended = false, time.Now()
	ctx, cancel := context.WithTimeout(s.life, s.cfg.TransactionTimeout)
	defer cancel()
	if _, err := s.gts.End(ctx, kgo.TryAbort); err != nil {
		return errors.Join(errFatal, fmt.Errorf("abort transaction: %w", err))
	}
	s.p.aborted(errRevoked)
	return nil
}

var errUnknownOutcome = errors.New("the answer of the broker does not tell whether it is committed")

// unsure gives an error if a transaction that ended without a commit may be
// committed all the same. franz-go calls it no commit if it had to abort, which
// the broker then has confirmed; but also if the answer to a commit says
// nothing, for instance UNKNOWN_SERVER_ERROR. Then, and only then, it asks for
// a new epoch of its producer id, which aborts what is not yet committed.
//
// The group's offsets would tell, but nobody can be asked for them: a
// coordinator that was cut off, has been replaced and comes back answers from
// what it remembers, as fetching offsets takes no write that would fail. The
// fence and the join of the next session do, and after them offsets are true.
func (s *session) unsure(ctx context.Context, asked int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TransactionTimeout)
	defer cancel()
	// If it could not ask yet, it does now.
	if _, _, err := s.cl.ProducerID(ctx); err != nil || s.asked.Load() != asked {
		return errors.Join(errUnknownOutcome, err)
	}
	return nil
}

// askedHook counts the requests of a client for a producer id or a new epoch.
type askedHook struct{ n *atomic.Int64 }

func (h askedHook) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == kmsg.InitProducerID.Int16() && err == nil {
		h.n.Add(1)
	}
}

// whole checks, at the first write into a changelog after its table was
// recovered, that recovery has read all of it. Where the log ends is told by
// whoever takes himself for its leader; one that was replaced without noticing
// names an old end. Only the real leader acknowledges a write, and its offset is
// the true end. All that may lie between is what was never committed.
func (s *session) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TransactionTimeout/4) // ours is open
	defer cancel()
	s.tx.ackMu.Lock() // after the flush nobody else wants it
	defer s.tx.ackMu.Unlock()
	for p, written := range s.tx.changelog {
		t := (*s.tables.Load())[p]
		if t.whole {
			continue
		}
		err := s.p.engine.kafka.nothing(ctx, topicPartition{s.p.tableTopic, p}, t.mark.topic, t.mark.offset+1, written.first)
		if err != nil {
			err = fmt.Errorf("table is not recovered to the end of its changelog: %w", err)
			s.tasks[p].fail(err)
			return err
		}
		t.whole = true
	}
	return nil
}

// nothing gives an error unless a log is known to have no committed record from
// one offset up to before another.
func (k *kafka) nothing(ctx context.Context, of topicPartition, id [16]byte, from, to int64) error {
	r := k.reader(of.topic, of.partition, from)
	r.id, r.sure = id, true
	for r.next < to {
		at := r.next
		fp, err := r.read(ctx, 1<<10)
		switch {
		case err != nil && !(kerr.IsRetriable(err) && ctx.Err() == nil):
			return fmt.Errorf("read %s/%d from offset %d: %w", of.topic, of.partition, at, err)
		case len(fp.Records) > 0 && fp.Records[0].Offset < to:
			return fmt.Errorf("%s/%d has a record at offset %d, but its end was said to be %d", of.topic, of.partition, fp.Records[0].Offset, from)
		case err != nil || r.next == at:
			if !pauseFor(ctx, pollEvery) {
				return fmt.Errorf("read %s/%d from offset %d: %w", of.topic, of.partition, at, ctx.Err())
			}
		}
	}
	return nil
}

// apply brings local state to where the committed changelog is.
func (s *session) apply() error {
	tables := *s.tables.Load()
	if len(tables) == 0 {
		return nil
	}
	if err := s.p.engine.db.disk.admit(); err != nil {
		return err
	}
	s.tx.ackMu.Lock()
	defer s.tx.ackMu.Unlock()
	if len(s.tx.changelog) == 0 {
		return nil
	}
	bytes := 0
	for p := range s.tx.changelog {
		bytes += tables[p].batchBytes()
	}
	b := newBatch(s.db, bytes)
	defer b.Close()
	touched := make([]*states, 0, len(s.tx.changelog))
	written := false
	defer func() {
		for _, st := range touched {
			st.applied(written)
		}
	}()
	for _, p := range slices.Sorted(maps.Keys(s.tx.changelog)) {
		touched = append(touched, tables[p])
		if err := tables[p].prepare(b, s.tx.changelog[p].last); err != nil {
			return fmt.Errorf("write local state: %w", err)
		}
		if err := failpoint.Reach(failpoint.CommitMidApply, s.p.spec.Group); err != nil {
			return err
		}
	}
	if err := commitLocal(b); err != nil {
		return err
	}
	written = true
	return nil
}

// sweep removes some expired entries, if the table has a retention.
func (s *session) sweep() error {
	r := s.p.spec.Retention
	if r == nil {
		return nil
	}
	for _, st := range *s.tables.Load() {
		n, err := st.sweep(r, s.p.spec.Table, st.now)
		if err != nil {
			return errors.Join(errFatal, err)
		}
		s.p.metrics.swept.Add(float64(n))
	}
	return nil
}

// refusal is how the output of an input was refused by the broker.
type refusal struct {
	err   error
	times int
}

func (s *session) refuse(at position, err error) {
	s.refusedMu.Lock()
	defer s.refusedMu.Unlock()
	s.refused[at] = refusal{err, s.refused[at].times + 1}
}

func (s *session) refusal(at position) refusal {
	s.refusedMu.Lock()
	defer s.refusedMu.Unlock()
	return s.refused[at]
}

// forgive has an input tried anew whose output was refused.
func (s *session) forgive(at position) {
	s.refusedMu.Lock()
	defer s.refusedMu.Unlock()
	delete(s.refused, at)
}

// touch notes the time of a record that asks for an entry of the table.
func (st *store) touch(now envelope.Instant) {
	if now > st.now {
		st.now = now
	}
}

// transactionProducer is Goka's producer: a write into the open transaction,
// acknowledged at once, because the transaction is the acknowledgement. The
// step writes to the session directly; this serves what Goka itself may write.
type transactionProducer struct{ s *session }

func (p transactionProducer) Emit(topic, key string, value []byte) *goka.Promise {
	return p.EmitWithHeaders(topic, key, value, nil)
}

func (p transactionProducer) EmitWithHeaders(topic, key string, value []byte, headers goka.Headers) *goka.Promise {
	p.s.produce(p.s.life, newRecord(topic, key, value, headers))
	_, finish := goka.NewPromiseWithFinisher()
	return finish(nil, nil)
}

func (transactionProducer) Close() error { return nil } // runOnce closes the session
