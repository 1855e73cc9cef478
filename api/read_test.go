package api_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/views"
)

// story is a customer that three sources tell of.
func story(t testing.TB, w *world) {
	t.Helper()
	w.post(t, "crm", `{"key":"C-1001","at":"2026-03-01T10:00:00Z","fields":{"legalName":"Anna Berg GmbH","email":"anna@old.example","city":"Bonn","status":"prospect"}}`, "Correlation-Id", "signup-1")
	w.post(t, "marketing", `{"key":"C-1001","at":"2026-03-01T11:00:00Z","fields":{"email":"anna@berg.example"}}`)
	w.post(t, "billing", `{"key":"C-1001","at":"2026-03-01T12:00:00Z","fields":{"city":"Köln","balance":"80.5","orders":12,"status":"active"}}`)
}

func TestEntityWithTagAndProvenance(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	rec := w.request(t, "GET", "/v1/shop/customer/C-1001", nil)
	if rec.Code != 200 || rec.Header().Get("ETag") != `"3"` {
		t.Fatalf("got %d, ETag %s: %s", rec.Code, rec.Header().Get("ETag"), rec.Body)
	}
	got := object(t, rec)
	want := map[string]any{"legalName": "Anna Berg GmbH", "email": "anna@berg.example", "city": "Köln", "balance": "80.5", "orders": 12.0, "status": "active"}
	if d := cmp.Diff(want, got["fields"]); d != "" || got["state"] != "active" || got["version"] != 3.0 || got["provenance"] != nil {
		t.Errorf("fields differ: %s\n%v", d, got)
	}
	for _, tag := range []string{`"3"`, `"1", "3"`, `W/"3"`, `*`} {
		if rec := w.request(t, "GET", "/v1/shop/customer/C-1001", nil, "If-None-Match", tag); rec.Code != 304 || rec.Body.Len() != 0 || rec.Header().Get("ETag") != `"3"` {
			t.Errorf("If-None-Match %s: got %d %s", tag, rec.Code, rec.Body)
		}
	}
	if rec := w.request(t, "GET", "/v1/shop/customer/C-1001", nil, "If-None-Match", `"2"`); rec.Code != 200 {
		t.Errorf("If-None-Match of an old version: got %d", rec.Code)
	}
	before := w.request(t, "GET", "/v1/shop/customer/C-1001?include=provenance", nil)
	p := object(t, before)["provenance"].(map[string]any)["email"].(map[string]any)
	if p["source"] != "marketing" || p["signal"] != "shop:0:1" || p["sinceVersion"] != 2.0 || p["occurredAt"] != "2026-03-01T11:00:00Z" {
		t.Errorf("provenance of email: got %v", p)
	}
	// Marketing says the same again, later: the version stays, and so does the
	// tag of the plain entity, but its provenance is another.
	w.post(t, "marketing", `{"key":"C-1001","at":"2026-03-02T11:00:00Z","fields":{"email":"anna@berg.example"}}`)
	after := w.request(t, "GET", "/v1/shop/customer/C-1001?include=provenance", nil)
	if before.Header().Get("ETag") == after.Header().Get("ETag") || before.Body.String() == after.Body.String() {
		t.Errorf("provenance changed, but its tag is %s before and %s after", before.Header().Get("ETag"), after.Header().Get("ETag"))
	}
	if rec := w.request(t, "GET", "/v1/shop/customer/C-1001", nil, "If-None-Match", `"3"`); rec.Code != 304 {
		t.Errorf("plain entity after a mere change of provenance: got %d, want 304", rec.Code)
	}
}

// Reads tell how far they may be behind, also when they find nothing: it may
// not be there yet.
func TestReadsTellTheirLag(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	for lag, want := range map[views.Lag]string{
		{}: "0.0;records=0",
		{Records: 340, Age: 1250 * time.Millisecond}: "1.25;records=340",
		{Records: 1, Age: 3 * time.Second}:           "3.0;records=1",
	} {
		w.entities.Behind = lag
		for path, code := range map[string]int{"/v1/shop/customer/C-1001": 200, "/v1/shop/customer": 200, "/v1/shop/customer/C-9": 404, "/v1/shop/customer/C-1001/explain": 200} {
			rec := w.request(t, "GET", path, nil)
			if got := rec.Header().Get("Touchstone-Lag"); rec.Code != code || got != want {
				t.Errorf("%s: got %d with lag %q, want %d with %q", path, rec.Code, got, code, want)
			}
		}
	}
	for _, path := range []string{"/v1/shop/customer/C-1001/history", "/v1/deliveries/shop:0:1"} {
		if got := w.request(t, "GET", path, nil).Header().Get("Touchstone-Lag"); got != "0.0;records=0" {
			t.Errorf("%s: got lag %q, want none", path, got)
		}
	}
}

