package audit

import (
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
)

// Domain is the one that is run.
const Domain = "chaos"

// At is a record of a topic: where it stands, and its decoded value, the zero
// value of T for a tombstone.
type At[T any] struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       string
	Headers   map[string]string
	// Raw are the bytes of the value; nil for a tombstone.
	Raw   []byte
	Value T
}

// Position of a record in Kafka.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (a *At[T]) position() Position { return Position{a.Topic, a.Partition, a.Offset} }

// Log is everything that a reader of committed records finds, each topic by
// partition and offset.
type Log struct {
	Journal  []At[*journal.Entry]
	Signals  []At[*signal.Signal]
	Facts    []At[*signal.Fact]
	Changes  []At[*event.Change]
	Events   []At[*codecs.DecodedEvent]
	Outcomes []At[*journal.Outcome]
	Entities []At[*canonical.Entity]
	Dead     []At[struct{}]
	// Seen and Published are the changelogs of the other tables.
	Seen, Published []At[struct{}]
}

// Sent is what a sender knows of one delivery.
type Sent struct {
	workload.Delivery
	// Attempts to deliver it.
	Attempts int
	// Acked tells that it was answered with a journal id, which is ID.
	Acked bool
	ID    string
	// Refused tells that it was answered as too large, or as what cannot be taken in.
	Refused bool
}
