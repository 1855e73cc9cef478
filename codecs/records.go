package codecs

import (
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
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

func readCommand(r *reader, c *command.Command) {
	readWord(r, &c.Tenant)
	readWord(r, &c.Principal)
	readText(r, &c.IdempotencyKey)
	readWord(r, &c.Name)
	readWord(r, &c.Resource)
	readText(r, &c.Entity)
	readText(r, &c.Input)
	readLong(r, &c.IfVersion)
	readCause(r, &c.Cause)
	readLong(r, &c.At)
	readOptional(r, &c.Parent, readParent)
}

func readParent(r *reader, p *command.Parent) {
	readWord(r, &p.Domain)
	readText(r, &p.Key)
	readText(r, &p.Saga)
	readWord(r, &p.Step)
	readBool(r, &p.Undo)
	readInt(r, &p.Attempt)
}

func readAdmission(r *reader, a *command.Admission) {
	readText(r, &a.Fingerprint)
	readLong(r, &a.At)
	readOptional(r, &a.Refusal, readRefusal)
}

func readRefusal(r *reader, v *command.Refusal) {
	readWord(r, &v.Kind)
	readText(r, &v.Detail)
	readList(r, &v.Violations, readViolation)
}

func readViolation(r *reader, v *command.Violation) {
	readText(r, &v.Pointer)
	readText(r, &v.Found)
	readText(r, &v.Expected)
}

func readIntent(r *reader, i *command.Intent) {
	readText(r, &i.ID)
	readCommand(r, &i.Command)
	readList(r, &i.Values, readNamed)
	readWord(r, &i.Plan)
}

func readPlan(r *reader, p *saga.Plan) {
	readText(r, &p.Command)
	readText(r, &p.Fingerprint)
	readText(r, &p.Text)
}

func readLane(r *reader, l *saga.Lane) {
	readSagaEntity(r, &l.Entity)
	readBool(r, &l.Known)
	readBool(r, &l.Asked)
	readLong(r, &l.Newest)
	readOptional(r, &l.Active, readSaga)
	readList(r, &l.Alarms, readAlarm)
	readList(r, &l.Queue, readQueued)
	readList(r, &l.Past, readText)
	readList(r, &l.Refused, readText)
}

func readSagaEntity(r *reader, e *saga.Entity) {
	readWord(r, &e.Resource)
	readText(r, &e.ID)
	readLong(r, &e.Version)
	readBool(r, &e.Gone)
	readWord(r, &e.State)
	readList(r, &e.Fields, readNamed)
	readList(r, &e.Refs, readSourceKey)
}

func readSourceKey(r *reader, v *saga.Ref) {
	readWord(r, &v.Source)
	readText(r, &v.Key)
}

// readQueued is an element of a list of sagas.
func readQueued(r *reader, s **saga.Saga) {
	*s = new(saga.Saga)
	readSaga(r, *s)
}

func readSaga(r *reader, s *saga.Saga) {
	readText(r, &s.ID)
	readWord(r, &s.Command)
	readList(r, &s.Input, readNamed)
	readWord(r, &s.Plan)
	readText(r, &s.Fingerprint)
	readWord(r, &s.Principal)
	readCause(r, &s.Cause)
	readOptional(r, &s.Parent, readParent)
	readLong(r, &s.IfVersion)
	readWord(r, &s.Status)
	readLong(r, &s.Accepted)
	readLong(r, &s.Began)
	readLong(r, &s.Ended)
	readInt(r, &s.Revision)
	readInt(r, &s.Round)
	readInt(r, &s.Stage)
	readLong(r, &s.Due)
	readLong(r, &s.Left)
	readList(r, &s.Steps, readStep)
	readSagaEntity(r, &s.Entity)
	readBool(r, &s.Stopping)
	readOptional(r, &s.Reason, readReason)
}

func readStep(r *reader, s *saga.Step) {
	readWord(r, &s.Name)
	readBool(r, &s.Approval)
	readLeg(r, &s.Do)
	readLeg(r, &s.Undo)
	readList(r, &s.Output, readNamed)
	readBool(r, &s.Uncertain)
}

func readLeg(r *reader, l *saga.Leg) {
	readWord(r, &l.Phase)
	readInt(r, &l.Attempt)
	readInt(r, &l.Spared)
	readBool(r, &l.Held)
	readBool(r, &l.Recalled)
	readList(r, &l.Args, readNamed)
	readWord(r, &l.Kind)
	readText(r, &l.Detail)
	readBool(r, &l.Uncertain)
}

func readReason(r *reader, v *saga.Reason) {
	readWord(r, &v.Step)
	readWord(r, &v.Kind)
	readText(r, &v.Detail)
	readBool(r, &v.Wished)
}

func readAlarm(r *reader, a *saga.Alarm) {
	readWord(r, &a.Timer.Purpose)
	readWord(r, &a.Timer.Step)
	readBool(r, &a.Timer.Undo)
	readInt(r, &a.Timer.Attempt)
	readLong(r, &a.Due)
}

func readAsk(r *reader, a *saga.Ask) { readLong(r, &a.At) }

func readSnapshot(r *reader, s *saga.Snapshot) { readSagaEntity(r, &s.Entity) }

func readRequest(r *reader, v *saga.Request) {
	readText(r, &v.Saga)
	readWord(r, &v.Command)
	readWord(r, &v.Step)
	readBool(r, &v.Undo)
	readInt(r, &v.Attempt)
	readBool(r, &v.Last)
	readBool(r, &v.Uncertain)
	readBool(r, &v.Escalates)
	readBool(r, &v.Withdrawn)
	readText(r, &v.Key)
	readWord(r, &v.Kind)
	readWord(r, &v.Connection)
	readWord(r, &v.Operation)
	readList(r, &v.Args, readNamed)
	readLong(r, &v.Timeout)
	readList(r, &v.Masked, readWord)
	readCause(r, &v.Cause)
}

func readAnswer(r *reader, a *saga.Answer) {
	readText(r, &a.Saga)
	readWord(r, &a.Step)
	readBool(r, &a.Undo)
	readInt(r, &a.Attempt)
	readBool(r, &a.Held)
	readBool(r, &a.Unbegun)
	readList(r, &a.Output, readNamed)
	readWord(r, &a.Kind)
	readText(r, &a.Detail)
	readBool(r, &a.Uncertain)
	readLong(r, &a.After)
}

func readOrder(r *reader, o *saga.Order) {
	readText(r, &o.Saga)
	readWord(r, &o.Kind)
	readWord(r, &o.Step)
	readText(r, &o.By)
	readText(r, &o.Detail)
}

func readReport(r *reader, v *saga.Report) {
	readText(r, &v.Key)
	readSaga(r, &v.Saga)
	readLong(r, &v.At)
	readOptional(r, &v.Escalated, readReason)
}

func readAttempt(r *reader, a *run.Attempt) {
	readText(r, &a.Saga)
	readWord(r, &a.Step)
	readBool(r, &a.Undo)
	readInt(r, &a.Attempt)
	readText(r, &a.Key)
	readWord(r, &a.Connection)
	readWord(r, &a.Operation)
	readWord(r, &a.State)
	readLong(r, &a.At)
	readWord(r, &a.Kind)
	readText(r, &a.Detail)
	readWord(r, &a.Action)
	readInt(r, &a.Status)
	readBool(r, &a.Uncertain)
	readLong(r, &a.Latency)
	readText(r, &a.Request)
	readText(r, &a.Response)
}

func readProgress(r *reader, p *run.Progress) {
	readOptional(r, &p.Report, readReport)
	readList(r, &p.Timeline, readMoment)
	readList(r, &p.Runs, readRun)
	readLong(r, &p.Last)
	readLong(r, &p.Forget)
}

func readActivity(r *reader, e *run.Activity) {
	readText(r, &e.ID)
	readWord(r, &e.Type)
	readLong(r, &e.At)
	readText(r, &e.Command)
	readWord(r, &e.Name)
	readText(r, &e.Key)
	readWord(r, &e.Status)
	readText(r, &e.Run)
	readWord(r, &e.Step)
	readBool(r, &e.Undo)
	readWord(r, &e.Connection)
	readWord(r, &e.Operation)
	readInt(r, &e.Attempt)
	readText(r, &e.Failure)
	readText(r, &e.By)
	readWord(r, &e.Kind)
	readText(r, &e.Detail)
	readWord(r, &e.Action)
	readBool(r, &e.Attention)
	readCause(r, &e.Cause)
}

func readMoment(r *reader, m *run.Moment) {
	readLong(r, &m.At)
	readWord(r, &m.Status)
	readText(r, &m.Text)
}

func readRun(r *reader, v *run.Run) {
	readText(r, &v.ID)
	readWord(r, &v.Step)
	readBool(r, &v.Undo)
	readInt(r, &v.First)
	readWord(r, &v.Connection)
	readWord(r, &v.Operation)
	readWord(r, &v.State)
	readLong(r, &v.Began)
	readLong(r, &v.Ended)
	readList(r, &v.Attempts, readTry)
}

func readTry(r *reader, t *run.Try) {
	readInt(r, &t.Number)
	readLong(r, &t.Began)
	readLong(r, &t.Ended)
	readInt(r, &t.Status)
	readLong(r, &t.Latency)
	readBool(r, &t.Uncertain)
	readText(r, &t.Request)
	readText(r, &t.Response)
	readOptional(r, &t.Failure, readFailure)
}

func readFailure(r *reader, f *run.Failure) {
	readText(r, &f.ID)
	readWord(r, &f.Kind)
	readText(r, &f.Detail)
	readWord(r, &f.Action)
	readLong(r, &f.At)
	readLong(r, &f.Resolved)
	readText(r, &f.By)
}

func readSwitch(r *reader, s *run.Switch) {
	readWord(r, &s.Connection)
	readBool(r, &s.Paused)
	readDouble(r, &s.Rate)
	readText(r, &s.By)
	readLong(r, &s.At)
}
