package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Throughput is how fast deliveries went all the way.
type Throughput struct {
	Deliveries int `json:"deliveries"`
	// Elapsed from the first effect that was visible to the last.
	Elapsed time.Duration `json:"elapsedNanoseconds"`
	// PerSecond over Elapsed, and in the slowest and the median of its seconds.
	PerSecond float64 `json:"perSecond"`
	Slowest   float64 `json:"slowestSecond"`
	Median    float64 `json:"medianSecond"`
	// CPUPerMillion is CPU-seconds of the whole process per million deliveries,
	// the broker, the load generator and garbage collection included.
	CPUPerMillion float64 `json:"cpuSecondsPerMillion"`
	// Processors that were busy on average, and those that were busy with other
	// processes of the machine: they took what they took from this one.
	Processors float64 `json:"processorsBusy"`
	Others     float64 `json:"processorsOfOthers"`
	PeakRSS    int64   `json:"peakRssBytes"`
}

// drive sends deliveries as fast as they are processed, backlog of them under
// way at most, and waits until what became of each is visible.
func (s *system) drive(ctx context.Context, backlog int, next func() (delivery, bool)) (t Throughput, err error) {
	var (
		mu       sync.Mutex
		last     []string // ids of the last acknowledgements
		failed   atomic.Pointer[error]
		before   = s.outcomes()
		cpu      = cpuTime()
		machine  = machineTime()
		started  = time.Now()
		began    time.Time // of the first visible effect
		ended    time.Time
		seconds  []float64
		tick     = time.NewTicker(5 * time.Millisecond)
		mark     time.Time // of the second that is counted
		markSeen int64
	)
	defer tick.Stop()
	const remembered = 1000
	seen := func() int64 {
		n, now := s.outcomes()-before, time.Now()
		if n > 0 && began.IsZero() {
			began, mark, markSeen = now, now, n
		}
		if d := now.Sub(mark); !began.IsZero() && d >= time.Second {
			seconds = append(seconds, float64(n-markSeen)/d.Seconds())
			mark, markSeen = now, n
		}
		return n
	}
	done := func(id journal.ID, err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
			return
		}
		mu.Lock()
		if len(last) == remembered {
			last = slices.Delete(last, 0, remembered/2)
		}
		last = append(last, id.String())
		mu.Unlock()
	}
	wait := func() error {
		if err := failed.Load(); err != nil {
			return *err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			return nil
		}
	}
	// The backlog is looked at once per chunk: looking has its price.
	const chunk = 100
	for ; ; t.Deliveries++ {
		if t.Deliveries%chunk == 0 {
			for t.Deliveries-int(seen()) > backlog {
				if err := wait(); err != nil {
					return t, err
				}
			}
		}
		d, ok := next()
		if !ok {
			break
		}
		if err := s.take(ctx, d, done); err != nil {
			return t, err
		}
	}
	for int(seen()) < t.Deliveries {
		if err := wait(); err != nil {
			return t, err
		}
	}
	// The view has taken them in; they are visible once it has written them.
	mu.Lock()
	ids := slices.Clone(last)
	mu.Unlock()
	for len(ids) > 0 {
		changed := s.reads.Outcomes.Changed()
		if ids, err = s.open(ids); err != nil {
			return t, err
		}
		if len(ids) > 0 {
			select {
			case <-changed:
			case <-time.After(time.Second):
			case <-ctx.Done():
				return t, ctx.Err()
			}
		}
	}
	ended = time.Now()
	t.Elapsed = ended.Sub(began)
	t.PerSecond = float64(t.Deliveries) / t.Elapsed.Seconds()
	used := cpuTime() - cpu
	t.CPUPerMillion = used.Seconds() / float64(t.Deliveries) * 1e6
	t.Processors = used.Seconds() / ended.Sub(started).Seconds()
	t.Others = others(machineTime()-machine, used, ended.Sub(started))
	if slices.Sort(seconds); len(seconds) > 0 {
		t.Slowest, t.Median = seconds[0], seconds[len(seconds)/2]
	}
	return t, nil
}

// open gives those deliveries whose end is not visible yet.
func (s *system) open(ids []string) ([]string, error) {
	for i, id := range ids {
		_, ok, err := s.final(id)
		if err != nil {
			return nil, err
		}
		if !ok {
			return ids[i:], nil
		}
	}
	return nil, nil
}

