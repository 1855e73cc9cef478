package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// Outlet reads a topic whose records ask for something outside of Kafka. They are
// handed on one after the other and dealt with side by side, each for as long as
// it takes; what is dealt with is committed. Every record is handed on at least
// once. One that was begun and not done when its process died is marked when it
// is handed on again, if it was begun durably.
type Outlet struct {
	// Group is the consumer group; a new one begins at the start of the topic.
	Group string
	Topic string
	// Take is handed each record, in order per partition. It returns soon, and
	// Done is called when the record is dealt with.
	Take func(*Delivery)
	// Most records may be handed on and not done.
	Most int
	// Share is told which part of the topic's partitions is read here, each time
	// that it changes; from 0 to 1.
	Share func(part float64)
}

// Delivery is a record that was handed on.
type Delivery struct {
	Record
	// Begun: a process that died, or lost the partition, has begun with it.
	Begun bool
	part  *outletPart
}

// ErrLeaving is given for a record whose partition is handed to another process,
// which will be handed the record as well.
var ErrLeaving = errors.New("the partition is being handed on")

// outletPart is one partition of an outlet.
type outletPart struct {
	partition int32
	run       *outletRun
	ctx       context.Context
	cancel    context.CancelFunc
	// Under the mutex of run.
	leaving bool
	working int
	pending []int64 // offsets that were handed on and are not done, in order
	begun   map[int64]bool
	was     map[int64]bool // begun before
	// finished were noted as begun and are done, while one before them is not: they
	// must not come again.
	finished map[int64]bool
	end      int64 // behind the last that was handed on
	// As last committed.
	committed int64
	marked    string
}

// outletRun is an outlet while it is connected.
type outletRun struct {
	*outlet
	cl      *kgo.Client
	mu      sync.Mutex
	changed *sync.Cond
	parts   map[int32]*outletPart
	pending int
	waiters []waiter
	kick    chan struct{}
}

// waiter waits for what it began in a partition to be committed.
type waiter struct {
	part *outletPart
	done chan error
}

type outlet struct {
	engine *Engine
	spec   Outlet
}

// AddOutlet declares an outlet.
func (e *Engine) AddOutlet(spec Outlet) error {
	if spec.Group == "" || spec.Topic == "" || spec.Take == nil || spec.Most < 1 {
		return fmt.Errorf("outlet %q: expected a group, a topic, a function and how many records at most", spec.Group)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errRunning
	}
	e.outlets = append(e.outlets, &outlet{e, spec})
	return nil
}

func (o *outlet) run(ctx context.Context) {
	log := o.engine.cfg.Logger.With("outlet", o.spec.Group)
	restart(ctx, log, "outlet", o.runOnce, func(error) {})
}

const (
	// outletDrain is how long a partition that is handed on waits for what is
	// under way.
	outletDrain = 15 * time.Second
	// outletCommit is how long what is done may stay uncommitted.
	outletCommit = 100 * time.Millisecond
	// outletRecords are the most that are read at a time.
	outletRecords = 1000
	// outletMarks is the most that may be begun durably at a time in a partition:
	// brokers take 4096 bytes with an offset.
	outletMarks = 400
)

