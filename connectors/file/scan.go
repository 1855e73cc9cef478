package file

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// maxColumns of a CSV file.
const maxColumns = 10_000

// Row is one row of data.
type Row struct {
	// Number as in the file, the header of a CSV file being row 1.
	Number int64
	// Line is the physical line at which the row starts, from 1.
	Line int64
	// Raw is the row as in the file, without its line end. Of a row beyond
	// maxRowBytes it is the beginning, of a row with a quote that nothing
	// closes the first line.
	Raw []byte
	// Values by column; nil if the row is so broken that it has none. In CSV
	// every value is a string.
	Values map[string]any
	// Errors, at most 20; none means that the row is good.
	Errors []Error
}

// label is one column of the file.
type label struct {
	name     string  // as records spell it; "" is not part of the record
	declared *column // nil if the settings say nothing about it
	absent   bool    // declared, required, and not in the header
}

// scan is one reading of one file.
type scan struct {
	*Source
	lines  *lines
	report Report
	labels []label
	header string // the header record as UTF-8 text
	sums   map[string]*number
	row    int64
}

// Inspect reads a file to its end and reports what it found, without keeping
// any of it. The error is one of reading r; whatever is wrong with the content
// is in the report.
func (s *Source) Inspect(r io.Reader) (*Report, error) {
	return s.Scan(r, func(Row) error { return nil })
}

// Scan reads a file to its end, calls fn with every row of data in the order
// of the file, and reports what it found. The row belongs to fn. An error of fn
// ends the reading and is returned.
func (s *Source) Scan(r io.Reader, fn func(Row) error) (*Report, error) {
	return s.scan(r, func(_ *scan, row Row) error { return fn(row) })
}

func (s *Source) scan(r io.Reader, fn func(*scan, Row) error) (*Report, error) {
	sc := &scan{Source: s, lines: newLines(r, s.maxRowBytes), sums: map[string]*number{}}
	for _, name := range s.sum {
		sc.sums[name] = &number{new(big.Int), 0}
	}
	run := sc.csv
	if s.jsonl {
		run = sc.jsonLines
	}
	err := run(func(row Row) error { return fn(sc, row) })
	if err == nil {
		err = sc.lines.drain()
	}
	if err != nil {
		return nil, err
	}
	rep := &sc.report
	if rep.Bytes = sc.lines.bytes; rep.Bytes == 0 {
		rep.add(Error{Code: SourceError, Reason: "the file is empty"})
	}
	rep.SHA256 = hex.EncodeToString(sc.lines.hash.Sum(nil))
	if len(sc.sums) > 0 {
		rep.Sums = make(map[string]string, len(sc.sums))
		for name, n := range sc.sums {
			rep.Sums[name] = n.String()
		}
	}
	return rep, nil
}

func (sc *scan) foreign() bool {
	if sc.lines.foreign {
		sc.report.add(Error{Code: SourceError, Reason: "found a UTF-16 byte order mark, expected UTF-8"})
	}
	return sc.lines.foreign
}

// take counts a row, sums its control columns and hands it to fn.
func (sc *scan) take(row Row, more int64, fn func(Row) error) error {
	sc.report.Rows++
	if len(row.Errors) == 0 {
		sc.report.Good++
	} else {
		sc.report.Bad++
	}
	for _, e := range row.Errors {
		sc.report.add(e)
	}
	sc.report.ErrorCount += more
	for name, sum := range sc.sums {
		text := ""
		switch v := row.Values[name].(type) {
		case string:
			text = v
		case int64:
			text = strconv.FormatInt(v, 10)
		case float64: // JSON: the shortest text that reads back as the same
			text = strconv.FormatFloat(v, 'f', -1, 64)
		}
		if n, err := parseDecimal(text); err == nil {
			sum.add(n)
		}
	}
	return fn(row)
}

func (sc *scan) csv(fn func(Row) error) error {
	recs := &records{lines: sc.lines, dialect: dialect{sc.delimiter, sc.quote}}
	if !sc.hasHeader && len(sc.columns) > 0 {
		sc.labels = declaredLabels(sc.columns)
		sc.report.Columns = names(sc.labels)
	}
	for {
		rec, comment, err := recs.nextRecord(sc.comment)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if sc.foreign() {
			return nil
		}
		sc.row++
		blank := len(rec.raw) == 0
		if comment || blank && sc.skipBlankRows {
			continue
		}
		if sc.labels == nil && !blank {
			stop, err := sc.begin(rec)
			if err != nil || stop {
				return err
			}
			if sc.hasHeader {
				continue
			}
		}
		row := Row{Number: sc.row, Line: rec.line, Raw: rec.raw}
		more, skip := sc.check(&row, rec)
		if skip {
			continue
		}
		if err := sc.take(row, more, fn); err != nil {
			return err
		}
	}
}

