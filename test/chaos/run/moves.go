package run

import (
	"context"
	"fmt"
	"time"

	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/topology"
)

// killedInRebalance makes partitions move and kills one of those they move
// between, at once. Afterwards every partition must belong to somebody.
func killedInRebalance(w *world) {
	for w.pause(time.Second, 2*time.Second) {
		i := w.any()
		w.check("stop", i.stop())
		w.inspect(i, "stopped")
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		for _, s := range stations {
			w.check("evict", w.evict(ctx, topology.GroupName(audit.Domain, s.name)))
		}
		cancel()
		w.fault("killed while partitions move", "%s", i)
		w.check("start", w.start(i))
		time.Sleep(time.Duration(200+w.rng.IntN(1500)) * time.Millisecond)
		other := w.any()
		w.kill(other)
		w.check("start", w.start(other))
		if err := w.assigned(20 * time.Second); err != nil {
			w.problem("%v", err)
		}
	}
}

// assigned waits until every partition of every station's input belongs to a
// member of its group.
func (w *world) assigned(within time.Duration) (err error) {
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		if err = w.unassigned(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *world) unassigned() error {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	for _, s := range stations {
		group := topology.GroupName(audit.Domain, s.name)
		described, err := w.adm.DescribeGroups(ctx, group)
		if err == nil {
			err = described.Error()
		}
		if err != nil {
			return err
		}
		owned, members := map[int32]bool{}, 0
		for _, g := range described {
			for _, m := range g.Members {
				members++
				if a, ok := m.Assigned.AsConsumer(); ok {
					for _, t := range a.Topics {
						if t.Topic == s.input {
							for _, p := range t.Partitions {
								owned[p] = true
							}
						}
					}
				}
			}
			if len(owned) < 4 {
				return fmt.Errorf("group %s is %s with %d members, and has assigned %v of 4 partitions", group, g.State, members, owned)
			}
		}
	}
	return nil
}