func TestMissingAndGone(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	wantProblem(t, w.request(t, "GET", "/v1/nowhere/customer/C-1001", nil), 404, "unknown-domain")
	wantProblem(t, w.request(t, "GET", "/v1/shop/order/C-1001", nil), 404, "unknown-resource")
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1", nil), 404, "unknown-entity")
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1/history", nil), 404, "unknown-entity")
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1001?include=all", nil), 400, "invalid-query")
	for _, s := range []string{"crm", "marketing", "billing"} {
		w.post(t, s, `{"key":"C-1001","at":"2026-03-03T00:00:00Z","deleted":true}`)
	}
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1001", nil), 410, "gone")
	if rec := w.request(t, "GET", "/v1/shop/customer/C-1001/history", nil); rec.Code != 200 {
		t.Errorf("history of what is gone: got %d", rec.Code)
	}
	if items := object(t, w.request(t, "GET", "/v1/shop/customer", nil))["items"].([]any); len(items) != 0 {
		t.Errorf("list: got %d, want none", len(items))
	}
}

func TestListPagesByCursorAndFilters(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 25 {
		city := []string{"Bonn", "Köln"}[i%2]
		w.post(t, "billing", fmt.Sprintf(`{"key":"C-%03d","fields":{"city":%q,"orders":%d}}`, i, city, i%3))
	}
	for _, c := range []struct {
		query string
		want  int
	}{{"limit=7", 25}, {"limit=4&city=K%C3%B6ln", 12}, {"limit=2&orders=1&city=Bonn", 4}, {"city=Ulm", 0}, {"status=prospect&limit=500", 25}, {"orders=0&status=prospect", 9}} {
		next, seen, last := "/v1/shop/customer?"+c.query, 0, ""
		for next != "" {
			rec := w.request(t, "GET", next, nil)
			if rec.Code != 200 {
				t.Fatalf("%s: got %d %s", next, rec.Code, rec.Body)
			}
			page := object(t, rec)
			for _, item := range page["items"].([]any) {
				id := item.(map[string]any)["id"].(string)
				if id <= last {
					t.Errorf("%s: %s comes after %s", next, id, last)
				}
				last = id
				seen++
			}
			link, _ := page["next"].(string)
			if (link != "") != (rec.Header().Get("Link") == "<"+link+`>; rel="next"`) {
				t.Errorf("Link: got %q, next is %q", rec.Header().Get("Link"), link)
			}
			next = link
		}
		if seen != c.want {
			t.Errorf("%s: got %d, want %d", c.query, seen, c.want)
		}
	}
	cursor := object(t, w.request(t, "GET", "/v1/shop/customer?limit=3&city=Bonn", nil))["cursor"].(string)
	for _, bad := range []string{
		"cursor=" + cursor, "cursor=" + cursor + "&city=K%C3%B6ln", // another query's
		"city=Bonn&cursor=nonsense", "city=Bonn&cursor=" + base64.RawURLEncoding.EncodeToString([]byte(`{"q":"x"}`)), "city=Bonn&cursor=",
		"limit=0", "limit=501", "limit=many", "email=x", "colour=red", "city=a&city=b", "orders=many", "status=unheard", "%zz",
	} {
		p := wantProblem(t, w.request(t, "GET", "/v1/shop/customer?"+bad, nil), 400, "invalid-query")
		if strings.HasPrefix(bad, "email") && !strings.Contains(p["detail"].(string), "city, orders, status") {
			t.Errorf("a field that is no filter: got %q, want the filters named", p["detail"])
		}
	}
	// The limit is not part of what a cursor is bound to.
	if rec := w.request(t, "GET", "/v1/shop/customer?limit=5&city=Bonn&cursor="+cursor, nil); rec.Code != 200 {
		t.Errorf("same filters, other limit: got %d", rec.Code)
	}
}

func TestHistoryInBothOrders(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	versions := func(target string) (vs []float64) {
		for target != "" {
			page := object(t, w.request(t, "GET", target, nil))
			for _, c := range page["items"].([]any) {
				vs = append(vs, c.(map[string]any)["version"].(float64))
			}
			target, _ = page["next"].(string)
		}
		return vs
	}
	if d := cmp.Diff([]float64{3, 2, 1}, versions("/v1/shop/customer/C-1001/history?limit=2")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]float64{1, 2, 3}, versions("/v1/shop/customer/C-1001/history?limit=1&order=oldest")); d != "" {
		t.Error(d)
	}
	cursor := object(t, w.request(t, "GET", "/v1/shop/customer/C-1001/history?limit=1", nil))["cursor"].(string)
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1001/history?order=oldest&cursor="+cursor, nil), 400, "invalid-query")
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1001/history?order=random", nil), 400, "invalid-query")
}

