package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/client"
	"github.com/touchstone-platform/touchstone/internal/client/clienttest"
)

// open serves the samples' customer fixture and gives a client of it.
func open(t *testing.T) *client.Client {
	t.Helper()
	return dial(t, clienttest.New(t, "../../schemas/domains/testdata/customer.yaml"))
}

func dial(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	domain   = "customer-management"
	resource = "customer"
	id       = "C-1001"
)

// Oracle: what the API says of one entity agrees with itself, whichever of its
// answers is read. A member that the client misspells would be empty here.
func TestReadsAgree(t *testing.T) {
	ctx, c := t.Context(), open(t)
	e, err := c.Entity(ctx, domain, resource, id, client.EntityQuery{Provenance: true})
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != id || e.Resource != resource || e.Version < 2 || e.UpdatedAt <= e.CreatedAt || e.State == "" || len(e.Fields) == 0 {
		t.Errorf("entity %+v", e)
	}
	x, err := c.Explain(ctx, domain, resource, id, "")
	if err != nil {
		t.Fatal(err)
	}
	if x.Domain != domain || x.ID != id || x.Version != e.Version || !x.Exists {
		t.Errorf("explanation of %s %s version %d, exists %v", x.Domain, x.ID, x.Version, x.Exists)
	}
	for _, f := range x.Fields {
		if v, ok := e.Fields[f.Field]; ok && v != f.Value {
			t.Errorf("%s is %s in the entity and %s in the explanation", f.Field, v, f.Value)
		}
		if len(f.Claims) == 0 || f.Rule == "" {
			t.Errorf("%s has no claims or no rule", f.Field)
			continue
		}
		if w := f.Claims[0]; w.Won {
			p := e.Provenance[f.Field]
			if p.Source != w.Source || p.SourceKey != w.SourceKey || p.Signal != w.Signal || p.OccurredAt != w.OccurredAt || p.Since == 0 || w.Reason == "" {
				t.Errorf("%s: provenance %+v, winner %+v", f.Field, p, w)
			}
		}
	}
	h, err := c.History(ctx, domain, resource, id, 500, "")
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(h.Items)) != e.Version || h.Items[0].Version != e.Version {
		t.Fatalf("%d changes of an entity in version %d", len(h.Items), e.Version)
	}
	for _, n := range h.Items[0].After {
		if e.Fields[n.Name] != n.Value {
			t.Errorf("after the last change %s is %s, the entity has %s", n.Name, n.Value, e.Fields[n.Name])
		}
	}
}

