// Package run is what is told of commands while they are carried out: how far
// each is, and every call that was made to a back end for it, with its attempts
// and failures. It decides nothing; package saga does.
package run

import (
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

// State of an IntegrationRun. It only ever moves on.
type State string

// The states.
const (
	Pending   State = "Pending"   // asked for, or waiting for its connection or its next attempt
	Running   State = "Running"   // the back end is being asked
	Completed State = "Completed" // it did what it was asked for
	Failed    State = "Failed"    // it did not, and is not asked again
)

// States lists every state in their order.
func States() []State { return []State{Pending, Running, Completed, Failed} }

// Final tells that nothing follows.
func (s State) Final() bool { return s == Completed || s == Failed }

// Action is what happens next after a failure.
type Action string

// The actions.
const (
	Retry      Action = "Retry"      // another attempt follows
	DeadLetter Action = "DeadLetter" // it is given up; the command is taken back or ends
	Escalate   Action = "Escalate"   // it is given up, and a person has to look
)

// Attempt is what became of one attempt at a call, as the executor tells it: once
// when it begins, and once when it ends.
type Attempt struct {
	Saga    string `avro:"saga" json:"saga"`
	Step    string `avro:"step" json:"step"`
	Undo    bool   `avro:"undo" json:"undo,omitempty"`
	Attempt int32  `avro:"attempt" json:"attempt"`
	// Key of the entity (canonical.EntityKey).
	Key        string `avro:"key" json:"key"`
	Connection string `avro:"connection" json:"connection"`
	Operation  string `avro:"operation" json:"operation"`
	// State is Pending if the call waits for its connection, Running when it
	// begins, and Completed or Failed when it ended.
	State State            `avro:"state" json:"state"`
	At    envelope.Instant `avro:"at" json:"at"`
	// Kind and Detail of a failure; secrets and personal data are masked.
	Kind      failure.Kind `avro:"kind" json:"kind,omitempty"`
	Detail    string       `avro:"detail" json:"detail,omitempty"`
	Action    Action       `avro:"action" json:"action,omitempty"`
	Status    int32        `avro:"status" json:"status,omitempty"`
	Uncertain bool         `avro:"uncertain" json:"uncertain,omitempty"`
	// Latency is the time that the back end took.
	Latency time.Duration `avro:"latency" json:"latency,omitempty"`
	// Request is where the request lies, "<topic>/<partition>/<offset>", and
	// Response the journal id of what the back end answered; empty if that was not
	// journaled.
	Request  string `avro:"request" json:"request"`
	Response string `avro:"response" json:"response,omitempty"`
}

// Run is an IntegrationRun: one call to a back end, with all attempts at it.
type Run struct {
	ID   string `avro:"id" json:"id"`
	Step string `avro:"step" json:"step"`
	Undo bool   `avro:"undo" json:"undo,omitempty"`
	// First attempt of it: 1, or more where a person had it tried again.
	First      int32            `avro:"first" json:"first"`
	Connection string           `avro:"connection" json:"connection"`
	Operation  string           `avro:"operation" json:"operation"`
	State      State            `avro:"state" json:"state"`
	Began      envelope.Instant `avro:"began" json:"began"`
	Ended      envelope.Instant `avro:"ended" json:"ended"`
	// Attempts in their order; of many only the first and the last are kept.
	Attempts []Try `avro:"attempts" json:"attempts"`
}

// Try is one attempt of a run.
type Try struct {
	Number    int32            `avro:"number" json:"number"`
	Began     envelope.Instant `avro:"began" json:"began"`
	Ended     envelope.Instant `avro:"ended" json:"ended"`
	Status    int32            `avro:"status" json:"status,omitempty"`
	Latency   time.Duration    `avro:"latency" json:"latency,omitempty"`
	Uncertain bool             `avro:"uncertain" json:"uncertain,omitempty"`
	Request   string           `avro:"request" json:"request"`
	Response  string           `avro:"response" json:"response,omitempty"`
	// Failure of the attempt; nil if it did not fail.
	Failure *Failure `avro:"failure" json:"failure,omitempty"`
}

// Failure is an IntegrationFailure. It is resolved by what ends the matter, and
// by nothing else: the call was done after all, or its command came to an end.
type Failure struct {
	ID       string           `avro:"id" json:"id"`
	Kind     failure.Kind     `avro:"kind" json:"kind"`
	Detail   string           `avro:"detail" json:"detail"`
	Action   Action           `avro:"action" json:"action"`
	At       envelope.Instant `avro:"at" json:"at"`
	Resolved envelope.Instant `avro:"resolved" json:"resolved"`
	// By is what resolved it: the id of the run, or that of the command with the
	// status in which it ended, "cmd-… Failed".
	By string `avro:"by" json:"by,omitempty"`
}

// ID of the run of a step of a command: its command and the step.
func ID(command, step string, undo bool) string {
	id := "run-" + strings.TrimPrefix(command, "cmd-") + "." + step
	if undo {
		id += ".undo"
	}
	return id
}

// FailureID is the id of the failure of an attempt.
func FailureID(command, step string, undo bool, attempt int32) string {
	return "fail-" + strings.TrimPrefix(ID(command, step, undo), "run-") + "." + strconv.Itoa(int(attempt))
}

// Command gives the command that a run or a failure belongs to, by its id.
func Command(id string) (string, bool) {
	rest, ok := strings.CutPrefix(id, "run-")
	if !ok {
		rest, ok = strings.CutPrefix(id, "fail-")
	}
	command, _, found := strings.Cut(rest, ".")
	return "cmd-" + command, ok && found
}

// Moment is one line of a command's timeline.
type Moment struct {
	At     envelope.Instant `avro:"at" json:"at"`
	Status saga.Status      `avro:"status" json:"status"`
	// Text says what happened; empty if the status says it all.
	Text string `avro:"text" json:"text,omitempty"`
}

// Progress is all that is told of one command.
type Progress struct {
	// Report is the last that was heard of it; nil before the first.
	Report *saga.Report `avro:"report" json:"report"`
	// Timeline, the oldest first. The first and the last moments are kept.
	Timeline []Moment `avro:"timeline" json:"timeline"`
	// Runs in the order in which they were first heard of.
	Runs []Run `avro:"runs" json:"runs"`
	// Last is when something was last heard of it.
	Last envelope.Instant `avro:"last" json:"last"`
	// Forget is when all of this is forgotten; zero while the command goes on.
	Forget envelope.Instant `avro:"forget" json:"forget"`
}

// Bounds of what is kept.
const (
	MaxTimeline = 60
	MaxAttempts = 20
)

// Reported takes in how far the command is. It tells whether that is new, and what
// follows from it for those who listen.
func (p *Progress) Reported(r *saga.Report) (events []Activity, changed bool) {
	before := p.Report
	if before != nil && (before.Saga.Revision >= r.Saga.Revision || before.Saga.Status.Final()) {
		return nil, false // it comes again
	}
	p.Report, p.Last = r, max(p.Last, r.At)
	text := Describe(before, r)
	if before == nil || before.Saga.Status != r.Saga.Status || text != "" {
		p.Timeline = bounded(append(p.Timeline, Moment{r.At, r.Saga.Status, text}), MaxTimeline)
	}
	if before == nil || before.Saga.Status != r.Saga.Status {
		events = append(events, p.becomes(r))
	}
	if s := r.Saga.Status; s.Final() {
		events = append(events, p.resolve(func(*Run) bool { return true }, r.Key, r.At, r.Saga.ID+" "+string(s))...)
	}
	return events, true
}

// Describe says what is new in a report besides the status; before is the one
// before it, nil if there was none.
func Describe(before, r *saga.Report) string {
	var parts []string
	was := map[string]saga.Step{}
	if before != nil {
		for _, s := range before.Saga.Steps {
			was[s.Name] = s
		}
	}
	leg := func(name, verb string, old, l saga.Leg) {
		switch {
		case l.Phase == old.Phase && l.Attempt == old.Attempt && l.Held == old.Held:
		case l.Held:
			parts = append(parts, name+" waits for its connection")
		case l.Phase == saga.Asked && l.Attempt > 1:
			parts = append(parts, name+" "+verb+" again, attempt "+strconv.Itoa(int(l.Attempt)))
		case l.Phase == saga.Asked:
			parts = append(parts, name+" "+verb)
		case l.Phase == saga.Done:
			parts = append(parts, name+" "+verb+": done")
		case l.Phase == saga.Waiting:
			parts = append(parts, name+" "+verb+" failed ("+string(l.Kind)+"), is tried again")
		case l.Phase == saga.Broken:
			parts = append(parts, name+" "+verb+" failed for good ("+string(l.Kind)+")")
		}
	}
	for _, s := range r.Saga.Steps {
		leg(s.Name, "asked", was[s.Name].Do, s.Do)
		leg(s.Name, "undo", was[s.Name].Undo, s.Undo)
	}
	if r.Saga.Reason != nil && (before == nil || before.Saga.Reason == nil) {
		parts = append(parts, r.Saga.Reason.Detail)
	}
	if r.Escalated != nil {
		parts = append(parts, "a person has to look: "+r.Escalated.Detail)
	}
	return strings.Join(parts, "; ")
}

// Attempted takes in what became of an attempt. It tells whether that is new, and
// what follows from it for those who listen.
func (p *Progress) Attempted(a *Attempt) (events []Activity, changed bool) {
	r := p.run(a)
	p.Last = max(p.Last, a.At)
	t := r.try(a.Attempt)
	if t == nil || t.Ended != 0 {
		return nil, false // it comes again, or is older than what is kept
	}
	switch a.State {
	case Pending:
		return nil, true
	case Running:
		if t.Began == 0 {
			t.Began, t.Request = a.At, a.Request
		}
		if !r.State.Final() {
			r.State = Running
		}
		return nil, true
	}
	if t.Began == 0 {
		t.Began = a.At
	}
	t.Ended, t.Status, t.Latency, t.Uncertain, t.Request, t.Response = a.At, a.Status, a.Latency, a.Uncertain, a.Request, a.Response
	if a.State == Completed {
		if !r.State.Final() {
			r.State, r.Ended = Completed, a.At
			events = append(events, p.ended(r, a))
		}
		return append(events, p.resolve(func(x *Run) bool { return x.ID == r.ID }, a.Key, a.At, r.ID)...), true
	}
	t.Failure = &Failure{ID: FailureID(a.Saga, a.Step, a.Undo, a.Attempt), Kind: a.Kind, Detail: a.Detail, Action: a.Action, At: a.At}
	events = append(events, p.opened(r, t, a.Key))
	switch {
	case r.State == Completed: // an older attempt was done after all
		t.Failure.Resolved, t.Failure.By = a.At, r.ID
	case p.Report != nil && p.Report.Saga.Status.Final():
		t.Failure.Resolved, t.Failure.By = a.At, p.Report.Saga.ID+" "+string(p.Report.Saga.Status)
	}
	if t.Failure.Resolved != 0 {
		events = append(events, p.resolved(r, t, a.Key))
	}
	if a.Action != Retry && !r.State.Final() {
		r.State, r.Ended = Failed, a.At
		events = append(events, p.ended(r, a))
	}
	return events, true
}

// run finds the run of an attempt, or begins it. What is tried again by a person
// after it had failed is another run.
func (p *Progress) run(a *Attempt) *Run {
	x := Run{ID: ID(a.Saga, a.Step, a.Undo), Step: a.Step, Undo: a.Undo, First: 1, Connection: a.Connection, Operation: a.Operation, State: Pending, Began: a.At}
	var found *Run
	for i := range p.Runs {
		r := &p.Runs[i]
		if r.Step == a.Step && r.Undo == a.Undo && r.First <= max(a.Attempt, 1) && (found == nil || r.First > found.First) {
			found = r
		}
	}
	if found != nil {
		if n := len(found.Attempts); found.State != Failed || n == 0 || found.Attempts[n-1].Number >= a.Attempt {
			return found
		}
		x.First = a.Attempt
		x.ID += "." + strconv.Itoa(int(a.Attempt))
	}
	p.Runs = append(p.Runs, x)
	return &p.Runs[len(p.Runs)-1]
}

// try finds an attempt, or begins it; nil for one that is not kept any more.
func (r *Run) try(number int32) *Try {
	at := len(r.Attempts)
	for i := range r.Attempts {
		if r.Attempts[i].Number == number {
			return &r.Attempts[i]
		}
		if r.Attempts[i].Number > number {
			at = min(at, i)
		}
	}
	if len(r.Attempts) >= MaxAttempts {
		if at < len(r.Attempts) {
			return nil
		}
		r.Attempts = append(r.Attempts[:1], r.Attempts[2:]...)
		at--
	}
	r.Attempts = append(r.Attempts, Try{})
	copy(r.Attempts[at+1:], r.Attempts[at:])
	r.Attempts[at] = Try{Number: number}
	return &r.Attempts[at]
}

// resolve ends what is open of some runs.
func (p *Progress) resolve(of func(*Run) bool, key string, at envelope.Instant, by string) (events []Activity) {
	for i := range p.Runs {
		r := &p.Runs[i]
		if !of(r) {
			continue
		}
		for j := range r.Attempts {
			if f := r.Attempts[j].Failure; f != nil && f.Resolved == 0 {
				f.Resolved, f.By = at, by
				events = append(events, p.resolved(r, &r.Attempts[j], key))
			}
		}
	}
	return events
}

// bounded keeps the first moments and the last.
func bounded(ms []Moment, most int) []Moment {
	if len(ms) <= most {
		return ms
	}
	return append(ms[:most/2:most/2], ms[len(ms)-most/2:]...)
}

// Switch pauses the calls of a connection, or resumes them.
type Switch struct {
	Connection string `avro:"connection" json:"connection"`
	Paused     bool   `avro:"paused" json:"paused"`
	// Rate of calls in a second until those that wait are through; 0 for the
	// connection's own.
	Rate float64          `avro:"rate" json:"rate,omitempty"`
	By   string           `avro:"by" json:"by"`
	At   envelope.Instant `avro:"at" json:"at"`
}
