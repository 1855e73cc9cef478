package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Options say what to measure. The zero value of a field is its default.
type Options struct {
	// Entities that exist, each known to three sources. Default 100,000.
	Entities int
	// Signals of the throughput phase, after every source has spoken of every
	// entity. Default 500,000.
	Signals int
	// Rate of the latency phase, in deliveries per second. Default 1,000.
	Rate float64
	// Duration of the latency phase. Default DefaultDuration; negative for none.
	Duration time.Duration
	// Dir for the data, which is removed at the end. Default: a temporary folder.
	Dir string
	// ProfilePath, if set, gets the CPU profile of the throughput phase, for
	// `go tool pprof`, and ProfilePath.heap the heap at its end.
	ProfilePath string
	// Changing is the share of new deliveries that change something. Default 0.5.
	Changing float64
	// Duplicate is the share of deliveries that are copies. Default 0.1.
	Duplicate float64
	// Zipf is the exponent of how often entities are spoken of, above 1.
	// Default 1.1.
	Zipf float64
	// Backlog is how many deliveries of the throughput phase may be under way:
	// the door is held back beyond it, so that door and stations share the
	// machine as they do under lasting load. Default 20,000.
	Backlog int
	// Partitions of each topic. Default 4.
	Partitions int
	// Seed of the deliveries. Default 1.
	Seed uint64
	// Progress, if set, is told what begins.
	Progress func(string)
}

// DefaultDuration is that of the latency phase.
const DefaultDuration = 30 * time.Second

func (o Options) withDefaults() Options {
	def(&o.Entities, 100_000)
	def(&o.Signals, 500_000)
	def(&o.Rate, 1000)
	def(&o.Duration, DefaultDuration)
	def(&o.Changing, 0.5)
	def(&o.Duplicate, 0.1)
	def(&o.Zipf, 1.1)
	def(&o.Backlog, 20_000)
	def(&o.Partitions, 4)
	def(&o.Seed, 1)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate tells everything that is wrong with the options at once.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(o.Entities < 1, "entities: %d, expected at least 1", o.Entities)
	bad(o.Signals < 1, "signals: %d, expected at least 1", o.Signals)
	bad(o.Rate <= 0, "rate: %g, expected more than 0", o.Rate)
	bad(o.Changing < 0 || o.Changing > 1, "changing: %g, expected 0 to 1", o.Changing)
	bad(o.Duplicate < 0 || o.Duplicate >= 1, "duplicate: %g, expected 0 to less than 1", o.Duplicate)
	bad(o.Zipf <= 1, "zipf: %g, expected more than 1", o.Zipf)
	bad(o.Backlog < 1, "backlog: %d, expected at least 1", o.Backlog)
	bad(o.Partitions < 1, "partitions: %d, expected at least 1", o.Partitions)
	return errors.Join(errs...)
}

// Run measures. An error also means that something did not come out right.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.Validate(); err != nil {
		return Report{}, err
	}
	o = o.withDefaults()
	dir, err := os.MkdirTemp(o.Dir, "touchstone-bench-")
	if err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(dir)
	d, err := define()
	if err != nil {
		return Report{}, err
	}
	r := Report{
		Machine:    Machine{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH},
		Entities:   o.Entities,
		Fields:     len(d.Resources[0].Fields),
		Partitions: o.Partitions,
	}
	// The work of measuring is told apart from what is measured.
	pprof.Do(ctx, pprof.Labels("part", "load generator"), func(ctx context.Context) {
		err = run(ctx, o, d, dir, &r)
	})
	return r, err
}

func run(ctx context.Context, o Options, d *definition.Domain, dir string, r *Report) error {
	o.Progress("start with the sample domains")
	var err error
	if r.Start.Cold, r.Start.Warm, err = samplesStart(ctx, filepath.Join(dir, "samples")); err != nil {
		return err
	}
	data := filepath.Join(dir, "bench")
	s, err := start(ctx, data, []*definition.Domain{d}, o.Partitions)
	if err != nil {
		return err
	}
	defer s.stop()
	memory := watchMemory()
	defer memory.stop()
	gen := newGenerator(o)

	o.Progress(fmt.Sprintf("every source speaks of each of %d entities", o.Entities))
	if r.Load, err = s.drive(ctx, o.Backlog, gen.seed); err != nil {
		return err
	}
	r.Load.PeakRSS = memory.peak()

	o.Progress(fmt.Sprintf("throughput: %d deliveries", o.Signals))
	left := o.Signals
	prof, err := profiled(o.ProfilePath, func() error {
		r.Throughput, err = s.drive(ctx, o.Backlog, func() (delivery, bool) {
			if left--; left < 0 {
				return delivery{}, false
			}
			return gen.next(), true
		})
		return err
	})
	if err != nil {
		return err
	}
	r.Throughput.PeakRSS = memory.peak()
	r.Usage = prof.usage(r.Throughput.CPUPerMillion)

	if o.Duration > 0 {
		o.Progress(fmt.Sprintf("latency: %g deliveries per second for %s", o.Rate, o.Duration))
		if r.Latency, err = s.pace(ctx, o.Rate, o.Duration, gen.next); err != nil {
			return err
		}
		r.Latency.PeakRSS = memory.peak()
	}

	o.Progress("check that everything came out right")
	if r.Check, err = s.check(ctx, gen.planned, o.Entities); err != nil {
		return err
	}
	o.Progress("stop and start with the entities there")
	if err := s.stop(); err != nil {
		return err
	}
	runtime.GC() // what the stopped process left is no burden of the next
	if s, err = start(ctx, data, []*definition.Domain{d}, o.Partitions); err != nil {
		return err
	}
	r.Start.Loaded = s.readyAfter
	r.MaxRSS = maxRSS()
	return s.stop()
}
