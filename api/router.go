package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// handler answers a request or gives the error to answer with; it does so
// before it has written anything.
type handler func(w http.ResponseWriter, r *http.Request) error

// route is one path with one method. Router and OpenAPI document are both made
// from the table of routes.
type route struct {
	method, path string
	id           string // OpenAPI operation id
	summary      string
	params       []param
	body         string // media type of the request body; "" if none
	bodyDoc      string
	bodyRef      string // schema of the body in the components; "" for any
	responses    []response
	// unbounded routes set their own deadlines.
	unbounded bool
	handle    handler
}

// build makes the router of the table. Methods are chosen here, path by path,
// in the order of the table: a literal path that does not take a method must
// not fall through to a later template that would match it.
func (a *API) build() {
	m := mux.NewRouter()
	m.SkipClean(true) // a path that is not clean is unknown, not redirected
	byPath := map[string]map[string]route{}
	var paths []string
	for _, r := range a.routes {
		if byPath[r.path] == nil {
			byPath[r.path] = map[string]route{}
			paths = append(paths, r.path)
		}
		byPath[r.path][r.method] = r
	}
	for _, p := range paths {
		m.Handle(p, a.methods(p, byPath[p]))
	}
	m.NotFoundHandler = a.wrap("", func(http.ResponseWriter, *http.Request) error {
		return problem(http.StatusNotFound, "unknown-route", "nothing is served at this path; /openapi.json lists what is")
	}, false)
	a.router = m
	a.walk = func() []string {
		var found []string
		// The walk function gives no error, so neither does Walk.
		_ = m.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
			if t, err := r.GetPathTemplate(); err == nil {
				found = append(found, t)
			}
			return nil
		})
		return found
	}
}

// methods dispatches one path. HEAD is GET without the body, which net/http
// leaves out by itself.
func (a *API) methods(path string, byMethod map[string]route) http.Handler {
	handlers := map[string]http.Handler{}
	allow := []string{}
	for method, r := range byMethod {
		handlers[method] = a.wrap(path, r.handle, r.unbounded)
		allow = append(allow, method)
		if method == http.MethodGet {
			handlers[http.MethodHead] = handlers[method]
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	refuse := a.wrap(path, func(_ http.ResponseWriter, r *http.Request) error {
		p := problem(http.StatusMethodNotAllowed, "method-not-allowed", fmt.Sprintf("found %s, expected one of %s", r.Method, strings.Join(allow, ", ")))
		p.header = http.Header{"Allow": {strings.Join(allow, ", ")}}
		return p
	}, false)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, ok := handlers[r.Method]
		if !ok {
			h = refuse
		}
		h.ServeHTTP(w, r)
	})
}

// wrap gives a handler its deadlines, trace, metrics and an answer when it fails
// or panics.
func (a *API) wrap(path string, h handler, unbounded bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w}
		trace := traceOf(r.Header.Get("traceparent"))
		r = r.WithContext(context.WithValue(r.Context(), traceKey{}, trace))
		// Sniffing is what makes a JSON answer with hostile text a page.
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !unbounded {
			control := http.NewResponseController(w)
			// A writer without deadlines (a test's) has none to set.
			if r.Body != nil && r.Body != http.NoBody {
				// Only until the body is read: net/http takes a deadline that
				// passes later for a client that has gone.
				_ = control.SetReadDeadline(began.Add(a.Limits.ReadBody))
			}
			_ = control.SetWriteDeadline(began.Add(a.Limits.ReadBody + a.Limits.Wait + a.Limits.Write))
		}
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p) // net/http's own way to break off
				}
				a.Log.ErrorContext(r.Context(), "panic in a request", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if rec.code == 0 {
					a.fail(rec, r, failure.New(failure.Poison, r.Method, path, "panic: %v", p))
				}
			}
			a.seconds.WithLabelValues(path, methodLabel(r.Method), strconv.Itoa(rec.status())).Observe(time.Since(began).Seconds())
		}()
		if err := h(rec, r); err != nil {
			if rec.code != 0 {
				a.Log.ErrorContext(r.Context(), "request failed after its answer had begun", "path", r.URL.Path, "error", err)
				return
			}
			a.fail(rec, r, err)
		}
	})
}

// methodLabel bounds a metric's label: anyone may send any method.
func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// recorder remembers the status that was sent.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach what is below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}

type traceKey struct{}

// traceOf gives the W3C trace context of a request (version 00 of
// https://www.w3.org/TR/trace-context/): the sender's if it is well formed,
// else a new one that is not sampled.
func traceOf(header string) string {
	if wellFormed(header) {
		return header
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "00-" + hex.EncodeToString(b[:16]) + "-" + hex.EncodeToString(b[16:]) + "-00"
}

// wellFormed tells whether a traceparent is one of version 00 with ids that are not zero.
func wellFormed(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	zero := func(x string) bool { return strings.Trim(x, "0") == "" }
	for _, part := range []string{s[3:35], s[36:52], s[53:55]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return !zero(s[3:35]) && !zero(s[36:52])
}

func traceparentOf(ctx context.Context) string {
	s, _ := ctx.Value(traceKey{}).(string)
	return s
}

func traceIDOf(ctx context.Context) string {
	if s := traceparentOf(ctx); len(s) == 55 {
		return s[3:35]
	}
	return ""
}
