package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// reference writes docs/cli.md: every command with its flags, and the exit codes.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(`<!-- Generated from the commands; "go test ./cmd/touchstone -update" writes it. -->
# The command line

` + strings.TrimSpace(root.Long) + `

Data goes to standard output, everything else to standard error. ` + "`-o json`" + ` and
` + "`-o yaml`" + ` are for programs. Colours are used on terminals only, and never if
` + "`NO_COLOR`" + ` is set. Commands that ask a server take its address from ` + "`--server`" + `,
else from ` + "`" + serverVariable + "`" + `, else it is ` + "`" + defaultServer + "`" + `. The configuration of
commands that run something is in [configuration.md](configuration.md).
` + "`touchstone completion --help`" + ` tells how to complete commands in a shell.

## Exit codes

| code | meaning |
|---|---|
`)
	for code, meaning := range exitCodes() {
		fmt.Fprintf(&b, "| %d | %s |\n", code, meaning)
	}
	b.WriteString("\n## Commands\n\n")
	var commands []*cobra.Command
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
				continue
			}
			if sub.HasSubCommands() {
				walk(sub)
				continue
			}
			commands = append(commands, sub)
		}
	}
	walk(root)
	for _, c := range commands {
		fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
	}
	for _, c := range commands {
		about := c.Long
		if about == "" {
			about = c.Short + "."
		}
		fmt.Fprintf(&b, "\n### %s\n\n```text\n%s\n```\n\n%s\n", c.CommandPath(), c.UseLine(), about)
		if c.Example != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", unindent(c.Example))
		}
		c.InitDefaultHelpFlag()
		own, keys := pflag.NewFlagSet("", pflag.ContinueOnError), 0
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Annotations[keyAnnotation] != nil {
				keys++
				return
			}
			own.AddFlag(f)
		})
		fmt.Fprintf(&b, "\n```text\n%s\n```\n", strings.TrimRight(own.FlagUsages(), "\n"))
		if keys > 0 {
			b.WriteString("\nBesides, the flags of configuration keys: see [configuration.md](configuration.md).\n")
		}
	}
	return b.String()
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

// Every command says what it does, and every flag what it means; what takes
// arguments checks how many.
func TestCommandsAreDescribed(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Args == nil || c.RunE == nil {
			t.Errorf("%s: wants a short description without a full stop, a check of its arguments, and RunE", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newCommand(env{}))
	for code, meaning := range exitCodes() {
		if meaning == "" {
			t.Errorf("exit code %d has no meaning", code)
		}
	}
}