func (o *outlet) runOnce(ctx context.Context) error {
	run := &outletRun{outlet: o, parts: map[int32]*outletPart{}, kick: make(chan struct{}, 1)}
	run.changed = sync.NewCond(&run.mu)
	cl, err := kgo.NewClient(o.engine.cfg.clientOptions(o.spec.Group,
		kgo.ConsumerGroup(o.spec.Group),
		// Who is started again after a crash goes on at once, and does not wait for
		// the session of the one before to end.
		kgo.InstanceID(o.engine.cfg.Instance),
		kgo.ConsumeTopics(o.spec.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(o.engine.cfg.SessionTimeout),
		kgo.HeartbeatInterval(o.engine.cfg.SessionTimeout/5),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(run.assigned),
		kgo.OnPartitionsRevoked(run.revoked),
		kgo.OnPartitionsLost(run.lost),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	run.cl = cl
	var wg sync.WaitGroup
	committing, stop := context.WithCancel(context.Background())
	wg.Go(func() { run.commits(committing) })
	defer func() {
		// A static member is not taken for gone when it closes: it says so, after
		// what is under way has ended and is committed.
		run.revoked(context.Background(), cl, map[string][]int32{o.spec.Topic: run.held()})
		member, _ := cl.GroupMetadata()
		cl.CloseAllowingRebalance()
		leaving, done := context.WithTimeout(context.Background(), 2*time.Second)
		o.engine.kafka.leave(leaving, o.spec.Group, o.engine.cfg.Instance, member)
		done()
		stop()
		wg.Wait()
		run.lost(context.Background(), nil, map[string][]int32{o.spec.Topic: run.held()})
	}()
	for {
		if !run.room(ctx) {
			return nil
		}
		fs := cl.PollRecords(ctx, outletRecords)
		if ctx.Err() != nil {
			return nil
		}
		for _, fe := range fs.Errors() {
			var lost *kgo.ErrGroupSession
			if !errors.As(fe.Err, &lost) {
				return fmt.Errorf("fetch %s/%d: %w", fe.Topic, fe.Partition, fe.Err)
			}
		}
		for _, r := range fs.Records() {
			if d := run.add(r); d != nil {
				o.spec.Take(d)
			}
		}
		// Not before: records of a partition that goes and comes back in between
		// would be taken for those of its next assignment.
		cl.AllowRebalance()
	}
}

// room waits until more may be handed on; false if ctx ends before.
func (r *outletRun) room(ctx context.Context) bool {
	defer context.AfterFunc(ctx, func() {
		r.mu.Lock()
		r.changed.Broadcast()
		r.mu.Unlock()
	})()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.pending >= r.spec.Most && ctx.Err() == nil {
		r.changed.Wait()
	}
	return ctx.Err() == nil
}

// add notes a record as handed on; nil if its partition is another's by now.
func (r *outletRun) add(rec *kgo.Record) *Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.parts[rec.Partition]
	if p == nil || p.leaving || rec.Offset < p.end {
		return nil
	}
	if p.finished[rec.Offset] {
		p.end = rec.Offset + 1
		return nil
	}
	p.pending = append(p.pending, rec.Offset)
	p.end = rec.Offset + 1
	r.pending++
	begun := p.was[rec.Offset]
	delete(p.was, rec.Offset)
	if begun {
		p.begun[rec.Offset] = true // until it is done
	}
	return &Delivery{Record: recordOf(rec), Begun: begun, part: p}
}

func (r *outletRun) assigned(ctx context.Context, cl *kgo.Client, added map[string][]int32) {
	ps := added[r.spec.Topic]
	if len(ps) == 0 {
		return
	}
	// Without it, what was begun before would be begun again unnoticed.
	offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, r.spec.Group)
	for wait := newBackoff(); err != nil && ctx.Err() == nil; offsets, err = kadm.NewClient(cl).FetchOffsets(ctx, r.spec.Group) {
		r.engine.cfg.Logger.Warn("what was begun before could not be read and is asked for again", "outlet", r.spec.Group, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
	r.mu.Lock()
	for _, partition := range ps {
		p := &outletPart{partition: partition, run: r, begun: map[int64]bool{}, was: map[int64]bool{}, finished: map[int64]bool{}, committed: -1}
		p.ctx, p.cancel = context.WithCancel(context.Background())
		if o, ok := offsets.Lookup(r.spec.Topic, partition); ok {
			p.was, p.finished = marksOf(o.Metadata, o.At)
		}
		r.parts[partition] = p
	}
	mine := len(r.parts)
	r.mu.Unlock()
	r.share(mine)
}

// share tells how much of the topic is read here.
func (r *outletRun) share(mine int) {
	if r.spec.Share == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ps, err := r.engine.kafka.partitions(ctx, r.spec.Topic)
	if err != nil || len(ps) == 0 {
		return // it stays as it was
	}
	r.spec.Share(min(1, float64(mine)/float64(len(ps))))
}

// revoked waits for what is under way in partitions that are handed on, and
// commits it.
func (r *outletRun) revoked(ctx context.Context, cl *kgo.Client, gone map[string][]int32) {
	r.mu.Lock()
	var leaving []*outletPart
	for _, partition := range gone[r.spec.Topic] {
		if p := r.parts[partition]; p != nil {
			p.leaving = true
			leaving = append(leaving, p)
		}
	}
	deadline := time.AfterFunc(outletDrain, func() {
		for _, p := range leaving {
			p.cancel()
		}
	})
	given := time.AfterFunc(outletDrain+5*time.Second, func() {
		r.mu.Lock()
		for _, p := range leaving {
			p.working = 0
		}
		r.changed.Broadcast()
		r.mu.Unlock()
	})
	for slices.ContainsFunc(leaving, func(p *outletPart) bool { return p.working > 0 }) {
		r.changed.Wait()
	}
	deadline.Stop()
	given.Stop()
	r.mu.Unlock()
	if err := r.commit(context.WithoutCancel(ctx), leaving); err != nil {
		r.engine.cfg.Logger.Warn("what was done last is not committed and comes again", "outlet", r.spec.Group, "error", err)
	}
	r.lost(ctx, cl, gone)
}

func (r *outletRun) lost(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	r.mu.Lock()
	for _, partition := range gone[r.spec.Topic] {
		if p := r.parts[partition]; p != nil {
			p.leaving = true
			p.cancel()
			r.pending -= len(p.pending)
			p.pending = nil
			delete(r.parts, partition)
		}
	}
	mine := len(r.parts)
	r.changed.Broadcast()
	r.mu.Unlock()
	if mine > 0 {
		r.share(mine)
	}
}

func (r *outletRun) held() []int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.parts))
}

