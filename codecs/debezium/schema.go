package debezium

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// schema is a compiled Connect schema. Nil means that none is known.
type schema struct {
	kind     string // Connect's type
	semantic string // the schema's name
	optional bool
	scale    int
	fields   map[string]*schema
	order    []string
	items    *schema // of an array
	values   *schema // of a map
}

func (s *schema) field(name string) *schema {
	if s == nil {
		return nil
	}
	return s.fields[name]
}

func (s *schema) columns() []Column {
	if s == nil {
		return nil
	}
	var c []Column
	for _, n := range s.order {
		f := s.fields[n]
		c = append(c, Column{Name: n, Type: f.kind, Semantic: f.semantic, Optional: f.optional})
	}
	return c
}

// compile reads a schema block. Fields that do not say their name in "field" are
// passed over, and what has no type gives nil: values are then taken as they are.
func compile(v any, depth int) (*schema, error) {
	if depth > 64 {
		return nil, errors.New("nested deeper than 64")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %s, expected an object", describe(v))
	}
	s := &schema{kind: strings.ToLower(text(m, "type")), semantic: text(m, "name")}
	s.optional, _ = m["optional"].(bool)
	switch s.kind {
	case "":
		return nil, nil
	case "struct":
		fields, _ := m["fields"].([]any)
		s.fields = make(map[string]*schema, len(fields))
		for _, f := range fields {
			fm, _ := f.(map[string]any)
			name := text(fm, "field")
			if name == "" {
				continue
			}
			fs, err := compile(fm, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if fs != nil {
				s.fields[name] = fs
				s.order = append(s.order, name)
			}
		}
	case "array":
		items, err := compile(m["items"], depth+1)
		if err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
		s.items = items
	case "map":
		values, err := compile(m["values"], depth+1)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		s.values = values
	}
	if s.semantic == "org.apache.kafka.connect.data.Decimal" {
		p, _ := m["parameters"].(map[string]any)
		scale := p["scale"]
		n, err := strconv.Atoi(fmt.Sprint(scale))
		if err != nil || n < -maxScale || n > maxScale {
			return nil, fmt.Errorf("decimal scale: found %s, expected an integer within ±%d", describe(scale), maxScale)
		}
		s.scale = n
	}
	return s, nil
}

// maxScale of a decimal, either way: scale is four characters of input and would
// otherwise be a gigabyte of zeros.
const maxScale = 1000

// convert gives the plain value of v by its schema. Object members that are
// Placeholder are left out and their names added to missing, if that is not nil.
func convert(s *schema, v any, path string, missing *[]string) (any, error) {
	return convertAt(s, v, path, missing, 0)
}

func convertAt(s *schema, v any, path string, missing *[]string, depth int) (any, error) {
	if depth > jcs.MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", jcs.MaxDepth)
	}
	if v == nil {
		return nil, nil
	}
	if s == nil {
		return plain(v, path, missing, depth)
	}
	if c, ok, err := semantic(s, v, path); ok || err != nil {
		return c, err
	}
	switch s.kind {
	case "struct":
		if m, ok := v.(map[string]any); ok {
			return eachMember(m, path, missing, depth, s.field)
		}
	case "map":
		// Keys that are not strings make JsonConverter write a list of pairs.
		switch m := v.(type) {
		case map[string]any:
			return eachMember(m, path, nil, depth, func(string) *schema { return s.values })
		case []any:
			return plain(m, path, nil, depth)
		}
	case "array":
		if l, ok := v.([]any); ok {
			out := make([]any, len(l))
			for i, x := range l {
				var err error
				if out[i], err = convertAt(s.items, x, path+"["+strconv.Itoa(i)+"]", nil, depth+1); err != nil {
					return nil, err
				}
			}
			return out, nil
		}
	case "int8", "int16", "int32", "int64":
		if n, ok := v.(json.Number); ok {
			if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
				return i, nil
			}
		}
	case "float", "double", "float32", "float64":
		if n, ok := v.(json.Number); ok {
			if f, err := n.Float64(); err == nil {
				return f, nil
			}
		}
	case "boolean":
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case "string":
		if t, ok := v.(string); ok {
			return t, nil
		}
	case "bytes":
		if t, ok := v.(string); ok {
			if _, err := base64.StdEncoding.DecodeString(t); err == nil {
				return t, nil
			}
		}
		return nil, fmt.Errorf("%s: found %s, expected base64 of bytes", path, describe(v))
	default:
		return nil, fmt.Errorf("%s: the schema has the unknown type %q", path, s.kind)
	}
	return nil, fmt.Errorf("%s: found %s, expected %s as the schema declares", path, describe(v), s.kind)
}

