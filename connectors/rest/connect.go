package rest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// backend is a back end over HTTP.
type backend struct {
	name       string
	base       string
	client     *http.Client
	headers    map[string]string
	idempotent string // header; empty for none
	most       int64
	sign       func(req *http.Request, body []byte) error
	refused    func() // called when the back end does not take the credentials; nil for nothing
	operations map[string]*operation
	now        func() time.Time
}

type operation struct {
	method  string
	path    definition.Expr
	query   map[string]definition.Expr
	headers map[string]definition.Expr
	body    definition.Expr
	output  definition.Expr
	success []int
	// idempotent operations carry the key: net/http takes its header for leave to
	// send a request again by itself.
	idempotent bool
	errors     []rule
	items      definition.Expr
	next       definition.Expr
	pages      int
}

// rule says what an answer means.
type rule struct {
	when   definition.Expr
	kind   failure.Kind // empty: no failure
	detail definition.Expr
}

// Connect is part of connectors.BackendKind.
func (Kind) Connect(c *definition.Connection, o connectors.Options) (connectors.Backend, error) {
	r := settings.Read(c.Settings)
	b := &backend{name: c.Name, headers: map[string]string{}, operations: map[string]*operation{}, now: time.Now}
	s := secrets{o.Secrets}
	b.base = s.url(r)
	b.idempotent = r.String("idempotencyHeader", "Idempotency-Key")
	if b.idempotent == "-" {
		b.idempotent = ""
	}
	b.most = r.Int("maxResponse", 1<<20, 1, 64<<20)
	h := r.Part("headers")
	for _, name := range h.Keys() {
		b.headers[name] = h.String(name, "")
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2: true, MaxIdleConns: c.Limits.Concurrency, MaxIdleConnsPerHost: c.Limits.Concurrency, MaxConnsPerHost: c.Limits.Concurrency,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: s.tls(r.Part("tls")),
	}
	b.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	b.auth(r.Part("auth"), s)
	err := r.Err()
	var wrong connectors.SettingErrors
	if err != nil {
		wrong, _ = err.(connectors.SettingErrors)
	}
	for _, op := range c.Operations {
		x, bad := operationOf(op, o)
		for _, w := range bad {
			w.Key = "operations." + op.Name + "." + w.Key
			wrong = append(wrong, w)
		}
		b.operations[op.Name] = x
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return b, nil
}

// secrets reads settings that refer to secrets.
type secrets struct{ resolve connectors.Secrets }

func reference(s string) bool { return strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "file:") }

// get resolves a reference; empty if there is none.
func (s secrets) get(r *settings.Reader, key string) string {
	ref := r.String(key, "")
	if ref == "" {
		return ""
	}
	v, err := s.resolve(ref)
	if err != nil {
		r.Wrong(key, ref, "a secret reference: "+err.Error())
	}
	return v
}

// url reads where the back end is. A reference is resolved; while definitions are
// checked it stands for something else, so that its form is checked at the start.
func (s secrets) url(r *settings.Reader) string {
	text := r.String("url", "")
	switch {
	case text == "":
		if !r.Has("url") {
			r.Missing("url", "where the back end is, such as https://billing.example.com/api")
		}
		return ""
	case reference(text):
		v, err := s.resolve(text)
		if err != nil {
			r.Wrong("url", text, "a reference to a URL: "+err.Error())
		}
		return strings.TrimRight(v, "/")
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		r.Wrong("url", text, "an http or https URL without query, such as https://billing.example.com/api")
	}
	return strings.TrimRight(text, "/")
}

func (s secrets) tls(r *settings.Reader) *tls.Config {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	hasCert, hasKey := r.Has("certificate"), r.Has("key")
	ca, cert, key := s.get(r, "ca"), s.get(r, "certificate"), s.get(r, "key")
	if hasCert != hasKey {
		r.Missing(map[bool]string{true: "key", false: "certificate"}[hasCert], "both tls.certificate and tls.key, or none")
		return out
	}
	// What is no PEM at all is the placeholder of a check, or found out when the
	// back end is called.
	if strings.Contains(ca, "-----BEGIN") {
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			r.Wrong("ca", "something else", "PEM certificates")
		}
	}
	if strings.Contains(cert, "-----BEGIN") {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			r.Wrong("certificate", "a pair that does not fit", "a PEM certificate and its key: "+err.Error())
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out
}

