package registry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// readSources reads the key sources.
func (l *loader) readSources(p place) {
	o, ok := l.object(p, "a mapping of sources by name")
	if ok && len(o.members) == 0 {
		l.report(p, "no source", "at least one")
	}
	for _, m := range o.members {
		before := len(l.problems)
		l.name(m.key, m.name, hyphenName, "lower-case words joined by hyphens, such as billing or web-shop")
		if s := l.source(m); s != nil {
			l.domain.Sources = append(l.domain.Sources, s)
		}
		l.broken[m.name] = len(l.problems) > before
	}
}

func (l *loader) source(m member) *definition.Source {
	o, ok := l.object(m.value, "a source: a mapping with the keys connector, settings, map")
	if !ok {
		return nil
	}
	s := &definition.Source{Name: m.name, Doc: o.doc()}
	var kind connectors.Kind
	names := make([]string, len(l.kinds.Sources))
	for i, k := range l.kinds.Sources {
		names[i] = k.Name()
	}
	if p, ok := o.need("connector", "a kind of connector: "+strings.Join(names, ", ")); ok {
		if s.Connector, ok = l.text(p, "a kind of connector"); ok {
			if i := slices.Index(names, s.Connector); i >= 0 {
				kind = l.kinds.Sources[i]
			} else {
				l.suggest(p, "unknown connector "+quote(s.Connector), "one of "+strings.Join(names, ", "), suggest(s.Connector, names))
			}
		}
	}
	if p, ok := o.get("dedupe"); ok {
		l.dedupe(p, s, kind)
	}
	if p, ok := o.get("orderBy"); ok {
		if x := l.expr(p, l.mappingScope(kind, false), expression.Key()); x != nil {
			s.OrderBy = x
		}
	}
	before := len(l.problems)
	settings, hasSettings := o.get("settings")
	if hasSettings {
		s.Settings = l.settings(settings)
	} else {
		settings = o.in("settings", o.node)
	}
	if kind != nil && len(l.problems) == before {
		l.open(settings, s, kind)
	}
	if p, ok := o.need("map", "at least one mapping rule"); ok {
		l.rules(p, s, kind)
	}
	o.close()
	return s
}

// settings gives the plain values of a connector's settings.
func (l *loader) settings(p place) map[string]any {
	v, ok := l.plainValue(p).(map[string]any)
	if !ok {
		l.report(p, describe(p.node), "a mapping of settings")
	}
	return v
}

func (l *loader) plainValue(p place) any {
	switch p.node.Kind {
	case yaml.MappingNode:
		o, _ := l.object(p, "a mapping")
		m := make(map[string]any, len(o.members))
		for _, x := range o.members {
			m[x.name] = l.plainValue(x.value)
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(p.node.Content))
		for i := range p.node.Content {
			list[i] = l.plainValue(p.at(i))
		}
		return list
	}
	if p.node.Tag == "!!timestamp" {
		return p.node.Value // settings have no times, only text that looks like one
	}
	var v any
	if err := p.node.Decode(&v); err != nil {
		l.report(p, describe(p.node), "a plain value: "+err.Error())
	}
	return v
}

// placeholder stands for every secret while settings are checked: the secrets
// themselves are not needed for that and often not there. It is valid as text,
// as hexadecimal and as base64 alike.
const placeholder = "706c616365686f6c646572706c616365686f6c646572706c616365686f6c6465"

// Placeholders is a connectors.Secrets for checks and fixtures, where no
// signature is verified: it checks the form of a reference, env:NAME or
// file:PATH, and gives the same value for all of them.
func Placeholders(ref string) (string, error) {
	scheme, name, ok := strings.Cut(ref, ":")
	if !ok || name == "" || scheme != "env" && scheme != "file" {
		return "", fmt.Errorf("expected a secret reference env:NAME or file:PATH, found %q", ref)
	}
	return placeholder, nil
}

