package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
)

// DefaultListen is the address the broker listens on when none is given.
const DefaultListen = "127.0.0.1:9092"

// Config says where the broker lives and what it holds.
type Config struct {
	// Dir is the directory of the broker's files, created where absent. The
	// broker owns everything in it.
	Dir string

	// Listen is a loopback address, host:port; empty means DefaultListen and
	// port 0 any free port. The broker has no authentication, so an address
	// that other machines can reach is refused.
	Listen string

	// Derived says of a topic that the stations compute it from primary
	// topics. Nil means that every topic is primary. It must give the same
	// answer for a topic for as long as the directory is used.
	Derived func(topic string) bool

	// DerivedGroup says of a consumer group that its offsets belong to the
	// derived state: the stations' groups. Nil means none.
	DerivedGroup func(group string) bool

	// Discard names files and directories outside Dir that mirror derived
	// topics, as the stations' local stores do. They are removed when an
	// unclean stop is found, before the broker counts as recovered.
	Discard []string

	// AutoCreate lets a client create a topic by writing to it, as Kafka does
	// by default, with Partitions partitions.
	AutoCreate bool

	// Partitions is the partition count of topics created without one; 0
	// means 1.
	Partitions int

	// Maintenance is the time between two rounds of compaction and retention;
	// 0 means an hour. A round holds up all requests while it runs.
	Maintenance time.Duration

	// Logger gets the broker's warnings; nil means none.
	Logger *slog.Logger
}

// Broker is a running embedded broker.
type Broker struct {
	cfg       Config
	lock      *datadir.Lock
	cluster   *kfake.Cluster
	addr      string
	syncer    *syncer
	recovered Recovered
	saveError atomic.Bool // kfake reported an error at level error: its state on disk may be incomplete

	stop  context.CancelFunc
	done  sync.WaitGroup
	close func() error
}

// Start recovers the directory if the last stop was unclean and starts the
// broker on it. The errors a user can do something about are a directory in use
// (*datadir.InUseError), an address that is taken or not a loopback address
// (the message names the flag), and files that are damaged beyond repair (the
// message names the file).
func Start(cfg Config) (*Broker, error) {
	cfg.setDefaults()
	ln, err := listen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	b, err := start(cfg, ln)
	if err != nil {
		ln.Close()
		return nil, err
	}
	return b, nil
}

func (cfg *Config) setDefaults() {
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if cfg.Derived == nil {
		cfg.Derived = func(string) bool { return false }
	}
	if cfg.DerivedGroup == nil {
		cfg.DerivedGroup = func(string) bool { return false }
	}
	if cfg.Partitions <= 0 {
		cfg.Partitions = 1
	}
	if cfg.Maintenance <= 0 {
		cfg.Maintenance = time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// listen opens the listener; its errors are for the person at the terminal.
func listen(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: --kafka-listen %q: want host:port, such as %s", address, DefaultListen)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("embedded broker: --kafka-listen %q: want a loopback address, such as %s, because the embedded broker has no authentication", address, DefaultListen)
	}
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("embedded broker: %s is taken by another program; choose another address with --kafka-listen: %w", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded broker: --kafka-listen %q: %w", address, err)
	}
	return ln, nil
}

func start(cfg Config, ln net.Listener) (_ *Broker, err error) {
	lock, err := datadir.Acquire(cfg.Dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		cfg:    cfg,
		lock:   lock,
		addr:   ln.Addr().String(),
		syncer: newSyncer(cfg.Dir),
	}
	b.close = sync.OnceValue(b.shutdown)
	defer func() {
		if err != nil {
			lock.Release()
		}
	}()

	running := filepath.Join(cfg.Dir, runningFile)
	unclean, err := exists(running)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if unclean {
		// The marker stays until a clean stop, so a recovery that is itself
		// interrupted is done again from the beginning.
		if b.recovered, err = recoverDir(cfg); err != nil {
			return nil, fmt.Errorf("embedded broker: recover %s: %w", cfg.Dir, err)
		}
	}
	if err := keepEmptyPositions(cfg.Dir); err != nil {
		return nil, fmt.Errorf("embedded broker: %s: %w", cfg.Dir, err)
	}
	if err := forgetSessions(cfg.Dir); err != nil {
		return nil, fmt.Errorf("embedded broker: %s: %w", cfg.Dir, err)
	}
	if err := writeFileSync(running, fmt.Appendf(nil, "%d\n", os.Getpid())); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}

	b.cluster, err = kfake.NewCluster(b.options(ln)...)
	if err != nil {
		if !unclean {
			os.Remove(running) // nothing ran, so nothing is unclean
		}
		return nil, fmt.Errorf("embedded broker: open %s: %w", cfg.Dir, err)
	}
	b.refuseCompaction()

	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	b.done.Go(func() { b.maintain(ctx) })
	return b, nil
}

