package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// Feed reads topics that are not ours, such as those of a CDC tool, and hands
// their records on at least once.
type Feed struct {
	// Group is the consumer group; a new one begins at the start of the topics.
	Group  string
	Topics []string
	// Take hands on records, in order per partition, and gives nil when they
	// are safe: only then are they committed. After an error the same records
	// come again.
	Take func(ctx context.Context, records []Record) error
}

type feed struct {
	engine *Engine
	spec   Feed
}

// AddFeed declares a feed.
func (e *Engine) AddFeed(spec Feed) error {
	if spec.Group == "" || len(spec.Topics) == 0 || spec.Take == nil || slices.Contains(spec.Topics, "") {
		return fmt.Errorf("feed %q: expected a group, topics and a function", spec.Group)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errRunning
	}
	e.feeds = append(e.feeds, &feed{e, spec})
	return nil
}

func (f *feed) run(ctx context.Context) {
	log := f.engine.cfg.Logger.With("feed", f.spec.Group)
	restart(ctx, log, "feed", f.runOnce, func(error) {})
}

// feedRecords is the most that Take is given at once.
const feedRecords = 2000

func (f *feed) runOnce(ctx context.Context) error {
	cl, err := kgo.NewClient(f.engine.cfg.clientOptions(f.spec.Group,
		kgo.ConsumerGroup(f.spec.Group),
		kgo.ConsumeTopics(f.spec.Topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(f.engine.cfg.SessionTimeout),
		kgo.HeartbeatInterval(f.engine.cfg.SessionTimeout/5),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.CloseAllowingRebalance()
	for {
		fs := cl.PollRecords(ctx, feedRecords)
		if ctx.Err() != nil {
			return nil
		}
		for _, fe := range fs.Errors() {
			var lost *kgo.ErrGroupSession
			if !errors.As(fe.Err, &lost) {
				return fmt.Errorf("fetch %s/%d: %w", fe.Topic, fe.Partition, fe.Err)
			}
		}
		rs := fs.Records()
		if len(rs) > 0 {
			if err := failpoint.Reach(failpoint.FeedBeforeTake, f.spec.Group); err != nil {
				return err
			}
			if err := f.take(ctx, rs); err != nil {
				return err
			}
			if err := failpoint.Reach(failpoint.FeedBeforeCommit, f.spec.Group); err != nil {
				return err
			}
			if err := cl.CommitRecords(ctx, rs...); err != nil && ctx.Err() == nil {
				return fmt.Errorf("commit offsets: %w", err)
			}
		}
		cl.AllowRebalance()
	}
}

// take hands records on until that works. While it does not, the group cannot
// rebalance, so it gives up in time for the rebalance to go on without it.
func (f *feed) take(ctx context.Context, rs []*kgo.Record) error {
	records := make([]Record, len(rs))
	for i, r := range rs {
		records[i] = recordOf(r)
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 5*time.Second
	for began := time.Now(); ; {
		err := f.spec.Take(ctx, records)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Since(began) > 20*time.Second {
			return fmt.Errorf("hand on %d records: %w", len(records), err)
		}
		d := wait.NextBackOff()
		f.engine.cfg.Logger.Warn("records could not be handed on and are tried again", "feed", f.spec.Group, "records", len(records), "error", err, "after", d.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
}
