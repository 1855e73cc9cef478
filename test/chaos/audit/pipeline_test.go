package audit

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/internal/door"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/inbox"
	"github.com/touchstone-platform/touchstone/processors/merge"
	"github.com/touchstone-platform/touchstone/processors/resolve"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
	"github.com/touchstone-platform/touchstone/topology"
)

const partitions = 4

func chaosDomain(t testing.TB) *definition.Domain {
	t.Helper()
	text, err := os.ReadFile("../chaos.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := registry.Parse("chaos.yaml", text, builtin.Kinds())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// product is the product's own pure steps with partitions, queues and tables in
// memory, in the place of Kafka: it makes the log that a run without faults
// would leave.
type product struct {
	t        testing.TB
	rng      *rand.Rand
	domain   *definition.Domain
	intakes  map[string]*door.Intake
	stations map[string]processors.Station
	tables   map[string]map[string]any
	queues   map[string][][]processors.Record // by topic and partition: not yet processed
	offsets  map[string]int64
	clock    envelope.Instant
	log      *Log
	sent     []Sent

	// Ways to be wrong.
	forgetful bool // remembers no delivery
}

func newProduct(t testing.TB, seed uint64, change func(*definition.Domain)) *product {
	t.Helper()
	d := chaosDomain(t)
	if change != nil {
		change(d)
	}
	p := &product{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), domain: d, intakes: map[string]*door.Intake{}, log: &Log{},
		tables: map[string]map[string]any{}, queues: map[string][][]processors.Record{}, offsets: map[string]int64{},
		clock: envelope.At(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)),
	}
	cs := map[string]connectors.Connector{}
	for _, s := range d.Sources {
		for _, k := range builtin.Kinds().Sources {
			if k.Name() == s.Connector {
				c, err := k.Open(s, registry.Placeholders)
				if err != nil {
					t.Fatal(err)
				}
				cs[s.Name] = c
				p.intakes[s.Name] = &door.Intake{Domain: d, Source: s, Connector: c}
			}
		}
	}
	p.stations = map[string]processors.Station{topology.Journal(Domain): inbox.New(d, cs), topology.Signals(Domain): resolve.New(d), topology.Facts(Domain): merge.New(d)}
	for topic := range p.stations {
		p.tables[topic], p.queues[topic] = map[string]any{}, make([][]processors.Record, partitions)
	}
	return p
}

// run sends n deliveries, and lets the stations get to them in any order that
// Kafka allows.
func (p *product) run(n int) *product {
	gen := workload.New(workload.Options{Seed: p.rng.Uint64(), Epoch: p.clock.Time(), Accounts: 60, Devices: 20})
	for range n {
		p.send(gen.Next())
		for p.rng.IntN(3) > 0 {
			p.step()
		}
	}
	for p.step() {
	}
	return p
}

func (p *product) send(d workload.Delivery) {
	s := Sent{Delivery: d, Attempts: 1 + p.rng.IntN(30)/29}
	if d.Class == workload.Refused {
		s.Refused = true
		p.sent = append(p.sent, s)
		return
	}
	for range s.Attempts { // the answer to all but the last was lost
		p.clock += envelope.Instant(1 + p.rng.IntN(5000))
		e := &journal.Entry{Source: d.Source, Tenant: "default", ReceivedAt: p.clock, ContentType: "application/json", Headers: map[string]string{}, Body: d.Body, VendorID: d.EventID}
		order := p.intakes[d.Source].Identify(e)
		part := engine.Partition(order, partitions)
		at := p.append(topology.Journal(Domain), part, e.DedupeKey, e)
		s.Acked, s.ID = true, journal.ID{Domain: Domain, Partition: part, Offset: at}.String()
	}
	p.sent = append(p.sent, s)
}

// copy gives a product whose log can be doctored without this one's. Values
// are shared.
func (p *product) copy() *product {
	c := *p
	c.sent = slices.Clone(p.sent)
	l := p.log
	c.log = &Log{
		Journal: slices.Clone(l.Journal), Signals: slices.Clone(l.Signals), Facts: slices.Clone(l.Facts), Changes: slices.Clone(l.Changes),
		Events: slices.Clone(l.Events), Outcomes: slices.Clone(l.Outcomes), Entities: slices.Clone(l.Entities), Dead: slices.Clone(l.Dead),
	}
	return &c
}

// append writes a record to the log, and to the queue of who reads it.
func (p *product) append(topic string, part int32, key string, v any) int64 {
	at := fmt.Sprint(topic, part)
	o := p.offsets[at]
	p.offsets[at] += 1 + int64(p.rng.IntN(2)) // a marker here and there
	if q := p.queues[topic]; q != nil {
		q[part] = append(q[part], processors.Record{Stream: topic, Partition: part, Offset: o, Key: key, Value: v})
	}
	put(&p.log.Journal, topic, part, o, key, v)
	put(&p.log.Signals, topic, part, o, key, v)
	put(&p.log.Facts, topic, part, o, key, v)
	put(&p.log.Changes, topic, part, o, key, v)
	put(&p.log.Outcomes, topic, part, o, key, v)
	put(&p.log.Entities, topic, part, o, key, v)
	return o
}

