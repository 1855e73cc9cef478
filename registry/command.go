package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// commands reads the commands of a resource. names holds those of the resources
// before it: a command's name is unique in its domain.
func (l *loader) commands(p place, r *definition.Resource) {
	o, _ := l.object(p, "a mapping of commands by name")
	for _, m := range o.members {
		l.name(m.key, m.name, upperName, "a name in UpperCamelCase, such as SuspendCustomer")
		if first, taken := l.named[m.name]; taken {
			l.report(m.key, "a command that line "+strconv.Itoa(first)+" declares as well", "a name of its own for each command of a domain")
		}
		if l.named == nil {
			l.named = map[string]int{}
		}
		l.named[m.name] = m.key.node.Line
		if l.derivation(m, r) {
			continue
		}
		if c := l.command(m, r); c != nil {
			r.Commands = append(r.Commands, c)
		}
	}
}

// command reads one command. r is nil for a plan that is read on its own: then
// what it refers to is taken as it is.
func (l *loader) command(m member, r *definition.Resource) *definition.Command {
	o, ok := l.object(m.value, "a command: a mapping with the keys input, steps, confirm")
	if !ok {
		return nil
	}
	before := len(l.problems)
	c := &definition.Command{Name: m.name, Doc: o.doc(), Line: m.key.node.Line, Conflict: definition.Queue, Deadline: definition.DefaultDeadline}
	if p, ok := o.get("input"); ok {
		l.parameters(p, c)
	}
	if p, ok := o.get("conflict"); ok {
		if s, ok := l.text(p, "a policy for conflicts"); ok {
			var names []string
			for _, x := range definition.Conflicts() {
				names = append(names, string(x))
			}
			if c.Conflict = definition.Conflict(s); !slices.Contains(names, s) {
				l.suggest(p, quote(s), "one of "+strings.Join(names, ", "), suggest(s, names))
			}
		}
	}
	if d := o.duration("deadline"); d > 0 {
		c.Deadline = d
	}
	c.Derived = o.flag("derived")
	if p, ok := o.get("require"); ok {
		c.Require = l.condition(p, l.sagaScope(c, r, nil, false))
	}
	if p, ok := o.need("steps", "at least one step"); ok {
		l.steps(p, c, r)
	}
	if p, ok := o.need("confirm", "when the command is carried out: {if: a condition over the entity}, or steps if it is enough that they are done"); ok {
		l.confirm(p, c, r)
	}
	o.close()
	if len(l.problems) > before {
		return nil // what follows from them need not be told
	}
	if err := c.Check(); err != nil {
		found, expected, _ := strings.Cut(strings.Replace(err.Error(), "; expected ", ", expected ", 1), ", expected ")
		l.report(m.key, found, expected)
	}
	if r != nil {
		l.compensations(c)
	}
	text, err := planText(m)
	if err != nil {
		l.report(m.key, err.Error(), "a definition that can be written as YAML")
	}
	sum := sha256.Sum256([]byte(text))
	c.Text, c.Fingerprint = text, hex.EncodeToString(sum[:8])
	return c
}

// parameters reads the input of a command.
func (l *loader) parameters(p place, c *definition.Command) {
	o, _ := l.object(p, "a mapping of values by name")
	for _, m := range o.members {
		l.name(m.key, m.name, lowerName, "a name in lowerCamelCase, such as reason")
		x, ok := l.object(m.value, "a value: a mapping with at least the key type")
		if !ok {
			continue
		}
		c.Input = append(c.Input, &definition.Parameter{
			Name: m.name, Doc: x.doc(), Type: l.typeOf(x, nil, 0), Required: x.flag("required"), PII: x.optionalText("pii", "a category of personal data, such as contact"),
		})
		x.close()
	}
}

// sagaScope is what the expressions of a command see: known are the steps that
// have been done when it is evaluated.
func (l *loader) sagaScope(c *definition.Command, r *definition.Resource, known []string, undo bool) *expression.Scope {
	if r == nil {
		vs := []expression.Variable{{Name: "input"}, {Name: "entity"}, {Name: "steps"}, {Name: "args"}}
		return l.scope("plan", vs...)
	}
	input := []string{}
	for _, p := range c.Input {
		input = append(input, p.Name)
	}
	vs := []expression.Variable{
		{Name: "input", Members: input},
		{Name: "entity", Members: []string{"fields", "id", "refs", "resource", "state", "version"}, Within: map[string][]string{"fields": fieldNames(r), "refs": l.sources}},
		{Name: "steps", Members: append([]string{}, known...)},
	}
	if undo {
		vs = append(vs, expression.Variable{Name: "args"})
	}
	return l.scope(r.Name+"/"+c.Name+"/"+strings.Join(known, "/")+"/"+strconv.FormatBool(undo), vs...)
}

