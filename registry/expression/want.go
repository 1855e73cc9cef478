package expression

import (
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// Want is what an expression must give.
type Want struct {
	// Name of it, for messages: "int".
	Name string
	// kinds of static type that may give it.
	kinds []types.Kind
	// elem of a list or a map, nil if any.
	elem *Want
	// check of a string literal, nil if none.
	check func(literal string) *Mistake
}

// Bool is a condition.
func Bool() Want { return Want{Name: "bool", kinds: []types.Kind{types.BoolKind}} }

// Key is a source's own key: a string or an integer.
func Key() Want {
	return Want{Name: "a key: string or int", kinds: []types.Kind{types.StringKind, types.IntKind, types.UintKind}}
}

// Moment is when something happened: a timestamp, an RFC 3339 string, or a
// number since 1970 whose unit follows from its size.
func Moment() Want {
	return Want{
		Name:  "a moment: timestamp, RFC 3339 string or a number since 1970",
		kinds: []types.Kind{types.TimestampKind, types.StringKind, types.IntKind, types.UintKind, types.DoubleKind},
	}
}

// Integer is a 64-bit integer.
func Integer() Want { return Want{Name: "int", kinds: []types.Kind{types.IntKind, types.UintKind}} }

// List is a list of anything.
func List() Want { return Want{Name: "a list", kinds: []types.Kind{types.ListKind}} }

// Status is a source's own status, to be looked up among states.
func Status(states []string) Want {
	return Want{
		Name: "a status: string or int", kinds: []types.Kind{types.StringKind, types.IntKind, types.UintKind},
		check: oneOf("a declared status", states),
	}
}

// Value is a value of a declared type. It follows canonical.Type.Coerce.
func Value(t canonical.Type) Want {
	w := Want{Name: t.String()}
	switch t.Kind {
	case canonical.KindString:
		w.kinds = []types.Kind{types.StringKind}
	case canonical.KindInt:
		w.kinds = []types.Kind{types.IntKind, types.UintKind, types.DoubleKind}
	case canonical.KindFloat:
		w.kinds = []types.Kind{types.DoubleKind, types.IntKind, types.UintKind}
	case canonical.KindDecimal:
		w.kinds = []types.Kind{types.StringKind, types.IntKind, types.UintKind, types.DoubleKind}
	case canonical.KindBool:
		w.kinds = []types.Kind{types.BoolKind}
	case canonical.KindDate, canonical.KindTimestamp:
		w.kinds = []types.Kind{types.StringKind, types.TimestampKind}
	case canonical.KindBytes:
		w.kinds = []types.Kind{types.BytesKind, types.StringKind}
	case canonical.KindEnum:
		w.kinds = []types.Kind{types.StringKind}
		w.check = oneOf("one of the symbols", t.Symbols)
	case canonical.KindList, canonical.KindMap:
		w.kinds = []types.Kind{types.ListKind}
		if t.Kind == canonical.KindMap {
			w.kinds = []types.Kind{types.MapKind}
		}
		if t.Elem != nil {
			elem := Value(*t.Elem)
			w.elem = &elem
		}
	case canonical.KindRecord:
		w.kinds = []types.Kind{types.MapKind}
	case canonical.KindJSON:
		w.kinds = []types.Kind{
			types.StringKind, types.IntKind, types.UintKind, types.DoubleKind, types.BoolKind,
			types.ListKind, types.MapKind, types.TimestampKind, types.BytesKind,
		}
	}
	return w
}

// Identifier is a value of an identity field: its type, and an integer where
// the field is a string, because back ends differ in how they type a number.
func Identifier(t canonical.Type) Want {
	w := Value(t)
	if t.Kind == canonical.KindString {
		w.Name, w.kinds = "string or int", []types.Kind{types.StringKind, types.IntKind, types.UintKind}
	}
	return w
}

func oneOf(what string, symbols []string) func(string) *Mistake {
	return func(literal string) *Mistake {
		if slices.Contains(symbols, literal) {
			return nil
		}
		return &Mistake{Found: `"` + literal + `"`, Expected: what + ": " + strings.Join(symbols, ", "), Name: literal, Candidates: symbols}
	}
}

// accepts tells whether an expression of static type t may give what is wanted.
func (w Want) accepts(t *cel.Type) bool {
	switch t.Kind() {
	case types.DynKind, types.AnyKind, types.TypeParamKind, types.NullTypeKind, types.ErrorKind:
		return true
	case types.OpaqueKind:
		if t.TypeName() == "optional_type" && len(t.Parameters()) == 1 {
			return w.accepts(t.Parameters()[0])
		}
		return false
	}
	if !slices.Contains(w.kinds, t.Kind()) {
		return false
	}
	p := t.Parameters()
	if w.elem == nil || len(p) == 0 {
		return true
	}
	return w.elem.accepts(p[len(p)-1])
}

// typeName spells a static type as a definition would.
func typeName(t *cel.Type) string {
	switch t.Kind() {
	case types.TimestampKind:
		return "timestamp"
	case types.DurationKind:
		return "duration"
	case types.DoubleKind:
		return "float"
	case types.StringKind:
		return "string" // nullable or not
	case types.IntKind:
		return "int"
	case types.BoolKind:
		return "bool"
	}
	return t.String()
}
