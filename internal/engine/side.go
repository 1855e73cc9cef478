package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// side is the second entrance of a crew: records that are read again,
// because of a replay or a redrive, beside those that the group polls. They
// take the same way, step and transaction included, so that the owner of a
// partition stays the only one who writes its table, and they leave the
// group's offsets as they are: what the transaction says instead, in a record
// of the control topic, is how far the replay has come or what became of the
// letter. Whoever owns the partition next goes on from there.
//
// Races and what settles them:
//   - The owner before may have committed progress that the control log has
//     not brought yet. So a crew begins only when the log has been read
//     up to its end as of then.
//   - An owner that was thought dead comes back in the middle of a transaction
//     of read-again records alone. Without input offsets the broker would not
//     check its membership; so each such transaction commits the offsets that
//     the group has already: see hold.
//   - The outcome of such a transaction may be unknown, and offsets that stay
//     tell nothing: the session ends, and the next one recovers what became of it.
type side struct {
	s   *session
	g   *crew
	log *controlLog
	ctx context.Context

	queue chan *sideRecord
	head  *sideRecord // taken from the queue, but not yet its turn; the session's
	stop  context.CancelFunc
	ended chan struct{} // the reader has

	mu      sync.Mutex
	wake    context.CancelFunc // of a poll that waits
	pending []func()           // to be run between two transactions
	// open has what is under way in the open transaction, by input position.
	open    map[position]*sideRecord
	jobs    map[string]*job // that the open transaction touches, by control key
	reached map[string]*job // progress as committed here, by control key
	base    bool            // the control log was read up to the beginning of the crew
}

// job is a part of a request: one partition of a replay, one letter, or the
// tally of a replay's records at this group.
type job struct {
	key      string // control key
	replay   *Replay
	redrive  *Redrive
	part     PartProgress
	result   RedriveResult
	tally    bool
	finished bool
}

func (j *job) clone() *job {
	c := *j
	c.part.Counts, c.result.Counts = j.part.Counts.clone(), j.result.Counts.clone()
	return &c
}

// sideRecord is a record to be processed again, or a position that is reached.
type sideRecord struct {
	job  *job
	rec  *kgo.Record // nil: nothing but progress
	next int64
	done bool
	err  string // why the job ends before its time
}

const (
	sideQueue = 1000
	// sideHand is the most that one poll is given of what is read again: what
	// is new goes on meanwhile.
	sideHand = 500
	// retryReading is how long the reader waits after an error.
	retryReading = time.Second
	// sideSkip is after how many records of other keys progress is told.
	sideSkip = 20_000
)

// openSide begins to look for what is to be read again; nil where there is no
// control topic.
func (s *session) openSide(g *crew) *side {
	if s.p.control == nil {
		return nil
	}
	x := &side{s: s, g: g, log: s.p.control, ctx: g.ctx, open: map[position]*sideRecord{}, jobs: map[string]*job{}, reached: map[string]*job{}}
	x.begin()
	return x
}

func (x *side) begin() {
	ctx, cancel := context.WithCancel(x.ctx)
	x.stop, x.ended, x.queue, x.head = cancel, make(chan struct{}), make(chan *sideRecord, sideQueue), nil
	queue, ended := x.queue, x.ended
	go func() {
		defer close(ended)
		x.read(ctx, queue)
	}()
}

// close stops the reader.
func (x *side) close() {
	if x == nil {
		return
	}
	x.stop()
	<-x.ended
}

// rewind begins again behind what is committed: the transaction was aborted.
func (x *side) rewind() {
	if x == nil {
		return
	}
	x.mu.Lock()
	idle := len(x.jobs) == 0
	clear(x.open)
	clear(x.jobs)
	x.mu.Unlock()
	if idle {
		return
	}
	x.close()
	x.begin()
}

// poll gives a context that also ends when there is something to read again.
func (x *side) poll(ctx context.Context) (context.Context, context.CancelFunc) {
	if x == nil || ctx == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	x.mu.Lock()
	x.wake = cancel
	pending := len(x.pending) > 0
	x.mu.Unlock()
	if pending || len(x.queue) > 0 || x.head != nil {
		cancel()
	}
	return ctx, cancel
}

// waiting tells whether there is something to read again.
func (x *side) waiting() bool { return x != nil && (x.head != nil || len(x.queue) > 0) }

