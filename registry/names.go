package registry

import (
	"regexp"
	"slices"
	"strings"
)

var (
	hyphenName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	lowerName  = regexp.MustCompile(`^[a-z][A-Za-z0-9]*$`)
	upperName  = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	symbolName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)
)

// maxName keeps topic names, schema subjects and paths within their limits.
const maxName = 64

// Reserved gives the names that no domain or resource may have, because the
// API has paths of these names.
func Reserved() []string {
	return []string{"admin", "commands", "connections", "dead-letters", "definitions", "deliveries", "events", "failures", "ingress", "rebuilds", "replays", "runs", "sources", "status", "topology", "trace"}
}

// name checks the form of a name.
func (l *loader) name(p place, s string, form *regexp.Regexp, expected string) bool {
	if !form.MatchString(s) {
		l.report(p, quote(s), expected)
		return false
	}
	if len(s) > maxName {
		l.report(p, quote(s), "a name of at most 64 characters")
		return false
	}
	// Words that CEL reads as something else: a field of such a name could
	// not be written in a condition.
	if slices.Contains([]string{"true", "false", "null", "in"}, s) {
		l.report(p, quote(s), "a name that is no word of the expression language")
		return false
	}
	return true
}

func (l *loader) unreserved(p place, s string) {
	if slices.Contains(Reserved(), s) {
		l.report(p, quote(s), "a name that is no path of the API: "+strings.Join(Reserved(), ", ")+" are reserved")
	}
}