// open lets the connector check the settings.
func (l *loader) open(p place, s *definition.Source, kind connectors.Kind) {
	_, err := kind.Open(s, Placeholders)
	if err == nil {
		return
	}
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		l.report(p, "settings that connector "+kind.Name()+" does not take: "+err.Error(), "settings as docs/connectors.md tells")
		return
	}
	var known []string
	for _, k := range kind.Settings() {
		known = append(known, k.Key)
	}
	for _, w := range wrong {
		at := p
		if p.node.Kind == yaml.MappingNode {
			at = settingPlace(p, w.Key)
		}
		at.key = p.key + "." + w.Key
		suggestion := ""
		if !slices.Contains(known, w.Key) && (strings.Contains(w.Found, "unknown") || strings.HasPrefix(w.Expected, "no such setting")) {
			suggestion = suggest(w.Key, known)
		}
		l.suggest(at, w.Found, w.Expected, suggestion)
	}
}

// settingPlace finds the node of a dotted key ("secrets[0].ref"), or of the
// nearest key above it that is there.
func settingPlace(p place, key string) place {
	for _, part := range strings.Split(strings.NewReplacer("[", ".", "]", "").Replace(key), ".") {
		var next *yaml.Node
		switch p.node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(p.node.Content); i += 2 {
				if p.node.Content[i].Value == part {
					next = p.node.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(part); err == nil && i >= 0 && i < len(p.node.Content) {
				next = p.node.Content[i]
			}
		}
		if next == nil {
			return p
		}
		p.node = next
	}
	return p
}

// dedupe reads how copies are recognised.
func (l *loader) dedupe(p place, s *definition.Source, kind connectors.Kind) {
	o, ok := l.object(p, "a mapping with the keys header, id, volatile")
	if !ok {
		return
	}
	if header, ok := o.get("header"); ok {
		if name, ok := l.text(header, "the header that carries the sender's event id"); ok {
			if strings.ContainsAny(name, " :,;\"\t\n") {
				l.report(header, quote(name), "a header name")
			}
			s.Dedupe.Header = strings.ToLower(name)
		}
	}
	if id, ok := o.get("id"); ok {
		if x := l.expr(id, l.mappingScope(kind, false), expression.Key()); x != nil {
			s.Dedupe.ID = x
		}
		if header, both := o.get("header"); both {
			l.report(header, "header together with id", "one of them")
		}
	}
	if volatile, ok := o.get("volatile"); ok {
		const form = "a list of JSON pointers such as /meta/sentAt"
		for _, e := range l.list(volatile, form) {
			if !strings.HasPrefix(e.text, "/") || strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(e.text), "~") {
				l.report(e.place, quote(e.text), "a JSON pointer (RFC 6901) such as /meta/sentAt")
			}
			s.Dedupe.Volatile = append(s.Dedupe.Volatile, e.text)
		}
	}
	o.close()
}

// mappingScope gives the scope of a kind's records; nil if the kind is not known.
func (l *loader) mappingScope(kind connectors.Kind, item bool) *expression.Scope {
	if kind == nil {
		return nil
	}
	var variables []expression.Variable
	for _, v := range kind.Variables() {
		variables = append(variables, expression.Variable{Name: v.Name})
	}
	variables = append(variables, expression.Variable{Name: "entry", Members: expression.EntryMembers()})
	name := "records of " + kind.Name()
	if item {
		variables, name = append(variables, expression.Variable{Name: "item"}), name+" by item"
	}
	return l.scope(name, variables...)
}

