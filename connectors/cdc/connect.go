package cdc

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
)

// convert makes plain values of a value that the Kafka Connect JsonConverter
// wrote, by its schema. Dates and times become ISO 8601 texts (a time without
// zone counts as UTC, as Debezium does), decimals the text of their digits,
// Debezium's Json the value it holds. Where the schema says nothing that is
// known the value is taken as it is.
func convert(schema map[string]any, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	if schema == nil {
		return connectors.Plain(v)
	}
	if name, ok := schema["name"].(string); ok {
		if logical, known := logicalTypes[name]; known {
			return logical(schema, v)
		}
	}
	kind, _ := schema["type"].(string)
	switch strings.ToLower(kind) {
	case "int8":
		return integer(v, 8)
	case "int16":
		return integer(v, 16)
	case "int32":
		return integer(v, 32)
	case "int64":
		return integer(v, 64)
	case "float", "float32", "double", "float64":
		return double(v)
	case "boolean":
		if _, ok := v.(bool); !ok {
			return nil, expected(v, "a boolean")
		}
		return v, nil
	case "string", "bytes":
		if _, ok := v.(string); !ok {
			return nil, expected(v, "a string")
		}
		return v, nil
	case "struct":
		return convertStruct(schema, v)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return nil, expected(v, "an array")
		}
		return convertItems(part(schema, "items"), list)
	case "map":
		return convertMap(schema, v)
	}
	return connectors.Plain(v)
}

func expected(v any, what string) error {
	return fmt.Errorf("found %s, expected %s by the schema", describe(v), what)
}

// part gives a nested schema.
func part(schema map[string]any, name string) map[string]any {
	m, _ := schema[name].(map[string]any)
	return m
}

// field gives the schema of a struct's field; nil if there is none.
func field(schema map[string]any, name string) map[string]any {
	fields, _ := schema["fields"].([]any)
	for _, f := range fields {
		if m, ok := f.(map[string]any); ok && m["field"] == name {
			return m
		}
	}
	return nil
}

func convertStruct(schema map[string]any, v any) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, expected(v, "an object")
	}
	fields, _ := schema["fields"].([]any)
	byName := make(map[string]map[string]any, len(fields))
	for _, f := range fields {
		if fm, ok := f.(map[string]any); ok {
			if name, ok := fm["field"].(string); ok {
				byName[name] = fm
			}
		}
	}
	for name, member := range m {
		c, err := convert(byName[name], member)
		if err != nil {
			return nil, at(name, err)
		}
		m[name] = c
	}
	return m, nil
}

func convertItems(schema map[string]any, list []any) (any, error) {
	for i, item := range list {
		c, err := convert(schema, item)
		if err != nil {
			return nil, at(strconv.Itoa(i), err)
		}
		list[i] = c
	}
	return list, nil
}

// convertMap reads a map with string keys, an object, and any other map, an
// array of pairs.
func convertMap(schema map[string]any, v any) (any, error) {
	switch m := v.(type) {
	case map[string]any:
		for name, member := range m {
			c, err := convert(part(schema, "values"), member)
			if err != nil {
				return nil, at(name, err)
			}
			m[name] = c
		}
		return m, nil
	case []any:
		for i, item := range m {
			pair, ok := item.([]any)
			if !ok || len(pair) != 2 {
				return nil, at(strconv.Itoa(i), expected(item, "a pair of key and value"))
			}
			var err error
			if pair[0], err = convert(part(schema, "keys"), pair[0]); err == nil {
				pair[1], err = convert(part(schema, "values"), pair[1])
			}
			if err != nil {
				return nil, at(strconv.Itoa(i), err)
			}
		}
		return m, nil
	}
	return nil, expected(v, "a map")
}

func integer(v any, bits int) (int64, error) {
	n, ok := v.(json.Number)
	if ok {
		if i, err := strconv.ParseInt(n.String(), 10, bits); err == nil {
			return i, nil
		}
	}
	return 0, expected(v, "an integer of "+strconv.Itoa(bits)+" bits")
}

func double(v any) (any, error) {
	switch n := v.(type) {
	case json.Number:
		if f, err := n.Float64(); err == nil {
			return f, nil
		}
	case string: // JSON has no literals for these
		if n == "NaN" || n == "Infinity" || n == "-Infinity" {
			return n, nil
		}
	}
	return nil, expected(v, "a number")
}

// logicalTypes are the named schemas whose values need conversion. Names that
// are not listed (Enum, Uuid, Xml, ZonedTimestamp, Bits, geometry ...) are
// plain already.
//
// https://debezium.io/documentation/reference/stable/connectors/mysql.html#mysql-temporal-types
var logicalTypes = map[string]func(schema map[string]any, v any) (any, error){
	"org.apache.kafka.connect.data.Decimal":   decimal,
	"org.apache.kafka.connect.data.Date":      date,
	"org.apache.kafka.connect.data.Time":      clock(time.Millisecond),
	"org.apache.kafka.connect.data.Timestamp": instant(time.Millisecond),
	"io.debezium.data.VariableScaleDecimal":   variableScaleDecimal,
	"io.debezium.data.Json":                   jsonText,
	"io.debezium.data.EnumSet":                enumSet,
	"io.debezium.time.Date":                   date,
	"io.debezium.time.Time":                   clock(time.Millisecond),
	"io.debezium.time.MicroTime":              clock(time.Microsecond),
	"io.debezium.time.NanoTime":               clock(time.Nanosecond),
	"io.debezium.time.Timestamp":              instant(time.Millisecond),
	"io.debezium.time.MicroTimestamp":         instant(time.Microsecond),
	"io.debezium.time.NanoTimestamp":          instant(time.Nanosecond),
}

