package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// workerEnv makes a process of the test binary a worker: the counter at work
// until it is told to stop or is killed.
const workerEnv = "ENGINE_TEST_WORKER"

type workerConfig struct {
	Brokers  []string
	Dir      string
	Instance string
	Session  time.Duration
}

// worked runs the worker, if the process is to be one.
func worked() bool {
	text, ok := os.LookupEnv(workerEnv)
	if !ok {
		return false
	}
	if err := work(text); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	return true
}

func work(text string) error {
	var c workerConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	if err := failpoint.Setup(os.LookupEnv); err != nil {
		return err
	}
	e, err := New(Config{
		Brokers: c.Brokers, Dir: c.Dir, Instance: c.Instance,
		Logger:         slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		CommitInterval: 20 * time.Millisecond, TransactionTimeout: 2 * time.Second, SessionTimeout: c.Session,
		// So small that Pebble flushes and compacts all the time: what is not
		// flushed does not outlive the process.
		CacheBytes: 1 << 20, MemTableBytes: 16 << 10,
	})
	if err != nil {
		return err
	}
	if err := e.AddProcessor(counterSpec(&counter{})); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return errors.Join(e.Run(ctx), e.Close())
}

// worker is such a process.
type worker struct {
	t     testing.TB
	cmd   *exec.Cmd
	said  *said
	ended chan struct{}
	err   error // how it ended
}

// said collects what a worker says.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var _ io.Writer = (*said)(nil)

// work starts a worker on a folder. rules are failpoints, none if empty.
func (w *world) work(dir, instance, rules string) *worker {
	w.t.Helper()
	text, err := json.Marshal(workerConfig{Brokers: w.brokers, Dir: dir, Instance: instance, Session: 6 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	p := &worker{t: w.t, said: &said{}, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	if rules != "" {
		p.cmd.Env = append(p.cmd.Env, failpoint.RulesEnv+"="+rules, failpoint.SeedEnv+"=1")
	}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	w.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		if w.t.Failed() {
			w.t.Logf("worker %s on %s said:\n%s", instance, dir, p.said)
		}
	})
	return p
}

// killed waits until the process has died of SIGKILL.
func (p *worker) killed() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("the worker was not killed in time")
	}
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		p.t.Fatalf("the worker ended with %v, expected SIGKILL; it said:\n%s", p.err, p.said)
	}
}

// stop has the process end in good order.
func (p *worker) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("the worker did not stop in time")
	}
	if p.err != nil {
		p.t.Fatalf("the worker ended with %v; it said:\n%s", p.err, p.said)
	}
}

func (p *worker) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// checkStore compares the folder of a process that is gone with the changelog:
// each partition of the table holds exactly what the committed records up to
// its mark say, and no mark lies behind the end of what is committed. It gives
// the number of entries that were compared.
func (w *world) checkStore(dir string) (entries int) {
	w.t.Helper()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return 0
	}
	opts := &pebble.Options{ReadOnly: true, Logger: pebbleLogger{testLog(w.t)}}
	db, err := pebble.Open(dir, opts)
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return 0
	}
	if err != nil {
		w.t.Fatalf("the folder of the dead process: %v", err)
	}
	defer db.Close()
	type place struct {
		key   string
		value string
	}
	log := map[int32]map[int64]place{}
	for _, r := range w.read("counter-table") {
		if log[r.Partition] == nil {
			log[r.Partition] = map[int64]place{}
		}
		log[r.Partition][r.Offset] = place{string(r.Key), string(r.Value)}
	}
	for p := range int32(testPartitions) {
		ks := newKeyspace(kindTable, "counter-table", p)
		m, found, err := ks.readMark(db)
		if err != nil {
			w.t.Fatal(err)
		}
		if !found {
			continue
		}
		want := map[string]string{}
		for _, at := range slices.Sorted(maps.Keys(log[p])) {
			if at <= m.offset {
				want[log[p][at].key] = log[p][at].value
			}
		}
		lower, upper := ks.bounds("")
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			w.t.Fatal(err)
		}
		have := map[string]string{}
		for ok := it.First(); ok; ok = it.Next() {
			have[string(ks.userKey(it.Key()))] = string(it.Value())
		}
		if err := it.Close(); err != nil {
			w.t.Fatal(err)
		}
		if !maps.Equal(have, want) {
			w.t.Errorf("partition %d at offset %d: local state %v, the changelog says %v", p, m.offset, have, want)
		}
		entries += len(have)
	}
	return entries
}

// copyFolder copies the folder of an engine as its disk has it now, without
// the lock.
func copyFolder(t testing.TB, dir string) string {
	t.Helper()
	next := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(next, "LOCK")); err != nil {
		t.Fatal(err)
	}
	return next
}
