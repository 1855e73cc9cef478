// Package settings reads the settings of a source, which come as YAML gives
// them, into typed values. It collects every mistake instead of stopping at the
// first: a key that nobody reads, a value of the wrong type or out of range.
//
// It does not know what the settings mean; each kind of connector does.
package settings

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
)

// Reader reads one map of settings. Reading a key marks it as known; Err then
// reports the keys that were never read.
type Reader struct {
	prefix string
	values map[string]any
	known  map[string]bool
	errs   *connectors.SettingErrors
	parts  []*Reader
}

// Read begins to read the settings of a source. A nil map is an empty one.
func Read(values map[string]any) *Reader {
	return &Reader{values: values, known: map[string]bool{}, errs: &connectors.SettingErrors{}}
}

// Err gives every mistake that was met, sorted by key, as a
// connectors.SettingErrors; nil if there was none. Call it last.
func (r *Reader) Err() error {
	r.unknown()
	if len(*r.errs) == 0 {
		return nil
	}
	sort.SliceStable(*r.errs, func(i, j int) bool { return (*r.errs)[i].Key < (*r.errs)[j].Key })
	return *r.errs
}

func (r *Reader) unknown() {
	for key, v := range r.values {
		if !r.known[key] {
			names := make([]string, 0, len(r.known))
			for k := range r.known {
				names = append(names, k)
			}
			slices.Sort(names)
			r.Wrong(key, v, "no such setting; one of "+strings.Join(names, ", "))
		}
	}
	for _, p := range r.parts {
		p.unknown()
	}
}

// Wrong records a mistake about a key.
func (r *Reader) Wrong(key string, found any, expected string) {
	*r.errs = append(*r.errs, connectors.SettingError{Key: r.prefix + key, Found: Describe(found), Expected: expected})
}

// Missing records that a required key has no value.
func (r *Reader) Missing(key, expected string) {
	*r.errs = append(*r.errs, connectors.SettingError{Key: r.prefix + key, Found: "nothing", Expected: expected})
}

// Has tells whether the key has a value, and marks it as known.
func (r *Reader) Has(key string) bool { return r.get(key) != nil }

func (r *Reader) get(key string) any {
	r.known[key] = true
	return r.values[key]
}

// String reads a text.
func (r *Reader) String(key, byDefault string) string {
	switch v := r.get(key).(type) {
	case nil:
		return byDefault
	case string:
		return v
	default:
		r.Wrong(key, v, "a string")
		return byDefault
	}
}

// Choice reads one of the words allowed.
func (r *Reader) Choice(key, byDefault string, allowed ...string) string {
	v := r.get(key)
	if v == nil {
		return byDefault
	}
	if s, ok := v.(string); ok && slices.Contains(allowed, s) {
		return s
	}
	r.Wrong(key, v, "one of "+strings.Join(allowed, ", "))
	return byDefault
}

// Bool reads true or false.
func (r *Reader) Bool(key string, byDefault bool) bool {
	switch v := r.get(key).(type) {
	case nil:
		return byDefault
	case bool:
		return v
	default:
		r.Wrong(key, v, "true or false")
		return byDefault
	}
}

// Int reads an integer between low and high.
func (r *Reader) Int(key string, byDefault, low, high int64) int64 {
	v := r.get(key)
	if v == nil {
		return byDefault
	}
	if n, ok := integer(v); ok && n >= low && n <= high {
		return n
	}
	if high == math.MaxInt64 {
		r.Wrong(key, v, fmt.Sprintf("an integer from %d", low))
	} else {
		r.Wrong(key, v, fmt.Sprintf("an integer from %d to %d", low, high))
	}
	return byDefault
}

// Float reads a number between low and high.
func (r *Reader) Float(key string, byDefault, low, high float64) float64 {
	v := r.get(key)
	if v == nil {
		return byDefault
	}
	f, ok := v.(float64)
	if n, isInt := integer(v); isInt {
		f, ok = float64(n), true
	}
	if ok && f >= low && f <= high {
		return f
	}
	r.Wrong(key, v, fmt.Sprintf("a number from %v to %v", low, high))
	return byDefault
}

