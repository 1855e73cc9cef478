package command_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

func valid() command.Command {
	return command.Command{Tenant: "default", Principal: "crm-desk", IdempotencyKey: "k1", Name: "SuspendCustomer", Resource: "customer", Entity: "C1", Input: `{"reason":"fraud"}`}
}

// The id is of tenant, principal, command and key alone; the fingerprint of all
// the rest that the sender decides. No part runs into the next.
func TestIdentity(t *testing.T) {
	base := valid()
	for _, c := range []struct {
		name            string
		change          func(*command.Command)
		id, fingerprint bool // are the same
	}{
		{"nothing", func(*command.Command) {}, true, true},
		{"tenant", func(c *command.Command) { c.Tenant = "other" }, false, true},
		{"principal", func(c *command.Command) { c.Principal = "other" }, false, true},
		{"name", func(c *command.Command) { c.Name = "Other" }, false, true},
		{"key", func(c *command.Command) { c.IdempotencyKey = "k2" }, false, true},
		{"a border moves", func(c *command.Command) { c.Principal, c.Name = "crm-deskS", "uspendCustomer" }, false, true},
		{"resource", func(c *command.Command) { c.Resource = "other" }, true, false},
		{"entity", func(c *command.Command) { c.Entity = "C2" }, true, false},
		{"input", func(c *command.Command) { c.Input = `{"reason":"fee"}` }, true, false},
		{"condition", func(c *command.Command) { c.IfVersion = 3 }, true, false},
		{"another border moves", func(c *command.Command) { c.Resource, c.Entity = "customerC", "1" }, true, false},
		{"time", func(c *command.Command) { c.At = 5 }, true, true},
		{"cause", func(c *command.Command) { c.Cause.Correlation = "x" }, true, true},
		{"how the input is written", func(c *command.Command) { c.Input = "{ \"reason\" :\n\"fr\\u0061ud\"}" }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := base, base
			c.change(&b)
			for _, x := range []*command.Command{&a, &b} {
				if err := x.Check(); err != nil {
					t.Fatal(err)
				}
			}
			if same := a.ID() == b.ID(); same != c.id {
				t.Errorf("the same id: %v", same)
			}
			if same := a.Fingerprint() == b.Fingerprint(); same != c.fingerprint {
				t.Errorf("the same fingerprint: %v", same)
			}
		})
	}
	if id := base.ID(); id != "cmd-111c8f4f19358d9712ca4a7e5e44a922" {
		t.Errorf("%s: an id must never change", id)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*command.Command)
	}{
		{"command tenant: found nothing, expected the tenant", func(c *command.Command) { c.Tenant = "" }},
		{"command name: found nothing", func(c *command.Command) { c.Name = "" }},
		{"command resource: found nothing", func(c *command.Command) { c.Resource = "" }},
		{"command entity: found bytes that are no UTF-8", func(c *command.Command) { c.Entity = "\xff" }},
		{"command idempotencyKey: found nothing, expected a key of 1 to 255 bytes", func(c *command.Command) { c.IdempotencyKey = "" }},
		{"command idempotencyKey: found 256 bytes, expected at most 255", func(c *command.Command) { c.IdempotencyKey = strings.Repeat("k", 256) }},
		{"command input: found JSON at byte 0", func(c *command.Command) { c.Input = "" }},
		{"command input: found [1], expected a JSON object", func(c *command.Command) { c.Input = "[1]" }},
		{"command input: found JSON at byte", func(c *command.Command) { c.Input = `{"a":1,"a":2}` }},
		{"command input: found 65537 bytes, expected at most 65536", func(c *command.Command) {
			c.Input = canonical.Value(`"` + strings.Repeat("x", command.MaxInput-1) + `"`)
		}},
		{"command ifVersion: found -1", func(c *command.Command) { c.IfVersion = -1 }},
	} {
		x := valid()
		c.change(&x)
		err := x.Check()
		var f *failure.Error
		if !errors.As(err, &f) || f.Kind != failure.Validation || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, expected %s…", err, c.want)
		}
	}
}

func parameters() []*definition.Parameter {
	text := canonical.Type{Kind: canonical.KindString}
	return []*definition.Parameter{
		{Name: "reason", Type: canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"fraud", "fee"}}, Required: true},
		{Name: "until", Type: canonical.Type{Kind: canonical.KindDate}},
		{Name: "amount", Type: canonical.Type{Kind: canonical.KindDecimal}},
		{Name: "a/b~c", Type: canonical.Type{Kind: canonical.KindInt}},
		{Name: "lines", Type: canonical.Type{Kind: canonical.KindList, Elem: &canonical.Type{Kind: canonical.KindRecord, Fields: []canonical.NamedType{
			{Name: "sku", Type: text}, {Name: "count", Type: canonical.Type{Kind: canonical.KindInt}},
		}}}},
		{Name: "labels", Type: canonical.Type{Kind: canonical.KindMap, Elem: &text}},
	}
}

