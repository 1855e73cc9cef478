package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newSource(e env) *cobra.Command {
	return group("source", "See where deliveries come from", newSourceList(e))
}

func newSourceList(e env) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the sources of a server and where each takes deliveries", Args: noArguments}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		sources, err := api.Sources(c.Context())
		if err != nil {
			return err
		}
		return e.printer(out).print(sources, func(p printer) error {
			t := table{header: []string{"SOURCE", "DOMAIN", "CONNECTOR", "TAKES", "AT"}}
			for _, s := range sources {
				t.add(s.Name, s.Domain, s.Connector, orDash(takes(s)), orDash(s.Ingress))
			}
			return t.write(p)
		})
	}
	return c
}

// takes words how deliveries of a source come in.
func takes(s client.Source) string {
	var ways []string
	if s.Deliveries {
		ways = append(ways, "deliveries")
	}
	if s.Files {
		ways = append(ways, "files")
	}
	if len(s.Topics) > 0 {
		ways = append(ways, strings.Join(s.Topics, ", "))
	}
	return strings.Join(ways, " and ")
}
