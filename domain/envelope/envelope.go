// Package envelope holds what every record carries besides its business
// content: when, for whom, and because of what. It knows nothing of Kafka; the
// header names are those that records bear there.
package envelope

import (
	"fmt"
	"time"
)

// Instant is a point in time in microseconds since 1970-01-01T00:00:00Z. Zero
// means "not known". It is an integer so that records are compact, comparable
// and independent of a time zone.
type Instant int64

// At gives the instant of t, to the microsecond; the zero time gives zero.
func At(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	return Instant(t.UnixMicro())
}

// Time gives the instant as a UTC time; zero gives the zero time.
func (i Instant) Time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(i)).UTC()
}

// String is RFC 3339 with as many fractional digits as are needed; "" if unknown.
func (i Instant) String() string {
	if i == 0 {
		return ""
	}
	return i.Time().Format(time.RFC3339Nano)
}

// MarshalJSON writes the instant as an RFC 3339 string, or null if unknown.
func (i Instant) MarshalJSON() ([]byte, error) {
	if i == 0 {
		return []byte("null"), nil
	}
	return []byte(`"` + i.String() + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (i *Instant) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*i = 0
		return nil
	}
	if len(b) < 2 || b[0] != '"' {
		return fmt.Errorf("instant: expected an RFC 3339 string, found %s", b)
	}
	t, err := time.Parse(time.RFC3339Nano, string(b[1:len(b)-1]))
	if err != nil {
		return fmt.Errorf("instant: expected an RFC 3339 string, found %s", b)
	}
	*i = At(t)
	return nil
}

// DefaultTenant owns whatever arrives without saying for whom.
const DefaultTenant = "default"

// Cause says why a record exists. It is carried unchanged from the journal
// entry through every station to the public event.
type Cause struct {
	// Correlation groups everything that belongs to one business interaction.
	Correlation string `avro:"correlation" json:"correlation,omitempty"`
	// Causation is the id of the record that directly caused this one.
	Causation string `avro:"causation" json:"causation,omitempty"`
	// Traceparent is the W3C trace context, version 00, lower case.
	Traceparent string `avro:"traceparent" json:"traceparent,omitempty"`
}

// Names of the Kafka headers that carry an envelope.
const (
	HeaderCorrelation = "correlationid" // CloudEvents extension "correlation"
	HeaderCausation   = "causationid"
	HeaderTraceparent = "traceparent" // W3C Trace Context
	HeaderTenant      = "tenant"
)
