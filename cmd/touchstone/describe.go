package main

import (
	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/config"
	"github.com/touchstone-platform/touchstone/topology"
)

func newDescribe(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "describe",
		Short: "Print what runs: stations, views, and every topic with its settings",
		Long: `Print the topology that follows from the definitions: per domain its stations
with what they read and write, its views, and its topics with key, partitions
and retention. Nothing is contacted.`,
		Example: `  touchstone describe
  touchstone describe -o mermaid --domains ./domains > topology.mmd`,
		Args: noArguments,
	}
	// What serve would create if it is told nothing.
	o := topology.Defaults()
	o.Partitions = config.Default().Topics.Partitions
	domains, out := domainsFlag(c), outputFlag(c, "text", "mermaid", "json")
	c.Flags().IntVar(&o.Partitions, "partitions", o.Partitions, "partitions of each topic")
	c.RunE = func(c *cobra.Command, _ []string) error {
		all, err := loadDomains(*domains)
		if err != nil {
			return err
		}
		if o.Partitions < 1 {
			return usage("--partitions: found %d, expected at least 1", o.Partitions)
		}
		t, err := topology.Build(all, o, follows)
		if err != nil {
			return err
		}
		switch out.value {
		case "mermaid":
			return t.Mermaid(e.Stdout)
		case "json":
			return t.JSON(e.Stdout)
		}
		return t.Text(e.Stdout)
	}
	return c
}
