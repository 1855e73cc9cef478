// Package debezium reads change events in Debezium's JSON envelope: with and
// without the Connect schema block, keys, tombstones, deletes that carry the key
// alone, truncates, logical messages, and the notices (schema changes,
// transaction boundaries, heartbeats) that connectors write to side topics.
//
// Sources of the format: the Debezium documentation, "Data change events" of
// each connector, and Kafka Connect's JsonConverter for the schema block.
//
// It decides nothing about rows: which table matters, what its columns mean and
// whether a change is new are questions for others. It does not read Avro.
package debezium

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// Op is the operation of a change event, as Debezium spells it.
type Op string

// The operations.
const (
	Create   Op = "c"
	Update   Op = "u"
	Delete   Op = "d"
	Read     Op = "r" // a row of a snapshot
	Truncate Op = "t" // the whole table was emptied: no row, no key
	Message  Op = "m" // a logical decoding message: no row
)

// Notice names what a record without an operation tells.
type Notice string

// The notices.
const (
	SchemaChange        Notice = "schema-change"
	TransactionBoundary Notice = "transaction"
	Heartbeat           Notice = "heartbeat"
)

// Placeholder is what Debezium writes for a column whose value the source did
// not send because it did not change (PostgreSQL TOAST, Oracle LOB). Such a
// column is absent from Before and After and listed in Unavailable.
const Placeholder = "__debezium_unavailable_value"

// Event is one record of a Debezium topic.
//
// Values are nil, bool, string, int64, float64, []any and map[string]any; an
// integer beyond 64 bits is a json.Number. With a schema block, semantic types
// are plain values: decimals are strings of the exact decimal, dates
// "2006-01-02", times "15:04:05.999999", timestamps RFC 3339 in UTC, JSON
// columns the JSON they hold, bytes standard base64. Without one they are what
// stood there, since nothing tells a date from a number of days.
type Event struct {
	// Op is empty for tombstones and notices.
	Op Op
	// Notice is empty for changes and tombstones.
	Notice Notice
	// Tombstone is the record without a value that follows a delete, for the
	// sake of compaction. It says nothing that the delete did not say, but it is
	// all that is left of it after compaction.
	Tombstone bool
	// Before and After are the row's columns; nil where there is none.
	// PostgreSQL gives Before only as far as the table's replica identity goes:
	// nothing, the key columns, or all.
	Before, After map[string]any
	// Unavailable lists, sorted, the columns that After lacks because the source
	// did not send them; see Placeholder.
	Unavailable []string
	// Columns of the row in the order of the table, from the schema block; nil
	// without one.
	Columns []Column
	// Key is the record key's columns, nil if there is no key or if it is no
	// struct; KeyText is the key as canonical JSON, or as it is if it is not
	// JSON, "" if there is none.
	Key     map[string]any
	KeyText string
	// Source is the source block as it is, nil if there is none. What follows is
	// taken from it; empty where it does not say.
	Source    map[string]any
	Connector string // "postgresql", "mysql", "mongodb", "sqlserver", "oracle" …
	Server    string // the logical name, which is the topic prefix
	Database  string
	Schema    string
	Table     string // or collection
	// Snapshot is true if the event was read from the table and not from the log.
	Snapshot bool
	// OccurredAt is when the source made the change; when the connector handled
	// it where the source does not say; 0 if neither is known.
	OccurredAt envelope.Instant
	// TsMs is when the connector handled the change, in milliseconds since 1970; 0
	// if it does not say.
	TsMs int64
	// Transaction is the transaction block; nil if there is none.
	Transaction map[string]any
	// Payload is the whole payload of a notice, and of a Message; nil otherwise.
	Payload map[string]any
	// Position identifies the change: the same change has the same position each
	// time it is delivered, and no other change has it. Empty if the source block
	// holds no position. See position.go.
	Position string
	// Sequence orders the changes of one row within one source: larger is later.
	// 0 if the source block does not tell.
	Sequence int64
}

// Row is the row after the change or, where it is gone, what is known of it: the
// row before, or the key columns. Nil if the event speaks of no row.
func (e *Event) Row() map[string]any {
	switch {
	case e.After != nil:
		return e.After
	case e.Before != nil:
		return e.Before
	}
	return e.Key
}

// Gone tells whether the event says that its row no longer exists.
func (e *Event) Gone() bool { return e.Op == Delete || e.Tombstone }

// Column is one column as the schema block declares it.
type Column struct {
	Name string
	// Type is the Connect type: "int32", "string", "struct" …
	Type string
	// Semantic is the schema name that gives the type its meaning:
	// "io.debezium.time.Date"; empty if it has none.
	Semantic string
	Optional bool
}

// Decoder decodes records. The zero value is ready; it is safe for concurrent
// use. It remembers schema blocks, since every record of a table repeats the
// same few kilobytes; the memory is bounded.
type Decoder struct {
	mu      sync.RWMutex
	schemas map[string]*schema
}

