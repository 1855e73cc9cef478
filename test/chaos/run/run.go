package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/testkit/child"
	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
)

// Options of one scenario's run.
type Options struct {
	Seed uint64
	// Load is how long deliveries are sent and faults injected.
	Load time.Duration
	// Rate of deliveries a second, at most; Senders is how many are under way
	// at once.
	Rate, Senders int
	// Binary is a touchstone that was built with the tag failpoints, Definition
	// the path of chaos.yaml, Registry the URL of a schema registry.
	Binary, Definition, Registry string
	// Dir is where the folder of the scenario is made.
	Dir string
	// Keep leaves that folder there even if nothing is wrong.
	Keep bool
	// Log gets a line for everything that happens.
	Log io.Writer
}

// Result of one scenario.
type Result struct {
	Scenario  string
	Seed      uint64
	Load      time.Duration
	Faults    map[string]int
	Delivered int
	// Stall is the longest time without a new change in any partition while
	// deliveries were sent; AfterKill is the time from the kill of a process to
	// the next change in every partition, its median and the longest.
	Stall                       time.Duration
	AfterKill, AfterKillLongest time.Duration
	Kills                       int
	Report                      *audit.Report
	// Folders that were looked into, one for each partition of each table.
	Folders int
	// Problems are what went wrong beside the findings of the report.
	Problems []string
	// Dir of the logs and data, if they are kept.
	Dir string
}

// OK tells that nothing was wrong.
func (r *Result) OK() bool {
	return len(r.Problems) == 0 && r.Report != nil && r.Report.OK()
}

// FaultList tells how many faults of which kind there were.
func (r *Result) FaultList() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(r.Faults)) {
		parts = append(parts, fmt.Sprintf("%d × %s", r.Faults[k], k))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// Run carries out one scenario. What goes wrong is in the result.
func Run(ctx context.Context, s *Scenario, o Options) *Result {
	r := &Result{Scenario: s.Name, Seed: o.Seed, Load: max(o.Load, s.Load)}
	dir, err := os.MkdirTemp(o.Dir, "chaos-"+s.Name+"-")
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
		return r
	}
	r.Dir = dir
	w := &world{
		ctx: ctx, o: o, s: s, dir: dir, rng: rand.New(rand.NewPCG(o.Seed, 0x6661756c)), faults: map[string]int{},
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	err = w.play(ctx, r)
	if s.after != nil {
		s.after(w)
	}
	w.close(err != nil || len(w.problems) > 0)
	if err != nil {
		w.problems = append(w.problems, err.Error())
	}
	if err := w.fired(); err != nil {
		w.problems = append(w.problems, err.Error())
	}
	r.Problems, r.Faults = append(r.Problems, w.problems...), w.faults
	if r.OK() && !o.Keep {
		if err := os.RemoveAll(dir); err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
		r.Dir = ""
	}
	return r
}

func (w *world) close(failed bool) {
	for _, i := range w.instances {
		_ = i.kill() // whatever state it is in
	}
	if w.net != nil {
		w.net.close()
	}
	if w.cl != nil {
		w.cl.Close()
	}
	if w.cluster != nil {
		w.cluster.Close(failed)
	}
	w.http.CloseIdleConnections()
}

func (w *world) play(ctx context.Context, r *Result) error {
	if err := w.open(); err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	for range w.s.Instances {
		i, err := w.add()
		if err != nil {
			return err
		}
		if w.s.before != nil {
			if err := w.s.before(w, i); err != nil {
				return err
			}
		}
	}
	// Without failpoints until the topics are there: an instance that dies over
	// and over creates none.
	w.healed = true
	if err := w.startAll(); err != nil {
		return err
	}
	if err := w.awaitReady(patience); err != nil {
		return fmt.Errorf("start: %w\n%s", err, child.Tail(w.instances[0].log, 30))
	}
	w.healed = false
	var err error
	if w.watcher, err = watch(following, w.cluster.InsideAddrs()); err != nil {
		return err
	}
	if w.s.Failpoints != nil {
		if err := w.stopAll("stopped"); err != nil {
			return err
		}
		if err := w.startAll(); err != nil {
			return err
		}
	}

	load, enough := context.WithTimeout(ctx, r.Load)
	defer enough()
	w.load = load
	began := time.Now()
	giveUp, cancel := context.WithCancel(ctx)
	defer cancel()
	send := &senders{
		gen:  workload.New(workload.Options{Seed: w.o.Seed, Epoch: began}),
		rate: w.o.Rate, workers: w.o.Senders, targets: w.urls, http: w.http,
		odd: func(what string) { w.problem("%s", what) },
	}
	w.say("seed %d, %d brokers, %d instances, %s of load in %s", w.o.Seed, w.cluster.Size(), len(w.instances), r.Load, w.dir)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send.run(load, giveUp)
	}()
	if w.s.Faults != nil {
		w.s.Faults(w)
	}
	<-load.Done()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ended := time.Now()
	if err := w.heal(); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	w.say("healed; %d deliveries are through", send.count())
	select {
	case <-sent:
	case <-time.After(patience):
		cancel()
		<-sent
	case <-ctx.Done():
		return ctx.Err()
	}
	deliveries := send.all()
	r.Delivered = len(deliveries)
	if err := unfinished(deliveries); err != nil {
		w.problem("%v", err)
	}
	if err := w.settle(); err != nil {
		return err
	}
	w.measure(r, began, ended)
	w.say("settled after %s: %d deliveries", time.Since(ended).Round(time.Millisecond), r.Delivered)
	return w.judge(ctx, r, deliveries)
}

