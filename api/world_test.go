package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

func shop() *definition.Domain {
	field := func(name string, kind canonical.Kind, filter bool, authority ...string) *definition.Field {
		return &definition.Field{Name: name, Doc: "The " + name + ".", Type: canonical.Type{Kind: kind}, Authority: authority, Filter: filter}
	}
	status := field("status", canonical.KindEnum, false, "crm", "billing")
	status.Type.Symbols = []string{"prospect", "active", "closed"}
	email := field("email", canonical.KindString, false, "marketing", "crm")
	email.PII = "contact"
	return &definition.Domain{
		Name: "shop", Doc: "Customers of a small shop.", Fingerprint: "f1",
		Resources: []*definition.Resource{{
			Name: "customer", Doc: "A person or company that buys.", Identity: []string{"customerId"},
			Fields: []*definition.Field{
				field("balance", canonical.KindDecimal, false, "billing"), field("city", canonical.KindString, true, "billing", "crm"),
				email, field("legalName", canonical.KindString, false, "crm"), field("orders", canonical.KindInt, true, "billing"), status,
			},
			Lifecycle: &definition.Lifecycle{Field: "status", Initial: "prospect", Moves: map[string][]string{"prospect": {"active"}, "active": {"closed"}}},
			Events: []*definition.EventRule{
				{Type: "CustomerRegistered", When: definition.When{Created: true}},
				{Type: "CustomerActivated", When: definition.When{Enters: []string{"active"}}},
				{Type: "CustomerUpdated", When: definition.When{AnyChange: true}},
			},
		}},
	}
}

// world is the whole of Touchstone in memory, without Kafka: a delivery's body
// is {"key", "at", "deleted", "fields"}, or {"items": [...]} of those. It
// merges with the real algebra and feeds the real views, when the delivery is
// taken or, while it is held, when process is called.
type world struct {
	api      *api.API
	domain   *definition.Domain
	entities *viewtest.Table
	history  *viewtest.Memory
	outcomes *viewtest.Memory
	feed     *api.Feed

	mu        sync.Mutex
	held      bool
	journal   []*journal.Entry
	processed int
	seen      map[string]int
	state     map[string]*canonical.Entity
	events    []api.StreamEvent
	moved     chan struct{} // closed and replaced at every event
	missing   []string
	down      error // what the journal answers instead of writing, from this many entries on
	downFrom  int
}

func newWorld(t testing.TB, change func(*api.Config)) *world {
	t.Helper()
	w := &world{domain: shop(), seen: map[string]int{}, state: map[string]*canonical.Entity{}, moved: make(chan struct{}), feed: api.NewFeed(20)}
	ev := entities.New(w.domain, decode[canonical.Entity])
	hv := history.New("shop", decode[event.Change])
	ov := outcomes.New("shop", decode[journal.Outcome])
	w.entities, w.history, w.outcomes = viewtest.NewTable(ev, 3), viewtest.New(hv, 3), viewtest.New(ov, 3)
	top, err := topology.Build([]*definition.Domain{w.domain}, topology.Defaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	c := api.Config{
		Domains: []api.Domain{{Definition: w.domain, Entities: ev.Reader(w.entities), History: hv.Reader(w.history), Outcomes: ov.Reader(w.outcomes)}},
		Sources: []api.Source{
			{Domain: "shop", Name: "billing", Connector: "webhook", Deliveries: true},
			{Domain: "shop", Name: "crm", Connector: "cdc", Topics: []string{"crm.customers"}, Deliveries: true},
			{Domain: "shop", Name: "feed", Connector: "cdc"},
			{Domain: "shop", Name: "marketing", Connector: "webhook", Deliveries: true},
			{Domain: "shop", Name: "risk", Connector: "file", Files: true},
		},
		Door: w, Journal: w, Events: w, Topology: top, Changes: w.feed, Stats: w.stats,
		Missing: func() []string { w.mu.Lock(); defer w.mu.Unlock(); return w.missing },
		Metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), Registerer: registry, Version: "test",
	}
	if change != nil {
		change(&c)
	}
	if w.api, err = api.New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func decode[T any](b []byte) (*T, error) {
	v := new(T)
	return v, json.Unmarshal(b, v)
}

type claim struct {
	Key     string                     `json:"key"`
	At      string                     `json:"at"`
	Deleted bool                       `json:"deleted"`
	Fields  map[string]canonical.Value `json:"fields"`
}

func (w *world) stats() api.Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(len(w.journal))
	return api.Stats{
		Topics: map[string]api.TopicStats{"shop.journal": {Records: n}, "shop.events.v1": {Records: int64(len(w.events))}},
		Groups: map[string]api.GroupStats{"shop.inbox": {In: n, Out: n, Running: true}, "shop.merge": {In: n, Lag: 12345, DeadLetters: 2, Running: true}},
	}
}

