package codecs

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/avro"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/schemas"
)

// Record names a platform record. The names are those of its Avro schema and of
// the topology.
type Record string

// The platform records and the Go types that stand for them.
const (
	JournalEntry Record = "JournalEntry" // *journal.Entry
	Seen         Record = "Seen"         // *journal.Seen
	Outcome      Record = "Outcome"      // *journal.Outcome
	Signal       Record = "Signal"       // *signal.Signal
	Fact         Record = "Fact"         // *signal.Fact
	Entity       Record = "Entity"       // *canonical.Entity
	Change       Record = "Change"       // *event.Change
	Published    Record = "Published"    // *event.Published
	Command      Record = "Command"      // *command.Command
	Admission    Record = "Admission"    // *command.Admission
	Intent       Record = "Intent"       // *command.Intent
	Plan         Record = "Plan"         // *saga.Plan
	Lane         Record = "Lane"         // *saga.Lane
	Ask          Record = "Ask"          // *saga.Ask
	Snapshot     Record = "Snapshot"     // *saga.Snapshot
	Request      Record = "Request"      // *saga.Request
	Answer       Record = "Answer"       // *saga.Answer
	Order        Record = "Order"        // *saga.Order
	Report       Record = "Report"       // *saga.Report
	Attempt      Record = "Attempt"      // *run.Attempt
	Progress     Record = "Progress"     // *run.Progress
	Activity     Record = "Activity"     // *run.Activity
	Switch       Record = "Switch"       // *run.Switch
)

// Records lists the platform records in the order of the flow.
func Records() []Record {
	return []Record{
		JournalEntry, Seen, Outcome, Signal, Fact, Entity, Change, Published,
		Command, Admission, Intent, Plan, Lane, Ask, Snapshot, Request, Answer, Order, Report, Attempt, Progress, Activity, Switch,
	}
}

// Codec encodes and decodes the values of one topic. It has the methods of
// goka.Codec and is safe for concurrent use.
type Codec interface {
	// Encode gives the framed bytes of a value, in memory of their own.
	Encode(value any) ([]byte, error)
	// Decode reads framed bytes; the value keeps no reference to them.
	Decode(data []byte) (any, error)
}

// Binding says that the values of a topic are a platform record.
type Binding struct {
	Topic  string
	Record Record
}

// Platform holds the codecs of topics that carry platform records.
type Platform struct {
	codecs map[string]Codec
}

// OpenPlatform registers the schema of each topic's record under the subject
// "<topic>-value" (Confluent's TopicName strategy) and gives their codecs.
// Failures are those of Registry.Register, and Validation for an unknown record.
func OpenPlatform(ctx context.Context, r *Registry, bindings []Binding) (*Platform, error) {
	p := &Platform{codecs: make(map[string]Codec, len(bindings))}
	for _, b := range bindings {
		text, err := PlatformSchema(b.Record)
		if err != nil {
			return nil, err
		}
		id, err := r.Register(ctx, b.Topic+"-value", text)
		if err != nil {
			return nil, err
		}
		if p.codecs[b.Topic], err = newPlatformCodec(b.Record, text, id, r.Schema); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Codec gives the codec of a bound topic.
func (p *Platform) Codec(topic string) (Codec, error) {
	c, ok := p.codecs[topic]
	if !ok {
		return nil, failure.New(failure.NotFound, "find codec", topic, "no platform record is bound to this topic")
	}
	return c, nil
}

// PlatformSchema gives the Avro schema of a platform record, as JSON with
// documentation on every field.
func PlatformSchema(rec Record) (string, error) {
	file := ""
	for i, c := range string(rec) {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				file += "-"
			}
			c += 'a' - 'A'
		}
		file += string(c)
	}
	b, err := schemas.Platform.ReadFile("platform/" + file + ".avsc")
	if err != nil {
		return "", failure.New(failure.Validation, "find platform schema", string(rec), "no such record, expected one of %v", Records())
	}
	return string(b), nil
}

func newPlatformCodec(rec Record, text string, id int, lookup func(id int) (string, error)) (Codec, error) {
	switch rec {
	case JournalEntry:
		return newStructCodec(rec, readEntry, text, id, lookup)
	case Seen:
		return newStructCodec(rec, readSeen, text, id, lookup)
	case Outcome:
		return newStructCodec(rec, readOutcome, text, id, lookup)
	case Signal:
		return newStructCodec(rec, readSignal, text, id, lookup)
	case Fact:
		return newStructCodec(rec, readFact, text, id, lookup)
	case Entity:
		return newStructCodec(rec, readEntity, text, id, lookup)
	case Change:
		return newStructCodec(rec, readChange, text, id, lookup)
	case Published:
		return newStructCodec(rec, readPublished, text, id, lookup)
	case Command:
		return newStructCodec(rec, readCommand, text, id, lookup)
	case Admission:
		return newStructCodec(rec, readAdmission, text, id, lookup)
	case Intent:
		return newStructCodec(rec, readIntent, text, id, lookup)
	case Plan:
		return newStructCodec(rec, readPlan, text, id, lookup)
	case Lane:
		return newStructCodec(rec, readLane, text, id, lookup)
	case Ask:
		return newStructCodec(rec, readAsk, text, id, lookup)
	case Snapshot:
		return newStructCodec(rec, readSnapshot, text, id, lookup)
	case Request:
		return newStructCodec(rec, readRequest, text, id, lookup)
	case Answer:
		return newStructCodec(rec, readAnswer, text, id, lookup)
	case Order:
		return newStructCodec(rec, readOrder, text, id, lookup)
	case Report:
		return newStructCodec(rec, readReport, text, id, lookup)
	case Attempt:
		return newStructCodec(rec, readAttempt, text, id, lookup)
	case Progress:
		return newStructCodec(rec, readProgress, text, id, lookup)
	case Activity:
		return newStructCodec(rec, readActivity, text, id, lookup)
	case Switch:
		return newStructCodec(rec, readSwitch, text, id, lookup)
	}
	return nil, failure.New(failure.Validation, "make codec", string(rec), "no such record, expected one of %v", Records())
}

