package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/internal/embedded/schemaregistry"
	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
)

// brokerJava are the options of the broker's JVM: as much heap as Kafka's own
// scripts give it, with the collector that one core is best served by.
var brokerJava = []string{"-Xms1g", "-Xmx1g", "-XX:+UseSerialGC", "-XX:ActiveProcessorCount=1", "-XX:+AlwaysPreTouch", "-Djava.awt.headless=true"}

// world is a broker with its input, and what reads and writes it.
type world struct {
	o        Options
	spec     workload.Spec
	dir      string
	cluster  *kafkatest.Cluster
	registry *schemaregistry.Server
	cl       *kgo.Client
	adm      *kadm.Client
	facts    codecs.Codec
	entities codecs.Codec
	changes  codecs.Codec
	ids      schemaIDs
	print    string // the definition's fingerprint
	java     string
}

// openWorld starts a broker and a registry. The caller closes the world.
func openWorld(ctx context.Context, o Options, spec workload.Spec) (w *world, err error) {
	w = &world{o: o, spec: spec}
	defer func() {
		if err != nil {
			w.close(true)
		}
	}()
	if w.java, err = exec.LookPath("java"); err != nil {
		return w, err
	}
	domain, err := spec.Compile()
	if err != nil {
		return w, err
	}
	w.print = domain.Fingerprint
	if w.dir, err = os.MkdirTemp(o.Dir, "touchstone-peers-"); err != nil {
		return w, err
	}
	if err = os.WriteFile(w.definition(), []byte(spec.Definition()), 0o600); err != nil {
		return w, err
	}
	w.cluster, err = kafkatest.Open(kafkatest.Options{Dir: w.dir, Java: brokerJava, CPUs: o.BrokerCPUs, Properties: map[string]string{
		// Sessions as long as a default broker has them.
		"broker.session.timeout.ms": "9000",
	}})
	if err != nil {
		return w, err
	}
	if w.registry, err = schemaregistry.Start(schemaregistry.Config{Listen: "127.0.0.1:0"}); err != nil {
		return w, err
	}
	if err = w.openCodecs(ctx); err != nil {
		return w, err
	}
	w.cl, err = kgo.NewClient(kgo.SeedBrokers(w.cluster.Addrs()...), kgo.ClientID("bench"), kgo.MetadataMinAge(100*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(10*time.Millisecond), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		return w, err
	}
	w.adm = kadm.NewClient(w.cl)
	return w, w.cluster.Create(int32(o.Partitions), map[string]string{"retention.ms": "-1"}, factsTopic())
}

func (w *world) definition() string { return filepath.Join(w.dir, "peers.yaml") }

// close ends everything; the logs of the broker can be kept.
func (w *world) close(keepLogs bool) {
	if w.cl != nil {
		w.cl.Close()
	}
	if w.registry != nil {
		_ = w.registry.Close() // it wrote nothing that matters
	}
	if w.cluster != nil {
		w.cluster.Close(keepLogs)
	}
	if w.dir != "" && !keepLogs {
		_ = os.RemoveAll(w.dir)
	}
}

func (w *world) openCodecs(ctx context.Context) error {
	r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: w.registry.URL()})
	if err != nil {
		return err
	}
	touchstone := Subject{Kind: Touchstone}
	p, err := codecs.OpenPlatform(ctx, r, []codecs.Binding{
		{Topic: factsTopic(), Record: codecs.Fact}, {Topic: touchstone.table(), Record: codecs.Entity},
		{Topic: changesTopic(), Record: codecs.Change}, {Topic: outcomesTopic(), Record: codecs.Outcome},
	})
	if err != nil {
		return err
	}
	id := func(topic string, zero any) (codecs.Codec, int, error) {
		c, err := p.Codec(topic)
		if err != nil {
			return nil, 0, err
		}
		b, err := c.Encode(zero)
		if err != nil {
			return nil, 0, err
		}
		return c, int(binary.BigEndian.Uint32(b[1:5])), nil
	}
	var errs [4]error
	w.facts, w.ids.fact, errs[0] = id(factsTopic(), &signal.Fact{})
	w.entities, w.ids.entity, errs[1] = id(touchstone.table(), &canonical.Entity{})
	w.changes, w.ids.change, errs[2] = id(changesTopic(), &event.Change{})
	_, w.ids.outcome, errs[3] = id(outcomesTopic(), &journal.Outcome{})
	return errors.Join(errs[:]...)
}

