package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/topology"
)

// Oracle: with the groups of all stations set back to offset zero the whole
// journal is processed again; entities, versions, changes, events and
// what is told of each delivery stay as they were.
func TestReplayFromZero(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, products))
	cl := s.kafka()
	for i := range 40 {
		row := fmt.Sprintf(`{"id":%d,"name":"n%d","weight":%d}`, i%10, i/5, i)
		s.capture(cl, change{[]byte(fmt.Sprintf(`{"id":%d}`, i%10)), []byte(fmt.Sprintf(`{"before":null,"after":%s,"source":{"table":"t","ts_ms":%d},"op":"u","ts_ms":1}`, row, 1000+i))})
	}
	s.capture(cl, change{[]byte(`{"id":3}`), []byte(`{"before":{"id":3},"after":null,"source":{"table":"t","ts_ms":2000},"op":"d","ts_ms":1}`)})
	before := s.settle("products", 41, 30*time.Second)
	entities, events := fmt.Sprint(s.list("products", "row")), s.events("products")
	changes := s.length("products.changes")
	s.stop()

	offline(t, dir, func(client *kgo.Client) {
		adm := kadm.NewClient(client)
		for group, input := range map[string]string{topology.Inbox: topology.Journal("products"), topology.Resolve: topology.Signals("products"), topology.Merge: topology.Facts("products"), topology.Publish: topology.Changes("products")} {
			var zero kadm.Offsets
			for p := range int32(topology.Defaults().Partitions) {
				zero.Add(kadm.Offset{Topic: input, Partition: p, At: 0, LeaderEpoch: -1})
			}
			if err := adm.CommitAllOffsets(context.Background(), topology.GroupName("products", group), zero); err != nil {
				t.Fatal(err)
			}
		}
	})

	again := start(t, dir, define(t, products))
	// A new delivery behind the replayed ones: when it is through, they are,
	// at least in its partition; the group positions tell for all.
	again.capture(again.kafka(), change{[]byte(`{"id":99}`), []byte(`{"before":null,"after":{"id":99,"name":"new"},"source":{"table":"t","ts_ms":3000},"op":"c","ts_ms":1}`)})
	after := again.settle("products", 42, 30*time.Second)
	again.drained("products")
	told := map[string]string{}
	for _, o := range after {
		told[o.journal] = o.disposition
	}
	for _, o := range before {
		if told[o.journal] != o.disposition {
			t.Errorf("%s was %s, after the replay it is %s", o.journal, o.disposition, told[o.journal])
		}
	}
	var kept []map[string]any
	for _, e := range again.list("products", "row") {
		if e["fields"].(map[string]any)["id"] != float64(99) {
			kept = append(kept, e)
		}
	}
	if got := fmt.Sprint(kept); got != entities {
		t.Errorf("the replay changed entities:\n got %s\nwant %s", got, entities)
	}
	events["products.v1.RowCreated"]++
	if got := again.events("products"); !maps.Equal(got, events) {
		t.Errorf("events %v, expected %v", got, events)
	}
	if got := again.length("products.changes"); got != changes+1 {
		t.Errorf("%d changes, expected %d", got, changes+1)
	}
}

// length counts the committed records of a topic.
func (s *system) length(topic string) (n int) {
	s.read(topic, func(*kgo.Record) { n++ })
	return n
}

// drained waits until the stations of a domain have handled everything.
func (s *system) drained(domain string) {
	s.t.Helper()
	adm := kadm.NewClient(s.kafka())
	for station, input := range map[string]string{topology.Inbox: topology.Journal(domain), topology.Resolve: topology.Signals(domain), topology.Merge: topology.Facts(domain), topology.Publish: topology.Changes(domain)} {
		eventually(s.t, "the end of "+input, 30*time.Second, func() (bool, string) {
			last := map[int32]int64{}
			s.read(input, func(r *kgo.Record) { last[r.Partition] = r.Offset + 1 })
			offsets, err := adm.FetchOffsets(context.Background(), topology.GroupName(domain, station))
			if err != nil {
				return false, err.Error()
			}
			for p, want := range last {
				if o, ok := offsets.Lookup(input, p); !ok || o.At < want {
					return false, fmt.Sprintf("partition %d at %d of %d", p, o.At, want)
				}
			}
			return true, ""
		})
	}
}