// begin reads the labels from the first record, or counts its cells.
func (sc *scan) begin(rec record) (stop bool, err error) {
	whole := func(reason string) (bool, error) {
		sc.report.add(Error{Row: sc.row, Line: rec.line, Code: SourceError, Reason: reason})
		return true, nil
	}
	if rec.long || rec.unclosed {
		return whole(fmt.Sprintf("the first row is longer than %d bytes or has a quote that nothing closes", sc.maxRowBytes))
	}
	text := string(rec.raw)
	if sc.latin1 {
		text = latin1(text)
	} else if !utf8.ValidString(text) {
		return whole("the first row is not UTF-8")
	}
	cells, _ := dialect{sc.delimiter, sc.quote}.split([]byte(text))
	if len(cells) > maxColumns {
		return whole(fmt.Sprintf("found %d columns, expected at most %d", len(cells), maxColumns))
	}
	if !sc.hasHeader {
		sc.labels = numberedLabels(len(cells))
		sc.report.Columns = names(sc.labels)
		return false, nil
	}
	sc.header = text
	var errs []Error
	sc.labels, errs = sc.readLabels(cells)
	for _, e := range errs {
		e.Row, e.Line = sc.row, rec.line
		sc.report.add(e)
	}
	sc.report.Columns = names(sc.labels)
	return false, nil
}

// readLabels names the columns by the cells of the header.
func (s *Source) readLabels(cells []string) (out []label, errs []Error) {
	seen := map[string]int{}
	for i, cell := range cells {
		l := label{name: cell}
		switch {
		case strings.TrimSpace(cell) == "":
			l.name = ""
			errs = append(errs, Error{Column: i + 1, Code: BlankLabel, Reason: "the label is empty; the column is not read"})
		case seen[cell] > 0:
			first := seen[cell]
			for n := 2; seen[l.name] > 0; n++ {
				l.name = cell + strconv.Itoa(n)
			}
			errs = append(errs, Error{Column: i + 1, Name: cell, Code: DuplicateLabel,
				Reason: fmt.Sprintf("the label is the same as that of column %d; it is read as %q", first, l.name)})
		}
		if l.name != "" {
			seen[l.name] = i + 1
			l.declared = s.column(l.name)
		}
		out = append(out, l)
	}
	for i := range s.columns {
		if c := &s.columns[i]; c.required && seen[c.name] == 0 {
			out = append(out, label{name: c.name, declared: c, absent: true})
			errs = append(errs, Error{Column: len(out), Name: c.name, Code: MissingLabel, Reason: "the column is required and not in the header"})
		}
	}
	for _, name := range s.sum {
		if seen[name] == 0 && !s.column(name).required {
			errs = append(errs, Error{Name: name, Code: MissingLabel, Reason: "the column has a control total and is not in the header"})
		}
	}
	return out, errs
}

func declaredLabels(columns []column) []label {
	out := make([]label, len(columns))
	for i := range columns {
		out[i] = label{name: columns[i].name, declared: &columns[i]}
	}
	return out
}

func numberedLabels(n int) []label {
	out := make([]label, n)
	for i := range out {
		out[i].name = "field" + strconv.Itoa(i+1)
	}
	return out
}

func names(labels []label) []string {
	out := make([]string, 0, len(labels))
	for _, l := range labels {
		if !l.absent {
			out = append(out, l.name)
		}
	}
	return out
}

// check splits a record into the row's values and errors. more counts errors
// beyond those that the row lists.
func (sc *scan) check(row *Row, rec record) (more int64, skip bool) {
	c := checker{row: row, report: &sc.report}
	switch {
	case rec.long:
		c.fail(0, "", RowTooLong, "the row is longer than %d bytes", sc.maxRowBytes)
		return c.more, false
	case rec.unclosed:
		c.fail(0, "", QuoteError, "a quote opens that nothing closes within %d bytes; the next line is read as a row of its own", sc.maxRowBytes)
		return c.more, false
	}
	blank := sc.cells(&c, sc.labels, rec.raw)
	return c.more, blank && sc.skipBlankRows
}