// rules reads the mapping of a source.
func (l *loader) rules(p place, s *definition.Source, kind connectors.Kind) {
	if p.node.Kind != yaml.SequenceNode || len(p.node.Content) == 0 {
		found := describe(p.node)
		if p.node.Kind == yaml.SequenceNode {
			found = "an empty list"
		}
		l.report(p, found, "a list of mapping rules")
		return
	}
	names := map[string]bool{}
	for i := range p.node.Content {
		o, ok := l.object(p.at(i), "a mapping rule: a mapping with the keys resource, key, fields")
		if !ok {
			continue
		}
		r := l.rule(o, s, kind)
		r.Line = o.node.Line
		if r.Name == "" {
			r.Name = s.Name + "/" + strconv.Itoa(i+1)
		}
		if names[r.Name] {
			l.report(o.in("name", o.node), quote(r.Name)+" a second time", "a name of its own for each rule")
		}
		names[r.Name] = true
		s.Rules = append(s.Rules, r)
	}
}

// rule reads one mapping rule.
func (l *loader) rule(o *object, s *definition.Source, kind connectors.Kind) *definition.Rule {
	r := &definition.Rule{Name: o.optionalText("name", "a name for the rule")}
	each, hasEach := o.get("each")
	scope := l.mappingScope(kind, hasEach)
	if hasEach {
		if x := l.expr(each, l.mappingScope(kind, false), expression.List()); x != nil {
			r.Each = x
		}
	}
	if p, ok := o.get("when"); ok {
		r.When = l.condition(p, scope)
	}
	var resource *definition.Resource
	if p, ok := o.need("resource", "the resource that the rule speaks of"); ok {
		if r.Resource, ok = l.text(p, "the resource that the rule speaks of"); ok {
			if resource = l.resourceNamed(r.Resource); resource == nil {
				var names []string
				for _, x := range l.domain.Resources {
					names = append(names, x.Name)
				}
				l.suggest(p, "unknown resource "+quote(r.Resource), "a resource of the domain: "+orNone(names), suggest(r.Resource, names))
			}
		}
	}
	if p, ok := o.need("key", "an expression that gives the source's own key of the record"); ok {
		if x := l.expr(p, scope, expression.Key()); x != nil {
			r.Key = x
		}
	}
	if p, ok := o.get("occurredAt"); ok {
		if x := l.expr(p, scope, expression.Moment()); x != nil {
			r.OccurredAt = x
		}
	}
	if p, ok := o.get("sequence"); ok {
		if x := l.expr(p, scope, expression.Integer()); x != nil {
			r.Sequence = x
		}
	}
	deleted, hasDeleted := o.get("deleted")
	if hasDeleted {
		r.Deleted = l.condition(deleted, scope)
	}
	identity, hasIdentity := o.get("identity")
	fields, hasFields := o.get("fields")
	if !hasFields && !hasDeleted {
		l.report(o.in("fields", o.node), "nothing", "the fields that the rule claims, or deleted")
	}
	o.close()
	if resource == nil {
		return r
	}
	given := map[string]*expression.Expr{}
	if hasFields {
		l.ruleFields(fields, r, resource, scope, given)
	}
	if hasIdentity {
		l.ruleIdentity(identity, resource, scope, given)
	}
	for _, name := range resource.Identity {
		x, ok := given[name]
		if !ok {
			l.report(o.in("identity."+name, o.node), "nothing", "the identity field "+name+" of "+resource.Name+", under identity or fields")
		}
		if x != nil {
			r.Identity = append(r.Identity, x)
		}
	}
	return r
}

// ruleFields reads what a rule claims. given receives the identity fields.
func (l *loader) ruleFields(p place, r *definition.Rule, resource *definition.Resource, scope *expression.Scope, given map[string]*expression.Expr) {
	o, ok := l.object(p, "a mapping from field to expression")
	if !ok {
		return
	}
	seen := map[string]bool{}
	for _, m := range o.members {
		name, optional := strings.CutPrefix(m.name, "?")
		f, ok := resource.Field(name)
		if !ok {
			l.unknownField(m.key, name, resource)
			continue
		}
		if seen[name] {
			l.report(m.key, "field "+name+" a second time", "each field once")
			continue
		}
		seen[name] = true
		isIdentity := slices.Contains(resource.Identity, name)
		if isIdentity && optional {
			l.report(m.key, "an optional identity field", name+" without the question mark: without it there is no entity to speak of")
		}
		fr := definition.FieldRule{Field: name, Optional: optional}
		x := l.claim(m, f, resource, scope, &fr)
		if isIdentity {
			given[name] = x
		}
		if x != nil {
			fr.Expr = x
		}
		r.Fields = append(r.Fields, fr)
	}
	slices.SortFunc(r.Fields, func(a, b definition.FieldRule) int { return cmp.Compare(a.Field, b.Field) })
}