func TestExplainTellsWinnerAndLosers(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	x := object(t, w.request(t, "GET", "/v1/shop/customer/C-1001/explain?field=email", nil))
	fields := x["fields"].([]any)
	claims := fields[0].(map[string]any)["claims"].([]any)
	win, lose := claims[0].(map[string]any), claims[1].(map[string]any)
	if len(fields) != 1 || win["source"] != "marketing" || win["won"] != true || lose["source"] != "crm" || lose["reason"] != "outranked by marketing" {
		t.Errorf("got %v", x)
	}
	if n := len(object(t, w.request(t, "GET", "/v1/shop/customer/C-1001/explain", nil))["fields"].([]any)); n != 6 {
		t.Errorf("all fields: got %d, want 6", n)
	}
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1001/explain?field=shoe", nil), 400, "invalid-query")
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1/explain", nil), 404, "unknown-entity")
}

func TestDeliveriesOfEveryFate(t *testing.T) {
	w := newWorld(t, nil)
	const body = `{"key":"C-1","fields":{"city":"Bonn"}}`
	first := w.post(t, "billing", body)
	again := w.post(t, "billing", body)
	same := w.post(t, "billing", `{"key":"C-1","fields":{"city":"Bonn"},"at":"2026-03-05T00:00:00Z"}`)
	many := w.post(t, "billing", `{"items":[{"key":"C-1","fields":{"city":"Ulm"}},{"key":"C-2","fields":{"city":"Ulm"}}]}`)
	for id, want := range map[string]string{first: "change", again: "duplicate", same: "no-change", many: "change"} {
		s := object(t, w.request(t, "GET", "/v1/deliveries/"+id, nil))
		if s["disposition"] != want || s["final"] != true {
			t.Errorf("%s: got %v, want a final %s", id, s, want)
		}
	}
	if s := object(t, w.request(t, "GET", "/v1/deliveries/"+many, nil)); len(s["signals"].([]any)) != 2 || s["expected"] != 2.0 {
		t.Errorf("several signals: got %v", s)
	}
	for target, code := range map[string]string{"/v1/deliveries/shop:0:99": "unknown-delivery", "/v1/deliveries/none:0:0": "unknown-delivery", "/v1/deliveries/shop:0:99/content": "unknown-delivery", "/v1/trace/nothing": "unknown-trace"} {
		wantProblem(t, w.request(t, "GET", target, nil), 404, code)
	}
	wantProblem(t, w.request(t, "GET", "/v1/deliveries/nonsense", nil), 400, "invalid-journal-id")
	wantProblem(t, w.request(t, "GET", "/v1/deliveries/shop:0:0?wait=1h", nil), 400, "invalid-query")
	content := object(t, w.request(t, "GET", "/v1/deliveries/"+first+"/content", nil))
	if content["body"].(map[string]any)["json"].(map[string]any)["key"] != "C-1" || content["bodyBytes"] != float64(len(body)) {
		t.Errorf("content: got %v", content)
	}
}

func TestPendingDeliveryIsNotFinalAndLongPollEndsWithIt(t *testing.T) {
	w := newWorld(t, nil)
	w.held = true
	id := w.post(t, "billing", `{"key":"C-1","fields":{"city":"Bonn"}}`)
	rec := w.request(t, "GET", "/v1/deliveries/"+id, nil)
	if s := object(t, rec); s["disposition"] != "accepted" || s["final"] != false || rec.Header().Get("Retry-After") == "" {
		t.Fatalf("pending: got %v", s)
	}
	answer := make(chan *httptest.ResponseRecorder)
	go func() { answer <- w.request(t, "GET", "/v1/deliveries/"+id+"?wait=20s", nil) }()
	w.process()
	if s := object(t, <-answer); s["final"] != true {
		t.Errorf("after the wait: got %v", s)
	}
}

