package audit

import (
	"bytes"

	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/test/chaos/oracle"
)

// AuditReplay checks that reading again, from wherever, what was read before
// has changed nothing that counts: no change, no event and no journal entry
// was added or taken away, every entity is the same to the last byte, and what
// is told of each delivery is what was told before. Signals, facts and dead
// letters are written again by a replay; the repeated ones must say the same.
func AuditReplay(before, after *Log) *Report {
	r := &Report{}
	same(r, "a replay", before.Journal, after.Journal)
	same(r, "a replay", before.Changes, after.Changes)
	same(r, "a replay", before.Events, after.Events)

	signals := map[string][]byte{}
	for _, s := range before.Signals {
		if s.Value != nil {
			signals[s.Value.ID] = s.Raw
		}
	}
	for _, s := range after.Signals {
		if s.Value == nil {
			continue
		}
		switch raw, ok := signals[s.Value.ID]; {
		case !ok:
			r.add(Doubled, s.position().String(), "a replay made the signal %s, which was not there before", s.Value.ID)
		case !bytes.Equal(raw, s.Raw):
			r.add(Wrong, s.position().String(), "a replay made another signal %s than the first reading", s.Value.ID)
		}
	}

	old, now := last(before.Entities), last(after.Entities)
	for key, raw := range old {
		if _, ok := now[key]; !ok {
			r.add(Lost, key, "a replay removed the entity")
		} else if !bytes.Equal(raw, now[key]) {
			r.add(Wrong, key, "a replay changed the entity")
		}
	}
	for key := range now {
		if _, ok := old[key]; !ok {
			r.add(Doubled, key, "a replay made the entity")
		}
	}

	told, tells := map[string]*journal.Outcome{}, map[string]*journal.Outcome{}
	for _, o := range before.Outcomes {
		told[o.Key] = o.Value
	}
	for _, o := range after.Outcomes {
		tells[o.Key] = o.Value
	}
	for key, was := range told {
		is := tells[key]
		switch {
		case was == nil:
		case is == nil:
			r.add(Lost, key, "a replay removed the outcome %s", was.Disposition)
		case retold(was, is):
			r.Retold++
		case is.Disposition != was.Disposition || is.Entity != was.Entity || is.Version != was.Version:
			r.add(Wrong, key, "was %s of %s version %d, a replay makes it %s of %s version %d", was.Disposition, was.Entity, was.Version, is.Disposition, is.Entity, is.Version)
		}
	}
	return r
}

// AuditRedriven checks a log after a replay from zero of a run in which
// failpoints panicked: what they had made dead letters of is taken in now, in
// an order of its own, so that versions are not known. Every entity must be what
// the set of all signals makes it.
func AuditRedriven(log *Log) *Report {
	a := &auditor{
		log: log, report: &Report{}, model: oracle.NewModel(),
		signals: map[string]*oracle.Signal{}, dead: map[Position]string{}, panicked: map[Position]bool{},
	}
	a.injected()
	in := oracle.NewInbox()
	for _, second := range []bool{false, true} {
		for _, e := range log.Journal {
			lost := a.panicked[e.position()]
			if e.Value == nil || second && !lost {
				continue
			}
			v := in.Take(entryOf(&e), lost && !second)
			for i := range v.Signals {
				if s := &v.Signals[i]; s.Entity != "" {
					a.signals[s.ID] = s
					a.model.Apply(s)
				}
			}
		}
	}
	a.agree(a.model)
	a.report.Entities = len(a.model.Entities)
	return a.report
}

// retold tells whether an outcome is that of a signal which a replay found
// overtaken.
func retold(was, is *journal.Outcome) bool {
	if is.Disposition == was.Disposition && is.Version == was.Version {
		return false
	}
	merged := was.Disposition == journal.Changed || was.Disposition == journal.Unchanged
	return merged && is.Disposition == journal.Unchanged && is.Entity == was.Entity && is.Version >= was.Version
}

// same checks that two readings of a topic found the same records.
func same[T any](r *Report, who string, before, after []At[T]) {
	was := map[Position][]byte{}
	for _, x := range before {
		was[x.position()] = x.Raw
	}
	for _, x := range after {
		raw, ok := was[x.position()]
		switch {
		case !ok:
			r.add(Doubled, x.position().String(), "%s added a record about %s", who, x.Key)
		case !bytes.Equal(raw, x.Raw):
			r.add(Wrong, x.position().String(), "%s changed the record about %s", who, x.Key)
		}
		delete(was, x.position())
	}
	for at := range was {
		r.add(Lost, at.String(), "%s removed a record", who)
	}
}

func last[T any](records []At[T]) map[string][]byte {
	out := map[string][]byte{}
	for _, x := range records {
		out[x.Key] = x.Raw
	}
	return out
}
