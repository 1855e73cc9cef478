// Command peers compares Touchstone with Kafka Streams, plain Goka and a floor
// on a real Kafka. "make bench-peers" builds what it needs and runs it.
//
//	peers run -subjects touchstone,streams -pairs 3 -records 1000000 -keys 100000
//	peers report -results bench/results/peers.jsonl -into docs/performance.md
//
// It is also two of the subjects: "peers subject goka" and "peers subject floor".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/touchstone-platform/touchstone/bench/peers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("expected run, report or subject")
	}
	switch args[0] {
	case "run":
		return run(ctx, args[1:])
	case "report":
		return report(args[1:])
	case "subject":
		return peers.RunSubject(ctx, args[1:])
	}
	return fmt.Errorf("found %q, expected run, report or subject", args[0])
}

func run(ctx context.Context, args []string) error {
	o := peers.Defaults()
	f := flag.NewFlagSet("peers run", flag.ContinueOnError)
	subjects := f.String("subjects", "touchstone,streams,streams:record=64,goka,floor", "what to measure; settings as in streams:gc=g1:record=64:dedupe=store:outcomes=no")
	modes := f.String("modes", strings.Join(o.Modes, ","), "throughput, latency, recovery")
	keys := f.String("keys", "100000", "numbers of accounts, varied with the first number of fields")
	fields := f.String("fields", "20", "numbers of fields, varied with 100000 accounts or the only number given")
	quick := f.Bool("quick", false, "few records, one block, on a machine that may be busy: to see that all works")
	f.IntVar(&o.Pairs, "pairs", o.Pairs, "blocks in which every subject runs once")
	f.IntVar(&o.Records, "records", o.Records, "facts measured in a run")
	f.IntVar(&o.Warmup, "warmup", o.Warmup, "facts before them, at least three for each account")
	f.Float64Var(&o.Rate, "rate", o.Rate, "facts per second of latency runs")
	f.DurationVar(&o.Duration, "duration", o.Duration, "length of latency runs")
	f.DurationVar(&o.Commit, "commit", o.Commit, "time between commits")
	f.IntVar(&o.CacheMB, "cache", o.CacheMB, "MiB of block cache for each store")
	f.StringVar(&o.AppCPUs, "app-cpus", o.AppCPUs, "processors of the subject, as taskset lists them; empty for all")
	f.StringVar(&o.BrokerCPUs, "broker-cpus", o.BrokerCPUs, "processors of the broker and of this program")
	f.BoolVar(&o.AcceptBusy, "accept-busy", false, "keep runs although the machine did something else; they are marked")
	f.StringVar(&o.Touchstone, "touchstone", "bin/touchstone", "the binary")
	f.StringVar(&o.StreamsDir, "streams", "bench/peers/kafka-streams", "the Maven project, built")
	f.StringVar(&o.Results, "results", "bench/results/peers.jsonl", "file that runs are appended to; empty for none")
	f.StringVar(&o.Dir, "dir", "", "where temporary folders are made; the system's place if empty")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *quick {
		quickly(f, &o, keys, subjects)
	}
	for _, s := range strings.Split(*subjects, ",") {
		subject, err := peers.ParseSubject(s)
		if err != nil {
			return err
		}
		o.Subjects = append(o.Subjects, subject)
	}
	o.Modes = strings.Split(*modes, ",")
	k, err := numbers(*keys)
	if err != nil {
		return err
	}
	n, err := numbers(*fields)
	if err != nil {
		return err
	}
	o.Points = peers.Grid(k, n)
	if o.Self, err = os.Executable(); err != nil {
		return err
	}
	o.Say = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	_, err = peers.Measure(ctx, o)
	return err
}

// quickly makes everything small that was not given.
func quickly(f *flag.FlagSet, o *peers.Options, keys, subjects *string) {
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	small := func(name string, set func()) {
		if !given[name] {
			set()
		}
	}
	o.AcceptBusy = true
	small("pairs", func() { o.Pairs = 1 })
	small("records", func() { o.Records = 150_000 })
	small("warmup", func() { o.Warmup = 10_000 })
	small("cache", func() { o.CacheMB = 64 })
	small("duration", func() { o.Duration = 11 * time.Second })
	small("keys", func() { *keys = "2000" })
	small("subjects", func() { *subjects = "touchstone,streams,goka,floor" })
}

func numbers(list string) (out []int, err error) {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
		if err != nil {
			return nil, fmt.Errorf("%q: expected numbers separated by commas", list)
		}
		out = append(out, n)
	}
	return out, nil
}

func report(args []string) error {
	f := flag.NewFlagSet("peers report", flag.ContinueOnError)
	results := f.String("results", "bench/results/peers.jsonl", "file with runs")
	into := f.String("into", "docs/performance.md", "Markdown file whose section is rewritten")
	img := f.String("img", "docs/img", "folder of the plots, beside the Markdown file")
	if err := f.Parse(args); err != nil {
		return err
	}
	// Without runs the report would say that there are none, and drop the plots
	// of those there were.
	if _, err := os.Stat(*results); err != nil {
		return fmt.Errorf("-results: %w", err)
	}
	return peers.WriteReport(*results, *into, *img)
}
