// Command chaos runs the scenarios of package test/chaos/run against a real
// Apache Kafka, and prints a row for each:
//
//	go run ./test/chaos/cmd/chaos --duration 1h --seed 1
//	go run ./test/chaos/cmd/chaos --scenario kill --seed 7 --load 60s --keep
//
// It needs what `make test-kafka` needs: Java 17 and Maven. It ends with 1 if
// anything was lost, doubled or wrong; logs and data of that scenario are kept
// then, and the command that runs it again is printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
	"github.com/touchstone-platform/touchstone/test/chaos/run"
)

func main() {
	err := chaos()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "chaos:", err)
	var u usage
	if errors.As(err, &u) {
		os.Exit(2)
	}
	os.Exit(1)
}

// leastSoak has enough samples to compare the first minute with the last.
const leastSoak = 2 * time.Minute

// usage is an error of who called the program.
type usage struct{ error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

func chaos() error {
	var (
		scenario = flag.String("scenario", "", "run this one alone; all in turn if empty")
		seed     = flag.Uint64("seed", 1, "of the first scenario; each further run takes the next number")
		duration = flag.Duration("duration", 0, "go on with further seeds until so much time is over; each scenario runs once in any case")
		load     = flag.Duration("load", 60*time.Second, "how long each scenario sends and breaks; some take longer")
		rate     = flag.Int("rate", 300, "deliveries a second, at most")
		senders  = flag.Int("senders", 16, "deliveries under way at once")
		out      = flag.String("out", "", "write the table to this file, as Markdown")
		dir      = flag.String("dir", "", "where logs and data are kept; the system's folder for temporary files if empty")
		keep     = flag.Bool("keep", false, "keep logs and data even if nothing is wrong")
		soak     = flag.Duration("soak", 0, "instead of scenarios: a steady load for so long, while an instance comes or goes every minute")
		listAll  = flag.Bool("list", false, "list the scenarios")
	)
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return usagef("found the argument %q, expected flags only; -help lists them", flag.Arg(0))
	case *duration < 0:
		return usagef("-duration: found %s, expected at least 0", *duration)
	case *load < time.Second:
		return usagef("-load: found %s, expected at least 1s", *load)
	case *rate < 1:
		return usagef("-rate: found %d, expected at least 1", *rate)
	case *senders < 1:
		return usagef("-senders: found %d, expected at least 1", *senders)
	case *soak != 0 && *soak < leastSoak:
		return usagef("-soak: found %s, expected at least %s, or there is nothing to compare", *soak, leastSoak)
	case *soak != 0 && *scenario != "":
		return usagef("-soak and -scenario %s: expected one of the two", *scenario)
	}
	scenarios := run.Scenarios()
	if *listAll {
		for _, s := range scenarios {
			fmt.Printf("%-16s %s\n", s.Name, s.Doc)
		}
		return nil
	}
	if *scenario != "" {
		s, err := run.Find(*scenario)
		if err != nil {
			return usage{err}
		}
		scenarios = []*run.Scenario{s}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	definition, err := run.FindDefinition()
	if err != nil {
		return err
	}
	bin, err := build(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Dir(bin))
	registry, err := kafkatest.StartRegistry()
	if err != nil {
		return err
	}
	defer registry.Close()

	options := run.Options{
		Load: *load, Rate: *rate, Senders: *senders,
		Binary: bin, Definition: definition, Registry: registry.URL(), Dir: *dir, Keep: *keep, Log: os.Stderr,
	}
	if *soak > 0 {
		options.Seed, options.Load = *seed, *soak
		return soaked(run.Soak(ctx, options))
	}
	began := time.Now()
	var results []*run.Result
	failed := 0
	for n := 0; ctx.Err() == nil; n++ {
		if n >= len(scenarios) && time.Since(began) >= *duration {
			break
		}
		s := scenarios[n%len(scenarios)]
		options.Seed = *seed + uint64(n)
		r := run.Run(ctx, s, options)
		if ctx.Err() != nil {
			break
		}
		results = append(results, r)
		fmt.Println(row(r))
		if !r.OK() {
			failed++
			tell(r)
		}
		if *out != "" { // after each: a run that breaks off has told what it saw
			if err := os.WriteFile(*out, []byte(table(results, time.Since(began))), 0o644); err != nil {
				return err
			}
		}
	}
	fmt.Print("\n", table(results, time.Since(began)))
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(results))
	}
	return ctx.Err()
}

