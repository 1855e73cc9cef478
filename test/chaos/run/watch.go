package run

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/topology"
)

// watcher follows the streams while a scenario runs: how far each partition is
// readable, and when canonical changes arrive. It keeps no records; the audit
// reads them for itself.
type watcher struct {
	cl  *kgo.Client
	adm *kadm.Client

	mu sync.Mutex
	// next is the offset behind all that was read, visible the last offset of
	// a record that everybody sees.
	next, visible map[place]int64
	// arrivals of changes in each partition, at most one each 10 ms; and when
	// each of these was written, by its timestamp.
	arrivals, written map[int32][]time.Time
	done              chan struct{}
}

type place struct {
	topic     string
	partition int32
}

// stations and the stream that each reads, in the order of the flow.
var stations = []struct{ name, input string }{
	{topology.Inbox, topology.Journal(audit.Domain)},
	{topology.Resolve, topology.Signals(audit.Domain)},
	{topology.Merge, topology.Facts(audit.Domain)},
	{topology.Publish, topology.Changes(audit.Domain)},
}

// watch follows the streams until ctx ends.
func watch(ctx context.Context, brokers []string) (*watcher, error) {
	var topics []string
	for _, s := range stations {
		topics = append(topics, s.input)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ClientID("watcher"), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.MetadataMinAge(250*time.Millisecond), kgo.MetadataMaxAge(2*time.Second))
	if err != nil {
		return nil, err
	}
	w := &watcher{cl: cl, adm: kadm.NewClient(cl), next: map[place]int64{}, visible: map[place]int64{}, arrivals: map[int32][]time.Time{}, written: map[int32][]time.Time{}, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer cl.Close()
		for ctx.Err() == nil {
			w.take(cl.PollFetches(ctx))
		}
	}()
	return w, nil
}

func (w *watcher) take(fs kgo.Fetches) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	fs.EachRecord(func(r *kgo.Record) {
		at := place{r.Topic, r.Partition}
		w.next[at] = r.Offset + 1
		if r.Attrs.IsControl() {
			return
		}
		w.visible[at] = r.Offset
		if r.Topic != topology.Changes(audit.Domain) {
			return
		}
		if a := w.arrivals[r.Partition]; len(a) == 0 || now.Sub(a[len(a)-1]) > 10*time.Millisecond {
			w.arrivals[r.Partition] = append(a, now)
			w.written[r.Partition] = append(w.written[r.Partition], r.Timestamp)
		}
	})
}

// settled tells whether every station has committed that it is through with
// all that it can read. It asks in the order of the flow, so that nothing
// can come from behind.
func (w *watcher) settled(ctx context.Context) error {
	for _, s := range stations {
		offsets, err := w.adm.FetchOffsets(kadm.RequireStable(ctx), topology.GroupName(audit.Domain, s.name))
		if err == nil {
			err = offsets.Error()
		}
		if err != nil {
			return fmt.Errorf("offsets of %s: %w", s.name, err)
		}
		ends, err := w.adm.ListCommittedOffsets(ctx, s.input)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return fmt.Errorf("ends of %s: %w", s.input, err)
		}
		if err := w.through(s.name, ends, offsets); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) through(station string, ends kadm.ListedOffsets, offsets kadm.OffsetResponses) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ends.Each(func(end kadm.ListedOffset) {
		at := place{end.Topic, end.Partition}
		visible, some := w.visible[at]
		o, _ := offsets.Lookup(end.Topic, end.Partition)
		switch {
		case err != nil:
		case end.Offset > 0 && w.next[at] < end.Offset:
			err = fmt.Errorf("%s/%d is read up to %d of %d", end.Topic, end.Partition, w.next[at], end.Offset)
		case some && o.At <= visible:
			err = fmt.Errorf("%s is at %d of %s/%d, whose last record is at %d", station, o.At, end.Topic, end.Partition, visible)
		}
	})
	return err
}

// stall is a time in which a partition had no new change.
type stall struct {
	d         time.Duration
	partition int32
	since     time.Time
}

func (s stall) String() string {
	return fmt.Sprintf("%s in partition %d since %s", s.d.Round(time.Millisecond), s.partition, s.since.Format("15:04:05.000"))
}

// stalls gives the longest one between two moments, as a reader saw it and as
// records were written: while a transaction is open, or reading is slow, these
// differ.
func (w *watcher) stalls(from, to time.Time) (seen, written stall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return longest(w.arrivals, from, to), longest(w.written, from, to)
}

func longest(times map[int32][]time.Time, from, to time.Time) (worst stall) {
	for p, ts := range times {
		last := from
		gap := func(until time.Time) {
			if d := until.Sub(last); d > worst.d {
				worst = stall{d, p, last}
			}
			last = until
		}
		for _, a := range ts {
			if a.After(from) && a.Before(to) {
				gap(a)
			}
		}
		gap(to)
	}
	return worst
}

// after gives how long it took from a moment until every partition had a new
// change; false if one had none any more.
func (w *watcher) after(t time.Time) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := time.Duration(0)
	for _, arrivals := range w.arrivals {
		i := slices.IndexFunc(arrivals, t.Before)
		if i < 0 {
			return 0, false
		}
		longest = max(longest, arrivals[i].Sub(t))
	}
	return longest, true
}