// date reads days since 1970: "2023-03-23".
func date(_ map[string]any, v any) (any, error) {
	n, err := integer(v, 32)
	if err != nil {
		return nil, expected(v, "days since 1970")
	}
	return iso(time.Unix(n*86400, 0), time.DateOnly), nil
}

// instant reads units since 1970: "2023-03-23T14:30:05.123Z".
func instant(unit time.Duration) func(map[string]any, any) (any, error) {
	return func(_ map[string]any, v any) (any, error) {
		n, err := integer(v, 64)
		if err != nil {
			return nil, expected(v, unit.String()+" units since 1970")
		}
		perSecond := int64(time.Second / unit)
		return iso(time.Unix(n/perSecond, n%perSecond*int64(unit)), time.RFC3339Nano), nil
	}
}

// iso formats a time in UTC. A year beyond four digits gets a sign, as ISO
// 8601 has it: captures use far years for infinity.
func iso(t time.Time, layout string) string {
	t = t.UTC()
	s := t.Format(layout)
	if t.Year() > 9999 {
		return "+" + s
	}
	return s
}

// clock reads units since midnight: "10:13:23.5". MySQL also has negative
// times and times beyond a day.
func clock(unit time.Duration) func(map[string]any, any) (any, error) {
	return func(_ map[string]any, v any) (any, error) {
		n, err := integer(v, 64)
		if err != nil || n > maxClock || n < -maxClock {
			return nil, expected(v, unit.String()+" units since midnight")
		}
		sign := ""
		if n < 0 {
			n, sign = -n, "-"
		}
		perSecond := int64(time.Second / unit)
		sec, ns := n/perSecond, n%perSecond*int64(unit)
		s := fmt.Sprintf("%s%02d:%02d:%02d", sign, sec/3600, sec/60%60, sec%60)
		if ns > 0 {
			s += strings.TrimRight(fmt.Sprintf(".%09d", ns), "0")
		}
		return s, nil
	}
}

const maxClock = 1 << 62

func jsonText(_ map[string]any, v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, expected(v, "JSON in a string")
	}
	return connectors.DecodeJSON([]byte(s), connectors.DefaultDepth)
}

func enumSet(_ map[string]any, v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, expected(v, "a string of symbols separated by commas")
	}
	list := []any{}
	if s != "" {
		for item := range strings.SplitSeq(s, ",") {
			list = append(list, item)
		}
	}
	return list, nil
}

// maxScale and maxDecimalBytes bound the work of printing a decimal.
const (
	maxScale        = 1000
	maxDecimalBytes = 512
)

// decimal reads Connect's Decimal: the unscaled value in two's complement,
// big-endian, base64, or a JSON number (decimal.format=NUMERIC); the scale is
// a parameter of the schema. The text has as many digits after the point as
// the scale says.
func decimal(schema map[string]any, v any) (any, error) {
	text, _ := part(schema, "parameters")["scale"].(string)
	scale, err := strconv.Atoi(text)
	if err != nil && text != "" || scale > maxScale || scale < -maxScale {
		return nil, fmt.Errorf("found scale %.20q in the schema, expected an integer up to %d", text, maxScale)
	}
	return scaled(v, scale)
}

func variableScaleDecimal(_ map[string]any, v any) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, expected(v, "an object of scale and value")
	}
	scale, err := integer(m["scale"], 32)
	if err != nil || scale > maxScale || scale < -maxScale {
		return nil, at("scale", expected(m["scale"], fmt.Sprintf("an integer up to %d", maxScale)))
	}
	return scaled(m["value"], int(scale))
}

func scaled(v any, scale int) (any, error) {
	switch x := v.(type) {
	case string:
		b, err := base64.StdEncoding.DecodeString(x)
		if err != nil || len(b) == 0 || len(b) > maxDecimalBytes {
			return nil, expected(v, fmt.Sprintf("the base64 of 1 to %d bytes", maxDecimalBytes))
		}
		n := new(big.Int).SetBytes(b)
		if b[0] >= 0x80 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		return point(n, scale), nil
	case json.Number:
		s, err := exact(x.String(), scale)
		if err != nil {
			return nil, expected(v, "a decimal: "+err.Error())
		}
		return s, nil
	}
	return nil, expected(v, "a decimal")
}

// point prints an unscaled value with its decimal point.
func point(n *big.Int, scale int) string {
	if scale <= 0 {
		return new(big.Int).Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-scale)), nil)).String()
	}
	digits := new(big.Int).Abs(n).String()
	if len(digits) <= scale {
		digits = strings.Repeat("0", scale-len(digits)+1) + digits
	}
	s := digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
	if n.Sign() < 0 {
		return "-" + s
	}
	return s
}

// exact prints the literal of a JSON number without exponent and without
// losing digits, with at least scale digits after the point.
func exact(literal string, scale int) (string, error) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(literal), "e")
	e := 0
	if exponent != "" {
		var err error
		if e, err = strconv.Atoi(exponent); err != nil || e > maxScale || e < -maxScale {
			return "", errors.New("its exponent is out of bounds")
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if len(whole)+len(fraction) > maxScale {
		return "", errors.New("it has too many digits")
	}
	n, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok {
		return "", errors.New("it is no number")
	}
	if digits := len(fraction) - e; digits > scale {
		return point(n, digits), nil
	} else if digits < scale {
		n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale-digits)), nil))
	}
	return point(n, scale), nil
}
