package registry_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

const manual = "../docs/definition.md"

// Every YAML example of the manual is a definition that loads, or an excerpt
// of one: contiguous lines of a sample or of testdata/examples, indented less.
func TestManualExamples(t *testing.T) {
	text := read(t, manual)
	var wholes []string
	for _, pattern := range []string{"testdata/examples/*.yaml", "../schemas/domains/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			whole := read(t, file)
			d, err := registry.Parse(file, []byte(whole), lenientKinds())
			if err != nil {
				t.Fatalf("\n%v", err)
			}
			check(t, d)
			wholes = append(wholes, whole)
		}
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) < 8 {
		t.Fatalf("%d examples", len(blocks))
	}
	for _, b := range blocks {
		if strings.HasPrefix(b[1], "apiVersion:") {
			if _, err := registry.Parse("example.yaml", []byte(b[1]), lenientKinds()); err != nil {
				t.Errorf("%s\n%v", b[1], err)
			}
			continue
		}
		found := false
		for _, whole := range wholes {
			found = found || excerpt(whole, b[1])
		}
		if !found {
			t.Errorf("no excerpt of a definition that is loaded:\n%s", b[1])
		}
	}
}

// excerpt tells whether the lines of part stand in whole, one after the other,
// all with the same further indentation.
func excerpt(whole, part string) bool {
	want := strings.Split(strings.TrimRight(part, "\n"), "\n")
	lines := strings.Split(whole, "\n")
	for i := range lines {
		at := strings.Index(lines[i], want[0])
		if at < 0 || strings.TrimSpace(lines[i][:at]) != "" || i+len(want) > len(lines) {
			continue
		}
		same := true
		for j, w := range want {
			if w != "" {
				w = lines[i][:at] + w
			}
			same = same && lines[i+j] == w
		}
		if same {
			return true
		}
	}
	return false
}

// The manual names every type, policy, function, variable of the language and
// reserved name.
func TestManualIsComplete(t *testing.T) {
	text := read(t, manual)
	need := func(what, word string) {
		if !strings.Contains(text, "`"+word+"`") {
			t.Errorf("the manual does not tell of %s `%s`", what, word)
		}
	}
	for _, k := range canonical.Kinds() {
		need("type", string(k))
	}
	for _, p := range definition.Policies() {
		need("policy", string(p))
	}
	for _, f := range expression.Functions() {
		need("function", f.Signature)
		if !strings.Contains(text, f.Doc) {
			t.Errorf("the manual says something else of %s than %q", f.Signature, f.Doc)
		}
	}
	for _, name := range registry.Reserved() {
		need("reserved name", name)
	}
	for _, list := range [][]string{expression.EntryMembers(), expression.EntityMembers(), expression.ClaimMembers()} {
		for _, name := range list {
			need("member", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
