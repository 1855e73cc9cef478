package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/views"
)

// wakeIndex has the entries of a table in the order in which they want to be
// woken. It lies in Pebble beside the data, is written in the same batch, and is
// made again from the changelog with it; so a time is as durable as the state
// that names it, and what is not due costs nothing.
type wakeIndex struct {
	codec Codec
	due   func(state any) envelope.Instant
}

// never is later than anything.
const never = envelope.Instant(math.MaxInt64)

// wakeOffset is that of the messages by which a task hears of an entry that is
// due. No record has it.
const wakeOffset = -1

const (
	// wakeHand is the most entries of a partition that are woken in one
	// transaction: what comes in has its share of it.
	wakeHand = 1000
	// wakeLook is how often the session looks at the clock at least: the wall
	// clock may jump, and the one that it waits by does not.
	wakeLook = 10 * time.Second
	// An entry whose waking failed is woken again after a while, which doubles.
	wakeAgain    = time.Second
	wakeAgainMax = 5 * time.Minute
)

// dueOf takes the time from the terms of a table with wakes.
func dueOf(ts views.Terms) (envelope.Instant, views.Terms) {
	if len(ts) == 0 {
		return 0, nil
	}
	return envelope.Instant(ts[0]), ts[1:]
}

func (ks keyspace) appendWakeKey(b []byte, due envelope.Instant, key string) []byte {
	b = append(b, ks...)
	b = append(b, partWake)
	b = binary.BigEndian.AppendUint64(b, uint64(due))
	return append(b, key...)
}

// reindex adds to a batch what becomes of the index entries of a key.
func (im *image) reindex(b *pebble.Batch, key string, before, after views.Terms) error {
	if im.index.wakes == nil {
		return im.ks.reindex(b, key, before, after)
	}
	was, before := dueOf(before)
	is, after := dueOf(after)
	var buf [256]byte
	var errs [2]error
	if was != is {
		if was != 0 {
			errs[0] = b.Delete(im.ks.appendWakeKey(buf[:0], was, key), nil)
		}
		if is != 0 {
			errs[1] = b.Set(im.ks.appendWakeKey(buf[:0], is, key), nil, nil)
		}
	}
	return errors.Join(errs[0], errs[1], im.ks.reindex(b, key, before, after))
}

// schedule is what the owner of a partition knows of its wakes, beside the
// index. The goroutine of the partition uses it, and the session's between the
// last step of a transaction and the first of the next.
type schedule struct {
	// Nothing in the index is earlier than from. Entries that are gone leave
	// traces in Pebble for a while, which a scan must not cross again and again.
	from envelope.Instant
	// next is when to look: nothing is to be woken before.
	next envelope.Instant
	// written is the earliest time that the open transaction has written.
	written envelope.Instant
	// failed has the entries that could not be woken.
	failed map[string]*failedWake
}

type failedWake struct {
	until envelope.Instant
	wait  time.Duration
}

func newSchedule() *schedule {
	return &schedule{written: never, failed: map[string]*failedWake{}}
}

// writes takes note of what the open transaction leaves for a key.
func (sc *schedule) writes(ts views.Terms) {
	if sc == nil {
		return
	}
	if due, _ := dueOf(ts); due != 0 {
		sc.written = min(sc.written, due)
	}
}

// ended takes note of the end of a transaction; ok tells that it is committed.
func (sc *schedule) ended(ok bool) {
	if sc == nil {
		return
	}
	if ok {
		sc.from, sc.next = min(sc.from, sc.written), min(sc.next, sc.written)
	}
	sc.written = never
}

// forgive forgets that an entry could not be woken: it is another one now.
func (sc *schedule) forgive(key string) {
	if sc != nil && len(sc.failed) > 0 {
		delete(sc.failed, key)
	}
}

// lookAgain is told that the index was changed by somebody else.
func (sc *schedule) lookAgain() {
	if sc != nil {
		sc.from, sc.next = 0, 0
	}
}

