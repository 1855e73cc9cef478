package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/definition"
)

// domainView is a definition as `domain show` tells it.
type domainView struct {
	domainLine
	Owners    ownersView     `json:"owners"`
	Resources []resourceView `json:"resources"`
	Sources   []sourceView   `json:"sources"`
}

type ownersView struct {
	Business        string `json:"business,omitempty"`
	Technical       string `json:"technical,omitempty"`
	ChangeAuthority string `json:"changeAuthority,omitempty"`
}

type resourceView struct {
	Name      string         `json:"name"`
	Doc       string         `json:"doc,omitempty"`
	Identity  []string       `json:"identity"`
	Fields    []fieldView    `json:"fields"`
	Lifecycle *lifecycleView `json:"lifecycle,omitempty"`
	Events    []eventView    `json:"events"`
}

// fieldView is a field; Authority and Policy are those of its group if it has one.
type fieldView struct {
	Name      string   `json:"name"`
	Doc       string   `json:"doc,omitempty"`
	Type      string   `json:"type"`
	Authority []string `json:"authority"`
	Policy    string   `json:"policy"`
	MaxAge    string   `json:"maxAge,omitempty"`
	Group     string   `json:"group,omitempty"`
	PII       string   `json:"pii,omitempty"`
	Writable  bool     `json:"writable,omitempty"`
	Filter    bool     `json:"filter,omitempty"`
	Identity  bool     `json:"identity,omitempty"`
	Lifecycle bool     `json:"lifecycle,omitempty"`
}

type lifecycleView struct {
	Field   string              `json:"field"`
	Initial string              `json:"initial"`
	Moves   map[string][]string `json:"moves"`
}

type eventView struct {
	Type string `json:"type"`
	Doc  string `json:"doc,omitempty"`
	When string `json:"when"`
}

type sourceView struct {
	Name      string     `json:"name"`
	Doc       string     `json:"doc,omitempty"`
	Connector string     `json:"connector"`
	Rules     []ruleView `json:"rules"`
}

type ruleView struct {
	Name     string   `json:"name"`
	Resource string   `json:"resource"`
	When     string   `json:"when,omitempty"`
	Fields   []string `json:"fields"`
}

func viewOf(d *definition.Domain) domainView {
	v := domainView{
		domainLine: lineOf(d), Owners: ownersView(d.Owners),
		Resources: []resourceView{}, Sources: []sourceView{},
	}
	for _, r := range d.Resources {
		v.Resources = append(v.Resources, resourceOf(r))
	}
	for _, s := range d.Sources {
		sv := sourceView{Name: s.Name, Doc: s.Doc, Connector: s.Connector, Rules: []ruleView{}}
		for _, r := range s.Rules {
			rv := ruleView{Name: r.Name, Resource: r.Resource, Fields: []string{}}
			if r.When != nil {
				rv.When = r.When.Source()
			}
			for _, f := range r.Fields {
				rv.Fields = append(rv.Fields, f.Field)
			}
			sv.Rules = append(sv.Rules, rv)
		}
		v.Sources = append(v.Sources, sv)
	}
	return v
}

func resourceOf(r *definition.Resource) resourceView {
	v := resourceView{Name: r.Name, Doc: r.Doc, Identity: r.Identity, Fields: []fieldView{}, Events: []eventView{}}
	for _, f := range r.Fields {
		fv := fieldView{
			Name: f.Name, Doc: f.Doc, Type: f.Type.String(), Authority: f.Authority, Policy: string(f.Policy), Group: f.Group, PII: f.PII,
			Writable: f.Writable, Filter: f.Filter, Identity: slices.Contains(r.Identity, f.Name),
		}
		maxAge := f.MaxAge
		if i := slices.IndexFunc(r.Groups, func(g *definition.Group) bool { return g.Name == f.Group && f.Group != "" }); i >= 0 {
			g := r.Groups[i]
			fv.Authority, fv.Policy, maxAge = g.Authority, string(g.Policy), g.MaxAge
		}
		if fv.Policy == "" {
			fv.Policy = string(definition.Priority)
		}
		if f.Policy == definition.Expression && f.Resolve != nil {
			fv.Policy += " " + f.Resolve.Source()
		}
		if maxAge > 0 {
			fv.MaxAge = age(maxAge)
		}
		if l := r.Lifecycle; l != nil && l.Field == f.Name {
			fv.Lifecycle, fv.Policy = true, "lifecycle"
		}
		v.Fields = append(v.Fields, fv)
	}
	if l := r.Lifecycle; l != nil {
		v.Lifecycle = &lifecycleView{l.Field, l.Initial, l.Moves}
	}
	for _, x := range r.Events {
		v.Events = append(v.Events, eventView{x.Type, x.Doc, whenText(x.When)})
	}
	return v
}

