package expression

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// Variable is one name that expressions may use.
type Variable struct {
	Name string
	// Members are the only members that the variable has; nil if they are
	// not known before a record arrives.
	Members []string
	// Within are the only members of some of the members; nil if they are not
	// known either.
	Within map[string][]string
	// List says that the variable is a list of maps.
	List bool
	// Names says that the variable is a list of some of these names; nil if
	// it is not.
	Names []string
}

// EntryMembers are the members of the variable "entry" of every mapping: the
// journal entry that the record came in.
func EntryMembers() []string { return []string{"headers", "receivedAt", "source", "tenant"} }

// EntityMembers are the members of the variable "entity" of event conditions.
func EntityMembers() []string { return []string{"id", "resource", "state", "version"} }

// ClaimMembers are the members of each of the "claims" of a field's expression.
func ClaimMembers() []string {
	return []string{"occurredAt", "rank", "receivedAt", "source", "sourceKey", "value"}
}

// Scope is a set of variables that expressions are compiled over.
type Scope struct {
	env       *cel.Env
	variables []Variable
}

// base is CEL with its extensions and our functions. It is immutable.
var base = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxLength),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
		ext.Strings(), ext.Math(), ext.Lists(), ext.Encoders(), ext.Sets(), ext.Regex(), ext.Bindings(),
		ext.TwoVarComprehensions(),
	}
	return cel.NewEnv(append(options, functions()...)...)
})

// NewScope makes a scope of the given variables.
func NewScope(variables ...Variable) (*Scope, error) {
	env, err := base()
	if err != nil {
		return nil, err
	}
	declared := make([]cel.EnvOption, len(variables))
	for i, v := range variables {
		t := cel.DynType
		switch {
		case v.List:
			t = cel.ListType(cel.MapType(cel.StringType, cel.DynType))
		case v.Names != nil:
			t = cel.ListType(cel.StringType)
		case v.Members != nil:
			t = cel.MapType(cel.StringType, cel.DynType)
		}
		declared[i] = cel.Variable(v.Name, t)
	}
	if env, err = env.Extend(declared...); err != nil {
		return nil, err
	}
	return &Scope{env: env, variables: variables}, nil
}

// Names of the variables, in the order they were declared.
func (s *Scope) Names() []string {
	names := make([]string, len(s.variables))
	for i, v := range s.variables {
		names[i] = v.Name
	}
	return names
}

// Mistake is one error of an expression: where in its text, what was found
// there and what was expected.
type Mistake struct {
	Line, Column    int // from 1; 0 if not known
	Found, Expected string
	// Candidates to suggest if the mistake is a misspelt name: Name is it.
	Name       string
	Candidates []string
}

