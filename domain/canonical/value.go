// Package canonical holds the canonical snapshot of an entity, what it was
// made from, and the values in it. It decides nothing: authority does.
//
// A value is kept as its canonical JSON text (RFC 8785), so that equality is
// equality of strings, a table is readable, and merging never decodes.
package canonical

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// Value is a typed value as canonical JSON. The empty string means absent (no
// claim, no value); Null is an explicit null, which is a value.
type Value string

// Null is the explicit null.
const Null Value = "null"

// Present tells whether there is a value, an explicit null included.
func (v Value) Present() bool { return v != "" }

// MarshalJSON writes the value as it is; absent as null.
func (v Value) MarshalJSON() ([]byte, error) {
	if v == "" {
		return []byte("null"), nil
	}
	return []byte(v), nil
}

// UnmarshalJSON takes any JSON and makes it canonical.
func (v *Value) UnmarshalJSON(b []byte) error {
	c, err := jcs.Canonical(b)
	if err != nil {
		return err
	}
	*v = Value(c)
	return nil
}

// Any decodes the value: nil, bool, int64 (integral literals that fit),
// float64, string, []any or map[string]any. Absent gives nil.
func (v Value) Any() any {
	if v == "" || v == Null {
		return nil
	}
	// Scalars without a decoder: most values are.
	switch v[0] {
	case 't', 'f':
		return v == "true"
	case '"':
		if strings.IndexByte(string(v), '\\') < 0 {
			return string(v[1 : len(v)-1])
		}
	case '{', '[':
	default:
		return jcs.Number(string(v))
	}
	a, err := jcs.Decode([]byte(v))
	if err != nil {
		return nil
	}
	return a
}

// Text gives a string value without its quotes, and any other value as its
// JSON text. Absent and null give "".
func (v Value) Text() string {
	if v == "" || v == Null {
		return ""
	}
	if v[0] == '"' {
		s, _ := v.Any().(string)
		return s
	}
	return string(v)
}

// String makes a string value.
func String(s string) Value { return Value(jcs.AppendString(nil, s)) }

// Int makes an integer value.
func Int(i int64) Value { return Value(strconv.FormatInt(i, 10)) }

// Named is a value with the name of its field.
type Named struct {
	Name  string `avro:"name" json:"name"`
	Value Value  `avro:"value" json:"value"`
}

// Kind is the kind of a declared type.
type Kind string

// The kinds. A value of each is written in canonical JSON as told here.
const (
	KindString    Kind = "string"    // a JSON string
	KindInt       Kind = "int"       // a JSON number, 64-bit signed integer
	KindFloat     Kind = "float"     // a JSON number, IEEE 754 double; NaN and infinities are refused
	KindDecimal   Kind = "decimal"   // a JSON string of an exact decimal without exponent or trailing zeros: "12.5"
	KindBool      Kind = "bool"      // true or false
	KindDate      Kind = "date"      // a JSON string YYYY-MM-DD
	KindTimestamp Kind = "timestamp" // a JSON string, RFC 3339 in UTC with at most microseconds
	KindBytes     Kind = "bytes"     // a JSON string, standard base64
	KindEnum      Kind = "enum"      // a JSON string out of Type.Symbols
	KindRecord    Kind = "record"    // a JSON object with Type.Fields
	KindList      Kind = "list"      // a JSON array of Type.Elem
	KindMap       Kind = "map"       // a JSON object from strings to Type.Elem
	KindJSON      Kind = "json"      // any JSON
)

// Kinds lists every kind in the order of the documentation.
func Kinds() []Kind {
	return []Kind{KindString, KindInt, KindFloat, KindDecimal, KindBool, KindDate, KindTimestamp, KindBytes, KindEnum, KindRecord, KindList, KindMap, KindJSON}
}

// Type is a declared type.
type Type struct {
	Kind    Kind
	Symbols []string    // enum
	Elem    *Type       // list and map
	Fields  []NamedType // record, in the declared order
}

// NamedType is one field of a record type.
type NamedType struct {
	Name string
	Type Type
}

// String names the type as a definition would: "list<int>".
func (t Type) String() string {
	switch t.Kind {
	case KindList, KindMap:
		if t.Elem != nil {
			return string(t.Kind) + "<" + t.Elem.String() + ">"
		}
	case KindEnum:
		return "enum(" + strings.Join(t.Symbols, "|") + ")"
	}
	return string(t.Kind)
}

// Coerce makes the canonical value of type t from a Go value as JSON decoding
// or an expression yields it: nil, bool, string, int, int64, uint64, float64,
// json.Number, []byte, time.Time, []any, map[string]any. nil is the explicit
// null. It never guesses: a string is not a number, and no digits are lost
// silently. The error says what was expected and what was found.
func (t Type) Coerce(x any) (Value, error) {
	b, err := t.append(nil, x)
	if err != nil {
		return "", err
	}
	return Value(b), nil
}

