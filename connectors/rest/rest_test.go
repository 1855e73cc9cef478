package rest_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/connectors/rest"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// connection has one operation.
func connection(base string, settings, operation map[string]any) *definition.Connection {
	s := map[string]any{"url": base}
	for k, v := range settings {
		s[k] = v
	}
	op := map[string]any{"path": `"/accounts/" + urlPart(args.id)`}
	for k, v := range operation {
		op[k] = v
	}
	return &definition.Connection{
		Name: "billing", Connector: "rest", Settings: s, Limits: definition.Limits{Concurrency: 8},
		Operations: []*definition.Operation{{Name: "pause", Idempotent: true, Settings: op}},
	}
}

func connect(t *testing.T, c *definition.Connection) connectors.Backend {
	t.Helper()
	b, err := rest.Kind{}.Connect(c, connectors.Options{Secrets: func(ref string) (string, error) { return "secret of " + ref, nil }, Compile: expression.Compile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func call(id string) connectors.Call {
	return connectors.Call{Operation: "pause", Key: "cmd-1/pause/do", Attempt: 1, Args: map[string]any{"id": id}}
}

func TestConformance(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body) // else it is not seen that the client has gone
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/accounts/bad":
			w.WriteHeader(http.StatusUnprocessableEntity)
		case "/api/accounts/down":
			w.WriteHeader(http.StatusInternalServerError)
		case "/api/accounts/slow":
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		case "/api/accounts/dripping":
			for range 50 {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}
		io.WriteString(w, `{"state":"paused"}`)
	}))
	defer s.Close()
	connectortest.RunBackend(t, rest.Kind{}, expression.Compile, []connectortest.BackendCase{{
		Name: "plain", Connection: connection(s.URL+"/api/", nil, nil), Asked: func() int { return int(asked.Load()) },
		Good: []connectors.Call{call("7"), call("a b/c?d#e..")},
		Bad:  []connectors.Call{call("bad"), call("down"), {Operation: "pause", Key: "k"}, call("..")},
		Slow: []connectors.Call{call("slow"), call("dripping")},
	}})
}

// What an answer means, and whether the back end may have done it all the same.
func TestAnswers(t *testing.T) {
	big := strings.Repeat("x", 20<<20)
	for _, c := range []struct {
		name      string
		operation map[string]any
		status    int
		header    string
		body      string
		want      string // output, or failure
		kind      failure.Kind
		uncertain bool
		after     time.Duration
	}{
		{name: "done", status: 200, body: `{"state":"paused","n":12345678901234567890}`, want: `{"n":"12345678901234567890","state":"paused"}`},
		{name: "nothing", status: 204, want: ""},
		{name: "text", status: 200, header: "Content-Type: text/plain", body: "all right", want: `"all right"`},
		{name: "output", operation: map[string]any{"output": `{"at": headers["x-at"], "id": args.id, "s": status}`}, status: 201, header: "X-At: noon", body: `{}`, want: `{"at":"noon","id":"7","s":201}`},
		{name: "a status that is no failure", operation: map[string]any{"success": []any{"404"}}, status: 404, body: `{"gone":true}`, want: `{"gone":true}`},
		{name: "rate limited", status: 429, header: "Retry-After: 7", body: `{"message":"slow down"}`, want: "call billing.pause: status 429: slow down", kind: failure.RateLimited, after: 7 * time.Second},
		{name: "rate limited for ever", status: 429, header: "Retry-After: 99999999", want: "call billing.pause: status 429", kind: failure.RateLimited, after: time.Hour},
		{name: "unavailable", status: 503, header: "Retry-After: -5", want: "call billing.pause: status 503", kind: failure.Transient},
		{name: "broken", status: 500, body: `{"error":{"message":"oh"}}`, want: "call billing.pause: status 500: oh", kind: failure.Transient, uncertain: true},
		{name: "bad gateway", status: 502, header: "Content-Type: text/html", body: "<html>\n nginx </html>", want: "call billing.pause: status 502: <html> nginx </html>", kind: failure.Transient, uncertain: true},
		{name: "unauthorised", status: 401, want: "call billing.pause: status 401", kind: failure.Auth},
		{name: "invalid", status: 422, body: `{"title":"t","detail":"the id has 3 digits"}`, want: "call billing.pause: status 422: the id has 3 digits", kind: failure.Validation},
		{name: "not there", status: 404, want: "call billing.pause: status 404", kind: failure.NotFound},
		{name: "conflict", status: 409, want: "call billing.pause: status 409", kind: failure.Conflict},
		{name: "not implemented", status: 501, want: "call billing.pause: status 501", kind: failure.Validation},
		{name: "redirected", status: 302, header: "Location: http://elsewhere.example/", want: "call billing.pause: status 302", kind: failure.Validation},
		{name: "200 that is none", operation: map[string]any{"errors": []any{map[string]any{"when": `body.ok == false`, "kind": "Conflict", "detail": "body.why"}}},
			status: 200, body: `{"ok":false,"why":"busy"}`, want: "call billing.pause: status 200: busy", kind: failure.Conflict},
		{name: "500 that is none", operation: map[string]any{"errors": []any{map[string]any{"when": `status == 500 && body.code == "ALREADY"`, "kind": "none"}}},
			status: 500, body: `{"code":"ALREADY"}`, want: `{"code":"ALREADY"}`},
		{name: "garbage", status: 200, body: `{"state":`, want: "status 200 with a body that is not what it says it is: invalid JSON at byte 9: unexpected end", kind: failure.Poison, uncertain: true},
		{name: "20 MB", status: 200, body: `"` + big + `"`, want: "found an answer of more than 1048576 bytes, expected at most as many", kind: failure.Validation, uncertain: true},
		{name: "a wrong output", operation: map[string]any{"output": "body.state + 1"}, status: 200, body: `{"state":"x"}`, want: "output: evaluate", kind: failure.Validation, uncertain: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if name, v, ok := strings.Cut(c.header, ": "); ok {
					w.Header().Set(name, v)
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}))
			defer s.Close()
			r, err := connect(t, connection(s.URL, nil, c.operation)).Call(t.Context(), call("7"))
			if c.kind == "" {
				if err != nil || string(r.Output) != c.want || r.Status != int32(c.status) {
					t.Errorf("%d %s, %v, expected %s", r.Status, r.Output, err, c.want)
				}
				return
			}
			var ce *connectors.CallError
			if !errors.As(err, &ce) || failure.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || ce.Uncertain != c.uncertain || ce.After != c.after {
				t.Errorf("%s: %+v, expected %s, uncertain %v, after %s", failure.KindOf(err), ce, c.want, c.uncertain, c.after)
			}
		})
	}
}

