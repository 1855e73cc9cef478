package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry"
)

func newDomain(e env) *cobra.Command {
	return group("domain", "Check, test and show domain definitions", newDomainList(e), newDomainShow(e), newDomainCheck(e), newDomainTest(e))
}

// domainLine is one domain in a list.
type domainLine struct {
	Name        string   `json:"name"`
	Doc         string   `json:"doc,omitempty"`
	Resources   []string `json:"resources"`
	Sources     []string `json:"sources"`
	Fingerprint string   `json:"fingerprint"`
	File        string   `json:"file"`
}

func lineOf(d *definition.Domain) domainLine {
	l := domainLine{Name: d.Name, Doc: d.Doc, Resources: []string{}, Sources: []string{}, Fingerprint: d.Fingerprint, File: d.File}
	for _, r := range d.Resources {
		l.Resources = append(l.Resources, r.Name)
	}
	for _, s := range d.Sources {
		l.Sources = append(l.Sources, s.Name)
	}
	return l
}

func printDomains(p printer, lines []domainLine) error {
	return p.print(lines, func(p printer) error {
		t := table{header: []string{"DOMAIN", "RESOURCES", "SOURCES", "FINGERPRINT", "FILE"}}
		for _, l := range lines {
			t.add(l.Name, strings.Join(l.Resources, ", "), strings.Join(l.Sources, ", "), l.Fingerprint, l.File)
		}
		return t.write(p)
	})
}

func newDomainList(e env) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the domains of a folder, or the embedded samples", Args: noArguments}
	domains, out := domainsFlag(c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(*cobra.Command, []string) error {
		all, err := loadDomains(*domains)
		if err != nil {
			return err
		}
		lines := make([]domainLine, len(all))
		for i, d := range all {
			lines[i] = lineOf(d)
		}
		return printDomains(e.printer(out), lines)
	}
	return c
}

// problemLine is one mistake as `domain check -o json` tells it.
type problemLine struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`
	Column     int    `json:"column,omitempty"`
	Key        string `json:"key,omitempty"`
	Found      string `json:"found"`
	Expected   string `json:"expected"`
	Suggestion string `json:"suggestion,omitempty"`
	Message    string `json:"message"`
}

func newDomainCheck(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "check PATH...",
		Short: "Check definitions and print every mistake with its place",
		Long: `Check definition files, or every *.yaml and *.yml in a folder, expressions
included, and that they can run together. Every mistake is printed as

  file:line:column: key: found …, expected …

on standard output; with -o json they are a list, which is empty if all is well.
The exit code is 2 if there is any mistake.`,
		Example: `  touchstone domain check ./domains
  touchstone domain check -o json customer.yaml orders.yaml`,
		Args: arguments("PATH..."),
	}
	out := outputFlag(c, "table", "json", "yaml")
	c.RunE = func(_ *cobra.Command, paths []string) error {
		domains, problems, err := readDefinitions(paths...)
		if err != nil {
			return err
		}
		p := e.printer(out)
		lines, in := make([]problemLine, 0, len(problems)), map[string]bool{}
		for _, x := range problems {
			in[x.File] = true
			lines = append(lines, problemLine{x.File, x.Line, x.Column, x.Key, x.Found, x.Expected, x.Suggestion, x.Error()})
		}
		err = p.print(lines, func(p printer) error {
			if len(problems) == 0 {
				checked := make([]domainLine, len(domains))
				for i, d := range domains {
					checked[i] = lineOf(d)
				}
				return printDomains(p, checked)
			}
			return tellProblems(p, problems)
		})
		switch {
		case err != nil:
			return err
		case len(problems) > 0:
			return usage("%s in %s", count(len(problems), "mistake"), count(len(in), "file"))
		}
		fmt.Fprintf(e.Stderr, "%s, no mistakes\n", count(len(domains), "definition"))
		return nil
	}
	return c
}

func tellProblems(p printer, problems registry.Problems) error {
	for _, x := range problems {
		if err := p.printf("%s\n", x.Error()); err != nil {
			return err
		}
	}
	return nil
}
