package peers

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/bench/peers/plaingoka"
	"github.com/touchstone-platform/touchstone/bench/peers/workload"
	"github.com/touchstone-platform/touchstone/topology"
)

// The subjects.
const (
	Touchstone = "touchstone"
	Streams    = "streams"
	PlainGoka  = "goka"
	Floor      = "floor"
)

// Subject is what is measured, with its variant.
type Subject struct {
	Kind string `json:"kind"`
	// Variant are settings that differ from the subject's own defaults.
	Variant map[string]string `json:"variant,omitempty"`
}

// variants lists the settings of each kind and what they may be; nil is any
// number.
func variants(kind string) map[string][]string {
	switch kind {
	case Touchstone:
		return map[string][]string{
			"cache": nil,
			"procs": {"1", "2"}, // 1: GOMAXPROCS on the one core; the program itself would take 2
		}
	case Streams:
		return map[string][]string{
			"gc":       {"serial", "parallel", "g1"}, // serial
			"record":   nil,                          // MiB of the record cache; 0
			"dedupe":   {"folded", "store"},          // folded
			"outcomes": {"yes", "no"},                // yes
			"linger":   nil,                          // ms; 5
			"heap":     nil,                          // MiB; 512
			"cache":    nil,                          // MiB
			"version":  {"4.1.1", "4.3.1"},           // 4.1.1
		}
	case PlainGoka:
		return map[string][]string{"outcomes": {"yes", "no"}, "cache": nil}
	case Floor:
		return map[string][]string{}
	}
	return nil
}

// ParseSubject reads "kind" or "kind:setting=value:setting=value".
func ParseSubject(s string) (Subject, error) {
	parts := strings.Split(s, ":")
	out := Subject{Kind: parts[0]}
	known := variants(out.Kind)
	if known == nil {
		return out, fmt.Errorf("subject %q: expected %s, %s, %s or %s", s, Touchstone, Streams, PlainGoka, Floor)
	}
	for _, p := range parts[1:] {
		name, value, ok := strings.Cut(p, "=")
		allowed, there := known[name]
		if !ok || !there {
			return out, fmt.Errorf("subject %q: found %q, expected setting=value with one of %v", s, p, slices.Sorted(maps.Keys(known)))
		}
		if allowed != nil && !slices.Contains(allowed, value) {
			return out, fmt.Errorf("subject %q: %s is %q, expected one of %v", s, name, value, allowed)
		}
		if allowed == nil {
			if n, err := strconv.Atoi(value); err != nil || n < 0 {
				return out, fmt.Errorf("subject %q: %s is %q, expected a number", s, name, value)
			}
		}
		if out.Variant == nil {
			out.Variant = map[string]string{}
		}
		out.Variant[name] = value
	}
	return out, nil
}

// String is what ParseSubject reads.
func (s Subject) String() string {
	out := s.Kind
	for _, name := range slices.Sorted(maps.Keys(s.Variant)) {
		out += ":" + name + "=" + s.Variant[name]
	}
	return out
}

func (s Subject) setting(name, def string) string {
	if v, ok := s.Variant[name]; ok {
		return v
	}
	return def
}

// ExactlyOnce tells whether the subject promises it.
func (s Subject) ExactlyOnce() bool { return s.Kind != PlainGoka }

// Topics of every subject.
func factsTopic() string    { return topology.Facts(workload.Domain) }
func changesTopic() string  { return topology.Changes(workload.Domain) }
func outcomesTopic() string { return topology.Outcomes(workload.Domain) }

// group gives the subject's consumer group, and table the topic of its state;
// "" if it has none.
func (s Subject) group() string {
	if s.Kind == Touchstone {
		return topology.GroupName(workload.Domain, topology.Merge)
	}
	return workload.Domain + "-" + s.Kind
}

func (s Subject) table() string {
	switch s.Kind {
	case Touchstone:
		return topology.TableName(workload.Domain, topology.Merge)
	case Streams:
		return s.group() + "-entities-changelog"
	case PlainGoka:
		return plaingoka.Table(s.group())
	}
	return ""
}

