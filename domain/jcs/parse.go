package jcs

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Parser reads JSON texts (RFC 8259) into nil, bool, string, []any,
// map[string]any and whatever Number makes of numbers. It reads in one pass and
// is several times as fast as encoding/json, of which it keeps the meaning of
// escapes that name half a surrogate pair: U+FFFD.
type Parser struct {
	// MaxDepth is the deepest nesting of arrays and objects.
	MaxDepth int
	// Unique refuses an object with two members of one name; else the last one
	// counts.
	Unique bool
	// Number makes a value of a number's literal.
	Number func(literal string) (any, error)
}

// SyntaxError is what is wrong with a text, and where.
type SyntaxError struct {
	// Offset in bytes, from 0; the length of the text where it breaks off.
	Offset int
	// Err wraps io.ErrUnexpectedEOF where the text breaks off.
	Err error
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("JSON at byte %d: %v", e.Offset, e.Err) }
func (e *SyntaxError) Unwrap() error { return e.Err }

// Parse reads one text. Every error is a *SyntaxError. The strings of the value
// share the memory of one copy of the text.
func (p *Parser) Parse(b []byte) (any, error) {
	if !utf8.Valid(b) {
		i := 0
		for {
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return nil, &SyntaxError{i, errors.New("invalid UTF-8")}
			}
			i += size
		}
	}
	t := &text{s: string(b), p: p}
	v, err := t.value(0)
	if err != nil {
		return nil, err
	}
	if t.space(); t.i < len(t.s) {
		return nil, t.wrong("expected the end, found more input")
	}
	return v, nil
}

// text is a JSON text that is being read; i is the next byte.
type text struct {
	s string
	i int
	p *Parser
}

func (t *text) wrong(format string, args ...any) error {
	return &SyntaxError{t.i, fmt.Errorf(format, args...)}
}

// unexpected tells of the next byte, or that there is none.
func (t *text) unexpected(expected string) error {
	if t.i >= len(t.s) {
		t.i = len(t.s)
		return &SyntaxError{t.i, fmt.Errorf("%w, expected %s", io.ErrUnexpectedEOF, expected)}
	}
	r, _ := utf8.DecodeRuneInString(t.s[t.i:])
	return t.wrong("found %q, expected %s", r, expected)
}

func (t *text) space() {
	for t.i < len(t.s) {
		switch t.s[t.i] {
		case ' ', '\t', '\n', '\r':
			t.i++
		default:
			return
		}
	}
}

// next skips space and gives the byte behind it, which is not consumed; 0 at
// the end.
func (t *text) next() byte {
	t.space()
	if t.i < len(t.s) {
		return t.s[t.i]
	}
	return 0
}

// value reads a value inside of depth arrays and objects.
func (t *text) value(depth int) (any, error) {
	switch c := t.next(); c {
	case '{', '[':
		if depth == t.p.MaxDepth {
			return nil, t.wrong("nested deeper than %d", t.p.MaxDepth)
		}
		t.i++
		if c == '[' {
			return t.array(depth + 1)
		}
		return t.object(depth + 1)
	case '"':
		return t.string()
	case 'n':
		return nil, t.literal("null")
	case 't':
		return true, t.literal("true")
	case 'f':
		return false, t.literal("false")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return t.number()
		}
		return nil, t.unexpected("a value")
	}
}

func (t *text) object(depth int) (any, error) {
	m := map[string]any{}
	if t.next() == '}' {
		t.i++
		return m, nil
	}
	for {
		if t.next() != '"' {
			return nil, t.unexpected("the name of a member")
		}
		name, err := t.string()
		if err != nil {
			return nil, err
		}
		if t.p.Unique {
			if _, dup := m[name]; dup {
				return nil, t.wrong("member %q occurs twice", name)
			}
		}
		if t.next() != ':' {
			return nil, t.unexpected("a colon")
		}
		t.i++
		if m[name], err = t.value(depth); err != nil {
			return nil, err
		}
		switch t.next() {
		case ',':
			t.i++
		case '}':
			t.i++
			return m, nil
		default:
			return nil, t.unexpected("a comma or the end of the object")
		}
	}
}