func (b *Broker) options(ln net.Listener) []kfake.Opt {
	// Produce requests from version 13 on name topics by id; the connection
	// wants names, and no client needs the ids.
	versions := kversion.Tip()
	versions.SetMaxKeyVersion(int16(kmsg.Produce), 12)
	// Who asks whether the broker can tell late markers (KIP-1228) hears that it
	// can: here they are written by the process that ends the transaction.
	versions.SetMaxKeyVersion(int16(kmsg.WriteTxnMarkers), 2)

	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("touchstone-embedded"),
		kfake.DataDir(b.cfg.Dir),
		kfake.MaxVersions(versions),
		kfake.DefaultNumPartitions(b.cfg.Partitions),
		kfake.WithLogger(&logger{b: b, log: b.cfg.Logger}),
		kfake.ListenFn(func(string, string) (net.Listener, error) {
			return &listener{Listener: ln, b: b}, nil
		}),
		kfake.BrokerConfigs(map[string]string{
			// kfake applies its default retention of seven days to every topic
			// that sets none, compacted tables included.
			"log.retention.ms": "-1",
			// kfake reads whole segments, those of all partitions at once, when
			// it starts: the size bounds its memory.
			"log.segment.bytes": "16777216",
			// Offsets belong to the state on disk and do not age while nothing
			// runs. One hundred years.
			"offsets.retention.minutes": "52560000",
			// Maintenance is done by maintain, which records positions first.
			// kfake's own timer gets as close to never as it can.
			"log.cleaner.backoff.ms": "3153600000000",
		}),
	}
	if b.cfg.AutoCreate {
		opts = append(opts, kfake.AllowAutoTopicCreation())
	}
	return opts
}

// Addr is the address to give to Kafka clients, host:port.
func (b *Broker) Addr() string { return b.addr }

// Recovered tells what the start found and did.
func (b *Broker) Recovered() Recovered { return b.recovered }

// Err is the first failure to write acknowledged data to disk, or nil. After
// such a failure no record of a primary topic is acknowledged any more, because
// the operating system may report a later sync as good although data was lost.
func (b *Broker) Err() error { return b.syncer.Err() }

// Close stops the broker cleanly: it cuts all connections, saves its state,
// syncs every file and only then marks the stop as clean. Clients should be
// closed before. An error means that the next start will treat the stop as
// unclean. Further calls give the same answer.
func (b *Broker) Close() error { return b.close() }

func (b *Broker) shutdown() error {
	defer b.lock.Release()
	b.stop()
	b.done.Wait()
	b.saveError.Store(false)
	b.cluster.Close()

	if b.saveError.Load() {
		return fmt.Errorf("embedded broker: the state in %s was not saved completely", b.cfg.Dir)
	}
	if err := b.syncer.Err(); err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	if err := syncTree(b.cfg.Dir); err != nil {
		return fmt.Errorf("embedded broker: sync %s: %w", b.cfg.Dir, err)
	}
	if err := os.Remove(filepath.Join(b.cfg.Dir, runningFile)); err != nil {
		return fmt.Errorf("embedded broker: %w", err)
	}
	return syncDir(b.cfg.Dir)
}

