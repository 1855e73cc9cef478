package orchestrate_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/orchestrate"
	"github.com/touchstone-platform/touchstone/registry"
)

var record = flag.Bool("record", false, "record golden histories of this version; those of earlier ones stay as they are")

// goldenVersion of the histories that -record writes. Whoever changes what sagas do
// on purpose adds a version, and keeps what begun sagas of the earlier ones need.
const goldenVersion = 1

// moment is one step of a golden history: what came in, and what the station made
// of it. The lane before is that of the moment before.
type moment struct {
	History int              `json:"history"`
	At      envelope.Instant `json:"at"`
	// Kind of the value; "wake" for none.
	Kind  string          `json:"kind"`
	Value json.RawMessage `json:"value,omitempty"`
	Lane  json.RawMessage `json:"lane,omitempty"` // absent if it stays as it is
	Emits []emitted       `json:"emits,omitempty"`
}

type emitted struct {
	Stream string          `json:"stream"`
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value"`
}

const goldenKey = "default/customer/C1"

func goldenPlans(t *testing.T) (*definition.Domain, saga.Plans) {
	t.Helper()
	text, err := os.ReadFile("testdata/plans.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := registry.Parse("plans.yaml", text, connectors.Kinds{Sources: []connectors.Kind{sourceKind{}}, Backends: []connectors.BackendKind{backendKind{}}})
	if err != nil {
		t.Fatal(err)
	}
	return d, orchestrate.Plans(d)
}

// sourceKind and backendKind stand for the connectors that the golden plans name:
// nothing is read and nothing is called.
type sourceKind struct{ connectors.Kind }

func (sourceKind) Name() string                     { return "webhook" }
func (sourceKind) Variables() []connectors.Variable { return []connectors.Variable{{Name: "body"}} }
func (sourceKind) Open(*definition.Source, connectors.Secrets) (connectors.Connector, error) {
	return nil, nil
}

type backendKind struct{ connectors.BackendKind }

func (backendKind) Name() string { return "fake" }
func (backendKind) Connect(*definition.Connection, connectors.Options) (connectors.Backend, error) {
	return nil, nil
}

func inputOf(kind string) any {
	switch kind {
	case "intent":
		return &command.Intent{}
	case "snapshot":
		return &saga.Snapshot{}
	case "change":
		return &event.Change{}
	case "answer":
		return &saga.Answer{}
	case "order":
		return &saga.Order{}
	}
	return nil
}

func raw(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// take has the station take one moment, on the lane as it was kept.
func take(t *testing.T, s *orchestrate.Station, before json.RawMessage, m moment) (after json.RawMessage, out []emitted) {
	t.Helper()
	var state any
	if before != nil {
		l := &saga.Lane{}
		if err := json.Unmarshal(before, l); err != nil {
			t.Fatal(err)
		}
		state = l
	}
	var effects processors.Effects
	var err error
	if m.Kind == "wake" {
		effects, err = s.Wake(state, goldenKey, m.At)
	} else {
		v := inputOf(m.Kind)
		if err := json.Unmarshal(m.Value, v); err != nil {
			t.Fatal(err)
		}
		effects, err = s.Step(state, processors.Record{Key: goldenKey, Value: v, Time: m.At})
	}
	if err != nil {
		t.Fatalf("history %d at %d, %s %s: %v", m.History, m.At, m.Kind, m.Value, err)
	}
	for _, e := range effects.Emit {
		out = append(out, emitted{e.Stream, e.Key, raw(t, e.Value)})
	}
	if effects.State != nil {
		after = raw(t, effects.State)
	}
	return after, out
}

// TestGoldenHistories replays what sagas of each released version went through:
// lanes as they were kept then are read, and the same comes of the same.
func TestGoldenHistories(t *testing.T) {
	d, plans := goldenPlans(t)
	s := orchestrate.New(d, plans, nil, nil)
	file := filepath.Join("testdata", fmt.Sprintf("histories-%d.jsonl.gz", goldenVersion))
	if *record {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		enc := json.NewEncoder(z)
		for h := range 60 {
			for _, m := range recordHistory(t, s, d, h) {
				if err := enc.Encode(m); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("testdata/histories-*.jsonl.gz")
	if err != nil || len(files) < goldenVersion {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) { replay(t, s, name) })
	}
}

func replay(t *testing.T, s *orchestrate.Station, name string) {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	history, moments := -1, 0
	var lane json.RawMessage
	statuses := map[saga.Status]int{}
	for lines.Scan() {
		var m moment
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		if m.History != history {
			history, lane = m.History, nil
		}
		moments++
		after, out := take(t, s, lane, m)
		if diff := cmp.Diff(plain(t, m.Lane), plain(t, after)); diff != "" {
			t.Fatalf("history %d at %d, %s %s: the lane is another\n%s", m.History, m.At, m.Kind, m.Value, diff)
		}
		if diff := cmp.Diff(plain(t, raw(t, m.Emits)), plain(t, raw(t, out))); diff != "" {
			t.Fatalf("history %d at %d, %s %s: something else follows\n%s", m.History, m.At, m.Kind, m.Value, diff)
		}
		for _, e := range out {
			var r saga.Report
			if json.Unmarshal(e.Value, &r) == nil && r.Saga.Status.Final() {
				statuses[r.Saga.Status]++
			}
		}
		if m.Lane != nil {
			lane = m.Lane // as it was written then
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d histories, %d moments: %v", history+1, moments, statuses)
	for _, x := range []saga.Status{saga.Completed, saga.Failed, saga.Cancelled, saga.Rejected, saga.Unconfirmed, saga.Abandoned} {
		if statuses[x] == 0 {
			t.Errorf("no saga ended as %s: the histories say too little", x)
		}
	}
}

// plain gives JSON as values, so that the order of members does not matter.
func plain(t *testing.T, b json.RawMessage) any {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// recordHistory makes up a history: commands, answers of all kinds, late and
// double ones, wakes, changes and orders.
func recordHistory(t *testing.T, s *orchestrate.Station, d *definition.Domain, n int) (out []moment) {
	rnd := rand.New(rand.NewPCG(uint64(n), goldenVersion))
	now := envelope.Instant(1_790_000_000_000_000)
	var lane json.RawMessage
	version, state, email := int64(3), "active", "a@x"
	var requests []saga.Request
	asked := 0
	add := func(kind string, v any) {
		m := moment{History: n, At: now, Kind: kind}
		if v != nil {
			m.Value = raw(t, v)
		}
		m.Lane, m.Emits = take(t, s, lane, m)
		if m.Lane != nil {
			lane = m.Lane
		}
		for _, e := range m.Emits {
			var r saga.Request
			switch {
			case e.Stream == "golden.asks":
				asked++
			case json.Unmarshal(e.Value, &r) == nil && r.Connection != "" && !r.Withdrawn && r.Key != "":
				requests = append(requests, r)
			}
		}
		out = append(out, m)
	}
	entity := func() saga.Entity {
		e := saga.Entity{Resource: "customer", ID: "C1", Version: version, State: state, Fields: []canonical.Named{{Name: "email", Value: canonical.String(email)}}, Refs: []saga.Ref{{Source: "crm", Key: "7"}}}
		if n%3 > 0 {
			e.Refs = append(e.Refs, saga.Ref{Source: "web", Key: "w7"})
		}
		return e
	}
	commands := 0
	for len(out) < 70 {
		now += envelope.Instant(rnd.IntN(400_000))
		var l saga.Lane
		if lane != nil {
			if err := json.Unmarshal(lane, &l); err != nil {
				t.Fatal(err)
			}
		}
		if due := l.Due(); due != 0 && due <= now {
			add("wake", nil)
			continue
		}
		switch x := rnd.IntN(20); {
		case commands == 0 || x == 0 && commands < 5:
			commands++
			name, values := "Suspend", []canonical.Named{{Name: "reason", Value: canonical.String([]string{"fee", "fraud"}[rnd.IntN(2)])}}
			switch rnd.IntN(6) {
			case 0:
				name, values = "UpdateCustomer", []canonical.Named{{Name: "email", Value: canonical.String(fmt.Sprint("b", commands, "@x"))}}
			case 1:
				name, values = "Replace", nil
			case 2:
				name, values = "Only", nil
			}
			plan, ok := d.Resources[0].Command(name)
			if !ok {
				t.Fatal(name)
			}
			c := command.Command{Tenant: "default", Principal: "p", IdempotencyKey: fmt.Sprint(n, "-", commands), Name: name, Resource: "customer", Entity: "C1", Input: "{}", At: now}
			if rnd.IntN(6) == 0 {
				c.IfVersion = version + int64(rnd.IntN(2))
			}
			add("intent", &command.Intent{ID: c.ID(), Command: c, Values: values, Plan: plan.Fingerprint})
		case asked > 0 && x < 12:
			asked--
			add("snapshot", &saga.Snapshot{Entity: entity()})
		case len(requests) > 0 && x < 16:
			i := rnd.IntN(len(requests))
			r := requests[i]
			if rnd.IntN(8) > 0 { // else it is answered once more
				requests = append(requests[:i], requests[i+1:]...)
			}
			a := &saga.Answer{Saga: r.Saga, Step: r.Step, Undo: r.Undo, Attempt: r.Attempt}
			bad := 3
			if n%2 == 0 {
				bad = 8 // half of the histories go well
			}
			switch rnd.IntN(bad) {
			case 0:
				a.Kind = []failure.Kind{failure.Transient, failure.RateLimited, failure.Validation, failure.Conflict}[rnd.IntN(4)]
				a.Detail, a.Uncertain = "no", rnd.IntN(3) == 0
				if a.Kind == failure.RateLimited {
					a.After = 300_000_000
				}
			case 1:
				if rnd.IntN(3) == 0 {
					a.Held = true
					requests = append(requests, r)
					break
				}
				fallthrough
			default:
				a.Output = []canonical.Named{{Name: "at", Value: `"noon"`}}
				switch {
				case r.Operation == "close" && n%5 > 0 && state == "active":
					version, state = version+1, "suspended"
				case r.Operation == "write" && !r.Undo:
					version, email = version+1, fmt.Sprint("b", commands, "@x")
				}
			}
			add("answer", a)
		case x == 16:
			add("change", &event.Change{Version: version})
		case x == 17 && l.Active != nil:
			kinds := []saga.OrderKind{saga.OrderCancel, saga.OrderRetry, saga.OrderAbandon, saga.OrderApprove, saga.OrderApprove, saga.OrderRefuse}
			add("order", &saga.Order{Saga: l.Active.ID, Kind: kinds[rnd.IntN(len(kinds))], Step: "approveBoss", By: "jane"})
		case x == 18:
			now += 3_000_000
		}
		if len(out) > 0 && now > 1_790_000_000_000_000+3600_000_000 {
			break
		}
	}
	return out
}
