package codecs

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/linkedin/goavro/v2"
	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

var goTypes = map[Record]reflect.Type{
	JournalEntry: reflect.TypeFor[journal.Entry](),
	Seen:         reflect.TypeFor[journal.Seen](),
	Published:    reflect.TypeFor[event.Published](),
	Outcome:      reflect.TypeFor[journal.Outcome](),
	Signal:       reflect.TypeFor[signal.Signal](),
	Fact:         reflect.TypeFor[signal.Fact](),
	Entity:       reflect.TypeFor[canonical.Entity](),
	Change:       reflect.TypeFor[event.Change](),
	Command:      reflect.TypeFor[command.Command](),
	Admission:    reflect.TypeFor[command.Admission](),
	Intent:       reflect.TypeFor[command.Intent](),
	Plan:         reflect.TypeFor[saga.Plan](),
	Lane:         reflect.TypeFor[saga.Lane](),
	Ask:          reflect.TypeFor[saga.Ask](),
	Snapshot:     reflect.TypeFor[saga.Snapshot](),
	Request:      reflect.TypeFor[saga.Request](),
	Answer:       reflect.TypeFor[saga.Answer](),
	Order:        reflect.TypeFor[saga.Order](),
	Report:       reflect.TypeFor[saga.Report](),
	Attempt:      reflect.TypeFor[run.Attempt](),
	Activity:     reflect.TypeFor[run.Activity](),
	Progress:     reflect.TypeFor[run.Progress](),
	Switch:       reflect.TypeFor[run.Switch](),
}

// A platform schema and its Go type say the same: the same fields in the same
// order, of corresponding types, each with documentation; instants are
// timestamps, and only pointers are nullable.
func TestPlatformSchemasMatchTheirGoTypes(t *testing.T) {
	for _, rec := range Records() {
		text, err := PlatformSchema(rec)
		if err != nil {
			t.Fatal(err)
		}
		var root any
		if err := json.Unmarshal([]byte(text), &root); err != nil {
			t.Fatalf("%s: %v", rec, err)
		}
		m := root.(map[string]any)
		if m["name"] != string(rec) || m["namespace"] != "touchstone.platform.v1" {
			t.Errorf("%s: named %v.%v", rec, m["namespace"], m["name"])
		}
		match(t, string(rec), root, goTypes[rec], map[string]reflect.Type{})
	}
}

func match(t *testing.T, path string, schema any, gt reflect.Type, named map[string]reflect.Type) {
	t.Helper()
	bad := func() { t.Errorf("%s: Avro %v does not stand for Go %s", path, schema, gt) }
	if gt.Kind() == reflect.Pointer {
		if u, ok := schema.([]any); ok && len(u) == 2 && u[0] == "null" {
			match(t, path, u[1], gt.Elem(), named)
			return
		}
		bad()
		return
	}
	switch s := schema.(type) {
	case string:
		if known, ok := named[s]; ok {
			if known != gt {
				bad()
			}
			return
		}
		want := map[string]reflect.Kind{"string": reflect.String, "int": reflect.Int32, "long": reflect.Int64, "double": reflect.Float64, "boolean": reflect.Bool}
		if gt == reflect.TypeFor[envelope.Instant]() || !(s == "bytes" && gt == reflect.TypeFor[[]byte]() || want[s] == gt.Kind()) {
			bad()
		}
	case map[string]any:
		switch s["type"] {
		case "long":
			if s["logicalType"] != "timestamp-micros" || gt != reflect.TypeFor[envelope.Instant]() {
				bad()
			}
		case "array":
			if gt.Kind() != reflect.Slice {
				bad()
				return
			}
			elem := gt.Elem()
			if elem.Kind() == reflect.Pointer { // a list has no nulls
				elem = elem.Elem()
			}
			match(t, path+"[]", s["items"], elem, named)
		case "map":
			if gt.Kind() != reflect.Map {
				bad()
				return
			}
			match(t, path+"{}", s["values"], gt.Elem(), named)
		case "record":
			if gt.Kind() != reflect.Struct || s["name"] != gt.Name() && path != "JournalEntry" {
				bad()
				return
			}
			named[s["name"].(string)] = gt
			if s["doc"] == "" || s["doc"] == nil {
				t.Errorf("%s: has no doc", path)
			}
			fields := s["fields"].([]any)
			for i := range max(len(fields), gt.NumField()) {
				if i >= len(fields) || i >= gt.NumField() {
					t.Errorf("%s: the schema has %d fields, the Go type %d", path, len(fields), gt.NumField())
					return
				}
				f := fields[i].(map[string]any)
				name := f["name"].(string)
				if tag := gt.Field(i).Tag.Get("avro"); tag != name {
					t.Errorf("%s: field %d is %q in the schema and %q in Go", path, i, name, tag)
					continue
				}
				if doc, _ := f["doc"].(string); doc == "" {
					t.Errorf("%s.%s: has no doc", path, name)
				}
				match(t, path+"."+name, f["type"], gt.Field(i).Type, named)
			}
		default:
			bad()
		}
	default:
		bad()
	}
}