// eachMember converts an object member by member.
func eachMember(m map[string]any, path string, missing *[]string, depth int, of func(string) *schema) (map[string]any, error) {
	out := make(map[string]any, len(m))
	for k, x := range m {
		if unavailable(x) {
			if missing != nil {
				*missing = append(*missing, k)
			}
			continue
		}
		c, err := convertAt(of(k), x, join(path, k), nil, depth+1)
		if err != nil {
			return nil, err
		}
		out[k] = c
	}
	return out, nil
}

// unavailable recognises the placeholder, also as the bytes and lists that it is
// written as for columns of such types.
func unavailable(v any) bool {
	switch x := v.(type) {
	case string:
		return x == Placeholder || x == "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="
	case []any:
		return len(x) == 1 && unavailable(x[0])
	case map[string]any:
		return len(x) == 1 && x[Placeholder] == Placeholder
	}
	return false
}

// plain gives v without a schema: numbers become int64 where they are integral
// and fit, json.Number where they are integral and do not, float64 otherwise.
func plain(v any, path string, missing *[]string, depth int) (any, error) {
	switch x := v.(type) {
	case json.Number:
		n := jcs.Number(x.String())
		if n == nil {
			return nil, fmt.Errorf("%s: number %s is beyond a double", path, x)
		}
		return n, nil
	case map[string]any:
		return eachMember(x, path, missing, depth, func(string) *schema { return nil })
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			var err error
			if out[i], err = convertAt(nil, e, path+"["+strconv.Itoa(i)+"]", nil, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// semantic converts the types whose meaning is in the schema's name. ok is false
// if the name has no meaning of its own here: the value is then what its Connect
// type says. Such are Year (an integer), Uuid, Xml, Ltree, Enum, EnumSet (strings),
// Bits (base64, little-endian), MicroDuration (microseconds), Interval and the
// Zoned and Iso times (strings in ISO 8601), and geometries (structs).
func semantic(s *schema, v any, path string) (c any, ok bool, err error) {
	switch s.semantic {
	case "io.debezium.time.Date", "org.apache.kafka.connect.data.Date":
		n, err := count(v, path, "days since 1970-01-01")
		if err == nil && (n < -1e7 || n > 1e7) { // years -25000 to 29000
			err = fmt.Errorf("%s: %d days are beyond the calendar", path, n)
		}
		if err != nil {
			return nil, false, err
		}
		return time.Unix(0, 0).UTC().AddDate(0, 0, int(n)).Format(time.DateOnly), true, nil
	case "io.debezium.time.Timestamp", "org.apache.kafka.connect.data.Timestamp":
		return timestamp(v, path, "milliseconds since 1970", time.UnixMilli)
	case "io.debezium.time.MicroTimestamp":
		return timestamp(v, path, "microseconds since 1970", time.UnixMicro)
	case "io.debezium.time.NanoTimestamp":
		return timestamp(v, path, "nanoseconds since 1970", func(n int64) time.Time { return time.Unix(0, n) })
	case "io.debezium.time.Time", "org.apache.kafka.connect.data.Time":
		return clock(v, path, "milliseconds", time.Millisecond)
	case "io.debezium.time.MicroTime":
		return clock(v, path, "microseconds", time.Microsecond)
	case "io.debezium.time.NanoTime":
		return clock(v, path, "nanoseconds", time.Nanosecond)
	case "org.apache.kafka.connect.data.Decimal":
		d, err := decimal(v, s.scale, path)
		return d, err == nil, err
	case "io.debezium.data.VariableScaleDecimal":
		m, isMap := v.(map[string]any)
		scale, err := count(m["scale"], path+".scale", "the scale")
		if !isMap || err != nil || scale < -maxScale || scale > maxScale {
			return nil, false, fmt.Errorf("%s: found %s, expected {scale, value} of a decimal", path, describe(v))
		}
		d, err := decimal(m["value"], int(scale), path+".value")
		return d, err == nil, err
	case "io.debezium.data.Json":
		t, isText := v.(string)
		if !isText {
			return nil, false, fmt.Errorf("%s: found %s, expected JSON in a string", path, describe(v))
		}
		parsed, err := parse([]byte(t))
		if err == nil {
			c, err = plain(parsed, path, nil, 0)
		}
		if err != nil {
			return nil, false, fmt.Errorf("%s: JSON in a string: %w", path, err)
		}
		return c, true, nil
	}
	return nil, false, nil
}

func count(v any, path, unit string) (int64, error) {
	if n, ok := v.(json.Number); ok {
		if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s: found %s, expected an integer, %s", path, describe(v), unit)
}

// timestamp writes a point in time in UTC. Debezium's timestamps without a zone
// are counted as if the database's local time were UTC, and stay so.
func timestamp(v any, path, unit string, at func(int64) time.Time) (any, bool, error) {
	n, err := count(v, path, unit)
	if err != nil {
		return nil, false, err
	}
	t := at(n).UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return nil, false, fmt.Errorf("%s: %d %s lie beyond the years that RFC 3339 can write", path, n, unit)
	}
	return t.Format(time.RFC3339Nano), true, nil
}

// clock writes a time of day. MySQL's TIME is a duration within ±838:59:59, so
// hours may have three digits and a sign.
func clock(v any, path, unit string, by time.Duration) (any, bool, error) {
	n, err := count(v, path, unit+" since midnight")
	if err == nil && (n > math.MaxInt64/int64(by) || n < -math.MaxInt64/int64(by)) {
		err = fmt.Errorf("%s: %d %s since midnight are beyond a time", path, n, unit)
	}
	if err != nil {
		return nil, false, err
	}
	d, sign := time.Duration(n)*by, ""
	if d < 0 {
		d, sign = -d, "-"
	}
	s := fmt.Sprintf("%s%02d:%02d:%02d", sign, d/time.Hour, d/time.Minute%60, d/time.Second%60)
	if frac := d % time.Second; frac != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", frac), "0")
	}
	return s, true, nil
}

// decimal writes an exact decimal: from Connect's big-endian two's complement in
// base64 with a scale, or from a number (JsonConverter's decimal.format NUMERIC),
// whose literal it keeps to the last digit.
func decimal(v any, scale int, path string) (string, error) {
	switch x := v.(type) {
	case json.Number:
		return literal(x.String(), path)
	case string:
		raw, err := base64.StdEncoding.DecodeString(x)
		if err != nil || len(raw) == 0 || len(raw) > 512 {
			break
		}
		n := new(big.Int).SetBytes(raw)
		if raw[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(raw))*8))
		}
		return shift(n.String(), scale), nil
	}
	return "", fmt.Errorf("%s: found %s, expected a decimal as base64 or as a number", path, describe(v))
}