// Accept is the door of deliveries. A signature is right unless it says "wrong".
func (w *world) Accept(_ context.Context, d api.Delivery) (journal.ID, error) {
	if d.Header.Get("X-Signature") == "wrong" {
		return journal.ID{}, failure.New(failure.Auth, "verify", "source "+d.Source, "no live secret matches the signature")
	}
	e := &journal.Entry{
		Source: d.Source, Tenant: d.Tenant, ContentType: d.Header.Get("Content-Type"), Body: d.Body, Cause: d.Cause,
		DedupeKey: d.Source + string(d.Body), ReceivedAt: envelope.At(time.Date(2026, 3, 1, 14, 3, 7, 0, time.UTC)),
	}
	return w.write(e)
}

func (w *world) write(e *journal.Entry) (journal.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down != nil && len(w.journal) >= w.downFrom {
		return journal.ID{}, w.down
	}
	w.journal = append(w.journal, e)
	if !w.held {
		w.drain()
	}
	return w.id(len(w.journal) - 1), nil
}

// AcceptFile is the door of files: one claim a line.
func (w *world) AcceptFile(_ context.Context, u api.Upload, progress func(api.UploadProgress)) (api.UploadReport, error) {
	r := api.UploadReport{Source: u.Source, File: u.Name, Correlation: u.Cause.Correlation}
	body, err := io.ReadAll(u.Body)
	if err != nil {
		return r, failure.Wrap(failure.Transient, "read", u.Name, err)
	}
	sum := sha256.Sum256(body)
	r.Bytes, r.SHA256 = int64(len(body)), hex.EncodeToString(sum[:])
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	if r.Rows = int64(len(lines)); u.Rows >= 0 && u.Rows != r.Rows {
		r.Refused = fmt.Sprintf("rows: found %d, expected %d", r.Rows, u.Rows)
		r.Errors = []api.RowError{{Row: r.Rows, Column: "key", Reason: "is the last"}}
		return r, nil
	}
	for _, line := range lines {
		id, err := w.write(&journal.Entry{Source: u.Source, Tenant: u.Tenant, Body: []byte(line), DedupeKey: line, Cause: u.Cause})
		if err != nil {
			return r, err
		}
		r.Journaled++
		r.Last = id.String()
		progress(r.UploadProgress)
	}
	return r, nil
}

func (w *world) id(offset int) journal.ID {
	return journal.ID{Domain: "shop", Partition: 0, Offset: int64(offset)}
}

// Entry reads the journal.
func (w *world) Entry(_ context.Context, id journal.ID) (*journal.Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id.Domain != "shop" || id.Partition != 0 || id.Offset >= int64(len(w.journal)) {
		return nil, failure.New(failure.NotFound, "read journal", id.String(), "no such entry")
	}
	return w.journal[id.Offset], nil
}

// process carries on what was held.
func (w *world) process() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain()
}

func (w *world) drain() {
	for ; w.processed < len(w.journal); w.processed++ {
		e := w.journal[w.processed]
		id := w.id(w.processed).String()
		o := &journal.Outcome{Journal: id, Index: -1, Source: e.Source, Tenant: e.Tenant, Correlation: e.Cause.Correlation, At: e.ReceivedAt}
		if o.Correlation == "" {
			o.Correlation = id
		}
		if first, ok := w.seen[e.DedupeKey]; ok {
			o.Disposition, o.First = journal.Duplicate, w.id(first).String()
			w.tell(o)
			continue
		}
		w.seen[e.DedupeKey] = w.processed
		var many struct {
			claim
			Items []claim `json:"items"`
		}
		if err := json.Unmarshal(e.Body, &many); err != nil {
			o.Disposition, o.Reason, o.Detail = journal.DeadLetter, string(failure.Validation), err.Error()
			w.tell(o)
			continue
		}
		if many.Items == nil {
			w.merge(e, o, 0, 1, many.claim)
			continue
		}
		entry := *o
		entry.Disposition, entry.Signals = journal.Accepted, int32(len(many.Items))
		w.tell(&entry)
		for i, c := range many.Items {
			w.merge(e, o, int32(i), int32(len(many.Items)), c)
		}
	}
}