// codecFor makes a codec whose schema has id 7, and that knows the schemas given.
func codecFor(t testing.TB, rec Record, others map[int]string) Codec {
	t.Helper()
	text, err := PlatformSchema(rec)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newPlatformCodec(rec, text, 7, func(id int) (string, error) {
		if s, ok := others[id]; ok {
			return s, nil
		}
		return "", failure.New(failure.NotFound, "look up schema", fmt.Sprint(id), "not there")
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var at = envelope.At(time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC))

// sampleEntity has 20 fields of usual kinds, won from three source records.
func sampleEntity() *canonical.Entity {
	e := &canonical.Entity{
		Tenant: "default", Resource: "customer", ID: "crm-000123456", Version: 42, Exists: true,
		State: "active", StateSince: at, CreatedAt: at, UpdatedAt: at, SeenAt: at, Definition: "9f86d081884c7d65",
	}
	for s, source := range []string{"billing", "crm", "marketing"} {
		c := canonical.Contribution{Source: source, SourceKey: fmt.Sprintf("%s-%d", source, 1234567)}
		for i := range 2 {
			c.Stamps = append(c.Stamps, canonical.Stamp{OccurredAt: at + envelope.Instant(i), Sequence: int64(i), ReceivedAt: at, Signal: fmt.Sprintf("customer-management:%d:%d", s, 100000+i)})
		}
		e.Contributions = append(e.Contributions, c)
	}
	for i := range 20 {
		name := fmt.Sprintf("field%02d", i)
		v := canonical.String(fmt.Sprintf("a value of field %d", i))
		switch i % 5 {
		case 1:
			v = canonical.Int(int64(i) * 1000003)
		case 2:
			v = "true"
		case 3:
			v = `"2026-02-03T04:05:06.789Z"`
		}
		w := int32(i % 3)
		e.Fields = append(e.Fields, canonical.Field{Name: name, Value: v, Winner: w, Since: int64(i + 1), Confidence: float64(i%2) / 2})
		c := &e.Contributions[w]
		c.Registers = append(c.Registers, canonical.Register{Name: name, Value: v, Stamp: int32(i % 2)})
	}
	e.Contributions[2].Deleted = &e.Contributions[2].Stamps[0]
	e.Moves = []canonical.Move{{To: "active", Source: "crm", Stamp: e.Contributions[1].Stamps[0]}}
	e.Rejections = []canonical.Rejection{{From: "active", To: "prospect", Source: "billing", At: at, Signal: "customer-management:0:100001"}}
	return e
}

func sampleSignal() *signal.Signal {
	s := &signal.Signal{
		ID: "customer-management:2:1041", Journal: "customer-management:2:1041", Signals: 1, Tenant: "default",
		Source: "crm", SourceKey: "1001", Resource: "customer", Match: []canonical.Value{`"1001"`},
		OccurredAt: at, Sequence: 34078720, ReceivedAt: at, Mapping: "crm/0",
		Cause: envelope.Cause{Correlation: "c-1", Causation: "customer-management:2:1041", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	for i := range 8 {
		s.Fields = append(s.Fields, canonical.Named{Name: fmt.Sprintf("field%02d", i), Value: canonical.String(fmt.Sprintf("value %d", i))})
	}
	return s
}

func sampleChange() *event.Change {
	return &event.Change{
		Tenant: "default", Resource: "customer", ID: "1001", Version: 3, Kind: event.Updated, FromState: "prospect", ToState: "active",
		Changed: []event.FieldChange{{Name: "status", Before: `"prospect"`, After: `"active"`, Source: "crm", SourceKey: "1001"}},
		After:   []canonical.Named{{Name: "email", Value: `"a@example.org"`}, {Name: "status", Value: `"active"`}},
		Events:  []event.Ref{{ID: "6ba7b810-9dad-51d1-80b4-00c04fd430c8", Type: "CustomerActivated"}},
		Signal:  "customer-management:2:1041", Journal: "customer-management:2:1041", Source: "crm",
		OccurredAt: at, ReceivedAt: at, Cause: envelope.Cause{Correlation: "c-1"}, Definition: "9f86d081884c7d65",
	}
}

func samples() map[Record]any {
	return map[Record]any{
		JournalEntry: &journal.Entry{
			Source: "crm", Tenant: "default", ReceivedAt: at, ContentType: "application/json", Headers: map[string]string{"x-event": "update"},
			Key: []byte(`{"id":1}`), Body: []byte("{\"a\":1}\x00\xff"), Signature: journal.Signature{Scheme: "hmac", Verified: true, Secret: "current"},
			VendorID: "evt_1", DedupeKey: "crm/evt_1", BodyHash: "abc", Cause: envelope.Cause{Correlation: "c"},
		},
		Published: &event.Published{Version: 7},
		Seen:      &journal.Seen{At: at, Offset: math.MaxInt64, BodyHash: "abc", Duplicates: 2, Conflicts: 1, Last: 99},
		Outcome:   &journal.Outcome{Journal: "d:0:1", Index: -1, Signals: 2, Disposition: journal.Changed, Source: "crm", Tenant: "default", Events: []string{"A", "B"}, At: at},
		Signal:    sampleSignal(),
		Fact:      &signal.Fact{Entity: "1001", Signal: *sampleSignal()},
		Entity:    sampleEntity(),
		Change:    sampleChange(),
		Command:   sampleCommand(),
		Admission: &command.Admission{Fingerprint: "f", At: at, Refusal: &command.Refusal{Kind: failure.Validation, Detail: "d", Violations: []command.Violation{{Pointer: "/a", Found: "7", Expected: "string"}}}},
		Intent:    &command.Intent{ID: "cmd-1", Command: *sampleCommand(), Values: []canonical.Named{{Name: "reason", Value: `"fraud"`}}, Plan: "9f86d081884c7d65"},
		Plan:      &saga.Plan{Command: "SuspendCustomer", Fingerprint: "9f86d081884c7d65", Text: "steps: []"},
		Lane: &saga.Lane{
			Entity: sampleSaga().Entity, Known: true, Asked: true, Newest: 9, Active: sampleSaga(), Queue: []*saga.Saga{sampleSaga(), sampleSaga()},
			Alarms: []saga.Alarm{{Timer: saga.Timer{Purpose: saga.Again, Step: "pause", Undo: true, Attempt: 2}, Due: at}, {Timer: saga.Timer{Purpose: saga.Question, Attempt: 1}, Due: at}},
			Past:   []string{"cmd-0"}, Refused: []string{"cmd-00"},
		},
		Ask:      &saga.Ask{At: at},
		Snapshot: &saga.Snapshot{Entity: sampleSaga().Entity},
		Request: &saga.Request{
			Saga: "cmd-1", Command: "SuspendCustomer", Step: "pause", Undo: true, Attempt: 3, Last: true, Withdrawn: true, Key: "cmd-1/pause/undo", Kind: definition.Call,
			Connection: "billing", Operation: "resume", Args: []canonical.Named{{Name: "id", Value: "7"}}, Timeout: 30 * time.Second,
			Uncertain: true, Escalates: true, Masked: []string{"email"}, Cause: envelope.Cause{Correlation: "c"},
		},
		Answer: &saga.Answer{Saga: "cmd-1", Step: "pause", Undo: true, Attempt: 3, Held: true, Unbegun: true, Output: []canonical.Named{{Name: "body", Value: "{}"}}, Kind: failure.RateLimited, Detail: "429", Uncertain: true, After: time.Minute},
		Order:  &saga.Order{Saga: "cmd-1", Kind: saga.OrderApprove, Step: "ok", By: "jane", Detail: "fine"},
		Report: &saga.Report{Key: "default/customer/C1", Saga: *sampleSaga(), At: at, Escalated: &saga.Reason{Step: "pause", Kind: failure.Auth, Detail: "401", Wished: true}},
		Switch: &run.Switch{Connection: "billing", Paused: true, Rate: 2.5, By: "jane", At: at},
		Activity: &run.Activity{
			ID: "fail-1.pause.2/resolved", Type: run.FailureResolved, At: at, Command: "cmd-1", Name: "SuspendCustomer", Key: "default/customer/C1", Status: saga.Running,
			Run: "run-1.pause", Step: "pause", Undo: true, Connection: "billing", Operation: "pause", Attempt: 2, Failure: "fail-1.pause.2", By: "run-1.pause",
			Kind: failure.Transient, Detail: "503", Action: run.Escalate, Attention: true, Cause: envelope.Cause{Correlation: "c"},
		},
		Attempt: &run.Attempt{
			Saga: "cmd-1", Step: "pause", Undo: true, Attempt: 2, Key: "default/customer/C1", Connection: "billing", Operation: "pause", State: run.Failed, At: at,
			Kind: failure.Transient, Detail: "503", Action: run.Retry, Status: 503, Uncertain: true, Latency: time.Second, Request: "t/0/1", Response: "d:0:1",
		},
		Progress: &run.Progress{
			Report:   &saga.Report{Key: "default/customer/C1", Saga: *sampleSaga(), At: at},
			Timeline: []run.Moment{{At: at, Status: saga.Queued}, {At: at, Status: saga.Running, Text: "pause asked"}}, Runs: []run.Run{*sampleRun()}, Last: at, Forget: at,
		},
	}
}

func sampleRun() *run.Run {
	return &run.Run{
		ID: "run-1.pause", Step: "pause", Undo: true, First: 1, Connection: "billing", Operation: "pause", State: run.Failed, Began: at, Ended: at,
		Attempts: []run.Try{{Number: 1, Began: at, Ended: at, Status: 503, Latency: time.Second, Uncertain: true, Request: "t/0/1", Response: "d:0:1",
			Failure: &run.Failure{ID: "fail-1.pause.1", Kind: failure.Transient, Detail: "503", Action: run.Escalate, At: at, Resolved: at, By: "cmd-1 Failed"}}, {Number: 2}},
	}
}

func sampleCommand() *command.Command {
	return &command.Command{
		Tenant: "default", Principal: "crm-desk", IdempotencyKey: "k", Name: "SuspendCustomer", Resource: "customer", Entity: "C1",
		Input: `{"reason":"fraud"}`, IfVersion: 3, Cause: envelope.Cause{Correlation: "c"}, At: at,
		Parent: &command.Parent{Domain: "d", Key: "default/customer/C1", Saga: "cmd-0", Step: "s", Undo: true, Attempt: 2},
	}
}

func sampleSaga() *saga.Saga {
	return &saga.Saga{
		ID: "cmd-1", Command: "SuspendCustomer", Input: []canonical.Named{{Name: "reason", Value: `"fraud"`}}, Plan: "9f86d081884c7d65", Fingerprint: "f", Principal: "crm-desk",
		Cause: envelope.Cause{Correlation: "c"}, Parent: sampleCommand().Parent, IfVersion: 3, Status: saga.Compensating, Accepted: at, Began: at, Ended: at, Revision: 3, Round: 2, Stage: 1, Due: at, Left: time.Minute,
		Steps: []saga.Step{{
			Name: "pause", Approval: true, Do: saga.Leg{Phase: saga.Done, Attempt: 2, Spared: 1, Args: []canonical.Named{{Name: "id", Value: "7"}}},
			Undo: saga.Leg{Phase: saga.Asked, Attempt: 1, Held: true, Recalled: true, Kind: failure.Transient, Detail: "503", Uncertain: true}, Output: []canonical.Named{{Name: "body", Value: "{}"}}, Uncertain: true,
		}},
		Entity:   saga.Entity{Resource: "customer", ID: "C1", Version: 7, Gone: true, State: "active", Fields: []canonical.Named{{Name: "email", Value: `"a"`}}, Refs: []saga.Ref{{Source: "crm", Key: "1"}}},
		Stopping: true, Reason: &saga.Reason{Step: "pause", Kind: failure.Auth, Detail: "401"},
	}
}

// What is encoded is decoded equal, by pointer and by value.
func TestRoundTrip(t *testing.T) {
	for rec, v := range samples() {
		c := codecFor(t, rec, nil)
		b, err := c.Encode(v)
		if err != nil {
			t.Fatalf("%s: %v", rec, err)
		}
		if want := []byte{0, 0, 0, 0, 7}; !reflect.DeepEqual(b[:5], want) {
			t.Errorf("%s: header %v, want %v", rec, b[:5], want)
		}
		got, err := c.Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", rec, err)
		}
		if d := cmp.Diff(v, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: %s", rec, d)
		}
		byValue, err := c.Encode(reflect.ValueOf(v).Elem().Interface())
		if err != nil || !reflect.DeepEqual(b, byValue) {
			t.Errorf("%s by value: %v, %v", rec, byValue, err)
		}
	}
}

// Any entity survives, whatever its strings, numbers and absences are.
func TestRoundTripAnyEntity(t *testing.T) {
	c := codecFor(t, Entity, nil)
	rapid.Check(t, func(t *rapid.T) {
		instant := func(l string) envelope.Instant { return envelope.Instant(rapid.Int64().Draw(t, l)) }
		text := func(l string) string { return rapid.String().Draw(t, l) }
		stamp := func() canonical.Stamp {
			return canonical.Stamp{OccurredAt: instant("occurredAt"), Sequence: rapid.Int64().Draw(t, "sequence"), ReceivedAt: instant("receivedAt"), Signal: text("signal")}
		}
		e := &canonical.Entity{Tenant: text("tenant"), ID: text("id"), Version: rapid.Int64().Draw(t, "version"), Exists: rapid.Bool().Draw(t, "exists"), SeenAt: instant("seenAt")}
		for range rapid.IntRange(0, 3).Draw(t, "fields") {
			e.Fields = append(e.Fields, canonical.Field{Name: text("name"), Value: canonical.Value(text("value")), Winner: rapid.Int32().Draw(t, "winner"), Confidence: rapid.Float64().Draw(t, "confidence")})
		}
		for range rapid.IntRange(0, 3).Draw(t, "contributions") {
			x := canonical.Contribution{Source: text("source"), Stamps: []canonical.Stamp{stamp()}}
			if rapid.Bool().Draw(t, "deleted") {
				s := stamp()
				x.Deleted = &s
			}
			e.Contributions = append(e.Contributions, x)
		}
		b, err := c.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// The library of the hot path and goavro read each other's bytes, to equal values.
func TestBothLibrariesReadEachOther(t *testing.T) {
	for rec, v := range samples() {
		c := codecFor(t, rec, nil)
		text, err := PlatformSchema(rec)
		if err != nil {
			t.Fatal(err)
		}
		other, err := goavro.NewCodec(text)
		if err != nil {
			t.Fatalf("%s: goavro: %v", rec, err)
		}
		framed, err := c.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		native, rest, err := other.NativeFromBinary(framed[5:])
		if err != nil || len(rest) > 0 {
			t.Fatalf("%s: goavro reads: %v, %d bytes left", rec, err, len(rest))
		}
		// goavro's value is the Go value: compared through a form both can give.
		if d := cmp.Diff(generic(reflect.ValueOf(v).Elem()), native, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); d != "" {
			t.Errorf("%s: goavro reads something else: %s", rec, d)
		}
		back, err := other.BinaryFromNative(appendHeader(nil, 7), native)
		if err != nil {
			t.Fatalf("%s: goavro writes: %v", rec, err)
		}
		got, err := c.Decode(back)
		if err != nil {
			t.Fatalf("%s: reading goavro's bytes: %v", rec, err)
		}
		if d := cmp.Diff(v, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: goavro's bytes give something else: %s", rec, d)
		}
	}
}

// generic gives a Go value as goavro represents it.
func generic(v reflect.Value) any {
	if i, ok := v.Interface().(envelope.Instant); ok {
		return time.UnixMicro(int64(i)).UTC()
	}
	switch v.Kind() {
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			m[v.Type().Field(i).Tag.Get("avro")] = generic(v.Field(i))
		}
		return m
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return map[string]any{"touchstone.platform.v1." + v.Type().Elem().Name(): generic(v.Elem())}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Bytes()
		}
		l := make([]any, v.Len())
		for i := range l {
			e := v.Index(i)
			if e.Kind() == reflect.Pointer { // a list has no nulls
				e = e.Elem()
			}
			l[i] = generic(e)
		}
		return l
	case reflect.Map:
		m := map[string]any{}
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = generic(it.Value())
		}
		return m
	case reflect.String:
		return v.String()
	case reflect.Int32:
		return int32(v.Int())
	case reflect.Int64:
		return v.Int()
	}
	return v.Interface()
}

// A record written before a field was added, and one written after a field was
// added that we do not know, are both read.
func TestDecodesOtherVersionsOfTheSchema(t *testing.T) {
	text, err := PlatformSchema(Seen)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(text, `"fields": [`, `"fields": [{"name":"added","type":"string","default":""},`, 1)
	older := `{"type":"record","name":"Seen","namespace":"touchstone.platform.v1","fields":[{"name":"at","type":"long"},{"name":"offset","type":"int"},{"name":"bodyHash","type":"string"},{"name":"duplicates","type":"int"},{"name":"conflicts","type":"int"},{"name":"last","type":"long"}]}`
	c := codecFor(t, Seen, map[int]string{8: newer, 9: older, 10: `{"type":"record","name":"Seen","namespace":"touchstone.platform.v1","fields":[{"name":"at","type":"string"}]}`, 11: "{"})
	want := &journal.Seen{At: at, Offset: 12, BodyHash: "h", Duplicates: 1, Conflicts: 2, Last: 3}
	for id, schema := range map[int]string{8: newer, 9: older} {
		b, err := avro.MustParse(schema).AppendEncode(appendHeader(nil, id), map[string]any{"added": "x", "at": int64(at), "offset": 12, "bodyHash": "h", "duplicates": 1, "conflicts": 2, "last": 3})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // looked up, then remembered
			got, err := c.Decode(b)
			if err != nil {
				t.Fatalf("schema id %d: %v", id, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("schema id %d: %s", id, d)
			}
		}
	}
	for id, want := range map[int]string{10: "schema id 10 cannot be read as this record: field at: expected long, found string", 11: "schema id 11 cannot be read"} {
		_, err := c.Decode(appendHeader(nil, id))
		if err == nil || failure.KindOf(err) != failure.Poison || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a Poison failure with %q", err, want)
		}
	}
}

func TestRefusedBytes(t *testing.T) {
	c := codecFor(t, Seen, nil)
	good, err := c.Encode(&journal.Seen{At: at, BodyHash: "h"})
	if err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":            {nil, "found 0 bytes, expected at least 5"},
		"short header":       {good[:4], "found 4 bytes"},
		"other magic":        {append([]byte{1}, good[1:]...), "found magic byte 0x01, expected 0x00"},
		"id zero":            {[]byte{0, 0, 0, 0, 0, 1}, "found schema id 0"},
		"negative id":        {[]byte{0, 0xff, 0, 0, 0, 1}, "found schema id 4278190080"},
		"unknown id":         {append([]byte{0, 0, 0, 0, 99}, good[5:]...), "unknown schema id 99"},
		"truncated":          {good[:len(good)-1], "short buffer"},
		"header alone":       {good[:5], "short buffer"},
		"trailing bytes":     {append(append([]byte{}, good...), 1, 2), "2 bytes remain after the record"},
		"length beyond data": {append(append([]byte{}, good[:5]...), 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), "decode Seen"},
	} {
		_, err := c.Decode(x.data)
		if err == nil || failure.KindOf(err) != failure.Poison || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want a Poison failure with %q", what, err, x.want)
		}
	}
	if _, err := c.Encode(&journal.Entry{}); err == nil || !strings.Contains(err.Error(), "found *journal.Entry, expected *journal.Seen") {
		t.Errorf("encoding another type: %v", err)
	}
	if _, err := c.Encode(nil); err == nil {
		t.Error("encoding nil succeeded")
	}
}

