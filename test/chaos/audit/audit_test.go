package audit

import (
	"slices"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
	"github.com/touchstone-platform/touchstone/topology"
)

// Oracle: the model and the product were written apart; over many seeds, with
// every kind of delivery and any order that Kafka allows, they agree on
// everything that the audit looks at.
func TestProductAgreesWithOracle(t *testing.T) {
	n := 1500
	if testing.Short() {
		n = 500
	}
	for seed := range uint64(4) {
		p := newProduct(t, seed, nil).run(n)
		r := Audit(p.sent, p.log)
		if !r.OK() {
			t.Errorf("seed %d: %s", seed, r)
		}
		if r.Duplicates == 0 || r.Conflicts == 0 || r.DeadLetters == 0 || r.Changes < n/4 {
			t.Errorf("seed %d tests too little: %s", seed, r)
		}
	}
}

// Oracle: each way in which a product could be wrong is found, with the kind
// that it is of.
func TestWrongProducts(t *testing.T) {
	reversed := func(field string) func(*definition.Domain) {
		return func(d *definition.Domain) {
			r, _ := d.Resource("account")
			f, _ := r.Field(field)
			f.Authority = slices.Clone(f.Authority)
			slices.Reverse(f.Authority)
		}
	}
	policy := func(field string, p definition.Policy) func(*definition.Domain) {
		return func(d *definition.Domain) {
			r, _ := d.Resource("account")
			f, _ := r.Field(field)
			f.Policy = p
		}
	}
	for name, tc := range map[string]struct {
		change    func(*definition.Domain)
		forgetful bool
		want      Kind
	}{
		"no dedupe":                 {forgetful: true, want: Doubled},
		"authority of a name":       {change: reversed("name"), want: Wrong},
		"authority of a tie":        {change: reversed("tier"), want: Wrong},
		"first instead of last":     {change: policy("email", definition.Earliest), want: Wrong},
		"last instead of first":     {change: policy("phone", definition.Latest), want: Wrong},
		"greatest instead of least": {change: policy("discount", definition.Max), want: Wrong},
		"no maximum age": {want: Wrong, change: func(d *definition.Domain) {
			r, _ := d.Resource("account")
			f, _ := r.Field("score")
			f.MaxAge = 0
		}},
		"a move that is not allowed": {want: Wrong, change: func(d *definition.Domain) {
			r, _ := d.Resource("account")
			r.Lifecycle.Moves["closed"] = []string{"active"}
		}},
		"an event that is not declared": {want: Wrong, change: func(d *definition.Domain) {
			r, _ := d.Resource("account")
			r.Events = r.Events[1:]
		}},
	} {
		p := newProduct(t, 1, tc.change)
		p.forgetful = tc.forgetful
		r := Audit(p.run(1500).sent, p.log)
		if counts := map[Kind]int{Lost: r.Lost, Doubled: r.Doubled, Wrong: r.Wrong}; counts[tc.want] == 0 {
			t.Errorf("%s: expected something %s, found %s", name, tc.want, r)
		}
	}
}

// remove takes a record out of a topic.
func remove[T any](from *[]At[T], i int) { *from = slices.Delete(slices.Clone(*from), i, i+1) }

// repeat writes a record of a topic once more, behind all others.
func repeat[T any](to *[]At[T], i int) {
	x := (*to)[i]
	for _, o := range *to {
		if o.Partition == x.Partition {
			x.Offset = max(x.Offset, o.Offset+1)
		}
	}
	*to = append(*to, x)
}

// exchange lets two records change places.
func exchange[T any](in []At[T], i, j int) {
	in[i].Key, in[j].Key = in[j].Key, in[i].Key
	in[i].Value, in[j].Value = in[j].Value, in[i].Value
	in[i].Headers, in[j].Headers = in[j].Headers, in[i].Headers
}

