// Package app assembles Touchstone and runs it: definitions, connectors,
// codecs, engine, views, door and API become one process with the roles that
// were asked for. It is the only place where the parts meet.
//
// It decides nothing about records; each part does its own.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/door"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/admit"
	"github.com/touchstone-platform/touchstone/processors/inbox"
	"github.com/touchstone-platform/touchstone/processors/merge"
	"github.com/touchstone-platform/touchstone/processors/orchestrate"
	"github.com/touchstone-platform/touchstone/processors/publish"
	"github.com/touchstone-platform/touchstone/processors/resolve"
	"github.com/touchstone-platform/touchstone/processors/track"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views/commands"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

// The roles of a process; the stations' names are roles too. A process with all
// of them is a whole Touchstone.
const (
	// RoleAPI takes deliveries and serves reads: door, views, HTTP.
	RoleAPI = "api"
	// RoleFeeds carries external topics into the journal.
	RoleFeeds = "feeds"
)

// Roles lists all roles.
func Roles() []string {
	return []string{RoleAPI, RoleFeeds, topology.Inbox, topology.Resolve, topology.Merge, topology.Publish, topology.Admit, topology.Orchestrate, topology.Execute, topology.Track}
}

// Options say what to run and where.
type Options struct {
	// Domains to run; see registry.
	Domains []*definition.Domain
	// Secrets resolves the references of the definitions.
	Secrets connectors.Secrets
	// Roles of this process; none means all.
	Roles []string
	// Dir holds the process's files: the stations' state and spooled uploads.
	Dir string
	// Listener of the HTTP API; Run closes it.
	Listener net.Listener
	// Brokers of the Kafka cluster, and options of its clients (TLS, SASL).
	Brokers []string
	Clients []kgo.Opt
	// Registry is the schema registry.
	Registry codecs.RegistryOptions
	// Topology says how topics are made.
	Topology topology.Options
	// CreateExternal also creates the topics that back ends write, where they
	// are missing: for a broker that is ours alone.
	CreateExternal bool
	// Engine tuning; Brokers, Dir, Logger, Metrics and ClientOptions are set here.
	Engine engine.Config
	// Standby keeps the partitions of tables that other processes own warm here:
	// "on", "off", or "auto" (or empty), which is on with RoleAPI.
	Standby string
	// Limits of the API.
	Limits api.Limits
	// OnChange, if set, is told every canonical change as it is committed.
	OnChange func(domain *definition.Domain, c *event.Change)
	// OnReport, if set, is told each step of a command.
	OnReport func(domain *definition.Domain, before, r *saga.Report)
	// OnReady, if set, is told once when everything runs.
	OnReady func()
	Metrics *prometheus.Registry
	Log     *slog.Logger
	Version string
}

func (o *Options) has(role string) bool {
	return len(o.Roles) == 0 || slices.Contains(o.Roles, role)
}

// standby tells whether tables are kept warm.
func (o *Options) standby() bool {
	return o.Standby == "on" || o.Standby != "off" && o.has(RoleAPI)
}

// App is one assembled process.
type App struct {
	opts     Options
	topology *topology.Topology
	intakes  []*door.Intake
	engine   *engine.Engine
	handler  *swapHandler
	starting *starting
	changes  *api.Feed
	door     *door.Door
	reads    map[string]api.Domain
	// appender writes what enters from outside of processors, and executors make
	// calls to back ends.
	appender  *engine.Appender
	executors []executor
	// drained is closed when no request is under way any more.
	drained chan struct{}

	registry *codecs.Registry
	platform *codecs.Platform
	events   map[string]*codecs.EventCodec // by domain
}

// Prepare checks the definitions against their connectors, declares the
// topology and opens local state. It talks to nobody.
func Prepare(o Options) (*App, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	a := &App{opts: o, starting: newStarting(), changes: api.NewFeed(200), reads: map[string]api.Domain{}, drained: make(chan struct{})}
	var err error
	if a.intakes, err = openSources(o.Domains, o.Secrets); err != nil {
		return nil, err
	}
	if a.topology, err = topology.Build(o.Domains, o.Topology, a.follows); err != nil {
		return nil, err
	}
	retries := o.Registry
	retries.OnRetry = func(err error, next time.Duration) {
		a.starting.wait(err.Error())
		o.Log.Warn("waiting for the schema registry", "error", err, "next", next.Round(time.Millisecond))
	}
	if a.registry, err = codecs.NewRegistry(retries); err != nil {
		return nil, err
	}
	cfg := o.Engine
	if cfg.Instance == "" {
		if cfg.Instance, err = instance(o.Dir); err != nil {
			return nil, err
		}
	}
	cfg.Brokers, cfg.Dir, cfg.Logger, cfg.Metrics = o.Brokers, filepath.Join(o.Dir, "state"), o.Log, o.Metrics
	cfg.ClientOptions = append(slices.Clone(cfg.ClientOptions), o.Clients...)
	if a.engine, err = engine.New(cfg); err != nil {
		return nil, err
	}
	if err := clearSpool(filepath.Join(o.Dir, "spool")); err != nil {
		return nil, errors.Join(err, a.engine.Close())
	}
	a.handler = &swapHandler{}
	a.handler.set(a.starting)
	return a, nil
}

