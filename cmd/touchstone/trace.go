package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/client"
)

func newTrace(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "trace ID",
		Short: "Follow an id the whole way: delivery, outcome, change, events",
		Long: `Follow a journal id, an event id or a correlation id: the deliveries that belong
to it, what became of each, the changes of canonical state that they caused,
and the events that were published.`,
		Example: `  touchstone trace customer-management:2:1041
  touchstone trace 3f0c9a54-6a53-4d51-9a8e-0b6e1d1e7c11`,
		Args: arguments("ID"),
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		t, err := api.Trace(c.Context(), args[0])
		if err != nil {
			return err
		}
		return e.printer(out).print(t, func(p printer) error { return tellTrace(p, t) })
	}
	return c
}

func tellTrace(p printer, t *client.Trace) error {
	told := map[*event.Change]bool{}
	for i, d := range t.Deliveries {
		if i > 0 {
			if err := p.printf("\n"); err != nil {
				return err
			}
		}
		if err := tellEntry(p, d.Journal, d.Entry); err != nil {
			return err
		}
		if d.Status != nil {
			if err := tellStatus(p, d.Status); err != nil {
				return err
			}
		}
		for _, c := range t.Changes {
			if c.Journal == d.Journal {
				told[c] = true
				if err := tellChange(p, c); err != nil {
					return err
				}
			}
		}
	}
	// The journal may no longer have what a change came from.
	for _, c := range t.Changes {
		if !told[c] {
			if err := tellChange(p, c); err != nil {
				return err
			}
		}
	}
	if t.Truncated {
		return p.printf("\nthere is more than is shown here\n")
	}
	return nil
}

// tellEntry tells of a delivery as it came in; entry is nil if it is not kept.
func tellEntry(p printer, id string, entry *client.Entry) error {
	if entry == nil {
		return p.printf("delivery %s is no longer in the journal\n", id)
	}
	what := count(entry.BodyBytes, "byte")
	if entry.Tombstone {
		what = "a tombstone"
	}
	if entry.ContentType != "" {
		what += " of " + entry.ContentType
	}
	switch {
	case entry.Signature.Verified:
		what += ", " + entry.Signature.Scheme + " signature by secret " + entry.Signature.Secret
	case entry.Signature.Scheme != "":
		what += ", " + entry.Signature.Scheme + " signature not verified"
	}
	if entry.VendorID != "" {
		what += ", vendor id " + entry.VendorID
	}
	if err := p.printf("delivery %s from %s at %s\n  received %s\n", id, entry.Source, at(entry.ReceivedAt), what); err != nil {
		return err
	}
	if entry.Cause.Correlation != "" && entry.Cause.Correlation != id {
		if err := p.printf("  correlation %s\n", entry.Cause.Correlation); err != nil {
			return err
		}
	}
	if entry.Quarantine != "" {
		return p.printf("  in quarantine: %s\n", entry.Quarantine)
	}
	return nil
}

// dispositionText words a disposition.
func dispositionText(d journal.Disposition) string {
	switch d {
	case journal.Accepted:
		return "accepted, on its way"
	case journal.Changed:
		return "changed canonical state"
	case journal.Unchanged:
		return "no change: canonical state is what it was"
	case journal.Duplicate:
		return "a duplicate"
	case journal.Conflicting:
		return "a conflict: the same vendor id as an earlier delivery, but another body"
	case journal.Ignored:
		return "ignored: no mapping rule applies"
	case journal.DeadLetter:
		return "dead letter"
	}
	return string(d)
}

// tellStatus tells what became of a delivery, and of each of its signals.
func tellStatus(p printer, s *client.Status) error {
	line := "  outcome " + dispositionText(s.Disposition)
	if s.First != "" && s.First != s.Journal {
		line += " of " + s.First
	}
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	if s.Detail != "" {
		line += ": " + s.Detail
	}
	if err := p.printf("%s\n", line); err != nil {
		return err
	}
	for _, o := range s.Signals {
		if o.Entity == "" && len(s.Signals) == 1 {
			continue // all of it is in the line above
		}
		line := fmt.Sprintf("  signal %d: ", max(o.Index, 0))
		if o.Entity != "" {
			line += o.Resource + " " + o.Entity + ", "
		}
		line += dispositionText(o.Disposition)
		if o.Version > 0 && o.Disposition == journal.Changed {
			line += fmt.Sprintf(" to version %d", o.Version)
		}
		if o.Reason != "" && o.Reason != s.Reason {
			line += ": " + o.Reason
		}
		if o.Detail != "" && o.Detail != s.Detail {
			line += ": " + o.Detail
		}
		if err := p.printf("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// tellChange tells one step of canonical state and what was published for it.
func tellChange(p printer, c *event.Change) error {
	state := ""
	if c.FromState != c.ToState && c.FromState != "" {
		state = ", " + c.FromState + " → " + c.ToState
	}
	if err := p.printf("  change %s %s version %d %s by %s%s\n", c.Resource, c.ID, c.Version, string(c.Kind), c.Source, state); err != nil {
		return err
	}
	t := table{indent: "    "}
	for _, f := range c.Changed {
		source := ""
		if f.Source != "" {
			source = "from " + f.Source + " " + f.SourceKey
		}
		t.add(f.Name, value(f.Before)+" → "+value(f.After), source)
	}
	if err := t.write(p); err != nil {
		return err
	}
	events := table{indent: "  "}
	for _, e := range c.Events {
		events.add("event", e.Type, e.ID)
	}
	return events.write(p)
}