// Oracle: a sound log is doctored in one place, and the report names that place
// and what is the matter with it.
func TestDoctoredLogs(t *testing.T) {
	sound := newProduct(t, 5, nil).run(600)
	if r := Audit(sound.sent, sound.log); !r.OK() {
		t.Fatalf("the log is not sound to begin with: %s", r)
	}
	last := func(l *Log, key string) int {
		for i, x := range slices.Backward(l.Entities) {
			if x.Key == key {
				return i
			}
		}
		return -1
	}
	// busy is an entity with several versions.
	busy := func(l *Log) (key string, at []int) {
		by := map[string][]int{}
		for i, c := range l.Changes {
			by[c.Key] = append(by[c.Key], i)
			if len(by[c.Key]) == 5 {
				return c.Key, by[c.Key]
			}
		}
		t.Fatal("no entity with five versions")
		return "", nil
	}
	for name, tc := range map[string]struct {
		doctor func(p *product, l *Log)
		kind   Kind
		says   string
	}{
		"an acknowledged delivery is not in the journal": {func(p *product, l *Log) { remove(&l.Journal, 200) }, Lost, "which is not in the journal"},
		"an acknowledgement names another one's place": {func(p *product, l *Log) {
			i := slices.IndexFunc(p.sent, func(s Sent) bool { return s.Acked })
			p.sent[i].ID = p.sent[i+40].ID
		}, Lost, "was acknowledged as"},
		"a delivery that nobody sent": {func(p *product, l *Log) {
			e := *l.Journal[10].Value
			e.Body = []byte(`{"type":"ping","id":"nobody"}`)
			l.Journal[10].Value = &e
		}, Doubled, "was sent 0 times"},
		"a delivery stands more often than it was sent": {func(p *product, l *Log) { repeat(&l.Journal, 20) }, Doubled, "times and was sent"},
		"a refused delivery is taken in": {func(p *product, l *Log) {
			i := slices.IndexFunc(p.sent, func(s Sent) bool { return s.Class == workload.Good })
			p.sent[i].Class = workload.Refused
		}, Wrong, "was taken in"},
		"a signal is lost":    {func(p *product, l *Log) { remove(&l.Signals, 100) }, Lost, "is not in the signals"},
		"a signal is doubled": {func(p *product, l *Log) { repeat(&l.Signals, 100) }, Doubled, "is there again"},
		"a signal of a duplicate": {func(p *product, l *Log) {
			s := *l.Signals[100].Value
			s.ID = "chaos:0:99999"
			l.Signals[100].Value = &s
		}, Doubled, "has no reason to be"},
		"a claim is wrong": {func(p *product, l *Log) {
			i := slices.IndexFunc(l.Signals, func(s At[*signalValue]) bool { return len(s.Value.Fields) > 2 })
			s := *l.Signals[i].Value
			s.Fields = slices.Clone(s.Fields)
			s.Fields[1].Value = `"other"`
			l.Signals[i].Value = &s
		}, Wrong, `is "other", expected`},
		"signals of a record change places": {func(p *product, l *Log) {
			by := map[string]int{}
			for i, s := range l.Signals {
				if j, ok := by[s.Key]; ok && strings.Contains(s.Key, "/crm/") {
					exchange(l.Signals, i, j)
					return
				}
				by[s.Key] = i
			}
		}, Wrong, "that the journal has behind it"},
		"a fact is lost":    {func(p *product, l *Log) { remove(&l.Facts, 50) }, Lost, "is not among the facts"},
		"a fact is doubled": {func(p *product, l *Log) { repeat(&l.Facts, 50) }, Doubled, "is there again"},
		"a fact about another entity": {func(p *product, l *Log) {
			f := *l.Facts[50].Value
			f.Entity = "A999"
			l.Facts[50].Value = &f
		}, Wrong, "entity is A999"},
		"a change is lost": {func(p *product, l *Log) {
			_, at := busy(l)
			remove(&l.Changes, at[2])
		}, Lost, "goes from version 2 to 4"},
		"the last change is lost": {func(p *product, l *Log) { remove(&l.Changes, len(l.Changes)-1) }, Lost, "changes, expected"},
		"a change is doubled": {func(p *product, l *Log) {
			_, at := busy(l)
			repeat(&l.Changes, at[2])
		}, Doubled, "has version 3 again"},
		"a change too many": {func(p *product, l *Log) {
			key, _ := busy(l)
			i := 0
			for j, c := range l.Changes {
				if c.Key == key {
					i = j
				}
			}
			c := *l.Changes[i].Value
			c.Version++
			repeat(&l.Changes, i)
			l.Changes[len(l.Changes)-1].Value = &c
		}, Doubled, "changes"},
		"a changed value is wrong": {func(p *product, l *Log) {
			_, at := busy(l)
			c := *l.Changes[at[1]].Value
			c.After = slices.Clone(c.After)
			c.After[0].Value = `"other"`
			l.Changes[at[1]].Value = &c
		}, Wrong, `is "other", expected`},
		"a change without its event": {func(p *product, l *Log) {
			i := slices.IndexFunc(l.Changes, func(c At[*changeValue]) bool { return len(c.Value.Events) > 1 })
			c := *l.Changes[i].Value
			c.Events = c.Events[1:]
			l.Changes[i].Value = &c
		}, Wrong, "events is"},
		"an event is lost":    {func(p *product, l *Log) { remove(&l.Events, 77) }, Lost, "is not published"},
		"an event is doubled": {func(p *product, l *Log) { repeat(&l.Events, 77) }, Doubled, "is published again"},
		"an event of nothing": {func(p *product, l *Log) {
			l.Events[77].Headers = map[string]string{"ce_id": "other"}
		}, Doubled, "has no reason to be"},
		"events of an entity change places": {func(p *product, l *Log) {
			key, _ := busy(l)
			first := -1
			for i, e := range l.Events {
				if e.Key == key && first >= 0 {
					exchange(l.Events, first, i)
					return
				} else if e.Key == key {
					first = i
				}
			}
		}, Wrong, "is out of order"},
		"an event says something else": {func(p *product, l *Log) {
			d := *l.Events[77].Value
			d.Data = map[string]any{"id": d.Data["id"], "version": d.Data["version"], "change": d.Data["change"], "entity": map[string]any{"number": "other"}}
			l.Events[77].Value = &d
		}, Wrong, "entity number is other"},
		"an entity is not in the table": {func(p *product, l *Log) {
			key, _ := busy(l)
			l.Entities = slices.DeleteFunc(l.Entities, func(e At[*canonical.Entity]) bool { return e.Key == key })
		}, Lost, "is not in the table"},
		"an entity nobody spoke of": {func(p *product, l *Log) {
			l.Entities = append(l.Entities, At[*canonical.Entity]{Key: "default/account/B1", Value: &canonical.Entity{}})
		}, Doubled, "has no reason to be"},
		"a field of the table is wrong": {func(p *product, l *Log) {
			key, _ := busy(l)
			i := last(l, key)
			e := clone(t, l.Entities[i].Value)
			e.Fields[0].Value = `"other"`
			l.Entities[i].Value = e
		}, Wrong, `is "other", expected`},
		"the version of the table is behind": {func(p *product, l *Log) {
			key, _ := busy(l)
			i := last(l, key)
			e := clone(t, l.Entities[i].Value)
			e.Version--
			l.Entities[i].Value = e
		}, Wrong, "version is"},
		"the provenance is another one's": {func(p *product, l *Log) {
			for i, x := range slices.Backward(l.Entities) {
				if _, ok := x.Value.Field("name"); !ok || len(x.Value.Contributions) < 2 || last(l, x.Key) != i {
					continue
				}
				e := clone(t, x.Value)
				f, _ := e.Field("name")
				f.Winner = (f.Winner + 1) % int32(len(e.Contributions))
				l.Entities[i].Value = e
				return
			}
		}, Wrong, "name decided by"},
		"a delivery without an outcome": {func(p *product, l *Log) { remove(&l.Outcomes, 30) }, Lost, "has no outcome"},
		"an outcome of nothing": {func(p *product, l *Log) {
			l.Outcomes[30].Key = "chaos:0:99999"
		}, Doubled, "no reason to have one"},
		"an outcome is wrong": {func(p *product, l *Log) {
			i := slices.IndexFunc(l.Outcomes, func(o At[*journal.Outcome]) bool { return o.Value.Disposition == journal.Changed })
			o := *l.Outcomes[i].Value
			o.Disposition = journal.Unchanged
			l.Outcomes[i].Value = &o
		}, Wrong, "disposition is no-change, expected change"},
		"a dead letter is lost":    {func(p *product, l *Log) { remove(&l.Dead, 2) }, Lost, "has no dead letter"},
		"a dead letter is doubled": {func(p *product, l *Log) { repeat(&l.Dead, 2) }, Doubled, "is there again"},
		"a dead letter without a reason": {func(p *product, l *Log) {
			p.dead(recordOf(&l.Facts[9]), failure.New(failure.Poison, "merge", "x", "broken"), "panic")
		}, Doubled, "which needs none"},
	} {
		t.Run(name, func(t *testing.T) {
			p := sound.copy()
			tc.doctor(p, p.log)
			r := Audit(p.sent, p.log)
			if !slices.ContainsFunc(r.Examples, func(f Finding) bool { return f.Kind == tc.kind && strings.Contains(f.What, tc.says) }) {
				t.Errorf("expected %s: … %s …, found %s", tc.kind, tc.says, r)
			}
		})
	}
}

