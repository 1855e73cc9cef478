// Package plaingoka is the merge on Goka as its documentation shows it: Sarama,
// LevelDB, at least once. What departs from Goka's defaults is told at Config
// and at settings: acknowledgement by all replicas, lz4, and a hasher that
// finds keys where Kafka's default partitioner put them.
//
// The merge is the product's domain/authority and the codec is the product's
// (package codecs, twmb/avro), so that the difference is the engine alone.
package plaingoka

import (
	"context"
	"fmt"
	"hash"
	"path/filepath"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/merge"
)

// Config of the processor.
type Config struct {
	Brokers []string
	Group   string
	Dir     string
	Domain  *definition.Domain
	// Facts is the input; Changes and Outcomes are written. Outcomes is empty
	// if none are to be.
	Facts, Changes, Outcomes string
	// Codecs by topic; that of the table under Group.
	Codecs map[string]goka.Codec
	// Commit is the time between commits of offsets.
	Commit time.Duration
	// CacheBytes is LevelDB's block cache over all Partitions.
	CacheBytes int64
	Partitions int
}

// Table is the topic of a group's table.
func Table(group string) string { return string(goka.GroupTable(goka.Group(group))) }

// Run merges until ctx ends.
func Run(ctx context.Context, c Config) error {
	station := merge.New(c.Domain)
	step := func(gc goka.Context, msg any) {
		fact := msg.(*signal.Fact)
		var state any
		if e, ok := gc.Value().(*canonical.Entity); ok {
			state = e
		}
		effects, err := station.Step(state, processors.Record{Stream: c.Facts, Partition: gc.Partition(), Offset: gc.Offset(), Key: gc.Key(), Value: fact})
		if err != nil {
			gc.Fail(err)
		}
		if effects.State != nil {
			gc.SetValue(effects.State)
		}
		for _, e := range effects.Emit {
			if _, ok := c.Codecs[e.Stream]; ok {
				gc.Emit(goka.Stream(e.Stream), e.Key, e.Value)
			}
		}
	}
	edges := []goka.Edge{
		goka.Input(goka.Stream(c.Facts), c.Codecs[c.Facts], step),
		goka.Persist(c.Codecs[c.Group]),
		goka.Output(goka.Stream(c.Changes), c.Codecs[c.Changes]),
	}
	if c.Outcomes != "" {
		edges = append(edges, goka.Output(goka.Stream(c.Outcomes), c.Codecs[c.Outcomes]))
	}
	cfg := settings(c)
	manager := goka.NewTopicManagerConfig()
	manager.Table.Replication, manager.Stream.Replication = 1, 1
	p, err := goka.NewProcessor(c.Brokers, goka.DefineGroup(goka.Group(c.Group), edges...),
		goka.WithConsumerGroupBuilder(goka.ConsumerGroupBuilderWithConfig(cfg)),
		goka.WithConsumerSaramaBuilder(goka.SaramaConsumerBuilderWithConfig(cfg)),
		goka.WithProducerBuilder(goka.ProducerBuilderWithConfig(cfg)),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithConfig(cfg, manager)),
		goka.WithStorageBuilder(storage.BuilderWithOptions(filepath.Join(c.Dir, "state"), &opt.Options{
			BlockCacheCapacity: int(c.CacheBytes) / max(c.Partitions, 1),
			WriteBuffer:        32 << 20,
		})),
		goka.WithHasher(func() hash.Hash32 { return &murmur2{} }),
	)
	if err != nil {
		return fmt.Errorf("plain goka: %w", err)
	}
	if err := p.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("plain goka: %w", err)
	}
	return nil
}

func settings(c Config) *sarama.Config {
	cfg := goka.DefaultConfig()
	cfg.Version = sarama.V3_6_0_0
	cfg.ClientID = "plain-goka"
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Offsets.AutoCommit.Interval = c.Commit
	cfg.Consumer.Fetch.Default = 10 << 20
	cfg.Consumer.Group.InstanceId = "bench"
	cfg.Consumer.Group.Session.Timeout = 10 * time.Second
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Compression = sarama.CompressionLZ4
	return cfg
}

// murmur2 is the hash of Kafka's default partitioner, without its sign.
type murmur2 struct{ data []byte }

func (h *murmur2) Write(p []byte) (int, error) {
	h.data = append(h.data, p...)
	return len(p), nil
}
func (h *murmur2) Sum(b []byte) []byte {
	s := h.Sum32()
	return append(b, byte(s>>24), byte(s>>16), byte(s>>8), byte(s))
}
func (h *murmur2) Reset()         { h.data = h.data[:0] }
func (h *murmur2) Size() int      { return 4 }
func (h *murmur2) BlockSize() int { return 4 }

// Sum32 is org.apache.kafka.common.utils.Utils.murmur2, made positive.
func (h *murmur2) Sum32() uint32 {
	const m, r = uint32(0x5bd1e995), 24
	d := h.data
	v := uint32(0x9747b28c) ^ uint32(len(d))
	for ; len(d) >= 4; d = d[4:] {
		k := uint32(d[0]) | uint32(d[1])<<8 | uint32(d[2])<<16 | uint32(d[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		v = v*m ^ k
	}
	switch len(d) {
	case 3:
		v ^= uint32(d[2]) << 16
		fallthrough
	case 2:
		v ^= uint32(d[1]) << 8
		fallthrough
	case 1:
		v ^= uint32(d[0])
		v *= m
	}
	v ^= v >> 13
	v *= m
	v ^= v >> 15
	return v & 0x7fffffff
}
