// Package workload makes the deliveries of the chaos run: a sequence that is a
// pure function of a seed and of the moment at which it begins. It knows the
// domain in chaos.yaml from the side of the senders.
//
// It does not say what should become of a delivery beyond its [Class]; package
// oracle does.
package workload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Class is what a delivery is made to be, as far as its sender can know.
type Class string

// The classes.
const (
	Good     Class = "good"     // is taken in, be it late, early or of no effect
	Copy     Class = "copy"     // the same delivery as one before
	Conflict Class = "conflict" // the event id of one before, and another body
	Foreign  Class = "foreign"  // no rule applies to it
	Poison   Class = "poison"   // cannot be understood
	Big      Class = "big"      // its signal fits into no topic
	Refused  Class = "refused"  // is too big or too deep for the door
)

// Delivery is one request to a source.
type Delivery struct {
	// N counts from 0.
	N      int
	Source string
	// EventID goes into the header X-Event-Id; empty where the source has none.
	EventID string
	Body    []byte
	Class   Class
	// Of is the delivery that this one is a copy of, or in conflict with; N of
	// its own otherwise.
	Of int
}

// Options of a Generator. The zero value of Accounts and Devices is replaced.
type Options struct {
	Seed uint64
	// Epoch is about when the first delivery happened, as the sources tell it.
	Epoch time.Time
	// Accounts and Devices that there are; defaults 1500 and 400.
	Accounts, Devices int
	// NoBad leaves out what is poison, conflicting, foreign or too big.
	NoBad bool
}

// Generator gives deliveries one after the other. It is not safe for
// concurrent use.
type Generator struct {
	o        Options
	rng      *rand.Rand
	accounts *rand.Zipf
	devices  *rand.Zipf
	n        int
	revision map[string]int
	// recent and old are deliveries that may come again.
	recent, old []Delivery
}

// New makes a generator.
func New(o Options) *Generator {
	if o.Accounts == 0 {
		o.Accounts = 1500
	}
	if o.Devices == 0 {
		o.Devices = 400
	}
	rng := rand.New(rand.NewPCG(o.Seed, 0x70756368))
	return &Generator{
		o: o, rng: rng, revision: map[string]int{},
		accounts: rand.NewZipf(rng, 1.1, 8, uint64(o.Accounts-1)),
		devices:  rand.NewZipf(rng, 1.1, 8, uint64(o.Devices-1)),
	}
}

// The shares of what is not new and good.
const (
	copyNow   = 0.06  // of one of the last 64
	copyLate  = 0.04  // of one from any time before
	conflicts = 0.004 // of a source with event ids
	foreign   = 0.004
	poison    = 0.01
	big       = 0.0004
	refused   = 0.0006
)

// Next gives the next delivery.
func (g *Generator) Next() Delivery {
	d := g.make()
	d.N = g.n
	if d.Class != Copy && d.Class != Conflict {
		d.Of = d.N
	}
	g.n++
	if d.Class == Good {
		g.remember(d)
	}
	return d
}

func (g *Generator) make() Delivery {
	x := g.rng.Float64()
	under := func(share float64) bool {
		x -= share
		return x < 0
	}
	switch {
	case under(copyNow) && len(g.recent) > 0:
		return g.again(g.recent[g.rng.IntN(len(g.recent))])
	case under(copyLate) && len(g.old) > 0:
		return g.again(g.old[g.rng.IntN(len(g.old))])
	case g.o.NoBad:
	case under(conflicts) && len(g.recent) > 0:
		return g.conflict(g.recent[g.rng.IntN(len(g.recent))])
	case under(foreign):
		return Delivery{Source: "crm", EventID: g.eventID(), Class: Foreign, Body: g.json(map[string]any{"type": "ping", "id": g.pick("c-%d", 50)})}
	case under(poison):
		return g.poison()
	case under(big):
		d := g.crmAccount(func(m map[string]any) { delete(m, "gone") })
		d.Class = Big
		d.Body = g.padded(d.Body, "note", 540_000)
		return d
	case under(refused):
		if g.rng.IntN(3) > 0 {
			return Delivery{Source: "web", Class: Refused, Body: []byte(strings.Repeat("[", 70) + g.pick("%d", 1<<20) + strings.Repeat("]", 70))}
		}
		d := g.crm()
		d.Class = Refused
		d.Body = g.padded(d.Body, "note", 950_000)
		return d
	}
	switch g.rng.IntN(3) {
	case 0:
		return g.crm()
	case 1:
		return g.billing()
	}
	return g.web()
}

