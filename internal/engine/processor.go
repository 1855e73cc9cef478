package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/lovoo/goka"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/processors"
)

// Codec turns values into bytes and back, as goka.Codec does. It must be safe
// for concurrent use. Decode may keep the bytes it is given, and so may what it
// gives: neither changes them.
type Codec interface {
	Encode(value any) ([]byte, error)
	Decode(data []byte) (any, error)
}

// appender is a codec that encodes into memory that it is given, and whose
// decoded values keep nothing of the bytes they were made from: memory of values
// of a table can be used again then.
type appender interface {
	AppendEncode(dst []byte, value any) ([]byte, error)
}

// Edge is a stream with its codec.
type Edge struct {
	Stream string
	Codec  Codec
}

// Processor says how a station runs: its consumer group with what it reads,
// keeps and writes. All inputs and the table have the same number of
// partitions.
type Processor struct {
	// Group is the consumer group. The table's changelog is <Group>-table.
	Group string
	// Name of the station in dead letters; Group if empty.
	Name    string
	Station processors.Station
	Inputs  []Edge
	// Table is the codec of the group's table; nil for a station without state.
	Table Codec
	// Uncached says that no decoded values of the table are kept in memory: for
	// a table whose keys are hardly ever asked for again.
	Uncached bool
	// Retention bounds the table by time; nil for a table that keeps everything.
	Retention *Retention
	// Standby keeps the partitions of the table that other processes own warm
	// here, so that this one can take them over at once.
	Standby bool
	Outputs []Edge
	// DeadLetters is the topic for records that fail.
	DeadLetters string
	// Control is the topic by which replays and redrives are asked for; "" for
	// a station that takes no such requests.
	Control string
}

// Teller is what a station emits to tell what became of an input: its verdict
// in a word, which a replay counts.
type Teller interface{ Verdict() string }

// TableTopic is the changelog of a group's table, by Goka's naming.
func TableTopic(group string) string { return string(goka.GroupTable(goka.Group(group))) }

// Validate tells everything that is wrong with the declaration at once.
func (p Processor) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Group == "" {
		bad("Group: empty, expected the name of a consumer group")
	}
	if p.Station == nil {
		bad("Station: nil")
	}
	if len(p.Inputs) == 0 {
		bad("Inputs: none, expected at least one")
	}
	if p.DeadLetters == "" {
		bad("DeadLetters: empty, expected a topic")
	}
	seen := map[string]bool{}
	for i, e := range slices.Concat(p.Inputs, p.Outputs) {
		if i == len(p.Inputs) {
			clear(seen) // an input may be an output too: written for the group to read
		}
		switch {
		case e.Stream == "":
			bad("edge %d: empty stream name", i)
		case e.Codec == nil:
			bad("stream %s: no codec", e.Stream)
		case seen[e.Stream]:
			bad("stream %s: declared twice", e.Stream)
		case e.Stream == TableTopic(p.Group):
			bad("stream %s: is the group's own table", e.Stream)
		}
		seen[e.Stream] = true
	}
	if p.Retention != nil && (p.Table == nil || p.Retention.Window <= 0 || p.Retention.Since == nil) {
		bad("Retention: needs a Table, a positive Window and Since")
	}
	if _, wakes := p.Station.(processors.Waker); wakes && (p.Table == nil || p.Retention != nil) {
		bad("Station: is a Waker, which needs a Table without Retention: an entry that has expired could not be woken")
	}
	if p.Standby && (p.Table == nil || p.Retention != nil) {
		bad("Standby: needs a Table without Retention, whose expired entries its owner alone removes")
	}
	if len(errs) > 0 {
		return fmt.Errorf("processor %q: %w", p.Group, errors.Join(errs...))
	}
	return nil
}

// processor is a declared Processor with what it has come to.
type processor struct {
	engine     *Engine
	spec       Processor
	name       string
	tableTopic string           // "" without a table
	table      *table           // nil without one
	waker      processors.Waker // nil if nothing is woken
	inputs     map[string]Codec
	outputs    outputs
	control    *controlLog // nil without one
	log        *slog.Logger
	metrics    groupMetrics
	status     groupStatus
}

// outputs are the topics that a processor may write to, with how many records
// the open transaction has for each.
type outputs map[string]*output

type output struct {
	codec Codec
	count atomic.Int64
}

func (o outputs) reset() {
	for _, out := range o {
		out.count.Store(0)
	}
}

