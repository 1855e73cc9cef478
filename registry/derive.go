package registry

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// derivation is a command that nobody writes the steps of: it changes fields of
// an entity, each where its authority is.
type derivation struct {
	place
	name, doc string
	resource  *definition.Resource
	fields    []*definition.Field
	// named: it was asked for by name, so that it must be possible.
	named bool
}

// derivation reads {update: [email]} in place of the steps of a command.
func (l *loader) derivation(m member, r *definition.Resource) bool {
	if m.value.node.Kind != yaml.MappingNode || m.value.member("update").node == m.value.node {
		return false
	}
	o, _ := l.object(m.value, "a mapping with the keys doc and update")
	d := derivation{place: m.key, name: m.name, doc: o.doc(), resource: r, named: true}
	p, _ := o.get("update")
	for _, e := range l.list(p, "the fields that the command changes") {
		f, ok := r.Field(e.text)
		switch {
		case !ok:
			l.unknownField(e.place, e.text, r)
		case !f.Writable:
			l.report(e.place, "field "+e.text+", which is not writable", "a field with writable: true")
		default:
			d.fields = append(d.fields, f)
		}
	}
	o.close()
	l.derivations = append(l.derivations, d)
	return true
}

// derive makes the commands that follow from the authority of fields: those that
// were asked for by name, and Update<Resource> with every writable field that
// some back end can write.
func (l *loader) derive() {
	l.checkWriters()
	if len(l.problems) > 0 {
		return
	}
	for _, r := range l.domain.Resources {
		name := "Update" + strings.ToUpper(r.Name[:1]) + r.Name[1:]
		if _, taken := l.named[name]; taken {
			continue
		}
		d := derivation{name: name, doc: "Changes fields of a " + r.Name + " where their authority is.", resource: r}
		for _, f := range r.Fields {
			if f.Writable && len(l.routes(r, f)) > 0 {
				d.fields = append(d.fields, f)
			}
		}
		if len(d.fields) > 0 {
			l.derivations = append(l.derivations, d)
		}
	}
	for _, d := range l.derivations {
		l.makeDerived(d)
	}
	for _, r := range l.domain.Resources {
		slices.SortFunc(r.Commands, func(a, b *definition.Command) int { return cmp.Compare(a.Name, b.Name) })
	}
}

// checkWriters checks what updates refer to.
func (l *loader) checkWriters() {
	for _, m := range l.readers {
		l.knownResource(m.key, m.name)
	}
	for _, w := range l.writers {
		r, ok := l.knownResource(w.place, w.resource)
		if !ok {
			continue
		}
		for _, e := range w.fields {
			f, ok := r.Field(e.text)
			switch {
			case !ok:
				l.unknownField(e.place, e.text, r)
			case f.Rank(w.connection.Source) < 0:
				l.report(e.place, "field "+e.text+", which source "+w.connection.Source+" does not decide", "a field that has the source in its authority")
			}
		}
	}
}

// knownResource finds a resource, or reports that there is none of that name.
func (l *loader) knownResource(p place, name string) (*definition.Resource, bool) {
	r, ok := l.domain.Resource(name)
	if !ok {
		var names []string
		for _, x := range l.domain.Resources {
			names = append(names, x.Name)
		}
		l.suggest(p, "unknown resource "+quote(name), "a resource of the domain: "+orNone(names), suggest(name, names))
	}
	return r, ok
}

// routes gives who can write a field, the most authoritative first.
func (l *loader) routes(r *definition.Resource, f *definition.Field) (out []updates) {
	for _, source := range f.Authority {
		for _, w := range l.writers {
			if w.resource == r.Name && w.connection.Source == source && (w.fields == nil || slices.ContainsFunc(w.fields, func(e entry) bool { return e.text == f.Name })) {
				out = append(out, w)
				break
			}
		}
	}
	return out
}

