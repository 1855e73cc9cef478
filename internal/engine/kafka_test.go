//go:build kafka

package engine

import (
	"context"
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
	stormLasts = 40 * time.Second
	stormStep  = time.Second
)

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
