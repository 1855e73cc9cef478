package envelope

import (
	"encoding/hex"
	"fmt"
)

// Traceparent is a W3C trace context, version 00
// (https://www.w3.org/TR/trace-context/#traceparent-header).
type Traceparent struct {
	// TraceID names the trace and SpanID the caller's span; neither is all zeros.
	TraceID [16]byte
	SpanID  [8]byte
	// Flags as they came; bit 0 means that the caller may have recorded it. What
	// the others mean is not known here; they are passed on.
	Flags byte
}

const traceparentForm = "00-<32 lower-case hex digits>-<16>-<2>"

// ParseTraceparent reads a traceparent strictly as version 00: exactly 55
// characters, lower case, ids that are not all zeros. The specification lets a
// receiver guess at later versions; what is kept in records for years is better
// not guessed.
func ParseTraceparent(s string) (Traceparent, error) {
	var t Traceparent
	if len(s) != 55 {
		return t, fmt.Errorf("traceparent: found %d characters, expected 55: %s", len(s), traceparentForm)
	}
	if s[:3] != "00-" {
		return t, fmt.Errorf("traceparent %q: found version %q, expected %s", s, s[:2], traceparentForm)
	}
	var flags [1]byte
	if s[35] != '-' || s[52] != '-' || !lowerHex(t.TraceID[:], s[3:35]) || !lowerHex(t.SpanID[:], s[36:52]) || !lowerHex(flags[:], s[53:]) {
		return Traceparent{}, fmt.Errorf("traceparent %q: expected %s", s, traceparentForm)
	}
	if t.TraceID == [16]byte{} || t.SpanID == [8]byte{} {
		return Traceparent{}, fmt.Errorf("traceparent %q: found an id of zeros alone, which means none", s)
	}
	t.Flags = flags[0]
	return t, nil
}

// lowerHex decodes lower-case hexadecimal digits, twice as many as dst has bytes.
func lowerHex(dst []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// String writes the header value.
func (t Traceparent) String() string {
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.SpanID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{t.Flags})
	return string(b)
}

// Sampled tells whether the caller may have recorded its span.
func (t Traceparent) Sampled() bool { return t.Flags&1 != 0 }

// Child gives the context of a span below this one in the same trace. The span id
// is handed in: random where a span is recorded, or taken from a hash where the
// same work must have the same span each time it is replayed. An id of zeros alone
// would mean none; it is given its lowest bit.
func (t Traceparent) Child(span [8]byte) Traceparent {
	if span == [8]byte{} {
		span[7] = 1
	}
	t.SpanID = span
	return t
}

// NewTraceparent begins a trace with the given ids, random or taken from a hash;
// ids of zeros alone are given their lowest bit.
func NewTraceparent(trace [16]byte, span [8]byte, sampled bool) Traceparent {
	if trace == [16]byte{} {
		trace[15] = 1
	}
	t := Traceparent{TraceID: trace}.Child(span)
	if sampled {
		t.Flags = 1
	}
	return t
}