// Nobody is there, or hangs up: what was never sent has had no effect.
func TestConnections(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Close()
		}
	}))
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, c := range []struct {
		name, url, method string
		uncertain         bool
	}{{"nobody there", gone.URL, "POST", false}, {"hangs up", s.URL, "POST", true}, {"hangs up on a read", s.URL, "GET", false}} {
		t.Run(c.name, func(t *testing.T) {
			_, err := connect(t, connection(c.url, nil, map[string]any{"method": c.method})).Call(t.Context(), call("7"))
			var ce *connectors.CallError
			if !errors.As(err, &ce) || failure.KindOf(err) != failure.Transient || ce.Uncertain != c.uncertain {
				t.Errorf("%v, %+v", err, ce)
			}
			if err != nil && strings.Contains(err.Error(), "/accounts/7") {
				t.Errorf("%v tells the path, which may hold personal data", err)
			}
		})
	}
	s.Close()
}

func TestRequest(t *testing.T) {
	var got *http.Request
	var body string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
	}))
	defer s.Close()
	c := connection(s.URL+"/api", map[string]any{"headers": map[string]any{"X-Team": "crm"}, "idempotencyHeader": "X-Key"}, map[string]any{
		"method": "PUT", "query": map[string]any{"dry": "false", "n": "args.n", "none": "args.none"}, "headers": map[string]any{"X-Id": "args.id", "X-None": "args.none"},
		"body": `{"id": args.id, "when": "now"}`,
	})
	x := call("ä/7")
	x.Args["n"] = int64(3)
	x.Cause = envelope.Cause{Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	if _, err := connect(t, c).Call(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if got.Method != "PUT" || got.URL.EscapedPath() != "/api/accounts/%C3%A4%2F7" || got.URL.RawQuery != "dry=false&n=3" || body != `{"id":"ä/7","when":"now"}` {
		t.Errorf("%s %s?%s %s", got.Method, got.URL.EscapedPath(), got.URL.RawQuery, body)
	}
	for name, want := range map[string]string{"X-Team": "crm", "X-Key": "cmd-1/pause/do", "X-Id": "ä/7", "X-None": "", "Traceparent": x.Cause.Traceparent, "Content-Type": "application/json", "Idempotency-Key": ""} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, expected %q", name, v, want)
		}
	}
}

