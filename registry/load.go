package registry

import (
	"cmp"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// load reads the whole file. The order matters: the names of sources are
// needed by fields, resources by mappings, mappings by the last checks.
func (l *loader) load(text []byte) *definition.Domain {
	l.domain = &definition.Domain{}
	l.broken = map[string]bool{}
	root, ok := l.document(text)
	if !ok {
		return l.domain
	}
	o, ok := l.object(root, "a domain definition: a mapping with the keys apiVersion, domain, resources, sources")
	if !ok {
		return l.domain
	}
	if p, ok := o.need("apiVersion", APIVersion); ok && p.node.Value != APIVersion {
		l.suggest(p, describe(p.node), APIVersion, "")
	}
	if p, ok := o.need("domain", "the name of the domain, such as customer-management"); ok {
		if s, ok := l.text(p, "the name of the domain"); ok && l.name(p, s, hyphenName, "lower-case words joined by hyphens, such as customer-management") {
			l.unreserved(p, s)
			l.domain.Name = s
		}
	}
	l.domain.Doc = o.doc()
	if p, ok := o.get("owners"); ok {
		if owners, ok := l.object(p, "a mapping with the keys business, technical, changeAuthority"); ok {
			l.domain.Owners = definition.Owners{
				Business:        owners.optionalText("business", "who answers for the meaning"),
				Technical:       owners.optionalText("technical", "who answers for the running"),
				ChangeAuthority: owners.optionalText("changeAuthority", "who approves changes"),
			}
			owners.close()
		}
	}
	resources, hasResources := o.need("resources", "at least one resource")
	sources, hasSources := o.need("sources", "at least one source")
	links, hasConnections := o.get("connections")
	o.close()
	if hasSources && sources.node.Kind == kindMapping {
		for i := 0; i+1 < len(sources.node.Content); i += 2 {
			l.sources = append(l.sources, sources.node.Content[i].Value)
		}
	}
	if hasConnections {
		l.connections(links)
	}
	if hasResources {
		l.resources(resources)
	}
	if hasSources {
		l.readSources(sources)
	}
	l.checkPromises()
	l.derive()
	slices.SortFunc(l.domain.Resources, func(a, b *definition.Resource) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(l.domain.Sources, func(a, b *definition.Source) int { return cmp.Compare(a.Name, b.Name) })
	return l.domain
}

// resources reads the key resources.
func (l *loader) resources(p place) {
	o, ok := l.object(p, "a mapping of resources by name")
	if ok && len(o.members) == 0 {
		l.report(p, "no resource", "at least one")
	}
	events := map[string]place{}
	for _, m := range o.members {
		if l.name(m.key, m.name, lowerName, "a name in lowerCamelCase, such as customer") {
			l.unreserved(m.key, m.name)
		}
		if r := l.resource(m, events); r != nil {
			l.domain.Resources = append(l.domain.Resources, r)
		}
	}
}

// resourceNamed finds a resource before the list is sorted.
func (l *loader) resourceNamed(name string) *definition.Resource {
	for _, r := range l.domain.Resources {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// resource reads one resource.
func (l *loader) resource(m member, events map[string]place) *definition.Resource {
	o, ok := l.object(m.value, "a resource: a mapping with the keys identity, fields, lifecycle, events, commands")
	if !ok {
		return nil
	}
	r := &definition.Resource{Name: m.name, Doc: o.doc()}
	identity, hasIdentity := o.need("identity", "the fields that identify one "+m.name)
	fields, hasFields := o.need("fields", "at least one field")
	lifecycle, hasLifecycle := o.get("lifecycle")
	groups, hasGroups := o.get("groups")
	rules, hasEvents := o.get("events")
	commands, hasCommands := o.get("commands")
	o.close()

	var machine *machine
	if hasLifecycle {
		machine = l.lifecycle(lifecycle)
	}
	var members map[string]*definition.Group
	if hasGroups {
		members = l.groups(groups, r)
	}
	if hasFields {
		l.fields(fields, r, machine, members)
	}
	slices.SortFunc(r.Fields, func(a, b *definition.Field) int { return cmp.Compare(a.Name, b.Name) })
	if hasGroups {
		l.checkGroups(groups, r)
	}
	if machine != nil {
		l.checkLifecycle(machine, r)
		r.Lifecycle = machine.lifecycle
	}
	if hasIdentity {
		l.identity(identity, r)
	}
	if hasEvents {
		l.events(rules, r, events)
	}
	if hasCommands {
		l.commands(commands, r)
	}
	return r
}

// identity reads the fields that identify an entity.
func (l *loader) identity(p place, r *definition.Resource) {
	for _, e := range l.list(p, "the field, or the list of fields, that identify one "+r.Name) {
		f, ok := r.Field(e.text)
		if !ok {
			l.unknownField(e.place, e.text, r)
			continue
		}
		switch f.Type.Kind {
		case canonical.KindString, canonical.KindInt, canonical.KindDecimal, canonical.KindDate, canonical.KindEnum, canonical.KindTimestamp:
		default:
			l.report(e.place, "field "+e.text+" of type "+f.Type.String(), "a field that can identify: string, int, decimal, date, timestamp or enum")
			continue
		}
		if r.Lifecycle != nil && r.Lifecycle.Field == e.text {
			l.report(e.place, "the lifecycle field "+e.text, "a field that does not change")
		}
		r.Identity = append(r.Identity, e.text)
	}
}

func (l *loader) unknownField(p place, name string, r *definition.Resource) {
	names := fieldNames(r)
	l.suggest(p, "unknown field "+quote(name), "a field of "+r.Name+": "+orNone(names), suggest(name, names))
}

func fieldNames(r *definition.Resource) []string {
	names := make([]string, len(r.Fields))
	for i, f := range r.Fields {
		names[i] = f.Name
	}
	return names
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none is declared)"
	}
	return strings.Join(names, ", ")
}
