package domaintest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/avro"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/door"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/inbox"
	"github.com/touchstone-platform/touchstone/processors/merge"
	"github.com/touchstone-platform/touchstone/processors/resolve"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
)

// Result is what came of a fixture.
type Result struct {
	// Steps has what became of each delivery, in order.
	Steps []Step
	// Entities at the end, by key.
	Entities []*canonical.Entity
}

// Step is what became of one delivery.
type Step struct {
	Delivery Delivery
	// Changes of canonical state that it led to, in order.
	Changes []*event.Change
	// Outcomes of its journal entries and their signals, in order.
	Outcomes []*journal.Outcome
}

// runner drives the stations of one domain.
type runner struct {
	domain   *definition.Domain
	intakes  map[string]*door.Intake
	stations map[string]processors.Station // by input topic
	// tables holds the encoded state of each station, by key.
	tables  map[string]map[string][]byte
	schemas map[string]*avro.Schema
	offset  int64
	tenant  string
	step    *Step
}

// Run plays a fixture. The error is about the fixture or the settings of a
// source; deliveries that fail are part of the result, as dead letters.
func Run(d *definition.Domain, kinds connectors.Kinds, f *Fixture) (*Result, error) {
	r := &runner{
		domain: d, intakes: map[string]*door.Intake{}, tenant: f.Tenant,
		tables: map[string]map[string][]byte{}, schemas: map[string]*avro.Schema{},
	}
	if r.tenant == "" {
		r.tenant = envelope.DefaultTenant
	}
	cs := map[string]connectors.Connector{}
	for _, s := range d.Sources {
		i := slices.IndexFunc(kinds.Sources, func(k connectors.Kind) bool { return k.Name() == s.Connector })
		if i < 0 {
			return nil, fmt.Errorf("source %s: unknown connector %q", s.Name, s.Connector)
		}
		c, err := kinds.Sources[i].Open(s, registry.Placeholders)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", s.Name, err)
		}
		cs[s.Name] = c
		r.intakes[s.Name] = &door.Intake{Domain: d, Source: s, Connector: c}
	}
	r.stations = map[string]processors.Station{
		topology.Journal(d.Name): inbox.New(d, cs),
		topology.Signals(d.Name): resolve.New(d),
		topology.Facts(d.Name):   merge.New(d),
	}
	for topic, record := range map[string]codecs.Record{topology.Journal(d.Name): codecs.Seen, topology.Facts(d.Name): codecs.Entity} {
		text, err := codecs.PlatformSchema(record)
		if err != nil {
			return nil, err
		}
		if r.schemas[topic], err = avro.Parse(text); err != nil {
			return nil, err
		}
		r.tables[topic] = map[string][]byte{}
	}
	result := &Result{}
	for i := range f.Deliveries {
		r.step = &Step{Delivery: f.Deliveries[i]}
		if err := r.deliver(&f.Deliveries[i]); err != nil {
			return nil, fmt.Errorf("deliveries[%d]: %w", i, err)
		}
		result.Steps = append(result.Steps, *r.step)
	}
	entities := r.tables[topology.Facts(d.Name)]
	for _, key := range slices.Sorted(maps.Keys(entities)) {
		e, err := r.state(topology.Facts(d.Name), key)
		if err != nil {
			return nil, err
		}
		result.Entities = append(result.Entities, e.(*canonical.Entity))
	}
	return result, nil
}

