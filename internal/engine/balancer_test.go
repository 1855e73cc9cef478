package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// A group in a test: what each member has, by instance.
type testGroup struct {
	topics     map[string]int32
	generation int32
	has        map[string][]int32 // partition numbers by instance
	fresh      map[string]bool    // has just joined: knows of no generation
}

// rebalance has all members join with what they have, and gives what each is
// assigned, by topic.
func (g *testGroup) rebalance(t testing.TB) map[string]map[string][]int32 {
	t.Helper()
	b := copartition{}
	var names []string
	for topic := range g.topics {
		names = append(names, topic)
	}
	slices.Sort(names)
	var members []kmsg.JoinGroupResponseMember
	for instance, has := range g.has {
		owned := map[string][]int32{}
		for topic, n := range g.topics {
			for _, p := range has {
				if p < n {
					owned[topic] = append(owned[topic], p)
				}
			}
		}
		generation := g.generation
		if g.fresh[instance] {
			generation = -1
		}
		members = append(members, kmsg.JoinGroupResponseMember{
			MemberID: "member-" + instance, InstanceID: &instance, ProtocolMetadata: b.JoinGroupMetadata(names, owned, generation),
		})
	}
	slices.SortFunc(members, func(a, b kmsg.JoinGroupResponseMember) int {
		return slices.Compare([]byte(*a.InstanceID), []byte(*b.InstanceID))
	})
	mb, wanted, err := b.MemberBalancer(members)
	if err != nil {
		t.Fatal(err)
	}
	if len(wanted) != len(g.topics) {
		t.Fatalf("balancer asks for topics %v, expected %v", wanted, names)
	}
	into, err := mb.(kgo.GroupMemberBalancerOrError).BalanceOrError(g.topics)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string][]int32{}
	for _, a := range into.IntoSyncAssignment() {
		ps, err := b.ParseSyncAssignment(a.MemberAssignment)
		if err != nil {
			t.Fatal(err)
		}
		out[a.MemberID[len("member-"):]] = ps
	}
	g.generation++
	clear(g.fresh)
	return out
}

// take checks an assignment and has each member take it: it gives up what it is
// not assigned any more.
func (g *testGroup) take(assigned map[string]map[string][]int32) error {
	owner := map[topicPartition]string{}
	for instance := range g.has {
		numbers := map[int32]bool{}
		for topic, ps := range assigned[instance] {
			for _, p := range ps {
				if o, ok := owner[topicPartition{topic, p}]; ok {
					return fmt.Errorf("%s/%d is assigned to %s and to %s", topic, p, o, instance)
				}
				owner[topicPartition{topic, p}] = instance
				numbers[p] = true
			}
		}
		for p := range numbers { // with all inputs that have it
			for topic, n := range g.topics {
				if p < n && owner[topicPartition{topic, p}] != instance {
					return fmt.Errorf("%s has number %d without %s", instance, p, topic)
				}
			}
			for other, has := range g.has { // and nobody else holds it yet
				if other != instance && slices.Contains(has, p) {
					return fmt.Errorf("number %d is assigned to %s while %s still has it", p, instance, other)
				}
			}
		}
	}
	for instance := range g.has {
		g.has[instance] = nil
		for p := range g.numbers() {
			for topic, n := range g.topics {
				if p < n && owner[topicPartition{topic, p}] == instance {
					g.has[instance] = append(g.has[instance], p)
					break
				}
			}
		}
	}
	return nil
}

func (g *testGroup) numbers() (n int32) {
	for _, m := range g.topics {
		n = max(n, m)
	}
	return n
}

