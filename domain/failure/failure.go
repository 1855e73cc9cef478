// Package failure is the one error type of Touchstone: what was being done,
// to what, and of which kind the failure is. The kind alone decides what
// happens next (retry, dead letter, escalation); nothing matches on texts.
//
// It does not log, retry or count: callers do.
package failure

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies a failure by what may be done about it.
type Kind string

// The kinds of failure. A kind is written to dead letters, metrics and the
// API in this spelling.
const (
	// Transient failures may succeed when tried again unchanged.
	Transient Kind = "Transient"
	// RateLimited failures may succeed when tried again later.
	RateLimited Kind = "RateLimited"
	// Auth failures need other credentials; retrying is pointless.
	Auth Kind = "Auth"
	// Validation failures are the input's fault: it does not have the form,
	// the type or the value that was agreed.
	Validation Kind = "Validation"
	// Poison failures are ours: a record that breaks the code which handles
	// it, or bytes that cannot be decoded at all. Never retried by itself.
	Poison Kind = "Poison"
	// Conflict failures contradict something already accepted, such as the
	// same vendor event id with another body.
	Conflict Kind = "Conflict"
	// NotFound failures name something that does not exist.
	NotFound Kind = "NotFound"
)

// Kinds lists every kind in a stable order.
func Kinds() []Kind {
	return []Kind{Transient, RateLimited, Auth, Validation, Poison, Conflict, NotFound}
}

// Retryable tells whether an unchanged attempt can succeed later.
func (k Kind) Retryable() bool { return k == Transient || k == RateLimited }

// Error is a failure: the operation, its subject, the kind and the cause.
type Error struct {
	// Op is what was being done, in the words of the code: "decode CDC envelope".
	Op string
	// Subject is what it was done to: a field, a source, a file with its row.
	Subject string
	// Kind decides what happens next.
	Kind Kind
	// Err is the cause.
	Err error
}

// Error reads "op subject: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Subject)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes a failure whose cause is a formatted message.
func New(kind Kind, op, subject, format string, args ...any) *Error {
	return &Error{Op: op, Subject: subject, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Wrap makes a failure of an existing error. A nil error gives nil.
func Wrap(kind Kind, op, subject string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

// KindOf gives the kind of the outermost failure in err's chain. An error
// that carries none is Transient: we do not know that it would fail again.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) && e.Kind != "" {
		return e.Kind
	}
	return Transient
}
