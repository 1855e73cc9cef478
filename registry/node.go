package registry

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// loader reads one file and collects the problems in it.
type loader struct {
	file     string
	kinds    connectors.Kinds
	problems Problems
	lines    []string // of the file
	scopes   map[string]*expression.Scope
	// sources that are declared, known before anything refers to them.
	sources []string
	domain  *definition.Domain
	// promises of authority, to be checked once the mappings are known.
	promises []promise
	// broken sources have problems of their own, so that what they map is
	// not known.
	broken map[string]bool
	// named commands, with their lines, and by whom fields are written.
	named       map[string]int
	writers     []updates
	readers     []member
	derivations []derivation
}

// maxProblems after which a file is not read any further.
const maxProblems = 200

// place is a value in the file.
type place struct {
	node *yaml.Node
	key  string // its path
}

// in gives the place of a member.
func (p place) in(name string, node *yaml.Node) place {
	if p.key == "" {
		return place{node, name}
	}
	return place{node, p.key + "." + name}
}

func (p place) at(i int) place {
	return place{p.node.Content[i], p.key + "[" + strconv.Itoa(i) + "]"}
}

func (l *loader) report(p place, found, expected string) { l.suggest(p, found, expected, "") }

func (l *loader) suggest(p place, found, expected, suggestion string) {
	x := Problem{File: l.file, Key: p.key, Found: found, Expected: expected, Suggestion: suggestion}
	if p.node != nil {
		x.Line, x.Column = p.node.Line, p.node.Column
	}
	if len(l.problems) < maxProblems {
		l.problems = append(l.problems, x)
	}
}

// yamlLine finds the line in an error of the YAML parser.
var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// document parses the text; ok is false if there is nothing to go on with.
func (l *loader) document(text []byte) (place, bool) {
	l.lines = strings.Split(string(text), "\n")
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		l.problems = append(l.problems, Problem{File: l.file, Line: 1, Column: 1, Found: "an empty file", Expected: "a domain definition"})
		return place{}, false
	}
	var next yaml.Node
	if err == nil {
		if more := decoder.Decode(&next); more == nil {
			l.report(place{node: &next}, "a second YAML document", "one definition in a file")
			return place{}, false
		} else if !errors.Is(more, io.EOF) {
			err = more
		}
	}
	if err != nil {
		p := Problem{File: l.file, Line: 1, Column: 1, Found: strings.TrimPrefix(err.Error(), "yaml: "), Expected: "valid YAML"}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			p.Line, _ = strconv.Atoi(m[1])
			p.Found = err.Error()[len(m[0]):]
		}
		l.problems = append(l.problems, p)
		return place{}, false
	}
	if len(doc.Content) == 0 {
		l.problems = append(l.problems, Problem{File: l.file, Line: 1, Column: 1, Found: "an empty file", Expected: "a domain definition"})
		return place{}, false
	}
	if !l.plain(doc.Content[0], 0) {
		return place{}, false
	}
	return place{node: doc.Content[0]}, true
}

// plain refuses what a definition does not need and a reader cannot see at a
// glance: anchors, aliases, merge keys and tags. It also bounds the depth.
func (l *loader) plain(n *yaml.Node, depth int) bool {
	if depth > 64 {
		l.report(place{node: n}, "nesting deeper than 64", "a definition less deep")
		return false
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		l.report(place{node: n}, "a YAML anchor or alias", "the value written out: anchors, aliases and merge keys are not supported")
		return false
	}
	ok := true
	if n.Style&yaml.TaggedStyle != 0 {
		l.report(place{node: n}, "the YAML tag "+n.Tag, "a value without a tag")
		ok = false
	}
	for _, c := range n.Content {
		ok = l.plain(c, depth+1) && ok
	}
	return ok
}

// member is one key of an object with its value.
type member struct {
	name  string
	key   place // of the key itself
	value place
}

