// Package audit compares what is in Kafka after a chaos run with what package
// oracle says must be there. It decides on decoded records and does no I/O;
// Read gets them.
//
// It takes the orders that Kafka fixed for given, and nothing else: the journal
// as it stands says what each delivery must become; the facts as they stand say,
// entity by entity, which changes there must be, with which versions, values and
// events. That the facts keep the order of the signals, and these that of the
// journal where it is the same source record, is checked as well.
package audit

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/test/chaos/oracle"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
)

// Audit checks a log against what was sent. Records whose dead letter says that
// a failpoint panicked are what the run asked for: they must be dead letters
// once, and have no effect.
func Audit(sent []Sent, log *Log) *Report {
	a := &auditor{
		sent: sent, log: log, report: &Report{}, model: oracle.NewModel(),
		signals: map[string]*oracle.Signal{}, outcomes: map[string]outcome{}, dead: map[Position]string{}, panicked: map[Position]bool{},
	}
	a.report.Entries, a.report.Signals, a.report.Facts = len(log.Journal), len(log.Signals), len(log.Facts)
	a.report.Changes, a.report.Events, a.report.DeadLetters = len(log.Changes), len(log.Events), len(log.Dead)
	a.injected()
	a.journal()
	a.inbox()
	a.signalsTopic()
	a.factsTopic()
	a.merge()
	a.changesTopic()
	a.eventsTopic()
	a.table()
	a.outcomesTopic()
	a.deadLetters()
	a.anyOrder()
	return a.report
}

type auditor struct {
	sent   []Sent
	log    *Log
	report *Report
	model  *oracle.Model

	panicked map[Position]bool         // inputs that a failpoint made dead letters of
	signals  map[string]*oracle.Signal // those that must be, by id
	order    []string                  // their ids in journal order
	outcomes map[string]outcome        // by key
	dead     map[Position]string       // inputs that must be dead letters once, and why
	changes  map[string][]step         // by entity key: those that must be, in order
}

// outcome is what a record of the outcomes topic must say.
type outcome struct {
	disposition journal.Disposition
	entity      string
	version     int64
	first       string
	rejected    bool
}

type step struct {
	*oracle.Change
	fact *signal.Fact
	at   Position
}

func (a *auditor) add(k Kind, where, format string, args ...any) {
	a.report.add(k, where, format, args...)
}

func (p Position) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// Failpoint is how the message of a panic that a run asked for begins.
const Failpoint = "failpoint: "

// injected finds the inputs that a failpoint made dead letters of.
func (a *auditor) injected() {
	for _, d := range a.log.Dead {
		if d.Headers["__connect.errors.exception.class.name"] != "panic" || !strings.Contains(d.Headers["__connect.errors.exception.message"], Failpoint) {
			continue
		}
		at, err := origin(&d)
		if err == nil {
			a.panicked[at] = true
			a.dead[at] = "an injected panic"
			a.report.Panics++
		}
	}
}

// origin reads which input a dead letter is about.
func origin(d *At[struct{}]) (Position, error) {
	p, err := strconv.ParseInt(d.Headers["__connect.errors.partition"], 10, 32)
	if err != nil {
		return Position{}, err
	}
	o, err := strconv.ParseInt(d.Headers["__connect.errors.offset"], 10, 64)
	return Position{d.Headers["__connect.errors.topic"], int32(p), o}, err
}

// parcel identifies a delivery by what was sent.
func parcel(source, eventID string, body []byte) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00", source, eventID)
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

func entryParcel(e *journal.Entry) [32]byte {
	id := ""
	if e.Source == "crm" {
		id = e.VendorID
	}
	return parcel(e.Source, id, e.Body)
}