// open starts Kafka.
func (w *world) open() (err error) {
	k := kafkatest.Options{Brokers: w.s.Brokers, Dir: w.dir, Properties: w.s.Properties}
	if w.s.Proxied {
		w.net = newNetwork()
		k.Advertise = w.net.advertise
	}
	if w.cluster, err = kafkatest.Open(k); err != nil {
		return err
	}
	if w.cl, err = kgo.NewClient(kgo.SeedBrokers(w.cluster.InsideAddrs()...), kgo.ClientID("chaos"), kgo.MetadataMinAge(100*time.Millisecond)); err != nil {
		return err
	}
	w.adm = kadm.NewClient(w.cl)
	return nil
}

// measure takes the times of the load.
func (w *world) measure(r *Result, began, ended time.Time) {
	seen, written := w.watcher.stalls(began, ended)
	r.Stall = seen.d
	w.say("longest stall: as seen %s, as written %s", seen, written)
	var times []time.Duration
	for _, hit := range w.hits {
		if d, ok := w.watcher.after(hit); ok && hit.Before(ended) {
			times = append(times, d)
		}
	}
	slices.Sort(times)
	if r.Kills = len(times); r.Kills > 0 {
		r.AfterKill, r.AfterKillLongest = times[len(times)/2], times[len(times)-1]
	}
}

// judge audits, and replays.
func (w *world) judge(ctx context.Context, r *Result, deliveries []audit.Sent) error {
	reader, err := audit.NewReader(ctx, w.cluster.InsideAddrs(), w.o.Registry, w.o.Definition)
	if err != nil {
		return err
	}
	log, err := reader.Read(ctx)
	if err != nil {
		return err
	}
	r.Report = audit.Audit(deliveries, log)
	w.say("audit: %s", r.Report)
	add := func(what string, o *audit.Report) {
		w.say("%s: lost %d, doubled %d, wrong %d; outcomes retold %d", what, o.Lost, o.Doubled, o.Wrong, o.Retold)
		for _, f := range o.Examples {
			w.say("  %s", f)
		}
		r.Report.Add(o)
	}
	add("reads over HTTP", w.served(log))
	for _, random := range []bool{false, true} {
		what := "replay from zero"
		if random {
			what = "replay of a random suffix"
		}
		if err := w.stopAll("stopped before the " + what); err != nil {
			return err
		}
		if err := w.setBack(random); err != nil {
			return err
		}
		if err := w.startAll(); err != nil {
			return err
		}
		if err := w.settle(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		again, err := reader.Read(ctx)
		if err != nil {
			return err
		}
		if r.Report.Panics > 0 && !random {
			// What a panic made a dead letter of is done now.
			add(what+", with what had panicked", audit.AuditRedriven(again))
		} else {
			add(what, audit.AuditReplay(log, again))
		}
		add("reads over HTTP after the "+what, w.served(again))
		log = again
	}
	if err := w.stopAll("stopped at the end"); err != nil {
		return err
	}
	r.Folders = len(w.folders)
	add(fmt.Sprintf("%d partitions of local state", r.Folders), audit.AuditLocal(w.folders, log, w.s.Compacts))
	return nil
}

func (w *world) served(log *audit.Log) *audit.Report {
	r := &audit.Report{}
	for _, f := range w.reads(log) {
		switch f.Kind {
		case audit.Lost:
			r.Lost++
		case audit.Doubled:
			r.Doubled++
		default:
			r.Wrong++
		}
		if len(r.Examples) < 10 {
			r.Examples = append(r.Examples, f)
		}
	}
	return r
}

// Reproduce is the command that runs a scenario again.
func (r *Result) Reproduce() string {
	return fmt.Sprintf("go run ./test/chaos/cmd/chaos --scenario %s --seed %d --load %s --keep", r.Scenario, r.Seed, r.Load)
}

// FindDefinition gives the path of chaos.yaml in the repository.
func FindDefinition() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "test", "chaos", "chaos.yaml")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("found no test/chaos/chaos.yaml from here up, expected to be run in the repository")
		}
	}
}
