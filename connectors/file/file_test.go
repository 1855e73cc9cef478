package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

func open(t testing.TB, set map[string]any) *Source {
	t.Helper()
	c, err := Kind{}.Open(&definition.Source{Name: "risk", Connector: "file", Settings: set}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Source)
}

// load inspects a file and reads its entries, as an upload does.
func load(t testing.TB, s *Source, text string) (*Report, []*journal.Entry) {
	t.Helper()
	report, err := s.Inspect(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var entries []*journal.Entry
	again, err := s.Entries(strings.NewReader(text), "in/scores.csv", report.SHA256, func(e *journal.Entry) error {
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(report, again) {
		t.Errorf("the two passes differ:\n%+v\n%+v", report, again)
	}
	return report, entries
}

func codes(errs []Error) []string {
	var out []string
	for _, e := range errs {
		out = append(out, fmt.Sprintf("%d/%d %s", e.Row, e.Column, e.Code))
	}
	return out
}

func TestUpload(t *testing.T) {
	s := open(t, map[string]any{
		"columns":       map[string]any{"customer": map[string]any{"required": true}, "score": map[string]any{"type": "int"}, "limit": map[string]any{"type": "decimal"}},
		"controlTotals": map[string]any{"sum": []any{"score", "limit"}},
	})
	text := "customer,score,limit\r\n007,700,10.50\r\n,1,2\r\nC2,high,0.125\r\n\"C\n3\",800,-3\r\n"
	report, entries := load(t, s, text)
	sum := sha256.Sum256([]byte(text))
	want := &Report{
		Columns: []string{"customer", "score", "limit"}, Rows: 4, Good: 2, Bad: 2,
		Bytes: int64(len(text)), SHA256: hex.EncodeToString(sum[:]),
		Errors: []Error{
			{3, 3, 1, "customer", ConstraintError, "found nothing, expected a value"},
			{4, 4, 2, "score", TypeError, `found "high", expected int`},
		},
		ErrorCount: 2, ByCode: map[Code]int64{ConstraintError: 1, TypeError: 1},
		Sums: map[string]string{"score": "1501", "limit": "9.625"},
	}
	if !reflect.DeepEqual(report, want) {
		t.Errorf("got  %+v\nwant %+v", report, want)
	}
	e := entries[0]
	if want := (&journal.Entry{ContentType: "text/csv", Body: []byte("007,700,10.50"), VendorID: report.SHA256 + "/2", Headers: map[string]string{
		"file.name": "scores.csv", "file.sha256": report.SHA256, "file.row": "2", "file.columns": "customer,score,limit"}}); !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	if q := entries[2].Quarantine; q != `scores.csv: row 4 column 2 (score): type-error: found "high", expected int` {
		t.Errorf("quarantine %q", q)
	}
	recs, err := s.Decode(e)
	if err != nil || !reflect.DeepEqual(recs, []connectors.Record{{
		"row":  map[string]any{"customer": "007", "score": "700", "limit": "10.50"},
		"file": map[string]any{"name": "scores.csv", "sha256": report.SHA256, "row": int64(2)},
	}}) {
		t.Error(recs, err)
	}
	recs, err = s.Decode(entries[3])
	if err != nil || recs[0]["row"].(map[string]any)["customer"] != "C\n3" {
		t.Error(recs, err)
	}
	if _, err := s.Decode(entries[2]); failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), "row 4 column 2 (score)") {
		t.Error(err)
	}
}

func TestAccept(t *testing.T) {
	text := "a,n\n1,1\n2\n3,3\n"
	rows := func(n int64) *int64 { return &n }
	sums := map[string]any{"controlTotals": map[string]any{"sum": "n"}}
	for _, c := range []struct {
		name     string
		set      map[string]any
		text     string
		manifest *Manifest
		says     string
	}{
		{name: "no thresholds", text: text},
		{name: "within", set: map[string]any{"abort": map[string]any{"maxBadRows": 1, "maxBadShare": 0.34}}, text: text},
		{name: "too many", set: map[string]any{"abort": map[string]any{"maxBadRows": 0}}, text: text, says: "found 1 bad rows, expected at most 0 (abort.maxBadRows); the first error is in row 3 column 2 (n): missing-cell"},
		{name: "too great a share", set: map[string]any{"abort": map[string]any{"maxBadShare": 0.3}}, text: text, says: "found 1 bad rows of 3, expected a share of at most 0.3"},
		{name: "empty", text: "", says: "source-error: the file is empty"},
		{name: "UTF-16", text: "\xff\xfea\x00", says: "UTF-16"},
		{name: "manifest", set: sums, text: text, manifest: &Manifest{Rows: rows(3), Sums: map[string]string{"n": "4.0"}}},
		{name: "manifest rows", text: text, manifest: &Manifest{Rows: rows(4)}, says: "control total rows: found 3, the manifest says 4"},
		{name: "manifest hash", text: text, manifest: &Manifest{SHA256: "00"}, says: `sha256: found `},
		{name: "manifest sum", set: sums, text: text, manifest: &Manifest{Sums: map[string]string{"n": "5"}}, says: "control total of n: found 4, the manifest says 5"},
		{name: "manifest sum that is not kept", set: sums, text: text, manifest: &Manifest{Sums: map[string]string{"a": "5"}}, says: "control total of a: it is not summed"},
		{name: "no header for the sum", set: sums, text: "a\n1\n", manifest: &Manifest{Sums: map[string]string{"n": "1"}}, says: "missing-label"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, c.set)
			report, err := s.Inspect(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			err = s.Accept("f.csv", report, c.manifest)
			if c.says == "" && err != nil {
				t.Error(err)
			}
			if c.says != "" && (failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, expected %q", err, c.says)
			}
		})
	}
}