// journal checks that each acknowledged delivery stands where its
// acknowledgement said, and that nothing stands there that nobody sent, or more
// often than it was sent.
func (a *auditor) journal() {
	at := map[string]*At[*journal.Entry]{}
	stored := map[[32]byte]int{}
	for i := range a.log.Journal {
		e := &a.log.Journal[i]
		id := journal.ID{Domain: Domain, Partition: e.Partition, Offset: e.Offset}.String()
		at[id] = e
		if e.Value != nil {
			stored[entryParcel(e.Value)]++
		}
	}
	attempts := map[[32]byte]int{}
	by := map[string]int{}
	for i := range a.sent {
		s := &a.sent[i]
		who := fmt.Sprintf("delivery %d to %s", s.N, s.Source)
		p := parcel(s.Source, s.EventID, s.Body)
		attempts[p] += s.Attempts
		switch {
		case s.Class == workload.Refused && (s.Acked || stored[p] > 0):
			a.add(Wrong, who, "has %d bytes and was taken in", len(s.Body))
		case s.Class == workload.Refused && !s.Refused:
			a.add(Wrong, who, "has %d bytes and was not refused", len(s.Body))
		case s.Class != workload.Refused && s.Refused:
			a.add(Wrong, who, "has %d bytes and was refused", len(s.Body))
		}
		if !s.Acked {
			continue
		}
		e := at[s.ID]
		switch {
		case e == nil:
			a.add(Lost, who, "was acknowledged as %s, which is not in the journal", s.ID)
		case e.Value == nil || entryParcel(e.Value) != p:
			a.add(Lost, who, "was acknowledged as %s, where another one stands", s.ID)
		}
		if other, ok := by[s.ID]; ok {
			a.add(Lost, who, "was acknowledged as %s, and so was delivery %d", s.ID, other)
		}
		by[s.ID] = s.N
	}
	for _, e := range a.log.Journal {
		if e.Value == nil {
			a.add(Wrong, e.position().String(), "is empty, expected a journal entry")
			continue
		}
		p := entryParcel(e.Value)
		if stored[p] > attempts[p] {
			a.add(Doubled, e.position().String(), "stands in the journal %d times and was sent %d times", stored[p], attempts[p])
			stored[p] = 0 // told once
		}
	}
}

// inbox lets the oracle judge each entry.
func (a *auditor) inbox() {
	class := map[[32]byte]workload.Class{}
	for _, s := range a.sent {
		p := parcel(s.Source, s.EventID, s.Body)
		if _, ok := class[p]; !ok || s.Class != workload.Copy {
			class[p] = s.Class
		}
	}
	in := oracle.NewInbox()
	for _, e := range a.log.Journal {
		if e.Value == nil {
			continue
		}
		entry := entryOf(&e)
		v := in.Take(entry, a.panicked[e.position()])
		if c := class[entryParcel(e.Value)]; !fits(c, &v) && !a.panicked[e.position()] {
			a.add(Wrong, e.position().String(), "the oracle and the workload differ: a delivery made to be %s is judged as %s %s", c, v.Kind, v.Why)
		}
		switch v.Kind {
		case oracle.Taken:
			if len(v.Signals) > 1 {
				a.outcomes[entry.ID()] = outcome{disposition: journal.Accepted}
			}
			for i := range v.Signals {
				s := &v.Signals[i]
				a.signals[s.ID] = s
				a.order = append(a.order, s.ID)
			}
		case oracle.Ignored:
			a.outcomes[entry.ID()] = outcome{disposition: journal.Ignored}
		case oracle.Duplicate:
			a.report.Duplicates++
			a.outcomes[entry.ID()] = outcome{disposition: journal.Duplicate, first: v.First}
		case oracle.Conflict:
			a.report.Conflicts++
			a.outcomes[entry.ID()] = outcome{disposition: journal.Conflicting, first: v.First}
			a.dead[e.position()] = "a conflict with " + v.First
		case oracle.Dead:
			a.outcomes[entry.ID()] = outcome{disposition: journal.DeadLetter}
			if !a.panicked[e.position()] {
				a.dead[e.position()] = v.Why
			}
		}
	}
}

// entryOf gives a journal entry in the oracle's terms.
func entryOf(e *At[*journal.Entry]) *oracle.Entry {
	entry := &oracle.Entry{Partition: e.Partition, Offset: e.Offset, Source: e.Value.Source, ReceivedAt: int64(e.Value.ReceivedAt), Body: e.Value.Body}
	if e.Value.Source == "crm" {
		entry.EventID = e.Value.VendorID
	}
	return entry
}

// fits tells whether a verdict is one that the maker of the delivery expects.
func fits(c workload.Class, v *oracle.Verdict) bool {
	switch c {
	case workload.Poison:
		if v.Kind == oracle.Taken { // one that nobody can be found for
			return len(v.Signals) == 1 && v.Signals[0].Entity == ""
		}
		return v.Kind == oracle.Dead || v.Kind == oracle.Duplicate
	case workload.Big:
		return v.Kind == oracle.Dead
	case workload.Foreign:
		return v.Kind == oracle.Ignored || v.Kind == oracle.Duplicate
	case workload.Good, workload.Copy, workload.Conflict:
		return v.Kind == oracle.Taken || v.Kind == oracle.Duplicate || v.Kind == oracle.Conflict
	}
	return false
}

