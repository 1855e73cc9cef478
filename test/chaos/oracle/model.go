package oracle

import (
	"encoding/json"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Model is the canonical state of every entity, after the signals that it was
// given. Signals about one entity are given in the order in which they were
// merged.
type Model struct {
	Entities map[string]*Entity // by "<resource>/<id>"
}

// NewModel makes a model that has heard of nothing.
func NewModel() *Model { return &Model{Entities: map[string]*Entity{}} }

// Entity is what is known of one.
type Entity struct {
	Resource, ID string
	Version      int64
	Exists       bool
	State        string
	// Fields are the canonical values by name.
	Fields map[string]Value
	// CreatedAt, UpdatedAt and SeenAt are times of receipt.
	CreatedAt, UpdatedAt, SeenAt int64
	// Signals that were merged.
	Signals int

	records map[string]*record
	moves   []move
	base    string
	folded  *Stamp // moves up to here are in base
}

// Folded tells whether the entity has had so many moves that old ones are kept
// no more: only then does its state depend on the order of arrival.
func (e *Entity) Folded() bool { return e.folded != nil }

// Value is a canonical value and whose claim it is.
type Value struct {
	Text string // JSON
	// Source and Key of the record whose claim won; empty where none did.
	Source, Key string
	// Since is the version in which the value last changed.
	Since      int64
	Confidence float64
}

// record is what one source record claims: for each field what it said last.
type record struct {
	source, key string
	claims      map[string]claim
	said        *Stamp // its latest signal that was no deletion
	gone        *Stamp // its latest deletion
}

type claim struct {
	value string
	when  Stamp
}

type move struct {
	to, source string
	when       Stamp
}

// Change is one step of canonical state.
type Change struct {
	Version  int64
	Kind     string // created, updated, deleted, restored
	From, To string
	// Changed are the fields that changed, by name.
	Changed []Difference
	After   map[string]string
	Events  []string
	Signal  string
}

// Difference of one field; empty text is no value.
type Difference struct{ Name, Before, After, Source, Key string }

// Step is what became of one signal.
type Step struct {
	Entity *Entity
	// Change is nil if canonical state did not change.
	Change *Change
	// Rejected tells that the signal claimed a lifecycle move that is not
	// allowed, or came too late.
	Rejected bool
}

// Apply merges one signal.
func (m *Model) Apply(s *Signal) Step {
	res := resources[s.Resource]
	id := s.Resource + "/" + s.Entity
	e := m.Entities[id]
	if e == nil {
		e = &Entity{Resource: s.Resource, ID: s.Entity, Fields: map[string]Value{}, records: map[string]*record{}}
		m.Entities[id] = e
	}
	e.Signals++
	existed, from, before := e.Exists, e.State, e.Fields
	late := e.join(res, s)
	rejected := e.decide(res)
	e.SeenAt = max(e.SeenAt, s.When.ReceivedAt)
	step := Step{Entity: e, Rejected: late || slices.Contains(rejected, s.When.Signal)}

	c := &Change{Kind: "updated", From: from, To: e.State, After: map[string]string{}, Signal: s.ID}
	for _, name := range names(before, e.Fields) {
		b, a := before[name], e.Fields[name]
		if b.Text != a.Text {
			c.Changed = append(c.Changed, Difference{Name: name, Before: b.Text, After: a.Text, Source: a.Source, Key: a.Key})
		}
	}
	if len(c.Changed) == 0 && existed == e.Exists && from == e.State {
		return step
	}
	switch {
	case !existed && e.Exists && e.Version == 0:
		c.Kind = "created"
	case !existed && e.Exists:
		c.Kind = "restored"
	case existed && !e.Exists:
		c.Kind = "deleted"
	}
	e.Version++
	if e.Version == 1 {
		e.CreatedAt = s.When.ReceivedAt
	}
	e.UpdatedAt = s.When.ReceivedAt
	for _, d := range c.Changed {
		if v, ok := e.Fields[d.Name]; ok {
			v.Since = e.Version
			e.Fields[d.Name] = v
		}
	}
	for name, v := range e.Fields {
		c.After[name] = v.Text
	}
	c.Version = e.Version
	c.Events = happened(res, c)
	step.Change = c
	return step
}

func names(a, b map[string]Value) []string {
	var out []string
	for n := range a {
		out = append(out, n)
	}
	for n := range b {
		if _, ok := a[n]; !ok {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

// join takes in what a signal says of its record.
func (e *Entity) join(res *resource, s *Signal) (late bool) {
	e.SeenAt = max(e.SeenAt, s.When.ReceivedAt)
	id := s.Source + "\x00" + s.Key
	r := e.records[id]
	if r == nil {
		r = &record{source: s.Source, key: s.Key, claims: map[string]claim{}}
		e.records[id] = r
	}
	when := s.When
	if s.Deleted {
		if r.gone == nil || when.After(*r.gone) {
			r.gone = &when
		}
		return false
	}
	if r.said == nil || when.After(*r.said) {
		r.said = &when
	}
	for name, v := range s.Fields {
		if c, ok := r.claims[name]; !ok || when.After(c.when) {
			r.claims[name] = claim{v, when}
		}
	}
	if res.status == "" || s.Fields[res.status] == "" || s.Fields[res.status] == "null" || !slices.Contains(res.statusAuthority, s.Source) {
		return false
	}
	return e.move(res, move{unquote(s.Fields[res.status]), s.Source, when})
}

// maxMoves is how many lifecycle moves are kept apart (ADR 4).
const maxMoves = 24

func (e *Entity) move(res *resource, m move) (late bool) {
	if e.folded != nil && !m.when.After(*e.folded) {
		return true
	}
	at := sort.Search(len(e.moves), func(i int) bool { return e.moves[i].when.After(m.when) })
	e.moves = slices.Insert(e.moves, at, m)
	if len(e.moves) <= maxMoves {
		return false
	}
	if e.folded == nil {
		e.base = res.initial
	}
	oldest := e.moves[0]
	if allows(res, e.base, oldest.to) {
		e.base = oldest.to
	}
	e.folded = &oldest.when
	e.moves = slices.Delete(e.moves, 0, 1)
	return false
}

func allows(res *resource, from, to string) bool {
	return from == to || slices.Contains(res.moves[from], to)
}

// claimed is one live claim for a field.
type claimed struct {
	r    *record
	rank int
	claim
}

// live gives the claims that count for a field, the most authoritative first,
// and of one source's records the one that spoke last.
func (e *Entity) live(name string, authority []string, maxAge int64) []claimed {
	var out []claimed
	for _, r := range e.records {
		c, ok := r.claims[name]
		rank := slices.Index(authority, r.source)
		if !ok || rank < 0 || r.gone != nil && !c.when.After(*r.gone) {
			continue
		}
		if maxAge > 0 && e.SeenAt-c.when.OccurredAt > maxAge {
			continue
		}
		out = append(out, claimed{r, rank, c})
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].rank != out[j].rank {
			return out[i].rank < out[j].rank
		}
		return out[i].when.After(out[j].when)
	})
	return out
}

// decide computes canonical state from all claims. It gives the signals whose
// moves are not allowed.
func (e *Entity) decide(res *resource) (rejected []string) {
	e.Exists = false
	for _, r := range e.records {
		if r.gone == nil || r.said != nil && r.said.After(*r.gone) {
			e.Exists = true
		}
	}
	state, last := res.initial, (*move)(nil)
	if e.folded != nil {
		state = e.base
	}
	for i := range e.moves {
		m := &e.moves[i]
		if !allows(res, state, m.to) {
			rejected = append(rejected, m.when.Signal)
			continue
		}
		state, last = m.to, m
	}
	previous := e.Fields
	e.Fields = map[string]Value{}
	e.State = ""
	if !e.Exists {
		return rejected
	}
	put := func(name string, v Value) {
		v.Since = previous[name].Since
		e.Fields[name] = v
	}
	for _, f := range res.fields {
		if claims := e.live(f.name, f.authority, f.maxAge); len(claims) > 0 {
			put(f.name, e.choose(&f, claims))
		}
	}
	if r := e.leader(res); r != nil {
		for _, name := range res.group {
			if c, ok := r.claims[name]; ok && (r.gone == nil || c.when.After(*r.gone)) {
				put(name, Value{Text: c.value, Source: r.source, Key: r.key})
			}
		}
	}
	if res.status != "" {
		e.State = state
		v := Value{Text: strconv.Quote(state)}
		if r := e.mover(last); r != nil {
			v.Source, v.Key = r.source, r.key
		}
		put(res.status, v)
	}
	return rejected
}

// mover finds the record that made a move: the one that still stands by that
// signal, else the one of that source which spoke last.
func (e *Entity) mover(m *move) *record {
	if m == nil {
		return nil
	}
	var found *record
	for _, r := range e.records {
		if r.source != m.source || r.said == nil {
			continue
		}
		if *r.said == m.when {
			return r
		}
		for _, c := range r.claims {
			if c.when == m.when {
				return r
			}
		}
		if found == nil || r.said.After(*found.said) {
			found = r
		}
	}
	return found
}

// leader gives the record that decides the group: the one whose latest live
// claim to any of its fields is the latest.
func (e *Entity) leader(res *resource) *record {
	var best *claimed
	for _, r := range e.records {
		rank := slices.Index(res.groupAuthority, r.source)
		if rank < 0 {
			continue
		}
		var newest *claimed
		for _, name := range res.group {
			c, ok := r.claims[name]
			if ok && (r.gone == nil || c.when.After(*r.gone)) && (newest == nil || c.when.After(newest.when)) {
				newest = &claimed{r, rank, c}
			}
		}
		if newest != nil && (best == nil || later(newest, best)) {
			best = newest
		}
	}
	if best == nil {
		return nil
	}
	return best.r
}

// later compares claims of different records: by when they occurred, then by
// authority, then by the stamp.
func later(a, b *claimed) bool {
	switch {
	case a.when.OccurredAt != b.when.OccurredAt:
		return a.when.OccurredAt > b.when.OccurredAt
	case a.rank != b.rank:
		return a.rank < b.rank
	}
	return a.when.After(b.when)
}

// choose applies a field's policy to its live claims, which are in the order
// of authority.
func (e *Entity) choose(f *field, claims []claimed) Value {
	best := &claims[0]
	confidence := 0.0
	switch f.policy {
	case latest:
		for i := range claims {
			if later(&claims[i], best) {
				best = &claims[i]
			}
		}
	case earliest:
		for i := range claims {
			if claims[i].when.OccurredAt < best.when.OccurredAt {
				best = &claims[i]
			}
		}
	case greatest, least:
		for i := range claims {
			c := &claims[i]
			if c.value == "null" {
				continue
			}
			if x, y := number(c.value), number(best.value); best.value == "null" || f.policy == greatest && x > y || f.policy == least && x < y {
				best = c
			}
		}
	case majority:
		most := 0
		for i := range claims {
			sources := map[string]bool{}
			for _, o := range claims {
				if o.value == claims[i].value {
					sources[o.r.source] = true
				}
			}
			if len(sources) > most {
				best, most = &claims[i], len(sources)
			}
		}
	case union:
		return unite(claims)
	case weighted:
		best, confidence = e.weigh(f, claims)
	}
	return Value{Text: best.value, Source: best.r.source, Key: best.r.key, Confidence: confidence}
}

// unite gives the set of the items of all lists, sorted by their JSON.
func unite(claims []claimed) Value {
	v := Value{Text: "null", Source: claims[0].r.source, Key: claims[0].r.key}
	set := map[string]bool{}
	lists := 0
	for _, c := range claims {
		if c.value == "null" {
			continue
		}
		lists++
		var items []string
		if err := json.Unmarshal([]byte(c.value), &items); err != nil {
			panic(err) // it is a list of strings
		}
		for _, item := range items {
			set[text(item)] = true
		}
	}
	if lists == 0 {
		return v
	}
	var items []string
	for item := range set {
		items = append(items, item)
	}
	sort.Strings(items)
	v.Text = "[" + strings.Join(items, ",") + "]"
	return v
}

// weigh gives the value with the greatest sum of trust × freshness, which
// halves with each half-life of age. Sums are made in the order of authority.
func (e *Entity) weigh(f *field, claims []claimed) (*claimed, float64) {
	weight := func(c *claimed) float64 {
		age := float64(max(e.SeenAt-c.when.OccurredAt, 0))
		return f.trust[c.r.source] * math.Exp2(-age/float64(f.halfLife))
	}
	best, most, total := &claims[0], 0.0, 0.0
	judged := map[string]bool{}
	for i := range claims {
		total += weight(&claims[i])
		if judged[claims[i].value] {
			continue
		}
		judged[claims[i].value] = true
		sum := 0.0
		for j := i; j < len(claims); j++ {
			if claims[j].value == claims[i].value {
				sum += weight(&claims[j])
			}
		}
		if sum > most {
			best, most = &claims[i], sum
		}
	}
	if total == 0 {
		return best, 0
	}
	return best, most / total
}

// happened gives the events of a change, in the order of the definition.
func happened(res *resource, c *Change) []string {
	changed := map[string]Difference{}
	for _, d := range c.Changed {
		changed[d.Name] = d
	}
	var out []string
	for _, ev := range res.events {
		ok := true
		if ev.created || ev.deleted || ev.restored {
			ok = ev.created && c.Kind == "created" || ev.deleted && c.Kind == "deleted" || ev.restored && c.Kind == "restored"
		}
		ok = ok && (ev.enters == "" || c.From != c.To && c.To == ev.enters)
		ok = ok && (ev.leaves == "" || c.From != c.To && c.From == ev.leaves)
		if len(ev.changes) > 0 {
			any := ev.changes[0] == "any"
			for _, name := range ev.changes {
				_, is := changed[name]
				any = any || is
			}
			ok = ok && c.Kind == "updated" && any
		}
		if ev.raised != "" {
			d := changed[ev.raised]
			ok = ok && isNumber(d.Before) && isNumber(d.After) && number(d.After) > number(d.Before)
		}
		if ok {
			out = append(out, ev.name)
		}
	}
	return out
}

func isNumber(text string) bool { return text != "" && text != "null" }

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && text != "null" {
		panic(err) // it is an int
	}
	return n
}

func unquote(text string) string {
	var s string
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		panic(err) // it is a word
	}
	return s
}
