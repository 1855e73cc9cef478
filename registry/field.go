package registry

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

const kindMapping = yaml.MappingNode

// promise is a source named as an authority: one of its rules must map the
// field, or one field of the group.
type promise struct {
	place
	source, resource string
	fields           []string
}

// fields reads the fields of a resource. groups gives the group of a field.
func (l *loader) fields(p place, r *definition.Resource, m *machine, groups map[string]*definition.Group) {
	o, ok := l.object(p, "a mapping of fields by name")
	if ok && len(o.members) == 0 {
		l.report(p, "no field", "at least one")
	}
	for _, member := range o.members {
		l.name(member.key, member.name, lowerName, "a name in lowerCamelCase, such as legalName")
		if f := l.field(member, r, m, groups[member.name]); f != nil {
			r.Fields = append(r.Fields, f)
		}
	}
}

func (l *loader) field(m member, r *definition.Resource, states *machine, group *definition.Group) *definition.Field {
	o, ok := l.object(m.value, "a field: a mapping with at least the keys type and authority")
	if !ok {
		return nil
	}
	f := &definition.Field{Name: m.name, Doc: o.doc(), Policy: definition.Priority}
	var symbols []string
	isState := states != nil && states.lifecycle.Field == m.name
	if isState {
		symbols = states.order
	}
	f.Type = l.typeOf(o, symbols, 0)
	f.PII = o.optionalText("pii", "a category of personal data, such as contact")
	f.Writable, f.Filter = o.flag("writable"), o.flag("filter")
	if f.Filter {
		switch f.Type.Kind {
		case canonical.KindRecord, canonical.KindList, canonical.KindMap, canonical.KindJSON, canonical.KindBytes:
			p, _ := o.get("filter")
			l.report(p, "a filter on type "+f.Type.String(), "a field of a simple type")
		}
	}
	if group != nil {
		f.Group, f.Authority, f.Policy, f.MaxAge = group.Name, group.Authority, group.Policy, group.MaxAge
		for _, key := range []string{"authority", "policy", "maxAge", "trust", "halfLife", "expression"} {
			if p, ok := o.get(key); ok {
				l.report(p, key+" of a field in group "+group.Name, "it to be said by the group")
			}
		}
		if isState {
			l.report(m.key, "the lifecycle field in group "+group.Name, "the lifecycle field on its own")
		}
		o.close()
		return f
	}
	if p, ok := o.need("authority", "the sources that may decide the field, the most authoritative first"); ok {
		f.Authority = l.authority(p, r.Name, []string{m.name})
	}
	l.policy(o, f, isState)
	f.MaxAge = o.duration("maxAge")
	if p, ok := o.get("maxAge"); ok && isState {
		l.report(p, "maxAge of the lifecycle field", "none: moves do not age")
	}
	o.close()
	return f
}

// authority reads a list of sources.
func (l *loader) authority(p place, resource string, fields []string) []string {
	var out []string
	for _, e := range l.list(p, "the sources that may decide, the most authoritative first") {
		if !slices.Contains(l.sources, e.text) {
			l.suggest(e.place, "unknown source "+quote(e.text), "a source of the domain: "+orNone(l.sources), suggest(e.text, l.sources))
			continue
		}
		out = append(out, e.text)
		l.promises = append(l.promises, promise{e.place, e.text, resource, fields})
	}
	return out
}

// policyNames lists policies for messages.
func policyNames(ps []definition.Policy) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = string(p)
	}
	return out
}

// policy reads how the winner is chosen, and what belongs to single policies.
func (l *loader) policy(o *object, f *definition.Field, isState bool) {
	if p, ok := o.get("policy"); ok {
		if s, ok := l.text(p, "a policy"); ok {
			f.Policy = definition.Policy(s)
			if names := policyNames(definition.Policies()); !slices.Contains(names, s) {
				l.suggest(p, quote(s), "one of "+strings.Join(names, ", "), suggest(s, names))
			}
			if isState {
				l.report(p, "a policy of the lifecycle field", "none: its value is decided by the moves of the lifecycle")
			}
			l.policyType(p, f)
		}
	}
	if p, ok := o.get("trust"); ok {
		l.trust(p, f)
	}
	f.HalfLife = o.duration("halfLife")
	if p, ok := o.get("halfLife"); ok && f.Policy != definition.Weighted {
		l.report(p, "halfLife with policy "+string(f.Policy), "it with policy weighted only")
	}
	p, ok := o.get("expression")
	switch {
	case ok && f.Policy != definition.Expression:
		l.report(p, "an expression with policy "+string(f.Policy), "it with policy expression only")
	case !ok && f.Policy == definition.Expression:
		l.report(o.in("expression", o.node), "nothing", "the expression that chooses the value among claims")
	case ok:
		text, isText := l.text(p, "an expression over claims")
		if !isText {
			return
		}
		resolver, wrong := l.scope("claims", expression.Variable{Name: "claims", List: true}).Resolver(strings.TrimSpace(text), f.Type)
		l.mistakes(p, wrong)
		if resolver != nil {
			f.Resolve = resolver
		}
	}
}

