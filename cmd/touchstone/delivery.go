package main

import (
	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newDelivery(e env) *cobra.Command {
	return group("delivery", "Read what was received and what became of it", newDeliveryGet(e), newDeliveryBody(e))
}

// deliveryView is a delivery with what became of it.
type deliveryView struct {
	Status *client.Status `json:"status"`
	Entry  *client.Entry  `json:"entry,omitempty"`
}

func newDeliveryGet(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "get JOURNAL-ID",
		Short: "Tell what became of a delivery",
		Long: `Tell how a delivery came in and what became of it: a change, no change, a
duplicate, a conflict, ignored, or a dead letter with its reason.`,
		Example: `  touchstone delivery get customer-management:2:1041 --wait 5s`,
		Args:    arguments("JOURNAL-ID"),
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	wait := c.Flags().Duration("wait", 0, "wait so long for the end of it")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *wait < 0 {
			return usage("--wait: found %s, expected a duration such as 5s", *wait)
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		v := deliveryView{}
		if v.Status, err = api.Delivery(c.Context(), args[0], *wait); err != nil {
			return err
		}
		// What became of it may be known for longer than the journal is kept.
		v.Entry, err = api.Entry(c.Context(), args[0])
		if code := client.ProblemCode(err); code == "unknown-delivery" {
			v.Entry, err = nil, nil
		}
		if err != nil {
			return err
		}
		return e.printer(out).print(v, func(p printer) error {
			if err := tellEntry(p, args[0], v.Entry); err != nil {
				return err
			}
			return tellStatus(p, v.Status)
		})
	}
	return c
}

func newDeliveryBody(e env) *cobra.Command {
	c := &cobra.Command{
		Use:     "body JOURNAL-ID",
		Short:   "Print the body of a delivery as it was received",
		Example: `  touchstone delivery body customer-management:2:1041 | jq .`,
		Args:    arguments("JOURNAL-ID"),
	}
	r := serverFlags(e, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		x, err := api.Entry(c.Context(), args[0])
		if err != nil {
			return err
		}
		_, err = e.Stdout.Write(x.Body.Bytes())
		return err
	}
	return c
}
