package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/internal/testkit/domaintest"
)

// fixtureLine is the result of one fixture.
type fixtureLine struct {
	Fixture string `json:"fixture"`
	// Result is "ok", "differs" or "rewritten".
	Result string `json:"result"`
	Diff   string `json:"diff,omitempty"`
}

func newDomainTest(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "test FIXTURE...",
		Short: "Play deliveries to a domain and compare what comes of it with golden files",
		Long: `Play fixtures: deliveries in, canonical entities and domain events out, as text
that is compared with the golden file beside the fixture. A folder stands for
every *.yaml in it. Nothing is contacted, and no signature is verified.

Where the result differs the lines are shown, "-" wanted and "+" got, and the
exit code is 1. --rewrite writes the golden files anew: review them like prose.`,
		Example: `  touchstone domain test schemas/domains/testdata
  touchstone domain test --domains ./domains ./domains/testdata/orders.yaml --rewrite`,
		Args: arguments("FIXTURE..."),
	}
	domains, out := domainsFlag(c), outputFlag(c, "table", "json", "yaml")
	rewrite := c.Flags().Bool("rewrite", false, "write the golden files anew")
	c.RunE = func(_ *cobra.Command, paths []string) error {
		all, err := loadDomains(*domains)
		if err != nil {
			return err
		}
		fixtures, err := yamlFiles(paths, "fixture")
		if err != nil {
			return err
		}
		lines, differ := []fixtureLine{}, 0
		for _, f := range fixtures {
			diff, err := domaintest.Check(f, all, builtin.Kinds(), *rewrite)
			if err != nil {
				return &exitError{code: exitUsage, err: err}
			}
			line := fixtureLine{f, "ok", diff}
			switch {
			case diff != "" && *rewrite:
				line.Result = "rewritten"
			case diff != "":
				line.Result = "differs"
				differ++
			}
			lines = append(lines, line)
		}
		err = e.printer(out).print(lines, func(p printer) error { return tellFixtures(p, lines) })
		if err == nil && differ > 0 {
			return &exitError{code: exitFailure, err: fmt.Errorf("%s of %d differ", count(differ, "fixture"), len(lines)), hint: "--rewrite writes the golden files anew, if this is what should be"}
		}
		return err
	}
	return c
}

func tellFixtures(p printer, lines []fixtureLine) error {
	for _, l := range lines {
		golden := ""
		if l.Diff != "" {
			golden = "  " + domaintest.Golden(l.Fixture)
		}
		if err := p.printf("%-9s  %s%s\n", l.Result, l.Fixture, golden); err != nil {
			return err
		}
		if _, err := fmt.Fprint(p.w, printableLines(l.Diff)); err != nil {
			return err
		}
	}
	return nil
}

// yamlFiles lists the files that paths stand for: themselves, or every *.yaml
// and *.yml in a folder. A path given twice counts once. what names the files
// in errors.
func yamlFiles(paths []string, what string) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			names = append(names, name)
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		if !info.IsDir() {
			add(path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		found := false
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
				found = true
				add(filepath.ToSlash(filepath.Join(path, e.Name())))
			}
		}
		if !found {
			return nil, usage("%s: found no *.yaml file, expected at least one %s", path, what)
		}
	}
	return names, nil
}
