package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/processors/execute"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/registry/expression"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// planBook knows the plans of commands: those of the definitions that are loaded,
// and, from the plans topic, every other that a saga may have begun under.
type planBook struct {
	mu     sync.Mutex
	known  map[string]*definition.Command // by fingerprint
	reader views.Reader
}

// planView keeps the plans of a domain by their fingerprints.
type planView struct{ domain string }

func (v planView) Name() string  { return v.domain + ".plans" }
func (v planView) Topic() string { return topology.Plans(v.domain) }

// Apply keeps the plan as it came.
func (v planView) Apply(s views.Store, r views.Record) error {
	if r.Value == nil {
		return s.Delete(r.Key)
	}
	return s.Set(r.Key, r.Value)
}

// planPatience is how long a station waits for a plan that another process has
// told of: whoever admits commands by a plan has written it before.
const planPatience = 30 * time.Second

// plan finds a plan; it is a saga.Plans.
func (b *planBook) plan(decode func([]byte) (*saga.Plan, error), name, fingerprint string) (*definition.Command, bool) {
	b.mu.Lock()
	c, ok := b.known[fingerprint]
	b.mu.Unlock()
	if ok {
		return c, c.Name == name
	}
	for end := time.Now().Add(planPatience); ; {
		changed := b.reader.Changed()
		if text, err := b.reader.Get(fingerprint, fingerprint); err == nil && text != nil {
			p, err := decode(text)
			if err != nil {
				return nil, false
			}
			if c, err = registry.ParsePlan(p.Text); err != nil {
				return nil, false
			}
			b.mu.Lock()
			b.known[fingerprint] = c
			b.mu.Unlock()
			return c, c.Name == name
		}
		left := time.Until(end)
		if left <= 0 {
			return nil, false
		}
		select {
		case <-changed:
		case <-time.After(left):
		}
	}
}

// tellPlans tells the other processes of the plans of a domain, before this one
// admits anything by them.
func (a *App) tellPlans(ctx context.Context, d *definition.Domain) error {
	codec, err := a.platform.Codec(topology.Plans(d.Name))
	if err != nil {
		return err
	}
	for _, c := range d.Commands() {
		value, err := codec.Encode(&saga.Plan{Command: c.Name, Fingerprint: c.Fingerprint, Text: c.Text})
		if err != nil {
			return err
		}
		if _, _, err := a.appender.Append(ctx, topology.Plans(d.Name), c.Fingerprint, value, nil); err != nil {
			return fmt.Errorf("tell of the plan of %s: %w", c.Name, err)
		}
	}
	return nil
}

// openPlans gives what finds the plans of a domain: those that are loaded, and
// those that others have told of.
func (a *App) openPlans(d *definition.Domain) (saga.Plans, error) {
	codec, err := a.platform.Codec(topology.Plans(d.Name))
	if err != nil {
		return nil, err
	}
	b := &planBook{known: map[string]*definition.Command{}}
	for _, c := range d.Commands() {
		b.known[c.Fingerprint] = c
	}
	if b.reader, err = a.engine.AddView(planView{d.Name}); err != nil {
		return nil, err
	}
	decode := decoder[*saga.Plan](codec)
	return func(name, fingerprint string) (*definition.Command, bool) { return b.plan(decode, name, fingerprint) }, nil
}

// executor is what calls one connection in this process.
type executor struct {
	domain string
	*execute.Executor
}

// addExecutors opens the back ends of all connections and has them called.
func (a *App) addExecutors() error {
	for _, x := range a.topology.Executors {
		d, _ := a.definition(x.Domain)
		c, _ := d.Connection(x.Connection)
		if err := a.addExecutor(d, c, x); err != nil {
			return fmt.Errorf("%s: connections.%s: %w", d.File, c.Name, err)
		}
	}
	if len(a.executors) == 0 {
		return nil
	}
	return a.opts.Metrics.Register(callMetrics{a})
}

func openBackend(c *definition.Connection, secrets connectors.Secrets) (connectors.Backend, error) {
	kinds := builtin.Kinds().Backends
	i := slices.IndexFunc(kinds, func(k connectors.BackendKind) bool { return k.Name() == c.Connector })
	if i < 0 {
		return nil, fmt.Errorf("connector: found %q, expected one of the built-in kinds", c.Connector)
	}
	return kinds[i].Connect(c, connectors.Options{Secrets: secrets, Compile: expression.Compile})
}

// callsUnderWay are the most requests of one connection that a process has read
// and not dealt with.
const callsUnderWay = 20_000

