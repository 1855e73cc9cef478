package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/views"
)

// GroupStatus is how a processor is doing.
type GroupStatus struct {
	Group string
	// State is "starting", "waiting" (for an assignment), "recovering" (some of
	// its partitions are not running yet), "running", "restarting" or "stopped".
	State string
	// Recovered: it has an assignment, perhaps of nothing, and all of it is
	// running.
	Recovered  bool
	Partitions []PartitionStatus
	// Totals since the process started.
	Records, Commits, Aborts, Unknown, DeadLetters, Restarts int64
	// Emitted records by topic, since the process started.
	Emitted map[string]int64
	// LastError is the last thing that ended a session or kept the processor
	// from its group; "" if nothing did.
	LastError string
}

// PartitionStatus is where a processor stands in one partition of one input.
type PartitionStatus struct {
	Topic     string
	Partition int32
	State     PartitionState
	// Error is why it is withheld; "" if it is not.
	Error string
	// Position is the next offset; -1 if nothing was committed since the
	// assignment.
	Position int64
	// End is the high watermark as of the last fetch; -1 if none brought any.
	End int64
	// Lag is End minus Position, and zero once the input has run dry: what may
	// then lie behind the last record are transaction markers.
	Lag int64
}

// PartitionState is what a processor does with a partition that it has.
type PartitionState string

const (
	// PartitionRecovering: its table follows the changelog; its records are
	// withheld until it has caught up.
	PartitionRecovering PartitionState = "recovering"
	// PartitionRunning: its records are processed.
	PartitionRunning PartitionState = "running"
	// PartitionWithheld: it failed, and waits before it is started again.
	PartitionWithheld PartitionState = "withheld"
)

// ViewStatus is how a view is doing.
type ViewStatus struct {
	View  string
	Topic string
	Ready bool
	// Recovered of Partitions have caught up since the view started.
	Recovered, Partitions int
	// Records taken in since the process started.
	Records int64
	// Failures counts records that the view could not take in and skipped.
	Failures    int64
	LastFailure string
	LastError   string
	// Lag is the largest of all partitions.
	Lag views.Lag
}

// TableStatus is how this process's share of a table is doing.
type TableStatus struct {
	// Table is the changelog topic.
	Table string
	// Standby: partitions that other processes own are kept warm.
	Standby bool
	// Followed counts changelog records taken in since the process started:
	// by restorations and as a standby, not what it wrote as the owner.
	Followed   int64
	Partitions []ReplicaStatus
	LastError  string
}

// ReplicaStatus is how one partition of a table is doing.
type ReplicaStatus struct {
	Partition int32
	State     ReplicaState
	// Position is the offset behind what is in local state; End is that behind
	// what is committed, as far as is known (-1: not at all).
	Position, End int64
	Lag           views.Lag
	// Restore is how far a restoration has come; nil if none is under way.
	Restore *RestoreStatus
}

// RestoreStatus is how far a restoration has come.
type RestoreStatus struct {
	Records, Bytes int64
	// Percent of the offsets that there were when it began.
	Percent float64
	// Took so far; Left is an estimate, 0 if there is none yet.
	Took, Left time.Duration
}

// Status is how the engine is doing.
type Status struct {
	Groups []GroupStatus
	Tables []TableStatus
	Views  []ViewStatus
}

// groupStatus is what a GroupStatus is made from.
type groupStatus struct {
	mu    sync.Mutex
	s     GroupStatus
	parts map[topicPartition]*PartitionStatus
	// served: everything was running once since the last time that nothing was.
	served bool
}

func (g *groupStatus) init(group string) {
	g.s = GroupStatus{Group: group, State: "starting", Emitted: map[string]int64{}}
	g.parts = map[topicPartition]*PartitionStatus{}
}

func (g *groupStatus) with(fn func(s *GroupStatus)) {
	g.mu.Lock()
	fn(&g.s)
	g.mu.Unlock()
}

// waiting for an assignment.
func (g *groupStatus) waiting() {
	g.with(func(s *GroupStatus) {
		s.State, s.Recovered, g.served = "waiting", false, false
		clear(g.parts)
	})
}

// is says what becomes of a partition number, perhaps because of err.
func (g *groupStatus) is(c claim, state PartitionState, err error) {
	g.with(func(s *GroupStatus) {
		for topic, ps := range c.topics {
			for _, p := range ps {
				tp := topicPartition{topic, p}
				if state != PartitionRunning || g.parts[tp] == nil {
					g.parts[tp] = &PartitionStatus{Topic: topic, Partition: p, Position: -1, End: -1}
				}
				g.parts[tp].State = state
				if err != nil {
					g.parts[tp].Error = oneLine(err)
				}
			}
		}
		if err != nil {
			s.LastError = oneLine(err)
		}
	})
}