// object is a mapping whose keys are taken one by one; those that nobody took
// are reported by close.
type object struct {
	l *loader
	place
	members []member
	asked   []string
}

// object reads a mapping. It reports anything else, keys that are not text and
// duplicate keys.
func (l *loader) object(p place, expected string) (*object, bool) {
	o := &object{l: l, place: p}
	if p.node.Kind != yaml.MappingNode {
		l.report(p, describe(p.node), expected)
		return o, false
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(p.node.Content); i += 2 {
		k, v := p.node.Content[i], p.node.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!null" || k.Tag == "!!merge" {
			l.report(place{k, p.key}, describe(k)+" as a key", "a name")
			continue
		}
		if p.node.Style&yaml.FlowStyle != 0 && l.marked(k) {
			l.report(place{k, p.key}, "?"+k.Value+" between braces, where YAML takes the ? for its own", `it in quotes: "?`+k.Value+`"`)
			continue
		}
		m := member{k.Value, p.in(k.Value, k), p.in(k.Value, v)}
		if line, twice := seen[k.Value]; twice {
			l.report(m.key, "the key a second time, first in line "+strconv.Itoa(line), "each key once")
			continue
		}
		seen[k.Value] = k.Line
		o.members = append(o.members, m)
	}
	return o, true
}

// marked tells whether a question mark stands before a key, which is not part of
// it then.
func (l *loader) marked(k *yaml.Node) bool {
	if k.Line < 1 || k.Line > len(l.lines) || k.Column < 2 || k.Column-2 >= len(l.lines[k.Line-1]) {
		return false
	}
	return l.lines[k.Line-1][k.Column-2] == '?'
}

// get takes a key; ok is false if it is not there.
func (o *object) get(name string) (place, bool) {
	if !slices.Contains(o.asked, name) {
		o.asked = append(o.asked, name)
	}
	for _, m := range o.members {
		if m.name == name {
			return m.value, true
		}
	}
	return place{}, false
}

// need takes a key that must be there.
func (o *object) need(name, expected string) (place, bool) {
	p, ok := o.get(name)
	if !ok {
		o.l.report(o.in(name, o.node), "nothing", expected)
	}
	return p, ok
}

// close reports the keys that nobody took.
func (o *object) close() {
	for _, m := range o.members {
		if !slices.Contains(o.asked, m.name) {
			o.l.suggest(m.key, "unknown key "+quote(m.name), "one of "+strings.Join(o.asked, ", "), suggest(m.name, o.asked))
		}
	}
}

// describe names what stands at a place.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch {
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!str" || n.Value == "":
		return quote(n.Value)
	}
	return n.Value
}

// text reads a scalar as it is written; it is never empty.
func (l *loader) text(p place, expected string) (string, bool) {
	if p.node.Kind != yaml.ScalarNode || p.node.Tag == "!!null" || strings.TrimSpace(p.node.Value) == "" {
		l.report(p, describe(p.node), expected)
		return "", false
	}
	return p.node.Value, true
}

// optionalText takes a key whose value is text.
func (o *object) optionalText(name, expected string) string {
	p, ok := o.get(name)
	if !ok {
		return ""
	}
	s, _ := o.l.text(p, expected)
	return strings.TrimSpace(s)
}

// doc takes the key doc.
func (o *object) doc() string { return o.optionalText("doc", "a text for people") }

// flag takes a key whose value is true or false.
func (o *object) flag(name string) bool {
	p, ok := o.get(name)
	if !ok {
		return false
	}
	if p.node.Kind != yaml.ScalarNode || p.node.Tag != "!!bool" {
		o.l.report(p, describe(p.node), "true or false")
		return false
	}
	return strings.EqualFold(p.node.Value, "true")
}

// entry is one text of a list with its place.
type entry struct {
	text string
	place
}

