package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
)

// attempts are how often a run is made until the machine is quiet.
const attempts = 3

// Measure makes all runs, appends each to the file of results as soon as it is
// done, and gives them.
func Measure(ctx context.Context, o Options) ([]Run, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	v, err := readVersions(o)
	if err != nil {
		return nil, err
	}
	m := &measurement{o: o, versions: v}
	// What fails is told and left out; hours of measuring do not end with it.
	var errs []error
	for _, spec := range o.Points {
		for _, mode := range o.Modes {
			for block := range o.Pairs {
				err := m.block(ctx, mode, spec, block)
				if ctx.Err() != nil {
					return m.runs, errors.Join(append(errs, err)...)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("%s, %d keys, %d fields, block %d: %w", mode, spec.Keys, spec.Fields, block+1, err))
					o.Say("%v", errs[len(errs)-1])
				}
			}
		}
	}
	return m.runs, errors.Join(errs...)
}

type measurement struct {
	o        Options
	versions Versions
	runs     []Run
}

// block runs every subject once. The runs of a drain share broker and bytes;
// those at a pace each have a broker of their own, since they add to the input.
func (m *measurement) block(ctx context.Context, mode string, spec workload.Spec, block int) error {
	order := slices.Clone(m.o.Subjects)
	if block%2 == 1 {
		slices.Reverse(order)
	}
	records := m.o.Records
	if mode == Latency {
		records = 0
	}
	var w *world
	var g *workload.Generator
	var o *workload.Oracle
	var errs []error
	defer func() {
		if w != nil {
			w.close(len(errs) > 0)
		}
	}()
	for place, s := range order {
		for attempt := 1; ; attempt++ {
			if w == nil || mode == Latency {
				if w != nil {
					w.close(false)
				}
				var err error
				if w, err = openWorld(ctx, m.o, spec); err != nil {
					w = nil
					return errors.Join(append(errs, err)...)
				}
				if g, o, err = m.fill(ctx, w, records); err != nil {
					errs = append(errs, err)
					return errors.Join(errs...)
				}
			}
			r := Run{Mode: mode, Subject: s, Spec: spec, Records: records, Warmup: m.o.warmup(spec), Block: block, Place: place,
				CommitMS: m.o.Commit.Milliseconds(), CacheMB: m.o.CacheMB, Versions: m.versions}
			if err := m.run(ctx, w, &r, g, o); err != nil {
				m.o.Say("  %v", err)
				errs = append(errs, err)
				break
			}
			m.o.Say("%s", r)
			if r.Busy != "" && !m.o.AcceptBusy {
				m.o.Say("  rejected: %s", r.Busy)
				if attempt < attempts {
					continue
				}
				errs = append(errs, fmt.Errorf("%s: the machine was never quiet in %d runs: %s (-accept-busy keeps such runs, marked)", s, attempts, r.Busy))
				break
			}
			if err := m.keep(r); err != nil {
				return errors.Join(append(errs, err)...)
			}
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// fill writes the input and folds it.
func (m *measurement) fill(ctx context.Context, w *world, records int) (*workload.Generator, *workload.Oracle, error) {
	g, err := workload.NewGenerator(w.spec)
	if err != nil {
		return nil, nil, err
	}
	o, err := workload.NewOracle(w.spec)
	if err != nil {
		return nil, nil, err
	}
	n := m.o.warmup(w.spec) + records
	m.o.Say("writing %d facts about %d accounts of %d fields", n, w.spec.Keys, w.spec.Fields)
	return g, o, w.preload(ctx, g, n, o.Fold)
}

// run measures one subject and checks what it left.
func (m *measurement) run(ctx context.Context, w *world, r *Run, g *workload.Generator, o *workload.Oracle) (err error) {
	// While it observes, this program shares the broker's processors; when it
	// writes and checks it may use all. Children are pinned by themselves.
	if err := pin(m.o.BrokerCPUs); err != nil {
		return err
	}
	switch r.Mode {
	case Latency:
		err = w.pace(ctx, r, g, o)
	case Recovery:
		err = w.recover(ctx, r)
	default:
		err = w.drain(ctx, r)
	}
	if err = errors.Join(err, pin("")); err != nil {
		return err
	}
	r.Busy = r.Machine.busy()
	if r.Verdict, err = w.check(ctx, r.Subject, o); err != nil {
		return err
	}
	if !r.Verdict.Right() && (r.Subject.ExactlyOnce() || r.Mode != Recovery) {
		return fmt.Errorf("%s: the run does not count: %s", r.Subject, r.Verdict)
	}
	return nil
}

func (m *measurement) keep(r Run) error {
	m.runs = append(m.runs, r)
	if m.o.Results == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.o.Results), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(m.o.Results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// String is one line about a run.
func (r Run) String() string {
	head := fmt.Sprintf("%-10s %-28s block %d", r.Mode, r.Subject, r.Block+1)
	switch {
	case r.Drain != nil:
		d := r.Drain
		bound := ""
		if d.BrokerBound {
			bound = ", bound by the broker"
		}
		head += fmt.Sprintf(": app %.1f, broker %.1f CPU-s per million; %.0f/s%s; RSS %.0f MiB, wrote %.0f MB, state %.0f MB",
			d.AppCPU, d.BrokerCPU, d.PerSecond, bound, float64(d.PeakRSS)/(1<<20), float64(d.WrittenBytes)/1e6, float64(d.StateBytes)/1e6)
	case r.Pace != nil:
		p := r.Pace
		head += fmt.Sprintf(" at %.0f/s: p50 %.1f, p99 %.1f, p99.9 %.1f ms; app %.2f, broker %.2f processors", p.Rate, p.P50, p.P99, p.P999, p.AppProcessors, p.BrokerProcessors)
	case r.Kill != nil:
		k := r.Kill
		head += fmt.Sprintf(": first commit after %.1f s, caught up after %.1f s (%d left); read %.0f MB", k.FirstCommit, k.CaughtUp, k.Left, float64(k.RestoredBytes)/1e6)
	}
	return head + fmt.Sprintf("; others %.2f; %s", r.Machine.Others, r.Verdict)
}