// signalsTopic checks that each signal is there once, as it must be, and after
// those which the journal has before it.
func (a *auditor) signalsTopic() {
	seen := map[string]bool{}
	rank := map[string]int{}
	for i, id := range a.order {
		rank[id] = i
	}
	last := map[string]int{} // by signal key and journal partition
	for _, r := range a.log.Signals {
		s, where := r.Value, r.position().String()
		if s == nil {
			a.add(Wrong, where, "is empty, expected a signal")
			continue
		}
		want := a.signals[s.ID]
		switch {
		case want == nil:
			a.add(Doubled, where, "signal %s has no reason to be", s.ID)
			continue
		case seen[s.ID]:
			a.add(Doubled, where, "signal %s is there again", s.ID)
			continue
		}
		seen[s.ID] = true
		if d := differSignal(s, want); d != "" {
			a.add(Wrong, where, "signal %s: %s", s.ID, d)
		}
		id, err := journal.ParseID(s.Journal)
		key := fmt.Sprintf("%s from %d", s.Key(), id.Partition)
		if before, ok := last[key]; err != nil || ok && rank[s.ID] < before {
			a.add(Wrong, where, "signal %s of %s comes after one that the journal has behind it", s.ID, s.Key())
		}
		last[key] = rank[s.ID]
	}
	for _, id := range a.order {
		if !seen[id] {
			a.add(Lost, id, "its signal is not in the signals")
		}
	}
}

func differSignal(s *signal.Signal, want *oracle.Signal) string {
	d := &difference{}
	d.is("journal", s.Journal, want.Journal)
	d.is("index", s.Index, int32(want.Index))
	d.is("signals", s.Signals, int32(want.Count))
	d.is("source", s.Source, want.Source)
	d.is("source key", s.SourceKey, want.Key)
	d.is("resource", s.Resource, want.Resource)
	d.is("deleted", s.Deleted, want.Deleted)
	d.is("occurred at", int64(s.OccurredAt), want.When.OccurredAt)
	d.is("sequence", s.Sequence, want.When.Sequence)
	d.is("received at", int64(s.ReceivedAt), want.When.ReceivedAt)
	d.values("claims", s.Fields, want.Fields)
	return d.String()
}

// difference collects what is not as it must be.
type difference struct{ parts []string }

func (d *difference) is(what string, found, want any) {
	if found != want {
		d.parts = append(d.parts, fmt.Sprintf("%s is %.120v, expected %.120v", what, found, want))
	}
}

func (d *difference) values(what string, found []canonical.Named, want map[string]string) {
	got := map[string]string{}
	for _, n := range found {
		got[n.Name] = string(n.Value)
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			d.is(what+" "+name, got[name], "none")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		d.is(what+" "+name, got[name], want[name])
	}
}

func (d *difference) String() string { return strings.Join(d.parts, "; ") }

// factsTopic checks that each signal whose entity is known became a fact once,
// and that the facts of a source record have the order of its signals.
func (a *auditor) factsTopic() {
	due := map[string]bool{}
	rank := map[string]int{}
	for i, r := range a.log.Signals {
		s := r.Value
		if s == nil || a.signals[s.ID] == nil {
			continue
		}
		rank[s.ID] = i
		switch {
		case a.panicked[r.position()]:
			a.settle(s, outcome{disposition: journal.DeadLetter})
		case a.signals[s.ID].Entity == "":
			a.dead[r.position()] = "nobody to speak of"
			a.settle(s, outcome{disposition: journal.DeadLetter})
		default:
			due[s.ID] = true
		}
	}
	last := map[string]int{}
	for _, r := range a.log.Facts {
		f, where := r.Value, r.position().String()
		if f == nil {
			a.add(Wrong, where, "is empty, expected a fact")
			continue
		}
		id := f.Signal.ID
		if !due[id] {
			a.add(Doubled, where, "the fact of signal %s is there again, or has no reason to be", id)
			continue
		}
		delete(due, id)
		d := &difference{}
		d.is("entity", f.Entity, a.signals[id].Entity)
		if s := differSignal(&f.Signal, a.signals[id]); s != "" {
			d.parts = append(d.parts, s)
		}
		if len(d.parts) > 0 {
			a.add(Wrong, where, "fact of signal %s: %s", id, d)
		}
		if before, ok := last[f.Signal.Key()]; ok && rank[id] < before {
			a.add(Wrong, where, "the fact of signal %s comes after one whose signal is behind it", id)
		}
		last[f.Signal.Key()] = rank[id]
	}
	for _, id := range slices.Sorted(maps.Keys(due)) {
		a.add(Lost, id, "its signal is not among the facts")
	}
}

