package inbox_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/inbox"
)

// jsonBody decodes the body as JSON into the variable "body".
type jsonBody struct{}

func (jsonBody) Decode(e *journal.Entry) ([]connectors.Record, error) {
	v, err := jcs.Decode(e.Body)
	if err != nil {
		return nil, failure.Wrap(failure.Validation, "decode", e.Source, err)
	}
	return []connectors.Record{{"body": v}}, nil
}

// path is an expression that follows member names: "body.id", "item".
type path string

func (p path) Source() string { return string(p) }
func (p path) Eval(vars map[string]any) (any, error) {
	var v any = vars
	for _, name := range strings.Split(string(p), ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, definition.ErrMissing)
		}
		if v, ok = m[name]; !ok {
			return nil, fmt.Errorf("%s: %w", name, definition.ErrMissing)
		}
	}
	return v, nil
}
func (p path) Holds(vars map[string]any) (bool, error) {
	v, err := p.Eval(vars)
	b, _ := v.(bool)
	return b, err
}

func station() *inbox.Station {
	str := canonical.Type{Kind: canonical.KindString}
	d := &definition.Domain{Name: "test"}
	d.Resources = []*definition.Resource{{Name: "customer", Identity: []string{"number"}, Fields: []*definition.Field{
		{Name: "email", Type: str}, {Name: "phone", Type: str}, {Name: "status", Type: canonical.Type{Kind: canonical.KindEnum, Symbols: []string{"active", "closed"}}},
	}}}
	d.Sources = []*definition.Source{{Name: "crm", Rules: []*definition.Rule{
		{Name: "crm/0", Resource: "customer", When: path("body.isCustomer"), Key: path("body.id"), Identity: []definition.Expr{path("body.id")},
			OccurredAt: path("body.at"), Deleted: path("body.gone"),
			Fields: []definition.FieldRule{
				{Field: "email", Expr: path("body.email"), Optional: true},
				{Field: "status", Expr: path("body.status"), Optional: true, States: map[string]string{"A": "active"}},
			}},
		{Name: "crm/1", Resource: "customer", Each: path("body.contacts"), Key: path("item.id"), Identity: []definition.Expr{path("item.id")},
			Fields: []definition.FieldRule{{Field: "phone", Expr: path("item.phone")}}},
	}}}
	return inbox.New(d, map[string]connectors.Connector{"crm": jsonBody{}})
}

func record(offset int64, body, vendorID string) processors.Record {
	e := &journal.Entry{Source: "crm", Tenant: "default", Body: []byte(body), VendorID: vendorID, ReceivedAt: envelope.Instant(1000 + offset)}
	e.Identify(nil)
	return processors.Record{Partition: 2, Offset: offset, Key: e.DedupeKey, Value: e}
}

const jane = `{"isCustomer":true,"id":7,"at":1700000000,"gone":false,"email":"jane@example.com","status":"A"}`

func dispositions(t *testing.T, es []processors.Emit) []string {
	t.Helper()
	var out []string
	for _, e := range es {
		switch v := e.Value.(type) {
		case *journal.Outcome:
			out = append(out, string(v.Disposition))
		case *signal.Signal:
			out = append(out, "signal "+v.ID+" "+v.SourceKey)
		}
	}
	return out
}

func TestOneDeliveryOneSignal(t *testing.T) {
	eff, err := station().Step(nil, record(5, jane, ""))
	if err != nil {
		t.Fatal(err)
	}
	want := &signal.Signal{
		ID: "test:2:5", Journal: "test:2:5", Signals: 1, Tenant: "default", Source: "crm", SourceKey: "7", Resource: "customer",
		Match: []canonical.Value{`"7"`}, Fields: []canonical.Named{{Name: "email", Value: `"jane@example.com"`}, {Name: "status", Value: `"active"`}},
		OccurredAt: 1700000000e6, ReceivedAt: 1005, Mapping: "crm/0",
		Cause: envelope.Cause{Correlation: "test:2:5", Causation: "test:2:5"},
	}
	if len(eff.Emit) != 1 || eff.Emit[0].Stream != "test.signals" || eff.Emit[0].Key != "default/crm/customer/7" {
		t.Fatalf("effects %+v", eff)
	}
	if diff := cmp.Diff(want, eff.Emit[0].Value); diff != "" {
		t.Errorf("signal (-want +got):\n%s", diff)
	}
	seen := eff.State.(*journal.Seen)
	if seen.Offset != 5 || seen.At != 1005 || seen.BodyHash == "" {
		t.Errorf("remembered %+v", seen)
	}
}

