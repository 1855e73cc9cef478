package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sources are the places a configuration is read from.
type Sources struct {
	// File is the path of the configuration file; where empty, the variable
	// TOUCHSTONE_CONFIG may name it, and there need not be one.
	File string

	// Env are the environment variables, NAME=value, as os.Environ gives them.
	Env []string

	// Flags are the values of the flags that were given, by name without
	// dashes. Flags that are no configuration keys are ignored: the command
	// line has its own.
	Flags map[string]string
}

// Problem is one thing wrong with a configuration.
type Problem struct {
	Key      string // empty where the file as a whole is meant
	Found    string
	Expected string
	Where    string // flag, variable, or path:line
}

// String is one line.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", p.Where)
	if p.Key != "" {
		fmt.Fprintf(&b, "%s: ", p.Key)
	}
	fmt.Fprintf(&b, "found %s, expected %s", p.Found, p.Expected)
	return b.String()
}

// Error is everything that is wrong with a configuration.
type Error struct{ Problems []Problem }

// Error has one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	if n := len(e.Problems); n > 1 {
		lines = append(lines, fmt.Sprintf("the configuration has %d errors:", n))
	}
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Load reads a configuration and validates it. The error is an *Error with all
// problems; the configuration is returned with it, as far as it could be read.
func Load(src Sources) (*Config, error) {
	c := Default()
	c.origins = make(map[string]Origin)
	l := &loader{config: &c, fields: fields(&c), env: make(map[string]string)}
	for _, kv := range src.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, EnvPrefix) && value != "" {
			l.env[name] = value
		}
	}
	l.file(cmp.Or(src.File, l.env[FileEnv]))
	l.environment()
	l.flags(src.Flags)
	l.apply()
	c.validate(l.report)
	return &c, l.err()
}

// given is a value as text, with the place it was given at.
type given struct {
	text   string
	isFile bool // text is the path of a file with the value
	origin Origin
}

type loader struct {
	config   *Config
	fields   []field
	env      map[string]string
	given    map[string]given // by key; later sources replace earlier ones
	problems []Problem
}

func (l *loader) report(p Problem) { l.problems = append(l.problems, p) }

func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	return &Error{l.problems}
}

func (l *loader) give(key string, g given) {
	if l.given == nil {
		l.given = make(map[string]given)
	}
	l.given[key] = g
}

// lookup finds a field by the key as it is written in the file.
func (l *loader) lookup(key string) (f field, isFile, ok bool) {
	for _, f := range l.fields {
		if f.Key == key {
			return f, false, true
		}
		if f.Secret && f.Key+FileSuffix == key {
			return f, true, true
		}
	}
	return field{}, false, false
}

// file reads the configuration file, if there is one.
func (l *loader) file(path string) {
	if path == "" {
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		l.report(Problem{Where: path, Found: cause(err), Expected: "a readable file"})
		return
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		l.report(Problem{Where: path, Found: strings.TrimPrefix(err.Error(), "yaml: "), Expected: "YAML"})
		return
	}
	if len(doc.Content) > 0 {
		l.section(path, "", doc.Content[0], make(map[string]int))
	}
}

// section walks a mapping of the file.
func (l *loader) section(path, prefix string, node *yaml.Node, lines map[string]int) {
	where := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d", path, n.Line) }
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Tag == "!!null" {
		return // a section with nothing in it
	}
	if node.Kind != yaml.MappingNode {
		l.report(Problem{Key: strings.TrimSuffix(prefix, "."), Where: where(node), Found: describe(node), Expected: "keys and values"})
		return
	}
	for i := 0; i < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		key := prefix + name.Value
		if line, twice := lines[key]; twice {
			l.report(Problem{Key: key, Where: where(name), Found: "the key a second time", Expected: fmt.Sprintf("it once; the first is on line %d", line)})
			continue
		}
		lines[key] = name.Line
		f, isFile, ok := l.lookup(key)
		switch {
		case ok:
			if text, ok := l.scalar(f, key, where(value), value); ok {
				if _, both := l.given[f.Key]; both {
					l.report(Problem{Key: key, Where: where(name), Found: "both " + f.Key + " and " + f.Key + FileSuffix, Expected: "one of them"})
					continue
				}
				l.give(f.Key, given{text, isFile, Origin{"file", where(name)}})
			}
		case l.isSection(key):
			l.section(path, key+".", value, lines)
		default:
			l.unknown(key, where(name), l.keys())
		}
	}
}