// entries makes the journal entries of a delivery as its connector would.
func (r *runner) entries(x *Delivery, intake *door.Intake) ([]*journal.Entry, error) {
	body, err := jsonOf(&x.Body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if x.Text != "" {
		if body != nil {
			return nil, fmt.Errorf("found body and text, expected one of them")
		}
		body = []byte(x.Text)
	}
	key, err := jsonOf(&x.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	headers := make(map[string]string, len(x.Headers))
	for name, value := range x.Headers {
		headers[strings.ToLower(name)] = value
	}
	switch c := intake.Connector.(type) {
	case door.Stream:
		return []*journal.Entry{c.Entry(key, body, x.Tombstone, headers)}, nil
	case *file.Source:
		return rows(c, x.File, body)
	}
	e := &journal.Entry{ContentType: x.ContentType, Headers: headers, Body: body, VendorID: x.ID}
	if e.ContentType == "" {
		e.ContentType = "application/json"
	}
	if h := intake.Source.Dedupe.Header; h != "" && e.VendorID == "" {
		e.VendorID = headers[h]
	}
	return []*journal.Entry{e}, nil
}

// rows reads a whole file as its upload would be read.
func rows(s *file.Source, name string, content []byte) ([]*journal.Entry, error) {
	report, err := s.Inspect(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	if err := s.Accept(name, report, nil); err != nil {
		return nil, err
	}
	var out []*journal.Entry
	_, err = s.Entries(bytes.NewReader(content), name, report.SHA256, func(e *journal.Entry) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

// deliver takes a delivery through the door and all stations.
func (r *runner) deliver(x *Delivery) error {
	intake := r.intakes[x.Source]
	if intake == nil {
		return fmt.Errorf("unknown source %q, expected one of %s", x.Source, strings.Join(slices.Sorted(maps.Keys(r.intakes)), ", "))
	}
	entries, err := r.entries(x, intake)
	if err != nil {
		return fmt.Errorf("source %s: %w", x.Source, err)
	}
	for i, e := range entries {
		e.Source, e.Tenant, e.ReceivedAt = x.Source, r.tenant, envelope.At(x.At)+envelope.Instant(i)
		intake.Identify(e)
		in := processors.Record{Stream: topology.Journal(r.domain.Name), Offset: r.offset, Key: e.DedupeKey, Value: e, Time: e.ReceivedAt}
		r.offset++
		if err := r.process(in); err != nil {
			return err
		}
	}
	return nil
}

// process drives a record, and everything that follows from it, through the
// stations.
func (r *runner) process(in processors.Record) error {
	station := r.stations[in.Stream]
	if station == nil {
		switch v := in.Value.(type) {
		case *event.Change:
			r.step.Changes = append(r.step.Changes, v)
		case *journal.Outcome:
			r.step.Outcomes = append(r.step.Outcomes, v)
		}
		return nil
	}
	state, err := r.state(in.Stream, in.Key)
	if err != nil {
		return err
	}
	effects, err := station.Step(state, in)
	if err != nil {
		reporter, ok := station.(processors.FailureReporter)
		if !ok {
			return failure.Wrap(failure.Poison, "report failure", in.Stream, err)
		}
		effects = processors.Effects{Emit: reporter.Failed(in, err)}
	}
	if err := r.store(in.Stream, in.Key, effects); err != nil {
		return err
	}
	for _, e := range effects.Emit {
		if err := r.process(processors.Record{Stream: e.Stream, Key: e.Key, Value: e.Value, Time: in.Time}); err != nil {
			return err
		}
	}
	return nil
}

// state decodes what the table of a station holds for a key; nil if nothing.
func (r *runner) state(stream, key string) (any, error) {
	b, ok := r.tables[stream][key]
	if !ok {
		return nil, nil
	}
	var v any = &journal.Seen{}
	if stream == topology.Facts(r.domain.Name) {
		v = &canonical.Entity{}
	}
	_, err := r.schemas[stream].Decode(b, v)
	return v, err
}

func (r *runner) store(stream, key string, effects processors.Effects) error {
	if effects.Forget {
		delete(r.tables[stream], key)
	}
	if effects.State == nil {
		return nil
	}
	b, err := r.schemas[stream].AppendEncode(nil, effects.State)
	if err != nil {
		return failure.Wrap(failure.Poison, "encode state", stream, err)
	}
	r.tables[stream][key] = b
	return nil
}