// fail keeps an entry from being woken for a while, and tells for how long.
func (sc *schedule) fail(key string, now envelope.Instant) time.Duration {
	f := sc.failed[key]
	if f == nil {
		f = &failedWake{wait: wakeAgain / 2}
		sc.failed[key] = f
	}
	f.wait = min(2*f.wait, wakeAgainMax)
	f.until = now + envelope.Instant(f.wait.Microseconds())
	return f.wait
}

// due gives the keys that are to be woken now, the first first, and finds out
// when to look again. An index entry that no value says is of no use to anybody,
// and is removed. No transaction is open.
func (s *states) due(now envelope.Instant) (keys []string, err error) {
	sc := s.wakes
	lower := s.ks.appendWakeKey(nil, sc.from, "")
	prefix := len(s.ks) + 1
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: successor(lower[:prefix])})
	if err != nil {
		return nil, fmt.Errorf("read what is due: %w", err)
	}
	defer it.Close()
	from, next := never, never
	var orphans [][]byte
	for more := it.First(); more; more = it.Next() {
		b := it.Key()[prefix:]
		due, key := envelope.Instant(binary.BigEndian.Uint64(b)), string(b[8:])
		from = min(from, due)
		if due > now {
			next = min(next, due)
			break
		}
		if f := sc.failed[key]; f != nil && f.until > now {
			next = min(next, f.until)
			continue
		}
		if len(keys) == wakeHand {
			break
		}
		switch value, ts, err := s.get(s.db, key); {
		case err != nil:
			return nil, err
		case value == nil || len(ts) == 0 || envelope.Instant(ts[0]) != due:
			orphans = append(orphans, bytes.Clone(it.Key()))
		default:
			keys = append(keys, key)
		}
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("read what is due: %w", err)
	}
	for _, k := range orphans {
		if err := s.db.Delete(k, pebble.NoSync); err != nil {
			return nil, fmt.Errorf("write local state: %w", err)
		}
	}
	if len(keys) > 0 {
		next = 0 // what is woken now may fail to be committed
	}
	sc.from, sc.next = from, next
	return keys, nil
}

// backlog is where a task stands in one of its inputs.
type backlog struct {
	// last is the time of the last record that was handed out, 0 before the first;
	// more: others lay behind it.
	last envelope.Instant
	more bool
	seen time.Time
}

const (
	// An input that has brought nothing for wakeIdle has nothing.
	wakeIdle = time.Second
	// wakeBehind is how old records may be before their input counts as behind. It
	// allows for clocks that differ.
	wakeBehind = 2 * time.Second
)

// begin has a task wait until its inputs have had the time to bring what came
// while nobody was there.
func (t *task) begin(now time.Time) {
	t.since = now
	for topic := range t.inputs {
		t.backlogs[topic] = &backlog{more: true, seen: now}
	}
}

// fetched takes note of what a poll brought.
func (s *session) fetched(fs kgo.Fetches, now time.Time) {
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		if t := s.tasks[p.Partition]; t != nil && len(p.Records) > 0 {
			if b := t.backlogs[p.Topic]; b != nil {
				r := p.Records[len(p.Records)-1]
				// The last one may be that of a transaction, which ends with a marker.
				b.last, b.more, b.seen = envelope.At(r.Timestamp), p.LastStableOffset > r.Offset+2, now
			}
		}
	})
}

// clock gives the time up to which entries are woken. An entry that waits for
// something must not be told that its time is over before it is told what came in
// time; so for a task that is behind with an input it is the time of that input's
// records. until tells when to look again even if no more come.
func (t *task) clock(now time.Time) (at envelope.Instant, until time.Time) {
	at, until = envelope.At(now), now
	for _, b := range t.backlogs {
		if b.more && now.Sub(b.seen) < wakeIdle && now.Sub(b.last.Time()) > wakeBehind && b.last < at {
			at, until = b.last, b.seen.Add(wakeIdle)
		}
	}
	return at, until
}

// wakeful gives the tasks whose entries are to be woken here.
func (s *session) wakeful(yield func(*task) bool) {
	for t := range s.working {
		if s.group.has(t.partition, t.claim.epoch) && !yield(t) {
			return
		}
	}
}

