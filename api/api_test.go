package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

func TestUnknownRoutesAndWrongMethodsAreProblems(t *testing.T) {
	w := newWorld(t, nil)
	for _, target := range []string{"/v2/x", "/v1", "/v1/", "//", "/v1//customer", "/v1/shop/customer/C-1/history/more", "/favicon.ico", "/console/assets/nothing.css", "/console/assets/overview.html"} {
		wantProblem(t, w.request(t, "GET", target, nil), 404, "unknown-route")
	}
	for _, c := range []struct{ method, target, allow string }{
		{"GET", "/v1/ingress/billing", "POST"}, {"POST", "/v1/shop/customer/C-1", "GET, HEAD"}, {"DELETE", "/livez", "GET, HEAD"}, {"BREW", "/v1/events", "GET, HEAD"},
	} {
		rec := w.request(t, c.method, c.target, nil)
		wantProblem(t, rec, 405, "method-not-allowed")
		if rec.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow is %q, want %q", c.method, c.target, rec.Header().Get("Allow"), c.allow)
		}
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	base := serve(t, w)
	for target, status := range map[string]int{"/v1/shop/customer/C-1001": 200, "/v1/shop/customer/none": 404, "/": 200, "/livez": 200} {
		answer, err := http.Head(base + target)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != status || len(body) != 0 || answer.ContentLength <= 0 {
			t.Errorf("HEAD %s: got %d, %d bytes, length %d, %v", target, answer.StatusCode, len(body), answer.ContentLength, err)
		}
	}
}

func TestProbesAndMetrics(t *testing.T) {
	w := newWorld(t, nil)
	if rec := w.request(t, "GET", "/livez", nil); rec.Code != 200 {
		t.Errorf("livez: got %d", rec.Code)
	}
	if rec := w.request(t, "GET", "/readyz", nil); rec.Code != 200 {
		t.Errorf("readyz: got %d", rec.Code)
	}
	w.missing = []string{"view shop.entities has 120 records to go", "broker does not answer"}
	p := wantProblem(t, w.request(t, "GET", "/readyz", nil), 503, "not-ready")
	if n := len(p["errors"].([]any)); n != 2 {
		t.Errorf("readyz: got %v, want both things that are missing", p)
	}
	metrics := w.request(t, "GET", "/metrics", nil).Body.String()
	if !strings.Contains(metrics, `touchstone_http_request_seconds_count{code="503",method="GET",route="/readyz"} 1`) {
		t.Errorf("metrics lack the request: %s", metrics)
	}
}

