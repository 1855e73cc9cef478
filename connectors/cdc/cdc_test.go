package cdc

import (
	"encoding/base64"
	"fmt"
	"reflect"
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
	c, err := Kind{}.Open(&definition.Source{Name: "crm", Connector: "cdc", Settings: set}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Source)
}

func one(t testing.TB, s *Source, e *journal.Entry) connectors.Record {
	t.Helper()
	recs, err := s.Decode(e)
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	return recs[0]
}

const pgUpdate = `{"before":{"id":7,"email":"a@example.org"},"after":{"id":7,"email":"b@example.org"},` +
	`"source":{"connector":"postgresql","name":"crm","ts_ms":1700000000123,"snapshot":"false","db":"crm","schema":"public","table":"customers","txId":556,"lsn":24023128},` +
	`"op":"u","ts_ms":1700000000999}`

func TestUpdate(t *testing.T) {
	s := open(t, nil)
	e := s.Entry([]byte(`{"id":7}`), []byte(pgUpdate), false, map[string]string{"X-Secret": "s"})
	if want := "postgresql/crm/crm.public.customers/tx 556 lsn 24023128/1700000000123/u/"; !strings.HasPrefix(e.VendorID, want) {
		t.Errorf("vendor id %q, expected %q and a digest of the key", e.VendorID, want)
	}
	if len(e.Headers) != 0 {
		t.Errorf("headers %v: none were declared", e.Headers)
	}
	got := one(t, s, e)
	after := map[string]any{"id": int64(7), "email": "b@example.org"}
	want := connectors.Record{
		"op": "u", "before": map[string]any{"id": int64(7), "email": "a@example.org"}, "after": after, "row": after,
		"key": map[string]any{"id": int64(7)}, "table": "customers", "db": "crm", "schema": "public", "ts": int64(1700000000123),
		"deleted": false, "snapshot": false, "position": "tx 556 lsn 24023128", "sequence": int64(24023128), "source": got["source"],
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if src := got["source"].(map[string]any); src["txId"] != int64(556) {
		t.Errorf("source %v", src)
	}
}

// Debezium sends a change again after a restart, with another ts_ms: it must
// be recognised as a copy, not as a conflict.
func TestResentChangeIsACopy(t *testing.T) {
	src := &definition.Source{Name: "crm"}
	s := open(t, nil)
	id := func(value string) *journal.Entry {
		e := s.Entry([]byte(`{"id":7}`), []byte(value), false, nil)
		e.Identify(connectors.Volatile(src, s, e))
		return e
	}
	first, second := id(pgUpdate), id(strings.Replace(pgUpdate, `"ts_ms":1700000000999`, `"ts_ms":1700000055555`, 1))
	if first.DedupeKey != second.DedupeKey || first.BodyHash != second.BodyHash {
		t.Errorf("\n%s %s\n%s %s", first.DedupeKey, first.BodyHash, second.DedupeKey, second.BodyHash)
	}
	other := id(strings.Replace(pgUpdate, `b@example.org`, `c@example.org`, 1))
	if other.DedupeKey != first.DedupeKey || other.BodyHash == first.BodyHash {
		t.Error("the same position with another row is a conflict")
	}
	// Without a position the time of sending is all that tells two equal
	// changes apart.
	noPosition := strings.Replace(pgUpdate, `"lsn":24023128`, `"lsn":null`, 1)
	a, b := id(noPosition), id(strings.Replace(noPosition, `"ts_ms":1700000000999`, `"ts_ms":1700000055555`, 1))
	if a.VendorID != "" || a.DedupeKey == b.DedupeKey {
		t.Errorf("%q %q", a.DedupeKey, b.DedupeKey)
	}
}

// Rows of a snapshot share one position.
func TestSnapshotRowsAreToldApart(t *testing.T) {
	row := func(id int) []byte {
		return fmt.Appendf(nil, `{"before":null,"after":{"id":%d},"source":{"connector":"postgresql","name":"crm","snapshot":"true","table":"t","txId":1,"lsn":5},"op":"r","ts_ms":9}`, id)
	}
	for _, set := range []map[string]any{nil, {"key": "id"}} {
		s := open(t, set)
		seen := map[string]int{}
		for i := range 50 {
			e := s.Entry(nil, row(i), false, nil)
			if before, dup := seen[e.VendorID]; dup || e.VendorID == "" {
				t.Fatalf("rows %d and %d share %q", before, i, e.VendorID)
			}
			seen[e.VendorID] = i
			if r := one(t, s, e); r["snapshot"] != true {
				t.Error("no snapshot")
			}
		}
	}
}

func TestDeletes(t *testing.T) {
	del := func(before string) []byte {
		return []byte(`{"before":` + before + `,"after":null,"source":{"table":"t","ts_ms":1},"op":"d"}`)
	}
	for _, c := range []struct {
		name, key string
		columns   any
		before    string
		row       map[string]any
		says      string
	}{
		{name: "full image", before: `{"id":1,"a":"x"}`, row: map[string]any{"id": int64(1), "a": "x"}},
		{name: "key only", key: `{"id":1}`, before: "null", row: map[string]any{"id": int64(1)}},
		{name: "key with schema", key: `{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"}]},"payload":{"id":1}}`, before: "null", row: map[string]any{"id": int64(1)}},
		{name: "scalar key", key: `17`, columns: "id", before: "null", row: map[string]any{"id": int64(17)}},
		{name: "text key", key: `abc-1`, columns: "id", before: "null", row: map[string]any{"id": "abc-1"}},
		{name: "image without the key's value", key: `{"id":1}`, before: `{"id":null,"a":null}`, row: map[string]any{"id": int64(1), "a": nil}},
		{name: "nothing", before: "null", says: "a delete without before and without record key"},
		{name: "scalar key, no column", key: `17`, before: "null", says: "a delete without before and without record key"},
		{name: "broken key", key: `{"id":`, before: "null", says: "key: invalid JSON at byte 6: unexpected end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, map[string]any{"key": c.columns})
			recs, err := s.Decode(s.Entry([]byte(c.key), del(c.before), false, nil))
			if c.says != "" {
				if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, expected %q", err, c.says)
				}
				return
			}
			if err != nil || len(recs) != 1 {
				t.Fatal(recs, err)
			}
			if r := recs[0]; !reflect.DeepEqual(r["row"], c.row) || r["deleted"] != true || r["after"] != nil {
				t.Errorf("%v", r)
			}
		})
	}
}

