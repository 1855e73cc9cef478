package engine

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// copartition shares the partition numbers of a group's inputs out among its
// members: who gets a number gets that partition of every input, because the
// group's table has one partition for all of them. The shares differ by one at
// most, and no more numbers move than that takes.
//
// It is cooperative (KIP-429): a number that moves is given up in one
// rebalance and assigned in the next, which the giving member starts; all
// other numbers stay where they are and their owners go on working.
//
// Kafka's own assignors do one or the other: range keeps numbers together and
// moves nearly all of them, cooperative-sticky moves few and tears them apart.
type copartition struct{}

// ProtocolName is what kafka-consumer-groups shows. It must change if the
// meaning of the assignment does.
func (copartition) ProtocolName() string { return "copartition-sticky" }
func (copartition) IsCooperative() bool  { return true }

func (copartition) JoinGroupMetadata(topics []string, owned map[string][]int32, generation int32) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Topics = topics
	meta.Generation = generation
	for topic, ps := range owned {
		o := kmsg.NewConsumerMemberMetadataOwnedPartition()
		o.Topic, o.Partitions = topic, ps
		meta.OwnedPartitions = append(meta.OwnedPartitions, o)
	}
	// Kafka starts a rebalance when the bytes change.
	slices.SortFunc(meta.OwnedPartitions, func(a, b kmsg.ConsumerMemberMetadataOwnedPartition) int {
		return cmp.Compare(a.Topic, b.Topic)
	})
	return meta.AppendTo(nil)
}

func (copartition) ParseSyncAssignment(b []byte) (map[string][]int32, error) {
	return kgo.ParseConsumerSyncAssignment(b)
}

func (c copartition) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b, err := kgo.NewConsumerBalancer(c, members)
	return b, b.MemberTopics(), err
}

// Balance gives a member those topics of its numbers that it asks for: while
// instances with different inputs are in one group, as during an upgrade, the
// new input of a number waits until the number's owner is upgraded.
func (copartition) Balance(b *kgo.ConsumerBalancer, topics map[string]int32) kgo.IntoSyncAssignment {
	numbers := int32(0)
	for _, n := range topics {
		numbers = max(numbers, n)
	}
	var members []shareholder
	b.EachMember(func(_ *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		m := shareholder{generation: meta.Generation, owned: map[int32]bool{}}
		for _, o := range meta.OwnedPartitions {
			for _, p := range o.Partitions {
				m.owned[p] = true
			}
		}
		members = append(members, m)
	})
	plan := b.NewPlan()
	for i, share := range shareOut(numbers, members) {
		member, meta := b.MemberAt(i)
		for _, topic := range meta.Topics {
			for _, p := range share {
				if p < topics[topic] {
					plan.AddPartition(member, topic, p)
				}
			}
		}
	}
	return plan
}

// shareholder is a member of a group as the balancer sees it: what it says
// that it owns, as of a generation.
type shareholder struct {
	generation int32
	owned      map[int32]bool
}

// shareOut gives the share of each member, in order. A number that is to move
// is in nobody's share until its owner no longer names it.
func shareOut(numbers int32, members []shareholder) [][]int32 {
	if len(members) == 0 {
		return nil
	}
	shares := make([][]int32, len(members))
	var free []int32
	for p := range numbers {
		owner := -1
		for i, m := range members {
			// Two may name one number, if one of them was thrown out and does
			// not know it: the later generation is right.
			if m.owned[p] && (owner < 0 || m.generation > members[owner].generation) {
				owner = i
			}
		}
		if owner < 0 {
			free = append(free, p)
			continue
		}
		shares[owner] = append(shares[owner], p)
	}
	// Those who have most get the larger shares: fewest numbers move then.
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(shares[b]), len(shares[a])) })
	small, larger := int(numbers)/len(members), int(numbers)%len(members)
	quota := func(rank int) int {
		if rank < larger {
			return small + 1
		}
		return small
	}
	for rank, i := range order {
		if n := quota(rank); len(shares[i]) > n {
			shares[i] = shares[i][:n] // the rest moves, in the next rebalance
		}
	}
	for rank, i := range order {
		n := min(quota(rank)-len(shares[i]), len(free))
		shares[i] = append(shares[i], free[:n]...)
		free = free[n:]
		slices.Sort(shares[i])
	}
	return shares
}
