package processors

import (
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