func TestWhatIsNoChangeOfARow(t *testing.T) {
	s := open(t, nil)
	for name, value := range map[string]string{
		"truncate":            `{"op":"t","source":{"table":"t"},"ts_ms":1}`,
		"message":             `{"op":"m","message":{"prefix":"p","content":"Ymfy"}}`,
		"begin":               `{"status":"BEGIN","id":"571:53195829","ts_ms":1,"event_count":null,"data_collections":null}`,
		"schema change":       `{"source":{},"databaseName":"d","schemaName":null,"ddl":"ALTER TABLE t","tableChanges":[]}`,
		"heartbeat":           `{"ts_ms":1700000000000}`,
		"tombstone in schema": `{"schema":null,"payload":null}`,
		"null":                `null`,
	} {
		if recs, err := s.Decode(&journal.Entry{Body: []byte(value)}); err != nil || len(recs) != 0 {
			t.Errorf("%s: %v, %v", name, recs, err)
		}
	}
	tombstone := s.Entry([]byte(`{"id":1}`), nil, true, nil)
	if recs, err := s.Decode(tombstone); err != nil || len(recs) != 0 || !tombstone.NoBody {
		t.Errorf("tombstone: %v, %v", recs, err)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, nil)
	for value, says := range map[string]string{
		`{"op":"x","after":{}}`: `op: found "x", expected one of c, u, d, r, t, m`,
		`{"op":7}`:              `op: found 7, expected a string`,
		`{"id":1,"name":"a"}`:   `found no member op`,
		`{"op":"u","before":{"id":1},"after":null}`:      `after: found null, expected the row (op "u")`,
		`{"op":"c","after":[1]}`:                         `after: found an array`,
		`{"op":"c","after":{},"source":{"ts_ms":"..."}}`: `source.ts_ms: found the string "...", expected an integer`,
		`{"op":"c","after":{},"source":{"table":["t"]}}`: `source.table: found an array, expected a string`,
		`[1]`:                     `found an array, expected a Debezium envelope`,
		"\x00\x00\x00\x00\x05abc": `Confluent wire format`,
		`{"op":"c"`:               `invalid JSON at byte 9: unexpected end`,
		``:                        `invalid JSON at byte 0: unexpected end`,
		`{"op":"c","after":` + strings.Repeat("[", 99999): `nested deeper than 64`,
	} {
		_, err := s.Decode(s.Entry(nil, []byte(value), false, nil))
		if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, expected %q", value, err, says)
		}
	}
}

