package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/client"
)

func newCommandCommand(e env) *cobra.Command {
	order := func(verb, short, long string, kind saga.OrderKind, step bool) *cobra.Command {
		return newCommandOrder(e, verb, short, long, kind, step)
	}
	return group("command", "Commands: what back ends are asked to do, and what becomes of it",
		newCommandSend(e), newCommandGet(e), newCommandList(e),
		order("cancel", "Have a command not carried out", "What it has done is undone. Once it cannot be cancelled any more it is refused.", saga.OrderCancel, false),
		order("retry", "Have tried again what waits for a person", "What could not be done, or not be undone, is asked for again. It has succeeded only when\nthe back end says so.", saga.OrderRetry, false),
		order("abandon", "End a command that waits for a person, who sees to the rest", "Nothing more is done for it.", saga.OrderAbandon, false),
		order("approve", "Approve a step that waits for a decision", "The command goes on.", saga.OrderApprove, true),
		order("refuse", "Refuse a step that waits for a decision", "What the command has done is undone.", saga.OrderRefuse, true),
	)
}

func newCommandSend(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "send RESOURCE ID COMMAND [NAME=VALUE...]",
		Short: "Send a command about an entity",
		Long: `Send a command about an entity, with its input as NAME=VALUE. A value is taken as
JSON if it is JSON, and as text otherwise; --input gives the whole as a JSON
object instead. With --key, sending it again is the same command. Waits for its
end, which --wait 0s does not; a command that did not end as Completed gives exit
code 6.`,
		Example: `  touchstone command send customer C-1001 SuspendCustomer reason=arrears --key ticket-4711
  touchstone command send customer C-1001 ChangeEmail email=ada@example.org --if-version 5`,
		Args: cobra.MinimumNArgs(3),
	}
	r, out := entityFlags(e, c), outputFlag(c, "table", "json", "yaml")
	var q client.CommandRequest
	input := c.Flags().String("input", "", "the input as a JSON `object`")
	c.Flags().StringVar(&q.Key, "key", "", "your name for the command (Idempotency-Key)")
	c.Flags().Int64Var(&q.IfVersion, "if-version", 0, "version that the entity must have")
	c.Flags().DurationVar(&q.Wait, "wait", 30*time.Second, "how long to wait for its end")
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if q.Input, err = inputOf(*input, args[3:]); err != nil {
			return err
		}
		q.Name = args[2]
		api, err := r.client()
		if err != nil {
			return err
		}
		domain, err := r.domainOf(c.Context(), api, args[0])
		if err != nil {
			return err
		}
		x, err := api.SendCommand(c.Context(), domain, args[0], args[1], q)
		if err != nil {
			return err
		}
		if x.Final {
			if x, err = api.Command(c.Context(), domain, x.ID, 0); err != nil {
				return err
			}
		}
		if err := e.printer(out).print(x, func(p printer) error { return tellCommand(p, x) }); err != nil {
			return err
		}
		if x.Final && x.Status != saga.Completed {
			return &exitError{code: exitDiffers, err: fmt.Errorf("command %s ended as %s", x.ID, x.Status)}
		}
		return nil
	}
	return c
}

// inputOf makes the input of a command.
func inputOf(whole string, pairs []string) (json.RawMessage, error) {
	if whole != "" {
		if len(pairs) > 0 {
			return nil, usage("found --input and %s, expected one or the other", pairs[0])
		}
		if !json.Valid([]byte(whole)) {
			return nil, usage("--input: found %q, expected a JSON object", whole)
		}
		return json.RawMessage(whole), nil
	}
	in := map[string]json.RawMessage{}
	for _, p := range pairs {
		name, v, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usage("found %q, expected NAME=VALUE", p)
		}
		if _, twice := in[name]; twice {
			return nil, usage("found %s twice, expected it once", name)
		}
		if json.Valid([]byte(v)) {
			in[name] = json.RawMessage(v)
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		in[name] = b
	}
	return json.Marshal(in)
}

// domainFlag is for commands that name no resource.
func domainFlag(c *cobra.Command) *string {
	return c.Flags().String("domain", "", "domain of it (default: the only one, or the one that has it)")
}

