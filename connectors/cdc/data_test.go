package cdc

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
)

func readLines(t *testing.T, name string, fn func(line []byte)) {
	t.Helper()
	f, err := os.Open(connectortest.SharedData(t, "cdc", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		fn(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// tables replays records by their key, as the simplest reader would.
type tables map[string]map[string]map[string]any

func (ts tables) apply(t *testing.T, r connectors.Record) {
	t.Helper()
	key := fmt.Sprint(r["key"])
	if len(r["key"].(map[string]any)) == 0 {
		t.Fatalf("no key in %v", r)
	}
	name := r["table"].(string)
	if ts[name] == nil {
		ts[name] = map[string]map[string]any{}
	}
	if r["deleted"] == true {
		delete(ts[name], key)
		return
	}
	ts[name][key] = r["row"].(map[string]any)
}

// The oracle are the tables that Apache Paimon's integration tests expect
// after each step.
func TestPublishedCases(t *testing.T) {
	state := map[string]tables{}
	records, steps := 0, map[string]int{}
	readLines(t, "cases.jsonl", func(line []byte) {
		var c struct {
			Case, Format, Table string
			PrimaryKey          []any `json:"primary_key"`
			Step                int
			Records             []json.RawMessage
			Columns             []string                  `json:"expected_columns"`
			Rows                [][]any                   `json:"expected_rows"`
			Tables              map[string]map[string]any `json:"expected_tables"`
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		s := open(t, map[string]any{"format": c.Format, "key": c.PrimaryKey})
		name := c.Case + "/" + c.Format
		if state[name] == nil {
			state[name] = tables{}
		}
		for _, raw := range c.Records {
			records++
			recs, err := s.Decode(s.lineEntry(raw))
			if err != nil {
				t.Errorf("%s step %d: %v", name, c.Step, err)
			}
			for _, r := range recs {
				state[name].apply(t, r)
			}
		}
		steps[c.Format]++
		// The last step of the typed case is refused further on, where types
		// are declared: here it must only keep its new type.
		if c.Case == "typed-schemaevolution" && c.Step == 5 {
			for _, table := range state[name] {
				for _, row := range table {
					if _, isText := row["age"].(string); isText {
						return
					}
				}
			}
			t.Errorf("%s: no row has the text that must be refused later", name)
			return
		}
		check := func(table string, columns []string, rows [][]any) {
			if got, want := len(state[name][table]), len(rows); got != want {
				t.Errorf("%s step %d %s: %d rows, expected %d", name, c.Step, table, got, want)
			}
			for _, row := range rows {
				key := map[string]any{}
				for _, k := range c.PrimaryKey {
					key[k.(string)] = int64(row[slices.Index(columns, k.(string))].(float64))
				}
				got := state[name][table][fmt.Sprint(key)]
				for i, column := range columns {
					if g, w := fmt.Sprint(got[column]), fmt.Sprint(row[i]); g != w {
						t.Errorf("%s step %d %s %v.%s: %s, expected %s", name, c.Step, table, key, column, g, w)
					}
				}
			}
		}
		if c.Rows != nil {
			table := c.Table
			for only := range state[name] {
				if table == "" {
					table = only
				}
			}
			check(table, c.Columns, c.Rows)
		}
		for table, want := range c.Tables {
			var columns []string
			var rows [][]any
			for _, x := range want["columns"].([]any) {
				columns = append(columns, x.(string))
			}
			for _, x := range want["rows"].([]any) {
				rows = append(rows, x.([]any))
			}
			check(table, columns, rows)
		}
	})
	t.Logf("%d records, steps by format: %v", records, steps)
}

func TestPostgresProducts(t *testing.T) {
	var want struct {
		Rows []map[string]any
	}
	b, err := os.ReadFile(connectortest.SharedData(t, "cdc", "postgres-products.expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres-products.jsonl", "postgres-products-replica-identity-default.jsonl"} {
		s := open(t, map[string]any{"key": "id"})
		state, n, ids := tables{}, 0, map[string]bool{}
		readLines(t, name, func(line []byte) {
			n++
			e := s.lineEntry(slices.Clone(line))
			var c struct {
				Op            string
				Before, After any
			}
			if json.Unmarshal(line, &c) == nil && c.Op == "d" && c.Before == nil {
				// The file has no record keys; the row that this delete takes
				// away is the last one that was inserted.
				e = s.Entry([]byte(`{"id":111}`), e.Body, false, nil)
			}
			state.apply(t, one(t, s, e))
			if e.VendorID == "" || ids[e.VendorID] {
				t.Errorf("%s line %d: vendor id %q is empty or not its own", name, n, e.VendorID)
			}
			ids[e.VendorID] = true
		})
		if got := len(state["products"]); got != len(want.Rows) {
			t.Errorf("%s: %d rows, expected %d", name, got, len(want.Rows))
		}
		for _, row := range want.Rows {
			got := state["products"][fmt.Sprint(map[string]any{"id": int64(row["id"].(float64))})]
			if g, w := fmt.Sprint(got), fmt.Sprint(row); g != w {
				t.Errorf("%s: got %s, expected %s", name, g, w)
			}
		}
		t.Logf("%s: %d records, %d rows", name, n, len(state["products"]))
	}
}

// Every envelope of the documentation and of the other collections is read.
// Records that are keys, not values, are read as keys; one is the
// documentation's own ellipsis and must be refused.
func TestOtherEnvelopes(t *testing.T) {
	changes, none, keys, refused := 0, 0, 0, 0
	s := open(t, nil)
	for _, name := range []string{"debezium-other-envelopes.jsonl", "debezium-docs-postgres-mysql.jsonl"} {
		readLines(t, name, func(line []byte) {
			var c struct{ Record json.RawMessage }
			if err := json.Unmarshal(line, &c); err != nil {
				t.Fatal(err)
			}
			v, err := connectors.DecodeJSON(c.Record, 64)
			if err != nil {
				t.Fatal(err)
			}
			// In the collections, a key is an envelope of nothing but an id.
			if _, payload := unwrap(v); payload != nil {
				m := payload.(map[string]any)
				if (len(m) == 1 && m["id"] != nil) || (len(m) == 1 && m["databaseName"] != nil) {
					keys++
					if k, err := s.recordKey(c.Record); err != nil || !reflect.DeepEqual(fmt.Sprint(k), fmt.Sprint(m)) {
						t.Errorf("key %s: %v, %v", c.Record, k, err)
					}
					return
				}
			}
			recs, err := s.Decode(s.lineEntry(c.Record))
			switch {
			case err != nil && v.(map[string]any)["ts_ms"] == "...":
				refused++
			case err != nil:
				t.Errorf("%.200s: %v", c.Record, err)
			case len(recs) == 0:
				none++
			default:
				changes++
			}
		})
	}
	if changes < 30 {
		t.Errorf("only %d changes", changes)
	}
	t.Logf("%d changes, %d that are no change of a row, %d keys, %d refused (the documentation's ellipsis)", changes, none, keys, refused)
}
