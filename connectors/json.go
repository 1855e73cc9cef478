package connectors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// DefaultDepth is the nesting that connectors read unless told otherwise.
const DefaultDepth = 64

// DecodeJSON reads one JSON text into plain values: nil, bool, string, int64,
// float64, []any and map[string]any. An integer beyond 64 bits becomes the
// string of its digits, so that none is lost. The last of duplicate member
// names wins. Errors name the byte offset, from 0.
func DecodeJSON(b []byte, maxDepth int) (any, error) {
	v, err := DecodeJSONNumbers(b, maxDepth)
	if err != nil {
		return nil, err
	}
	return Plain(v)
}

// DecodeJSONNumbers is DecodeJSON with every number as a json.Number, its
// literal: for formats that say elsewhere of which type a number is.
func DecodeJSONNumbers(b []byte, maxDepth int) (any, error) {
	if err := checkText(b, maxDepth); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("invalid JSON at byte %d: unexpected end", len(b))
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			// Offset counts the bytes read, including the wrong one.
			return nil, fmt.Errorf("invalid JSON at byte %d: %w", max(syntax.Offset-1, 0), err)
		}
		return nil, fmt.Errorf("invalid JSON at byte %d: %w", dec.InputOffset(), err)
	}
	end := int(dec.InputOffset())
	if rest := bytes.TrimLeft(b[end:], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("invalid JSON at byte %d: expected the end, found %q", len(b)-len(rest), rest[0])
	}
	return v, nil
}

// Plain turns the json.Numbers of a decoded value into int64, float64, or, for
// an integer beyond 64 bits, the string of its digits. Maps and lists are
// changed in place.
func Plain(v any) (any, error) {
	switch x := v.(type) {
	case json.Number:
		switch n := jcs.Number(x.String()).(type) {
		case nil:
			return nil, fmt.Errorf("invalid JSON: number %.40s is beyond a double", x.String())
		case json.Number:
			return n.String(), nil
		default:
			return n, nil
		}
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

// checkText refuses what the JSON decoder would accept in silence (invalid
// UTF-8) or only after having allocated for it (deep nesting).
func checkText(b []byte, maxDepth int) error {
	if !utf8.Valid(b) {
		for i := 0; i < len(b); {
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return fmt.Errorf("invalid JSON at byte %d: invalid UTF-8", i)
			}
			i += size
		}
	}
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case '{', '[':
			if quoted {
				continue
			}
			if depth++; depth > maxDepth {
				return fmt.Errorf("invalid JSON at byte %d: nested deeper than %d", i, maxDepth)
			}
		case '}', ']':
			if !quoted {
				depth--
			}
		}
	}
	return nil
}
