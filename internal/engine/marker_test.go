//go:build kafka

package engine

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What exactly-once rests on: a marker of the transaction before, which arrives
// late, does not end the one under way. Brokers before Apache Kafka 4.2 take it
// for one of this transaction, whose epoch it has (KAFKA-19446, KIP-1228). Those
// are the ones that an instance warns of.
func TestLateMarker(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("marked"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	write := func(value string) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "in", Partition: 0, Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	write("2")
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	topics, err := w.adm.ListTopics(ctx, "in")
	if err != nil {
		t.Fatal(err)
	}
	var in kadm.TopicsSet
	in.Add("in", 0)
	producers, err := w.adm.DescribeProducers(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	marker := kmsg.NewWriteTxnMarkersRequestMarker()
	producers.EachProducer(func(p kadm.DescribedProducer) {
		if p.ProducerID == id {
			marker.CoordinatorEpoch = p.CoordinatorEpoch // that of the marker before
		}
	})
	marker.ProducerID, marker.ProducerEpoch, marker.Committed, marker.TransactionVersion = id, epoch, true, 2
	topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
	topic.Topic, topic.Partitions = "in", []int32{0}
	marker.Topics = append(marker.Topics, topic)
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Markers = append(req.Markers, marker)
	resp, err := cl.Broker(int(topics["in"].Partitions[0].Leader)).Request(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range resp.(*kmsg.WriteTxnMarkersResponse).Markers {
		for _, topic := range m.Topics {
			for _, p := range topic.Partitions {
				t.Logf("version %d of the request: %v", resp.GetVersion(), kerr.ErrorForCode(p.ErrorCode))
			}
		}
	}
	ended := len(w.read("in")) > 1
	e, err := New(w.config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	old, err := e.oldBrokers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if warns := len(old) > 0; ended != warns {
		t.Errorf("the marker ended the transaction: %v; warned of: %v", ended, old)
	}
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}
