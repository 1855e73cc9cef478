package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newRebuild(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "rebuild",
		Short: "Build a table anew beside the live one, compare them, and repair what differs",
		Long: `Build a station's table anew from the log, beside the live one and without
stopping anything, and compare the two.

  --from changelog   rebuilds the local image that the owners of its partitions
                     keep on disk, from the committed changelog. --swap puts the
                     right values in place of those that differ.
  --from journal     rebuilds the content from the truth itself: the journal goes
                     through the steps of the stations in a scratch space, and
                     what comes out is compared with the committed changelog. It
                     takes no --swap: content is written by its station alone, and
                     touchstone replay --station inbox is what repairs it. Versions
                     and provenance depend on the order in which sources raced and
                     are not compared.

The exit code is 6 if differences are left.`,
		Example: `  touchstone rebuild --table merge --domain customer-management
  touchstone rebuild --table customer-management.merge-table --swap
  touchstone rebuild --table inbox --domain order-fulfilment --from journal --examples 20`,
		Args: noArguments,
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	var q client.RebuildQuery
	c.Flags().StringVar(&q.Table, "table", "", "table to rebuild: its topic, or the station that keeps it")
	c.Flags().StringVar(&q.Domain, "domain", "", "domain of the table, if several have one of that name")
	c.Flags().StringVar(&q.From, "from", "changelog", "what to build it from: changelog or journal")
	c.Flags().BoolVar(&q.Swap, "swap", false, "repair what differs")
	c.Flags().IntVar(&q.Examples, "examples", 10, "how many differences to show")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if q.Table == "" {
			return usage("--table: found nothing, expected a table or a station that keeps one")
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		x, err := api.StartRebuild(c.Context(), q)
		for err == nil && x.State == "running" {
			fmt.Fprintf(e.Stderr, "rebuild %s of %s: %s read\n", x.ID, x.Table, count(x.Records, "record"))
			x, err = api.Rebuild(c.Context(), x.ID, progressEvery)
		}
		if err != nil {
			return err
		}
		if err := e.printer(out).print(x, func(p printer) error { return tellRebuild(p, x) }); err != nil {
			return err
		}
		switch n := x.Differences(); {
		case x.State == "failed":
			return &exitError{code: exitFailure, err: errors.New(x.Error)}
		case n > 0:
			return &exitError{code: exitDiffers, err: fmt.Errorf("%s of %s left", count(n, "difference"), x.Table)}
		}
		return nil
	}
	return c
}

func tellRebuild(p printer, x *client.Rebuild) error {
	if err := p.printf("rebuild %s of %s from its %s: %s read, %s\n", x.ID, x.Table, x.From, count(x.Records, "record"), count(x.Keys, "key")); err != nil {
		return err
	}
	t := table{indent: "  "}
	t.add("missing", num(x.Missing), "keys that the live table lacks")
	t.add("extra", num(x.Extra), "keys that only the live table has")
	t.add("different", num(x.Different), "keys with another value")
	if x.Swap {
		t.add("repaired", num(x.Repaired), "keys that are as they should be now")
		t.add("overtaken", num(x.Overtaken), "keys that were written since, and left alone")
	}
	if err := t.write(p); err != nil {
		return err
	}
	for _, d := range x.Examples {
		if err := p.printf("  %s %s\n", d.Kind, d.Key); err != nil {
			return err
		}
		for _, v := range []struct {
			name string
			json []byte
		}{{"live", d.Live}, {"rebuilt", d.Rebuilt}} {
			if v.json == nil {
				continue
			}
			if err := p.printf("    %-8s %s\n", v.name, string(v.json)); err != nil {
				return err
			}
		}
	}
	if x.Missing+x.Extra+x.Different == 0 {
		return p.printf("%s\n", "the live table is what the log says")
	}
	return nil
}