func tellCommand(p printer, x *client.Command) error {
	if err := p.printf("%s %s on %s %s: %s\n", x.Command, x.ID, x.Resource, x.Entity, x.Status); err != nil {
		return err
	}
	if x.Reason != nil {
		step := ""
		if x.Reason.Step != "" {
			step = x.Reason.Step + ": "
		}
		if err := p.printf("  because %s%s (%s)\n", step, x.Reason.Detail, x.Reason.Kind); err != nil {
			return err
		}
	}
	steps := table{indent: "  ", header: []string{"STEP", "PHASE", "TRIES", "UNDO", "FAILURE"}}
	for _, s := range x.Steps {
		phase := string(s.Phase)
		if s.Held {
			phase += ", waits for its connection"
		}
		if s.Uncertain {
			phase += ", uncertain"
		}
		steps.add(s.Name, phase, strconv.Itoa(int(s.Attempts)), orDash(string(s.Undo)), orDash(s.Failure))
	}
	if len(x.Steps) > 0 {
		if err := steps.write(p); err != nil {
			return err
		}
	}
	if len(x.Decisions) > 0 {
		if err := p.printf("  waits for a decision about %s\n", strings.Join(x.Decisions, ", ")); err != nil {
			return err
		}
	}
	if len(x.Timeline) == 0 {
		return nil
	}
	moments := table{indent: "  ", header: []string{"AT", "STATUS", "WHAT HAPPENED"}}
	for _, m := range x.Timeline {
		moments.add(at(m.At), string(m.Status), orDash(m.Text))
	}
	return moments.write(p)
}

func newCommandGet(e env) *cobra.Command {
	c := &cobra.Command{
		Use:     "get COMMAND",
		Short:   "Tell how far a command is, with its timeline",
		Example: `  touchstone command get cmd-5090e9e536a74f353e3439b1b37f5b0a --wait 10s`,
		Args:    arguments("COMMAND"),
	}
	r, out, domain := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), domainFlag(c)
	wait := c.Flags().Duration("wait", 0, "wait so long for its end")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		d, err := commandDomain(c, api, *domain)
		if err != nil {
			return err
		}
		x, err := api.Command(c.Context(), d, args[0], *wait)
		if err != nil {
			return err
		}
		return e.printer(out).print(x, func(p printer) error { return tellCommand(p, x) })
	}
	return c
}

// commandDomain finds the domain that is meant: the one that was named, or the
// only one with connections.
func commandDomain(c *cobra.Command, api *client.Client, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	found, err := api.DomainsWithCommands(c.Context())
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", usage("no domain of %s declares commands", api.Server())
	case 1:
		return found[0], nil
	}
	return "", usage("found several domains with commands, expected --domain with one of %s", strings.Join(found, ", "))
}

func newCommandList(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List commands by id",
		Long: `List commands by id, one page of them; where there are more, standard error says
how to get the next page.`,
		Example: `  touchstone command list --attention
  touchstone command list --entity customer/C-1001 --status Failed`,
		Args: noArguments,
	}
	r, out, domain := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), domainFlag(c)
	var q client.CommandQuery
	c.Flags().StringVar(&q.Status, "status", "", "only in this status")
	c.Flags().StringVar(&q.Entity, "entity", "", "only about this entity: `RESOURCE/ID`")
	c.Flags().StringVar(&q.Connection, "connection", "", "only those that called this back end")
	c.Flags().BoolVar(&q.Open, "open", false, "only those with a failure that is not resolved")
	c.Flags().BoolVar(&q.Attention, "attention", false, "only those that wait for a person")
	c.Flags().IntVar(&q.Limit, "limit", 0, "commands in the page (default: the server's)")
	c.Flags().StringVar(&q.Cursor, "cursor", "", "begin at the page of this cursor")
	c.RunE = func(c *cobra.Command, _ []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		d, err := commandDomain(c, api, *domain)
		if err != nil {
			return err
		}
		page, err := api.Commands(c.Context(), d, q)
		if err != nil {
			return err
		}
		err = e.printer(out).print(page, func(p printer) error {
			t := table{header: []string{"COMMAND", "ACCEPTED", "STATUS", "NAME", "ENTITY", "REASON"}}
			for _, x := range page.Items {
				why, accepted := "-", "-"
				if x.Reason != nil {
					why = short(x.Reason.Detail)
				}
				if x.Accepted != nil {
					accepted = x.Accepted.Format(time.RFC3339)
				}
				t.add(x.ID, accepted, string(x.Status), x.Command, x.Resource+"/"+x.Entity, why)
			}
			return t.write(p)
		})
		if err == nil && page.Cursor != "" && out.value == "table" {
			fmt.Fprintf(e.Stderr, "there are more: --cursor %s\n", printable(page.Cursor))
		}
		return err
	}
	return c
}