func TestLookupFailuresKeepTheirKind(t *testing.T) {
	text, _ := PlatformSchema(Seen)
	for _, kind := range []failure.Kind{failure.Transient, failure.Auth, failure.RateLimited} {
		c, err := newPlatformCodec(Seen, text, 7, func(int) (string, error) { return "", failure.New(kind, "look up", "id 8", "no") })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Decode(appendHeader(nil, 8)); failure.KindOf(err) != kind {
			t.Errorf("%v, want kind %s", err, kind)
		}
	}
	c, _ := newPlatformCodec(Seen, text, 7, func(int) (string, error) { return "", errors.New("who knows") })
	if _, err := c.Decode(appendHeader(nil, 8)); failure.KindOf(err) != failure.Transient {
		t.Errorf("%v, want Transient: nothing says that it would fail again", err)
	}
}

// What was decoded does not change when the input is overwritten, and what was
// encoded does not when more is encoded.
func TestNoSharedMemory(t *testing.T) {
	for rec, v := range samples() {
		c := codecFor(t, rec, nil)
		b, err := c.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		keep := append([]byte{}, b...)
		for range 10 {
			if _, err := c.Encode(reflect.New(goTypes[rec]).Interface()); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(b, keep) {
			t.Errorf("%s: encoding again changed the first result", rec)
		}
		got, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		clear(b)
		if d := cmp.Diff(v, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s: the value changed with its input: %s", rec, d)
		}
	}
}

func TestEncodeAllocatesOnlyItsResult(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	c, e := codecFor(t, Entity, nil), sampleEntity()
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.Encode(e); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations per Encode, expected 1", n)
	}
}