// remember keeps the last deliveries, and a sample of all.
func (g *Generator) remember(d Delivery) {
	if len(g.recent) < 64 {
		g.recent = append(g.recent, d)
	} else {
		g.recent[d.N%64] = d
	}
	if len(g.old) < 2000 {
		g.old = append(g.old, d)
	} else if i := g.rng.IntN(d.N); i < 2000 {
		g.old[i] = d
	}
}

// again sends a delivery once more; a sender without event ids says when it
// sends, which is no content.
func (g *Generator) again(d Delivery) Delivery {
	d.Class = Copy
	if d.Source == "web" {
		var m map[string]any
		if err := json.Unmarshal(d.Body, &m); err != nil {
			panic(fmt.Sprintf("workload: delivery %d is not what it made: %v", d.N, err))
		}
		m["sentAt"] = g.n
		d.Body = g.json(m)
	}
	return d
}

func (g *Generator) conflict(d Delivery) Delivery {
	if d.Source == "web" { // it has no ids that could be in conflict
		return g.again(d)
	}
	var m map[string]any
	if err := json.Unmarshal(d.Body, &m); err != nil {
		panic(fmt.Sprintf("workload: delivery %d is not what it made: %v", d.N, err))
	}
	m["conflict"] = g.n
	d.Class, d.Body = Conflict, g.json(m)
	return d
}

func (g *Generator) padded(body []byte, member string, n int) []byte {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		panic(fmt.Sprintf("workload: it made no JSON: %v", err))
	}
	m[member] = strings.Repeat("x", n)
	return g.json(m)
}

// poison is made of records that are there: of one that is gone no field is
// read.
func (g *Generator) poison() Delivery {
	broken := func(change func(m map[string]any)) Delivery {
		d := g.crmAccount(func(m map[string]any) {
			delete(m, "gone")
			change(m)
		})
		d.Class = Poison
		return d
	}
	switch g.rng.IntN(8) {
	case 0: // cut off
		d := g.billing()
		d.Class, d.Body = Poison, d.Body[:len(d.Body)/2]
		return d
	case 1: // nothing at all
		return Delivery{Source: "web", Class: Poison, Body: []byte(" ")}
	case 2: // not UTF-8
		d := g.crm()
		d.Class, d.Body = Poison, append(append([]byte(`{"x":"`), 0xff, 0xfe, '"', ','), d.Body[1:]...)
		return d
	case 3: // no key
		d := g.edit(g.crm(), func(m map[string]any) { delete(m, "id") })
		d.Class = Poison
		return d
	case 4: // a value of the wrong type
		return broken(func(m map[string]any) { m["creditLimit"] = "much" })
	case 5: // a word that is not declared
		return broken(func(m map[string]any) { m["stage"] = "prospect" })
	case 6: // nobody to speak of: the inbox takes it, resolve does not
		return broken(func(m map[string]any) { m["number"] = nil })
	default: // no date
		return broken(func(m map[string]any) { m["at"] = "yesterday" })
	}
}

func (g *Generator) edit(d Delivery, change func(m map[string]any)) Delivery {
	var m map[string]any
	if err := json.Unmarshal(d.Body, &m); err != nil {
		panic(fmt.Sprintf("workload: it made no JSON: %v", err))
	}
	change(m)
	d.Body = g.json(m)
	return d
}

