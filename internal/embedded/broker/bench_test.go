package broker

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkBroker measures what the embedded broker can do in one process with
// its clients: records of 300 bytes over loopback, on the file system of the
// temporary directory. The modes:
//
//	journal   a primary topic: synced before the answer, shared syncs
//	derived   a derived topic: no sync
//	kfake     kfake alone, without a sync
//	kfakesync kfake alone with its SyncWrites
func BenchmarkBroker(b *testing.B) {
	for _, mode := range []string{"journal", "derived", "kfake", "kfakesync"} {
		b.Run("produce1/"+mode, func(b *testing.B) {
			addr, topic := benchBroker(b, mode)
			c := client(b, addr, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
			value := make([]byte, 300)
			for b.Loop() {
				if err := c.ProduceSync(context.Background(), &kgo.Record{Value: value}).FirstErr(); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, b.N)
		})
		b.Run("produce/"+mode, func(b *testing.B) {
			addr, topic := benchBroker(b, mode)
			c := client(b, addr, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
			value := make([]byte, 300)
			n := 0
			for b.Loop() {
				for range 1000 {
					n++
					c.Produce(context.Background(), &kgo.Record{Key: strconv.AppendInt(nil, int64(n), 10), Value: value}, nil)
				}
			}
			if err := c.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
			perSecond(b, n)
		})
		// One transaction as a station makes it: a few records into each of six
		// topics, over all eight partitions, and the offsets' commit.
		for _, records := range []int{10, 500} {
			if mode == "journal" {
				continue // stations do not write journals
			}
			b.Run(fmt.Sprintf("txn%d/%s", records, mode), func(b *testing.B) {
				addr, _ := benchBroker(b, mode)
				c := client(b, addr, kgo.TransactionalID("t"), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
				value := make([]byte, 300)
				ctx := context.Background()
				n := 0
				for b.Loop() {
					if err := c.BeginTransaction(); err != nil {
						b.Fatal(err)
					}
					for range records {
						for topic := range 6 {
							n++
							c.Produce(ctx, &kgo.Record{Topic: "shop.t" + strconv.Itoa(topic), Key: strconv.AppendInt(nil, int64(n), 10), Value: value}, nil)
						}
					}
					if err := c.Flush(ctx); err != nil {
						b.Fatal(err)
					}
					if err := c.EndTransaction(ctx, kgo.TryCommit); err != nil {
						b.Fatal(err)
					}
				}
				perSecond(b, n)
			})
		}
	}
	b.Run("fetch", func(b *testing.B) {
		addr, topic := benchBroker(b, "derived")
		c := client(b, addr, kgo.DefaultProduceTopic(topic))
		value := make([]byte, 300)
		const total = 200_000
		for range total {
			c.Produce(context.Background(), &kgo.Record{Value: value}, nil)
		}
		if err := c.Flush(context.Background()); err != nil {
			b.Fatal(err)
		}
		n := 0
		for b.Loop() {
			r := client(b, addr, kgo.ConsumeTopics(topic))
			for seen := 0; seen < total; {
				seen += r.PollFetches(context.Background()).NumRecords()
			}
			n += total
			r.Close()
		}
		perSecond(b, n)
	})
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}

func benchBroker(b *testing.B, mode string) (addr, topic string) {
	topic = table
	switch mode {
	case "kfake", "kfakesync":
		opts := []kfake.Opt{kfake.NumBrokers(1), kfake.DataDir(b.TempDir())}
		if mode == "kfakesync" {
			opts = append(opts, kfake.SyncWrites())
		}
		c, err := kfake.NewCluster(opts...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(c.Close)
		addr = c.ListenAddrs()[0]
	default:
		addr = mustStart(b, testConfig(b.TempDir())).Addr()
	}
	if mode == "journal" {
		topic = journal
	}
	topics := []string{topic}
	for i := range 6 {
		topics = append(topics, "shop.t"+strconv.Itoa(i))
	}
	createTopics(b, addr, 8, topics...)
	return addr, topic
}