// Oracle: the first offset passes again with the same signals and no new
// state; any other offset is a duplicate, counted once however often it is read.
func TestDuplicatesAndReplay(t *testing.T) {
	s := station()
	first, err := s.Step(nil, record(5, jane, "evt-1"))
	if err != nil {
		t.Fatal(err)
	}
	seen := first.State.(*journal.Seen)
	copied := *seen
	replay, err := s.Step(&copied, record(5, jane, "evt-1"))
	if err != nil || replay.State != nil || cmp.Diff(first.Emit, replay.Emit) != "" {
		t.Fatalf("replay of the first copy gave %+v, %v", replay, err)
	}
	for _, again := range []int{1, 2} {
		copied := *seen
		eff, err := s.Step(&copied, record(9, jane, "evt-1"))
		if err != nil || eff.DeadLetter != nil {
			t.Fatal(eff, err)
		}
		if got := dispositions(t, eff.Emit); cmp.Diff(got, []string{"duplicate"}) != "" {
			t.Fatalf("second copy gave %v", got)
		}
		if o := eff.Emit[0].Value.(*journal.Outcome); o.First != "test:2:5" || o.Journal != "test:2:9" {
			t.Errorf("outcome %+v", o)
		}
		if again == 1 {
			seen = eff.State.(*journal.Seen)
		} else if eff.State != nil {
			t.Errorf("reading the copy again changed the state to %+v", eff.State)
		}
	}
	if seen.Duplicates != 1 {
		t.Errorf("%d duplicates counted", seen.Duplicates)
	}
}

func TestConflictIsKeptAndFlagged(t *testing.T) {
	s := station()
	first, _ := s.Step(nil, record(5, jane, "evt-1"))
	eff, err := s.Step(first.State, record(9, strings.Replace(jane, "jane@", "joan@", 1), "evt-1"))
	if err != nil {
		t.Fatal(err)
	}
	if got := dispositions(t, eff.Emit); cmp.Diff(got, []string{"conflict"}) != "" {
		t.Fatalf("a conflict gave %v", got)
	}
	if failure.KindOf(eff.DeadLetter) != failure.Conflict || eff.State.(*journal.Seen).Conflicts != 1 {
		t.Errorf("dead letter %v, state %+v", eff.DeadLetter, eff.State)
	}
	// A copy with the first body is still just a duplicate.
	eff, _ = s.Step(eff.State, record(10, jane, "evt-1"))
	if got := dispositions(t, eff.Emit); cmp.Diff(got, []string{"duplicate"}) != "" {
		t.Errorf("the first body again gave %v", got)
	}
}

func TestSeveralSignals(t *testing.T) {
	eff, err := station().Step(nil, record(1, `{"isCustomer":false,"contacts":[{"id":1,"phone":"a"},{"id":2,"phone":"b"}]}`, ""))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"signal test:2:1#0 1", "signal test:2:1#1 2", "accepted"}, dispositions(t, eff.Emit)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if o := eff.Emit[2].Value.(*journal.Outcome); o.Signals != 2 {
		t.Errorf("outcome %+v", o)
	}
}

func TestIgnored(t *testing.T) {
	eff, err := station().Step(nil, record(1, `{"isCustomer":false}`, ""))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ignored"}, dispositions(t, eff.Emit)); diff != "" || eff.State == nil {
		t.Errorf("(-want +got):\n%s state %v", diff, eff.State)
	}
}

func TestDeleted(t *testing.T) {
	eff, err := station().Step(nil, record(1, `{"isCustomer":true,"id":7,"at":1,"gone":true}`, ""))
	if err != nil {
		t.Fatal(err)
	}
	if s := eff.Emit[0].Value.(*signal.Signal); !s.Deleted || s.Fields != nil {
		t.Errorf("signal %+v", s)
	}
}

