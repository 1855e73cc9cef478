package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/views/outcomes"
)

// traceLimit bounds the deliveries and the changes of one trace.
const traceLimit = 100

// traceView is everything that belongs to an id.
type traceView struct {
	ID         string          `json:"id"`
	Deliveries []traceDelivery `json:"deliveries"`
	Changes    []*event.Change `json:"changes"`
	Events     []traceEvent    `json:"events"`
	// Truncated is true when there is more than a trace shows.
	Truncated bool `json:"truncated,omitempty"`
}

type traceDelivery struct {
	Journal string `json:"journal"`
	// Entry is absent if the journal no longer has it.
	Entry  *entryView       `json:"entry,omitempty"`
	Status *outcomes.Status `json:"status,omitempty"`
}

type traceEvent struct {
	event.Ref
	Domain   string `json:"domain"`
	Resource string `json:"resource"`
	Entity   string `json:"entity"`
	Version  int64  `json:"version"`
}

// getTrace serves what belongs to a journal id, event id or correlation id.
func (a *API) getTrace(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	id := mux.Vars(r)["id"]
	// Provenance names signals; a signal is traced by its entry.
	if entry, _, ok := strings.Cut(id, "#"); ok {
		if _, err := journal.ParseID(entry); err == nil {
			id = entry
		}
	}
	v := traceView{ID: id, Deliveries: []traceDelivery{}, Changes: []*event.Change{}, Events: []traceEvent{}}
	for i := range a.Domains {
		if err := a.traceIn(r, &a.Domains[i], tenant, &v); err != nil {
			return err
		}
	}
	if len(v.Deliveries) == 0 && len(v.Changes) == 0 {
		return problem(http.StatusNotFound, "unknown-trace", fmt.Sprintf("nothing has the journal id, event id or correlation id %q", v.ID))
	}
	return answer(w, http.StatusOK, v)
}

func (a *API) traceIn(r *http.Request, d *Domain, tenant string, v *traceView) error {
	name := d.Definition.Name
	changes, err := d.History.Trace(v.ID, traceLimit)
	if err != nil {
		return err
	}
	journals, err := d.Outcomes.ByCorrelation(v.ID, traceLimit)
	if err != nil {
		return err
	}
	v.Truncated = v.Truncated || len(changes) == traceLimit || len(journals) == traceLimit
	add := func(id string) {
		if p, err := journal.ParseID(id); err == nil && p.Domain == name && !slices.Contains(journals, id) && len(journals) < traceLimit {
			journals = append(journals, id)
		}
	}
	add(v.ID)
	for _, c := range changes {
		if c.Tenant == tenant {
			add(c.Journal)
		}
	}
	for _, id := range journals {
		t, ok, err := a.traceDelivery(r, d, tenant, id)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		v.Deliveries = append(v.Deliveries, t)
		// What a delivery changed is told by its outcomes, whatever
		// correlation the change bears.
		if t.Status != nil {
			for _, o := range t.Status.Signals {
				if o.Disposition != journal.Changed {
					continue
				}
				c, err := d.History.Get(canonical.EntityKey{Tenant: tenant, Resource: o.Resource, ID: o.Entity}, o.Version)
				if err != nil {
					return err
				}
				if c != nil && !slices.ContainsFunc(changes, func(x *event.Change) bool { return x.Key() == c.Key() && x.Version == c.Version }) {
					changes = append(changes, c)
				}
			}
		}
	}
	for _, c := range changes {
		if c.Tenant != tenant {
			continue
		}
		v.Changes = append(v.Changes, c)
		for _, e := range c.Events {
			v.Events = append(v.Events, traceEvent{Ref: e, Domain: name, Resource: c.Resource, Entity: c.ID, Version: c.Version})
		}
	}
	return nil
}

// traceDelivery gives what is still known of a delivery; ok is false if nothing is.
func (a *API) traceDelivery(r *http.Request, d *Domain, tenant, id string) (t traceDelivery, ok bool, err error) {
	t.Journal = id
	s, known, err := d.Outcomes.Status(id)
	if err != nil {
		return t, false, err
	}
	if known && s.Tenant == tenant {
		t.Status = &s
	}
	p, err := journal.ParseID(id)
	if err != nil {
		return t, t.Status != nil, nil
	}
	e, err := a.entry(r.Context(), p, tenant)
	if err == nil {
		v := viewOf(p, e)
		t.Entry = &v
	} else if statusOfError(err) != http.StatusNotFound {
		return t, false, err
	}
	return t, t.Status != nil || t.Entry != nil, nil
}

func statusOfError(err error) int {
	if p, ok := err.(*Problem); ok {
		return p.Status
	}
	return statusOf(failure.KindOf(err))
}
