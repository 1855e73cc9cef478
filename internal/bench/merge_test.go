package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/internal/embedded/schemaregistry"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/internal/testkit/folder"
	"github.com/touchstone-platform/touchstone/processors/merge"
	"github.com/touchstone-platform/touchstone/topology"
)

// BenchmarkMerge drains facts through the merge station alone, as the product
// runs it: 20 fields, Zipf 1.1, half of the facts changing something, a tenth
// copies of facts read before, 4 partitions. The entities are there before, as
// three sources left them. The broker is a process of its own: kfake on another
// core, or the Kafka of KAFKA_BROKERS, which must be empty. So the figure is of
// the application alone; it counts from a fifth of the facts, when caches are
// warm. Run it with a fixed count, on one core:
//
//	go test -c -o /tmp/bench.test ./internal/bench
//	taskset -c 1 /tmp/bench.test -test.run '^$' -test.bench Merge/keys=100000 -test.benchtime 1000000x -test.cpu 1 -test.v
//
// With -test.v the profile by component follows. BENCH_PROFILE=FILE keeps it.
func BenchmarkMerge(b *testing.B) {
	for _, keys := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			if b.N > 1 { // the first round of any benchmark is of one
				benchmarkMerge(b, keys)
			}
		})
	}
}

func benchmarkMerge(b *testing.B, keys int) {
	w := newMergeWorld(b, keys)
	w.seed()
	w.settle()
	w.facts(b.N)
	runtime.GC()

	stop := w.start()
	warm := int64(b.N / 5)
	w.await(func(s engine.GroupStatus) bool { return s.Records >= warm })
	from, cpu, began, machine := w.status(), cpuTime(), time.Now(), machineTime()
	b.ResetTimer()
	prof, err := profiled(os.Getenv("BENCH_PROFILE"), func() error {
		w.await(func(s engine.GroupStatus) bool { return s.Records >= int64(b.N) })
		return nil
	})
	b.StopTimer()
	to, used, elapsed := w.status(), cpuTime()-cpu, time.Since(began)
	taken := others(machineTime()-machine, used, elapsed)
	if err != nil {
		b.Fatal(err)
	}
	stop()
	if got := to.Emitted[topology.Changes(domainName)]; got != int64(w.changes) || to.DeadLetters != 0 {
		b.Fatalf("%d changes and %d dead letters, expected %d and none", got, to.DeadLetters, w.changes)
	}
	n := float64(to.Records - from.Records)
	perMillion := used.Seconds() / n * 1e6
	b.ReportMetric(perMillion, "CPU-s/M")
	b.ReportMetric(n/elapsed.Seconds(), "facts/s")
	b.ReportMetric(n/float64(to.Commits-from.Commits), "facts/commit")
	b.ReportMetric(float64(maxRSS())/(1<<20), "max-MiB")
	b.ReportMetric(float64(folder.Bytes(w.dir+"/state"))/(1<<20), "disk-MiB")
	b.ReportMetric(taken, "others-CPUs")
	b.ReportMetric(0, "ns/op")
	u := prof.usage(perMillion)
	var text strings.Builder
	for _, s := range slices.Concat(u.Parts, u.Components, u.Functions) {
		if s.Percent >= 1 {
			fmt.Fprintf(&text, "\n%6.2f  %4.1f %%  %s", s.PerMillion, s.Percent, s.Name)
		}
	}
	b.Log("CPU-seconds per million:", text.String())
}

// mergeWorld is a merge station with what it needs around it.
type mergeWorld struct {
	b       *testing.B
	ctx     context.Context
	brokers []string
	dir     string
	domain  *definition.Domain
	codecs  *codecs.Platform
	group   string
	engine  *engine.Engine

	gen     *factGenerator
	changes int
}

func newMergeWorld(b *testing.B, keys int) *mergeWorld {
	d, err := define()
	if err != nil {
		b.Fatal(err)
	}
	w := &mergeWorld{b: b, ctx: b.Context(), dir: b.TempDir(), domain: d, group: topology.GroupName(domainName, topology.Merge), brokers: benchBroker(b)}
	schemas, err := schemaregistry.Start(schemaregistry.Config{Dir: b.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer schemas.Close()
	r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: schemas.URL()})
	if err != nil {
		b.Fatal(err)
	}
	w.codecs, err = codecs.OpenPlatform(w.ctx, r, []codecs.Binding{
		{Topic: topology.Facts(domainName), Record: codecs.Fact}, {Topic: topology.Changes(domainName), Record: codecs.Change},
		{Topic: topology.Outcomes(domainName), Record: codecs.Outcome}, {Topic: engine.TableTopic(w.group), Record: codecs.Entity},
	})
	if err != nil {
		b.Fatal(err)
	}
	w.gen = newFactGenerator(d, keys)
	return w
}

