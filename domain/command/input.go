package command

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Violation is one thing that is wrong with an input.
type Violation struct {
	// Pointer to it (RFC 6901); empty for the input as a whole.
	Pointer  string `avro:"pointer" json:"pointer"`
	Found    string `avro:"found" json:"found"`
	Expected string `avro:"expected" json:"expected"`
}

// String reads "/reason: found 7, expected string".
func (v Violation) String() string {
	s := "found " + v.Found + ", expected " + v.Expected
	if v.Pointer == "" {
		return s
	}
	return v.Pointer + ": " + s
}

// maxViolations after which an input is not looked at any further.
const maxViolations = 50

// Input gives the values of an input by the parameters that are declared, in the
// order of their declaration. It finds everything that is wrong with it at once;
// then there are no values.
//
// A value must be there if its parameter is required, and is null only if it is
// not. Nothing is guessed: a string is not a number.
func Input(parameters []*definition.Parameter, input canonical.Value) ([]canonical.Named, []Violation) {
	var c checker
	members, ok := input.Any().(map[string]any)
	if !ok {
		c.wrong("", describe(input.Any()), "an object with the members "+orNone(names(parameters)))
		return nil, c.violations
	}
	var out []canonical.Named
	for _, p := range parameters {
		pointer := pointerTo("", p.Name)
		v, there := members[p.Name]
		switch {
		case !there && p.Required:
			c.wrong(pointer, "nothing", p.Type.String())
		case !there:
		case v == nil && p.Required:
			c.wrong(pointer, "null", p.Type.String())
		default:
			before := len(c.violations)
			c.check(pointer, p.Type, v)
			if len(c.violations) > before {
				continue
			}
			value, err := p.Type.Coerce(v)
			if err != nil {
				c.wrong(pointer, describe(v), err.Error())
				continue
			}
			out = append(out, canonical.Named{Name: p.Name, Value: value})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.ContainsFunc(parameters, func(p *definition.Parameter) bool { return p.Name == name }) {
			c.wrong(pointerTo("", name), "an unknown member", "one of "+orNone(names(parameters)))
		}
	}
	if len(c.violations) > 0 {
		return nil, c.violations
	}
	return out, nil
}

type checker struct{ violations []Violation }

func (c *checker) wrong(pointer, found, expected string) {
	if len(c.violations) < maxViolations {
		c.violations = append(c.violations, Violation{pointer, found, expected})
	}
}

// check finds what is wrong with a value and what is in it.
func (c *checker) check(pointer string, t canonical.Type, v any) {
	if v == nil {
		return
	}
	switch t.Kind {
	case canonical.KindList:
		if items, ok := v.([]any); ok {
			for i, item := range items {
				c.check(pointer+"/"+strconv.Itoa(i), *t.Elem, item)
			}
			return
		}
	case canonical.KindMap:
		if members, ok := v.(map[string]any); ok {
			for _, name := range slices.Sorted(maps.Keys(members)) {
				c.check(pointerTo(pointer, name), *t.Elem, members[name])
			}
			return
		}
	case canonical.KindRecord:
		if members, ok := v.(map[string]any); ok {
			var known []string
			for _, f := range t.Fields {
				known = append(known, f.Name)
				c.check(pointerTo(pointer, f.Name), f.Type, members[f.Name])
			}
			for _, name := range slices.Sorted(maps.Keys(members)) {
				if !slices.Contains(known, name) {
					c.wrong(pointerTo(pointer, name), "an unknown member", "one of "+strings.Join(known, ", "))
				}
			}
			return
		}
	default:
		if _, err := t.Coerce(v); err == nil {
			return
		}
	}
	c.wrong(pointer, describe(v), t.String())
}

// pointerTo gives the JSON pointer to a member (RFC 6901).
func pointerTo(pointer, name string) string {
	return pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// describe says what a value is; a short one is quoted.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return strconv.Quote(shorten(v))
	}
	c, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
	if err != nil {
		return "a value"
	}
	return shorten(string(c))
}

func shorten(s string) string {
	if len(s) <= 60 {
		return s
	}
	return strings.ToValidUTF8(s[:57], "") + "…"
}

func names(parameters []*definition.Parameter) []string {
	var out []string
	for _, p := range parameters {
		out = append(out, p.Name)
	}
	return out
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none is declared)"
	}
	return strings.Join(names, ", ")
}