// cells fills the values of a row and tells whether it is blank.
func (s *Source) cells(c *checker, labels []label, raw []byte) (blank bool) {
	cells, stray := dialect{s.delimiter, s.quote}.split(raw)
	if allEmpty(cells) {
		c.fail(0, "", BlankRow, "the row has no value")
		return true
	}
	if stray > 0 {
		name := ""
		if stray <= len(labels) {
			name = labels[stray-1].name
		}
		c.fail(stray, name, QuoteError, "text stands behind the closing quote")
	}
	values := make(map[string]any, len(labels))
	for i, l := range labels {
		if i >= len(cells) || l.absent {
			if l.declared != nil && l.declared.required {
				c.fail(i+1, l.name, ConstraintError, "found nothing, expected a value")
			}
			c.fail(i+1, l.name, MissingCell, "the row has %d cells, expected %d", len(cells), len(labels))
			continue
		}
		cell := cells[i]
		if s.latin1 {
			cell = latin1(cell)
		} else if !utf8.ValidString(cell) {
			c.fail(i+1, l.name, EncodingError, "found %.60q, expected UTF-8", cell)
			continue
		}
		if l.name == "" {
			continue
		}
		values[l.name] = cell
		if l.declared != nil {
			c.value(i+1, l.declared, cell)
		}
	}
	// Columns that the header lacks have no cells, so cells beyond the header
	// are extra even where such columns are declared.
	present := len(labels)
	for present > 0 && labels[present-1].absent {
		present--
	}
	for i := present; i < len(cells); i++ {
		c.fail(i+1, "", ExtraCell, "found %.60q, expected the end of the row", strings.ToValidUTF8(cells[i], "\ufffd"))
	}
	c.row.Values = values
	return false
}

func allEmpty(cells []string) bool {
	for _, c := range cells {
		if c != "" {
			return false
		}
	}
	return true
}

// latin1 reads ISO 8859-1, whose bytes are the code points.
func latin1(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}

// checker collects the errors of a row.
type checker struct {
	row    *Row
	report *Report // nil if nothing is counted
	more   int64
}

func (c *checker) fail(column int, name string, code Code, format string, args ...any) {
	if len(c.row.Errors) < maxRowErrors {
		c.row.Errors = append(c.row.Errors, Error{c.row.Number, c.row.Line, column, name, code, fmt.Sprintf(format, args...)})
		return
	}
	c.more++
	if c.report != nil {
		if c.report.ByCode == nil {
			c.report.ByCode = map[Code]int64{}
		}
		c.report.ByCode[code]++
	}
}

// value checks the text of one cell against what is declared about its column.
func (c *checker) value(column int, d *column, cell string) {
	if cell == "" {
		if d.required {
			c.fail(column, d.name, ConstraintError, "found nothing, expected a value")
		}
		return
	}
	ok := true
	switch d.kind.Kind {
	case canonical.KindInt:
		_, err := strconv.ParseInt(cell, 10, 64)
		ok = err == nil
	case canonical.KindFloat:
		f, err := strconv.ParseFloat(cell, 64)
		ok = err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	case canonical.KindDecimal:
		_, err := parseDecimal(cell)
		ok = err == nil
	case canonical.KindBool:
		ok = cell == "true" || cell == "false"
	case canonical.KindDate, canonical.KindTimestamp:
		_, err := d.kind.Coerce(cell)
		ok = err == nil
	}
	if !ok {
		c.fail(column, d.name, TypeError, "found %.60q, expected %s", cell, d.kind)
	}
}

func (sc *scan) jsonLines(fn func(Row) error) error {
	for {
		l, err := sc.lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if sc.foreign() {
			return nil
		}
		sc.row++
		row := Row{Number: sc.row, Line: l.number, Raw: trimEnd(l.text)}
		c := checker{row: &row, report: &sc.report}
		if l.long {
			c.fail(0, "", RowTooLong, "the row is longer than %d bytes", sc.maxRowBytes)
		} else if blank := sc.object(&c, row.Raw); blank && sc.skipBlankRows {
			continue
		}
		if err := sc.take(row, c.more, fn); err != nil {
			return err
		}
	}
}

// object fills the values of a row of JSON and tells whether it is blank.
func (s *Source) object(c *checker, raw []byte) (blank bool) {
	if strings.TrimSpace(string(raw)) == "" {
		c.fail(0, "", BlankRow, "the row has no value")
		return true
	}
	v, err := connectors.DecodeJSON(raw, s.maxDepth)
	if err != nil {
		c.fail(0, "", JSONError, "%s", err)
		return false
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.fail(0, "", JSONError, "found no JSON object, expected one")
		return false
	}
	for i := range s.columns {
		d := &s.columns[i]
		switch value := m[d.name]; {
		case value == nil || value == "":
			if d.required {
				c.fail(0, d.name, ConstraintError, "found nothing, expected a value")
			}
		default:
			if _, err := d.kind.Coerce(value); err != nil {
				c.fail(0, d.name, TypeError, "%s", err)
			} else if _, isText := value.(string); isText && d.kind.Kind == canonical.KindDecimal {
				c.value(0, d, value.(string))
			}
		}
	}
	c.row.Values = m
	return false
}
