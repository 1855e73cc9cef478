package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// call runs the program in this process and gives its exit code and output.
func call(ctx context.Context, server string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Environ: []string{serverVariable + "=" + server}}, args)
	return code, out.String(), errs.String()
}

// Oracle: a file that is sent to a running process can be followed from its
// report to the entity and its event, and the process ends well when it is told to.
func TestDevFromFileToEvent(t *testing.T) {
	scores := filepath.Join(t.TempDir(), "scores.csv")
	if err := os.WriteFile(scores, []byte("customer_no;score;rating;as_of\nC-7;712;B;"+time.Now().UTC().Format(time.DateOnly)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	story, w := io.Pipe()
	var log bytes.Buffer
	done := make(chan int, 1)
	go func() {
		code := run(ctx, env{Stdin: strings.NewReader(""), Stdout: w, Stderr: &log}, []string{
			"dev", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--backends-listen", "127.0.0.1:0",
			"--topics-partitions", "2", "--no-simulators",
		})
		w.Close()
		done <- code
	}()
	told, server := bufio.NewScanner(story), ""
	for server == "" && told.Scan() {
		if _, url, ok := strings.Cut(told.Text(), "http://"); ok && strings.Contains(told.Text(), "API") {
			server = "http://" + strings.TrimSpace(url)
		}
	}
	if server == "" {
		t.Fatalf("exit code %d before it was ready: %s", <-done, log.String())
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for told.Scan() {
			lines <- told.Text()
		}
	}()
	ask := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := call(ctx, server, args...)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	report := ask("ingest", scores, "--source", "risk", "--correlation", "night-1", "--expect-rows", "1", "--sha256")
	_, first, ok := strings.Cut(report, "first row    ")
	if !ok {
		t.Fatalf("no first row in\n%s", report)
	}
	first, _, _ = strings.Cut(first, "\n")
	if s := ask("delivery", "get", first, "--wait", "20s"); !strings.Contains(s, "customer C-7, changed canonical state to version 1") {
		t.Errorf("delivery:\n%s", s)
	}
	if s := ask("entity", "get", "customer", "C-7", "--wait", first); !strings.Contains(s, "creditScore     712") || !strings.Contains(s, first) {
		t.Errorf("entity:\n%s", s)
	}
	if s := ask("explain", "customer", "C-7", "creditScore"); !strings.Contains(s, "the most authoritative live claim") || !strings.Contains(s, first) {
		t.Errorf("explanation:\n%s", s)
	}
	if s := ask("trace", "night-1"); !strings.Contains(s, first) || !strings.Contains(s, "CustomerRegistered") {
		t.Errorf("trace:\n%s", s)
	}
	published := false
	for !published {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatal("the story ended without the change")
			}
			published = strings.Contains(line, "published CustomerRegistered")
		case <-ctx.Done():
			t.Fatal("the change was not told")
		}
	}
	cancel()
	for range lines { // the story goes on to its end
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d when told to stop: %s", code, log.String())
	}
}

// A taken port is an error that names the flag, and a definition that is wrong
// is told before anything is started.
func TestDevRefuses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	code, _, stderr := call(t.Context(), "", "dev", "--data", t.TempDir(), "--listen", ln.Addr().String())
	if code != int(exitFailure) || !strings.Contains(stderr, "--listen") || !strings.Contains(stderr, ln.Addr().String()) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	wrong := t.TempDir()
	if err := os.WriteFile(filepath.Join(wrong, "x.yaml"), []byte("domain: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"dev", "serve"} {
		data := filepath.Join(t.TempDir(), "data")
		code, _, stderr := call(t.Context(), "", command, "--data", data, "--domains", wrong)
		if code != int(exitUsage) || !strings.Contains(stderr, "x.yaml:1:1: ") {
			t.Errorf("%s: exit code %d: %s", command, code, stderr)
		}
		if _, err := os.Stat(data); err == nil {
			t.Errorf("%s made %s all the same", command, data)
		}
	}
	if code, _, stderr := call(t.Context(), "", "dev", "--kafka-brokers", "x:1"); code != int(exitUsage) || !strings.Contains(stderr, "unknown flag: --kafka-brokers") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// What a command cannot do without is wrong usage, told before a server is
// asked.
func TestReplayRefuses(t *testing.T) {
	for _, x := range []struct {
		args   []string
		expect string
	}{
		{nil, "found none of them, expected exactly one of --station, --follow, --cancel"},
		{[]string{"--station", "merge", "--cancel", "1"}, "found --station and --cancel, expected exactly one of"},
		{[]string{"--station", "merge"}, "--from: found nothing, expected earliest"},
	} {
		code, _, stderr := call(t.Context(), "", append([]string{"replay", "--server", "http://127.0.0.1:1"}, x.args...)...)
		if code != int(exitUsage) || !strings.Contains(stderr, x.expect) {
			t.Errorf("%v: exit code %d: %s, expected %d and %q", x.args, code, stderr, exitUsage, x.expect)
		}
	}
}

// notes is a domain that needs no secrets.
const notes = `apiVersion: touchstone/v1
domain: notes
resources:
  note:
    identity: id
    fields:
      id: {type: string, authority: [desk]}
sources:
  desk:
    connector: file
    map:
      - {resource: note, key: row.id, fields: {id: row.id}}
`

// A process whose Kafka cannot be reached waits, and ends well when it is told to.
func TestServeWaitsForKafka(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	domains := t.TempDir()
	if err := os.WriteFile(filepath.Join(domains, "notes.yaml"), []byte(notes), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		code := run(ctx, env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: w}, []string{
			"serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--domains", domains, "--kafka-brokers", nobody.Addr().String(), "--log-format", "json",
		})
		w.Close()
		done <- code
	}()
	lines, all := bufio.NewScanner(log), ""
	for lines.Scan() {
		all += lines.Text() + "\n"
		if strings.Contains(lines.Text(), "starting") {
			cancel()
		}
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d\n%s", code, all)
	}
}