// structCodec codes a record straight from and to the Go type T: it is
// written by the Avro library, and read by a function of ours or, if it was
// written with another version of the schema, by the library.
type structCodec[T any] struct {
	record  Record
	read    func(*reader, *T)
	id      int
	schema  *avro.Schema
	lookup  func(id int) (string, error)
	scratch sync.Pool // of *[]byte
	pool    sync.Pool // of *reader

	mu sync.RWMutex
	// readers decode what was written with other versions of the schema, by id.
	readers map[int]*avro.Schema
}

func newStructCodec[T any](rec Record, read func(*reader, *T), text string, id int, lookup func(id int) (string, error)) (*structCodec[T], error) {
	s, err := avro.Parse(text)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "parse platform schema", string(rec), err)
	}
	c := &structCodec[T]{record: rec, read: read, id: id, schema: s, lookup: lookup, readers: map[int]*avro.Schema{}}
	c.scratch.New = func() any { return new([]byte) }
	c.pool.New = func() any { return new(reader) }
	return c, nil
}

// maxScratch is the largest buffer kept between calls: one huge record must not
// hold its memory for ever.
const maxScratch = 1 << 20

// Encode takes *T or T. The result is its only allocation.
func (c *structCodec[T]) Encode(value any) ([]byte, error) {
	buf := c.scratch.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxScratch {
			c.scratch.Put(buf)
		}
	}()
	b, err := c.AppendEncode((*buf)[:0], value)
	if err != nil {
		return nil, err
	}
	*buf = b
	out := make([]byte, len(b))
	copy(out, b)
	return out, nil
}

// AppendEncode appends the framed bytes of a value, a *T or T, to dst.
func (c *structCodec[T]) AppendEncode(dst []byte, value any) ([]byte, error) {
	var p *T
	switch v := value.(type) {
	case *T:
		p = v
	case T:
		p = &v
	}
	if p == nil {
		return nil, failure.New(failure.Poison, "encode", string(c.record), "found %T, expected %T", value, p)
	}
	b, err := c.schema.AppendEncode(appendHeader(dst, c.id), p)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "encode", string(c.record), err)
	}
	return b, nil
}

// Decode gives a *T. Bytes that were written with another version of the schema
// are resolved to this one. Failures: Poison if the bytes cannot be decoded or
// their schema is unknown or unreadable; Transient if the schema registry had to
// be asked and was not reached.
func (c *structCodec[T]) Decode(data []byte) (any, error) {
	id, body, err := Unframe(data)
	if err != nil {
		return nil, err
	}
	v := new(T)
	rest := 0
	if id == c.id {
		rest, err = c.own(body, v)
	} else {
		var resolved *avro.Schema
		if resolved, err = c.resolve(id); err != nil {
			return nil, err
		}
		var left []byte
		left, err = resolved.Decode(body, v)
		rest = len(left)
	}
	if err != nil {
		return nil, failure.New(failure.Poison, "decode", string(c.record), "written with schema id %d: %w", id, err)
	}
	if rest > 0 {
		return nil, failure.New(failure.Poison, "decode", string(c.record), "%d bytes remain after the record, written with schema id %d", rest, id)
	}
	return v, nil
}

// own reads what was written with this version of the schema, and gives how
// many bytes are left.
func (c *structCodec[T]) own(body []byte, v *T) (rest int, err error) {
	r := c.pool.Get().(*reader)
	r.in, r.at, r.err = string(body), 0, nil
	c.read(r, v)
	rest, err = len(r.in)-r.at, r.err
	r.in = ""
	c.pool.Put(r)
	return rest, err
}

// resolve gives the schema that resolves what was written with schema id.
func (c *structCodec[T]) resolve(id int) (*avro.Schema, error) {
	c.mu.RLock()
	s, ok := c.readers[id]
	c.mu.RUnlock()
	if ok {
		return s, nil
	}
	text, err := c.lookup(id)
	if err != nil {
		return nil, lookupFailure(string(c.record), id, err)
	}
	writer, err := avro.Parse(text)
	if err == nil {
		s, err = avro.Resolve(writer, c.schema)
	}
	if err != nil {
		var incompatible *avro.CompatibilityError
		if errors.As(err, &incompatible) {
			err = fmt.Errorf("field %s: expected %s, found %s: %s", incompatible.Path, incompatible.ReaderType, incompatible.WriterType, incompatible.Detail)
		}
		return nil, failure.New(failure.Poison, "decode", string(c.record), "schema id %d cannot be read as this record: %w", id, err)
	}
	c.mu.Lock()
	c.readers[id] = s
	c.mu.Unlock()
	return s, nil
}

// lookupFailure keeps the kinds that say "later" or "ask an administrator", and
// turns the rest into Poison: an id that nobody knows was never written by us.
func lookupFailure(subject string, id int, err error) error {
	switch k := failure.KindOf(err); k {
	case failure.Transient, failure.RateLimited, failure.Auth:
		return failure.Wrap(k, "decode", subject, err)
	}
	return failure.New(failure.Poison, "decode", subject, "unknown schema id %d: %w", id, err)
}
