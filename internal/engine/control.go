package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// controlLog follows a control topic: what has been asked of the owners of
// partitions (replays, redrives), and how far they have come. Requests are
// plain records; what an owner did is written in the very transaction that did
// it. All processes read the same records in the same order, so that they
// agree on which request was taken and which came too late:
//
//	replay/<id>                          the request
//	replay/<id>/at/<topic>/<partition>   how far it has come there, with counts
//	replay/<id>/of/<group>/<partition>   what became of its records downstream
//	replay/<id>/cancel                   that it is to end
//	rebuild/<id>                         the request
//	rebuild/<id>/at/<partition>          what was found there
//	redrive/<letter>/<request>           the request
//	redrive/<letter>                     what came of it
//
// The topic has one partition and is compacted; every key but the requests' is
// written again and again.
type controlLog struct {
	engine *Engine
	topic  string
	log    *slog.Logger

	mu       sync.Mutex
	position int64 // next offset to read; -1 before anything is known
	changed  chan struct{}
	replays  map[string]*replayState
	redrives map[string]*redriveState
	rebuilds map[string]*rebuildState
	lastErr  error
}

type replayState struct {
	Replay
	refused   error // why it was not taken; nil if it was
	cancelled bool
	parts     map[topicPartition]PartProgress
	tallies   map[string]map[int32]Counts // by group and partition
}

// ended tells that nothing further will happen to it.
func (r *replayState) ended() bool {
	if r.refused != nil || r.cancelled {
		return true
	}
	for _, x := range r.Ranges {
		if !r.parts[x.tp()].Done {
			return false
		}
	}
	return true
}

type redriveState struct {
	Redrive
	result *RedriveResult
}

// abandonedAfter is how long a request can be taken up: a replay that nobody
// has carried out by then is over. It is shorter than requests are kept, so that
// none comes alive when the records that ended it have expired.
const abandonedAfter = 14 * 24 * time.Hour

func newControlLog(e *Engine, topic string) *controlLog {
	return &controlLog{
		engine: e, topic: topic, log: e.cfg.Logger.With("topic", topic), position: -1, changed: make(chan struct{}),
		replays: map[string]*replayState{}, redrives: map[string]*redriveState{}, rebuilds: map[string]*rebuildState{},
	}
}

// run follows the topic until ctx ends.
func (c *controlLog) run(ctx context.Context) {
	restart(ctx, c.log, "control log", c.runOnce, func(err error) {
		c.mu.Lock()
		c.lastErr = err
		c.mu.Unlock()
	})
}

func (c *controlLog) runOnce(ctx context.Context) error {
	start, err := c.engine.StartOffsets(ctx, c.topic)
	if err != nil {
		return err
	}
	if len(start) != 1 {
		return fmt.Errorf("control topic %s has %d partitions, expected 1", c.topic, len(start))
	}
	c.mu.Lock()
	c.position = start[0]
	c.replays, c.redrives, c.rebuilds = map[string]*replayState{}, map[string]*redriveState{}, map[string]*rebuildState{}
	c.mu.Unlock()
	cl, err := kgo.NewClient(c.engine.cfg.clientOptions("control",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: {0: kgo.NewOffset().At(start[0])}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(), // they take offsets, and who waits for the end waits for theirs
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, fe := range fs.Errors() {
			if !errors.Is(fe.Err, context.Canceled) {
				return fmt.Errorf("follow %s: %w", fe.Topic, fe.Err)
			}
		}
		c.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				c.take(string(r.Key), r.Value, r.Timestamp)
			}
			c.position = max(c.position, r.Offset+1)
		})
		c.notify()
		c.mu.Unlock()
	}
}

