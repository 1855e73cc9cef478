package engine

import (
	"context"
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kgo"
)

// crew is the tasks that work at a time, as those see it who do more than what
// the group polls: read records again, and wake entries that are due. It changes
// between transactions only, and ends when it does.
type crew struct {
	s      *session
	ctx    context.Context
	cancel context.CancelFunc
	// claims are its partitions by input.
	claims map[string][]int32
	epochs map[int32]int64
}

// adoptCrew takes note of who works now, and has what is to be read again looked
// for by them.
func (s *session) adoptCrew() {
	if s.p.control == nil && s.p.waker == nil {
		return
	}
	now := &crew{s: s, claims: map[string][]int32{}, epochs: map[int32]int64{}}
	for t := range s.working {
		now.epochs[t.partition] = t.claim.epoch
		for topic := range t.claim.topics {
			now.claims[topic] = append(now.claims[topic], t.partition)
		}
	}
	if s.crew != nil {
		if maps.Equal(s.crew.epochs, now.epochs) {
			return
		}
		s.crew.cancel()
		s.side.close()
		s.side, s.crew = nil, nil
	}
	if len(now.epochs) == 0 {
		return
	}
	now.ctx, now.cancel = context.WithCancel(s.life)
	s.crew, s.side = now, s.openSide(now)
}

// stands tells whether all of it is still ours.
func (c *crew) stands() bool {
	for p, epoch := range c.epochs {
		if !c.s.group.has(p, epoch) {
			return false
		}
	}
	return true
}

// handOne gives Goka one record that was read again. It is false if that
// partition does not work any more.
func (c *crew) handOne(r *kgo.Record, headers *headerSlab) bool {
	t := c.s.tasks[r.Partition]
	if t == nil || !t.working || t.inputs[r.Topic] == nil {
		c.s.tx.fail(fmt.Errorf("record of %s/%d to be read again, which is not at work", r.Topic, r.Partition))
		return false
	}
	t.hand(r.Topic, []*kgo.Record{r}, headers)
	return t.ctx.Err() == nil
}
