package envelope

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const example = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParseTraceparent(t *testing.T) {
	p, err := ParseTraceparent(example)
	if err != nil || p.String() != example || !p.Sampled() || p.TraceID[0] != 0x0a || p.SpanID[7] != 0x31 {
		t.Errorf("%+v, %v", p, err)
	}
	for s, want := range map[string]string{
		"":                                "found 0 characters, expected 55",
		example + "-x":                    "found 57 characters",
		"01" + example[2:]:                `found version "01"`,
		"ff" + example[2:]:                `found version "ff"`,
		strings.ToUpper(example):          "expected 00-",
		example[:35] + "_" + example[36:]: "expected 00-",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "zeros alone",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": "zeros alone",
		"00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01": "expected 00-",
	} {
		if p, err := ParseTraceparent(s); err == nil || !strings.Contains(err.Error(), want) || p != (Traceparent{}) {
			t.Errorf("%q: %v, %v, want an error with %q", s, p, err, want)
		}
	}
}

// The verdicts of the specification's own test suite, for strict version 00.
func TestTraceparentVerdicts(t *testing.T) {
	dir := os.Getenv("TOUCHSTONE_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, "trace-context", "traceparent-parse.jsonl"))
	if err != nil {
		t.Skipf("real input trace-context/traceparent-parse.jsonl is absent (looked in %s, TOUCHSTONE_DATA overrides): %v", dir, err)
	}
	defer f.Close()
	n := 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var c struct {
			Traceparent string
			Valid       bool
			Strict      bool `json:"strict_version_00"`
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		p, err := ParseTraceparent(c.Traceparent)
		// The generic verdicts also accept other versions and zero ids; what
		// they refuse is refused here too.
		if c.Strict && (err == nil) != c.Valid || !c.Strict && !c.Valid && err == nil {
			t.Errorf("%s: %v, expected valid %v", c.Traceparent, err, c.Valid)
		}
		if err == nil && p.String() != c.Traceparent {
			t.Errorf("%s: written back as %s", c.Traceparent, p)
		}
		n++
	}
	if n != 31 {
		t.Errorf("%d verdicts compared, expected 31", n)
	}
}

// Whatever ids are handed in, what is written is read back, and a child stays in
// its trace.
func TestTraceparentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trace [16]byte
		var span, child [8]byte
		copy(trace[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "trace"))
		copy(span[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "span"))
		copy(child[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "child"))
		p := NewTraceparent(trace, span, rapid.Bool().Draw(t, "sampled"))
		for _, x := range []Traceparent{p, p.Child(child), NewTraceparent([16]byte{}, [8]byte{}, false).Child([8]byte{})} {
			if got, err := ParseTraceparent(x.String()); err != nil || got != x {
				t.Fatalf("%s: %v, %v", x, got, err)
			}
		}
		if c := p.Child(child); c.TraceID != p.TraceID || c.Flags != p.Flags {
			t.Fatalf("child %s of %s", c, p)
		}
	})
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add(example)
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseTraceparent(s); err == nil && p.String() != s {
			t.Fatalf("%q is written back as %q", s, p)
		}
	})
}
