package peers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// Pace is how long changes took at a fixed rate: from the moment at which a
// fact was due to be written, whether or not it could be, until a reader of
// committed records had the change that it made.
type Pace struct {
	Rate    float64 `json:"perSecond"`
	Changes int64   `json:"changes"`
	// In milliseconds.
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	// AppProcessors and BrokerProcessors were busy on average.
	AppProcessors    float64 `json:"appProcessors"`
	BrokerProcessors float64 `json:"brokerProcessors"`
}

// rampUp is how much of a latency run is not counted.
const rampUp = 5 * time.Second

// pace measures latency. The facts that are there are the warm-up; the
// generator goes on where they ended.
func (w *world) pace(ctx context.Context, r *Run, g *workload.Generator, o *workload.Oracle) error {
	t, err := w.begin(r.Subject)
	if err != nil {
		return err
	}
	err = t.pace(ctx, r, g, o)
	return errors.Join(err, t.end())
}

func (t *trial) pace(ctx context.Context, r *Run, g *workload.Generator, o *workload.Oracle) error {
	warm := o.Facts()
	if _, err := t.await(ctx, warm); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &pacer{floor: t.s.Kind == Floor, rate: t.w.o.Rate, due: map[int64]time.Time{}, hist: hdrhistogram.New(1, int64(5*time.Minute/time.Microsecond), 3)}
	reader, err := t.w.follow(ctx)
	if err != nil {
		return err
	}
	defer reader.Close()
	changes := o.Changes()
	read := make(chan error, 1)
	go func() { read <- p.read(ctx, t.w, reader) }()
	n := int(t.w.o.Rate * t.w.o.Duration.Seconds())
	from, err := t.look(ctx)
	if err != nil {
		return err
	}
	if err := p.write(ctx, t.w, g, o, n); err != nil {
		return err
	}
	to, err := t.await(ctx, warm+int64(n))
	if err != nil {
		return err
	}
	p.expect(o.Changes() - changes)
	select {
	case err := <-read:
		if err != nil {
			return err
		}
	case <-time.After(time.Minute):
		return fmt.Errorf("%s: not all changes came within a minute of the last commit", t.s)
	}
	seconds := to.at.Sub(from.at).Seconds()
	ms := func(q float64) float64 { return float64(p.hist.ValueAtQuantile(q)) / 1000 }
	r.Pace = &Pace{
		Rate: p.rate, Changes: p.hist.TotalCount(), P50: ms(50), P99: ms(99), P999: ms(99.9), Max: float64(p.hist.Max()) / 1000,
		AppProcessors: (to.app - from.app).Seconds() / seconds, BrokerProcessors: (to.broker - from.broker).Seconds() / seconds,
	}
	r.Records, r.Machine = n, machine(from, to)
	return nil
}

// follow reads changes from now on.
func (w *world) follow(ctx context.Context) (*kgo.Client, error) {
	ends, err := w.adm.ListEndOffsets(ctx, changesTopic())
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for p, e := range ends[changesTopic()] {
		from[p] = kgo.NewOffset().At(e.Offset)
	}
	return kgo.NewClient(kgo.SeedBrokers(w.cluster.Addrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{changesTopic(): from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond))
}

// pacer writes facts when they are due and takes the time of their changes.
type pacer struct {
	floor bool // facts come out, and not changes
	rate  float64
	hist  *hdrhistogram.Histogram

	mu       sync.Mutex
	began    time.Time
	due      map[int64]time.Time // by the number of the fact, until its change has come
	planned  int64
	seen     int64
	expected int64 // 0 while not known
}

// write is an open loop: a slow subject does not slow it down.
func (p *pacer) write(ctx context.Context, w *world, g *workload.Generator, o *workload.Oracle, n int) error {
	var failed error
	promise := func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) } // one at a time
	p.mu.Lock()
	p.began = time.Now()
	p.mu.Unlock()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Addrs()...), kgo.ProducerLinger(time.Millisecond), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	for i := range n {
		f := g.Next()
		if err := o.Fold(&f); err != nil {
			return err
		}
		due := p.began.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
		if err := p.plan(&f, due); err != nil {
			return err
		}
		r, err := w.record(&f)
		if err != nil {
			return err
		}
		if wait := time.Until(due); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
		cl.Produce(ctx, r, promise)
	}
	return errors.Join(cl.Flush(ctx), failed)
}

// plan remembers when a fact is due; a copy of an earlier one changes nothing.
func (p *pacer) plan(f *signal.Fact, due time.Time) error {
	n, err := workload.Number(f.Signal.ID)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.due[n]; !known {
		p.due[n] = due
		p.planned++
	}
	return nil
}

// expect says how many changes there will be.
func (p *pacer) expect(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expected = n; p.floor {
		p.expected = p.planned
	}
}

func (p *pacer) read(ctx context.Context, w *world, cl *kgo.Client) error {
	for !p.done() {
		poll, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		fetches := cl.PollFetches(poll)
		cancel()
		now := time.Now()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fetches.Err0(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		for _, r := range fetches.Records() {
			n, err := p.number(w, r)
			if err != nil {
				return err
			}
			if err := p.take(n, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// number gives which fact a record came of.
func (p *pacer) number(w *world, r *kgo.Record) (int64, error) {
	if p.floor {
		v, err := w.facts.Decode(r.Value)
		if err != nil {
			return 0, err
		}
		return workload.Number(v.(*signal.Fact).Signal.ID)
	}
	v, err := w.changes.Decode(r.Value)
	if err != nil {
		return 0, err
	}
	return workload.Number(v.(*event.Change).Signal)
}

func (p *pacer) done() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected > 0 && p.seen >= p.expected
}

func (p *pacer) take(n int64, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	due, ok := p.due[n]
	if !ok && p.floor {
		return nil // a copy
	}
	if !ok {
		return fmt.Errorf("a change of fact %d, which was not written at a pace", n)
	}
	delete(p.due, n)
	p.seen++
	if due.Sub(p.began) < rampUp {
		return nil
	}
	return p.hist.RecordValue(max(1, now.Sub(due).Microseconds()))
}
