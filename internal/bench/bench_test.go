package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// A whole run in small. The oracle is in Run itself, which fails if one
// delivery did not come out as planned; here it is that the plan was followed
// and that everything was measured.
func TestRun(t *testing.T) {
	o := Options{Entities: 100, Signals: 1000, Rate: 200, Duration: time.Second, Dir: t.TempDir(), Progress: func(what string) { t.Log(what) }}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := 3*100 + 1000 + 200; r.Check.Deliveries != want || r.Check.Changes+r.Check.NoChanges+r.Check.Duplicates != want {
		t.Errorf("%+v, expected %d deliveries", r.Check, want)
	}
	if r.Check.NoChanges == 0 || r.Check.Duplicates == 0 || r.Check.Changes <= 300 {
		t.Errorf("%+v, expected some of each", r.Check)
	}
	for what, n := range map[string]float64{
		"cold start": r.Start.Cold.Seconds(), "warm start": r.Start.Warm.Seconds(), "loaded start": r.Start.Loaded.Seconds(),
		"signals per second": r.Throughput.PerSecond, "CPU": r.Throughput.CPUPerMillion, "peak RSS": float64(r.Throughput.PeakRSS),
		"p50": r.Latency.Visible.P50.Seconds(), "due to visible": r.Latency.Whole.P50.Seconds(), "max RSS": float64(r.MaxRSS),
	} {
		if n <= 0 {
			t.Errorf("%s: %v, expected something", what, n)
		}
	}
	if l := r.Latency; l.Visible.P50 > l.Visible.P99 || l.Visible.P99 > l.Visible.Max || l.Whole.Max < l.Visible.P50 {
		t.Errorf("latency %+v", l)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"signals per second", "accepted to visible", "1500 deliveries", "processor time by part"} {
		if !strings.Contains(text.String(), says) {
			t.Errorf("%q is not in\n%s", says, &text)
		}
	}
}

func TestValidate(t *testing.T) {
	err := Options{Entities: -1, Rate: -1, Zipf: 0.5}.Validate()
	for _, says := range []string{"entities: -1", "rate: -1", "zipf: 0.5"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
	if err := (Options{}).Validate(); err != nil {
		t.Error(err)
	}
}

// account is what a delivery says.
func account(t *testing.T, d delivery) (id string, members map[string]any) {
	t.Helper()
	var b struct {
		ID      string         `json:"id"`
		Account map[string]any `json:"account"`
	}
	if err := json.Unmarshal(d.body, &b); err != nil {
		t.Fatalf("%s: %v", d.body, err)
	}
	return b.ID, b.Account
}

// Oracle: by what the bodies say, and not by how they were made, there are as
// many changes, repetitions and copies as the generator has planned; a change
// is one of exactly one member that the source decides.
func TestGenerator(t *testing.T) {
	o := Options{Entities: 50, Seed: 7}.withDefaults()
	g, again := newGenerator(o), newGenerator(o)
	said := map[string]map[string]any{} // by source and entity
	ids := map[string]bool{}
	var found plan
	see := func(d delivery) {
		found.Deliveries++
		id, a := account(t, d)
		sp := g.speakers[d.source]
		key := sp.name + a["number"].(string)
		if ids[id] {
			found.Duplicates++
			return
		}
		ids[id] = true
		before := said[key]
		said[key] = a
		if before == nil {
			found.Changes++
			return
		}
		changed := 0
		for _, name := range sp.decide {
			if before[name] != a[name] {
				changed++
			}
		}
		for _, name := range sp.also {
			if before[name] != a[name] {
				t.Errorf("%s changed %s, which it does not decide", sp.name, name)
			}
		}
		switch changed {
		case 0:
			found.NoChanges++
		case 1:
			found.Changes++
		default:
			t.Errorf("%s: %d members changed at once", key, changed)
		}
	}
	for {
		d, ok := g.seed()
		if e, _ := again.seed(); string(d.body) != string(e.body) {
			t.Fatalf("one seed gives %s and %s", d.body, e.body)
		}
		if !ok {
			break
		}
		see(d)
	}
	for range 5000 {
		d := g.next()
		if e := again.next(); string(d.body) != string(e.body) {
			t.Fatalf("one seed gives %s and %s", d.body, e.body)
		}
		see(d)
	}
	if found != g.planned {
		t.Errorf("the bodies say %+v, planned %+v", found, g.planned)
	}
	if n := found.Duplicates; n < 400 || n > 600 {
		t.Errorf("%d of 5000 are copies, expected about 10 %%", n)
	}
}

func TestQuantiles(t *testing.T) {
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(1000-i))
	}
	if got, want := quantiles(d), (Quantiles{P50: 501, P99: 991, P999: 1000, Max: 1000}); got != want {
		t.Errorf("%+v, expected %+v", got, want)
	}
	if got := quantiles(nil); got != (Quantiles{}) {
		t.Errorf("%+v of nothing", got)
	}
}