// soaked prints what the instance used that was never restarted.
func soaked(r *run.Result, samples []run.Sample) error {
	fmt.Println(row(r))
	if !r.OK() {
		tell(r)
	}
	if len(samples) < 12 {
		return fmt.Errorf("%d samples, expected at least 12: one every ten seconds", len(samples))
	}
	fmt.Printf("\n%d deliveries in %s, %s. Of an instance that was not restarted, in the second half of that time:\n\n", r.Delivered, r.Load, r.FaultList())
	fmt.Println("| | first minute | last minute | slope per hour |")
	fmt.Println("|---|---|---|---|")
	for _, t := range run.Trends(samples) {
		fmt.Printf("| %s | %.1f %s | %.1f %s | %+.1f %s |\n", t.Name, t.First, t.Unit, t.Last, t.Unit, t.SlopePerHour, t.Unit)
	}
	if !r.OK() {
		return errors.New("the soak failed")
	}
	return nil
}

// build makes the program with failpoints.
func build(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "touchstone-chaos-bin-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "touchstone")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "failpoints", "-o", bin, "github.com/touchstone-platform/touchstone/cmd/touchstone")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("build touchstone: %w\n%s", err, out)
	}
	return bin, nil
}

func verdict(r *run.Result) string {
	if r.OK() {
		return "pass"
	}
	return "FAIL"
}

func figures(r *run.Result) (delivered, lost, doubled, wrong string) {
	if r.Report == nil {
		return fmt.Sprint(r.Delivered), "?", "?", "?"
	}
	return fmt.Sprint(r.Delivered), fmt.Sprint(r.Report.Lost), fmt.Sprint(r.Report.Doubled), fmt.Sprint(r.Report.Wrong)
}

// row is a line for people who watch.
func row(r *run.Result) string {
	delivered, lost, doubled, wrong := figures(r)
	return fmt.Sprintf("%s %-16s seed %d: %s deliveries, lost %s, doubled %s, wrong %s, stall %s; %s",
		verdict(r), r.Scenario, r.Seed, delivered, lost, doubled, wrong, r.Stall.Round(10*time.Millisecond), r.FaultList())
}

// tell prints what was wrong and how to see it again.
func tell(r *run.Result) {
	for _, p := range r.Problems {
		fmt.Println("  problem:", strings.ReplaceAll(strings.TrimSpace(p), "\n", "\n    "))
	}
	if r.Report != nil {
		for _, f := range r.Report.Examples {
			fmt.Println("  " + f.String())
		}
	}
	fmt.Println("  logs and data:", r.Dir)
	fmt.Println("  again with:", r.Reproduce())
}

// table is the summary, as Markdown.
func table(results []*run.Result, took time.Duration) string {
	var b strings.Builder
	w := io.Writer(&b)
	deliveries, signals, failed := 0, 0, 0
	for _, r := range results {
		deliveries += r.Delivered
		if r.Report != nil {
			signals += r.Report.Signals
		}
		if !r.OK() {
			failed++
		}
	}
	kafka, err := kafkatest.Version()
	if err != nil {
		kafka = "of unknown version"
	}
	fmt.Fprintf(w, "%d scenario runs in %s, %d failed; %d deliveries, %d signals. %s, %d processors, Apache Kafka %s.\n\n",
		len(results), took.Round(time.Second), failed, deliveries, signals, runtime.Version(), runtime.NumCPU(), kafka)
	fmt.Fprintln(w, "| scenario | seed | faults injected | deliveries | signals | changes | events | longest stall | after a kill, median / longest | folders | lost | doubled | wrong | |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		delivered, lost, doubled, wrong := figures(r)
		after, s, c, e := "", "?", "?", "?"
		if r.Kills > 0 {
			after = fmt.Sprintf("%s / %s", r.AfterKill.Round(10*time.Millisecond), r.AfterKillLongest.Round(10*time.Millisecond))
		}
		if r.Report != nil {
			s, c, e = fmt.Sprint(r.Report.Signals), fmt.Sprint(r.Report.Changes), fmt.Sprint(r.Report.Events)
		}
		fmt.Fprintf(w, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %d | %s | %s | %s | %s |\n",
			r.Scenario, r.Seed, r.FaultList(), delivered, s, c, e, r.Stall.Round(10*time.Millisecond), after, r.Folders, lost, doubled, wrong, verdict(r))
	}
	return b.String()
}
