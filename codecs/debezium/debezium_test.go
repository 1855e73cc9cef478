package debezium

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// shared opens a file of the shared data set, or skips the test.
func shared(t *testing.T, name string) []string {
	t.Helper()
	dir := os.Getenv("TOUCHSTONE_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Skipf("real input %s is absent (looked in %s, TOUCHSTONE_DATA overrides): %v", name, dir, err)
	}
	defer f.Close()
	var lines []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		if strings.TrimSpace(sc.Text()) != "" {
			lines = append(lines, sc.Text())
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func decode(t *testing.T, key, value string) *Event {
	t.Helper()
	var d Decoder
	e, err := d.Decode([]byte(key), []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const pgSource = `"source":{"version":"3.0","connector":"postgresql","name":"crm","ts_ms":1559033904863,"ts_us":1559033904863123,"snapshot":"false","db":"sales","schema":"public","table":"customers","txId":555,"lsn":24023128,"xmin":null}`

// One update, read in full: every part of the event is what the envelope says.
func TestUpdateWithoutSchema(t *testing.T) {
	got := decode(t, `{"id":7}`, `{"before":{"id":7},"after":{"id":7,"n":9007199254740993,"f":1.5,"doc":"__debezium_unavailable_value","nul":null},`+pgSource+`,"op":"u","ts_ms":1559033905000,"transaction":{"id":"555:1","total_order":1}}`)
	want := &Event{
		Op: Update, Before: map[string]any{"id": int64(7)},
		After:       map[string]any{"id": int64(7), "n": int64(9007199254740993), "f": 1.5, "nul": nil},
		Unavailable: []string{"doc"},
		Key:         map[string]any{"id": int64(7)}, KeyText: `{"id":7}`,
		Source:    map[string]any{"version": "3.0", "connector": "postgresql", "name": "crm", "ts_ms": int64(1559033904863), "ts_us": int64(1559033904863123), "snapshot": "false", "db": "sales", "schema": "public", "table": "customers", "txId": int64(555), "lsn": int64(24023128), "xmin": nil},
		Connector: "postgresql", Server: "crm", Database: "sales", Schema: "public", Table: "customers",
		OccurredAt: 1559033904863123, TsMs: 1559033905000,
		Transaction: map[string]any{"id": "555:1", "total_order": int64(1)},
		Position:    `postgresql/crm/sales.public.customers/lsn=24023128,txId=555/u/{"id":7}`, Sequence: 24023128,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTombstonesAndDeletes(t *testing.T) {
	for _, value := range []string{"", "null", `{"schema":null,"payload":null}`} {
		e := decode(t, `{"schema":null,"payload":{"id":7}}`, value)
		if !e.Tombstone || !e.Gone() || e.Op != "" || e.KeyText != `{"id":7}` || e.Row()["id"] != int64(7) {
			t.Errorf("value %q: %+v, expected a tombstone of row 7", value, e)
		}
	}
	e := decode(t, `{"id":7}`, `{"before":null,"after":null,`+pgSource+`,"op":"d","ts_ms":1}`)
	if !e.Gone() || e.Before != nil || e.Row()["id"] != int64(7) || e.Position == "" {
		t.Errorf("key-only delete: %+v", e)
	}
	e = decode(t, "", `{"before":{"id":7,"a":"x"},"after":null,`+pgSource+`,"op":"d","ts_ms":1}`)
	if !e.Gone() || e.Row()["a"] != "x" {
		t.Errorf("delete without key: %+v", e)
	}
}

// Each semantic type becomes the plain value that the documentation of Debezium
// and of Kafka Connect says it stands for.
func TestSemanticTypes(t *testing.T) {
	for _, c := range []struct {
		schema, value string
		want          any
	}{
		{`"type":"int32","name":"io.debezium.time.Date"`, `19439`, "2023-03-23"},
		{`"type":"int32","name":"org.apache.kafka.connect.data.Date"`, `-1`, "1969-12-31"},
		{`"type":"int64","name":"io.debezium.time.Timestamp"`, `1679581805123`, "2023-03-23T14:30:05.123Z"},
		{`"type":"int64","name":"org.apache.kafka.connect.data.Timestamp"`, `-1`, "1969-12-31T23:59:59.999Z"},
		{`"type":"int64","name":"io.debezium.time.MicroTimestamp"`, `1679581805123456`, "2023-03-23T14:30:05.123456Z"},
		{`"type":"int64","name":"io.debezium.time.NanoTimestamp"`, `1679581805123456789`, "2023-03-23T14:30:05.123456789Z"},
		{`"type":"string","name":"io.debezium.time.ZonedTimestamp"`, `"2023-03-23T22:00:10.123456Z"`, "2023-03-23T22:00:10.123456Z"},
		{`"type":"int32","name":"io.debezium.time.Time"`, `36803000`, "10:13:23"},
		{`"type":"int32","name":"org.apache.kafka.connect.data.Time"`, `1`, "00:00:00.001"},
		{`"type":"int64","name":"io.debezium.time.MicroTime"`, `36803000001`, "10:13:23.000001"},
		{`"type":"int64","name":"io.debezium.time.MicroTime"`, `-3020399000000`, "-838:59:59"},
		{`"type":"int64","name":"io.debezium.time.NanoTime"`, `86399999999999`, "23:59:59.999999999"},
		{`"type":"int32","name":"io.debezium.time.Year"`, `2023`, int64(2023)},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}`, `"MDk="`, "123.45"},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}`, `"z8c="`, "-123.45"},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"3"}`, `"AQ=="`, "0.001"},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"-2"}`, `"AQ=="`, "100"},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}`, `"AA=="`, "0"},
		// decimal.format=NUMERIC: no digit is lost, though a double has only 17.
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"3"}`, `123456789876543212345678987654321.120`, "123456789876543212345678987654321.12"},
		{`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"3"}`, `-1.25e2`, "-125"},
		{`"type":"struct","name":"io.debezium.data.VariableScaleDecimal","fields":[{"type":"int32","field":"scale"},{"type":"bytes","field":"value"}]`, `{"scale":2,"value":"MDk="}`, "123.45"},
		{`"type":"string","name":"io.debezium.data.Json"`, `"{\"a\":[1,2.5]}"`, map[string]any{"a": []any{int64(1), 2.5}}},
		{`"type":"string","name":"io.debezium.data.Uuid"`, `"9bc6a215-84b5-4865-a058-9156427c887a"`, "9bc6a215-84b5-4865-a058-9156427c887a"},
		{`"type":"string","name":"io.debezium.data.EnumSet"`, `"a,b"`, "a,b"},
		{`"type":"bytes"`, `"Ynl0ZXM="`, "Ynl0ZXM="},
		{`"type":"double"`, `1`, 1.0},
		{`"type":"int64"`, `10000000000`, int64(10000000000)},
		{`"type":"boolean"`, `true`, true},
		{`"type":"array","items":{"type":"int32","name":"io.debezium.time.Date"}`, `[0,null]`, []any{"1970-01-01", nil}},
		{`"type":"map","keys":{"type":"string"},"values":{"type":"double"}`, `{"k":2}`, map[string]any{"k": 2.0}},
		{`"type":"string"`, `null`, nil},
	} {
		row := `{"type":"struct","fields":[{` + c.schema + `,"optional":true,"field":"x"}],"optional":true,"field":"after"}`
		e := decode(t, "", `{"schema":{"type":"struct","fields":[`+row+`]},"payload":{"before":null,"after":{"x":`+c.value+`},"op":"c","source":null}}`)
		if d := cmp.Diff(c.want, e.After["x"]); d != "" {
			t.Errorf("%s of %s: %s", c.value, c.schema, d)
		}
		if len(e.Columns) != 1 || e.Columns[0].Name != "x" || !e.Columns[0].Optional {
			t.Errorf("%s: columns %+v", c.schema, e.Columns)
		}
	}
}