func TestReadYourWrites(t *testing.T) {
	w := newWorld(t, nil)
	w.held = true
	const body = `{"key":"C-1","fields":{"city":"Bonn"}}`
	id := w.post(t, "billing", body)
	copied := w.post(t, "billing", body)
	rec := w.request(t, "GET", "/v1/shop/customer/C-1?timeout=20ms&wait="+id, nil)
	if wantProblem(t, rec, 504, "wait-timeout"); rec.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for _, wait := range []string{id, copied} {
		w.mu.Lock()
		w.held = true
		w.mu.Unlock()
		answer := make(chan *httptest.ResponseRecorder)
		go func() { answer <- w.request(t, "GET", "/v1/shop/customer/C-1?wait="+wait, nil) }()
		w.process()
		if rec := <-answer; rec.Code != 200 || !strings.Contains(rec.Body.String(), "Bonn") {
			t.Errorf("after waiting for %s: got %d %s", wait, rec.Code, rec.Body)
		}
	}
	for _, bad := range []string{"wait=nonsense", "wait=other:0:1", "timeout=1s", "timeout=1h&wait=" + id} {
		wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1?"+bad, nil), 400, "invalid-query")
	}
	wantProblem(t, w.request(t, "GET", "/v1/shop/customer/C-1?wait=shop:0:99", nil), 404, "unknown-delivery")
}

func TestWaitEndsWhenTheServerShutsDown(t *testing.T) {
	w := newWorld(t, nil)
	w.held = true
	id := w.post(t, "billing", `{"key":"C-1"}`)
	answer := make(chan *httptest.ResponseRecorder)
	go func() { answer <- w.request(t, "GET", "/v1/deliveries/"+id+"?wait=30s", nil) }()
	w.api.Close()
	select {
	case rec := <-answer:
		if object(t, rec)["final"] != false {
			t.Errorf("got %s", rec.Body)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the wait went on for 10 s")
	}
}

func TestTraceByJournalEventAndCorrelation(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	by := object(t, w.request(t, "GET", "/v1/trace/signup-1", nil))
	events := by["events"].([]any)
	if len(events) == 0 || len(by["deliveries"].([]any)) != 1 {
		t.Fatalf("by correlation: got %v", by)
	}
	event := events[0].(map[string]any)
	for _, id := range []string{"shop:0:0", "shop:0:0#0", event["id"].(string)} {
		got := object(t, w.request(t, "GET", "/v1/trace/"+url.PathEscape(id), nil))
		for _, part := range []string{"deliveries", "changes", "events"} {
			if d := cmp.Diff(by[part], got[part]); d != "" {
				t.Errorf("%s by %s: %s", part, id, d)
			}
		}
	}
	d := by["deliveries"].([]any)[0].(map[string]any)
	if d["entry"].(map[string]any)["source"] != "crm" || d["status"].(map[string]any)["disposition"] != "change" || event["type"] != "CustomerRegistered" {
		t.Errorf("got %v", by)
	}
}

func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	w := newWorld(t, func(c *api.Config) {
		c.Tenant = func(r *http.Request) (string, error) {
			if name := r.Header.Get("Test-Tenant"); name != "" {
				return name, nil
			}
			return "default", nil
		}
	})
	story(t, w)
	if rec := w.request(t, "GET", "/v1/shop/customer/C-1001", nil); rec.Code != 200 {
		t.Fatalf("own tenant: got %d", rec.Code)
	}
	eventID := object(t, w.request(t, "GET", "/v1/trace/signup-1", nil))["events"].([]any)[0].(map[string]any)["id"].(string)
	for target, code := range map[string]string{
		"/v1/shop/customer/C-1001": "unknown-entity", "/v1/shop/customer/C-1001/history": "unknown-entity", "/v1/shop/customer/C-1001/explain": "unknown-entity",
		"/v1/deliveries/shop:0:0": "unknown-delivery", "/v1/deliveries/shop:0:0/content": "unknown-delivery",
		"/v1/trace/signup-1": "unknown-trace", "/v1/trace/shop:0:0": "unknown-trace", "/v1/trace/" + eventID: "unknown-trace",
		"/console/shop/customer/C-1001": "unknown-entity",
	} {
		rec := w.request(t, "GET", target, nil, "Test-Tenant", "other")
		wantProblem(t, rec, 404, code)
	}
	for _, target := range []string{"/v1/shop/customer", "/", "/console/shop/customer"} {
		if rec := w.request(t, "GET", target, nil, "Test-Tenant", "other"); rec.Code != 200 || strings.Contains(rec.Body.String(), "C-1001") {
			t.Errorf("%s as another tenant: got %d and C-1001 in it", target, rec.Code)
		}
	}
}

func TestClientThatGoesAwayEndsItsWait(t *testing.T) {
	w := newWorld(t, nil)
	w.held = true
	id := w.post(t, "billing", `{"key":"C-1"}`)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/v1/deliveries/"+id+"?wait=30s", nil))
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the handler went on for 10 s")
	}
}