// No bytes make a decoder panic or allocate without bound; what is accepted
// encodes again to a value that is decoded equal. The Avro library accepts and
// refuses the same bytes, and reads the same value from them.
func FuzzDecode(f *testing.F) {
	codecs := map[Record]Codec{}
	library := map[Record]*avro.Schema{}
	for i, rec := range Records() {
		text, err := PlatformSchema(rec)
		if err != nil {
			f.Fatal(err)
		}
		library[rec] = avro.MustParse(text)
		codecs[rec] = codecFor(f, rec, nil)
		b, err := codecs[rec].Encode(samples()[rec])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		rec := Records()[int(which)%len(Records())]
		c := codecs[rec]
		v, err := c.Decode(data)
		if id, body, ferr := Unframe(data); ferr == nil && id == 7 {
			other := reflect.New(goTypes[rec])
			rest, lerr := library[rec].Decode(body, other.Interface())
			if (lerr == nil && len(rest) == 0) != (err == nil) {
				t.Fatalf("we: %v; the library: %v, %d bytes left", err, lerr, len(rest))
			}
			if err == nil {
				if d := cmp.Diff(other.Interface(), v, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); d != "" {
					t.Fatal(d)
				}
			}
		}
		if err != nil {
			if failure.KindOf(err) != failure.Poison {
				t.Fatalf("kind %s: %v", failure.KindOf(err), err)
			}
			return
		}
		b, err := c.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(v, again, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); d != "" {
			t.Fatal(d)
		}
	})
}

// cpuTime is what the process has used so far, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmark(b *testing.B, rec Record, v any) {
	c := codecFor(b, rec, nil)
	text, err := PlatformSchema(rec)
	if err != nil {
		b.Fatal(err)
	}
	other, err := goavro.NewCodec(text)
	if err != nil {
		b.Fatal(err)
	}
	framed, err := c.Encode(v)
	if err != nil {
		b.Fatal(err)
	}
	native := generic(reflect.ValueOf(v).Elem())
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(framed)))
			began := cpuTime(b)
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
			// Of a shared machine this says more than the time that has passed.
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
	run("encode/ours", func() error { _, err := c.Encode(v); return err })
	run("encode/goavro", func() error { _, err := other.BinaryFromNative(appendHeader(nil, 7), native); return err })
	run("decode/ours", func() error { _, err := c.Decode(framed); return err })
	run("decode/goavro", func() error { _, _, err := other.NativeFromBinary(framed[5:]); return err })
}

// goavro's figures leave out what it would still need: turning the Go type into
// maps and back.
func BenchmarkEntity(b *testing.B) { benchmark(b, Entity, sampleEntity()) }
func BenchmarkSignal(b *testing.B) { benchmark(b, Signal, sampleSignal()) }
