package registry

import (
	"slices"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// events reads the event rules of a resource. names holds the events of the
// resources before it: an event's name is unique in its domain.
func (l *loader) events(p place, r *definition.Resource, names map[string]place) {
	o, _ := l.object(p, "a mapping of events by name")
	for _, m := range o.members {
		l.name(m.key, m.name, upperName, "a name in UpperCamelCase, such as CustomerActivated")
		if first, taken := names[m.name]; taken {
			l.report(m.key, "an event that line "+strconv.Itoa(first.node.Line)+" declares as well", "a name of its own for each event of a domain")
		}
		names[m.name] = m.key
		e, ok := l.object(m.value, "an event: a mapping with the keys doc and when")
		if !ok {
			continue
		}
		rule := &definition.EventRule{Type: m.name, Doc: e.doc()}
		if when, ok := e.need("when", "when the event happens, such as {enters: active}"); ok {
			rule.When = l.when(when, r)
		}
		e.close()
		r.Events = append(r.Events, rule)
	}
}

// when reads the condition of an event.
func (l *loader) when(p place, r *definition.Resource) definition.When {
	var w definition.When
	o, ok := l.object(p, "a mapping with the keys created, deleted, restored, enters, leaves, changes, if")
	if !ok {
		return w
	}
	if len(o.members) == 0 {
		l.report(p, "no condition", "at least one of created, deleted, restored, enters, leaves, changes, if")
	}
	always := func(name string) bool {
		if p, ok := o.get(name); ok && p.node.Value != "true" {
			l.report(p, describe(p.node), "true; leave the key out otherwise")
		}
		_, ok := o.get(name)
		return ok
	}
	w.Created, w.Deleted, w.Restored = always("created"), always("deleted"), always("restored")
	w.Enters, w.Leaves = l.states(o, "enters", r), l.states(o, "leaves", r)
	if p, ok := o.get("changes"); ok {
		w.Changes, w.AnyChange = l.changes(p, r)
		if w.Created || w.Deleted || w.Restored {
			l.report(p, "changes together with created, deleted or restored", "one or the other: changes is about entities that were there before and still are")
		}
	}
	if p, ok := o.get("if"); ok {
		names := fieldNames(r)
		scope := l.scope("event of "+r.Name,
			expression.Variable{Name: "before", Members: names}, expression.Variable{Name: "after", Members: names},
			expression.Variable{Name: "changed", Names: names}, expression.Variable{Name: "entity", Members: expression.EntityMembers()})
		w.If = l.condition(p, scope)
	}
	o.close()
	return w
}

// states reads lifecycle states of an event condition.
func (l *loader) states(o *object, key string, r *definition.Resource) []string {
	p, ok := o.get(key)
	if !ok {
		return nil
	}
	if r.Lifecycle == nil {
		l.report(p, key+" of a resource without a lifecycle", "a lifecycle, or another condition")
		return nil
	}
	known := lifecycleStates(r)
	entries := l.list(p, "a lifecycle state, or a list of them")
	for _, e := range entries {
		if !slices.Contains(known, e.text) {
			l.suggest(e.place, "unknown state "+quote(e.text), "a state of the lifecycle: "+strings.Join(known, ", "), suggest(e.text, known))
		}
	}
	return texts(entries)
}

// lifecycleStates lists the states of a resource's lifecycle.
func lifecycleStates(r *definition.Resource) []string {
	if f, ok := r.Field(r.Lifecycle.Field); ok {
		return f.Type.Symbols
	}
	return nil
}

// changes reads the fields of an event condition. The name of a group stands
// for its fields, the word any for all of them.
func (l *loader) changes(p place, r *definition.Resource) (fields []string, anyField bool) {
	entries := l.list(p, "any, or a list of fields")
	if len(entries) == 1 && entries[0].text == "any" {
		return nil, true
	}
	for _, e := range entries {
		if i := slices.IndexFunc(r.Groups, func(g *definition.Group) bool { return g.Name == e.text }); i >= 0 {
			fields = append(fields, r.Groups[i].Fields...)
			continue
		}
		if _, ok := r.Field(e.text); !ok {
			l.unknownField(e.place, e.text, r)
			continue
		}
		fields = append(fields, e.text)
	}
	return fields, false
}
