package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/internal/testkit/child"
	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/topology"
)

// world is what one scenario plays in.
type world struct {
	o       Options
	s       *Scenario
	dir     string
	rng     *rand.Rand // of the faults alone, drawn by one goroutine
	cluster *kafkatest.Cluster
	net     *network // nil if there are no proxies
	cl      *kgo.Client
	adm     *kadm.Client
	watcher *watcher
	http    *http.Client
	// ctx ends when the run is broken off.
	ctx context.Context
	// load ends when no more is to be sent and broken.
	load context.Context

	mu        sync.Mutex
	instances []*instance
	faults    map[string]int
	problems  []string
	folders   []audit.Local
	hits      []time.Time // when a process was killed
	seeds     uint64      // of the failpoints of the next process
	healed    bool        // processes that die are a problem from now on
	full      bool        // a disk is full: a process may end and say so
	revivals  sync.WaitGroup
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.o.Log, "%s %s: %s\n", time.Now().Format("15:04:05.000"), w.s.Name, fmt.Sprintf(format, args...))
}

// fault notes that one was injected.
func (w *world) fault(kind, format string, args ...any) {
	w.mu.Lock()
	w.faults[kind]++
	w.mu.Unlock()
	w.say("fault %s: %s", kind, fmt.Sprintf(format, args...))
}

// problem notes what must not be.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.problems = append(w.problems, text)
	w.mu.Unlock()
	w.say("PROBLEM %s", text)
}

func (w *world) check(what string, err error) {
	if err != nil {
		w.problem("%s: %v", what, err)
	}
}

// pause waits for a random time; false if the load ended before.
func (w *world) pause(least, most time.Duration) bool {
	return w.sleep(least + time.Duration(w.rng.Int64N(int64(most-least)+1)))
}

func (w *world) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.load.Done():
		return false
	}
}

// any gives one of the instances.
func (w *world) any() *instance { return w.instances[w.rng.IntN(len(w.instances))] }

// add makes one more instance, without starting it.
func (w *world) add() (*instance, error) {
	n := len(w.instances) + 1
	listen, err := freePort()
	if err != nil {
		return nil, err
	}
	i := &instance{
		n: n, bin: w.o.Binary, listen: listen,
		dir: filepath.Join(w.dir, fmt.Sprintf("data%d", n)), log: filepath.Join(w.dir, fmt.Sprintf("instance%d.log", n)),
	}
	i.clock = filepath.Join(w.dir, fmt.Sprintf("clock%d", n))
	i.args = []string{"serve", "--data", i.dir, "--listen", listen, "--domain", w.o.Definition, "--topics-partitions", "4",
		"--kafka-brokers", strings.Join(w.cluster.Addrs(), ","), "--registry-url", w.o.Registry}
	i.died = w.died
	w.mu.Lock()
	w.instances = append(w.instances, i)
	w.mu.Unlock()
	return i, nil
}

// start starts an instance, with failpoints while the scenario has any.
func (w *world) start(i *instance) error {
	w.mu.Lock()
	var env []string
	if w.s.Failpoints != nil && !w.healed {
		w.seeds++
		rules := w.s.Failpoints(rand.New(rand.NewPCG(w.o.Seed, w.seeds)))
		env = []string{failpoint.RulesEnv + "=" + rules, fmt.Sprintf("%s=%d", failpoint.SeedEnv, w.o.Seed*1000+w.seeds)}
	}
	if w.s.Clocks {
		env = append(env, failpoint.ClockEnv+"="+i.clock)
	}
	w.mu.Unlock()
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return err
	}
	return i.start(env...)
}

// died starts an instance again that killed itself at a failpoint, which may
// also happen while the world is healed. One that ended in any other way is a
// problem, and is started again too.
func (w *world) died(i *instance, why string) {
	w.mu.Lock()
	w.hits = append(w.hits, time.Now())
	full := w.full
	w.mu.Unlock()
	pause := 200 * time.Millisecond
	switch {
	case full && strings.Contains(why, "no space left on device"):
		w.fault("ended on a full disk", "%s", i)
		pause = 2 * time.Second // as those who watch processes do
	case why != "":
		w.problem("%s %s", i, why)
	default:
		w.say("%s killed itself: %s", i, lastFailpoint(i.log))
		w.inspect(i, "killed at a failpoint")
	}
	w.revivals.Go(func() {
		time.Sleep(pause)
		w.check("start again", w.start(i))
	})
}

// lastFailpoint gives the last line of a log that tells of one.
func lastFailpoint(log string) string {
	lines := strings.Split(child.Tail(log, 20), "\n")
	for k := len(lines) - 1; k >= 0; k-- {
		if strings.HasPrefix(lines[k], "failpoint: ") {
			return lines[k]
		}
	}
	return "unknown failpoint"
}

// fired counts what failpoints did, by what the instances say.
func (w *world) fired() error {
	for _, i := range w.instances {
		b, err := os.ReadFile(i.log)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was never started
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			// failpoint: <point>[<scope>] hit <n>: <rule>
			if !strings.HasPrefix(line, "failpoint: ") || !strings.Contains(line, "] hit ") {
				continue
			}
			rule := strings.TrimSpace(line[strings.LastIndexByte(line, ' '):])
			point, action, _ := strings.Cut(rule, "=")
			action, _, _ = strings.Cut(action, "@")
			w.faults[action+" at "+strings.TrimPrefix(point, "engine/")]++
		}
	}
	return nil
}

