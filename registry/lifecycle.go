package registry

import (
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// machine is a lifecycle as read, before the fields are known.
type machine struct {
	lifecycle *definition.Lifecycle
	order     []string // states in the order they are first named
	place
	field, initial place
	states         map[string]place // where each state is first named
}

func (m *machine) see(e entry) {
	if _, known := m.states[e.text]; !known {
		m.states[e.text] = e.place
		m.order = append(m.order, e.text)
	}
}

// lifecycle reads a lifecycle; nil if it cannot be used at all.
func (l *loader) lifecycle(p place) *machine {
	o, ok := l.object(p, "a lifecycle: a mapping with the keys field, initial, moves")
	if !ok {
		return nil
	}
	m := &machine{lifecycle: &definition.Lifecycle{Moves: map[string][]string{}}, place: p, states: map[string]place{}}
	if m.field, ok = o.need("field", "the enum field that holds the state"); ok {
		m.lifecycle.Field, _ = l.text(m.field, "the enum field that holds the state")
	}
	if m.initial, ok = o.need("initial", "the state of a new entity"); ok {
		if m.lifecycle.Initial, ok = l.text(m.initial, "the state of a new entity"); ok {
			m.see(entry{m.lifecycle.Initial, m.initial})
		}
	}
	if moves, ok := o.need("moves", "the states that may follow each state"); ok {
		froms, _ := l.object(moves, "a mapping from a state to the states that may follow it")
		for _, from := range froms.members {
			m.see(entry{from.name, from.key})
			if len(from.value.node.Content) == 0 && from.value.node.Value == "" {
				m.lifecycle.Moves[from.name] = nil // a final state, said explicitly
				continue
			}
			for _, to := range l.list(from.value, "the states that may follow "+from.name) {
				if to.text == from.name {
					l.report(to.place, "a move from "+from.name+" to itself", "moves to other states: staying is always allowed")
					continue
				}
				m.see(to)
				m.lifecycle.Moves[from.name] = append(m.lifecycle.Moves[from.name], to.text)
			}
		}
	}
	o.close()
	for _, s := range m.order {
		if !symbolName.MatchString(s) {
			l.report(m.states[s], quote(s), "a state: a letter followed by letters, digits, _ and -")
		}
	}
	return m
}

// checkLifecycle checks the lifecycle against the field that holds its state.
func (l *loader) checkLifecycle(m *machine, r *definition.Resource) {
	if m.lifecycle.Field == "" {
		return
	}
	f, ok := r.Field(m.lifecycle.Field)
	if !ok {
		l.unknownField(m.field, m.lifecycle.Field, r)
		return
	}
	if f.Type.Kind != canonical.KindEnum {
		l.report(m.field, "field "+f.Name+" of type "+f.Type.String(), "a field of type enum")
		return
	}
	reached := []string{m.lifecycle.Initial}
	for i := 0; i < len(reached); i++ {
		for _, to := range m.lifecycle.Moves[reached[i]] {
			if !slices.Contains(reached, to) {
				reached = append(reached, to)
			}
		}
	}
	for _, s := range m.order {
		switch {
		case !slices.Contains(f.Type.Symbols, s):
			l.suggest(m.states[s], "state "+quote(s), "a symbol of field "+f.Name+": "+strings.Join(f.Type.Symbols, ", "), suggest(s, f.Type.Symbols))
		case m.lifecycle.Initial != "" && !slices.Contains(reached, s):
			l.report(m.states[s], "state "+quote(s)+", which no move leads to", "every state to be reachable from "+m.lifecycle.Initial)
		}
	}
	for _, s := range f.Type.Symbols {
		if _, known := m.states[s]; !known {
			l.report(m.place, "no move to state "+quote(s), "every symbol of field "+f.Name+" to be reachable from "+m.lifecycle.Initial)
		}
	}
}
