package codecs

import (
	"context"
	"encoding/json"
	"strconv"
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
	id    int
	codec *goavro.Codec
	plan  *plan
}

// plan converts the fields of one resource.
type plan struct {
	entity    string // full name of the record
	lifecycle bool
	fields    []planField
	names     map[string]string // of a field in Avro
}

type planField struct {
	from, to string
	convert  toNative
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
		codec, err := goavro.NewCodec(s.Schema)
		if err != nil {
			return nil, failure.Wrap(failure.Poison, "compile generated schema", s.Name, err)
		}
		c.events[s.Event] = &eventSchema{id: id, codec: codec, plan: plans[s.Resource]}
	}
	return c, nil
}

func (g *generator) plan(r *definition.Resource) *plan {
	p := &plan{entity: g.entityName(r), lifecycle: r.Lifecycle != nil, names: map[string]string{}}
	for _, f := range r.Fields {
		p.names[f.Name] = avroName(f.Name)
		p.fields = append(p.fields, planField{f.Name, avroName(f.Name), g.native(r, f.Type, []string{f.Name})})
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
	native, err := s.plan.event(e.Change)
	if err != nil {
		return nil, failure.New(failure.Validation, "encode event", e.Ref.Type+" of "+e.Change.Key(), "%w", err)
	}
	b, err := s.codec.BinaryFromNative(appendHeader(make([]byte, 0, 512), s.id), native)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "encode event", e.Ref.Type+" of "+e.Change.Key(), err)
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

// event gives goavro's representation of an event; see DomainSchemas.
func (p *plan) event(ch *event.Change) (map[string]any, error) {
	changed := make([]any, 0, len(ch.Changed))
	before := make([]canonical.Named, 0, len(ch.Changed))
	for _, f := range ch.Changed {
		name, ok := p.names[f.Name]
		if !ok {
			continue // no longer in the definition
		}
		changed = append(changed, name)
		if f.Before.Present() {
			before = append(before, canonical.Named{Name: f.Name, Value: f.Before})
		}
	}
	entity, err := p.state(ch.After)
	if err != nil {
		return nil, err
	}
	m := map[string]any{
		"id": ch.ID, "version": ch.Version, "change": string(ch.Kind), "occurredAt": nil,
		"recordedAt": ch.ReceivedAt.Time(), "changed": changed, "entity": entity, "previous": nil,
	}
	if ch.ReceivedAt == 0 {
		m["recordedAt"] = int64(0)
	}
	if ch.OccurredAt != 0 {
		m["occurredAt"] = map[string]any{"long.timestamp-micros": ch.OccurredAt.Time()}
	}
	if ch.Kind != event.Created {
		previous, err := p.state(before)
		if err != nil {
			return nil, err
		}
		m["previous"] = map[string]any{p.entity: previous}
	}
	if p.lifecycle {
		m["state"], m["previousState"] = orEmpty(ch.ToState), orEmpty(ch.FromState)
	}
	return m, nil
}

func orEmpty(s string) any {
	if s == "" {
		return nil
	}
	return map[string]any{"string": s}
}

// state gives goavro's representation of the public state; fields that have no
// value are null, and so are explicit nulls.
func (p *plan) state(values []canonical.Named) (map[string]any, error) {
	given := make(map[string]canonical.Value, len(values))
	for _, n := range values {
		given[n.Name] = n.Value
	}
	m := make(map[string]any, len(p.fields))
	for _, f := range p.fields {
		v, err := orNull(f.convert, given[f.from].Any())
		if err != nil {
			return nil, failure.Wrap(failure.Validation, "field", f.from, err)
		}
		m[f.to] = v
	}
	return m, nil
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
