package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

func zipped(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAcceptedDeliverySaysWhereToAsk(t *testing.T) {
	w := newWorld(t, nil)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	rec := w.request(t, "POST", "/v1/ingress/billing", []byte(`{"key":"C-1","fields":{"city":"Bonn"}}`), "X-Correlation-Id", "order-7", "Traceparent", parent)
	if rec.Code != http.StatusAccepted || rec.Header().Get("Location") != "/v1/deliveries/shop:0:0" || rec.Header().Get("Correlation-Id") != "order-7" {
		t.Fatalf("got %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	if body := object(t, rec); body["journal"] != "shop:0:0" {
		t.Errorf("got %v, want journal shop:0:0", body)
	}
	if c := w.journal[0].Cause; c.Correlation != "order-7" || c.Traceparent != parent {
		t.Errorf("journaled cause: got %+v, want the sender's correlation and trace", c)
	}
	status := object(t, w.request(t, "GET", rec.Header().Get("Location"), nil))
	if status["disposition"] != "change" || status["final"] != true {
		t.Errorf("status: got %v, want a final change", status)
	}
}

func TestTraceIsMadeUpUnlessWellFormedAndCorrelationDefaultsToTheJournalID(t *testing.T) {
	w := newWorld(t, nil)
	for _, bad := range []string{"", "00-short", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		rec := w.request(t, "POST", "/v1/ingress/billing", []byte(`{"key":"C-1"}`), "Traceparent", bad, "X-Correlation-Id", "has space")
		id := object(t, rec)["journal"].(string)
		e := w.journal[len(w.journal)-1]
		if len(e.Cause.Traceparent) != 55 || e.Cause.Traceparent == bad || e.Cause.Correlation != "" {
			t.Errorf("traceparent %q: journaled %+v, want a new trace and no correlation", bad, e.Cause)
		}
		if rec.Header().Get("Correlation-Id") != id {
			t.Errorf("Correlation-Id: got %q, want %s", rec.Header().Get("Correlation-Id"), id)
		}
	}
}

func TestRefusedDeliveriesAreProblemsAndNotJournaled(t *testing.T) {
	deep := strings.Repeat("[", 65) + strings.Repeat("]", 65)
	large := bytes.Repeat([]byte("x"), 1<<20+1)
	bomb := zipped(t, make([]byte, 4<<20))
	for _, c := range []struct {
		name, source string
		body         []byte
		headers      []string
		status       int
		code         string
	}{
		{"unknown source", "nobody", []byte(`{}`), nil, 404, "unknown-source"},
		{"wrong signature", "billing", []byte(`{}`), []string{"X-Signature", "wrong"}, 401, "unauthenticated"},
		{"too large", "billing", large, nil, 413, "too-large"},
		{"gzip bomb", "billing", bomb, []string{"Content-Encoding", "gzip"}, 413, "too-large"},
		{"no gzip", "billing", []byte(`{"key":"C-1"}`), []string{"Content-Encoding", "gzip"}, 400, "invalid-encoding"},
		{"cut gzip", "billing", zipped(t, large)[:30], []string{"Content-Encoding", "gzip"}, 400, "broken-body"},
		{"unknown encoding", "billing", []byte(`{}`), []string{"Content-Encoding", "br"}, 415, "unsupported-encoding"},
		{"deep JSON", "billing", []byte(deep), []string{"Content-Type", "application/json; charset=utf-8"}, 422, "too-deep"},
		{"deep JSON of no type", "billing", []byte("  " + deep), nil, 422, "too-deep"},
		{"a source without HTTP", "feed", []byte(`{}`), nil, 422, "wrong-intake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			rec := w.request(t, "POST", "/v1/ingress/"+c.source, c.body, c.headers...)
			wantProblem(t, rec, c.status, c.code)
			if c.status == 401 && rec.Header().Get("WWW-Authenticate") == "" {
				t.Error("a 401 without a challenge")
			}
			if len(w.journal) != 0 {
				t.Errorf("journaled %d entries, want none", len(w.journal))
			}
		})
	}
}

func TestDepthCountsOnlyBracketsOutsideStrings(t *testing.T) {
	w := newWorld(t, nil)
	body, err := json.Marshal(map[string]any{"key": "C-1", "fields": map[string]string{"legalName": strings.Repeat(`[{\"`, 500)}})
	if err != nil {
		t.Fatal(err)
	}
	w.post(t, "crm", string(body))
	w.post(t, "crm", strings.Repeat("[", 64)+strings.Repeat("]", 64))
}

func TestGzippedDeliveryIsJournaledDecompressed(t *testing.T) {
	w := newWorld(t, nil)
	const body = `{"key":"C-1","fields":{"city":"Bonn"}}`
	rec := w.request(t, "POST", "/v1/ingress/billing", zipped(t, []byte(body)), "Content-Encoding", "gzip")
	if rec.Code != http.StatusAccepted || string(w.journal[0].Body) != body {
		t.Errorf("got %d, journaled %q", rec.Code, w.journal[0].Body)
	}
}

func TestInvalidJSONIsJournaledAndBecomesADeadLetter(t *testing.T) {
	w := newWorld(t, nil)
	id := w.post(t, "billing", `{"key": nonsense`)
	s := object(t, w.request(t, "GET", "/v1/deliveries/"+id+"?wait=1s", nil))
	if s["disposition"] != "dead-letter" || s["reason"] != "Validation" || s["final"] != true {
		t.Errorf("got %v, want a final dead letter of kind Validation", s)
	}
}

func TestKindsOfFailureBecomeStatuses(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		shown  bool
	}{
		{failure.New(failure.Transient, "write", "journal", "broker away"), 503, "unavailable", true},
		{failure.New(failure.RateLimited, "write", "journal", "slow down"), 429, "rate-limited", true},
		{failure.New(failure.Conflict, "write", "journal", "no"), 409, "conflict", true},
		{failure.New(failure.Validation, "read", "header", "no id"), 400, "invalid", true},
		{failure.New(failure.Poison, "encode", "entry", "secret internals"), 500, "internal", false},
		{errors.New("dial 10.0.0.7: secret internals"), 503, "unavailable", false},
	} {
		w := newWorld(t, nil)
		w.down = c.err
		rec := w.request(t, "POST", "/v1/ingress/billing", []byte(`{}`))
		p := wantProblem(t, rec, c.status, c.code)
		if got := strings.Contains(p["detail"].(string), c.err.Error()); got != c.shown {
			t.Errorf("%v: detail %q, want the error's text shown: %v", c.err, p["detail"], c.shown)
		}
		if failure.KindOf(c.err).Retryable() != (rec.Header().Get("Retry-After") != "") {
			t.Errorf("%v: Retry-After is %q", c.err, rec.Header().Get("Retry-After"))
		}
	}
}

