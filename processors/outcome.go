package processors

import (
	"strings"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// SignalOutcome starts the outcome of one signal: everything but the verdict.
func SignalOutcome(s *signal.Signal) *journal.Outcome {
	index := s.Index
	if s.Signals <= 1 {
		index = -1 // the entry's only signal speaks for the entry
	}
	return &journal.Outcome{
		Journal: s.Journal, Index: index, Signals: max(s.Signals, 1), Source: s.Source, Tenant: s.Tenant,
		Resource: s.Resource, Correlation: s.Cause.Correlation, At: s.ReceivedAt,
	}
}

// MaxDetail bounds the words of an outcome, in bytes: a message may quote what a
// sender wrote, and an outcome that is larger than a record may be could never
// be told.
const MaxDetail = 2048

// Failed makes the outcome that of a dead letter.
func Failed(o *journal.Outcome, err error) *journal.Outcome {
	o.Disposition, o.Reason, o.Detail = journal.DeadLetter, string(failure.KindOf(err)), err.Error()
	if len(o.Detail) > MaxDetail {
		o.Detail = strings.ToValidUTF8(o.Detail[:MaxDetail-3], "") + "..."
	}
	return o
}