func (t Type) append(dst []byte, x any) ([]byte, error) {
	if x == nil {
		return append(dst, "null"...), nil
	}
	switch t.Kind {
	case KindString:
		if s, ok := x.(string); ok {
			return jcs.AppendString(dst, s), nil
		}
	case KindInt:
		if i, ok := integer(x); ok {
			return strconv.AppendInt(dst, i, 10), nil
		}
	case KindFloat:
		if f, ok := double(x); ok {
			return jcs.AppendFloat(dst, f)
		}
	case KindDecimal:
		if s, ok := decimal(x); ok {
			return jcs.AppendString(dst, s), nil
		}
	case KindBool:
		if b, ok := x.(bool); ok {
			return strconv.AppendBool(dst, b), nil
		}
	case KindDate:
		switch d := x.(type) {
		case time.Time:
			return d.AppendFormat(dst, `"2006-01-02"`), nil
		case string:
			if p, err := time.Parse(time.DateOnly, d); err == nil {
				return p.AppendFormat(dst, `"2006-01-02"`), nil
			}
		}
	case KindTimestamp:
		switch d := x.(type) {
		case time.Time:
			return appendTimestamp(dst, d), nil
		case string:
			if p, err := time.Parse(time.RFC3339Nano, d); err == nil {
				return appendTimestamp(dst, p), nil
			}
		}
	case KindBytes:
		switch d := x.(type) {
		case []byte:
			return jcs.AppendString(dst, base64.StdEncoding.EncodeToString(d)), nil
		case string:
			if _, err := base64.StdEncoding.DecodeString(d); err == nil {
				return jcs.AppendString(dst, d), nil
			}
		}
	case KindEnum:
		if s, ok := x.(string); ok && slices.Contains(t.Symbols, s) {
			return jcs.AppendString(dst, s), nil
		}
	case KindList:
		if l, ok := x.([]any); ok {
			dst = append(dst, '[')
			for i, e := range l {
				if i > 0 {
					dst = append(dst, ',')
				}
				var err error
				if dst, err = t.Elem.append(dst, e); err != nil {
					return nil, fmt.Errorf("item %d: %w", i, err)
				}
			}
			return append(dst, ']'), nil
		}
	case KindMap:
		if m, ok := x.(map[string]any); ok {
			keys := make([]string, 0, len(m))
			for k := range m {
				keys = append(keys, k)
			}
			return t.appendObject(dst, keys, func(k string) (any, Type, bool) { return m[k], *t.Elem, true })
		}
	case KindRecord:
		if m, ok := x.(map[string]any); ok {
			for k := range m {
				if !slices.ContainsFunc(t.Fields, func(f NamedType) bool { return f.Name == k }) {
					return nil, fmt.Errorf("unknown record field %q, expected one of %s", k, t.fieldNames())
				}
			}
			keys := make([]string, 0, len(t.Fields))
			types := make(map[string]Type, len(t.Fields))
			for _, f := range t.Fields {
				keys, types[f.Name] = append(keys, f.Name), f.Type
			}
			return t.appendObject(dst, keys, func(k string) (any, Type, bool) { v, ok := m[k]; return v, types[k], ok })
		}
	case KindJSON:
		raw, err := json.Marshal(x)
		if err != nil {
			return nil, fmt.Errorf("expected %s, found %s", t, describe(x))
		}
		c, err := jcs.Canonical(raw)
		return append(dst, c...), err
	}
	return nil, fmt.Errorf("expected %s, found %s", t, describe(x))
}

func (t Type) appendObject(dst []byte, keys []string, get func(string) (any, Type, bool)) ([]byte, error) {
	slices.SortFunc(keys, jcs.CompareKeys)
	dst = append(dst, '{')
	first := true
	for _, k := range keys {
		v, vt, ok := get(k)
		if !ok {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(jcs.AppendString(dst, k), ':')
		var err error
		if dst, err = vt.append(dst, v); err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
	return append(dst, '}'), nil
}

func (t Type) fieldNames() string {
	n := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		n[i] = f.Name
	}
	return strings.Join(n, ", ")
}

func integer(x any) (int64, bool) {
	switch n := x.(type) {
	case int64:
		return n, true
	case int:
		return int64(n), true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case float64:
		// 2^53: beyond it a double no longer stands for one integer.
		return int64(n), n == math.Trunc(n) && math.Abs(n) <= 1<<53
	case json.Number:
		i, err := strconv.ParseInt(n.String(), 10, 64)
		return i, err == nil
	}
	return 0, false
}

func double(x any) (float64, bool) {
	switch n := x.(type) {
	case float64:
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	case int64:
		return float64(n), int64(float64(n)) == n
	case int:
		return float64(n), int(float64(n)) == n
	case uint64:
		return float64(n), uint64(float64(n)) == n
	case json.Number:
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}

// decimal writes an exact decimal without exponent, leading or trailing zeros.
func decimal(x any) (string, bool) {
	var s string
	switch n := x.(type) {
	case string:
		s = n
	case json.Number:
		s = n.String()
	case float64:
		s = strconv.FormatFloat(n, 'f', -1, 64)
	default:
		i, ok := integer(x)
		if !ok {
			return "", false
		}
		s = strconv.FormatInt(i, 10)
	}
	if len(s) > 128 || strings.ContainsAny(s, "/_xXpPbBoO") {
		return "", false
	}
	// A bounded exponent: "1e999999999" is four bytes of input and a gigabyte
	// of digits.
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e > 64 || e < -64 {
			return "", false
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return "", false
	}
	d := r.FloatString(192)
	if strings.IndexByte(d, '.') >= 0 {
		d = strings.TrimRight(strings.TrimRight(d, "0"), ".")
	}
	if d == "-0" {
		d = "0"
	}
	return d, true
}

func appendTimestamp(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = t.UTC().Truncate(time.Microsecond).AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

// describe names a value for an error: its kind and a short form of it.
func describe(x any) string {
	var kind string
	switch x.(type) {
	case string:
		kind = "string"
	case bool:
		kind = "bool"
	case int64, int, uint64:
		kind = "int"
	case float64:
		kind = "float"
	case json.Number:
		kind = "number"
	case []any:
		kind = "list"
	case map[string]any:
		kind = "record"
	case time.Time:
		kind = "timestamp"
	case []byte:
		kind = "bytes"
	default:
		kind = fmt.Sprintf("%T", x)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(x); err != nil {
		return kind
	}
	s := strings.TrimSpace(buf.String())
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return kind + " " + s
}