func (t *text) array(depth int) (any, error) {
	l := []any{}
	if t.next() == ']' {
		t.i++
		return l, nil
	}
	for {
		v, err := t.value(depth)
		if err != nil {
			return nil, err
		}
		l = append(l, v)
		switch t.next() {
		case ',':
			t.i++
		case ']':
			t.i++
			return l, nil
		default:
			return nil, t.unexpected("a comma or the end of the array")
		}
	}
}

func (t *text) literal(word string) error {
	for n := range len(word) {
		if t.i >= len(t.s) || t.s[t.i] != word[n] {
			return t.unexpected(word)
		}
		t.i++
	}
	return nil
}

// digits skips at least one digit.
func (t *text) digits() error {
	from := t.i
	for t.i < len(t.s) && '0' <= t.s[t.i] && t.s[t.i] <= '9' {
		t.i++
	}
	if t.i == from {
		return t.unexpected("a digit")
	}
	return nil
}

func (t *text) number() (any, error) {
	from := t.i
	if t.s[t.i] == '-' {
		t.i++
	}
	if t.i < len(t.s) && t.s[t.i] == '0' {
		t.i++ // no digit may follow, and none will be taken for the end
	} else if err := t.digits(); err != nil {
		return nil, err
	}
	if t.i < len(t.s) && t.s[t.i] == '.' {
		t.i++
		if err := t.digits(); err != nil {
			return nil, err
		}
	}
	if t.i < len(t.s) && (t.s[t.i] == 'e' || t.s[t.i] == 'E') {
		t.i++
		if t.i < len(t.s) && (t.s[t.i] == '+' || t.s[t.i] == '-') {
			t.i++
		}
		if err := t.digits(); err != nil {
			return nil, err
		}
	}
	v, err := t.p.Number(t.s[from:t.i])
	if err != nil {
		return nil, &SyntaxError{from, err}
	}
	return v, nil
}

// string reads a string; the next byte is its quotation mark.
func (t *text) string() (string, error) {
	t.i++
	from := t.i
	for t.i < len(t.s) {
		switch c := t.s[t.i]; {
		case c == '"':
			t.i++
			return t.s[from : t.i-1], nil
		case c == '\\':
			return t.escaped(from)
		case c < ' ':
			return "", t.unexpected("no control character in a string")
		}
		t.i++
	}
	return "", t.unexpected("the end of the string")
}

// escaped reads the rest of a string that began at from, from its first
// backslash on.
func (t *text) escaped(from int) (string, error) {
	var b strings.Builder
	b.WriteString(t.s[from:t.i])
	for t.i < len(t.s) {
		c := t.s[t.i]
		switch {
		case c == '"':
			t.i++
			return b.String(), nil
		case c < ' ':
			return "", t.unexpected("no control character in a string")
		case c != '\\':
			b.WriteByte(c)
			t.i++
			continue
		}
		t.i++
		if t.i >= len(t.s) {
			break
		}
		switch c := t.s[t.i]; c {
		case '"', '\\', '/':
			b.WriteByte(c)
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			r, err := t.unicode()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
			continue
		default:
			return "", t.unexpected("an escape sequence")
		}
		t.i++
	}
	return "", t.unexpected("the end of the string")
}

// unicode reads the escape sequence whose u is the next byte, and the one
// behind it if the two are a surrogate pair.
func (t *text) unicode() (rune, error) {
	t.i++
	r, err := t.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !strings.HasPrefix(t.s[t.i:], `\u`) {
		return unicode.ReplacementChar, nil
	}
	at := t.i
	t.i += 2
	low, err := t.hex()
	if err != nil {
		return 0, err
	}
	if pair := utf16.DecodeRune(r, low); pair != unicode.ReplacementChar {
		return pair, nil
	}
	t.i = at // the second stands for itself
	return unicode.ReplacementChar, nil
}

func (t *text) hex() (rune, error) {
	var r rune
	for range 4 {
		if t.i >= len(t.s) {
			return 0, t.unexpected("a hexadecimal digit")
		}
		switch c := t.s[t.i]; {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, t.unexpected("a hexadecimal digit")
		}
		t.i++
	}
	return r, nil
}