// hand gives some records to Goka and tells how many.
func (x *side) hand() (n int) {
	for n < min(sideHand, x.s.cfg.CommitRecords-x.s.tx.records) {
		r := x.head
		x.head = nil
		if r == nil {
			select {
			case r = <-x.queue:
			default:
				return n
			}
		}
		if !x.admit(r) {
			x.head = r
			return n
		}
		n++
		if r.rec != nil && !x.g.handOne(r.rec, &x.s.headers) {
			return n
		}
	}
	return n
}

// admit takes note that a record is part of the transaction. It is not if the
// same position is there already.
func (x *side) admit(r *sideRecord) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.rec != nil {
		at := position{r.rec.Topic, r.rec.Partition, r.rec.Offset}
		if x.open[at] != nil {
			return false
		}
		x.open[at] = r
	}
	j := x.touch(r.job)
	if j.replay != nil {
		j.part.Next = max(j.part.Next, r.next)
		j.part.Done = j.part.Done || r.done
	}
	if r.err != "" {
		j.part.Error, j.result.Error = r.err, r.err
	}
	j.finished = j.finished || r.done
	return true
}

// touch gives the open transaction's copy of a job. Callers hold mu.
func (x *side) touch(j *job) *job {
	if t := x.jobs[j.key]; t != nil {
		return t
	}
	from := j
	if r := x.reached[j.key]; r != nil {
		from = r
	}
	t := from.clone()
	x.jobs[j.key] = t
	return t
}

// concerns tells whether note will want to compare what the step makes of an
// input's state with what it was.
func (x *side) concerns(in *input) bool {
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open[position{in.rec.Stream, in.rec.Partition, in.rec.Offset}] != nil || in.headers[HeaderReplay] != nil
}

// note takes note of what a step made of an input, if that is one that was
// read again or follows from one. It runs in Goka's goroutines.
func (x *side) note(in *input, stored []byte, w *writes, cause error) {
	if x == nil {
		return
	}
	follows := in.headers[HeaderReplay]
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.open) == 0 && follows == nil {
		return
	}
	r := x.open[position{in.rec.Stream, in.rec.Partition, in.rec.Offset}]
	if r == nil && follows == nil {
		return
	}
	if cause == nil {
		cause = w.dead
	}
	c := countsOf(x.s.p, in, stored, w, cause)
	replay := string(follows)
	if r != nil {
		j := x.touch(r.job)
		if j.redrive != nil {
			j.result.Resolved, j.result.Error = cause == nil, ""
			if cause != nil {
				j.result.Error = cut(cause.Error(), 300)
			}
			j.result.Counts.add(c)
		} else {
			j.part.Counts.add(c)
			replay = j.replay.ID
		}
	} else {
		j := x.touch(&job{key: fmt.Sprintf("replay/%s/of/%s/%d", follows, x.s.p.spec.Group, in.rec.Partition), tally: true, part: PartProgress{Partition: in.rec.Partition}})
		j.part.Counts.add(c)
	}
	if replay == "" {
		return
	}
	for _, out := range w.out {
		if !slices.ContainsFunc(out.Headers, func(h kgo.RecordHeader) bool { return h.Key == HeaderReplay }) {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: HeaderReplay, Value: []byte(replay)})
		}
	}
}

// countsOf counts one step.
func countsOf(p *processor, in *input, stored []byte, w *writes, cause error) Counts {
	c := Counts{Records: 1}
	if p.spec.Table != nil && !w.keep && (w.state == nil || !bytes.Equal(stored, w.state)) {
		c.Changed = 1
	}
	for _, out := range w.out {
		sum(&c.Emitted, map[string]int64{out.Topic: 1})
	}
	for i := range w.emits {
		if v, ok := w.emits[i].Value.(Teller); ok {
			sum(&c.Verdicts, map[string]int64{v.Verdict(): 1})
		}
	}
	if cause != nil {
		c.DeadLetters = 1
		c.Examples = []string{fmt.Sprintf("%s/%d@%d: %s", in.rec.Stream, in.rec.Partition, in.rec.Offset, cut(cause.Error(), 300))}
	}
	return c
}

