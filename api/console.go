package api

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views/entities"
	"github.com/touchstone-platform/touchstone/views/history"
)

//go:embed console/*
var consoleFiles embed.FS

// console renders the pages. Everything it shows came from outside; templates
// escape it by context, and the content security policy allows no script or
// style but our own files.
type console struct{ pages *template.Template }

func newConsole(sources []Source) (*console, error) {
	t, err := template.New("console").Funcs(template.FuncMap{
		"shown":  shown,
		"short":  func(v canonical.Value) string { return shorten(shown(v), 60) },
		"clock":  func(i envelope.Instant) string { return i.Time().Format("15:04:05") },
		"day":    func(i envelope.Instant) string { return i.Time().Format("2006-01-02 15:04:05") },
		"iso":    envelope.Instant.String,
		"count":  count,
		"colour": paletteOf(sources).class,
	}).ParseFS(consoleFiles, "console/*.html")
	if err != nil {
		return nil, err
	}
	return &console{t}, nil
}

const consolePolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (c *console) serve(w http.ResponseWriter, page string, data any) error {
	var b bytes.Buffer
	if err := c.pages.ExecuteTemplate(&b, page, data); err != nil {
		return fmt.Errorf("console: %s: %w", page, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", consolePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	write(w, http.StatusOK, b.Bytes())
	return nil
}

// fragment renders one change for the live list.
func (c *console) fragment(t told) ([]byte, error) {
	var b bytes.Buffer
	err := c.pages.ExecuteTemplate(&b, "change", t)
	return bytes.TrimSpace(b.Bytes()), err
}

func (a *API) consoleAsset(w http.ResponseWriter, r *http.Request) error {
	name := mux.Vars(r)["file"]
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	b, err := consoleFiles.ReadFile("console/" + name)
	if media := types[path.Ext(name)]; err == nil && media != "" {
		w.Header().Set("Content-Type", media)
		write(w, http.StatusOK, b)
		return nil
	}
	return problem(http.StatusNotFound, "unknown-route", "the console has no such file")
}

// told is a change as the console shows it.
type told struct {
	Domain string
	*event.Change
	Path, Journal string
}

func tell(c DomainChange) told {
	return told{c.Domain, c.Change, entityPath("/console", c.Domain, c.Change.Resource, c.Change.ID), c.Change.Journal}
}

// page is what every page has.
type page struct {
	Title, Version string
	Missing        []string
}

func (a *API) page(title string) page { return page{title, a.Version, a.Missing()} }

type overviewPage struct {
	page
	Flows     []flow
	Changes   []told
	Resources []resourceList
}

// flow is the picture of one domain: sources, then stations with the topics between them.
type flow struct {
	Domain, Doc string
	Sources     []flowSource
	Steps       []flowStep
	DeadLetters string
	Dead        int64
}

type flowSource struct {
	Name, Connector, Ingress string
	SourceStats
}

// flowStep is a topic and the station that reads it; the last has no station.
type flowStep struct {
	Topic, TopicShort string
	Records           int64
	Public            bool
	Group, Station    string
	Doc               string
	GroupStats
}

type resourceList struct {
	Domain, Resource, Doc, Path string
	Columns                     []string
	Rows                        []entityRow
	Next                        string
}

type entityRow struct {
	ID, Path, State string
	Version         int64
	Updated         envelope.Instant
	Values          []canonical.Value
}

const (
	overviewRows = 8
	listRows     = 100
	listColumns  = 4
)

func (a *API) consoleOverview(w http.ResponseWriter, r *http.Request) error {
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	p := overviewPage{page: a.page("Overview"), Flows: a.flows()}
	for _, c := range a.Changes.Recent() {
		if c.Change.Tenant == tenant {
			p.Changes = append(p.Changes, tell(c))
		}
	}
	for i := range a.Domains {
		d := &a.Domains[i]
		for _, res := range d.Definition.Resources {
			l, _, err := a.resourceList(d, res, tenant, "", overviewRows)
			if err != nil {
				return err
			}
			p.Resources = append(p.Resources, l)
		}
	}
	return a.pages.serve(w, "overview", p)
}

// flows draws the topology: the chain of groups from the journal on.
func (a *API) flows() []flow {
	stats, sources := a.Stats(), a.sources()
	var flows []flow
	for _, d := range a.Domains {
		name := d.Definition.Name
		f := flow{Domain: name, Doc: d.Definition.Doc, DeadLetters: topology.DeadLetters(name), Dead: stats.Topics[topology.DeadLetters(name)].Records}
		for _, s := range sources {
			if s.Domain == name {
				f.Sources = append(f.Sources, flowSource{s.Name, s.Connector, s.Ingress, s.Stats})
			}
		}
		step := func(t string) flowStep {
			declared, _ := a.Topology.Topic(t)
			short := t
			if len(t) > len(name)+1 {
				short = t[len(name)+1:]
			}
			return flowStep{Topic: t, TopicShort: short, Records: stats.Topics[t].Records, Public: declared.Public}
		}
		for _, g := range a.Topology.Groups {
			if g.Domain != name || len(g.Inputs) == 0 {
				continue
			}
			s := step(g.Inputs[0])
			s.Group, s.Station, s.Doc, s.GroupStats = g.Name, g.Station, g.Doc, stats.Groups[g.Name]
			f.Steps = append(f.Steps, s)
		}
		f.Steps = append(f.Steps, step(topology.Events(name)))
		flows = append(flows, f)
	}
	return flows
}

func (a *API) resourceList(d *Domain, res *definition.Resource, tenant, after string, limit int) (l resourceList, next string, err error) {
	found, err := d.Entities.List(entities.Query{Tenant: tenant, Resource: res.Name, After: after, Limit: limit})
	if err != nil {
		return l, "", err
	}
	name := d.Definition.Name
	l = resourceList{Domain: name, Resource: res.Name, Doc: res.Doc, Path: "/console/" + name + "/" + res.Name, Columns: columns(res)}
	for _, e := range found.Entities {
		row := entityRow{ID: e.ID, Path: entityPath("/console", name, res.Name, e.ID), State: e.State, Version: e.Version, Updated: e.UpdatedAt}
		for _, c := range l.Columns {
			v := canonical.Value("")
			if f, ok := e.Field(c); ok {
				v = f.Value
			}
			row.Values = append(row.Values, v)
		}
		l.Rows = append(l.Rows, row)
	}
	return l, found.Next, nil
}

// columns picks the fields that a list shows: short ones that say who or what
// it is, filters and identity first; the lifecycle state has its own column.
func columns(res *definition.Resource) []string {
	var first, rest []string
	for _, f := range res.Fields {
		if res.Lifecycle != nil && res.Lifecycle.Field == f.Name {
			continue
		}
		switch f.Type.Kind {
		case canonical.KindRecord, canonical.KindList, canonical.KindMap, canonical.KindJSON, canonical.KindBytes:
			continue
		}
		if f.Filter || slices.Contains(res.Identity, f.Name) {
			first = append(first, f.Name)
		} else {
			rest = append(rest, f.Name)
		}
	}
	all := append(first, rest...)
	return all[:min(len(all), listColumns)]
}

func (a *API) consoleList(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	q, err := query(r, "cursor")
	if err != nil {
		return err
	}
	asked := "console\n" + d.Definition.Name + "\n" + tenant + "\n" + res.Name
	after, err := decodeCursor(q, asked)
	if err != nil {
		return err
	}
	l, next, err := a.resourceList(d, res, tenant, after, listRows)
	if err != nil {
		return err
	}
	if next != "" {
		l.Next = nextLink(w, r, encodeCursor(asked, next))
	}
	return a.pages.serve(w, "list", struct {
		page
		resourceList
	}{a.page(res.Name + " · " + d.Definition.Name), l})
}

type entityPage struct {
	page
	Domain, Resource, Doc, APIPath, ListPath string
	Entity                                   *canonical.Entity
	Fields                                   []fieldRow
	Rejections                               []canonical.Rejection
	History                                  []told
	More                                     bool
}

type fieldRow struct {
	authority.Explanation
	Doc, Type, PII, Group string
	Since                 int64
	Winner                *authority.ExplainedClaim
	Others                []authority.ExplainedClaim
}

const historyRows = 30

func (a *API) consoleEntity(w http.ResponseWriter, r *http.Request) error {
	d, res, err := a.resource(r)
	if err != nil {
		return err
	}
	e, key, err := a.find(w, r, d, res)
	if err != nil {
		return err
	}
	name := d.Definition.Name
	p := entityPage{
		page: a.page(e.ID + " · " + res.Name), Domain: name, Resource: res.Name, Doc: res.Doc,
		APIPath: entityPath("/v1", name, res.Name, e.ID), ListPath: "/console/" + name + "/" + res.Name, Entity: e, Rejections: e.Rejections,
	}
	for _, x := range explain(res, e, "") {
		p.Fields = append(p.Fields, fieldRowOf(res, e, x))
	}
	h, err := d.History.List(history.Query{Key: key, Limit: historyRows})
	if err != nil {
		return err
	}
	for _, c := range h.Changes {
		p.History = append(p.History, tell(DomainChange{name, c}))
	}
	p.More = h.Next != 0
	return a.pages.serve(w, "entity", p)
}

func fieldRowOf(res *definition.Resource, e *canonical.Entity, x authority.Explanation) fieldRow {
	row := fieldRow{Explanation: x}
	if f, ok := res.Field(x.Field); ok {
		row.Doc, row.Type, row.PII, row.Group = f.Doc, f.Type.String(), f.PII, f.Group
	}
	if f, ok := e.Field(x.Field); ok {
		row.Since = f.Since
	}
	for i := range x.Claims {
		if c := &x.Claims[i]; c.Won && row.Winner == nil {
			row.Winner = c
		} else {
			row.Others = append(row.Others, *c)
		}
	}
	return row
}

// shown is a value for people: text without quotes, other values as JSON.
func shown(v canonical.Value) string {
	switch v {
	case "":
		return ""
	case canonical.Null:
		return "null"
	}
	if v[0] == '"' {
		return v.Text()
	}
	return string(v)
}

func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// count groups digits by narrow spaces: 12 345.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	out := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if i > 0 && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			out = append(out, "\u202f"...)
		}
		out = append(out, s[i])
	}
	return string(out)
}

// palette numbers the sources by their names, so that two of them share one of
// the style sheet's eight badge classes only where there are more than eight.
type palette map[string]int

func paletteOf(sources []Source) palette {
	var names []string
	for _, s := range sources {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	p := palette{}
	for i, name := range slices.Compact(names) {
		p[name] = i
	}
	return p
}

// class of a source's badge; a source that is no longer declared has none.
func (p palette) class(source string) string {
	if i, ok := p[source]; ok {
		return "c" + strconv.Itoa(i%8)
	}
	return ""
}

// The console asks for new counters this often; kept here beside the markup
// that tells the script.
const refresh = 2 * time.Second

// Refresh is that interval in milliseconds.
func (page) Refresh() int64 { return refresh.Milliseconds() }
