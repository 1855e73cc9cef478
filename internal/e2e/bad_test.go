package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/embedded/broker"
	"github.com/touchstone-platform/touchstone/internal/embedded/schemaregistry"
	"github.com/touchstone-platform/touchstone/topology"
)

// Oracle: what cannot be accepted is answered with the status that says why,
// and leaves nothing in the journal; what was accepted and cannot be
// understood is in the journal and a dead letter with its reason.
func TestBadDeliveries(t *testing.T) {
	s := start(t, t.TempDir(), define(t, github), githubSecrets)
	good := githubDelivery{Event: "push", Payload: []byte(`{"repository":{"id":1,"full_name":"a/b"}}`)}
	refuse := func(name string, status int, path string, body []byte, headers map[string]string) {
		t.Helper()
		a := s.post(path, body, headers)
		if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s, expected a problem with status %d", name, a.status, a.header.Get("Content-Type"), a.body, status)
		}
	}
	refuse("an unknown source", 404, "/v1/ingress/nobody", good.Payload, nil)
	refuse("no signature", 401, "/v1/ingress/github", good.Payload, map[string]string{"Content-Type": "application/json"})
	wrong := githubHeaders(good, "1")
	wrong["X-Hub-Signature-256"] = "sha256=" + strings.Repeat("0", 64)
	refuse("a wrong signature", 401, "/v1/ingress/github", good.Payload, wrong)
	refuse("a changed body", 401, "/v1/ingress/github", append(good.Payload[:len(good.Payload):len(good.Payload)], '\n'), githubHeaders(good, "1"))
	refuse("too large a body", 413, "/v1/ingress/github", bytes.Repeat([]byte("x"), 900_001), nil)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 64 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	refuse("a gzip bomb", 413, "/v1/ingress/github", bomb.Bytes(), map[string]string{"Content-Encoding": "gzip"})

	bad := githubDelivery{Event: "push", Payload: []byte(`{"repository":`)}
	a := s.post("/v1/ingress/github", bad.Payload, githubHeaders(bad, "2"))
	if a.status != http.StatusAccepted {
		t.Fatalf("invalid JSON behind a right signature: %d %s", a.status, a.body)
	}
	out := s.settle("code-hosting", 1, 30*time.Second)
	if len(out) != 1 || out[0].disposition != "dead-letter" || !strings.Contains(out[0].detail, "Validation") {
		t.Fatalf("the journal holds %v, expected one dead letter with reason Validation", out)
	}
	letters := 0
	s.read("code-hosting.deadletters", func(r *kgo.Record) {
		letters++
		h := map[string]string{}
		for _, x := range r.Headers {
			h[x.Key] = string(x.Value)
		}
		if h["touchstone.failure.kind"] != "Validation" || h["__connect.errors.topic"] != "code-hosting.journal" || !strings.Contains(h["__connect.errors.exception.message"], "JSON") {
			t.Errorf("dead letter headers %v", h)
		}
	})
	if letters != 1 {
		t.Errorf("%d dead letters", letters)
	}

	// The same id with another body is a conflict: kept and flagged.
	if a := s.post("/v1/ingress/github", good.Payload, githubHeaders(good, "3")); a.status != http.StatusAccepted {
		t.Fatal(a.status, string(a.body))
	}
	other := githubDelivery{Event: "push", Payload: []byte(`{"repository":{"id":1,"full_name":"c/d"}}`)}
	if a := s.post("/v1/ingress/github", other.Payload, githubHeaders(other, "3")); a.status != http.StatusAccepted {
		t.Fatal(a.status, string(a.body))
	}
	n := count(s.settle("code-hosting", 3, 30*time.Second))
	if n["conflict"] != 1 || n["change"] != 1 || n["dead-letter"] != 1 {
		t.Errorf("dispositions %v", n)
	}
	conflicts := 0
	s.read("code-hosting.deadletters", func(r *kgo.Record) {
		for _, x := range r.Headers {
			if x.Key == "touchstone.failure.kind" && string(x.Value) == "Conflict" {
				conflicts++
			}
		}
	})
	if conflicts != 1 {
		t.Errorf("%d dead letters with reason Conflict", conflicts)
	}
	if e := s.list("code-hosting", "repository"); len(e) != 1 || e[0]["fields"].(map[string]any)["fullName"] != "a/b" {
		t.Errorf("entities %v", e)
	}
}

