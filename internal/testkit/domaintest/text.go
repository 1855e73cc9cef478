package domaintest

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Text writes the result to be read and compared: what became of each
// delivery, and then the entities with the winner of every field.
func (r *Result) Text() string {
	var b strings.Builder
	for i, s := range r.Steps {
		fmt.Fprintf(&b, "%d %s", i+1, s.Delivery.Source)
		if s.Delivery.Again > 0 {
			fmt.Fprintf(&b, " (%d again)", s.Delivery.Again)
		}
		if s.Delivery.Doc != "" {
			b.WriteString(": " + s.Delivery.Doc)
		}
		b.WriteByte('\n')
		s.write(&b)
	}
	for _, e := range r.Entities {
		b.WriteByte('\n')
		writeEntity(&b, e)
	}
	return b.String()
}

// write tells every outcome of a delivery; changes stand where theirs is told.
func (s *Step) write(b *strings.Builder) {
	changes := s.Changes
	for _, o := range s.Outcomes {
		switch o.Disposition {
		case journal.Changed:
			if len(changes) > 0 {
				writeChange(b, changes[0])
				changes = changes[1:]
			}
		case journal.Accepted:
			fmt.Fprintf(b, "   %d signals\n", o.Signals)
		default:
			fmt.Fprintf(b, "   %s", o.Disposition)
			if o.Entity != "" {
				fmt.Fprintf(b, " %s %s v%d", o.Resource, o.Entity, o.Version)
			}
			if o.Disposition == journal.DeadLetter {
				b.WriteString(" " + o.Reason)
			}
			if o.Detail != "" {
				b.WriteString(": " + o.Detail)
			}
			b.WriteByte('\n')
		}
		if o.Disposition == journal.Changed && o.Detail != "" {
			b.WriteString("   " + o.Reason + ": " + o.Detail + "\n")
		}
	}
}

func writeChange(b *strings.Builder, c *event.Change) {
	fmt.Fprintf(b, "   %s %s %s v%d", c.Kind, c.Resource, c.ID, c.Version)
	if c.FromState != c.ToState {
		b.WriteString(" " + strings.Trim(c.FromState+" → "+c.ToState, " →"))
	}
	b.WriteByte('\n')
	rows := make([][]string, len(c.Changed))
	for i, f := range c.Changed {
		before, winner := string(f.Before)+" → ", strings.TrimSpace(f.Source+" "+f.SourceKey)
		if f.Before == "" {
			before = ""
		}
		after := string(f.After)
		if after == "" {
			after = "(none)"
		}
		rows[i] = []string{f.Name, before + after, winner}
	}
	writeColumns(b, "     ", rows)
	if len(c.Events) > 0 {
		b.WriteString("     events")
		for _, e := range c.Events {
			b.WriteString(" " + e.Type)
		}
		b.WriteByte('\n')
	}
}

func writeEntity(b *strings.Builder, e *canonical.Entity) {
	fmt.Fprintf(b, "%s %s v%d", e.Resource, e.ID, e.Version)
	if e.State != "" {
		b.WriteString(" " + e.State)
	}
	if !e.Exists {
		b.WriteString(" (deleted)")
	}
	b.WriteByte('\n')
	rows := make([][]string, len(e.Fields))
	for i := range e.Fields {
		f := &e.Fields[i]
		winner := ""
		if p, ok := e.Provenance(f.Name); ok {
			winner = fmt.Sprintf("%s %s since v%d", p.Source, p.SourceKey, p.Since)
			if p.Confidence > 0 {
				winner += fmt.Sprintf(" confidence %.3f", p.Confidence)
			}
		}
		rows[i] = []string{f.Name, string(f.Value), winner}
	}
	writeColumns(b, "   ", rows)
	for _, x := range e.Rejections {
		fmt.Fprintf(b, "   rejected move %s → %s of %s\n", x.From, x.To, x.Source)
	}
}

// writeColumns aligns all columns but the last.
func writeColumns(b *strings.Builder, indent string, rows [][]string) {
	widths := make([]int, 8)
	for _, row := range rows {
		for i, cell := range row {
			if n := utf8.RuneCountInString(cell); n <= 48 {
				widths[i] = max(widths[i], n)
			}
		}
	}
	for _, row := range rows {
		line := indent
		for i, cell := range row {
			line += cell
			if i < len(row)-1 {
				line += strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell))+2)
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