// steps reads the stages of a command.
func (l *loader) steps(p place, c *definition.Command, r *definition.Resource) {
	if p.node.Kind != yaml.SequenceNode || len(p.node.Content) == 0 {
		found := describe(p.node)
		if p.node.Kind == yaml.SequenceNode {
			found = "an empty list"
		}
		l.report(p, found, "a list of at least one step")
		return
	}
	var known []string
	for i := range p.node.Content {
		at := p.at(i)
		var stage []*definition.Step
		if parallel := (place{at.node, at.key}); isParallel(at.node) {
			o, _ := l.object(parallel, "a mapping with the key parallel")
			list, _ := o.get("parallel")
			o.close()
			if list.node.Kind != yaml.SequenceNode || len(list.node.Content) < 2 {
				l.report(list, describe(list.node), "a list of at least two steps, which run side by side")
				continue
			}
			for j := range list.node.Content {
				if s := l.step(list.at(j), c, r, known); s != nil {
					stage = append(stage, s)
				}
			}
		} else if s := l.step(at, c, r, known); s != nil {
			stage = append(stage, s)
		}
		for _, s := range stage {
			known = append(known, s.Name)
		}
		if len(stage) > 0 {
			c.Stages = append(c.Stages, stage)
		}
	}
}

func isParallel(n *yaml.Node) bool {
	if n.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "parallel" {
			return true
		}
	}
	return false
}

const stepForm = "a step: a mapping with one of the keys call, approve, command, parallel"

// step reads one step. known are the steps before it.
func (l *loader) step(p place, c *definition.Command, r *definition.Resource, known []string) *definition.Step {
	o, ok := l.object(p, stepForm)
	if !ok {
		return nil
	}
	before := len(l.problems)
	s := &definition.Step{Line: p.node.Line, Kind: definition.Call, Timeout: definition.DefaultTimeout, Retry: definition.DefaultRetry}
	call, hasCall := o.get("call")
	approve, hasApprove := o.get("approve")
	child, hasChild := o.get("command")
	kinds := 0
	for _, has := range []bool{hasCall, hasApprove, hasChild} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		l.report(p, strconv.Itoa(kinds)+" of call, approve and command", stepForm)
		return nil
	case hasChild:
		s.Kind, s.Timeout, s.Retry = definition.Child, definition.DefaultDeadline, definition.Retry{Attempts: 1, First: definition.DefaultRetry.First, Max: definition.DefaultRetry.Max}
		if text, ok := l.text(child, "<domain>.<resource>.<Command>"); ok {
			parts := strings.Split(text, ".")
			if len(parts) != 3 || !hyphenName.MatchString(parts[0]) || !lowerName.MatchString(parts[1]) || !upperName.MatchString(parts[2]) {
				l.report(child, quote(text), "<domain>.<resource>.<Command>, such as order-fulfilment.order.CancelOrder")
				return nil
			}
			s.Connection, s.Operation = parts[0], parts[1]+"."+parts[2]
			s.Name = strings.ToLower(parts[2][:1]) + parts[2][1:]
		}
	case hasCall:
		if text, ok := l.text(call, "<connection>.<operation>"); ok {
			s.Connection, s.Operation, _ = strings.Cut(text, ".")
			s.Name = camel(text)
			if r != nil {
				l.target(call, s)
			}
		}
	default:
		s.Kind, s.Timeout, s.Retry = definition.Approve, 24*3600e9, definition.Retry{Attempts: 1}
		if text, ok := l.text(approve, "the role that decides"); ok {
			s.Operation = text
			s.Name = camel("approve." + text)
		}
	}
	if n, ok := o.get("name"); ok {
		if text, ok := l.text(n, "a name"); ok {
			l.name(n, text, lowerName, "a name in lowerCamelCase, such as pauseBilling")
			s.Name = text
		}
	}
	scope := l.sagaScope(c, r, known, false)
	if w, ok := o.get("when"); ok {
		if w.node.Value == "false" {
			l.report(w, "a condition that never holds", "a step that can be reached, or no step")
		}
		s.When = l.condition(w, scope)
	}
	if w, ok := o.get("with"); ok {
		s.With = l.arguments(w, scope, c, r)
	}
	if id, ok := o.get("entity"); ok && hasChild {
		if x := l.expr(id, scope, expression.Key()); x != nil {
			s.With = append([]definition.Argument{{Name: definition.ChildEntity, Expr: x, Masked: personal(x, c, r)}}, s.With...)
		}
	} else if ok != hasChild {
		l.report(o.in("entity", o.node), map[bool]string{true: "the entity of a step that sends no command", false: "nothing"}[ok], "the id of the entity that the command is about, for a step with the key command")
	}
	if d := o.duration("timeout"); d > 0 {
		s.Timeout = d
	}
	if x, ok := o.get("retry"); ok && s.Kind != definition.Approve {
		s.Retry = l.retry(x)
	} else if ok {
		l.report(x, "retry of an approval", "none: it is asked for once")
	}
	s.Final = o.flag("final")
	if u, ok := o.get("undo"); ok {
		l.undo(u, s, c, r, known)
	}
	o.close()
	if len(l.problems) > before || s.Name == "" {
		return nil
	}
	return s
}

