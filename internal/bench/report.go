package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Report is what was measured.
type Report struct {
	Machine    Machine    `json:"machine"`
	Entities   int        `json:"entities"`
	Fields     int        `json:"fields"`
	Partitions int        `json:"partitions"`
	Start      Start      `json:"start"`
	Load       Throughput `json:"load"`
	Throughput Throughput `json:"throughput"`
	Usage      Usage      `json:"usage"`
	Latency    Latency    `json:"latency"`
	Check      Check      `json:"check"`
	// MaxRSS of the process over everything, in bytes.
	MaxRSS int64 `json:"maxRssBytes"`
}

// Machine is where it was measured.
type Machine struct {
	CPUs     int    `json:"cpus"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Start is how long a start takes until all is ready.
type Start struct {
	// Cold with the sample domains in an empty folder, Warm again in the same.
	Cold time.Duration `json:"coldNanoseconds"`
	Warm time.Duration `json:"warmNanoseconds"`
	// Loaded with the benchmark's entities, after a stop in good order.
	Loaded time.Duration `json:"loadedNanoseconds"`
}

// WriteText writes the report as tables for people.
func (r Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	ms := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	mib := func(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

	line("machine\t%d processors, %s, %s", r.Machine.CPUs, r.Machine.Platform, r.Machine.Go)
	line("data\t%d entities of %d fields from 3 sources, %d partitions per topic", r.Entities, r.Fields, r.Partitions)
	line("")
	line("start until ready\tsample domains, empty\t%s", ms(r.Start.Cold))
	line("\tsample domains, again\t%s", ms(r.Start.Warm))
	line("\tthese entities, again\t%s", ms(r.Start.Loaded))
	for _, x := range []struct {
		name string
		t    Throughput
	}{{"load", r.Load}, {"throughput", r.Throughput}} {
		line("%s\tdeliveries\t%d in %s", x.name, x.t.Deliveries, ms(x.t.Elapsed))
		line("\tsignals per second\t%.0f\t(slowest second %.0f, median %.0f)", x.t.PerSecond, x.t.Slowest, x.t.Median)
		line("\tCPU-seconds per million\t%.1f\t(%.2f processors busy, %.2f with other processes)", x.t.CPUPerMillion, x.t.Processors, x.t.Others)
		line("\tpeak RSS\t%s", mib(x.t.PeakRSS))
	}
	if l := r.Latency; l.Deliveries > 0 {
		line("latency\tdeliveries\t%d at %g per second\t(%.2f processors busy, %.2f with other processes)", l.Deliveries, l.Rate, l.Processors, l.Others)
		for _, x := range []struct {
			name string
			q    Quantiles
		}{{"accepted to visible", l.Visible}, {"due to accepted", l.Accepted}, {"due to visible", l.Whole}} {
			line("\t%s\tp50 %s\tp99 %s\tp99.9 %s\tmax %s", x.name, ms(x.q.P50), ms(x.q.P99), ms(x.q.P999), ms(x.q.Max))
		}
		line("\tpeak RSS\t%s", mib(l.PeakRSS))
	}
	line("memory\tpeak RSS of all\t%s", mib(r.MaxRSS))
	line("check\tall as planned\t%d deliveries: %d changes, %d without, %d duplicates, %d dead letters", r.Check.Deliveries, r.Check.Changes, r.Check.NoChanges, r.Check.Duplicates, r.Check.DeadLetters)
	line("\t\t%d entities, %d versions, %d public events", r.Check.Entities, r.Check.Versions, r.Check.Events)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range []struct {
		title string
		s     []Share
	}{{"by part", r.Usage.Parts}, {"by component", r.Usage.Components}, {"by function", r.Usage.Functions}} {
		line("")
		line("processor time %s\tpercent\tCPU-seconds per million", x.title)
		for _, s := range x.s {
			if s.Percent < 0.1 {
				continue
			}
			line("  %s\t%.1f\t%.2f", s.Name, s.Percent, s.PerMillion)
		}
	}
	return t.Flush()
}
