package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// errSlow ends the stream of a client that does not keep up.
var errSlow = errors.New("too slow")

// getEvents serves the public events as server-sent events (WHATWG HTML §9.2).
// A client that comes back with Last-Event-ID goes on where it was.
func (a *API) getEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "domain", "resource", "type")
	if err != nil {
		return err
	}
	if name, ok := q["domain"]; ok && a.domains[name] == nil {
		return badQuery("domain", fmt.Sprintf("found %q, which is no domain", name))
	}
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = q["after"]
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	sub, err := a.Events.Subscribe(ctx, after)
	if err != nil {
		return err
	}
	defer sub.Close()

	buffer, ended := make(chan StreamEvent, a.Limits.Buffer), make(chan error, 1)
	var pump sync.WaitGroup
	defer pump.Wait() // before Close, after cancel
	defer cancel()
	pump.Go(func() {
		ended <- a.pump(ctx, sub, buffer, func(e StreamEvent) bool {
			return matches(q, "domain", e.Domain) && matches(q, "resource", e.Resource) && matches(q, "type", e.Type)
		})
	})
	out := a.serverSent(w)
	defer out.heartbeat.Stop()
	for {
		select {
		case e := <-buffer:
			err = out.send(e.Type, e.Position, e.CloudEvent)
		case <-out.heartbeat.C:
			err = out.comment("still here")
		case reason := <-ended:
			for err == nil && len(buffer) > 0 {
				e := <-buffer
				err = out.send(e.Type, e.Position, e.CloudEvent)
			}
			out.end(r.Context(), reason)
			return nil
		case <-a.closing.Done():
			out.end(r.Context(), errClosing)
			return nil
		case <-r.Context().Done():
			return nil
		}
		if err != nil {
			return nil // the client has gone, or reads nothing
		}
	}
}

var errClosing = errors.New("the server is shutting down")

func matches(q map[string]string, name, value string) bool {
	want, ok := q[name]
	return !ok || want == value
}

// pump carries events into the buffer until the subscription or the patience
// with the client ends.
func (a *API) pump(ctx context.Context, sub EventSubscription, buffer chan<- StreamEvent, wanted func(StreamEvent) bool) error {
	for {
		e, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if !wanted(e) {
			continue
		}
		select {
		case buffer <- e:
			continue
		default:
		}
		patience := time.NewTimer(a.Limits.SlowClient)
		select {
		case buffer <- e:
			patience.Stop()
		case <-patience.C:
			return errSlow
		case <-ctx.Done():
			patience.Stop()
			return ctx.Err()
		}
	}
}

// getChanges serves canonical changes in words, as the markup that the console
// puts in front of those it shows.
func (a *API) getChanges(w http.ResponseWriter, r *http.Request) error {
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	changes, stop := a.Changes.Watch(a.Limits.Buffer)
	defer stop()
	out := a.serverSent(w)
	defer out.heartbeat.Stop()
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				out.end(r.Context(), errSlow)
				return nil
			}
			if c.Change.Tenant != tenant {
				continue
			}
			data, err := a.pages.fragment(tell(c))
			if err != nil {
				a.Log.ErrorContext(r.Context(), "console: a change could not be told", "change", c.Change.Key(), "error", err)
				continue
			}
			if out.send("change", "", data) != nil {
				return nil
			}
		case <-out.heartbeat.C:
			if out.comment("still here") != nil {
				return nil
			}
		case <-a.closing.Done():
			out.end(r.Context(), errClosing)
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// serverSent begins a stream; the caller stops its heartbeat.
func (a *API) serverSent(w http.ResponseWriter) *serverSent {
	s := &serverSent{w: w, control: http.NewResponseController(w), within: a.Limits.SlowClient, heartbeat: time.NewTicker(a.Limits.Heartbeat)}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	_ = s.control.SetReadDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	_ = s.write([]byte("retry: 2000\n: connected\n\n")) // a client that has gone is noticed at the next write
	return s
}

type serverSent struct {
	w         http.ResponseWriter
	control   *http.ResponseController
	within    time.Duration
	heartbeat *time.Ticker
}

func (s *serverSent) write(b []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(s.within)) // a test's writer has none
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *serverSent) comment(text string) error { return s.write([]byte(": " + text + "\n\n")) }

func (s *serverSent) send(event, id string, data []byte) error {
	var b bytes.Buffer
	if id != "" {
		b.WriteString("id: " + oneLine(id) + "\n")
	}
	b.WriteString("event: " + oneLine(event) + "\n")
	for line := range bytes.Lines(data) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return s.write(b.Bytes())
}

// end says why the stream ends. A client goes on by Last-Event-ID.
func (s *serverSent) end(ctx context.Context, reason error) {
	if ctx.Err() != nil {
		return
	}
	text := "the stream of events has ended; reconnect to go on"
	switch {
	case errors.Is(reason, errSlow):
		text = "the client is too slow; reconnect with Last-Event-ID to go on"
	case errors.Is(reason, errClosing):
		text = errClosing.Error()
	}
	data, err := json.Marshal(map[string]string{"reason": text})
	if err == nil {
		_ = s.send("end", "", data) // it ends either way
	}
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return -1
		}
		return r
	}, s)
}