// log collects what a process logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Oracle: a process that starts before its broker and its registry is alive
// and not ready, names the address it waits for, and works as soon as both are
// there, without being started again.
func TestStartBeforeBrokerAndRegistry(t *testing.T) {
	dir := t.TempDir()
	listen, kafka, sr := freeAddress(t), freeAddress(t), freeAddress(t)
	log := &logged{}
	o := app.Options{
		Domains: define(t, products), Secrets: noSecrets, Dir: filepath.Join(dir, "data"), Brokers: []string{kafka},
		Registry: codecs.RegistryOptions{URL: "http://" + sr}, Topology: topology.Defaults(), Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Serve(ctx, listen, o) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve ended with %v", err)
		}
	}()
	s := &system{t: t, http: &http.Client{Timeout: 10 * time.Second}}
	s.addr.API, s.addr.Kafka = "http://"+listen, kafka
	ready := func(want int, says string) {
		t.Helper()
		eventually(t, fmt.Sprintf("/readyz %d that says %q", want, says), 60*time.Second, func() (bool, string) {
			res, err := http.Get(s.addr.API + "/readyz")
			if err != nil {
				return false, err.Error()
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			return err == nil && res.StatusCode == want && strings.Contains(string(b), says), fmt.Sprintf("%d %s", res.StatusCode, b)
		})
	}
	says := func(what string) {
		t.Helper()
		eventually(t, fmt.Sprintf("a log line that says %q", what), 60*time.Second, func() (bool, string) {
			return strings.Contains(log.String(), what), log.String()
		})
	}
	ready(http.StatusServiceUnavailable, kafka)
	says("waiting for Kafka")
	says(kafka)
	if a := s.get("/livez"); a.status != http.StatusOK {
		t.Errorf("/livez: %d", a.status)
	}
	if a := s.get("/v1/products/row"); a.status != http.StatusServiceUnavailable {
		t.Errorf("a read before the start: %d %s", a.status, a.body)
	}
	b, err := broker.Start(broker.Config{Dir: filepath.Join(dir, "broker"), Listen: kafka, AutoCreate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ready(http.StatusServiceUnavailable, sr)
	says("waiting for the schema registry")
	says(sr)
	r, err := schemaregistry.Start(schemaregistry.Config{Dir: filepath.Join(dir, "registry"), Listen: sr})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ready(http.StatusOK, "")
	if a := s.get("/v1/products/row"); a.status != http.StatusOK {
		t.Errorf("a read after the start: %d %s", a.status, a.body)
	}
	cancel()
}

// Oracle: the second process on a data directory is told so and harms nothing.
func TestDataDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, products))
	err := app.Dev(context.Background(), app.DevOptions{
		Options: app.Options{Domains: define(t, products), Secrets: noSecrets, Topology: topology.Defaults()},
		Dir:     dir, Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0",
	})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("the second process ended with %v", err)
	}
	if a := s.get("/readyz"); a.status != http.StatusOK {
		t.Errorf("the first process is not ready any more: %s", a.body)
	}
}

// Oracle: a taken port is an error that names the flag.
func TestTakenPorts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	for flag, set := range map[string]setup{
		"--listen":          func(o *app.DevOptions) { o.Listen = taken },
		"--kafka-listen":    func(o *app.DevOptions) { o.KafkaListen = taken },
		"--registry-listen": func(o *app.DevOptions) { o.RegistryListen = taken },
	} {
		o := app.DevOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}
		o.Domains, o.Secrets, o.Topology = define(t, products), noSecrets, topology.Defaults()
		set(&o)
		if err := app.Dev(context.Background(), o); err == nil || !strings.Contains(err.Error(), flag) || !strings.Contains(err.Error(), taken) {
			t.Errorf("%s: ended with %v", flag, err)
		}
	}
}

// Oracle: damaged local state is rebuilt from the changelogs, which the log
// says in one line, and nothing is missing afterwards.
func TestCorruptState(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, products))
	cl := s.kafka()
	for i := range 50 {
		s.capture(cl, change{[]byte(fmt.Sprintf(`{"id":%d}`, i)), []byte(fmt.Sprintf(`{"before":null,"after":{"id":%d,"name":"n%d"},"source":{"table":"t","ts_ms":1},"op":"c","ts_ms":1}`, i, i))})
	}
	s.settle("products", 50, 30*time.Second)
	before, events := fmt.Sprint(s.list("products", "row")), fmt.Sprint(s.events("products"))
	s.stop()
	damaged := 0
	err := filepath.WalkDir(filepath.Join(dir, "state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), "MANIFEST") && !strings.HasSuffix(d.Name(), ".sst") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := len(b) / 4; i < len(b); i += 7 {
			b[i] ^= 0xa5
		}
		damaged++
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || damaged == 0 {
		t.Fatalf("%d files damaged, %v", damaged, err)
	}
	log := &logged{}
	again := start(t, dir, define(t, products), func(o *app.DevOptions) {
		o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	if got := fmt.Sprint(again.list("products", "row")); got != before {
		t.Errorf("after the damage:\n got %s\nwant %s", got, before)
	}
	if got := fmt.Sprint(again.events("products")); got != events {
		t.Errorf("events %s, before %s", got, events)
	}
	var said []string
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "KIP-1228") { // an older broker is warned of at each start
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "rebuil") {
		t.Errorf("expected one line that says it is rebuilt, found:\n%s", log.String())
	}
}
