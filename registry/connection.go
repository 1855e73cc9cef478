package registry

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// operationName is a name, or several joined by dots: subscription.pause.
var operationName = regexp.MustCompile(`^[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)*$`)

// updates says by which operation the fields of a resource are written in a
// back end.
type updates struct {
	place
	connection          *definition.Connection
	resource, operation string
	// fields that it can write; nil means all that its source may decide.
	fields []entry
}

// connections reads the key connections.
func (l *loader) connections(p place) {
	o, _ := l.object(p, "a mapping of connections by name")
	for _, m := range o.members {
		l.name(m.key, m.name, hyphenName, "lower-case words joined by hyphens, such as billing or web-shop")
		if c := l.connection(m); c != nil {
			l.domain.Connections = append(l.domain.Connections, c)
		}
	}
	slices.SortFunc(l.domain.Connections, func(a, b *definition.Connection) int { return cmp.Compare(a.Name, b.Name) })
}

func (l *loader) connection(m member) *definition.Connection {
	o, ok := l.object(m.value, "a connection: a mapping with the keys connector, settings, operations")
	if !ok {
		return nil
	}
	c := &definition.Connection{Name: m.name, Doc: o.doc(), Line: m.key.node.Line}
	before := len(l.problems)
	var kind connectors.BackendKind
	names := make([]string, len(l.kinds.Backends))
	for i, k := range l.kinds.Backends {
		names[i] = k.Name()
	}
	if p, ok := o.need("connector", "a kind of back end: "+strings.Join(names, ", ")); ok {
		if c.Connector, ok = l.text(p, "a kind of back end"); ok {
			if i := slices.Index(names, c.Connector); i >= 0 {
				kind = l.kinds.Backends[i]
			} else {
				l.suggest(p, "unknown connector "+quote(c.Connector), "one of "+orNone(names), suggest(c.Connector, names))
			}
		}
	}
	if p, ok := o.get("source"); ok {
		if s, ok := l.text(p, "the source whose deliveries its answers are"); ok {
			if c.Source = s; !slices.Contains(l.sources, s) {
				l.suggest(p, "unknown source "+quote(s), "a source of the domain: "+orNone(l.sources), suggest(s, l.sources))
			}
		}
	}
	if p, ok := o.get("settings"); ok {
		c.Settings = l.settings(p)
	}
	c.Limits = l.limits(o)
	if p, ok := o.need("operations", "what the back end can be asked for, by name"); ok {
		l.operations(p, c)
	}
	if p, ok := o.get("updates"); ok {
		l.updates(p, c)
	}
	if p, ok := o.get("reads"); ok {
		l.reads(p, c)
	}
	o.close()
	if kind != nil && len(l.problems) == before {
		l.connect(o.place, c, kind)
	}
	return c
}

// limits reads what keeps a back end from more than it can bear.
func (l *loader) limits(o *object) definition.Limits {
	out := definition.Limits{Concurrency: definition.DefaultConcurrency, Failures: definition.DefaultFailures, Pause: definition.DefaultPause}
	p, ok := o.get("limits")
	if !ok {
		return out
	}
	x, ok := l.object(p, "a mapping with the keys concurrency, rate, ordered, failures, pause")
	if !ok {
		return out
	}
	out.Concurrency = x.number("concurrency", out.Concurrency, 1, 1000)
	out.Ordered = x.flag("ordered")
	out.Failures = x.number("failures", out.Failures, 1, 1000)
	if d := x.duration("pause"); d > 0 {
		out.Pause = d
	}
	if p, ok := x.get("rate"); ok {
		f, err := strconv.ParseFloat(p.node.Value, 64)
		if err != nil || !(f > 0 && f <= 1e6) {
			l.report(p, describe(p.node), "calls in a second, more than 0 and at most 1000000")
		} else {
			out.Rate = f
		}
	}
	x.close()
	return out
}

