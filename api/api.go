// Package api is Touchstone over HTTP: the door for deliveries, reads of what
// became of them, canonical entities with their history, the stream of domain
// events, the OpenAPI document of all this, and the console page.
//
// It decides nothing about truth and does not touch Kafka: what it needs is
// declared here as small interfaces, which the assembly satisfies. It does not
// authenticate readers yet; Config.Tenant is where that belongs.
package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

// Domain is one domain with its read models.
type Domain struct {
	Definition *definition.Domain
	Entities   Entities
	History    History
	Outcomes   Outcomes
	// Commands is nil if the domain declares none.
	Commands Commands
}

// Entities reads canonical entities; *entities.Reader is one.
type Entities interface {
	// Get gives nil if the entity was never there.
	Get(tenant, resource, id string) (*canonical.Entity, error)
	List(entities.Query) (entities.Page, error)
	// Changed gives a channel that is closed at the next update.
	Changed() <-chan struct{}
	// Lag of one entity, or of all without an id.
	Lag(tenant, resource, id string) views.Lag
}

// History reads changes; *history.Reader is one.
type History interface {
	// Get gives nil if the change is not known.
	Get(key canonical.EntityKey, version int64) (*event.Change, error)
	List(history.Query) (history.Page, error)
	Trace(id string, limit int) ([]*event.Change, error)
	Lag(key canonical.EntityKey) views.Lag
}

// Outcomes reads what became of deliveries; *outcomes.Reader is one.
type Outcomes interface {
	// Status has ok false while nothing is known of the entry.
	Status(journalID string) (s outcomes.Status, ok bool, err error)
	ByCorrelation(correlation string, limit int) (journalIDs []string, err error)
	Changed() <-chan struct{}
	Lag(journalID string) views.Lag
}

// Source is one declared source and how deliveries of it may come in.
type Source struct {
	Domain    string `json:"domain"`
	Name      string `json:"name"`
	Doc       string `json:"doc,omitempty"`
	Connector string `json:"connector"`
	// Deliveries are taken over HTTP, Files as uploads, and Topics are what
	// the source is read from.
	Deliveries bool     `json:"deliveries"`
	Files      bool     `json:"files"`
	Topics     []string `json:"topics,omitempty"`
}

// Delivery is one request to the door.
type Delivery struct {
	connectors.Delivery
	Domain, Source, Tenant string
	// Cause has what the sender gave: its correlation id may be empty (the
	// journal id then takes its place), its trace context is never empty.
	Cause envelope.Cause
}

// Upload is one file sent to the door. Body is read once, to its end or the
// first error.
type Upload struct {
	Domain, Source, Tenant string
	// Name of the file as its sender knows it.
	Name        string
	ContentType string
	Body        io.Reader
	// Rows and SHA256 (lower-case hexadecimal) are the sender's control
	// totals; negative and empty if it gave none.
	Rows   int64
	SHA256 string
	// Sums are the sender's control totals per column, exact decimals.
	Sums  map[string]string
	Cause envelope.Cause
}

// UploadProgress is how far an upload has come.
type UploadProgress struct {
	// Bytes received, rows seen, rows journaled, rows journaled as bad.
	Bytes       int64 `json:"bytes"`
	Rows        int64 `json:"rows"`
	Journaled   int64 `json:"journaled"`
	Quarantined int64 `json:"quarantined"`
}

