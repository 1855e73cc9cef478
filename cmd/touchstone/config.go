package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/touchstone-platform/touchstone/internal/config"
)

// keyAnnotation marks the flags of configuration keys, whose reference is
// docs/configuration.md.
const keyAnnotation = "touchstone/key"

// configFlags adds --config and a flag for each configuration key that keep
// wants (nil: all). The function it gives loads the configuration when the
// command runs.
func configFlags(e env, c *cobra.Command, keep func(key string) bool) func() (*config.Config, error) {
	file := c.Flags().String("config", "", "configuration `file` ($"+config.FileEnv+")")
	// It fails only for flags that do not exist.
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	defaults := config.Default()
	own := map[string]bool{}
	for _, s := range defaults.Settings() {
		if keep != nil && !keep(s.Key) {
			continue
		}
		own[s.Flag] = true
		doc, env := firstLower(s.Doc), s.Env
		if s.Secret {
			doc, env = "file that holds the "+doc, env+strings.ToUpper(config.FileSuffix)
		}
		f := c.Flags().VarPF(&setting{value: s.Default, kind: s.Type}, s.Flag, "", doc+" ($"+env+")")
		f.Annotations = map[string][]string{keyAnnotation: {s.Key}}
		if s.Type == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return func() (*config.Config, error) {
		given := map[string]string{}
		c.Flags().Visit(func(f *pflag.Flag) {
			if own[f.Name] {
				given[f.Name] = f.Value.String()
			}
		})
		// The variable of the commands that ask a server is no key.
		variables := slices.DeleteFunc(slices.Clone(e.Environ), func(kv string) bool { return strings.HasPrefix(kv, serverVariable+"=") })
		return config.Load(config.Sources{File: *file, Env: variables, Flags: given})
	}
}

// setting is a flag of a configuration key. It takes any text: the
// configuration judges all values together and says what is wrong with each.
type setting struct{ value, kind string }

func (s *setting) String() string         { return s.value }
func (s *setting) Set(value string) error { s.value = value; return nil }
func (s *setting) Type() string           { return s.kind }

// firstLower makes a sentence a phrase of a list of flags.
func firstLower(doc string) string {
	doc = strings.TrimSuffix(doc, ".")
	if len(doc) > 1 && doc[1] >= 'a' && doc[1] <= 'z' {
		return strings.ToLower(doc[:1]) + doc[1:]
	}
	return doc
}

func newConfig(e env) *cobra.Command {
	return group("config", "Check and show the configuration", newConfigCheck(e), newConfigDump(e), newConfigDocs(e))
}

func newConfigCheck(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Check flags, environment and configuration file, and the definitions they name",
		Long: `Check the configuration as serve would read it, and the domain definitions that
it names. Every mistake is reported at once, with its place; the exit code is
then 2. Nothing is contacted.`,
		Example: `  touchstone config check --config touchstone.yaml`,
		Args:    noArguments,
	}
	load := configFlags(e, c, nil)
	c.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		domains, err := configuredDomains(cfg)
		if err != nil {
			return err
		}
		names := make([]string, len(domains))
		for i, d := range domains {
			names[i] = d.Name
		}
		fmt.Fprintf(e.Stderr, "the configuration is right; %s: %s\n", count(len(names), "domain"), strings.Join(names, ", "))
		return nil
	}
	return c
}

// settingLine is one key as `config dump` tells it.
type settingLine struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Origin  string `json:"origin"`
	Default string `json:"default"`
}

func newConfigDump(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "dump",
		Short: "Print every value of the configuration and where it came from",
		Long: `Print the configuration as a file that could be read back, with the origin of
each value: flag, environment variable, line of the file, or default. Secrets
are redacted.`,
		Args: noArguments,
	}
	load := configFlags(e, c, nil)
	out := outputFlag(c, "yaml", "table", "json")
	c.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if out.value == "yaml" {
			_, err := fmt.Fprint(e.Stdout, cfg.Dump())
			return err
		}
		lines := []settingLine{}
		for _, s := range cfg.Settings() {
			lines = append(lines, settingLine{s.Key, s.Value, s.Origin.String(), s.Default})
		}
		return e.printer(out).print(lines, func(p printer) error {
			t := table{header: []string{"KEY", "VALUE", "ORIGIN"}}
			for _, l := range lines {
				t.add(l.Key, orDash(l.Value), l.Origin)
			}
			return t.write(p)
		})
	}
	return c
}

func newConfigDocs(e env) *cobra.Command {
	c := &cobra.Command{Use: "docs", Short: "Print the reference of all configuration keys, in Markdown", Args: noArguments}
	c.RunE = func(*cobra.Command, []string) error {
		_, err := fmt.Fprint(e.Stdout, config.Reference())
		return err
	}
	return c
}