// clearSpool removes the copies of uploads that a killed process left behind:
// their senders were not answered and will send them again.
func clearSpool(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "upload-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("clear spool: %w", err)
		}
	}
	return nil
}

// instance gives the name of the process that owns a data directory: it must
// be the same after a restart, and another one in every other directory, also
// on the same host.
func instance(dir string) (string, error) {
	path := filepath.Join(dir, "instance")
	b, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(b)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	name := uuid.NewString()
	if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return name, nil
}

// openSources opens the connector of every source.
func openSources(domains []*definition.Domain, secrets connectors.Secrets) ([]*door.Intake, error) {
	kinds := map[string]connectors.Kind{}
	for _, k := range builtin.Kinds().Sources {
		kinds[k.Name()] = k
	}
	var out []*door.Intake
	var errs []error
	for _, d := range domains {
		for _, s := range d.Sources {
			k, ok := kinds[s.Connector]
			if !ok {
				errs = append(errs, fmt.Errorf("%s: sources.%s.connector: found %q, expected one of the built-in kinds", d.File, s.Name, s.Connector))
				continue
			}
			c, err := k.Open(s, secrets)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: sources.%s: %w", d.File, s.Name, err))
				continue
			}
			out = append(out, &door.Intake{Domain: d, Source: s, Connector: c})
		}
	}
	return out, errors.Join(errs...)
}

// Follower is a connector that reads Kafka topics.
type follower interface{ Topics() []string }

func (a *App) follows(s *definition.Source) []string {
	for _, i := range a.intakes {
		if i.Source == s {
			if f, ok := i.Connector.(follower); ok {
				return f.Topics()
			}
		}
	}
	return nil
}

// Topology gives what was declared.
func (a *App) Topology() *topology.Topology { return a.topology }

// Engine gives the engine, for status and tests.
func (a *App) Engine() *engine.Engine { return a.engine }

// Door gives the door of a process that is ready; nil if its roles need none.
func (a *App) Door() *door.Door { return a.door }

// Reads gives what a process with RoleAPI that is ready serves of a domain.
func (a *App) Reads(domain string) (api.Domain, bool) {
	d, ok := a.reads[domain]
	return d, ok
}

// Run serves probes at once, waits for Kafka and the registry, creates topics,
// registers schemas, and then works until ctx ends. Everything is stopped and
// local state is durable when it returns.
func (a *App) Run(ctx context.Context) (err error) {
	server := a.server()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if a.opts.Listener != nil {
		wg.Go(func() {
			if err := server.Serve(a.opts.Listener); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serve HTTP at %s: %w", a.opts.Listener.Addr(), err))
			}
		})
	}
	wg.Go(func() {
		// Requests end before what they use: those under way still write to the
		// journal. Streams and waits are told to end; who does not is cut off.
		<-ctx.Done()
		stop, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		if server.Shutdown(stop) != nil {
			server.Close()
		}
		close(a.drained)
	})
	defer func() {
		cancel(nil) // a start that failed has set off goroutines that wait for it
		wg.Wait()
		err = errors.Join(err, a.closeExecutors())
		if a.appender != nil {
			a.appender.Close()
		}
		err = errors.Join(err, a.engine.Close())
	}()
	if err := a.start(ctx, &wg, server); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return causeOf(ctx)
		}
		return err
	}
	err = a.engine.Run(ctx)
	cancel(nil)
	return errors.Join(err, causeOf(ctx))
}

// causeOf gives why a context ended, nil if it just ended.
func causeOf(ctx context.Context) error {
	if c := context.Cause(ctx); !errors.Is(c, context.Canceled) {
		return c
	}
	return nil
}

