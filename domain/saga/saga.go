// Package saga is the state machine that carries a command out over back ends:
// state and input give the next state and effects. It does no I/O and reads no
// clock; who calls performs the effects, and hands in what comes of them.
//
// A saga goes through the stages of its plan. The steps of a stage run side by
// side; when all are done the next stage begins. A step that fails for good ends
// that: what may have had an effect is undone, last stage first, unless the plan's
// point of no return is behind; then a person has to look. After the last stage
// the saga waits until the canonical state says that the command is carried out.
//
// Inputs may come twice, late and in any order, since they come from a log, from
// timers and from back ends. Each is told by what it answers: step, direction and
// attempt. Only the first answer to an attempt counts, and a success counts even
// if its attempt has been given up, as all attempts of a step carry the same key.
//
// The form is that of Garcia-Molina and Salem, Sagas (SIGMOD 1987), with backward
// recovery up to the point of no return and forward recovery after it.
package saga

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Status of a saga.
type Status string

// The statuses. Those from Completed on are final.
const (
	Queued       Status = "Queued"       // others on its entity come first
	Running      Status = "Running"      // its steps are carried out
	Confirming   Status = "Confirming"   // its steps are done, the canonical state does not say so yet
	Refreshing   Status = "Refreshing"   // nor did it in time: its sources are asked
	Compensating Status = "Compensating" // what it did is undone
	// CompensationFailed and Stuck wait for a person: something could not be
	// undone, or not be done after the point of no return.
	CompensationFailed Status = "CompensationFailed"
	Stuck              Status = "Stuck"
	Completed          Status = "Completed"
	Unconfirmed        Status = "Unconfirmed" // its steps are done, but the canonical state does not say so
	Failed             Status = "Failed"      // nothing is left of what it did
	Cancelled          Status = "Cancelled"   // the same, because somebody wished it
	Abandoned          Status = "Abandoned"   // somebody took over what it could not do or undo
	Rejected           Status = "Rejected"    // it was not begun
)

// Statuses lists every status in the order of the documentation.
func Statuses() []Status {
	return []Status{Queued, Running, Confirming, Refreshing, Compensating, CompensationFailed, Stuck, Completed, Unconfirmed, Failed, Cancelled, Abandoned, Rejected}
}

// Final tells that nothing follows.
func (s Status) Final() bool {
	switch s {
	case Completed, Unconfirmed, Failed, Cancelled, Abandoned, Rejected:
		return true
	}
	return false
}

// Phase is how far one direction of a step is.
type Phase string

// The phases. Done, Skipped and Broken settle the step.
const (
	Idle    Phase = "Idle"    // not begun
	Asked   Phase = "Asked"   // an attempt is under way
	Waiting Phase = "Waiting" // for the next attempt
	Done    Phase = "Done"
	Skipped Phase = "Skipped" // its condition did not hold, or there was nothing to undo
	Broken  Phase = "Broken"  // failed for good
)

// Phases lists every phase in the order of the documentation.
func Phases() []Phase { return []Phase{Idle, Asked, Waiting, Done, Skipped, Broken} }

func (p Phase) settled() bool { return p == Done || p == Skipped || p == Broken }

// Leg is one direction of a step: doing it or undoing it.
type Leg struct {
	Phase Phase `avro:"phase" json:"phase"`
	// Attempt is the number of the last one, from 1.
	Attempt int32 `avro:"attempt" json:"attempt,omitempty"`
	// Spared are the attempts that do not count: they were held, and never begun.
	Spared int32 `avro:"spared" json:"spared,omitempty"`
	// Held: the attempt waits, because its connection is paused.
	Held bool `avro:"held" json:"held,omitempty"`
	// Recalled: it waited so long that it is taken back, to be asked for anew.
	Recalled bool `avro:"recalled" json:"recalled,omitempty"`
	// Args of every attempt, as they were found for the first.
	Args []canonical.Named `avro:"args" json:"args,omitempty"`
	// Kind and Detail of the last failure.
	Kind   failure.Kind `avro:"kind" json:"kind,omitempty"`
	Detail string       `avro:"detail" json:"detail,omitempty"`
	// Uncertain: an attempt may have had its effect, of those since a person last
	// asked for one.
	Uncertain bool `avro:"uncertain" json:"uncertain,omitempty"`
}

// Step is a step of a saga.
type Step struct {
	Name string `avro:"name" json:"name"`
	// Approval: a person decides about it.
	Approval bool              `avro:"approval" json:"approval,omitempty"`
	Do       Leg               `avro:"do" json:"do"`
	Undo     Leg               `avro:"undo" json:"undo"`
	Output   []canonical.Named `avro:"output" json:"output,omitempty"`
	// Uncertain: an attempt ended without telling whether it had its effect.
	Uncertain bool `avro:"uncertain" json:"uncertain,omitempty"`
}