// Everything that is not a Debezium record is refused with the place, what was
// found and what was expected.
func TestRefused(t *testing.T) {
	typed := func(schema, value string) string {
		return `{"schema":{"type":"struct","fields":[{"type":"struct","fields":[{` + schema + `,"field":"x"}],"field":"after"}]},"payload":{"after":{"x":` + value + `},"op":"c"}}`
	}
	for _, c := range []struct{ key, value, want string }{
		{"", `{"op":`, `value: JSON at byte`},
		{"", `[1]`, `value: found a list, expected an object`},
		{"", `{"a":1,"b":2}`, `expected a Debezium envelope with op, before, after and source; found members a, b`},
		{"", `{"after":{"id":1},"op":"x"}`, `op: found "x", expected one of c, u, d, r, t, m`},
		{"", `{"after":{"id":1},"op":5}`, `op: found 5`},
		{"", `{"before":{"id":1},"op":"c"}`, `after: found null, expected the row: op is "c"`},
		{"", `{"after":{"id":1},"op":"d"}`, `after: found a row, expected null`},
		{"", `{"before":null,"op":"d"}`, `no record key`},
		{"", `{"after":7,"op":"c"}`, `after: found 7, expected an object or null`},
		{"", `{"after":{"id":1},"op":"c","ts_ms":"..."}`, `ts_ms: found string "...", expected an integer`},
		{"", `{"after":{"id":1},"op":"c","source":[]}`, `source: found a list`},
		{"", "{\"after\":{\"id\":\"\xff\"},\"op\":\"c\"}", `invalid UTF-8`},
		{"", `{"after":{"id":1e999},"op":"c"}`, `number 1e999 is beyond a double`},
		{"", typed(`"type":"int64"`, `"12"`), `after.x: found string "12", expected int64 as the schema declares`},
		{"", typed(`"type":"int32","name":"io.debezium.time.Date"`, `"x"`), `after.x: found string "x", expected an integer, days since 1970-01-01`},
		{"", typed(`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"999999999"}`, `1`), `decimal scale`},
		{"", typed(`"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"1"}`, `1e999999999`), `exponent`},
		{"", typed(`"type":"bytes"`, `"*"`), `base64`},
		{"", typed(`"type":"wat"`, `1`), `unknown type "wat"`},
	} {
		var d Decoder
		_, err := d.Decode([]byte(c.key), []byte(c.value))
		if err == nil || !strings.Contains(err.Error(), c.want) || failure.KindOf(err) != failure.Validation {
			t.Errorf("%s:\n got %v\nwant a Validation failure with %s", c.value, err, c.want)
		}
	}
}