// nextWake gives when the session has to look for what is due; never if it has
// not.
func (s *session) nextWake() envelope.Instant {
	at := never
	if s.p.waker != nil {
		now := time.Now()
		for t := range s.wakeful {
			next := t.table.wakes.next
			if clock, until := t.clock(now); next > clock {
				next = max(next, envelope.At(until))
			}
			at = min(at, next)
		}
	}
	return at
}

// untilWake gives a context that also ends when something may be due, unless
// that has to wait for the end of a transaction.
func (s *session) untilWake(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.p.waker == nil || ctx == nil || s.tx.open {
		return ctx, func() {}
	}
	at := s.nextWake()
	switch wait := time.Until(at.Time()); {
	case at == never:
		return ctx, func() {}
	case wait <= 0:
		// What has been fetched is taken all the same: a context that is over
		// would keep it.
		return nil, func() {}
	default:
		return context.WithTimeout(ctx, min(wait, wakeLook))
	}
}

// wakeUps are the keys of a task that are due at a time.
type wakeUps struct {
	task *task
	keys []string
	at   envelope.Instant
}

// toWake gives what is to be woken in the next transaction; nothing while one is
// open, which may still change what is due.
func (s *session) toWake(now time.Time) (due []wakeUps, err error) {
	if s.p.waker == nil || s.tx.open {
		return nil, nil
	}
	for t := range s.wakeful {
		at, _ := t.clock(now)
		if t.table.wakes.next > at {
			continue
		}
		keys, err := t.table.due(at)
		if err != nil {
			s.p.engine.db.report(err)
			return nil, errors.Join(errFatal, err)
		}
		if len(keys) > 0 {
			due = append(due, wakeUps{t, keys, at})
		}
	}
	return due, nil
}

// rouse hands the entries of a task to Goka as it hands records, by any of its
// inputs.
func (s *session) rouse(w wakeUps) {
	s.tx.woken[w.task.partition] = true
	topic := s.p.spec.Inputs[0].Stream
	rs := make([]*kgo.Record, len(w.keys))
	for i, key := range w.keys {
		rs[i] = &kgo.Record{Topic: topic, Partition: w.task.partition, Offset: wakeOffset, Timestamp: w.at.Time(), Key: []byte(key)}
	}
	w.task.hand(topic, rs, &s.headers)
}

// wake calls the station for an entry that was due when the transaction began.
// A record before it may have changed that.
func (st *step) wake(state any, in processors.Record) (effects processors.Effects, err error) {
	w := st.p.waker
	if state == nil {
		return effects, nil
	}
	due := w.Due(state)
	if due == 0 || due > in.Time {
		// Written as it is, it gets the time that it says: a version before may
		// have read another one out of it.
		return processors.Effects{State: state}, nil
	}
	if effects, err = w.Wake(state, in.Key, in.Time); err != nil {
		return effects, err
	}
	switch {
	case effects.Forget && effects.State == nil:
	case effects.State == nil:
		return effects, failure.New(failure.Poison, "wake", in.Key, "the entry was left as it is and is still due, expected a later time or none")
	default:
		if due := w.Due(effects.State); due != 0 && due <= in.Time {
			return effects, failure.New(failure.Poison, "wake", in.Key, "the entry is due again at %s, expected a time after %s or none", due, in.Time)
		}
	}
	st.s.tx.wakes.Add(1)
	st.p.metrics.wakeDelay.Observe(float64(envelope.At(time.Now())-due) / 1e6)
	return effects, nil
}

// unwoken takes note of an entry that could not be woken.
func (st *step) unwoken(table *states, in *input, err error) {
	again := table.wakes.fail(in.rec.Key, in.rec.Time)
	st.s.forgive(in.position())
	st.p.metrics.wakeFailures.Inc()
	st.s.log.Error("an entry that is due could not be woken and is woken again", "partition", in.rec.Partition, "key", in.rec.Key, "error", oneLine(err), "after", again)
}
