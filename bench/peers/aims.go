package peers

import (
	"fmt"
	"strings"
)

// aims puts what was found beside what was aimed at, for the workload that the
// aims speak of: 100,000 accounts of 20 fields.
func (p *page) aims(runs []Run) {
	p.say("\n| aim, at 100,000 accounts of 20 fields | found | |\n|---|---|---|\n")
	for _, row := range []struct {
		mode, kind, words string
		atMost            float64
		of                func(Run) float64
	}{
		{Throughput, Streams, "CPU-seconds of the application by those of Kafka Streams: at most 0.5", 0.5, appCPU},
		{Throughput, PlainGoka, "by those of plain Goka, although it is at-least-once: at most 0.6", 0.6, appCPU},
		{Throughput, Streams, "peak memory by that of Kafka Streams: less than 1", 1, peakRSS},
		{Latency, Streams, "p99 by that of Kafka Streams: less than 1", 1, func(r Run) float64 { return r.Pace.P99 }},
		{Recovery, Streams, "first commit after kill -9 by that of Kafka Streams: less than 1", 1, firstCommit},
	} {
		g := aimed(runs, row.mode)
		found, verdict := "not measured", ""
		if g != nil {
			// The best variant of the peer is the one to be measured against.
			best, subject := interval{}, ""
			for _, s := range g.subjects {
				if kind, _, _ := strings.Cut(s, ":"); kind != row.kind || strings.Contains(s, "outcomes=no") {
					continue
				}
				if r, ok := g.ratio(s, row.of); ok && r.Mid > best.Mid {
					best, subject = r, s
				}
			}
			if subject != "" {
				found, verdict = fmt.Sprintf("%.2f (%.2f to %.2f), against %s", best.Mid, best.Low, best.High, name(subject)), met(best.Mid <= row.atMost)
			}
		}
		p.say("| %s | %s | %s |\n", row.words, found, verdict)
	}
	p.absolute(runs, Throughput, "merge stage alone, CPU-seconds of the application per million: at most 12", 12, appCPU)
	p.absolute(runs, Recovery, "first new commit after kill -9 with an intact folder: within 3 s", 3, firstCommit)
	growth, verdict := "not measured", ""
	var at [2]float64
	for _, g := range groups(runs, Throughput) {
		for i, keys := range []int{10_000, 1_000_000} {
			if g.config.spec.Fields == 20 && g.config.spec.Keys == keys && len(g.runs[Touchstone]) > 0 {
				at[i] = g.median(Touchstone, appCPU)
			}
		}
	}
	if at[0] > 0 && at[1] > 0 {
		growth, verdict = fmt.Sprintf("%.2f", at[1]/at[0]), met(at[1]/at[0] <= 2)
	}
	p.say("| growth of that from 10,000 to 1,000,000 accounts: at most 2 | %s | %s |\n", growth, verdict)
}

// absolute is an aim that needs no peer.
func (p *page) absolute(runs []Run, mode, words string, atMost float64, of func(Run) float64) {
	found, verdict := "not measured", ""
	if g := aimed(runs, mode); g != nil && len(g.runs[Touchstone]) > 0 {
		v := g.median(Touchstone, of)
		found, verdict = fmt.Sprintf("%.1f", v), met(v <= atMost)
	}
	p.say("| %s | %s | %s |\n", words, found, verdict)
}

func met(is bool) string {
	if is {
		return "met"
	}
	return "**not met**"
}

// aimed gives the runs of the workload that the aims speak of.
func aimed(runs []Run, mode string) *group {
	for _, g := range groups(runs, mode) {
		if g.config.spec.Keys == 100_000 && g.config.spec.Fields == 20 {
			return g
		}
	}
	return nil
}