// Compile compiles and type-checks an expression. An expression whose type is
// known only when a record arrives is accepted, and checked then.
func (s *Scope) Compile(text string, want Want) (*Expr, []Mistake) {
	if strings.TrimSpace(text) == "" {
		return nil, []Mistake{{Found: "nothing", Expected: "an expression that gives " + want.Name}}
	}
	checked, issues := s.env.Compile(text)
	if issues.Err() != nil {
		return nil, s.mistakes(text, issues)
	}
	a := checked.NativeRep()
	if wrong := append(s.members(a), insertions(a)...); len(wrong) > 0 {
		return nil, wrong
	}
	if out := a.GetType(a.Expr().ID()); !want.accepts(out) {
		return nil, []Mistake{{
			Found:    fmt.Sprintf("an expression of type %s (`%s`)", typeName(out), shorten(text)),
			Expected: want.Name,
		}}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if multiplies(a) {
		options = append(options, cel.CostLimit(CostLimit))
	}
	program, err := s.env.Program(checked, options...)
	if err != nil {
		return nil, []Mistake{{Found: "`" + shorten(text) + "`", Expected: "an expression that can be planned: " + err.Error()}}
	}
	x := &Expr{text: text, program: program, refs: references(a)}
	if p, ok := path(a.Expr()); ok {
		x.path = p
	}
	if a.Expr().Kind() == ast.LiteralKind {
		if lit, ok := a.Expr().AsLiteral().(types.String); ok {
			c := string(lit)
			x.constant = &c
			if want.check != nil {
				if m := want.check(c); m != nil {
					return nil, []Mistake{*m}
				}
			}
		}
	}
	return x, nil
}

// Condition compiles an expression of type bool.
func (s *Scope) Condition(text string) (*Condition, []Mistake) {
	x, wrong := s.Compile(text, Bool())
	if len(wrong) > 0 {
		return nil, wrong
	}
	return &Condition{x}, nil
}

// Resolver compiles the expression that chooses the value of a field of type
// t. The scope must have the variable "claims".
func (s *Scope) Resolver(text string, t canonical.Type) (*Resolver, []Mistake) {
	x, wrong := s.Compile(text, Value(t))
	if len(wrong) > 0 {
		return nil, wrong
	}
	return &Resolver{x, t}, nil
}

// mistakes words CEL's errors as what was found and what was expected.
func (s *Scope) mistakes(text string, issues *cel.Issues) []Mistake {
	var out []Mistake
	for i, e := range issues.Errors() {
		if i > 0 && strings.HasPrefix(e.Message, "Syntax error: ") {
			break // what follows from the first
		}
		m := Mistake{Line: e.Location.Line(), Column: e.Location.Column() + 1, Found: e.Message, Expected: "a valid CEL expression"}
		const undeclared = "undeclared reference to '"
		if rest, ok := strings.CutPrefix(e.Message, undeclared); ok {
			name, _, _ := strings.Cut(rest, "'")
			if strings.HasPrefix(text[min(offset(text, m.Line, m.Column), len(text)):], "(") || s.isCall(text, name) {
				m.Found, m.Expected = "unknown function "+name, "a function of CEL or of docs/definition.md"
				m.Candidates = s.functionNames()
			} else {
				m.Found, m.Expected = "unknown variable "+name, "one of "+strings.Join(s.Names(), ", ")
				m.Candidates = s.Names()
			}
			m.Name = name
		} else if rest, ok := strings.CutPrefix(e.Message, "found no matching overload for '"); ok {
			name, args, _ := strings.Cut(rest, "' applied to ")
			m.Found = operator(name) + " applied to " + strings.Trim(args, "'")
			m.Expected = "arguments of types that it takes"
		} else if rest, ok := strings.CutPrefix(e.Message, "Syntax error: "); ok {
			rest, _, _ = strings.Cut(firstLine(rest), " expecting {")
			m.Found = "a syntax error in `" + shorten(text) + "`: " + rest
		}
		out = append(out, m)
	}
	return out
}

// isCall tells whether a name is used as a function in the text.
func (s *Scope) isCall(text, name string) bool {
	return strings.Contains(text, name+"(")
}

func (s *Scope) functionNames() []string {
	var names []string
	for name := range s.env.Functions() {
		if !strings.ContainsAny(name, "_@!-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// offset in bytes of a line and column (in characters), both from 1.
func offset(text string, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(text[at:], '\n')
		if i < 0 {
			return len(text)
		}
		at += i + 1
	}
	for i := range text[at:] {
		if column <= 1 {
			return at + i
		}
		column--
	}
	return len(text)
}

// operator names a CEL operator as it is written.
func operator(name string) string {
	if strings.HasPrefix(name, "_") && strings.HasSuffix(name, "_") && len(name) > 2 {
		return "operator " + strings.Trim(name, "_")
	}
	switch name {
	case "_[_]":
		return "index [ ]"
	case "!_", "-_":
		return "operator " + name[:1]
	case "_?_:_":
		return "operator ? :"
	}
	return name
}

// members checks what is read from variables whose members or names are known.
func (s *Scope) members(a *ast.AST) []Mistake {
	var out []Mistake
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if m := s.name(a, e); m != nil {
			out = append(out, *m)
			return
		}
		p, ok := path(e)
		if !ok || len(p) < 2 {
			return
		}
		i := slices.IndexFunc(s.variables, func(v Variable) bool { return v.Name == p[0] })
		if i < 0 || s.variables[i].List || len(p) > 3 {
			return // of a longer path its beginnings are visited as well
		}
		known := s.variables[i].Members
		if len(p) == 3 {
			known = s.variables[i].Within[p[1]]
		}
		last := len(p) - 1
		if known == nil || slices.Contains(known, p[last]) {
			return
		}
		of := strings.Join(p[:last], ".")
		loc := a.SourceInfo().GetStartLocation(e.ID())
		out = append(out, Mistake{
			Line: loc.Line(), Column: loc.Column() + 1,
			Found: strings.Join(p, "."), Expected: "a member of " + of + ": " + orNone(known),
			Name: p[last], Candidates: known,
		})
	}))
	return out
}

