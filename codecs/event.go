package codecs

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/linkedin/goavro/v2"
	"github.com/twmb/avro"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// PublicEvent is one domain event to be published: the change and which of its
// events.
type PublicEvent struct {
	Change *event.Change
	Ref    event.Ref
}

// DecodedEvent is a framed Avro record as plain values.
type DecodedEvent struct {
	// Name is the full name of the record: "customer.management.v1.CustomerActivated".
	Name string
	// SchemaID it was written with.
	SchemaID int
	// Data are plain JSON values: bytes as base64, dates and timestamps as in
	// canonical values, decimals as strings, unions without their wrapping.
	Data map[string]any
}

// JSON gives the data as canonical JSON.
func (e *DecodedEvent) JSON() ([]byte, error) { return jcs.Append(nil, e.Data) }

// EventCodec codes the public events of one domain. Encode takes a PublicEvent or
// a pointer to one, Decode gives a *DecodedEvent. It is a Codec and safe for
// concurrent use.
type EventCodec struct {
	domain   string
	registry *Registry
	events   map[string]*eventSchema // by type
	reader   *Reader
}

type eventSchema struct {
	id   int
	plan *plan
}

// plan writes the fields of one resource.
type plan struct {
	lifecycle bool
	fields    []planField
	names     map[string]string // of a field in Avro
}

type planField struct {
	name  string
	text  bool // a string in Avro as in the canonical value
	write writeValue
}

// OpenEvents registers the generated schemas of a domain and gives the codec of its
// public events. Failures are those of DomainSchemas and Registry.Register.
func OpenEvents(ctx context.Context, r *Registry, d *definition.Domain) (*EventCodec, error) {
	schemas, err := DomainSchemas(d)
	if err != nil {
		return nil, err
	}
	g, err := newGenerator(d)
	if err != nil {
		return nil, err
	}
	c := &EventCodec{domain: d.Name, registry: r, events: map[string]*eventSchema{}, reader: NewReader(r)}
	plans := map[string]*plan{}
	for _, s := range schemas {
		id, err := r.Register(ctx, s.Subject, s.Schema)
		if err != nil {
			return nil, err
		}
		if s.Event == "" {
			res, _ := d.Resource(s.Resource)
			plans[s.Resource] = g.plan(res)
			continue
		}
		// What consumers in Go will most likely read it with must accept it.
		if _, err := goavro.NewCodec(s.Schema); err != nil {
			return nil, failure.Wrap(failure.Poison, "compile generated schema", s.Name, err)
		}
		c.events[s.Event] = &eventSchema{id: id, plan: plans[s.Resource]}
	}
	return c, nil
}

func (g *generator) plan(r *definition.Resource) *plan {
	p := &plan{lifecycle: r.Lifecycle != nil, names: map[string]string{}}
	for _, f := range r.Fields {
		p.names[f.Name] = avroName(f.Name)
		text := f.Type.Kind == canonical.KindString || f.Type.Kind == canonical.KindDecimal || f.Type.Kind == canonical.KindEnum
		p.fields = append(p.fields, planField{f.Name, text, g.writer(r, f.Type, []string{f.Name})})
	}
	return p
}

// Encode gives the framed bytes of a PublicEvent. Failures: Poison for another Go
// type or an unknown event type, Validation if a value is not of its declared type.
func (c *EventCodec) Encode(value any) ([]byte, error) {
	var e PublicEvent
	switch v := value.(type) {
	case PublicEvent:
		e = v
	case *PublicEvent:
		if v != nil {
			e = *v
		}
	}
	if e.Change == nil {
		return nil, failure.New(failure.Poison, "encode event of", c.domain, "found %T, expected a PublicEvent with a change", value)
	}
	s, ok := c.events[e.Ref.Type]
	if !ok {
		return nil, failure.New(failure.Poison, "encode event of", c.domain, "the definition has no event %q", e.Ref.Type)
	}
	b, err := s.plan.event(appendHeader(make([]byte, 0, 512), s.id), e.Change)
	if err != nil {
		return nil, failure.New(failure.Validation, "encode event", e.Ref.Type+" of "+e.Change.Key(), "%w", err)
	}
	return b, nil
}