// number takes a key whose value is an integer.
func (o *object) number(name string, otherwise, least, most int) int {
	p, ok := o.get(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(p.node.Value)
	if p.node.Kind != yaml.ScalarNode || p.node.Tag != "!!int" || err != nil || n < least || n > most {
		o.l.report(p, describe(p.node), "an integer from "+strconv.Itoa(least)+" to "+strconv.Itoa(most))
		return otherwise
	}
	return n
}

// operations reads what a back end can be asked for.
func (l *loader) operations(p place, c *definition.Connection) {
	o, ok := l.object(p, "a mapping of operations by name")
	if ok && len(o.members) == 0 {
		l.report(p, "no operation", "at least one")
	}
	for _, m := range o.members {
		l.name(m.key, m.name, operationName, "a name in lowerCamelCase, or several joined by dots, such as subscription.pause")
		x, ok := l.object(m.value, "an operation: a mapping with the keys settings, idempotent, journal")
		if !ok {
			continue
		}
		op := &definition.Operation{Name: m.name, Doc: x.doc(), Line: m.key.node.Line, Idempotent: x.flag("idempotent")}
		if p, ok := x.get("settings"); ok {
			op.Settings = l.settings(p)
		}
		if p, ok := x.get("journal"); ok {
			scope := l.scope("answer", expression.Variable{Name: "args"}, expression.Variable{Name: "output"}, expression.Variable{Name: "status"})
			if e := l.expr(p, scope, expression.Value(canonical.Type{Kind: canonical.KindJSON})); e != nil {
				op.Journal = e
			}
			if c.Source == "" {
				l.report(p, "what is to be journaled of a connection without a source", "the key source, or no journal")
			}
		}
		x.close()
		c.Operations = append(c.Operations, op)
	}
	slices.SortFunc(c.Operations, func(a, b *definition.Operation) int { return cmp.Compare(a.Name, b.Name) })
}

// updates reads by which operations fields are written. What they refer to is
// checked when resources are known.
func (l *loader) updates(p place, c *definition.Connection) {
	o, _ := l.object(p, "a mapping of operations by resource")
	if c.Source == "" {
		l.report(p, "updates of a connection without a source", "the key source: fields go to the source that decides them")
	}
	for _, m := range o.members {
		x, ok := l.object(m.value, "a mapping with the keys operation and fields")
		if !ok {
			continue
		}
		u := updates{place: m.key, connection: c, resource: m.name}
		if p, ok := x.need("operation", "an operation of the connection"); ok {
			if s, ok := l.text(p, "an operation of the connection"); ok {
				u.operation = s
				if _, ok := c.Operation(s); !ok {
					l.unknownOperation(p, s, c)
				}
			}
		}
		if p, ok := x.get("fields"); ok {
			u.fields = l.list(p, "the fields that the operation writes")
		}
		x.close()
		l.writers = append(l.writers, u)
	}
}

// reads reads by which operations records are read. Their resources are checked
// with those of updates.
func (l *loader) reads(p place, c *definition.Connection) {
	o, _ := l.object(p, "a mapping of operations by resource")
	c.Reads = map[string]string{}
	for _, m := range o.members {
		name, ok := l.text(m.value, "an operation of the connection")
		if !ok {
			continue
		}
		op, ok := c.Operation(name)
		switch {
		case !ok:
			l.unknownOperation(m.value, name, c)
		case op.Journal == nil:
			l.report(m.value, "operation "+name+", which journals nothing", "one with the key journal: what it reads is a delivery of the source")
		}
		c.Reads[m.name] = name
		l.readers = append(l.readers, member{m.name, m.key, m.value})
	}
}

func (l *loader) unknownOperation(p place, name string, c *definition.Connection) {
	var names []string
	for _, o := range c.Operations {
		names = append(names, o.Name)
	}
	l.suggest(p, "unknown operation "+quote(name), "an operation of connection "+c.Name+": "+orNone(names), suggest(name, names))
}

// connect lets the kind of back end check the settings.
func (l *loader) connect(p place, c *definition.Connection, kind connectors.BackendKind) {
	b, err := kind.Connect(c, connectors.Options{Checking: true, Secrets: Placeholders, Compile: expression.Compile})
	if err == nil {
		if b != nil {
			b.Close()
		}
		return
	}
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		l.report(p, "settings that connector "+kind.Name()+" does not take: "+err.Error(), "settings as docs/connectors.md tells")
		return
	}
	for _, w := range wrong {
		key, known := "settings."+w.Key, kind.Settings()
		if rest, ok := strings.CutPrefix(w.Key, "operations."); ok {
			// An operation's name may have dots: the longest one counts.
			op := ""
			for _, x := range c.Operations {
				if strings.HasPrefix(rest, x.Name+".") && len(x.Name) > len(op) {
					op = x.Name
				}
			}
			l.settingProblem(p.member("operations").member(op).member("settings"), "operations."+op+".settings.", strings.TrimPrefix(rest, op+"."), w, kind.OperationSettings())
			continue
		}
		l.settingProblem(p.member("settings"), strings.TrimSuffix(key, w.Key), w.Key, w, known)
	}
}

// member gives the value of a key of a mapping, or the place itself if it is not
// there.
func (p place) member(name string) place {
	if p.node.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(p.node.Content); i += 2 {
			if p.node.Content[i].Value == name {
				return place{p.node.Content[i+1], p.key}
			}
		}
	}
	return p
}

// settingProblem reports a wrong setting at its place.
func (l *loader) settingProblem(p place, prefix, key string, w connectors.SettingError, settings []connectors.Setting) {
	var known []string
	for _, k := range settings {
		known = append(known, k.Key)
	}
	at := p
	if p.node.Kind == yaml.MappingNode {
		at = settingPlace(p, key)
	}
	at.key = p.key + "." + prefix + key
	suggestion := ""
	if !slices.Contains(known, key) && (strings.Contains(w.Found, "unknown") || strings.HasPrefix(w.Expected, "no such setting")) {
		suggestion = suggest(key, known)
	}
	l.suggest(at, w.Found, w.Expected, suggestion)
}