// maintain compacts and expires records at each interval. Retention can empty a
// partition, and then no file tells how far it had come; so the ends of the
// primary partitions are recorded before and after.
func (b *Broker) maintain(ctx context.Context) {
	tick := time.NewTicker(b.cfg.Maintenance)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.recordPositions()
			b.cluster.Compact() // retention as well
			b.recordPositions()
		}
	}
}

func (b *Broker) recordPositions() {
	topics, err := readTopics(b.cfg.Dir)
	if err != nil {
		b.cfg.Logger.Warn("embedded broker: positions not recorded", "error", err)
		return
	}
	ends := make(positions)
	for _, t := range topics.Topics {
		if b.cfg.Derived(t.Name) {
			continue
		}
		for _, p := range b.cluster.PartitionInfos(t.Name) {
			ends.set(t.Name, p.Partition, p.HighWatermark)
		}
	}
	if err := ends.write(b.cfg.Dir); err != nil {
		b.cfg.Logger.Warn("embedded broker: positions not recorded", "error", err)
	}
}

// refuseCompaction keeps primary topics from being compacted, whatever their
// creator asks for (Debezium asks for it): kfake compacts a partition by
// deleting its files before it writes the new ones, and a kill in between would
// lose acknowledged records. The topic keeps more than was asked for.
func (b *Broker) refuseCompaction() {
	const key = "cleanup.policy"
	keep := func(topic, name string, value **string) bool {
		if name != key || *value == nil || **value == "delete" || b.cfg.Derived(topic) {
			return false
		}
		b.cfg.Logger.Info("embedded broker: a primary topic is not compacted", "topic", topic, "asked", **value)
		plain := "delete"
		*value = &plain
		return true
	}
	hook := func(k kmsg.Key, fn func(kmsg.Request)) {
		b.cluster.ControlKey(int16(k), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.cluster.KeepControl()
			fn(req)
			return nil, nil, false
		})
	}
	hook(kmsg.CreateTopics, func(req kmsg.Request) {
		for _, t := range req.(*kmsg.CreateTopicsRequest).Topics {
			for i := range t.Configs {
				keep(t.Topic, t.Configs[i].Name, &t.Configs[i].Value)
			}
		}
	})
	hook(kmsg.AlterConfigs, func(req kmsg.Request) {
		for _, r := range req.(*kmsg.AlterConfigsRequest).Resources {
			if r.ResourceType != kmsg.ConfigResourceTypeTopic {
				continue
			}
			for i := range r.Configs {
				keep(r.ResourceName, r.Configs[i].Name, &r.Configs[i].Value)
			}
		}
	})
	hook(kmsg.IncrementalAlterConfigs, func(req kmsg.Request) {
		for _, r := range req.(*kmsg.IncrementalAlterConfigsRequest).Resources {
			if r.ResourceType != kmsg.ConfigResourceTypeTopic {
				continue
			}
			for i := range r.Configs {
				if keep(r.ResourceName, r.Configs[i].Name, &r.Configs[i].Value) {
					r.Configs[i].Op = kmsg.IncrementalAlterConfigOpSet
				}
			}
		}
	})
}

// logger hands kfake's log to slog one level lower than kfake rates it, since
// its information level tells of single requests.
type logger struct {
	b   *Broker
	log *slog.Logger
}

func (l *logger) Logf(level kfake.LogLevel, format string, args ...any) {
	at := slog.LevelWarn
	switch level {
	case kfake.LogLevelError:
		l.b.saveError.Store(true)
		at = slog.LevelError
	case kfake.LogLevelWarn:
	default:
		return
	}
	l.log.Log(context.Background(), at, "embedded broker: "+fmt.Sprintf(format, args...))
}