// Context ends when the partition is someone else's: what is under way then has
// no more time.
func (d *Delivery) Context() context.Context { return d.part.ctx }

// Begin is called before something is done that is seen outside. durably notes it
// first, so that it is known after a crash. The error is ErrLeaving, or that the
// note could not be written; then nothing may be done.
func (d *Delivery) Begin(durably bool) error {
	p, r := d.part, d.part.run
	r.mu.Lock()
	if p.leaving {
		r.mu.Unlock()
		return ErrLeaving
	}
	p.working++
	if !durably {
		r.mu.Unlock()
		return nil
	}
	for len(p.begun)+len(p.finished) >= outletMarks && !p.leaving {
		r.changed.Wait()
	}
	if p.leaving {
		p.working--
		r.changed.Broadcast()
		r.mu.Unlock()
		return ErrLeaving
	}
	p.begun[d.Offset] = true
	wait := make(chan error, 1)
	r.waiters = append(r.waiters, waiter{p, wait})
	r.mu.Unlock()
	r.wake()
	err := <-wait
	r.mu.Lock()
	if err == nil && r.parts[p.partition] != p {
		err = ErrLeaving // so it was not noted
	}
	if err != nil {
		p.working--
		delete(p.begun, d.Offset)
		r.changed.Broadcast()
		r.mu.Unlock()
		return fmt.Errorf("note that it has begun: %w", err)
	}
	r.mu.Unlock()
	return failpoint.Reach(failpoint.OutletBegun, r.spec.Group)
}

// Done tells that a record is dealt with. begun tells that Begin was called, and
// gave no error.
func (d *Delivery) Done(begun bool) {
	p, r := d.part, d.part.run
	r.mu.Lock()
	if begun && p.working > 0 {
		p.working--
	}
	if i, ok := slices.BinarySearch(p.pending, d.Offset); ok {
		p.pending = slices.Delete(p.pending, i, i+1)
		if p.begun[d.Offset] && i > 0 {
			p.finished[d.Offset] = true
		}
		delete(p.begun, d.Offset)
		r.pending--
	}
	r.changed.Broadcast()
	r.mu.Unlock()
}

// GiveUp tells that nothing more is done about a record here: it will be handed
// on again, to whoever has its partition then.
func (d *Delivery) GiveUp(begun bool) {
	r := d.part.run
	r.mu.Lock()
	if begun && d.part.working > 0 {
		d.part.working--
	}
	r.changed.Broadcast()
	r.mu.Unlock()
}

