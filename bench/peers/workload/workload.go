// Package workload makes the input of the comparison with other engines, and
// says what must come of it.
//
// The input is facts as the product's merge station reads them: what one of
// three sources claims about one account, all the fields it knows at once. The
// same seed gives the same facts. The oracle folds them one after the other,
// written without the product's merge, and Check compares it with the state and
// the changes that a subject left in Kafka.
//
// It knows neither Kafka nor the subjects.
package workload

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/registry"
)

// Names that the definition declares.
const (
	Domain   = "peers"
	Resource = "account"
	// Identity is the field that names an account; the others are numbered.
	Identity = "account"
)

// Sources lists the three sources.
func Sources() []string { return []string{"billing", "crm", "support"} }

// Spec says what the facts are like.
type Spec struct {
	// Keys is the number of accounts, Fields of the fields of each.
	Keys   int `json:"keys"`
	Fields int `json:"fields"`
	// Zipf is the exponent of how often each account is spoken of, above 1.
	Zipf float64 `json:"zipf"`
	// Changing is the share of facts with a new value among those that are no
	// duplicates; Duplicates the share of facts that were there before.
	Changing   float64 `json:"changing"`
	Duplicates float64 `json:"duplicates"`
	Seed       uint64  `json:"seed"`
}

// Validate tells what of a specification cannot be.
func (s Spec) Validate() error {
	switch {
	case s.Keys < 2 || s.Keys > 100_000_000:
		return fmt.Errorf("keys: found %d, expected 2 to 100000000", s.Keys)
	case s.Fields < 4 || s.Fields > 100:
		return fmt.Errorf("fields: found %d, expected 4 to 100: one is the identity, and each source decides one", s.Fields)
	case s.Zipf <= 1:
		return fmt.Errorf("zipf: found %g, expected more than 1", s.Zipf)
	case s.Changing < 0 || s.Changing > 1:
		return fmt.Errorf("changing: found %g, expected a share, 0 to 1", s.Changing)
	case s.Duplicates < 0 || s.Duplicates >= 1:
		return fmt.Errorf("duplicates: found %g, expected a share, 0 to less than 1", s.Duplicates)
	}
	return nil
}

// Field is one field and who decides it, the most authoritative first.
type Field struct {
	Name      string
	Authority []string
}

// Layout gives the fields, sorted by name. Each is decided by one source, and
// every fourth also by the next one where the first says nothing.
func (s Spec) Layout() []Field {
	sources := Sources()
	fields := []Field{{Identity, sources}}
	for i := 1; i < s.Fields; i++ {
		f := Field{fmt.Sprintf("attribute%02d", i), []string{sources[i%3]}}
		if i%4 == 0 {
			f.Authority = append(f.Authority, sources[(i+1)%3])
		}
		fields = append(fields, f)
	}
	return fields
}

// Definition gives the domain as the YAML that the product reads.
func (s Spec) Definition() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: touchstone/v1\ndomain: %s\nresources:\n  %s:\n    identity: %s\n    fields:\n", Domain, Resource, Identity)
	layout := s.Layout()
	for _, f := range layout {
		fmt.Fprintf(&b, "      %s: {type: string, authority: [%s]}\n", f.Name, strings.Join(f.Authority, ", "))
	}
	b.WriteString("    events:\n      AccountOpened: {when: {created: true}}\n      AccountUpdated: {when: {changes: any}}\nsources:\n")
	for _, source := range Sources() {
		fmt.Fprintf(&b, "  %s:\n    connector: webhook\n    settings: {scheme: none}\n    map:\n      - resource: %s\n        key: body.account\n        fields:\n", source, Resource)
		for _, f := range layout {
			for _, a := range f.Authority {
				if a == source {
					fmt.Fprintf(&b, "          %s: body.%s\n", f.Name, f.Name)
				}
			}
		}
	}
	return b.String()
}

// Compile gives the domain as the product uses it.
func (s Spec) Compile() (*definition.Domain, error) {
	return registry.Parse("peers.yaml", []byte(s.Definition()), builtin.Kinds())
}

// said is one field of a source's record.
type said struct {
	name string
	// lead is the source's own turn among the fields that it decides, or -1
	// for a field that it only seconds or never changes.
	lead int
}

