package definition

import (
	"cmp"
	"slices"
	"time"
)

// Connection is a back end that can be asked to do something.
type Connection struct {
	Name string
	Doc  string
	// Connector is the kind: "rest".
	Connector string
	// Settings of the connector, checked by it, as those of a Source.
	Settings map[string]any
	// Source whose deliveries the answers of this back end are; empty if they are
	// not journaled.
	Source string
	Limits Limits
	// Reads gives, by resource, the operation that reads a record by its key, as
	// the argument "key". What it journals is what the source says of it now.
	Reads map[string]string
	// Operations sorted by name.
	Operations []*Operation
	// Line in the definition file, for messages.
	Line int
}

// Operation finds an operation by name.
func (c *Connection) Operation(name string) (*Operation, bool) {
	i, ok := slices.BinarySearchFunc(c.Operations, name, func(o *Operation, n string) int { return cmp.Compare(o.Name, n) })
	if !ok {
		return nil, false
	}
	return c.Operations[i], true
}

// Operation is one thing that a back end can be asked for.
type Operation struct {
	Name string
	Doc  string
	// Settings of the operation, checked by the connector.
	Settings map[string]any
	// Idempotent: calls with the same key have their effect once. If it is not,
	// a call whose outcome is not known is not made again by itself.
	Idempotent bool
	// Journal gives what of an answer enters the journal as a delivery of the
	// connection's source, over args, output and status; nil if nothing does.
	Journal Expr
	Line    int
}

// Limits keep a back end from more than it can bear.
type Limits struct {
	// Concurrency is how many calls may be under way at a time.
	Concurrency int
	// Rate of calls in a second over all processes; 0 for any.
	Rate float64
	// Ordered: calls about the same entity do not overlap.
	Ordered bool
	// Failures in a row after which the back end is left alone for Pause; then one
	// call tries whether it is well again.
	Failures int
	Pause    time.Duration
}

// Defaults of a connection.
const (
	DefaultConcurrency = 16
	DefaultFailures    = 5
	DefaultPause       = 10 * time.Second
	DefaultTimeout     = 30 * time.Second
	DefaultDeadline    = 10 * time.Minute
	DefaultConfirm     = time.Minute
)

// DefaultRetry is how often a call is tried again if its definition does not say.
var DefaultRetry = Retry{Attempts: 5, First: 500 * time.Millisecond, Max: 30 * time.Second}
