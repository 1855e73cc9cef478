package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Range is a part of one partition of an input: from From up to, and not
// including, To.
type Range struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
}

func (r Range) tp() topicPartition { return topicPartition{r.Topic, r.Partition} }

// Replay is a request to read parts of a group's input again. The owner of each
// partition carries it out beside its ordinary work.
type Replay struct {
	ID    string    `json:"-"`
	At    time.Time `json:"-"` // of the request
	Group string    `json:"group"`
	// Ranges that are not empty, in order.
	Ranges []Range `json:"ranges"`
	// Key of the records to take; nil takes all.
	Key *string `json:"key,omitempty"`
	// DryRun takes the steps beside a copy of the table and writes nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// Counts is what came of records that were read again.
type Counts struct {
	// Records that a step was taken for.
	Records int64 `json:"records"`
	// Changed counts those that left another state of their key in the table.
	Changed int64 `json:"changed"`
	// DeadLetters counts those that failed.
	DeadLetters int64 `json:"deadLetters"`
	// Emitted records by topic, dead letters included.
	Emitted map[string]int64 `json:"emitted,omitempty"`
	// Verdicts that the station told, by their words: "no-change".
	Verdicts map[string]int64 `json:"verdicts,omitempty"`
	// Examples of failures, the first few, with their positions.
	Examples []string `json:"examples,omitempty"`
}

// maxExamples bounds how many failures are told one by one.
const maxExamples = 5

func (c *Counts) add(o Counts) {
	c.Records += o.Records
	c.Changed += o.Changed
	c.DeadLetters += o.DeadLetters
	sum(&c.Emitted, o.Emitted)
	sum(&c.Verdicts, o.Verdicts)
	c.Examples = append(slices.Clip(c.Examples), o.Examples[:min(len(o.Examples), maxExamples-min(len(c.Examples), maxExamples))]...)
}

func sum(to *map[string]int64, from map[string]int64) {
	if len(from) == 0 {
		return
	}
	if *to == nil {
		*to = map[string]int64{}
	}
	for k, n := range from {
		(*to)[k] += n
	}
}

func (c Counts) clone() Counts {
	c.Emitted, c.Verdicts, c.Examples = maps.Clone(c.Emitted), maps.Clone(c.Verdicts), slices.Clone(c.Examples)
	return c
}

// PartProgress is how far a replay has come in one partition.
type PartProgress struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Next offset to read.
	Next   int64  `json:"next"`
	Done   bool   `json:"done"`
	Error  string `json:"error,omitempty"` // why it ended before its time
	Counts Counts `json:"counts"`
}

// tallyRecord is what became of a replay's records at another group.
type tallyRecord struct {
	Group     string `json:"group"`
	Partition int32  `json:"partition"`
	Counts    Counts `json:"counts"`
}

// ReplayStatus is a replay with what has become of it.
type ReplayStatus struct {
	Replay
	Done      bool
	Cancelled bool
	// Error is why it was refused, or ended before its time.
	Error  string
	Parts  []PartProgress
	Counts Counts
	// Downstream has what became, at other groups, of what the replay emitted.
	Downstream map[string]Counts
}

// HeaderReplay marks what follows from a replay, with its id.
const HeaderReplay = "touchstone.replay"

// Position says where in a group's input a replay begins or ends.
type Position struct {
	kind       positionKind
	time       time.Time
	partitions map[int32]int64
	text       string
}

type positionKind int

const (
	positionDefault  positionKind = iota
	positionEarliest              // the first record there is
	positionTime                  // the first record at or after a time
	positionOffsets               // per partition
)

// String is what was parsed.
func (p Position) String() string { return p.text }