func (w *mergeWorld) codec(topic string) codecs.Codec {
	c, err := w.codecs.Codec(topic)
	if err != nil {
		w.b.Fatal(err)
	}
	return c
}

// open declares the station and makes its topics.
func (w *mergeWorld) open() {
	e, err := engine.New(engine.Config{Brokers: w.brokers, Dir: w.dir + "/state", Instance: "bench", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		w.b.Fatal(err)
	}
	edge := func(topic string) engine.Edge { return engine.Edge{Stream: topic, Codec: w.codec(topic)} }
	err = e.AddProcessor(engine.Processor{
		Group: w.group, Station: merge.New(w.domain), Table: w.codec(engine.TableTopic(w.group)), DeadLetters: topology.DeadLetters(domainName),
		Inputs:  []engine.Edge{edge(topology.Facts(domainName))},
		Outputs: []engine.Edge{edge(topology.Changes(domainName)), edge(topology.Outcomes(domainName))},
	})
	if err != nil {
		w.b.Fatal(err)
	}
	var topics []engine.TopicSpec
	for _, t := range []string{topology.Facts(domainName), topology.Changes(domainName), topology.Outcomes(domainName), topology.DeadLetters(domainName), engine.TableTopic(w.group)} {
		topics = append(topics, engine.TopicSpec{Name: t, Partitions: 4, Replication: 1})
	}
	if err := e.EnsureTopics(w.ctx, topics); err != nil {
		w.b.Fatal(err)
	}
	w.engine = e
}

func (w *mergeWorld) close() {
	if err := w.engine.Close(); err != nil {
		w.b.Error(err)
	}
}

// start runs the station and gives what stops it.
func (w *mergeWorld) start() (stop func()) {
	w.open()
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- w.engine.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.b.Error(err)
		}
		w.close()
	}
}

func (w *mergeWorld) status() engine.GroupStatus { return w.engine.Status().Groups[0] }

func (w *mergeWorld) await(ok func(engine.GroupStatus) bool) {
	for !ok(w.status()) {
		<-time.After(2 * time.Millisecond)
	}
}

