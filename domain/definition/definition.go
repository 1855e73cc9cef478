// Package definition is a domain as data: resources, fields, authority,
// lifecycle, events, sources and their mappings, compiled and checked. It is
// what every station is driven by.
//
// It does not read YAML and does not know the expression language: package
// registry loads definitions and supplies the compiled expressions.
package definition

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// Domain is one bounded context.
type Domain struct {
	Name   string // lower-case words joined by hyphens; the prefix of its topics and paths
	Doc    string
	Owners Owners
	// Resources, Sources and Connections are sorted by name.
	Resources   []*Resource
	Sources     []*Source
	Connections []*Connection
	// Fingerprint identifies the definition's content: the lower-case
	// hexadecimal SHA-256 of its text, first 16 digits.
	Fingerprint string
	// File it was loaded from, for messages.
	File string
}

// Resource finds a resource by name.
func (d *Domain) Resource(name string) (*Resource, bool) {
	i, ok := slices.BinarySearchFunc(d.Resources, name, func(r *Resource, n string) int { return cmp.Compare(r.Name, n) })
	if !ok {
		return nil, false
	}
	return d.Resources[i], true
}

// Source finds a source by name.
func (d *Domain) Source(name string) (*Source, bool) {
	i, ok := slices.BinarySearchFunc(d.Sources, name, func(s *Source, n string) int { return cmp.Compare(s.Name, n) })
	if !ok {
		return nil, false
	}
	return d.Sources[i], true
}

// Connection finds a connection by name.
func (d *Domain) Connection(name string) (*Connection, bool) {
	i, ok := slices.BinarySearchFunc(d.Connections, name, func(c *Connection, n string) int { return cmp.Compare(c.Name, n) })
	if !ok {
		return nil, false
	}
	return d.Connections[i], true
}

// Commands lists the commands of all resources.
func (d *Domain) Commands() []*Command {
	var out []*Command
	for _, r := range d.Resources {
		out = append(out, r.Commands...)
	}
	return out
}

