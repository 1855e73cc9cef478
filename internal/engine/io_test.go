package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// The vectors are those of Kafka's UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	for s, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(s))); got != want {
			t.Errorf("murmur2(%q) = %d, expected %d", s, got, want)
		}
	}
}

// Partition, what producers do, and what Goka does with our hasher agree.
func TestPartitioningAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringN(1, -1, 200).Draw(t, "key")
		n := rapid.IntRange(1, 64).Draw(t, "partitions")
		want := Partition(key, n)
		kgot := kgo.StickyKeyPartitioner(nil).ForTopic("t").Partition(&kgo.Record{Key: []byte(key)}, n)
		h := newHasher()
		h.Write([]byte(key))
		ggot := int32(h.Sum32())
		if ggot < 0 {
			ggot = -ggot
		}
		if int32(kgot) != want || ggot%int32(n) != want {
			t.Fatalf("Partition %d, franz-go %d, goka %d", want, kgot, ggot%int32(n))
		}
	})
}

func (w *world) engine(opts ...func(*Config)) *Engine {
	w.t.Helper()
	cfg := w.config(w.t.TempDir())
	for _, o := range opts {
		o(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := e.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return e
}

func TestAppendReadAtAndTail(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	a, err := e.NewAppender()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx := t.Context()
	type at struct {
		partition int32
		offset    int64
	}
	places := map[string]at{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 50 {
		key := "k" + strconv.Itoa(i)
		wg.Go(func() {
			p, o, err := a.Append(ctx, "in", key, []byte("v"+key), map[string][]byte{"h": []byte(key)})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			places[key] = at{p, o}
			mu.Unlock()
		})
	}
	wg.Wait()
	for i := range 50 {
		key := "async" + strconv.Itoa(i)
		a.AppendAsync(ctx, "in", key, []byte("v"+key), map[string][]byte{"h": []byte(key)}, func(p int32, o int64, err error) {
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			places[key] = at{p, o}
			mu.Unlock()
		})
	}
	if err := a.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for key, p := range places {
		if p.partition != Partition(key, testPartitions) {
			t.Errorf("%s is in partition %d", key, p.partition)
		}
		r, err := e.ReadAt(ctx, "in", p.partition, p.offset)
		if err != nil || string(r.Key) != key || string(r.Value) != "v"+key || string(r.Headers["h"]) != key || r.Time == 0 {
			t.Errorf("%s: %+v, %v", key, r, err)
		}
	}
	for _, p := range []at{{0, 1000}, {0, -1}, {99, 0}} {
		if _, err := e.ReadAt(ctx, "in", p.partition, p.offset); failure.KindOf(err) != failure.NotFound {
			t.Errorf("%v: %v", p, err)
		}
	}
	ends, err := e.EndOffsets(ctx, "in")
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, o := range ends {
		total += o
	}
	if total != 100 {
		t.Errorf("ends %v", ends)
	}

	// From the start: everything; from offsets: what is behind them; an error
	// of the function ends it.
	done := errors.New("done")
	n := 0
	if err := e.Tail(ctx, "in", Start(), func(Record) error {
		if n++; n == 100 {
			return done
		}
		return nil
	}); !errors.Is(err, done) {
		t.Fatal(err)
	}
	ends[2]--
	if err := e.Tail(ctx, "in", Offsets(ends), func(r Record) error {
		if r.Partition != 2 || r.Offset != ends[2] {
			t.Errorf("got %d@%d", r.Partition, r.Offset)
		}
		return done
	}); !errors.Is(err, done) {
		t.Fatal(err)
	}
	// From the end: what comes after the call.
	tctx, cancel := context.WithCancel(ctx)
	got := make(chan Record, 10)
	ended := make(chan error, 1)
	go func() { ended <- e.Tail(tctx, "in", End(), func(r Record) error { got <- r; return nil }) }()
	var r Record
	for i := 0; r.Key == nil; i++ { // until one comes after the tail has begun
		w.send("in", "late"+strconv.Itoa(i), "x")
		select {
		case r = <-got:
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !strings.HasPrefix(string(r.Key), "late") {
		t.Errorf("got %s", r.Key)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What is in an aborted transaction, and the marker behind it, is not there.
func TestReadAtAborted(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := t.Context()
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "in", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	for offset, there := range []bool{false, false, true, false} { // aborted, marker, committed, marker
		_, err := e.ReadAt(ctx, "in", 0, int64(offset))
		if there != (err == nil) || (!there && failure.KindOf(err) != failure.NotFound) {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
}

// A feed hands on every record at least once, and again after an error.
func TestFeed(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	seen := map[string]int{}
	calls := 0
	declare := func(e *Engine) {
		if err := e.AddFeed(Feed{Group: "feed", Topics: []string{"in"}, Take: func(_ context.Context, rs []Record) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == 2 {
				return errors.New("not now")
			}
			for _, r := range rs {
				seen[string(r.Value)]++
			}
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
	}
	all := func(n int) {
		t.Helper()
		eventually(t, "all records", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(seen) != n {
				return fmt.Errorf("%d of %d", len(seen), n)
			}
			return nil
		})
	}
	w.feed(0, 50, 5)
	e := w.start(w.config(t.TempDir()), declare)
	all(50)
	w.feed(50, 100, 5)
	all(100)
	e.stop()
	w.feed(100, 150, 5)
	w.start(w.config(t.TempDir()), declare)
	all(150)
}

func TestEnsureTopics(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	ctx := t.Context()
	specs := []TopicSpec{
		{Name: "new.a", Partitions: 3, Configs: map[string]string{"cleanup.policy": "compact"}},
		{Name: "new.b", Partitions: 5, Replication: 1, Configs: map[string]string{"retention.ms": "1000"}},
	}
	for range 2 { // the second time they exist
		if err := e.EnsureTopics(ctx, specs); err != nil {
			t.Fatal(err)
		}
	}
	configs, err := w.adm.DescribeTopicConfigs(ctx, "new.a")
	if err != nil || len(configs) != 1 || configs[0].Err != nil {
		t.Fatal(configs, err)
	}
	if i := slices.IndexFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "cleanup.policy" && c.MaybeValue() == "compact" }); i < 0 {
		t.Errorf("%+v", configs[0].Configs)
	}
	if d, err := w.adm.ListTopics(ctx, "new.b"); err != nil || len(d["new.b"].Partitions) != 5 {
		t.Errorf("%+v, %v", d, err)
	}
	err = e.EnsureTopics(ctx, []TopicSpec{{Name: "new.a", Partitions: 4}, {Name: "in", Partitions: 9}})
	if err == nil || !strings.Contains(err.Error(), "topic new.a has 3 partitions, expected 4") || !strings.Contains(err.Error(), "topic in has 4 partitions, expected 9") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachableBroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	e, err := New(Config{Brokers: []string{addr}, Dir: t.TempDir(), Logger: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err = e.WaitReady(ctx, func(err error, next time.Duration) {
		if tries++; tries == 2 {
			cancel()
		}
		if !strings.Contains(err.Error(), addr) || next <= 0 {
			t.Errorf("%v, next in %v", err, next)
		}
	})
	if err == nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
	if err := e.Ready(); err == nil {
		t.Error("ready without a broker")
	}
}

func TestConfigValidate(t *testing.T) {
	if err := (Config{Brokers: []string{"b:1"}, Dir: "d"}).Validate(); err != nil {
		t.Error(err)
	}
	err := Config{CommitInterval: time.Minute, MaxRecordBytes: 5}.Validate()
	for _, want := range []string{"Brokers: empty", "Dir: empty", "CommitInterval: 1m0s", "MaxRecordBytes: 5"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestProcessorValidate(t *testing.T) {
	err := Processor{Inputs: []Edge{{"a", textCodec{}}, {"a", nil}}, Retention: &Retention{}}.Validate()
	for _, want := range []string{"Group: empty", "Station: nil", "stream a: no codec", "DeadLetters: empty", "Retention: needs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// A record that is ordered by something else than its key goes where that goes.
func TestAppendOrdered(t *testing.T) {
	w := newWorld(t)
	a, err := w.engine().NewAppender()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for i := range 20 {
		key, order := "k"+strconv.Itoa(i), "o"+strconv.Itoa(i%3)
		want := Partition(order, testPartitions)
		if i%5 == 0 {
			order, want = "", Partition(key, testPartitions)
		}
		a.AppendOrdered(t.Context(), "in", key, order, []byte("v"), nil, func(p int32, _ int64, err error) {
			if err != nil || p != want {
				t.Errorf("key %s, order %q: partition %d, expected %d; %v", key, order, p, want, err)
			}
		})
	}
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}
