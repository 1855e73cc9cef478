// Package journal is the door: one entry per raw delivery, exactly as it was
// received, with what identifies it as new or as a duplicate. It does not
// interpret the body; connectors do.
package journal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Entry is one raw delivery as received.
type Entry struct {
	// Source is the declared source that sent it.
	Source string `avro:"source"`
	// Tenant it was received for.
	Tenant string `avro:"tenant"`
	// ReceivedAt is when the door took it, strictly increasing within one
	// receiving process.
	ReceivedAt envelope.Instant `avro:"receivedAt"`
	// ContentType as the sender declared it; may be empty.
	ContentType string `avro:"contentType"`
	// Headers that the connector needs to interpret the body, lower-case
	// names. Never credentials or signatures.
	Headers map[string]string `avro:"headers"`
	// Key is the record key of a Kafka source, raw; nil elsewhere. Debezium
	// puts the primary key here.
	Key []byte `avro:"key"`
	// Body is the delivery, byte for byte. A nil body is a Kafka tombstone.
	Body []byte `avro:"body"`
	// NoBody tells a tombstone from an empty body.
	NoBody bool `avro:"noBody"`
	// Signature is what verification found.
	Signature Signature `avro:"signature"`
	// VendorID is the sender's own event id; empty if it has none.
	VendorID string `avro:"vendorId"`
	// DedupeKey identifies the delivery; see Identify. It is also the record
	// key. The partition is chosen by what the source orders by, and by the
	// dedupe key where it orders by nothing.
	DedupeKey string `avro:"dedupeKey"`
	// BodyHash is the lower-case hexadecimal SHA-256 of the content that
	// duplicates share; see Identify.
	BodyHash string `avro:"bodyHash"`
	// Quarantine is why the connector refused the delivery at the door
	// although it was kept: such an entry becomes a dead letter. Empty if fine.
	Quarantine string `avro:"quarantine"`
	// Cause is carried to everything that follows from this entry.
	Cause envelope.Cause `avro:"cause"`
}

// Signature is the outcome of verifying a delivery's signature.
type Signature struct {
	// Scheme is the verifier that ran ("github", "hmac"), empty if none is declared.
	Scheme string `avro:"scheme" json:"scheme,omitempty"`
	// Verified is true when a declared secret matched.
	Verified bool `avro:"verified" json:"verified"`
	// Secret names which of the live secrets matched, never the secret itself.
	Secret string `avro:"secret" json:"secret,omitempty"`
}

// ID names an entry by its position in the journal: "<domain>:<partition>:<offset>".
// A position is stable for as long as the journal is kept.
type ID struct {
	Domain    string
	Partition int32
	Offset    int64
}

// String is the spelling used in the API, in provenance and in records.
func (id ID) String() string {
	return id.Domain + ":" + strconv.Itoa(int(id.Partition)) + ":" + strconv.FormatInt(id.Offset, 10)
}

// ParseID reads what String writes.
func ParseID(s string) (ID, error) {
	parts := strings.Split(s, ":")
	if len(parts) == 3 && parts[0] != "" {
		p, perr := strconv.ParseInt(parts[1], 10, 32)
		o, oerr := strconv.ParseInt(parts[2], 10, 64)
		if perr == nil && oerr == nil && p >= 0 && o >= 0 {
			return ID{Domain: parts[0], Partition: int32(p), Offset: o}, nil
		}
	}
	return ID{}, fmt.Errorf("journal id %q: expected <domain>:<partition>:<offset>, such as customer-management:2:1041", s)
}

// Disposition is what became of a journal entry, or of one of its signals.
type Disposition string

// The dispositions. Every acknowledged entry reaches one of those that are final.
const (
	// Accepted entries were normalised; their signals are on the way.
	Accepted Disposition = "accepted"
	// Changed: canonical state changed.
	Changed Disposition = "change"
	// Unchanged: merged, but canonical state is what it was.
	Unchanged Disposition = "no-change"
	// Duplicate of an entry that was taken in before.
	Duplicate Disposition = "duplicate"
	// Conflicting: the same vendor event id as an earlier entry, but another body.
	Conflicting Disposition = "conflict"
	// Ignored: no mapping rule of the source applies to it.
	Ignored Disposition = "ignored"
	// DeadLetter: it failed and waits in the dead-letter topic.
	DeadLetter Disposition = "dead-letter"
)

// Final tells whether nothing further will happen to it.
func (d Disposition) Final() bool { return d != Accepted && d != "" }

// Outcome tells what became of a journal entry (Index -1) or of one of its
// signals (Index from 0).
type Outcome struct {
	Journal     string           `avro:"journal" json:"journal"`
	Index       int32            `avro:"index" json:"index"`
	Signals     int32            `avro:"signals" json:"signals"`
	Disposition Disposition      `avro:"disposition" json:"disposition"`
	Source      string           `avro:"source" json:"source"`
	Reason      string           `avro:"reason" json:"reason,omitempty"`
	Detail      string           `avro:"detail" json:"detail,omitempty"`
	First       string           `avro:"first" json:"first,omitempty"`
	Tenant      string           `avro:"tenant" json:"tenant"`
	Resource    string           `avro:"resource" json:"resource,omitempty"`
	Entity      string           `avro:"entity" json:"entity,omitempty"`
	Version     int64            `avro:"version" json:"version,omitempty"`
	Events      []string         `avro:"events" json:"events,omitempty"`
	Correlation string           `avro:"correlation" json:"correlation,omitempty"`
	At          envelope.Instant `avro:"at" json:"at"`
}

// Verdict gives the disposition as a word.
func (o *Outcome) Verdict() string { return string(o.Disposition) }

// Key is the record key of the outcome: the journal id, and for one signal
// "#" and its index. An entry with exactly one signal uses the bare journal
// id for that signal, so that the common case is one record.
func (o *Outcome) Key() string { return OutcomeKey(o.Journal, o.Index) }

// OutcomeKey gives the key of the outcome of signal index, or of the entry
// itself when index is negative.
func OutcomeKey(journalID string, index int32) string {
	if index < 0 {
		return journalID
	}
	return journalID + "#" + strconv.Itoa(int(index))
}

// Seen is the dedupe table's memory of one dedupe key.
type Seen struct {
	// At is when the first copy was received; the memory expires by it.
	At envelope.Instant `avro:"at"`
	// Offset of the first copy in its journal partition.
	Offset int64 `avro:"offset"`
	// BodyHash of the first copy.
	BodyHash string `avro:"bodyHash"`
	// Duplicates counts further copies, Conflicts those with another body.
	Duplicates int32 `avro:"duplicates"`
	Conflicts  int32 `avro:"conflicts"`
	// Last is the highest offset that was counted, so that reading the
	// journal again does not count again.
	Last int64 `avro:"last"`
}
