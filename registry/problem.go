package registry

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Problem is one mistake in a definition.
type Problem struct {
	File string
	// Line and Column from 1; 0 if the problem is with the file as a whole.
	Line, Column int
	// Key is the path of the key: resources.customer.fields.email.type.
	Key             string
	Found, Expected string
	// Suggestion is a name that may have been meant; empty if there is none.
	Suggestion string
}

// Error reads "file:line:column: key: found …, expected …".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column))
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString("found " + p.Found + ", expected " + p.Expected)
	if p.Suggestion != "" {
		b.WriteString("; did you mean " + p.Suggestion + "?")
	}
	return b.String()
}

// Problems are all the mistakes that were found, sorted by place.
type Problems []Problem

// Error gives one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

func quote(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return strconv.Quote(s)
}

// suggest gives the candidate that is most like a misspelt name; empty if none
// is near: more than a third of the name would have to be changed.
func suggest(name string, candidates []string) string {
	best, least := "", len(name)/3+1
	for _, c := range candidates {
		d := distance(strings.ToLower(name), strings.ToLower(c))
		if d == 0 && name == c {
			continue
		}
		if d < least || d == least && best == "" && d <= 2 && len(name) > 2 {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours between two names (optimal string alignment; Damerau 1964).
func distance(a, b string) int {
	if max(len(a), len(b)) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
