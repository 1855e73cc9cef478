package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/views"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
)

// entityView is an entity as it is served. Everything outside Provenance
// changes only together with the version, which is therefore its entity tag.
type entityView struct {
	ID         string                          `json:"id"`
	Resource   string                          `json:"resource"`
	Version    int64                           `json:"version"`
	State      string                          `json:"state,omitempty"`
	CreatedAt  envelope.Instant                `json:"createdAt"`
	UpdatedAt  envelope.Instant                `json:"updatedAt"`
	Fields     map[string]canonical.Value      `json:"fields"`
	Provenance map[string]canonical.Provenance `json:"provenance,omitempty"`
}

func present(e *canonical.Entity, provenance bool) entityView {
	v := entityView{
		ID: e.ID, Resource: e.Resource, Version: e.Version, State: e.State, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt,
		Fields: make(map[string]canonical.Value, len(e.Fields)),
	}
	if provenance {
		v.Provenance = make(map[string]canonical.Provenance, len(e.Fields))
	}
	for _, f := range e.Fields {
		v.Fields[f.Name] = f.Value
		if p, ok := e.Provenance(f.Name); ok && provenance {
			v.Provenance[f.Name] = p
		}
	}
	return v
}

// resource finds the domain and resource of a path.
func (a *API) resource(r *http.Request) (*Domain, *definition.Resource, error) {
	vars := mux.Vars(r)
	d, ok := a.domains[vars["domain"]]
	if !ok {
		return nil, nil, problem(http.StatusNotFound, "unknown-domain", fmt.Sprintf("no domain is named %q", vars["domain"]))
	}
	res, ok := d.Definition.Resource(vars["resource"])
	if !ok {
		names := make([]string, len(d.Definition.Resources))
		for i, x := range d.Definition.Resources {
			names[i] = x.Name
		}
		return nil, nil, problem(http.StatusNotFound, "unknown-resource", fmt.Sprintf("domain %s has no resource %q, it has %s", d.Definition.Name, vars["resource"], strings.Join(names, ", ")))
	}
	return d, res, nil
}

// lagHeader tells how far an answer may be behind what is committed, as an RFC
// 9651 item: how many seconds ago it was not behind at all, and how many places
// of the log are missing at most. A lag of 0.0 is what is to be expected; while
// partitions move between processes or are restored, reads are answered with
// what there is, and it says how old that is.
const lagHeader = "Touchstone-Lag"

func tellLag(w http.ResponseWriter, l views.Lag) {
	seconds := strconv.FormatFloat(l.Age.Round(time.Millisecond).Seconds(), 'f', -1, 64)
	if !strings.Contains(seconds, ".") {
		seconds += ".0"
	}
	w.Header().Set(lagHeader, seconds+";records="+strconv.FormatInt(l.Records, 10))
}

// find gives the entity of a path, one that no longer exists included.
func (a *API) find(w http.ResponseWriter, r *http.Request, d *Domain, res *definition.Resource) (*canonical.Entity, canonical.EntityKey, error) {
	tenant, err := a.Tenant(r)
	if err != nil {
		return nil, canonical.EntityKey{}, err
	}
	key := canonical.EntityKey{Tenant: tenant, Resource: res.Name, ID: mux.Vars(r)["id"]}
	tellLag(w, d.Entities.Lag(tenant, res.Name, key.ID))
	e, err := d.Entities.Get(tenant, res.Name, key.ID)
	if err == nil && e == nil {
		err = problem(http.StatusNotFound, "unknown-entity", fmt.Sprintf("no %s has the id %q", res.Name, key.ID))
	}
	return e, key, err
}

func include(q map[string]string) (provenance bool, err error) {
	switch s, ok := q["include"]; {
	case !ok:
		return false, nil
	case s == "provenance":
		return true, nil
	default:
		return false, badQuery("include", fmt.Sprintf("found %q, expected provenance", s))
	}
}