func TestPositions(t *testing.T) {
	for _, c := range []struct {
		name, source, want string
		sequence           int64
	}{
		{"mysql", `{"connector":"mysql","name":"s","db":"d","table":"t","server_id":5,"file":"mysql-bin.000003","pos":484,"row":1}`, `mysql/s/d.t/mysql-bin.000003:484:1,server_id=5/u/{"id":1}`, 3<<42 | 484<<10 | 1},
		{"mysql without a file", `{"connector":"mysql","db":"d","table":"t","file":"","pos":0,"row":0,"gtid":null}`, "", 0},
		{"gtid alone does not tell the changes of a transaction apart", `{"connector":"mysql","db":"d","table":"t","file":"","gtid":"0e4d:10"}`, "", 0},
		{"sql server", `{"connector":"sqlserver","name":"s","db":"d","schema":"dbo","table":"t","change_lsn":"00000027:00000758:0003","commit_lsn":"00000027:00000758:0005","event_serial_no":"1"}`, `sqlserver/s/d.dbo.t/change_lsn=00000027:00000758:0003,commit_lsn=00000027:00000758:0005,event_serial_no=1/u/{"id":1}`, 0x27<<39 | 0x758<<12 | 3},
		{"oracle", `{"connector":"oracle","name":"s","db":"ORCL","schema":"C","table":"t","txId":"6.28.807","scn":"2122185","ssn":0}`, `oracle/s/ORCL.C.t/scn=2122185,ssn=0,txId=6.28.807/u/{"id":1}`, 2122185},
		{"mongodb", `{"connector":"mongodb","name":"s","db":"d","collection":"c","ts_ms":1558965515000,"ord":31}`, `mongodb/s/d.c/ts=1558965515000,ord=31/u/{"id":1}`, 1558965515<<32 | 31},
		{"unknown", `{"connector":"spanner","name":"s"}`, "", 0},
	} {
		e := decode(t, `{"id":1}`, `{"before":null,"after":{"id":1},"op":"u","source":`+c.source+`}`)
		if e.Position != c.want || e.Sequence != c.sequence {
			t.Errorf("%s: position %q, sequence %d\nwant %q, %d", c.name, e.Position, e.Sequence, c.want, c.sequence)
		}
	}
	// Two rows of one snapshot share the log position: without a key the row tells them apart.
	a := decode(t, "", `{"after":{"id":1},`+pgSource+`,"op":"r"}`)
	b := decode(t, "", `{"after":{"id":2},`+pgSource+`,"op":"r"}`)
	if a.Position == "" || a.Position == b.Position {
		t.Errorf("positions of two snapshot rows: %q and %q", a.Position, b.Position)
	}
}

