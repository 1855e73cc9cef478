package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/topology"
)

// three has a command of three calls, the last of which has the back end say what
// it did; the command is confirmed by the canonical state.
const three = `
apiVersion: touchstone/v1
domain: three
resources:
  account:
    identity: id
    fields:
      id: {type: string, authority: [back]}
      level: {type: int, authority: [back]}
    commands:
      SetLevel:
        input: {level: {type: int, required: true}}
        steps:
          - {call: one.set, with: {id: entity.id, level: input.level}, undo: unset}
          - {call: two.set, with: {id: entity.id, level: input.level}, undo: unset}
          - {call: back.set, with: {id: entity.id, level: input.level}}
        confirm: {if: entity.fields.level == input.level, within: 2m}
sources:
  back:
    connector: webhook
    settings: {scheme: none}
    orderBy: body.id
    map:
      - {resource: account, key: body.id, sequence: body.level, fields: {id: body.id, level: body.level}}
connections:
  one: {connector: fake, limits: {concurrency: 1000}, operations: {set: {idempotent: true}, unset: {idempotent: true}}}
  two: {connector: fake, limits: {concurrency: 1000}, operations: {set: {idempotent: true}, unset: {idempotent: true}}}
  back: {connector: fake, source: back, limits: {concurrency: 1000}, operations: {set: {idempotent: true, journal: args}}}
`

// rig drives the commands of three.
type rig struct {
	s        *system
	commands codecs.Codec
	reports  codecs.Codec
	cl       *kgo.Client
	mu       sync.Mutex
	ended    map[string]time.Time
	statuses map[saga.Status]int
	running  int
	seen     map[string]bool
}

func newRig(b testing.TB, definition string) *rig {
	s := start(b, b.TempDir(), define(b, definition))
	r := &rig{s: s, ended: map[string]time.Time{}, statuses: map[saga.Status]int{}, seen: map[string]bool{}}
	reg, err := codecs.NewRegistry(codecs.RegistryOptions{URL: s.addr.Registry})
	if err != nil {
		b.Fatal(err)
	}
	p, err := codecs.OpenPlatform(b.Context(), reg, []codecs.Binding{{Topic: topology.Commands("three"), Record: codecs.Command}, {Topic: topology.Reports("three"), Record: codecs.Report}})
	if err != nil {
		b.Fatal(err)
	}
	if r.commands, err = p.Codec(topology.Commands("three")); err != nil {
		b.Fatal(err)
	}
	if r.reports, err = p.Codec(topology.Reports("three")); err != nil {
		b.Fatal(err)
	}
	if r.cl, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(s.addr.Kafka, ",")...), kgo.ConsumeTopics(topology.Reports("three")), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.read(ctx) }()
	b.Cleanup(func() { cancel(); r.cl.Close(); <-done })
	return r
}

func (r *rig) read(ctx context.Context) {
	for ctx.Err() == nil {
		r.cl.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
			v, err := r.reports.Decode(rec.Value)
			if err != nil {
				return
			}
			x := v.(*saga.Report).Saga
			x.ID = strings.Clone(x.ID) // and not the record with it
			r.mu.Lock()
			defer r.mu.Unlock()
			if !r.seen[x.ID] && x.Status == saga.Running {
				r.seen[x.ID] = true
				r.running++
			}
			if x.Status.Final() {
				if _, twice := r.ended[x.ID]; !twice {
					r.ended[x.ID] = time.Now()
					r.statuses[x.Status]++
				}
			}
		})
	}
}