// notify tells who waits. Callers hold mu.
func (c *controlLog) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// take takes in one record. Callers hold mu. What cannot be read is logged and
// skipped: it was written by another version of the program.
func (c *controlLog) take(key string, value []byte, at time.Time) {
	fail := func(err error) { c.log.Error("control record cannot be read", "key", key, "error", err) }
	kind, rest, _ := strings.Cut(key, "/")
	id, rest, _ := strings.Cut(rest, "/")
	switch {
	case kind == "replay" && rest == "":
		var r Replay
		if err := json.Unmarshal(value, &r); err != nil {
			fail(err)
			return
		}
		r.ID, r.At = id, at
		s := &replayState{Replay: r, parts: map[topicPartition]PartProgress{}, tallies: map[string]map[int32]Counts{}}
		if other := c.active(r.Group); other != nil {
			s.refused = underWay(other.Replay)
		} else if time.Since(at) > abandonedAfter {
			s.refused = failure.New(failure.Transient, "replay", r.Group, "nobody carried it out within %s", abandonedAfter)
		}
		c.replays[id] = s
	case kind == "replay" && rest == "cancel":
		if s := c.replays[id]; s != nil {
			s.cancelled = true
		}
	case kind == "replay" && strings.HasPrefix(rest, "of/"):
		var p tallyRecord
		if err := json.Unmarshal(value, &p); err != nil {
			fail(err)
			return
		}
		if s := c.replays[id]; s != nil {
			if s.tallies[p.Group] == nil {
				s.tallies[p.Group] = map[int32]Counts{}
			}
			s.tallies[p.Group][p.Partition] = p.Counts
		}
	case kind == "replay" && strings.HasPrefix(rest, "at/"):
		var p PartProgress
		if err := json.Unmarshal(value, &p); err != nil {
			fail(err)
			return
		}
		if s := c.replays[id]; s != nil {
			s.parts[topicPartition{p.Topic, p.Partition}] = p
		}
	case kind == "rebuild" && rest == "":
		var r Rebuild
		if err := json.Unmarshal(value, &r); err != nil {
			fail(err)
			return
		}
		r.ID, r.At = id, at
		c.rebuilds[id] = &rebuildState{Rebuild: r, parts: map[int32]RebuildCounts{}}
	case kind == "rebuild" && strings.HasPrefix(rest, "at/"):
		var n RebuildCounts
		p, err := strconv.ParseInt(strings.TrimPrefix(rest, "at/"), 10, 32)
		if err = cmp.Or(err, json.Unmarshal(value, &n)); err != nil {
			fail(err)
			return
		}
		if r := c.rebuilds[id]; r != nil {
			r.parts[int32(p)] = n
		}
	case kind == "redrive" && rest == "":
		var r RedriveResult
		if err := json.Unmarshal(value, &r); err != nil {
			fail(err)
			return
		}
		r.At = at
		s := c.redrives[id]
		if s == nil {
			s = &redriveState{Redrive: Redrive{Letter: id}}
			c.redrives[id] = s
		}
		s.result = &r
	case kind == "redrive":
		if c.redrives[id] != nil {
			return // asked for already
		}
		var r Redrive
		if err := json.Unmarshal(value, &r); err != nil {
			fail(err)
			return
		}
		r.Letter, r.Request, r.At = id, rest, at
		c.redrives[id] = &redriveState{Redrive: r}
	default:
		fail(errors.New("unknown kind of record"))
	}
}

func underWay(r Replay) error {
	return failure.New(failure.Conflict, "replay", r.Group, "replay %s is under way since %s; expected it to end first, or to be cancelled", r.ID, r.At.UTC().Format(time.RFC3339))
}

// active gives the replay of a group that is under way. Callers hold mu.
func (c *controlLog) active(group string) *replayState {
	for _, r := range c.replays {
		if r.Group == group && !r.ended() && time.Since(r.At) < abandonedAfter {
			return r
		}
	}
	return nil
}

// caughtUp waits until everything that was written before the call has been
// taken in, and every transaction open then has ended.
func (c *controlLog) caughtUp(ctx context.Context) error {
	ends, err := c.engine.EndOffsets(ctx, c.topic)
	if err != nil {
		return err
	}
	for {
		c.mu.Lock()
		position, changed := c.position, c.changed
		c.mu.Unlock()
		if position >= ends[0] {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("read %s up to offset %d, stood at %d: %w", c.topic, ends[0], position, ctx.Err())
		case <-time.After(500 * time.Millisecond):
			if position >= 0 {
				c.skip(ctx, position)
			}
		}
	}
}

// skip moves on where only records that no reader sees remain.
func (c *controlLog) skip(ctx context.Context, position int64) {
	fp, next, err := c.engine.kafka.fetch(ctx, c.topic, 0, position, 1<<20)
	if err != nil || len(fp.Records) > 0 || next <= position {
		return
	}
	c.mu.Lock()
	if c.position == position {
		c.position = next
		c.notify()
	}
	c.mu.Unlock()
}

// write appends a record outside of any transaction.
func (c *controlLog) write(ctx context.Context, key string, value any) error {
	r, err := controlRecord(c.topic, key, value)
	if err != nil {
		return err
	}
	if err := c.engine.kafka.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("write to %s: %w", c.topic, err)
	}
	return nil
}

func controlRecord(topic, key string, value any) (*kgo.Record, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode control record %s: %w", key, err)
	}
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: b}, nil
}

// await waits until look gives true.
func (c *controlLog) await(ctx context.Context, look func() bool) error {
	for {
		c.mu.Lock()
		ok, changed := look(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replay gives the status of a replay; nil if there is none of this id.
func (c *controlLog) replay(id string) *ReplayStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.replays[id]
	if r == nil {
		return nil
	}
	return r.status()
}

func (r *replayState) status() *ReplayStatus {
	s := &ReplayStatus{Replay: r.Replay, Done: r.ended(), Cancelled: r.cancelled, Downstream: map[string]Counts{}}
	if r.refused != nil {
		s.Error = r.refused.Error()
	}
	for _, x := range r.Ranges {
		p, ok := r.parts[x.tp()]
		if !ok {
			p = PartProgress{Topic: x.Topic, Partition: x.Partition, Next: x.From}
		}
		s.Parts = append(s.Parts, p)
		s.Counts.add(p.Counts)
		if p.Error != "" && s.Error == "" {
			s.Error = p.Error
		}
	}
	for group, parts := range r.tallies {
		var n Counts
		for _, p := range slices.Sorted(maps.Keys(parts)) {
			n.add(parts[p])
		}
		s.Downstream[group] = n
	}
	return s
}