// ParsePosition reads "earliest", an RFC 3339 timestamp, or a list of
// PARTITION:OFFSET. An empty string is the default of its place.
func ParsePosition(s string) (Position, error) {
	p := Position{text: s}
	bad := func(why string) (Position, error) {
		return p, failure.New(failure.Validation, "position", strconv.Quote(s), "%s; expected earliest, a timestamp such as 2026-01-31T12:00:00Z, or PARTITION:OFFSET[,…]", why)
	}
	switch {
	case s == "":
		return p, nil
	case s == "earliest":
		p.kind = positionEarliest
		return p, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		p.kind, p.time = positionTime, t
		return p, nil
	}
	p.kind, p.partitions = positionOffsets, map[int32]int64{}
	for part := range strings.SplitSeq(s, ",") {
		left, right, ok := strings.Cut(part, ":")
		n, perr := strconv.ParseInt(left, 10, 32)
		o, oerr := strconv.ParseInt(right, 10, 64)
		if !ok || perr != nil || oerr != nil || n < 0 || o < 0 {
			return bad(fmt.Sprintf("found %q", part))
		}
		if _, twice := p.partitions[int32(n)]; twice {
			return bad(fmt.Sprintf("found partition %d twice", n))
		}
		p.partitions[int32(n)] = o
	}
	return p, nil
}

// Bounds says what a replay reads; see Position for From, and for To, which is
// not included and by default where the group stands.
type Bounds struct{ From, To Position }

// AddControl declares that this process takes requests for the owners of a
// control topic. Processors add their own.
func (e *Engine) AddControl(topic string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return errRunning
	}
	e.control(topic)
	return nil
}

// control gives the follower of a control topic; nil for "". Callers hold mu.
func (e *Engine) control(topic string) *controlLog {
	if topic == "" {
		return nil
	}
	for _, c := range e.controls {
		if c.topic == topic {
			return c
		}
	}
	c := newControlLog(e, topic)
	e.controls = append(e.controls, c)
	return c
}

func (e *Engine) controlOf(topic string) (*controlLog, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.controls {
		if c.topic == topic {
			return c, nil
		}
	}
	return nil, fmt.Errorf("control topic %s is not followed", topic)
}

// PlanReplay finds the ranges that a replay of a group's inputs would read. It
// refuses, as failures of kind Validation that name place, value and what was
// expected, positions that the log does not have.
func (e *Engine) PlanReplay(ctx context.Context, group string, inputs []string, b Bounds) ([]Range, error) {
	committed, err := e.kafka.adm.FetchOffsets(ctx, group)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	var out []Range
	for _, topic := range inputs {
		ranges, err := e.planTopic(ctx, group, topic, b, committed)
		if err != nil {
			return nil, err
		}
		out = append(out, ranges...)
	}
	if len(out) == 0 {
		return nil, failure.New(failure.Validation, "replay", group, "nothing lies between %s and %s that the group has processed", orWord(b.From.text, "its start"), orWord(b.To.text, "its position"))
	}
	return out, nil
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (e *Engine) planTopic(ctx context.Context, group, topic string, b Bounds, committed kadm.OffsetResponses) ([]Range, error) {
	starts, err := e.StartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := e.EndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	from, err := e.offsetsAt(ctx, topic, b.From, starts)
	if err != nil {
		return nil, err
	}
	to, err := e.offsetsAt(ctx, topic, b.To, nil)
	if err != nil {
		return nil, err
	}
	var out []Range
	var errs []error
	for _, at := range []struct {
		flag string
		p    Position
	}{{"from", b.From}, {"to", b.To}} {
		for _, p := range slices.Sorted(maps.Keys(at.p.partitions)) {
			subject := fmt.Sprintf("%s %s/%d", at.flag, topic, p)
			o := at.p.partitions[p]
			stands := int64(0)
			if c, ok := committed.Lookup(topic, p); ok {
				stands = max(c.At, 0)
			}
			start, there := starts[p]
			switch {
			case !there:
				errs = append(errs, failure.New(failure.Validation, "replay", subject, "there is no such partition, expected 0 to %d", len(starts)-1))
			case o < start:
				errs = append(errs, failure.New(failure.Validation, "replay", subject, "found offset %d, expected at least %d: the log no longer has what came before", o, start))
			case o > ends[p]:
				errs = append(errs, failure.New(failure.Validation, "replay", subject, "found offset %d, expected at most %d, where the log ends", o, ends[p]))
			case o > stands:
				errs = append(errs, failure.New(failure.Validation, "replay", subject, "found offset %d, expected at most %d, where group %s stands: what is behind it is yet to be processed", o, stands, group))
			}
		}
	}
	if len(errs) > 0 {
		return nil, joined(errs)
	}
	for _, p := range slices.Sorted(maps.Keys(starts)) {
		c, ok := committed.Lookup(topic, p)
		if !ok || c.At <= 0 {
			continue // it has processed nothing there
		}
		r := Range{Topic: topic, Partition: p, To: c.At}
		f, named := from[p]
		if !named {
			continue
		}
		r.From = max(f, starts[p])
		if t, named := to[p]; named {
			r.To = min(r.To, t)
		}
		if r.From > r.To && b.From.kind == positionOffsets && b.To.kind == positionOffsets {
			return nil, failure.New(failure.Validation, "replay", fmt.Sprintf("%s/%d", topic, p), "found from %d behind to %d, expected it before", f, r.To)
		}
		if r.From < r.To {
			out = append(out, r)
		}
	}
	return out, nil
}

// joined gives several failures of one kind as one of that kind.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &failure.Error{Op: "replay", Kind: failure.KindOf(errs[0]), Err: errors.Join(errs...)}
}