func TestUnavailableColumnsAreNoClaims(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString([]byte("__debezium_unavailable_value"))
	v := `{"op":"u","before":null,"after":{"id":1,"doc":"__debezium_unavailable_value","blob":"` + b64 + `","tags":["__debezium_unavailable_value"],"note":null}}`
	s := open(t, nil)
	row := one(t, s, s.Entry(nil, []byte(v), false, nil))["row"]
	if want := map[string]any{"id": int64(1), "note": nil}; !reflect.DeepEqual(row, want) {
		t.Errorf("got %v, want %v", row, want)
	}
}

func TestTables(t *testing.T) {
	s := open(t, map[string]any{"tables": []any{"public.customers"}})
	if len(one(t, s, &journal.Entry{Body: []byte(pgUpdate)})) == 0 {
		t.Error("not followed")
	}
	recs, err := s.Decode(&journal.Entry{Body: []byte(strings.ReplaceAll(pgUpdate, "customers", "orders"))})
	if err != nil || len(recs) != 0 {
		t.Error(recs, err)
	}
}

func TestConnectSchema(t *testing.T) {
	field := func(kind, name, more string) string {
		if name != "" {
			more += `,"name":"` + name + `"`
		}
		return `{"field":"v","optional":true,"type":"` + kind + `"` + more + `}`
	}
	scale := func(n int) string { return fmt.Sprintf(`,"parameters":{"scale":"%d"}`, n) }
	const connect, debezium = "org.apache.kafka.connect.data.", "io.debezium."
	for _, c := range []struct {
		schema, value string
		want          any
		says          string
	}{
		{field("int8", "", ""), `-128`, int64(-128), ""},
		{field("int8", "", ""), `128`, nil, "after.v: found 128, expected an integer of 8 bits by the schema"},
		{field("int64", "", ""), `"18"`, nil, `found the string "18", expected an integer of 64 bits`},
		{field("int32", "", ""), `1.5`, nil, "expected an integer of 32 bits"},
		{field("double", "", ""), `5`, 5.0, ""},
		{field("double", "", ""), `"NaN"`, "NaN", ""},
		{field("boolean", "", ""), `1`, nil, "expected a boolean"},
		{field("string", "", ""), `1`, nil, "expected a string"},
		{field("string", debezium+"data.Enum", ""), `"gold"`, "gold", ""},
		{field("string", debezium+"data.EnumSet", ""), `"a,b"`, []any{"a", "b"}, ""},
		{field("string", debezium+"data.EnumSet", ""), `""`, []any{}, ""},
		{field("string", debezium+"data.Json", ""), `"{\"a\":[1]}"`, map[string]any{"a": []any{int64(1)}}, ""},
		{field("string", debezium+"data.Json", ""), `"{"`, nil, "unexpected end"},
		{field("string", debezium+"data.Json", ""), `"__debezium_unavailable_value"`, nil, ""},
		{field("bytes", connect+"Decimal", scale(2)), `"MDk="`, "123.45", ""},
		{field("bytes", connect+"Decimal", scale(2)), `"+w=="`, "-0.05", ""},
		{field("bytes", connect+"Decimal", scale(0)), `"AP//////////"`, "18446744073709551615", ""},
		{field("bytes", connect+"Decimal", scale(-3)), `"Ag=="`, "2000", ""},
		{field("bytes", connect+"Decimal", scale(2)), `12.3`, "12.30", ""},
		{field("bytes", connect+"Decimal", scale(0)), `1.2345678987654322e+32`, "123456789876543220000000000000000", ""},
		{field("bytes", connect+"Decimal", scale(3)), `12345678901234567890.125`, "12345678901234567890.125", ""},
		{field("bytes", connect+"Decimal", scale(2)), `-1e-4`, "-0.0001", ""},
		{field("bytes", connect+"Decimal", scale(2)), `1e999999999`, nil, "out of bounds"},
		{field("bytes", connect+"Decimal", scale(2)), `"!"`, nil, "base64"},
		{field("bytes", connect+"Decimal", scale(99999)), `"AQ=="`, nil, "scale"},
		{field("struct", debezium+"data.VariableScaleDecimal", ""), `{"scale":1,"value":"ew=="}`, "12.3", ""},
		{field("int32", debezium+"time.Date", ""), `19439`, "2023-03-23", ""},
		{field("int32", connect+"Date", ""), `-1`, "1969-12-31", ""},
		{field("int32", debezium+"time.Date", ""), `"x"`, nil, "days since 1970"},
		{field("int64", debezium+"time.Timestamp", ""), `1679581805123`, "2023-03-23T14:30:05.123Z", ""},
		{field("int64", connect+"Timestamp", ""), `0`, "1970-01-01T00:00:00Z", ""},
		{field("int64", debezium+"time.MicroTimestamp", ""), `1679581805123456`, "2023-03-23T14:30:05.123456Z", ""},
		{field("int64", debezium+"time.MicroTimestamp", ""), `-1`, "1969-12-31T23:59:59.999999Z", ""},
		{field("int64", debezium+"time.NanoTimestamp", ""), `1679581805123456789`, "2023-03-23T14:30:05.123456789Z", ""},
		{field("int64", debezium+"time.MicroTimestamp", ""), `9223372036825200000`, "+294247-01-10T04:00:25.2Z", ""},
		{field("int32", debezium+"time.Time", ""), `36803000`, "10:13:23", ""},
		{field("int64", debezium+"time.MicroTime", ""), `36803000500`, "10:13:23.0005", ""},
		{field("int64", debezium+"time.MicroTime", ""), `-3020399000000`, "-838:59:59", ""},
		{field("int64", debezium+"time.NanoTime", ""), `1`, "00:00:00.000000001", ""},
		{field("string", debezium+"time.ZonedTimestamp", ""), `"2023-03-23T22:00:10.123456Z"`, "2023-03-23T22:00:10.123456Z", ""},
		{field("int32", debezium+"time.Year", ""), `2023`, int64(2023), ""},
		{field("array", "", `,"items":{"type":"int32","name":"io.debezium.time.Date"}`), `[0,null]`, []any{"1970-01-01", nil}, ""},
		{field("array", "", `,"items":{"type":"int32"}`), `[0,"x"]`, nil, "after.v.1: found"},
		{field("map", "", `,"keys":{"type":"string"},"values":{"type":"int64"}`), `{"a":1}`, map[string]any{"a": int64(1)}, ""},
		{field("map", "", `,"keys":{"type":"int32"},"values":{"type":"string"}`), `[[1,"a"]]`, []any{[]any{int64(1), "a"}}, ""},
		{field("struct", "", `,"fields":[{"field":"x","type":"double"},{"field":"srid","type":"int32"}]`), `{"x":1,"srid":null}`, map[string]any{"x": 1.0, "srid": nil}, ""},
		{field("who-knows", "", ""), `{"a":1.0}`, map[string]any{"a": 1.0}, ""},
	} {
		body := `{"schema":{"type":"struct","fields":[{"field":"after","type":"struct","fields":[` + c.schema + `]}]},"payload":{"op":"c","after":{"v":` + c.value + `}}}`
		s := open(t, nil)
		recs, err := s.Decode(s.Entry(nil, []byte(body), false, nil))
		if c.says != "" {
			if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s of %s: %v, expected %q", c.value, c.schema, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s of %s: %v", c.value, c.schema, err)
			continue
		}
		if got := recs[0]["row"].(map[string]any)["v"]; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s of %s: got %#v, want %#v", c.value, c.schema, got, c.want)
		}
	}
}

