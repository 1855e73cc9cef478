package registry_test

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// Every malformed definition gives its golden list of problems: all of them,
// each with its place.
func TestMalformed(t *testing.T) {
	goldens(t, "testdata/malformed", 10, testKinds())
}

// What the real connectors say of settings is told with its place.
func TestWrongSettings(t *testing.T) {
	goldens(t, "testdata/settings", 1, builtin.Kinds())
}

func goldens(t *testing.T, dir string, atLeast int, kinds connectors.Kinds) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(files) < atLeast {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d, err := registry.Load(os.DirFS(dir), filepath.Base(file), kinds)
			var problems registry.Problems
			if d != nil || !errors.As(err, &problems) {
				t.Fatalf("%v, %v: want Problems", d, err)
			}
			got := problems.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".problems"
			if *rewrite {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
				t.Errorf("want -, got +\n%s", d)
			}
		})
	}
}

// minimal is a definition with one of everything, for tests that change it.
const minimal = `apiVersion: touchstone/v1
domain: small
resources:
  thing:
    identity: id
    fields:
      id: {type: string, authority: [crm]}
      size: {type: int, authority: [crm], policy: latest, maxAge: 1d12h}
      status: {type: enum, authority: [crm]}
    lifecycle: {field: status, initial: new, moves: {new: [old]}}
    events:
      ThingGrew: {when: {changes: size, if: after.size > before.size}}
sources:
  crm:
    connector: cdc
    dedupe: {header: X-Id, volatile: [/sent]}
    map:
      - resource: thing
        when: table == "things"
        key: row.id
        identity: {id: row.number}
        deleted: deleted
        fields:
          id: row.number
          size: row.size
          "?status": {value: row.s, states: {1: new, 2: old}}
`

func TestLoad(t *testing.T) {
	fsys := fstest.MapFS{"d/small.yaml": {Data: []byte(minimal)}, "d/notes.txt": {Data: []byte("x")}, "d/deeper/x.yaml": {Data: []byte("x")}}
	domains, err := registry.LoadDir(fsys, "d", testKinds())
	if err != nil {
		t.Fatal(err)
	}
	d := domains[0]
	if d.Name != "small" || d.File != "d/small.yaml" || d.Fingerprint != registry.Fingerprint([]byte(minimal)) || len(d.Fingerprint) != 16 {
		t.Errorf("%+v", d)
	}
	r, ok := d.Resource("thing")
	if !ok {
		t.Fatal("no resource")
	}
	size, _ := r.Field("size")
	if size.MaxAge != 36*time.Hour || size.Policy != definition.Latest || size.Rank("crm") != 0 {
		t.Errorf("size: %+v", size)
	}
	status, _ := r.Field("status")
	if diff := cmp.Diff([]string{"new", "old"}, status.Type.Symbols); diff != "" {
		t.Errorf("the symbols are the states:\n%s", diff)
	}
	if !r.Lifecycle.Allows("new", "old") || r.Lifecycle.Allows("old", "new") {
		t.Error("moves")
	}
	s, _ := d.Source("crm")
	if s.Dedupe.Header != "x-id" || len(s.Rules) != 1 {
		t.Fatalf("%+v", s)
	}
	rule := s.Rules[0]
	if rule.Name != "crm/1" || rule.Line != 18 || rule.Sequence != nil || rule.OccurredAt != nil || rule.Each != nil {
		t.Errorf("%+v", rule)
	}
	vars := map[string]any{"table": "things", "deleted": true, "row": map[string]any{"id": int64(7), "number": "A7", "size": int64(3), "s": int64(2)}}
	for _, c := range []struct {
		expr definition.Expr
		want any
	}{{rule.Key, int64(7)}, {rule.Identity[0], "A7"}, {rule.Fields[1].Expr, int64(3)}, {rule.Fields[2].Expr, int64(2)}} {
		if got, err := c.expr.Eval(vars); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.expr.Source(), got, err)
		}
	}
	if f := rule.Fields[2]; !f.Optional || f.States["2"] != "old" {
		t.Errorf("%+v", f)
	}
	for _, c := range []definition.Condition{rule.When, rule.Deleted} {
		if ok, err := c.Holds(vars); !ok || err != nil {
			t.Errorf("%s: %v, %v", c.Source(), ok, err)
		}
	}
	grew := r.Events[0].When
	for before, want := range map[any]bool{int64(1): true, int64(5): false, nil: false} {
		ok, err := grew.If.Holds(map[string]any{"before": map[string]any{"size": before}, "after": map[string]any{"size": int64(3)}, "changed": []any{"size"}, "entity": map[string]any{}})
		if err != nil || ok != want {
			t.Errorf("grew from %v to 3: %v, %v", before, ok, err)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	if _, err := registry.Load(fstest.MapFS{}, "no.yaml", testKinds()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := registry.LoadDir(fstest.MapFS{"d/readme.md": {}}, "d", testKinds()); err == nil || !strings.Contains(err.Error(), "found no *.yaml file") {
		t.Errorf("a folder without definitions: %v", err)
	}
	big := fstest.MapFS{"big.yaml": {Data: make([]byte, registry.MaxFileBytes+1)}}
	if _, err := registry.Load(big, "big.yaml", testKinds()); err == nil || !strings.Contains(err.Error(), "expected at most") {
		t.Errorf("a file beyond the limit: %v", err)
	}
}

// All problems of all files are reported at once, and what two files cannot
// both declare.
func TestLoadDirTogether(t *testing.T) {
	other := strings.Replace(minimal, "domain: small", "domain: other", 1)
	fsys := fstest.MapFS{
		"d/a.yaml": {Data: []byte(minimal)},
		"d/b.yaml": {Data: []byte(other)},
		"d/c.yaml": {Data: []byte(strings.Replace(minimal, "type: int", "type: integer", 1))},
		"d/d.yaml": {Data: []byte(strings.Replace(minimal, "  crm:\n", "  erp:\n", 1))},
		"d/e.yaml": {Data: []byte(strings.ReplaceAll(minimal, "crm", "erp"))},
	}
	_, err := registry.LoadDir(fsys, "d", testKinds())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"d/b.yaml: sources.crm: found a source that d/a.yaml declares as well",
		`d/c.yaml:8:20: resources.thing.fields.size.type: found unknown type "integer"`,
		`d/d.yaml:7:38: resources.thing.fields.id.authority[0]: found unknown source "crm"`,
		`d/e.yaml: domain: found "small", which d/a.yaml declares as well`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s\n%v", want, err)
		}
	}
}