// literal rewrites a JSON number without exponent and without trailing zeros.
func literal(s, path string) (string, error) {
	mantissa, exp := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil || n < -maxScale || n > maxScale {
			return "", fmt.Errorf("%s: the exponent of %s is beyond ±%d", path, s, maxScale)
		}
		mantissa, exp = s[:i], n
	}
	whole, frac, _ := strings.Cut(mantissa, ".")
	return shift(whole+frac, len(frac)-exp), nil
}

// shift puts the decimal point scale digits from the right of an integer.
func shift(digits string, scale int) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	if scale <= 0 {
		digits += strings.Repeat("0", -scale)
		scale = 0
	}
	if pad := scale + 1 - len(digits); pad > 0 {
		digits = strings.Repeat("0", pad) + digits
	}
	whole, frac := strings.TrimLeft(digits[:len(digits)-scale], "0"), strings.TrimRight(digits[len(digits)-scale:], "0")
	if whole == "" {
		whole = "0"
	}
	if frac != "" {
		whole += "." + frac
	}
	if whole == "0" {
		return whole
	}
	return sign + whole
}

// extended gives the plain value of MongoDB extended JSON, canonical or relaxed
// (specification "Extended JSON" 2.1): the type wrappers that have a plain value are
// replaced, the others stay as they are. Numbers are still literals.
func extended(v any) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = extended(x[i])
		}
	case map[string]any:
		if len(x) == 1 {
			for k, inner := range x {
				if p, ok := unwrap(k, inner); ok {
					return p
				}
			}
		}
		for k := range x {
			x[k] = extended(x[k])
		}
	}
	return v
}

func unwrap(k string, v any) (any, bool) {
	t, isText := v.(string)
	switch k {
	case "$oid", "$numberDecimal", "$symbol":
		return t, isText
	case "$numberInt", "$numberLong", "$numberDouble":
		_, err := strconv.ParseFloat(t, 64)
		return json.Number(t), isText && err == nil && json.Valid([]byte(t))
	case "$date":
		switch d := extended(v).(type) {
		case string:
			return d, true
		case json.Number:
			if ms, err := strconv.ParseInt(d.String(), 10, 64); err == nil {
				return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano), true
			}
		}
	}
	return nil, false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// members names an object's members for an error.
func members(m map[string]any) string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	s := strings.Join(names, ", ")
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:120], "") + "…"
	}
	if s == "" {
		return "none"
	}
	return s
}

// describe names a JSON value for an error.
func describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		if len(x) > 40 {
			x = strings.ToValidUTF8(x[:40], "") + "…"
		}
		return "string " + strconv.Quote(x)
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}
