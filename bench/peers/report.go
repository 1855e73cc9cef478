package peers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/bench/peers/workload"
)

// The report is written between these lines of the Markdown file.
const (
	beginMark = "<!-- bench-peers: begin; written by \"bin/bench-peers report\" -->"
	endMark   = "<!-- bench-peers: end -->"
)

// ReadRuns reads a file of results. One that does not exist holds none.
func ReadRuns(path string) (runs []Run, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 1<<20)
	for line := 1; s.Scan(); line++ {
		var r Run
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		runs = append(runs, r)
	}
	return runs, s.Err()
}

// WriteReport rewrites the section of a Markdown file and the plots beside it.
func WriteReport(results, into, img string) error {
	runs, err := ReadRuns(results)
	if err != nil {
		return err
	}
	page, err := os.ReadFile(into)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s: expected the lines %s and %s", into, beginMark, endMark)
	}
	where, err := filepath.Rel(filepath.Dir(into), img)
	if err != nil {
		return err
	}
	text, plots := Report(runs, filepath.ToSlash(where))
	if err := os.MkdirAll(img, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(img, "peers-*.svg"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	for name, svg := range plots {
		if err := os.WriteFile(filepath.Join(img, name), svg, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(into, []byte(before+beginMark+"\n"+text+endMark+after), 0o644)
}

// Report gives the section as Markdown and the plots that it shows, by name.
// Runs of a machine that did something else are told apart and not drawn.
func Report(runs []Run, img string) (string, map[string][]byte) {
	runs = rounds(runs)
	var quiet, busy []Run
	for _, r := range runs {
		if r.Busy == "" {
			quiet = append(quiet, r)
		} else {
			busy = append(busy, r)
		}
	}
	p := &page{img: img, plots: map[string][]byte{}}
	if len(quiet) == 0 {
		p.say("There are no runs of a quiet machine yet.\n")
	} else {
		p.machine(quiet)
		p.aims(quiet)
		p.draw = true
		p.sections(quiet)
		p.draw = false
	}
	if len(busy) > 0 {
		p.say("\n### On a busy machine\n\nThese runs shared the machine with other work: they count for the oracle, and their figures for nothing but an impression.\n")
		p.machine(busy)
		p.sections(busy)
	}
	return p.b.String(), p.plots
}

// page is a report being written.
type page struct {
	b     strings.Builder
	img   string
	draw  bool
	plots map[string][]byte
}

func (p *page) say(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

func (p *page) machine(runs []Run) {
	var all []Versions
	for _, r := range runs {
		v := r.Versions
		if v.Streams == "" { // a run without it says nothing about its version
			continue
		}
		if !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		all = []Versions{runs[0].Versions}
	}
	for _, v := range all {
		p.say("\n%d × %s, Linux %s; Apache Kafka %s, Kafka Streams %s, Java %s; Touchstone: %s, %s.\n", v.Processors, v.CPU, v.Kernel, v.Kafka, v.Streams, v.Java, v.Touchstone, v.Go)
	}
}

// config is what runs must share to be compared.
type config struct {
	mode            string
	spec            workload.Spec
	records, warmup int
	commit          int64
	cache           int
	rate            float64
}

func (r Run) config() config {
	c := config{r.Mode, r.Spec, r.Records, r.Warmup, r.CommitMS, r.CacheMB, 0}
	if r.Pace != nil {
		c.rate = r.Pace.Rate
	}
	return c
}

// group is the runs of one configuration, by subject in the order of the first.
type group struct {
	config   config
	subjects []string
	runs     map[string][]Run
}

func groups(runs []Run, mode string) (out []*group) {
	by := map[config]*group{}
	for _, r := range runs {
		if r.Mode != mode {
			continue
		}
		g := by[r.config()]
		if g == nil {
			g = &group{config: r.config(), runs: map[string][]Run{}}
			by[r.config()] = g
			out = append(out, g)
		}
		s := r.Subject.String()
		if g.runs[s] == nil {
			g.subjects = append(g.subjects, s)
		}
		g.runs[s] = append(g.runs[s], r)
	}
	for _, g := range out {
		// In one order, whatever order they ran in.
		slices.SortFunc(g.subjects, func(a, b string) int {
			return strings.Compare(rankOf(a)+a, rankOf(b)+b)
		})
	}
	return out
}

func rankOf(subject string) string {
	kind, _, _ := strings.Cut(subject, ":")
	return fmt.Sprint(slices.Index([]string{Touchstone, Streams, PlainGoka, Floor}, kind))
}

// counted tells how many runs there are of each subject: some lack those that
// were rejected each time.
func (g *group) counted() string {
	least, most := math.MaxInt, 0
	for _, s := range g.subjects {
		least, most = min(least, len(g.runs[s])), max(most, len(g.runs[s]))
	}
	switch {
	case most == 1:
		return "one run"
	case least == most:
		return fmt.Sprintf("%d runs", most)
	}
	return fmt.Sprintf("%d to %d runs", least, most)
}

// values of a figure over a subject's runs.
func (g *group) values(subject string, figure func(Run) float64) (out []float64) {
	for _, r := range g.runs[subject] {
		out = append(out, figure(r))
	}
	return out
}

func (g *group) median(subject string, figure func(Run) float64) float64 {
	return median(g.values(subject, figure))
}

// rounds numbers the blocks of all invocations. Of the runs that can be compared
// those of one block follow each other in the file, in the order of their places.
func rounds(runs []Run) []Run {
	runs = slices.Clone(runs)
	last := map[config]Run{}
	for i := range runs {
		r := &runs[i]
		r.round = i
		if l, ok := last[r.config()]; ok && l.Block == r.Block && l.Place < r.Place {
			r.round = l.round
		}
		last[r.config()] = *r
	}
	return runs
}

// pairs gives a subject's figures by the block that they are of.
func (g *group) pairs(subject string, figure func(Run) float64) map[int]float64 {
	out := map[int]float64{}
	for _, r := range g.runs[subject] {
		out[r.round] = figure(r)
	}
	return out
}

// ratio is Touchstone's figure by a subject's, from the pairs of each block.
func (g *group) ratio(subject string, figure func(Run) float64) (interval, bool) {
	ours, theirs := g.pairs(Touchstone, figure), g.pairs(subject, figure)
	var ratios []float64
	for p, v := range theirs {
		if o, ok := ours[p]; ok && v > 0 {
			ratios = append(ratios, o/v)
		}
	}
	slices.Sort(ratios) // the order of a map would show in the bootstrap
	return bootstrap(ratios), len(ratios) > 0
}

func appCPU(r Run) float64      { return r.Drain.AppCPU }
func brokerCPU(r Run) float64   { return r.Drain.BrokerCPU }
func totalCPU(r Run) float64    { return r.Drain.AppCPU + r.Drain.BrokerCPU }
func perSecond(r Run) float64   { return r.Drain.PerSecond }
func peakRSS(r Run) float64     { return float64(r.Drain.PeakRSS) / (1 << 20) }
func written1(r Run) float64    { return float64(r.Drain.WrittenBytes) / float64(r.Drain.Inputs) }
func stateMB(r Run) float64     { return float64(r.Drain.StateBytes) / 1e6 }
func firstCommit(r Run) float64 { return r.Kill.FirstCommit }
func caughtUp(r Run) float64    { return r.Kill.CaughtUp }
func restoredMB(r Run) float64  { return float64(r.Kill.RestoredBytes) / 1e6 }

// name says a subject in words.
func name(subject string) string {
	s, err := ParseSubject(subject)
	if err != nil {
		return subject
	}
	out := map[string]string{Touchstone: "Touchstone", Streams: "Kafka Streams", PlainGoka: "plain Goka", Floor: "floor: no work, no state"}[s.Kind]
	var notes []string
	for _, n := range []struct{ setting, format string }{
		{"version", "%s"}, {"gc", "%s collector"}, {"record", "record cache of %s MiB"}, {"dedupe", "dedupe in a %s"}, {"outcomes", "outcomes: %s"},
		{"linger", "linger %s ms"}, {"heap", "heap of %s MiB"}, {"cache", "block cache of %s MiB"}, {"procs", "GOMAXPROCS=%s"},
	} {
		if v, ok := s.Variant[n.setting]; ok {
			notes = append(notes, fmt.Sprintf(n.format, v))
		}
	}
	if s.Kind == PlainGoka {
		notes = append([]string{"at least once"}, notes...)
	}
	if len(notes) > 0 {
		out += " (" + strings.Join(notes, ", ") + ")"
	}
	return out
}

func (p *page) sections(runs []Run) {
	for i, g := range groups(runs, Throughput) {
		p.throughput(g, i)
	}
	p.growth(runs)
	for i, g := range groups(runs, Latency) {
		p.latency(g, i)
	}
	for i, g := range groups(runs, Recovery) {
		p.recovery(g, i)
	}
	p.better(runs)
}

func (c config) String() string {
	return fmt.Sprintf("%s accounts, %d fields", grouped(c.spec.Keys), c.spec.Fields)
}

func (p *page) throughput(g *group, n int) {
	p.say("\n#### Throughput: %s\n\n%s facts after %s for warm-up, %s of each.\n\n", g.config, grouped(g.config.records), grouped(g.config.warmup), g.counted())
	p.say("| subject | app CPU-s per million | broker | together | Touchstone's app CPU by this one's | facts/s | peak RSS, MiB | written per fact, bytes | its folder, MB |\n|---|---|---|---|---|---|---|---|---|\n")
	var bars []bar
	for _, s := range g.subjects {
		ratio := ""
		if s != Touchstone {
			if r, ok := g.ratio(s, appCPU); ok {
				ratio = fmt.Sprintf("%.2f (%.2f to %.2f)", r.Mid, r.Low, r.High)
			}
		}
		bound := ""
		if slices.ContainsFunc(g.runs[s], func(r Run) bool { return r.Drain.BrokerBound }) {
			bound = ", the broker's limit"
		}
		p.say("| %s | %.1f | %.1f | %.1f | %s | %s%s | %.0f | %.0f | %.0f |\n", name(s), g.median(s, appCPU), g.median(s, brokerCPU), g.median(s, totalCPU), ratio,
			grouped(int(g.median(s, perSecond))), bound, g.median(s, peakRSS), g.median(s, written1), g.median(s, stateMB))
		bars = append(bars, bar{name(s), []float64{g.median(s, appCPU), g.median(s, brokerCPU)}})
	}
	p.plot(fmt.Sprintf("peers-cpu-%d.svg", n+1), "CPU-seconds per million facts: "+g.config.String(),
		barsSVG("CPU-seconds per million facts, "+g.config.String(), []string{"application", "broker"}, bars))
}

// growth shows how cost grows with keys and with fields.
func (p *page) growth(runs []Run) {
	all := groups(runs, Throughput)
	for _, axis := range []struct {
		file, label string
		of          func(workload.Spec) int
		other       func(workload.Spec) int
	}{
		{"keys", "accounts", func(s workload.Spec) int { return s.Keys }, func(s workload.Spec) int { return s.Fields }},
		{"fields", "fields", func(s workload.Spec) int { return s.Fields }, func(s workload.Spec) int { return s.Keys }},
	} {
		lines := map[string][]point{}
		var order []string
		for _, g := range all {
			if axis.other(g.config.spec) != axis.other(all[0].config.spec) {
				continue
			}
			for _, s := range g.subjects {
				if lines[s] == nil {
					order = append(order, s)
				}
				lines[s] = append(lines[s], point{float64(axis.of(g.config.spec)), g.median(s, appCPU)})
			}
		}
		var series []line
		for _, s := range order {
			slices.SortFunc(lines[s], func(a, b point) int { return int(a.x - b.x) })
			if len(lines[s]) > 1 {
				series = append(series, line{name(s), lines[s]})
			}
		}
		if len(series) == 0 {
			continue
		}
		p.say("\n#### How cost grows with %s\n\nCPU-seconds of the application per million facts.\n\n| subject |", axis.label)
		for _, x := range series[0].points {
			p.say(" %s |", grouped(int(x.x)))
		}
		p.say(" last by first |\n|---|%s---|\n", strings.Repeat("---|", len(series[0].points)))
		for _, l := range series {
			p.say("| %s |", l.label)
			for _, x := range l.points {
				p.say(" %.1f |", x.y)
			}
			p.say(" %.1f |\n", l.points[len(l.points)-1].y/l.points[0].y)
		}
		p.plot("peers-"+axis.file+".svg", "CPU-seconds per million facts by "+axis.label,
			linesSVG("CPU-seconds of the application per million facts", axis.label, series))
	}
}

func (p *page) latency(g *group, n int) {
	p.say("\n#### Latency at %s facts/s: %s\n\nFrom the moment at which a fact was due to be written to the moment at which a reader of committed records had its change; commits every %d ms; %s of each.\n\n",
		grouped(int(g.config.rate)), g.config, g.config.commit, g.counted())
	p.say("| subject | p50 | p99 | p99.9 | worst | processors: app, broker |\n|---|---|---|---|---|---|\n")
	var bars []bar
	for _, s := range g.subjects {
		of := func(f func(*Pace) float64) float64 { return g.median(s, func(r Run) float64 { return f(r.Pace) }) }
		p50, p99, p999 := of(func(p *Pace) float64 { return p.P50 }), of(func(p *Pace) float64 { return p.P99 }), of(func(p *Pace) float64 { return p.P999 })
		p.say("| %s | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.2f, %.2f |\n", name(s), p50, p99, p999, of(func(p *Pace) float64 { return p.Max }),
			of(func(p *Pace) float64 { return p.AppProcessors }), of(func(p *Pace) float64 { return p.BrokerProcessors }))
		bars = append(bars, bar{name(s), []float64{p50, p99 - p50, p999 - p99}})
	}
	p.plot(fmt.Sprintf("peers-latency-%d.svg", n+1), "Latency: "+g.config.String(),
		barsSVG(fmt.Sprintf("milliseconds at %.0f facts per second, %s", g.config.rate, g.config), []string{"p50", "p99", "p99.9"}, bars))
}

func (p *page) recovery(g *group, n int) {
	p.say("\n#### kill -9 half-way: %s\n\nKilled under full load and started again at once, in an intact folder; %s of each. What is read until the first commit is table and input together.\n\n", g.config, g.counted())
	p.say("| subject | first new commit | caught up | read until the first commit, MB | wrong states, surplus changes afterwards |\n|---|---|---|---|---|\n")
	var bars []bar
	for _, s := range g.subjects {
		wrong := func(f func(workload.Verdict) int64) (n int64) {
			for _, r := range g.runs[s] {
				n += f(r.Verdict)
			}
			return n
		}
		p.say("| %s | %.1f s | %.1f s | %.0f | %d, %d |\n", name(s), g.median(s, firstCommit), g.median(s, caughtUp), g.median(s, restoredMB),
			wrong(func(v workload.Verdict) int64 { return int64(v.WrongStates) }), wrong(func(v workload.Verdict) int64 { return v.Surplus }))
		bars = append(bars, bar{name(s), []float64{g.median(s, firstCommit), g.median(s, caughtUp) - g.median(s, firstCommit)}})
	}
	p.plot(fmt.Sprintf("peers-recovery-%d.svg", n+1), "Recovery: "+g.config.String(),
		barsSVG("seconds after kill -9, "+g.config.String(), []string{"first new commit", "caught up"}, bars))
}

func (p *page) plot(file, alt string, svg []byte) {
	if !p.draw {
		return
	}
	p.plots[file] = svg
	p.say("\n![%s](%s)\n", alt, path.Join(p.img, file))
}

// figure is something in which less is better, of one mode.
type figure struct {
	mode, words string
	of          func(Run) float64
}

func figures() []figure {
	return []figure{
		{Throughput, "processor time of the application", appCPU},
		{Throughput, "processor time of the broker", brokerCPU},
		{Throughput, "facts per second", func(r Run) float64 { return 1 / r.Drain.PerSecond }},
		{Throughput, "peak memory", peakRSS},
		{Throughput, "bytes written", written1},
		{Throughput, "size of the state", stateMB},
		{Latency, "p50", func(r Run) float64 { return r.Pace.P50 }},
		{Latency, "p99", func(r Run) float64 { return r.Pace.P99 }},
		{Latency, "p99.9", func(r Run) float64 { return r.Pace.P999 }},
		{Recovery, "time to the first commit after kill -9", firstCommit},
		{Recovery, "time to catch up after kill -9", caughtUp},
	}
}

// better lists everything in which a peer is better than Touchstone.
func (p *page) better(runs []Run) {
	var found []string
	for _, f := range figures() {
		for _, g := range groups(runs, f.mode) {
			for _, s := range g.subjects {
				if s == Touchstone || s == Floor {
					continue
				}
				if r, ok := g.ratio(s, f.of); ok && r.Mid > 1 {
					found = append(found, fmt.Sprintf("- %s, %s: %s is better by a factor of %.2f (%.2f to %.2f).", g.config, f.words, name(s), r.Mid, r.Low, r.High))
				}
			}
		}
	}
	if len(groups(runs, Throughput))+len(groups(runs, Latency))+len(groups(runs, Recovery)) == 0 {
		return
	}
	p.say("\n#### Where a peer is better\n\n")
	if len(found) == 0 {
		p.say("In nothing that was measured here.\n")
	}
	p.say("%s\n", strings.Join(found, "\n"))
}

// grouped writes a number with its thousands apart.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