func TestCSVForms(t *testing.T) {
	for _, c := range []struct {
		name, text string
		set        map[string]any
		rows       []map[string]any
		errors     []string
	}{
		{name: "quotes", text: "a,b\n\"x,\"\"y\"\"\",\"1\r\n2\"\n", rows: []map[string]any{{"a": `x,"y"`, "b": "1\r\n2"}}},
		{name: "quote inside", text: "a,b\nx\"y, \"z\"\n", rows: []map[string]any{{"a": `x"y`, "b": ` "z"`}}},
		{name: "empty quoted", text: "a,b\n\"\",x\n", rows: []map[string]any{{"a": "", "b": "x"}}},
		{name: "no last line end", text: "a\n1", rows: []map[string]any{{"a": "1"}}},
		{name: "byte order mark", text: "\ufeffa\n1\n", rows: []map[string]any{{"a": "1"}}},
		{name: "delimiter and quote", text: "a|b\n'1|2'|3\n", set: map[string]any{"delimiter": "|", "quote": "'"}, rows: []map[string]any{{"a": "1|2", "b": "3"}}},
		{name: "tabulator, no quote", text: "a\tb\n\"1\t2\n", set: map[string]any{"delimiter": `\t`, "quote": ""}, rows: []map[string]any{{"a": `"1`, "b": "2"}}},
		{name: "comments count as rows", text: "#x\na\n#y\n1\n,\n", set: map[string]any{"comment": "#"}, rows: []map[string]any{{"a": "1"}}, errors: []string{"5/0 blank-row"}},
		{name: "blank rows", text: "a,b\n\n,\n1,2\n", rows: []map[string]any{{"a": "1", "b": "2"}}, errors: []string{"2/0 blank-row", "3/0 blank-row"}},
		{name: "blank rows skipped", text: "\na,b\n\n,\n1,2\n", set: map[string]any{"skipBlankRows": true}, rows: []map[string]any{{"a": "1", "b": "2"}}},
		{name: "labels", text: "a,,a,a2\n1,2,3,4\n", rows: []map[string]any{{"a": "1", "a2": "3", "a22": "4"}},
			errors: []string{"1/2 blank-label", "1/3 duplicate-label", "1/4 duplicate-label"}},
		{name: "declared, no header", text: "1,2\n", set: map[string]any{"header": false, "columns": []any{map[string]any{"name": "x"}, map[string]any{"name": "y", "type": "int"}}},
			rows: []map[string]any{{"x": "1", "y": "2"}}},
		{name: "numbered", text: "1,2\n3,4,5\n", set: map[string]any{"header": false}, rows: []map[string]any{{"field1": "1", "field2": "2"}}, errors: []string{"2/3 extra-cell"}},
		{name: "iso-8859-1", text: "gr\xf6\xdfe\n\xfc\n", set: map[string]any{"encoding": "iso-8859-1"}, rows: []map[string]any{{"größe": "ü"}}},
		{name: "not UTF-8", text: "a,b\n1,\xfc\n", errors: []string{"2/2 encoding-error"}},
		{name: "stray text", text: "a,b\n1,\"2\"x\n", errors: []string{"2/2 quote-error"}},
		{name: "a quote that nothing closes spoils only its line", text: "a,b\n1,\"2\n3,4\n5,6\n", rows: []map[string]any{{"a": "3", "b": "4"}, {"a": "5", "b": "6"}}, errors: []string{"2/0 quote-error"}},
		{name: "too long", text: "a\n" + strings.Repeat("x", 2000) + "\n1\n", set: map[string]any{"maxRowBytes": 1024}, rows: []map[string]any{{"a": "1"}}, errors: []string{"2/0 row-too-long"}},
		{name: "required column missing", text: "a\n1\n", set: map[string]any{"columns": map[string]any{"b": map[string]any{"required": true}}},
			errors: []string{"1/2 missing-label", "2/2 constraint-error", "2/2 missing-cell"}},
		{name: "types", text: "i,f,d,b,t,z\n1,1e3,-1.50,true,2024-02-29,2024-02-29T10:00:00+01:00\n1.0,NaN,1e3,yes,2023-02-29,2024-02-29\n,,,,,x\n", set: map[string]any{"columns": map[string]any{
			"i": map[string]any{"type": "int"}, "f": map[string]any{"type": "float"}, "d": map[string]any{"type": "decimal"}, "b": map[string]any{"type": "bool"},
			"t": map[string]any{"type": "date"}, "z": map[string]any{"type": "timestamp"}}},
			rows:   []map[string]any{{"i": "1", "f": "1e3", "d": "-1.50", "b": "true", "t": "2024-02-29", "z": "2024-02-29T10:00:00+01:00"}},
			errors: []string{"3/1 type-error", "3/2 type-error", "3/3 type-error", "3/4 type-error", "3/5 type-error", "3/6 type-error", "4/6 type-error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, c.set)
			report, entries := load(t, s, c.text)
			var rows []map[string]any
			for _, e := range entries {
				if e.Quarantine != "" {
					continue
				}
				recs, err := s.Decode(e)
				if err != nil {
					t.Fatalf("%q: %v", e.Body, err)
				}
				rows = append(rows, recs[0]["row"].(map[string]any))
			}
			if !reflect.DeepEqual(rows, c.rows) {
				t.Errorf("rows\n got %v\nwant %v", rows, c.rows)
			}
			if got := codes(report.Errors); !slices.Equal(got, c.errors) {
				t.Errorf("errors\n got %v\nwant %v", got, c.errors)
			}
			if report.Good+report.Bad != report.Rows || report.Good != int64(len(c.rows)) || int(report.Rows) != len(entries) {
				t.Errorf("%+v with %d entries", report, len(entries))
			}
		})
	}
}