// accounts makes n of them.
func (r *rig) accounts(b testing.TB, n int) {
	var wg sync.WaitGroup
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range 32 {
		wg.Go(func() {
			for i := range next {
				if a := r.s.post("/v1/ingress/back", fmt.Appendf(nil, `{"id":"A%d","level":0}`, i), nil); a.status != 202 {
					b.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	wg.Wait()
	eventually(b, "the accounts", time.Minute, func() (bool, string) {
		a := r.s.get("/v1/three/account/A" + strconv.Itoa(n-1))
		g := r.s.get("/v1/status")
		return a.status == 200 && !strings.Contains(string(g.body), `"lag":1`), string(a.body)
	})
}

func (r *rig) send(i int, name string) string {
	c := &command.Command{Tenant: "default", Principal: "bench", IdempotencyKey: name + strconv.Itoa(i), Name: "SetLevel", Resource: "account", Entity: "A" + strconv.Itoa(i), Input: canonical.Value(`{"level":` + strconv.Itoa(i+1) + `}`)}
	value, err := r.commands.Encode(c)
	if err != nil {
		panic(err)
	}
	r.cl.Produce(context.Background(), &kgo.Record{Topic: topology.Commands("three"), Key: []byte(c.ID()), Value: value}, nil)
	return c.ID()
}

func (r *rig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ended)
}

// BenchmarkSagas carries out commands of three calls each, from the commands topic
// to the end of the last, confirmed by the canonical state:
//
//	go test -run '^$' -bench BenchmarkSagas/throughput -benchtime 20000x ./internal/e2e
//	go test -run '^$' -bench BenchmarkSagas/latency -benchtime 4000x ./internal/e2e
//	go test -run '^$' -bench BenchmarkSagas/waiting -benchtime 100000x ./internal/e2e
//	go test -run '^$' -bench BenchmarkSagas/outage -benchtime 10000x ./internal/e2e
//
// throughput sends all at once; latency 200 in a second, TOUCHSTONE_BENCH_RATE
// says otherwise; waiting has all of them wait for a back end that is paused, and
// tells the memory of the process, broker included; outage has a back end be down
// for a minute, and tells how often it was asked for each call that it did.
func BenchmarkSagas(b *testing.B) {
	b.Run("throughput", func(b *testing.B) {
		if b.N == 1 {
			return // that is how the number is probed
		}
		r := newRig(b, three)
		r.accounts(b, b.N)
		b.ResetTimer()
		began := time.Now()
		for i := range b.N {
			r.send(i, "t")
		}
		for r.count() < b.N && time.Since(began) < 10*time.Minute {
			<-time.After(10 * time.Millisecond)
		}
		b.StopTimer()
		b.ReportMetric(float64(r.count())/time.Since(began).Seconds(), "sagas/s")
		if r.statuses[saga.Completed] != b.N {
			b.Fatalf("%v", r.statuses)
		}
	})
	b.Run("latency", func(b *testing.B) {
		if b.N == 1 {
			return
		}
		rate := 200.0
		if s := os.Getenv("TOUCHSTONE_BENCH_RATE"); s != "" {
			rate, _ = strconv.ParseFloat(s, 64)
		}
		r := newRig(b, three)
		r.accounts(b, b.N)
		sent := make(map[string]time.Time, b.N)
		b.ResetTimer()
		began := time.Now()
		for i := range b.N {
			if wait := time.Until(began.Add(time.Duration(float64(i) / rate * float64(time.Second)))); wait > 0 {
				<-time.After(wait)
			}
			now := time.Now()
			sent[r.send(i, "l")] = now
		}
		for r.count() < b.N && time.Since(began) < 10*time.Minute {
			<-time.After(10 * time.Millisecond)
		}
		b.StopTimer()
		var took []time.Duration
		for id, at := range sent {
			took = append(took, r.ended[id].Sub(at))
		}
		slices.Sort(took)
		for name, share := range map[string]float64{"p50-ms": .5, "p99-ms": .99, "max-ms": 1} {
			b.ReportMetric(float64(took[min(int(share*float64(len(took))), len(took)-1)].Microseconds())/1000, name)
		}
		if r.statuses[saga.Completed] != b.N {
			b.Fatalf("%v", r.statuses)
		}
	})
	b.Run("outage", func(b *testing.B) {
		if b.N == 1 {
			return
		}
		var asked, did atomic.Int64
		var up atomic.Bool
		up.Store(true)
		office := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if !up.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			did.Add(1)
		}))
		defer office.Close()
		r := newRig(b, strings.Replace(three, "two: {connector: fake, limits: {concurrency: 1000}, operations: {set: {idempotent: true}, unset: {idempotent: true}}}",
			`two: {connector: rest, settings: {url: "`+office.URL+`"}, limits: {concurrency: 16, failures: 5, pause: 5s}, operations: {set: {idempotent: true, settings: {path: '"/set"'}}, unset: {idempotent: true, settings: {path: '"/unset"'}}}}`, 1))
		r.accounts(b, b.N)
		b.ResetTimer()
		up.Store(false)
		time.AfterFunc(time.Minute, func() { up.Store(true) })
		began := time.Now()
		for i := range b.N {
			r.send(i, "o")
		}
		for r.count() < b.N && time.Since(began) < 10*time.Minute {
			<-time.After(10 * time.Millisecond)
		}
		b.StopTimer()
		b.ReportMetric(float64(asked.Load())/float64(b.N), "calls/needed")
		b.ReportMetric((time.Since(began) - time.Minute).Seconds(), "s-after-outage")
		if r.statuses[saga.Completed] != b.N {
			b.Fatalf("%v, %d done", r.statuses, did.Load())
		}
	})
	b.Run("waiting", func(b *testing.B) {
		if b.N == 1 {
			return
		}
		r := newRig(b, three)
		r.accounts(b, b.N)
		if a := r.s.post("/v1/three/connections/two/pause", nil, nil); a.status != 202 {
			b.Fatalf("%s", a.body)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.ResetTimer()
		for i := range b.N {
			r.send(i, "w")
		}
		held := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.running
		}
		for began := time.Now(); held() < b.N && time.Since(began) < 10*time.Minute; {
			<-time.After(50 * time.Millisecond)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if name := os.Getenv("TOUCHSTONE_BENCH_HEAP"); name != "" {
			f, err := os.Create(name)
			if err == nil {
				err = errors.Join(pprof.WriteHeapProfile(f), f.Close())
			}
			if err != nil {
				b.Error(err)
			}
		}
		b.ReportMetric(float64(held()), "waiting")
		b.ReportMetric(float64(after.HeapInuse)/(1<<20), "heap-MiB")
		b.ReportMetric(float64(after.Sys)/(1<<20), "sys-MiB")
		if rss, err := os.ReadFile("/proc/self/status"); err == nil {
			for line := range strings.SplitSeq(string(rss), "\n") {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
					kib, _ := strconv.ParseFloat(f[1], 64)
					b.ReportMetric(kib/1024, "rss-MiB")
				}
			}
		}
		// They go on, all of them.
		if a := r.s.post("/v1/three/connections/two/resume", nil, nil); a.status != 202 {
			b.Fatalf("%s", a.body)
		}
		for began := time.Now(); r.count() < b.N && time.Since(began) < 10*time.Minute; {
			<-time.After(50 * time.Millisecond)
		}
		if r.statuses[saga.Completed] != b.N {
			b.Fatalf("%v", r.statuses)
		}
	})
}