// gave: a partition number is no longer ours.
func (g *groupStatus) gave(partition int32) {
	g.with(func(*GroupStatus) {
		maps.DeleteFunc(g.parts, func(tp topicPartition, _ *PartitionStatus) bool { return tp.partition == partition })
	})
}

// settle takes stock of the partitions, by number and state.
func (p *processor) settle(member bool) {
	g := &p.status
	numbers := map[int32]PartitionState{}
	count := map[PartitionState]int{}
	g.with(func(s *GroupStatus) {
		for tp, ps := range g.parts {
			numbers[tp.partition] = ps.State
		}
		for _, state := range numbers {
			count[state]++
		}
		s.Recovered = member && count[PartitionRunning] == len(numbers)
		switch {
		case !member:
			s.State, g.served = "waiting", false
		case s.Recovered:
			s.State, g.served = "running", true
		default:
			s.State = "recovering"
		}
	})
	for _, state := range []PartitionState{PartitionRecovering, PartitionRunning, PartitionWithheld} {
		p.metrics.partitions.WithLabelValues(string(state)).Set(float64(count[state]))
	}
}

func (g *groupStatus) fetched(fs kgo.Fetches) {
	g.with(func(*GroupStatus) {
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if ps := g.parts[topicPartition{p.Topic, p.Partition}]; ps != nil {
				ps.End = max(ps.End, p.HighWatermark)
			}
		})
	})
}

func (g *groupStatus) committed(records int, ends map[topicPartition]int64, emitted map[string]int64) {
	g.with(func(s *GroupStatus) {
		for topic, n := range emitted {
			s.Emitted[topic] += n
		}
		s.Commits++
		s.Records += int64(records)
		for tp, end := range ends {
			if ps := g.parts[tp]; ps != nil {
				ps.Position = end
			}
		}
	})
}

// dry: everything that was there is processed.
func (g *groupStatus) dry() {
	g.with(func(*GroupStatus) {
		for _, p := range g.parts {
			if p.Position >= 0 {
				p.End = p.Position
			}
		}
	})
}

func (g *groupStatus) aborted(error) { g.with(func(s *GroupStatus) { s.Aborts++ }) }
func (g *groupStatus) unknown()      { g.with(func(s *GroupStatus) { s.Unknown++ }) }

// restarting: a session ended with err; nil at the first start.
func (g *groupStatus) restarting(err error) {
	g.with(func(s *GroupStatus) {
		s.Recovered, g.served = false, false
		clear(g.parts)
		if err != nil {
			s.State, s.LastError = "restarting", oneLine(err)
			s.Restarts++
		}
	})
}

func (g *groupStatus) stopped() {
	g.with(func(s *GroupStatus) { s.State, s.Recovered, g.served = "stopped", false, false })
}

func (g *groupStatus) snapshot() GroupStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.s
	s.Emitted = maps.Clone(g.s.Emitted)
	s.Partitions = make([]PartitionStatus, 0, len(g.parts))
	for _, p := range slices.SortedFunc(maps.Values(g.parts), func(a, b *PartitionStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	}) {
		ps := *p
		if ps.Position >= 0 && ps.End > ps.Position {
			ps.Lag = ps.End - ps.Position
		}
		s.Partitions = append(s.Partitions, ps)
	}
	return s
}

// ready gives nil, or what the group is waiting for. A group that has been
// ready stays so while partitions come and go.
func (g *groupStatus) ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.s.Recovered || g.served {
		return nil
	}
	if g.s.LastError != "" {
		return fmt.Errorf("group %s is not recovered: %s; last error: %s", g.s.Group, g.s.State, g.s.LastError)
	}
	return fmt.Errorf("group %s is not recovered: %s", g.s.Group, g.s.State)
}

// deadLettered takes note of a record that failed.
func (p *processor) deadLettered(in *input, e *stepError) {
	kind := failure.KindOf(e.err)
	p.metrics.dead.WithLabelValues(string(kind)).Inc()
	p.status.with(func(s *GroupStatus) { s.DeadLetters++ })
	p.log.Warn("record failed and is a dead letter", "stream", in.rec.Stream, "partition", in.rec.Partition,
		"offset", in.rec.Offset, "kind", kind, "error", cut(e.Error(), 500))
}