// produce writes what next gives until it gives nil.
func (w *mergeWorld) produce(next func() *kgo.Record) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		w.b.Fatal(err)
	}
	defer cl.Close()
	var failed atomic.Pointer[error]
	for r := next(); r != nil; r = next() {
		cl.Produce(w.ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(w.ctx); err != nil {
		w.b.Fatal(err)
	}
	if err := failed.Load(); err != nil {
		w.b.Fatal(*err)
	}
}

// seed writes the entities, as all their sources left them, to the changelog.
func (w *mergeWorld) seed() {
	w.open()
	w.close()
	table := engine.TableTopic(w.group)
	codec := w.codec(table)
	e := 0
	w.produce(func() *kgo.Record {
		if e == w.gen.keys {
			return nil
		}
		entity := w.gen.entity(w.b, e)
		e++
		value, err := codec.Encode(entity)
		if err != nil {
			w.b.Fatal(err)
		}
		return &kgo.Record{Topic: table, Key: []byte(entity.Key().String()), Value: value}
	})
}

// settle lets the station recover the entities, and Pebble come to rest.
func (w *mergeWorld) settle() {
	stop := w.start()
	for w.engine.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
	stop()
	stop = w.start()
	for w.engine.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
	for quiet := 0; quiet < 3; {
		before := cpuTime()
		<-time.After(300 * time.Millisecond)
		if cpuTime()-before < 30*time.Millisecond {
			quiet++
		} else {
			quiet = 0
		}
	}
	stop()
}

// facts writes n facts.
func (w *mergeWorld) facts(n int) {
	codec := w.codec(topology.Facts(domainName))
	w.produce(func() *kgo.Record {
		if n == 0 {
			return nil
		}
		n--
		fact := w.gen.next()
		value, err := codec.Encode(fact)
		if err != nil {
			w.b.Fatal(err)
		}
		return &kgo.Record{Topic: topology.Facts(domainName), Key: []byte(fact.Key()), Value: value}
	})
	w.changes = w.gen.changes
}

// factGenerator makes what resolve would make of the deliveries of generator.
type factGenerator struct {
	domain    *definition.Domain
	keys      int
	speakers  []speaker
	rnd       *rand.Rand
	zipf      *rand.Zipf
	revisions [][]uint32
	recent    []*signal.Fact
	n         int
	changes   int
}

func newFactGenerator(d *definition.Domain, keys int) *factGenerator {
	g := &factGenerator{domain: d, keys: keys, speakers: speakers(), rnd: rand.New(rand.NewPCG(1, 0)), revisions: make([][]uint32, len(speakers()))}
	g.zipf = rand.NewZipf(g.rnd, 1.1, 1, uint64(keys-1))
	for i := range g.revisions {
		g.revisions[i] = make([]uint32, keys)
	}
	return g
}

// entity is one that every source has spoken of once.
func (g *factGenerator) entity(b *testing.B, e int) *canonical.Entity {
	var entity *canonical.Entity
	for s := range g.speakers {
		res, err := authority.Merge(g.domain, g.domain.Resources[0], entity, g.say(s, e))
		if err != nil {
			b.Fatal(err)
		}
		entity = res.Entity
	}
	return entity
}

// next gives a change, the same again as a new fact, or a copy of a recent fact.
func (g *factGenerator) next() *signal.Fact {
	if len(g.recent) > 0 && g.rnd.Float64() < 0.1 {
		return g.recent[g.rnd.IntN(len(g.recent))]
	}
	s, e := g.rnd.IntN(len(g.speakers)), int(g.zipf.Uint64())
	if g.rnd.Float64() < 0.5 {
		g.revisions[s][e]++
		g.changes++
	}
	f := g.say(s, e)
	if len(g.recent) < recentDeliveries {
		g.recent = append(g.recent, f)
	} else {
		g.recent[g.n%recentDeliveries] = f
	}
	return f
}

func (g *factGenerator) say(s, e int) *signal.Fact {
	g.n++
	sp := &g.speakers[s]
	number := fmt.Sprintf("A-%08d", e)
	at := envelope.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(g.n) * time.Millisecond))
	id := domainName + ":" + strconv.Itoa(e%4) + ":" + strconv.Itoa(g.n)
	f := &signal.Fact{Entity: number, Signal: signal.Signal{
		ID: id, Journal: id, Signals: 1, Tenant: envelope.DefaultTenant, Source: sp.name, SourceKey: number, Resource: resourceName,
		Match: []canonical.Value{canonical.String(number)}, OccurredAt: at, ReceivedAt: at + 1000, Mapping: sp.name + "[0]",
		Cause: envelope.Cause{Correlation: id, Causation: id},
	}}
	claim := func(name string, n int) {
		// Without the comma and the name that a body has before the value.
		v := appendMember(nil, name, e, n)[len(`,"`)+len(name)+len(`":`):]
		f.Signal.Fields = append(f.Signal.Fields, canonical.Named{Name: name, Value: canonical.Value(v)})
	}
	f.Signal.Fields = append(f.Signal.Fields, canonical.Named{Name: "number", Value: canonical.String(number)})
	rev, k := int(g.revisions[s][e]), len(sp.decide)
	for i, name := range sp.decide {
		claim(name, (rev+k-1-i)/k)
	}
	for _, name := range sp.also {
		claim(name, 0)
	}
	slices.SortFunc(f.Signal.Fields, func(a, b canonical.Named) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// brokerVariable makes of this test binary a broker.
const brokerVariable = "TOUCHSTONE_BENCH_BROKER"

func TestMain(m *testing.M) {
	if os.Getenv(brokerVariable) != "" {
		if err := serveBroker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveBroker runs kfake, tells its addresses and ends with its input.
func serveBroker() error {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SleepOutOfOrder(), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := json.NewEncoder(os.Stdout).Encode(c.ListenAddrs()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// benchBroker gives the addresses of a broker in another process, on the first
// core if taskset is there.
func benchBroker(b *testing.B) []string {
	if given := os.Getenv("KAFKA_BROKERS"); given != "" {
		return strings.Split(given, ",")
	}
	args := []string{os.Args[0]}
	if path, err := exec.LookPath("taskset"); err == nil {
		args = []string{path, "-c", "0", os.Args[0]}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), brokerVariable+"=1", "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error("broker:", err)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		b.Fatal("broker:", err)
	}
	var addrs []string
	if err := json.Unmarshal(line, &addrs); err != nil {
		b.Fatal("broker:", err)
	}
	return addrs
}
