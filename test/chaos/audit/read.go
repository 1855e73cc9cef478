package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
)

// Reader reads the topics of the domain as a consumer of committed records.
type Reader struct {
	brokers []string
	codecs  *codecs.Platform
	events  *codecs.Reader
}

// NewReader makes a reader; definition is the path of chaos.yaml. It registers
// the platform's schemas, as every instance does.
func NewReader(ctx context.Context, brokers []string, registryURL, definition string) (*Reader, error) {
	text, err := os.ReadFile(definition)
	if err != nil {
		return nil, err
	}
	if d, err := registry.Parse(definition, text, builtin.Kinds()); err != nil {
		return nil, err
	} else if d.Name != Domain {
		return nil, fmt.Errorf("%s: domain %s, expected %s", definition, d.Name, Domain)
	}
	r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: registryURL})
	if err != nil {
		return nil, err
	}
	p, err := codecs.OpenPlatform(ctx, r, []codecs.Binding{
		{Topic: topology.Journal(Domain), Record: codecs.JournalEntry},
		{Topic: topology.Signals(Domain), Record: codecs.Signal},
		{Topic: topology.Facts(Domain), Record: codecs.Fact},
		{Topic: topology.Changes(Domain), Record: codecs.Change},
		{Topic: topology.Outcomes(Domain), Record: codecs.Outcome},
		{Topic: topology.TableName(Domain, topology.Merge), Record: codecs.Entity},
	})
	if err != nil {
		return nil, err
	}
	return &Reader{brokers: brokers, codecs: p, events: codecs.NewReader(r)}, nil
}

// Topics lists what Read reads.
func Topics() []string {
	return []string{
		topology.Journal(Domain), topology.Signals(Domain), topology.Facts(Domain), topology.Changes(Domain),
		topology.Events(Domain), topology.Outcomes(Domain), topology.DeadLetters(Domain),
		topology.TableName(Domain, topology.Inbox), topology.TableName(Domain, topology.Merge), topology.TableName(Domain, topology.Publish),
	}
}

// Read reads everything that is committed now.
func (r *Reader) Read(ctx context.Context) (*Log, error) {
	records, err := Committed(ctx, r.brokers, Topics()...)
	if err != nil {
		return nil, err
	}
	log := &Log{
		Dead:      plain(records[topology.DeadLetters(Domain)]),
		Seen:      plain(records[topology.TableName(Domain, topology.Inbox)]),
		Published: plain(records[topology.TableName(Domain, topology.Publish)]),
	}
	return log, errors.Join(
		decode(r, records[topology.Journal(Domain)], &log.Journal, platform[*journal.Entry]),
		decode(r, records[topology.Signals(Domain)], &log.Signals, platform[*signal.Signal]),
		decode(r, records[topology.Facts(Domain)], &log.Facts, platform[*signal.Fact]),
		decode(r, records[topology.Changes(Domain)], &log.Changes, platform[*event.Change]),
		decode(r, records[topology.Outcomes(Domain)], &log.Outcomes, platform[*journal.Outcome]),
		decode(r, records[topology.TableName(Domain, topology.Merge)], &log.Entities, platform[*canonical.Entity]),
		decode(r, records[topology.Events(Domain)], &log.Events, func(r *Reader, k *kgo.Record) (*codecs.DecodedEvent, error) {
			return r.events.Decode(k.Value)
		}),
	)
}

func platform[T any](r *Reader, k *kgo.Record) (v T, err error) {
	c, err := r.codecs.Codec(k.Topic)
	if err != nil {
		return v, err
	}
	x, err := c.Decode(k.Value)
	if err == nil {
		v, _ = x.(T)
	}
	return v, err
}

func decode[T any](r *Reader, records []*kgo.Record, to *[]At[T], read func(*Reader, *kgo.Record) (T, error)) error {
	for _, k := range records {
		at := place[T](k)
		if k.Value != nil {
			var err error
			if at.Value, err = read(r, k); err != nil {
				return fmt.Errorf("%s/%d@%d: %w", k.Topic, k.Partition, k.Offset, err)
			}
		}
		*to = append(*to, at)
	}
	return nil
}

func plain(records []*kgo.Record) []At[struct{}] {
	var out []At[struct{}]
	for _, k := range records {
		out = append(out, place[struct{}](k))
	}
	return out
}

func place[T any](k *kgo.Record) At[T] {
	at := At[T]{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset, Key: string(k.Key), Raw: k.Value, Headers: make(map[string]string, len(k.Headers))}
	for _, h := range k.Headers {
		at.Headers[h.Key] = string(h.Value)
	}
	return at
}

// idle is how long a reader waits for an offset that no record has any more:
// compaction may have left nothing at the end of a partition. Giving up early
// can only make an audit find something missing.
const idle = 5 * time.Second

// Committed reads topics from their beginning up to where they are stable now,
// by partition and offset. It fails if a stream cannot be read to the end.
func Committed(ctx context.Context, brokers []string, topics ...string) (map[string][]*kgo.Record, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ClientID("audit"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	type tp struct {
		topic     string
		partition int32
	}
	left := map[tp]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		s, _ := starts.Lookup(o.Topic, o.Partition)
		if o.Offset <= s.Offset {
			return
		}
		left[tp{o.Topic, o.Partition}] = o.Offset
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().At(s.Offset)
	})
	out := map[string][]*kgo.Record{}
	cl.AddConsumePartitions(from)
	heard := time.Now()
	for len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fs := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read committed records: %w; not read to the end: %v", ctx.Err(), left)
		}
		for _, fe := range fs.Errors() {
			if !errors.Is(fe.Err, context.DeadlineExceeded) {
				return nil, fmt.Errorf("read %s/%d: %w", fe.Topic, fe.Partition, fe.Err)
			}
		}
		fs.EachRecord(func(k *kgo.Record) {
			heard = time.Now()
			at := tp{k.Topic, k.Partition}
			if end, ok := left[at]; ok && k.Offset+1 >= end {
				delete(left, at)
			}
			if end, _ := ends.Lookup(k.Topic, k.Partition); !k.Attrs.IsControl() && k.Offset < end.Offset {
				out[k.Topic] = append(out[k.Topic], k)
			}
		})
		if time.Since(heard) > idle {
			for at := range left {
				if at.topic != topology.TableName(Domain, topology.Merge) {
					return nil, fmt.Errorf("%s/%d: nothing to read before its end at %d", at.topic, at.partition, left[at])
				}
			}
			break
		}
	}
	for _, rs := range out {
		slices.SortFunc(rs, func(a, b *kgo.Record) int {
			return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
		})
	}
	return out, nil
}
