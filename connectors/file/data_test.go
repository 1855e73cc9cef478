package file

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// loadFile inspects a file and decodes its good rows.
func loadFile(t *testing.T, s *Source, path string) (*Report, []map[string]any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	report, err := s.Inspect(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	var good []map[string]any
	quarantined := int64(0)
	_, err = s.Entries(strings.NewReader(string(b)), path, report.SHA256, func(e *journal.Entry) error {
		if e.Quarantine != "" {
			quarantined++
			return nil
		}
		recs, err := s.Decode(e)
		if err == nil {
			good = append(good, recs[0]["row"].(map[string]any))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(good)) != report.Good || quarantined != report.Bad {
		t.Errorf("%s: %d rows load and %d are in quarantine, the report says %d and %d", path, len(good), quarantined, report.Good, report.Bad)
	}
	return report, good
}

// The oracle is what frictionless reports for its own files: every error that
// it expects is in our list. Its error types are our codes; it gives header
// errors no row, we give them row 1.
func TestPublishedBadRows(t *testing.T) {
	f, err := os.Open(connectortest.SharedData(t, "csv-bad-rows", "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := filepath.Dir(connectortest.SharedData(t, "csv-bad-rows", "cases.jsonl"))
	cases, expected := 0, 0
	covered := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var c struct {
			Test, File string
			Options    map[string]string
			Valid      bool
			Columns    []string
			Expected   [][]any
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(c.Test, "::")
		cases++
		covered[c.File] = true
		set := map[string]any{}
		if c.Options["dialect"] != "" { // the test's dialect is header=False
			set["header"] = false
		}
		if c.Options["schema"] != "" { // the test adds a required field "bad"
			set["columns"] = map[string]any{"bad": map[string]any{"required": true}}
		}
		report, good := loadFile(t, open(t, set), filepath.Join(dir, "files", c.File))
		var got []string
		for _, e := range report.Errors {
			row := fmt.Sprint(e.Row)
			if e.Code == BlankLabel || e.Code == DuplicateLabel || e.Code == MissingLabel {
				row = "header"
			}
			if e.Code == SourceError {
				got = append(got, string(e.Code))
				continue
			}
			got = append(got, fmt.Sprintf("%s/%d %s", row, e.Column, e.Code))
		}
		if c.Valid && len(got) > 0 {
			t.Errorf("%s: %v, expected a valid file", name, got)
		}
		for _, x := range c.Expected {
			expected++
			want := ""
			if c.Columns[0] == "type" {
				want = x[0].(string)
			} else {
				row, column := "header", 0
				if x[0] != nil {
					row = fmt.Sprint(x[0])
				}
				if x[1] != nil {
					column = int(x[1].(float64))
				}
				want = fmt.Sprintf("%s/%d %s", row, column, x[2])
			}
			if !slices.Contains(got, want) {
				t.Errorf("%s: found %v, expected %s among them", name, got, want)
			}
		}
		t.Logf("%-75s %-20s %d good rows, errors %v", name, c.File, len(good), got)
	}
	if err := lines.Err(); err != nil || cases == 0 {
		t.Fatal(cases, err)
	}
	t.Logf("%d cases, %d expected errors", cases, expected)

	files, err := filepath.Glob(filepath.Join(dir, "files", "*.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file := filepath.Base(path)
		if covered[file] {
			continue
		}
		set := map[string]any{}
		if file == "accent.csv" {
			set["delimiter"] = ";"
		}
		report, good := loadFile(t, open(t, set), path)
		t.Logf("%-20s no case: %d good rows, errors %v", file, len(good), codes(report.Errors))
		if len(good) == 0 {
			t.Errorf("%s: no row loads", file)
		}
		if file == "leading-zeros.csv" {
			if s := fmt.Sprint(good); s != "[map[value:01] map[value:002] map[value:00003]]" {
				t.Errorf("leading zeros are not kept: %s", s)
			}
		}
	}
}

func TestWeatherPolls(t *testing.T) {
	var want map[string]struct{ Polls, Locations int }
	b, err := os.ReadFile(connectortest.SharedData(t, "polling-weather", "expected-changes.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"yahoo", "nytimes"} {
		s := open(t, map[string]any{"format": "jsonl", "columns": map[string]any{"location": map[string]any{"required": true}}})
		report, good := loadFile(t, s, connectortest.SharedData(t, "polling-weather", source+".jsonl"))
		places := map[any]bool{}
		for _, row := range good {
			places[row["location"]] = true
		}
		if len(good) != want[source].Polls || len(places) != want[source].Locations || report.Bad != 0 {
			t.Errorf("%s: %d polls of %d places, %d bad; expected %+v", source, len(good), len(places), report.Bad, want[source])
		}
		t.Logf("%s: %d polls of %d places, %d bytes", source, len(good), len(places), report.Bytes)
	}
}