// seal writes into the transaction what it has done for each job.
func (x *side) seal() error {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	jobs := slices.SortedFunc(maps.Values(x.jobs), func(a, b *job) int { return cmp.Compare(a.key, b.key) })
	tally := slices.ContainsFunc(jobs, func(j *job) bool { return j.tally && x.reached[j.key] == nil })
	x.mu.Unlock()
	if tally {
		if err := x.baseTallies(jobs); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		var value any
		switch {
		case j.tally:
			value = tallyRecord{Group: x.s.p.spec.Group, Partition: j.part.Partition, Counts: j.part.Counts}
		case j.redrive != nil:
			value = j.result
		default:
			value = j.part
		}
		r, err := controlRecord(x.log.topic, j.key, value)
		if err != nil {
			return err
		}
		x.s.produce(x.s.life, r)
	}
	return nil
}

// baseTallies adds what owners before this crew have counted.
func (x *side) baseTallies(jobs []*job) error {
	ctx, cancel := context.WithTimeout(x.ctx, x.s.cfg.TransactionTimeout/2)
	defer cancel()
	if err := x.catchUp(ctx); err != nil {
		return err
	}
	x.log.mu.Lock()
	defer x.log.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, j := range jobs {
		if !j.tally || x.reached[j.key] != nil {
			continue
		}
		for _, r := range x.log.replays {
			key := fmt.Sprintf("replay/%s/of/%s/%d", r.ID, x.s.p.spec.Group, j.part.Partition)
			if key == j.key {
				j.part.Counts.add(r.tallies[x.s.p.spec.Group][j.part.Partition])
			}
		}
	}
	return nil
}

// catchUp waits until the control log has brought what owners before this
// crew have written. That lasts as long as their transactions do; what
// this one writes itself is not waited for.
func (x *side) catchUp(ctx context.Context) error {
	x.mu.Lock()
	base := x.base
	x.mu.Unlock()
	if base {
		return nil
	}
	if err := x.log.caughtUp(ctx); err != nil {
		return err
	}
	x.mu.Lock()
	x.base = true
	x.mu.Unlock()
	return nil
}

// again tells whether the open transaction has records that were read again.
func (x *side) again() bool {
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(slices.Collect(maps.Values(x.jobs)), func(j *job) bool { return !j.tally })
}

// committed: the transaction is.
func (x *side) committed() {
	if x == nil {
		return
	}
	x.mu.Lock()
	maps.Copy(x.reached, x.jobs)
	clear(x.open)
	clear(x.jobs)
	x.mu.Unlock()
}

// read looks for requests and reads what they ask for, until ctx ends.
func (x *side) read(ctx context.Context, queue chan<- *sideRecord) {
	for ctx.Err() == nil {
		err := x.catchUp(ctx)
		for err == nil {
			x.log.mu.Lock()
			changed := x.log.changed
			x.log.mu.Unlock()
			var worked bool
			if worked, err = x.requests(ctx, queue); worked || err != nil {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() == nil {
			x.s.log.Warn("what is to be read again cannot be read, and is tried again", "error", err)
			pauseFor(ctx, retryReading)
		}
	}
}

// requests carries out the redrives and the replay that there are for the
// partitions of the crew.
func (x *side) requests(ctx context.Context, queue chan<- *sideRecord) (worked bool, err error) {
	for _, j := range x.letters() {
		if err := x.letter(ctx, j, queue); err != nil {
			return worked, err
		}
		worked = true
	}
	rebuilt, err := x.rebuilds(ctx)
	if err != nil {
		return true, err
	}
	replay, parts := x.replay()
	if len(parts) == 0 {
		return worked || rebuilt, nil
	}
	x.s.log.Info("replay begins", "replay", replay.ID, "dry_run", replay.DryRun, "partitions", len(parts))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if x.log.await(ctx, func() bool { s := x.log.replays[replay.ID]; return s == nil || s.cancelled }) == nil {
			cancel(errCancelled)
		}
	}()
	if replay.DryRun {
		err = x.rehearse(ctx, replay, parts)
	} else {
		err = x.ranges(ctx, replay, parts, queue)
	}
	if err == nil {
		err = x.log.await(ctx, func() bool { s := x.log.replays[replay.ID]; return s == nil || s.ended() || doneParts(s, parts) })
	}
	if context.Cause(ctx) == errCancelled {
		return true, nil
	}
	return true, err
}

var errCancelled = errors.New("the replay was cancelled")

func (x *side) owns(topic string, partition int32) bool {
	return slices.Contains(x.g.claims[topic], partition)
}

// known tells whether a job was put into the queue of this reader's life, or
// is done.
func (x *side) known(key string) *job {
	x.mu.Lock()
	defer x.mu.Unlock()
	if j := x.reached[key]; j != nil {
		return j.clone()
	}
	return nil
}

// letters gives the redrives that are to be done, in the order of requests.
func (x *side) letters() []*job {
	x.log.mu.Lock()
	var open []Redrive
	for _, r := range x.log.redrives {
		if r.result == nil && r.Group == x.s.p.spec.Group && x.owns(r.Input.Topic, r.Input.Partition) {
			open = append(open, r.Redrive)
		}
	}
	x.log.mu.Unlock()
	slices.SortFunc(open, func(a, b Redrive) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Letter, b.Letter)) })
	var out []*job
	for i := range open {
		j := &job{key: "redrive/" + open[i].Letter, redrive: &open[i]}
		if x.known(j.key) == nil {
			out = append(out, j)
		}
	}
	return out
}