// start brings up everything that the engine's run needs.
func (a *App) start(ctx context.Context, wg *sync.WaitGroup, server *http.Server) error {
	a.starting.wait("Kafka at " + strings.Join(a.opts.Brokers, ", "))
	if err := a.engine.WaitReady(ctx, func(err error, next time.Duration) { a.starting.wait(err.Error()) }); err != nil {
		return err
	}
	a.starting.wait("the topics to be created")
	if err := a.engine.EnsureTopics(ctx, a.topicSpecs()); err != nil {
		return err
	}
	a.starting.wait("the schema registry at " + a.registry.URL())
	if err := a.registerSchemas(ctx); err != nil {
		return err
	}
	if err := a.openDoor(ctx, wg); err != nil {
		return err
	}
	if err := a.addStations(ctx); err != nil {
		return err
	}
	if a.opts.has(topology.Execute) {
		if err := a.addExecutors(); err != nil {
			return err
		}
		for _, d := range a.opts.Domains {
			if len(d.Commands()) > 0 {
				if err := a.addSwitches(ctx, wg, d); err != nil {
					return err
				}
			}
		}
	}
	if a.opts.has(RoleAPI) || a.opts.has(RoleFeeds) {
		if a.opts.has(RoleFeeds) {
			if err := a.addFeeds(a.door); err != nil {
				return err
			}
		}
		if a.opts.has(RoleAPI) {
			var err error
			pprof.Do(ctx, pprof.Labels("part", "api"), func(ctx context.Context) { err = a.addAPI(ctx, wg, a.door, server) })
			if err != nil {
				return err
			}
		}
	}
	if !a.opts.has(RoleAPI) {
		a.starting.done(a.engine.Ready)
	}
	if a.opts.OnReady != nil {
		wg.Go(func() { a.awaitReady(ctx) })
	}
	return nil
}

// awaitReady tells once that everything runs.
func (a *App) awaitReady(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for a.engine.Ready() != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	a.opts.OnReady()
}

// topicSpecs are the topics to create.
func (a *App) topicSpecs() []engine.TopicSpec {
	var out []engine.TopicSpec
	for _, t := range a.topology.Topics {
		spec := engine.TopicSpec{Name: t.Name, Partitions: int32(t.Partitions), Replication: int16(max(t.Replication, 0)), Configs: t.Configs()}
		if t.Kind == topology.External {
			if !a.opts.CreateExternal {
				continue
			}
			spec.Partitions, spec.Configs = -1, nil
		}
		out = append(out, spec)
	}
	return out
}

// noSchema are the records that have no schema of the platform's.
var noSchema = []topology.Record{topology.PublicEvent, topology.Foreign, topology.ControlEntry}

func (a *App) registerSchemas(ctx context.Context) error {
	var bindings []codecs.Binding
	for _, t := range a.topology.Topics {
		if t.Kind != topology.External && !slices.Contains(noSchema, t.Record) {
			bindings = append(bindings, codecs.Binding{Topic: t.Name, Record: codecs.Record(t.Record)})
		}
	}
	var err error
	if a.platform, err = codecs.OpenPlatform(ctx, a.registry, bindings); err != nil {
		return err
	}
	a.events = map[string]*codecs.EventCodec{}
	for _, d := range a.opts.Domains {
		if a.events[d.Name], err = codecs.OpenEvents(ctx, a.registry, d); err != nil {
			return err
		}
	}
	return nil
}

