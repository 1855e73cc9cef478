package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Each level lets through itself and what is above it.
func TestLoggerLevels(t *testing.T) {
	for level, want := range map[string]string{"debug": "diwe", "info": "iwe", "warn": "we", "error": "e"} {
		var b bytes.Buffer
		log, err := Logger(&b, "json", level)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("d")
		log.Info("i")
		log.Warn("w")
		log.Error("e")
		got := ""
		for line := range strings.Lines(b.String()) {
			var entry struct{ Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got += entry.Msg
		}
		if got != want {
			t.Errorf("level %s lets through %q, want %q", level, got, want)
		}
	}
}

// An error is logged as what it says, in both formats; some print a stack when
// they are asked for more.
func TestLoggerErrors(t *testing.T) {
	for format, want := range map[string]string{"text": `error="it broke"`, "json": `"error":"it broke"`} {
		var b bytes.Buffer
		log, err := Logger(&b, format, "info")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hello", "error", verbose{})
		if got := b.String(); !strings.Contains(got, want) || strings.Contains(got, "stack") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// verbose is an error with a stack.
type verbose struct{}

func (verbose) Error() string { return "it broke" }
func (verbose) Format(s fmt.State, verb rune) {
	_, _ = io.WriteString(s, "it broke")
	if verb == 'v' && s.Flag('+') {
		_, _ = io.WriteString(s, "\nstack")
	}
}

func TestLoggerFormat(t *testing.T) {
	at := time.Date(2026, 3, 29, 1, 2, 3, 4_567_890, time.UTC)
	for format, want := range map[string]string{
		"text": `time=2026-03-29T01:02:03.004Z level=INFO msg=hello g.time=1` + "\n",
		"json": `{"time":"2026-03-29T01:02:03.004Z","level":"INFO","msg":"hello","g":{"time":1}}` + "\n",
	} {
		var b bytes.Buffer
		log, err := Logger(&b, format, "info")
		if err != nil {
			t.Fatal(err)
		}
		r := slog.NewRecord(at, slog.LevelInfo, "hello", 0)
		r.AddAttrs(slog.Group("g", "time", 1))
		if err := log.Handler().Handle(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("%s: %swant %s", format, b.String(), want)
		}
	}
}

func TestLoggerRefuses(t *testing.T) {
	if _, err := Logger(nil, "xml", "info"); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Error(err)
	}
	if _, err := Logger(nil, "text", "loud"); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Error(err)
	}
}

func TestRegistry(t *testing.T) {
	r := Registry(Build{Version: "v1", Revision: "abc", Go: "go1"})
	want := `
# HELP touchstone_build_info The build that is running; always 1.
# TYPE touchstone_build_info gauge
touchstone_build_info{goversion="go1",revision="abc",version="v1"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "touchstone_build_info"); err != nil {
		t.Error(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if !names[name] {
			t.Errorf("no metric %s", name)
		}
	}
	if lint, err := testutil.GatherAndLint(r, "touchstone_build_info"); err != nil || len(lint) > 0 {
		t.Error(lint, err)
	}
	if r == prometheus.DefaultRegisterer {
		t.Error("the default registry is used")
	}
}

func TestReadBuild(t *testing.T) {
	got := readBuild(&debug.BuildInfo{
		Main:     debug.Module{Version: "(devel)"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}},
	})
	if got.Version != "devel" || got.Revision != "0123456789ab+" {
		t.Errorf("%+v", got)
	}
	if got := readBuild(&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}); got.Version != "v1.2.3" || got.Revision != "unknown" {
		t.Errorf("%+v", got)
	}
	if s := ReadBuild().String(); !strings.HasPrefix(s, "touchstone ") || !strings.Contains(s, "go1.") {
		t.Error(s)
	}
}