// offsetsAt finds the offset of a position in each partition it speaks of.
func (e *Engine) offsetsAt(ctx context.Context, topic string, p Position, byDefault map[int32]int64) (map[int32]int64, error) {
	switch p.kind {
	case positionOffsets:
		return p.partitions, nil
	case positionTime:
		lo, err := e.kafka.adm.ListOffsetsAfterMilli(ctx, p.time.UnixMilli(), topic)
		return offsetsOf(lo, topic, err)
	case positionEarliest:
		return e.StartOffsets(ctx, topic)
	}
	return byDefault, nil
}

// Replay asks the owners of a group's partitions for a replay, and waits until
// it is known to be taken. It is refused, as a failure of kind Conflict, while
// another one of the group is under way, and while no process runs the group.
func (e *Engine) Replay(ctx context.Context, control string, r Replay) (string, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return "", err
	}
	if err := e.staffed(ctx, r.Group); err != nil {
		return "", err
	}
	if err := c.caughtUp(ctx); err != nil {
		return "", err
	}
	c.mu.Lock()
	other := c.active(r.Group)
	c.mu.Unlock()
	if other != nil {
		return "", underWay(other.Replay)
	}
	id := uuid.NewString()
	if err := c.write(ctx, "replay/"+id, r); err != nil {
		return "", err
	}
	var refused error
	if err := c.await(ctx, func() bool {
		s := c.replays[id]
		if s != nil {
			refused = s.refused
		}
		return s != nil
	}); err != nil {
		return "", err
	}
	return id, refused
}

// Staffed tells whether some process is a member of a group.
func (e *Engine) Staffed(ctx context.Context, group string) (bool, error) {
	gs, err := e.kafka.adm.DescribeGroups(ctx, group)
	g := gs[group]
	if err == nil {
		err = g.Err
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return false, fmt.Errorf("describe group %s: %w", group, err)
	}
	return len(g.Members) > 0, nil
}

// staffed checks that somebody runs a group.
func (e *Engine) staffed(ctx context.Context, group string) error {
	ok, err := e.Staffed(ctx, group)
	if err != nil {
		return err
	}
	if !ok {
		return failure.New(failure.Conflict, "replay", "group "+group, "it has no member, expected a process that runs the station: nobody would carry it out")
	}
	return nil
}

// CancelReplay ends a replay: what it has done so far stays.
func (e *Engine) CancelReplay(ctx context.Context, control, id string) error {
	c, err := e.controlOf(control)
	if err != nil {
		return err
	}
	if c.replay(id) == nil {
		return unknownReplay(id)
	}
	if err := c.write(ctx, "replay/"+id+"/cancel", struct{}{}); err != nil {
		return err
	}
	return c.await(ctx, func() bool { s := c.replays[id]; return s == nil || s.ended() })
}