// Oracle: an event leads back to the delivery that caused it, and the delivery
// to the event.
func TestTraceLeadsBothWays(t *testing.T) {
	ctx, c := t.Context(), open(t)
	h, err := c.History(ctx, domain, resource, id, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	change := h.Items[0]
	for _, from := range []string{change.Events[0].ID, change.Journal} {
		tr, err := c.Trace(ctx, from)
		if err != nil {
			t.Fatalf("trace %s: %v", from, err)
		}
		if len(tr.Deliveries) != 1 || tr.Deliveries[0].Journal != change.Journal || tr.Deliveries[0].Entry == nil || tr.Deliveries[0].Status == nil {
			t.Fatalf("trace %s: deliveries %+v", from, tr.Deliveries)
		}
		if tr.Deliveries[0].Status.Disposition != journal.Changed || tr.Deliveries[0].Entry.Source != change.Source {
			t.Errorf("trace %s: %+v, %+v", from, tr.Deliveries[0].Status, tr.Deliveries[0].Entry)
		}
		if len(tr.Changes) != 1 || tr.Changes[0].Version != change.Version || len(tr.Events) != len(change.Events) || tr.Events[0].ID != change.Events[0].ID || tr.Events[0].Entity != id {
			t.Errorf("trace %s: changes %+v, events %+v", from, tr.Changes, tr.Events)
		}
	}
	s, err := c.Delivery(ctx, change.Journal, time.Second)
	if err != nil || !s.Final || s.Disposition != journal.Changed || len(s.Signals) != 1 || s.Signals[0].Version != change.Version {
		t.Errorf("status %+v, %v", s, err)
	}
	entry, err := c.Entry(ctx, change.Journal)
	if err != nil || len(entry.Body.Bytes()) == 0 || entry.BodyBytes != len(entry.Body.Bytes()) {
		t.Errorf("entry %+v, %v", entry, err)
	}
}

func TestListsAndPages(t *testing.T) {
	ctx, c := t.Context(), open(t)
	var ids []string
	for q := (client.ListQuery{Limit: 1}); ; {
		p, err := c.Entities(ctx, domain, resource, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Items {
			ids = append(ids, e.ID)
		}
		if q.Cursor = p.Cursor; q.Cursor == "" {
			break
		}
	}
	all, err := c.Entities(ctx, domain, resource, client.ListQuery{})
	if err != nil || len(all.Items) < 2 || len(all.Items) != len(ids) {
		t.Fatalf("%d at once, one by one %v, %v", len(all.Items), ids, err)
	}
	p, err := c.Entities(ctx, domain, resource, client.ListQuery{Filters: map[string]string{"customerNumber": ids[0]}})
	if err != nil || len(p.Items) != 1 || p.Items[0].Fields["customerNumber"] != canonical.String(ids[0]) {
		t.Errorf("filtered %+v, %v", p, err)
	}
	if names, err := c.Domains(ctx); err != nil || len(names) != 2 || names[0] != domain {
		t.Errorf("domains %v, %v", names, err)
	}
	if names, err := c.DomainsWith(ctx, "order"); err != nil || len(names) != 1 || names[0] != "order-fulfilment" {
		t.Errorf("domains with orders %v, %v", names, err)
	}
	sources, err := c.Sources(ctx)
	if err != nil || len(sources) < 4 || sources[0].Name == "" || sources[0].Domain == "" || sources[0].Connector == "" || sources[0].Ingress == "" {
		t.Errorf("sources %+v, %v", sources, err)
	}
}

// Oracle: a stream that begins at the start gives every event once, in order,
// and begins again behind any of them; a filter leaves out the others.
func TestEvents(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := open(t)
	read := func(q client.EventQuery, n int) (events []client.StreamEvent) {
		t.Helper()
		s, err := c.Events(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range n {
			e, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		return events
	}
	all := read(client.EventQuery{After: "0"}, 5)
	rest := read(client.EventQuery{After: all[1].Position}, 3)
	for i, e := range rest {
		if e.Position != all[i+2].Position || e.Type != all[i+2].Type || string(e.CloudEvent) != string(all[i+2].CloudEvent) {
			t.Errorf("%d: %+v after going on, %+v before", i, e, all[i+2])
		}
	}
	if all[0].Type != "CustomerRegistered" || !strings.Contains(string(all[0].CloudEvent), `"specversion":"1.0"`) {
		t.Errorf("first %+v", all[0])
	}
	for _, e := range read(client.EventQuery{After: "0", Domain: domain, Resource: resource, Type: "CustomerUpdated"}, 2) {
		if e.Type != "CustomerUpdated" {
			t.Errorf("found %s behind the filter", e.Type)
		}
	}
	s, err := c.Events(ctx, client.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context gives %v", err)
	}
}

// A stream that the server ends says why; one that breaks off is unreachable too.
func TestStreamEnds(t *testing.T) {
	for text, want := range map[string]string{
		"retry: 1\n: hello\n\nevent: end\ndata: {\"reason\":\"shutting down\"}\n\n": "shutting down",
		"event: A\ndata: {\"a\":": "unexpected EOF",
		"event: A\ndata: {]\n\n":  "not JSON",
	} {
		c := dial(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte(text))
		}))
		s, err := c.Events(t.Context(), client.EventQuery{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Next()
		var u *client.Unreachable
		if !errors.As(err, &u) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want %s", text, err, want)
		}
		s.Close()
	}
}

func TestUpload(t *testing.T) {
	c := open(t)
	const csv = "customer_no;score;rating;as_of\nC-1;700;A;2026-03-01\nC-2;many;A;2026-03-01\nC-3;500;B;2026-03-02\n"
	up := client.Upload{Source: "risk", Name: "scores.csv", ContentType: "text/csv", Body: strings.NewReader(csv), Size: int64(len(csv)), Rows: 3, Correlation: "corr-1"}
	var told []client.Progress
	r, err := c.Upload(t.Context(), up, func(p client.Progress) { told = append(told, p) })
	if err != nil {
		t.Fatal(err)
	}
	if r.Rows != 3 || r.Journaled != 3 || r.Quarantined != 1 || r.Bytes != int64(len(csv)) || len(r.SHA256) != 64 || r.Correlation != "corr-1" || r.First == "" || r.Last == "" || r.First == r.Last {
		t.Errorf("report %+v", r)
	}
	if len(r.Errors) != 1 || r.Errors[0].Column != "score" || r.Errors[0].Row == 0 || r.Errors[0].Reason == "" {
		t.Errorf("errors %+v", r.Errors)
	}
	if len(told) < 2 || told[len(told)-1] != r.Progress {
		t.Errorf("progress %+v, report %+v", told, r.Progress)
	}

	up.Body, up.Rows, up.Size = strings.NewReader(csv), 4, -1
	_, err = c.Upload(t.Context(), up, nil)
	if client.ProblemCode(err) != client.FileRefused || !strings.Contains(err.Error(), "rows") {
		t.Errorf("a wrong control total gives %v", err)
	}
	up.Body, up.Source = strings.NewReader(csv), "nobody"
	if _, err = c.Upload(t.Context(), up, nil); client.ProblemCode(err) != "unknown-source" {
		t.Errorf("an unknown source gives %v", err)
	}
}

// An upload whose answer breaks off is no success.
func TestUploadBreaksOff(t *testing.T) {
	for text, want := range map[string]string{
		`{"progress":{"rows":1}}` + "\n": "broke off",
		`{"progress"`:                    "not JSON",
		`{"problem":{"title":"Gone","detail":"x","status":503}}` + "": "Gone: x",
	} {
		c := dial(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write([]byte(text))
		}))
		_, err := c.Upload(t.Context(), client.Upload{Source: "s", Name: "f", Body: strings.NewReader("")}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %s", text, err, want)
		}
	}
}

