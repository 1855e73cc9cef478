// Package connectors holds the kinds of source, one folder each, and here the
// contract they keep. A connector is an anti-corruption layer: it verifies a
// delivery, says what identifies it, and turns it into records of plain values
// for the mapping rules. Vendor words stop here.
//
// It does not map, deduplicate or journal.
package connectors

import (
	"net/http"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Record is one thing a delivery says: the variables that mapping expressions
// see, as nil, bool, string, int64, float64, []any and map[string]any.
type Record map[string]any

// Variable documents one variable of a kind's records.
type Variable struct{ Name, Doc string }

// Kind is one kind of connector. It is stateless.
type Kind interface {
	// Name as a definition spells it: "webhook".
	Name() string
	// Doc in one sentence.
	Doc() string
	// Variables that its records always have (nil where they have no value).
	Variables() []Variable
	// Settings documents the settings it takes, sorted by key.
	Settings() []Setting
	// Open checks the settings of a source and gives its connector. The error
	// is a SettingErrors if settings are wrong.
	Open(src *definition.Source, secrets Secrets) (Connector, error)
}

// Setting documents one setting: its dotted key, its form and its default.
type Setting struct{ Key, Form, Default, Doc string }

// Connector is a kind opened for one source. It is safe for concurrent use.
type Connector interface {
	// Decode gives the records of a journal entry. It is pure: the same entry
	// always gives the same records. Its errors are failures of kind
	// Validation or Poison. An entry that says nothing (a tombstone) gives none.
	Decode(e *journal.Entry) ([]Record, error)
}

// Receiver is a Connector that takes deliveries over HTTP.
type Receiver interface {
	// Receive verifies a delivery and gives the entry to journal: ContentType,
	// Headers, Body, Signature and VendorID are set, the rest is the caller's.
	// A wrong signature is a failure of kind Auth.
	Receive(d Delivery) (*journal.Entry, error)
}

// Resender is a Connector whose sender does not repeat a delivery byte for byte.
type Resender interface {
	// Volatile lists the JSON pointers (RFC 6901) of what may differ between
	// copies of an entry, such as the time of sending. It depends on what else
	// identifies the entry, so VendorID is set before.
	Volatile(e *journal.Entry) []string
}

// Volatile gives every volatile path of an entry: those that its source
// declares and those of its connector. It is what journal.Entry.Identify takes.
func Volatile(src *definition.Source, c Connector, e *journal.Entry) []string {
	if r, ok := c.(Resender); ok {
		return append(slices.Clone(src.Dedupe.Volatile), r.Volatile(e)...)
	}
	return src.Dedupe.Volatile
}

// Delivery is one HTTP request as received.
type Delivery struct {
	Header http.Header
	// Body is raw: decompressed if it came with a Content-Encoding, and not
	// otherwise touched.
	Body []byte
	// Now is the time to verify timestamps at.
	Now time.Time
}

// Secrets resolves a secret reference of a definition, such as
// "env:GITHUB_WEBHOOK_SECRET" or "file:/run/secrets/github", to its value.
type Secrets func(ref string) (string, error)

// SettingError names one wrong setting: its dotted key below "settings", what
// was found and what was expected.
type SettingError struct{ Key, Found, Expected string }

func (e SettingError) Error() string {
	return e.Key + ": found " + e.Found + ", expected " + e.Expected
}

// SettingErrors lists every wrong setting of a source.
type SettingErrors []SettingError

func (e SettingErrors) Error() string {
	s := ""
	for i, x := range e {
		if i > 0 {
			s += "; "
		}
		s += x.Error()
	}
	return s
}

// Orderer is a Connector whose deliveries have an order of their own.
type Orderer interface {
	// Order names what an entry is one of a sequence about, such as a row of a
	// table: entries of equal order are processed in the order in which they
	// were journaled. Empty if the entry does not say.
	Order(e *journal.Entry) string
}
