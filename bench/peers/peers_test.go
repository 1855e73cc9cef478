package peers

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/schemas"
)

// Oracle: the schemas of Kafka Streams write the same bytes as the product's:
// without logical types and documentation they are the same.
func TestSchemasAreTheProducts(t *testing.T) {
	for _, name := range []string{"fact", "entity", "change", "outcome"} {
		theirs, err := os.ReadFile("kafka-streams/src/main/avro/" + name + ".avsc")
		if err != nil {
			t.Fatal(err)
		}
		ours, err := schemas.Platform.ReadFile("platform/" + name + ".avsc")
		if err != nil {
			t.Fatal(err)
		}
		canonical := func(text []byte) string {
			s, err := avro.Parse(string(text))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return string(s.Canonical())
		}
		if d := cmp.Diff(canonical(ours), canonical(theirs)); d != "" {
			t.Errorf("%s (-product +kafka-streams)\n%s", name, d)
		}
	}
}

func TestParseSubject(t *testing.T) {
	for _, s := range []string{"touchstone", "streams", "streams:gc=g1:record=64", "goka:outcomes=no", "floor"} {
		got, err := ParseSubject(s)
		if err != nil || got.String() != s {
			t.Errorf("%s is read as %s, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"flink":               "expected touchstone",
		"streams:gc=zgc":      "expected one of [serial",
		"streams:record=many": "expected a number",
		"touchstone:gc=g1":    "expected setting=value with one of [cache procs]",
	} {
		if _, err := ParseSubject(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, expected %q in it", s, err, want)
		}
	}
}

// Oracle: one factor at a time; a single number is the other factor's base.
func TestGrid(t *testing.T) {
	if got := Grid([]int{2000}, []int{80}); len(got) != 1 || got[0] != Point(2000, 80) {
		t.Errorf("%v", got)
	}
	got := Grid([]int{10_000, 100_000, 1_000_000}, []int{5, 20, 80})
	var points [][2]int
	for _, s := range got {
		points = append(points, [2]int{s.Keys, s.Fields})
	}
	want := [][2]int{{10_000, 20}, {100_000, 20}, {1_000_000, 20}, {100_000, 5}, {100_000, 80}}
	if d := cmp.Diff(want, points); d != "" {
		t.Error(d)
	}
}

// Oracle: the median of the resampled medians lies in the interval, which lies
// within the values; equal values leave no doubt.
func TestBootstrap(t *testing.T) {
	got := bootstrap([]float64{0.4, 0.5, 0.45, 0.42, 0.9, 0.44, 0.46})
	if got.Mid != 0.45 || got.Low < 0.4 || got.Low > 0.45 || got.High < 0.45 || got.High > 0.9 {
		t.Errorf("%+v", got)
	}
	if got := bootstrap([]float64{2, 2, 2}); got != (interval{2, 2, 2}) {
		t.Errorf("%+v", got)
	}
	if m := median([]float64{3, 1, 2, 10}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

// Oracle: what /proc says about this process is what it did since: it worked,
// and wrote to a file.
func TestProc(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	wrote, _, err := written(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m0, err := readMachine()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(t.TempDir()+"/f", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	x := 1.0
	for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); {
		x = math.Sqrt(x + 1)
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before || after > before+10*time.Second {
		t.Errorf("processor time %v, then %v, %v, %v", before, after, err, x)
	}
	if now, _, err := written(os.Getpid()); err != nil || now < wrote+1<<20 {
		t.Errorf("written %d, then %d, %v", wrote, now, err)
	}
	if m1, err := readMachine(); err != nil || m1.busy <= m0.busy {
		t.Errorf("machine %v, then %v, %v", m0, m1, err)
	}
	if k, err := kernelTime(); err != nil || k > m0.busy+time.Minute {
		t.Errorf("the kernel's threads used %v of %v, %v", k, m0.busy, err)
	}
	if peak, err := peakMemory(os.Getpid()); err != nil || peak < 1<<20 {
		t.Errorf("peak %d, %v", peak, err)
	}
}

// drained makes a run that a report can show.
func drained(subject string, keys, block int, cpu float64) Run {
	s, _ := ParseSubject(subject)
	return Run{Mode: Throughput, Subject: s, Spec: Point(keys, 20), Records: 1_000_000, Warmup: 1_000_000, Block: block,
		Drain: &Drain{Inputs: 1_000_000, Seconds: 20, PerSecond: 50_000, AppCPU: cpu, BrokerCPU: 9, PeakRSS: 500 << 20}}
}

// Oracle: ratios are paired by block, aims are judged by the best variant of
// the peer, a peer that is better is named, and busy runs do not enter.
func TestReport(t *testing.T) {
	var runs []Run
	at := func(place int, r Run) {
		r.Place = place
		runs = append(runs, r)
	}
	// Another invocation, on a slower machine: its block is not that of the same
	// number of the next one.
	at(1, drained("streams", 100_000, 0, 40))
	for block := range 3 {
		at(0, drained("touchstone", 100_000, block, 10+float64(block)))
		at(1, drained("streams", 100_000, block, 20+2*float64(block)))
		at(2, drained("streams:record=64", 100_000, block, 18))
		at(3, drained("goka", 100_000, block, 30))
		at(0, drained("touchstone", 10_000, block, 8))
		if block == 0 {
			at(1, drained("streams", 10_000, block, 4))
		}
		at(0, drained("touchstone", 1_000_000, block, 17))
	}
	busy := drained("touchstone", 100_000, 0, 99)
	busy.Busy = "other processes took 0.50 processors"
	text, plots := Report(append(runs, busy), "img")
	for _, want := range []string{
		"| 0.61 (0.56 to 0.67), against Kafka Streams (record cache of 64 MiB) | **not met** |",
		"| 0.37 (0.33 to 0.40), against plain Goka (at least once) | met |",
		"at most 12 | 11.0 | met |",
		"at most 2 | 2.12 | **not met** |",
		"p99 by that of Kafka Streams: less than 1 | not measured |",
		"| Kafka Streams | 23.0 | 9.0 | 32.0 | 0.50 (0.50 to 0.50) | 50,000 | 500 |",
		"- 10,000 accounts, 20 fields, processor time of the application: Kafka Streams is better by a factor of 2.00",
		"### On a busy machine",
		"| Touchstone | 99.0 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("expected %q in\n%s", want, text)
		}
	}
	if len(plots) != 4 {
		t.Errorf("%d plots, expected three bars and one of lines", len(plots))
	}
	for name, svg := range plots {
		d := xml.NewDecoder(strings.NewReader(string(svg)))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
		}
		if !strings.Contains(text, "img/"+name) {
			t.Errorf("%s is not shown", name)
		}
	}
	if text, plots := Report([]Run{busy}, "img"); !strings.Contains(text, "no runs of a quiet machine") || len(plots) > 0 {
		t.Errorf("%d plots of busy runs\n%s", len(plots), text)
	}
}

// Oracle: a report of the file says what a report of the runs says, between
// the marks and nowhere else; without the marks nothing is written.
func TestWriteReport(t *testing.T) {
	dir := t.TempDir()
	r := drained("touchstone", 100_000, 0, 10)
	r.Verdict = workload.Verdict{Accounts: 1}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir + "/" + name
	}
	results := write("runs.jsonl", string(b)+"\n")
	page := write("page.md", "before\n"+beginMark+"\nold\n"+endMark+"\nafter\n")
	for range 2 {
		if err := WriteReport(results, page, dir+"/img"); err != nil {
			t.Fatal(err)
		}
	}
	want, plots := Report([]Run{r}, "img")
	got, err := os.ReadFile(page)
	if d := cmp.Diff("before\n"+beginMark+"\n"+want+endMark+"\nafter\n", string(got)); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if files, err := os.ReadDir(dir + "/img"); err != nil || len(files) != len(plots) {
		t.Errorf("%d plots, expected %d, %v", len(files), len(plots), err)
	}
	if err := WriteReport(results, write("bare.md", "text"), dir+"/img"); err == nil {
		t.Error("a page without marks was written")
	}
}
