package audit

import (
	"fmt"
	"strings"
)

// Kind of a finding.
type Kind string

// The kinds of finding.
const (
	Lost    Kind = "lost"    // something that must be there is not
	Doubled Kind = "doubled" // something is there twice, or has no reason to be there
	Wrong   Kind = "wrong"   // something is not what it must be
)

// Finding is one difference between what is and what must be.
type Finding struct {
	Kind Kind
	// Where names the place: a topic with partition and offset, an entity, a
	// delivery, a folder.
	Where string
	What  string
}

func (f Finding) String() string { return fmt.Sprintf("%s: %s: %s", f.Kind, f.Where, f.What) }

// examples are how many findings of each kind a report keeps.
const examples = 10

// Report is the result of an audit.
type Report struct {
	// What was read.
	Entries, Duplicates, Conflicts, DeadLetters, Signals, Facts, Changes, Events, Entities, Panics int
	// Retold outcomes of a replay; see AuditReplay.
	Retold int
	// Counts of findings by kind; Examples are the first of each.
	Lost, Doubled, Wrong int
	Examples             []Finding
}

// OK tells that nothing was found.
func (r *Report) OK() bool { return r.Lost+r.Doubled+r.Wrong == 0 }

func (r *Report) add(k Kind, where, format string, args ...any) {
	n := &r.Wrong
	switch k {
	case Lost:
		n = &r.Lost
	case Doubled:
		n = &r.Doubled
	}
	if *n++; *n <= examples {
		r.Examples = append(r.Examples, Finding{k, where, fmt.Sprintf(format, args...)})
	}
}

// Add adds the findings of another report.
func (r *Report) Add(o *Report) {
	r.Retold += o.Retold
	r.Lost, r.Doubled, r.Wrong = r.Lost+o.Lost, r.Doubled+o.Doubled, r.Wrong+o.Wrong
	r.Examples = append(r.Examples, o.Examples...)
}

// String tells the figures, and the examples if there are any.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "entries %d (duplicates %d, conflicts %d), signals %d, facts %d, changes %d, events %d, entities %d, dead letters %d",
		r.Entries, r.Duplicates, r.Conflicts, r.Signals, r.Facts, r.Changes, r.Events, r.Entities, r.DeadLetters)
	if r.Panics > 0 {
		fmt.Fprintf(&b, ", injected panics %d", r.Panics)
	}
	fmt.Fprintf(&b, ": lost %d, doubled %d, wrong %d", r.Lost, r.Doubled, r.Wrong)
	for _, f := range r.Examples {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}
