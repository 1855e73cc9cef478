package app

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// swapHandler serves whatever handler is set.
type swapHandler struct{ h atomic.Pointer[http.Handler] }

func (s *swapHandler) set(h http.Handler) { s.h.Store(&h) }

func (s *swapHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.h.Load()).ServeHTTP(w, r)
}

// starting answers probes while the process waits for what it depends on, and
// in processes without the API role for as long as they run.
type starting struct {
	mu      sync.Mutex
	waiting string
	ready   func() error
	metrics http.Handler
}

func newStarting() *starting { return &starting{waiting: "the start"} }

func (s *starting) wait(what string) {
	s.mu.Lock()
	s.waiting = what
	s.mu.Unlock()
}

// done hands readiness over to a check.
func (s *starting) done(ready func() error) {
	s.mu.Lock()
	s.waiting, s.ready = "", ready
	s.mu.Unlock()
}

func (s *starting) missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != "" {
		return []string{"waiting for " + s.waiting}
	}
	return lines(s.ready())
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func (s *starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/livez":
		writeJSON(w, http.StatusOK, "application/json", map[string]any{"status": "ok"})
		return
	case "/metrics":
		if s.metrics != nil {
			s.metrics.ServeHTTP(w, r)
			return
		}
	case "/readyz":
		missing := s.missing()
		if len(missing) == 0 {
			writeJSON(w, http.StatusOK, "application/json", map[string]any{"status": "ok"})
			return
		}
		s.problem(w, r, missing)
		return
	}
	s.problem(w, r, s.missing())
}

// problem answers 503 (RFC 9457) and says what is missing.
func (s *starting) problem(w http.ResponseWriter, r *http.Request, missing []string) {
	detail := "this process has no API role"
	if len(missing) > 0 {
		detail = strings.Join(missing, "; ")
	}
	w.Header().Set("Retry-After", "1")
	writeJSON(w, http.StatusServiceUnavailable, "application/problem+json", map[string]any{
		"type": "about:blank", "title": "Not ready", "status": http.StatusServiceUnavailable, "detail": detail, "instance": r.URL.Path, "code": "not-ready",
	})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that went away is none of our business
}

// server is the HTTP server around whatever handler is in place.
func (a *App) server() *http.Server {
	a.starting.metrics = promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{})
	return &http.Server{
		Handler:           a.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
}
