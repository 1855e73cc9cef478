package domaintest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Golden gives the name of a fixture's golden file: the fixture's with the
// extension .golden.
func Golden(fixture string) string {
	return strings.TrimSuffix(fixture, filepath.Ext(fixture)) + ".golden"
}

// Check runs a fixture file against the domain it names and compares the
// result with its golden file. The diff is empty if they are equal. With
// rewrite the golden file is written anew, and the diff tells what changed in
// it. Without a golden file everything is new.
func Check(fixture string, domains []*definition.Domain, kinds connectors.Kinds, rewrite bool) (diff string, err error) {
	text, err := os.ReadFile(fixture)
	if err != nil {
		return "", err
	}
	f, err := Parse(fixture, text)
	if err != nil {
		return "", err
	}
	var domain *definition.Domain
	var names []string
	for _, d := range domains {
		names = append(names, d.Name)
		if d.Name == f.Domain {
			domain = d
		}
	}
	if domain == nil {
		return "", fmt.Errorf("%s: domain: found %q, expected one of %s", fixture, f.Domain, strings.Join(names, ", "))
	}
	result, err := Run(domain, kinds, f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", fixture, err)
	}
	got := result.Text()
	golden := Golden(fixture)
	want, err := os.ReadFile(golden)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	diff = Diff(string(want), got)
	if rewrite && diff != "" {
		err = os.WriteFile(golden, []byte(got), 0o644)
		return diff, err
	}
	return diff, nil
}

// context is how many equal lines stand around a difference.
const context = 2

// Diff gives the lines in which two texts differ, "-" wanted and "+" got, with
// a few equal lines around them; empty if they are equal. It takes the longest
// common subsequence (Hunt and McIlroy 1976, by the plain table).
func Diff(want, got string) string {
	if want == got {
		return ""
	}
	a, b := lines(want), lines(got)
	// Equal ends need no table.
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	marked := make([]string, 0, len(a)+len(b))
	for _, l := range a[:start] {
		marked = append(marked, "  "+l)
	}
	marked = append(marked, middle(a[start:len(a)-end], b[start:len(b)-end])...)
	for _, l := range a[len(a)-end:] {
		marked = append(marked, "  "+l)
	}
	if d := excerpt(marked); d != "" {
		return d
	}
	return "  only the end of the last line differs\n"
}

func middle(a, b []string) []string {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

// excerpt leaves out what is far from any difference.
func excerpt(marked []string) string {
	var b strings.Builder
	last := -1
	for i, l := range marked {
		near := false
		for j := max(0, i-context); j <= min(len(marked)-1, i+context); j++ {
			near = near || marked[j][0] != ' '
		}
		if !near {
			continue
		}
		if last >= 0 && i > last+1 {
			b.WriteString("  …\n")
		}
		last = i
		b.WriteString(l + "\n")
	}
	return b.String()
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}
