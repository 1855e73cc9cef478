package engine

import (
	"context"
	"time"

	"github.com/touchstone-platform/touchstone/views"
)

// watchEvery is how often the ends of the logs that are followed are looked up.
const watchEvery = time.Second

// meter tells how far an image of a log is behind what is committed there.
// Whoever holds one guards it.
type meter struct {
	offset int64 // of the last record taken in
	end    int64 // of what is committed, as of endAt; -1 if not known
	endAt  time.Time
	// current is the latest time as of which everything committed is in.
	current time.Time
	// whole: the end of the log, as of some time since the start, was reached.
	whole bool
}

func newMeter() meter { return meter{offset: -1, end: -1} }

// saw takes note of the end as of a time.
func (m *meter) saw(end int64, at time.Time) {
	m.note()
	m.end, m.endAt = end, at
	m.note()
}

func (m *meter) note() {
	if m.offset+1 >= m.end && m.endAt.After(m.current) {
		m.current = m.endAt
	}
}

// lag as of now, for what was begun at a time. As long as the end is looked up
// in time and everything up to it is in, there is none.
func (m *meter) lag(now, began time.Time) views.Lag {
	m.note()
	missing := max(m.end-1-m.offset, 0)
	if m.whole && missing == 0 && now.Sub(m.endAt) < 3*watchEvery {
		return views.Lag{}
	}
	since := began
	if m.current.After(since) {
		since = m.current
	}
	return views.Lag{Records: missing, Age: now.Sub(since)}
}

// watchEnds looks up the ends of a topic's partitions, as long as wanted says
// so, and tells them to saw, until ctx ends.
func (k *kafka) watchEnds(ctx context.Context, topic string, wanted func() bool, saw func(partition int32, end int64, at time.Time)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if wanted() {
			now := time.Now()
			// An error is no news: what is known gets old, and that shows.
			ends, _ := k.adm.ListCommittedOffsets(ctx, topic)
			for p, o := range ends[topic] {
				if o.Err == nil {
					saw(p, o.Offset, now)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
