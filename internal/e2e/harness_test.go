// Package e2e tests the whole of Touchstone from outside: over HTTP and the
// Kafka protocol, in one process with the embedded broker and registry; with
// the build tag kafka, against a real Kafka and a real registry. It holds tests
// only.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
)

// system is one running Touchstone.
type system struct {
	t    testing.TB
	addr app.DevAddresses
	stop func()
	dir  string
	http *http.Client
}

// setup changes the options of a system before it starts.
type setup func(*app.DevOptions)

// start runs a system in a folder until the test ends, or stop is called. The
// folder stands for all that outlives the system: with a new one, the broker
// and the registry are empty. One system runs at a time.
func start(t testing.TB, dir string, domains []*definition.Domain, change ...setup) *system {
	t.Helper()
	o := app.DevOptions{Dir: dir, Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}
	o.Domains, o.Topology = domains, topology.Defaults()
	o.Version, o.Secrets = "test", noSecrets
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if os.Getenv("TOUCHSTONE_TEST_STORY") != "" {
		o.Story = os.Stderr
	}
	for _, c := range change {
		c(&o)
	}
	started := make(chan app.DevAddresses, 1)
	o.Started = func(a app.DevAddresses) { started <- a }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	run := assembly(t, dir)
	go func() { done <- run(ctx, o) }()
	s := &system{t: t, dir: dir, http: &http.Client{Timeout: 30 * time.Second}}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the system ended with %v", err)
		}
	}
	t.Cleanup(func() { s.stop() })
	select {
	case s.addr = <-started:
	case err := <-done:
		stopped = true
		cancel()
		t.Fatalf("the system did not start: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("the system did not start within a minute")
	}
	return s
}

func noSecrets(ref string) (string, error) { return "", fmt.Errorf("secret %s is not set", ref) }

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// samples are the embedded sample domains.
func samples(t testing.TB) []*definition.Domain {
	t.Helper()
	d, err := registry.Embedded(builtin.Kinds())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// define reads a definition from its text.
func define(t testing.TB, text string) []*definition.Domain {
	t.Helper()
	d, err := registry.Parse("test.yaml", []byte(text), builtin.Kinds())
	if err != nil {
		t.Fatal(err)
	}
	return []*definition.Domain{d}
}

// answer is an HTTP answer with its JSON body.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

func (s *system) do(method, path string, body io.Reader, headers map[string]string) answer {
	s.t.Helper()
	req, err := http.NewRequest(method, s.addr.API+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: b}
	_ = json.Unmarshal(b, &a.json)
	return a
}

func (s *system) get(path string) answer { s.t.Helper(); return s.do(http.MethodGet, path, nil, nil) }

func (s *system) post(path string, body []byte, headers map[string]string) answer {
	s.t.Helper()
	return s.do(http.MethodPost, path, bytes.NewReader(body), headers)
}

// eventually polls until check says that it is so.
func eventually(t testing.TB, what string, within time.Duration, check func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, found := check()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; found %s", what, within, found)
		}
		<-tick.C
	}
}

// dataRoot is where the shared real input is, if it is there.
func dataRoot() string {
	if root := os.Getenv("TOUCHSTONE_DATA"); root != "" {
		return root
	}
	return filepath.Join("..", "..", "..", "shared", "data")
}

// data gives a path in the shared real input; the test is skipped, and says
// so, where it is absent.
func data(t testing.TB, elem ...string) string {
	t.Helper()
	p := filepath.Join(append([]string{dataRoot()}, elem...)...)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("real input is absent: %s (set TOUCHSTONE_DATA to its folder)", p)
	}
	return p
}
