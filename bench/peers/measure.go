package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/internal/testkit/child"
	"github.com/touchstone-platform/touchstone/internal/testkit/folder"
)

// Run is one measured run of one subject.
type Run struct {
	Mode    string        `json:"mode"`
	Subject Subject       `json:"subject"`
	Spec    workload.Spec `json:"workload"`
	Records int           `json:"records"`
	Warmup  int           `json:"warmup"`
	// Block and Place tell which runs are pairs: those of one block.
	Block    int              `json:"block"`
	Place    int              `json:"place"`
	CommitMS int64            `json:"commitMilliseconds"`
	CacheMB  int              `json:"cacheMiB"`
	Drain    *Drain           `json:"drain,omitempty"`
	Pace     *Pace            `json:"pace,omitempty"`
	Kill     *Kill            `json:"kill,omitempty"`
	Machine  Machine          `json:"machine"`
	Verdict  workload.Verdict `json:"verdict"`
	// Busy says why the figures must not be taken for those of a quiet machine;
	// empty if they may.
	Busy     string   `json:"busy,omitempty"`
	Versions Versions `json:"versions"`

	round int // see rounds
}

// Drain is how fast the input was worked off, between two looks at the
// committed offsets.
type Drain struct {
	Inputs  int64   `json:"inputs"`
	Seconds float64 `json:"seconds"`
	// PerSecond is inputs by seconds. CPU is in seconds per million inputs.
	PerSecond float64 `json:"perSecond"`
	AppCPU    float64 `json:"appCpuSecondsPerMillion"`
	BrokerCPU float64 `json:"brokerCpuSecondsPerMillion"`
	// BrokerBound is set if the broker used more than nine tenths of a core:
	// records per second are then the broker's.
	BrokerBound bool  `json:"brokerBound"`
	PeakRSS     int64 `json:"peakRssBytes"`
	// Written by the application: what it gave to files and sockets, and what
	// of it went towards the disk. StateBytes is what its folder holds.
	WrittenBytes int64 `json:"writtenBytes"`
	DiskBytes    int64 `json:"diskBytes"`
	BrokerBytes  int64 `json:"brokerWrittenBytes"`
	StateBytes   int64 `json:"stateBytes"`
}

// Kill is what a kill -9 half-way cost.
type Kill struct {
	// FirstCommit is from the kill to the first commit of the process that was
	// started at once; CaughtUp to the last one.
	FirstCommit float64 `json:"firstCommitSeconds"`
	CaughtUp    float64 `json:"caughtUpSeconds"`
	// Left are the facts that were not committed at the kill.
	Left int64 `json:"left"`
	// RestoredBytes is what the new process read until its first commit.
	RestoredBytes int64 `json:"restoredBytes"`
	StateBytes    int64 `json:"stateBytes"`
}

// Machine is what the run's machine did besides.
type Machine struct {
	// Others is how many processors other processes took, Steal the
	// share of all that the hypervisor took.
	Others float64 `json:"others"`
	Steal  float64 `json:"steal"`
}

// Limits of a quiet machine.
const (
	maxOthers = 0.02
	maxSteal  = 0.01
)

func (m Machine) busy() string {
	switch {
	case m.Others > maxOthers:
		return fmt.Sprintf("other processes took %.2f processors, expected at most %.2f", m.Others, maxOthers)
	case m.Steal > maxSteal:
		return fmt.Sprintf("the hypervisor took %.1f %%, expected at most %.0f %%", m.Steal*100, maxSteal*100)
	}
	return ""
}

// sample is a look at everything that counts.
type sample struct {
	at                time.Time
	committed         int64
	app, broker, self time.Duration
	wrote, disk       int64
	brokerWrote       int64
	machine           machineTime
	kernel            time.Duration
}

// lookEvery is how often committed offsets are looked at.
const lookEvery = 50 * time.Millisecond

// stall is how long a subject may commit nothing before it is given up.
const stall = 3 * time.Minute

// trial is one subject at work.
type trial struct {
	w      *world
	s      Subject
	b      *bench
	p      *process
	broker int
}

// begin starts the subject in a folder of its own.
func (w *world) begin(s Subject) (*trial, error) {
	if err := w.clear(s); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(w.dir, s.Kind+"-")
	if err != nil {
		return nil, err
	}
	t := &trial{w: w, s: s, b: w.bench(dir)}
	if t.broker, err = w.cluster.PID(0); err != nil {
		return nil, err
	}
	return t, t.start()
}

func (t *trial) start() (err error) {
	command, env := t.s.command(t.b)
	t.p, err = startProcess(t.w.o.AppCPUs, filepath.Join(t.b.dir, "log"), env, command...)
	return err
}

// end stops the subject, if it runs, and removes its folder.
func (t *trial) end() error {
	var err error
	if t.p != nil && t.p.alive() == nil {
		if err = t.p.stop(40 * time.Second); err != nil {
			err = fmt.Errorf("stop %s: %w", t.s, err)
		}
	}
	return errors.Join(err, os.RemoveAll(t.b.dir))
}