// settle notes the outcome of a signal.
func (a *auditor) settle(s *signal.Signal, o outcome) {
	key := s.Journal
	if s.Signals > 1 {
		key = journal.OutcomeKey(s.Journal, s.Index)
	}
	a.outcomes[key] = o
}

// merge lets the oracle fold the facts in the order in which they stand.
func (a *auditor) merge() {
	a.changes = map[string][]step{}
	done := map[string]bool{}
	for _, r := range a.log.Facts {
		f := r.Value
		if f == nil || done[f.Signal.ID] {
			continue
		}
		want := a.signals[f.Signal.ID]
		if want == nil || want.Entity == "" {
			continue
		}
		done[f.Signal.ID] = true
		if a.panicked[r.position()] {
			a.settle(&f.Signal, outcome{disposition: journal.DeadLetter, entity: f.Entity})
			continue
		}
		s := a.model.Apply(want)
		o := outcome{disposition: journal.Unchanged, entity: f.Entity, version: s.Entity.Version, rejected: s.Rejected}
		if s.Change != nil {
			o.disposition = journal.Changed
			a.changes[f.Key()] = append(a.changes[f.Key()], step{s.Change, f, r.position()})
		}
		a.settle(&f.Signal, o)
	}
	a.report.Entities = len(a.model.Entities)
}

// changesTopic checks the changes of each entity, one after the other.
func (a *auditor) changesTopic() {
	next := map[string]int{}
	for _, r := range a.log.Changes {
		c, where := r.Value, r.position().String()
		if c == nil {
			a.add(Wrong, where, "is empty, expected a change")
			continue
		}
		want := a.changes[r.Key]
		i := next[r.Key]
		switch {
		case c.Version <= int64(i):
			a.add(Doubled, where, "%s has version %d again", r.Key, c.Version)
			continue
		case c.Version > int64(len(want)):
			a.add(Doubled, where, "%s has version %d, expected %d changes", r.Key, c.Version, len(want))
			next[r.Key] = int(c.Version)
			continue
		case c.Version > int64(i+1):
			a.add(Lost, where, "%s goes from version %d to %d", r.Key, i, c.Version)
		}
		next[r.Key] = int(c.Version)
		if d := differChange(c, &want[c.Version-1]); d != "" {
			a.add(Wrong, where, "%s version %d: %s", r.Key, c.Version, d)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.changes)) {
		if n := len(a.changes[key]); next[key] < n {
			a.add(Lost, key, "has %d changes, expected %d; the next would be of signal %s at %s", next[key], n, a.changes[key][next[key]].Signal, a.changes[key][next[key]].at)
		}
	}
}

func differChange(c *event.Change, want *step) string {
	d := &difference{}
	d.is("kind", string(c.Kind), want.Kind)
	d.is("signal", c.Signal, want.Signal)
	d.is("state before", c.FromState, want.From)
	d.is("state after", c.ToState, want.To)
	d.is("source", c.Source, want.fact.Signal.Source)
	d.is("journal", c.Journal, want.fact.Signal.Journal)
	d.is("occurred at", c.OccurredAt, want.fact.Signal.OccurredAt)
	d.is("received at", c.ReceivedAt, want.fact.Signal.ReceivedAt)
	d.values("field", c.After, want.After)
	var names, due []string
	for _, f := range c.Changed {
		names = append(names, f.Name)
	}
	for _, f := range want.Changed {
		due = append(due, f.Name)
	}
	d.is("changed", strings.Join(names, " "), strings.Join(due, " "))
	if len(c.Changed) == len(want.Changed) {
		for i, f := range c.Changed {
			w := want.Changed[i]
			d.is(f.Name+" before", string(f.Before), w.Before)
			d.is(f.Name+" after", string(f.After), w.After)
			d.is(f.Name+" decided by", f.Source+" "+f.SourceKey, w.Source+" "+w.Key)
		}
	}
	var events []string
	for _, e := range c.Events {
		events = append(events, e.Type)
	}
	d.is("events", strings.Join(events, " "), strings.Join(want.Events, " "))
	return d.String()
}