// Children names the domains that steps of its commands send commands to, sorted.
func (d *Domain) Children() []string {
	var out []string
	for _, c := range d.Commands() {
		for _, stage := range c.Stages {
			for _, s := range stage {
				if s.Kind == Child {
					out = append(out, s.Connection)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Owners says who answers for a domain.
type Owners struct{ Business, Technical, ChangeAuthority string }

// Resource is one kind of entity.
type Resource struct {
	Name string
	Doc  string
	// Identity names the fields whose values make the entity id, in order.
	// Every mapping rule of the resource gives all of them.
	Identity []string
	// Fields sorted by name.
	Fields []*Field
	// Groups of fields that win as a unit, sorted by name.
	Groups    []*Group
	Lifecycle *Lifecycle // nil if none
	// Events in the declared order.
	Events []*EventRule
	// Commands sorted by name.
	Commands []*Command
}

// Command finds a command by name.
func (r *Resource) Command(name string) (*Command, bool) {
	i, ok := slices.BinarySearchFunc(r.Commands, name, func(c *Command, n string) int { return cmp.Compare(c.Name, n) })
	if !ok {
		return nil, false
	}
	return r.Commands[i], true
}

// Field finds a field by name.
func (r *Resource) Field(name string) (*Field, bool) {
	i, ok := slices.BinarySearchFunc(r.Fields, name, func(f *Field, n string) int { return cmp.Compare(f.Name, n) })
	if !ok {
		return nil, false
	}
	return r.Fields[i], true
}

// Policy says how the winner among the live claims for a field is chosen.
type Policy string

// The policies. "Live" claims are those whose record is not deleted, whose
// source is in the field's authority list and whose age is within MaxAge.
// Ties are broken by authority order, then by the later stamp.
const (
	Priority   Policy = "priority" // the first authority that has a live value
	Latest     Policy = "latest"   // the claim with the newest stamp
	Earliest   Policy = "earliest" // the claim with the oldest stamp
	Max        Policy = "max"      // the greatest value
	Min        Policy = "min"      // the smallest value
	Majority   Policy = "majority" // the value that most sources claim
	Union      Policy = "union"    // the sorted set of all items of list values
	Weighted   Policy = "weighted" // the value with the greatest sum of trust × freshness; gives confidence
	Expression Policy = "expression"
)

// Policies lists every policy in the order of the documentation.
func Policies() []Policy {
	return []Policy{Priority, Latest, Earliest, Max, Min, Majority, Union, Weighted, Expression}
}

// Field is one field of a resource.
type Field struct {
	Name string
	Doc  string
	Type canonical.Type
	// Authority lists the sources that may decide the field, most
	// authoritative first. Claims of other sources are kept but never win.
	Authority []string
	Policy    Policy
	// MaxAge after which a claim no longer counts, measured from the claim's
	// occurred-at to the latest received-at of the entity; zero means never.
	MaxAge time.Duration
	// Trust per source (0..1, default 1) and HalfLife of its freshness, for Weighted.
	Trust    map[string]float64
	HalfLife time.Duration
	// Resolve chooses the value, for Expression.
	Resolve Resolver
	// Group the field belongs to; empty if none.
	Group string
	// PII category; empty if the field is not personal data.
	PII string
	// Writable fields may be changed by commands.
	Writable bool
	// Filter makes the field usable as an equality filter of lists.
	Filter bool
}

// Rank gives the place of a source in the authority list, or -1.
func (f *Field) Rank(source string) int { return slices.Index(f.Authority, source) }

// Group is a set of fields that win as a unit: all values come from the
// source record that has the best claim to any of them.
type Group struct {
	Name      string
	Fields    []string
	Authority []string
	Policy    Policy // Priority, Latest or Earliest
	MaxAge    time.Duration
}

// Lifecycle is a finite state machine over one field's states.
type Lifecycle struct {
	// Field is the enum field whose canonical value is the state. Its
	// authority list says which sources may move it; its value is decided by
	// the state machine and not by a policy.
	Field   string
	Initial string
	// Moves gives the states that may follow a state.
	Moves map[string][]string
}

// Allows tells whether a move is legal. Staying is no move and always legal.
func (l *Lifecycle) Allows(from, to string) bool {
	return from == to || slices.Contains(l.Moves[from], to)
}

// EventRule derives a domain event from a change.
type EventRule struct {
	// Type is the event's name: "CustomerActivated".
	Type string
	Doc  string
	When When
}

// When says which changes an event rule applies to: all of its parts that are
// set must hold.
type When struct {
	Created, Deleted, Restored bool
	// Enters and Leaves are lifecycle states.
	Enters, Leaves []string
	// Changes lists fields of which at least one changed; AnyChange is "any".
	Changes   []string
	AnyChange bool
	// If is a condition over before, after (field values by name), changed
	// (names) and entity {resource, id, version, state}; nil if none.
	If Condition
}

// ErrMissing is in the chain of an expression's error when the expression
// asked for a member that the input does not have. An optional field rule then
// makes no claim; anything else fails.
var ErrMissing = errors.New("no such member")

// Expr is a compiled expression.
type Expr interface {
	// Eval evaluates it over the variables that it was compiled for. The
	// value is nil, bool, string, int64, uint64, float64, []byte, time.Time,
	// []any or map[string]any. Errors are failures of kind Validation.
	Eval(vars map[string]any) (any, error)
	// Source is the expression's text.
	Source() string
}

// Condition is a compiled expression of type bool. A condition that meets a
// missing value (ErrMissing) does not hold; that is no error.
type Condition interface {
	Holds(vars map[string]any) (bool, error)
	Source() string
}

// Claim is one live claim as a Resolver sees it.
type Claim struct {
	Source, SourceKey string
	Value             canonical.Value
	Stamp             canonical.Stamp
	Rank              int
}

// Resolver chooses among the live claims, which come in authority order and
// are never empty. It gives the winning value, which must be of the field's
// type; absent means no value.
type Resolver interface {
	Choose(claims []Claim) (canonical.Value, error)
	Source() string
}

// Source is where signals come from.
type Source struct {
	Name string
	Doc  string
	// Connector is the kind: "webhook", "cdc", "file".
	Connector string
	// Settings of the connector, checked by it: strings, numbers, bools,
	// lists and maps as YAML gives them.
	Settings map[string]any
	Dedupe   Dedupe
	// OrderBy is an expression over the connector's record: deliveries with
	// equal values are processed in the order in which they were journaled,
	// and their dedupe keys are remembered together. Nil leaves it to the
	// connector (a change stream's record key), or to chance.
	OrderBy Expr
	// Rules in the declared order. Every rule whose condition holds gives a
	// signal, so one delivery may speak of several resources.
	Rules []*Rule
}

// Dedupe says how copies of a delivery are recognised.
type Dedupe struct {
	// Header names the header that carries the vendor's event id, lower case.
	Header string
	// ID is an expression for it over the connector's record; nil if none.
	ID Expr
	// Volatile lists JSON pointers (RFC 6901) left out of the content hash.
	Volatile []string
}

// Rule maps one record of a source to a signal.
type Rule struct {
	// Name for provenance: "<source>/<index>" unless declared.
	Name     string
	Resource string
	// When the rule applies; nil means always.
	When Condition
	// Each, if set, gives a list; the rule then makes one signal per item,
	// which its other expressions see as "item".
	Each Expr
	// Key is the source's own key of the record: a string or an integer.
	Key Expr
	// Identity gives the identity fields, in the resource's order.
	Identity []Expr
	// OccurredAt is a timestamp, or microseconds, milliseconds or seconds
	// since 1970 as an integer; nil means the received time.
	OccurredAt Expr
	// Sequence is an integer; nil means 0.
	Sequence Expr
	// Deleted says the record is gone; nil means never.
	Deleted Condition
	// Fields claimed, sorted by name.
	Fields []FieldRule
	// Line of the rule in the definition file, for messages.
	Line int
}

// FieldRule gives the claim for one field.
type FieldRule struct {
	Field string
	Expr  Expr
	// Optional: if the expression meets a missing member (ErrMissing), there is
	// no claim instead of a failure. It is declared by a leading "?" in the YAML.
	Optional bool
	// States maps source statuses to lifecycle states, for the lifecycle
	// field only; a status that is not listed is a failure.
	States map[string]string
}