// Oracle: an injected panic is a dead letter and has no effect; what it would
// have done is missed nowhere.
func TestInjectedPanic(t *testing.T) {
	p := newProduct(t, 7, nil)
	gen := workload.New(workload.Options{Seed: 7, Epoch: p.clock.Time(), Accounts: 30, NoBad: true})
	for i := range 600 {
		p.send(gen.Next())
		for topic, queues := range p.queues {
			for part, q := range queues {
				if i%50 == 17 && len(q) > 0 { // it never gets to the station
					in := q[0]
					p.queues[topic][part] = q[1:]
					p.dead(in, failure.New(failure.Poison, "step", "x", "panic: failpoint: engine/step/station[chaos.merge] hit 3"), "panic")
					for _, e := range p.stations[topic].(interface {
						Failed(processorRecord, error) []processorEmit
					}).Failed(in, failure.New(failure.Poison, "step", "x", "panic")) {
						p.append(e.Stream, 0, e.Key, e.Value)
					}
				}
			}
		}
		p.step()
	}
	for p.step() {
	}
	r := Audit(p.sent, p.log)
	if !r.OK() || r.Panics < 5 {
		t.Errorf("%s", r)
	}
}

// Oracle: a log is the same as itself; a replay that adds or changes anything
// is told.
func TestAuditReplay(t *testing.T) {
	sound := newProduct(t, 3, nil).run(600).log
	if r := AuditReplay(sound, sound); !r.OK() || r.Retold != 0 {
		t.Fatalf("a log is not the same as itself: %s", r)
	}
	for name, tc := range map[string]struct {
		doctor func(l *Log)
		kind   Kind
		says   string
	}{
		"a change is added":   {func(l *Log) { repeat(&l.Changes, 3) }, Doubled, "added a record"},
		"an event is added":   {func(l *Log) { repeat(&l.Events, 3) }, Doubled, "added a record"},
		"an entry is removed": {func(l *Log) { remove(&l.Journal, 3) }, Lost, "removed a record"},
		"an entity changes": {func(l *Log) {
			repeat(&l.Entities, 3)
			l.Entities[len(l.Entities)-1].Raw = []byte("other")
		}, Wrong, "changed the entity"},
		"an entity is made": {func(l *Log) {
			repeat(&l.Entities, 3)
			l.Entities[len(l.Entities)-1].Key = "default/account/B1"
		}, Doubled, "made the entity"},
		"another signal": {func(l *Log) {
			repeat(&l.Signals, 3)
			l.Signals[len(l.Signals)-1].Raw = []byte("other")
		}, Wrong, "made another signal"},
		"an outcome": {func(l *Log) {
			repeat(&l.Outcomes, 3)
			o := *l.Outcomes[3].Value
			o.Disposition = journal.DeadLetter
			l.Outcomes[len(l.Outcomes)-1].Value = &o
		}, Wrong, "a replay makes it dead-letter"},
	} {
		l := *sound
		tc.doctor(&l)
		r := AuditReplay(sound, &l)
		if !slices.ContainsFunc(r.Examples, func(f Finding) bool { return f.Kind == tc.kind && strings.Contains(f.What, tc.says) }) {
			t.Errorf("%s: expected %s: … %s …, found %s", name, tc.kind, tc.says, r)
		}
	}
}

