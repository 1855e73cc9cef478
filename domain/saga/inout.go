package saga

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Input is what a saga takes: one of Reply, Fired, Decision, Cancel, Changed,
// Retry, Abandon.
type Input interface{ input() }

// Reply is what became of an attempt.
type Reply struct {
	Step    string
	Undo    bool
	Attempt int32
	// Held: the attempt waits, because its connection is paused. Its time does
	// not run; another reply follows.
	Held bool
	// Output of a success.
	Output []canonical.Named
	// Kind of a failure; empty if it was none.
	Kind   failure.Kind
	Detail string
	// Unbegun: it failed without anything being asked of the back end.
	Unbegun bool
	// Uncertain: the back end may have done it all the same.
	Uncertain bool
	// After is how long the back end wants to be left alone.
	After time.Duration
}

// Fired is a timer that is due.
type Fired struct{ Timer Timer }

// Decision is that of a person about an approval.
type Decision struct {
	Step     string
	Approved bool
	By       string
	Detail   string
}

// Cancel is somebody's wish that the command be not carried out.
type Cancel struct{ By, Detail string }

// Changed tells of a new canonical state of the entity.
type Changed struct{ Entity Entity }

// Retry has what waits for a person tried again.
type Retry struct{ By string }

// Abandon ends what waits for a person, who sees to the rest.
type Abandon struct{ By, Detail string }

func (Reply) input()    {}
func (Fired) input()    {}
func (Decision) input() {}
func (Cancel) input()   {}
func (Changed) input()  {}
func (Retry) input()    {}
func (Abandon) input()  {}

// Effect is what a saga wants done: one of Call, Withdraw, Set, Clear, Refresh,
// Escalate.
type Effect interface{ effect() }

// Call has one attempt of a step made: a call to a back end, an approval or
// another command. A Reply follows, to an approval a Decision.
type Call struct {
	Step    string
	Undo    bool
	Attempt int32
	// Key is the same for all attempts: what has it is done once.
	Key                   string
	Kind                  definition.StepKind
	Connection, Operation string
	Args                  []canonical.Named
	Timeout               time.Duration
	// Last: no attempt follows if this one fails.
	Last bool
	// Uncertain: an earlier attempt may have had its effect, and no person has asked
	// for another since.
	Uncertain bool
	// Escalates: if it fails for good, a person has to look.
	Escalates bool
	// Masked are the names of the arguments that hold personal data.
	Masked []string
	Cause  envelope.Cause
}

// Withdraw takes an approval back that nobody needs any more, or a call that is
// held. The call is answered, as a Conflict if it had not begun.
type Withdraw struct {
	Step    string
	Undo    bool
	Attempt int32
	// Connection of the call; empty for an approval.
	Connection string
}

// Set sets a timer; it replaces one of the same name.
type Set struct {
	Timer Timer
	Due   envelope.Instant
}

// Clear ends a timer. One that is not set is no mistake.
type Clear struct{ Timer Timer }

// Refresh asks for the entity's state in its sources.
type Refresh struct{}

// Escalate has a person look: the saga is stuck, or something could not be
// undone.
type Escalate struct{ Reason Reason }

func (Call) effect()     {}
func (Withdraw) effect() {}
func (Set) effect()      {}
func (Clear) effect()    {}
func (Refresh) effect()  {}
func (Escalate) effect() {}

// Purpose is what a timer is for.
type Purpose string

// The purposes.
const (
	Deadline Purpose = "deadline" // of the saga
	Confirm  Purpose = "confirm"  // the canonical state should have agreed
	Attempt  Purpose = "attempt"  // a reply should have come
	Again    Purpose = "again"    // the next attempt is due
	Recall   Purpose = "recall"   // what is held is to be asked for anew
	Question Purpose = "question" // the entity that a lane asked for should be known
)

// Timer names one of a saga's timers. Step is empty for the saga's own. The
// attempt, for the saga's own the round, tells an old one from that of now.
type Timer struct {
	Purpose Purpose `avro:"purpose" json:"purpose"`
	Step    string  `avro:"step" json:"step,omitempty"`
	Undo    bool    `avro:"undo" json:"undo,omitempty"`
	Attempt int32   `avro:"attempt" json:"attempt"`
}

// String is "<purpose>/<round>" or "<purpose>/<step>/<do or undo>/<attempt>".
func (t Timer) String() string {
	if t.Step == "" {
		return string(t.Purpose) + "/" + strconv.Itoa(int(t.Attempt))
	}
	return string(t.Purpose) + "/" + t.Step + "/" + direction(t.Undo) + "/" + strconv.Itoa(int(t.Attempt))
}

// ParseTimer reads what String writes.
func ParseTimer(s string) (Timer, error) {
	parts := strings.Split(s, "/")
	t := Timer{Purpose: Purpose(parts[0])}
	last := parts[len(parts)-1]
	n, err := strconv.ParseInt(last, 10, 32)
	ok := err == nil && n > 0 && strconv.FormatInt(n, 10) == last
	switch {
	case ok && len(parts) == 2 && (t.Purpose == Deadline || t.Purpose == Confirm || t.Purpose == Question):
		t.Attempt = int32(n)
		return t, nil
	case ok && len(parts) == 4 && (t.Purpose == Attempt || t.Purpose == Again || t.Purpose == Recall) && parts[1] != "" && (parts[2] == "do" || parts[2] == "undo"):
		t.Step, t.Undo, t.Attempt = parts[1], parts[2] == "undo", int32(n)
		return t, nil
	}
	return Timer{}, fmt.Errorf("timer %q: expected deadline, confirm or question with /<round>, or attempt, again or recall with /<step>/<do or undo>/<attempt>", s)
}

func direction(undo bool) string {
	if undo {
		return "undo"
	}
	return "do"
}
