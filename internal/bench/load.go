package bench

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/registry"
)

//go:embed domain.yaml
var domainText []byte

// Names of what domain.yaml declares.
const (
	domainName   = "bench"
	resourceName = "account"
)

// define compiles the benchmark's domain.
func define() (*definition.Domain, error) {
	return registry.Parse("bench/domain.yaml", domainText, builtin.Kinds())
}

// speaker is a source and the members of what it sends that it alone decides,
// so that another value of one of them is a change of canonical state whatever
// the other sources say.
type speaker struct {
	name   string
	decide []string
	// also is said as well, but decided by others or never changed.
	also []string
}

func speakers() []speaker {
	return []speaker{
		{"crm", []string{"name", "email", "phone", "segment", "manager"}, []string{"language", "since", "street", "city"}},
		{"billing", []string{"street", "postalCode", "city", "country", "balance", "termDays"}, []string{"name", "currency"}},
		{"support", []string{"tier", "openTickets", "satisfaction", "contactAt", "notes"}, []string{"email"}},
	}
}

// plan is what becomes of deliveries if Touchstone is right.
type plan struct{ Deliveries, Changes, NoChanges, Duplicates int }

// delivery is one body on its way to the door.
type delivery struct {
	source int
	body   []byte
}

// generator makes deliveries. The same seed gives the same ones, but for the
// moment at which it begins to count time.
type generator struct {
	speakers  []speaker
	rnd, ids  *rand.Rand
	zipf      *rand.Zipf
	entities  int
	changing  float64
	duplicate float64

	// revisions of each source record: how many changes it went through.
	revisions [][]uint32
	seeded    int
	sent      int
	at        time.Time
	recent    []delivery
	planned   plan
}

// recentDeliveries is how far back a duplicate may reach.
const recentDeliveries = 2000

func newGenerator(o Options) *generator {
	g := &generator{
		speakers: speakers(), rnd: rand.New(rand.NewPCG(o.Seed, 0)), ids: rand.New(rand.NewPCG(o.Seed, 1)), entities: o.Entities,
		changing: o.Changing, duplicate: o.Duplicate, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	g.zipf = rand.NewZipf(g.rnd, o.Zipf, 1, uint64(o.Entities-1))
	g.revisions = make([][]uint32, len(g.speakers))
	for i := range g.revisions {
		g.revisions[i] = make([]uint32, o.Entities)
	}
	return g
}

// seed gives the first delivery of each source about each entity; false when
// there are no more.
func (g *generator) seed() (delivery, bool) {
	if g.seeded == len(g.speakers)*g.entities {
		return delivery{}, false
	}
	s, e := g.seeded%len(g.speakers), g.seeded/len(g.speakers)
	g.seeded++
	g.planned.Changes++
	return g.say(s, e), true
}

// next gives a delivery about an entity that is known: a change, the same
// again in a new delivery, or a copy of a recent delivery.
func (g *generator) next() delivery {
	if len(g.recent) > 0 && g.rnd.Float64() < g.duplicate {
		g.planned.Deliveries++
		g.planned.Duplicates++
		return g.recent[g.rnd.IntN(len(g.recent))]
	}
	s, e := g.rnd.IntN(len(g.speakers)), int(g.zipf.Uint64())
	if g.rnd.Float64() < g.changing {
		g.revisions[s][e]++
		g.planned.Changes++
	} else {
		g.planned.NoChanges++
	}
	d := g.say(s, e)
	if len(g.recent) < recentDeliveries {
		g.recent = append(g.recent, d)
	} else {
		g.recent[g.sent%recentDeliveries] = d
	}
	return d
}

// say writes what a source now says about an entity.
func (g *generator) say(s, e int) delivery {
	g.planned.Deliveries++
	g.sent++
	g.at = g.at.Add(time.Millisecond)
	sp := &g.speakers[s]
	b := make([]byte, 0, 512)
	b = append(b, `{"id":"`...)
	// Event ids without an order of their own, as UUIDs have none.
	b = fmt.Appendf(b, "%016x%016x", g.ids.Uint64(), g.sent)
	b = append(b, `","at":"`...)
	b = g.at.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = fmt.Appendf(b, `","account":{"number":"A-%08d"`, e)
	rev, k := int(g.revisions[s][e]), len(sp.decide)
	for i, name := range sp.decide {
		// Each revision changes one field: the first changes field 1, then 2, …
		b = appendMember(b, name, e, (rev+k-1-i)/k)
	}
	for _, name := range sp.also {
		b = appendMember(b, name, e, 0)
	}
	return delivery{source: s, body: append(b, `}}`...)}
}

// appendMember writes a member in its n-th value for an entity.
func appendMember(b []byte, name string, e, n int) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	switch name {
	case "termDays", "openTickets", "satisfaction":
		return strconv.AppendInt(b, int64(n), 10)
	case "balance":
		return fmt.Appendf(b, `"%d.%02d"`, n, e%100)
	case "since":
		return append(b, `"2019-04-01"`...)
	case "contactAt":
		b = append(b, '"')
		return append(time.Unix(1_700_000_000+int64(n), 0).UTC().AppendFormat(b, time.RFC3339), '"')
	case "email":
		return fmt.Appendf(b, `"account.%d.%d@example.com"`, e, n)
	case "currency":
		return append(b, `"EUR"`...)
	case "language":
		return append(b, `"de-CH"`...)
	case "notes":
		return fmt.Appendf(b, `"Asked for a call back on matter %d of account %d; prefers the morning."`, n, e)
	}
	return fmt.Appendf(b, `"%s of account %d, %d"`, name, e, n)
}
