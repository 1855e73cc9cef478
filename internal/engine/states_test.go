package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/processors"
)

// trail is a state that its station changes in place: what was done to the key.
type trail struct{ steps []string }

type trailCodec struct{}

var _ appender = trailCodec{}

func (c trailCodec) Encode(v any) ([]byte, error) { return c.AppendEncode(nil, v) }
func (trailCodec) AppendEncode(dst []byte, v any) ([]byte, error) {
	return append(dst, strings.Join(v.(*trail).steps, " ")...), nil
}
func (trailCodec) Decode(b []byte) (any, error) { return &trail{strings.Fields(string(b))}, nil }

// spoiler is a station that changes its state first and then may fail, in every
// way there is.
type spoiler struct {
	mu      sync.Mutex
	retried map[string]bool
}

func (s *spoiler) Step(state any, rec processors.Record) (processors.Effects, error) {
	op := rec.Value.(string)
	verb, _, _ := strings.Cut(op, "-")
	tr, _ := state.(*trail)
	if tr == nil {
		tr = &trail{}
	}
	if verb == "keep" {
		return processors.Effects{Emit: []processors.Emit{{Stream: "out", Key: rec.Key, Value: op + ":" + strings.Join(tr.steps, " ")}}}, nil
	}
	tr.steps = append(tr.steps, op)
	eff := processors.Effects{State: tr, Emit: []processors.Emit{{Stream: "out", Key: rec.Key, Value: op + ":" + strings.Join(tr.steps, " ")}}}
	switch verb {
	case "forget":
		return processors.Effects{Forget: true}, nil
	case "error":
		return eff, errors.New("after the change")
	case "panic":
		panic("after the change")
	case "emit":
		eff.Emit[0].Value = 5 // does not encode
	case "abort":
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.retried[op] {
			s.retried[op] = true
			return eff, failure.New(failure.Transient, "do", op, "not now")
		}
	}
	return eff, nil
}

// Whatever the cache holds or has thrown out, and whatever fails, a step gets
// the state that the last good step of its key left. Oracle: a sequential run
// over the inputs without an engine, in which a step that fails does nothing.
func TestStatesAreWhatTheLastGoodStepLeft(t *testing.T) {
	for _, bytes := range []int64{-1, 2000, 1 << 20} {
		t.Run(fmt.Sprintf("cache=%d", bytes), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			cfg := w.config(t.TempDir())
			cfg.StateCacheBytes = bytes
			reg := prometheus.NewRegistry()
			cfg.Metrics = reg
			e := w.start(cfg, func(e *Engine) {
				if err := e.AddProcessor(Processor{
					Group: "counter", Station: &spoiler{retried: map[string]bool{}}, Table: trailCodec{}, DeadLetters: "dead",
					Inputs: []Edge{{"in", textCodec{}}}, Outputs: []Edge{{"out", textOnly{}}},
				}); err != nil {
					t.Fatal(err)
				}
			})
			states, outs, dead := map[string][]string{}, map[string][]string{}, 0
			inputs := 0
			for range 20 {
				var rs []*kgo.Record
				for range 50 {
					key := fmt.Sprintf("key-%d", rnd.IntN(12))
					verbs := []string{"add", "add", "add", "add", "keep", "keep", "forget", "error", "panic", "emit"}
					verb := verbs[rnd.IntN(len(verbs))]
					if rnd.IntN(100) == 0 {
						verb = "abort"
					}
					op := fmt.Sprintf("%s-%d", verb, inputs)
					inputs++
					rs = append(rs, &kgo.Record{Topic: "in", Key: []byte(key), Value: []byte(op)})
					emit := func(steps []string) { outs[key] = append(outs[key], op+":"+strings.Join(steps, " ")) }
					switch verb {
					case "add", "abort":
						states[key] = append(states[key], op)
						emit(states[key])
					case "keep":
						emit(states[key])
					case "forget":
						delete(states, key)
					default:
						dead++
					}
				}
				if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				// Some transactions begin with what others have left.
				if rnd.IntN(3) == 0 {
					eventually(t, "the input so far", func() error {
						if g := e.group(); g.Records < int64(inputs) {
							return fmt.Errorf("%d of %d", g.Records, inputs)
						}
						return nil
					})
				}
			}
			eventually(t, "all input", func() error {
				if g := e.group(); g.Records != int64(inputs) {
					return fmt.Errorf("%d of %d", g.Records, inputs)
				}
				return nil
			})
			got := map[string][]string{}
			for _, r := range w.read("out") {
				got[string(r.Key)] = append(got[string(r.Key)], string(r.Value))
			}
			if !maps.EqualFunc(got, outs, slices.Equal) {
				t.Errorf("emitted\n%v\nexpected\n%v", got, outs)
			}
			if n := len(w.read("dead")); n != dead {
				t.Errorf("%d dead letters, expected %d", n, dead)
			}
			table := map[string]string{}
			for _, r := range w.read("counter-table") {
				if table[string(r.Key)] = string(r.Value); r.Value == nil {
					delete(table, string(r.Key))
				}
			}
			want := map[string]string{}
			for key, steps := range states {
				want[key] = strings.Join(steps, " ")
			}
			if !maps.Equal(table, want) {
				t.Errorf("table\n%v\nexpected\n%v", table, want)
			}
			seen := counters(t, reg)
			if bytes < 0 && (seen["hits"] != 0 || seen["bytes"] != 0) || bytes > 0 && seen["hits"] == 0 || bytes == 2000 && seen["evictions"] == 0 {
				t.Errorf("metrics of the cache: %v", seen)
			}
			e.stop()
			if b := counters(t, reg)["bytes"]; b != 0 {
				t.Errorf("%v bytes are still counted after the end", b)
			}
		})
	}
}