// at gives when a delivery says that it happened: about now; sometimes late,
// sometimes long ago, sometimes ahead, sometimes at the same moment as others.
func (g *Generator) at() time.Time {
	now := g.o.Epoch.Add(time.Duration(g.n) * 2 * time.Millisecond)
	switch x := g.rng.Float64(); {
	case x < 0.70:
	case x < 0.80:
		now = now.Add(-time.Duration(g.rng.Int64N(int64(2 * time.Minute))))
	case x < 0.86:
		now = now.Add(-time.Duration(g.rng.Int64N(int64(8 * time.Hour))))
	case x < 0.90:
		now = now.Add(-time.Duration(g.rng.Int64N(int64(72 * time.Hour))))
	case x < 0.92:
		now = now.Add(time.Duration(g.rng.Int64N(int64(time.Hour))))
	default:
		now = now.Truncate(time.Second)
	}
	return now.UTC().Truncate(time.Microsecond)
}

func (g *Generator) stamp(m map[string]any, name string) {
	t := g.at()
	switch g.rng.IntN(3) {
	case 0:
		m[name] = t.Format(time.RFC3339Nano)
	case 1:
		m[name] = t.UnixMilli()
	default:
		m[name] = t.UnixMicro()
	}
}

// maybe sets a member with some probability, and rarely to null.
func (g *Generator) maybe(m map[string]any, name string, value any) {
	switch x := g.rng.Float64(); {
	case x < 0.45:
		m[name] = value
	case x < 0.49:
		m[name] = nil
	}
}

func (g *Generator) pick(format string, n int) string { return fmt.Sprintf(format, g.rng.IntN(n)) }

func (g *Generator) one(of ...string) string { return of[g.rng.IntN(len(of))] }

func (g *Generator) tags() []any {
	out := make([]any, g.rng.IntN(4))
	for i := range out {
		out[i] = g.pick("t%d", 9)
	}
	return out
}

func (g *Generator) next(record string) int {
	g.revision[record]++
	return g.revision[record]
}

func (g *Generator) eventID() string { return fmt.Sprintf("e-%d-%06d", g.o.Seed, g.n) }

func (g *Generator) crm() Delivery {
	if g.rng.IntN(8) == 0 {
		return g.crmDevice()
	}
	return g.crmAccount(nil)
}

func (g *Generator) crmAccount(change func(map[string]any)) Delivery {
	n := g.accounts.Uint64()
	id := fmt.Sprintf("c-%d", n)
	if g.rng.IntN(10) == 0 {
		id += "b" // a second record of the same account
	}
	m := map[string]any{"type": "account", "id": id, "number": fmt.Sprintf("A%d", n), "rev": g.next(id)}
	if g.rng.IntN(20) == 0 {
		m["rev"] = 0 // a tie, where the moment is the same too
	}
	g.stamp(m, "at")
	if g.rng.IntN(40) == 0 {
		m["gone"] = true
	}
	g.maybe(m, "name", " "+g.pick("name-%d ", 1000))
	g.maybe(m, "email", g.pick("U%d@X.Example", 1000))
	g.maybe(m, "phone", g.pick("%09d", 1e9))
	g.maybe(m, "creditLimit", g.rng.IntN(100)*50)
	g.maybe(m, "discount", g.rng.IntN(30))
	g.maybe(m, "tier", g.one("basic", "silver", "gold"))
	g.maybe(m, "tags", g.tags())
	g.maybe(m, "risk", g.rng.IntN(5))
	g.maybe(m, "score", g.rng.IntN(1000))
	g.maybe(m, "note", g.pick("note %d\n\"ünï\"", 100))
	if g.rng.IntN(6) == 0 {
		m["stage"] = g.one("lead", "customer", "customer", "customer", "paused", "lost")
	}
	if g.rng.IntN(4) == 0 {
		a := map[string]any{}
		g.address(a)
		m["address"] = a
	}
	if change != nil {
		change(m)
	}
	return Delivery{Source: "crm", EventID: g.eventID(), Class: Good, Body: g.json(m)}
}

