package connectors

import (
	"context"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Kinds are the kinds of connector that there are.
type Kinds struct {
	Sources  []Kind
	Backends []BackendKind
}

// BackendKind is one kind of back end that can be asked to do something. It is
// stateless.
type BackendKind interface {
	// Name as a definition spells it: "rest".
	Name() string
	// Doc in one sentence.
	Doc() string
	// Settings documents the settings of a connection, sorted by key, and
	// OperationSettings those of one of its operations.
	Settings() []Setting
	OperationSettings() []Setting
	// Connect checks the settings of a connection and of its operations, and gives
	// its back end; it does not reach out for it. The error is a SettingErrors if
	// settings are wrong: the keys of an operation's are "operations.<name>.<key>".
	Connect(c *definition.Connection, o Options) (Backend, error)
}

// Options are what a kind of back end is given.
type Options struct {
	Secrets Secrets
	// Checking: a definition is checked, and secrets are stood in for.
	Checking bool
	// Compile compiles an expression of a setting over variables of any form. The
	// error says what was found and what was expected.
	Compile func(text string, variables ...string) (definition.Expr, error)
}

// Backend is a back end that can be asked to do something. It is safe for
// concurrent use.
type Backend interface {
	// Call makes one call. Its error is a failure whose kind decides what happens
	// next, within a *CallError if there is more to say. Nothing is tried again
	// here, and nothing goes on when ctx has ended.
	Call(ctx context.Context, c Call) (Reply, error)
	// Close lets go of what is held; calls have ended before.
	Close() error
}

// Call is one call of an operation.
type Call struct {
	Operation string
	// Key is the same for all attempts at the same effect.
	Key     string
	Attempt int32
	// Args are nil, bool, string, int64, float64, []any and map[string]any.
	Args  map[string]any
	Cause envelope.Cause
}

// Reply is what a back end answered.
type Reply struct {
	// Status in the back end's own numbers; 0 if it has none.
	Status int32
	// Output is what the steps that follow see: an object, or anything else,
	// which they see as its member "value".
	Output canonical.Value
}

// CallError is what is known of a call that failed.
type CallError struct {
	// Err is the failure.
	Err error
	// Status as that of a Reply.
	Status int32
	// Answer of the back end, as far as it is of use to people.
	Answer canonical.Value
	// Uncertain: the back end may have done it all the same.
	Uncertain bool
	// After is how long the back end wants to be left alone; zero if it does not
	// say.
	After time.Duration
}

func (e *CallError) Error() string { return e.Err.Error() }

// Unwrap gives the failure.
func (e *CallError) Unwrap() error { return e.Err }
