package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config is what an Engine needs to know. The zero value of every field but
// Brokers and Dir is replaced by its default.
type Config struct {
	// Brokers are the addresses to find the cluster by, host:port.
	Brokers []string
	// Dir is the Pebble folder of the process. It is created if absent.
	Dir string
	// Instance names this process among those of the same groups; it must be
	// stable over restarts and unique at any one time. It is part of the
	// transactional ids and the static group member id. Default: the host name.
	Instance string
	// ClientID is what brokers log and count requests by. Default "touchstone".
	ClientID string
	// Logger gets one line per thing that an operator should know. Default:
	// discard.
	Logger *slog.Logger
	// Metrics takes the engine's collectors. Default: a registry of its own.
	Metrics prometheus.Registerer

	// CommitInterval is the longest time that a transaction stays open while
	// there is input. When the input runs dry it is committed at once.
	// Default 50 ms.
	CommitInterval time.Duration
	// CommitPause is the longest time between two commits that a transaction
	// which has run dry waits for more input. The wait is in proportion to the
	// rate of records, and whole from 2,000 per second: a quiet system never
	// waits, and when records trickle in fast a transaction holds several.
	// Default 20 ms, or CommitInterval if that is shorter; negative for none.
	CommitPause time.Duration
	// CommitRecords ends a transaction after so many input records. Default 20,000.
	CommitRecords int
	// TransactionTimeout is after what time the broker aborts a transaction
	// whose owner went silent. Default 10 s, that of Kafka Streams.
	TransactionTimeout time.Duration
	// StopTimeout is how long Run goes on, once its context has ended, to commit
	// what was begun. Default 10 s.
	StopTimeout time.Duration
	// SessionTimeout is after what time a silent member of a group loses its
	// partitions. Default 10 s.
	SessionTimeout time.Duration

	// MaxRecordBytes is the largest record (key, value and headers) that a
	// step may write; a larger one makes its input a dead letter. The topics
	// must take 32 KiB more, as dead letters carry additional headers.
	// Default 1,000,000, which fits Kafka's default of 1,048,588.
	MaxRecordBytes int
	// FetchMaxBytes bounds one fetch of one client. Default 16 MiB.
	FetchMaxBytes int32
	// CacheBytes is Pebble's block cache. Default 128 MiB.
	CacheBytes int64
	// StateCacheBytes is the memory for decoded values of tables, shared by all
	// partitions that this process owns. It is an estimate, by the length of the
	// encoded values. Default 64 MiB; negative for none.
	StateCacheBytes int64
	// MemTableBytes is the size of one Pebble memtable. Default 32 MiB.
	MemTableBytes uint64

	// ClientOptions are added to every Kafka client: TLS, SASL, dialer.
	ClientOptions []kgo.Opt

	hooks hooks
	fs    vfs.FS // of the data directory; tests have their own
	// lateTransactions is how much later than it should a broker ends a
	// transaction. Default 10 s, which is how often Kafka looks for them.
	lateTransactions time.Duration
}

// hooks let tests stop the world at the places where a crash would hurt most.
type hooks struct {
	beforeEnd   func(group string)       // everything is flushed, EndTxn not yet sent
	beforeApply func(group string) error // committed, but not yet in Pebble; an error is a crash
	recovering  func(*task) error        // a table is about to be recovered
	eager       bool                     // offer only what versions before cooperative rebalancing offer
}

func (c Config) withDefaults() Config {
	if c.Instance == "" {
		c.Instance, _ = os.Hostname()
	}
	if c.Instance == "" {
		c.Instance = "0"
	}
	def(&c.ClientID, "touchstone")
	def(&c.CommitInterval, 50*time.Millisecond)
	def(&c.CommitPause, min(20*time.Millisecond, max(c.CommitInterval, time.Millisecond)))
	def(&c.CommitRecords, 20_000)
	def(&c.TransactionTimeout, 10*time.Second)
	def(&c.lateTransactions, 10*time.Second)
	def(&c.SessionTimeout, 10*time.Second)
	def(&c.StopTimeout, 10*time.Second)
	def(&c.MaxRecordBytes, 1_000_000)
	def(&c.FetchMaxBytes, 16<<20)
	def(&c.CacheBytes, 128<<20)
	def(&c.StateCacheBytes, 64<<20)
	def(&c.MemTableBytes, 32<<20)
	if c.fs == nil {
		// Without disk health checks, whose goroutine a failed Open leaves behind.
		c.fs = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate tells everything that is wrong with the configuration at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		bad("Brokers: empty, expected at least one host:port")
	}
	if c.Dir == "" {
		bad("Dir: empty, expected a folder for the local state")
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"CommitInterval", c.CommitInterval},
		{"TransactionTimeout", c.TransactionTimeout},
		{"SessionTimeout", c.SessionTimeout},
		{"StopTimeout", c.StopTimeout},
	} {
		if d.v < time.Millisecond {
			bad("%s: %v, expected at least 1ms", d.name, d.v)
		}
	}
	if c.CommitInterval*2 > c.TransactionTimeout {
		bad("CommitInterval: %v, expected at most half of TransactionTimeout (%v)", c.CommitInterval, c.TransactionTimeout)
	}
	if c.CommitPause > c.CommitInterval {
		bad("CommitPause: %v, expected at most CommitInterval (%v)", c.CommitPause, c.CommitInterval)
	}
	if c.CommitRecords < 1 {
		bad("CommitRecords: %d, expected at least 1", c.CommitRecords)
	}
	if c.MaxRecordBytes < 1024 {
		bad("MaxRecordBytes: %d, expected at least 1024", c.MaxRecordBytes)
	}
	if len(errs) > 0 {
		return fmt.Errorf("engine configuration: %w", errors.Join(errs...))
	}
	return nil
}

// deadLetterRoom is how much larger than its original a dead letter may be.
const deadLetterRoom = 32 << 10

// clientOptions are those that every client of the engine shares; the user's
// come last and win.
func (c *Config) clientOptions(role string, opts ...kgo.Opt) []kgo.Opt {
	all := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID + "-" + role),
		kgo.WithLogger(kafkaLogger{c.Logger.With("client", role)}),
		kgo.FetchMaxBytes(c.FetchMaxBytes),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(c.MaxRecordBytes + deadLetterRoom)),
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	all = append(all, opts...)
	return append(all, c.ClientOptions...)
}
