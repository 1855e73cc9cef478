package broker

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// The duties of a connection follow from its requests alone, in whatever pieces
// they arrive: a produce request to primary topics is synced, one to derived
// topics is not, and nothing else is touched.
func TestObserve(t *testing.T) {
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("c"))
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		want := make(map[int32][]partitionKey)
		for id := range int32(rapid.IntRange(1, 6).Draw(t, "requests")) {
			switch rapid.SampledFrom([]string{"produce", "fetch", "delete", "end"}).Draw(t, "kind") {
			case "produce":
				req := kmsg.NewPtrProduceRequest()
				req.Version = rapid.Int16Range(3, 12).Draw(t, "version")
				req.Acks = rapid.SampledFrom([]int16{-1, 0, 1}).Draw(t, "acks")
				for _, topic := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{journal, external, table}), 1, 3, rapid.ID).Draw(t, "topics") {
					rt := kmsg.NewProduceRequestTopic()
					rt.Topic = topic
					rp := kmsg.NewProduceRequestTopicPartition()
					rp.Partition = id
					rp.Records = batch(0, 1, rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "payload"))
					rt.Partitions = append(rt.Partitions, rp)
					req.Topics = append(req.Topics, rt)
					if topic != table && req.Acks != 0 {
						want[id] = append(want[id], partitionKey{topic, id})
					}
				}
				stream = append(stream, format.AppendRequest(nil, req, id)...)
			case "fetch":
				req := kmsg.NewPtrFetchRequest()
				req.Version = rapid.Int16Range(4, 12).Draw(t, "version")
				stream = append(stream, format.AppendRequest(nil, req, id)...)
			case "delete":
				req := kmsg.NewPtrDeleteTopicsRequest()
				req.Version = rapid.Int16Range(0, 5).Draw(t, "version")
				req.TopicNames = []string{table}
				stream = append(stream, format.AppendRequest(nil, req, id)...)
				want[id] = nil
			case "end":
				req := kmsg.NewPtrEndTxnRequest()
				req.ProducerID = 3 // has never written to a primary topic
				stream = append(stream, format.AppendRequest(nil, req, id)...)
			}
		}
		b := &Broker{cfg: testConfig(""), syncer: newSyncer("")}
		c := &conn{b: b, duties: make(map[int32]duty)}
		for piece := range slices.Chunk(stream, rapid.IntRange(1, 100).Draw(t, "piece")) {
			c.observe(piece)
		}
		if len(c.duties) != len(want) {
			t.Fatalf("duties %v, want %v", c.duties, want)
		}
		for id, keys := range want {
			if !slices.Equal(c.duties[id].sync, keys) {
				t.Fatalf("request %d: %v, want %v", id, c.duties[id].sync, keys)
			}
		}
	})
}

func FuzzSkipRequestHeader(f *testing.F) {
	f.Add([]byte{0, 1, 'c', 1, 5, 2, 'x', 'y', 'b', 'o', 'd', 'y'}, true)
	f.Add([]byte{0xff, 0xff, 'b'}, false)
	f.Fuzz(func(t *testing.T, b []byte, flexible bool) {
		body, ok := skipRequestHeader(b, flexible)
		if len(body) > len(b) || ok && len(b)-len(body) < 2 {
			t.Fatalf("%d bytes of %d are left, %t", len(body), len(b), ok)
		}
	})
}
