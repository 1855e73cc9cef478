//go:build !kafka

package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
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

// spurious is how many transactions may be aborted although nothing was broken.
const spurious = 0

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
// although it has committed, and a coordinator that is none any more answers
// what the group's offsets are from what it remembers, until the group is
// joined anew: that it cannot answer.
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
	var remembered atomic.Pointer[kmsg.OffsetFetchResponse]
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
			// Whoever answered this could not be told from one that remembers.
			offsets, err := groupOffsets(other)
			again := *r
			var resp *kmsg.EndTxnResponse
			if err == nil {
				resp, err = again.RequestWith(context.Background(), other)
			}
			if err == nil {
				err = kerr.ErrorForCode(resp.ErrorCode)
			}
			remembered.Store(offsets)
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
	w.tellOffsets(&remembered)
	w.cluster.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		remembered.Store(nil)
		return nil, nil, false
	})
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	for i := range 12 {
		w.feed(i*20, i*20+20, 5)
		w.eventuallyAudit(i*20+20, 5)
	}
	s := e.group()
	if s.Unknown == 0 || s.Unknown > s.Restarts {
		t.Errorf("%d unknown outcomes, %d restarts, expected some, each with a restart (%d faults)", s.Unknown, s.Restarts, faulted.Load())
	}
	t.Logf("%d unknown outcomes, %d restarts", s.Unknown, s.Restarts)
}

// (b) Heartbeats fail, and the coordinator that answers next is none any
// more: it lets a member that it knows join again, as that takes no write, and
// tells offsets that it remembers. To a new member it cannot say anything.
func TestExactlyOnceWhenCoordinatorComesBack(t *testing.T) {
	w := newWorld(t)
	var remembered atomic.Pointer[kmsg.OffsetFetchResponse]
	var lose atomic.Bool
	w.cluster.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		if !lose.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownServerError.Code
		return resp, nil, true
	})
	w.tellOffsets(&remembered)
	w.cluster.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		lose.Store(false)
		if req.(*kmsg.JoinGroupRequest).MemberID == "" {
			remembered.Store(nil)
		}
		return nil, nil, false
	})
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	const rounds = 3
	for i := range rounds {
		w.feed(i*40, i*40+20, 5)
		w.eventuallyAudit(i*40+20, 5)
		old, err := groupOffsets(w.cl)
		if err != nil {
			t.Fatal(err)
		}
		w.feed(i*40+20, i*40+40, 5)
		w.eventuallyAudit(i*40+40, 5)
		remembered.Store(old)
		lose.Store(true)
		eventually(t, "a new member", func() error {
			if e.group().Restarts <= int64(i) || remembered.Load() != nil {
				return errors.New("there is none")
			}
			return nil
		})
	}
	w.feed(rounds*40, rounds*40+20, 5)
	w.eventuallyAudit(rounds*40+20, 5)
}

