package command

import (
	"fmt"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Admission is what is remembered of a command that came through the door, by
// its id: the same command again gets the same answer.
type Admission struct {
	Fingerprint string           `avro:"fingerprint" json:"fingerprint"`
	At          envelope.Instant `avro:"at" json:"at"`
	// Refusal is why it is not carried out; nil if it is.
	Refusal *Refusal `avro:"refusal" json:"refusal,omitempty"`
}

// Refusal is why a command was refused.
type Refusal struct {
	Kind   failure.Kind `avro:"kind" json:"kind"`
	Detail string       `avro:"detail" json:"detail"`
	// Violations of the declared input; none if it is another reason.
	Violations []Violation `avro:"violations" json:"violations,omitempty"`
}

// Intent is a command that is to be carried out.
type Intent struct {
	ID      string  `avro:"id" json:"id"`
	Command Command `avro:"command" json:"command"`
	// Values of its input, by the declared parameters.
	Values []canonical.Named `avro:"values" json:"values"`
	// Plan is the fingerprint of the plan that it was admitted under, and is
	// carried out by.
	Plan string `avro:"plan" json:"plan"`
}

// Admit decides by the definitions of a domain whether a command that is new is
// carried out. It is one or the other: an intent, or a refusal.
func Admit(d *definition.Domain, c *Command) (*Intent, *Refusal) {
	r, ok := d.Resource(c.Resource)
	if !ok {
		return nil, &Refusal{Kind: failure.NotFound, Detail: fmt.Sprintf("there is no resource %q in %s, expected one of %s", c.Resource, d.Name, resources(d))}
	}
	plan, ok := r.Command(c.Name)
	if !ok {
		return nil, &Refusal{Kind: failure.NotFound, Detail: fmt.Sprintf("there is no command %q of %s, expected one of %s", c.Name, c.Resource, commands(r))}
	}
	values, violations := Input(plan.Input, c.Input)
	if len(violations) > 0 {
		return nil, &Refusal{Kind: failure.Validation, Detail: "the input is not as declared", Violations: violations}
	}
	return &Intent{ID: c.ID(), Command: *c, Values: values, Plan: plan.Fingerprint}, nil
}

// Again tells what becomes of a command that has the id of one that was
// admitted: nothing if it is the same, and else the failure of who used its key
// twice.
func (a *Admission) Again(c *Command) error {
	if a.Fingerprint == c.Fingerprint() {
		return nil
	}
	return failure.New(failure.Conflict, "command", c.ID(), "its idempotency key %q was used at %s for another entity, input or version, expected a key of its own", c.IdempotencyKey, a.At)
}

func resources(d *definition.Domain) string {
	var out []string
	for _, r := range d.Resources {
		out = append(out, r.Name)
	}
	return orNone(out)
}

func commands(r *definition.Resource) string {
	var out []string
	for _, c := range r.Commands {
		out = append(out, c.Name)
	}
	return orNone(out)
}

// String is the refusal in words, each violation in a line of its own.
func (r *Refusal) String() string {
	lines := []string{r.Detail}
	for _, v := range r.Violations {
		lines = append(lines, v.String())
	}
	return strings.Join(lines, "\n")
}