// policyType checks that a policy can work on values of the field's type.
func (l *loader) policyType(p place, f *definition.Field) {
	switch f.Policy {
	case definition.Union:
		if f.Type.Kind != canonical.KindList {
			l.report(p, "union of type "+f.Type.String(), "a field of type list")
		}
	case definition.Max, definition.Min:
		switch f.Type.Kind {
		case canonical.KindInt, canonical.KindFloat, canonical.KindDecimal, canonical.KindDate, canonical.KindTimestamp, canonical.KindString:
		default:
			l.report(p, string(f.Policy)+" of type "+f.Type.String(), "a field of an ordered type: int, float, decimal, date, timestamp or string")
		}
	}
}

func (l *loader) trust(p place, f *definition.Field) {
	if f.Policy != definition.Weighted {
		l.report(p, "trust with policy "+string(f.Policy), "it with policy weighted only")
	}
	o, ok := l.object(p, "a mapping from source to trust, 0 to 1")
	if !ok {
		return
	}
	f.Trust = make(map[string]float64, len(o.members))
	for _, m := range o.members {
		if !slices.Contains(f.Authority, m.name) {
			l.suggest(m.key, quote(m.name), "a source of the field's authority: "+orNone(f.Authority), suggest(m.name, f.Authority))
			continue
		}
		n, err := strconv.ParseFloat(m.value.node.Value, 64)
		if m.value.node.Kind != yaml.ScalarNode || err != nil || !(n >= 0 && n <= 1) {
			l.report(m.value, describe(m.value.node), "a number from 0 to 1")
			continue
		}
		f.Trust[m.name] = n
	}
}

// maxTypeDepth of lists, maps and records in each other.
const maxTypeDepth = 8

// typeOf reads the keys that make a type: type, symbols, items, fields.
// symbols are those of an enum that does not give them itself.
func (l *loader) typeOf(o *object, symbols []string, depth int) canonical.Type {
	t := canonical.Type{}
	kinds := make([]string, 0, len(canonical.Kinds()))
	for _, k := range canonical.Kinds() {
		kinds = append(kinds, string(k))
	}
	p, ok := o.need("type", "one of "+strings.Join(kinds, ", "))
	if ok {
		if s, ok := l.text(p, "one of "+strings.Join(kinds, ", ")); ok {
			t.Kind = canonical.Kind(s)
			if !slices.Contains(kinds, s) {
				l.suggest(p, "unknown type "+quote(s), "one of "+strings.Join(kinds, ", "), suggest(s, kinds))
			}
		}
	}
	if depth > maxTypeDepth {
		l.report(o.place, "a type nested deeper than "+strconv.Itoa(maxTypeDepth), "a flatter type, or json")
		return t
	}
	syms, hasSymbols := o.get("symbols")
	items, hasItems := o.get("items")
	fields, hasFields := o.get("fields")
	isEnum, isRecord := t.Kind == canonical.KindEnum, t.Kind == canonical.KindRecord
	isCollection := t.Kind == canonical.KindList || t.Kind == canonical.KindMap
	for _, c := range []struct {
		has, fits bool
		place
		key, of string
	}{
		{hasSymbols, isEnum, syms, "symbols", "enum"}, {hasItems, isCollection, items, "items", "list or map"}, {hasFields, isRecord, fields, "fields", "record"},
	} {
		if c.has && !c.fits && t.Kind != "" {
			l.report(c.place, c.key+" of type "+string(t.Kind), c.key+" with type "+c.of+" only")
		}
	}
	switch {
	case isEnum && hasSymbols:
		for _, e := range l.list(syms, "a list of symbols") {
			if !symbolName.MatchString(e.text) {
				l.report(e.place, quote(e.text), "a letter followed by letters, digits, _ and -")
			}
			t.Symbols = append(t.Symbols, e.text)
		}
	case isEnum && symbols != nil:
		t.Symbols = symbols
	case isEnum:
		l.report(o.in("symbols", o.node), "nothing", "a list of symbols")
	case isCollection && hasItems:
		elem := l.memberType(items, depth+1)
		t.Elem = &elem
	case isCollection:
		l.report(o.in("items", o.node), "nothing", "the type of the items, such as items: string")
		t.Elem = &canonical.Type{Kind: canonical.KindJSON}
	case isRecord && hasFields:
		record, ok := l.object(fields, "a mapping of the record's fields by name")
		if ok && len(record.members) == 0 {
			l.report(fields, "no field", "at least one")
		}
		for _, m := range record.members {
			l.name(m.key, m.name, lowerName, "a name in lowerCamelCase, such as postalCode")
			t.Fields = append(t.Fields, canonical.NamedType{Name: m.name, Type: l.memberType(m.value, depth+1)})
		}
	case isRecord:
		l.report(o.in("fields", o.node), "nothing", "the fields of the record")
	}
	return t
}