// target checks what a step calls.
func (l *loader) target(p place, s *definition.Step) {
	conn, ok := l.domain.Connection(s.Connection)
	if !ok {
		var names []string
		for _, x := range l.domain.Connections {
			names = append(names, x.Name)
		}
		l.suggest(p, "unknown connection "+quote(s.Connection), "<connection>.<operation> with a connection of the domain: "+orNone(names), suggest(s.Connection, names))
		return
	}
	if _, ok := conn.Operation(s.Operation); !ok {
		l.unknownOperation(p, s.Operation, conn)
	}
}

// camel joins words that are separated by dots and hyphens: billing.pause gives
// billingPause.
func camel(s string) string {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '-' || r == ' ' })
	for i, w := range words {
		if i > 0 {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "")
}

// arguments reads what a call is given. A leading "?" leaves an argument out if
// what it is made of is missing.
func (l *loader) arguments(p place, scope *expression.Scope, c *definition.Command, r *definition.Resource) []definition.Argument {
	o, _ := l.object(p, "a mapping of arguments by name")
	var out []definition.Argument
	for _, m := range o.members {
		a := definition.Argument{}
		a.Name, a.Optional = strings.TrimPrefix(m.name, "?"), strings.HasPrefix(m.name, "?")
		l.name(m.key, a.Name, lowerName, "a name in lowerCamelCase, with ? before it if it may be missing")
		if slices.ContainsFunc(out, func(x definition.Argument) bool { return x.Name == a.Name }) {
			l.report(m.key, "the argument a second time", "each argument once")
		}
		if x := l.expr(m.value, scope, expression.Value(canonical.Type{Kind: canonical.KindJSON})); x != nil {
			a.Expr, a.Masked = x, personal(x, c, r)
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b definition.Argument) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// personal tells whether an expression reads personal data. Of a plan on its own
// it is not known which fields are; so all of them are taken for it.
func personal(x *expression.Expr, c *definition.Command, r *definition.Resource) bool {
	for _, path := range x.Reads() {
		switch {
		case path[0] == "args":
			return true
		case len(path) < 2:
		case path[0] == "input":
			if i := slices.IndexFunc(c.Input, func(p *definition.Parameter) bool { return p.Name == path[1] }); i >= 0 && c.Input[i].PII != "" {
				return true
			}
		case path[0] != "entity" || path[1] != "fields":
		case r == nil || len(path) == 2:
			return true
		default:
			if f, ok := r.Field(path[2]); ok && f.PII != "" {
				return true
			}
		}
	}
	return false
}

// retry reads how often a failure that may pass is tried again.
func (l *loader) retry(p place) definition.Retry {
	out := definition.DefaultRetry
	o, ok := l.object(p, "a mapping with the keys attempts, first, max")
	if !ok {
		return out
	}
	out.Attempts = o.number("attempts", out.Attempts, 1, 1000)
	if d := o.duration("first"); d > 0 {
		out.First = d
	}
	if d := o.duration("max"); d > 0 {
		out.Max = d
	}
	o.close()
	return out
}

// undo reads how a step is taken back: an operation of the same connection, or
// the word none.
func (l *loader) undo(p place, s *definition.Step, c *definition.Command, r *definition.Resource, known []string) {
	const form = "none, an operation of the same connection, or a mapping with the keys operation, with, timeout, retry"
	if s.Kind == definition.Approve {
		l.report(p, "undo of an approval", "none: it cannot be undone")
		return
	}
	u := &definition.Undo{With: s.With, Timeout: s.Timeout, Retry: s.Retry}
	if s.Kind == definition.Child && len(s.With) > 0 {
		u.With = s.With[:1] // the entity; the input is that of another command
	}
	operation := func(p place) {
		text, ok := l.text(p, form)
		if !ok {
			return
		}
		if s.Kind == definition.Child { // another command on the same entity
			if !upperName.MatchString(text) {
				l.report(p, quote(text), "the name of a command on the same entity, such as ReopenOrder")
			}
			resource, _, _ := strings.Cut(s.Operation, ".")
			u.Operation = resource + "." + text
			return
		}
		if rest, ok := strings.CutPrefix(text, s.Connection+"."); ok {
			text = rest
		}
		u.Operation = text
		if conn, ok := l.domain.Connection(s.Connection); ok && r != nil {
			if _, ok := conn.Operation(text); !ok {
				l.unknownOperation(p, text, conn)
			}
		}
	}
	if p.node.Kind == yaml.ScalarNode {
		if p.node.Value == "none" {
			s.NoUndo = true
			return
		}
		operation(p)
		s.Undo = u
		return
	}
	o, ok := l.object(p, form)
	if !ok {
		return
	}
	if x, ok := o.need("operation", "an operation of the same connection"); ok {
		operation(x)
	}
	if w, ok := o.get("with"); ok {
		u.With = l.arguments(w, l.sagaScope(c, r, append(slices.Clone(known), s.Name), true), c, r)
		if s.Kind == definition.Child && len(s.With) > 0 && s.With[0].Name == definition.ChildEntity {
			u.With = append([]definition.Argument{s.With[0]}, u.With...)
		}
	}
	if d := o.duration("timeout"); d > 0 {
		u.Timeout = d
	}
	if x, ok := o.get("retry"); ok {
		u.Retry = l.retry(x)
	}
	o.close()
	s.Undo = u
}

// confirm reads when a command is carried out.
func (l *loader) confirm(p place, c *definition.Command, r *definition.Resource) {
	const form = "steps, or a mapping with the keys if and within"
	if p.node.Kind == yaml.ScalarNode {
		if p.node.Value != "steps" {
			l.report(p, describe(p.node), form)
		}
		return
	}
	o, ok := l.object(p, form)
	if !ok {
		return
	}
	c.Confirm.Within = definition.DefaultConfirm
	var all []string
	for _, stage := range c.Stages {
		for _, s := range stage {
			all = append(all, s.Name)
		}
	}
	if x, ok := o.need("if", "a condition over the entity, such as entity.state == \"suspended\""); ok {
		c.Confirm.If = l.condition(x, l.sagaScope(c, r, all, false))
	}
	if d := o.duration("within"); d > 0 {
		c.Confirm.Within = d
	}
	o.close()
}

// compensations checks that what was done can be undone while something that
// follows, or runs beside it, may still fail; or that somebody said it need not.
func (l *loader) compensations(c *definition.Command) {
	for i, stage := range c.Stages {
		if slices.ContainsFunc(stage, func(s *definition.Step) bool { return s.Final }) {
			return // nothing is undone from here on
		}
		for _, s := range stage {
			if s.Kind == definition.Approve || s.Undo != nil || s.NoUndo || i == len(c.Stages)-1 && len(stage) == 1 {
				continue
			}
			at := place{&yaml.Node{Line: s.Line, Column: 1}, "commands." + c.Name + ".steps." + s.Name + ".undo"}
			l.report(at, "nothing", "how the step is undone if a later one fails, or undo: none")
		}
	}
}

// planText is the definition of a command on its own. Comments and the way it was
// written make no difference.
func planText(m member) (string, error) {
	b, err := yaml.Marshal(map[string]*yaml.Node{m.name: bare(m.value.node)})
	return string(b), err
}

func bare(n *yaml.Node) *yaml.Node {
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	for _, c := range n.Content {
		out.Content = append(out.Content, bare(c))
	}
	return out
}

// ParsePlan reads the definition of a command on its own, as definition.Command
// has it in its Text. What it refers to is not checked: it was, when it was part
// of a domain.
func ParsePlan(text string) (*definition.Command, error) {
	l := &loader{file: "plan", domain: &definition.Domain{}}
	root, ok := l.document([]byte(text))
	if ok {
		if o, ok := l.object(root, "a command"); ok {
			if len(o.members) != 1 {
				l.report(root, strconv.Itoa(len(o.members))+" commands", "one")
			} else if c := l.command(o.members[0], nil); c != nil && len(l.problems) == 0 {
				return c, nil
			}
		}
	}
	l.problems.sort()
	return nil, l.problems
}
