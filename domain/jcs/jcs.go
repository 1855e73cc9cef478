// Package jcs writes JSON in the canonical form of RFC 8785 (JSON
// Canonicalization Scheme), and decodes JSON without losing integers.
//
// It deviates from the RFC in one point, on purpose: an integer literal beyond
// ±2^53 keeps its digits. The RFC reads every number as an IEEE 754 double, so
// two deliveries that differ only in the last digits of a 64-bit id would get
// one hash and the second would be taken for a duplicate.
package jcs

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting that is read; deeper input is refused.
const MaxDepth = 512

// Canonical gives the canonical form of one JSON text. Invalid JSON, invalid
// UTF-8, duplicate member names, numbers beyond a double and nesting beyond
// MaxDepth are errors.
func Canonical(b []byte) ([]byte, error) {
	v, err := decode(b, true)
	if err != nil {
		return nil, err
	}
	return Append(make([]byte, 0, len(b)), v)
}

// Decode reads one JSON text into nil, bool, string, int64 (integral literals
// that fit), float64, []any and map[string]any. The last of duplicate member
// names wins, as in encoding/json.
func Decode(b []byte) (any, error) { return decode(b, false) }

func decode(b []byte, unique bool) (any, error) {
	p := Parser{MaxDepth: MaxDepth, Unique: unique, Number: number}
	return p.Parse(b)
}

func number(literal string) (any, error) {
	n := Number(literal)
	if n == nil {
		return nil, fmt.Errorf("number %.40s is beyond a double", literal)
	}
	return n, nil
}

// Number reads a JSON number literal: int64 where it is integral and fits,
// bigInt text kept as json.Number where it is integral and does not, float64
// otherwise; nil if it is beyond a double.
func Number(s string) any {
	if !strings.ContainsAny(s, ".eE") {
		if s == "-0" {
			return int64(0)
		}
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i
		}
		return json.Number(s)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil
	}
	return f
}

// Append appends the canonical form of a decoded value.
func Append(dst []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, x), nil
	case string:
		return AppendString(dst, x), nil
	case int64:
		return strconv.AppendInt(dst, x, 10), nil
	case int:
		return strconv.AppendInt(dst, int64(x), 10), nil
	case uint64:
		return strconv.AppendUint(dst, x, 10), nil
	case json.Number:
		return append(dst, x...), nil
	case float64:
		return AppendFloat(dst, x)
	case []any:
		dst = append(dst, '[')
		for i, e := range x {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = Append(dst, e); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		keys := make([]string, 0, len(x))
		for k := range x {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, CompareKeys)
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendString(dst, k), ':')
			var err error
			if dst, err = Append(dst, x[k]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, fmt.Errorf("canonical JSON: no form for %T", v)
}

// AppendFloat appends a double as ECMAScript writes it (RFC 8785 §3.2.2.3). An
// integral double within ±2^53 equals the integer of the same value. NaN and
// infinities are errors.
func AppendFloat(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("canonical JSON: %v is not a JSON number", f)
	}
	if f == 0 {
		return append(dst, '0'), nil // also for -0
	}
	format := byte('f')
	if a := math.Abs(f); a < 1e-6 || a >= 1e21 {
		format = 'e'
	}
	n := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if format == 'e' { // e-09 is written e-9
		if l := len(dst); l-n >= 4 && dst[l-4] == 'e' && dst[l-2] == '0' {
			dst[l-2] = dst[l-1]
			dst = dst[:l-1]
		}
	}
	return dst, nil
}

const hex = "0123456789abcdef"

// AppendString appends a JSON string with the fewest escapes (RFC 8785
// §3.2.2.2). Invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\b':
				dst = append(dst, '\\', 'b')
			case '\f':
				dst = append(dst, '\\', 'f')
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\ufffd"...)
			i++
			start = i
			continue
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// CompareKeys orders member names by their UTF-16 code units (RFC 8785 §3.2.3).
func CompareKeys(a, b string) int {
	// Below the surrogates UTF-8 and UTF-16 order alike: nearly every name.
	if isBMPBelowSurrogates(a) && isBMPBelowSurrogates(b) {
		return strings.Compare(a, b)
	}
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

func isBMPBelowSurrogates(s string) bool {
	for i := range len(s) {
		if s[i] >= 0xED { // U+D000 and above
			return false
		}
	}
	return true
}