func TestMongoDocuments(t *testing.T) {
	e := decode(t, `{"id":"{\"$oid\":\"596e275826f08b2730779e1f\"}"}`, `{"after":"{\"_id\":{\"$oid\":\"596e275826f08b2730779e1f\"},\"n\":{\"$numberLong\":\"9007199254740993\"},\"d\":{\"$date\":{\"$numberLong\":\"0\"}},\"p\":{\"$numberDecimal\":\"1.10\"},\"sub\":{\"k\":[1,{\"$numberInt\":\"2\"}]}}","op":"c","source":{"connector":"mongodb"}}`)
	want := map[string]any{"_id": "596e275826f08b2730779e1f", "n": int64(9007199254740993), "d": "1970-01-01T00:00:00Z", "p": "1.10", "sub": map[string]any{"k": []any{int64(1), int64(2)}}}
	if d := cmp.Diff(want, e.After); d != "" {
		t.Error(d)
	}
}

func TestNotices(t *testing.T) {
	for value, want := range map[string]Notice{
		`{"source":{"connector":"mysql"},"databaseName":"d","ddl":"ALTER TABLE t","tableChanges":[]}`: SchemaChange,
		`{"status":"BEGIN","id":"571:1","event_count":null,"data_collections":null}`:                  TransactionBoundary,
		`{"ts_ms":1559033904863}`: Heartbeat,
	} {
		if e := decode(t, "", value); e.Notice != want || e.Op != "" || e.Payload == nil || e.Position != "" {
			t.Errorf("%s: %+v, want notice %s", value, e, want)
		}
	}
}

// The schema block that a second table brings is not taken for the first one's.
func TestDecoderKeepsSchemasApart(t *testing.T) {
	var d Decoder
	record := func(kind, value string) string {
		return `{"schema":{"type":"struct","fields":[{"type":"struct","fields":[{"type":"` + kind + `","field":"x"}],"field":"after"}]},"payload":{"after":{"x":` + value + `},"op":"c"}}`
	}
	for i := range 3 {
		for _, c := range []struct {
			kind, value string
			want        any
		}{{"double", "1", 1.0}, {"int32", "1", int64(1)}, {"string", `"1"`, "1"}} {
			e, err := d.Decode(nil, []byte(record(c.kind, c.value)))
			if err != nil || e.After["x"] != c.want {
				t.Fatalf("round %d, %s: %v, %v", i, c.kind, e, err)
			}
		}
	}
	if len(d.schemas) != 3 {
		t.Errorf("remembers %d schema blocks, expected 3", len(d.schemas))
	}
}

// Every step of the shared cases gives the table that the reference tests of
// their projects expect, keyed by the declared primary key.
func TestSharedCases(t *testing.T) {
	type step struct {
		Case, Format string
		Table        string
		Step         int
		PrimaryKey   []string `json:"primary_key"`
		Records      []json.RawMessage
		Columns      []string                  `json:"expected_columns"`
		Rows         [][]any                   `json:"expected_rows"`
		Tables     map[string]struct {
			Columns []string
			Rows    [][]any
		} `json:"expected_tables"`
	}
	tables := map[string]map[string]map[string]any{} // case/table → key → row
	checked := 0
	for _, line := range shared(t, "cdc/cases.jsonl") {
		var s step
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		if s.Format != "debezium" {
			continue
		}
		var d Decoder
		last := ""
		for _, r := range s.Records {
			e, err := d.Decode(nil, r)
			if err != nil {
				t.Fatalf("%s step %d: %v", s.Case, s.Step, err)
			}
			if e.Op == "" {
				continue
			}
			last = e.Table
			name := s.Case + "/" + e.Table
			if tables[name] == nil {
				tables[name] = map[string]map[string]any{}
			}
			pk := s.PrimaryKey
			if len(pk) == 0 {
				pk = []string{"id"}
			}
			id := func(row map[string]any) string {
				k := ""
				for _, c := range pk {
					k += fmt.Sprint(row[c]) + "|"
				}
				return k
			}
			if e.Before != nil {
				delete(tables[name], id(e.Before))
			}
			if e.After != nil {
				tables[name][id(e.After)] = e.After
			}
		}
		what := fmt.Sprintf("%s step %d", s.Case, s.Step)
		switch {
		case s.Tables != nil:
			for name, want := range s.Tables {
				compare(t, what+" "+name, tables[s.Case+"/"+name], want.Columns, want.Rows)
			}
		case s.Rows != nil:
			compare(t, what, tables[s.Case+"/"+last], s.Columns, s.Rows)
		default:
			// The one step whose change of type must be refused: the schema block
			// says string, the declared type says int.
			for _, row := range tables[s.Case+"/"+last] {
				if age, ok := row["age"].(string); ok {
					if _, err := (canonical.Type{Kind: canonical.KindInt}).Coerce(age); err == nil {
						t.Errorf("%s: age %q was accepted as an int", what, age)
					}
					checked++
				}
			}
			continue
		}
		checked++
	}
	if checked < 11 {
		t.Errorf("%d steps were compared, expected all 11", checked)
	}
	t.Logf("%d steps compared", checked)
}