func TestMongoDocuments(t *testing.T) {
	s := open(t, nil)
	e := s.Entry([]byte(`{"id":"{\"$oid\":\"596e275826f08b2730779e1f\"}"}`),
		[]byte(`{"op":"c","after":"{\"_id\":{\"$oid\":\"596e275826f08b2730779e1f\"},\"n\":{\"$numberLong\":\"9007199254740993\"},\"d\":{\"$date\":{\"$numberLong\":\"0\"}},`+
			`\"p\":{\"$numberDecimal\":\"1.10\"},\"l\":[1,{\"$numberInt\":\"2\"}]}","source":{"connector":"mongodb","name":"m","collection":"c","ts_ms":5000,"ord":3}}`), false, nil)
	r := one(t, s, e)
	want := map[string]any{"_id": "596e275826f08b2730779e1f", "id": "596e275826f08b2730779e1f", "n": int64(9007199254740993),
		"d": "1970-01-01T00:00:00Z", "p": "1.10", "l": []any{int64(1), int64(2)}}
	if !reflect.DeepEqual(r["row"], want) || r["table"] != "c" || r["position"] != "ord 3" || r["sequence"] != int64(3) {
		t.Errorf("%v", r)
	}
	_, err := s.Decode(&journal.Entry{Body: []byte(`{"op":"u","after":null,"source":{"connector":"mongodb"}}`)})
	if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), "change_streams_update_full") {
		t.Error(err)
	}
}