// Decode reads framed bytes; see Reader.Decode.
func (c *EventCodec) Decode(data []byte) (any, error) {
	e, err := c.reader.Decode(data)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// DataSchema gives the URI of an event type's schema in the registry: the
// CloudEvents dataschema. Empty for an unknown type.
func (c *EventCodec) DataSchema(eventType string) string {
	s, ok := c.events[eventType]
	if !ok {
		return ""
	}
	return c.registry.URL() + "/schemas/ids/" + strconv.Itoa(s.id)
}

// event appends an event in the order of generator.eventRecord.
func (p *plan) event(b []byte, ch *event.Change) ([]byte, error) {
	b = appendString(b, ch.ID)
	b = binary.AppendVarint(b, ch.Version)
	b = appendString(b, string(ch.Kind))
	if ch.OccurredAt == 0 {
		b = append(b, branchNull)
	} else {
		b = binary.AppendVarint(append(b, branchValue), int64(ch.OccurredAt))
	}
	b = binary.AppendVarint(b, int64(ch.ReceivedAt))
	if p.lifecycle {
		b = appendState(b, ch.ToState)
		b = appendState(b, ch.FromState)
	}
	changed := 0
	for i := range ch.Changed {
		if _, ok := p.names[ch.Changed[i].Name]; ok { // else no longer in the definition
			changed++
		}
	}
	if changed > 0 {
		b = binary.AppendVarint(b, int64(changed))
	}
	before := make([]canonical.Named, 0, changed)
	for _, f := range ch.Changed {
		name, ok := p.names[f.Name]
		if !ok {
			continue
		}
		b = appendString(b, name)
		if f.Before.Present() {
			before = append(before, canonical.Named{Name: f.Name, Value: f.Before})
		}
	}
	b = append(b, 0)
	b, err := p.state(b, ch.After)
	if err != nil {
		return nil, err
	}
	if ch.Kind == event.Created {
		return append(b, branchNull), nil
	}
	return p.state(append(b, branchValue), before)
}

func appendState(b []byte, s string) []byte {
	if s == "" {
		return append(b, branchNull)
	}
	return appendString(append(b, branchValue), s)
}

// state appends the public state; fields that have no value are null, and so
// are explicit nulls.
func (p *plan) state(b []byte, values []canonical.Named) ([]byte, error) {
	next := 0 // fields and values are most often in the same order
	value := func(name string) canonical.Value {
		if next < len(values) && values[next].Name == name {
			next++
			return values[next-1].Value
		}
		for i := range values {
			if values[i].Name == name {
				return values[i].Value
			}
		}
		return ""
	}
	for i := range p.fields {
		f := &p.fields[i]
		v := value(f.name)
		if f.text && len(v) > 1 && v[0] == '"' && strings.IndexByte(string(v), '\\') < 0 {
			b = appendString(append(b, branchValue), string(v[1:len(v)-1]))
			continue
		}
		var err error
		if b, err = orNull(f.write, b, v.Any()); err != nil {
			return nil, failure.Wrap(failure.Validation, "field", f.name, err)
		}
	}
	return b, nil
}

// Reader decodes any framed Avro record by the schema it was written with. It is
// safe for concurrent use.
//
// It reads with twmb/avro and not with goavro, whose array decoder (2.15) allocates
// as many items as a block claims to have, up to 2^31, before it looks for them:
// twenty bytes in a topic would end the process.
type Reader struct {
	registry *Registry

	mu      sync.RWMutex
	schemas map[int]*readSchema
}

type readSchema struct {
	name   string
	schema *avro.Schema
	shape  *shape
}

// NewReader makes a Reader over a registry.
func NewReader(r *Registry) *Reader {
	return &Reader{registry: r, schemas: map[int]*readSchema{}}
}

// Decode reads framed bytes into plain values, which keep no reference to them. A
// record gives its fields, anything else a single member "value". Failures: Poison
// if the bytes cannot be decoded or their schema is unknown; Transient if the
// registry was not reached.
func (r *Reader) Decode(data []byte) (*DecodedEvent, error) {
	id, body, err := Unframe(data)
	if err != nil {
		return nil, err
	}
	s, err := r.schema(id)
	if err != nil {
		return nil, err
	}
	var native any
	rest, err := s.schema.Decode(body, &native, avro.TaggedUnions(), avro.TagLogicalTypes())
	if err != nil {
		return nil, failure.New(failure.Poison, "decode", s.name, "written with schema id %d: %w", id, err)
	}
	if len(rest) > 0 {
		return nil, failure.New(failure.Poison, "decode", s.name, "%d bytes remain after the record, written with schema id %d", len(rest), id)
	}
	plain := s.shape.plain(native)
	m, ok := plain.(map[string]any)
	if !ok {
		m = map[string]any{"value": plain}
	}
	return &DecodedEvent{Name: s.name, SchemaID: id, Data: m}, nil
}

func (r *Reader) schema(id int) (*readSchema, error) {
	r.mu.RLock()
	s, ok := r.schemas[id]
	r.mu.RUnlock()
	if ok {
		return s, nil
	}
	text, err := r.registry.Schema(id)
	if err != nil {
		return nil, lookupFailure("Avro record", id, err)
	}
	if s, err = newReadSchema(text); err != nil {
		return nil, failure.New(failure.Poison, "decode", "Avro record", "schema id %d cannot be used: %w", id, err)
	}
	r.mu.Lock()
	r.schemas[id] = s
	r.mu.Unlock()
	return s, nil
}

func newReadSchema(schema string) (*readSchema, error) {
	compiled, err := avro.Parse(schema)
	if err != nil {
		return nil, err
	}
	var parsed any
	if err := json.Unmarshal([]byte(schema), &parsed); err != nil {
		return nil, err
	}
	sh, err := shapeOf(parsed, "", map[string]*shape{})
	if err != nil {
		return nil, err
	}
	name := sh.kind
	if m, ok := parsed.(map[string]any); ok && text(m, "name") != "" {
		name = fullName(text(m, "name"), text(m, "namespace"))
	}
	return &readSchema{name: name, schema: compiled, shape: sh}, nil
}