func TestFailures(t *testing.T) {
	for body, says := range map[string]string{
		`{"isCustomer":`: "decode crm",
		`{"isCustomer":true,"at":1,"gone":false}`:                     "rule crm/0 key",
		`{"isCustomer":true,"id":7,"at":"noon","gone":false}`:         `rule crm/0 occurredAt: expected a timestamp, an RFC 3339 string or a number since 1970, found string "noon"`,
		`{"isCustomer":true,"id":7,"at":1,"gone":false,"email":5}`:    "rule crm/0 field email: expected string, found int 5",
		`{"isCustomer":true,"id":7,"at":1,"gone":false,"status":"X"}`: `field status: status "X" is not among the declared states`,
		`{"isCustomer":false,"contacts":7}`:                           "each: expected a list",
		`{"isCustomer":false,"contacts":[{"id":1}]}`:                  "rule crm/1 field phone",
		`{"isCustomer":true,"id":{"a":1},"at":1,"gone":false}`:        "expected a string or an int",
	} {
		eff, err := station().Step(nil, record(1, body, ""))
		if err == nil || !strings.Contains(err.Error(), says) || failure.KindOf(err) != failure.Validation {
			t.Errorf("%s: effects %+v, error %v (%s), want Validation that says %q", body, eff, err, failure.KindOf(err), says)
		}
	}
	bad := record(1, jane, "")
	bad.Value.(*journal.Entry).Quarantine = "row 3: missing cell"
	if _, err := station().Step(nil, bad); err == nil || !strings.Contains(err.Error(), "row 3: missing cell") {
		t.Errorf("a quarantined row gave %v", err)
	}
	unknown := record(1, jane, "")
	unknown.Value.(*journal.Entry).Source = "nobody"
	if _, err := station().Step(nil, unknown); failure.KindOf(err) != failure.NotFound {
		t.Errorf("an unknown source gave %v", err)
	}
	out := station().Failed(record(4, jane, ""), failure.New(failure.Validation, "op", "x", "bad"))
	if o := out[0].Value.(*journal.Outcome); o.Disposition != journal.DeadLetter || o.Reason != "Validation" || o.Journal != "test:2:4" {
		t.Errorf("outcome %+v", o)
	}
	if out := station().Failed(processors.Record{Partition: 1, Offset: 2}, errors.New("x")); out[0].Value.(*journal.Outcome).Journal != "test:1:2" {
		t.Errorf("outcome of undecodable bytes %+v", out)
	}
}

// Oracle: the outcome of a failure can be told however much of what the sender
// wrote its message quotes.
func TestOutcomesOfFailuresAreBounded(t *testing.T) {
	s := station()
	rec := record(1, `{"isCustomer":true,"id":7,"at":"`+strings.Repeat("ü", 500_000)+`"}`, "")
	_, err := s.Step(nil, rec)
	if failure.KindOf(err) != failure.Validation {
		t.Fatalf("%v, expected a failure of kind Validation", failure.KindOf(err))
	}
	o := s.Failed(rec, err)[0].Value.(*journal.Outcome)
	if len(o.Detail) > processors.MaxDetail || !utf8.ValidString(o.Detail) || !strings.Contains(o.Detail, "crm/0 occurredAt") {
		t.Errorf("%d bytes: %.100s", len(o.Detail), o.Detail)
	}
}

// Oracle: one delivery cannot make any number of records.
func TestSignalsOfOneDeliveryAreBounded(t *testing.T) {
	contacts := func(n int) string {
		return `{"isCustomer":false,"contacts":[` + strings.TrimSuffix(strings.Repeat(`{"id":"1","phone":"2"},`, n), ",") + `]}`
	}
	if effects, err := station().Step(nil, record(1, contacts(inbox.MaxSignals), "")); err != nil || len(effects.Emit) != inbox.MaxSignals+1 {
		t.Fatalf("%d records, %v", len(effects.Emit), err)
	}
	_, err := station().Step(nil, record(2, contacts(inbox.MaxSignals+1), ""))
	if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), "crm/1") {
		t.Fatalf("%v, expected a failure of kind Validation that names the rule", err)
	}
}

// Oracle: a number since 1970 keeps its fraction, and no size of it is read as
// another time.
func TestOccurredAtOfNumbers(t *testing.T) {
	for in, want := range map[string]envelope.Instant{
		"1700000000": 1700000000_000000, "1700000000.25": 1700000000_250000, "1700000000123": 1700000000_123000,
		"1700000000123456": 1700000000_123456, "1700000000123456789": 1700000000_123456, "-9223372036854775808": -9223372036854775,
	} {
		effects, err := station().Step(nil, record(1, `{"isCustomer":true,"id":7,"gone":false,"at":`+in+`}`, ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := effects.Emit[0].Value.(*signal.Signal).OccurredAt; got != want {
			t.Errorf("%s: %d, expected %d", in, got, want)
		}
	}
}