func TestTransactionOrderStandsInForThePosition(t *testing.T) {
	s := open(t, nil)
	r := one(t, s, &journal.Entry{Body: []byte(`{"op":"c","after":{"id":1},"source":{"connector":"mysql","gtid":"0e4d5dcd:10","file":""},"transaction":{"id":"x","total_order":7}}`)})
	if r["position"] != "gtid 0e4d5dcd:10 order 7" {
		t.Error(r["position"])
	}
}

func TestPositions(t *testing.T) {
	for _, c := range []struct {
		source   map[string]any
		position string
		sequence int64
	}{
		{map[string]any{"connector": "mysql", "file": "mysql-bin.000003", "pos": int64(725), "row": int64(1)}, "mysql-bin.000003:725:1", 3<<42 | 725<<8 | 1},
		{map[string]any{"connector": "mysql", "file": "", "pos": int64(0), "row": int64(0)}, "", 0},
		{map[string]any{"connector": "sqlserver", "change_lsn": "00000027:00000758:0005", "commit_lsn": "00000027:00000758:0006", "event_serial_no": int64(2)},
			"lsn 00000027:00000758:0005 commit 00000027:00000758:0006 serial 2", 0x27<<40 | 0x758<<12 | 5},
		{map[string]any{"connector": "oracle", "scn": "2122185", "txId": "6.28.807"}, "scn 2122185 tx 6.28.807", 2122185},
		{map[string]any{"connector": "mongodb", "ord": int64(31)}, "ord 31", 31},
		{map[string]any{"connector": "postgresql", "lsn": int64(9), "txId": int64(2)}, "tx 2 lsn 9", 9},
		{map[string]any{"connector": "vitess", "vgtid": "[]"}, "", 0},
		{nil, "", 0},
	} {
		if p, n := position(c.source); p != c.position || n != c.sequence {
			t.Errorf("%v: %q %d, expected %q %d", c.source, p, n, c.position, c.sequence)
		}
	}
}

// The order of positions in the log is the order of sequence numbers.
func TestBinlogOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		place := func(name string) (int64, int64, int64) {
			return rapid.Int64Range(1, 1<<21-1).Draw(t, name+" file"), rapid.Int64Range(4, 1<<34-1).Draw(t, name+" pos"), rapid.Int64Range(0, 255).Draw(t, name+" row")
		}
		f1, p1, r1 := place("a")
		f2, p2, r2 := place("b")
		a, b := binlogSequence(fmt.Sprintf("bin.%06d", f1), p1, r1), binlogSequence(fmt.Sprintf("bin.%06d", f2), p2, r2)
		less := f1 < f2 || f1 == f2 && (p1 < p2 || p1 == p2 && r1 < r2)
		if less != (a < b) || a < 0 || b < 0 {
			t.Fatalf("%d %d", a, b)
		}
	})
}

func TestMaxwell(t *testing.T) {
	s := open(t, map[string]any{"format": "maxwell"})
	e := s.Entry(nil, []byte(`{"database":"test","table":"product","type":"update","ts":1596684906,"xid":7216,"commit":true,"data":{"id":105,"address":"Beijing"},"old":{"address":"Shanghai"},"primary_key_columns":["id"]}`), false, nil)
	r := one(t, s, e)
	if r["op"] != "u" || r["ts"] != int64(1596684906000) || r["db"] != "test" || r["table"] != "product" ||
		!reflect.DeepEqual(r["key"], map[string]any{"id": int64(105)}) ||
		!reflect.DeepEqual(r["before"], map[string]any{"id": int64(105), "address": "Shanghai"}) ||
		!reflect.DeepEqual(r["row"], map[string]any{"id": int64(105), "address": "Beijing"}) {
		t.Errorf("%v", r)
	}
	if r["position"] != "xid 7216 commit" || e.VendorID == "" {
		t.Errorf("%v %q", r["position"], e.VendorID)
	}
	for _, kind := range []string{"bootstrap-start", "table-create", "database-drop"} {
		if recs, err := s.Decode(s.Entry(nil, []byte(`{"type":"`+kind+`"}`), false, nil)); err != nil || len(recs) > 0 {
			t.Error(kind, recs, err)
		}
	}
	if _, err := s.Decode(s.Entry(nil, []byte(`{"type":"upsert","data":{}}`), false, nil)); failure.KindOf(err) != failure.Validation {
		t.Error(err)
	}
}

