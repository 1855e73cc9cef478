package broker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const childDirEnv = "BROKER_TEST_CHILD"

// child runs a broker until it is killed, or until its input ends, and then
// closes it. It tells its address and what it recovered in one line.
func child(dir string) {
	cfg := testConfig(dir)
	b, err := Start(cfg)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	line, _ := json.Marshal(started{b.Addr(), b.Recovered()})
	fmt.Println(string(line))
	io.Copy(io.Discard, os.Stdin)
	if err := b.Close(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

type started struct {
	Addr      string
	Recovered Recovered
}

type process struct {
	started
	cmd   *exec.Cmd
	stdin io.Closer
}

func startChild(t *testing.T, dir string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childDirEnv+"="+dir)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || json.Unmarshal([]byte(line), &p.started) != nil {
		t.Fatalf("the broker did not start: %q, %v", line, err)
	}
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *process) close(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("clean stop: %v", err)
	}
}

// acknowledged is what the broker has promised to keep.
type acknowledged struct {
	mu   sync.Mutex
	rows map[string]map[row]bool
}

func (a *acknowledged) add(topic string, r row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rows[topic] == nil {
		a.rows[topic] = make(map[row]bool)
	}
	a.rows[topic][r] = true
}

// count gives how many there are. A client that was closed may still be about to
// tell of some.
func (a *acknowledged) count() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, rows := range a.rows {
		n += len(rows)
	}
	return n
}

// The broker is killed again and again under plain and transactional load, at
// random moments, sometimes during its own recovery, and its files are damaged
// the way a stop in the middle of a write damages them. The oracle: it always
// starts; every acknowledged record of a primary topic is at the offset that
// was acknowledged, once; no offset is given twice; no derived topic is left.
func TestKill(t *testing.T) {
	budget := 8 * time.Second
	if testing.Short() {
		budget = 3 * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	dir := t.TempDir()
	acked := &acknowledged{rows: make(map[string]map[row]bool)}
	clean := true
	rounds, kills := 0, 0
	for began := time.Now(); time.Since(began) < budget; rounds++ {
		p := startChild(t, dir)
		if p.Recovered.Unclean == clean {
			t.Fatalf("round %d: recovered %+v after a stop that was clean: %t", rounds, p.Recovered, clean)
		}
		if len(p.Recovered.Damaged) > 0 {
			t.Fatalf("round %d: %+v", rounds, p.Recovered)
		}
		if rounds > 0 {
			check(t, p.Addr, acked)
			if !clean {
				for _, name := range topicNames(t, p.Addr) {
					if testConfig("").Derived(name) {
						t.Fatalf("round %d: derived topic %s is left", rounds, name)
					}
				}
			}
		}
		createTopics(t, p.Addr, 3, journal, external, table, events)

		stop := load(t, p.Addr, rounds, acked)
		if pause := time.Duration(rng.IntN(300)) * time.Millisecond; rng.IntN(4) > 0 {
			time.Sleep(pause) // the moment of the kill is the random input of this test
		}
		if clean = rng.IntN(5) == 0; clean {
			stop()
			p.close(t)
			continue
		}
		p.kill()
		kills++
		stop()
		tear(t, dir, rng)

		if rng.IntN(3) == 0 { // a kill during recovery, or soon after
			exe, _ := os.Executable()
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), childDirEnv+"="+dir)
			stdin, err := cmd.StdinPipe() // open, or the child would stop cleanly
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
			stdin.Close()
		}
	}
	total := acked.count()
	t.Logf("%d rounds, %d kills, %d acknowledged records", rounds, kills, total)
	if kills == 0 || total == 0 {
		t.Error("nothing was tested")
	}
}

// load writes to all kinds of topics until it is stopped or the broker goes,
// and notes what was acknowledged on primary topics.
func load(t *testing.T, addr string, round int, acked *acknowledged) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n, topic := range []string{journal, journal, external} {
		c := client(t, addr, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(time.Millisecond))
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				value := fmt.Sprintf("%d-%d-%d-%s", round, n, i, strings.Repeat("x", i%500))
				c.Produce(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}, func(r *kgo.Record, err error) {
					if err == nil {
						acked.add(topic, row{r.Partition, r.Offset, value})
					}
				})
				if i%50 == 0 && c.Flush(ctx) != nil {
					return
				}
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			c.Close()
		})
	}
	txn := client(t, addr, kgo.TransactionalID("shop.merge-0"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	wg.Go(func() {
		defer txn.Close()
		for i := 0; ctx.Err() == nil; i++ {
			if txn.BeginTransaction() != nil {
				return
			}
			for range 10 {
				txn.Produce(ctx, &kgo.Record{Topic: table, Value: []byte("t")}, nil)
				txn.Produce(ctx, &kgo.Record{Topic: events, Value: []byte("e")}, nil)
			}
			if txn.Flush(ctx) != nil || txn.EndTransaction(ctx, kgo.TransactionEndTry(i%3 != 0)) != nil {
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// tear leaves what a stop in the middle of a write, or a loss of power, leaves:
// half a batch at the end of a segment, index files that are short or long,
// half an entry in the logs, temporary files.
func tear(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, partitions, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	garbage := make([]byte, 1+rng.IntN(200))
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	for _, path := range paths {
		switch ext := filepath.Ext(path); {
		case ext == ".dat" && rng.IntN(3) == 0:
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) > batchHeader && rng.IntN(2) == 0 {
				garbage = raw[:1+rng.IntN(batchHeader)]
			}
			appendTo(t, path, garbage)
		case ext == ".idx" && rng.IntN(3) == 0:
			if info, err := os.Stat(path); err == nil {
				os.Truncate(path, int64(rng.IntN(int(info.Size())+30)))
			}
		case filepath.Base(path) == snapshotFile && rng.IntN(4) == 0:
			os.WriteFile(path+".tmp", []byte(`{"ver`), 0o600)
		}
	}
	for _, name := range []string{groupsFile, pidsFile} {
		if rng.IntN(2) == 0 {
			appendTo(t, filepath.Join(dir, name), garbage)
		}
	}
}

func appendTo(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// check compares what is there with what was acknowledged.
func check(t *testing.T, addr string, acked *acknowledged) {
	t.Helper()
	acked.mu.Lock()
	defer acked.mu.Unlock()
	for topic, want := range acked.rows {
		values := make(map[string]row)
		missing := len(want)
		for _, r := range read(t, addr, topic) {
			if earlier, twice := values[r.Value]; twice {
				t.Fatalf("%s: %q is there twice, as %v and %v", topic, r.Value, earlier, r)
			}
			values[r.Value] = r
			if want[r] {
				missing--
			}
		}
		if missing == 0 {
			continue
		}
		for w := range want {
			if got, ok := values[w.Value]; !ok || got != w {
				t.Fatalf("%s: %d of %d acknowledged records are missing or elsewhere, such as %v, which is at %v (%t)", topic, missing, len(want), w, got, ok)
			}
		}
	}
}
