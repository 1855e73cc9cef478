package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/config"
	"github.com/touchstone-platform/touchstone/internal/narrate"
	"github.com/touchstone-platform/touchstone/internal/telemetry"
)

// devKeys are the configuration keys that dev takes: all but those of what it
// embeds.
func devKeys(key string) bool {
	section, _, _ := strings.Cut(key, ".")
	switch section {
	case "kafka", "registry":
		return key == "kafka.listen" || key == "registry.listen"
	}
	return key != "roles" && key != "topics.replication"
}

func newDev(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, with an embedded broker and schema registry",
		Long: `Run Touchstone as a whole in one process: an embedded Kafka broker and schema
registry that other programs can use too, every station, the API and its page.
Without definitions of your own it runs the samples, and simulated back ends
speak to them.

Each canonical change is told on standard output as it happens: what came in,
whose word counted, what was published. The log goes to standard error, from
warnings on unless --log-level says otherwise. All files are below --data; an
acknowledged delivery survives kill -9. This mode is for development, tests and
small single-node use.`,
		Example: `  touchstone dev
  touchstone dev --data ./data --domains ./domains --no-simulators`,
		Args: noArguments,
	}
	load := configFlags(e, c, devKeys)
	noSimulators := c.Flags().Bool("no-simulators", false, "do not play the back ends of the samples")
	quiet := c.Flags().BoolP("quiet", "q", false, "do not tell what happens")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if isDefault(cfg, "log.level") {
			cfg.Log.Level = "warn" // the story is what a person wants to follow
		}
		o := app.DevOptions{
			Dir: cfg.Data.Dir, Listen: cfg.API.Listen, KafkaListen: cfg.Kafka.Listen, RegistryListen: cfg.Registry.Listen, BackendsListen: cfg.Backends.Listen,
			Simulate: !*noSimulators, Style: narrate.Style{Color: e.color(e.Stdout)},
		}
		if o.Options, err = e.options(cfg); err != nil {
			return err
		}
		// The embedded broker is alone, speaks plain text, and nobody else
		// plays a role.
		o.Topology.Replication, o.Clients, o.Roles = 1, nil, nil
		if !*quiet {
			o.Story = e.Stdout
		}
		return app.Dev(c.Context(), o)
	}
	return c
}

func newServe(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run all or some of the roles against Kafka and a schema registry",
		Long: `Run Touchstone, or some of its roles, against a Kafka cluster and a
Confluent-compatible schema registry. Processes of the same role share its work.
While Kafka or the registry cannot be reached it waits, says so in the log and
is not ready (/readyz).

touchstone config check tells whether the configuration is right; touchstone
describe tells which topics will be created.`,
		Example: `  touchstone serve --config touchstone.yaml
  touchstone serve --roles inbox,resolve,merge,publish --kafka-brokers kafka-1:9092,kafka-2:9092`,
		Args: noArguments,
	}
	load := configFlags(e, c, func(key string) bool {
		return key != "kafka.listen" && key != "registry.listen" && key != "backends.listen"
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		o, err := e.options(cfg)
		if err != nil {
			return err
		}
		return app.Serve(c.Context(), cfg.API.Listen, o)
	}
	return c
}

// options are those of every process that runs something.
func (e env) options(c *config.Config) (app.Options, error) {
	domains, err := configuredDomains(c)
	if err != nil {
		return app.Options{}, err
	}
	o, err := app.Configure(c, domains)
	if err != nil {
		return app.Options{}, err
	}
	if o.Log, err = telemetry.Logger(e.Stderr, c.Log.Format, c.Log.Level); err != nil {
		return app.Options{}, err
	}
	o.Secrets = app.Secrets(func(name string) string { v, _ := e.getenv(name); return v })
	b := telemetry.ReadBuild()
	o.Version, o.Metrics = b.Version, telemetry.Registry(b)
	return o, nil
}

// isDefault tells whether nobody has set a key.
func isDefault(c *config.Config, key string) bool {
	i := slices.IndexFunc(c.Settings(), func(s config.Setting) bool { return s.Key == key })
	return i >= 0 && c.Settings()[i].Origin.Kind == "default"
}
