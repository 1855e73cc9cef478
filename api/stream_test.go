package api_test

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/api"
)

// message is one server-sent event.
type message struct{ ID, Event, Data string }

// follow opens a stream on a real server and gives its messages; the channel
// is closed at the end of the stream.
func follow(t *testing.T, base, target string, headers ...string) <-chan message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", base+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d %s", answer.StatusCode, answer.Header.Get("Content-Type"))
	}
	out := make(chan message)
	go func() {
		defer close(out)
		defer answer.Body.Close()
		var m message
		lines := bufio.NewScanner(answer.Body)
		lines.Buffer(nil, 1<<22)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "":
				if strings.HasPrefix(lines.Text(), ": ") {
					out <- message{Event: "comment", Data: value}
				} else if m != (message{}) {
					select {
					case out <- m:
					case <-ctx.Done():
						return
					}
					m = message{}
				}
			case "id":
				m.ID = value
			case "event":
				m.Event = value
			case "data":
				m.Data += value + "\n"
			}
		}
	}()
	return out
}

func serve(t *testing.T, w *world) string {
	t.Helper()
	s := httptest.NewUnstartedServer(w.api)
	s.Config = w.api.Server()
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// take gives the next n messages that are no comments.
func take(t *testing.T, in <-chan message, n int) []message {
	t.Helper()
	var out []message
	for len(out) < n {
		select {
		case m, ok := <-in:
			if !ok {
				t.Fatalf("the stream ended after %v", out)
			}
			if m.Event != "comment" {
				out = append(out, m)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing for 10 s after %v", out)
		}
	}
	return out
}

func TestEventsStreamFiltersAndResumes(t *testing.T) {
	w := newWorld(t, nil)
	base := serve(t, w)
	all := follow(t, base, "/v1/events")
	if m := <-all; m.Data != "connected" {
		t.Fatalf("first: got %+v, want the comment that it is connected", m)
	}
	story(t, w)
	got := take(t, all, 4)
	var types []string
	for i, m := range got {
		types = append(types, m.Event)
		if m.ID != strconv.Itoa(i+1) || !strings.Contains(m.Data, `"specversion":"1.0"`) {
			t.Errorf("event %d: got %+v", i, m)
		}
	}
	want := []string{"CustomerRegistered", "CustomerUpdated", "CustomerActivated", "CustomerUpdated"}
	if d := cmp.Diff(want, types); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(got[2:], take(t, follow(t, base, "/v1/events", "Last-Event-ID", "2"), 2)); d != "" {
		t.Errorf("resumed behind 2: %s", d)
	}
	if d := cmp.Diff(got[2:3], take(t, follow(t, base, "/v1/events?after=0&type=CustomerActivated&domain=shop&resource=customer"), 1)); d != "" {
		t.Errorf("filtered: %s", d)
	}
}

func TestEventsRefuseWhatIsNoPositionOrDomain(t *testing.T) {
	w := newWorld(t, nil)
	wantProblem(t, w.request(t, "GET", "/v1/events?after=nonsense", nil), 400, "invalid")
	wantProblem(t, w.request(t, "GET", "/v1/events?domain=nowhere", nil), 400, "invalid-query")
}

func TestStreamHasAHeartbeatAndEndsWithTheServer(t *testing.T) {
	for _, target := range []string{"/v1/events", "/console/changes"} {
		w := newWorld(t, func(c *api.Config) { c.Limits.Heartbeat = 10 * time.Millisecond })
		in := follow(t, serve(t, w), target)
		if a, b := <-in, <-in; a.Data != "connected" || b.Data != "still here" {
			t.Errorf("%s: got %+v and %+v", target, a, b)
		}
		w.api.Close()
		if m := take(t, in, 1)[0]; m.Event != "end" || !strings.Contains(m.Data, "shutting down") {
			t.Errorf("%s: got %+v, want an end", target, m)
		}
		for m := range in {
			t.Errorf("%s: got %+v after the end", target, m)
		}
	}
}

// stuck is a connection whose client takes nothing until it is released:
// writes block, as with a full window.
type stuck struct {
	header   http.Header
	writing  chan struct{} // gets a value when the first event is being written
	released chan struct{}
	written  bytes.Buffer
}

func (s *stuck) Header() http.Header { return s.header }
func (s *stuck) WriteHeader(int)     {}
func (s *stuck) Flush()              {}
func (s *stuck) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("event: ")) {
		select {
		case s.writing <- struct{}{}:
		default:
		}
		<-s.released
	}
	return s.written.Write(b)
}

// A client that reads nothing while events pile up is given up on, however
// many there are; what it can still read is the end with its reason.
func TestSlowClientIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *api.Config) { c.Limits.Buffer, c.Limits.SlowClient = 1, time.Second })
		for i := range 10 {
			w.post(t, "billing", `{"key":"C-`+strconv.Itoa(i)+`","fields":{"city":"Bonn"}}`)
		}
		c := &stuck{header: http.Header{}, writing: make(chan struct{}, 1), released: make(chan struct{})}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.api.ServeHTTP(c, httptest.NewRequest("GET", "/v1/events?after=0", nil))
		}()
		<-c.writing
		// In the bubble's own time: behind the write that is stuck the buffer
		// is full, and patience ends.
		time.Sleep(2 * time.Second)
		close(c.released)
		<-ended
		text := c.written.String()
		if !strings.HasSuffix(text, "event: end\ndata: {\"reason\":\"the client is too slow; reconnect with Last-Event-ID to go on\"}\n\n") {
			t.Errorf("got %q, want an end that says why", text)
		}
		if n := strings.Count(text, "event: Customer"); n < 1 || n > 3 {
			t.Errorf("got %d events, want those that were written or in the buffer of one", n)
		}
	})
}

func TestConsoleStreamsChangesAsEscapedMarkup(t *testing.T) {
	w := newWorld(t, nil)
	in := follow(t, serve(t, w), "/console/changes")
	<-in // connected
	w.post(t, "crm", `{"key":"C-1","fields":{"legalName":"<script>alert(1)</script>"}}`)
	m := take(t, in, 1)[0]
	if m.Event != "change" || strings.Contains(m.Data, "<script") || !strings.Contains(m.Data, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Errorf("got %+v, want escaped markup", m)
	}
}

func TestFeedDropsWhoDoesNotKeepUpAndRemembersTheLatest(t *testing.T) {
	f := api.NewFeed(2)
	slow, stop := f.Watch(1)
	fast, stopFast := f.Watch(3)
	defer stopFast()
	for range 3 {
		f.Publish("shop", nil)
	}
	if _, ok := <-slow; !ok {
		t.Error("the first change should still be there")
	}
	if _, ok := <-slow; ok {
		t.Error("a watcher that overflowed should be closed")
	}
	stop() // a second end is harmless
	if len(fast) != 3 || len(f.Recent()) != 2 {
		t.Errorf("got %d for who keeps up and %d recent, want 3 and 2", len(fast), len(f.Recent()))
	}
}