// kill kills an instance with SIGKILL and looks at what it left.
func (w *world) kill(i *instance) {
	if !i.running() {
		return
	}
	w.fault("kill -9", "%s", i)
	w.mu.Lock()
	w.hits = append(w.hits, time.Now())
	w.mu.Unlock()
	w.check("kill", i.kill())
	w.inspect(i, "killed")
}

// maxFolders bounds the looks into folders: each reads all of it.
const maxFolders = 40

// inspect looks into the folder of an instance that does not run.
func (w *world) inspect(i *instance, what string) {
	if _, err := os.Stat(i.pebble()); err != nil || w.s.Corrupts {
		return
	}
	w.mu.Lock()
	enough := len(w.folders) > maxFolders*20
	w.mu.Unlock()
	if enough {
		return
	}
	found, err := audit.Inspect(fmt.Sprintf("%s, %s at %s", i, what, time.Now().Format("15:04:05")), i.pebble())
	if err != nil {
		w.problem("%s, %s: its folder cannot be read: %v", i, what, err)
		return
	}
	w.mu.Lock()
	w.folders = append(w.folders, found...)
	w.mu.Unlock()
}

func (w *world) urls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, i := range w.instances {
		if i.answers() {
			out = append(out, i.url())
		}
	}
	return out
}

// awaitReady waits until all instances are.
func (w *world) awaitReady(within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		late := ""
		for _, i := range w.instances {
			if !i.ready(w.http) {
				late += " " + i.String()
			}
		}
		if late == "" {
			return nil
		}
		if w.ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s:%s", within, late)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// heal ends all faults.
func (w *world) heal() error {
	w.mu.Lock()
	w.healed = true
	w.mu.Unlock()
	var errs []error
	if w.net != nil {
		errs = append(errs, w.net.heal())
	}
	for b := range w.cluster.Size() {
		errs = append(errs, w.cluster.ResumeBroker(b))
	}
	errs = append(errs, w.cluster.StartKilled())
	w.revivals.Wait()
	for _, i := range w.instances {
		errs = append(errs, i.signal(syscall.SIGCONT))
		// A life without failpoints.
		if w.s.Failpoints != nil && i.running() {
			errs = append(errs, i.stop())
		}
		errs = append(errs, w.start(i))
	}
	return errors.Join(errs...)
}

// patience is how long a healed system may take to come to rest. It takes
// seconds; a machine that does other things as well takes longer.
const patience = 5 * time.Minute

// settle waits until every station is through with everything.
func (w *world) settle() error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 10*time.Second)
		err := w.watcher.settled(try)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not settle within %s: %w", patience, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// stopAll stops all instances and looks into their folders.
func (w *world) stopAll(what string) error {
	var wg sync.WaitGroup
	errs := make([]error, len(w.instances))
	for k, i := range w.instances {
		wg.Go(func() { errs[k] = i.stop() })
	}
	wg.Wait()
	for _, i := range w.instances {
		w.inspect(i, what)
	}
	return errors.Join(errs...)
}

func (w *world) startAll() error {
	var errs []error
	for _, i := range w.instances {
		errs = append(errs, w.start(i))
	}
	return errors.Join(errs...)
}

// setBack sets the groups of all stations back while nothing runs: to the
// begin of the log, or each partition to anywhere before where it is.
func (w *world) setBack(random bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, s := range stations {
		group := topology.GroupName(audit.Domain, s.name)
		if err := w.evict(ctx, group); err != nil {
			return err
		}
		at, err := w.adm.FetchOffsets(ctx, group)
		if err != nil {
			return err
		}
		starts, err := w.adm.ListStartOffsets(ctx, s.input)
		if err != nil {
			return err
		}
		var to kadm.Offsets
		var said []string
		starts.Each(func(start kadm.ListedOffset) {
			o := start.Offset
			if now, ok := at.Lookup(s.input, start.Partition); random && ok && now.At > o {
				o += w.rng.Int64N(now.At - o + 1)
			}
			to.Add(kadm.Offset{Topic: s.input, Partition: start.Partition, At: o, LeaderEpoch: -1})
			said = append(said, fmt.Sprintf("%d:%d", start.Partition, o))
		})
		if err := w.adm.CommitAllOffsets(ctx, group, to); err != nil {
			return fmt.Errorf("set back group %s: %w", group, err)
		}
		w.say("replay of %s from %s", s.name, strings.Join(said, " "))
	}
	return nil
}

// evict removes the members that stopped processes left in a group: they are
// static, and come back to their places when a process is only restarted.
func (w *world) evict(ctx context.Context, group string) error {
	described, err := w.adm.DescribeGroups(ctx, group)
	if err != nil {
		return err
	}
	for _, g := range described {
		for _, m := range g.Members {
			if m.InstanceID == nil {
				continue
			}
			if _, err := w.adm.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs(*m.InstanceID)); err != nil {
				return fmt.Errorf("remove %s from group %s: %w", *m.InstanceID, group, err)
			}
		}
	}
	return nil
}
