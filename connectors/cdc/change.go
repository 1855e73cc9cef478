package cdc

import (
	"encoding/base64"
	"fmt"
	"maps"
	"strconv"

	"github.com/touchstone-platform/touchstone/connectors"
)

// change is one change of one row, whichever envelope it came in.
type change struct {
	op                 string
	before, after, key map[string]any
	source             map[string]any
	db, schema, table  string
	ts                 int64 // milliseconds since 1970
	snapshot           bool
	// position in the log of the database; empty if the envelope has none.
	position string
	sequence int64
	// capture names the kind and the name of the capture, for the vendor id.
	capture string
}

// record gives the variables of the change.
func (c *change) record() connectors.Record {
	r := connectors.Record{
		"op": c.op, "before": nil, "after": nil, "row": c.row(), "key": c.key,
		"table": c.table, "db": c.db, "schema": c.schema, "source": c.source,
		"ts": c.ts, "deleted": c.op == "d", "snapshot": c.snapshot,
		"position": c.position, "sequence": c.sequence,
	}
	// A nil map in an interface would not be null to expressions.
	if c.before != nil {
		r["before"] = c.before
	}
	if c.after != nil {
		r["after"] = c.after
	}
	if c.key == nil {
		r["key"] = map[string]any{}
	}
	if c.source == nil {
		r["source"] = map[string]any{}
	}
	return r
}

// connector names the kind of database, as Debezium does.
func (c *change) connector() string {
	name, _ := c.source["connector"].(string)
	return name
}

// row is the image of the row that the change leaves or, for a delete, took
// away, with the key columns that the image does not have.
func (c *change) row() map[string]any {
	image := c.after
	if c.op == "d" {
		image = c.before
	}
	row := make(map[string]any, len(image)+len(c.key))
	maps.Copy(row, c.key)
	maps.Copy(row, image)
	for k, v := range c.key {
		if row[k] == nil { // an image may have the column and not its value
			row[k] = v
		}
	}
	return row
}

// keyFrom picks the declared key columns out of the row; nil if one is not there.
func keyFrom(columns []string, row map[string]any) map[string]any {
	if len(columns) == 0 {
		return nil
	}
	key := make(map[string]any, len(columns))
	for _, c := range columns {
		v, ok := row[c]
		if !ok || v == nil {
			return nil
		}
		key[c] = v
	}
	return key
}

// placeholder stands for a column whose value the capture did not have, such
// as an unchanged TOAST column of PostgreSQL: as text, as bytes in base64, or
// as the item of a list.
//
// https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-toasted-values
type placeholder struct{ text, base64 string }

func newPlaceholder(text string) placeholder {
	return placeholder{text, base64.StdEncoding.EncodeToString([]byte(text))}
}

func (p placeholder) is(v any) bool {
	switch x := v.(type) {
	case string:
		return p.text != "" && (x == p.text || x == p.base64)
	case []any:
		return len(x) == 1 && p.is(x[0])
	}
	return false
}

// strip removes the columns that have no value: not to know is no claim.
func (p placeholder) strip(image any) {
	m, _ := image.(map[string]any)
	for column, v := range m {
		if p.is(v) {
			delete(m, column)
		}
	}
}

// text reads an optional string member.
func text(m map[string]any, name string) (string, error) {
	switch v := m[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		return "", at(name, fmt.Errorf("found %s, expected a string", describe(v)))
	}
}

// number reads an optional integer member, which some captures write as a
// string; 0 if it is not there.
func number(m map[string]any, name string) (int64, error) {
	switch v := m[name].(type) {
	case nil:
		return 0, nil
	case int64:
		return v, nil
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, at(name, fmt.Errorf("found %s, expected an integer", describe(m[name])))
}

func describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("the string %.60q", x)
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("%.60v", v)
}
