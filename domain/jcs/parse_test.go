package jcs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

func literals() *jcs.Parser {
	return &jcs.Parser{MaxDepth: 100, Number: func(s string) (any, error) { return json.Number(s), nil }}
}

// FuzzParse has encoding/json for its oracle: the same texts are valid, and of
// the same value; numbers are compared by their literals.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{}`, ` [1 , 2.5e-7,-0, "a\n\u00e9\ud83d\ude00\ud800\u0041\ud800"] `, `{"a":{"b":[null,true,false]},"a":1}`, `01`, `1.`, `-`, `.5`, `1e+`,
		`"\x"`, "\"\t\"", `"\u12g4"`, `[1,]`, `{"a":1,}`, `{"a"1}`, `nul`, `nulll`, `[] []`, ``, ` `, `"`, `"\`, `"\u12`, "\"\u2028\"", `[[`, `{"":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := literals().Parse(in)
		var want any
		dec := json.NewDecoder(bytes.NewReader(in))
		dec.UseNumber()
		valid := json.Valid(in) && dec.Decode(&want) == nil
		var syntax *jcs.SyntaxError
		switch {
		case err != nil && !errors.As(err, &syntax):
			t.Fatalf("%q: error %v is not a syntax error", in, err)
		case err != nil && (syntax.Offset < 0 || syntax.Offset > len(in)):
			t.Fatalf("%q: offset %d", in, syntax.Offset)
		case err != nil && (syntax.Err.Error() == "invalid UTF-8" || syntax.Err.Error() == "nested deeper than 100"):
			// encoding/json takes these.
		case (err == nil) != valid:
			t.Fatalf("%q: error %v, encoding/json finds valid: %t", in, err, valid)
		case err == nil && !reflect.DeepEqual(got, want):
			t.Fatalf("%q: %#v, encoding/json reads %#v", in, got, want)
		}
	})
}

// Oracle: the offset is that of the first byte that cannot be, and of the end
// where more should come.
func TestSyntaxErrorsSayWhere(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":nope}`:   `JSON at byte 6: found 'o', expected null`,
		`{"a":[1,2`:    `JSON at byte 9: unexpected EOF, expected a comma or the end of the array`,
		`{"a" 1}`:      `JSON at byte 5: found '1', expected a colon`,
		`{a:1}`:        `JSON at byte 1: found 'a', expected the name of a member`,
		`[1 2]`:        `JSON at byte 3: found '2', expected a comma or the end of the array`,
		`[01]`:         `JSON at byte 2: found '1', expected a comma or the end of the array`,
		`-é`:           `JSON at byte 1: found 'é', expected a digit`,
		`"a\qb"`:       `JSON at byte 3: found 'q', expected an escape sequence`,
		"\"a\nb\"":     `JSON at byte 2: found '\n', expected no control character in a string`,
		`"abc`:         `JSON at byte 4: unexpected EOF, expected the end of the string`,
		"[\"a\xffb\"]": `JSON at byte 3: invalid UTF-8`,
		`{} x`:         `JSON at byte 3: expected the end, found more input`,
		``:             `JSON at byte 0: unexpected EOF, expected a value`,
	} {
		if _, err := literals().Parse([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%q: error %v\n       want %s", in, err, want)
		}
	}
	two := jcs.Parser{MaxDepth: 2, Number: literals().Number}
	if _, err := two.Parse([]byte(`[[],{}]`)); err != nil {
		t.Error(err)
	}
	if _, err := two.Parse([]byte(`[[],{"a":[]}]`)); err == nil || err.Error() != "JSON at byte 9: nested deeper than 2" {
		t.Error(err)
	}
}

var benchText = []byte(`{"id":"crm-000123","at":"2026-01-01T00:00:00.001Z","account":{"number":"A-00000042","name":"name of account 42, 0","email":"account.42.0@example.com","phone":"phone of account 42, 0","segment":"segment","manager":"manager","language":"de-CH","since":"2019-04-01","termDays":30}}`)

func BenchmarkDecode(b *testing.B) {
	b.SetBytes(int64(len(benchText)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := jcs.Decode(benchText); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonical(b *testing.B) {
	b.SetBytes(int64(len(benchText)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := jcs.Canonical(benchText); err != nil {
			b.Fatal(err)
		}
	}
}
