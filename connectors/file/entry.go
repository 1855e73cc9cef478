package file

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// The headers of the entry of a row.
const (
	headerName    = "file.name"
	headerSHA256  = "file.sha256"
	headerRow     = "file.row"
	headerColumns = "file.columns" // the header record of a CSV file, as UTF-8
)

// Entries reads a file that was inspected before, and calls fn with the journal
// entry of every row: ContentType, Headers, Body, VendorID and, for a bad row,
// Quarantine are set, the rest is the caller's. The vendor id is
// "<sha256>/<row>", so the same file twice is harmless.
//
// name is the file's name as the sender gave it, and sha256 the hash that
// Inspect reported; that the content is another by now is a failure of kind
// Conflict, told after the last row. An error of fn ends the reading and is
// returned.
func (s *Source) Entries(r io.Reader, name, sha256 string, fn func(*journal.Entry) error) (*Report, error) {
	name = cleanName(name)
	report, err := s.scan(r, func(sc *scan, row Row) error { return fn(sc.entry(name, sha256, row)) })
	if err != nil {
		return nil, err
	}
	if report.SHA256 != sha256 {
		return report, failure.New(failure.Conflict, "read file", name, "its SHA-256 is %s, it was %.80s when it was inspected", report.SHA256, sha256)
	}
	return report, nil
}

func (sc *scan) entry(name, sha256 string, row Row) *journal.Entry {
	number := strconv.FormatInt(row.Number, 10)
	e := &journal.Entry{
		ContentType: "text/csv",
		Headers:     map[string]string{headerName: name, headerSHA256: sha256, headerRow: number},
		Body:        row.Raw,
		VendorID:    sha256 + "/" + number,
		Quarantine:  quarantine(name, row.Errors),
	}
	if sc.jsonl {
		e.ContentType = "application/json"
	} else if sc.hasHeader {
		e.Headers[headerColumns] = sc.header
	}
	return e
}

// quarantine tells why a row is bad; "" if it is not.
func quarantine(name string, errs []Error) string {
	if len(errs) == 0 {
		return ""
	}
	return name + ": " + firstErrors(errs)
}

// firstErrors tells the first errors of a row, and how many more there are.
func firstErrors(errs []Error) string {
	const told = 5
	texts := make([]string, 0, told)
	for _, e := range errs[:min(len(errs), told)] {
		texts = append(texts, e.Error())
	}
	s := strings.Join(texts, "; ")
	if n := len(errs) - told; n > 0 {
		s += fmt.Sprintf("; and %d more", n)
	}
	return s
}

// cleanName keeps the last element of a name that somebody sent, without what
// could mislead a reader.
func cleanName(name string) string {
	name = path.Base(strings.ReplaceAll(strings.ToValidUTF8(name, "\ufffd"), `\`, "/"))
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, name)
	if len(name) > 255 {
		name = strings.ToValidUTF8(name[:255], "")
	}
	return name
}

// Decode gives the record of a row. A row that the settings refuse is a failure
// of kind Validation with its row number, column and reason.
func (s *Source) Decode(e *journal.Entry) ([]connectors.Record, error) {
	subject := fmt.Sprintf("source %s file %s", s.name, e.Headers[headerName])
	number, err := strconv.ParseInt(e.Headers[headerRow], 10, 64)
	if err != nil {
		return nil, failure.New(failure.Validation, "decode row", subject, "header %s: found %.40q, expected a row number", headerRow, e.Headers[headerRow])
	}
	row := Row{Number: number, Raw: e.Body}
	c := checker{row: &row}
	if s.jsonl {
		s.object(&c, e.Body)
	} else {
		labels, err := s.entryLabels(e)
		if err != nil {
			return nil, failure.Wrap(failure.Validation, "decode row", subject, err)
		}
		s.cells(&c, labels, e.Body)
	}
	if len(row.Errors) > 0 {
		return nil, failure.New(failure.Validation, "decode row", subject, "%s", firstErrors(row.Errors))
	}
	return []connectors.Record{{
		"row":  row.Values,
		"file": map[string]any{"name": e.Headers[headerName], "sha256": e.Headers[headerSHA256], "row": number},
	}}, nil
}

// entryLabels names the columns of an entry of CSV.
func (s *Source) entryLabels(e *journal.Entry) ([]label, error) {
	d := dialect{s.delimiter, s.quote}
	if !s.hasHeader {
		if len(s.columns) > 0 {
			return declaredLabels(s.columns), nil
		}
		cells, _ := d.split(e.Body)
		return numberedLabels(len(cells)), nil
	}
	text, ok := e.Headers[headerColumns]
	if !ok || text == "" {
		return nil, fmt.Errorf("header %s is missing, expected the header row of the file", headerColumns)
	}
	if h := s.header.Load(); h != nil && h.text == text {
		return h.labels, nil
	}
	cells, _ := d.split([]byte(text))
	if len(cells) > maxColumns {
		return nil, fmt.Errorf("header %s: found %d columns, expected at most %d", headerColumns, len(cells), maxColumns)
	}
	labels, _ := s.readLabels(cells)
	s.header.Store(&decodedHeader{text, labels})
	return labels, nil
}
