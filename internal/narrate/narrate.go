// Package narrate tells a change of canonical state in words that a person can
// follow: what came in, whose word counted, what was published.
//
// It only words; the caller reads the changes and owns the terminal.
package narrate

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
)

// Style says how lines are decorated.
type Style struct {
	// Color uses ANSI colours; off for NO_COLOR and where the output is no terminal.
	Color bool
	// Width beyond which values are shortened; 0 means 48 characters.
	Width int
}

// Change writes a change as a headline, a line per changed field and a line
// for the events.
//
//	14:03:07 customer C-1001  v3 updated  by billing
//	           balance  "120" → "80.5"    billing decides
//	           published CustomerUpdated
func Change(w io.Writer, d *definition.Domain, c *event.Change, s Style) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s  v%d %s  by %s%s\n", s.dim(c.ReceivedAt.Time().Format("15:04:05")), c.Resource, s.bold(c.ID),
		c.Version, s.kind(c.Kind), s.bold(c.Source), s.dim("  "+c.Journal))
	r, _ := d.Resource(c.Resource)
	name := 0
	for _, f := range c.Changed {
		name = max(name, utf8.RuneCountInString(f.Name))
	}
	for _, f := range c.Changed {
		fmt.Fprintf(&b, "           %-*s  %s", name, f.Name, s.step(f))
		if why := decides(r, f); why != "" {
			b.WriteString(s.dim("   " + why))
		}
		b.WriteByte('\n')
	}
	if len(c.Events) == 0 {
		b.WriteString(s.dim("           no event is declared for this change") + "\n")
	} else {
		types := make([]string, len(c.Events))
		for i, e := range c.Events {
			types[i] = s.event(e.Type)
		}
		fmt.Fprintf(&b, "           published %s\n", strings.Join(types, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// decides says in a few words why the winner won.
func decides(r *definition.Resource, f event.FieldChange) string {
	if r == nil || !f.After.Present() {
		return ""
	}
	d, ok := r.Field(f.Name)
	if !ok {
		return ""
	}
	if r.Lifecycle != nil && r.Lifecycle.Field == f.Name {
		if f.Source == "" {
			return "the initial state"
		}
		return f.Source + " moved it"
	}
	switch {
	case f.Source == "":
		return ""
	case d.Group != "":
		return f.Source + " leads the group " + d.Group
	case len(d.Authority) == 1:
		return "only " + f.Source + " decides it"
	case d.Policy != "" && d.Policy != definition.Priority:
		return f.Source + " wins by " + string(d.Policy)
	}
	if d.Rank(f.Source) == 0 {
		return f.Source + " wins, before " + strings.Join(d.Authority[1:], ", ")
	}
	before := d.Authority[:d.Rank(f.Source)]
	if last := len(before) - 1; last > 0 {
		return f.Source + " decides while " + strings.Join(before[:last], ", ") + " and " + before[last] + " are silent"
	}
	return f.Source + " decides while " + before[0] + " is silent"
}

func (s Style) step(f event.FieldChange) string {
	switch {
	case !f.Before.Present():
		return s.value(f.After)
	case !f.After.Present():
		return s.value(f.Before) + " → " + s.dim("gone")
	}
	return s.value(f.Before) + " → " + s.value(f.After)
}

func (s Style) value(v canonical.Value) string {
	text := string(v)
	if len(text) > 1 && text[0] == '"' {
		text = v.Text()
	}
	width := s.Width
	if width == 0 {
		width = 48
	}
	// Control characters of a hostile value must not reach the terminal.
	text = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, text)
	if utf8.RuneCountInString(text) > width {
		text = string([]rune(text)[:width-1]) + "…"
	}
	return text
}

func (s Style) paint(code, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s Style) dim(t string) string   { return s.paint("2", t) }
func (s Style) bold(t string) string  { return s.paint("1", t) }
func (s Style) event(t string) string { return s.paint("36", t) }

func (s Style) kind(k event.ChangeKind) string {
	switch k {
	case event.Created, event.Restored:
		return s.paint("32", string(k))
	case event.Deleted:
		return s.paint("31", string(k))
	}
	return s.paint("33", string(k))
}