func TestPanicIsAnInternalProblem(t *testing.T) {
	w := newWorld(t, func(c *api.Config) {
		c.Tenant = func(*http.Request) (string, error) { panic("boom: secret") }
	})
	rec := w.request(t, "GET", "/v1/shop/customer/C-1", nil)
	if p := wantProblem(t, rec, 500, "internal"); strings.Contains(p["detail"].(string), "secret") {
		t.Errorf("the problem tells internals: %v", p)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	_, err := api.New(api.Config{})
	if err == nil || !strings.Contains(err.Error(), "Changes, Door, Events, Journal, Metrics, Missing, Topology") {
		t.Errorf("got %v, want everything that is missing", err)
	}
	w := newWorld(t, nil)
	c := w.api.Config
	c.Registerer = nil
	c.Domains = []api.Domain{{Definition: &definition.Domain{Name: "trace"}}}
	if _, err := api.New(c); err == nil || !strings.Contains(err.Error(), "/v1/trace is taken") {
		t.Errorf("got %v, want a complaint about the domain's name", err)
	}
	c.Domains[0].Definition.Name = "shop"
	if _, err := api.New(c); err == nil || !strings.Contains(err.Error(), "expected entities, history and outcomes") {
		t.Errorf("got %v, want a complaint about the readers", err)
	}
}

func document(t *testing.T, w *world) *openapi3.T {
	t.Helper()
	rec := w.request(t, "GET", "/openapi.json", nil)
	doc, err := openapi3.NewLoader().LoadFromData(rec.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestOpenAPIIsValidAndHasEveryRoute(t *testing.T) {
	w := newWorld(t, nil)
	doc := document(t, w)
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if !doc.IsOpenAPI31OrLater() {
		t.Errorf("version: got %s, want 3.1", doc.OpenAPI)
	}
	var documented []string
	for path := range doc.Paths.Map() {
		documented = append(documented, path)
	}
	routed := api.Paths(w.api)
	slices.Sort(documented)
	slices.Sort(routed)
	if d := cmp.Diff(routed, documented); d != "" {
		t.Errorf("routed (-) and documented (+) differ:\n%s", d)
	}
	// What a path answers to is what the document says, and nothing else.
	for path, item := range doc.Paths.Map() {
		target := strings.NewReplacer("{source}", "nobody", "{journal}", "x", "{id}", "x", "{domain}", "nowhere", "{resource}", "x", "{file}", "x").Replace(path)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if method == "GET" && (path == "/v1/events" || path == "/console/changes") {
				continue // these go on; their own tests read them
			}
			refused := w.request(t, method, target, nil).Code == 405
			if known := item.GetOperation(method) != nil; known == refused {
				t.Errorf("%s %s: documented %v, refused %v", method, path, known, refused)
			}
		}
	}
}

// Answers of the kinds that clients parse keep to the schema that they are
// documented with.
func TestAnswersMatchTheDocument(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	doc := document(t, w)
	for target, path := range map[string]string{
		"/v1/shop/customer/C-1001":                    "/v1/{domain}/{resource}/{id}",
		"/v1/shop/customer/C-1001?include=provenance": "/v1/{domain}/{resource}/{id}",
		"/v1/shop/customer?limit=1":                   "/v1/{domain}/{resource}",
		"/v1/shop/customer/C-1001/history":            "/v1/{domain}/{resource}/{id}/history",
		"/v1/shop/customer/C-1001/explain":            "/v1/{domain}/{resource}/{id}/explain",
		"/v1/deliveries/shop:0:0":                     "/v1/deliveries/{journal}",
		"/v1/trace/signup-1":                          "/v1/trace/{id}",
	} {
		rec := w.request(t, "GET", target, nil)
		var v any
		if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil || rec.Code != 200 {
			t.Fatalf("%s: %d, %v", target, rec.Code, err)
		}
		schema := doc.Paths.Value(path).Get.Responses.Status(200).Value.Content.Get("application/json").Schema.Value
		if err := schema.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	var p any
	if err := json.Unmarshal(w.request(t, "GET", "/v1/nowhere/x/y", nil).Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if err := doc.Components.Schemas["Problem"].Value.VisitJSON(p, openapi3.EnableJSONSchema2020()); err != nil {
		t.Error(err)
	}
}

func TestTopologyHasItsCounters(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	v := object(t, w.request(t, "GET", "/v1/topology", nil))
	if n := v["stats"].(map[string]any)["topics"].(map[string]any)["shop.journal"].(map[string]any)["records"]; n != 3.0 {
		t.Errorf("records of the journal: got %v, want 3", n)
	}
	if n := len(v["topology"].(map[string]any)["groups"].([]any)); n != 4 {
		t.Errorf("groups: got %d, want 4", n)
	}
}

// Whatever a source sends is text on every page: in values, ids, names of
// records and in a filter's complaint.
func TestConsoleEscapesHostileText(t *testing.T) {
	w := newWorld(t, nil)
	const evil = `"><script>alert('x')</script><img src=x onerror=alert(1)>`
	body, err := json.Marshal(map[string]any{"key": "C-1", "fields": map[string]string{"legalName": evil, "city": evil, "email": "javascript:alert(1)"}})
	if err != nil {
		t.Fatal(err)
	}
	w.post(t, "crm", string(body))
	// An id that identity would never make; pages must not rely on it.
	body, err = json.Marshal(map[string]any{"key": `'"><svg onload=alert(1)>`, "fields": map[string]string{"city": evil}})
	if err != nil {
		t.Fatal(err)
	}
	w.post(t, "billing", string(body))
	for _, target := range []string{"/", "/console/shop/customer", "/console/shop/customer/C-1"} {
		rec := w.request(t, "GET", target, nil)
		page := rec.Body.String()
		if rec.Code != 200 || !strings.Contains(page, "&lt;script&gt;alert(") {
			t.Fatalf("%s: got %d, and not the escaped value", target, rec.Code)
		}
		for _, bad := range []string{"<script>alert", "<img src=x", "<svg onload", `href="javascript:`} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: has %q", target, bad)
			}
		}
		if p := rec.Header().Get("Content-Security-Policy"); !strings.Contains(p, "default-src 'none'") || strings.Contains(p, "unsafe") || rec.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: policy %q", target, p)
		}
	}
}

func TestConsolePagesShowWhatTheyShould(t *testing.T) {
	w := newWorld(t, nil)
	story(t, w)
	for target, wants := range map[string][]string{
		"/":                             {"Customers of a small shop.", `href="/console/shop/customer/C-1001"`, "CustomerActivated", "12\u202f345", "anna@berg.example", `data-topic="shop.journal"`, ">ready<"},
		"/console/shop/customer":        {"C-1001", "Köln", "A person or company that buys."},
		"/console/shop/customer/C-1001": {"outranked by marketing", "the most authoritative live claim", "anna@old.example", "priority: marketing, then crm", "since v2", "/v1/trace/shop:0:1", "contact"},
	} {
		rec := w.request(t, "GET", target, nil)
		for _, want := range wants {
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("%s: lacks %q", target, want)
			}
		}
		for _, outside := range []string{"http://", "https://", "style=", "onclick"} {
			if strings.Contains(strings.ReplaceAll(rec.Body.String(), "http://www.w3.org/2000/svg", ""), outside) {
				t.Errorf("%s: has %q", target, outside)
			}
		}
	}
	wantProblem(t, w.request(t, "GET", "/console/shop/customer/none", nil), 404, "unknown-entity")
	wantProblem(t, w.request(t, "GET", "/console/shop/customer?cursor=x", nil), 400, "invalid-query")
	for _, asset := range []string{"console.css", "console.js", "mark.svg"} {
		if rec := w.request(t, "GET", "/console/assets/"+asset, nil); rec.Code != 200 || rec.Body.Len() == 0 {
			t.Errorf("%s: got %d", asset, rec.Code)
		}
	}
	w.missing = []string{"broker <away>"}
	if page := w.request(t, "GET", "/", nil).Body.String(); !strings.Contains(page, "broker &lt;away&gt;") || !strings.Contains(page, ">starting<") {
		t.Error("the page does not tell what is missing")
	}
}

// A server of Server gives up on a client that does not finish its headers;
// that is what its timeouts are for.
func TestServerHasTimeouts(t *testing.T) {
	s := newWorld(t, nil).api.Server()
	if s.ReadHeaderTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("got %+v", s)
	}
	if s.WriteTimeout != 0 || s.ReadTimeout != 0 {
		t.Error("a timeout of the whole request would end streams and uploads")
	}
}