// memberType reads a type within another: its name, or a mapping.
func (l *loader) memberType(p place, depth int) canonical.Type {
	if p.node.Kind == yaml.ScalarNode && p.node.Tag == "!!str" {
		// A name alone is the mapping {type: name}.
		named := &yaml.Node{Kind: yaml.MappingNode, Line: p.node.Line, Column: p.node.Column, Content: []*yaml.Node{
			{Kind: yaml.ScalarNode, Tag: "!!str", Value: "type", Line: p.node.Line, Column: p.node.Column}, p.node,
		}}
		o, _ := l.object(place{named, p.key}, "")
		return l.typeOf(o, nil, depth)
	}
	o, ok := l.object(p, "a type: its name, or a mapping with the key type")
	if !ok {
		return canonical.Type{Kind: canonical.KindJSON}
	}
	o.doc()
	t := l.typeOf(o, nil, depth)
	o.close()
	return t
}

// groups reads the groups and gives the group of each of their fields.
func (l *loader) groups(p place, r *definition.Resource) map[string]*definition.Group {
	o, _ := l.object(p, "a mapping of groups by name")
	of := map[string]*definition.Group{}
	for _, m := range o.members {
		l.name(m.key, m.name, lowerName, "a name in lowerCamelCase, such as address")
		group, ok := l.object(m.value, "a group: a mapping with the keys fields, authority, policy, maxAge")
		if !ok {
			continue
		}
		g := &definition.Group{Name: m.name, Policy: definition.Priority}
		group.doc()
		if p, ok := group.need("fields", "the fields that win together"); ok {
			for _, e := range l.list(p, "the fields that win together") {
				if other, taken := of[e.text]; taken {
					l.report(e.place, "field "+e.text+", which is in group "+other.Name+" as well", "each field in one group")
					continue
				}
				of[e.text] = g
				g.Fields = append(g.Fields, e.text)
			}
		}
		if p, ok := group.need("authority", "the sources that may decide the group, the most authoritative first"); ok {
			g.Authority = l.authority(p, r.Name, g.Fields)
		}
		if p, ok := group.get("policy"); ok {
			allowed := []string{string(definition.Priority), string(definition.Latest), string(definition.Earliest)}
			if s, ok := l.text(p, "a policy"); ok {
				if !slices.Contains(allowed, s) {
					l.suggest(p, quote(s), "a policy for a group: "+strings.Join(allowed, ", "), suggest(s, allowed))
				}
				g.Policy = definition.Policy(s)
			}
		}
		g.MaxAge = group.duration("maxAge")
		group.close()
		r.Groups = append(r.Groups, g)
	}
	slices.SortFunc(r.Groups, func(a, b *definition.Group) int { return strings.Compare(a.Name, b.Name) })
	return of
}

// checkGroups looks at the groups again once the fields are known.
func (l *loader) checkGroups(p place, r *definition.Resource) {
	o, ok := l.object(p, "")
	if !ok {
		return
	}
	for _, m := range o.members {
		if _, clash := r.Field(m.name); clash {
			l.report(m.key, "a group that is named like the field "+m.name, "a name of its own")
		}
		if m.value.node.Kind != yaml.MappingNode {
			continue
		}
		group := &object{l: l, place: m.value}
		for i := 0; i+1 < len(m.value.node.Content); i += 2 {
			if m.value.node.Content[i].Value == "fields" && m.value.node.Content[i+1].Kind == yaml.SequenceNode {
				list := group.in("fields", m.value.node.Content[i+1])
				for j, n := range list.node.Content {
					if _, ok := r.Field(n.Value); !ok {
						l.unknownField(list.at(j), n.Value, r)
					}
				}
			}
		}
	}
}