// getEntity serves one entity.
func (a *API) getEntity(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	q, err := query(r, "include", "wait", "timeout")
	if err != nil {
		return err
	}
	provenance, err := include(q)
	if err != nil {
		return err
	}
	if err := a.readYourWrites(r, d, res, q); err != nil {
		return err
	}
	e, _, err := a.find(w, r, d, res)
	if err != nil {
		return err
	}
	if !e.Exists {
		return problem(http.StatusGone, "gone", fmt.Sprintf("%s %s no longer exists: no source has a record of it", res.Name, e.ID))
	}
	body, err := json.Marshal(present(e, provenance))
	if err != nil {
		return err
	}
	tag := `"` + strconv.FormatInt(e.Version, 10) + `"`
	if provenance {
		// Who backs a value can change while the value stays.
		sum := sha256.Sum256(body)
		tag = `"` + strconv.FormatInt(e.Version, 10) + "." + hex.EncodeToString(sum[:8]) + `"`
	}
	w.Header().Set("ETag", tag)
	if noneMatch(r.Header.Get("If-None-Match"), tag) {
		w.Header().Set("Cache-Control", "no-cache")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	write(w, http.StatusOK, body)
	return nil
}

// noneMatch tells whether an If-None-Match has the tag (weak comparison, RFC
// 9110 §13.1.2). Our tags contain no commas.
func noneMatch(header, tag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
			return true
		}
	}
	return false
}

// defaultReadWait is how long a read waits for a write if it does not say.
const defaultReadWait = 10 * time.Second

// readYourWrites waits until the entity shows what a delivery did to it.
func (a *API) readYourWrites(r *http.Request, d *Domain, res *definition.Resource, q map[string]string) error {
	s, ok := q["wait"]
	if !ok {
		if _, ok := q["timeout"]; ok {
			return badQuery("timeout", "found without wait, expected together with it")
		}
		return nil
	}
	id, err := journal.ParseID(s)
	if err != nil {
		return badQuery("wait", err.Error())
	}
	if id.Domain != d.Definition.Name {
		return badQuery("wait", fmt.Sprintf("found a delivery of domain %s, expected one of %s", id.Domain, d.Definition.Name))
	}
	timeout := min(defaultReadWait, a.Limits.Wait)
	if s, ok := q["timeout"]; ok {
		if timeout, err = a.waitOf("timeout", s); err != nil {
			return err
		}
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	ctx, cancel := a.patient(r, timeout)
	defer cancel()
	late := problem(http.StatusGatewayTimeout, "wait-timeout", fmt.Sprintf("delivery %s is not visible after %s; it is not lost, ask again", id, timeout)).retry(1)

	version := int64(0)
	for range 4 { // a copy of a copy is told as a copy of the first; more is no chain of ours
		st, err := a.await(ctx, d, id, tenant)
		if err != nil {
			return err
		}
		if !st.Final {
			return late
		}
		for _, o := range st.Signals {
			if o.Resource == res.Name && o.Entity == mux.Vars(r)["id"] {
				version = max(version, o.Version)
			}
		}
		// A copy is visible when the first one is.
		first, err := journal.ParseID(st.First)
		if st.First == "" || err != nil || first == id {
			break
		}
		id = first
	}
	for {
		changed := d.Entities.Changed()
		e, err := d.Entities.Get(tenant, res.Name, mux.Vars(r)["id"])
		if err != nil {
			return err
		}
		if version == 0 || e != nil && e.Version >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return late
		}
	}
}

// listView is a page of entities.
type listView struct {
	Items  []entityView `json:"items"`
	Cursor string       `json:"cursor,omitempty"`
	Next   string       `json:"next,omitempty"`
}

// listParams are the parameters of a list that are not filters. A field of
// such a name cannot be filtered by.
var listParams = []string{"cursor", "include", "limit"}

// listEntities serves a page of the existing entities, by ascending id.
func (a *API) listEntities(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	allowed := slices.DeleteFunc(entities.Filters(res), func(f string) bool { return slices.Contains(listParams, f) })
	q, err := query(r, append(slices.Clone(listParams), allowed...)...)
	if err != nil {
		return err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	eq := entities.Query{Tenant: tenant, Resource: res.Name}
	if eq.Limit, err = limitOf(q); err != nil {
		return err
	}
	provenance, err := include(q)
	if err != nil {
		return err
	}
	asked := "list\n" + d.Definition.Name + "\n" + tenant + "\n" + res.Name
	for _, name := range allowed {
		text, ok := q[name]
		if !ok {
			continue
		}
		f, _ := res.Field(name)
		value, err := parseValue(f.Type, text)
		if err != nil {
			return badQuery(name, err.Error())
		}
		eq.Filters = append(eq.Filters, entities.Filter{Field: name, Value: value})
		asked += "\n" + name + "=" + string(value)
	}
	// The lifecycle state divides entities into few; look up another field first.
	if l := res.Lifecycle; l != nil && len(eq.Filters) > 1 && eq.Filters[0].Field == l.Field {
		eq.Filters = append(eq.Filters[1:], eq.Filters[0])
	}
	if eq.After, err = decodeCursor(q, asked); err != nil {
		return err
	}
	tellLag(w, d.Entities.Lag(tenant, res.Name, ""))
	page, err := d.Entities.List(eq)
	if err != nil {
		return err
	}
	v := listView{Items: make([]entityView, 0, len(page.Entities))}
	for _, e := range page.Entities {
		v.Items = append(v.Items, present(e, provenance))
	}
	if page.Next != "" {
		v.Cursor = encodeCursor(asked, page.Next)
		v.Next = nextLink(w, r, v.Cursor)
	}
	return answer(w, http.StatusOK, v)
}

// parseValue reads a filter's text as the field's type: text as it is for
// those that are strings in JSON, JSON for the others.
func parseValue(t canonical.Type, text string) (canonical.Value, error) {
	switch t.Kind {
	case canonical.KindString, canonical.KindEnum, canonical.KindDate, canonical.KindTimestamp, canonical.KindBytes, canonical.KindDecimal:
		return t.Coerce(text)
	}
	var v canonical.Value
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return "", fmt.Errorf("expected %s, found %q", t, text)
	}
	return t.Coerce(v.Any())
}