// Latency is how long deliveries took at a fixed rate.
type Latency struct {
	Rate       float64 `json:"perSecond"`
	Deliveries int     `json:"deliveries"`
	// Visible is from the acknowledgement at the door until what became of the
	// delivery, and the entity in that version, can be read.
	Visible Quantiles `json:"acceptedToVisible"`
	// Whole is the same from the moment at which the delivery was due, which
	// counts the door and everything that held the sender up.
	Whole Quantiles `json:"dueToVisible"`
	// Accepted is from the moment at which it was due to the acknowledgement.
	Accepted   Quantiles `json:"dueToAccepted"`
	Processors float64   `json:"processorsBusy"`
	Others     float64   `json:"processorsOfOthers"`
	PeakRSS    int64     `json:"peakRssBytes"`
}

// Quantiles of durations.
type Quantiles struct {
	P50  time.Duration `json:"p50Nanoseconds"`
	P99  time.Duration `json:"p99Nanoseconds"`
	P999 time.Duration `json:"p999Nanoseconds"`
	Max  time.Duration `json:"maxNanoseconds"`
}

func quantiles(d []time.Duration) Quantiles {
	if len(d) == 0 {
		return Quantiles{}
	}
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[min(int(q*float64(len(d))), len(d)-1)] }
	return Quantiles{P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: d[len(d)-1]}
}

// paced is one delivery of the latency phase.
type paced struct {
	due, accepted time.Time
	id            string
	err           error
}

// lookEvery is how often it is looked which deliveries have become visible, and
// so how exact their times are.
const lookEvery = time.Millisecond

// pace sends deliveries at fixed moments, whatever becomes of those before
// (an open loop: a slow system does not slow its measurement down), and
// measures how long each takes.
func (s *system) pace(ctx context.Context, rate float64, duration time.Duration, next func() delivery) (Latency, error) {
	l := Latency{Rate: rate, Deliveries: int(rate * duration.Seconds())}
	answers := make(chan paced, l.Deliveries)
	cpu, machine, began := cpuTime(), machineTime(), time.Now()
	sent := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for n := range l.Deliveries {
			due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
				sent <- ctx.Err()
				return
			}
			if err := s.take(ctx, next(), func(id journal.ID, err error) { answers <- paced{due, time.Now(), id.String(), err} }); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	var visible, whole, accepted []time.Duration
	var open []paced
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(visible) < l.Deliveries {
		select {
		case <-ctx.Done():
			return l, ctx.Err()
		case err := <-sent:
			if err != nil {
				return l, err
			}
		case <-tick.C:
		}
	take:
		for {
			select {
			case p := <-answers:
				if p.err != nil {
					return l, p.err
				}
				open = append(open, p)
			default:
				break take
			}
		}
		left := open[:0]
		for _, p := range open {
			ok, err := s.visible(p.id)
			if err != nil {
				return l, err
			}
			if !ok {
				left = append(left, p)
				continue
			}
			now := time.Now()
			visible, whole, accepted = append(visible, now.Sub(p.accepted)), append(whole, now.Sub(p.due)), append(accepted, p.accepted.Sub(p.due))
		}
		open = left
	}
	used, elapsed := cpuTime()-cpu, time.Since(began)
	l.Processors = used.Seconds() / elapsed.Seconds()
	l.Others = others(machineTime()-machine, used, elapsed)
	l.Visible, l.Whole, l.Accepted = quantiles(visible), quantiles(whole), quantiles(accepted)
	return l, nil
}

// visible tells whether a delivery's end, and the entity in the version that it
// came to, can be read.
func (s *system) visible(id string) (bool, error) {
	o, ok, err := s.final(id)
	if err != nil || !ok || o.Disposition == journal.Duplicate {
		return ok, err
	}
	if o.Disposition != journal.Changed && o.Disposition != journal.Unchanged {
		return false, fmt.Errorf("delivery %s came to %s: %s", id, o.Disposition, o.Detail)
	}
	e, err := s.reads.Entities.Get(envelope.DefaultTenant, resourceName, o.Entity)
	return e != nil && e.Version >= o.Version, err
}
