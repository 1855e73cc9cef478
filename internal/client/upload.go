package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
)

// Upload is a file for a source's door.
type Upload struct {
	// Source by its name, or by "<domain>.<name>".
	Source string
	// Name of the file, without folders.
	Name string
	// ContentType and ContentEncoding as in HTTP; either may be empty.
	ContentType, ContentEncoding string
	Body                         io.Reader
	// Size of Body in bytes; negative if it is not known.
	Size int64
	// Rows, SHA256 and Sums (exact decimals by column) are control totals that
	// the server holds the file against; negative and empty if there are none.
	Rows   int64
	SHA256 string
	Sums   map[string]string
	// Correlation id that all rows share; the server makes one if it is empty.
	Correlation string
}

// Progress is how far the server has come with a file.
type Progress struct {
	Bytes       int64 `json:"bytes"`
	Rows        int64 `json:"rows"`
	Journaled   int64 `json:"journaled"`
	Quarantined int64 `json:"quarantined"`
}

// Report is what became of a file at the door. What became of its rows is told
// by their deliveries.
type Report struct {
	Source string `json:"source"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Progress
	// Sums of the source's control columns, exact decimals.
	Sums map[string]string `json:"sums,omitempty"`
	// Errors of bad rows, the first ones only; Quarantined counts all.
	Errors []RowError `json:"errors"`
	// First and Last are the journal ids of the first and the last row.
	First       string `json:"first,omitempty"`
	Last        string `json:"last,omitempty"`
	Correlation string `json:"correlation,omitempty"`
}

// RowError says what is wrong with one row.
type RowError struct {
	Row    int64  `json:"row"`
	Column string `json:"column,omitempty"`
	Reason string `json:"reason"`
}

// FileRefused is the code of the problem that tells of a file of which no row
// was taken: too many bad rows, or a control total that does not match.
const FileRefused = "file-refused"

// maxLine bounds one line of an upload's answer, in bytes.
const maxLine = 8 << 20

// Upload sends a file and tells of progress while it goes in. A file that was
// refused is a Problem with the code FileRefused.
func (c *Client) Upload(ctx context.Context, u Upload, progress func(Progress)) (*Report, error) {
	q := url.Values{"name": {u.Name}}
	if u.Rows >= 0 {
		q.Set("rows", strconv.FormatInt(u.Rows, 10))
	}
	if u.SHA256 != "" {
		q.Set("sha256", u.SHA256)
	}
	if len(u.Sums) > 0 {
		sums, err := json.Marshal(u.Sums)
		if err != nil {
			return nil, err
		}
		q.Set("sums", string(sums))
	}
	r, err := c.request(ctx, http.MethodPost, []string{"v1", "ingress", u.Source, "files"}, q, io.NopCloser(u.Body))
	if err != nil {
		return nil, err
	}
	r.ContentLength = u.Size
	if u.Size == 0 {
		r.Body = http.NoBody // or net/http takes the length for unknown
	}
	r.Header.Set("Accept", "application/x-ndjson")
	for name, value := range map[string]string{"Content-Type": u.ContentType, "Content-Encoding": u.ContentEncoding, "Correlation-Id": u.Correlation} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	a, err := c.do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if media, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")); media != "application/x-ndjson" {
		return nil, fmt.Errorf("%s: found an answer of type %q, expected application/x-ndjson", r.URL.Redacted(), a.Header.Get("Content-Type"))
	}
	report, err := readReport(a.Body, progress)
	var p *Problem
	switch {
	case err == nil, errors.As(err, &p):
		return report, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, &Unreachable{Server: c.Server(), Err: err}
}

// readReport reads lines of progress up to the last line: the report, or the
// problem.
func readReport(body io.Reader, progress func(Progress)) (*Report, error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var line struct {
			Progress *Progress `json:"progress"`
			Report   *Report   `json:"report"`
			Problem  *Problem  `json:"problem"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("a line of the answer is not JSON: %w", err)
		}
		switch {
		case line.Problem != nil:
			return nil, line.Problem
		case line.Report != nil:
			return line.Report, nil
		case line.Progress != nil && progress != nil:
			progress(*line.Progress)
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("the answer broke off before the report: %w; the same file may be sent again, rows that are in are recognised", err)
}
