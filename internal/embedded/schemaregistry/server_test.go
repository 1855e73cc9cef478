package schemaregistry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func call(t *testing.T, method, url, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	_ = json.Unmarshal(raw, &m) // lists and numbers are not looked at
	return resp.StatusCode, m
}

// record is a schema request for a record R with the given fields.
func record(fields string) string {
	b, err := json.Marshal(map[string]string{"schema": `{"type":"record","name":"R","fields":[` + fields + `]}`})
	if err != nil {
		panic(err)
	}
	return string(b)
}

const (
	a        = `{"name":"a","type":"long"}`
	aString  = `{"name":"a","type":"string"}`
	b        = `{"name":"b","type":"string"}`
	bDefault = `{"name":"b","type":"string","default":""}`
)

// Each level refuses what it says it refuses: with path and reason, code 40901.
func TestLevels(t *testing.T) {
	s := start(t, Config{})
	for i, c := range []struct {
		level  string
		fields []string // registered in this order; the last is the one in question
		ok     bool
	}{
		{"BACKWARD", []string{a, a + "," + bDefault}, true},
		{"BACKWARD", []string{a, a + "," + b}, false},
		{"BACKWARD", []string{a + "," + b, a}, true},
		{"BACKWARD", []string{a, aString}, false},
		{"FORWARD", []string{a, a + "," + b}, true},
		{"FORWARD", []string{a + "," + b, a}, false},
		{"FORWARD", []string{a + "," + bDefault, a}, true},
		{"FULL", []string{a, a + "," + bDefault}, true},
		{"FULL", []string{a, a + "," + b}, false},
		{"FULL", []string{a + "," + b, a}, false},
		{"NONE", []string{a, aString}, true},
		// b without default is new against the second version, and against the
		// first only if all are compared.
		{"BACKWARD", []string{a, a + "," + bDefault, a + "," + b}, true},
		{"BACKWARD_TRANSITIVE", []string{a, a + "," + bDefault, a + "," + b}, false},
		{"FORWARD", []string{a + "," + b, a + "," + bDefault, a}, true},
		{"FORWARD_TRANSITIVE", []string{a + "," + b, a + "," + bDefault, a}, false},
		{"FULL_TRANSITIVE", []string{a, a + "," + bDefault, a}, true},
	} {
		subject := fmt.Sprintf("s%d", i)
		if status, m := call(t, "PUT", s.URL()+"/config/"+subject, `{"compatibility":"NONE"}`); status != 200 {
			t.Fatal(m)
		}
		last := len(c.fields) - 1
		for _, f := range c.fields[:last] {
			if status, m := call(t, "POST", s.URL()+"/subjects/"+subject+"/versions", record(f)); status != 200 {
				t.Fatal(m)
			}
		}
		if status, m := call(t, "PUT", s.URL()+"/config/"+subject, `{"compatibility":"`+c.level+`"}`); status != 200 {
			t.Fatal(m)
		}
		asked := "/compatibility/subjects/" + subject + "/versions?verbose=true"
		status, m := call(t, "POST", s.URL()+asked, record(c.fields[last]))
		if status != 200 || m["is_compatible"] != c.ok || (len(m["messages"].([]any)) == 0) != c.ok {
			t.Errorf("%s %v: asked: %d %v, want compatible %v", c.level, c.fields, status, m, c.ok)
		}
		status, m = call(t, "POST", s.URL()+"/subjects/"+subject+"/versions", record(c.fields[last]))
		if (status == 200) != c.ok {
			t.Errorf("%s %v: registered: %d %v, want success %v", c.level, c.fields, status, m, c.ok)
		}
		if !c.ok {
			text, _ := m["message"].(string)
			if status != 409 || m["error_code"] != 40901.0 || !strings.Contains(text, "path: 'R") && !strings.Contains(text, "path: 'a'") && !strings.Contains(text, "path: 'b'") || !strings.Contains(text, "reason: '") {
				t.Errorf("%s %v: refused with %d %v, want 409, 40901, the path and the reason", c.level, c.fields, status, m)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	s := start(t, Config{})
	if status, m := call(t, "POST", s.URL()+"/subjects/s/versions", record(a)); status != 200 {
		t.Fatal(m)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		code               float64
	}{
		{"POST", "/subjects/s/versions", `{"schema":"{\"type\":\"record\"}"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"{\"type\":\"wat\"}"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"{}","schemaType":"JSON"}`, 422, 42201},
		{"POST", "/subjects/s/versions", `{"schema":"\"gone.Ref\"","references":[{"name":"gone.Ref","subject":"x","version":1}]}`, 422, 42201},
		{"POST", "/contexts/.c/subjects/s/versions", record(aString), 404, 404},
		{"POST", "/compatibility/subjects/s/versions/9", record(a), 404, 40402},
		{"POST", "/compatibility/subjects/s/versions/x", record(a), 422, 42202},
		{"GET", "/schemas/ids/99", "", 404, 40403},
		{"GET", "/subjects/none/versions", "", 404, 40401},
		{"POST", "/subjects/s", record(b), 404, 40403},
	} {
		status, m := call(t, c.method, s.URL()+c.path, c.body)
		if status != c.status || m["error_code"] != c.code || m["message"] == "" {
			t.Errorf("%s %s %s: %d %v, want %d and code %v", c.method, c.path, c.body, status, m, c.status, c.code)
		}
	}
	// A subject without versions accepts anything.
	if status, m := call(t, "POST", s.URL()+"/compatibility/subjects/none/versions/latest", record(a)); status != 200 || m["is_compatible"] != true {
		t.Errorf("%d %v", status, m)
	}
}

func TestReferences(t *testing.T) {
	s := start(t, Config{})
	if status, m := call(t, "POST", s.URL()+"/subjects/addr/versions", `{"schema":"{\"type\":\"record\",\"name\":\"x.Addr\",\"fields\":[]}"}`); status != 200 {
		t.Fatal(m)
	}
	body := `{"schema":"{\"type\":\"record\",\"name\":\"x.C\",\"fields\":[{\"name\":\"a\",\"type\":\"x.Addr\"}]}","references":[{"name":"x.Addr","subject":"addr","version":1}]}`
	for range 2 { // the second finds the first
		if status, m := call(t, "POST", s.URL()+"/subjects/c/versions", body); status != 200 || m["id"] != 2.0 {
			t.Fatalf("%d %v", status, m)
		}
	}
}

// Whatever was answered is there after a restart: ids, versions, levels,
// deletions; and the next id follows on.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(Config{Listen: "127.0.0.1:0", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	post := func(s *Server, subject, fields string) float64 {
		t.Helper()
		status, m := call(t, "POST", s.URL()+"/subjects/"+subject+"/versions", record(fields))
		if status != 200 {
			t.Fatalf("%d %v", status, m)
		}
		return m["id"].(float64)
	}
	one, two := post(s, "one", a), post(s, "one", a+","+bDefault)
	if same := post(s, "two%2Fslash", a); same != one {
		t.Errorf("the same schema under another subject has id %v, want %v", same, one)
	}
	gone := post(s, "gone", aString)
	call(t, "DELETE", s.URL()+"/subjects/gone", "")
	call(t, "PUT", s.URL()+"/config/one", `{"compatibility":"FORWARD"}`)
	call(t, "PUT", s.URL()+"/config/one", `{"compatibility":"FULL"}`)
	call(t, "PUT", s.URL()+"/config", `{"compatibility":"NONE"}`)
	post(s, "one", a) // known: nothing to write down
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil || len(f.Operations) != 7 {
		t.Errorf("%d operations kept, want 7: %v\n%s", len(f.Operations), err, raw)
	}

	s = start(t, Config{Dir: dir})
	if again := post(s, "one", a); again != one {
		t.Errorf("id %v after the restart, want %v", again, one)
	}
	if again := post(s, "one", a+","+bDefault); again != two {
		t.Errorf("id %v after the restart, want %v", again, two)
	}
	if _, m := call(t, "GET", s.URL()+fmt.Sprintf("/schemas/ids/%v", gone), ""); !strings.Contains(fmt.Sprint(m["schema"]), "string") {
		t.Errorf("the schema of a deleted subject is gone: %v", m)
	}
	if status, _ := call(t, "GET", s.URL()+"/subjects/gone/versions", ""); status != 404 {
		t.Errorf("the deleted subject is back: %d", status)
	}
	for path, want := range map[string]string{"/config/one": "FULL", "/config": "NONE"} {
		if _, m := call(t, "GET", s.URL()+path, ""); m["compatibilityLevel"] != want {
			t.Errorf("%s: %v, want %s", path, m, want)
		}
	}
	if back := post(s, "gone", aString); back != gone {
		t.Errorf("a deleted subject registered again has id %v, want %v", back, gone)
	}
	if next := post(s, "three", b); next != 4 {
		t.Errorf("the next id is %v, want 4", next)
	}
}

func TestDirectoryErrors(t *testing.T) {
	dir := t.TempDir()
	start(t, Config{Dir: dir})
	var inUse *datadir.InUseError
	if _, err := Start(Config{Listen: "127.0.0.1:0", Dir: dir}); !errors.As(err, &inUse) {
		t.Errorf("%v, want a directory in use", err)
	}
	for content, want := range map[string]string{
		`{"format":`:   "is damaged",
		`{"format":9}`: "found format 9, expected 1",
		`{"format":1,"operations":[{"method":"POST","path":"/subjects/s/versions","body":{"schema":"\"int\""},"id":5}]}`: "gives schema id 1, expected 5",
		`{"format":1,"operations":[{"method":"POST","path":"/subjects/s/versions","body":{"schema":"{"}}]}`:              "operation 0, POST /subjects/s/versions, fails",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(Config{Listen: "127.0.0.1:0", Dir: dir}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fileName) {
			t.Errorf("%s: %v, want %q and the file", content, err, want)
		}
	}
}

// What could not be written down is not acknowledged, and is written as soon as
// it can be.
func TestFailedWrite(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	blocked := filepath.Join(dir, fileName+".tmp")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if status, m := call(t, "POST", s.URL()+"/subjects/s/versions", record(a)); status != 500 || m["error_code"] != 50001.0 {
			t.Errorf("%d %v, want 500", status, m)
		}
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if status, m := call(t, "POST", s.URL()+"/subjects/s/versions", record(a)); status != 200 || m["id"] != 1.0 {
		t.Errorf("%d %v", status, m)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, fileName)); err != nil || !strings.Contains(string(raw), "/subjects/s/versions") {
		t.Errorf("not written: %v\n%s", err, raw)
	}
}