func (x *side) letter(ctx context.Context, j *job, queue chan<- *sideRecord) error {
	rec, err := j.redrive.input(ctx, x.s.p.engine)
	r := &sideRecord{job: j, rec: rec, done: true}
	if err != nil {
		if !gone(err) {
			return err
		}
		r.err = err.Error()
	}
	if err := x.put(ctx, queue, r); err != nil {
		return err
	}
	// One after the other: what is in the queue is told by what is committed.
	return x.log.await(ctx, func() bool { s := x.log.redrives[j.redrive.Letter]; return s != nil && s.result != nil })
}

func (x *side) put(ctx context.Context, queue chan<- *sideRecord, r *sideRecord) error {
	select {
	case queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	x.mu.Lock()
	if x.wake != nil {
		x.wake()
	}
	x.mu.Unlock()
	return nil
}

// replay gives the replay that is under way, with the parts that are left to
// this crew.
func (x *side) replay() (*Replay, []*job) {
	x.log.mu.Lock()
	r := x.log.active(x.s.p.spec.Group)
	if r == nil {
		x.log.mu.Unlock()
		return nil, nil
	}
	replay := r.Replay
	var parts []*job
	for _, rg := range replay.Ranges {
		if !x.owns(rg.Topic, rg.Partition) {
			continue
		}
		p, ok := r.parts[rg.tp()]
		if !ok || replay.DryRun {
			p.Topic, p.Partition, p.Next, p.Counts = rg.Topic, rg.Partition, rg.From, Counts{}
		}
		p.Counts = p.Counts.clone()
		parts = append(parts, &job{key: fmt.Sprintf("replay/%s/at/%s/%d", replay.ID, rg.Topic, rg.Partition), replay: &replay, part: p, finished: p.Done})
	}
	x.log.mu.Unlock()
	for i, j := range parts {
		if k := x.known(j.key); k != nil {
			parts[i] = k
		}
	}
	return &replay, slices.DeleteFunc(parts, func(j *job) bool { return j.finished })
}

// ranges reads what is left of a replay into the queue.
func (x *side) ranges(ctx context.Context, replay *Replay, parts []*job, queue chan<- *sideRecord) error {
	return x.s.p.engine.readRanges(ctx, replay, parts, func(r *sideRecord) error { return x.put(ctx, queue, r) })
}

func doneParts(s *replayState, parts []*job) bool {
	return !slices.ContainsFunc(parts, func(j *job) bool { return !s.parts[topicPartition{j.part.Topic, j.part.Partition}].Done })
}

// readRanges reads the ranges of the parts, from where each has come, and
// gives their records, or positions where nothing is to be done, in order per
// partition. The last of each part is marked.
func (e *Engine) readRanges(ctx context.Context, replay *Replay, parts []*job, give func(*sideRecord) error) error {
	left := map[topicPartition]*job{}
	at := map[string]map[int32]kgo.Offset{}
	to := map[topicPartition]int64{}
	for _, r := range replay.Ranges {
		to[r.tp()] = r.To
	}
	for _, j := range parts {
		tp := topicPartition{j.part.Topic, j.part.Partition}
		if j.part.Next >= to[tp] {
			if err := give(&sideRecord{job: j, next: to[tp], done: true}); err != nil {
				return err
			}
			continue
		}
		left[tp] = j
		if at[tp.topic] == nil {
			at[tp.topic] = map[int32]kgo.Offset{}
		}
		at[tp.topic][tp.partition] = kgo.NewOffset().At(j.part.Next)
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(e.cfg.clientOptions("replay",
		kgo.ConsumePartitions(at),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	skipped := map[topicPartition]int{}
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var failed error
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			tp := topicPartition{p.Topic, p.Partition}
			j := left[tp]
			if j == nil || failed != nil {
				return
			}
			if errors.Is(p.Err, kerr.OffsetOutOfRange) {
				delete(left, tp)
				failed = give(&sideRecord{job: j, next: j.part.Next, done: true, err: fmt.Sprintf("%s/%d: the log no longer has what was to be read", p.Topic, p.Partition)})
				return
			}
			if p.Err != nil {
				failed = fmt.Errorf("read %s/%d: %w", p.Topic, p.Partition, p.Err)
				return
			}
			for _, r := range p.Records {
				x := &sideRecord{job: j, next: min(r.Offset+1, to[tp]), done: r.Offset+1 >= to[tp]}
				if r.Offset < to[tp] && !r.Attrs.IsControl() && (replay.Key == nil || *replay.Key == string(r.Key)) {
					x.rec = r
				}
				skipped[tp]++
				if x.rec != nil || x.done || skipped[tp] >= sideSkip {
					skipped[tp] = 0
					if failed = give(x); failed != nil {
						return
					}
				}
				if x.done {
					delete(left, tp)
					cl.PauseFetchPartitions(map[string][]int32{p.Topic: {p.Partition}})
					return
				}
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// hold has the broker check, as part of the transaction, that this member
// still owns the partitions whose records were read again, or whose entries were
// woken: it commits the offsets that the group has there already. For partitions
// that also had new input the session commits theirs.
func (s *session) hold(ctx context.Context) error {
	all := s.side.again()
	if !all && (len(s.tx.woken) == 0 || !s.tx.wrote.Load()) {
		return nil // and nothing is begun that the client would not know to end
	}
	committed := s.cl.CommittedOffsets()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group = s.p.spec.Group+"."+s.cfg.Instance, s.p.spec.Group
	req.MemberID, req.Generation = s.cl.GroupMetadata()
	g := s.crew
	if !g.stands() {
		return errRevoked
	}
	req.InstanceID = &s.cfg.Instance
	for _, topic := range slices.Sorted(maps.Keys(g.claims)) {
		t := kmsg.NewTxnOffsetCommitRequestTopic()
		t.Topic = topic
		for _, partition := range g.claims[topic] {
			if _, moves := s.tx.ends[topicPartition{topic, partition}]; moves || !all && !s.tx.woken[partition] {
				continue
			}
			at, ok := committed[topic][partition]
			if !ok || at.Offset < 0 {
				continue
			}
			p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch = partition, at.Offset, at.Epoch
			t.Partitions = append(t.Partitions, p)
		}
		if len(t.Partitions) == 0 {
			continue
		}
		d, err := s.p.engine.kafka.detail(ctx, topic)
		if err != nil {
			return err
		}
		t.TopicID = d.ID
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return nil // all of them move
	}
	id, epoch, err := s.cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	req.ProducerID, req.ProducerEpoch = id, epoch
	if err := s.joinOffsets(ctx, id, epoch); err != nil {
		return err
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return fmt.Errorf("hold the partitions of %s: %w", s.p.spec.Group, err)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("hold %s/%d of %s: %w", t.Topic, p.Partition, s.p.spec.Group, err)
			}
		}
	}
	return nil
}

// joinOffsets adds the group's offsets to the transaction, where the broker
// does not do so by itself (before KIP-890's second part).
func (s *session) joinOffsets(ctx context.Context, id int64, epoch int16) error {
	if s.offsetsJoin {
		return nil
	}
	versions, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, s.cl)
	if err != nil {
		return fmt.Errorf("versions of the broker: %w", err)
	}
	byItself := slices.ContainsFunc(versions.FinalizedFeatures, func(f kmsg.ApiVersionsResponseFinalizedFeature) bool {
		return f.Name == "transaction.version" && f.MaxVersionLevel >= 2
	})
	if byItself && slices.ContainsFunc(versions.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool {
		return k.ApiKey == int16(kmsg.TxnOffsetCommit) && k.MaxVersion >= 5
	}) {
		s.offsetsJoin = true
		return nil
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = s.p.spec.Group+"."+s.cfg.Instance, id, epoch, s.p.spec.Group
	for {
		resp, err := add.RequestWith(ctx, s.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			if err != nil {
				return fmt.Errorf("add offsets of %s to the transaction: %w", s.p.spec.Group, err)
			}
			return nil
		}
		if !pauseFor(ctx, pollEvery) {
			return ctx.Err()
		}
	}
}