func TestProblems(t *testing.T) {
	ctx, c := t.Context(), open(t)
	_, err := c.Entity(ctx, domain, resource, "no body%20?", client.EntityQuery{})
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != http.StatusNotFound || p.Code != "unknown-entity" || !strings.Contains(err.Error(), `"no body%20?"`) || p.TraceID == "" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = c.Entities(ctx, domain, resource, client.ListQuery{Filters: map[string]string{"statsu": "x"}})
	if !errors.As(err, &p) || p.Status != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Pointer != "#/query/statsu" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = dial(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) })).Domains(ctx)
	if !errors.As(err, &p) || p.Status != http.StatusBadGateway || !strings.Contains(err.Error(), "is it Touchstone's API?") {
		t.Errorf("a proxy's page gives %v", err)
	}
	_, err = dial(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })).Domains(ctx)
	if err == nil || !strings.Contains(err.Error(), `"hello"`) {
		t.Errorf("another server gives %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close() // its port is now free, and nobody listens there
	c, err := client.New(srv.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Trace(t.Context(), "x")
	var u *client.Unreachable
	if !errors.As(err, &u) || !strings.Contains(err.Error(), srv.URL) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "localhost:8080", "ftp://x", "http://", "http://x?y=1", "::"} {
		if _, err := client.New(bad, nil); err == nil {
			t.Errorf("%q is taken for a server", bad)
		}
	}
}