// auth reads how the back end knows who asks.
func (b *backend) auth(r *settings.Reader, s secrets) {
	scheme := r.Choice("scheme", "none", strings.Split(authForm, " | ")...)
	user, id, tokens := r.String("user", ""), r.String("clientId", ""), r.String("tokenUrl", "")
	header, prefix, stamp := r.String("header", ""), r.String("prefix", ""), r.String("timestampHeader", "")
	scopes := r.Strings("scopes")
	secret := s.get(r, "secret")
	if scheme == "none" {
		return
	}
	if !r.Has("secret") {
		r.Missing("secret", "a secret reference such as env:TOUCHSTONE_SECRET_BILLING, for scheme "+scheme)
	}
	switch scheme {
	case "basic":
		if user == "" {
			r.Missing("user", "the user of basic authentication")
		}
		b.sign = func(req *http.Request, _ []byte) error { req.SetBasicAuth(user, secret); return nil }
	case "bearer":
		b.sign = func(req *http.Request, _ []byte) error {
			req.Header.Set("Authorization", "Bearer "+secret)
			return nil
		}
	case "apiKey":
		if header == "" {
			header = "X-API-Key"
		}
		b.sign = func(req *http.Request, _ []byte) error { req.Header.Set(header, prefix+secret); return nil }
	case "hmac":
		if header == "" {
			header = "X-Signature"
		}
		b.sign = func(req *http.Request, body []byte) error {
			mac := hmac.New(sha256.New, []byte(secret))
			if stamp != "" {
				now := strconv.FormatInt(b.now().Unix(), 10)
				req.Header.Set(stamp, now)
				mac.Write([]byte(now + "."))
			}
			mac.Write(body)
			req.Header.Set(header, prefix+hex.EncodeToString(mac.Sum(nil)))
			return nil
		}
	case "oauth2":
		if id == "" {
			r.Missing("clientId", "the client id")
		}
		if u, err := url.Parse(tokens); err != nil || u.Host == "" {
			r.Wrong("tokenUrl", tokens, "the URL where tokens are given")
		}
		cc := &clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: tokens, Scopes: scopes}
		k := &keeper{config: cc, client: &http.Client{Transport: b.client.Transport, Timeout: 15 * time.Second}, turn: make(chan struct{}, 1)}
		b.sign = func(req *http.Request, _ []byte) error {
			t, err := k.token(req.Context())
			if err != nil {
				return failure.Wrap(failure.Auth, "get a token from", tokens, err)
			}
			t.SetAuthHeader(req)
			return nil
		}
		b.refused = k.forget
	}
}

// keeper keeps a token while it is good. One call at a time gets a new one; the
// others wait for it, as long as they have time.
type keeper struct {
	config *clientcredentials.Config
	client *http.Client
	turn   chan struct{}
	have   *oauth2.Token
}

// early is how long before its end a token is not used any more.
const early = 30 * time.Second

func (k *keeper) token(ctx context.Context) (*oauth2.Token, error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if k.have != nil && (k.have.Expiry.IsZero() || time.Until(k.have.Expiry) > early) {
		return k.have, nil
	}
	t, err := k.config.Token(context.WithValue(ctx, oauth2.HTTPClient, k.client))
	if err == nil {
		k.have = t
	}
	return t, err
}

// forget drops a token that the back end refused.
func (k *keeper) forget() {
	select {
	case k.turn <- struct{}{}:
		k.have = nil
		<-k.turn
	default: // somebody is getting a new one
	}
}

// operationOf reads the settings of an operation.
func operationOf(op *definition.Operation, o connectors.Options) (*operation, connectors.SettingErrors) {
	r := settings.Read(op.Settings)
	x := &operation{idempotent: op.Idempotent, query: map[string]definition.Expr{}, headers: map[string]definition.Expr{}}
	asked := []string{"args", "key"}
	answer := []string{"status", "headers", "body", "args"}
	expr := func(r *settings.Reader, key string, vars []string) definition.Expr {
		text := r.String(key, "")
		if text == "" {
			return nil
		}
		e, err := o.Compile(text, vars...)
		if err != nil {
			r.Wrong(key, text, "an expression over "+strings.Join(vars, ", ")+": "+err.Error())
			return nil
		}
		return e
	}
	x.method = r.Choice("method", "POST", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
	if x.path = expr(r, "path", asked); x.path == nil && !r.Has("path") {
		r.Missing("path", `an expression such as "/accounts/" + urlPart(args.id)`)
	}
	for part, into := range map[string]map[string]definition.Expr{"query": x.query, "headers": x.headers} {
		p := r.Part(part)
		for _, name := range p.Keys() {
			if e := expr(p, name, asked); e != nil {
				into[name] = e
			}
		}
	}
	x.body, x.output = expr(r, "body", asked), expr(r, "output", answer)
	if x.body == nil && !slices.Contains([]string{"GET", "HEAD", "DELETE"}, x.method) {
		x.body, _ = o.Compile("args", asked...)
	}
	for i, s := range r.Strings("success") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 100 || n > 599 {
			r.Wrong("success["+strconv.Itoa(i)+"]", s, `a status in quotes, such as "404"`)
		}
		x.success = append(x.success, n)
	}
	for _, p := range r.Parts("errors") {
		e := rule{when: expr(p, "when", answer), detail: expr(p, "detail", answer)}
		if e.when == nil {
			p.Missing("when", "a condition over the answer")
		}
		kinds := []string{"none"}
		for _, k := range failure.Kinds() {
			kinds = append(kinds, string(k))
		}
		if k := p.Choice("kind", "", kinds...); !p.Has("kind") {
			p.Missing("kind", "one of "+strings.Join(kinds, ", "))
		} else if k != "" && k != "none" {
			e.kind = failure.Kind(k)
		}
		x.errors = append(x.errors, e)
	}
	pages := r.Part("pages")
	x.items, x.next = expr(pages, "items", answer), expr(pages, "next", answer)
	x.pages = int(pages.Int("max", 100, 1, 10_000))
	if (x.items == nil) != (x.next == nil) {
		pages.Missing("next", "both pages.items and pages.next, or none")
	}
	err := r.Err()
	wrong, _ := err.(connectors.SettingErrors)
	return x, wrong
}

// Close is part of connectors.Backend.
func (b *backend) Close() error {
	b.client.CloseIdleConnections()
	return nil
}

// evaluate gives the value of an expression; ok is false if it is missing.
func evaluate(e definition.Expr, vars map[string]any) (v any, ok bool, err error) {
	v, err = e.Eval(vars)
	switch {
	case err == nil:
		return v, v != nil, nil
	case isMissing(err):
		return nil, false, nil
	}
	return nil, false, err
}

// text makes the text of a header or a query parameter.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}