// compare holds a table against expected rows, as strings, in any order.
func compare(t *testing.T, what string, table map[string]map[string]any, columns []string, rows [][]any) {
	t.Helper()
	cell := func(v any) string {
		switch n := v.(type) {
		case int64:
			return fmt.Sprint(float64(n))
		case float64: // some weights went through a 32-bit float
			return fmt.Sprintf("%.6g", n)
		}
		return fmt.Sprint(v)
	}
	var got, want []string
	for _, r := range table {
		s := ""
		for _, c := range columns {
			s += cell(r[c]) + "|"
		}
		got = append(got, s)
	}
	for _, r := range rows {
		s := ""
		for _, v := range r {
			s += cell(v) + "|"
		}
		want = append(want, s)
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: table differs (-want +got)\n%s", what, d)
	}
}

// The replay of both postgres files gives the expected table, and every change
// has a position of its own. The second file is what replica identity "default"
// gives: no row before the change, so a delete is known by its key, which stands
// in the Kafka record and not in the file; it is taken from the first file.
func TestSharedPostgres(t *testing.T) {
	full := shared(t, "cdc/postgres-products.jsonl")
	var want struct {
		Rows []map[string]any
	}
	if err := json.Unmarshal([]byte(strings.Join(shared(t, "cdc/postgres-products.expected.json"), "")), &want); err != nil || len(want.Rows) == 0 {
		t.Fatalf("expected rows: %v, %v", want.Rows, err)
	}
	columns := []string{"id", "name", "description", "weight"}
	var rows [][]any
	for _, r := range want.Rows {
		var row []any
		for _, c := range columns {
			row = append(row, r[c])
		}
		rows = append(rows, row)
	}
	for _, name := range []string{"cdc/postgres-products.jsonl", "cdc/postgres-products-replica-identity-default.jsonl"} {
		table := map[string]map[string]any{}
		positions := map[string]bool{}
		for i, line := range shared(t, name) {
			key := fmt.Sprintf(`{"id":%v}`, decode(t, "", full[i]).Row()["id"])
			e := decode(t, key, line)
			if e.Position == "" || positions[e.Position] || e.Sequence == 0 {
				t.Errorf("%s record %d: position %q, sequence %d: expected a position of its own", name, i, e.Position, e.Sequence)
			}
			positions[e.Position] = true
			if e.Gone() {
				delete(table, e.KeyText)
			} else {
				table[e.KeyText] = e.After
			}
		}
		compare(t, name, table, columns, rows)
	}
}

