package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// env is what a run of the program sees of the world, so that tests can run
// it in their own process.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Environ holds the environment variables as "NAME=value".
	Environ []string
}

// getenv gives a variable; the last of several of a name counts.
func (e env) getenv(name string) (string, bool) {
	for _, kv := range slices.Backward(e.Environ) {
		if n, v, ok := strings.Cut(kv, "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}

// color tells whether what goes to w may be coloured: w is a terminal, and
// neither NO_COLOR (https://no-color.org) nor TERM speaks against it.
func (e env) color(w io.Writer) bool {
	if v, _ := e.getenv("NO_COLOR"); v != "" {
		return false
	}
	if v, _ := e.getenv("TERM"); v == "dumb" {
		return false
	}
	return isTerminal(w)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run runs the program once and gives its exit code.
func run(ctx context.Context, e env, args []string) int {
	root := newCommand(e)
	root.SetArgs(args)
	err := failpoint.Setup(e.getenv)
	if err != nil {
		err = &exitError{code: exitUsage, err: err}
	} else {
		err = root.ExecuteContext(ctx)
	}
	if err != nil {
		explainError(e.Stderr, err)
	}
	return int(codeOf(err))
}

// newCommand assembles the commands. They share nothing but the environment.
func newCommand(e env) *cobra.Command {
	root := group("touchstone", "A virtual system of record over Kafka",
		newDev(e), newServe(e), newDescribe(e), newDomain(e), newIngest(e), newExplain(e), newTrace(e),
		newEntity(e), newSource(e), newDelivery(e), newEvent(e), newReplay(e), newRebuild(e), newDLQ(e), newCommandCommand(e), newConnection(e), newConfig(e), newVersion(e), newBench(e),
	)
	root.Long = `Touchstone takes in what many systems say about the same customers, orders or
flights, decides field by field whose word counts, keeps one canonical state
with the provenance of every field, and publishes a domain event when, and only
when, that state changes.`
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{code: exitUsage, err: err, hint: "see " + c.CommandPath() + " --help"}
	})
	root.CompletionOptions.HiddenDefaultCmd = false
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(commands...)
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		c.SuggestionsMinimumDistance = 2
		hint := "see " + c.CommandPath() + " --help"
		if s := c.SuggestionsFor(args[0]); len(s) > 0 {
			hint = "did you mean " + strings.Join(s, " or ") + "?"
		}
		return &exitError{code: exitUsage, err: fmt.Errorf("%s has no command %q", c.CommandPath(), args[0]), hint: hint}
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}

// arguments checks that there are as many as are named, the last of them
// optional if it is in brackets, or repeatable if it ends in dots.
func arguments(names ...string) cobra.PositionalArgs {
	least, most := len(names), len(names)
	if last := names[len(names)-1]; strings.HasPrefix(last, "[") {
		least--
	} else if strings.HasSuffix(last, "...") {
		most = -1
	}
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return &exitError{
				code: exitUsage, err: fmt.Errorf("%s: found %d arguments, expected %s", c.CommandPath(), len(args), strings.Join(names, " ")),
				hint: "see " + c.CommandPath() + " --help",
			}
		}
		return nil
	}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &exitError{code: exitUsage, err: fmt.Errorf("%s: found the argument %q, expected none", c.CommandPath(), args[0]), hint: "see " + c.CommandPath() + " --help"}
}

// exactlyOne checks that one of these flags is given.
func exactlyOne(c *cobra.Command, flags ...string) error {
	var given []string
	for _, f := range flags {
		if c.Flags().Changed(f) {
			given = append(given, "--"+f)
		}
	}
	found := "none of them"
	switch len(given) {
	case 1:
		return nil
	case 0:
	default:
		found = strings.Join(given, " and ")
	}
	return &exitError{
		code: exitUsage, err: fmt.Errorf("%s: found %s, expected exactly one of --%s", c.CommandPath(), found, strings.Join(flags, ", --")),
		hint: "see " + c.CommandPath() + " --help",
	}
}
