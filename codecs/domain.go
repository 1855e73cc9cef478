package codecs

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// DomainSchema is one Avro schema generated from a definition.
type DomainSchema struct {
	// Name is the full name of the record: "customer.management.v1.CustomerActivated".
	Name string
	// Subject it is registered under: "<topic>-<name>" for events (Confluent's
	// TopicRecordName strategy, since the events of a domain share a topic), the
	// name alone for entities (RecordName).
	Subject string
	// Resource it belongs to, and the event's type; Event is empty for the
	// schema of the resource's public state.
	Resource, Event string
	// Schema as indented JSON, the same for the same definition.
	Schema string
}

// KindProperty is the schema property that tells, on a string, what the string
// stands for: "decimal", "enum" or "json".
const KindProperty = "touchstone.kind"

// DomainSchemas generates the schemas of a domain: for each resource its public
// state, then each of its events in the declared order. An event is
//
//	id, version      which entity, and which of its versions the change made
//	change           created, updated, deleted or restored
//	occurredAt       when it happened in the source, recordedAt when it was journaled
//	state, previousState   if the resource has a lifecycle
//	changed          names of the fields that changed
//	entity           the whole public state after the change
//	previous         the values before, of the changed fields alone
//
// Fields of the public state are nullable with default null, the identity fields
// included (a source may identify an entity without deciding what its fields hold),
// so that a field can be added and removed and every version stays readable by
// every other. An enum is a string: readers of an Avro enum break when a symbol is
// added. A decimal is a string: it has no fixed scale. Personal data carries
// "confluent:tags".
//
// The error is a failure of kind Validation: names that Avro cannot tell apart.
func DomainSchemas(d *definition.Domain) ([]DomainSchema, error) {
	g, err := newGenerator(d)
	if err != nil {
		return nil, err
	}
	var out []DomainSchema
	for _, r := range d.Resources {
		s, err := g.schema(r, g.entityRecord(r))
		if err != nil {
			return nil, err
		}
		s.Subject = s.Name
		out = append(out, s)
		for _, e := range r.Events {
			s, err := g.schema(r, g.eventRecord(r, e))
			if err != nil {
				return nil, err
			}
			s.Subject, s.Event = d.Name+".events.v1-"+s.Name, e.Type
			out = append(out, s)
		}
	}
	return out, nil
}

// Namespace gives the Avro namespace of a domain's public records.
func Namespace(domain string) string {
	parts := strings.FieldsFunc(domain, func(r rune) bool { return r == '-' || r == '.' })
	for i, p := range parts {
		parts[i] = avroName(p)
	}
	return strings.Join(append(parts, "v1"), ".")
}

// EventName gives the full name of an event's record, which is also its
// CloudEvents type.
func EventName(domain, eventType string) string { return Namespace(domain) + "." + eventType }

// The JSON of a schema, with its members in the order people write them.
type (
	avroRecord struct {
		Type      string      `json:"type"`
		Name      string      `json:"name"`
		Namespace string      `json:"namespace"`
		Doc       string      `json:"doc,omitempty"`
		Fields    []avroField `json:"fields"`
	}
	avroField struct {
		Name    string          `json:"name"`
		Type    any             `json:"type"`
		Doc     string          `json:"doc,omitempty"`
		Default json.RawMessage `json:"default,omitempty"`
		Tags    []string        `json:"confluent:tags,omitempty"`
	}
	avroArray struct {
		Type  string `json:"type"`
		Items any    `json:"items"`
	}
	avroMap struct {
		Type   string `json:"type"`
		Values any    `json:"values"`
	}
	avroScalar struct {
		Type        string `json:"type"`
		LogicalType string `json:"logicalType,omitempty"`
		Kind        string `json:"touchstone.kind,omitempty"`
	}
)

var (
	null    = json.RawMessage("null")
	instant = avroScalar{Type: "long", LogicalType: "timestamp-micros"}
)

func nullable(t any) []any { return []any{"null", t} }

type generator struct {
	namespace string
}