// maxSchemas that a Decoder remembers: tables times versions of them.
const maxSchemas = 512

const op = "decode CDC envelope"

func invalid(subject, format string, args ...any) error {
	return failure.New(failure.Validation, op, subject, format, args...)
}

// Decode reads the key and the value of one record; either may be nil. The event
// keeps no reference to them. Errors are failures of kind Validation: not JSON,
// not a Debezium envelope, an unknown operation, or a value that contradicts
// the schema block.
func (d *Decoder) Decode(key, value []byte) (*Event, error) {
	e := &Event{}
	if err := d.key(e, key); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(value)) == 0 {
		e.Tombstone = true
		return e, nil
	}
	payload, s, err := d.split(value)
	if err != nil {
		return nil, invalid("value", "%w", err)
	}
	if payload == nil {
		e.Tombstone = true
		return e, nil
	}
	p, ok := payload.(map[string]any)
	if !ok {
		return nil, invalid("value", "found %s, expected an object", describe(payload))
	}
	if err := e.fill(p, s); err != nil {
		return nil, err
	}
	e.Position, e.Sequence = position(e)
	return e, nil
}

// key reads the record key. A key that is not JSON is taken as text: connectors
// may be configured with any key converter.
func (d *Decoder) key(e *Event, key []byte) error {
	if len(bytes.TrimSpace(key)) == 0 {
		return nil
	}
	raw, s, err := d.split(key)
	if err != nil {
		e.KeyText = strings.ToValidUTF8(string(key), "\ufffd")
		return nil
	}
	v, err := convert(s, raw, "key", nil)
	if err != nil {
		return invalid("key", "%w", err)
	}
	if v == nil {
		return nil
	}
	text, err := jcs.Append(nil, v)
	if err != nil {
		return invalid("key", "%w", err)
	}
	e.KeyText = string(text)
	e.Key, _ = v.(map[string]any)
	return nil
}

// split parses JSON and separates the payload from the schema block, if there is one.
func (d *Decoder) split(b []byte) (payload any, s *schema, err error) {
	v, err := parse(b)
	if err != nil {
		return nil, nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v, nil, nil
	}
	block, hasSchema := m["schema"]
	payload, hasPayload := m["payload"]
	if !hasSchema || !hasPayload || len(m) != 2 {
		return v, nil, nil
	}
	if block == nil {
		return payload, nil, nil
	}
	s, err = d.schema(b, block)
	return payload, s, err
}

// schema compiles a schema block or finds it compiled. The block's text is found
// again by a second, shallow look at the bytes, which is much cheaper than
// compiling it.
func (d *Decoder) schema(b []byte, block any) (*schema, error) {
	var shallow struct {
		Schema json.RawMessage `json:"schema"`
	}
	if err := json.Unmarshal(b, &shallow); err != nil {
		return nil, err
	}
	d.mu.RLock()
	s, ok := d.schemas[string(shallow.Schema)]
	d.mu.RUnlock()
	if ok {
		return s, nil
	}
	s, err := compile(block, 0)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.schemas == nil || len(d.schemas) >= maxSchemas {
		d.schemas = make(map[string]*schema)
	}
	d.schemas[string(shallow.Schema)] = s
	return s, nil
}

// fill reads an envelope's payload.
func (e *Event) fill(p map[string]any, s *schema) error {
	raw, hasOp := p["op"]
	if !hasOp || raw == nil {
		return e.notice(p, s)
	}
	name, ok := raw.(string)
	if !ok {
		return invalid("op", "found %s, expected one of c, u, d, r, t, m", describe(raw))
	}
	e.Op = Op(name)
	var err error
	if err = e.source(p); err != nil {
		return err
	}
	var missing []string
	if e.Before, err = row(p["before"], s.field("before"), "before", nil); err != nil {
		return err
	}
	if e.After, err = row(p["after"], s.field("after"), "after", &missing); err != nil {
		return err
	}
	e.Unavailable = sorted(missing)
	if e.Columns = s.field("after").columns(); e.Columns == nil {
		e.Columns = s.field("before").columns()
	}
	switch e.Op {
	case Create, Read, Update:
		// MongoDB sends an update without the document unless it is asked to
		// look it up; there is then no row to speak of.
		if e.After == nil && (e.Op != Update || e.Connector != "mongodb") {
			return invalid("after", "found null, expected the row: op is %q", name)
		}
	case Delete:
		if e.After != nil {
			return invalid("after", "found a row, expected null: op is %q", name)
		}
		if e.Before == nil && e.KeyText == "" {
			return invalid("before", "found null and no record key, expected one of them to tell which row was deleted")
		}
	case Truncate:
	case Message:
		v, err := convert(s, p, "", nil)
		if err != nil {
			return invalid("message", "%w", err)
		}
		e.Payload, _ = v.(map[string]any)
	default:
		return invalid("op", "found %q, expected one of c, u, d, r, t, m", name)
	}
	return nil
}