// makeDerived writes a derived command as somebody would, and reads it.
func (l *loader) makeDerived(d derivation) {
	type arg struct{ field, when string }
	type step struct {
		w    updates
		args []arg
	}
	var steps []*step
	input := &yaml.Node{Kind: yaml.MappingNode}
	var possible, confirmed []string
	for _, f := range d.fields {
		ways := l.routes(d.resource, f)
		if len(ways) == 0 {
			l.report(d.place, "field "+f.Name+", which no connection can write", "a connection with updates."+d.resource.Name+" and a source that decides the field: "+strings.Join(f.Authority, ", "))
			return
		}
		add(input, f.Name, typeNode(f))
		given, before := "has(input."+f.Name+")", ""
		var there []string
		for _, w := range ways {
			known := strconv.Quote(w.connection.Source) + " in entity.refs"
			i := slices.IndexFunc(steps, func(s *step) bool { return s.w.connection == w.connection && s.w.operation == w.operation })
			if i < 0 {
				i, steps = len(steps), append(steps, &step{w: w})
			}
			steps[i].args = append(steps[i].args, arg{f.Name, given + " && " + known + before})
			before += " && !(" + known + ")"
			there = append(there, known)
		}
		possible = append(possible, "(!"+given+" || "+strings.Join(there, " || ")+")")
		confirmed = append(confirmed, fmt.Sprintf("(!%s || entity.fields[?%q].orValue(null) == input.%s)", given, f.Name, f.Name))
	}
	slices.SortFunc(steps, func(a, b *step) int { return cmp.Compare(a.w.connection.Name, b.w.connection.Name) })
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, s := range steps {
		n := &yaml.Node{Kind: yaml.MappingNode}
		add(n, "call", text(s.w.connection.Name+"."+s.w.operation))
		var any []string
		with, undo := &yaml.Node{Kind: yaml.MappingNode}, &yaml.Node{Kind: yaml.MappingNode}
		add(with, "key", text("entity.refs["+strconv.Quote(s.w.connection.Source)+"]"))
		add(undo, "key", text("args.key"))
		was := []string{}
		for _, a := range s.args {
			any = append(any, a.when)
			add(with, "?"+a.field, text(a.when+" ? optional.of(input."+a.field+") : optional.none()"))
			add(undo, "?"+a.field, text(fmt.Sprintf("%q in args ? optional.of(args.was[?%q].orValue(null)) : optional.none()", a.field, a.field)))
			was = append(was, fmt.Sprintf("?%q: entity.fields[?%q]", a.field, a.field))
		}
		add(n, "when", text(strings.Join(any, " || ")))
		if len(steps) > 1 {
			// What it was is kept with the call, for the case that it is undone.
			add(with, "was", text("{"+strings.Join(was, ", ")+"}"))
			back := &yaml.Node{Kind: yaml.MappingNode}
			add(back, "operation", text(s.w.operation))
			add(back, "with", undo)
			add(n, "undo", back)
		}
		add(n, "with", with)
		list.Content = append(list.Content, n)
	}
	if len(steps) > 1 {
		together := &yaml.Node{Kind: yaml.MappingNode}
		add(together, "parallel", list)
		list = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{together}}
	}
	confirm := &yaml.Node{Kind: yaml.MappingNode}
	add(confirm, "if", text(strings.Join(confirmed, " && ")))
	def := &yaml.Node{Kind: yaml.MappingNode}
	if d.doc != "" {
		add(def, "doc", text(d.doc))
	}
	add(def, "derived", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	add(def, "input", input)
	add(def, "require", text(strings.Join(possible, " && ")))
	add(def, "steps", list)
	add(def, "confirm", confirm)
	if d.place.node == nil {
		d.place.node = def
	}
	if c := l.command(member{d.name, d.place, place{def, "commands." + d.name}}, d.resource); c != nil {
		d.resource.Commands = append(d.resource.Commands, c)
	}
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func add(n *yaml.Node, key string, value *yaml.Node) {
	n.Content = append(n.Content, text(key), value)
}

// typeNode writes the type of a field as a definition does.
func typeNode(f *definition.Field) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	appendType(n, f.Type)
	if f.Doc != "" {
		add(n, "doc", text(f.Doc))
	}
	if f.PII != "" {
		add(n, "pii", text(f.PII))
	}
	return n
}

func appendType(n *yaml.Node, t canonical.Type) {
	add(n, "type", text(string(t.Kind)))
	if len(t.Symbols) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range t.Symbols {
			list.Content = append(list.Content, text(s))
		}
		add(n, "symbols", list)
	}
	if t.Elem != nil {
		elem := &yaml.Node{Kind: yaml.MappingNode}
		appendType(elem, *t.Elem)
		add(n, "items", elem)
	}
	if len(t.Fields) > 0 {
		fields := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range t.Fields {
			x := &yaml.Node{Kind: yaml.MappingNode}
			appendType(x, f.Type)
			add(fields, f.Name, x)
		}
		add(n, "fields", fields)
	}
}
