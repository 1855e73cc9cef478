package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newEntity(e env) *cobra.Command {
	return group("entity", "Read canonical entities", newEntityGet(e), newEntityList(e), newEntityHistory(e))
}

func newEntityGet(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "get RESOURCE ID",
		Short: "Show one entity with the provenance of every field",
		Example: `  touchstone entity get customer C-1001
  touchstone entity get customer C-1001 --wait customer-management:2:1041`,
		Args: arguments("RESOURCE", "ID"),
	}
	r, out := entityFlags(e, c), outputFlag(c, "table", "json", "yaml")
	q := client.EntityQuery{Provenance: true}
	c.Flags().StringVar(&q.Wait, "wait", "", "wait until the delivery of this journal id is visible")
	c.Flags().DurationVar(&q.Timeout, "timeout", 10*time.Second, "how long to wait for it at most")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		domain, err := r.domainOf(c.Context(), api, args[0])
		if err != nil {
			return err
		}
		x, err := api.Entity(c.Context(), domain, args[0], args[1], q)
		if err != nil {
			return err
		}
		return e.printer(out).print(x, func(p printer) error { return tellEntity(p, x) })
	}
	return c
}

func tellEntity(p printer, x *client.Entity) error {
	state := ""
	if x.State != "" {
		state = ", " + x.State
	}
	if err := p.printf("%s %s version %d%s, changed %s\n", x.Resource, x.ID, x.Version, state, at(x.UpdatedAt)); err != nil {
		return err
	}
	t := table{indent: "  ", header: []string{"FIELD", "VALUE", "SOURCE", "RECORD", "OCCURRED", "SINCE", "JOURNAL"}}
	for _, name := range slices.Sorted(maps.Keys(x.Fields)) {
		pr, ok := x.Provenance[name]
		if !ok {
			t.add(name, value(x.Fields[name]), "-", "-", "-", "-", "-")
			continue
		}
		t.add(name, value(x.Fields[name]), pr.Source, pr.SourceKey, at(pr.OccurredAt), fmt.Sprintf("v%d", pr.Since), journalOf(pr.Signal))
	}
	return t.write(p)
}

func newEntityList(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "list RESOURCE",
		Short: "List entities by id",
		Long: `List the entities of a resource by ascending id, one page of them. Filters are
for equality, on the fields that the definition declares as filters; where there
are more entities, standard error says how to get the next page.`,
		Example: `  touchstone entity list customer --filter status=active --filter country=NO
  touchstone entity list customer --fields email,status --limit 100`,
		Args: arguments("RESOURCE"),
	}
	r, out := entityFlags(e, c), outputFlag(c, "table", "json", "yaml")
	var q client.ListQuery
	filters := c.Flags().StringArray("filter", nil, "`field=value` that must hold; repeatable")
	fields := c.Flags().StringSlice("fields", nil, "fields to show as columns (default: all that any of them has, up to 6)")
	c.Flags().IntVar(&q.Limit, "limit", 0, "entities in the page (default: the server's)")
	c.Flags().StringVar(&q.Cursor, "cursor", "", "begin at the page of this cursor")
	c.RunE = func(c *cobra.Command, args []string) error {
		q.Filters = map[string]string{}
		for _, f := range *filters {
			name, v, ok := strings.Cut(f, "=")
			if !ok || name == "" {
				return usage("--filter: found %q, expected field=value", f)
			}
			if _, twice := q.Filters[name]; twice {
				return usage("--filter: found field %s twice, expected it once", name)
			}
			q.Filters[name] = v
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		domain, err := r.domainOf(c.Context(), api, args[0])
		if err != nil {
			return err
		}
		page, err := api.Entities(c.Context(), domain, args[0], q)
		if err != nil {
			return err
		}
		if err := e.printer(out).print(page, func(p printer) error { return tellEntities(p, page.Items, *fields) }); err != nil {
			return err
		}
		if page.Cursor != "" && out.value == "table" {
			fmt.Fprintf(e.Stderr, "there are more: --cursor %s\n", printable(page.Cursor))
		}
		return nil
	}
	return c
}

// shownFields is how many columns a list has by itself.
const shownFields = 6

func tellEntities(p printer, items []client.Entity, fields []string) error {
	if len(fields) == 0 {
		all := map[string]bool{}
		for _, x := range items {
			for name := range x.Fields {
				all[name] = true
			}
		}
		fields = slices.Sorted(maps.Keys(all))
		fields = fields[:min(len(fields), shownFields)]
	}
	t := table{header: append([]string{"ID", "VERSION", "STATE", "CHANGED"}, fields...)}
	for _, x := range items {
		row := []string{x.ID, fmt.Sprint(x.Version), orDash(x.State), at(x.UpdatedAt)}
		for _, f := range fields {
			row = append(row, value(x.Fields[f]))
		}
		t.add(row...)
	}
	return t.write(p)
}

func newEntityHistory(e env) *cobra.Command {
	c := &cobra.Command{
		Use:     "history RESOURCE ID",
		Short:   "Show the changes of an entity, the newest first",
		Example: `  touchstone entity history customer C-1001 --limit 5`,
		Args:    arguments("RESOURCE", "ID"),
	}
	r, out := entityFlags(e, c), outputFlag(c, "table", "json", "yaml")
	limit := c.Flags().Int("limit", 0, "changes in the page (default: the server's)")
	cursor := c.Flags().String("cursor", "", "begin at the page of this cursor")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		domain, err := r.domainOf(c.Context(), api, args[0])
		if err != nil {
			return err
		}
		page, err := api.History(c.Context(), domain, args[0], args[1], *limit, *cursor)
		if err != nil {
			return err
		}
		err = e.printer(out).print(page, func(p printer) error {
			for _, x := range page.Items {
				if err := p.printf("%s %s\n", at(x.ReceivedAt), x.Journal); err != nil {
					return err
				}
				if err := tellChange(p, x); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil && page.Cursor != "" && out.value == "table" {
			fmt.Fprintf(e.Stderr, "there are more: --cursor %s\n", printable(page.Cursor))
		}
		return err
	}
	return c
}