func (a *App) addExecutor(d *definition.Domain, c *definition.Connection, t topology.Executor) error {
	requests, err := a.platform.Codec(t.Calls)
	if err != nil {
		return err
	}
	answers, err := a.platform.Codec(t.Answers)
	if err != nil {
		return err
	}
	attempts, err := a.platform.Codec(t.Attempts)
	if err != nil {
		return err
	}
	backend, err := openBackend(c, a.opts.Secrets)
	if err != nil {
		return err
	}
	log := a.opts.Log.With("connection", d.Name+"."+c.Name)
	write := func(topic, key string, codec codecs.Codec, v any, done func(error)) {
		value, err := codec.Encode(v)
		if err != nil {
			done(err)
			return
		}
		a.appender.AppendAsync(context.Background(), topic, key, value, nil, func(_ int32, _ int64, err error) { done(err) })
	}
	out := execute.Outside{
		Answer: func(key string, v *saga.Answer, done func(error)) { write(t.Answers, key, answers, v, done) },
		Tell:   func(v *run.Attempt, done func(error)) { write(t.Attempts, v.Saga, attempts, v, done) },
		Gone:   engine.ErrLeaving, Log: log,
	}
	if t.Journal != "" {
		intake, err := a.door.Intake(d.Name, c.Source)
		if err != nil {
			return err
		}
		out.Journal = func(ctx context.Context, call *execute.Call, body canonical.Value) (string, error) {
			return a.journalAnswer(ctx, d, call, body, func(tenant string, entry *journal.Entry) (journal.ID, error) {
				return a.door.Take(ctx, intake, tenant, entry, call.Request.Cause)
			})
		}
	}
	scope := d.Name + "." + c.Name
	answer := out.Answer
	out.Answer = func(key string, v *saga.Answer, done func(error)) {
		answer(key, v, func(err error) {
			if err == nil && !v.Held {
				_ = failpoint.Reach(failpoint.ExecuteAnswered, scope) // it gives no error
			}
			done(err)
		})
	}
	x := execute.New(c, faultyBackend{backend, scope}, out)
	a.executors = append(a.executors, executor{d.Name, x})
	return a.engine.AddOutlet(engine.Outlet{Group: t.Name, Topic: t.Calls, Most: callsUnderWay, Share: x.Share, Take: func(del *engine.Delivery) {
		v, err := requests.Decode(del.Value)
		r, ok := v.(*saga.Request)
		if err != nil || !ok {
			// Only a station writes to the topic; who else does is not answered.
			log.Error("request cannot be read and is left out", "topic", del.Topic, "partition", del.Partition, "offset", del.Offset, "error", err)
			del.Done(false)
			return
		}
		x.Take(&execute.Call{
			Request: r, Key: string(del.Key), Where: fmt.Sprintf("%s/%d/%d", del.Topic, del.Partition, del.Offset), At: del.Time, Begun: del.Begun, Ticket: del,
		})
	}})
}

// faultyBackend fails where a test wants it to.
type faultyBackend struct {
	connectors.Backend
	scope string
}

func (b faultyBackend) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	if err := failpoint.Reach(failpoint.ExecuteCall, b.scope); err != nil {
		return connectors.Reply{}, err
	}
	r, err := b.Backend.Call(ctx, c)
	if f := failpoint.Reach(failpoint.ExecuteCalled, b.scope); f != nil {
		return connectors.Reply{}, &connectors.CallError{Err: f, Uncertain: true}
	}
	return r, err
}

