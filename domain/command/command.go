// Package command is a business intent as its sender wants it: what makes two of
// them the same, and what its input must be like. What becomes of it is decided
// in package saga.
package command

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// Command is one command that was sent.
type Command struct {
	Tenant string `avro:"tenant" json:"tenant"`
	// Principal who sent it, as far as the door can tell.
	Principal string `avro:"principal" json:"principal"`
	// IdempotencyKey is the sender's name for it: sent again with the same key it
	// is the same command.
	IdempotencyKey string `avro:"idempotencyKey" json:"idempotencyKey"`
	// Name of the command, and what it is about.
	Name     string `avro:"name" json:"name"`
	Resource string `avro:"resource" json:"resource"`
	Entity   string `avro:"entity" json:"entity"`
	// Input is an object, as canonical JSON.
	Input canonical.Value `avro:"input" json:"input"`
	// IfVersion is the version that the entity must have; 0 if any will do.
	IfVersion int64            `avro:"ifVersion" json:"ifVersion,omitempty"`
	Cause     envelope.Cause   `avro:"cause" json:"cause"`
	At        envelope.Instant `avro:"at" json:"at"`
	// Parent is the step of a command that sent this one, and is told how it ends;
	// nil if nobody is.
	Parent *Parent `avro:"parent" json:"parent,omitempty"`
}

// Parent is the step of a command that sends another one.
type Parent struct {
	Domain string `avro:"domain" json:"domain"`
	// Key of its entity (canonical.EntityKey).
	Key     string `avro:"key" json:"key"`
	Saga    string `avro:"saga" json:"saga"`
	Step    string `avro:"step" json:"step"`
	Undo    bool   `avro:"undo" json:"undo,omitempty"`
	Attempt int32  `avro:"attempt" json:"attempt"`
}

// MaxKey is the length of the longest idempotency key in bytes.
const MaxKey = 255

// MaxInput is the size of the largest input in bytes.
const MaxInput = 64 << 10

// Scope is what an idempotency key is unique in, with the key: tenant, principal
// and command. Commands of the same scope are the same command, or a mistake of
// their sender.
func (c *Command) Scope() string {
	var b strings.Builder
	for _, part := range []string{c.Tenant, c.Principal, c.Name, c.IdempotencyKey} {
		b.WriteString(strconv.Itoa(len(part)))
		b.WriteByte(':')
		b.WriteString(part)
	}
	return b.String()
}

// ID names the command: "cmd-" and 32 hexadecimal digits, of its scope alone. So
// it is known wherever the command is, before anybody has seen it.
func (c *Command) ID() string {
	sum := sha256.Sum256([]byte(c.Scope()))
	return "cmd-" + hex.EncodeToString(sum[:16])
}

// Fingerprint tells whether two commands of one scope want the same: of the
// same entity, by the same input, under the same condition. It does not depend
// on how the input was written, nor on when and why it was sent.
func (c *Command) Fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%d:%s%d:%s%d", len(c.Resource), c.Resource, len(c.Entity), c.Entity, len(c.Input), c.Input, c.IfVersion)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Key of the entity that it is about.
func (c *Command) Key() canonical.EntityKey {
	return canonical.EntityKey{Tenant: c.Tenant, Resource: c.Resource, ID: c.Entity}
}

// Check finds what no command can be, whatever the definitions say. The error
// has the kind Validation and names the member.
func (c *Command) Check() error {
	bad := func(member, format string, args ...any) error {
		return failure.New(failure.Validation, "command", member, format, args...)
	}
	for _, m := range []struct{ name, value, expected string }{
		{"tenant", c.Tenant, "the tenant"}, {"name", c.Name, "the name of a command"},
		{"resource", c.Resource, "the name of a resource"}, {"entity", c.Entity, "the id of an entity"},
		{"idempotencyKey", c.IdempotencyKey, "a key of 1 to 255 bytes"},
	} {
		switch {
		case m.value == "":
			return bad(m.name, "found nothing, expected %s", m.expected)
		case !utf8.ValidString(m.value):
			return bad(m.name, "found bytes that are no UTF-8, expected %s", m.expected)
		}
	}
	switch {
	case len(c.IdempotencyKey) > MaxKey:
		return bad("idempotencyKey", "found %d bytes, expected at most %d", len(c.IdempotencyKey), MaxKey)
	case len(c.Input) > MaxInput:
		return bad("input", "found %d bytes, expected at most %d", len(c.Input), MaxInput)
	case c.IfVersion < 0:
		return bad("ifVersion", "found %d, expected a version from 1, or 0 for any", c.IfVersion)
	}
	canon, err := jcs.Canonical([]byte(c.Input))
	if err != nil {
		return bad("input", "found %s, expected a JSON object", err)
	}
	if canon[0] != '{' {
		return bad("input", "found %s, expected a JSON object", shorten(string(canon)))
	}
	c.Input = canonical.Value(canon)
	return nil
}