// textOnly encodes text and nothing else.
type textOnly struct{ textCodec }

func (textOnly) Encode(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("%T is no text", v)
	}
	return []byte(s), nil
}

// counters gives the metrics of the cache by the last word of their names but
// for "total".
func counters(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if name, ok := strings.CutPrefix(f.GetName(), "touchstone_state_cache_"); ok {
			m := f.GetMetric()[0]
			out[strings.TrimSuffix(name, "_total")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// The changelog gets a key once per transaction.
func TestAKeyIsWrittenOncePerTransaction(t *testing.T) {
	w := newWorld(t)
	const n, keys = 5000, 10
	w.feed(0, n, keys)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(n, keys)
	written, commits := len(w.read("counter-table")), int(e.group().Commits)
	if written < keys || written > commits*keys {
		t.Errorf("%d records in the changelog after %d commits of %d keys", written, commits, keys)
	}
}

func testCache(bytes int64) *cache {
	n := prometheus.NewCounter(prometheus.CounterOpts{})
	return newCache(&cacheBudget{bytes: bytes}, &cacheMetrics{hits: n, misses: n, evictions: n, bytes: prometheus.NewGauge(prometheus.GaugeOpts{})})
}

// A cache gives what was put last or nothing, keeps within its bytes, and what
// is asked for again outlives any number of values that are not.
func TestCache(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const limit = 20_000
	c := testCache(limit)
	last := map[string]int{}
	var kept int
	for i := range 50_000 {
		key := fmt.Sprint(rnd.IntN(200))
		switch rnd.IntN(10) {
		case 0:
			c.drop(key)
			delete(last, key)
		case 1, 2, 3:
			if e := c.take(key); e != nil {
				if n, ok := last[key]; !ok || e.value.(int) != n {
					t.Fatalf("%s: got %v, put %d (%v)", key, e.value, n, ok)
				}
				kept++
				if c.take(key) != nil {
					t.Fatal("taken twice")
				}
				c.restore(e)
			}
		default:
			c.put(key, i, rnd.IntN(300), rnd.IntN(2) == 0, nil)
			last[key] = i
		}
		if c.bytes > limit || c.bytes != c.protected.bytes+c.probation.bytes {
			t.Fatalf("%d bytes, expected at most %d; %d protected, %d on probation", c.bytes, limit, c.protected.bytes, c.probation.bytes)
		}
	}
	if kept == 0 {
		t.Error("nothing was ever found")
	}

	c = testCache(limit)
	c.put("wanted", 1, 100, false, nil)
	for i := range 10_000 {
		if i%20 == 0 {
			e := c.take("wanted")
			if e == nil {
				t.Fatalf("lost after %d others", i)
			}
			c.restore(e)
		}
		c.put(fmt.Sprintf("once-%d", i), i, 100, false, nil)
	}
	for i := range 1000 {
		c.put(fmt.Sprintf("once-%d", i), i, 100, false, nil)
	}
	if c.take("wanted") == nil {
		t.Error("a thousand values that nobody asked for drove out one that was")
	}
	c.close()
	if c.take("once-1") != nil || c.bytes != 0 {
		t.Error("a closed cache has values")
	}
}

// Every cache of a process has an equal share.
func TestCachesShareABudget(t *testing.T) {
	a := testCache(10_000)
	b := newCache(a.budget, a.metrics)
	for i := range 100 {
		a.put(fmt.Sprint(i), i, 100, true, nil)
	}
	if a.bytes > 5000 || a.bytes < 4000 {
		t.Errorf("%d bytes, expected nearly 5000", a.bytes)
	}
	b.close()
	for i := range 100 {
		a.put(fmt.Sprint(i), i, 100, true, nil)
	}
	if a.bytes > 10_000 || a.bytes < 9000 {
		t.Errorf("%d bytes after the other was closed, expected nearly 10000", a.bytes)
	}
	if newCache(&cacheBudget{bytes: -1}, a.metrics) != nil {
		t.Error("a cache without a budget")
	}
}