// Oracle: a folder that is the image of its changelog up to its offset is
// sound; one that is ahead, behind or otherwise is not.
func TestAuditLocal(t *testing.T) {
	record := func(o int64, key, value string) At[struct{}] {
		at := At[struct{}]{Partition: 1, Offset: o, Key: key}
		if value != "" {
			at.Raw = []byte(value)
		}
		return at
	}
	log := &Log{Seen: []At[struct{}]{record(0, "a", "1"), record(1, "b", "1"), record(3, "a", "2"), record(4, "b", ""), record(6, "c", "1")}}
	folder := func(offset int64, pairs ...string) Local {
		l := Local{Who: "x", Local: engine.Local{Name: topology.TableName(Domain, topology.Inbox), Partition: 1, Offset: offset}}
		for i := 0; i < len(pairs); i += 2 {
			l.keys++
			l.digest.put(pair(pairs[i], []byte(pairs[i+1])))
		}
		return l
	}
	for name, tc := range map[string]struct {
		folder Local
		sound  bool
	}{
		"empty":            {folder(-1), true},
		"in the middle":    {folder(3, "a", "2", "b", "1"), true},
		"at a marker":      {folder(2, "a", "1", "b", "1"), true},
		"at the end":       {folder(7, "c", "1", "a", "2"), true},
		"ahead":            {folder(1, "a", "2", "b", "1"), false},
		"behind":           {folder(3, "a", "1", "b", "1"), false},
		"a deleted key":    {folder(6, "a", "2", "b", "1", "c", "1"), false},
		"a key is missing": {folder(6, "a", "2"), false},
		"a wrong value":    {folder(6, "a", "2", "c", "2"), false},
	} {
		if r := AuditLocal([]Local{tc.folder}, log, false); r.OK() != tc.sound {
			t.Errorf("%s: %s", name, r)
		}
	}
}
