package door

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/cdc"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// TakesFiles tells whether a connector takes whole files.
func TakesFiles(c connectors.Connector) bool {
	switch c.(type) {
	case *file.Source, *cdc.Source:
		return true
	}
	return false
}

// File is one file at the door.
type File struct {
	// Name as its sender knows it.
	Name string
	Body io.Reader
	// Manifest holds the sender's control totals; nil if it gave none.
	Manifest *file.Manifest
	// Spool is the folder for the copy that is read twice.
	Spool string
	Cause envelope.Cause
}

// FileProgress is how far a file has come.
type FileProgress struct{ Bytes, Rows, Journaled, Quarantined int64 }

// FileReport is what became of a file at the door.
type FileReport struct {
	FileProgress
	// Inspection is what reading the file found.
	Inspection *file.Report
	// Refused says why no row was taken; nil if the file was taken.
	Refused error
	// First and Last are the journal ids of the first and last row.
	First, Last string
}

// every so many rows progress is told.
const progressRows = 500

// TakeFile takes a file in: it is spooled, inspected as a whole, and only if
// its totals and its share of bad rows are acceptable are its rows journaled,
// each as a delivery of its own. A file that breaks off in the middle can be
// sent again: rows are recognised by the file's hash and their number.
func (d *Door) TakeFile(ctx context.Context, i *Intake, tenant string, f File, progress func(FileProgress)) (FileReport, error) {
	if !TakesFiles(i.Connector) {
		return FileReport{}, failure.New(failure.NotFound, "take file", "source "+i.Source.Name, "its kind %s takes no files", i.Source.Connector)
	}
	if err := os.MkdirAll(f.Spool, 0o700); err != nil {
		return FileReport{}, failure.Wrap(failure.Transient, "spool file", f.Name, err)
	}
	spool, err := os.CreateTemp(f.Spool, "upload-*")
	if err != nil {
		return FileReport{}, failure.Wrap(failure.Transient, "spool file", f.Name, err)
	}
	defer func() { spool.Close(); os.Remove(spool.Name()) }()
	n, err := io.Copy(spool, f.Body)
	if err != nil {
		return FileReport{}, err
	}
	t := &taking{door: d, intake: i, tenant: tenant, file: f, spool: spool, progress: progress}
	t.report.Bytes = n
	switch c := i.Connector.(type) {
	case *file.Source:
		return t.rows(ctx, c)
	case *cdc.Source:
		return t.changes(ctx, c)
	}
	panic("unreachable: TakesFiles said yes")
}

// taking is one file on its way through the door.
type taking struct {
	door     *Door
	intake   *Intake
	tenant   string
	file     File
	spool    *os.File
	progress func(FileProgress)
	report   FileReport

	wg        sync.WaitGroup
	journaled atomic.Int64
	failed    atomic.Pointer[error]
	mu        sync.Mutex
	ids       map[int64]string // of the first and the last row
}

func (t *taking) rewind() (io.Reader, error) {
	_, err := t.spool.Seek(0, io.SeekStart)
	return bufio.NewReaderSize(t.spool, 256<<10), err
}

// rows takes a file of rows.
func (t *taking) rows(ctx context.Context, c *file.Source) (FileReport, error) {
	r, err := t.rewind()
	if err != nil {
		return t.report, err
	}
	if t.report.Inspection, err = c.Inspect(r); err != nil {
		return t.report, err
	}
	t.report.Rows = t.report.Inspection.Rows
	if t.report.Refused = c.Accept(t.file.Name, t.report.Inspection, t.file.Manifest); t.report.Refused != nil {
		return t.report, nil
	}
	if r, err = t.rewind(); err != nil {
		return t.report, err
	}
	row := int64(0)
	_, err = c.Entries(r, t.file.Name, t.report.Inspection.SHA256, func(e *journal.Entry) error {
		row++
		return t.take(ctx, row, t.report.Rows, e)
	})
	return t.end(err)
}

// changes takes a file of change records. Nothing in it is judged here: what
// cannot be read becomes a dead letter of its own.
func (t *taking) changes(ctx context.Context, c *cdc.Source) (FileReport, error) {
	r, err := t.rewind()
	if err != nil {
		return t.report, err
	}
	h := sha256.New()
	if err := c.Entries(io.TeeReader(r, h), func(int64, *journal.Entry) error { t.report.Rows++; return nil }); err != nil {
		return t.report, err
	}
	in := &file.Report{Rows: t.report.Rows, Good: t.report.Rows, Bytes: t.report.Bytes, SHA256: hex.EncodeToString(h.Sum(nil))}
	t.report.Inspection = in
	if m := t.file.Manifest; m != nil {
		if m.SHA256 != "" && m.SHA256 != in.SHA256 {
			t.report.Refused = failure.New(failure.Validation, "take file", t.file.Name, "sha256: found %s, the manifest expects %s", in.SHA256, m.SHA256)
		} else if m.Rows != nil && *m.Rows != in.Rows {
			t.report.Refused = failure.New(failure.Validation, "take file", t.file.Name, "rows: found %d, the manifest expects %d", in.Rows, *m.Rows)
		}
		if t.report.Refused != nil {
			return t.report, nil
		}
	}
	if r, err = t.rewind(); err != nil {
		return t.report, err
	}
	row := int64(0)
	err = c.Entries(r, func(line int64, e *journal.Entry) error {
		row++
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers["file.name"], e.Headers["file.row"] = t.file.Name, strconv.FormatInt(line, 10)
		return t.take(ctx, row, t.report.Rows, e)
	})
	return t.end(err)
}

// take journals one row without waiting for it.
func (t *taking) take(ctx context.Context, row, rows int64, e *journal.Entry) error {
	if err := t.failed.Load(); err != nil {
		return *err
	}
	t.wg.Add(1)
	origin := func() string { return fmt.Sprintf("row %d of file %s", row, t.file.Name) }
	err := t.door.takeAny(ctx, t.intake, t.tenant, origin, e, t.file.Cause, func(id journal.ID, err error) {
		defer t.wg.Done()
		if err != nil {
			t.failed.CompareAndSwap(nil, &err)
			return
		}
		t.journaled.Add(1)
		if row == 1 || row == rows {
			t.mu.Lock()
			if t.ids == nil {
				t.ids = map[int64]string{}
			}
			t.ids[row] = id.String()
			t.mu.Unlock()
		}
	})
	if err != nil {
		t.wg.Done()
		return err
	}
	if e.Quarantine != "" {
		t.report.Quarantined++
	}
	if row%progressRows == 0 {
		t.tell()
	}
	return nil
}

func (t *taking) tell() {
	t.report.Journaled = t.journaled.Load()
	if t.progress != nil {
		t.progress(t.report.FileProgress)
	}
}

// end waits until every row is journaled or has failed.
func (t *taking) end(err error) (FileReport, error) {
	t.wg.Wait()
	if failed := t.failed.Load(); failed != nil && err == nil {
		err = *failed
	}
	t.tell()
	t.report.First, t.report.Last = t.ids[1], t.ids[t.report.Rows]
	if err != nil {
		var f *failure.Error
		if !errors.As(err, &f) {
			err = failure.Wrap(failure.Transient, "take file", t.file.Name, err)
		}
		return t.report, fmt.Errorf("after %d of %d rows (sending the file again is harmless): %w", t.report.Journaled, t.report.Rows, err)
	}
	return t.report, nil
}
