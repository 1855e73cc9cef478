package engine

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/processors"
)

// step wraps a station: bytes in, bytes out. All outputs are encoded before
// any is written, so that a failure anywhere leaves nothing half done.
type step struct {
	s *session
	p *processor
}

// sampleEvery is how many steps go by for each whose duration is observed:
// two clock readings cost as much as a small step.
const sampleEvery = 16

// input is one record on its way through a step.
type input struct {
	rec     processors.Record // Value is set once it is decoded
	raw     []byte
	headers map[string][]byte
	wake    bool // no record, but an entry that is due; rec has its key and the time
}

// writes is what a step wants written, encoded.
type writes struct {
	keep    bool   // leave the state as it is
	state   []byte // nil: forget it
	decoded any    // state, as the next step is to get it
	out     []*kgo.Record
	// dead is why the input is to be kept as a dead letter although the step
	// succeeded; nil if it is not.
	dead error
	// emits are what out was made from; see side.note.
	emits []processors.Emit
}

// handle is Goka's callback.
func (st *step) handle(ctx goka.Context, msg any) {
	raw, _ := msg.([]byte)
	headers := map[string][]byte(ctx.Headers())
	in := &input{raw: raw, headers: headers, rec: processors.Record{
		Stream: string(ctx.Topic()), Partition: ctx.Partition(), Offset: ctx.Offset(),
		Key: ctx.Key(), Headers: headers, Time: envelope.At(ctx.Timestamp()),
	}}
	if in.wake = ctx.Offset() == wakeOffset; in.wake {
		in.rec.Stream = "" // what carried it says nothing
	}
	at := in.position()
	if err := failpoint.Reach(failpoint.StepBefore, st.p.spec.Group); err != nil {
		ctx.Fail(err)
	}

	var table *states
	var state taken
	if st.p.spec.Table != nil {
		table = st.s.table(in.rec.Partition)
		if table == nil {
			ctx.Fail(fmt.Errorf("no table for partition %d of %s", in.rec.Partition, st.p.spec.Group))
		}
		table.touch(in.rec.Time)
		var err error
		if state, err = table.take(in.rec.Key); err != nil {
			st.p.engine.db.report(err)
			ctx.Fail(err) // local state cannot be read: not the record's fault
		}
	}

	if state.raw == nil && state.state != nil && st.s.side.concerns(in) {
		state.raw, _ = st.p.spec.Table.Encode(state.state) // what it was, to compare with what the step makes of it
	}
	w, err := st.try(in, &state)
	if retryable(err) && !in.wake { // a wake that fails is on its own
		// Not the record's fault, and it may work later: the transaction fails
		// and its records are processed again.
		st.s.tx.fail(fmt.Errorf("%s partition %d offset %d: %w", at.topic, at.partition, at.offset, err))
		return
	}
	refused := st.s.refusal(at)
	if refused.times > 0 {
		err = &stepError{stage: stageProduce, running: st.s.cl, err: failure.Wrap(failure.Poison, "write output of", in.rec.Key, refused.err)}
	}
	switch {
	case err != nil && in.wake:
		st.unwoken(table, in, err)
		w = writes{keep: true}
	case err != nil:
		w = st.failed(in, err, refused.times > 1)
	case w.dead != nil:
		se := &stepError{stage: stageStep, running: st.p.spec.Station, err: w.dead}
		w.out = append(w.out, st.deadLetter(in, se, false))
		st.p.deadLettered(in, se)
	}
	st.s.side.note(in, state.raw, &w, err)
	origin := &outputOrigin{st.s.life, at}
	switch {
	case table == nil:
	case err != nil: // the step may have left what it was given half changed
	case w.keep:
		table.keep(&state)
	default:
		table.set(&state, w.state, w.decoded, origin)
		table.wakes.forgive(in.rec.Key)
	}
	for _, r := range w.out {
		st.p.outputs[r.Topic].count.Add(1)
		st.s.produce(origin, r)
	}
}

// position is that of the record, or one that only the entry has.
func (in *input) position() position {
	if in.wake {
		return position{"wake of " + in.rec.Key, in.rec.Partition, wakeOffset}
	}
	return position{in.rec.Stream, in.rec.Partition, in.rec.Offset}
}