func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String(): "is taken by another program; choose another address with --registry-listen",
		"8081":                "want host:port",
		"0.0.0.0:8081":        "want a loopback address",
	} {
		if _, err := Start(Config{Listen: address}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--registry-listen") {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

// The product's own client registers, finds its schemas again and is told why one
// is refused.
func TestOurClient(t *testing.T) {
	s := start(t, Config{})
	r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: s.URL(), Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	v1, v2 := `{"type":"record","name":"R","fields":[`+a+`]}`, `{"type":"record","name":"R","fields":[`+a+`,`+b+`]}`
	id, err := r.Register(t.Context(), "topic-value", v1)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := r.Schema(id); err != nil || text != v1 {
		t.Errorf("%s, %v", text, err)
	}
	_, err = r.Register(t.Context(), "topic-value", v2)
	if failure.KindOf(err) != failure.Conflict || !strings.Contains(err.Error(), "path: 'b'") && !strings.Contains(err.Error(), "path: 'R.b'") || !strings.Contains(err.Error(), "topic-value at "+s.URL()) {
		t.Errorf("%v, want a Conflict with subject, URL and path", err)
	}
	if _, err = r.Register(t.Context(), "topic-value", `{"type":"wat"}`); failure.KindOf(err) != failure.Validation {
		t.Errorf("%v, want Validation", err)
	}
	if _, err := r.Schema(99); failure.KindOf(err) != failure.NotFound {
		t.Errorf("%v, want NotFound", err)
	}
	if err := r.Ready(); err != nil {
		t.Error(err)
	}
}

// Another client, franz-go's, works against it.
func TestFranzClient(t *testing.T) {
	s := start(t, Config{})
	c, err := sr.NewClient(sr.URLs(s.URL()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	one, err := c.CreateSchema(ctx, "s", sr.Schema{Schema: `{"type":"record","name":"R","fields":[` + a + `]}`})
	if err != nil || one.Version != 1 || one.ID != 1 {
		t.Fatalf("%+v, %v", one, err)
	}
	bad := sr.Schema{Schema: `{"type":"record","name":"R","fields":[` + aString + `]}`}
	verdict, err := c.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), "s", -1, bad)
	if err != nil || verdict.Is || len(verdict.Messages) != 1 {
		t.Errorf("%+v, %v", verdict, err)
	}
	var refused *sr.ResponseError
	if _, err := c.CreateSchema(ctx, "s", bad); !errors.As(err, &refused) || refused.StatusCode != 409 || refused.ErrorCode != 40901 {
		t.Errorf("%v, want 409 and 40901", err)
	}
	for _, r := range c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}, "s") {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	if two, err := c.CreateSchema(ctx, "s", bad); err != nil || two.Version != 2 {
		t.Errorf("%+v, %v", two, err)
	}
	if found, err := c.LookupSchema(ctx, "s", bad); err != nil || found.Version != 2 {
		t.Errorf("%+v, %v", found, err)
	}
}

// The verdicts of Apache Avro's own test suite: ours are the same for every pair.
func TestAvroVerdicts(t *testing.T) {
	dir := os.Getenv("TOUCHSTONE_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, "avro-compat", "pairs.jsonl"))
	if err != nil {
		t.Skipf("real input avro-compat/pairs.jsonl is absent (looked in %s, TOUCHSTONE_DATA overrides): %v", dir, err)
	}
	defer f.Close()
	agree, total := 0, 0
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var p struct {
			ID             string
			Reader, Writer json.RawMessage
			Expected       string
			Types          []string `json:"incompatibility_types"`
		}
		if err := json.Unmarshal(sc.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		total++
		got, why := "compatible", error(nil)
		reader, err := avro.Parse(string(p.Reader))
		if err != nil {
			t.Errorf("%s: reader: %v", p.ID, err)
			continue
		}
		writer, err := avro.Parse(string(p.Writer))
		if err != nil {
			t.Errorf("%s: writer: %v", p.ID, err)
			continue
		}
		if m := check(sr.CompatBackward, []version{{1, writer}}, reader); len(m) > 0 {
			got, why = "incompatible", errors.New(m[0])
		}
		if got == p.Expected {
			agree++
		} else {
			t.Errorf("%s: %s, expected %s %v\n reader %s\n writer %s\n %v", p.ID, got, p.Expected, p.Types, p.Reader, p.Writer, why)
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d verdicts agree", agree, total)
}

// A record that was written before a restart is read after it, by its old id, and
// registering everything again changes nothing.
func TestPlatformRecordsAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	bindings := []codecs.Binding{}
	for _, rec := range codecs.Records() {
		bindings = append(bindings, codecs.Binding{Topic: "one." + string(rec), Record: rec}, codecs.Binding{Topic: "two." + string(rec), Record: rec})
	}
	schema, err := codecs.PlatformSchema(codecs.Seen)
	if err != nil {
		t.Fatal(err)
	}
	// run starts the registry, opens all codecs and reads a record; it gives the
	// record as it is written now.
	run := func(record []byte) []byte {
		s, err := Start(Config{Listen: "127.0.0.1:0", Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: s.URL(), Patience: -1})
		if err != nil {
			t.Fatal(err)
		}
		p, err := codecs.OpenPlatform(t.Context(), r, bindings)
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.Codec("two.Seen")
		if err != nil {
			t.Fatal(err)
		}
		if record == nil {
			id, err := r.Register(t.Context(), "two.Seen-value", schema)
			if err != nil {
				t.Fatal(err)
			}
			// at 0, offset 7, bodyHash "h", and three zeros.
			record = []byte{0, 0, 0, 0, byte(id), 0, 14, 2, 'h', 0, 0, 0}
		}
		v, err := c.Decode(record)
		if err != nil {
			t.Fatal(err)
		}
		written, err := c.Encode(v)
		if err != nil || !bytes.Equal(written, record) {
			t.Fatalf("written as %x, %v, want %x", written, err, record)
		}
		return written
	}
	kept := run(nil)
	before, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	run(kept)
	if after, err := os.ReadFile(filepath.Join(dir, fileName)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("registering again changed the file: %v", err)
	}
}
