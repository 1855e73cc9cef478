package lint

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	root     = "../.."
	module   = "github.com/touchstone-platform/touchstone"
	ruleFile = "etc/imports.yaml"
)

type rules struct {
	Packages []struct {
		Match   []string `yaml:"match"`
		Imports []string `yaml:"imports"`
		Tests   []string `yaml:"tests"`
		Reason  string   `yaml:"reason"`
	} `yaml:"packages"`
	TestsEverywhere []string `yaml:"testsEverywhere"`
	Modules         []struct {
		Module string   `yaml:"module"`
		In     []string `yaml:"in"`
		Tests  []string `yaml:"tests"`
		Reason string   `yaml:"reason"`
	} `yaml:"modules"`
}

// matches says whether a package, relative to the module, fits one of the
// patterns.
func matches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == "..." {
			return true
		}
		if tree, ok := strings.CutSuffix(p, "/..."); ok {
			return pkg == tree || strings.HasPrefix(pkg, tree+"/")
		}
		if parent, ok := strings.CutSuffix(p, "/*"); ok {
			return path.Dir(pkg) == parent
		}
		return pkg == p
	})
}

// judge says what is wrong with an import, or "".
func (r *rules) judge(pkg, imported string, isTest bool) string {
	if local, ok := strings.CutPrefix(imported, module+"/"); ok {
		for _, p := range r.Packages {
			if !matches(p.Match, pkg) {
				continue
			}
			if matches(p.Imports, local) || local == pkg ||
				isTest && (matches(p.Tests, local) || matches(r.TestsEverywhere, local)) {
				return ""
			}
			return p.Reason
		}
		return "the package has no entry in " + ruleFile
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	best := -1
	for i, m := range r.Modules {
		if (imported == m.Module || strings.HasPrefix(imported, m.Module+"/")) && (best < 0 || len(m.Module) > len(r.Modules[best].Module)) {
			best = i
		}
	}
	if best < 0 {
		return "the module has no entry in " + ruleFile
	}
	m := r.Modules[best]
	if matches(m.In, pkg) || isTest && matches(m.Tests, pkg) {
		return ""
	}
	return m.Reason
}

func readRules(t *testing.T) *rules {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, ruleFile))
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%s: %v", ruleFile, err)
	}
	return &r
}

// file is a file of the repository.
type file struct {
	path    string // relative to the root, with slashes
	content []byte
}

func (f file) pkg() string { return path.Dir(f.path) }

// files reads the files of the repository whose path fits.
func files(t *testing.T, fits func(path string) bool) []file {
	t.Helper()
	var list []file
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			// Results of builds and local data are no source.
			if p != "." && (p == ".git" || p == "bin" || strings.HasPrefix(name, ".touchstone")) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !fits(p) {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(p)))
		list = append(list, file{p, b})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no files: the repository is not where it was expected")
	}
	return list
}

func isGo(p string) bool {
	return strings.HasSuffix(p, ".go") && !strings.Contains("/"+p, "/testdata/")
}

// TestImports compares every import with etc/imports.yaml.
func TestImports(t *testing.T) {
	r := readRules(t)
	for _, f := range files(t, isGo) {
		if f.pkg() == "internal/deps" {
			continue // imports modules to pin them
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, f.content, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
			continue
		}
		for _, i := range parsed.Imports {
			imported := strings.Trim(i.Path.Value, `"`)
			if reason := r.judge(f.pkg(), imported, strings.HasSuffix(f.path, "_test.go")); reason != "" {
				t.Errorf("%s imports %s, which %s does not allow for %s: %s", f.path, imported, ruleFile, f.pkg(), reason)
			}
		}
	}
}