// notice reads a payload that has no operation.
func (e *Event) notice(p map[string]any, s *schema) error {
	_, ddl := p["ddl"]
	_, changes := p["tableChanges"]
	_, status := p["status"]
	_, id := p["id"]
	_, ts := p["ts_ms"]
	switch {
	case ddl || changes:
		e.Notice = SchemaChange
	case status && id:
		e.Notice = TransactionBoundary
	case ts && len(p) == 1:
		e.Notice = Heartbeat
	default:
		return invalid("op", "missing, expected a Debezium envelope with op, before, after and source; found members %s", members(p))
	}
	v, err := convert(s, p, "", nil)
	if err != nil {
		return invalid(string(e.Notice), "%w", err)
	}
	e.Payload, _ = v.(map[string]any)
	return e.source(p)
}

// source reads the source block, the transaction block and the times. Their
// schemas add nothing, and versions of Debezium disagree with their own (snapshot
// was a boolean and became an enum).
func (e *Event) source(p map[string]any) error {
	var err error
	if e.Source, err = object(p["source"], "source"); err != nil {
		return err
	}
	if e.Transaction, err = object(p["transaction"], "transaction"); err != nil {
		return err
	}
	e.Connector, e.Server = text(e.Source, "connector"), text(e.Source, "name")
	e.Database, e.Schema = text(e.Source, "db"), text(e.Source, "schema")
	if e.Table = text(e.Source, "table"); e.Table == "" {
		e.Table = text(e.Source, "collection")
	}
	switch snapshot := e.Source["snapshot"].(type) {
	case bool:
		e.Snapshot = snapshot
	case string: // "true", "first", "first_in_data_collection", "last" …, "incremental", "false"
		e.Snapshot = snapshot != "" && snapshot != "false"
	}
	if e.TsMs, _, err = integer(p, "ts_ms"); err != nil {
		return err
	}
	if e.OccurredAt, err = instant(e.Source, "source."); err != nil || e.OccurredAt != 0 {
		return err
	}
	e.OccurredAt, err = instant(p, "")
	return err
}

// instant reads the finest time given among ts_us, ts_ns, ts_ms and ts_sec. Zero
// counts as not given: snapshots of old versions write it.
func instant(m map[string]any, path string) (envelope.Instant, error) {
	for _, u := range [...]struct {
		name     string
		mul, div int64
	}{{"ts_us", 1, 1}, {"ts_ns", 1, 1000}, {"ts_ms", 1000, 1}, {"ts_sec", 1e6, 1}} {
		n, ok, err := integer(m, u.name)
		if err != nil {
			return 0, err
		}
		if !ok || n == 0 {
			continue
		}
		if us := n / u.div * u.mul; us/u.mul == n/u.div {
			return envelope.Instant(us), nil
		}
		return 0, invalid(path+u.name, "found %d, which is beyond the range of microseconds", n)
	}
	return 0, nil
}

// integer reads an integer member, which the documentation also shows as a string.
func integer(m map[string]any, name string) (n int64, ok bool, err error) {
	switch v := m[name].(type) {
	case nil:
		return 0, false, nil
	case int64:
		return v, true, nil
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, true, nil
		}
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, true, nil
		}
	}
	return 0, false, invalid(name, "found %s, expected an integer", describe(m[name]))
}

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

func object(v any, path string) (map[string]any, error) {
	if v == nil {
		return nil, nil
	}
	c, err := convert(nil, v, path, nil)
	if err != nil {
		return nil, invalid(path, "%w", err)
	}
	m, ok := c.(map[string]any)
	if !ok {
		return nil, invalid(path, "found %s, expected an object or null", describe(v))
	}
	return m, nil
}

// row reads before or after. MongoDB's is a string that holds the document in
// extended JSON.
func row(v any, s *schema, path string, missing *[]string) (map[string]any, error) {
	if doc, ok := v.(string); ok {
		parsed, err := parse([]byte(doc))
		if err != nil {
			return nil, invalid(path, "a document in a string: %w", err)
		}
		if v = extended(parsed); v == nil {
			return nil, nil
		}
		s = nil
	}
	if v == nil {
		return nil, nil
	}
	c, err := convert(s, v, path, missing)
	if err != nil {
		return nil, invalid(path, "%w", err)
	}
	m, ok := c.(map[string]any)
	if !ok {
		return nil, invalid(path, "found %s, expected an object or null", describe(v))
	}
	return m, nil
}

// parse reads one JSON text and keeps the literals of numbers, so that a decimal
// written as a number loses no digit before its schema is known.
func parse(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("invalid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("JSON at byte %d: %w", dec.InputOffset(), err)
	}
	if rest := bytes.TrimSpace(b[dec.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("JSON at byte %d: expected the end, found more input", dec.InputOffset())
	}
	return v, nil
}
