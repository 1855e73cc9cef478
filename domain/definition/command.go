package definition

import (
	"fmt"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// Command is a business intent on an entity of a resource and the plan that
// carries it out: a saga over back ends.
type Command struct {
	Name string // "SuspendCustomer"
	Doc  string
	// Input in the declared order.
	Input []*Parameter
	// Require is what must hold over entity and input when the command begins;
	// nil if nothing must.
	Require Condition
	// Stages follow each other; the steps of one run side by side.
	Stages [][]*Step
	// Deadline after which steps are no longer begun, from the saga's start.
	Deadline time.Duration
	Confirm  Confirmation
	Conflict Conflict
	// Text is the definition of the command on its own, YAML, and Fingerprint the
	// first 16 hexadecimal digits of its SHA-256: a saga that has begun is carried
	// out by what it began with, whatever becomes of the definition.
	Text, Fingerprint string
	// Derived: nobody wrote it; it follows from the authority of the fields.
	Derived bool
	// Line in the definition file, for messages.
	Line int
}

// Step finds a step by name.
func (c *Command) Step(name string) (*Step, bool) {
	for _, stage := range c.Stages {
		for _, s := range stage {
			if s.Name == name {
				return s, true
			}
		}
	}
	return nil, false
}

// Parameter is one value of a command's input.
type Parameter struct {
	Name     string
	Doc      string
	Type     canonical.Type
	Required bool
	// PII category; empty if the value is not personal data.
	PII string
}

// Conflict says what becomes of a command on an entity that has another one
// under way.
type Conflict string

// The policies for conflicts.
const (
	// Queue waits for its turn; the default.
	Queue Conflict = "queue"
	// Reject refuses the new command.
	Reject Conflict = "reject"
	// Supersede refuses those that wait, cancels the one under way as far as
	// that is still possible, and comes next.
	Supersede Conflict = "supersede"
)

// Conflicts lists every policy in the order of the documentation.
func Conflicts() []Conflict { return []Conflict{Queue, Reject, Supersede} }

// Confirmation says when a command whose steps are done is carried out.
type Confirmation struct {
	// If is a condition over entity, input and steps; nil means that the steps
	// being done is enough.
	If Condition
	// Within so long the canonical state has to agree.
	Within time.Duration
}

// StepKind is what a step does.
type StepKind string

// The kinds of steps.
const (
	Call    StepKind = "call"    // calls an operation of a back end
	Approve StepKind = "approve" // waits for the decision of a person
	Child   StepKind = "command" // sends a command, maybe to another domain
)

// Step is one step of a command's plan.
type Step struct {
	Name string
	Kind StepKind
	// Connection and Operation of a call: "billing" and "subscription.pause".
	// Of a child: the domain and "<resource>.<Command>". Of an approval:
	// Operation is the role that decides.
	Connection, Operation string
	// When the step is needed, over entity, input and steps; nil means always.
	When Condition
	// With are the arguments, over the same variables, sorted by name.
	With []Argument
	// Undo takes the step back; nil if it needs none.
	Undo *Undo
	// NoUndo: the definition says that nothing need be undone.
	NoUndo bool
	// Final is the point of no return: once the step is done nothing is undone.
	// It is alone in its stage.
	Final bool
	// Timeout of one attempt.
	Timeout time.Duration
	Retry   Retry
	Line    int
}

// ChildEntity names the argument of a Child step that says which entity its command
// is about; the others are its input.
const ChildEntity = "@entity"

// Argument is a value that is handed to a back end.
type Argument struct {
	Name string
	Expr Expr
	// Optional: if the expression meets a missing member (ErrMissing), the
	// argument is left out. It is declared by a leading "?" in the YAML.
	Optional bool
	// Masked: it is made of personal data.
	Masked bool
}

// Undo is how a step is taken back. Its arguments see what the step's see, the
// step's output among them, and as args the arguments that the step had.
type Undo struct {
	Operation string
	With      []Argument
	Timeout   time.Duration
	Retry     Retry
}

// Retry says how often a failure that may pass is tried again.
type Retry struct {
	// Attempts in all, at least 1.
	Attempts int
	// First wait; each further one is twice as long, up to Max. A wait is cut
	// short by up to half, by chance.
	First, Max time.Duration
}

// Check finds what a plan cannot mean. The error names the step and tells what
// was expected.
func (c *Command) Check() error {
	names := map[string]bool{}
	final := ""
	for _, stage := range c.Stages {
		for _, s := range stage {
			if names[s.Name] {
				return fmt.Errorf("step %q: the name is taken by another step, expected one of its own", s.Name)
			}
			names[s.Name] = true
			switch s.Kind {
			case Call, Child:
			case Approve:
				if s.Undo != nil {
					return fmt.Errorf("step %q: an approval cannot be undone, expected no undo", s.Name)
				}
				if s.Retry.Attempts > 1 {
					return fmt.Errorf("step %q: %d attempts, expected 1: an approval is asked for once", s.Name, s.Retry.Attempts)
				}
			default:
				return fmt.Errorf("step %q: kind %q, expected %s, %s or %s", s.Name, s.Kind, Call, Approve, Child)
			}
			if s.Retry.Attempts < 1 {
				return fmt.Errorf("step %q: %d attempts, expected at least 1", s.Name, s.Retry.Attempts)
			}
			if s.Timeout <= 0 {
				return fmt.Errorf("step %q: timeout %s, expected a time above zero", s.Name, s.Timeout)
			}
			if u := s.Undo; u != nil && (u.Retry.Attempts < 1 || u.Timeout <= 0) {
				return fmt.Errorf("undo of step %q: %d attempts of %s each, expected at least 1 and a time above zero", s.Name, u.Retry.Attempts, u.Timeout)
			}
			if s.Final && len(stage) > 1 {
				return fmt.Errorf("step %q: the point of no return runs beside others, expected it alone in its stage", s.Name)
			}
			switch {
			case !s.Final:
			case final != "":
				return fmt.Errorf("step %q: there is a second point of no return after step %q, expected one", s.Name, final)
			default:
				final = s.Name
			}
			if s.Undo != nil && final != "" {
				return fmt.Errorf("step %q: it can never be undone after step %q, the point of no return; expected no undo", s.Name, final)
			}
		}
	}
	if c.Deadline <= 0 {
		return fmt.Errorf("deadline %s, expected a time above zero", c.Deadline)
	}
	if c.Confirm.If != nil && c.Confirm.Within <= 0 {
		return fmt.Errorf("confirmation within %s, expected a time above zero", c.Confirm.Within)
	}
	return nil
}
