package codecs

import (
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// The platform records, read in the order of their schemas. A test holds them against
// the schemas, by what other Avro libraries read and write.

func readEntry(r *reader, e *journal.Entry) {
	readWord(r, &e.Source)
	readWord(r, &e.Tenant)
	readLong(r, &e.ReceivedAt)
	readWord(r, &e.ContentType)
	readMap(r, &e.Headers)
	readBytes(r, &e.Key)
	readBytes(r, &e.Body)
	readBool(r, &e.NoBody)
	readWord(r, &e.Signature.Scheme)
	readBool(r, &e.Signature.Verified)
	readWord(r, &e.Signature.Secret)
	readText(r, &e.VendorID)
	readText(r, &e.DedupeKey)
	readText(r, &e.BodyHash)
	readText(r, &e.Quarantine)
	readCause(r, &e.Cause)
}

func readCause(r *reader, v *envelope.Cause) {
	readText(r, &v.Correlation)
	readText(r, &v.Causation)
	readText(r, &v.Traceparent)
}

func readSeen(r *reader, s *journal.Seen) {
	readLong(r, &s.At)
	readLong(r, &s.Offset)
	readText(r, &s.BodyHash)
	readInt(r, &s.Duplicates)
	readInt(r, &s.Conflicts)
	readLong(r, &s.Last)
}

func readOutcome(r *reader, o *journal.Outcome) {
	readText(r, &o.Journal)
	readInt(r, &o.Index)
	readInt(r, &o.Signals)
	readWord(r, &o.Disposition)
	readWord(r, &o.Source)
	readWord(r, &o.Reason)
	readText(r, &o.Detail)
	readText(r, &o.First)
	readWord(r, &o.Tenant)
	readWord(r, &o.Resource)
	readText(r, &o.Entity)
	readLong(r, &o.Version)
	readList(r, &o.Events, readText)
	readText(r, &o.Correlation)
	readLong(r, &o.At)
}

func readSignal(r *reader, s *signal.Signal) {
	readText(r, &s.ID)
	readText(r, &s.Journal)
	readInt(r, &s.Index)
	readInt(r, &s.Signals)
	readWord(r, &s.Tenant)
	readWord(r, &s.Source)
	readText(r, &s.SourceKey)
	readWord(r, &s.Resource)
	readList(r, &s.Match, readText)
	readList(r, &s.Fields, readNamed)
	readBool(r, &s.Deleted)
	readLong(r, &s.OccurredAt)
	readLong(r, &s.Sequence)
	readLong(r, &s.ReceivedAt)
	readWord(r, &s.Mapping)
	readCause(r, &s.Cause)
}

func readNamed(r *reader, n *canonical.Named) {
	readWord(r, &n.Name)
	readText(r, &n.Value)
}

func readFact(r *reader, f *signal.Fact) {
	readText(r, &f.Entity)
	readSignal(r, &f.Signal)
}

func readEntity(r *reader, e *canonical.Entity) {
	readWord(r, &e.Tenant)
	readWord(r, &e.Resource)
	readText(r, &e.ID)
	readLong(r, &e.Version)
	readBool(r, &e.Exists)
	readWord(r, &e.State)
	readLong(r, &e.StateSince)
	readList(r, &e.Fields, readField)
	readList(r, &e.Contributions, readContribution)
	readList(r, &e.Moves, readMove)
	readWord(r, &e.Base)
	readOptional(r, &e.BaseStamp, readStamp)
	readList(r, &e.Rejections, readRejection)
	readLong(r, &e.CreatedAt)
	readLong(r, &e.UpdatedAt)
	readLong(r, &e.SeenAt)
	readWord(r, &e.Definition)
}

func readField(r *reader, f *canonical.Field) {
	readWord(r, &f.Name)
	readText(r, &f.Value)
	readInt(r, &f.Winner)
	readLong(r, &f.Since)
	readDouble(r, &f.Confidence)
}

func readContribution(r *reader, v *canonical.Contribution) {
	readWord(r, &v.Source)
	readText(r, &v.SourceKey)
	readList(r, &v.Stamps, readStamp)
	readList(r, &v.Registers, readRegister)
	readOptional(r, &v.Deleted, readStamp)
}

func readStamp(r *reader, s *canonical.Stamp) {
	readLong(r, &s.OccurredAt)
	readLong(r, &s.Sequence)
	readLong(r, &s.ReceivedAt)
	readText(r, &s.Signal)
}

func readRegister(r *reader, v *canonical.Register) {
	readWord(r, &v.Name)
	readText(r, &v.Value)
	readInt(r, &v.Stamp)
}

func readMove(r *reader, m *canonical.Move) {
	readWord(r, &m.To)
	readWord(r, &m.Source)
	readStamp(r, &m.Stamp)
}

func readRejection(r *reader, v *canonical.Rejection) {
	readWord(r, &v.From)
	readWord(r, &v.To)
	readWord(r, &v.Source)
	readLong(r, &v.At)
	readText(r, &v.Signal)
}

func readChange(r *reader, v *event.Change) {
	readWord(r, &v.Tenant)
	readWord(r, &v.Resource)
	readText(r, &v.ID)
	readLong(r, &v.Version)
	readWord(r, &v.Kind)
	readWord(r, &v.FromState)
	readWord(r, &v.ToState)
	readList(r, &v.Changed, readFieldChange)
	readList(r, &v.After, readNamed)
	readList(r, &v.Events, readRef)
	readText(r, &v.Signal)
	readText(r, &v.Journal)
	readWord(r, &v.Source)
	readLong(r, &v.OccurredAt)
	readLong(r, &v.ReceivedAt)
	readCause(r, &v.Cause)
	readWord(r, &v.Definition)
}

func readFieldChange(r *reader, f *event.FieldChange) {
	readWord(r, &f.Name)
	readText(r, &f.Before)
	readText(r, &f.After)
	readWord(r, &f.Source)
	readText(r, &f.SourceKey)
}

func readRef(r *reader, v *event.Ref) {
	readText(r, &v.ID)
	readWord(r, &v.Type)
}

func readPublished(r *reader, p *event.Published) {
	readLong(r, &p.Version)
}
