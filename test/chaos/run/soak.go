package run

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Sample is what an instance uses at one time.
type Sample struct {
	After                      time.Duration // since the first
	RSS, Heap                  float64       // bytes; heap is what is allocated, garbage included
	Goroutines, Files, Threads float64
}

// Soak is a steady load with an instance that comes or goes every minute,
// while the first one goes on: what it uses must not grow. The samples are of
// that one.
func Soak(ctx context.Context, o Options) (*Result, []Sample) {
	var mu sync.Mutex
	var samples []Sample
	s := &Scenario{
		Name: "soak", Doc: "steady load, an instance comes or goes every minute", Brokers: 1, Instances: 2,
		Faults: func(w *world) {
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				began := time.Now()
				for {
					if x, err := w.sample(w.instances[0]); err != nil {
						w.problem("sample: %v", err)
					} else {
						x.After = time.Since(began)
						mu.Lock()
						samples = append(samples, x)
						mu.Unlock()
						w.say("RSS %.0f MB, heap %.0f MB, %.0f goroutines, %.0f files", x.RSS/1e6, x.Heap/1e6, x.Goroutines, x.Files)
					}
					if !w.sleep(10 * time.Second) {
						return
					}
				}
			})
			for w.sleep(time.Minute) {
				i := w.instances[1]
				if i.running() {
					w.fault("instance leaves", "%s", i)
					w.check("stop", i.stop())
				} else {
					w.fault("instance comes", "%s", i)
					w.check("start", w.start(i))
				}
			}
		},
	}
	return Run(ctx, s, o), samples
}

// sample asks an instance for its metrics.
func (w *world) sample(i *instance) (x Sample, err error) {
	res, err := w.http.Get(i.url() + "/metrics")
	if err != nil {
		return x, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return x, fmt.Errorf("GET /metrics: %s", res.Status)
	}
	into := map[string]*float64{
		"process_resident_memory_bytes": &x.RSS, "go_memstats_heap_alloc_bytes": &x.Heap,
		"go_goroutines": &x.Goroutines, "process_open_fds": &x.Files, "go_threads": &x.Threads,
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if to := into[name]; to != nil {
			if *to, err = strconv.ParseFloat(value, 64); err != nil {
				return x, fmt.Errorf("metric %s: %w", name, err)
			}
			delete(into, name)
		}
	}
	if len(into) > 0 && lines.Err() == nil {
		return x, fmt.Errorf("metrics: %d of those that are looked for are missing", len(into))
	}
	return x, lines.Err()
}

// Trend is the line through what was sampled (least squares).
type Trend struct {
	Name, Unit   string
	First, Last  float64 // means of the first and the last six samples: a minute
	SlopePerHour float64
}

// Trends of the second half of the samples: in the first caches fill up.
func Trends(samples []Sample) []Trend {
	out := []Trend{{Name: "RSS", Unit: "MB"}, {Name: "heap", Unit: "MB"}, {Name: "goroutines"}, {Name: "open files"}, {Name: "threads"}}
	of := []func(Sample) float64{
		func(s Sample) float64 { return s.RSS / 1e6 }, func(s Sample) float64 { return s.Heap / 1e6 },
		func(s Sample) float64 { return s.Goroutines }, func(s Sample) float64 { return s.Files }, func(s Sample) float64 { return s.Threads },
	}
	half := samples[len(samples)/2:]
	for k := range out {
		out[k].First, out[k].Last = mean(half[:min(6, len(half))], of[k]), mean(half[max(0, len(half)-6):], of[k])
		mx, my := mean(half, func(s Sample) float64 { return s.After.Hours() }), mean(half, of[k])
		var sxy, sxx float64
		for _, s := range half {
			dx := s.After.Hours() - mx
			sxy, sxx = sxy+dx*(of[k](s)-my), sxx+dx*dx
		}
		if sxx > 0 {
			out[k].SlopePerHour = sxy / sxx
		}
	}
	return out
}

func mean(samples []Sample, of func(Sample) float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sum := 0.0
	for _, s := range samples {
		sum += of(s)
	}
	return sum / float64(len(samples))
}
