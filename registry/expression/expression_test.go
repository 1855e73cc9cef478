package expression_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

func mapping(t testing.TB) *expression.Scope {
	t.Helper()
	s, err := expression.NewScope(expression.Variable{Name: "body"}, expression.Variable{Name: "op"},
		expression.Variable{Name: "entry", Members: expression.EntryMembers()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var anything = expression.Value(canonical.Type{Kind: canonical.KindJSON})

func compile(t testing.TB, text string, want expression.Want) *expression.Expr {
	t.Helper()
	x, wrong := mapping(t).Compile(text, want)
	if len(wrong) > 0 {
		t.Fatalf("%s: %+v", text, wrong)
	}
	return x
}

func record() map[string]any {
	return map[string]any{
		"op": nil,
		"entry": map[string]any{
			"source": "crm", "tenant": "default", "receivedAt": time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
			"headers": map[string]any{"x-event": "push"},
		},
		"body": map[string]any{
			"id": int64(42), "name": "  Ada  Lovelace ", "mail": "Ada@Example.ORG", "none": nil, "big": uint64(1 << 63),
			"ratio": 0.25, "yes": true, "phone": "+49 (30) 12-34", "tags": []any{"b", "a"}, "x-y": map[string]any{"z": "deep"},
			"address": map[string]any{"street": "Main St 1", "city": nil},
			"when":    "2026-03-29 02:30", "ms": int64(1767225600123), "day": int64(20454), "json": `{"a":[1,{"b":null}],"n":12345678901234567}`,
		},
	}
}

func TestEval(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, c := range []struct {
		text string
		want any
	}{
		{`body.id`, int64(42)},
		{`body.none`, nil},
		{`body.ratio`, 0.25},
		{`body.big`, uint64(1 << 63)},
		{`body["x-y"].z`, "deep"},
		{`body.tags`, []any{"b", "a"}},
		{`body.tags[1]`, "a"},
		{`body.address`, map[string]any{"street": "Main St 1", "city": nil}},
		{`{'street': body.address.street, 'n': [1, 2u, 1.5, null]}`, map[string]any{"street": "Main St 1", "n": []any{int64(1), uint64(2), 1.5, nil}}},
		{`[body.id] + body.tags`, []any{int64(42), "b", "a"}},
		{`entry.receivedAt`, at("2026-03-01T12:00:00Z")},
		{`entry.headers["x-event"]`, "push"},
		{`string(body.id) + "/" + body.tags.join("+")`, "42/b+a"},
		{`body.?missing.orValue("x")`, "x"},
		{`has(body.missing) ? 1 : 2`, int64(2)},
		{`b"ab"`, []byte("ab")},
		{`lower(body.mail)`, "ada@example.org"},
		{`lower(trim(body.name))`, "ada  lovelace"},
		{`upper(body.mail)`, "ADA@EXAMPLE.ORG"},
		{`lower(body.none)`, nil},
		{`body.name.trim()`, "Ada  Lovelace"},
		{`digits(body.phone)`, "49301234"},
		{`sha256("abc")`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{`sha256(b"abc")`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{`millis(body.ms)`, at("2026-01-01T00:00:00.123Z")},
		{`micros(1767225600123456)`, at("2026-01-01T00:00:00.123456Z")},
		{`nanos(-1)`, at("1969-12-31T23:59:59.999999999Z")},
		{`seconds(1767225600)`, at("2026-01-01T00:00:00Z")},
		{`seconds(1767225600.5)`, at("2026-01-01T00:00:00.5Z")},
		{`days(body.day)`, at("2026-01-01T00:00:00Z")},
		{`millis(body.none)`, nil},
		{`date(days(body.day))`, "2026-01-01"},
		{`date("31.12.2025", "02.01.2006")`, "2025-12-31"},
		{`parseTime("2026-01-15 10:00", "2006-01-02 15:04", "Europe/Berlin")`, at("2026-01-15T09:00:00Z")},
		{`parseTime("2026-01-15 10:00", "2006-01-02 15:04")`, at("2026-01-15T10:00:00Z")},
		{`parseTime(body.none, "2006-01-02 15:04")`, nil},
		{`parseJSON(body.json).a[1]`, map[string]any{"b": nil}},
		{`coalesce(body.missing, body.none, body.id)`, int64(42)},
		{`coalesce(body.missing, body.none)`, nil},
		{`coalesce(body.missing.deeper, "none")`, "none"},
		{`body.tags.map(x, upper(x))`, []any{"B", "A"}},
		{`nullIfBlank("  ")`, nil},
		{`upper(nullIfBlank(" b"))`, " B"},
		{`parseInt(" 42 ")`, int64(42)},
		{`parseInt("")`, nil},
		{`parseFloat("4.5e1")`, 45.0},
		{`parseFloat(body.none)`, nil},
		{`math.greatest(body.id, 50)`, int64(50)},
		{`body.address.city`, nil},
	} {
		t.Run(c.text, func(t *testing.T) {
			vars := record()
			got, err := compile(t, c.text, anything).Eval(vars)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("want -, got +\n%s", d)
			}
			if d := cmp.Diff(record(), vars); d != "" {
				t.Errorf("the record was changed:\n%s", d)
			}
		})
	}
}

// What is not there is told apart from what is wrong.
func TestMissing(t *testing.T) {
	for _, c := range []struct {
		text    string
		missing bool
		says    string
	}{
		{`body.missing`, true, "no such key: missing"},
		{`body.missing.deeper`, true, "no such key: missing"},
		{`body.none.deeper`, true, "no such key: deeper"},
		{`body["x-y"]["q"]`, true, "no such key: q"},
		{`body.tags[7]`, true, "index out of bounds: 7"},
		{`body.none + "x"`, true, "body.none is null"},
		{`body.address.city.lowerAscii()`, true, "body.address.city is null"},
		{`lower(body.missing)`, true, "no such key: missing"},
		{`body.?missing`, true, "the optional value is empty"},
		{`coalesce(body.a, body.b)`, true, "coalesce found nothing"},
		{`body.id + "x"`, false, "no such overload"},
		{`parseTime(body.name, "2006")`, false, `expected a time written like "2006", found "Ada Lovelace"`},
		{`parseTime("2026-01-01", "2006-01-02", body.name)`, false, "expected a time zone"},
		{`parseJSON(body.name)`, false, "expected JSON"},
		{`coalesce(body.id / 0, 1)`, false, "division by zero"},
		{`coalesce(int(body.name), 1)`, false, "type conversion"},
		{`parseInt("4.5")`, false, "expected a 64-bit integer"},
		{`parseFloat("NaN")`, false, "expected a number"},
		{`int(body.name)`, false, "type conversion"},
		{`millis(9223372036854775807)`, false, "between the years 1 and 9999"},
		{`days(9223372036854775807)`, false, "between the years 1 and 9999"},
		{`{1: body.id}`, false, "expected a map with string keys"},
	} {
		t.Run(c.text, func(t *testing.T) {
			_, err := compile(t, c.text, anything).Eval(record())
			if err == nil {
				t.Fatal("no error")
			}
			if got := errors.Is(err, definition.ErrMissing); got != c.missing {
				t.Errorf("missing: %v, want %v (%v)", got, c.missing, err)
			}
			if failure.KindOf(err) != failure.Validation {
				t.Errorf("kind %s", failure.KindOf(err))
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "`"+c.text+"`") {
				t.Errorf("%q, want it to say %q and to name the expression", err, c.says)
			}
		})
	}
}

func TestCompileMistakes(t *testing.T) {
	s := mapping(t)
	text := canonical.Type{Kind: canonical.KindString}
	number := canonical.Type{Kind: canonical.KindInt}
	for _, c := range []struct {
		text            string
		want            expression.Want
		found, expected string
	}{
		{`boddy.id`, anything, "unknown variable boddy", "one of body, op, entry"},
		{`lowercase(body.x)`, anything, "unknown function lowercase", "a function of CEL"},
		{`entry.sauce`, anything, "entry.sauce", "a member of entry: headers, receivedAt, source, tenant"},
		{`body.id ==`, anything, "a syntax error", "a valid CEL expression"},
		{`body.id == 1`, expression.Value(number), "an expression of type bool", "int"},
		{`1 + 1`, expression.Value(text), "an expression of type int", "string"},
		{`lower(body.x)`, expression.Value(number), "an expression of type string", "int"},
		{`parseInt(body.x)`, expression.Value(text), "an expression of type int", "string"},
		{`lower(5)`, expression.Value(text), "lower applied to (int)", "arguments of types that it takes"},
		{`1 + "x"`, anything, "operator + applied to (int, string)", "arguments of types"},
		{`["a"]`, expression.Value(canonical.Type{Kind: canonical.KindList, Elem: &number}), "an expression of type list(string)", "list<int>"},
		{`"x"`, expression.Value(canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"a", "b"}}), `"x"`, "one of the symbols: a, b"},
		{`body.x.matches("(")`, expression.Bool(), "invalid matches argument", "valid CEL"},
		{`duration("5s")`, anything, "an expression of type duration", "json"},
		{` `, anything, "nothing", "an expression"},
		{`entry`, expression.Key(), "an expression of type map", "a key"},
		{`"7"`, expression.Integer(), "an expression of type string", "int"},
		{`true`, expression.Moment(), "an expression of type bool", "a moment"},
		{`body.s.replace("a", body.s)`, anything, "another text for replace to put in", "a string literal of at most 16 bytes"},
		{`body.l.join("a very long separator")`, anything, "another text for join to put in", "a string literal of at most 16 bytes"},
		{`body.a && 1`, expression.Bool(), "expected type 'bool' but found 'int'", "valid CEL"},
	} {
		t.Run(c.text, func(t *testing.T) {
			_, wrong := s.Compile(c.text, c.want)
			if len(wrong) == 0 {
				t.Fatal("no mistake")
			}
			if m := wrong[0]; !strings.Contains(m.Found, c.found) || !strings.Contains(m.Expected, c.expected) {
				t.Errorf("found %q, expected %q; want %q, %q", m.Found, m.Expected, c.found, c.expected)
			}
		})
	}
}

func TestConditionOverMissingDoesNotHold(t *testing.T) {
	s := mapping(t)
	for text, want := range map[string]bool{
		`body.id == 42`: true, `body.id > 41.5`: true, `body.missing == 1`: false, `body.none > 3`: false, `body.yes`: true, `body.none`: false, `op == "c"`: false,
	} {
		c, wrong := s.Condition(text)
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		if got, err := c.Holds(record()); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	c, wrong := s.Condition(`body.id`)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if _, err := c.Holds(record()); err == nil || !strings.Contains(err.Error(), "expected bool, found int64") {
		t.Errorf("a number as a condition: %v", err)
	}
}

// An expression that would take too long is stopped, whatever the record holds.
func TestCostLimit(t *testing.T) {
	list := make([]any, 1000)
	for i := range list {
		list[i] = int64(i)
	}
	vars := record()
	vars["body"] = map[string]any{"l": list, "s": strings.Repeat("a", 1<<16)}
	for _, text := range []string{
		`body.l.all(x, body.l.all(y, x + y >= 0))`,
		`body.s.replace("a", "aaaaaaaaaaaaaaaa").replace("a", "aaaaaaaaaaaaaaaa").size()`,
	} {
		_, err := compile(t, text, anything).Eval(vars)
		if err == nil || !strings.Contains(err.Error(), "cost") || failure.KindOf(err) != failure.Validation {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestResolver(t *testing.T) {
	s, err := expression.NewScope(expression.Variable{Name: "claims", List: true})
	if err != nil {
		t.Fatal(err)
	}
	claims := []definition.Claim{
		{Source: "crm", SourceKey: "1", Value: canonical.Int(5), Rank: 0, Stamp: canonical.Stamp{ReceivedAt: 10}},
		{Source: "risk", SourceKey: "2", Value: canonical.Int(9), Rank: 1, Stamp: canonical.Stamp{OccurredAt: 5, ReceivedAt: 11}},
	}
	for text, want := range map[string]canonical.Value{
		`claims[0].value`: "5",
		`claims.filter(c, c.source == "risk")[0].value`: "9",
		`claims.filter(c, c.source == "none")[0].value`: "",
		`math.greatest(claims.map(c, int(c.value)))`:    "9",
		`claims[0].occurredAt == null ? 1 : 2`:          "1",
		`null`:                                          "null",
	} {
		r, wrong := s.Resolver(text, canonical.Type{Kind: canonical.KindInt})
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		if got, err := r.Choose(claims); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	r, wrong := s.Resolver(`claims[0].source`, canonical.Type{Kind: canonical.KindInt})
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if _, err := r.Choose(claims); err == nil || failure.KindOf(err) != failure.Validation {
		t.Errorf("a value of the wrong type: %v", err)
	}
}

// Walking a path by hand gives what CEL gives: the same expression in a form
// that is no plain path is the oracle.
func TestPathsAreWhatCELSays(t *testing.T) {
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		return rapid.Custom(func(t *rapid.T) any {
			n := 7
			if depth == 0 {
				n = 5
			}
			switch rapid.IntRange(0, n).Draw(t, "kind") {
			case 0:
				return nil
			case 1:
				return rapid.Bool().Draw(t, "bool")
			case 2:
				return rapid.Int64().Draw(t, "int")
			case 3:
				return rapid.Float64().Draw(t, "float")
			case 4, 5:
				return rapid.String().Draw(t, "string")
			case 6:
				return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list")
			}
			return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c"}), value(depth-1), 0, 3).Draw(t, "map")
		})
	}
	paths := []string{"body", "body.a", "body.a.b", `body["a"].b`, "body.a.b.c", "body.c"}
	direct, viaCEL := map[string]*expression.Expr{}, map[string]*expression.Expr{}
	for _, p := range paths {
		direct[p] = compile(t, p, anything)
		viaCEL[p] = compile(t, "true ? "+p+" : null", anything)
	}
	rapid.Check(t, func(t *rapid.T) {
		vars := map[string]any{"op": nil, "entry": nil, "body": value(4).Draw(t, "body")}
		p := rapid.SampledFrom(paths).Draw(t, "path")
		got, gotErr := direct[p].Eval(vars)
		want, wantErr := viaCEL[p].Eval(vars)
		if (gotErr != nil) != (wantErr != nil) || errors.Is(gotErr, definition.ErrMissing) != errors.Is(wantErr, definition.ErrMissing) {
			t.Fatalf("%s: %v, CEL %v", p, gotErr, wantErr)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s:\n%s", p, d)
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{`body.id`, `body.a.map(x, x + 1)`, `coalesce(body.a, "x")`, "body.\n", `"\x"`, `[[[[`, `a?.b`, `parseTime("", "")`} {
		f.Add(s)
	}
	s := mapping(f)
	f.Fuzz(func(t *testing.T, text string) {
		x, wrong := s.Compile(text, anything)
		if (x == nil) == (len(wrong) == 0) {
			t.Fatalf("%q: neither an expression nor a mistake", text)
		}
		if x != nil {
			if _, err := x.Eval(record()); err != nil && failure.KindOf(err) != failure.Validation {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}

// BenchmarkMapping evaluates a rule of 20 fields: fourteen plain members, six
// that compute.
func BenchmarkMapping(b *testing.B) {
	body := map[string]any{"first": "Ada", "last": "Lovelace", "mail": "Ada@Example.org", "ms": int64(1767225600123), "status": "A"}
	var exprs []*expression.Expr
	for i := range 14 {
		name := fmt.Sprintf("f%d", i)
		body[name] = "value"
		exprs = append(exprs, compile(b, "body."+name, anything))
	}
	for _, text := range []string{`body.first + " " + body.last`, `lower(body.mail)`, `millis(body.ms)`, `body.status == "A" ? "active" : "closed"`, `{'city': body.f1, 'zip': body.f2}`, `coalesce(body.nothing, body.f3)`} {
		exprs = append(exprs, compile(b, text, anything))
	}
	vars := map[string]any{"body": body, "op": nil, "entry": nil}
	b.ReportAllocs()
	for b.Loop() {
		for _, x := range exprs {
			if _, err := x.Eval(vars); err != nil {
				b.Fatal(err)
			}
		}
	}
}
