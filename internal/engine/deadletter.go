package engine

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Headers of a dead letter: those of Kafka Connect, so that existing tools
// read it, and ours. The record keeps its key, its value and its headers.
const (
	HeaderErrorTopic      = "__connect.errors.topic"
	HeaderErrorPartition  = "__connect.errors.partition"
	HeaderErrorOffset     = "__connect.errors.offset"
	HeaderErrorConnector  = "__connect.errors.connector.name" // the group
	HeaderErrorTask       = "__connect.errors.task.id"        // the partition
	HeaderErrorStage      = "__connect.errors.stage"
	HeaderErrorClass      = "__connect.errors.class.name"           // what was running
	HeaderErrorException  = "__connect.errors.exception.class.name" // type of the first cause
	HeaderErrorMessage    = "__connect.errors.exception.message"
	HeaderErrorStacktrace = "__connect.errors.exception.stacktrace"

	HeaderFailureKind    = "touchstone.failure.kind"    // a failure.Kind
	HeaderFailureAttempt = "touchstone.failure.attempt" // 1, or one more than the record already says
	HeaderFailureAt      = "touchstone.failure.at"      // RFC 3339
	HeaderStation        = "touchstone.station"
	HeaderSource         = "touchstone.source"  // kept from the record if it has it
	HeaderJournal        = "touchstone.journal" // kept from the record if it has it
	HeaderValueOmitted   = "touchstone.value.omitted"
)

// Bounds that keep what is added to a dead letter below deadLetterRoom.
const (
	maxMessage = 4 << 10
	maxStack   = 12 << 10
)

// deadLetter makes the record for the dead-letter topic. If even that topic
// cannot take the value, it is left out, and its size told: the original still
// stands at the topic, partition and offset that the headers name.
func (st *step) deadLetter(in *input, e *stepError, withoutValue bool) *kgo.Record {
	attempt := 1
	if n, err := strconv.Atoi(string(in.headers[HeaderFailureAttempt])); err == nil && n > 0 {
		attempt = n + 1
	}
	root := rootCause(e.err)
	exception := fmt.Sprintf("%T", root)
	if e.panic {
		exception = "panic"
	}
	stack := e.stack
	if stack == "" {
		stack = chain(e.err)
	}
	h := make(map[string][]byte, len(in.headers)+16)
	maps.Copy(h, in.headers)
	for k, v := range map[string]string{
		HeaderErrorTopic:      in.rec.Stream,
		HeaderErrorPartition:  strconv.Itoa(int(in.rec.Partition)),
		HeaderErrorOffset:     strconv.FormatInt(in.rec.Offset, 10),
		HeaderErrorConnector:  st.p.spec.Group,
		HeaderErrorTask:       strconv.Itoa(int(in.rec.Partition)),
		HeaderErrorStage:      e.stage,
		HeaderErrorClass:      className(e.running),
		HeaderErrorException:  exception,
		HeaderErrorMessage:    cut(e.Error(), maxMessage),
		HeaderErrorStacktrace: cut(stack, maxStack),
		HeaderFailureKind:     string(failure.KindOf(e.err)),
		HeaderFailureAttempt:  strconv.Itoa(attempt),
		HeaderFailureAt:       time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		HeaderStation:         st.p.name,
	} {
		h[k] = []byte(v)
	}
	r := newRecord(st.p.spec.DeadLetters, in.rec.Key, in.raw, h)
	if withoutValue || recordBytes(r) > st.s.cfg.MaxRecordBytes+deadLetterRoom-1024 {
		h[HeaderValueOmitted] = []byte(strconv.Itoa(len(in.raw)))
		r = newRecord(st.p.spec.DeadLetters, in.rec.Key, []byte{}, h)
	}
	return r
}

// className names a codec or station by its type.
func className(v any) string { return strings.TrimPrefix(fmt.Sprintf("%T", v), "*") }

// rootCause is the innermost error of a chain.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// chain writes an error and its causes, one line each, as a stack trace does.
func chain(err error) string {
	var b strings.Builder
	for first := true; err != nil; err, first = errors.Unwrap(err), false {
		if !first {
			b.WriteString("Caused by: ")
		}
		fmt.Fprintf(&b, "%T: %v\n", err, err)
	}
	return b.String()
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-3] + "..."
}
