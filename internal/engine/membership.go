package engine

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// membership is what the group says: which partitions are ours, and whether a
// join is under way. franz-go's goroutines write it, the session's loop reads
// it. Nothing here waits.
//
// It learns of an assignment where the balancer reads it and not by franz-go's
// callbacks: GroupTransactSession swallows a callback while an earlier one is
// not answered by End.
type membership struct {
	// pause withholds the records of partitions; resume hands them out.
	pause, resume func(map[string][]int32)
	// changed wakes the session's loop; hurry has it commit now; began is told
	// of each new generation.
	changed, hurry, began func()

	// joining: between the end of one generation and the assignment of the
	// next. franz-go lets no transaction commit meanwhile.
	joining atomic.Bool
	// revoked: GroupTransactSession has seen partitions go, and will abort the
	// next transaction unless it is told that it has been taken note of.
	revoked atomic.Bool

	mu     sync.Mutex
	epoch  int64
	member bool // of a generation
	ours   map[int32]claim
}

// claim is one partition number that the group has assigned to us.
type claim struct {
	topics map[string][]int32 // inputs that have it: Goka's form of it
	// epoch tells one assignment of the number from another: in between,
	// someone else may have worked on it.
	epoch int64
	// leaving: it moves to another instance. What was done for it may still be
	// committed: it is given up when no transaction is open.
	leaving bool
}

// observe has b tell m of what goes on in the group.
func (m *membership) observe(b kgo.GroupBalancer) kgo.GroupBalancer { return observed{b, m} }

type observed struct {
	kgo.GroupBalancer
	m *membership
}

func (o observed) JoinGroupMetadata(topics []string, owned map[string][]int32, generation int32) []byte {
	o.m.joining.Store(true)
	return o.GroupBalancer.JoinGroupMetadata(topics, owned, generation)
}

func (o observed) ParseSyncAssignment(b []byte) (map[string][]int32, error) {
	assigned, err := o.GroupBalancer.ParseSyncAssignment(b)
	if err == nil {
		o.m.assigned(assigned, o.IsCooperative())
	}
	return assigned, err
}

// assigned takes in a new generation. After a cooperative rebalance what is in
// the old assignment and in the new one was ours all the time. After an eager
// one, which takes place while the group still has members of a version before
// cooperative rebalancing, everything begins anew.
func (m *membership) assigned(assigned map[string][]int32, cooperative bool) {
	m.mu.Lock()
	m.epoch++
	m.member = true
	now := map[int32]claim{}
	for topic, ps := range assigned {
		for _, p := range ps {
			c, ok := now[p]
			if !ok {
				c = claim{topics: map[string][]int32{}, epoch: m.epoch}
			}
			c.topics[topic] = []int32{p}
			now[p] = c
		}
	}
	for p, old := range m.ours {
		c, ok := now[p]
		switch {
		case !cooperative || old.leaving:
		case ok && sameTopics(c.topics, old.topics):
			now[p] = old
		case !ok:
			old.leaving = true
			now[p] = old
		}
	}
	for _, c := range now {
		if c.epoch == m.epoch {
			m.pause(c.topics) // until its table is recovered
		}
	}
	m.ours = now
	m.mu.Unlock()
	m.joining.Store(false)
	m.changed()
	m.hurry()
	m.began()
}

func sameTopics(a, b map[string][]int32) bool {
	return maps.EqualFunc(a, b, func([]int32, []int32) bool { return true })
}

// gone: the partitions are someone else's already, or may be.
func (m *membership) gone() {
	m.mu.Lock()
	m.ours, m.member = nil, false
	m.mu.Unlock()
	m.joining.Store(false)
	m.changed()
	m.hurry()
}

// onRevoked is called when a generation ends, with nothing if the group is
// cooperative, and when partitions that are leaving are given up.
func (m *membership) onRevoked(_ context.Context, _ *kgo.Client, ps map[string][]int32) {
	if len(ps) == 0 {
		m.joining.Store(true)
		return
	}
	m.revoked.Store(true)
	m.changed()
}

func (m *membership) onLost(context.Context, *kgo.Client, map[string][]int32) {
	m.revoked.Store(true)
	m.gone()
}

// OnGroupManageError is a hook of franz-go's: the membership is lost. It comes
// also when GroupTransactSession swallows the callback.
func (m *membership) OnGroupManageError(error) { m.gone() }

// claims gives what is ours by partition number, as of which assignment, and
// whether we are a member at all.
func (m *membership) claims() (ours map[int32]claim, epoch int64, member bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.ours), m.epoch, m.member
}

// has tells whether the claim of that epoch stands: what is done for it may be
// committed.
func (m *membership) has(p int32, epoch int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.ours[p]
	return ok && c.epoch == epoch
}

// withhold stops the records of a claim.
func (m *membership) withhold(p int32, epoch int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.ours[p]; ok && c.epoch == epoch {
		m.pause(c.topics)
	}
}

// release has the records of a claim handed out, if it still stands.
func (m *membership) release(p int32, epoch int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.ours[p]
	if !ok || c.epoch != epoch || c.leaving {
		return false
	}
	m.resume(c.topics)
	return true
}