// historyView is a page of changes.
type historyView struct {
	Items  []*event.Change `json:"items"`
	Cursor string          `json:"cursor,omitempty"`
	Next   string          `json:"next,omitempty"`
}

// getHistory serves a page of an entity's changes.
func (a *API) getHistory(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	q, err := query(r, "cursor", "limit", "order")
	if err != nil {
		return err
	}
	hq := history.Query{}
	switch q["order"] {
	case "", "newest":
	case "oldest":
		hq.OldestFirst = true
	default:
		return badQuery("order", fmt.Sprintf("found %q, expected newest or oldest", q["order"]))
	}
	if hq.Limit, err = limitOf(q); err != nil {
		return err
	}
	// An entity that is gone has a history all the same.
	_, key, err := a.find(w, r, d, res)
	if err != nil {
		return err
	}
	hq.Key = key
	asked := fmt.Sprintf("history\n%s\n%s\n%v", d.Definition.Name, key, hq.OldestFirst)
	after, err := decodeCursor(q, asked)
	if err != nil {
		return err
	}
	if after != "" {
		if hq.After, err = strconv.ParseInt(after, 10, 64); err != nil {
			return badQuery("cursor", "found a cursor without a version, expected the one of a previous page's next link")
		}
	}
	tellLag(w, d.History.Lag(key))
	page, err := d.History.List(hq)
	if err != nil {
		return err
	}
	v := historyView{Items: page.Changes}
	if v.Items == nil {
		v.Items = []*event.Change{}
	}
	if page.Next != 0 {
		v.Cursor = encodeCursor(asked, strconv.FormatInt(page.Next, 10))
		v.Next = nextLink(w, r, v.Cursor)
	}
	return answer(w, http.StatusOK, v)
}

// explainView tells for fields who won, who lost and why.
type explainView struct {
	Domain   string                  `json:"domain"`
	Resource string                  `json:"resource"`
	ID       string                  `json:"id"`
	Version  int64                   `json:"version"`
	Exists   bool                    `json:"exists"`
	Fields   []authority.Explanation `json:"fields"`
}

// getExplain serves all claims for a field, or for every field that has one.
func (a *API) getExplain(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	q, err := query(r, "field")
	if err != nil {
		return err
	}
	if name, ok := q["field"]; ok {
		if _, known := res.Field(name); !known {
			return badQuery("field", fmt.Sprintf("found %q, expected a field of %s", name, res.Name))
		}
	}
	e, _, err := a.find(w, r, d, res)
	if err != nil {
		return err
	}
	v := explainView{Domain: d.Definition.Name, Resource: res.Name, ID: e.ID, Version: e.Version, Exists: e.Exists, Fields: explain(res, e, q["field"])}
	return answer(w, http.StatusOK, v)
}

// explain gives the explanation of one field, or of all that have a value or a claim.
func explain(res *definition.Resource, e *canonical.Entity, only string) []authority.Explanation {
	all := []authority.Explanation{}
	for _, f := range res.Fields {
		if only != "" && f.Name != only {
			continue
		}
		x, ok := authority.Explain(res, e, f.Name)
		if !ok || only == "" && len(x.Claims) == 0 && !x.Value.Present() {
			continue
		}
		if x.Claims == nil {
			x.Claims = []authority.ExplainedClaim{}
		}
		all = append(all, x)
	}
	return all
}

// entityPath is the path of an entity in the API or, with another prefix, in
// the console.
func entityPath(prefix, domain, resource, id string) string {
	return prefix + "/" + url.PathEscape(domain) + "/" + url.PathEscape(resource) + "/" + url.PathEscape(id)
}