func (l *loader) isSection(key string) bool {
	return slices.ContainsFunc(l.fields, func(f field) bool { return strings.HasPrefix(f.Key, key+".") })
}

// scalar turns a value of the file into text.
func (l *loader) scalar(f field, key, where string, n *yaml.Node) (string, bool) {
	switch {
	case n.Tag == "!!null":
		return "", false // nothing given: what comes before holds
	case n.Kind == yaml.ScalarNode:
		return n.Value, true
	case n.Kind == yaml.SequenceNode && f.Type == "list":
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				l.report(Problem{Key: key, Where: where, Found: describe(item), Expected: "a list of words without commas"})
				return "", false
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), true
	}
	l.report(Problem{Key: key, Where: where, Found: describe(n), Expected: "a " + f.Type})
	return "", false
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}

// environment takes the variables with our prefix.
func (l *loader) environment() {
	known := make(map[string]field)
	var names []string
	for _, f := range l.fields {
		known[f.Env] = f
		names = append(names, f.Env)
		if f.Secret {
			names = append(names, f.Env+strings.ToUpper(FileSuffix))
		}
	}
	for _, name := range sortedKeys(l.env) {
		origin := Origin{"environment", name}
		f, isKey := known[name]
		secret, isTwin := known[strings.TrimSuffix(name, strings.ToUpper(FileSuffix))]
		switch {
		case isKey:
			if _, both := l.env[name+strings.ToUpper(FileSuffix)]; both && f.Secret {
				l.report(Problem{Key: f.Key, Where: origin.String(), Found: "both " + name + " and " + name + strings.ToUpper(FileSuffix), Expected: "one of them"})
				continue
			}
			l.give(f.Key, given{l.env[name], false, origin})
		case isTwin && secret.Secret:
			l.give(secret.Key, given{l.env[name], true, origin})
		case reservedEnv[name] || strings.HasPrefix(name, SecretEnvPrefix):
		default:
			l.unknown(name, origin.String(), names)
		}
	}
}

// flags takes the flags that are keys.
func (l *loader) flags(flags map[string]string) {
	for _, f := range l.fields {
		if text, ok := flags[f.Flag]; ok {
			l.give(f.Key, given{text, f.Secret, Origin{"flag", f.Flag}})
		}
	}
}

// apply parses what was given.
func (l *loader) apply() {
	for _, f := range l.fields {
		g, ok := l.given[f.Key]
		if !ok {
			continue
		}
		l.config.origins[f.Key] = g.origin
		text := g.text
		if g.isFile {
			raw, err := os.ReadFile(g.text)
			if err != nil {
				l.report(Problem{Key: f.Key + FileSuffix, Where: g.origin.String(), Found: fmt.Sprintf("%q (%s)", g.text, cause(err)), Expected: "the path of a readable file"})
				continue
			}
			text = strings.TrimRight(string(raw), "\r\n")
		}
		if expected := parse(f.value, text); expected != "" {
			l.report(Problem{Key: f.Key, Where: g.origin.String(), Found: fmt.Sprintf("%q", text), Expected: expected})
		}
	}
}

func (l *loader) keys() []string {
	var keys []string
	for _, f := range l.fields {
		keys = append(keys, f.Key)
		if f.Secret {
			keys = append(keys, f.Key+FileSuffix)
		}
	}
	return keys
}

func (l *loader) unknown(name, where string, known []string) {
	p := Problem{Key: name, Where: where, Found: "an unknown key", Expected: "one of those in docs/configuration.md"}
	if near := nearest(name, known); near != "" {
		p.Expected = fmt.Sprintf("a known one; did you mean %s?", near)
	}
	l.report(p)
}

// nearest is the known name with the fewest changed letters, if they are few.
func nearest(name string, known []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance: insertions, deletions and replacements
// of bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// cause is the reason of a file error without the path, which stands elsewhere
// in the message.
func cause(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
