package cdc

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
)

// parseMaxwell reads a change of Maxwell's daemon; nil if it is no change of a
// row.
//
// https://maxwells-daemon.io/dataformat/
func (s *Source) parseMaxwell(value any) (*change, error) {
	if value == nil {
		return nil, nil
	}
	v, err := connectors.Plain(value)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %s, expected a Maxwell change", describe(v))
	}
	kind, err := text(m, "type")
	if err != nil {
		return nil, err
	}
	c := &change{capture: "maxwell", source: map[string]any{}}
	switch kind {
	case "insert":
		c.op = "c"
	case "update":
		c.op = "u"
	case "delete":
		c.op = "d"
	case "bootstrap-insert":
		c.op, c.snapshot = "r", true
	case "bootstrap-start", "bootstrap-complete", "heartbeat":
		return nil, nil
	default:
		if strings.HasPrefix(kind, "table-") || strings.HasPrefix(kind, "database-") {
			return nil, nil // definitions of tables and databases
		}
		return nil, fmt.Errorf("type: found %q, expected insert, update, delete or bootstrap-insert", kind)
	}
	for name, member := range m {
		if name != "data" && name != "old" {
			c.source[name] = member
		}
	}
	if c.db, err = text(m, "database"); err != nil {
		return nil, err
	}
	if c.table, err = text(m, "table"); err != nil {
		return nil, err
	}
	sec, err := number(m, "ts")
	if err != nil {
		return nil, err
	}
	c.ts = sec * 1000
	data, ok := m["data"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("data: found %s, expected an object of columns", describe(m["data"]))
	}
	old, ok := m["old"].(map[string]any)
	if !ok && m["old"] != nil {
		return nil, fmt.Errorf("old: found %s, expected an object of columns", describe(m["old"]))
	}
	switch c.op {
	case "d":
		c.before = data
	case "u": // old holds only the columns that changed
		c.after, c.before = data, maps.Clone(data)
		maps.Copy(c.before, old)
	default:
		c.after = data
	}
	columns := s.key
	if names, ok := m["primary_key_columns"].([]any); ok && len(names) > 0 {
		columns = make([]string, len(names))
		for i, n := range names {
			if columns[i], ok = n.(string); !ok {
				return nil, errors.New("primary_key_columns: expected an array of strings")
			}
		}
	}
	c.key = keyFrom(columns, data)
	return c, c.placeMaxwell(m)
}

// placeMaxwell reads the position: the transaction and the place in it. The
// last change of a transaction has "commit" instead of an offset.
func (c *change) placeMaxwell(m map[string]any) error {
	xid, err := number(m, "xid")
	if err != nil {
		return err
	}
	offset, err := number(m, "xoffset")
	if err != nil {
		return err
	}
	const bits = 20 // of the offset within a transaction
	switch {
	case xid == 0:
		return nil
	case m["commit"] == true:
		c.position, offset = fmt.Sprintf("xid %d commit", xid), 1<<bits-1
	case m["xoffset"] != nil:
		c.position = "xid " + strconv.FormatInt(xid, 10) + " offset " + strconv.FormatInt(offset, 10)
	default:
		return nil
	}
	c.sequence = xid&(1<<(63-bits)-1)<<bits | min(max(offset, 0), 1<<bits-1)
	return nil
}