// journalAnswer puts what a back end answered into the journal, as a delivery of
// its source. The same answer to the same attempt is the same delivery.
func (a *App) journalAnswer(_ context.Context, d *definition.Domain, call *execute.Call, body canonical.Value, take func(string, *journal.Entry) (journal.ID, error)) (string, error) {
	key, err := canonical.ParseEntityKey(call.Key)
	if err != nil {
		return "", failure.Wrap(failure.Poison, "journal an answer", call.Where, err)
	}
	h := fnv.New64a()
	h.Write([]byte(body))
	r := call.Request
	id, err := take(key.Tenant, &journal.Entry{
		ContentType: "application/json", Headers: map[string]string{}, Body: []byte(body),
		VendorID: fmt.Sprintf("%s/%d/%s", r.Key, r.Attempt, hex.EncodeToString(h.Sum(nil))),
	})
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// switchView follows which connections of a domain are paused, and has the
// executors of this process do so.
type switchView struct {
	domain string
	decode func([]byte) (*run.Switch, error)
	turn   func(*run.Switch)
}

func (v switchView) Name() string  { return v.domain + ".switches" }
func (v switchView) Topic() string { return topology.Switches(v.domain) }

// Apply keeps a switch, and turns it.
func (v switchView) Apply(s views.Store, r views.Record) error {
	if r.Value == nil {
		return s.Delete(r.Key)
	}
	x, err := v.decode(r.Value)
	if err != nil {
		return err
	}
	v.turn(x)
	return s.Set(r.Key, r.Value)
}

// addSwitches has the connections of a domain paused and resumed as people want.
// What the view has kept is turned when it has caught up.
func (a *App) addSwitches(ctx context.Context, wg *sync.WaitGroup, d *definition.Domain) error {
	codec, err := a.platform.Codec(topology.Switches(d.Name))
	if err != nil {
		return err
	}
	decode := decoder[*run.Switch](codec)
	turn := func(s *run.Switch) {
		for _, x := range a.executors {
			if x.domain != d.Name || x.Stats().Connection != s.Connection {
				continue
			}
			if s.Paused {
				x.Pause()
			} else {
				x.Resume(s.Rate)
			}
		}
	}
	reader, err := a.engine.AddView(switchView{d.Name, decode, turn})
	if err != nil {
		return err
	}
	wg.Go(func() {
		for !reader.Ready() {
			changed := reader.Changed()
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-time.After(50 * time.Millisecond):
			}
		}
		for _, c := range d.Connections {
			s := &run.Switch{Connection: c.Name}
			if b, err := reader.Get(c.Name, c.Name); err == nil && b != nil {
				if kept, err := decode(b); err == nil {
					s.Paused = kept.Paused
				}
			}
			turn(s)
		}
	})
	return nil
}

// intake takes commands from the API.
type intake struct{ a *App }

var _ api.Intake = intake{}

func (i intake) append(ctx context.Context, topic, key string, v any) error {
	codec, err := i.a.platform.Codec(topic)
	if err != nil {
		return err
	}
	value, err := codec.Encode(v)
	if err != nil {
		return err
	}
	if _, _, err := i.a.appender.Append(ctx, topic, key, value, nil); err != nil {
		return failure.Wrap(failure.Transient, "write to", topic, err)
	}
	return nil
}

// Send is part of api.Intake.
func (i intake) Send(ctx context.Context, domain string, c *command.Command) error {
	return i.append(ctx, topology.Commands(domain), c.ID(), c)
}

// Order is part of api.Intake.
func (i intake) Order(ctx context.Context, domain, key string, o *saga.Order) error {
	return i.append(ctx, topology.Orders(domain), key, o)
}

// Switch is part of api.Intake.
func (i intake) Switch(ctx context.Context, domain string, s *run.Switch) error {
	return i.append(ctx, topology.Switches(domain), s.Connection, s)
}

// Connections is part of api.Intake.
func (i intake) Connections(domain string) []api.Connection {
	d, ok := i.a.definition(domain)
	if !ok {
		return nil
	}
	var out []api.Connection
	for _, c := range d.Connections {
		x := api.Connection{Name: c.Name, Doc: c.Doc, Connector: c.Connector, Source: c.Source, State: "active"}
		for _, op := range c.Operations {
			x.Operations = append(x.Operations, op.Name)
		}
		for _, e := range i.a.executors {
			if s := e.Stats(); e.domain == domain && s.Connection == c.Name {
				x.State, x.Here, x.Queued, x.Running, x.Calls, x.Failures, x.LastFailure = s.State, true, s.Queued, s.Running, s.Calls, s.Failures, s.LastFailure
			}
		}
		out = append(out, x)
	}
	return out
}

// watched are the most commands that are watched at a time.
const watched = 1000

// watchReports tells each step of a domain's commands from now on.
func (a *App) watchReports(ctx context.Context, d *definition.Domain) {
	c, err := a.platform.Codec(topology.Reports(d.Name))
	if err != nil {
		a.opts.Log.Error("commands cannot be watched", "domain", d.Name, "error", err)
		return
	}
	decode := decoder[*saga.Report](c)
	last := map[string]*saga.Report{}
	for ctx.Err() == nil {
		err := a.engine.Tail(ctx, topology.Reports(d.Name), engine.End(), func(rec engine.Record) error {
			r, err := decode(rec.Value)
			if err != nil {
				return nil // the station behind it tells
			}
			a.opts.OnReport(d, last[r.Saga.ID], r)
			if len(last) > watched {
				clear(last) // a little less is told of those that go on
			}
			if last[r.Saga.ID] = r; r.Saga.Status.Final() {
				delete(last, r.Saga.ID)
			}
			return nil
		})
		if ctx.Err() == nil {
			a.opts.Log.Warn("commands are watched again", "domain", d.Name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// closeExecutors waits for the calls under way.
func (a *App) closeExecutors() error {
	var errs []error
	for _, x := range a.executors {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}