// bench is what a subject is started in.
type bench struct {
	brokers    string
	registry   string
	dir        string // of the subject alone
	definition string // file
	spec       workload.Spec
	partitions int
	commit     time.Duration
	cacheMB    int
	ids        schemaIDs
	// fingerprint of the definition, which the product writes into its records.
	fingerprint string
	// Programs.
	touchstone, self, streamsDir, java string
}

// schemaIDs are those of the registry.
type schemaIDs struct{ fact, entity, change, outcome int }

// command gives how a subject is started and the variables it needs.
func (s Subject) command(b *bench) (command, env []string) {
	cache := s.setting("cache", strconv.Itoa(b.cacheMB))
	switch s.Kind {
	case Touchstone:
		return []string{b.touchstone, "serve", "--roles", topology.Merge, "--domain", b.definition, "--data", filepath.Join(b.dir, "data"),
			"--listen", "127.0.0.1:0", "--kafka-brokers", b.brokers, "--registry-url", b.registry,
			"--engine-commit-interval", b.commit.String(), "--engine-cache-bytes", cache + "MiB",
			"--topics-partitions", strconv.Itoa(b.partitions), "--topics-replication", "1", "--log-level", "warn"}, []string{"GOMAXPROCS=" + s.setting("procs", "1")}
	case Streams:
		return s.java(b, cache), nil
	case PlainGoka:
		return []string{b.self, "subject", PlainGoka, "-brokers", b.brokers, "-registry", b.registry, "-definition", b.definition, "-dir", b.dir,
			"-commit", b.commit.String(), "-cache", cache, "-outcomes", s.setting("outcomes", "yes"), "-partitions", strconv.Itoa(b.partitions)}, []string{"GOMAXPROCS=1"}
	}
	return []string{b.self, "subject", Floor, "-brokers", b.brokers, "-commit", b.commit.String()}, []string{"GOMAXPROCS=1"}
}

// target is where Maven built the subject.
func (s Subject) target(streamsDir string) string {
	if v, ok := s.Variant["version"]; ok && v != "4.1.1" {
		return filepath.Join(streamsDir, "target-"+v)
	}
	return filepath.Join(streamsDir, "target")
}

func (s Subject) java(b *bench, cache string) []string {
	gc := map[string]string{"serial": "-XX:+UseSerialGC", "parallel": "-XX:+UseParallelGC", "g1": "-XX:+UseG1GC"}[s.setting("gc", "serial")]
	heap := s.setting("heap", "512")
	record, _ := strconv.Atoi(s.setting("record", "0"))
	blocks, _ := strconv.Atoi(cache)
	target := s.target(b.streamsDir)
	var fields []string
	for _, f := range b.spec.Layout() {
		fields = append(fields, f.Name+":"+strings.Join(f.Authority, ","))
	}
	return []string{b.java, "-XX:ActiveProcessorCount=1", gc, "-Xms" + heap + "m", "-Xmx" + heap + "m", "-XX:+AlwaysPreTouch",
		// The generated coders of Avro, which are faster than reflection.
		"-Dorg.apache.avro.specific.use_custom_coders=true",
		"-cp", filepath.Join(target, "classes") + ":" + filepath.Join(target, "lib", "*"), "touchstone.bench.Main",
		"brokers=" + b.brokers, "group=" + s.group(), "dir=" + b.dir, "commit=" + strconv.FormatInt(b.commit.Milliseconds(), 10),
		"recordCache=" + strconv.Itoa(record<<20), "blockCache=" + strconv.Itoa(blocks<<20), "linger=" + s.setting("linger", "5"),
		"dedupe=" + s.setting("dedupe", "folded"), "outcomes=" + strconv.FormatBool(s.setting("outcomes", "yes") == "yes"),
		"domain=" + workload.Domain, "definition=" + b.fingerprint, "fields=" + strings.Join(fields, ";"),
		"facts=" + factsTopic(), "changes=" + changesTopic(), "outcomesTopic=" + outcomesTopic(),
		fmt.Sprintf("factId=%d", b.ids.fact), fmt.Sprintf("entityId=%d", b.ids.entity),
		fmt.Sprintf("changeId=%d", b.ids.change), fmt.Sprintf("outcomeId=%d", b.ids.outcome),
	}
}
