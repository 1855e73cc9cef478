// Package telemetry sets up what a process tells about itself: its log and the
// registry of its metrics.
//
// It declares no metrics of its own apart from those of the process and the
// build; each package declares the metrics of what it does and is given the
// registry. It sets no global logger and does not use Prometheus' default
// registry, so that several assemblies can live in one process, as tests do.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Logger writes to w in the format text or json, from the level debug, info,
// warn or error on. Times are those of the process, with milliseconds.
func Logger(w io.Writer, format, level string) (*slog.Logger, error) {
	var at slog.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: at, ReplaceAttr: shorten}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}

// shorten cuts the time of a log line to milliseconds, and an error to what it
// says: the text format would print the stack that some errors carry.
func shorten(groups []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, err.Error())
	}
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		return slog.String(slog.TimeKey, a.Value.Time().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	return a
}

// Registry is a fresh registry of metrics that holds those of the Go runtime,
// of the process, and touchstone_build_info.
func Registry(build Build) *prometheus.Registry {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "touchstone_build_info",
		Help: "The build that is running; always 1.",
	}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(build.Version, build.Revision, build.Go).Set(1)

	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return r
}

// Build tells which program this is.
type Build struct {
	Version  string // of the module, or devel
	Revision string // of the source, twelve digits, with + where it was changed; unknown if not built from a repository
	Go       string // version of the compiler
}

// String is the line that a version command prints.
func (b Build) String() string {
	return fmt.Sprintf("touchstone %s (%s, %s)", b.Version, b.Revision, b.Go)
}

// ReadBuild reads what the linker put into the running program.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return readBuild(info)
}

func readBuild(info *debug.BuildInfo) Build {
	b := Build{Version: info.Main.Version, Revision: "unknown", Go: runtime.Version()}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	changed := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+"
			}
		}
	}
	if b.Revision != "unknown" {
		b.Revision += changed
	}
	return b
}