func (g *Generator) address(m map[string]any) {
	g.maybe(m, "street", g.pick("street %d", 500))
	g.maybe(m, "zip", g.pick("%05d", 1e5))
	g.maybe(m, "city", g.one("Oslo", "Graz", "Zürich", "Łódź"))
}

func (g *Generator) crmDevice() Delivery {
	n := g.devices.Uint64()
	id := fmt.Sprintf("d-%d", n)
	m := map[string]any{"type": "device", "id": id, "rev": g.next(id), "site": fmt.Sprintf("S/%d", n%7), "label": fmt.Sprintf("L %d", n)}
	g.stamp(m, "at")
	if g.rng.IntN(40) == 0 {
		m["gone"] = true
	}
	g.maybe(m, "owner", g.pick("A%d", 100))
	g.maybe(m, "mileage", g.rng.IntN(1e5))
	return Delivery{Source: "crm", EventID: g.eventID(), Class: Good, Body: g.json(m)}
}

func (g *Generator) billing() Delivery {
	n := g.accounts.Uint64()
	id := fmt.Sprintf("b-%d", n)
	a := map[string]any{"id": id, "number": fmt.Sprintf("A%d", n), "rev": g.next(id)}
	m := map[string]any{"event": g.eventID(), "kind": "account.changed", "account": a}
	g.stamp(m, "at")
	if g.rng.IntN(40) == 0 {
		m["kind"] = "account.closed-books"
	}
	g.maybe(a, "holder", g.pick("holder-%d", 1000))
	g.maybe(a, "phone", g.pick("%09d", 1e9))
	g.maybe(a, "creditLimit", g.rng.IntN(100)*50)
	g.maybe(a, "discount", g.rng.IntN(30))
	g.maybe(a, "tier", g.one("basic", "silver", "gold"))
	g.maybe(a, "risk", g.rng.IntN(5))
	g.maybe(a, "score", g.rng.IntN(1000))
	g.address(a)
	if g.rng.IntN(6) == 0 {
		a["status"] = g.one("new", "active", "active", "active", "suspended", "closed")
	}
	return Delivery{Source: "billing", Class: Good, Body: g.json(m)}
}

func (g *Generator) web() Delivery {
	m := map[string]any{"sentAt": g.n, "nonce": g.n}
	if g.rng.IntN(5) > 0 {
		g.stamp(m, "at")
	}
	if g.rng.IntN(4) > 0 {
		n := g.accounts.Uint64()
		a := map[string]any{"login": fmt.Sprintf("w-%d", n), "number": fmt.Sprintf("A%d", n)}
		if g.rng.IntN(40) == 0 {
			a["gone"] = true
		}
		g.maybe(a, "email", g.pick("W%d@x.example", 1000))
		g.maybe(a, "tier", g.one("basic", "silver", "gold"))
		g.maybe(a, "tags", g.tags())
		g.maybe(a, "risk", g.rng.IntN(5))
		g.maybe(a, "score", g.rng.IntN(1000))
		if g.rng.IntN(10) == 0 {
			a["status"] = g.one("active", "closed") // it has no say in this
		}
		m["account"] = a
	}
	if m["account"] == nil || g.rng.IntN(3) == 0 {
		items := make([]any, 1+g.rng.IntN(3))
		for i := range items {
			n := g.devices.Uint64()
			item := map[string]any{"id": fmt.Sprintf("x-%d", n), "site": fmt.Sprintf("S/%d", n%7), "label": fmt.Sprintf("L %d", n)}
			if g.rng.IntN(3) > 0 {
				g.stamp(item, "at")
			}
			if g.rng.IntN(40) == 0 {
				item["gone"] = true
			}
			g.maybe(item, "owner", g.pick("A%d", 100))
			g.maybe(item, "reading", g.rng.IntN(50))
			g.maybe(item, "mileage", g.rng.IntN(1e5))
			items[i] = item
		}
		m["devices"] = items
	}
	return Delivery{Source: "web", Class: Good, Body: g.json(m)}
}

func (g *Generator) json(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("workload: %v", err)) // only plain values are put in
	}
	return b
}