// whenText words the condition of an event rule.
func whenText(w definition.When) string {
	var parts []string
	add := func(holds bool, text string) {
		if holds {
			parts = append(parts, text)
		}
	}
	add(w.Created, "created")
	add(w.Deleted, "deleted")
	add(w.Restored, "restored")
	add(len(w.Enters) > 0, "enters "+strings.Join(w.Enters, " or "))
	add(len(w.Leaves) > 0, "leaves "+strings.Join(w.Leaves, " or "))
	add(w.AnyChange, "anything changes")
	add(len(w.Changes) > 0, "changes "+strings.Join(w.Changes, " or "))
	if w.If != nil {
		parts = append(parts, "if "+w.If.Source())
	}
	return strings.Join(parts, ", ")
}

func newDomainShow(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a domain: fields with their authorities, lifecycle, events, sources",
		Example: `  touchstone domain show customer-management
  touchstone domain show orders --domains ./domains -o yaml`,
		Args: arguments("NAME"),
	}
	domains, out := domainsFlag(c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(_ *cobra.Command, args []string) error {
		all, err := loadDomains(*domains)
		if err != nil {
			return err
		}
		var names []string
		for _, d := range all {
			if d.Name == args[0] {
				v := viewOf(d)
				return e.printer(out).print(v, v.write)
			}
			names = append(names, d.Name)
		}
		return &exitError{code: exitNotFound, err: fmt.Errorf("no domain is named %q; there are %s", args[0], strings.Join(names, ", "))}
	}
	return c
}

// write prints the definition for people.
func (v domainView) write(p printer) error {
	head := table{}
	head.add("domain", v.Name)
	for _, row := range [][2]string{
		{"", v.Doc}, {"business owner", v.Owners.Business}, {"technical owner", v.Owners.Technical}, {"changes approved by", v.Owners.ChangeAuthority},
		{"file", v.File}, {"fingerprint", v.Fingerprint},
	} {
		if row[1] != "" {
			head.add(row[0], row[1])
		}
	}
	if err := head.write(p); err != nil {
		return err
	}
	for _, r := range v.Resources {
		if err := r.write(p); err != nil {
			return err
		}
	}
	if err := p.printf("\n%s\n", "sources"); err != nil {
		return err
	}
	t := table{indent: "  ", header: []string{"SOURCE", "CONNECTOR", "RULE", "RESOURCE", "FIELDS", "WHEN"}}
	for _, s := range v.Sources {
		for i, r := range s.Rules {
			name, connector := s.Name, s.Connector
			if i > 0 {
				name, connector = "", ""
			}
			t.add(name, connector, r.Name, r.Resource, fmt.Sprint(len(r.Fields)), r.When)
		}
	}
	return t.write(p)
}

func (r resourceView) write(p printer) error {
	if err := p.printf("\nresource %s, identified by %s\n", r.Name, strings.Join(r.Identity, " + ")); err != nil {
		return err
	}
	if r.Doc != "" {
		if err := p.printf("  %s\n", r.Doc); err != nil {
			return err
		}
	}
	fields := table{indent: "  ", header: []string{"FIELD", "TYPE", "AUTHORITY", "POLICY", "NOTES"}}
	for _, f := range r.Fields {
		fields.add(f.Name, f.Type, strings.Join(f.Authority, " > "), f.Policy, f.notes())
	}
	if err := fields.write(p); err != nil {
		return err
	}
	if l := r.Lifecycle; l != nil {
		if err := p.printf("\n  lifecycle of %s, from %s\n", l.Field, l.Initial); err != nil {
			return err
		}
		moves, states := table{indent: "    "}, []string{}
		for s := range l.Moves {
			states = append(states, s)
		}
		slices.Sort(states)
		for _, s := range states {
			to := strings.Join(l.Moves[s], ", ")
			if to == "" {
				to = "(final)"
			}
			moves.add(s, "→ "+to)
		}
		if err := moves.write(p); err != nil {
			return err
		}
	}
	if len(r.Events) == 0 {
		return nil
	}
	if err := p.printf("\n"); err != nil {
		return err
	}
	events := table{indent: "  ", header: []string{"EVENT", "WHEN"}}
	for _, x := range r.Events {
		events.add(x.Type, x.When)
	}
	return events.write(p)
}

func (f fieldView) notes() string {
	var notes []string
	add := func(holds bool, text string) {
		if holds {
			notes = append(notes, text)
		}
	}
	add(f.Identity, "identity")
	add(f.Filter, "filter")
	add(f.Writable, "writable")
	add(f.Group != "", "group "+f.Group)
	add(f.MaxAge != "", "at most "+f.MaxAge+" old")
	add(f.PII != "", "pii "+f.PII)
	return strings.Join(notes, ", ")
}

// age words a duration as a definition would: 30d, 12h, 1h30m.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
