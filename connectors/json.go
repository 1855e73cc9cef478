package connectors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// DefaultDepth is the nesting that connectors read unless told otherwise.
const DefaultDepth = 64

// DecodeJSON reads one JSON text into plain values: nil, bool, string, int64,
// float64, []any and map[string]any. An integer beyond 64 bits becomes the
// string of its digits, so that none is lost. The last of duplicate member
// names wins. Errors name the byte offset, from 0.
func DecodeJSON(b []byte, maxDepth int) (any, error) { return parse(b, maxDepth, plain) }

// DecodeJSONNumbers is DecodeJSON with every number as a json.Number, its
// literal: for formats that say elsewhere of which type a number is.
func DecodeJSONNumbers(b []byte, maxDepth int) (any, error) {
	return parse(b, maxDepth, func(literal string) (any, error) { return json.Number(literal), nil })
}

func parse(b []byte, maxDepth int, number func(string) (any, error)) (any, error) {
	p := jcs.Parser{MaxDepth: maxDepth, Number: number}
	v, err := p.Parse(b)
	var syntax *jcs.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("invalid JSON at byte %d: unexpected end", len(b))
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("invalid JSON at byte %d: %w", syntax.Offset, syntax.Err)
	}
	return v, err
}

// plain reads a number's literal as DecodeJSON gives it.
func plain(literal string) (any, error) {
	switch n := jcs.Number(literal).(type) {
	case nil:
		return nil, fmt.Errorf("number %.40s is beyond a double", literal)
	case json.Number:
		return n.String(), nil
	default:
		return n, nil
	}
}

// Plain turns the json.Numbers of a decoded value into int64, float64, or, for
// an integer beyond 64 bits, the string of its digits. Maps and lists are
// changed in place.
func Plain(v any) (any, error) {
	switch x := v.(type) {
	case json.Number:
		n, err := plain(x.String())
		if err != nil {
			return nil, fmt.Errorf("invalid JSON: %w", err)
		}
		return n, nil
	case []any:
		for i, e := range x {
			p, err := Plain(e)
			if err != nil {
				return nil, err
			}
			x[i] = p
		}
	case map[string]any:
		for k, e := range x {
			switch e.(type) {
			case json.Number, []any, map[string]any:
				p, err := Plain(e)
				if err != nil {
					return nil, err
				}
				x[k] = p
			}
		}
	}
	return v, nil
}
