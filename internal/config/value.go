package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Bytes is a number of bytes. As text it may have a unit: B, KB, MB, GB (powers
// of 1000) or KiB, MiB, GiB (powers of 1024).
type Bytes int64

var byteUnits = []struct {
	name string
	size int64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
}

// String gives the largest unit that divides the number.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b != 0 && int64(b)%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// ParseBytes reads a number of bytes with or without a unit.
func ParseBytes(s string) (Bytes, error) {
	number, size := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/size {
		return 0, fmt.Errorf("%q is not a number of bytes", s)
	}
	return Bytes(n * size), nil
}

// parse sets a field from text. The error is what was expected.
func parse(into reflect.Value, text string) (expected string) {
	switch p := into.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
	case *bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return "true or false"
		}
		*p = v
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return "a whole number"
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			return "a duration such as 50ms, 30s or 168h"
		}
		*p = v
	case *Bytes:
		v, err := ParseBytes(text)
		if err != nil {
			return "a number of bytes such as 1000000 or 16MiB"
		}
		*p = v
	default:
		panic(fmt.Sprintf("config: a field of type %s", into.Type()))
	}
	return ""
}

// format is the inverse of parse.
func format(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case time.Duration:
		return formatDuration(x)
	default:
		return fmt.Sprint(x)
	}
}

// formatDuration leaves out the zero minutes and seconds of time.Duration's
// own form: 168h, not 168h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// typeName is the type of a field as the reference names it.
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Bytes]():
		return "bytes"
	case reflect.TypeFor[[]string]():
		return "list"
	}
	return t.Kind().String()
}