// list reads a list of texts without duplicates; a single text stands for a
// list of one.
func (l *loader) list(p place, expected string) []entry {
	if p.node.Kind == yaml.ScalarNode {
		if s, ok := l.text(p, expected); ok {
			return []entry{{s, p}}
		}
		return nil
	}
	if p.node.Kind != yaml.SequenceNode || len(p.node.Content) == 0 {
		found := describe(p.node)
		if p.node.Kind == yaml.SequenceNode {
			found = "an empty list"
		}
		l.report(p, found, expected)
		return nil
	}
	var out []entry
	seen := map[string]bool{}
	for i := range p.node.Content {
		s, ok := l.text(p.at(i), "a text: "+expected)
		if !ok {
			continue
		}
		if seen[s] {
			l.report(p.at(i), quote(s)+" a second time", "each once")
			continue
		}
		seen[s] = true
		out = append(out, entry{s, p.at(i)})
	}
	return out
}

// texts drops the places.
func texts(entries []entry) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.text
	}
	return out
}

const durationForm = "a duration such as 30d, 12h or 1h30m"

// duration takes a key whose value is a positive duration; besides the units
// of Go there is d, a day of 24 hours.
func (o *object) duration(name string) time.Duration {
	p, ok := o.get(name)
	if !ok {
		return 0
	}
	s, ok := o.l.text(p, durationForm)
	if !ok {
		return 0
	}
	days, rest, hasDays := strings.Cut(s, "d")
	var d time.Duration
	if hasDays {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > 36500 {
			o.l.report(p, quote(s), durationForm)
			return 0
		}
		d = time.Duration(n) * 24 * time.Hour
		s = rest
	}
	if s != "" {
		r, err := time.ParseDuration(s)
		if err != nil || r < 0 {
			o.l.report(p, quote(p.node.Value), durationForm)
			return 0
		}
		d += r
	}
	if d <= 0 {
		o.l.report(p, quote(p.node.Value), durationForm+", more than nothing")
		return 0
	}
	return d
}

// mistakes reports the errors of an expression at their places.
func (l *loader) mistakes(p place, wrong []expression.Mistake) {
	for _, m := range wrong {
		at := place{&yaml.Node{Line: p.node.Line, Column: p.node.Column}, p.key}
		// Only where the text stands in the file as it is can a column of the
		// expression be turned into one of the file.
		switch {
		case m.Line == 0 || m.Column <= 0:
		case p.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
			at.node.Line += m.Line
			at.node.Column = 1
		case p.node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
			at.node.Column += m.Column
		default:
			at.node.Column += m.Column - 1
		}
		suggestion := ""
		if m.Name != "" {
			suggestion = suggest(m.Name, m.Candidates)
		}
		l.suggest(at, m.Found, m.Expected, suggestion)
	}
}

// expr reads an expression.
func (l *loader) expr(p place, s *expression.Scope, want expression.Want) *expression.Expr {
	text, ok := l.text(p, "an expression that gives "+want.Name)
	if !ok || s == nil {
		return nil
	}
	x, wrong := s.Compile(strings.TrimSpace(text), want)
	l.mistakes(p, wrong)
	return x
}

// condition reads an expression of type bool.
func (l *loader) condition(p place, s *expression.Scope) definition.Condition {
	text, ok := l.text(p, "a condition")
	if !ok || s == nil {
		return nil
	}
	c, wrong := s.Condition(strings.TrimSpace(text))
	l.mistakes(p, wrong)
	if c == nil {
		return nil // and not an interface that holds a nil
	}
	return c
}

// scope gives the scope of the variables, made once under a name.
func (l *loader) scope(name string, variables ...expression.Variable) *expression.Scope {
	if s, ok := l.scopes[name]; ok {
		return s
	}
	s, err := expression.NewScope(variables...)
	if err != nil {
		l.problems = append(l.problems, Problem{File: l.file, Found: "variables that cannot be declared: " + err.Error(), Expected: "a kind of connector whose variables have distinct names"})
	}
	if l.scopes == nil {
		l.scopes = map[string]*expression.Scope{}
	}
	l.scopes[name] = s
	return s
}
