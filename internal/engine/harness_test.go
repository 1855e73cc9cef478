package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/processors"
)

// The tests run on a fake broker in the same process (fake_test.go); with the
// build tag kafka, on a real one (kafka_test.go). The two files differ in what
// is done to a cluster beyond the Kafka protocol.

// The counter station adds one to the count of a key for each record, and
// emits the count. Exactly once then means: to a read-committed reader the
// emitted counts of a key are 1, 2, 3 … n without a gap or a repetition, n is
// the number of its inputs, and the table's last value is n.
type counter struct {
	steps  atomic.Int64
	before func(n int64, rec processors.Record) error // may be nil
}

func (c *counter) Step(state any, rec processors.Record) (processors.Effects, error) {
	n := c.steps.Add(1)
	if c.before != nil {
		if err := c.before(n, rec); err != nil {
			return processors.Effects{}, err
		}
	}
	count := 0
	if state != nil {
		count = state.(int)
	}
	count++
	return processors.Effects{State: count, Emit: []processors.Emit{
		{Stream: "out", Key: rec.Key, Value: count, Headers: map[string][]byte{"input": fmt.Appendf(nil, "%v", rec.Value)}},
	}}, nil
}

// intCodec is a decimal number; "bad" and the like do not decode, -1 does not encode.
type intCodec struct{}

var _ appender = intCodec{}

func (c intCodec) Encode(v any) ([]byte, error) { return c.AppendEncode(nil, v) }
func (intCodec) AppendEncode(dst []byte, v any) ([]byte, error) {
	n, ok := v.(int)
	if !ok || n == -1 {
		return nil, fmt.Errorf("%v is not a number", v)
	}
	return strconv.AppendInt(dst, int64(n), 10), nil
}
func (intCodec) Decode(b []byte) (any, error) { return strconv.Atoi(string(b)) }

// textCodec is a string as it is.
type textCodec struct{}

func (textCodec) Encode(v any) ([]byte, error) { return []byte(v.(string)), nil }
func (textCodec) Decode(b []byte) (any, error) { return string(b), nil }

type world struct {
	t       testing.TB
	cluster cluster
	brokers []string
	cl      *kgo.Client
	adm     *kadm.Client
}

const testPartitions = 4

// newWorld gives an empty cluster with the topics of the counter.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, testPartitions)
}

func newWorldOf(t testing.TB, partitions int32) *world {
	t.Helper()
	w := &world{t: t}
	w.open()
	w.topics(partitions, "in", "out", "dead", "counter-table")
	var err error
	w.cl, err = kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cl.Close)
	w.adm = kadm.NewClient(w.cl)
	return w
}

// testLog sends the engine's log to the test's, at the level that
// TOUCHSTONE_TEST_LOG names.
func testLog(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if s := os.Getenv("TOUCHSTONE_TEST_LOG"); s != "" {
		if err := level.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil { // else the test has ended
		w.t.Log(string(b[:len(b)-1]))
	}
	return len(b), nil
}

func (w *world) config(dir string) Config {
	return Config{
		Brokers: w.brokers, Dir: dir, Instance: "a", Logger: testLog(w.t),
		CommitInterval: 20 * time.Millisecond, TransactionTimeout: 2 * time.Second, SessionTimeout: 6 * time.Second,
		CacheBytes: 8 << 20, MemTableBytes: 4 << 20,
	}
}

func counterSpec(c processors.Station) Processor {
	return Processor{
		Group: "counter", Station: c, Table: intCodec{}, DeadLetters: "dead",
		Inputs: []Edge{{"in", intCodec{}}}, Outputs: []Edge{{"out", intCodec{}}},
	}
}

// running is an engine at work.
type running struct {
	*Engine
	t      testing.TB
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

// start makes an engine, has setup declare things, and runs it.
func (w *world) start(cfg Config, setup func(e *Engine)) *running {
	w.t.Helper()
	e, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	setup(e)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Engine: e, t: w.t, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- e.Run(ctx) }()
	w.t.Cleanup(r.stop)
	return r
}

func (w *world) startCounter(cfg Config, c processors.Station) *running {
	w.t.Helper()
	return w.start(cfg, func(e *Engine) {
		if err := e.AddProcessor(counterSpec(c)); err != nil {
			w.t.Fatal(err)
		}
	})
}

func (r *running) stop() {
	r.once.Do(func() {
		r.cancel()
		if err := <-r.done; err != nil {
			r.t.Errorf("run: %v", err)
		}
		if err := r.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
}

func (r *running) waitReady() {
	r.t.Helper()
	eventually(r.t, "ready", r.Ready)
}

// eventually waits until check gives nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s: %v", what, err)
		}
		<-time.After(lookEvery)
	}
}