func TestSourceOfTwoDomainsNeedsItsDomain(t *testing.T) {
	w := newWorld(t, func(c *api.Config) {
		c.Sources = append(c.Sources, api.Source{Domain: "other", Name: "billing", Deliveries: true})
	})
	wantProblem(t, w.request(t, "POST", "/v1/ingress/billing", []byte(`{}`)), 409, "ambiguous-source")
	if rec := w.request(t, "POST", "/v1/ingress/shop.billing", []byte(`{"key":"C-1"}`)); rec.Code != 202 {
		t.Errorf("got %d %s, want 202", rec.Code, rec.Body)
	}
	sources := w.request(t, "GET", "/v1/sources", nil).Body.String()
	for _, path := range []string{`"/v1/ingress/shop.billing"`, `"/v1/ingress/other.billing"`, `"/v1/ingress/crm"`, `"/v1/ingress/risk/files"`} {
		if !strings.Contains(sources, path) {
			t.Errorf("/v1/sources lacks %s: %s", path, sources)
		}
	}
}

const rows = `{"key":"C-1","fields":{"city":"Bonn"}}
{"key":"C-2","fields":{"city":"Bonn"}}
`

func TestUploadReports(t *testing.T) {
	w := newWorld(t, nil)
	rec := w.request(t, "POST", "/v1/ingress/risk/files?name=scores.jsonl&rows=2", zipped(t, []byte(rows)), "Content-Encoding", "gzip")
	report := object(t, rec)
	if rec.Code != 202 || report["journaled"] != 2.0 || report["last"] != "shop:0:1" || report["correlation"] == "" || report["correlation"] != rec.Header().Get("Correlation-Id") {
		t.Errorf("got %d %v", rec.Code, report)
	}
	trace := object(t, w.request(t, "GET", "/v1/trace/"+report["correlation"].(string), nil))
	if n := len(trace["deliveries"].([]any)); n != 2 {
		t.Errorf("trace of the upload's correlation: got %d deliveries, want 2", n)
	}
}