// name checks `"literal" in variable`.
func (s *Scope) name(a *ast.AST, e ast.Expr) *Mistake {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != "@in" {
		return nil
	}
	args := e.AsCall().Args()
	if len(args) != 2 || args[0].Kind() != ast.LiteralKind || args[1].Kind() != ast.IdentKind {
		return nil
	}
	literal, ok := args[0].AsLiteral().(types.String)
	i := slices.IndexFunc(s.variables, func(v Variable) bool { return v.Name == args[1].AsIdent() })
	if !ok || i < 0 || s.variables[i].Names == nil || slices.Contains(s.variables[i].Names, string(literal)) {
		return nil
	}
	loc := a.SourceInfo().GetStartLocation(args[0].ID())
	return &Mistake{
		Line: loc.Line(), Column: loc.Column() + 1,
		Found: fmt.Sprintf("%q", string(literal)), Expected: "one of " + strings.Join(s.variables[i].Names, ", "),
		Name: string(literal), Candidates: s.variables[i].Names,
	}
}

// maxInserted is the longest text in bytes that a replace or a join may put in
// for each match. CEL counts the cost of a call only after it: without this
// bound two texts of 64 KiB would make one of 4 GiB before the limit is seen.
const maxInserted = 16

// insertions checks that what replace and join put in is a short literal.
func insertions(a *ast.AST) []Mistake {
	var out []Mistake
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		args, at := call.Args(), -1
		switch call.FunctionName() {
		case "replace":
			at = 1
		case "regex.replace":
			at = 2
		case "join":
			at = 0
		}
		if at < 0 || at >= len(args) {
			return // join() has no separator
		}
		if args[at].Kind() == ast.LiteralKind {
			if s, ok := args[at].AsLiteral().(types.String); ok && len(s) <= maxInserted {
				return
			}
		}
		loc := a.SourceInfo().GetStartLocation(args[at].ID())
		out = append(out, Mistake{
			Line: loc.Line(), Column: loc.Column() + 1, Found: "another text for " + call.FunctionName() + " to put in",
			Expected: fmt.Sprintf("a string literal of at most %d bytes", maxInserted),
		})
	}))
	return out
}

// path reads an expression that only walks to a member: a variable followed by
// .name or ["name"].
func path(e ast.Expr) ([]string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return []string{strings.TrimPrefix(e.AsIdent(), ".")}, true
	case ast.SelectKind:
		sel := e.AsSelect()
		if sel.IsTestOnly() {
			return nil, false
		}
		p, ok := path(sel.Operand())
		return append(p, sel.FieldName()), ok
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != "_[_]" || len(call.Args()) != 2 || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, false
		}
		name, ok := call.Args()[1].AsLiteral().(types.String)
		if !ok {
			return nil, false
		}
		p, ok := path(call.Args()[0])
		return append(p, string(name)), ok
	}
	return nil, false
}

// references lists every path that an expression reads.
func references(a *ast.AST) [][]string {
	var out [][]string
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if p, ok := path(e); ok {
			out = append(out, p)
		}
	}))
	return out
}

// multiplies tells whether an evaluation may take more than a small multiple
// of the steps and bytes of its input: where it loops, or makes long texts of
// short ones. Only such expressions pay for counting their cost.
func multiplies(a *ast.AST) bool {
	found := false
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			found = true
		case ast.CallKind:
			switch e.AsCall().FunctionName() {
			case "replace", "regex.replace", "join", "format", "flatten", "lists.range", "sets.contains", "sets.equivalent", "sets.intersects", "distinct":
				found = true
			}
		}
	}))
	return found
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(there is none)"
	}
	return strings.Join(names, ", ")
}