func TestJSONLines(t *testing.T) {
	s := open(t, map[string]any{"format": "jsonl", "columns": map[string]any{"id": map[string]any{"type": "int", "required": true}}, "controlTotals": map[string]any{"sum": "v"}})
	report, entries := load(t, s, "{\"id\":1,\"v\":1.25,\"x\":{\"y\":[null]}}\r\n\n{\"id\":\"2\"}\n[3]\n{\"id\":4\n{\"v\":\"2\"}\n")
	if got, want := codes(report.Errors), []string{"2/0 blank-row", "3/0 type-error", "4/0 json-error", "5/0 json-error", "6/0 constraint-error"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if report.Sums["v"] != "3.25" || report.Good != 1 {
		t.Errorf("%+v", report)
	}
	recs, err := s.Decode(entries[0])
	if err != nil || !reflect.DeepEqual(recs[0]["row"], map[string]any{"id": int64(1), "v": 1.25, "x": map[string]any{"y": []any{nil}}}) {
		t.Error(recs, err)
	}
	if e := entries[0]; e.ContentType != "application/json" || e.Headers["file.columns"] != "" || e.VendorID != report.SHA256+"/1" {
		t.Errorf("%+v", e)
	}
}

// A file that changes between the passes must not be journaled under the hash
// of what was inspected, silently.
func TestChangeBetweenPasses(t *testing.T) {
	s := open(t, nil)
	report, err := s.Inspect(strings.NewReader("a\n1\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Entries(strings.NewReader("a\n2\n"), "f", report.SHA256, func(*journal.Entry) error { return nil })
	if failure.KindOf(err) != failure.Conflict {
		t.Error(err)
	}
}

func TestErrorsOfReaderAndCallerAreReturned(t *testing.T) {
	boom := errors.New("boom")
	for _, set := range []map[string]any{nil, {"format": "jsonl"}} {
		s := open(t, set)
		if _, err := s.Scan(io.MultiReader(strings.NewReader("a\n1\n"), broken{boom}), func(Row) error { return nil }); !errors.Is(err, boom) {
			t.Error(err)
		}
		if _, err := s.Scan(strings.NewReader("a\n1\n"), func(Row) error { return boom }); !errors.Is(err, boom) {
			t.Error(err)
		}
	}
}

type broken struct{ error }

func (b broken) Read([]byte) (int, error) { return 0, b.error }

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"../../etc/passwd": "passwd", `C:\in\a.csv`: "a.csv", "a\nb": "a\ufffdb", strings.Repeat("x", 300): strings.Repeat("x", 255)} {
		if got := cleanName(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// Whatever a careful writer writes is read back, and every byte of the file is
// in some row.
func TestReadsWhatWritersWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.OneOf(rapid.SampledFrom([]string{"", `"`, ",", "\n", "a\nb", `""`, " x ", "ü"}), rapid.StringMatching(`[a-z",\n]{0,8}`))
		width := rapid.IntRange(1, 4).Draw(t, "width")
		rows := rapid.SliceOfN(rapid.SliceOfN(cell, width, width), 1, 12).Draw(t, "rows")
		var buf bytes.Buffer
		w := csv.NewWriter(&buf)
		w.UseCRLF = rapid.Bool().Draw(t, "CRLF")
		header := []string{"a", "b", "c", "d"}[:width]
		w.Write(header)
		w.WriteAll(rows)
		if err := w.Error(); err != nil {
			t.Fatal(err)
		}
		c, err := Kind{}.Open(&definition.Source{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		_, err = c.(*Source).Scan(&buf, func(r Row) error {
			row := make([]string, width)
			if r.Values != nil {
				for i, h := range header {
					row[i] = r.Values[h].(string)
				}
			}
			got = append(got, row)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			for i := range row {
				if w.UseCRLF { // the writer turns line ends in cells into CRLF, too
					row[i] = strings.ReplaceAll(row[i], "\n", "\r\n")
				}
			}
		}
		if !reflect.DeepEqual(got, rows) {
			t.Fatalf("got %q\nwant %q", got, rows)
		}
	})
}

// rowsOf makes a file of n rows without holding it.
type rowsOf struct {
	n    int
	row  string
	rest string
}

func (r *rowsOf) Read(p []byte) (int, error) {
	if r.rest == "" {
		if r.n == 0 {
			return 0, io.EOF
		}
		r.n--
		r.rest = r.row
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// A file of any size takes the memory of a row.
func TestMemoryIsBounded(t *testing.T) {
	s := open(t, nil)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, peak, rows := heap(), uint64(0), 0
	report, err := s.Scan(&rowsOf{n: 100_000, row: "1,2,3,4\nbad\n"}, func(Row) error {
		if rows++; rows%40_000 == 0 {
			peak = max(peak, heap())
		}
		return nil
	})
	if err != nil || report.Rows != 199_999 || report.Bad < 99_999 || len(report.Errors) != MaxErrors || report.ErrorCount < 3*99_999 {
		t.Fatalf("%v %d rows, %d bad, %d errors listed of %d", err, report.Rows, report.Bad, len(report.Errors), report.ErrorCount)
	}
	if grown := int64(peak) - int64(before); grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// A file made to be read again and again from every line must not be.
func TestHostileQuotesTakeLinearWork(t *testing.T) {
	s := open(t, map[string]any{"maxRowBytes": 64 << 10})
	// Read afresh, the line opens a quote that it does not close; read within
	// quotes, it closes them and opens new ones.
	const row = "a\",\"\n"
	l := newLines(&rowsOf{n: 40_000, row: row}, s.maxRowBytes)
	recs := &records{lines: l, dialect: dialect{',', '"'}}
	n := 0
	for {
		if _, _, err := recs.nextRecord(0); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if limit := 8*l.bytes + int64(s.maxRowBytes) + 2; recs.reread > limit || n < 100 {
		t.Errorf("%d records, %d bytes read again of %d, expected at most %d", n, recs.reread, l.bytes, limit)
	}
}

func TestSettingMistakes(t *testing.T) {
	_, err := Kind{}.Open(&definition.Source{Settings: map[string]any{
		"header": false, "columns": map[string]any{"a": map[string]any{"type": "number", "requierd": true}},
		"delimiter": ";;", "abort": map[string]any{"maxBadShare": 2}, "controlTotals": map[string]any{"sum": []any{"b"}}, "maxRowBytes": 1}}, nil)
	want := []string{
		`abort.maxBadShare: found 2, expected a number from 0 to 1`,
		`columns: found a map, expected a list, which has an order, since there is no header row`,
		`columns.a.requierd: found true, expected no such setting; one of required, type`,
		`columns.a.type: found "number", expected one of string, int, float, decimal, bool, date, timestamp`,
		`controlTotals.sum[0]: found "b", expected a column that columns lists, since there is no header row`,
		`delimiter: found ";;", expected one ASCII character`,
		`maxRowBytes: found 1, expected an integer from 1024 to 67108864`,
	}
	if err == nil || err.Error() != strings.Join(want, "; ") {
		t.Errorf("got  %v\nwant %s", err, strings.Join(want, "; "))
	}
}

// Whatever the bytes are: no panic, counts that add up, an entry per row, and a
// good row that decodes to the same values.
func FuzzCSV(f *testing.F) {
	f.Add([]byte("a,b\n1,2\n"), byte(','), byte('"'), true)
	f.Add([]byte("a\";\"\n\"\"\"\n;;\n\"x\"y\n"), byte(';'), byte('"'), false)
	f.Add([]byte("\xef\xbb\xbfid,,id\r\n\"1\n2\",,\xff\r\n\n"), byte(','), byte('"'), true)
	f.Fuzz(func(t *testing.T, data []byte, delimiter, quote byte, header bool) {
		if delimiter < ' ' || delimiter > '~' || quote < ' ' || quote > '~' || delimiter == quote {
			return
		}
		s := open(t, map[string]any{"delimiter": string(rune(delimiter)), "quote": string(rune(quote)), "header": header, "maxRowBytes": 1024})
		check(t, s, data)
	})
}

func FuzzJSONLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n[]\n\n{"))
	s := open(f, map[string]any{"format": "jsonl", "maxRowBytes": 1024})
	f.Fuzz(func(t *testing.T, data []byte) { check(t, s, data) })
}

func check(t *testing.T, s *Source, data []byte) {
	var rows []Row
	report, err := s.Scan(bytes.NewReader(data), func(r Row) error { rows = append(rows, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if report.Good+report.Bad != report.Rows || int(report.Rows) != len(rows) || report.Bytes != int64(len(data)) {
		t.Fatalf("%+v of %d bytes", report, len(data))
	}
	total := int64(0)
	for _, n := range report.ByCode {
		total += n
	}
	if total != report.ErrorCount {
		t.Fatalf("%d errors by code, %d in all", total, report.ErrorCount)
	}
	i, last := 0, int64(0)
	_, err = s.Entries(bytes.NewReader(data), "f", report.SHA256, func(e *journal.Entry) error {
		row := rows[i]
		i++
		if row.Number <= last {
			t.Fatalf("row %d after row %d", row.Number, last)
		}
		last = row.Number
		if (e.Quarantine == "") != (len(row.Errors) == 0) {
			t.Fatalf("%+v is quarantined: %q", row, e.Quarantine)
		}
		if e.Quarantine != "" {
			return nil
		}
		recs, err := s.Decode(e)
		if err != nil || !reflect.DeepEqual(recs[0]["row"], row.Values) {
			t.Fatalf("%+v decodes to %v, %v", row, recs, err)
		}
		return nil
	})
	if err != nil || i != len(rows) {
		t.Fatal(err, i, len(rows))
	}
}