func TestEntriesOfAFile(t *testing.T) {
	s := open(t, map[string]any{"keepHeaders": []any{"Region"}})
	file := "\ufeff" + pgUpdate + "\r\n\n" +
		`{"key":{"id":7},"value":` + pgUpdate + `,"headers":{"region":"eu","other":"x"}}` + "\n" +
		`{"key":"{\"id\":7}","value":null,"topic":"crm.public.customers","offset":3}` + "\n" +
		"null\n" + `{"value":1,"op":"c"}` + "\n" + "nonsense"
	var got []string
	err := s.Entries(strings.NewReader(file), func(line int64, e *journal.Entry) error {
		got = append(got, fmt.Sprintf("%d key=%s body=%.8s none=%v headers=%v", line, e.Key, e.Body, e.NoBody, e.Headers))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`1 key= body={"before none=false headers=map[]`,
		`3 key={"id":7} body={"before none=false headers=map[region:eu]`,
		`4 key={"id":7} body= none=true headers=map[]`,
		`5 key= body= none=true headers=map[]`,
		`6 key= body={"value" none=false headers=map[]`,
		`7 key= body=nonsense none=false headers=map[]`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	err = s.Entries(strings.NewReader("{}\n"+strings.Repeat("x", MaxLine+1)), func(int64, *journal.Entry) error { return nil })
	if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), "line 2") {
		t.Error(err)
	}
}

func TestSettingMistakes(t *testing.T) {
	_, err := Kind{}.Open(&definition.Source{Settings: map[string]any{"format": "avro", "topics": []any{"a b", "ok"}, "keepHeaders": []any{"Authorization"}, "table": "x"}}, nil)
	want := `format: found "avro", expected one of debezium, maxwell; ` +
		`keepHeaders[0]: found "Authorization", expected a header that carries no credential: the journal is read by many; ` +
		`table: found "x", expected no such setting; one of format, keepHeaders, key, maxDepth, tables, topics, unavailable; ` +
		`topics[0]: found "a b", expected a Kafka topic: letters, digits, '.', '_' and '-', at most 249`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Whatever the bytes are: no panic, Validation or a record with all variables,
// and the same answer every time.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"id":7}`), []byte(pgUpdate))
	f.Add([]byte(nil), []byte(`{"schema":{"type":"struct","fields":[{"field":"after","type":"struct","fields":[{"field":"v","type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}}]}]},"payload":{"op":"c","after":{"v":"MDk="}}}`))
	f.Add([]byte(`{"schema":null,"payload":1}`), []byte(`{"op":"d","before":null,"source":{"file":"bin.1","pos":4}}`))
	f.Add([]byte(`x`), []byte(`{"database":"d","table":"t","type":"delete","ts":1,"xid":1,"xoffset":2,"data":{"id":1},"primary_key_columns":["id"]}`))
	sources := []*Source{open(f, map[string]any{"key": "id"}), open(f, map[string]any{"format": "maxwell"})}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		for _, s := range sources {
			e := s.Entry(key, value, false, nil)
			recs, err := s.Decode(e)
			if err != nil {
				if failure.KindOf(err) != failure.Validation {
					t.Fatalf("%v is %s", err, failure.KindOf(err))
				}
				if e.VendorID != "" {
					t.Fatalf("identified as %q and not read: %v", e.VendorID, err)
				}
				continue
			}
			for _, r := range recs {
				for _, v := range (Kind{}).Variables() {
					if _, ok := r[v.Name]; !ok {
						t.Fatalf("no variable %s in %v", v.Name, r)
					}
				}
				if _, ok := r["row"].(map[string]any); !ok {
					t.Fatalf("row is %T", r["row"])
				}
			}
			again, _ := s.Decode(s.Entry(key, value, false, nil))
			if !reflect.DeepEqual(recs, again) && !strings.Contains(fmt.Sprint(recs), "NaN") {
				t.Fatalf("%v\n%v", recs, again)
			}
		}
	})
}
