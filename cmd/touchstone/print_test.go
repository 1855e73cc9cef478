package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/google/go-cmp/cmp"
)

// Oracle: YAML says what JSON says, for any text in it.
func TestYAMLSaysWhatJSONSays(t *testing.T) {
	value := rapid.Custom(func(t *rapid.T) any { return anyJSON(t, 3) })
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{"v": value.Draw(t, "v")}
		var b bytes.Buffer
		if err := writeYAML(&b, v); err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := yaml.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s\n%s", diff, b.String())
		}
	})
}

func anyJSON(t *rapid.T, depth int) any {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "null", "true", "no", "1", "1e3", "2026-01-01", "~", "- a", "a: b", "#", "<<", "=", "\x7f", "\u2028", "\r\n", " x "}))
	switch rapid.IntRange(0, 3+min(depth, 1)*2).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int32().Draw(t, "int")
	case 3:
		return strings.ToValidUTF8(text.Draw(t, "text"), "?")
	case 4:
		l := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			l = append(l, anyJSON(t, depth-1))
		}
		return l
	}
	m := map[string]any{}
	for range rapid.IntRange(0, 3).Draw(t, "size") {
		m[strings.ToValidUTF8(text.Draw(t, "key"), "?")] = anyJSON(t, depth-1)
	}
	return m
}

// Oracle: nothing that comes from outside can move the cursor, change colours
// or turn the direction of writing.
func TestTablesArePrintable(t *testing.T) {
	hostile := "a\x1b[31mb\rc\u202ed\x00e\u0085f\tg\nh"
	var b bytes.Buffer
	x := table{header: []string{"A", "B"}}
	x.add(hostile, "x")
	if err := x.write(printer{w: &b}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.String(), "\n"); got != 2 {
		t.Errorf("%d lines of one row: %q", got, b.String())
	}
	if strings.ContainsAny(b.String(), "\x1b\r\x00\u202e\u0085\t") {
		t.Errorf("%q", b.String())
	}
}

// Columns align by characters and not by bytes.
func TestTablesAlign(t *testing.T) {
	var b bytes.Buffer
	x := table{indent: " ", header: []string{"NAME", "N"}, strong: map[int]bool{1: true}}
	x.add("Ærø", "1")
	x.add("a", "2")
	if err := x.write(printer{w: &b, color: true}); err != nil {
		t.Fatal(err)
	}
	if want := " \x1b[2mNAME  N\x1b[0m\n Ærø   1\n \x1b[1ma     2\x1b[0m\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// NO_COLOR and dumb terminals are respected; what is no terminal has no colour.
func TestColor(t *testing.T) {
	for _, e := range []env{{Environ: []string{"NO_COLOR=1"}}, {Environ: []string{"TERM=dumb"}}, {}} {
		if e.color(&bytes.Buffer{}) {
			t.Errorf("%v: colours for something that is no terminal", e.Environ)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
