package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/views"
)

// BenchmarkProcessor drains records of 300 bytes over 100,000 keys in 8
// partitions: the state of the key is read, changed and written for each, and
// an event is emitted for 30 %. The broker is in the same process, so CPU time
// is of both. Run it with a fixed count: -benchtime 1000000x.
func BenchmarkProcessor(b *testing.B) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, "in", "out", "dead", "counter-table"))
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	ctx := context.Background()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 300)
	for i := range value {
		value[i] = byte('a' + rnd.IntN(26))
	}
	for range b.N {
		cl.Produce(ctx, &kgo.Record{Topic: "in", Key: fmt.Appendf(nil, "entity/%06d", rnd.IntN(100_000)), Value: value}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	cl.Close()

	e, err := New(Config{Brokers: cluster.ListenAddrs(), Dir: b.TempDir(), Instance: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	station := stationFunc(func(state any, rec processors.Record) (processors.Effects, error) {
		v := rec.Value.([]byte)
		next := append([]byte(nil), v...)
		if state != nil {
			next[0] = state.([]byte)[0] + 1
		}
		eff := processors.Effects{State: next}
		if rec.Offset%10 < 3 {
			eff.Emit = []processors.Emit{{Stream: "out", Key: rec.Key, Value: next}}
		}
		return eff, nil
	})
	if err := e.AddProcessor(Processor{Group: "counter", Station: station, Table: bytesCodec{}, DeadLetters: "dead",
		Inputs: []Edge{{"in", bytesCodec{}}}, Outputs: []Edge{{"out", bytesCodec{}}}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	began, cpu := time.Now(), cpuTime(b)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	for e.Status().Groups[0].Records < int64(b.N) {
		<-time.After(time.Millisecond)
	}
	elapsed, used := time.Since(began), cpuTime(b)-cpu
	b.StopTimer()
	s := e.Status().Groups[0]
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "msgs/s")
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/msg")
	b.ReportMetric(float64(b.N)/float64(s.Commits), "msgs/commit")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// cpuTime is what the process has used so far, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLatency is the way of one record through a processor in a quiet
// system: from the append until a reader of committed records has the output.
func BenchmarkLatency(b *testing.B) {
	w := newWorld(b)
	cfg := w.config(b.TempDir())
	cfg.CommitInterval = 0 // the default
	e := w.startCounter(cfg, &counter{})
	e.waitReady()
	a, err := e.NewAppender()
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	got := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Tail(ctx, "out", Start(), func(Record) error { got <- struct{}{}; return nil }) }()
	for b.Loop() {
		if _, _, err := a.Append(ctx, "in", "k", []byte("1"), nil); err != nil {
			b.Fatal(err)
		}
		<-got
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRestore has a processor with an empty folder recover a table of
// records with values of 600 bytes, half of which compress, over half as many
// keys in 4 partitions: how fast a table comes back. The broker is in the same
// process and its work counts. Run it with a fixed count: -benchtime 1000000x.
// Indexed, each value has three terms besides; decoding costs nothing here.
func BenchmarkRestore(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkRestore(b, func(*Engine) error { return nil }) })
	b.Run("indexed", func(b *testing.B) {
		benchmarkRestore(b, func(e *Engine) error {
			_, err := e.AddIndex(threeTerms{})
			return err
		})
	})
}

// threeTerms gives each value of the counter's table three terms.
type threeTerms struct{}

func (threeTerms) Name() string                     { return "three" }
func (threeTerms) Topic() string                    { return "counter-table" }
func (threeTerms) Layout() string                   { return "" }
func (threeTerms) Decode(value []byte) (any, error) { return value, nil }

func (threeTerms) Terms(_ string, value any) (views.Terms, error) {
	v := value.([]byte)
	return views.NewTerms([]views.Term{1, 2 + views.Term(v[0]%8), 10 + views.Term(v[1])}), nil
}

func benchmarkRestore(b *testing.B, index func(*Engine) error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "in", "out", "dead", "counter-table"))
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	ctx := context.Background()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	values := make([][]byte, 1000)
	for i := range values {
		values[i] = make([]byte, 600)
		for j := range 300 {
			values[i][j] = byte(rnd.Uint32())
		}
	}
	for i := range b.N {
		cl.Produce(ctx, &kgo.Record{Topic: "counter-table", Key: fmt.Appendf(nil, "default/entity/%08d", rnd.IntN(b.N/2+1)), Value: values[i%len(values)]}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	cl.Close()
	e, err := New(Config{Brokers: cluster.ListenAddrs(), Dir: b.TempDir(), Instance: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(e.AddProcessor(counterSpec(&counter{})), index(e)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	began, cpu := time.Now(), cpuTime(b)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	for e.Ready() != nil {
		<-time.After(time.Millisecond)
	}
	elapsed, used := time.Since(began), cpuTime(b)-cpu
	b.StopTimer()
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "records/s")
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/record")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFirstCommitAfterKill kills a process with SIGKILL in the middle of
// its work, starts it again on its folder at once, and takes the time from that
// start until a reader of committed records has the first new output. The
// broker is in this process; with the tag kafka it is a real one.
func BenchmarkFirstCommitAfterKill(b *testing.B) {
	w := newWorld(b)
	dir := b.TempDir() + "/state"
	// Records, not offsets: the abort of what the dead process left open moves
	// offsets too.
	outputs := func() int { return len(w.read("out")) }
	fed := 0
	feed := func() {
		w.feed(fed, fed+400, 50)
		fed += 400
	}
	var took time.Duration
	worker := w.work(dir, "a", "")
	for range b.N {
		before := outputs()
		feed()
		eventually(b, "some work", func() error {
			if outputs() < before+100 {
				return errors.New("nothing is done yet")
			}
			return nil
		})
		feed()
		worker.signal(syscall.SIGKILL)
		worker.killed()
		before = outputs()
		feed()
		began := time.Now()
		worker = w.work(dir, "a", "")
		eventually(b, "the first commit", func() error {
			if outputs() == before {
				return errors.New("nothing new is committed")
			}
			return nil
		})
		took += time.Since(began)
	}
	b.StopTimer()
	w.eventuallyAudit(fed, 50)
	worker.stop()
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/restart")
	b.ReportMetric(0, "ns/op")
}
