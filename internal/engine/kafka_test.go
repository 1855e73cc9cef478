//go:build kafka

package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"go.uber.org/goleak"

	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
)

// realKafka is the cluster of all tests, one after the other.
var realKafka *kafkatest.Cluster

func TestMain(m *testing.M) {
	if worked() {
		return
	}
	goleak.VerifyTestMain(runner(func() int {
		return kafkatest.Main(m.Run, func(c *kafkatest.Cluster) { realKafka = c })
	}))
}

type runner func() int

func (r runner) Run() int { return r() }

const (
	patience  = 90 * time.Second
	lookEvery = 50 * time.Millisecond
)

// How long a storm of rebalances lasts, and about how long it is between two
// changes of the group.
const (
	stormLasts = 25 * time.Second
	stormStep  = time.Second
)

// spurious is how many transactions may be aborted although nothing was broken:
// on a busy machine a heartbeat or a write may come too late, and the engine then
// does the right thing.
const spurious = 2

type cluster = *kafkatest.Cluster

func (w *world) open() {
	w.t.Helper()
	realKafka.Reset(w.t)
	w.cluster, w.brokers = realKafka, realKafka.Addrs()
}

func (w *world) topics(partitions int32, names ...string) {
	w.t.Helper()
	w.cluster.CreateTopics(w.t, partitions, names...)
}

func (w *world) deleteTopics(names ...string) {
	w.t.Helper()
	w.cluster.DeleteTopics(w.t, names...)
}

// allGone kills all brokers.
func (w *world) allGone() {
	w.cluster.RequireOwn(w.t)
	for i := range w.cluster.Size() {
		w.cluster.Kill(w.t, i)
	}
}

// mishap stops a broker for a moment; a commit is usually under way.
func (w *world) mishap(rnd *rand.Rand) {
	w.cluster.RequireOwn(w.t)
	i := rnd.IntN(w.cluster.Size())
	w.cluster.Pause(w.t, i)
	<-time.After(time.Duration(rnd.IntN(1500)) * time.Millisecond)
	w.cluster.Resume(w.t, i)
}

// compact has the log cleaner compact all of a topic but its last segment,
// deletions included, and waits until it has.
func (w *world) compact(name string) {
	w.t.Helper()
	policy, none, short, ratio := "compact", "0", "100", "0.001"
	set := []kadm.AlterConfig{
		{Name: "cleanup.policy", Value: &policy}, {Name: "delete.retention.ms", Value: &none},
		{Name: "segment.ms", Value: &short}, {Name: "min.cleanable.dirty.ratio", Value: &ratio}, {Name: "max.compaction.lag.ms", Value: &short},
	}
	res, err := w.adm.AlterTopicConfigs(context.Background(), set, name)
	if err == nil {
		_, err = res.On(name, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "compaction", func() error {
		// A segment ends when something is written after its time.
		w.forget(20)
		values := 0
		for _, r := range w.read(name) {
			if len(r.Value) > 0 {
				values++
			}
		}
		if values > 0 {
			return fmt.Errorf("%d records with a value are left", values)
		}
		<-time.After(500 * time.Millisecond)
		return nil
	})
}

func (w *world) refuseLarge(name string, bytes int) {
	w.t.Helper()
	value := strconv.Itoa(bytes)
	res, err := w.adm.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &value}}, name)
	if err == nil && len(res) == 1 {
		err = res[0].Err
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