func (w *world) merge(e *journal.Entry, o *journal.Outcome, index, of int32, c claim) {
	at := e.ReceivedAt
	if c.At != "" {
		t, err := time.Parse(time.RFC3339, c.At)
		if err != nil {
			panic(err)
		}
		at = envelope.At(t)
	}
	s := signal.Signal{
		ID: o.Journal, Journal: o.Journal, Index: index, Signals: of, Tenant: e.Tenant, Source: e.Source, SourceKey: c.Key, Resource: "customer",
		Deleted: c.Deleted, OccurredAt: at, ReceivedAt: e.ReceivedAt, Cause: envelope.Cause{Correlation: o.Correlation},
	}
	for name, v := range c.Fields {
		s.Fields = append(s.Fields, canonical.Named{Name: name, Value: v})
	}
	slices.SortFunc(s.Fields, func(a, b canonical.Named) int { return strings.Compare(a.Name, b.Name) })
	f := &signal.Fact{Entity: c.Key, Signal: s}
	res, err := authority.Merge(w.domain, w.domain.Resources[0], w.state[f.Key()], f)
	if err != nil {
		panic(err)
	}
	w.state[f.Key()] = res.Entity
	feed(w.entities, f.Key(), res.Entity)
	told := *o
	told.Index, told.Signals, told.Resource, told.Entity, told.Version, told.Disposition = index, of, "customer", c.Key, res.Entity.Version, journal.Unchanged
	if of == 1 {
		told.Index = -1
	}
	if ch := res.Change; ch != nil {
		told.Disposition = journal.Changed
		feed(w.history, f.Key(), ch)
		w.feed.Publish("shop", ch)
		for _, ref := range ch.Events {
			told.Events = append(told.Events, ref.ID)
			w.publish(ref, ch)
		}
	}
	w.tell(&told)
}

func (w *world) publish(ref event.Ref, c *event.Change) {
	b, err := json.Marshal(map[string]any{"specversion": "1.0", "id": ref.ID, "type": ref.Type, "source": "/shop", "subject": c.Key(), "data": c.After})
	if err != nil {
		panic(err)
	}
	w.events = append(w.events, api.StreamEvent{Position: strconv.Itoa(len(w.events) + 1), Type: ref.Type, Domain: "shop", Resource: c.Resource, ID: c.ID, CloudEvent: b})
	close(w.moved)
	w.moved = make(chan struct{})
}

func (w *world) tell(o *journal.Outcome) { feed(w.outcomes, o.Key(), o) }

func feed(m interface{ Feed(string, []byte) error }, key string, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = m.Feed(key, b)
	}
	if err != nil {
		panic(err)
	}
}

// Subscribe begins behind a position, which is the number of events before it.
func (w *world) Subscribe(_ context.Context, after string) (api.EventSubscription, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.events)
	if after != "" {
		var err error
		if n, err = strconv.Atoi(after); err != nil {
			return nil, failure.New(failure.Validation, "subscribe", "position "+after, "expected a position of the stream")
		}
	}
	return &subscription{w, n}, nil
}

type subscription struct {
	w    *world
	next int
}

func (s *subscription) Next(ctx context.Context) (api.StreamEvent, error) {
	for {
		s.w.mu.Lock()
		moved := s.w.moved
		if s.next < len(s.w.events) {
			e := s.w.events[s.next]
			s.next++
			s.w.mu.Unlock()
			return e, nil
		}
		s.w.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return api.StreamEvent{}, ctx.Err()
		}
	}
}

func (*subscription) Close() {}

var _ views.Reader = (*viewtest.Memory)(nil)

// request does one request; extra are header names and values in turn.
func (w *world) request(t testing.TB, method, target string, body []byte, extra ...string) *httptest.ResponseRecorder {
	t.Helper()
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	for i := 0; i < len(extra); i += 2 {
		r.Header.Set(extra[i], extra[i+1])
	}
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, r)
	return rec
}

func (w *world) post(t testing.TB, source, body string, extra ...string) string {
	t.Helper()
	rec := w.request(t, http.MethodPost, "/v1/ingress/"+source, []byte(body), append([]string{"Content-Type", "application/json"}, extra...)...)
	if rec.Code != http.StatusAccepted {
		t.Fatalf("POST to %s: got %d %s, want 202", source, rec.Code, rec.Body)
	}
	return object(t, rec)["journal"].(string)
}

func object(t testing.TB, rec *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		t.Fatalf("status %d, body %q: %v", rec.Code, rec.Body, err)
	}
	return v
}

// wantProblem checks that an answer is a whole problem of a status and code.
func wantProblem(t testing.TB, rec *httptest.ResponseRecorder, status int, code string) map[string]any {
	t.Helper()
	if rec.Code != status || rec.Header().Get("Content-Type") != "application/problem+json" {
		t.Fatalf("got %d %s %s, want a problem of status %d", rec.Code, rec.Header().Get("Content-Type"), rec.Body, status)
	}
	p := object(t, rec)
	if p["code"] != code || p["status"] != float64(status) || p["type"] != "urn:touchstone:problem:"+code || p["title"] == "" || len(p["traceId"].(string)) != 32 || p["instance"] == "" {
		t.Fatalf("got problem %v, want code %s and every member", p, code)
	}
	return p
}
