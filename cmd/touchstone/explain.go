package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/authority"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/internal/client"
)

func newExplain(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "explain RESOURCE ID [FIELD]",
		Short: "Tell why a field has its value: winner, losers with reasons, the rule",
		Long: `Tell of one field, or of every field that any source has claimed, which claim won,
which lost and why, by which rule, and at which journal position each claim came
in. ` + "`touchstone delivery get`" + ` shows what is at a position.`,
		Example: `  touchstone explain customer C-1001
  touchstone explain customer C-1001 email`,
		Args: arguments("RESOURCE", "ID", "[FIELD]"),
	}
	r, out := entityFlags(e, c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		domain, err := r.domainOf(c.Context(), api, args[0])
		if err != nil {
			return err
		}
		field := ""
		if len(args) == 3 {
			field = args[2]
		}
		x, err := api.Explain(c.Context(), domain, args[0], args[1], field)
		if err != nil {
			return err
		}
		return e.printer(out).print(x, func(p printer) error { return tellExplanation(p, x) })
	}
	return c
}

func tellExplanation(p printer, x *client.Explanation) error {
	gone := ""
	if !x.Exists {
		gone = ", which no longer exists"
	}
	if err := p.printf("%s %s version %d of %s%s\n", x.Resource, x.ID, x.Version, x.Domain, gone); err != nil {
		return err
	}
	for _, f := range x.Fields {
		if err := tellField(p, f); err != nil {
			return err
		}
	}
	if len(x.Fields) == 0 {
		return p.printf("\nno source has claimed anything\n")
	}
	return nil
}

func tellField(p printer, f authority.Explanation) error {
	confidence := ""
	if f.Confidence > 0 {
		confidence = fmt.Sprintf(", confidence %.2f", f.Confidence)
	}
	// JSON has no word for "no value" but null; a null that is a value has won.
	now := " = " + value(f.Value)
	if f.Value == canonical.Null && !slices.ContainsFunc(f.Claims, func(c authority.ExplainedClaim) bool { return c.Won }) {
		now = " has no value"
	}
	if err := p.printf("\n%s%s%s\n  by %s\n", f.Field, now, confidence, f.Rule); err != nil {
		return err
	}
	t := table{indent: "  ", header: []string{"", "SOURCE", "RECORD", "CLAIMS", "REASON", "OCCURRED", "JOURNAL"}, strong: map[int]bool{}}
	for i, c := range f.Claims {
		mark := ""
		if c.Won {
			mark, t.strong[i] = "*", true
		}
		t.add(mark, c.Source, c.SourceKey, value(c.Value), c.Reason, at(c.OccurredAt), journalOf(c.Signal))
	}
	if len(f.Claims) > 0 {
		if err := t.write(p); err != nil {
			return err
		}
	}
	for _, r := range f.Rejections {
		if err := p.printf("  refused: %s → %s, claimed by %s at %s (%s)\n", r.From, r.To, r.Source, at(r.At), journalOf(r.Signal)); err != nil {
			return err
		}
	}
	return nil
}

// journalOf gives the journal id that a signal id begins with.
func journalOf(signal string) string {
	id, _, _ := strings.Cut(signal, "#")
	return orDash(id)
}