func newCommandOrder(e env, verb, short, long string, kind saga.OrderKind, decides bool) *cobra.Command {
	c := &cobra.Command{
		Use: verb + " COMMAND", Short: short, Long: short + ". " + long,
		Example: "  touchstone command " + verb + " cmd-5090e9e536a74f353e3439b1b37f5b0a --detail 'as agreed with sales'",
		Args:    arguments("COMMAND"),
	}
	r, out, domain := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), domainFlag(c)
	detail := c.Flags().String("detail", "", "why, for people")
	step := new(string)
	if decides {
		step = c.Flags().String("step", "", "which step, if several wait for a decision")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		d, err := commandDomain(c, api, *domain)
		if err != nil {
			return err
		}
		x, err := api.OrderCommand(c.Context(), d, args[0], kind, *step, *detail)
		if err != nil {
			return err
		}
		return e.printer(out).print(x, func(p printer) error { return p.printf("%s: %s is taken\n", x.ID, verb) })
	}
	return c
}

func newConnection(e env) *cobra.Command {
	return group("connection", "Connections: back ends that can be asked", newConnectionList(e), newConnectionSwitch(e, true), newConnectionSwitch(e, false))
}

func newConnectionList(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List back ends, and how calls to them go",
		Long:    "List the back ends of a domain, and how calls to them go in the process that answers.",
		Example: `  touchstone connection list`, Args: noArguments,
	}
	r, out, domain := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), domainFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		d, err := commandDomain(c, api, *domain)
		if err != nil {
			return err
		}
		items, err := api.Connections(c.Context(), d)
		if err != nil {
			return err
		}
		return e.printer(out).print(items, func(p printer) error {
			t := table{header: []string{"CONNECTION", "CONNECTOR", "STATE", "QUEUED", "RUNNING", "CALLS", "FAILURES", "LAST FAILURE"}}
			for _, x := range items {
				if !x.Here {
					t.add(x.Name, x.Connector, "elsewhere", "-", "-", "-", "-", "-")
					continue
				}
				t.add(x.Name, x.Connector, x.State, strconv.Itoa(x.Queued), strconv.Itoa(x.Running), strconv.FormatInt(x.Calls, 10), strconv.FormatInt(x.Failures, 10), orDash(short(x.LastFailure)))
			}
			return t.write(p)
		})
	}
	return c
}

func newConnectionSwitch(e env, paused bool) *cobra.Command {
	c := &cobra.Command{Use: "resume CONNECTION", Short: "Have calls made again", Args: arguments("CONNECTION"), Example: `  touchstone connection resume billing --rate 20`}
	c.Long = "Have calls to a back end made again, in all processes. With --rate, those that wait go at\nso many in a second."
	if paused {
		c = &cobra.Command{Use: "pause CONNECTION", Short: "Have no further call made to a back end", Args: arguments("CONNECTION"), Example: `  touchstone connection pause billing`}
		c.Long = "Have no further call made to a back end, in any process. Commands that need it wait, and\ntheir time does not run."
	}
	r, out, domain := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), domainFlag(c)
	rate := new(float64)
	if !paused {
		rate = c.Flags().Float64("rate", 0, "calls in a second until those that wait are through")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		d, err := commandDomain(c, api, *domain)
		if err != nil {
			return err
		}
		s, err := api.SwitchConnection(c.Context(), d, args[0], paused, *rate)
		if err != nil {
			return err
		}
		return e.printer(out).print(s, func(p printer) error {
			if s.Paused {
				return p.printf("%s is paused\n", s.Connection)
			}
			return p.printf("%s goes on\n", s.Connection)
		})
	}
	return c
}
