package codecs

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/avro"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// writeValue appends the Avro encoding of a decoded canonical value: the branch
// of the nullable union that every public field is, and the value.
type writeValue func(b []byte, x any) ([]byte, error)

// The branches of a nullable union, as Avro writes them.
const (
	branchNull  = 0
	branchValue = 2 // zigzag of 1
)

// writer makes the encoder of a declared type; it mirrors generator.typ.
func (g *generator) writer(r *definition.Resource, t canonical.Type, path []string) writeValue {
	mismatch := func(x any) error { return fmt.Errorf("found %s, expected %s", shortJSON(x), t) }
	switch t.Kind {
	case canonical.KindInt:
		return func(b []byte, x any) ([]byte, error) {
			if i, ok := x.(int64); ok {
				return binary.AppendVarint(append(b, branchValue), i), nil
			}
			return b, mismatch(x)
		}
	case canonical.KindFloat:
		return func(b []byte, x any) ([]byte, error) {
			var f float64
			switch n := x.(type) {
			case float64:
				f = n
			case int64: // 2.0 is written 2
				f = float64(n)
			case json.Number: // 1e20 is written with all its digits
				var err error
				if f, err = n.Float64(); err != nil {
					return b, mismatch(x)
				}
			default:
				return b, mismatch(x)
			}
			return binary.LittleEndian.AppendUint64(append(b, branchValue), math.Float64bits(f)), nil
		}
	case canonical.KindBool:
		return func(b []byte, x any) ([]byte, error) {
			v, ok := x.(bool)
			if !ok {
				return b, mismatch(x)
			}
			if v {
				return append(b, branchValue, 1), nil
			}
			return append(b, branchValue, 0), nil
		}
	case canonical.KindBytes:
		return func(b []byte, x any) ([]byte, error) {
			if s, ok := x.(string); ok {
				if raw, err := base64.StdEncoding.DecodeString(s); err == nil {
					return append(binary.AppendVarint(append(b, branchValue), int64(len(raw))), raw...), nil
				}
			}
			return b, mismatch(x)
		}
	case canonical.KindDate:
		return func(b []byte, x any) ([]byte, error) {
			if s, ok := x.(string); ok {
				if d, err := time.Parse(time.DateOnly, s); err == nil {
					return binary.AppendVarint(append(b, branchValue), d.Unix()/(24*60*60)), nil
				}
			}
			return b, mismatch(x)
		}
	case canonical.KindTimestamp:
		return func(b []byte, x any) ([]byte, error) {
			if s, ok := x.(string); ok {
				if d, err := time.Parse(time.RFC3339Nano, s); err == nil {
					return binary.AppendVarint(append(b, branchValue), d.UnixMicro()), nil
				}
			}
			return b, mismatch(x)
		}
	case canonical.KindJSON:
		return func(b []byte, x any) ([]byte, error) {
			j, err := jcs.Append(nil, x)
			return appendString(append(b, branchValue), string(j)), err
		}
	case canonical.KindList:
		item := g.writer(r, *t.Elem, extend(path, "item"))
		return func(b []byte, x any) ([]byte, error) {
			l, ok := x.([]any)
			if !ok {
				return b, mismatch(x)
			}
			b = append(b, branchValue)
			if len(l) > 0 {
				b = binary.AppendVarint(b, int64(len(l)))
			}
			for i, e := range l {
				var err error
				if b, err = orNull(item, b, e); err != nil {
					return b, fmt.Errorf("item %d: %w", i, err)
				}
			}
			return append(b, 0), nil
		}
	case canonical.KindMap:
		value := g.writer(r, *t.Elem, extend(path, "value"))
		return func(b []byte, x any) ([]byte, error) {
			m, ok := x.(map[string]any)
			if !ok {
				return b, mismatch(x)
			}
			b = append(b, branchValue)
			if len(m) > 0 {
				b = binary.AppendVarint(b, int64(len(m)))
			}
			for _, k := range slices.Sorted(maps.Keys(m)) { // equal values give equal bytes
				var err error
				if b, err = orNull(value, appendString(b, k), m[k]); err != nil {
					return b, fmt.Errorf("%s: %w", k, err)
				}
			}
			return append(b, 0), nil
		}
	case canonical.KindRecord:
		type member struct {
			name  string
			write writeValue
		}
		var members []member
		for _, f := range t.Fields {
			members = append(members, member{f.Name, g.writer(r, f.Type, extend(path, f.Name))})
		}
		return func(b []byte, x any) ([]byte, error) {
			m, ok := x.(map[string]any)
			if !ok {
				return b, mismatch(x)
			}
			b = append(b, branchValue)
			for _, f := range members {
				var err error
				if b, err = orNull(f.write, b, m[f.name]); err != nil {
					return b, fmt.Errorf("%s: %w", f.name, err)
				}
			}
			return b, nil
		}
	}
	return func(b []byte, x any) ([]byte, error) {
		if s, ok := x.(string); ok {
			return appendString(append(b, branchValue), s), nil
		}
		return b, mismatch(x)
	}
}

func orNull(write writeValue, b []byte, x any) ([]byte, error) {
	if x == nil {
		return append(b, branchNull), nil
	}
	return write(b, x)
}