func (r *outletRun) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// commits commits what is done now and then, and at once what has begun.
func (r *outletRun) commits(ctx context.Context) {
	tick := time.NewTicker(outletCommit)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.release(errClosed)
			return
		case <-tick.C:
		case <-r.kick:
		}
		if err := r.commit(ctx, nil); err != nil && ctx.Err() == nil {
			r.engine.cfg.Logger.Debug("what is done could not be committed and is tried again", "outlet", r.spec.Group, "error", err)
		}
	}
}

// release tells those who wait for a commit how it ended.
func (r *outletRun) release(err error) {
	r.mu.Lock()
	waiters := r.waiters
	r.waiters = nil
	r.mu.Unlock()
	for _, w := range waiters {
		w.done <- err
	}
}

// commit commits how far partitions are, and what has begun in them; in all of
// them, if none are given.
func (r *outletRun) commit(ctx context.Context, parts []*outletPart) (err error) {
	type state struct {
		at    int64
		marks string
	}
	offsets, states := map[int32]kgo.EpochOffset{}, map[*outletPart]state{}
	r.mu.Lock()
	if parts == nil {
		parts = slices.Collect(maps.Values(r.parts))
	}
	// Only those are released whose marks are in this commit.
	var waiters []waiter
	r.waiters = slices.DeleteFunc(r.waiters, func(w waiter) bool {
		if !slices.Contains(parts, w.part) && r.parts[w.part.partition] == w.part {
			return false
		}
		waiters = append(waiters, w) // one whose partition is gone is told so by Begin
		return true
	})
	for _, p := range parts {
		at := p.end
		if len(p.pending) > 0 {
			at = p.pending[0]
		}
		maps.DeleteFunc(p.finished, func(o int64, _ bool) bool { return o < at })
		begun := maps.Clone(p.begun)
		maps.Copy(begun, p.was) // not handed on again yet
		if s := (state{at, marksText(begun, p.finished, at)}); p.end > 0 && (s.at != p.committed || s.marks != p.marked) {
			states[p] = s
			offsets[p.partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
		}
	}
	r.mu.Unlock()
	defer func() {
		for _, w := range waiters {
			w.done <- err
		}
	}()
	if len(offsets) == 0 {
		return nil
	}
	if err := failpoint.Reach(failpoint.OutletBeforeCommit, r.spec.Group); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				x := &req.Topics[i].Partitions[j]
				for p, s := range states {
					if p.partition == x.Partition {
						x.Metadata = &s.marks
					}
				}
			}
		}
		return nil
	})
	r.cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{r.spec.Topic: offsets}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, failed error) {
		if err = failed; err != nil {
			return
		}
		err = commitError(resp)
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	for p, s := range states {
		p.committed, p.marked = s.at, s.marks
	}
	r.mu.Unlock()
	return nil
}

// commitError gives the first error of an answer.
func commitError(resp *kmsg.OffsetCommitResponse) error {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("commit offset of %s/%d: %w", t.Topic, p.Partition, err)
			}
		}
	}
	return nil
}

// marksText writes which offsets have begun, and which of them are done, as
// distances from the one that is committed.
func marksText(begun, done map[int64]bool, from int64) string {
	var b strings.Builder
	list := func(name string, offsets map[int64]bool) {
		if len(offsets) == 0 {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(name)
		for _, o := range slices.Sorted(maps.Keys(offsets)) {
			b.WriteByte(' ')
			b.WriteString(strconv.FormatInt(o-from, 36))
		}
	}
	list("begun:", begun)
	list("done:", done)
	return b.String()
}

// marksOf reads what marksText writes.
func marksOf(text string, from int64) (begun, done map[int64]bool) {
	begun, done = map[int64]bool{}, map[int64]bool{}
	var into map[int64]bool
	for _, f := range strings.Fields(text) {
		switch f {
		case "begun:":
			into = begun
		case "done:":
			into = done
		default:
			if d, err := strconv.ParseInt(f, 36, 64); err == nil && into != nil {
				into[from+d] = true
			}
		}
	}
	return begun, done
}