// A transaction that only wakes has no offsets of input by which the broker
// would find out that its member is one no more. So it commits those that there
// are, and the broker's refusal keeps it from its effect.
func TestWakesAreCommittedByMembersAlone(t *testing.T) {
	w := newWorld(t)
	var refuse atomic.Bool
	var refused, asked atomic.Int64
	w.cluster.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		r := req.(*kmsg.TxnOffsetCommitRequest)
		if r.MemberID != "" && r.Generation > 0 && r.InstanceID != nil {
			asked.Add(1)
		}
		if !refuse.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
		for _, t := range r.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.IllegalGeneration.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	e := w.startAlarm(w.config(t.TempDir()), &alarmClock{})
	keys := alarms("key", 40)
	w.order(alarmOrder{After: time.Second, Times: 1}, keys...)
	eventually(t, "taken in", func() error {
		if n := e.group().Records; n < 40 {
			return fmt.Errorf("%d of 40 records", n)
		}
		return nil
	})
	refuse.Store(true)
	asked.Store(0)
	eventually(t, "refusals", func() error {
		if n := refused.Load(); n < 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if rs := w.read("out"); len(rs) > 0 {
		t.Errorf("%d wakes had their effect although the broker refused the member", len(rs))
	}
	if asked.Load() == 0 {
		t.Error("what was refused did not name member, generation and instance")
	}
	refuse.Store(false)
	eventually(t, "wakes", func() error { return w.rung(times(map[string]int{}, 1, keys...)) })
}

// A transaction in which nothing could be woken writes nothing, and then nothing
// is sent that would begin it at the broker: the client would not end it.
func TestWakesThatFailBeginNothing(t *testing.T) {
	w := newWorld(t)
	var sent, tries atomic.Int64
	w.cluster.ControlKey(int16(kmsg.TxnOffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		sent.Add(1)
		return nil, nil, false
	})
	var taken atomic.Bool
	e := w.startAlarm(w.config(t.TempDir()), &alarmClock{refuse: func(string) error {
		if taken.Load() {
			tries.Add(1)
		}
		return errors.New("no")
	}})
	w.order(alarmOrder{Times: 1}, "key")
	eventually(t, "taken in", func() error {
		if n := e.group().Records; n < 1 {
			return errors.New("not yet")
		}
		return nil
	})
	sent.Store(0)
	taken.Store(true)
	eventually(t, "two tries", func() error {
		if n := tries.Load(); n < 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := sent.Load(); n > 0 {
		t.Errorf("offsets were committed %d times in transactions that have nothing", n)
	}
}

// (b) A table is recovered while a broker that leads its changelog no more, but
// does not know, says where that ends.
func TestExactlyOnceWhenChangelogSeemsShorter(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	e := w.startCounter(w.config(dir), &counter{})
	w.feed(0, 100, 5)
	w.eventuallyAudit(100, 5)
	e.stop()
	var old atomic.Bool
	old.Store(true)
	w.cluster.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		if !old.Load() || len(req.Topics) != 1 || req.Topics[0].Topic != "counter-table" {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = req.Topics[0].Topic
		for _, p := range req.Topics[0].Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.Offset = p.Partition, 0
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	e = w.startCounter(w.config(dir), &counter{})
	w.feed(100, 120, 5)
	eventually(t, "an abort", func() error {
		if s := e.group(); s.Aborts == 0 {
			return fmt.Errorf("%d records, no abort", s.Records)
		}
		return nil
	})
	old.Store(false)
	w.eventuallyAudit(120, 5)
	if s := e.group(); s.Restarts != 0 {
		t.Errorf("%d restarts of the session, expected none", s.Restarts)
	}
}

// groupOffsets is what the counter's group has committed.
func groupOffsets(cl *kgo.Client) (*kmsg.OffsetFetchResponse, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = "counter"
	req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "counter", MemberEpoch: -1}}
	return req.RequestWith(context.Background(), cl)
}

// tellOffsets has whoever asks for a group's offsets told what is remembered, if
// that is anything.
func (w *world) tellOffsets(remembered *atomic.Pointer[kmsg.OffsetFetchResponse]) {
	w.cluster.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		old := remembered.Load()
		if old == nil {
			return nil, nil, false
		}
		resp := *old
		resp.SetVersion(req.GetVersion())
		return &resp, nil, true
	})
}

// (b) The broker refuses to commit now and then.
func TestExactlyOnceWithRefusedCommits(t *testing.T) {
	for _, f := range []struct {
		name    string
		unknown bool // whether it committed
		kfake.Fault
	}{
		{"offsets", false, kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.UnknownServerError, Count: 3}},
		{"end", true, kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError, Count: 2}},
		{"fenced", true, kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidProducerEpoch, Count: 1}},
		{"produce", false, kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.InvalidTxnState, Count: 1}},
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
			if (s.Unknown > 0) != f.unknown {
				t.Errorf("%d unknown outcomes, expected some: %v", s.Unknown, f.unknown)
			}
			if !f.unknown && s.Aborts == 0 {
				t.Error("no abort, expected one: that it did not commit is certain")
			}
			t.Logf("%d faults, %d aborts, %d unknown outcomes, %d restarts", h.Hits(), s.Aborts, s.Unknown, s.Restarts)
		})
	}
}

// Brokers that cannot keep what the engine promises are named in the log.
func TestOldBrokersAreNamed(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions *kversion.Versions
		warns    bool
	}{
		{"4.1", kversion.V4_1_0(), true},
		{"of today", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := []kfake.Opt{kfake.NumBrokers(2)}
			if c.versions != nil {
				opts = append(opts, kfake.MaxVersions(c.versions))
			}
			fake, err := kfake.NewCluster(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer fake.Close()
			var said bytes.Buffer
			e, err := New(Config{Brokers: fake.ListenAddrs(), Dir: t.TempDir(), Instance: "a", Logger: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if err := e.WaitReady(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if warns := strings.Contains(said.String(), `brokers="[0 1]"`) && strings.Contains(said.String(), "KIP-1228"); warns != c.warns {
				t.Errorf("warned: %v, expected %v; said %q", warns, c.warns, said.String())
			}
		})
	}
}
