package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Problem is an error as RFC 9457 tells it, with a code for programs, the
// trace it belongs to, and the places that are wrong.
type Problem struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitempty"`
	Instance string         `json:"instance,omitempty"`
	Code     string         `json:"code"`
	TraceID  string         `json:"traceId,omitempty"`
	Errors   []ProblemPlace `json:"errors,omitempty"`
	// retryAfter in seconds, for the header; 0 if none.
	retryAfter int
	// header has what else the answer needs.
	header http.Header
}

// ProblemPlace is one thing that is wrong and where: a JSON pointer into the
// body, or "#/query/<name>" for a query parameter.
type ProblemPlace struct {
	Detail  string `json:"detail"`
	Pointer string `json:"pointer"`
}

func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// problem makes a problem of a code; its title is that of the status.
func problem(status int, code, detail string) *Problem {
	return &Problem{Type: "urn:touchstone:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// at adds a place that is wrong.
func (p *Problem) at(pointer, detail string) *Problem {
	p.Errors = append(p.Errors, ProblemPlace{Detail: detail, Pointer: pointer})
	return p
}

func (p *Problem) retry(seconds int) *Problem {
	p.retryAfter = seconds
	return p
}

// badQuery is a query parameter that is not what was expected.
func badQuery(name, detail string) *Problem {
	return problem(http.StatusBadRequest, "invalid-query", name+": "+detail).at("#/query/"+name, detail)
}

// statusOf is the one place where kinds of failure become statuses.
func statusOf(k failure.Kind) int {
	switch k {
	case failure.RateLimited:
		return http.StatusTooManyRequests
	case failure.Auth:
		return http.StatusUnauthorized
	case failure.Validation:
		return http.StatusBadRequest
	case failure.Conflict:
		return http.StatusConflict
	case failure.NotFound:
		return http.StatusNotFound
	case failure.Poison:
		return http.StatusInternalServerError
	}
	return http.StatusServiceUnavailable // Transient
}

// codeOf names a kind in the problem's code.
func codeOf(k failure.Kind) string {
	switch k {
	case failure.RateLimited:
		return "rate-limited"
	case failure.Auth:
		return "unauthenticated"
	case failure.Validation:
		return "invalid"
	case failure.Conflict:
		return "conflict"
	case failure.NotFound:
		return "not-found"
	case failure.Poison:
		return "internal"
	}
	return "unavailable"
}

// asProblem tells an error as a problem. Errors that are ours, or that carry
// no kind, keep their text for the log: it may name what callers should not see.
func asProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return problem(http.StatusGatewayTimeout, "timeout", "what was asked for did not happen in time").retry(1)
	}
	kind := failure.KindOf(err)
	p = problem(statusOf(kind), codeOf(kind), err.Error())
	var f *failure.Error
	switch {
	case !errors.As(err, &f):
		p.Detail = "a part of the system does not answer; the request may succeed when repeated"
	case kind == failure.Poison:
		p.Detail = "the request failed for a reason that is not the client's; it is in the log under the trace id"
	}
	if kind.Retryable() {
		p.retry(1)
	}
	if kind == failure.Auth {
		// RFC 9110 §11.6.1 wants a challenge with every 401.
		p.header = http.Header{"Www-Authenticate": {`Signature realm="ingress"`}}
	}
	return p
}

// fail answers with a problem.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the client has gone
	}
	p := *asProblem(err)
	p.Instance = r.URL.EscapedPath()
	p.TraceID = traceIDOf(r.Context())
	if p.Status >= 500 {
		a.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status, "trace", p.TraceID, "error", err)
	}
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	for _, k := range []string{"Etag", "Content-Encoding", "Location", "Link"} {
		h.Del(k)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	body, err := json.Marshal(&p)
	if err != nil {
		body = []byte(`{"type":"about:blank","status":500}`)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return failure.Wrap(failure.Poison, "encode answer", "", err)
	}
	write(w, status, body)
	return nil
}

func write(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache") // may be kept, must be revalidated
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