func TestInput(t *testing.T) {
	for _, c := range []struct {
		name, input string
		values      string // name=value, in order
		violations  []string
	}{
		{"the least", `{"reason":"fee"}`, `reason="fee"`, nil},
		{"everything", `{"labels":{"b":"2","a":"1"},"lines":[{"sku":"x","count":2},{}],"amount":"12.50","until":"2026-02-28","reason":"fraud","a/b~c":7}`,
			`reason="fraud" until="2026-02-28" amount="12.5" a/b~c=7 lines=[{"count":2,"sku":"x"},{}] labels={"a":"1","b":"2"}`, nil},
		{"null where it may be", `{"reason":"fee","until":null}`, `reason="fee" until=null`, nil},
		{"nothing", `{}`, "", []string{"/reason: found nothing, expected enum(fraud|fee)"}},
		{"null where it may not be", `{"reason":null}`, "", []string{"/reason: found null, expected enum(fraud|fee)"}},
		{"no object", `[]`, "", []string{"found a list, expected an object with the members reason, until, amount, a/b~c, lines, labels"}},
		{"all at once", `{"reason":"joke","until":"2026-02-30","a/b~c":1.5,"lines":[{"sku":1,"size":2},7],"labels":{"x/y":1},"extra":{}}`, "", []string{
			`/reason: found "joke", expected enum(fraud|fee)`,
			`/until: found "2026-02-30", expected date`,
			`/a~1b~0c: found 1.5, expected int`,
			`/lines/0/sku: found 1, expected string`,
			`/lines/0/size: found an unknown member, expected one of sku, count`,
			`/lines/1: found 7, expected record`,
			`/labels/x~1y: found 1, expected string`,
			`/extra: found an unknown member, expected one of reason, until, amount, a/b~c, lines, labels`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			values, violations := command.Input(parameters(), canonical.Value(c.input))
			var got, wrong []string
			for _, v := range values {
				got = append(got, v.Name+"="+string(v.Value))
			}
			for _, v := range violations {
				wrong = append(wrong, v.String())
			}
			if g := strings.Join(got, " "); g != c.values {
				t.Errorf("values %s, expected %s", g, c.values)
			}
			if g, w := strings.Join(wrong, "\n"), strings.Join(c.violations, "\n"); g != w {
				t.Errorf("violations\n%s\nexpected\n%s", g, w)
			}
		})
	}
}

// Whatever an input is, there are values or violations, and never both; and a
// required value is there.
func TestInputIsValuesOrViolations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaf := rapid.SampledFrom([]string{`null`, `true`, `1`, `-2.5`, `"fraud"`, `"2026-01-01"`, `"12.50"`, `{}`, `[]`, `[{"sku":"x"}]`, `{"a":"b"}`, `[1,null]`})
		var b strings.Builder
		b.WriteByte('{')
		used := map[string]bool{}
		for range rapid.IntRange(0, 6).Draw(t, "members") {
			name := rapid.SampledFrom([]string{"reason", "until", "amount", "a/b~c", "lines", "labels", "x"}).Draw(t, "name")
			if used[name] {
				continue
			}
			if len(used) > 0 {
				b.WriteByte(',')
			}
			used[name] = true
			b.WriteString(`"` + name + `":` + leaf.Draw(t, "value"))
		}
		b.WriteByte('}')
		values, violations := command.Input(parameters(), canonical.Value(b.String()))
		if (len(values) > 0) == (len(violations) > 0) {
			t.Fatalf("%s: values %v, violations %v", b.String(), values, violations)
		}
		if used["x"] && len(violations) == 0 {
			t.Fatalf("%s: the unknown member is taken in", b.String())
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add(`{"reason":"fee"}`, "k")
	f.Add(`{"lines":[{"sku":"x","count":2}]}`, "k")
	f.Fuzz(func(t *testing.T, input, key string) {
		c := valid()
		c.Input, c.IdempotencyKey = canonical.Value(input), key
		if c.Check() != nil {
			return
		}
		again := c
		if err := again.Check(); err != nil || again.Fingerprint() != c.Fingerprint() || again.ID() != c.ID() {
			t.Fatalf("%q is checked as %q and then as %q, %v", input, c.Input, again.Input, err)
		}
		command.Input(parameters(), c.Input)
	})
}
