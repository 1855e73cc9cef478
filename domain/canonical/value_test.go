package canonical_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

func TestCoerce(t *testing.T) {
	str := canonical.Type{Kind: canonical.KindString}
	num := canonical.Type{Kind: canonical.KindInt}
	record := canonical.Type{Kind: canonical.KindRecord, Fields: []canonical.NamedType{{Name: "street", Type: str}, {Name: "no", Type: num}}}
	kind := func(k canonical.Kind) canonical.Type { return canonical.Type{Kind: k} }
	enum := canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"a", "b"}}
	list := canonical.Type{Kind: canonical.KindList, Elem: &num}
	zone := time.FixedZone("", 3600)
	for _, tc := range []struct {
		t    canonical.Type
		in   any
		want string // the value, or the error if it begins with "expected" or a path
	}{
		{str, "a\"b", `"a\"b"`},
		{str, nil, `null`},
		{str, int64(7), `expected string, found int 7`},
		{num, int64(-7), `-7`},
		{num, 7.0, `7`},
		{num, json.Number("9007199254740993"), `9007199254740993`},
		{num, 7.5, `expected int, found float 7.5`},
		{num, 1e300, `expected int, found float 1e+300`},
		{num, uint64(math.MaxUint64), `expected int, found int 18446744073709551615`},
		{num, "7", `expected int, found string "7"`},
		{kind(canonical.KindFloat), int64(3), `3`},
		{kind(canonical.KindFloat), 3.14, `3.14`},
		{kind(canonical.KindFloat), math.NaN(), `expected float, found float`},
		{kind(canonical.KindFloat), int64(math.MaxInt64 - 1), `expected float, found int 9223372036854775806`},
		{kind(canonical.KindDecimal), "012.500", `"12.5"`},
		{kind(canonical.KindDecimal), "-0.00", `"0"`},
		{kind(canonical.KindDecimal), "1e3", `"1000"`},
		{kind(canonical.KindDecimal), "1e999999999", `expected decimal, found string "1e999999999"`},
		{kind(canonical.KindDecimal), "1/3", `expected decimal, found string "1/3"`},
		{kind(canonical.KindDecimal), "0x10", `expected decimal, found string "0x10"`},
		{kind(canonical.KindDecimal), "", `expected decimal, found string ""`},
		{kind(canonical.KindDecimal), int64(12), `"12"`},
		{kind(canonical.KindBool), true, `true`},
		{kind(canonical.KindBool), "true", `expected bool, found string "true"`},
		{kind(canonical.KindDate), "2011-12-01", `"2011-12-01"`},
		{kind(canonical.KindDate), "2011-02-30", `expected date, found string "2011-02-30"`},
		{kind(canonical.KindDate), time.Date(2011, 12, 1, 23, 0, 0, 0, time.UTC), `"2011-12-01"`},
		{kind(canonical.KindTimestamp), "2011-12-01T01:00:00.1234567+01:00", `"2011-12-01T00:00:00.123456Z"`},
		{kind(canonical.KindTimestamp), time.Date(2011, 12, 1, 1, 0, 0, 0, zone), `"2011-12-01T00:00:00Z"`},
		{kind(canonical.KindTimestamp), "yesterday", `expected timestamp, found string "yesterday"`},
		{kind(canonical.KindBytes), []byte{1, 2}, `"AQI="`},
		{kind(canonical.KindBytes), "AQI=", `"AQI="`},
		{kind(canonical.KindBytes), "%", `expected bytes, found string "%"`},
		{enum, "b", `"b"`},
		{enum, "c", `expected enum(a|b), found string "c"`},
		{list, []any{int64(1), nil}, `[1,null]`},
		{list, []any{int64(1), "x"}, `item 1: expected int, found string "x"`},
		{canonical.Type{Kind: canonical.KindMap, Elem: &num}, map[string]any{"b": int64(1), "a": int64(2)}, `{"a":2,"b":1}`},
		{record, map[string]any{"street": "x", "no": int64(1)}, `{"no":1,"street":"x"}`},
		{record, map[string]any{"street": "x"}, `{"street":"x"}`},
		{record, map[string]any{"no": "x"}, `no: expected int, found string "x"`},
		{record, map[string]any{"zip": "x"}, `unknown record field "zip", expected one of street, no`},
		{record, "x", `expected record, found string "x"`},
		{kind(canonical.KindJSON), map[string]any{"b": []any{1.0}, "a": nil}, `{"a":null,"b":[1]}`},
		{str, []any{strings.Repeat("é", 100)}, `expected string, found list ["` + strings.Repeat("é", 29) + `…`},
	} {
		got, err := tc.t.Coerce(tc.in)
		text := string(got)
		if err != nil {
			text = err.Error()
		}
		if text != tc.want {
			t.Errorf("%s of %v: %s, want %s", tc.t, tc.in, text, tc.want)
		}
	}
}

// Oracle: a decimal keeps its exact value, and equal values have one spelling.
func TestDecimalIsExactAndCanonical(t *testing.T) {
	dec := canonical.Type{Kind: canonical.KindDecimal}
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.StringMatching(`-?[0-9]{1,30}`).Draw(t, "whole")
		frac := rapid.StringMatching(`[0-9]{0,30}`).Draw(t, "frac")
		a, err := dec.Coerce(whole + "." + frac + "0")
		if err != nil {
			t.Skip(err)
		}
		b, err := dec.Coerce(a.Text())
		if err != nil || a != b {
			t.Fatalf("%s read again is %s %v", a, b, err)
		}
		neg := strings.HasPrefix(whole, "-")
		w := strings.TrimLeft(strings.TrimPrefix(whole, "-"), "0")
		if w == "" {
			w = "0"
		}
		want := strings.TrimRight(frac, "0")
		if want != "" {
			want = w + "." + want
		} else {
			want = w
		}
		if neg && want != "0" {
			want = "-" + want
		}
		if a.Text() != want {
			t.Fatalf("%s.%s became %s, want %s", whole, frac, a.Text(), want)
		}
	})
}

func TestAnyAndText(t *testing.T) {
	for v, want := range map[canonical.Value]any{
		"": nil, "null": nil, "true": true, "false": false, "7": int64(7), "7.5": 7.5,
		`"x"`: "x", `"a\nb"`: "a\nb",
	} {
		if got := v.Any(); got != want {
			t.Errorf("%s is %v, want %v", v, got, want)
		}
	}
	if got := canonical.Value(`{"a":[1]}`).Any().(map[string]any)["a"].([]any)[0]; got != int64(1) {
		t.Errorf("nested value %v", got)
	}
	if canonical.Value(`"a\nb"`).Text() != "a\nb" || canonical.Value("7").Text() != "7" || canonical.Null.Text() != "" {
		t.Error("texts are wrong")
	}
}

func TestEntityKeyRoundTrip(t *testing.T) {
	part := rapid.StringMatching(`[a-z0-9=~.@-]{1,12}`)
	rapid.Check(t, func(t *rapid.T) {
		k := canonical.EntityKey{Tenant: part.Draw(t, "tenant"), Resource: part.Draw(t, "resource"), ID: part.Draw(t, "id")}
		got, err := canonical.ParseEntityKey(k.String())
		if err != nil || got != k {
			t.Fatalf("%v became %v %v", k, got, err)
		}
	})
	for _, bad := range []string{"", "a", "a/b", "a/b/", "/b/c"} {
		if k, err := canonical.ParseEntityKey(bad); err == nil {
			t.Errorf("%q was read as %v", bad, k)
		}
	}
}