// eventsTopic checks that the events of all changes are published once, in
// order, and say what the changes do.
func (a *auditor) eventsTopic() {
	type due struct {
		id, kind string
		change   *event.Change
	}
	want := map[string][]due{}
	known := map[string]bool{}
	for _, r := range a.log.Changes {
		if r.Value == nil || a.panicked[r.position()] {
			continue
		}
		for _, ref := range r.Value.Events {
			if known[ref.ID] {
				a.add(Doubled, r.position().String(), "event id %s is given to two events", ref.ID)
			}
			known[ref.ID] = true
			want[r.Key] = append(want[r.Key], due{ref.ID, ref.Type, r.Value})
		}
	}
	next := map[string]int{}
	seen := map[string]bool{}
	for _, r := range a.log.Events {
		where, id := r.position().String(), r.Headers["ce_id"]
		list, i := want[r.Key], next[r.Key]
		switch {
		case seen[id]:
			a.add(Doubled, where, "event %s of %s is published again", id, r.Key)
			continue
		case !known[id]:
			a.add(Doubled, where, "event %s of %s has no reason to be", id, r.Key)
			continue
		}
		seen[id] = true
		for i < len(list) && list[i].id != id { // those left out are told as lost below
			i++
		}
		if i == len(list) {
			a.add(Wrong, where, "event %s of %s is out of order", id, r.Key)
			continue
		}
		next[r.Key] = i + 1
		w, d := list[i], &difference{}
		d.is("type", r.Headers["ce_type"], Domain+".v1."+w.kind)
		d.is("sequence", r.Headers["ce_sequence"], fmt.Sprintf("%019d", w.change.Version))
		d.is("subject", r.Headers["ce_subject"], w.change.ID)
		d.is("source", r.Headers["ce_source"], "/"+Domain+"/"+w.change.Resource)
		if r.Value == nil {
			d.is("data", "nothing", "a record")
		} else {
			d.is("id", fmt.Sprint(r.Value.Data["id"]), w.change.ID)
			d.is("version", fmt.Sprint(r.Value.Data["version"]), fmt.Sprint(w.change.Version))
			d.is("change", fmt.Sprint(r.Value.Data["change"]), string(w.change.Kind))
			entity, _ := r.Value.Data["entity"].(map[string]any)
			for _, n := range w.change.After {
				d.is("entity "+n.Name, fmt.Sprint(entity[n.Name]), fmt.Sprint(n.Value.Any()))
			}
			for name, v := range entity {
				if _, ok := w.change.Field(name); !ok && v != nil {
					d.is("entity "+name, fmt.Sprint(v), "none")
				}
			}
		}
		if len(d.parts) > 0 {
			a.add(Wrong, where, "event %s of %s version %d: %s", w.kind, r.Key, w.change.Version, d)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		for _, w := range want[key] {
			if !seen[w.id] {
				a.add(Lost, key, "event %s of version %d is not published", w.kind, w.change.Version)
			}
		}
	}
}

// table checks the canonical entities as the changelog has them last.
func (a *auditor) table() {
	last := map[string]*canonical.Entity{}
	for _, r := range a.log.Entities {
		last[r.Key] = r.Value
	}
	for _, id := range slices.Sorted(maps.Keys(a.model.Entities)) {
		want := a.model.Entities[id]
		key := canonical.EntityKey{Tenant: "default", Resource: want.Resource, ID: want.ID}.String()
		e := last[key]
		delete(last, key)
		if e == nil {
			a.add(Lost, key, "is not in the table")
			continue
		}
		if d := differEntity(e, want); d != "" {
			a.add(Wrong, key, "in the table: %s", d)
		}
	}
	for key := range last {
		a.add(Doubled, key, "is in the table and has no reason to be")
	}
}

func differEntity(e *canonical.Entity, want *oracle.Entity) string {
	d := &difference{}
	d.is("version", e.Version, want.Version)
	d.is("exists", e.Exists, want.Exists)
	d.is("state", e.State, want.State)
	d.is("created at", int64(e.CreatedAt), want.CreatedAt)
	d.is("updated at", int64(e.UpdatedAt), want.UpdatedAt)
	d.is("seen at", int64(e.SeenAt), want.SeenAt)
	for _, f := range e.Fields {
		if _, ok := want.Fields[f.Name]; !ok {
			d.is(f.Name, string(f.Value), "none")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Fields)) {
		w := want.Fields[name]
		f, ok := e.Field(name)
		if !ok {
			d.is(name, "none", w.Text)
			continue
		}
		d.is(name, string(f.Value), w.Text)
		d.is(name+" since version", f.Since, w.Since)
		if math.Abs(f.Confidence-w.Confidence) > 1e-9 {
			d.is(name+" confidence", f.Confidence, w.Confidence)
		}
		p, _ := e.Provenance(name)
		d.is(name+" decided by", p.Source+" "+p.SourceKey, w.Source+" "+w.Key)
	}
	return d.String()
}

// outcomesTopic checks what is told of each delivery and of each of its signals.
func (a *auditor) outcomesTopic() {
	last := map[string]*journal.Outcome{}
	for _, r := range a.log.Outcomes {
		if r.Value != nil {
			last[r.Key] = r.Value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.outcomes)) {
		want, o := a.outcomes[key], last[key]
		delete(last, key)
		if o == nil {
			a.add(Lost, key, "has no outcome, expected %s", want.disposition)
			continue
		}
		d := &difference{}
		d.is("disposition", o.Disposition, want.disposition)
		d.is("first", o.First, want.first)
		d.is("entity", o.Entity, want.entity)
		if want.version > 0 {
			d.is("version", o.Version, want.version)
		}
		if want.disposition == journal.Changed || want.disposition == journal.Unchanged {
			d.is("rejected move", o.Reason == "rejected-move", want.rejected)
		}
		if len(d.parts) > 0 {
			a.add(Wrong, key, "outcome: %s (%s %s)", d, o.Reason, o.Detail)
		}
	}
	for key, o := range last {
		a.add(Doubled, key, "has an outcome %s and no reason to have one", o.Disposition)
	}
}

// deadLetters checks that there is one of each input that needs one.
func (a *auditor) deadLetters() {
	seen := map[Position]bool{}
	for _, r := range a.log.Dead {
		at, err := origin(&r)
		_, due := a.dead[at]
		switch {
		case err != nil:
			a.add(Wrong, r.position().String(), "does not say what it is the dead letter of: %v", err)
		case !due:
			a.add(Doubled, r.position().String(), "dead letter of %s, which needs none: %s", at, r.Headers["__connect.errors.exception.message"])
		case seen[at]:
			a.add(Doubled, r.position().String(), "dead letter of %s is there again", at)
		}
		seen[at] = true
	}
	for at, why := range a.dead {
		if !seen[at] {
			a.add(Lost, at.String(), "has no dead letter, although: %s", why)
		}
	}
}

// anyOrder folds the same facts the other way round: canonical values must not
// depend on the order. States may, of an entity with more moves than are kept.
func (a *auditor) anyOrder() {
	other := oracle.NewModel()
	done := map[string]bool{}
	for _, r := range slices.Backward(a.log.Facts) {
		if r.Value == nil || done[r.Value.Signal.ID] || a.panicked[r.position()] {
			continue
		}
		if want := a.signals[r.Value.Signal.ID]; want != nil && want.Entity != "" {
			done[want.ID] = true
			other.Apply(want)
		}
	}
	a.agree(other)
}

// agree checks the canonical values of the table with a model's.
func (a *auditor) agree(other *oracle.Model) {
	last := map[string]*canonical.Entity{}
	for _, r := range a.log.Entities {
		last[r.Key] = r.Value
	}
	for id, want := range other.Entities {
		e := last[canonical.EntityKey{Tenant: "default", Resource: want.Resource, ID: want.ID}.String()]
		if e == nil {
			a.add(Lost, id, "is not in the table")
			continue
		}
		if m := a.model.Entities[id]; want.Folded() || m != nil && m.Folded() {
			continue
		}
		d := &difference{}
		d.is("exists", e.Exists, want.Exists)
		d.is("state", e.State, want.State)
		for _, name := range slices.Sorted(maps.Keys(want.Fields)) {
			f, ok := e.Field(name)
			d.is("has "+name, ok, true)
			if ok {
				d.is(name, string(f.Value), want.Fields[name].Text)
			}
		}
		if len(d.parts) > 0 {
			a.add(Wrong, id, "depends on the order of arrival: %s", d)
		}
	}
}
