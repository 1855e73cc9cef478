//go:build !kafka

package engine

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if !worked() {
		goleak.VerifyTestMain(m)
	}
}

// How long something may take at most, and how often is looked.
const (
	patience  = 30 * time.Second
	lookEvery = 5 * time.Millisecond
)

// How long a storm of rebalances lasts, and about how long it is between two
// changes of the group.
const (
	stormLasts = 10 * time.Second
	stormStep  = 250 * time.Millisecond
)

type cluster = *kfake.Cluster

// open starts a fake broker for one test.
func (w *world) open() {
	w.t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SleepOutOfOrder(), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	w.cluster, w.brokers = c, c.ListenAddrs()
}

func (w *world) topics(partitions int32, names ...string) {
	w.t.Helper()
	for _, n := range names {
		if err := w.cluster.CreateTopic(n, partitions, nil); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) deleteTopics(names ...string) {
	w.t.Helper()
	for _, n := range names {
		if err := w.cluster.DeleteTopic(n); err != nil {
			w.t.Fatal(err)
		}
	}
}

// allGone ends the cluster for good.
func (w *world) allGone() { w.cluster.Close() }

// compact compacts a topic, deletions included as far as its clock allows.
func (w *world) compact(name string) {
	w.t.Helper()
	policy, none, ratio := "compact", "0", "0"
	set := []kadm.AlterConfig{{Name: "cleanup.policy", Value: &policy}, {Name: "delete.retention.ms", Value: &none}, {Name: "min.cleanable.dirty.ratio", Value: &ratio}}
	res, err := w.adm.AlterTopicConfigs(context.Background(), set, name)
	if err == nil {
		_, err = res.On(name, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.cluster.Compact()
	w.cluster.Compact() // deletions go one round later
}

// mishap has the broker refuse a commit.
func (w *world) mishap(rnd *rand.Rand) {
	if rnd.IntN(2) == 0 {
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.UnknownServerError})
		return
	}
	w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError})
}

// refuseLarge has the broker refuse batches above a size.
func (w *world) refuseLarge(name string, bytes int) {
	id := w.cluster.TopicInfo(name).TopicID
	h := w.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: name, Err: kerr.MessageTooLarge, Count: -1,
		When: func(r kmsg.Request) bool {
			for _, topic := range r.(*kmsg.ProduceRequest).Topics {
				if topic.Topic != name && topic.TopicID != id {
					continue
				}
				for _, p := range topic.Partitions {
					if len(p.Records) > bytes {
						return true
					}
				}
			}
			return false
		},
	})
	w.t.Cleanup(h.Remove)
}

// (b) The broker fails EndTxn with the code that franz-go takes for an abort
// although it has committed: the group's offsets tell the truth.
func TestExactlyOnceWhenCommitLooksLikeAbort(t *testing.T) {
	w := newWorld(t)
	var faulted atomic.Int64
	// The real request is carried out through a connection of our own; what
	// the engine gets to see is UNKNOWN_SERVER_ERROR.
	other, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var pass sync.Map
	w.cluster.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		r := req.(*kmsg.EndTxnRequest)
		if !r.Commit {
			return nil, nil, false
		}
		if _, ours := pass.LoadAndDelete(r.TransactionalID); ours {
			return nil, nil, false
		}
		if faulted.Add(1)%3 != 0 {
			return nil, nil, false
		}
		pass.Store(r.TransactionalID, true)
		done := make(chan error, 1)
		go func() {
			again := *r
			resp, err := again.RequestWith(context.Background(), other)
			if err == nil {
				err = kerr.ErrorForCode(resp.ErrorCode)
			}
			done <- err
		}()
		w.cluster.SleepControl(func() {
			if err := <-done; err != nil {
				t.Errorf("real EndTxn: %v", err)
			}
		})
		resp := r.ResponseKind().(*kmsg.EndTxnResponse)
		resp.ErrorCode = kerr.UnknownServerError.Code
		return resp, nil, true
	})
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	for i := range 12 {
		w.feed(i*20, i*20+20, 5)
		w.eventuallyAudit(i*20+20, 5)
	}
	s := e.group()
	if s.Resolved == 0 && s.Restarts == 0 {
		t.Fatalf("no outcome had to be resolved: the test tests nothing (%d faults)", faulted.Load())
	}
	t.Logf("%d outcomes resolved, %d restarts", s.Resolved, s.Restarts)
}

// (b) The broker refuses to commit now and then.
func TestExactlyOnceWithRefusedCommits(t *testing.T) {
	for _, f := range []struct {
		name string
		kfake.Fault
	}{
		{"offsets", kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.UnknownServerError, Count: 3}},
		{"end", kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError, Count: 2}},
		{"fenced", kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidProducerEpoch, Count: 1}},
		{"produce", kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.InvalidTxnState, Count: 1}},
	} {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			e := w.startCounter(w.config(t.TempDir()), &counter{})
			w.feed(0, 50, 5)
			w.eventuallyAudit(50, 5)
			h := w.cluster.Fault(f.Fault)
			for i := range 5 {
				w.feed(50+i*20, 70+i*20, 5)
				<-time.After(20 * time.Millisecond) // so that there are several transactions
			}
			w.eventuallyAudit(150, 5)
			if h.Hits() == 0 {
				t.Fatal("no fault was met: the test tests nothing")
			}
			s := e.group()
			t.Logf("%d faults, %d aborts, %d restarts", h.Hits(), s.Aborts, s.Restarts)
		})
	}
}