// appendString appends an Avro string.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendVarint(b, int64(len(s))), s...)
}

func shortJSON(x any) string {
	b, err := jcs.Append(nil, x)
	if err != nil {
		return fmt.Sprintf("%T", x)
	}
	if len(b) > 60 {
		return strings.ToValidUTF8(string(b[:60]), "") + "…"
	}
	return string(b)
}

// shape is what of a schema is needed to turn generic Avro values into plain JSON
// values: union values come wrapped in maps that look like records, and a date and
// a timestamp are both a time.Time.
type shape struct {
	kind    string // Avro's type
	logical string
	scale   int
	json    bool              // a string that holds JSON
	fields  map[string]*shape // record
	items   *shape            // array and map
	union   map[string]*shape // by the branch's name, also with its logical type
}

// shapeOf compiles a schema. named collects the named types for references.
func shapeOf(schema any, namespace string, named map[string]*shape) (*shape, error) {
	switch s := schema.(type) {
	case string:
		if n, ok := named[fullName(s, namespace)]; ok {
			return n, nil
		}
		return &shape{kind: s}, nil
	case []any:
		out := &shape{kind: "union", union: map[string]*shape{}}
		for _, b := range s {
			branch, err := shapeOf(b, namespace, named)
			if err != nil {
				return nil, err
			}
			name := branch.kind
			switch name {
			case "record", "enum", "fixed", "error":
				if m, ok := b.(map[string]any); ok {
					name = fullName(text(m, "name"), cmp.Or(text(m, "namespace"), namespace))
				} else {
					name = fullName(b.(string), namespace)
				}
			}
			out.union[name] = branch
			if branch.logical != "" {
				out.union[name+"."+branch.logical] = branch
			}
		}
		return out, nil
	case map[string]any:
		return shapeOfObject(s, namespace, named)
	}
	return nil, fmt.Errorf("schema: found %T, expected a name, an object or a list", schema)
}

func shapeOfObject(s map[string]any, namespace string, named map[string]*shape) (*shape, error) {
	kind, ok := s["type"].(string)
	if !ok {
		return shapeOf(s["type"], namespace, named)
	}
	out := &shape{kind: kind, logical: text(s, "logicalType"), json: text(s, KindProperty) == string(canonical.KindJSON)}
	if n, ok := s["scale"].(float64); ok {
		out.scale = int(n)
	}
	var err error
	switch kind {
	case "record", "error", "enum", "fixed":
		full := fullName(text(s, "name"), cmp.Or(text(s, "namespace"), namespace))
		named[full] = out
		if i := strings.LastIndexByte(full, '.'); i >= 0 {
			namespace = full[:i]
		}
		fields, _ := s["fields"].([]any)
		out.fields = make(map[string]*shape, len(fields))
		for _, f := range fields {
			m, ok := f.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("schema: a field of %s is no object", full)
			}
			// A field's type is nested in it; older schemas write it flat.
			if out.fields[text(m, "name")], err = shapeOf(m["type"], namespace, named); err != nil {
				return nil, err
			}
		}
	case "array":
		out.items, err = shapeOf(s["items"], namespace, named)
	case "map":
		out.items, err = shapeOf(s["values"], namespace, named)
	default:
		if n, ok := named[fullName(kind, namespace)]; ok {
			return n, nil
		}
	}
	return out, err
}

// plain gives the JSON value of a generic Avro value.
func (s *shape) plain(v any) any {
	switch x := v.(type) {
	case nil:
		return nil
	case map[string]any:
		if s.kind == "union" {
			for name, inner := range x {
				if b, ok := s.union[name]; ok {
					return b.plain(inner)
				}
				if base, _, ok := strings.Cut(name, "."); ok && s.union[base] != nil {
					return s.union[base].plain(inner)
				}
				return (&shape{}).plain(inner)
			}
		}
		out := make(map[string]any, len(x))
		for k, e := range x {
			f := s.items
			if s.fields != nil {
				f = s.fields[k]
			}
			if f == nil {
				f = &shape{}
			}
			out[k] = f.plain(e)
		}
		return out
	case []any:
		items := s.items
		if items == nil {
			items = &shape{}
		}
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = items.plain(e)
		}
		return out
	case string:
		if s.json {
			if j, err := jcs.Decode([]byte(x)); err == nil {
				return j
			}
		}
		return x
	case []byte:
		return base64.StdEncoding.EncodeToString(x)
	case int32:
		return int64(x)
	case float32:
		return finite(float64(x))
	case float64:
		return finite(x)
	case time.Time:
		if s.logical == "date" {
			return x.UTC().Format(time.DateOnly)
		}
		return x.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		return time.Time{}.Add(x).Format("15:04:05.999999")
	case *big.Rat:
		return x.FloatString(s.scale)
	case avro.Duration:
		return x.String()
	case [16]byte: // a uuid kept as fixed
		h := hex.EncodeToString(x[:])
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
	return v
}

// finite writes what JSON has no number for as protobuf's JSON mapping does.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strings.TrimPrefix(strings.Replace(strconv.FormatFloat(f, 'g', -1, 64), "Inf", "Infinity", 1), "+")
	}
	return f
}

func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}
