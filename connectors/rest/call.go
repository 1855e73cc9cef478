package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

func isMissing(err error) bool { return errors.Is(err, definition.ErrMissing) }

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	body    any
	garbage error // why the body could not be read as what it says it is
}

func (a *answer) vars(args map[string]any) map[string]any {
	headers := map[string]any{}
	for name := range a.header {
		headers[strings.ToLower(name)] = a.header.Get(name)
	}
	return map[string]any{"status": int64(a.status), "headers": headers, "body": a.body, "args": args}
}

// Call is part of connectors.Backend.
func (b *backend) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	op := b.operations[c.Operation]
	if op == nil {
		return connectors.Reply{}, failure.New(failure.NotFound, "call", b.name, "no operation %q", c.Operation)
	}
	x := exchange{backend: b, op: op, call: c}
	target, body, err := x.request()
	if err != nil {
		return connectors.Reply{}, err
	}
	a, err := x.send(ctx, target, body)
	if err != nil {
		return connectors.Reply{}, err
	}
	if op.items != nil {
		return x.pages(ctx, a)
	}
	return x.reply(a)
}

// exchange is one call.
type exchange struct {
	*backend
	op   *operation
	call connectors.Call
}

func (x *exchange) wrong(kind failure.Kind, err error) error {
	return failure.Wrap(kind, "call", x.name+"."+x.call.Operation, err)
}

// request makes the URL and the body.
func (x *exchange) request() (target string, body []byte, err error) {
	vars := map[string]any{"args": x.call.Args, "key": x.call.Key}
	v, err := x.op.path.Eval(vars)
	if err != nil {
		return "", nil, x.wrong(failure.Validation, fmt.Errorf("path: %w", err))
	}
	path, ok := v.(string)
	if !ok || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?# \r\n") || slices.Contains(strings.Split(path, "/"), "..") {
		return "", nil, x.wrong(failure.Validation, fmt.Errorf("path: found %q, expected one that begins with / and has neither a query nor a blank nor .. in it", v))
	}
	target = x.base + path
	query := url.Values{}
	for name, e := range x.op.query {
		v, ok, err := evaluate(e, vars)
		if err != nil {
			return "", nil, x.wrong(failure.Validation, fmt.Errorf("query %s: %w", name, err))
		}
		if ok {
			query.Set(name, text(v))
		}
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	if x.op.body == nil {
		return target, nil, nil
	}
	v, err = x.op.body.Eval(vars)
	if err != nil {
		return "", nil, x.wrong(failure.Validation, fmt.Errorf("body: %w", err))
	}
	json, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
	if err != nil {
		return "", nil, x.wrong(failure.Validation, fmt.Errorf("body: %w", err))
	}
	return target, []byte(json), nil
}

// send makes one request and reads the answer.
func (x *exchange) send(ctx context.Context, target string, body []byte) (*answer, error) {
	// Whether the back end may have done something is known by whether it was
	// reached: a request whose connection was not made has had no effect.
	var reached atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { reached.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, x.op.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, x.wrong(failure.Validation, err)
	}
	if body == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "touchstone")
	for name, v := range x.headers {
		req.Header.Set(name, v)
	}
	if x.idempotent != "" && x.op.idempotent && x.op.method != http.MethodGet && x.op.method != http.MethodHead {
		req.Header.Set(x.idempotent, x.call.Key)
	}
	if c := x.call.Cause; c.Traceparent != "" {
		req.Header.Set("Traceparent", c.Traceparent)
	}
	vars := map[string]any{"args": x.call.Args, "key": x.call.Key}
	for name, e := range x.op.headers {
		v, ok, err := evaluate(e, vars)
		if err != nil {
			return nil, x.wrong(failure.Validation, fmt.Errorf("header %s: %w", name, err))
		}
		if ok {
			req.Header.Set(name, text(v))
		}
	}
	if x.sign != nil {
		if err := x.sign(req, body); err != nil {
			return nil, err
		}
	}
	resp, err := x.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may hold personal data
		}
		return nil, &connectors.CallError{Err: x.wrong(failure.Transient, err), Uncertain: reached.Load() && x.changes()}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && x.refused != nil {
		x.refused()
	}
	return x.read(resp)
}