// Every documented and collected envelope reads, values and keys.
func TestSharedEnvelopes(t *testing.T) {
	n := 0
	for _, name := range []string{"cdc/debezium-other-envelopes.jsonl", "cdc/debezium-docs-postgres-mysql.jsonl"} {
		for i, line := range shared(t, name) {
			var l struct {
				Doc    string
				Line   int
				Record json.RawMessage
				Key    json.RawMessage
				Value  json.RawMessage
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			key, value := l.Key, l.Value
			if l.Record != nil {
				value = l.Record
			}
			var d Decoder
			if strings.Contains(string(value), `.Key"`) || strings.Contains(string(value), `SchemaChangeKey"`) {
				key, value = value, nil
			}
			e, err := d.Decode(key, value)
			if l.Line == 68 && strings.HasSuffix(l.Doc, "event-flattening.adoc") {
				// The documentation abbreviates the times of this one to "...".
				if err == nil || !strings.Contains(err.Error(), `ts_`) {
					t.Errorf("%s:%d: %v, expected the times to be refused", l.Doc, l.Line, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s record %d: %v", name, i, err)
				continue
			}
			if key != nil && e.Key == nil {
				t.Errorf("%s record %d: key %s was not read", name, i, key)
			}
			for _, row := range []map[string]any{e.Before, e.After, e.Source} {
				for k, v := range row {
					if _, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(v); err != nil {
						t.Errorf("%s record %d: %s: %v", name, i, k, err)
					}
				}
			}
			n++
		}
	}
	t.Logf("%d envelopes read", n)
}

// A change of a column's type from a number to text reaches the definition as
// text, and a field declared int refuses it: nothing is converted silently.
func TestTypeChangeIsRefusedByTheDeclaredType(t *testing.T) {
	record := func(kind, value string) string {
		return `{"schema":{"type":"struct","fields":[{"type":"struct","fields":[{"type":"` + kind + `","field":"age"}],"field":"after"}]},"payload":{"after":{"age":` + value + `},"op":"c"}}`
	}
	age := canonical.Type{Kind: canonical.KindInt}
	for _, kind := range []string{"int32", "int64"} {
		if v, err := age.Coerce(decode(t, "", record(kind, "19")).After["age"]); err != nil || v != "19" {
			t.Errorf("%s: %v, %v", kind, v, err)
		}
	}
	if _, err := age.Coerce(decode(t, "", record("string", `"19"`)).After["age"]); err == nil || !strings.Contains(err.Error(), `expected int, found string "19"`) {
		t.Errorf("string: %v, expected a refusal", err)
	}
}

func TestOccurredAtPrefersTheSourcesFinestTime(t *testing.T) {
	for source, want := range map[string]int64{
		`{"ts_ms":1000,"ts_us":1000001,"ts_ns":1000001002}`: 1000001,
		`{"ts_ms":1000,"ts_ns":1000001002}`:                 1000001,
		`{"ts_ms":1000}`:                                    1000000,
		`{"ts_sec":2}`:                                      2000000,
		`{"ts_ms":0}`:                                       5000,
		`null`:                                              5000,
	} {
		if e := decode(t, "", `{"after":{"id":1},"op":"c","ts_ms":5,"source":`+source+`}`); e.OccurredAt != envelope.Instant(want) {
			t.Errorf("%s: %d, want %d", source, int64(e.OccurredAt), want)
		}
	}
}

// No input makes the decoder panic, and what it accepts has a canonical form.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":7}`), []byte(`{"before":null,"after":{"id":7,"x":1.5},`+pgSource+`,"op":"c","ts_ms":1}`))
	f.Add([]byte(`{"schema":{"type":"struct","fields":[{"type":"int64","field":"id"}]},"payload":{"id":1}}`), []byte(`{"schema":{"type":"struct","fields":[{"type":"struct","fields":[{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"},"field":"x"},{"type":"int64","name":"io.debezium.time.MicroTime","field":"y"}],"field":"after"}]},"payload":{"after":{"x":"MDk=","y":1},"op":"c"}}`))
	f.Add([]byte(`k`), []byte(`{"after":"{\"_id\":{\"$oid\":\"5\"},\"d\":{\"$date\":{\"$numberLong\":\"0\"}}}","op":"c","source":{"connector":"mongodb","ts_ms":1000,"ord":1}}`))
	f.Add([]byte(nil), []byte(`{"status":"BEGIN","id":"1"}`))
	var d Decoder
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := d.Decode(key, value)
		if err != nil {
			if failure.KindOf(err) != failure.Validation {
				t.Fatalf("kind %s: %v", failure.KindOf(err), err)
			}
			return
		}
		for _, m := range []map[string]any{e.Before, e.After, e.Key, e.Source} {
			if m == nil {
				continue
			}
			if _, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkDecodeWithSchema(b *testing.B) {
	row := `{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"},{"type":"string","optional":true,"field":"name"},{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"},"field":"amount"},{"type":"int64","name":"io.debezium.time.MicroTimestamp","field":"at"}],"optional":true,"field":`
	value := []byte(`{"schema":{"type":"struct","fields":[` + row + `"before"},` + row + `"after"}]},"payload":{"before":null,"after":{"id":1,"name":"Ada","amount":"MDk=","at":1679581805123456},` + pgSource + `,"op":"c","ts_ms":1}}`)
	var d Decoder
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(nil, value); err != nil {
			b.Fatal(err)
		}
	}
}