// TestRules checks the rules themselves: that each has a reason, and that they
// forbid what they are there to forbid.
func TestRules(t *testing.T) {
	r := readRules(t)
	for _, p := range r.Packages {
		if p.Reason == "" || len(p.Match) == 0 {
			t.Errorf("%v has no reason or no match", p.Match)
		}
	}
	for _, m := range r.Modules {
		if m.Reason == "" || m.Module == "" {
			t.Errorf("%q has no reason or no name", m.Module)
		}
	}
	for _, test := range []struct {
		pkg, imported string
		isTest, want  bool
	}{
		{"domain/authority", "strings", false, true},
		{"domain/authority", module + "/domain/canonical", false, true},
		{"domain/authority", module + "/codecs", false, false},
		{"domain/authority", "github.com/google/uuid", false, false},
		{"domain/authority", "pgregory.net/rapid", false, false},
		{"domain/authority", "pgregory.net/rapid", true, true},
		{"processors/merge", module + "/processors", false, true},
		{"processors/merge", module + "/processors/inbox", false, false},
		{"processors/merge", module + "/internal/engine", true, false},
		{"internal/engine", module + "/processors/merge", false, false},
		{"internal/engine", module + "/api", false, false},
		{"internal/engine", "github.com/lovoo/goka", false, true},
		{"internal/engine", "github.com/twmb/franz-go/pkg/kfake", false, false},
		{"internal/engine", "github.com/twmb/franz-go/pkg/kfake", true, true},
		{"views/entities", "github.com/lovoo/goka", false, false},
		{"registry", "cel.dev/cel-go/cel", false, false},
		{"registry/expression", "cel.dev/cel-go/cel", false, true},
		{"api", "github.com/linkedin/goavro/v2", false, false},
		{"cmd/touchstone", module + "/internal/app", false, true},
		{"internal/app", module + "/cmd/touchstone", false, false},
		{"nowhere", module + "/domain/signal", false, false},
		{"api", "example.com/unheard/of", false, false},
	} {
		if got := r.judge(test.pkg, test.imported, test.isTest); (got == "") != test.want {
			t.Errorf("%s imports %s (test: %t): allowed %t, want %t; %s", test.pkg, test.imported, test.isTest, got == "", test.want, got)
		}
	}
}

// TestPackages checks that every package says what it is for, under a name that
// does.
func TestPackages(t *testing.T) {
	nameless := []string{"util", "utils", "common", "helper", "helpers", "model", "models", "types", "misc", "base", "shared"}
	documented := make(map[string]bool)
	for _, f := range files(t, isGo) {
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, f.content, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
			continue
		}
		if slices.Contains(nameless, path.Base(f.pkg())) || slices.Contains(nameless, parsed.Name.Name) {
			t.Errorf("%s: a package is named after what it holds, and %s holds anything", f.path, parsed.Name.Name)
		}
		documented[f.pkg()] = documented[f.pkg()] || describes(parsed)
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment that begins with its name", pkg)
		}
	}
}

// describes says whether a file has the doc comment of its package.
func describes(f *ast.File) bool {
	doc := f.Doc.Text()
	if f.Name.Name == "main" {
		return strings.HasPrefix(doc, "Command ") || strings.HasPrefix(doc, "Touchstone ")
	}
	return strings.HasPrefix(doc, "Package "+strings.TrimSuffix(f.Name.Name, "_test")+" ")
}

// TestFormat checks that go files are formatted as gofmt does.
func TestFormat(t *testing.T) {
	for _, f := range files(t, isGo) {
		formatted, err := format.Source(f.content)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if !bytes.Equal(formatted, f.content) {
			t.Errorf("%s is not formatted; run gofmt -w", f.path)
		}
	}
}

// TestLeftovers looks for what has no place in a finished source: notes of work
// to be done, and paths of the machine somebody worked on.
func TestLeftovers(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	machine := regexp.MustCompile(`(^|[^\w.$}~-])/(ro` + `ot|wo` + `rk|ho` + `me/\w+|Us` + `ers/\w+)/\w`)
	source := func(p string) bool {
		switch path.Ext(p) {
		case ".go", ".md", ".yaml", ".yml", ".json", ".avsc", ".html", ".css", ".sh", ".toml", ".txt", "":
			return !strings.Contains("/"+p, "/testdata/fuzz/")
		}
		return false
	}
	for _, f := range files(t, source) {
		if bytes.IndexByte(f.content[:min(len(f.content), 512)], 0) >= 0 {
			continue // not a text
		}
		for i, line := range bytes.Split(f.content, []byte("\n")) {
			if m := unfinished.Find(line); m != nil && path.Ext(f.path) == ".go" {
				t.Errorf("%s:%d: %s: do it, or write down in docs/ that it is not done", f.path, i+1, m)
			}
			if m := machine.Find(line); m != nil {
				t.Errorf("%s:%d: %s: a path of one machine", f.path, i+1, bytes.TrimSpace(m))
			}
		}
	}
}
