package cdc

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
)

// Debezium's MongoDB capture writes a document as a string of extended JSON,
// in before, after and the member "id" of the record key.

// document reads such a string; numbers stay literals.
func (s *Source) document(text string) (any, error) {
	v, err := connectors.DecodeJSONNumbers([]byte(text), s.maxDepth)
	if err != nil {
		return nil, err
	}
	return extended(v), nil
}

// documentKey replaces a key {"id": "<extended JSON>"} by what it says.
func (s *Source) documentKey(c *change) {
	if c.connector() != "mongodb" || len(c.key) != 1 {
		return
	}
	if text, ok := c.key["id"].(string); ok {
		if v, err := s.document(text); err == nil {
			if v, err = connectors.Plain(v); err == nil {
				c.key["id"] = v
			}
		}
	}
}

// extended gives the plain value of MongoDB extended JSON, canonical or
// relaxed: type wrappers that have a plain value are replaced, the others stay
// as they are.
//
// https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/
func extended(v any) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = extended(x[i])
		}
	case map[string]any:
		if len(x) == 1 {
			for wrapper, inner := range x {
				if p, ok := wrapped(wrapper, inner); ok {
					return p
				}
			}
		}
		for k := range x {
			x[k] = extended(x[k])
		}
	}
	return v
}

func wrapped(wrapper string, v any) (any, bool) {
	text, isText := v.(string)
	switch wrapper {
	case "$oid", "$numberDecimal", "$symbol":
		return text, isText
	case "$numberInt", "$numberLong", "$numberDouble":
		_, err := strconv.ParseFloat(text, 64)
		return json.Number(text), isText && err == nil && json.Valid([]byte(text))
	case "$date":
		switch d := extended(v).(type) {
		case string:
			return d, true
		case json.Number:
			if ms, err := strconv.ParseInt(d.String(), 10, 64); err == nil {
				return iso(time.UnixMilli(ms), time.RFC3339Nano), true
			}
		}
	}
	return nil, false
}
