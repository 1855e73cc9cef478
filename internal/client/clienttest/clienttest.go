// Package clienttest serves the real HTTP API over the embedded sample domains
// in memory, for tests of those who ask it. What it serves is what came of a
// fixture: its deliveries, their outcomes, the entities, changes and events.
// Files can be sent to it and are read by the real file connector.
//
// It has no broker and no stations: what is sent to it is journaled and stays
// on its way for ever.
package clienttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/testkit/domaintest"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

// world is what the API reads from and writes to.
type world struct {
	domains []*definition.Domain
	files   map[string]*file.Source // by source name

	mu      sync.Mutex
	journal map[string][]*journal.Entry // by domain; all in partition 0
	events  []api.StreamEvent
}

// New serves what came of the fixtures in the given files. All samples are
// there, with or without a fixture.
func New(t testing.TB, fixtures ...string) http.Handler {
	t.Helper()
	h, err := serve(fixtures)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func serve(fixtures []string) (http.Handler, error) {
	domains, err := registry.Embedded(builtin.Kinds())
	if err != nil {
		return nil, err
	}
	top, err := topology.Build(domains, topology.Defaults(), nil)
	if err != nil {
		return nil, err
	}
	w := &world{domains: domains, files: map[string]*file.Source{}, journal: map[string][]*journal.Entry{}}
	c := api.Config{
		Door: w, Journal: w, Events: w, Topology: top, Changes: api.NewFeed(100), Metrics: http.NotFoundHandler(),
		Missing: func() []string { return nil }, Version: "test",
	}
	keepers := map[string]*keeper{}
	for _, d := range domains {
		k := newKeeper(d)
		keepers[d.Name] = k
		c.Domains = append(c.Domains, k.domain)
		for _, s := range d.Sources {
			kinds := builtin.Kinds()
			i := slices.IndexFunc(kinds.Sources, func(k connectors.Kind) bool { return k.Name() == s.Connector })
			opened, err := kinds.Sources[i].Open(s, registry.Placeholders)
			if err != nil {
				return nil, err
			}
			f, takesFiles := opened.(*file.Source)
			if takesFiles {
				w.files[s.Name] = f
			}
			c.Sources = append(c.Sources, api.Source{Domain: d.Name, Name: s.Name, Connector: s.Connector, Deliveries: !takesFiles, Files: takesFiles})
		}
	}
	for _, name := range fixtures {
		result, fixture, err := play(name, domains)
		if err != nil {
			return nil, err
		}
		if err := w.keep(keepers[fixture.Domain], fixture, result); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return api.New(c)
}

// keeper holds the views of one domain.
type keeper struct {
	domain            api.Domain
	entities          *viewtest.Table
	history, outcomes *viewtest.Memory
}

func newKeeper(d *definition.Domain) *keeper {
	ev := entities.New(d, decode[canonical.Entity])
	hv := history.New(d.Name, decode[event.Change])
	ov := outcomes.New(d.Name, decode[journal.Outcome])
	k := &keeper{entities: viewtest.NewTable(ev, 1), history: viewtest.New(hv, 1), outcomes: viewtest.New(ov, 1)}
	k.domain = api.Domain{Definition: d, Entities: ev.Reader(k.entities), History: hv.Reader(k.history), Outcomes: ov.Reader(k.outcomes)}
	return k
}

func decode[T any](b []byte) (*T, error) {
	v := new(T)
	return v, json.Unmarshal(b, v)
}

func feed(m interface{ Feed(string, []byte) error }, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return m.Feed(key, b)
}

// keep feeds the views with what came of a fixture, and makes the journal that
// it would have come from.
func (w *world) keep(k *keeper, f *domaintest.Fixture, r *domaintest.Result) error {
	domain := f.Domain
	for _, step := range r.Steps {
		body, err := bodyOf(step.Delivery)
		if err != nil {
			return err
		}
		for _, o := range step.Outcomes {
			id, err := journal.ParseID(o.Journal)
			if err != nil {
				return err
			}
			for int64(len(w.journal[domain])) <= id.Offset {
				w.journal[domain] = append(w.journal[domain], &journal.Entry{
					Source: step.Delivery.Source, Tenant: envelope.DefaultTenant, ReceivedAt: envelope.At(step.Delivery.At), ContentType: step.Delivery.ContentType,
					VendorID: step.Delivery.ID, Body: body, Cause: envelope.Cause{Correlation: o.Correlation},
				})
			}
			if err := feed(k.outcomes, o.Key(), o); err != nil {
				return err
			}
		}
		for _, c := range step.Changes {
			if err := feed(k.history, c.Key(), c); err != nil {
				return err
			}
			for _, ref := range c.Events {
				if err := w.publish(domain, ref, c); err != nil {
					return err
				}
			}
		}
	}
	for _, e := range r.Entities {
		if err := feed(k.entities, e.Key().String(), e); err != nil {
			return err
		}
	}
	return nil
}

func bodyOf(d domaintest.Delivery) ([]byte, error) {
	if d.Text != "" || d.Body.IsZero() {
		return []byte(d.Text), nil
	}
	var v any
	if err := d.Body.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (w *world) publish(domain string, ref event.Ref, c *event.Change) error {
	data := map[string]any{}
	for _, n := range c.After {
		data[n.Name] = n.Value
	}
	b, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": ref.ID, "type": domain + ".v1." + ref.Type, "source": "/" + domain + "/" + c.Resource, "subject": c.ID,
		"time": c.OccurredAt, "datacontenttype": "application/json", "data": data,
	})
	w.events = append(w.events, api.StreamEvent{
		Position: strconv.Itoa(len(w.events) + 1), Type: ref.Type, Domain: domain, Resource: c.Resource, ID: c.ID, CloudEvent: b,
	})
	return err
}

// Accept takes no deliveries: nothing would become of them.
func (w *world) Accept(_ context.Context, d api.Delivery) (journal.ID, error) {
	return journal.ID{}, failure.New(failure.Auth, "verify", "source "+d.Source, "no live secret matches the signature")
}

// AcceptFile reads a file as the real door does: first to decide, then to journal.
func (w *world) AcceptFile(_ context.Context, u api.Upload, progress func(api.UploadProgress)) (api.UploadReport, error) {
	r := api.UploadReport{Source: u.Source, File: u.Name, Correlation: u.Cause.Correlation}
	body, err := io.ReadAll(u.Body)
	if err != nil {
		return r, err
	}
	src := w.files[u.Source]
	found, err := src.Inspect(bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	r.Bytes, r.Rows, r.SHA256, r.Sums = int64(len(body)), found.Rows, found.SHA256, found.Sums
	for _, e := range found.Errors {
		r.Errors = append(r.Errors, api.RowError{Row: e.Row, Column: e.Name, Reason: string(e.Code) + ": " + e.Reason})
	}
	manifest := &file.Manifest{SHA256: u.SHA256, Sums: u.Sums}
	if u.Rows >= 0 {
		manifest.Rows = &u.Rows
	}
	progress(r.UploadProgress)
	if err := src.Accept(u.Name, found, manifest); err != nil {
		r.Refused = err.Error()
		return r, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = src.Entries(bytes.NewReader(body), u.Name, found.SHA256, func(e *journal.Entry) error {
		e.Source, e.Tenant, e.Cause = u.Source, u.Tenant, u.Cause
		w.journal[u.Domain] = append(w.journal[u.Domain], e)
		r.Last = journal.ID{Domain: u.Domain, Offset: int64(len(w.journal[u.Domain]) - 1)}.String()
		if r.First == "" {
			r.First = r.Last
		}
		r.Journaled++
		if e.Quarantine != "" {
			r.Quarantined++
		}
		return nil
	})
	progress(r.UploadProgress)
	return r, err
}

// Entry reads the journal.
func (w *world) Entry(_ context.Context, id journal.ID) (*journal.Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id.Partition != 0 || id.Offset >= int64(len(w.journal[id.Domain])) {
		return nil, failure.New(failure.NotFound, "read journal", id.String(), "there is no such position")
	}
	return w.journal[id.Domain][id.Offset], nil
}

// Subscribe begins behind a position, which is the number of events before it.
func (w *world) Subscribe(_ context.Context, after string) (api.EventSubscription, error) {
	n := len(w.events)
	if after != "" {
		var err error
		if n, err = strconv.Atoi(after); err != nil || n < 0 || n > len(w.events) {
			return nil, failure.New(failure.Validation, "resume stream", "position", "found %q, expected the id of an event of this stream", after)
		}
	}
	return &subscription{w.events[n:]}, nil
}

type subscription struct{ left []api.StreamEvent }

func (s *subscription) Next(ctx context.Context) (api.StreamEvent, error) {
	if len(s.left) == 0 {
		<-ctx.Done()
		return api.StreamEvent{}, ctx.Err()
	}
	e := s.left[0]
	s.left = s.left[1:]
	return e, nil
}

func (s *subscription) Close() {}