// look reads everything at one moment.
func (t *trial) look(ctx context.Context) (x sample, err error) {
	if err := t.p.alive(); err != nil {
		return x, fmt.Errorf("%s: %w", t.s, err)
	}
	var errs [8]error
	x.committed, errs[0] = t.w.committed(ctx, t.s.group())
	x.at = time.Now()
	x.app, errs[1] = cpuTime(t.p.PID())
	x.broker, errs[2] = cpuTime(t.broker)
	x.self, errs[3] = cpuTime(os.Getpid())
	x.wrote, x.disk, errs[4] = written(t.p.PID())
	x.brokerWrote, _, errs[5] = written(t.broker)
	x.machine, errs[6] = readMachine()
	x.kernel, errs[7] = kernelTime()
	return x, errors.Join(errs[:]...)
}

// await waits until enough is committed, and looks.
func (t *trial) await(ctx context.Context, atLeast int64) (sample, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last int64
	moved := time.Now()
	for {
		if err := t.p.alive(); err != nil {
			return sample{}, fmt.Errorf("%s: %w", t.s, err)
		}
		n, err := t.w.committed(ctx, t.s.group())
		if err != nil {
			return sample{}, err
		}
		if n >= atLeast {
			return t.look(ctx)
		}
		if n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > stall {
			return sample{}, fmt.Errorf("%s has committed %d of %d facts and nothing for %s; end of its log:\n%s", t.s, last, atLeast, stall, child.Tail(t.p.log, 30))
		}
		select {
		case <-ctx.Done():
			return sample{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// machine compares two looks.
func machine(from, to sample) Machine {
	elapsed := to.at.Sub(from.at).Seconds()
	// What the kernel does by itself, such as writing pages back, it does for us.
	ours := to.app - from.app + to.broker - from.broker + to.self - from.self + to.kernel - from.kernel
	return Machine{
		Others: max(0, (to.machine.busy-from.machine.busy-ours).Seconds()/elapsed),
		Steal:  (to.machine.steal - from.machine.steal).Seconds() / elapsed,
	}
}

// drain measures throughput.
func (w *world) drain(ctx context.Context, r *Run) error {
	t, err := w.begin(r.Subject)
	if err != nil {
		return err
	}
	err = t.drain(ctx, r)
	return errors.Join(err, t.end())
}

func (t *trial) drain(ctx context.Context, r *Run) error {
	if _, err := t.await(ctx, int64(r.Warmup)); err != nil {
		return err
	}
	if err := forgetPeak(t.p.PID()); err != nil {
		return err
	}
	from, err := t.look(ctx)
	if err != nil {
		return err
	}
	to, err := t.await(ctx, int64(r.Warmup+r.Records))
	if err != nil {
		return err
	}
	peak, err := peakMemory(t.p.PID())
	if err != nil {
		return err
	}
	d := &Drain{Inputs: to.committed - from.committed, Seconds: to.at.Sub(from.at).Seconds(), PeakRSS: peak}
	if d.Inputs < int64(r.Records)/10 {
		return fmt.Errorf("%s: %d of %d facts were left to measure when it was warm: too few", t.s, d.Inputs, r.Records)
	}
	perMillion := func(d2 time.Duration) float64 { return d2.Seconds() / float64(d.Inputs) * 1e6 }
	d.PerSecond = float64(d.Inputs) / d.Seconds
	d.AppCPU, d.BrokerCPU = perMillion(to.app-from.app), perMillion(to.broker-from.broker)
	d.BrokerBound = (to.broker - from.broker).Seconds() > 0.9*d.Seconds
	d.WrittenBytes, d.DiskBytes, d.BrokerBytes = to.wrote-from.wrote, to.disk-from.disk, to.brokerWrote-from.brokerWrote
	d.StateBytes = folder.Bytes(t.b.dir)
	r.Drain, r.Machine = d, machine(from, to)
	return nil
}

// recover kills the subject when half of the facts are done, starts it again
// at once, and measures until all are.
func (w *world) recover(ctx context.Context, r *Run) error {
	t, err := w.begin(r.Subject)
	if err != nil {
		return err
	}
	err = t.recover(ctx, r)
	return errors.Join(err, t.end())
}

func (t *trial) recover(ctx context.Context, r *Run) error {
	total := int64(r.Warmup + r.Records)
	if _, err := t.await(ctx, int64(r.Warmup)+int64(r.Records)/2); err != nil {
		return err
	}
	killed := time.Now()
	t.p.Kill()
	dead, err := t.w.committed(ctx, t.s.group())
	if err != nil {
		return err
	}
	k := &Kill{Left: total - dead, StateBytes: folder.Bytes(t.b.dir)}
	if k.Left <= 0 {
		return fmt.Errorf("%s: everything was done before the kill: too few records", t.s)
	}
	if err := t.start(); err != nil {
		return err
	}
	first, err := t.await(ctx, dead+1)
	if err != nil {
		return err
	}
	k.FirstCommit = first.at.Sub(killed).Seconds()
	if k.RestoredBytes, err = readBytes(t.p.PID()); err != nil {
		return err
	}
	to, err := t.await(ctx, total)
	if err != nil {
		return err
	}
	k.CaughtUp = to.at.Sub(killed).Seconds()
	r.Kill = k
	r.Machine = machine(first, to)
	return nil
}
