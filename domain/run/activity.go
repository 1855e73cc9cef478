package run

import (
	"strconv"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

// ActivityType says what an Activity is about and what happened to it. That of a command
// is "Command" and the status that it came to, such as CommandCompleted.
type ActivityType string

// The types that are not about the command as a whole.
const (
	RunCompleted    ActivityType = "IntegrationRunCompleted"
	RunFailed       ActivityType = "IntegrationRunFailed"
	FailureOpened   ActivityType = "IntegrationFailureOpened"
	FailureResolved ActivityType = "IntegrationFailureResolved"
)

// Activity tells whoever listens that a command came to another status, that a call
// to a back end ended, or that a failure was opened or resolved. Each happens once
// and is told once.
type Activity struct {
	// ID is unique: what it is about with, for a command, its revision.
	ID   string           `avro:"id" json:"id"`
	Type ActivityType     `avro:"type" json:"type"`
	At   envelope.Instant `avro:"at" json:"at"`
	// Command that it belongs to, with its name, entity (canonical.EntityKey) and
	// status; name and status are empty as long as only its calls were heard of.
	Command string      `avro:"command" json:"command"`
	Name    string      `avro:"name" json:"name,omitempty"`
	Key     string      `avro:"key" json:"key"`
	Status  saga.Status `avro:"status" json:"status,omitempty"`
	// Run and the rest up to Attempt are those of a call or a failure.
	Run        string `avro:"run" json:"run,omitempty"`
	Step       string `avro:"step" json:"step,omitempty"`
	Undo       bool   `avro:"undo" json:"undo,omitempty"`
	Connection string `avro:"connection" json:"connection,omitempty"`
	Operation  string `avro:"operation" json:"operation,omitempty"`
	Attempt    int32  `avro:"attempt" json:"attempt,omitempty"`
	// Failure is the id of one, and By what resolved it.
	Failure string `avro:"failure" json:"failure,omitempty"`
	By      string `avro:"by" json:"by,omitempty"`
	// Kind, Detail and Action of a failure, or why a command did not go as planned.
	Kind   failure.Kind `avro:"kind" json:"kind,omitempty"`
	Detail string       `avro:"detail" json:"detail,omitempty"`
	Action Action       `avro:"action" json:"action,omitempty"`
	// Attention: a person has to look.
	Attention bool `avro:"attention" json:"attention,omitempty"`
	// Cause of the command.
	Cause envelope.Cause `avro:"cause" json:"cause"`
}

// activity begins one of the command.
func (p *Progress) activity(id string, what ActivityType, at envelope.Instant) Activity {
	e := Activity{ID: id, Type: what, At: at}
	if r := p.Report; r != nil {
		e.Command, e.Name, e.Key, e.Status, e.Cause = r.Saga.ID, r.Saga.Command, r.Key, r.Saga.Status, r.Saga.Cause
	}
	return e
}

// becomes tells that the command has come to another status.
func (p *Progress) becomes(r *saga.Report) Activity {
	e := p.activity(r.Saga.ID+"/"+strconv.Itoa(int(r.Saga.Revision)), ActivityType("Command"+string(r.Saga.Status)), r.At)
	why := r.Saga.Reason
	if r.Escalated != nil {
		why, e.Attention = r.Escalated, true
	}
	if why != nil {
		e.Step, e.Kind, e.Detail = why.Step, why.Kind, why.Detail
	}
	return e
}

// of makes an activity one of a run.
func (e Activity) of(r *Run, key string, attempt int32) Activity {
	if command, ok := Command(r.ID); ok {
		e.Command = command
	}
	if key != "" {
		e.Key = key
	}
	e.Run, e.Step, e.Undo, e.Connection, e.Operation, e.Attempt = r.ID, r.Step, r.Undo, r.Connection, r.Operation, attempt
	return e
}

// ended tells that a run has ended.
func (p *Progress) ended(r *Run, a *Attempt) Activity {
	e := p.activity(r.ID+"/"+string(r.State), RunCompleted, a.At).of(r, a.Key, a.Attempt)
	if r.State == Failed {
		e.Type, e.Kind, e.Detail, e.Action = RunFailed, a.Kind, a.Detail, a.Action
	}
	return e
}

// opened tells of the failure of an attempt.
func (p *Progress) opened(r *Run, t *Try, key string) Activity {
	f := t.Failure
	e := p.activity(f.ID+"/opened", FailureOpened, f.At).of(r, key, t.Number)
	e.Failure, e.Kind, e.Detail, e.Action, e.Attention = f.ID, f.Kind, f.Detail, f.Action, f.Action == Escalate
	return e
}

// resolved tells that the failure of an attempt is resolved.
func (p *Progress) resolved(r *Run, t *Try, key string) Activity {
	f := t.Failure
	e := p.activity(f.ID+"/resolved", FailureResolved, f.Resolved).of(r, key, t.Number)
	e.Failure, e.By, e.Kind, e.Detail, e.Action = f.ID, f.By, f.Kind, f.Detail, f.Action
	return e
}