// feed writes inputs first..last-1, each with its number as value, over keys.
func (w *world) feed(first, last, keys int) {
	w.t.Helper()
	var rs []*kgo.Record
	for i := first; i < last; i++ {
		rs = append(rs, &kgo.Record{Topic: "in", Key: fmt.Appendf(nil, "key-%d", i%keys), Value: []byte(strconv.Itoa(i))})
	}
	if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// load feeds records until it is told to stop, and then tells how many it fed.
// Nothing that was not acknowledged counts, and it goes on until it is.
func (w *world) load(keys int) (stop func() int) { return w.loadFrom(0, keys) }

// loadFrom goes on after so many records.
func (w *world) loadFrom(fed, keys int) (stop func() int) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
			w.feed(fed, fed+20, keys)
			fed += 20
		}
	})
	end := sync.OnceValue(func() int {
		close(done)
		wg.Wait()
		return fed
	})
	w.t.Cleanup(func() { end() })
	return end
}

// read gives all committed records of a topic up to its end as of now.
func (w *world) read(topic string) []Record {
	w.t.Helper()
	for began := time.Now(); ; <-time.After(lookEvery) {
		out, err := w.tryRead(topic)
		if err == nil {
			return out
		}
		if !kerr.IsRetriable(err) || time.Since(began) > patience {
			w.t.Fatalf("read %s: %v", topic, err)
		}
	}
}

func (w *world) tryRead(topic string) (out []Record, err error) {
	e := &Engine{cfg: Config{Brokers: w.brokers}.withDefaults()}
	k, err := newKafka(&e.cfg)
	if err != nil {
		return nil, err
	}
	defer k.close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ps, err := k.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, p := range ps {
		_, at, end, err := k.position(ctx, topic, p)
		if err != nil {
			return nil, err
		}
		for at < end {
			fp, next, err := k.fetch(ctx, topic, p, at, 1<<20)
			if err != nil {
				return nil, fmt.Errorf("%d@%d: %w", p, at, err)
			}
			for _, r := range fp.Records {
				out = append(out, recordOf(r))
			}
			if next == at {
				break // an open transaction
			}
			at = next
		}
	}
	return out, nil
}

// audit checks exactly-once for inputs 0..n-1 over keys.
func (w *world) audit(n, keys int) error {
	perKey := map[string][]int{}
	inputs := map[string]int{}
	for _, r := range w.read("out") {
		c, err := strconv.Atoi(string(r.Value))
		if err != nil {
			return err
		}
		perKey[string(r.Key)] = append(perKey[string(r.Key)], c)
		inputs[string(r.Headers["input"])]++
	}
	for i := range n {
		if got := inputs[strconv.Itoa(i)]; got != 1 {
			return fmt.Errorf("input %d had its effect %d times (%d inputs seen)", i, got, len(inputs))
		}
	}
	if len(inputs) != n {
		return fmt.Errorf("%d inputs had an effect, expected %d", len(inputs), n)
	}
	state := map[string]string{}
	for _, r := range w.read("counter-table") {
		state[string(r.Key)] = string(r.Value)
	}
	for _, key := range slices.Sorted(maps.Keys(perKey)) {
		counts := perKey[key]
		for i, c := range counts {
			if c != i+1 {
				return fmt.Errorf("%s: count %d follows %d", key, c, i)
			}
		}
		if state[key] != strconv.Itoa(len(counts)) {
			return fmt.Errorf("%s: table says %s, emitted %d", key, state[key], len(counts))
		}
	}
	return nil
}

// eventuallyAudit waits for the audit to pass. What it finds wrong in a log
// stays wrong; what it misses may still be on its way, as an answered commit
// reaches the partitions one by one.
func (w *world) eventuallyAudit(n, keys int) {
	w.t.Helper()
	eventually(w.t, "the audit", func() error {
		if got := len(w.read("out")); got < n {
			return fmt.Errorf("%d of %d emitted", got, n)
		}
		return w.audit(n, keys)
	})
}

// group gives the status of the counter.
func (r *running) group() GroupStatus { return r.Status().Groups[0] }
