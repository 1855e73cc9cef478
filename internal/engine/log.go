package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaLogger passes on what franz-go says, one level quieter: its warnings
// are mostly retries that succeed.
type kafkaLogger struct{ log *slog.Logger }

func (l kafkaLogger) Level() kgo.LogLevel {
	ctx := context.Background()
	switch {
	case l.log.Enabled(ctx, slog.LevelDebug-4):
		return kgo.LogLevelDebug
	case l.log.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelWarn
	case l.log.Enabled(ctx, slog.LevelError):
		return kgo.LogLevelError
	}
	return kgo.LogLevelNone
}

func (l kafkaLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		to = slog.LevelWarn
	case kgo.LogLevelInfo, kgo.LogLevelDebug:
		to = slog.LevelDebug - 4
	}
	l.log.Log(context.Background(), to, "kafka: "+msg, keyvals...)
}

// gokaLogger sends Goka's progress messages to the debug level: what matters
// of it comes back as an error.
type gokaLogger struct{ log *slog.Logger }

func (l gokaLogger) Print(v ...any)            { l.log.Debug("goka: " + fmt.Sprint(v...)) }
func (l gokaLogger) Println(v ...any)          { l.log.Debug("goka: " + strings.TrimSpace(fmt.Sprintln(v...))) }
func (l gokaLogger) Printf(f string, v ...any) { l.log.Debug("goka: " + fmt.Sprintf(f, v...)) }

// pebbleLogger does the same for Pebble. What Pebble calls fatal leaves the
// folder unusable to this process, so that ending is all that is left.
type pebbleLogger struct{ log *slog.Logger }

func (l pebbleLogger) Infof(f string, v ...any)  { l.log.Debug("pebble: " + fmt.Sprintf(f, v...)) }
func (l pebbleLogger) Errorf(f string, v ...any) { l.log.Error("pebble: " + fmt.Sprintf(f, v...)) }
func (l pebbleLogger) Fatalf(f string, v ...any) {
	msg := "pebble: " + fmt.Sprintf(f, v...)
	l.log.Error(msg)
	panic(pebbleFatal(msg))
}

// pebbleFatal is what Pebble ends with.
type pebbleFatal string

func (f pebbleFatal) Error() string { return string(f) }

// oneLine makes one line of an error: Goka's lists are of several.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