// UploadReport is what became of an upload at the door. What became of its
// rows is told by their deliveries.
type UploadReport struct {
	Source string `json:"source"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	UploadProgress
	// Refused says why no row was taken: a control total that does not match,
	// a structure that is not the agreed one, too many bad rows. Empty if fine.
	Refused string `json:"refused,omitempty"`
	// Sums of the source's control columns, exact decimals.
	Sums map[string]string `json:"sums,omitempty"`
	// Errors of bad rows, the first ones only; Quarantined counts all.
	Errors []RowError `json:"errors"`
	// First and Last are the journal ids of the first and last row taken.
	First string `json:"first,omitempty"`
	Last  string `json:"last,omitempty"`
	// Correlation id that all rows of the upload share.
	Correlation string `json:"correlation,omitempty"`
}

// RowError says what is wrong with one row; Row is as in the file, the header
// of a CSV file being row 1, and 0 speaks of the whole file.
type RowError struct {
	Row    int64  `json:"row"`
	Column string `json:"column,omitempty"`
	Reason string `json:"reason"`
}

// Door takes deliveries in. Its errors are failures: Auth for a wrong
// signature, Validation for what cannot be taken, Transient while the journal
// cannot be written.
type Door interface {
	// Accept verifies a delivery and writes it to the journal; when it
	// returns without error the entry is durable.
	Accept(ctx context.Context, d Delivery) (journal.ID, error)
	// AcceptFile takes a file in row by row, calling progress now and then
	// from its own goroutine. A refused file is a report, not an error.
	AcceptFile(ctx context.Context, u Upload, progress func(UploadProgress)) (UploadReport, error)
}

// Journal reads raw entries by position.
type Journal interface {
	// Entry gives a failure of kind NotFound if the position holds none.
	Entry(ctx context.Context, id journal.ID) (*journal.Entry, error)
}

// StreamEvent is one public domain event in the stream.
type StreamEvent struct {
	// Position is a token for the place behind this event in the stream of all
	// domains; opaque, without line breaks.
	Position string
	// Type, Domain, Resource and ID are what the stream is filtered by.
	Type, Domain, Resource, ID string
	// CloudEvent is the event in CloudEvents 1.0 structured JSON, its data decoded.
	CloudEvent []byte
}

// Events gives the stream of public events.
type Events interface {
	// Subscribe begins behind a position, or now if it is empty. A position
	// that is none is a failure of kind Validation.
	Subscribe(ctx context.Context, after string) (EventSubscription, error)
}

// EventSubscription is one reader's place in the stream.
type EventSubscription interface {
	// Next waits for the next event, or the end of ctx.
	Next(ctx context.Context) (StreamEvent, error)
	Close()
}

// Stats are counters for the topology's picture, by name as in the topology.
type Stats struct {
	Topics  map[string]TopicStats  `json:"topics"`
	Groups  map[string]GroupStats  `json:"groups"`
	Tables  map[string]TableStats  `json:"tables"` // by changelog topic
	Views   map[string]ViewStats   `json:"views"`
	Sources map[string]SourceStats `json:"sources"` // by "<domain>.<source>"
}

// TopicStats counts the records that this process wrote to a topic since it
// started.
type TopicStats struct {
	Records int64 `json:"records"`
}

// GroupStats counts what a station has done since it started.
type GroupStats struct {
	In          int64 `json:"in"`
	Out         int64 `json:"out"`
	DeadLetters int64 `json:"deadLetters"`
	Lag         int64 `json:"lag"`
	Running     bool  `json:"running"`
}

// TableStats tells of the partitions of a table that this process has.
type TableStats struct {
	// Standby: those that other processes own are kept warm.
	Standby    bool             `json:"standby"`
	Partitions []TablePartition `json:"partitions"`
}

// TablePartition is one partition of a table.
type TablePartition struct {
	Partition int32 `json:"partition"`
	// State is "owned", "following", "restoring" or "idle".
	State string `json:"state"`
	// Position is the offset behind what is in local state, End that behind what
	// is committed; -1 if it is not known.
	Position int64 `json:"position"`
	End      int64 `json:"end"`
	Lag      Lag   `json:"lag"`
	// Restore tells how far a restoration has come; absent if none is under way.
	Restore *RestoreStats `json:"restore,omitempty"`
}

// Lag is how far something is behind what is committed: the places of the log
// that are missing at most, and how many seconds ago none was.
type Lag struct {
	Records int64   `json:"records"`
	Seconds float64 `json:"seconds"`
}

// LagOf gives a lag as it is served.
func LagOf(l views.Lag) Lag { return Lag{l.Records, l.Age.Round(time.Millisecond).Seconds()} }

// RestoreStats tells how far a restoration has come. Seconds have passed;
// SecondsLeft is an estimate, 0 if there is none yet.
type RestoreStats struct {
	Records     int64   `json:"records"`
	Bytes       int64   `json:"bytes"`
	Percent     float64 `json:"percent"`
	Seconds     float64 `json:"seconds"`
	SecondsLeft float64 `json:"secondsLeft"`
}

// ViewStats tells how far a view is behind: Lag is in places of its log.
type ViewStats struct {
	Lag        int64   `json:"lag"`
	LagSeconds float64 `json:"lagSeconds"`
	Ready      bool    `json:"ready"`
}

// SourceStats counts deliveries since the start.
type SourceStats struct {
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
}

// Limits protect the process from what comes in. Zero values are replaced by
// those of DefaultLimits.
type Limits struct {
	// Body of a delivery in bytes, both as sent and decompressed.
	Body int64
	// Upload in bytes, both as sent and decompressed.
	Upload int64
	// Depth of nested JSON arrays and objects in a delivery.
	Depth int
	// Wait is the longest that a client may ask to wait.
	Wait time.Duration
	// ReadBody is how long a delivery's body, or the next piece of an upload,
	// may take to arrive; Write how long an answer may take to be read.
	ReadBody, Write time.Duration
	// Heartbeat of event streams; SlowClient is how long a stream's full
	// buffer is tolerated.
	Heartbeat, SlowClient time.Duration
	// Buffer is the number of events kept for a stream's client.
	Buffer int
}

// DefaultLimits suit webhooks and interactive reads.
func DefaultLimits() Limits {
	return Limits{
		Body: 900_000, Upload: 1 << 30, Depth: 64, Wait: 30 * time.Second,
		ReadBody: 30 * time.Second, Write: 60 * time.Second,
		Heartbeat: 15 * time.Second, SlowClient: 10 * time.Second, Buffer: 256,
	}
}

func (l Limits) orDefaults() Limits {
	d := DefaultLimits()
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	wait := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Body, d.Body)
	set(&l.Upload, d.Upload)
	wait(&l.Wait, d.Wait)
	wait(&l.ReadBody, d.ReadBody)
	wait(&l.Write, d.Write)
	wait(&l.Heartbeat, d.Heartbeat)
	wait(&l.SlowClient, d.SlowClient)
	if l.Depth == 0 {
		l.Depth = d.Depth
	}
	if l.Buffer == 0 {
		l.Buffer = d.Buffer
	}
	return l
}

// Config is what the API is made of.
type Config struct {
	Domains []Domain
	// Sources of all domains. A source is addressed by its name, or by
	// "<domain>.<name>" where two domains have one of that name.
	Sources []Source
	Door    Door
	Journal Journal
	Events  Events
	// Intake takes commands; nil takes none.
	Intake Intake
	// Repairs serves replays, rebuilds and dead letters; nil serves none.
	Repairs  Repairs
	Topology *topology.Topology
	// Changes feeds the console with canonical changes; see NewFeed.
	Changes *Feed
	// Stats gives the counters of the moment; nil gives none.
	Stats func() Stats
	// Missing lists in words what the process still waits for; none means it
	// is ready.
	Missing func() []string
	// Metrics serves /metrics.
	Metrics http.Handler
	// Registerer takes the metrics of requests; nil leaves them unregistered.
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Limits     Limits
	// Tenant of a request; nil means that all belong to the default tenant.
	Tenant func(*http.Request) (string, error)
	// Principal names who sends a request, as far as is known; nil means that
	// nobody is known.
	Principal func(*http.Request) string
	// Now is the clock by which signatures are verified; nil means time.Now.
	Now func() time.Time
	// Version of the program, for the OpenAPI document and the console.
	Version string
}

// API serves a configuration.
type API struct {
	Config
	domains map[string]*Domain
	routes  []route
	router  http.Handler
	walk    func() []string
	openapi []byte
	pages   *console
	seconds *prometheus.HistogramVec
	// closing ends streams and waits when the server shuts down.
	closing context.Context
	close   context.CancelFunc
}

// reserved are first path segments below /v1 that no domain may be named after.
var reserved = []string{"dead-letters", "deliveries", "events", "ingress", "rebuilds", "replays", "sources", "status", "topology", "trace"}

// New checks the configuration and makes the API. The error names what is missing.
func New(c Config) (*API, error) {
	var missing []string
	for name, absent := range map[string]bool{
		"Door": c.Door == nil, "Journal": c.Journal == nil, "Events": c.Events == nil,
		"Topology": c.Topology == nil, "Changes": c.Changes == nil, "Metrics": c.Metrics == nil, "Missing": c.Missing == nil,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("api: configuration lacks %s", strings.Join(missing, ", "))
	}
	c.Limits = c.Limits.orDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Tenant == nil {
		c.Tenant = func(*http.Request) (string, error) { return envelope.DefaultTenant, nil }
	}
	if c.Principal == nil {
		c.Principal = func(*http.Request) string { return "anonymous" }
	}
	if c.Stats == nil {
		c.Stats = func() Stats { return Stats{} }
	}
	a := &API{Config: c, domains: map[string]*Domain{}}
	a.closing, a.close = context.WithCancel(context.Background())
	for i := range c.Domains {
		d := &a.Domains[i]
		name := d.Definition.Name
		if slices.Contains(reserved, name) {
			return nil, fmt.Errorf("api: domain %s: a domain cannot be named so, since the path /v1/%s is taken; taken are %s", name, name, strings.Join(reserved, ", "))
		}
		if d.Entities == nil || d.History == nil || d.Outcomes == nil {
			return nil, fmt.Errorf("api: domain %s: expected entities, history and outcomes to read from", name)
		}
		a.domains[name] = d
	}
	a.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "touchstone_http_request_seconds",
		Help:    "Duration of HTTP requests in seconds, by route template, method and status code. Streams count until they end.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"route", "method", "code"})
	if c.Registerer != nil {
		if err := c.Registerer.Register(a.seconds); err != nil {
			return nil, fmt.Errorf("api: register metrics: %w", err)
		}
	}
	var err error
	if a.pages, err = newConsole(c.Sources); err != nil {
		return nil, fmt.Errorf("api: console: %w", err)
	}
	a.routes = a.table()
	if a.openapi, err = a.document(); err != nil {
		return nil, fmt.Errorf("api: OpenAPI document: %w", err)
	}
	a.build()
	return a, nil
}

// ServeHTTP serves every route.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.router.ServeHTTP(w, r) }

// Server gives a server for the API whose timeouts leave slow or silent
// clients no way to hold connections. Deadlines of bodies and answers are set
// per route, because uploads and event streams have none as a whole.
func (a *API) Server() *http.Server {
	s := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.Log.Handler(), slog.LevelWarn),
	}
	s.RegisterOnShutdown(a.Close)
	return s
}

// Close ends event streams and waits; requests that come later are served, but
// do not wait. The server of Server calls it when it shuts down.
func (a *API) Close() { a.close() }

// patient gives the context of a wait: it ends with the request, the time-out
// or the server.
func (a *API) patient(r *http.Request, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(r.Context(), d)
	stop := context.AfterFunc(a.closing, cancel)
	return ctx, func() { stop(); cancel() }
}
