package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// form is the value of an --output flag: one of the forms a command can print.
type form struct {
	value string
	forms []string
}

func (f *form) String() string { return f.value }
func (f *form) Type() string   { return strings.Join(f.forms, "|") }
func (f *form) Set(s string) error {
	if !slices.Contains(f.forms, s) {
		return fmt.Errorf("expected one of %s", strings.Join(f.forms, ", "))
	}
	f.value = s
	return nil
}

// outputFlag adds --output; the first form is the default.
func outputFlag(c *cobra.Command, forms ...string) *form {
	f := &form{value: forms[0], forms: forms}
	c.Flags().VarP(f, "output", "o", "form of the output")
	// It fails only for flags that do not exist.
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// printer writes data in the form that was asked for.
type printer struct {
	w     io.Writer
	form  string
	color bool
}

func (e env) printer(f *form) printer {
	return printer{w: e.Stdout, form: f.value, color: e.color(e.Stdout)}
}

// print writes v as JSON or YAML, or lets people write the table.
func (p printer) print(v any, people func(printer) error) error {
	switch p.form {
	case "json":
		return writeJSON(p.w, v)
	case "yaml":
		return writeYAML(p.w, v)
	}
	return people(p)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// writeYAML writes what writeJSON writes, in the same order, as YAML.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	n, err := yamlNode(dec)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return err
	}
	return enc.Close()
}

// yamlNode reads one JSON value. The encoder quotes strings that would be read
// as something else.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch t := t.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		if t == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for dec.More() {
			item, err := yamlNode(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
			if t != '{' {
				continue
			}
			if item, err = yamlNode(dec); err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err = dec.Token() // the closing bracket
		return n, err
	case string:
		n.SetString(t)
	case json.Number:
		n.Value = t.String()
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}

// table aligns rows for people. Cells come from outside and are made printable.
type table struct {
	indent string
	header []string
	rows   [][]string
	// strong rows are printed bold.
	strong map[int]bool
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write prints the header, if there is one, and the rows.
func (t *table) write(p printer) error {
	rows := t.rows
	if t.header != nil {
		rows = append([][]string{t.header}, rows...)
	}
	var width []int
	for i, r := range rows {
		rows[i] = slices.Clone(r)
		for j, cell := range r {
			rows[i][j] = printable(cell)
			if j == len(width) {
				width = append(width, 0)
			}
			width[j] = max(width[j], utf8.RuneCountInString(rows[i][j]))
		}
	}
	var b strings.Builder
	for i, r := range rows {
		var line strings.Builder
		for j, cell := range r {
			line.WriteString(cell)
			if j < len(r)-1 {
				line.WriteString(strings.Repeat(" ", width[j]-utf8.RuneCountInString(cell)+2))
			}
		}
		text := strings.TrimRight(line.String(), " ")
		switch {
		case t.header != nil && i == 0:
			text = p.dim(text)
		case t.header != nil && t.strong[i-1], t.header == nil && t.strong[i]:
			text = p.bold(text)
		}
		b.WriteString(t.indent + text + "\n")
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

func (p printer) paint(code, s string) string {
	if !p.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p printer) bold(s string) string { return p.paint("1", s) }
func (p printer) dim(s string) string  { return p.paint("2", s) }

// printf writes words for people; its arguments are made printable.
func (p printer) printf(format string, args ...any) error {
	for i, a := range args {
		switch s := a.(type) {
		case string:
			args[i] = printable(s)
		case fmt.Stringer:
			args[i] = printable(s.String())
		}
	}
	_, err := fmt.Fprintf(p.w, format, args...)
	return err
}

// printable shows what a terminal would act upon instead of printing it:
// control characters, and those that turn the direction of writing.
func printable(s string) string {
	clean := func(r rune) bool {
		return !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) && r != utf8.RuneError
	}
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case clean(r) || r == utf8.RuneError:
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// printableLines is printable for texts of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

// valueWidth beyond which values are shortened in tables.
const valueWidth = 48

// value shows a canonical value in a table: strings without quotes, unless
// they could be mistaken for something else.
func value(v canonical.Value) string {
	s := string(v)
	if !v.Present() {
		return "-"
	}
	if s[0] == '"' {
		if s = v.Text(); s == "" || s == "null" || s == "-" {
			s = string(v)
		}
	}
	if utf8.RuneCountInString(s) > valueWidth {
		s = string([]rune(s)[:valueWidth-1]) + "…"
	}
	return s
}

// at shows an instant; "-" if it is not known.
func at(i envelope.Instant) string {
	if i == 0 {
		return "-"
	}
	return i.String()
}

// orDash shows that there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// count words a number of things: "1 row", "2 rows".
func count[N int | int32 | int64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