func TestUploadTellsProgressByLine(t *testing.T) {
	w := newWorld(t, nil)
	rec := w.request(t, "POST", "/v1/ingress/risk/files?name=scores.jsonl", []byte(rows), "Accept", "application/x-ndjson")
	lines := strings.Split(strings.TrimSpace(rec.Body.String()), "\n")
	if rec.Code != 202 || rec.Header().Get("Content-Type") != "application/x-ndjson" || len(lines) != 3 {
		t.Fatalf("got %d %s with %d lines: %s", rec.Code, rec.Header().Get("Content-Type"), len(lines), rec.Body)
	}
	if !strings.HasPrefix(lines[0], `{"progress":{`) || !strings.HasPrefix(lines[2], `{"report":{`) {
		t.Errorf("got %q, want progress and at last a report", lines)
	}
}

func TestRefusedUploads(t *testing.T) {
	small := func(c *api.Config) { c.Limits.Upload = 50 }
	for _, c := range []struct {
		name, target string
		change       func(*api.Config)
		headers      []string
		status       int
		code         string
	}{
		{"control total", "/v1/ingress/risk/files?name=a.jsonl&rows=3", nil, nil, 422, "file-refused"},
		{"too large", "/v1/ingress/risk/files?name=a.jsonl", small, nil, 413, "too-large"},
		{"no name", "/v1/ingress/risk/files", nil, nil, 400, "invalid-query"},
		{"name with folders", "/v1/ingress/risk/files?name=../a", nil, nil, 400, "invalid-query"},
		{"rows", "/v1/ingress/risk/files?name=a&rows=-1", nil, nil, 400, "invalid-query"},
		{"hash", "/v1/ingress/risk/files?name=a&sha256=xyz", nil, nil, 400, "invalid-query"},
		{"not a file source", "/v1/ingress/billing/files?name=a", nil, nil, 422, "wrong-intake"},
		{"unknown source", "/v1/ingress/nobody/files?name=a", nil, nil, 404, "unknown-source"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.change)
			wantProblem(t, w.request(t, "POST", c.target, []byte(rows), c.headers...), c.status, c.code)
		})
	}
	t.Run("limit counts decompressed bytes", func(t *testing.T) {
		w := newWorld(t, func(c *api.Config) { c.Limits.Upload = 1000 })
		wantProblem(t, w.request(t, "POST", "/v1/ingress/risk/files?name=a", zipped(t, make([]byte, 64<<10)), "Content-Encoding", "gzip"), 413, "too-large")
	})
	t.Run("after progress the problem is the last line", func(t *testing.T) {
		w := newWorld(t, nil)
		body := rows + "more"
		w.down, w.downFrom = failure.New(failure.Transient, "write", "journal", "broker away"), 1
		rec := w.request(t, "POST", "/v1/ingress/risk/files?name=a.jsonl", []byte(body), "Accept", "application/x-ndjson")
		lines := strings.Split(strings.TrimSpace(rec.Body.String()), "\n")
		if rec.Code != 202 || len(lines) != 2 || !strings.Contains(lines[1], `"problem":{`) || !strings.Contains(lines[1], `"code":"unavailable"`) {
			t.Fatalf("got %d %q, want a progress and then a problem", rec.Code, lines)
		}
		w.downFrom = 0
		wantProblem(t, w.request(t, "POST", "/v1/ingress/risk/files?name=a.jsonl", []byte(body), "Accept", "application/x-ndjson"), 503, "unavailable")
	})
}

func FuzzDeliveriesNeverFailTheServer(f *testing.F) {
	f.Add([]byte(`{"key":"C-1"}`), "application/json", "")
	f.Add([]byte{0x1f, 0x8b, 8}, "", "gzip")
	f.Add([]byte(`"\`), "a/b+json", "identity")
	f.Fuzz(func(t *testing.T, body []byte, contentType, encoding string) {
		w := newWorld(t, nil)
		w.held = true // only the door is meant
		rec := w.request(t, "POST", "/v1/ingress/billing", body, "Content-Type", contentType, "Content-Encoding", encoding)
		if rec.Code >= 500 || rec.Code < 200 {
			t.Errorf("got %d %s for %q", rec.Code, rec.Body, body)
		}
	})
}
