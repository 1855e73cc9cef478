// Package expression is the language of definitions: CEL (Common Expression
// Language, https://cel.dev), compiled and type-checked when a definition is
// loaded. It is the only package that knows CEL; to everything else an
// expression is a definition.Expr, Condition or Resolver.
//
// It does not decide where expressions may stand or which fields exist; package
// registry does. An expression cannot do I/O, read a clock or loop for ever.
package expression

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// CostLimit bounds one evaluation, in CEL cost units: about one for each step,
// and one for every ten bytes that a string function goes through. It is some
// ten thousand items through a mapping of a list, and a few tenths of a second.
const CostLimit = 250_000

// MaxLength of an expression's text in bytes.
const MaxLength = 8 << 10

// Expr is a compiled expression. It is safe for concurrent use.
type Expr struct {
	text    string
	program cel.Program
	// path is set if the expression does nothing but walk to a member:
	// after.address.city. Most expressions of a mapping do.
	path []string
	// refs are all the paths that the expression reads, to tell a null
	// operand from a wrong one when it fails.
	refs [][]string
	// constant is the value of a string literal.
	constant *string
}

var (
	_ definition.Expr      = (*Expr)(nil)
	_ definition.Condition = (*Condition)(nil)
	_ definition.Resolver  = (*Resolver)(nil)
)

// Source is the expression's text.
func (x *Expr) Source() string { return x.text }

// Reads gives the paths that the expression reads: [["input" "reason"]].
func (x *Expr) Reads() [][]string { return x.refs }

// Constant gives the value of an expression that is a string literal.
func (x *Expr) Constant() (string, bool) {
	if x.constant == nil {
		return "", false
	}
	return *x.constant, true
}

// Eval evaluates the expression; see definition.Expr for the values it gives.
// Errors are failures of kind Validation that name the expression, with
// definition.ErrMissing in their chain where a member or an operand is missing.
func (x *Expr) Eval(vars map[string]any) (any, error) {
	if x.path != nil {
		if v, ok := walk(vars, x.path); ok {
			return v, nil
		}
		// Not there, or behind something that is no plain map: CEL says which.
	}
	out, _, err := x.program.Eval(vars)
	if err != nil {
		return nil, x.failure(vars, err)
	}
	v, err := native(out, 0)
	if err != nil {
		return nil, x.failure(vars, err)
	}
	return v, nil
}

// failure classifies what went wrong.
func (x *Expr) failure(vars map[string]any, err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, definition.ErrMissing):
	// How CEL spells a member, an index and a variable that are not there
	// (interpreter.resolutionError, which has no exported form).
	case strings.HasPrefix(text, "no such key: "), strings.HasPrefix(text, "index out of bounds: "), strings.HasPrefix(text, "no such attribute(s): "):
		err = fmt.Errorf("%w: %w", definition.ErrMissing, err)
	case strings.HasPrefix(text, "no such overload"):
		if null := x.nullOperand(vars); null != "" {
			err = fmt.Errorf("%w: %s is null", definition.ErrMissing, null)
		}
	}
	return failure.Wrap(failure.Validation, "evaluate", "`"+shorten(x.text)+"`", err)
}

// nullOperand names a path of the expression that leads to null.
func (x *Expr) nullOperand(vars map[string]any) string {
	for _, p := range x.refs {
		if v, ok := walk(vars, p); ok && v == nil {
			return strings.Join(p, ".")
		}
	}
	return ""
}

// walk follows a path through plain maps to a plain value.
func walk(vars map[string]any, path []string) (any, bool) {
	v, ok := vars[path[0]]
	for _, name := range path[1:] {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, false
		}
		v, ok = m[name]
		if !ok {
			return nil, false
		}
	}
	if !ok {
		return nil, false
	}
	switch n := v.(type) {
	case nil, bool, string, int64, uint64, float64, []byte, []any, map[string]any:
		return v, true
	case int:
		return int64(n), true
	}
	return nil, false
}

// Condition is a compiled expression of type bool.
type Condition struct{ expr *Expr }

// Source is the condition's text.
func (c *Condition) Source() string { return c.expr.text }

// Holds evaluates the condition. One that meets a missing value does not hold.
func (c *Condition) Holds(vars map[string]any) (bool, error) {
	v, err := c.expr.Eval(vars)
	if err != nil {
		if errors.Is(err, definition.ErrMissing) {
			return false, nil
		}
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		if v == nil {
			return false, nil
		}
		return false, failure.New(failure.Validation, "evaluate", "`"+shorten(c.expr.text)+"`", "expected bool, found %T", v)
	}
	return b, nil
}

// shorten keeps error messages readable.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= 120 {
		return s
	}
	n := 117
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// isMissing tells CEL's own errors for what is not there.
func isMissing(v ref.Val) bool {
	e, ok := v.(*types.Err)
	if !ok {
		return false
	}
	text := e.Error()
	return errors.Is(e, definition.ErrMissing) || strings.HasPrefix(text, "no such key: ") ||
		strings.HasPrefix(text, "index out of bounds: ") || strings.HasPrefix(text, "no such attribute(s): ")
}

// Compile compiles an expression over variables of any form that gives any
// value. The error says what was found and what was expected.
func Compile(text string, variables ...string) (definition.Expr, error) {
	vs := make([]Variable, len(variables))
	for i, v := range variables {
		vs[i].Name = v
	}
	s, err := NewScope(vs...)
	if err != nil {
		return nil, err
	}
	x, wrong := s.Compile(text, Value(canonical.Type{Kind: canonical.KindJSON}))
	if len(wrong) > 0 {
		return nil, fmt.Errorf("found %s, expected %s", wrong[0].Found, wrong[0].Expected)
	}
	return x, nil
}
