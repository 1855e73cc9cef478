package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TopicSpec is a topic that must exist.
type TopicSpec struct {
	Name string
	// Partitions to create it with; negative leaves it to the broker, and an
	// existing topic may then have any number.
	Partitions int32
	// Replication is the number of replicas; 0 leaves it to the broker.
	Replication int16
	// Configs are topic configurations by Kafka's names: "cleanup.policy".
	Configs map[string]string
}

// EnsureTopics creates the topics that do not exist yet and waits until the
// cluster knows them all. An existing topic with another partition count is an
// error, as keys would be found in other partitions; its configurations are
// left as they are.
func (e *Engine) EnsureTopics(ctx context.Context, topics []TopicSpec) error {
	return e.kafka.ensure(ctx, topics)
}

// kafka is the engine's client for everything that is not consuming or
// transactional: metadata, offsets, single fetches.
type kafka struct {
	cl  *kgo.Client
	adm *kadm.Client
}

func newKafka(cfg *Config) (*kafka, error) {
	cl, err := kgo.NewClient(cfg.clientOptions("admin")...)
	if err != nil {
		return nil, fmt.Errorf("kafka client for %s: %w", strings.Join(cfg.Brokers, ","), err)
	}
	return &kafka{cl: cl, adm: kadm.NewClient(cl)}, nil
}

func (k *kafka) close() { k.cl.Close() }

func (k *kafka) ensure(ctx context.Context, topics []TopicSpec) error {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	have, err := k.adm.ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var errs []error
	for _, t := range topics {
		if have.Has(t.Name) {
			continue
		}
		repl := t.Replication
		if repl == 0 {
			repl = -1
		}
		configs := make(map[string]*string, len(t.Configs))
		for name, v := range t.Configs {
			configs[name] = &v
		}
		res, err := k.adm.CreateTopic(ctx, t.Partitions, repl, configs, t.Name)
		if err == nil {
			err = res.Err
		}
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("create topic %s with %d partitions: %w", t.Name, t.Partitions, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for {
		have, err = k.adm.ListTopics(ctx, names...)
		if err == nil {
			var missing []string
			for _, t := range topics {
				d, ok := have[t.Name]
				switch {
				case !ok || d.Err != nil || len(d.Partitions) == 0 || !led(d):
					missing = append(missing, t.Name)
				case t.Partitions >= 0 && len(d.Partitions) != int(t.Partitions):
					errs = append(errs, fmt.Errorf("topic %s has %d partitions, expected %d: the partition count of a topic in use cannot be changed, as keys would move",
						t.Name, len(d.Partitions), t.Partitions))
				}
			}
			if len(errs) > 0 {
				return errors.Join(errs...)
			}
			if len(missing) == 0 {
				return nil
			}
			err = fmt.Errorf("not yet there: %s", strings.Join(missing, ", "))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for topics: %w", errors.Join(ctx.Err(), err))
		case <-time.After(pollEvery):
		}
	}
}

func led(d kadm.TopicDetail) bool {
	for _, p := range d.Partitions {
		if p.Leader < 0 || p.Err != nil {
			return false
		}
	}
	return true
}

// EndOffsets gives, for every partition of a topic, the offset that the next
// record would get (the high watermark).
func (e *Engine) EndOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	lo, err := e.kafka.adm.ListEndOffsets(ctx, topic)
	return offsetsOf(lo, topic, err)
}

// StartOffsets gives the offset of the first record that each partition of a
// topic still has.
func (e *Engine) StartOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	lo, err := e.kafka.adm.ListStartOffsets(ctx, topic)
	return offsetsOf(lo, topic, err)
}

func offsetsOf(lo kadm.ListedOffsets, topic string, err error) (map[int32]int64, error) {
	if err == nil {
		err = lo.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	out := make(map[int32]int64, len(lo[topic]))
	for p, o := range lo[topic] {
		out[p] = o.Offset
	}
	return out, nil
}

// position finds a partition's topic id, first offset and end.
func (k *kafka) position(ctx context.Context, topic string, partition int32) (id [16]byte, start, end int64, err error) {
	d, err := k.detail(ctx, topic)
	if err != nil {
		return id, 0, 0, err
	}
	if start, err = k.offset(ctx, topic, partition, sarama.OffsetOldest); err != nil {
		return id, 0, 0, err
	}
	if end, err = k.offset(ctx, topic, partition, sarama.OffsetNewest); err != nil {
		return id, 0, 0, err
	}
	return d.ID, start, end, nil
}

func (k *kafka) detail(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	td, err := k.adm.ListTopics(ctx, topic)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("look up topic %s: %w", topic, err)
	}
	d, ok := td[topic]
	if !ok {
		return d, fmt.Errorf("topic %s: %w", topic, kerr.UnknownTopicOrPartition)
	}
	if d.Err != nil {
		return d, fmt.Errorf("topic %s: %w", topic, d.Err)
	}
	return d, nil
}

// partitions gives the partitions of a topic in order.
func (k *kafka) partitions(ctx context.Context, topic string) ([]int32, error) {
	d, err := k.detail(ctx, topic)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.Partitions)), nil
}

// offset gives the first offset (sarama.OffsetOldest), the end
// (sarama.OffsetNewest), or the first offset at or after a time in
// milliseconds. The end is the high watermark and not the last stable offset
// on purpose: who reads committed records up to it has waited for every
// transaction that was open when it was asked for.
func (k *kafka) offset(ctx context.Context, topic string, partition int32, when int64) (int64, error) {
	var lo kadm.ListedOffsets
	var err error
	switch when {
	case sarama.OffsetOldest:
		lo, err = k.adm.ListStartOffsets(ctx, topic)
	case sarama.OffsetNewest:
		lo, err = k.adm.ListEndOffsets(ctx, topic)
	default:
		lo, err = k.adm.ListOffsetsAfterMilli(ctx, when, topic)
	}
	o, ok := lo.Lookup(topic, partition)
	if err == nil && ok {
		err = o.Err
	}
	if err == nil && !ok {
		err = kerr.UnknownTopicOrPartition
	}
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s/%d: %w", topic, partition, err)
	}
	return o.Offset, nil
}

// topicManager is kafka in the form that Goka wants. Topics are made by
// EnsureTopics before anything runs, so here they are only checked.
type topicManager struct {
	*kafka
	ctx context.Context
}

func (t topicManager) EnsureTopicExists(topic string, npar, _ int, _ map[string]string) error {
	ps, err := t.Partitions(topic)
	if err != nil {
		return err
	}
	if len(ps) != npar {
		return fmt.Errorf("topic %s has %d partitions, expected %d", topic, len(ps), npar)
	}
	return nil
}

func (t topicManager) EnsureTableExists(topic string, npar int) error {
	return t.EnsureTopicExists(topic, npar, 0, nil)
}

func (t topicManager) EnsureStreamExists(topic string, npar int) error {
	return t.EnsureTopicExists(topic, npar, 0, nil)
}

func (t topicManager) Partitions(topic string) ([]int32, error) {
	return t.partitions(t.ctx, topic)
}

func (t topicManager) GetOffset(topic string, partition int32, when int64) (int64, error) {
	return t.offset(t.ctx, topic, partition, when)
}

// Close leaves the shared client open.
func (t topicManager) Close() error { return nil }
