package saga

import (
	"fmt"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Plan is what sagas are pinned to: the definition of a command as it was when
// they began. It is kept for as long as one of them may need it.
type Plan struct {
	Command     string `avro:"command" json:"command"`
	Fingerprint string `avro:"fingerprint" json:"fingerprint"`
	// Text of the command in the domain's definition, YAML.
	Text string `avro:"text" json:"text"`
}

// Ask wants the canonical state of the entity that it is keyed by. A Snapshot
// follows.
type Ask struct {
	At envelope.Instant `avro:"at" json:"at"`
}

// Snapshot is the canonical state of an entity, because it was asked for; of
// version 0 if there is none.
type Snapshot struct {
	Entity Entity `avro:"entity" json:"entity"`
}

// Request has a back end asked for something, or takes that back.
type Request struct {
	Saga    string `avro:"saga" json:"saga"`
	Command string `avro:"command" json:"command"`
	Step    string `avro:"step" json:"step"`
	Undo    bool   `avro:"undo" json:"undo,omitempty"`
	Attempt int32  `avro:"attempt" json:"attempt"`
	// Last: no attempt follows if this one fails.
	Last bool `avro:"last" json:"last,omitempty"`
	// Uncertain: an earlier attempt may have had its effect, and no person has asked
	// for another since.
	Uncertain bool `avro:"uncertain" json:"uncertain,omitempty"`
	// Escalates: if it fails for good, a person has to look.
	Escalates bool `avro:"escalates" json:"escalates,omitempty"`
	// Withdrawn: it is not needed any more; the rest below is empty.
	Withdrawn bool `avro:"withdrawn" json:"withdrawn,omitempty"`
	// Key is the same for all attempts: what has it is done once.
	Key        string              `avro:"key" json:"key,omitempty"`
	Kind       definition.StepKind `avro:"kind" json:"kind,omitempty"`
	Connection string              `avro:"connection" json:"connection,omitempty"`
	Operation  string              `avro:"operation" json:"operation,omitempty"`
	Args       []canonical.Named   `avro:"args" json:"args,omitempty"`
	Timeout    time.Duration       `avro:"timeout" json:"timeout,omitempty"`
	// Masked are the names of the arguments that hold personal data.
	Masked []string       `avro:"masked" json:"masked,omitempty"`
	Cause  envelope.Cause `avro:"cause" json:"cause"`
}

// Answer is what became of a Request.
type Answer struct {
	Saga    string `avro:"saga" json:"saga"`
	Step    string `avro:"step" json:"step"`
	Undo    bool   `avro:"undo" json:"undo,omitempty"`
	Attempt int32  `avro:"attempt" json:"attempt"`
	Held    bool   `avro:"held" json:"held,omitempty"`
	// Unbegun: it failed without anything being asked of the back end.
	Unbegun   bool              `avro:"unbegun" json:"unbegun,omitempty"`
	Output    []canonical.Named `avro:"output" json:"output,omitempty"`
	Kind      failure.Kind      `avro:"kind" json:"kind,omitempty"`
	Detail    string            `avro:"detail" json:"detail,omitempty"`
	Uncertain bool              `avro:"uncertain" json:"uncertain,omitempty"`
	After     time.Duration     `avro:"after" json:"after,omitempty"`
}

// Reply is the answer as an input.
func (a *Answer) Reply() Reply {
	return Reply{Step: a.Step, Undo: a.Undo, Attempt: a.Attempt, Held: a.Held, Unbegun: a.Unbegun, Output: a.Output, Kind: a.Kind, Detail: a.Detail, Uncertain: a.Uncertain, After: a.After}
}

// AnswerTo is what the step that sent a command is told of its end.
func AnswerTo(p *command.Parent, s *Saga) *Answer {
	a := &Answer{Saga: p.Saga, Step: p.Step, Undo: p.Undo, Attempt: p.Attempt, Output: []canonical.Named{
		{Name: "command", Value: canonical.String(s.ID)}, {Name: "status", Value: canonical.String(string(s.Status))},
	}}
	if s.Status == Completed {
		return a
	}
	a.Kind, a.Detail = failure.Conflict, fmt.Sprintf("command %s ended as %s", s.ID, s.Status)
	if s.Reason != nil {
		a.Detail += ": " + s.Reason.Detail
		if s.Status == Failed || s.Status == Rejected {
			a.Kind = s.Reason.Kind // nothing is left of it
		}
	}
	a.Uncertain = s.Status == Unconfirmed || s.Status == Abandoned
	return a
}

// OrderKind is what somebody wants of a command that was sent.
type OrderKind string

// The orders.
const (
	OrderCancel  OrderKind = "cancel"
	OrderRetry   OrderKind = "retry"
	OrderAbandon OrderKind = "abandon"
	OrderApprove OrderKind = "approve"
	OrderRefuse  OrderKind = "refuse"
)

// Order is what a person wants of a command that was sent.
type Order struct {
	Saga string    `avro:"saga" json:"saga"`
	Kind OrderKind `avro:"kind" json:"kind"`
	// Step of an approval.
	Step   string `avro:"step" json:"step,omitempty"`
	By     string `avro:"by" json:"by"`
	Detail string `avro:"detail" json:"detail,omitempty"`
}

// Input is the order as an input; false if there is no such order.
func (o *Order) Input() (Input, bool) {
	switch o.Kind {
	case OrderCancel:
		return Cancel{By: o.By, Detail: o.Detail}, true
	case OrderRetry:
		return Retry{By: o.By}, true
	case OrderAbandon:
		return Abandon{By: o.By, Detail: o.Detail}, true
	case OrderApprove, OrderRefuse:
		return Decision{Step: o.Step, Approved: o.Kind == OrderApprove, By: o.By, Detail: o.Detail}, true
	}
	return nil, false
}

// Report is how far a command is, each time that it is further.
type Report struct {
	// Key of its entity (canonical.EntityKey).
	Key  string           `avro:"key" json:"key"`
	Saga Saga             `avro:"saga" json:"saga"`
	At   envelope.Instant `avro:"at" json:"at"`
	// Escalated: a person has to look, from now on.
	Escalated *Reason `avro:"escalated" json:"escalated,omitempty"`
}