func newProcessor(e *Engine, spec Processor) *processor {
	p := &processor{engine: e, spec: spec, name: spec.Name, inputs: map[string]Codec{}, outputs: outputs{}}
	if p.name == "" {
		p.name = spec.Group
	}
	if spec.Table != nil {
		p.tableTopic = TableTopic(spec.Group)
		p.table = e.table(p.tableTopic)
		p.table.group = spec.Group
		p.table.standby = p.table.standby || spec.Standby
		if p.waker, _ = spec.Station.(processors.Waker); p.waker != nil {
			p.table.setIndex(nil, &wakeIndex{codec: spec.Table, due: p.waker.Due})
		}
	}
	for _, in := range spec.Inputs {
		p.inputs[in.Stream] = in.Codec
	}
	for _, out := range spec.Outputs {
		p.outputs[out.Stream] = &output{codec: out.Codec}
	}
	if p.outputs[spec.DeadLetters] == nil {
		p.outputs[spec.DeadLetters] = &output{codec: bytesCodec{}}
	}
	p.control = e.control(spec.Control)
	p.log = e.cfg.Logger.With("group", spec.Group)
	p.metrics = e.metrics.group(spec.Group)
	p.status.init(spec.Group)
	return p
}

// bytesCodec lets Goka pass bytes through: what decodes them is the step,
// where a failure is a dead letter and not the end of the processor.
type bytesCodec struct{}

func (bytesCodec) Decode(b []byte) (any, error) { return b, nil }
func (bytesCodec) Encode(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("encode %T: expected bytes", v)
	}
	return b, nil
}

// run keeps the processor running until ctx ends: a session that fails is
// followed by another one, with growing distance.
func (p *processor) run(ctx context.Context) {
	p.status.restarting(nil)
	restart(ctx, p.log, "processor", func(ctx context.Context) error { return p.runOnce(ctx) }, func(err error) {
		p.metrics.restarts.Inc()
		p.status.restarting(err)
	})
	p.status.stopped()
}

// restart calls run again and again until ctx ends, with exponential backoff
// that begins anew after a minute of work.
func restart(ctx context.Context, log *slog.Logger, what string, run func(context.Context) error, failed func(error)) {
	wait := newBackoff()
	for {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			if err != nil {
				log.Warn(what+" did not stop in good order; its local state is recovered at the next start", "error", oneLine(err))
			}
			return
		}
		if time.Since(began) > time.Minute {
			wait.Reset()
		}
		d := wait.NextBackOff()
		if errors.Is(err, errTakenOver) {
			d = stepAside
		}
		failed(err)
		log.Error(what+" failed and starts again", "error", oneLine(err), "after", d.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return
		case <-time.After(d):
		}
	}
}

// newBackoff is for what failed and is started again.
func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 100*time.Millisecond, 15*time.Second
	return b
}

// runOnce runs one session.
func (p *processor) runOnce(ctx context.Context) (err error) {
	db := p.engine.db.handle()
	if db == nil {
		return errClosed
	}
	defer func() { p.engine.db.report(err) }()
	s, err := openSession(ctx, p, db)
	if err != nil {
		return err
	}
	defer s.close()
	err = s.run(ctx)
	if s.takenOver {
		return errors.Join(errTakenOver, err)
	}
	return err
}

// errTakenOver: two processes run under one instance name. The one that came
// later works; the other steps aside for long enough not to throw it out again
// at once, and comes back in case it was the later one that died.
var errTakenOver = errors.New("instance was taken over")

const stepAside = 30 * time.Second

// graph declares the processor to Goka.
func (p *processor) graph(st *step) *goka.GroupGraph {
	var edges []goka.Edge
	for _, in := range p.spec.Inputs {
		edges = append(edges, goka.Input(goka.Stream(in.Stream), bytesCodec{}, st.handle))
	}
	for topic := range p.outputs {
		if p.inputs[topic] == nil {
			edges = append(edges, goka.Output(goka.Stream(topic), bytesCodec{}))
		}
	}
	if p.spec.Table != nil {
		edges = append(edges, goka.Persist(bytesCodec{}))
	}
	return goka.DefineGroup(goka.Group(p.spec.Group), edges...)
}

// openTable gives the storage of one partition of the group's table.
func (s *session) openTable(ctx context.Context, partition int32) *states {
	var c *cache
	if !s.p.spec.Uncached {
		c = newCache(&s.p.engine.caches, &s.p.metrics.cache)
	}
	table := newStates(newTableStore(ctx, s.p.table.replica(partition)), c, s.p.spec.Table)
	if s.p.waker != nil {
		table.wakes = newSchedule()
	}
	return table
}

// leave removes a static member from its group. The broker refuses it if
// another process has taken the instance over meanwhile. That it may fail is no
// harm: the member's session then times out.
func (k *kafka) leave(ctx context.Context, group, instance, member string) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.InstanceID, m.MemberID = &instance, member
	req.Members = append(req.Members, m)
	_, _ = req.RequestWith(ctx, k.cl)
}