func TestAuthentication(t *testing.T) {
	var tokens atomic.Int64
	var body []byte
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			id, secret, _ := r.BasicAuth()
			secret, _ = url.QueryUnescape(secret) // RFC 6749, 2.3.1
			w.Header().Set("Content-Type", "application/json")
			if id != "me" || secret != "secret of env:S" || r.FormValue("scope") != "a b" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, tokens.Add(1))
			return
		}
		body, _ = io.ReadAll(r.Body)
		header = r.Header
	}))
	defer s.Close()
	sum := func(text string) string {
		m := hmac.New(sha256.New, []byte("secret of env:S"))
		m.Write([]byte(text))
		return hex.EncodeToString(m.Sum(nil))
	}
	for _, c := range []struct {
		auth   map[string]any
		header string
		want   func() string
	}{
		{map[string]any{"scheme": "basic", "user": "me"}, "Authorization", func() string { return "Basic bWU6c2VjcmV0IG9mIGVudjpT" }},
		{map[string]any{"scheme": "bearer"}, "Authorization", func() string { return "Bearer secret of env:S" }},
		{map[string]any{"scheme": "apiKey"}, "X-Api-Key", func() string { return "secret of env:S" }},
		{map[string]any{"scheme": "apiKey", "header": "Authorization", "prefix": "Token "}, "Authorization", func() string { return "Token secret of env:S" }},
		{map[string]any{"scheme": "hmac", "prefix": "sha256="}, "X-Signature", func() string { return "sha256=" + sum(string(body)) }},
		{map[string]any{"scheme": "hmac", "header": "X-Sig", "timestampHeader": "X-At"}, "X-Sig", func() string { return sum(header.Get("X-At") + "." + string(body)) }},
		{map[string]any{"scheme": "oauth2", "clientId": "me", "tokenUrl": s.URL + "/token", "scopes": []any{"a", "b"}}, "Authorization", func() string { return "Bearer t1" }},
	} {
		c.auth["secret"] = "env:S"
		b := connect(t, connection(s.URL, map[string]any{"auth": c.auth}, nil))
		for range 3 {
			if _, err := b.Call(t.Context(), call("7")); err != nil {
				t.Fatalf("%v: %v", c.auth, err)
			}
			if got := header.Get(c.header); got != c.want() {
				t.Errorf("%v: %s: %q, expected %q", c.auth, c.header, got, c.want())
			}
		}
	}
	if n := tokens.Load(); n != 1 {
		t.Errorf("%d tokens for three calls", n)
	}
	_, err := connect(t, connection(s.URL, map[string]any{"auth": map[string]any{"scheme": "oauth2", "clientId": "you", "tokenUrl": s.URL + "/token", "secret": "env:S"}}, nil)).Call(t.Context(), call("7"))
	if failure.KindOf(err) != failure.Auth {
		t.Errorf("no token: %v", err)
	}
}

func TestPages(t *testing.T) {
	elsewhere := ""
	s := httptest.NewServer(nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		page := r.URL.Query().Get("page")
		next := map[string]string{"": `"?page=2"`, "2": `"/list?page=3"`, "3": `null`}[page]
		switch r.URL.Query().Get("kind") {
		case "endless":
			next = `"?kind=endless"`
		case "elsewhere":
			next = `"` + elsewhere + `"`
		}
		fmt.Fprintf(w, `{"data":[{"n":"%s"}],"next":%s}`, page, next)
	})
	defer s.Close()
	elsewhere = "https://elsewhere.example/list"
	settings := map[string]any{"method": "GET", "path": `"/list"`, "query": map[string]any{"kind": "args.kind"}, "pages": map[string]any{"items": "body.data", "next": "body.next", "max": 5}}
	settings["path"] = `"/"`
	b := connect(t, connection(s.URL, nil, settings))
	r, err := b.Call(t.Context(), call("7"))
	if err != nil || r.Output != `{"items":[{"n":""},{"n":"2"},{"n":"3"}]}` {
		t.Errorf("%s, %v", r.Output, err)
	}
	for kind, want := range map[string]string{"endless": "found more than 5 pages", "elsewhere": "found https://elsewhere.example, expected a page of http://"} {
		x := call("7")
		x.Args["kind"] = kind
		if _, err := b.Call(context.Background(), x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// Every wrong setting is told with its key.
func TestSettings(t *testing.T) {
	c := connection("", map[string]any{
		"url": "ftp://x", "maxResponse": 0, "auth": map[string]any{"scheme": "magic"}, "tls": map[string]any{"key": "env:K"}, "headres": 1,
	}, map[string]any{
		"path": "args.", "method": "BREW", "success": []any{"ok"}, "errors": []any{map[string]any{"kind": "Bad"}}, "pages": map[string]any{"items": "body"}, "query": map[string]any{"q": "nope"},
	})
	_, err := rest.Kind{}.Connect(c, connectors.Options{Secrets: connectortest.Secrets, Compile: expression.Compile})
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var keys []string
	for _, w := range wrong {
		keys = append(keys, w.Key)
	}
	want := "auth.scheme headres maxResponse tls.certificate url operations.pause.errors[0].kind operations.pause.errors[0].when operations.pause.method operations.pause.pages.next operations.pause.path operations.pause.query.q operations.pause.success[0]"
	if got := strings.Join(keys, " "); got != want {
		t.Errorf("%s\nexpected\n%s", got, want)
	}
}