// The oracle of the balancer, over any history of members that come and go:
// nobody is assigned what another still has; whatever is assigned comes with
// all inputs; after at most two rebalances every number has exactly one owner,
// the shares differ by one at most, and another rebalance changes nothing; and
// what members have lost to others is no more than the balance takes.
func TestCopartitionBalancer(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Int32Range(1, 24).Draw(rt, "partitions")
		g := &testGroup{topics: map[string]int32{}, has: map[string][]int32{}, fresh: map[string]bool{}}
		for i := range rapid.IntRange(1, 3).Draw(rt, "inputs") {
			g.topics[fmt.Sprintf("in-%d", i)] = n
		}
		for range rapid.IntRange(1, 8).Draw(rt, "changes") {
			instance := fmt.Sprintf("i%d", rapid.IntRange(0, 7).Draw(rt, "instance"))
			if _, ok := g.has[instance]; ok {
				delete(g.has, instance)
			} else {
				g.has[instance], g.fresh[instance] = nil, true
			}
			if len(g.has) == 0 {
				continue
			}
			least := leastMoves(g)
			before := map[string][]int32{}
			for i, ps := range g.has {
				before[i] = slices.Clone(ps)
			}
			for round := 0; ; round++ {
				if err := g.take(g.rebalance(t)); err != nil {
					rt.Fatal(err)
				}
				if g.balanced() {
					break
				}
				if round == 1 {
					rt.Fatalf("after two rebalances: %v", g.has)
				}
			}
			moved := 0
			for i, ps := range before {
				for _, p := range ps {
					if !slices.Contains(g.has[i], p) {
						moved++
					}
				}
			}
			if moved != least {
				rt.Fatalf("%d numbers moved, expected %d: from %v to %v", moved, least, before, g.has)
			}
			settled := fmt.Sprint(g.has)
			if err := g.take(g.rebalance(t)); err != nil || fmt.Sprint(g.has) != settled {
				rt.Fatalf("a rebalance of %s gives %v (%v)", settled, g.has, err)
			}
		}
	})
}

// balanced tells whether each number has an owner and the shares are even.
func (g *testGroup) balanced() bool {
	total, least, most := 0, int(g.numbers()), 0
	for _, ps := range g.has {
		total += len(ps)
		least, most = min(least, len(ps)), max(most, len(ps))
	}
	return total == int(g.numbers()) && most-least <= 1
}

// leastMoves is how many numbers members must give up for shares that differ by
// one at most: in whatever way the larger shares are dealt.
func leastMoves(g *testGroup) int {
	var owned []int
	total := 0
	for _, ps := range g.has {
		owned = append(owned, len(ps))
		total += len(ps)
	}
	small, larger := int(g.numbers())/len(owned), int(g.numbers())%len(owned)
	kept, above := 0, 0
	for _, n := range owned {
		kept += min(n, small)
		if n > small {
			above++
		}
	}
	return total - kept - min(above, larger)
}

// While instances with different inputs are in one group, as during an upgrade
// that adds one, what only the new ones read waits until its owner is upgraded.
func TestCopartitionBalancerDifferentInputs(t *testing.T) {
	b := copartition{}
	old, upgraded := "a", "b"
	mb, _, err := b.MemberBalancer([]kmsg.JoinGroupResponseMember{
		{MemberID: old, InstanceID: &old, ProtocolMetadata: b.JoinGroupMetadata([]string{"x"}, map[string][]int32{"x": {0, 1}}, 4)},
		{MemberID: upgraded, InstanceID: &upgraded, ProtocolMetadata: b.JoinGroupMetadata([]string{"x", "y"}, map[string][]int32{"x": {2, 3}}, 4)},
	})
	if err != nil {
		t.Fatal(err)
	}
	into, err := mb.(kgo.GroupMemberBalancerOrError).BalanceOrError(map[string]int32{"x": 4, "y": 4})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(into)
	for _, want := range []string{"a{x[0 1]}", "x[2 3]", "y[2 3]"} {
		if !strings.Contains(got, want) {
			t.Errorf("plan %s, expected %s in it", got, want)
		}
	}
}

// Two members name the same numbers: the one that knows of the later
// generation is believed.
func TestCopartitionBalancerStaleClaim(t *testing.T) {
	got := shareOut(4, []shareholder{
		{generation: 7, owned: map[int32]bool{0: true, 1: true}},
		{generation: 5, owned: map[int32]bool{0: true, 1: true}},
	})
	if want := "[[0 1] [2 3]]"; fmt.Sprint(got) != want {
		t.Errorf("shares %v, expected %s", got, want)
	}
}
