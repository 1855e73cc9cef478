package file

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

// dialect splits CSV (RFC 4180): cells between delimiters, quoted where they
// contain delimiters, quotes (doubled) or line ends. Like most readers it takes
// a quote inside a cell that does not start with one as an ordinary character.
type dialect struct{ delimiter, quote byte }

// The states of reading a cell.
type state int

const (
	atStart state = iota // nothing of the cell was read
	bare                 // in a cell without quotes
	quoted               // between quotes
	closing              // behind a quote that closes, or doubles
)

// advance reads one line from a state and tells the state behind it: quoted
// means that the record goes on.
func (d dialect) advance(s state, text []byte) state {
	if s == atStart && bytes.IndexByte(text, d.quote) < 0 {
		return bare
	}
	for _, c := range text {
		s = d.step(s, c)
	}
	return s
}

func (d dialect) step(s state, c byte) state {
	isQuote := d.quote != 0 && c == d.quote
	switch s {
	case quoted:
		if isQuote {
			return closing
		}
		return quoted
	case closing:
		if isQuote {
			return quoted
		}
	case atStart:
		if isQuote {
			return quoted
		}
	}
	if c == d.delimiter {
		return atStart
	}
	return bare
}

// split gives the cells of a record without its line end. stray is the number
// (from 1) of the first cell with text behind its closing quote, else 0.
func (d dialect) split(text []byte) (cells []string, stray int) {
	if d.quote == 0 || bytes.IndexByte(text, d.quote) < 0 {
		return strings.Split(string(text), string(rune(d.delimiter))), 0
	}
	var cell []byte
	s := atStart
	for _, c := range text {
		next := d.step(s, c)
		switch {
		case next == atStart: // a delimiter between cells
			cells = append(cells, string(cell))
			cell = cell[:0]
		case s == atStart && next == quoted: // the opening quote
		case next == closing: // it closes, or doubles with the next one
		case s == closing && next == bare:
			if stray == 0 {
				stray = len(cells) + 1
			}
			cell = append(cell, c)
		default:
			cell = append(cell, c)
		}
		s = next
	}
	return append(cells, string(cell)), stray
}

// record is one record of a CSV file: its physical lines.
type record struct {
	line     int64
	raw      []byte // without the last line end
	long     bool   // longer than the limit; raw is its beginning
	unclosed bool   // a quote opens in it that nothing closes; raw is its first line
}

// records reads records of several lines. A quote that nothing closes would
// swallow the rest of the file: such a record is given as its first line alone,
// and reading goes on with the second.
type records struct {
	*lines
	dialect
	// reread counts the bytes of lines that were given back. It bounds the
	// work: beyond 8 times the size of the input no record of several lines is
	// tried among them.
	reread int64
}

func (r *records) nextRecord(comment byte) (record, bool, error) {
	first, err := r.next()
	if err != nil {
		return record{}, false, err
	}
	rec := record{line: first.number, raw: trimEnd(first.text), long: first.long}
	if comment != 0 && len(first.text) > 0 && first.text[0] == comment {
		return rec, true, nil
	}
	s := r.advance(atStart, first.text)
	if first.long || s != quoted {
		return rec, false, nil
	}
	text := bytes.Clone(first.text)
	var more []line
	for {
		if len(r.back) > 0 && r.reread > 8*r.bytes {
			break
		}
		next, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return record{}, false, err
		}
		more = append(more, next)
		if next.long || len(text)+len(next.text) > r.max+2 {
			break
		}
		text = append(text, next.text...)
		if s = r.advance(s, next.text); s != quoted {
			rec.raw = trimEnd(text)
			return rec, false, nil
		}
	}
	for _, l := range more {
		r.reread += int64(len(l.text))
	}
	r.giveBack(more)
	rec.unclosed = true
	return rec, false, nil
}
