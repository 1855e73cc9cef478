package peers

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
)

// Modes of measuring.
const (
	// Throughput drains what is there as fast as it goes.
	Throughput = "throughput"
	// Latency feeds at a fixed rate.
	Latency = "latency"
	// Recovery kills the subject half-way and starts it again.
	Recovery = "recovery"
)

// Options of a benchmark.
type Options struct {
	Subjects []Subject
	Modes    []string
	// Points are the workloads, each measured in Pairs blocks. Within a block
	// every subject runs once on the same broker and the same bytes; the order
	// is turned round from block to block (ABBA).
	Points []workload.Spec
	Pairs  int
	// Records is how many facts are measured, after Warmup others, which are at
	// least those that introduce every account.
	Records, Warmup int
	// Rate of the latency runs in facts per second, and their Duration.
	Rate     float64
	Duration time.Duration

	Partitions int
	Commit     time.Duration
	CacheMB    int
	// AppCPUs and BrokerCPUs are processors as taskset lists them; empty for all.
	AppCPUs, BrokerCPUs string
	// AcceptBusy keeps a run although the machine did something else; it is
	// marked.
	AcceptBusy bool

	// Touchstone is its binary, StreamsDir the built Maven project, Self this
	// program, which is also the subjects goka and floor.
	Touchstone, StreamsDir, Self string
	// Results is the file that runs are appended to, one JSON object a line.
	Results string
	// Dir is where temporary folders are made; empty for the system's.
	Dir string
	// Say tells people what goes on.
	Say func(format string, args ...any)
}

// Defaults are those of the whole comparison.
func Defaults() Options {
	return Options{
		Modes: []string{Throughput}, Points: []workload.Spec{Point(100_000, 20)}, Pairs: 3, Records: 1_000_000, Warmup: 1_000_000,
		Rate: 4000, Duration: 40 * time.Second, Partitions: 4, Commit: 100 * time.Millisecond, CacheMB: 1024, AppCPUs: "1", BrokerCPUs: "0",
		Say: func(string, ...any) {},
	}
}

// Point is the workload of so many accounts and fields: Zipf 1.1, half of the
// facts changing something, a tenth of them copies.
func Point(keys, fields int) workload.Spec {
	return workload.Spec{Keys: keys, Fields: fields, Zipf: 1.1, Changing: 0.5, Duplicates: 0.1, Seed: 1}
}

// Grid varies one factor at a time: each number of accounts with 20 fields, and
// each number of fields with 100,000 accounts. A list of one number replaces
// the 100,000 or the 20.
func Grid(keys, fields []int) (points []workload.Spec) {
	base := Point(100_000, 20)
	if len(keys) == 1 {
		base.Keys = keys[0]
	}
	if len(fields) == 1 {
		base.Fields = fields[0]
	}
	add := func(s workload.Spec) {
		if !slices.Contains(points, s) {
			points = append(points, s)
		}
	}
	for _, k := range keys {
		s := base
		s.Keys = k
		add(s)
	}
	for _, f := range fields {
		s := base
		s.Fields = f
		add(s)
	}
	return points
}

// Validate tells everything that cannot be.
func (o Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(o.Subjects) == 0 {
		bad("subjects: none, expected at least one")
	}
	for _, m := range o.Modes {
		if !slices.Contains([]string{Throughput, Latency, Recovery}, m) {
			bad("mode %q: expected %s, %s or %s", m, Throughput, Latency, Recovery)
		}
	}
	for _, p := range o.Points {
		if err := p.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Pairs < 1 || o.Records < 1 || o.Warmup < 0 || o.Partitions < 1 {
		bad("pairs %d, records %d, warmup %d, partitions %d: expected at least 1, 1, 0, 1", o.Pairs, o.Records, o.Warmup, o.Partitions)
	}
	if o.Rate <= 0 || o.Duration < 2*rampUp {
		bad("rate %g, duration %s: expected more than 0 and at least %s", o.Rate, o.Duration, 2*rampUp)
	}
	return errors.Join(errs...)
}

// warmup is how many facts come before those that are measured.
func (o Options) warmup(s workload.Spec) int { return max(o.Warmup, 3*s.Keys) }
