package jcs_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	reference "github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// The examples of RFC 8785 §3.2.2, §3.2.3 and appendix B, and our own corners.
func TestCanonical(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001], "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`},
		{`{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"\U0001F600\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		{` [ 1.0 , -0 , -0.0, 1e2, 100 ] `, `[1,0,0,100,100]`},
		{`[9007199254740993, 12345678901234567890123]`, `[9007199254740993,12345678901234567890123]`},
		{`[1e21, 1e20, 1e-6, 1e-7]`, `[1e+21,100000000000000000000,0.000001,1e-7]`},
		{`"\u0000\u001f\u007f"`, `"\u0000\u001f` + "\u007f" + `"`},
	} {
		got, err := jcs.Canonical([]byte(tc.in))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s\n got %s %v\nwant %s", tc.in, got, err, tc.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for in, says := range map[string]string{
		`{"a":1,"a":2}`:          "occurs twice",
		`{"a":1e999}`:            "beyond a double",
		`{"a":`:                  "unexpected EOF",
		`{} {}`:                  "found more input",
		"\"\xff\"":               "UTF-8",
		``:                       "unexpected EOF",
		strings.Repeat("[", 600): "nested deeper",
	} {
		if _, err := jcs.Canonical([]byte(in)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: error %v, want one that says %q", in, err, says)
		}
	}
}

func anyJSON(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 5
		if depth > 0 {
			kinds = 7
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.String().Draw(t, "string")
		case 3:
			return float64(rapid.Int64Range(-1<<53, 1<<53).Draw(t, "int"))
		case 4:
			return rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }).Draw(t, "float")
		case 5:
			return rapid.SliceOfN(anyJSON(depth-1), 0, 4).Draw(t, "list")
		}
		return rapid.MapOfN(rapid.String(), anyJSON(depth-1), 0, 4).Draw(t, "object")
	})
}

// Oracle: the reference implementation of the RFC's authors, on every input
// whose integers a double can hold.
func TestAgreesWithTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, err := json.Marshal(anyJSON(3).Draw(t, "json"))
		if err != nil {
			t.Skip(err)
		}
		want, err := reference.Transform(in)
		if err != nil {
			t.Skip(err)
		}
		got, err := jcs.Canonical(in)
		if err != nil || string(got) != string(want) {
			t.Fatalf("%s\n got %s %v\nwant %s", in, got, err, want)
		}
		again, err := jcs.Canonical(got)
		if err != nil || string(again) != string(got) {
			t.Fatalf("canonical form of %s is %s %v", got, again, err)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{}`, `[1,2.5,"a"]`, `{"a":{"b":[null]}}`, `1e5`, `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := jcs.Canonical(in)
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q became invalid JSON %q", in, got)
		}
		again, err := jcs.Canonical(got)
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q: canonical %q, again %q %v", in, got, again, err)
		}
	})
}