// Duration reads a positive duration such as "5m" (see time.ParseDuration).
func (r *Reader) Duration(key string, byDefault time.Duration) time.Duration {
	v := r.get(key)
	switch d := v.(type) {
	case nil:
		return byDefault
	case time.Duration:
		if d > 0 {
			return d
		}
	case string:
		if p, err := time.ParseDuration(d); err == nil && p > 0 {
			return p
		}
	}
	r.Wrong(key, v, "a positive duration such as 5m or 30s")
	return byDefault
}

// Character reads one printable ASCII character or "\t", given as itself or as
// those two characters; 0 stands for none.
func (r *Reader) Character(key string, byDefault byte) byte {
	v := r.get(key)
	if v == nil {
		return byDefault
	}
	s, ok := v.(string)
	switch {
	case ok && s == "":
		return 0
	case ok && (s == "\t" || s == `\t`):
		return '\t'
	case ok && len(s) == 1 && s[0] >= ' ' && s[0] < 0x7f:
		return s[0]
	}
	r.Wrong(key, v, "one ASCII character")
	return byDefault
}

// Strings reads a list of texts that are not empty and not repeated. One text
// stands for a list of it.
func (r *Reader) Strings(key string) []string {
	var items []any
	switch l := r.get(key).(type) {
	case nil:
		return nil
	case string:
		items = []any{l}
	case []any:
		items = l
	default:
		r.Wrong(key, l, "a list of strings")
	}
	var out []string
	for i, item := range items {
		s, ok := item.(string)
		if !ok || s == "" || slices.Contains(out, s) {
			r.Wrong(key+"["+strconv.Itoa(i)+"]", item, "a string that is not empty and not repeated")
			continue
		}
		out = append(out, s)
	}
	return out
}

// Texts reads a list of texts that may be repeated.
func (r *Reader) Texts(key string) []string {
	items, ok := r.get(key).([]any)
	if !ok {
		if v := r.get(key); v != nil {
			r.Wrong(key, v, "a list of strings")
		}
		return nil
	}
	var out []string
	for i, item := range items {
		s, ok := item.(string)
		if !ok || s == "" {
			r.Wrong(key+"["+strconv.Itoa(i)+"]", item, "a string that is not empty")
			continue
		}
		out = append(out, s)
	}
	return out
}

// Part reads a nested map; an empty one if the key has no value.
func (r *Reader) Part(key string) *Reader {
	v := r.get(key)
	if v == nil {
		return r.part(key, nil)
	}
	m, ok := v.(map[string]any)
	if !ok {
		r.Wrong(key, v, "a map of settings")
	}
	return r.part(key, m)
}

// Parts reads a list of maps.
func (r *Reader) Parts(key string) []*Reader {
	v := r.get(key)
	if v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		r.Wrong(key, v, "a list of maps")
		return nil
	}
	out := make([]*Reader, 0, len(l))
	for i, item := range l {
		at := key + "[" + strconv.Itoa(i) + "]"
		m, ok := item.(map[string]any)
		if !ok {
			r.Wrong(at, item, "a map")
			continue
		}
		out = append(out, r.part(at, m))
	}
	return out
}

// IsList tells whether the key's value is a list.
func (r *Reader) IsList(key string) bool {
	_, ok := r.get(key).([]any)
	return ok
}

// Keys gives the sorted keys that have a value and marks them as known: for
// maps whose keys are names that the definition chooses.
func (r *Reader) Keys() []string {
	keys := make([]string, 0, len(r.values))
	for k := range r.values {
		keys = append(keys, k)
		r.known[k] = true
	}
	slices.Sort(keys)
	return keys
}

func (r *Reader) part(key string, values map[string]any) *Reader {
	p := &Reader{prefix: r.prefix + key + ".", values: values, known: map[string]bool{}, errs: r.errs}
	r.parts = append(r.parts, p)
	return p
}

func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int:
		return int64(n), true
	case int64:
		return n, true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case float64:
		return int64(n), n == math.Trunc(n) && math.Abs(n) <= 1<<53
	}
	return 0, false
}

// Describe names a value for a message: its type and a short form of it.
func Describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "nothing"
	case string:
		if len(x) > 60 {
			x = x[:57] + "..."
		}
		return strconv.Quote(x)
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	default:
		return fmt.Sprint(x)
	}
}