// Entity is what a saga knows of the entity that its command is about.
type Entity struct {
	Resource string `avro:"resource" json:"resource"`
	ID       string `avro:"id" json:"id"`
	// Version is 0 if there never was one.
	Version int64 `avro:"version" json:"version"`
	// Gone: no source has it any more.
	Gone  bool   `avro:"gone" json:"gone,omitempty"`
	State string `avro:"state" json:"state,omitempty"`
	// Fields by name; Refs are the keys of its records, by source.
	Fields []canonical.Named `avro:"fields" json:"fields,omitempty"`
	Refs   []Ref             `avro:"refs" json:"refs,omitempty"`
}

// EntityOf gives what a saga has to know of an entity; e is nil if there is none.
func EntityOf(key canonical.EntityKey, e *canonical.Entity) Entity {
	out := Entity{Resource: key.Resource, ID: key.ID}
	if e == nil {
		return out
	}
	out.Version, out.Gone, out.State = e.Version, !e.Exists, e.State
	for _, f := range e.Fields {
		out.Fields = append(out.Fields, canonical.Named{Name: f.Name, Value: f.Value})
	}
	for i := range e.Contributions {
		c := &e.Contributions[i]
		// Of several records of one source the last one counts, as it does for
		// an expression that reads refs.
		if c.Live() {
			out.Refs = append(out.Refs, Ref{Source: c.Source, Key: c.SourceKey})
		}
	}
	return out
}

// Ref is the key of a source's record of an entity.
type Ref struct {
	Source string `avro:"source" json:"source"`
	Key    string `avro:"key" json:"key"`
}

// Saga is all that has to be kept of one.
type Saga struct {
	// ID is that of the command.
	ID      string            `avro:"id" json:"id"`
	Command string            `avro:"command" json:"command"`
	Input   []canonical.Named `avro:"input" json:"input,omitempty"`
	// Plan is the fingerprint of the definition that it is carried out by.
	Plan string `avro:"plan" json:"plan"`
	// Fingerprint of the command as it was sent.
	Fingerprint string `avro:"fingerprint" json:"fingerprint"`
	// Principal who sent it, and what caused it.
	Principal string         `avro:"principal" json:"principal"`
	Cause     envelope.Cause `avro:"cause" json:"cause"`
	// Parent is the step of a command that sent this one; nil if none did.
	Parent *command.Parent `avro:"parent" json:"parent,omitempty"`
	// IfVersion is the version that the entity must have when it begins; 0 if any
	// will do.
	IfVersion int64            `avro:"ifVersion" json:"ifVersion,omitempty"`
	Status    Status           `avro:"status" json:"status"`
	Accepted  envelope.Instant `avro:"accepted" json:"accepted"`
	Began     envelope.Instant `avro:"began" json:"began"`
	Ended     envelope.Instant `avro:"ended" json:"ended"`
	// Revision grows with each report: times do not tell which of two is later,
	// since they are those of what was reacted to.
	Revision int32 `avro:"revision" json:"revision"`
	// Round is 1 at first, and one more each time that somebody has it try again
	// or that it asks the sources: it tells old timers of the saga from that of
	// now.
	Round int32 `avro:"round" json:"round"`
	// Stage under way.
	Stage int32 `avro:"stage" json:"stage"`
	// Due is when the time for the steps is over, 0 while it does not run; Left is
	// what is left of it then.
	Due    envelope.Instant `avro:"due" json:"due,omitempty"`
	Left   time.Duration    `avro:"left" json:"left,omitempty"`
	Steps  []Step           `avro:"steps" json:"steps"`
	Entity Entity           `avro:"entity" json:"entity"`
	// Stopping: no step is begun any more; what is under way is waited for.
	Stopping bool `avro:"stopping" json:"stopping,omitempty"`
	// Reason is why it did not go as planned; nil if it did so far.
	Reason *Reason `avro:"reason" json:"reason,omitempty"`
}

// Reason is why a saga did not go as planned.
type Reason struct {
	// Step is empty if it is the whole saga's.
	Step   string       `avro:"step" json:"step,omitempty"`
	Kind   failure.Kind `avro:"kind" json:"kind"`
	Detail string       `avro:"detail" json:"detail"`
	// Wished: somebody asked for it.
	Wished bool `avro:"wished" json:"wished,omitempty"`
}

// Key is the idempotency key of a step in one direction: all attempts share it.
func (s *Saga) Key(step string, undo bool) string {
	if undo {
		return s.ID + "/" + step + "/undo"
	}
	return s.ID + "/" + step + "/do"
}

// progress is a hash of how far the saga is, without what it knows of its
// entity.
func (s *Saga) progress() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, s.Status, s.Round, s.Stage, s.Stopping, s.Reason != nil)
	for i := range s.Steps {
		x := &s.Steps[i]
		fmt.Fprint(h, x.Do.Phase, x.Do.Attempt, x.Do.Held, x.Undo.Phase, x.Undo.Attempt, x.Undo.Held, x.Uncertain)
	}
	return h.Sum64()
}
