package main

import (
	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/bench"
)

func newBench(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure the whole way from the door to the views on this machine",
		Long: `Measure the whole way from the door to the views on this machine, with the
embedded broker and registry in the same process: start, throughput, processor
time and where it goes, latency at a fixed rate, and memory. At the end every
delivery is checked to have come out as planned; the exit code is not 0 if one
has not.

The data are seeded and go to a temporary folder that is removed. Nothing else
should run meanwhile.`,
		Example: `  touchstone bench
  touchstone bench --entities 10000 --signals 100000 --duration 10s
  touchstone bench --profile cpu.prof -o json`,
		Args: noArguments,
	}
	var o bench.Options
	f := c.Flags()
	f.IntVar(&o.Entities, "entities", 100_000, "entities that exist, each known to three sources")
	f.IntVar(&o.Signals, "signals", 500_000, "deliveries of the throughput phase")
	f.Float64Var(&o.Rate, "rate", 1000, "deliveries per second of the latency phase")
	f.DurationVar(&o.Duration, "duration", bench.DefaultDuration, "length of the latency phase; negative for none")
	f.IntVar(&o.Backlog, "backlog", 20_000, "most deliveries under way in the throughput phase")
	f.IntVar(&o.Partitions, "partitions", 4, "partitions of each topic")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of the deliveries")
	f.StringVar(&o.Dir, "dir", "", "folder to put the temporary folder in (default: the system's)")
	f.StringVar(&o.ProfilePath, "profile", "", "file for the CPU profile of the throughput phase")
	out := outputFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.Validate(); err != nil {
			return usage("%w", err)
		}
		o.Progress = func(what string) { c.PrintErrln(what) }
		r, err := bench.Run(c.Context(), o)
		if err != nil {
			return err
		}
		return e.printer(out).print(r, func(p printer) error { return r.WriteText(p.w) })
	}
	return c
}