// Oracle: a goroutine with a label that does nothing but burn is seen under it.
func TestProfile(t *testing.T) {
	p, err := profiled("", func() error {
		pprof.Do(t.Context(), pprof.Labels("part", "burner"), func(context.Context) { burn(300 * time.Millisecond) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	u := p.usage(100)
	if len(u.Parts) == 0 || u.Parts[0].Name != "burner" || u.Parts[0].Percent < 50 || u.Parts[0].PerMillion != u.Parts[0].Percent {
		t.Errorf("parts %+v", u.Parts)
	}
	if len(u.Components) == 0 || u.Components[0].Name != "load generator" {
		t.Errorf("components %+v", u.Components)
	}
}

func TestComponent(t *testing.T) {
	const ours = "github.com/touchstone-platform/touchstone/"
	for _, tc := range []struct {
		want  string
		stack []string
	}{
		{"Pebble", []string{"runtime.memmove", "github.com/cockroachdb/pebble/v2.(*DB).Get", ours + "internal/engine.keyspace.get"}},
		{"broker (kfake)", []string{"syscall.write", "github.com/twmb/franz-go/pkg/kfake.(*Cluster).run"}},
		{"Kafka client (franz-go)", []string{"github.com/twmb/franz-go/pkg/kgo.(*Client).Produce", ours + "internal/engine.(*session).produce"}},
		{"touchstone: domain/authority", []string{"slices.Sort", ours + "domain/authority.Merge", ours + "processors/merge.(*Station).Step"}},
		{"garbage collection", []string{"runtime.scanobject", "runtime.gcAssistAlloc", ours + "domain/authority.Merge"}},
		{"runtime (scheduling, network, other)", []string{"runtime.findRunnable"}},
	} {
		if got := component(tc.stack); got != tc.want {
			t.Errorf("%v: %q, expected %q", tc.stack, got, tc.want)
		}
	}
}

// Oracle: bytes that are no profile are an error and no panic, and the parser
// never gives more than it was given.
func FuzzFields(f *testing.F) {
	f.Add([]byte{0x12, 0x02, 0x0a, 0x00})
	f.Add([]byte{0x0a, 0xff})
	f.Add([]byte{0x08, 0x96, 0x01, 0x1a, 0x03, 0x01, 0x02, 0x03})
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := 0
		_ = fields(b, func(_ int, _ uint64, sub []byte) error {
			seen += 1 + len(sub)
			if n := len(packed(nil, 0, sub)); n > max(len(sub), 1) {
				t.Fatalf("%d values in %d bytes", n, len(sub))
			}
			return nil
		})
		if seen > len(b) {
			t.Fatalf("%d bytes of fields in %d bytes", seen, len(b))
		}
	})
}

func TestBusyTime(t *testing.T) {
	for stat, want := range map[string]time.Duration{
		"cpu  100 20 30 4000 500 6 7 8 50 60\ncpu0 1 1 1 1 1 1 1 1 1 1\n": (100 + 20 + 30 + 6 + 7 + 8) * 10 * time.Millisecond,
		"cpu 1 2\n":             0,
		"cpu 1 2 3 4 5 6 7 x\n": 0,
		"":                      0,
	} {
		if got := busyTime([]byte(stat)); got != want {
			t.Errorf("%q: %s, expected %s", stat, got, want)
		}
	}
	if got := others(3*time.Second, 2*time.Second, 2*time.Second); got != 0.5 {
		t.Errorf("%g processors with others, expected 0.5", got)
	}
}

func burn(d time.Duration) {
	for began, n := time.Now(), 0; time.Since(began) < d; n++ {
		_ = n * n
	}
}