// changes tells whether requests of the operation may have an effect.
func (x *exchange) changes() bool {
	return x.op.method != http.MethodGet && x.op.method != http.MethodHead
}

// read reads an answer, as much of it as may be.
func (x *exchange) read(resp *http.Response) (*answer, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, x.most+1))
	if err != nil {
		return nil, &connectors.CallError{Err: x.wrong(failure.Transient, fmt.Errorf("read the answer: %w", err)), Status: int32(resp.StatusCode), Uncertain: x.changes()}
	}
	if int64(len(raw)) > x.most {
		return nil, &connectors.CallError{
			Err: x.wrong(failure.Validation, fmt.Errorf("found an answer of more than %d bytes, expected at most as many", x.most)), Status: int32(resp.StatusCode), Uncertain: x.changes(),
		}
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case len(bytes.TrimSpace(raw)) == 0:
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		if a.body, err = connectors.DecodeJSON(raw, connectors.DefaultDepth); err != nil {
			a.garbage, a.body = err, strings.ToValidUTF8(string(raw), "")
		}
	default:
		a.body = strings.ToValidUTF8(string(raw), "")
	}
	return a, nil
}

// reply says what an answer means.
func (x *exchange) reply(a *answer) (connectors.Reply, error) {
	if err := x.judge(a); err != nil {
		return connectors.Reply{}, err
	}
	out := a.body
	if x.op.output != nil {
		v, err := x.op.output.Eval(a.vars(x.call.Args))
		if err != nil && !isMissing(err) {
			return connectors.Reply{}, &connectors.CallError{Err: x.wrong(failure.Validation, fmt.Errorf("output: %w", err)), Status: int32(a.status), Uncertain: x.changes()}
		}
		out = v
	}
	return x.replied(a, out)
}

func (x *exchange) replied(a *answer, out any) (connectors.Reply, error) {
	if out == nil {
		return connectors.Reply{Status: int32(a.status)}, nil
	}
	v, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(out)
	if err != nil {
		return connectors.Reply{}, &connectors.CallError{Err: x.wrong(failure.Validation, fmt.Errorf("output: %w", err)), Status: int32(a.status), Uncertain: x.changes()}
	}
	return connectors.Reply{Status: int32(a.status), Output: v}, nil
}

// judge tells whether an answer is a failure, and of which kind.
func (x *exchange) judge(a *answer) error {
	kind := classify(a.status)
	if slices.Contains(x.op.success, a.status) {
		kind = ""
	}
	detail := ""
	vars := a.vars(x.call.Args)
	for i, r := range x.op.errors {
		v, ok, err := evaluate(r.when, vars)
		if err != nil {
			return &connectors.CallError{Err: x.wrong(failure.Validation, fmt.Errorf("errors[%d].when: %w", i, err)), Status: int32(a.status), Uncertain: x.changes()}
		}
		if holds, _ := v.(bool); !ok || !holds {
			continue
		}
		kind = r.kind
		if r.detail != nil {
			if v, ok, err := evaluate(r.detail, vars); ok && err == nil {
				detail = text(v)
			}
		}
		if kind == "" {
			return nil
		}
		return x.failed(a, kind, detail)
	}
	if kind == "" && a.garbage != nil {
		// It may well have done what it was asked for.
		return &connectors.CallError{Err: x.wrong(failure.Poison, fmt.Errorf("status %d with a body that is not what it says it is: %w", a.status, a.garbage)), Status: int32(a.status), Uncertain: x.changes()}
	}
	if kind == "" {
		return nil
	}
	return x.failed(a, kind, detail)
}

func (x *exchange) failed(a *answer, kind failure.Kind, detail string) error {
	said := "status " + strconv.Itoa(a.status)
	if detail == "" {
		detail = brief(a.body)
	}
	if detail != "" {
		said += ": " + detail
	}
	e := &connectors.CallError{Err: x.wrong(kind, errors.New(said)), Status: int32(a.status)}
	if kind == failure.Transient {
		e.Uncertain = x.changes() && a.status != http.StatusServiceUnavailable
	}
	if kind.Retryable() {
		e.After = retryAfter(a.header.Get("Retry-After"), x.now())
	}
	return e
}