func unknownReplay(id string) error {
	return failure.New(failure.NotFound, "replay", id, "there is no replay of this id")
}

// ReplayStatus tells how far a replay has come. It waits, until ctx ends at
// most, for more than the version that is known: a status has a new version
// whenever anything about it changed.
func (e *Engine) ReplayStatus(ctx context.Context, control, id string, known *ReplayStatus) (*ReplayStatus, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return nil, err
	}
	if c.replay(id) == nil {
		// It may have been asked for elsewhere just now.
		if err := c.caughtUp(ctx); err != nil && ctx.Err() == nil {
			return nil, err
		}
	}
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		s := c.replay(id)
		if s == nil {
			return nil, unknownReplay(id)
		}
		if known == nil || s.Done || s.Counts.Records != known.Counts.Records {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, nil
		}
	}
}

// Replays lists the replays that are known, the newest first.
func (e *Engine) Replays(control string) ([]*ReplayStatus, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*ReplayStatus
	for _, r := range c.replays {
		if r.refused == nil {
			out = append(out, r.status())
		}
	}
	slices.SortFunc(out, func(a, b *ReplayStatus) int { return b.At.Compare(a.At) })
	return out, nil
}

// Covers tells whether a replay has taken a record of a position again, of
// which a letter written before it told.
func (s *ReplayStatus) Covers(group, topic string, partition int32, offset int64, key string, before time.Time) bool {
	if s.DryRun || s.Error != "" || s.Group != group || s.At.Before(before) || s.Key != nil && *s.Key != key {
		return false
	}
	for i, r := range s.Ranges {
		if r.Topic == topic && r.Partition == partition && offset >= r.From && offset < s.Parts[i].Next {
			return true
		}
	}
	return false
}

// Settled tells whether a group has processed what its inputs hold as of now,
// waiting for it until ctx ends, and whether the control log has brought what
// it said about that.
func (e *Engine) Settled(ctx context.Context, control, group string, inputs []string) (bool, error) {
	for _, topic := range inputs {
		ok, err := e.passed(ctx, group, topic)
		if err != nil || !ok {
			if ctx.Err() != nil {
				return false, nil
			}
			return false, err
		}
	}
	c, err := e.controlOf(control)
	if err != nil {
		return false, err
	}
	if err := c.caughtUp(ctx); err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

// passed waits until a group has processed what a topic holds now.
func (e *Engine) passed(ctx context.Context, group, topic string) (bool, error) {
	last, err := e.lastRecords(ctx, topic)
	if err != nil {
		return false, err
	}
	for {
		offsets, err := e.kafka.adm.FetchOffsets(ctx, group)
		if err == nil {
			err = offsets.Error()
		}
		if err != nil && ctx.Err() == nil {
			return false, fmt.Errorf("offsets of group %s: %w", group, err)
		}
		behind := false
		for p, end := range last {
			o, ok := offsets.Lookup(topic, p)
			behind = behind || end > 0 && (!ok || o.At < end)
		}
		if err == nil && !behind {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(pollEvery):
		}
	}
}

// lastRecords gives, per partition, the offset behind the last record that a
// reader can see: what follows it are transaction markers and what was aborted.
func (e *Engine) lastRecords(ctx context.Context, topic string) (map[int32]int64, error) {
	starts, err := e.StartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := e.EndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	for p, end := range ends {
		last := int64(0)
		// Markers are single: a few records back there is one that counts.
		for back := int64(8); last == 0 && end > starts[p]; back *= 8 {
			at := max(end-back, starts[p])
			for next := at; next < end; {
				fp, n, err := e.kafka.fetch(ctx, topic, p, next, e.cfg.FetchMaxBytes)
				if err != nil {
					return nil, fmt.Errorf("read %s/%d@%d: %w", topic, p, next, err)
				}
				for _, r := range fp.Records {
					last = r.Offset + 1
				}
				if n == next {
					break // an open transaction
				}
				next = n
			}
			if at == starts[p] {
				break
			}
		}
		ends[p] = last
	}
	return ends, nil
}