// preload writes the next facts of a generator, and gives them to fold.
func (w *world) preload(ctx context.Context, g *workload.Generator, n int, fold func(*signal.Fact) error) error {
	var failed error
	promise := func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) } // one at a time
	for range n {
		f := g.Next()
		r, err := w.record(&f)
		if err != nil {
			return err
		}
		w.cl.Produce(ctx, r, promise)
		if fold != nil {
			if err := fold(&f); err != nil {
				return err
			}
		}
	}
	return errors.Join(w.cl.Flush(ctx), failed)
}

func (w *world) record(f *signal.Fact) (*kgo.Record, error) {
	b, err := w.facts.Encode(f)
	return &kgo.Record{Topic: factsTopic(), Key: []byte(f.Key()), Value: b}, err
}

// clear removes what a subject left, but not the input.
func (w *world) clear(s Subject) error {
	if err := w.cluster.Clear(factsTopic()); err != nil {
		return err
	}
	if s.Kind == Touchstone {
		return nil // it creates all its topics itself
	}
	// The others create the topics of their tables.
	return w.cluster.Create(int32(w.o.Partitions), nil, changesTopic(), outcomesTopic())
}

// committed is how many facts a group has committed.
func (w *world) committed(ctx context.Context, group string) (sum int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var offsets kadm.OffsetResponses
	for {
		// The first to ask for a coordinator in a new cluster waits for its topic.
		if offsets, err = w.adm.FetchOffsets(ctx, group); err == nil {
			break
		}
		if !kerr.IsRetriable(err) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(lookEvery):
		}
	}
	for _, o := range offsets[factsTopic()] {
		if o.Err != nil {
			return 0, o.Err
		}
		sum += max(o.At, 0)
	}
	return sum, nil
}

// readAll reads all committed records of a topic.
func (w *world) readAll(ctx context.Context, topic string, take func(*kgo.Record) error) error {
	ends, err := w.adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", topic, err)
	}
	from := map[int32]kgo.Offset{}
	for p, e := range ends[topic] {
		if e.Offset > 0 {
			from[p] = kgo.NewOffset().AtStart()
		}
	}
	if len(from) == 0 {
		return nil
	}
	// Control records are kept: the last offset may be one.
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Addrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxPartitionBytes(10<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for len(from) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() && r.Value != nil && failed == nil {
				failed = take(r)
			}
			if r.Offset+1 >= ends[topic][r.Partition].Offset {
				delete(from, r.Partition)
			}
		})
		if failed != nil {
			return fmt.Errorf("read %s: %w", topic, failed)
		}
	}
	return nil
}

// check compares what a subject left with the oracle.
func (w *world) check(ctx context.Context, s Subject, o *workload.Oracle) (workload.Verdict, error) {
	if s.Kind == Floor {
		return w.checkFloor(ctx, o)
	}
	c := workload.NewCheck(o)
	err := w.readAll(ctx, s.table(), func(r *kgo.Record) error {
		v, err := w.entities.Decode(r.Value)
		if err != nil {
			return err
		}
		return c.State(v.(*canonical.Entity))
	})
	if err != nil {
		return workload.Verdict{}, err
	}
	err = w.readAll(ctx, changesTopic(), func(r *kgo.Record) error {
		v, err := w.changes.Decode(r.Value)
		if err != nil {
			return err
		}
		return c.Change(v.(*event.Change))
	})
	return c.Verdict(), err
}

// checkFloor counts: each fact once, as it was.
func (w *world) checkFloor(ctx context.Context, o *workload.Oracle) (v workload.Verdict, err error) {
	v.Changes = o.Facts()
	err = w.readAll(ctx, changesTopic(), func(*kgo.Record) error { v.Surplus++; return nil })
	if v.Surplus -= v.Changes; v.Surplus != 0 {
		v.WrongChanges = 1
		v.Examples = []string{fmt.Sprintf("%+d copies", v.Surplus)}
	}
	return v, err
}

func (w *world) bench(dir string) *bench {
	return &bench{
		brokers: strings.Join(w.cluster.Addrs(), ","), registry: w.registry.URL(), dir: dir, definition: w.definition(),
		spec: w.spec, partitions: w.o.Partitions, commit: w.o.Commit, cacheMB: w.o.CacheMB, ids: w.ids, fingerprint: w.print,
		touchstone: w.o.Touchstone, self: w.o.Self, streamsDir: w.o.StreamsDir, java: w.java,
	}
}