// claim reads the value of one field of a rule: an expression, or a mapping of
// value and states.
func (l *loader) claim(m member, f *definition.Field, resource *definition.Resource, scope *expression.Scope, fr *definition.FieldRule) *expression.Expr {
	if m.value.node.Kind != yaml.MappingNode {
		return l.expr(m.value, scope, expression.Value(f.Type))
	}
	o, _ := l.object(m.value, "")
	value, hasValue := o.need("value", "an expression")
	states, hasStates := o.get("states")
	o.close()
	want := expression.Value(f.Type)
	if hasStates {
		if resource.Lifecycle == nil || resource.Lifecycle.Field != f.Name {
			l.report(states, "states of field "+f.Name, "them for the lifecycle field only")
		} else if fr.States = l.stateMap(states, resource); fr.States != nil {
			want = expression.Status(sortedKeys(fr.States))
		}
	}
	if !hasValue {
		return nil
	}
	return l.expr(value, scope, want)
}

// stateMap reads the mapping from a source's statuses to lifecycle states.
func (l *loader) stateMap(p place, resource *definition.Resource) map[string]string {
	o, ok := l.object(p, "a mapping from the source's status to a lifecycle state")
	if !ok {
		return nil
	}
	if len(o.members) == 0 {
		l.report(p, "no status", "at least one")
	}
	known := lifecycleStates(resource)
	out := make(map[string]string, len(o.members))
	for _, m := range o.members {
		s, ok := l.text(m.value, "a lifecycle state")
		if !ok {
			continue
		}
		if !slices.Contains(known, s) {
			l.suggest(m.value, "unknown state "+quote(s), "a state of the lifecycle: "+strings.Join(known, ", "), suggest(s, known))
		}
		out[m.name] = s
	}
	return out
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ruleIdentity reads the identity fields that a rule gives without claiming
// them, or in another form than it claims them.
func (l *loader) ruleIdentity(p place, resource *definition.Resource, scope *expression.Scope, given map[string]*expression.Expr) {
	o, ok := l.object(p, "a mapping from identity field to expression")
	if !ok {
		return
	}
	for _, m := range o.members {
		if !slices.Contains(resource.Identity, m.name) {
			l.suggest(m.key, quote(m.name), "an identity field of "+resource.Name+": "+orNone(resource.Identity), suggest(m.name, resource.Identity))
			continue
		}
		f, ok := resource.Field(m.name)
		if !ok {
			continue // reported with the resource
		}
		given[m.name] = l.expr(m.value, scope, expression.Identifier(f.Type))
	}
}

// checkPromises makes sure that every authority can speak: a source that maps
// none of the fields it is an authority for is a slip of the pen.
func (l *loader) checkPromises() {
	for _, p := range l.promises {
		if l.broken[p.source] {
			continue
		}
		i := slices.IndexFunc(l.domain.Sources, func(s *definition.Source) bool { return s.Name == p.source })
		if i < 0 {
			continue
		}
		speaks := slices.ContainsFunc(l.domain.Sources[i].Rules, func(r *definition.Rule) bool {
			return r.Resource == p.resource && slices.ContainsFunc(r.Fields, func(f definition.FieldRule) bool { return slices.Contains(p.fields, f.Field) })
		})
		if !speaks {
			l.report(p.place, quote(p.source), "a source with a mapping rule for "+p.resource+" that claims "+strings.Join(p.fields, " or "))
		}
	}
}
