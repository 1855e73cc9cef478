package door_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/cdc"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/connectors/webhook"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/door"
)

// journaled is a journal that refuses what Kafka would refuse.
type journaled struct {
	t       *testing.T
	mu      sync.Mutex
	entries []journal.Entry
}

func (j *journaled) AppendAsync(_ context.Context, _, key, _ string, value []byte, done func(int32, int64, error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(key) + len(value); n > 1_048_000 {
		done(-1, -1, failure.New(failure.Transient, "append", "journal", "message of %d bytes", n))
		return
	}
	var e journal.Entry
	if err := json.Unmarshal(value, &e); err != nil {
		j.t.Error(err)
	}
	j.entries = append(j.entries, e)
	done(0, int64(len(j.entries)-1), nil)
}

type encoder struct{}

func (encoder) Encode(v any) ([]byte, error) { return json.Marshal(v) }

func open(t *testing.T, k connectors.Kind, settings map[string]any) (*door.Door, *door.Intake, *journaled) {
	t.Helper()
	src := &definition.Source{Name: "s", Connector: k.Name(), Settings: settings}
	c, err := k.Open(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &definition.Domain{Name: "d", Sources: []*definition.Source{src}}
	i := &door.Intake{Domain: d, Source: src, Connector: c}
	j := &journaled{t: t}
	return door.New([]*door.Intake{i}, j, map[string]door.Encoder{"d": encoder{}}, slog.New(slog.DiscardHandler)), i, j
}

var huge = strings.Repeat("x", 1<<20)

// Oracle: one record that the journal cannot take does not hold up a stream; it
// is journaled without its content, says where that is, and the others follow.
func TestAHugeRecordDoesNotHoldUpItsStream(t *testing.T) {
	d, i, j := open(t, cdc.Kind{}, map[string]any{"topics": []any{"crm"}})
	record := func(id, text string) door.StreamRecord {
		return door.StreamRecord{
			Origin: func() string { return "crm/0 offset " + id }, Key: []byte(`{"id":` + id + `}`),
			Value:   []byte(`{"op":"c","before":null,"after":{"id":` + id + `,"t":"` + text + `"},"source":{"ts_ms":1,"table":"c"}}`),
			Headers: map[string]string{},
		}
	}
	if err := d.Records(t.Context(), i, []door.StreamRecord{record("1", "a"), record("2", huge), record("3", "b")}); err != nil {
		t.Fatal(err)
	}
	if len(j.entries) != 3 {
		t.Fatalf("%d entries, expected 3", len(j.entries))
	}
	for n, e := range j.entries {
		if big := n == 1; big != (e.Quarantine != "") || big != (len(e.Body) == 0) {
			t.Errorf("entry %d: quarantine %q, %d bytes", n, e.Quarantine, len(e.Body))
		}
	}
	if q := j.entries[1].Quarantine; !strings.Contains(q, "crm/0 offset 2") || !strings.Contains(q, "expected at most 1000000") {
		t.Errorf("the reason names neither place nor limit: %s", q)
	}
	if j.entries[1].BodyHash == j.entries[0].BodyHash || j.entries[1].DedupeKey == "" {
		t.Error("what is left of the record does not identify it")
	}
}

// Oracle: the rows before and behind a huge one are taken.
func TestAHugeRowDoesNotHoldUpItsFile(t *testing.T) {
	d, i, j := open(t, file.Kind{}, map[string]any{"format": "jsonl"})
	body := `{"id":1}` + "\n" + `{"id":2,"t":"` + huge[:1_040_000] + `"}` + "\n" + `{"id":3}` + "\n"
	r, err := d.TakeFile(t.Context(), i, "default", door.File{Name: "a.jsonl", Body: strings.NewReader(body), Spool: t.TempDir()}, nil)
	if err != nil || r.Refused != nil {
		t.Fatal(err, r.Refused)
	}
	if r.Journaled != 3 || r.Quarantined != 1 || len(j.entries) != 3 || !strings.Contains(j.entries[1].Quarantine, "row 2 of file a.jsonl") {
		t.Fatalf("%+v, %d entries", r.FileProgress, len(j.entries))
	}
}

// Oracle: a sender is told that a delivery is too large instead of being asked
// to send it again for ever.
func TestAHugeDeliveryIsRefused(t *testing.T) {
	d, _, j := open(t, webhook.Kind{}, map[string]any{"scheme": "none"})
	_, err := d.Receive(t.Context(), "d", "s", "default", connectors.Delivery{Body: []byte(`{"t":"` + huge + `"}`)}, envelope.Cause{})
	if failure.KindOf(err) != failure.Validation || len(j.entries) != 0 {
		t.Fatalf("%v: kind %s, expected Validation", err, failure.KindOf(err))
	}
}

// Oracle: headers that anyone may have written become part of the platform's
// records only in their agreed form.
func TestHeadersOfRecordsAreNotTrusted(t *testing.T) {
	d, i, j := open(t, cdc.Kind{}, map[string]any{"topics": []any{"crm"}})
	err := d.Records(t.Context(), i, []door.StreamRecord{
		{Tombstone: true, Key: []byte("1"), Headers: map[string]string{"correlationid": "a\xffb", "traceparent": "00-x"}},
		{Tombstone: true, Key: []byte("2"), Headers: map[string]string{"correlationid": "c-1", "traceparent": "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c := j.entries[0].Cause; c != (envelope.Cause{}) {
		t.Errorf("taken: %+v", c)
	}
	if c := j.entries[1].Cause; c.Correlation != "c-1" || c.Traceparent != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		t.Errorf("not taken: %+v", c)
	}
}
