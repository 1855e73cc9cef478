package engine

import (
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/processors"
)

// rehearsal takes the steps of a replay without writing anything: they read a
// snapshot of the tables, as committed when it began, under what the steps
// before them would have written.
type rehearsal struct {
	step     step
	snapshot *pebble.Snapshot
	written  map[int32]map[string][]byte // by partition and key; nil: deleted
}

// tellEvery is how often a dry run tells how far it has come.
const tellEvery = 500 * time.Millisecond

// rehearse carries out a dry run. What it tells is written outside of the
// transactions, since it has no effects that it would have to agree with. An
// owner that comes later begins anew, on the table as it is then.
func (x *side) rehearse(ctx context.Context, replay *Replay, parts []*job) (err error) {
	r := &rehearsal{step: step{s: x.s, p: x.s.p}, snapshot: x.s.db.NewSnapshot(), written: map[int32]map[string][]byte{}}
	defer func() { err = errors.Join(err, r.snapshot.Close()) }()
	told := time.Now()
	return x.s.p.engine.readRanges(ctx, replay, parts, func(sr *sideRecord) error {
		p := &sr.job.part
		if sr.rec != nil {
			if err := r.take(sr.rec, &p.Counts); err != nil {
				return err
			}
		}
		p.Next, p.Done, p.Error = sr.next, sr.done, sr.err
		if !sr.done && time.Since(told) < tellEvery {
			return nil
		}
		told = time.Now()
		return x.log.write(ctx, sr.job.key, p)
	})
}

// take counts what the step of a record would do.
func (r *rehearsal) take(rec *kgo.Record, c *Counts) error {
	in := inputOf(rec)
	st, p := &r.step, r.step.p
	var stored []byte
	if p.spec.Table != nil {
		var err error
		if stored, err = r.get(rec.Partition, in.rec.Key); err != nil {
			return err
		}
	}
	w, err := st.try(in, &taken{key: in.rec.Key, exists: stored != nil, raw: stored})
	if retryable(err) {
		return err
	}
	if err != nil {
		w = writes{keep: true}
		if reporter, ok := p.spec.Station.(processors.FailureReporter); ok {
			if out, rerr := st.report(reporter, in.rec, err); rerr == nil {
				w.out = out
			}
		}
	}
	cause := err
	if cause == nil {
		cause = w.dead
	}
	if cause != nil {
		w.out = append(w.out, &kgo.Record{Topic: p.spec.DeadLetters})
	}
	c.add(countsOf(p, in, stored, &w, cause))
	if p.spec.Table != nil && !w.keep {
		if r.written[rec.Partition] == nil {
			r.written[rec.Partition] = map[string][]byte{}
		}
		r.written[rec.Partition][in.rec.Key] = w.state // nil where it is forgotten
	}
	return nil
}

func (r *rehearsal) get(partition int32, key string) ([]byte, error) {
	if v, ok := r.written[partition][key]; ok {
		return v, nil
	}
	v, _, err := r.step.p.table.replica(partition).image.get(r.snapshot, key)
	return v, err
}

// inputOf is the record as a step sees it.
func inputOf(r *kgo.Record) *input {
	headers := headersOf(r)
	return &input{raw: r.Value, headers: headers, rec: processors.Record{
		Stream: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Key: string(r.Key), Headers: headers, Time: envelope.At(r.Timestamp),
	}}
}

// pauseFor waits; false if ctx ended first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
