// Package processors holds the stations of the flow, one folder each, and
// here the contract between a station and the engine that drives it.
//
// A station is a pure step: it takes the state of one key and one input record
// and returns effects. It does no I/O, reads no clock and keeps no memory
// between calls; the engine performs the effects in one transaction with the
// input's offset. No station imports another.
package processors

import "github.com/touchstone-platform/touchstone/domain/envelope"

// Record is one input record.
type Record struct {
	// Stream it was read from.
	Stream    string
	Partition int32
	Offset    int64
	Key       string
	// Value is decoded by the stream's codec; nil for a tombstone.
	Value any
	// Headers as on the wire; the last of equal names wins.
	Headers map[string][]byte
	// Time is the record's timestamp.
	Time envelope.Instant
}

// Emit is one record to be written.
type Emit struct {
	Stream  string
	Key     string
	Value   any // encoded by the stream's codec; nil writes a tombstone
	Headers map[string][]byte
}

// Effects is what a step wants done.
type Effects struct {
	// State to store for the key; nil leaves it as it is, and the step must
	// then not have changed what it was given.
	State any
	// Forget deletes the state of the key.
	Forget bool
	Emit   []Emit
	// DeadLetter, if set, also writes the input to the dead-letter topic with
	// this failure as the reason, although the step succeeded: for a record
	// that is to be kept and flagged. FailureReporter is not asked.
	DeadLetter error
}

// Station is a step with a name.
type Station interface {
	// Step handles one record. state is the decoded state of the record's
	// key, nil if there is none; the step owns it and may return it changed,
	// but keeps no reference to it, nor to what it returns as State.
	// An error makes the record a dead letter with the error's failure kind;
	// nothing else the step wanted is then done.
	Step(state any, in Record) (Effects, error)
}

// Waker is a Station with a table whose entries are woken at a time that they
// name, without a record that comes in: for what times out, waits before it is
// tried again, or is to happen later. Each time is met once, in one transaction
// with what follows from it, and outlives every process.
type Waker interface {
	Station
	// Due gives when an entry is to be woken; 0 for never. It does not change
	// the state. It is what the state says, and not worked out by a rule that
	// another version of the program may have changed: entries that were written
	// before are woken at the time that was found then.
	Due(state any) envelope.Instant
	// Wake handles the entry of a key that is due at the time now. What is said
	// of Step holds, but that the entry must be changed or forgotten: whatever is
	// still due would be woken for ever, and counts as failed. An entry that
	// fails, for whatever reason, stays as it is and is woken again after a while.
	Wake(state any, key string, now envelope.Instant) (Effects, error)
}

// FailureReporter is a Station that wants to say something of its own about a
// record that became a dead letter, such as its outcome. in.Value is nil when
// the bytes could not be decoded.
type FailureReporter interface {
	Failed(in Record, failure error) []Emit
}