// classify gives the kind of failure of a status; empty if it is none.
func classify(status int) failure.Kind {
	switch {
	case status >= 200 && status < 300:
		return ""
	case status == http.StatusTooManyRequests:
		return failure.RateLimited
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return failure.Auth
	case status == http.StatusNotFound, status == http.StatusGone:
		return failure.NotFound
	case status == http.StatusConflict, status == http.StatusPreconditionFailed:
		return failure.Conflict
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly,
		status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported:
		return failure.Transient
	}
	return failure.Validation
}

// maxRetryAfter bounds how long a back end can have itself left alone.
const maxRetryAfter = time.Hour

// retryAfter reads the header Retry-After (RFC 9110, 10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	if s == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(min(max(n, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// brief gives what people need of an answer's body: the usual members of error
// bodies (RFC 9457 and what is like it), or its beginning.
func brief(body any) string {
	s := ""
	switch v := body.(type) {
	case nil:
		return ""
	case string:
		s = v
	case map[string]any:
		for _, name := range []string{"detail", "message", "error_description", "error", "title"} {
			switch m := v[name].(type) {
			case string:
				return shorten(m)
			case map[string]any:
				if t, ok := m["message"].(string); ok {
					return shorten(t)
				}
			}
		}
		if c, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(v); err == nil {
			s = string(c)
		}
	default:
		if c, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(v); err == nil {
			s = string(c)
		}
	}
	return shorten(s)
}

func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= 200 {
		return s
	}
	return strings.ToValidUTF8(s[:197], "") + "…"
}

// pages reads a list to its end.
func (x *exchange) pages(ctx context.Context, a *answer) (connectors.Reply, error) {
	items := []any{}
	size := 0
	for n := 1; ; n++ {
		if err := x.judge(a); err != nil {
			return connectors.Reply{}, err
		}
		vars := a.vars(x.call.Args)
		v, ok, err := evaluate(x.op.items, vars)
		page, isList := v.([]any)
		if err != nil || ok && !isList {
			return connectors.Reply{}, x.wrong(failure.Validation, fmt.Errorf("pages.items of page %d: found %T, expected a list (%v)", n, v, err))
		}
		items = append(items, page...)
		for _, i := range page {
			if c, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(i); err == nil {
				size += len(c)
			}
		}
		if int64(size) > x.most {
			return connectors.Reply{}, x.wrong(failure.Validation, fmt.Errorf("found more than %d bytes up to page %d, expected at most as many", x.most, n))
		}
		v, _, err = evaluate(x.op.next, vars)
		if err != nil {
			return connectors.Reply{}, x.wrong(failure.Validation, fmt.Errorf("pages.next of page %d: %w", n, err))
		}
		next, _ := v.(string)
		if next == "" {
			return x.replied(a, map[string]any{"items": items})
		}
		if n == x.op.pages {
			return connectors.Reply{}, x.wrong(failure.Validation, fmt.Errorf("found more than %d pages, expected at most as many", n))
		}
		if next, err = x.below(next); err != nil {
			return connectors.Reply{}, x.wrong(failure.Validation, fmt.Errorf("pages.next of page %d: %w", n, err))
		}
		if a, err = x.send(ctx, next, nil); err != nil {
			return connectors.Reply{}, err
		}
	}
}

// below gives the URL of a next page. It stays with the back end, so that no
// answer can have credentials sent elsewhere.
func (x *exchange) below(next string) (string, error) {
	base, err := url.Parse(x.base + "/")
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(next, "/") && !strings.HasPrefix(next, "//") {
		next = x.base + next
	}
	u, err := base.Parse(next)
	if err != nil {
		return "", err
	}
	if u.Scheme != base.Scheme || u.Host != base.Host {
		return "", fmt.Errorf("found %s://%s, expected a page of %s://%s", u.Scheme, u.Host, base.Scheme, base.Host)
	}
	return u.String(), nil
}
