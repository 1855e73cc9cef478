package main

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newIngest(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "ingest FILE --source NAME",
		Short: "Send a file to a source, row by row",
		Long: `Send a file to a source that takes files: CSV or JSON Lines of a file source, or
JSON Lines of change envelopes for a cdc source. Every row is a delivery of its
own; the same file sent twice is harmless, since its rows are recognised. A bad
row is kept in quarantine with its row number, column and reason.

"-" reads standard input. A name that ends in .gz is sent compressed, and named
and checked by its content. Control totals say what must have arrived: if they
do not match, or if there are more bad rows than the source allows, no row is
taken and the exit code is 5.`,
		Example: `  touchstone ingest scores.csv --source risk
  touchstone ingest changes.jsonl --source crm --expect-rows 1200
  zcat big.csv.gz | touchstone ingest - --name big.csv --source risk`,
		Args: arguments("FILE"),
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	u := client.Upload{}
	c.Flags().StringVar(&u.Source, "source", "", "source that the file belongs to, by its name or <domain>.<name> (required)")
	c.Flags().StringVar(&u.Name, "name", "", "name of the file (default: as it is on disk, without folders)")
	c.Flags().StringVar(&u.Correlation, "correlation", "", "correlation id that all rows share (default: the server makes one)")
	c.Flags().Int64Var(&u.Rows, "expect-rows", -1, "control total: number of rows; negative for none")
	sum := c.Flags().String("sha256", "", "control total: SHA-256 of the file's content in `hex`adecimal; without a value, as it is computed here")
	c.Flags().Lookup("sha256").NoOptDefVal = compute
	c.Flags().StringToStringVar(&u.Sums, "expect-sum", nil, "control total: the exact sum of a `column=decimal` that the source sums; repeatable")
	quiet := c.Flags().BoolP("quiet", "q", false, "no progress")
	c.RunE = func(c *cobra.Command, args []string) error {
		if u.Source == "" {
			return usage("--source is required: which source does %s belong to?", args[0])
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		f, err := openUpload(e, args[0], &u, *sum)
		if err != nil {
			return err
		}
		defer f.Close()
		talk := newTalk(e.Stderr, u.Size, *quiet)
		u.Body = talk.count(f)
		report, err := api.Upload(c.Context(), u, talk.progress)
		talk.end()
		if err != nil {
			return err
		}
		return e.printer(out).print(report, func(p printer) error { return tellReport(p, report) })
	}
	return c
}

// compute is the value of --sha256 where none is given.
const compute = "compute"

var sha256Form = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// openUpload opens the file and completes what is known of it.
func openUpload(e env, path string, u *client.Upload, sum string) (io.ReadCloser, error) {
	if sum != "" && sum != compute && !sha256Form.MatchString(sum) {
		return nil, usage("--sha256: found %q, expected 64 hexadecimal digits", sum)
	}
	u.SHA256 = strings.ToLower(sum)
	name := filepath.Base(path)
	if path == "-" {
		if sum == compute {
			return nil, usage("--sha256: standard input can be read only once, expected the digits")
		}
		if u.Name == "" {
			return nil, usage("--name is required with standard input")
		}
		u.Size, u.ContentType = -1, contentType(u.Name)
		return io.NopCloser(e.Stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		f.Close()
		return nil, unreadable(path, err)
	case info.IsDir():
		f.Close()
		return nil, usage("%s: found a folder, expected a file", path)
	}
	u.Size = info.Size()
	if !info.Mode().IsRegular() {
		u.Size = -1 // a pipe tells no size
	}
	if strings.HasSuffix(name, ".gz") {
		name, u.ContentEncoding = strings.TrimSuffix(name, ".gz"), "gzip"
	}
	if u.Name == "" {
		u.Name = name
	}
	u.ContentType = contentType(u.Name)
	if sum == compute {
		if u.SHA256, err = hashOf(f, u.ContentEncoding); err != nil {
			f.Close()
			return nil, usage("%s: %w", path, err)
		}
	}
	return f, nil
}

// hashOf gives the SHA-256 of a file's content and goes back to its beginning.
func hashOf(f *os.File, encoding string) (string, error) {
	content := io.Reader(f)
	if encoding == "gzip" {
		z, err := gzip.NewReader(f)
		if err != nil {
			return "", err
		}
		content = z
	}
	h := sha256.New()
	if _, err := io.Copy(h, content); err != nil {
		return "", err
	}
	_, err := f.Seek(0, io.SeekStart)
	return hex.EncodeToString(h.Sum(nil)), err
}

func contentType(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return "text/csv"
	case ".jsonl", ".ndjson":
		return "application/x-ndjson"
	case ".json":
		return "application/json"
	}
	return "application/octet-stream"
}

func tellReport(p printer, r *client.Report) error {
	if err := p.printf("%s of %s: %s, %d journaled, %d in quarantine\n", r.File, r.Source, count(r.Rows, "row"), r.Journaled, r.Quarantined); err != nil {
		return err
	}
	t := table{indent: "  "}
	t.add("bytes", fmt.Sprint(r.Bytes))
	t.add("sha256", r.SHA256)
	for _, column := range slices.Sorted(maps.Keys(r.Sums)) {
		t.add("sum of "+column, r.Sums[column])
	}
	if r.First != "" {
		t.add("first row", r.First)
		t.add("last row", r.Last)
	}
	if r.Correlation != "" {
		t.add("correlation", r.Correlation)
	}
	if err := t.write(p); err != nil {
		return err
	}
	if len(r.Errors) == 0 {
		return nil
	}
	if err := p.printf("\n"); err != nil {
		return err
	}
	bad := table{indent: "  ", header: []string{"ROW", "COLUMN", "REASON"}}
	for _, x := range r.Errors {
		bad.add(fmt.Sprint(x.Row), orDash(x.Column), x.Reason)
	}
	if err := bad.write(p); err != nil {
		return err
	}
	if more := r.Quarantined - int64(len(r.Errors)); more > 0 {
		return p.printf("  and %d more\n", more)
	}
	return nil
}

// talk tells of an upload on standard error: on a terminal one line that
// changes, else a line now and then.
type talk struct {
	w        io.Writer
	size     int64
	terminal bool
	quiet    bool
	every    time.Duration
	sent     atomic.Int64
	last     time.Time
	open     bool // a line without its end is on the terminal
}

func newTalk(w io.Writer, size int64, quiet bool) *talk {
	t := &talk{w: w, size: size, quiet: quiet, terminal: isTerminal(w), every: 5 * time.Second}
	if t.terminal {
		t.every = 100 * time.Millisecond
	}
	return t
}

// count counts what is read of the file.
func (t *talk) count(r io.Reader) io.Reader { return counted{r, &t.sent} }

type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// progress tells how far the server has come, unless it has just done so.
func (t *talk) progress(p client.Progress) {
	if t.quiet || !t.last.IsZero() && time.Since(t.last) < t.every {
		return
	}
	t.last = time.Now()
	sent := bytesText(t.sent.Load())
	if t.size > 0 {
		sent = fmt.Sprintf("%s of %s (%d %%)", sent, bytesText(t.size), t.sent.Load()*100/t.size)
	}
	line := fmt.Sprintf("sent %s, %s, %d journaled, %d in quarantine", sent, count(p.Rows, "row"), p.Journaled, p.Quarantined)
	if t.terminal {
		fmt.Fprintf(t.w, "\r\x1b[K%s", line)
		t.open = true
		return
	}
	fmt.Fprintln(t.w, line)
}

// end ends the line that is open.
func (t *talk) end() {
	if t.open {
		fmt.Fprintln(t.w)
	}
}

// bytesText words a number of bytes in powers of 1024.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
