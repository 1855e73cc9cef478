package domaintest_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/testkit/domaintest"
	"github.com/touchstone-platform/touchstone/registry"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func kinds() connectors.Kinds {
	return builtin.Kinds()
}

func samples(t *testing.T) []*definition.Domain {
	t.Helper()
	domains, err := registry.Embedded(kinds())
	if err != nil {
		t.Fatalf("\n%v", err)
	}
	return domains
}

func fixtures(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../../schemas/domains/testdata/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	return files
}

// The fixtures of the samples give their golden files.
func TestSamples(t *testing.T) {
	for _, f := range fixtures(t) {
		diff, err := domaintest.Check(f, samples(t), kinds(), *rewrite)
		if err != nil {
			t.Fatal(err)
		}
		if diff != "" && !*rewrite {
			t.Errorf("%s:\n%s", f, diff)
		}
	}
}

// Together the fixtures make every event of the samples happen: goldens that
// leave an event out prove nothing about its rule.
func TestSamplesCoverTheirEvents(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range fixtures(t) {
		for _, step := range play(t, f, nil).Steps {
			for _, c := range step.Changes {
				for _, e := range c.Events {
					seen[e.Type] = true
				}
			}
		}
	}
	for _, d := range samples(t) {
		for _, r := range d.Resources {
			for _, e := range r.Events {
				if !seen[e.Type] {
					t.Errorf("no fixture makes %s happen", e.Type)
				}
			}
		}
	}
}

// play runs a fixture, changed by f.
func play(t *testing.T, name string, change func(*domaintest.Fixture)) *domaintest.Result {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := domaintest.Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(f)
	}
	for _, d := range samples(t) {
		if d.Name == f.Domain {
			r, err := domaintest.Run(d, kinds(), f)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatalf("no domain %s", f.Domain)
	return nil
}

// Every delivery twice gives the same entities and no further change: the
// second copies are duplicates, or conflicts as the first was.
func TestEveryDeliveryTwice(t *testing.T) {
	for _, name := range fixtures(t) {
		once := play(t, name, nil)
		twice := play(t, name, func(f *domaintest.Fixture) {
			var out []domaintest.Delivery
			for i, x := range f.Deliveries {
				again := x
				again.Again = i + 1
				// Between this delivery and the next, so that times still rise.
				again.At = x.At.Add(1000 * 1000)
				out = append(out, x, again)
			}
			f.Deliveries = out
		})
		for i, s := range twice.Steps {
			if i%2 == 1 && len(s.Changes) > 0 {
				t.Errorf("%s: the second copy of delivery %d changed %s", name, i/2+1, s.Changes[0].Key())
			}
			for _, o := range s.Outcomes {
				if i%2 == 1 && o.Disposition != journal.Duplicate && o.Disposition != journal.Conflicting && o.Disposition != journal.DeadLetter {
					t.Errorf("%s: the second copy of delivery %d is %s", name, i/2+1, o.Disposition)
				}
			}
		}
		a, b := &domaintest.Result{Entities: once.Entities}, &domaintest.Result{Entities: twice.Entities}
		if d := domaintest.Diff(a.Text(), b.Text()); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f.yaml")
	text, err := os.ReadFile(fixtures(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, string(text))
	diff, err := domaintest.Check(name, samples(t), kinds(), false)
	if err != nil || !strings.HasPrefix(diff, "+ 1 crm:") {
		t.Errorf("without a golden file everything is new: %v\n%.200s", err, diff)
	}
	if _, err = domaintest.Check(name, samples(t), kinds(), true); err != nil {
		t.Fatal(err)
	}
	if diff, err = domaintest.Check(name, samples(t), kinds(), false); err != nil || diff != "" {
		t.Errorf("after rewriting: %v\n%s", err, diff)
	}
	write(t, name, strings.Replace(string(text), `"ADA LINDQVIST"`, `"Ada Maria Lindqvist"`, 1))
	diff, err = domaintest.Check(name, samples(t), kinds(), false)
	if err != nil || !strings.Contains(diff, "- ") || !strings.Contains(diff, "Ada Maria Lindqvist") || strings.Contains(diff, "SO-9001") {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := domaintest.Check(filepath.Join(dir, "none.yaml"), samples(t), kinds(), false); !os.IsNotExist(err) {
		t.Errorf("a fixture that is not there: %v", err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWrongFixtures(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "found an empty file, expected a fixture"},
		{"deliveries: [{source: crm}]", "domain: found nothing"},
		{"domain: customer-management", "deliveries: found none"},
		{"domain: x\ndelivery: []", "field delivery not found"},
		{"domain: x\ndeliveries: [{source: crm, boddy: 1}]", "field boddy not found"},
		{"domain: x\ndeliveries: [{body: {}}]", "deliveries[0].source: found nothing"},
		{"domain: x\ndeliveries: [{source: crm}, {again: 2}]", "deliveries[1].again: found 2, expected the number of a delivery before it, 1 to 1"},
		{"domain: x\ndeliveries: [{source: crm, at: 2026-01-01T00:00:00Z}, {source: crm, at: 2025-01-01T00:00:00Z}]", "expected a time after the delivery before"},
		{"domain: nobody\ndeliveries: [{source: crm}]", `domain: found "nobody", expected one of customer-management, order-fulfilment`},
		{"domain: customer-management\ndeliveries: [{source: erp}]", `deliveries[0]: unknown source "erp", expected one of billing, crm, marketing, risk`},
		{"domain: customer-management\ndeliveries: [{source: billing, body: {}, text: x}]", "found body and text, expected one of them"},
	} {
		name := filepath.Join(t.TempDir(), "f.yaml")
		write(t, name, c.text)
		if _, err := domaintest.Check(name, samples(t), kinds(), false); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", c.text, err, c.says)
		}
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ want, got, diff string }{
		{"a\nb\n", "a\nb\n", ""},
		{"", "a\n", "+ a\n"},
		{"a\n", "", "- a\n"},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", "  3\n  4\n- 5\n+ five\n  6\n  7\n"},
		{"a\n1\n2\n3\n4\n5\nb\n", "A\n1\n2\n3\n4\n5\nB\n", "- a\n+ A\n  1\n  2\n  …\n  4\n  5\n- b\n+ B\n"},
		{"a\nb", "a\nb\n", "  only the end of the last line differs\n"},
	} {
		if got := domaintest.Diff(c.want, c.got); got != c.diff {
			t.Errorf("%q against %q:\n%s\nwant\n%s", c.want, c.got, got, c.diff)
		}
	}
}

// Any text is a fixture or an error, and what is a fixture plays to its end.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("../../../schemas/domains/testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	domains, err := registry.Embedded(builtin.Kinds())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fixture, err := domaintest.Parse("f.yaml", text)
		if err != nil {
			return
		}
		for _, d := range domains {
			if r, err := domaintest.Run(d, builtin.Kinds(), fixture); err == nil && len(r.Steps) != len(fixture.Deliveries) {
				t.Errorf("%d of %d deliveries", len(r.Steps), len(fixture.Deliveries))
			}
		}
	})
}
