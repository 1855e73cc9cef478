package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views/entities"
)

// Check is what was found at the end, all of it as planned.
type Check struct {
	Deliveries  int `json:"deliveries"`
	Changes     int `json:"changes"`
	NoChanges   int `json:"noChanges"`
	Duplicates  int `json:"duplicates"`
	Entities    int `json:"entities"`
	Versions    int `json:"versions"`
	Events      int `json:"events"`
	DeadLetters int `json:"deadLetters"`
}

// check compares what became of all deliveries with what was planned: each has
// come to its end; there are as many changes as were meant, as many versions
// as changes, one public event for each; and no dead letter.
func (s *system) check(ctx context.Context, want plan, entityCount int) (Check, error) {
	var c Check
	ends, err := s.engine.EndOffsets(ctx, topology.Journal(domainName))
	if err != nil {
		return c, err
	}
	for p, end := range ends {
		for o := range end {
			id := journal.ID{Domain: domainName, Partition: p, Offset: o}.String()
			out, ok, err := s.final(id)
			if err != nil {
				return c, err
			}
			if !ok {
				return c, fmt.Errorf("check: what became of %s is not visible", id)
			}
			c.Deliveries++
			switch out.Disposition {
			case journal.Changed:
				c.Changes++
			case journal.Unchanged:
				c.NoChanges++
			case journal.Duplicate:
				c.Duplicates++
			case journal.DeadLetter:
				c.DeadLetters++
			}
		}
		if err := ctx.Err(); err != nil {
			return c, err
		}
	}
	for q := (entities.Query{Tenant: envelope.DefaultTenant, Resource: resourceName, Limit: 1000}); ; {
		page, err := s.reads.Entities.List(q)
		if err != nil {
			return c, err
		}
		for _, e := range page.Entities {
			c.Entities++
			c.Versions += int(e.Version)
		}
		if page.Next == "" {
			break
		}
		q.After = page.Next
	}
	if c.Events, err = s.count(ctx, topology.Events(domainName), want.Changes); err != nil {
		return c, err
	}
	dead, err := s.engine.EndOffsets(ctx, topology.DeadLetters(domainName))
	if err != nil {
		return c, err
	}
	for _, end := range dead {
		c.DeadLetters += int(end)
	}
	return c, errors.Join(
		differs("deliveries", c.Deliveries, want.Deliveries),
		differs("changes", c.Changes, want.Changes),
		differs("deliveries without a change", c.NoChanges, want.NoChanges),
		differs("duplicates", c.Duplicates, want.Duplicates),
		differs("entities", c.Entities, entityCount),
		differs("versions of all entities", c.Versions, want.Changes),
		differs("public events", c.Events, want.Changes),
		differs("dead letters", c.DeadLetters, 0),
	)
}

func differs(what string, found, want int) error {
	if found == want {
		return nil
	}
	return fmt.Errorf("check: found %d %s, expected %d", found, what, want)
}

// settleWithin is how long nothing may come for a stream to be at its end.
const settleWithin = 2 * time.Second

// count counts the committed records of a topic: until nothing comes for a
// while once there are as many as expected, or for longer if there are not.
func (s *system) count(ctx context.Context, topic string, want int) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	came := make(chan struct{}, 1024)
	ended := make(chan error, 1)
	go func() {
		ended <- s.engine.Tail(ctx, topic, engine.Start(), func(engine.Record) error {
			select {
			case came <- struct{}{}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for {
		quiet := settleWithin
		if n < want {
			quiet *= 10
		}
		timer := time.NewTimer(quiet)
		select {
		case <-came:
			n++
			timer.Stop()
		case err := <-ended:
			return n, err
		case <-timer.C:
			return n, nil
		}
	}
}