// Generator makes facts.
type Generator struct {
	spec    Spec
	sources []string
	says    [3][]said
	leads   [3]int
	rnd     *rand.Rand
	zipf    *rand.Zipf
	// revisions of each source's record of each account: how often it changed.
	revisions [3][]uint32
	seeded    int
	made      int
	recent    []signal.Fact
}

// recentFacts is how far back a duplicate may reach.
const recentFacts = 2000

// epoch is when the first fact occurred: a moment without meaning.
const epoch = envelope.Instant(1_767_225_600_000_000)

// NewGenerator makes a generator of the specification's facts.
func NewGenerator(s Spec) (*Generator, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	g := &Generator{spec: s, sources: Sources(), rnd: rand.New(rand.NewPCG(s.Seed, 0))}
	g.zipf = rand.NewZipf(g.rnd, s.Zipf, 1, uint64(s.Keys-1))
	for i, source := range g.sources {
		g.revisions[i] = make([]uint32, s.Keys)
		for _, f := range s.Layout() {
			for rank, a := range f.Authority {
				if a != source {
					continue
				}
				w := said{f.Name, -1}
				if rank == 0 && f.Name != Identity {
					w.lead = g.leads[i]
					g.leads[i]++
				}
				g.says[i] = append(g.says[i], w)
			}
		}
	}
	return g, nil
}

// Next gives the next fact. The first three of each account introduce it, one
// for each source; those that follow change a value, repeat what is known, or
// are copies of a recent fact. The fact is the caller's.
func (g *Generator) Next() signal.Fact {
	if n := g.seeded; n < 3*g.spec.Keys {
		g.seeded++
		return g.say(n%3, n/3)
	}
	if len(g.recent) > 0 && g.rnd.Float64() < g.spec.Duplicates {
		return g.recent[g.rnd.IntN(len(g.recent))]
	}
	s, account := g.rnd.IntN(3), int(g.zipf.Uint64())
	if g.rnd.Float64() < g.spec.Changing {
		g.revisions[s][account]++
	}
	f := g.say(s, account)
	if len(g.recent) < recentFacts {
		g.recent = append(g.recent, f)
	} else {
		g.recent[g.made%recentFacts] = f
	}
	return f
}

// Introductions is how many facts Next gives before every account is known to
// every source.
func (g *Generator) Introductions() int { return 3 * g.spec.Keys }

// say makes what a source now claims about an account.
func (g *Generator) say(s, account int) signal.Fact {
	g.made++
	n := int64(g.made)
	at := epoch + envelope.Instant(n*1000)
	id := fmt.Sprintf("%s:%d:%d", Domain, account&3, n)
	number := Account(account)
	f := signal.Fact{Entity: number, Signal: signal.Signal{
		ID: id, Journal: id, Signals: 1, Tenant: envelope.DefaultTenant, Source: g.sources[s], SourceKey: number, Resource: Resource,
		Match: []canonical.Value{canonical.String(number)}, OccurredAt: at, Sequence: n, ReceivedAt: at + 250, Mapping: Resource,
		Cause: envelope.Cause{Correlation: fmt.Sprintf("%016x%016x", g.rnd.Uint64(), n), Causation: id},
	}}
	// Each revision changes one field: the first the first one, then the next.
	rev, k := int(g.revisions[s][account]), g.leads[s]
	for _, w := range g.says[s] {
		v := canonical.String(number)
		if w.name != Identity {
			value := 0
			if w.lead >= 0 {
				value = (rev + k - 1 - w.lead) / k
			}
			v = canonical.Value(fmt.Sprintf(`"%s of %s, %d"`, w.name[len("attribute"):], number, value))
		}
		f.Signal.Fields = append(f.Signal.Fields, canonical.Named{Name: w.name, Value: v})
	}
	return f
}

// Account gives the id of the n-th account.
func Account(n int) string { return fmt.Sprintf("A-%08d", n) }

// accountOf reads what Account writes.
func accountOf(id string) (int, error) {
	var n int
	if _, err := fmt.Sscanf(id, "A-%08d", &n); err != nil || Account(n) != id {
		return 0, fmt.Errorf("account %q: expected A- and eight digits", id)
	}
	return n, nil
}

// Number gives which of the facts made, counted from 1, has a signal id.
func Number(signalID string) (int64, error) {
	var p int
	var n int64
	if _, err := fmt.Sscanf(signalID, Domain+":%d:%d", &p, &n); err != nil {
		return 0, fmt.Errorf("signal %q: expected %s:<partition>:<number>", signalID, Domain)
	}
	return n, nil
}
