package bench

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// profile is a CPU profile, as far as it is needed here.
type profile struct{ samples []sample }

// sample is a stack that was seen, for how long.
type sample struct {
	cpu   time.Duration
	stack []string // function names, innermost first
	part  string   // the label "part" of the goroutine
	// background work of Pebble: flushes and compactions.
	background bool
}

// readProfile reads what runtime/pprof writes: a gzipped protocol buffer,
// https://github.com/google/pprof/blob/main/proto/profile.proto. The second
// value of each sample of a CPU profile is nanoseconds.
func readProfile(b []byte) (*profile, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	var (
		texts     []string
		functions = map[uint64]uint64{}   // id to text
		locations = map[uint64][]uint64{} // id to functions, innermost first
		samples   [][]byte
	)
	err = fields(raw, func(field int, n uint64, sub []byte) error {
		switch field {
		case 2:
			samples = append(samples, sub)
		case 4:
			var id uint64
			var lines []uint64
			err := fields(sub, func(field int, n uint64, line []byte) error {
				switch field {
				case 1:
					id = n
				case 4:
					return fields(line, func(field int, n uint64, _ []byte) error {
						if field == 1 {
							lines = append(lines, n)
						}
						return nil
					})
				}
				return nil
			})
			locations[id] = lines
			return err
		case 5:
			var id, name uint64
			err := fields(sub, func(field int, n uint64, _ []byte) error {
				switch field {
				case 1:
					id = n
				case 2:
					name = n
				}
				return nil
			})
			functions[id] = name
			return err
		case 6:
			texts = append(texts, string(sub))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	text := func(i uint64) string {
		if i < uint64(len(texts)) {
			return texts[i]
		}
		return ""
	}
	p := &profile{}
	for _, raw := range samples {
		var s sample
		var ids, values []uint64
		err := fields(raw, func(field int, n uint64, sub []byte) error {
			switch field {
			case 1:
				ids = packed(ids, n, sub)
			case 2:
				values = packed(values, n, sub)
			case 3:
				var key, value uint64
				err := fields(sub, func(field int, n uint64, _ []byte) error {
					switch field {
					case 1:
						key = n
					case 2:
						value = n
					}
					return nil
				})
				switch text(key) {
				case "part":
					s.part = text(value)
				case "pebble":
					s.background = true
				}
				return err
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(values) > 1 {
			s.cpu = time.Duration(values[1])
		}
		for _, id := range ids {
			for _, f := range locations[id] {
				s.stack = append(s.stack, text(functions[f]))
			}
		}
		p.samples = append(p.samples, s)
	}
	return p, nil
}

var errProfile = errors.New("read profile: not a protocol buffer")

// fields walks through a protocol buffer message: n is the value of a varint
// field, sub that of one with a length.
func fields(b []byte, fn func(field int, n uint64, sub []byte) error) error {
	for len(b) > 0 {
		tag, w := binary.Uvarint(b)
		if w <= 0 {
			return errProfile
		}
		b = b[w:]
		n, w := uint64(0), 0
		var sub []byte
		switch tag & 7 {
		case 0:
			if n, w = binary.Uvarint(b); w <= 0 {
				return errProfile
			}
		case 1:
			w = 8
		case 5:
			w = 4
		case 2:
			size, lw := binary.Uvarint(b)
			if lw <= 0 || size > uint64(len(b)-lw) {
				return errProfile
			}
			sub, w = b[lw:lw+int(size)], lw+int(size)
		default:
			return errProfile
		}
		if w > len(b) {
			return errProfile
		}
		b = b[w:]
		if err := fn(int(tag>>3), n, sub); err != nil {
			return err
		}
	}
	return nil
}

// packed appends the values of a repeated integer, which is packed or not.
func packed(to []uint64, n uint64, sub []byte) []uint64 {
	if sub == nil {
		return append(to, n)
	}
	for len(sub) > 0 {
		v, w := binary.Uvarint(sub)
		if w <= 0 {
			return to
		}
		to, sub = append(to, v), sub[w:]
	}
	return to
}

// Share is what something took of the processor time.
type Share struct {
	Name string `json:"name"`
	// Percent of all that was seen.
	Percent float64 `json:"percent"`
	// PerMillion is CPU-seconds per million signals.
	PerMillion float64 `json:"cpuSecondsPerMillion"`
}

// Usage is where processor time went, in three views of the same samples.
type Usage struct {
	// Parts by the work that goroutines do: door, broker, each station and view.
	Parts []Share `json:"parts"`
	// Components by the library or package whose code ran.
	Components []Share `json:"components"`
	// Functions that took most by themselves.
	Functions []Share `json:"functions"`
}

// The door runs on the goroutine of who brings the delivery.
const doorPackage = "github.com/touchstone-platform/touchstone/internal/door."

// topFunctions is how many functions are told.
const topFunctions = 30

// usage sums a profile up. perMillion is the CPU-seconds per million signals
// that the whole run took, which is what shares are shares of.
func (p *profile) usage(perMillion float64) Usage {
	parts, components, functions := map[string]time.Duration{}, map[string]time.Duration{}, map[string]time.Duration{}
	for _, s := range p.samples {
		c := component(s.stack)
		part := s.part
		switch {
		case c == "garbage collection":
			part = c
		case s.background:
			part = "Pebble flush and compaction"
		case slices.ContainsFunc(s.stack, func(f string) bool { return strings.HasPrefix(f, doorPackage) }):
			part = "door"
		case part == "" && (c == "Kafka client (franz-go)" || c == "lz4"):
			part = "Kafka clients" // their goroutines serve connections, not stations
		case part == "":
			part = "other"
		}
		parts[part] += s.cpu
		components[c] += s.cpu
		if len(s.stack) > 0 {
			functions[s.stack[0]] += s.cpu
		}
	}
	f := shares(functions, perMillion)
	return Usage{Parts: shares(parts, perMillion), Components: shares(components, perMillion), Functions: f[:min(len(f), topFunctions)]}
}

func shares(m map[string]time.Duration, perMillion float64) []Share {
	var sum time.Duration
	for _, d := range m {
		sum += d
	}
	out := make([]Share, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		part := m[name].Seconds() / max(sum.Seconds(), 1e-9)
		out = append(out, Share{Name: name, Percent: 100 * part, PerMillion: perMillion * part})
	}
	slices.SortStableFunc(out, func(a, b Share) int { return cmp.Compare(b.Percent, a.Percent) })
	return out
}

// owners says whose code a function is: the first match of the innermost
// function that has one counts, so that memory, locks and system calls are put
// to the account of whoever asked for them.
var owners = []struct{ prefix, name string }{
	{"github.com/twmb/franz-go/pkg/kfake.", "broker (kfake)"},
	{"github.com/touchstone-platform/touchstone/internal/embedded/broker.", "broker (sync)"},
	{"github.com/twmb/franz-go/", "Kafka client (franz-go)"},
	{"github.com/pierrec/lz4", "lz4"},
	{"github.com/klauspost/", "lz4"},
	{"github.com/cockroachdb/", "Pebble"},
	{"github.com/lovoo/goka", "Goka"},
	{"github.com/twmb/avro", "Avro (platform records)"},
	{"github.com/linkedin/goavro", "Avro (public events)"},
	{"github.com/touchstone-platform/touchstone/codecs.", "Avro (public events)"},
	{"encoding/json.", "JSON"},
	{"github.com/touchstone-platform/touchstone/domain/jcs.", "JSON (canonical)"},
	{"crypto/", "SHA-256"},
	{"github.com/google/cel-go", "CEL"},
	{"cel.dev/", "CEL"},
	{"github.com/touchstone-platform/touchstone/registry/expression.", "CEL"},
	{"github.com/prometheus/", "metrics"},
	{"github.com/touchstone-platform/touchstone/internal/bench.", "load generator"},
	{"github.com/touchstone-platform/touchstone/", "touchstone: "},
}

func component(stack []string) string {
	for _, f := range stack {
		switch {
		case strings.HasPrefix(f, "runtime.gcBgMarkWorker"), strings.HasPrefix(f, "runtime.gcAssistAlloc"),
			f == "runtime.bgsweep", f == "runtime.bgscavenge":
			return "garbage collection"
		}
	}
	for _, f := range stack {
		for _, o := range owners {
			rest, ok := strings.CutPrefix(f, o.prefix)
			if !ok {
				continue
			}
			if !strings.HasSuffix(o.name, ": ") {
				return o.name
			}
			slash := strings.LastIndexByte(rest, '/') + 1
			dot := strings.IndexByte(rest[slash:], '.')
			if dot < 0 {
				return o.name + rest
			}
			return o.name + rest[:slash+dot]
		}
	}
	return "runtime (scheduling, network, other)"
}
