package cdc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
)

// parseDebezium reads a Debezium change event; nil if it is no change of a row.
//
// https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events
func (s *Source) parseDebezium(rawKey []byte, value any) (*change, error) {
	schema, v := unwrap(value)
	if v == nil {
		return nil, nil // a tombstone in a schema envelope
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %s, expected a Debezium envelope", describe(v))
	}
	op, ok := m["op"].(string)
	switch {
	case m["op"] == nil && notARow(m):
		return nil, nil
	case m["op"] == nil:
		return nil, errors.New("found no member op, expected a Debezium envelope; changes that were flattened (ExtractNewRecordState) are not understood")
	case !ok:
		return nil, fmt.Errorf("op: found %s, expected a string", describe(m["op"]))
	}
	switch op {
	case "t", "m":
		return nil, nil
	case "c", "u", "d", "r":
	default:
		return nil, fmt.Errorf("op: found %q, expected one of c, u, d, r, t, m", op)
	}
	c := &change{op: op}
	var err error
	if c.before, err = s.image(schema, m, "before"); err != nil {
		return nil, err
	}
	if c.after, err = s.image(schema, m, "after"); err != nil {
		return nil, err
	}
	if err := c.readSource(m); err != nil {
		return nil, err
	}
	if err := s.readKey(c, rawKey); err != nil {
		return nil, err
	}
	return c, c.check()
}

// check refuses a change that does not say which row it is about.
func (c *change) check() error {
	if c.op == "u" && c.after == nil && c.connector() == "mongodb" {
		return errors.New("after: found null, expected the document; the capture must look it up (capture.mode=change_streams_update_full)")
	}
	if c.op != "d" && c.after == nil {
		return fmt.Errorf("after: found null, expected the row (op %q)", c.op)
	}
	if c.op == "d" && c.before == nil && len(c.key) == 0 {
		return errors.New("a delete without before and without record key: which row is gone cannot be told; set REPLICA IDENTITY, or hand over the record key")
	}
	return nil
}

// unwrap takes a value out of the envelope {"schema", "payload"} of the Kafka
// Connect JsonConverter (schemas.enable=true).
func unwrap(v any) (schema map[string]any, payload any) {
	m, ok := v.(map[string]any)
	if !ok || len(m) != 2 {
		return nil, v
	}
	_, hasSchema := m["schema"]
	payload, hasPayload := m["payload"]
	if !hasSchema || !hasPayload {
		return nil, v
	}
	schema, _ = m["schema"].(map[string]any)
	return schema, payload
}

// notARow recognises Debezium's other records: transaction markers, schema
// changes and heartbeats.
func notARow(m map[string]any) bool {
	has := func(name string) bool { _, ok := m[name]; return ok }
	switch {
	case has("status") && has("id") && has("event_count"):
		return true
	case has("databaseName") && (has("ddl") || has("tableChanges")):
		return true
	case has("ts_ms"):
		for name := range m {
			if !slices.Contains([]string{"ts_ms", "ts_us", "ts_ns"}, name) {
				return false
			}
		}
		return true
	}
	return false
}

// image reads before or after into plain values, by the schema if there is one.
func (s *Source) image(schema map[string]any, m map[string]any, member string) (map[string]any, error) {
	v, form := m[member], field(schema, member)
	if doc, ok := v.(string); ok {
		var err error
		if v, err = s.document(doc); err != nil {
			return nil, at(member, err)
		}
		form = nil
	}
	s.unavailable.strip(v)
	v, err := convert(form, v)
	if err != nil {
		return nil, at(member, err)
	}
	switch row := v.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return row, nil
	}
	return nil, fmt.Errorf("%s: found %s, expected an object of columns", member, describe(v))
}

// readSource reads where and when the change was made.
func (c *change) readSource(m map[string]any) error {
	src, err := connectors.Plain(m["source"])
	if err != nil {
		return at("source", err)
	}
	source, ok := src.(map[string]any)
	if !ok && src != nil {
		return fmt.Errorf("source: found %s, expected an object", describe(src))
	}
	c.source = source
	for _, f := range []struct {
		to   *string
		name string
	}{{&c.db, "db"}, {&c.schema, "schema"}, {&c.table, "table"}} {
		if *f.to, err = text(source, f.name); err != nil {
			return at("source", err)
		}
	}
	if c.table == "" { // MongoDB
		if c.table, err = text(source, "collection"); err != nil {
			return at("source", err)
		}
	}
	if c.ts, err = number(source, "ts_ms"); err != nil {
		return at("source", err)
	}
	if c.ts == 0 { // before Debezium 0.10
		sec, err := number(source, "ts_sec")
		if err != nil {
			return at("source", err)
		}
		c.ts = sec * 1000
	}
	if c.ts == 0 {
		top := map[string]any{}
		if top["ts_ms"], err = connectors.Plain(m["ts_ms"]); err != nil {
			return err
		}
		if c.ts, err = number(top, "ts_ms"); err != nil {
			return err
		}
	}
	switch snap := source["snapshot"].(type) {
	case bool:
		c.snapshot = snap
	case string: // true, first, last, incremental and more
		c.snapshot = snap != "" && snap != "false"
	}
	c.snapshot = c.snapshot || c.op == "r"
	name, _ := source["name"].(string)
	c.capture = c.connector() + "/" + name
	c.position, c.sequence = position(source)
	if c.position == "" {
		c.position = transactionPosition(source, m["transaction"])
	}
	return nil
}

// readKey reads the record key, or takes the declared key columns of the row.
func (s *Source) readKey(c *change, raw []byte) error {
	key, err := s.recordKey(raw)
	if err != nil {
		return at("key", err)
	}
	c.key = key
	s.documentKey(c)
	if c.key == nil {
		image := c.after
		if c.op == "d" {
			image = c.before
		}
		c.key = keyFrom(s.key, image)
	}
	return nil
}

// recordKey reads the key of a Kafka record; nil if it names no columns.
func (s *Source) recordKey(raw []byte) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	v, err := connectors.DecodeJSONNumbers(raw, s.maxDepth)
	if err != nil {
		// Some captures write a bare text. It names no column, unless there
		// is only one that it can mean.
		if len(s.key) == 1 && raw[0] != '{' && raw[0] != '[' && raw[0] != 0 {
			return map[string]any{s.key[0]: strings.ToValidUTF8(string(raw), "\ufffd")}, nil
		}
		return nil, err
	}
	schema, v := unwrap(v)
	if v, err = convert(schema, v); err != nil {
		return nil, err
	}
	if m, ok := v.(map[string]any); ok {
		return m, nil
	}
	if _, isList := v.([]any); v != nil && !isList && len(s.key) == 1 {
		return map[string]any{s.key[0]: v}, nil
	}
	return nil, nil
}

// at puts the place in front of an error: "after.price: ...".
func at(place string, err error) error {
	var p *placeError
	if errors.As(err, &p) {
		return &placeError{place + "." + p.place, p.err}
	}
	return &placeError{place, err}
}

type placeError struct {
	place string
	err   error
}

func (e *placeError) Error() string { return e.place + ": " + e.err.Error() }
func (e *placeError) Unwrap() error { return e.err }