// A minimal definition in which any one line is left out or any one value is
// replaced loads or gives problems with a place; it never gives half a domain.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	for _, dir := range []string{"testdata/malformed", "../schemas/domains"} {
		files, err := filepath.Glob(dir + "/*.yaml")
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	kinds := testKinds()
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := registry.Parse("f.yaml", text, kinds)
		if err == nil {
			check(t, d)
			return
		}
		var problems registry.Problems
		if d != nil || !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("%v, %v", d, err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Found == "" || p.Expected == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// check holds a loaded domain to what stations rely on.
func check(t *testing.T, d *definition.Domain) {
	t.Helper()
	for _, r := range d.Resources {
		if len(r.Identity) == 0 {
			t.Errorf("%s: no identity", r.Name)
		}
		for _, f := range r.Fields {
			if len(f.Authority) == 0 || f.Policy == definition.Expression && f.Resolve == nil {
				t.Errorf("%s.%s: %+v", r.Name, f.Name, f)
			}
			if got, ok := r.Field(f.Name); !ok || got != f {
				t.Errorf("%s.%s is not found", r.Name, f.Name)
			}
		}
	}
	for _, s := range d.Sources {
		if len(s.Rules) == 0 {
			t.Errorf("%s: no rule", s.Name)
		}
		for _, rule := range s.Rules {
			r, ok := d.Resource(rule.Resource)
			if !ok || rule.Key == nil || len(rule.Identity) != len(r.Identity) || rule.Name == "" || rule.Line < 1 {
				t.Fatalf("%s: %+v", s.Name, rule)
			}
			for _, f := range rule.Fields {
				if _, ok := r.Field(f.Field); !ok || f.Expr == nil {
					t.Errorf("%s: %+v", rule.Name, f)
				}
			}
		}
	}
}

// Leaving out any line of the minimal definition is survived.
func TestEveryLineMissing(t *testing.T) {
	lines := strings.Split(minimal, "\n")
	failed := 0
	for i := range lines {
		text := strings.Join(append(append([]string{}, lines[:i]...), lines[i+1:]...), "\n")
		d, err := registry.Parse("f.yaml", []byte(text), testKinds())
		if err != nil {
			failed++
			continue
		}
		check(t, d)
	}
	if failed < 12 {
		t.Errorf("only %d of %d lines are missed", failed, len(lines))
	}
}

// The samples load, whatever the connectors make of their settings.
func TestSamples(t *testing.T) {
	domains, err := registry.Embedded(lenientKinds())
	if err != nil {
		t.Fatalf("\n%v", err)
	}
	for _, d := range domains {
		check(t, d)
		for _, r := range d.Resources {
			if n := len(r.Fields); n < 12 {
				t.Errorf("%s has %d fields", r.Name, n)
			}
		}
	}
	if len(domains) != 2 {
		t.Errorf("%d samples", len(domains))
	}
}