func put[T any](to *[]At[T], topic string, part int32, o int64, key string, v any) {
	if x, ok := v.(T); ok {
		raw, _ := json.Marshal(v)
		*to = append(*to, At[T]{Topic: topic, Partition: part, Offset: o, Key: key, Raw: raw, Value: x})
	}
}

// step processes one record of a random queue; false if all are empty.
func (p *product) step() bool {
	type choice struct {
		topic string
		part  int
	}
	var choices []choice
	for _, topic := range []string{topology.Journal(Domain), topology.Signals(Domain), topology.Facts(Domain)} {
		for i, q := range p.queues[topic] {
			if len(q) > 0 {
				choices = append(choices, choice{topic, i})
			}
		}
	}
	if len(choices) == 0 {
		return false
	}
	c := choices[p.rng.IntN(len(choices))]
	in := p.queues[c.topic][c.part][0]
	p.queues[c.topic][c.part] = p.queues[c.topic][c.part][1:]
	p.process(in)
	return true
}

func (p *product) process(in processors.Record) {
	station, table := p.stations[in.Stream], p.tables[in.Stream]
	key := fmt.Sprint(in.Partition, in.Key)
	effects, err := station.Step(table[key], in)
	if err == nil {
		for _, e := range effects.Emit {
			if s, ok := e.Value.(*signal.Signal); ok {
				if b, _ := json.Marshal(s); len(b) > 1_000_000 {
					err = failure.New(failure.Validation, "write", e.Stream, "%d bytes", len(b))
				}
			}
		}
	}
	if err != nil {
		p.dead(in, err, "error")
		effects = processors.Effects{Emit: station.(processors.FailureReporter).Failed(in, err)}
	} else if effects.DeadLetter != nil {
		p.dead(in, effects.DeadLetter, "error")
	}
	if effects.State != nil && !p.forgetful {
		table[key] = effects.State
		if e, ok := effects.State.(*canonical.Entity); ok {
			clone := clone(p.t, e)
			p.append(topology.TableName(Domain, topology.Merge), in.Partition, in.Key, clone)
		}
	}
	for _, e := range effects.Emit {
		part := engine.Partition(e.Key, partitions)
		p.append(e.Stream, part, e.Key, e.Value)
		if c, ok := e.Value.(*event.Change); ok {
			p.publish(part, c)
		}
	}
}

// clone copies an entity: the station goes on with the one it gave.
func clone(t testing.TB, e *canonical.Entity) *canonical.Entity {
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var c canonical.Entity
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func (p *product) dead(in processors.Record, err error, class string) {
	p.log.Dead = append(p.log.Dead, At[struct{}]{Topic: topology.DeadLetters(Domain), Offset: int64(len(p.log.Dead)), Key: in.Key, Headers: map[string]string{
		"__connect.errors.topic": in.Stream, "__connect.errors.partition": strconv.Itoa(int(in.Partition)), "__connect.errors.offset": strconv.FormatInt(in.Offset, 10),
		"__connect.errors.exception.class.name": class, "__connect.errors.exception.message": err.Error(),
	}})
}

// publish writes the events of a change as the publish station and its codec do.
func (p *product) publish(part int32, c *event.Change) {
	for _, ref := range c.Events {
		entity := map[string]any{}
		for _, n := range c.After {
			entity[n.Name] = n.Value.Any()
		}
		p.log.Events = append(p.log.Events, At[*codecs.DecodedEvent]{
			Topic: topology.Events(Domain), Partition: part, Offset: int64(len(p.log.Events)), Key: c.Key(), Raw: []byte(ref.ID),
			Headers: map[string]string{"ce_id": ref.ID, "ce_type": codecs.EventName(Domain, ref.Type), "ce_sequence": fmt.Sprintf("%019d", c.Version), "ce_subject": c.ID, "ce_source": "/" + Domain + "/" + c.Resource},
			Value:   &codecs.DecodedEvent{Data: map[string]any{"id": c.ID, "version": c.Version, "change": string(c.Kind), "entity": entity}},
		})
	}
}

type (
	signalValue     = signal.Signal
	changeValue     = event.Change
	processorRecord = processors.Record
	processorEmit   = processors.Emit
)

// recordOf is the input that a record of a topic was.
func recordOf[T any](a *At[T]) processors.Record {
	return processors.Record{Stream: a.Topic, Partition: a.Partition, Offset: a.Offset, Key: a.Key, Value: a.Value}
}
