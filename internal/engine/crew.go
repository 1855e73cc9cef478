package engine

import (
	"context"
	"fmt"
	"maps"

	"github.com/twmb/franz-go/pkg/kgo"
)

// crew is the tasks that work at a time, as those see it who read records
// again. It changes between transactions only, and ends when it does.
type crew struct {
	s      *session
	ctx    context.Context
	cancel context.CancelFunc
	// claims are its partitions by input.
	claims map[string][]int32
	epochs map[int32]int64
}

// adoptSide has what is to be read again looked for by those who work now.
func (s *session) adoptSide() {
	if s.p.control == nil {
		return
	}
	now := &crew{s: s, claims: map[string][]int32{}, epochs: map[int32]int64{}}
	for t := range s.working {
		now.epochs[t.partition] = t.claim.epoch
		for topic := range t.claim.topics {
			now.claims[topic] = append(now.claims[topic], t.partition)
		}
	}
	if s.side != nil {
		if maps.Equal(s.side.g.epochs, now.epochs) {
			return
		}
		s.side.g.cancel()
		s.side.close()
		s.side = nil
	}
	if len(now.epochs) == 0 {
		return
	}
	now.ctx, now.cancel = context.WithCancel(s.life)
	s.side = s.openSide(now)
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