// newGenerator checks that every generated name is a name to Avro, and no two
// are the same.
func newGenerator(d *definition.Domain) (*generator, error) {
	g := &generator{namespace: Namespace(d.Name)}
	names := map[string]string{}
	claim := func(name, what string) error {
		if other, taken := names[name]; taken {
			return failure.New(failure.Validation, "generate Avro schemas", d.Name, "%s and %s both give the name %s", other, what, name)
		}
		names[name] = what
		return nil
	}
	for _, r := range d.Resources {
		if err := claim(g.entityName(r), "resource "+r.Name); err != nil {
			return nil, err
		}
		for _, f := range r.Fields {
			if err := g.check(r, f.Type, []string{f.Name}, "field "+r.Name+"."+f.Name, claim); err != nil {
				return nil, err
			}
		}
		for _, f := range r.Fields {
			if err := claim(g.entityName(r)+"#"+avroName(f.Name), "field "+r.Name+"."+f.Name); err != nil {
				return nil, err
			}
		}
		for _, e := range r.Events {
			if e.Type == "" || avroName(e.Type) != e.Type {
				return nil, failure.New(failure.Validation, "generate Avro schemas", d.Name, "event %q: expected a name of letters, digits and underscores that does not begin with a digit", e.Type)
			}
			if err := claim(g.namespace+"."+e.Type, "event "+e.Type); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

// check claims the names of nested records and their fields.
func (g *generator) check(r *definition.Resource, t canonical.Type, path []string, what string, claim func(name, what string) error) error {
	switch t.Kind {
	case canonical.KindList:
		return g.check(r, *t.Elem, extend(path, "item"), what, claim)
	case canonical.KindMap:
		return g.check(r, *t.Elem, extend(path, "value"), what, claim)
	case canonical.KindRecord:
		name := g.recordName(r, path)
		if err := claim(name, what); err != nil {
			return err
		}
		for _, f := range t.Fields {
			if err := claim(name+"#"+avroName(f.Name), what+"."+f.Name); err != nil {
				return err
			}
			if err := g.check(r, f.Type, extend(path, f.Name), what+"."+f.Name, claim); err != nil {
				return err
			}
		}
	}
	return nil
}

// extend never shares memory between siblings.
func extend(path []string, name string) []string {
	return append(path[:len(path):len(path)], name)
}

func (g *generator) entityName(r *definition.Resource) string {
	return g.namespace + "." + pascal(r.Name)
}

// recordName gives the full name of the record at a path of fields below a
// resource: the parents are its namespace, the last is its name.
func (g *generator) recordName(r *definition.Resource, path []string) string {
	parts := []string{g.namespace, avroName(r.Name)}
	for _, p := range path[:len(path)-1] {
		parts = append(parts, avroName(p))
	}
	return strings.Join(append(parts, pascal(path[len(path)-1])), ".")
}

func (g *generator) schema(r *definition.Resource, rec avroRecord) (DomainSchema, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(rec); err != nil {
		return DomainSchema{}, failure.Wrap(failure.Poison, "generate Avro schema", rec.Name, err)
	}
	return DomainSchema{Name: rec.Namespace + "." + rec.Name, Resource: r.Name, Schema: b.String()}, nil
}

func (g *generator) entityRecord(r *definition.Resource) avroRecord {
	doc := r.Doc
	if doc == "" {
		doc = "Public state of a " + r.Name + "."
	}
	rec := avroRecord{Type: "record", Name: pascal(r.Name), Namespace: g.namespace, Doc: doc, Fields: []avroField{}}
	for _, f := range r.Fields {
		a := avroField{Name: avroName(f.Name), Type: nullable(g.typ(r, f.Type, []string{f.Name})), Doc: document(f.Doc, f.Type), Default: null}
		if f.PII != "" {
			a.Tags = []string{"PII", f.PII}
		}
		rec.Fields = append(rec.Fields, a)
	}
	return rec
}

func (g *generator) eventRecord(r *definition.Resource, e *definition.EventRule) avroRecord {
	doc := e.Doc
	if doc == "" {
		doc = "A change of a " + r.Name + "."
	}
	fields := []avroField{
		{Name: "id", Type: "string", Doc: "Entity id within the tenant; the record key is <tenant>/" + r.Name + "/<id>."},
		{Name: "version", Type: "long", Doc: "Entity version that the change made; versions have no gaps."},
		{Name: "change", Type: "string", Doc: "What became of the entity: created, updated, deleted or restored."},
		{Name: "occurredAt", Type: nullable(instant), Doc: "When it happened in the source, UTC; null if the source does not say.", Default: null},
		{Name: "recordedAt", Type: instant, Doc: "When it was journaled, UTC."},
	}
	if r.Lifecycle != nil {
		fields = append(fields,
			avroField{Name: "state", Type: nullable("string"), Doc: "Lifecycle state after the change.", Default: null},
			avroField{Name: "previousState", Type: nullable("string"), Doc: "Lifecycle state before the change; null if there was none.", Default: null})
	}
	entity := g.entityRecord(r)
	fields = append(fields,
		avroField{Name: "changed", Type: avroArray{"array", "string"}, Doc: "Names of the fields that changed, as in entity and previous."},
		avroField{Name: "entity", Type: entity, Doc: "The whole public state after the change."},
		avroField{Name: "previous", Type: nullable(entity.Namespace + "." + entity.Name), Doc: "The values before, of the changed fields alone: a field that is not listed in changed is null here whatever its value was. Null if the entity is new.", Default: null})
	return avroRecord{Type: "record", Name: e.Type, Namespace: g.namespace, Doc: doc, Fields: fields}
}

// typ gives the Avro type that stands for a declared type, without null.
func (g *generator) typ(r *definition.Resource, t canonical.Type, path []string) any {
	switch t.Kind {
	case canonical.KindInt:
		return "long"
	case canonical.KindFloat:
		return "double"
	case canonical.KindBool:
		return "boolean"
	case canonical.KindBytes:
		return "bytes"
	case canonical.KindDate:
		return avroScalar{Type: "int", LogicalType: "date"}
	case canonical.KindTimestamp:
		return instant
	case canonical.KindDecimal, canonical.KindEnum, canonical.KindJSON:
		return avroScalar{Type: "string", Kind: string(t.Kind)}
	case canonical.KindList:
		return avroArray{"array", nullable(g.typ(r, *t.Elem, extend(path, "item")))}
	case canonical.KindMap:
		return avroMap{"map", nullable(g.typ(r, *t.Elem, extend(path, "value")))}
	case canonical.KindRecord:
		full := g.recordName(r, path)
		dot := strings.LastIndexByte(full, '.')
		rec := avroRecord{Type: "record", Name: full[dot+1:], Namespace: full[:dot], Fields: []avroField{}}
		for _, f := range t.Fields {
			rec.Fields = append(rec.Fields, avroField{
				Name: avroName(f.Name), Type: nullable(g.typ(r, f.Type, extend(path, f.Name))), Doc: document("", f.Type), Default: null,
			})
		}
		return rec
	}
	return "string"
}

// document adds to a field's documentation what its Avro type does not say.
func document(doc string, t canonical.Type) string {
	add := ""
	switch t.Kind {
	case canonical.KindEnum:
		add = "One of " + strings.Join(t.Symbols, ", ") + "; more may be added."
	case canonical.KindDecimal:
		add = "An exact decimal such as 12.5, without exponent."
	case canonical.KindJSON:
		add = "JSON text."
	}
	return strings.TrimSpace(strings.TrimSpace(doc) + " " + add)
}

// avroName makes a name that Avro accepts: letters, digits and underscores, not
// beginning with a digit (Avro 1.12, "Names").
func avroName(s string) string {
	var b strings.Builder
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
			b.WriteRune(c)
		case c >= '0' && c <= '9':
			if i == 0 {
				b.WriteByte('_')
			}
			b.WriteRune(c)
		default:
			b.WriteByte('_')
		}
	}
	if b.Len() == 0 {
		return "_"
	}
	return b.String()
}

// pascal writes "sales-order" as "SalesOrder".
func pascal(s string) string {
	var b strings.Builder
	for _, p := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' || r == '_' || r == '.' || r == ' ' }) {
		for i, c := range p {
			if i == 0 {
				c = unicode.ToUpper(c)
			}
			b.WriteRune(c)
		}
	}
	return avroName(b.String())
}