// retryable tells a failure that says of itself that it may not happen again.
// An error without a kind does not: a step is pure and would fail again.
func retryable(err error) bool {
	var f *failure.Error
	return errors.As(err, &f) && f.Kind.Retryable()
}

// kinded gives an error of a step without a kind the kind Poison: a step is
// pure, so what it does not understand itself is a fault of ours.
func kinded(err error) error {
	var f *failure.Error
	if errors.As(err, &f) && f.Kind != "" {
		return err
	}
	return failure.Wrap(failure.Poison, "", "", err)
}

// ownKind keeps the kind that a codec gave its failure; without one the bytes
// are to blame.
func ownKind(err error) failure.Kind {
	var f *failure.Error
	if errors.As(err, &f) && f.Kind != "" {
		return f.Kind
	}
	return failure.Poison
}

// stepError is why a record becomes a dead letter, and where it failed.
type stepError struct {
	stage   string
	running any // codec or station
	err     error
	panic   bool
	stack   string // of a panic
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// The stages of Kafka Connect that ours correspond to.
const (
	stageDecode  = "VALUE_CONVERTER"
	stageStep    = "TRANSFORMATION"
	stageProduce = "KAFKA_PRODUCE"
)

// try decodes, steps and encodes. It writes nothing.
func (st *step) try(in *input, stored *taken) (w writes, err error) {
	codec := st.p.inputs[in.rec.Stream]
	stage, running := stageDecode, any(codec)
	defer func() {
		if v := recover(); v != nil {
			err = &stepError{stage: stage, running: running, panic: true, stack: string(debug.Stack()),
				err: failure.New(failure.Poison, "panic in "+st.p.name, in.rec.Key, "%v", v)}
		}
	}()
	fail := func(err error) (writes, error) {
		return writes{}, &stepError{stage: stage, running: running, err: err}
	}
	if in.raw != nil {
		if in.rec.Value, err = codec.Decode(in.raw); err != nil {
			in.rec.Value = nil
			return fail(failure.Wrap(ownKind(err), "decode record of", in.rec.Stream, err))
		}
	}
	if stored.state == nil && stored.raw != nil {
		running = st.p.spec.Table
		if stored.state, err = st.p.spec.Table.Decode(stored.raw); err != nil {
			return fail(failure.Wrap(ownKind(err), "decode state of", in.rec.Key, err))
		}
	}
	state := stored.state
	if r := st.p.spec.Retention; r != nil && state != nil && r.expired(state, in.rec.Time) {
		state = nil
	}
	stage, running = stageStep, st.p.spec.Station
	call := st.step
	if in.wake {
		call = st.wake
	}
	effects, err := call(state, in.rec)
	if err != nil {
		return fail(kinded(err))
	}
	if in.wake && effects.DeadLetter != nil {
		return fail(failure.New(failure.Poison, "effects of", in.rec.Key, "DeadLetter from a wake, which has no record"))
	}
	stage, running = stageProduce, st.p.spec.Table
	w.keep = true
	switch {
	case effects.Forget && effects.State != nil:
		return fail(failure.New(failure.Poison, "effects of", in.rec.Key, "both State and Forget, expected one"))
	case effects.Forget:
		w.keep = !stored.exists
	case effects.State != nil:
		if st.p.spec.Table == nil {
			return fail(failure.New(failure.Poison, "effects of", in.rec.Key, "State from a station without a table"))
		}
		if w.state, err = st.encodeState(stored.table, effects.State); err != nil {
			return fail(failure.Wrap(ownKind(err), "encode state of", in.rec.Key, err))
		}
		if n := len(in.rec.Key) + len(w.state); n > st.s.cfg.MaxRecordBytes {
			return fail(failure.New(failure.Validation, "state of", in.rec.Key, "%d bytes, expected at most %d", n, st.s.cfg.MaxRecordBytes))
		}
		w.keep, w.decoded = false, effects.State
	}
	w.out, err = st.encode(effects.Emit)
	if err != nil {
		return fail(err)
	}
	w.dead, w.emits = effects.DeadLetter, effects.Emit
	return w, nil
}

// encodeState uses the table's memory, if there is a table: a rehearsal has none.
func (st *step) encodeState(t *states, state any) ([]byte, error) {
	if t == nil {
		return st.p.spec.Table.Encode(state)
	}
	return t.encode(state)
}

// step calls the station.
func (st *step) step(state any, rec processors.Record) (processors.Effects, error) {
	if err := failpoint.Reach(failpoint.StepStation, st.p.spec.Group); err != nil {
		return processors.Effects{}, err
	}
	if rec.Offset%sampleEvery != 0 {
		return st.p.spec.Station.Step(state, rec)
	}
	began := time.Now()
	effects, err := st.p.spec.Station.Step(state, rec)
	st.p.metrics.step.Observe(time.Since(began).Seconds())
	return effects, err
}

// encode makes records of what a station emits.
func (st *step) encode(emits []processors.Emit) ([]*kgo.Record, error) {
	if len(emits) == 0 {
		return nil, nil
	}
	slab := make([]kgo.Record, len(emits))
	out := make([]*kgo.Record, len(emits))
	for i := range emits {
		e := &emits[i]
		o := st.p.outputs[e.Stream]
		if o == nil {
			return nil, failure.New(failure.Poison, "emit to", e.Stream, "not an output of group %s", st.p.spec.Group)
		}
		var value []byte
		if e.Value != nil {
			var err error
			if value, err = o.codec.Encode(e.Value); err != nil {
				return nil, failure.Wrap(ownKind(err), "encode record for", e.Stream, err)
			}
		}
		slab[i] = kgo.Record{Topic: e.Stream, Key: keyBytes(e.Key), Value: value, Headers: headersFrom(e.Headers)}
		out[i] = &slab[i]
		if n := recordBytes(out[i]); n > st.s.cfg.MaxRecordBytes {
			return nil, failure.New(failure.Validation, "record for", e.Stream, "%d bytes, expected at most %d", n, st.s.cfg.MaxRecordBytes)
		}
	}
	return out, nil
}

// failed gives what is written instead of what the step wanted: the dead
// letter, and what the station reports of its own.
func (st *step) failed(in *input, cause error, withoutValue bool) writes {
	w := writes{keep: true}
	var se *stepError
	if !errors.As(cause, &se) {
		se = &stepError{stage: stageStep, running: st.p.spec.Station, err: cause}
	}
	if reporter, ok := st.p.spec.Station.(processors.FailureReporter); ok {
		out, err := st.report(reporter, in.rec, se.err)
		if err != nil {
			st.s.log.Error("station could not report a failure", "stream", in.rec.Stream, "partition", in.rec.Partition, "offset", in.rec.Offset, "error", err)
		}
		w.out = out
	}
	w.out = append(w.out, st.deadLetter(in, se, withoutValue))
	st.p.deadLettered(in, se)
	return w
}

func (st *step) report(reporter processors.FailureReporter, rec processors.Record, cause error) (out []*kgo.Record, err error) {
	defer func() {
		if v := recover(); v != nil {
			out, err = nil, fmt.Errorf("panic: %v", v)
		}
	}()
	return st.encode(reporter.Failed(rec, cause))
}

// keyBytes gives no key for an empty one, so that it is spread, not hashed.
func keyBytes(k string) []byte {
	if k == "" {
		return nil
	}
	return []byte(k)
}

// headersFrom gives headers in order of their names, so that equal input
// gives equal bytes.
func headersFrom(m map[string][]byte) []kgo.RecordHeader {
	if len(m) == 0 {
		return nil
	}
	hs := make([]kgo.RecordHeader, 0, len(m))
	for k, v := range m {
		hs = append(hs, kgo.RecordHeader{Key: k, Value: v})
	}
	slices.SortFunc(hs, func(a, b kgo.RecordHeader) int { return cmp.Compare(a.Key, b.Key) })
	return hs
}

func newRecord(topic, key string, value []byte, headers map[string][]byte) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: keyBytes(key), Value: value, Headers: headersFrom(headers)}
}