// addStations declares the processors of this process's roles for every
// domain, as the topology has them.
func (a *App) addStations(ctx context.Context) error {
	for _, d := range a.opts.Domains {
		stations := map[string]processors.Station{
			topology.Inbox:   inbox.New(d, a.connectorsOf(d)),
			topology.Resolve: resolve.New(d),
			topology.Merge:   merge.New(d),
			topology.Publish: publish.New(d, a.events[d.Name]),
			topology.Admit:   admit.New(d, topology.Parents(d, a.opts.Domains)...),
			topology.Track:   track.New(d.Name, a.opts.Topology.CommandRetention),
		}
		if len(d.Commands()) > 0 && (a.opts.has(topology.Admit) || a.opts.has(topology.Orchestrate)) {
			if err := a.tellPlans(ctx, d); err != nil {
				return err
			}
		}
		if len(d.Commands()) > 0 && a.opts.has(topology.Orchestrate) {
			plans, err := a.openPlans(d)
			if err != nil {
				return err
			}
			stations[topology.Orchestrate] = orchestrate.New(d, plans, topology.Children(d, a.opts.Domains), topology.Parents(d, a.opts.Domains))
		}
		for _, g := range a.topology.Groups {
			if g.Domain != d.Name || !a.opts.has(g.Station) {
				continue
			}
			spec, err := a.processor(d, g, stations[g.Station])
			if err != nil {
				return err
			}
			if err := a.engine.AddProcessor(spec); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *App) processor(d *definition.Domain, g topology.Group, s processors.Station) (engine.Processor, error) {
	spec := engine.Processor{Group: g.Name, Name: g.Station, Station: s, DeadLetters: g.DeadLetters, Control: g.Control}
	edges := func(topics []string) (out []engine.Edge, err error) {
		for _, t := range topics {
			c, err := a.codec(d, t)
			if err != nil {
				return nil, err
			}
			out = append(out, engine.Edge{Stream: t, Codec: c})
		}
		return out, nil
	}
	var err error
	if spec.Inputs, err = edges(g.Inputs); err != nil {
		return spec, err
	}
	if spec.Outputs, err = edges(g.Outputs); err != nil {
		return spec, err
	}
	if g.Table == "" {
		return spec, nil
	}
	if spec.Table, err = a.codec(d, g.Table); err != nil {
		return spec, err
	}
	spec.Standby = a.opts.standby()
	switch t, _ := a.topology.Topic(g.Table); t.Record {
	case topology.Seen:
		spec.Uncached = true // most deliveries come once
		spec.Standby = false
		spec.Retention = &engine.Retention{Window: t.Retention, Since: func(v any) envelope.Instant { return v.(*journal.Seen).At }}
	case topology.Admission:
		spec.Uncached = true // and so do most commands
		spec.Standby = false
		spec.Retention = &engine.Retention{Window: t.Retention, Since: func(v any) envelope.Instant { return v.(*command.Admission).At }}
	}
	return spec, nil
}

// codec gives the codec of a topic.
func (a *App) codec(d *definition.Domain, topic string) (engine.Codec, error) {
	if topic == topology.Events(d.Name) {
		return a.events[d.Name], nil
	}
	return a.platform.Codec(topic)
}

// definition finds a loaded domain.
func (a *App) definition(name string) (*definition.Domain, bool) {
	i := slices.IndexFunc(a.opts.Domains, func(d *definition.Domain) bool { return d.Name == name })
	if i < 0 {
		return nil, false
	}
	return a.opts.Domains[i], true
}

func (a *App) connectorsOf(d *definition.Domain) map[string]connectors.Connector {
	out := map[string]connectors.Connector{}
	for _, i := range a.intakes {
		if i.Domain == d {
			out[i.Source.Name] = i.Connector
		}
	}
	return out
}

// openDoor opens the door of all domains.
func (a *App) openDoor(ctx context.Context, wg *sync.WaitGroup) (err error) {
	entries := map[string]door.Encoder{}
	for _, d := range a.opts.Domains {
		if entries[d.Name], err = a.platform.Codec(topology.Journal(d.Name)); err != nil {
			return err
		}
	}
	pprof.Do(ctx, pprof.Labels("part", "door"), func(context.Context) { a.appender, err = a.engine.NewAppender() })
	if err != nil {
		return err
	}
	a.door = door.New(a.intakes, journalWriter{a.appender}, entries, a.opts.Log)
	return nil
}

// journalWriter is the engine's appender as the door wants it.
type journalWriter struct{ a *engine.Appender }

func (w journalWriter) AppendAsync(ctx context.Context, topic, key, order string, value []byte, done func(int32, int64, error)) {
	w.a.AppendOrdered(ctx, topic, key, order, value, nil, done)
}

// addFeeds declares the feeds of the sources that follow topics.
func (a *App) addFeeds(d *door.Door) error {
	for _, f := range a.topology.Feeds {
		i, err := d.Intake(f.Domain, f.Source)
		if err != nil {
			return err
		}
		err = a.engine.AddFeed(engine.Feed{Group: f.Name, Topics: f.Topics, Take: func(ctx context.Context, rs []engine.Record) error {
			return d.Records(ctx, i, records(rs))
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func records(rs []engine.Record) []door.StreamRecord {
	out := make([]door.StreamRecord, len(rs))
	for n, r := range rs {
		headers := make(map[string]string, len(r.Headers))
		for k, v := range r.Headers {
			headers[strings.ToLower(k)] = string(v)
		}
		origin := func() string { return fmt.Sprintf("%s/%d offset %d", r.Topic, r.Partition, r.Offset) }
		out[n] = door.StreamRecord{Origin: origin, Key: r.Key, Value: r.Value, Tombstone: r.Value == nil, Headers: headers}
	}
	return out
}

// addAPI declares the views and puts the API in place of the probes.
func (a *App) addAPI(ctx context.Context, wg *sync.WaitGroup, d *door.Door, server *http.Server) error {
	var domains []api.Domain
	for _, def := range a.opts.Domains {
		dom, err := a.addViews(def)
		if err != nil {
			return err
		}
		domains = append(domains, dom)
		a.reads[def.Name] = dom
		wg.Go(func() { a.watchChanges(ctx, def) })
		if a.opts.OnReport != nil && len(def.Commands()) > 0 {
			wg.Go(func() { a.watchReports(ctx, def) })
		}
	}
	var sources []api.Source
	for _, i := range a.intakes {
		sources = append(sources, a.source(i))
	}
	slices.SortFunc(sources, func(x, y api.Source) int {
		return cmp.Or(cmp.Compare(x.Domain, y.Domain), cmp.Compare(x.Name, y.Name))
	})
	streams, err := a.openStreams(ctx, wg)
	if err != nil {
		return err
	}
	fix, err := newRepairs(ctx, wg, a)
	if err != nil {
		return err
	}
	handler, err := api.New(api.Config{
		Domains: domains, Sources: sources, Intake: intake{a},
		Door: &doorway{door: d, spool: filepath.Join(a.opts.Dir, "spool")}, Journal: journalReader{a}, Events: streams, Repairs: fix,
		Topology: a.topology, Changes: a.changes, Stats: a.stats, Missing: a.missing,
		Metrics:    promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}),
		Registerer: a.opts.Metrics, Log: a.opts.Log, Limits: a.opts.Limits, Version: a.opts.Version,
	})
	if err != nil {
		return err
	}
	// Open streams and waits would keep a graceful shutdown waiting in vain.
	server.RegisterOnShutdown(handler.Close)
	a.handler.set(handler)
	return nil
}

// addViews declares the views of a domain, one of which is an index over the
// merge table, and gives their readers.
func (a *App) addViews(d *definition.Domain) (api.Domain, error) {
	out := api.Domain{Definition: d}
	entityCodec, err := a.platform.Codec(topology.TableName(d.Name, topology.Merge))
	if err != nil {
		return out, err
	}
	changeCodec, err := a.platform.Codec(topology.Changes(d.Name))
	if err != nil {
		return out, err
	}
	outcomeCodec, err := a.platform.Codec(topology.Outcomes(d.Name))
	if err != nil {
		return out, err
	}
	ev := entities.New(d, decoder[*canonical.Entity](entityCodec))
	hv := history.New(d.Name, decoder[*event.Change](changeCodec))
	ov := outcomes.New(d.Name, decoder[*journal.Outcome](outcomeCodec))
	er, err := a.engine.AddIndex(ev)
	if err != nil {
		return out, err
	}
	hr, err := a.engine.AddView(hv)
	if err != nil {
		return out, err
	}
	or, err := a.engine.AddView(ov)
	if err != nil {
		return out, err
	}
	out.Entities, out.History, out.Outcomes = ev.Reader(er), hv.Reader(hr), ov.Reader(or)
	if len(d.Commands()) == 0 {
		return out, nil
	}
	progressCodec, err := a.platform.Codec(topology.TableName(d.Name, topology.Track))
	if err != nil {
		return out, err
	}
	cv := commands.New(d.Name, decoder[*run.Progress](progressCodec))
	cr, err := a.engine.AddIndex(cv)
	if err != nil {
		return out, err
	}
	out.Commands = cv.Reader(cr)
	return out, nil
}

// decoder gives a typed decode function of a codec.
func decoder[T any](c codecs.Codec) func([]byte) (T, error) {
	return func(b []byte) (T, error) {
		v, err := c.Decode(b)
		if err != nil {
			var zero T
			return zero, err
		}
		t, ok := v.(T)
		if !ok {
			return t, fmt.Errorf("decoded %T", v)
		}
		return t, nil
	}
}

func (a *App) source(i *door.Intake) api.Source {
	_, deliveries := i.Connector.(connectors.Receiver)
	return api.Source{
		Domain: i.Domain.Name, Name: i.Source.Name, Doc: i.Source.Doc, Connector: i.Source.Connector,
		Deliveries: deliveries, Files: door.TakesFiles(i.Connector), Topics: a.follows(i.Source),
	}
}
