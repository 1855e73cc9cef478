// Package outcomes is the read model of what became of each delivery.
//
// It reaches back as far as the outcomes topic does.
//
// The store of one partition holds
//
//	o/<outcome key>          the outcome
//	c/<hash>/<outcome key>   that the outcome has the correlation id that was
//	                         hashed; not kept for the default, the journal id itself
package outcomes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// Decode reads an outcome as the outcomes topic holds it.
type Decode func([]byte) (*journal.Outcome, error)

// View follows the outcomes of one domain.
type View struct {
	domain string
	decode Decode
}

var _ views.View = (*View)(nil)

// New makes the view of a domain's outcomes.
func New(domain string, decode Decode) *View { return &View{domain: domain, decode: decode} }

// Name is "<domain>.outcomes".
func (v *View) Name() string { return v.domain + ".outcomes" }

// Topic is the domain's outcomes.
func (v *View) Topic() string { return topology.Outcomes(v.domain) }

// Layout identifies the form of the store; another one has to be rebuilt.
func (v *View) Layout() string { return "outcomes1" }

// Apply takes in one outcome, or its tombstone.
func (v *View) Apply(s views.Store, r views.Record) error {
	old, err := s.Get("o/" + r.Key)
	if err != nil {
		return err
	}
	var before, after string
	changed := false
	if old != nil {
		o, err := v.decode(old)
		if err != nil {
			return fmt.Errorf("stored outcome %s: %w", r.Key, err)
		}
		before, changed = indexKey(o, r.Key), o.Disposition == journal.Changed
	}
	if r.Value != nil {
		o, err := v.decode(r.Value)
		if err != nil {
			return fmt.Errorf("%s: partition %d offset %d: outcome %s: %w", v.Topic(), r.Partition, r.Offset, r.Key, err)
		}
		// A replay of what was merged before ends as "no change"; what the
		// delivery did is told by its first run.
		if changed && o.Disposition == journal.Unchanged {
			return nil
		}
		after = indexKey(o, r.Key)
	}
	if before != after {
		if before != "" {
			if err := s.Delete(before); err != nil {
				return err
			}
		}
		if after != "" {
			if err := s.Set(after, []byte{1}); err != nil {
				return err
			}
		}
	}
	if r.Value == nil {
		return s.Delete("o/" + r.Key)
	}
	return s.Set("o/"+r.Key, r.Value)
}

// indexKey of an outcome; empty if it needs none.
func indexKey(o *journal.Outcome, key string) string {
	if o.Correlation == "" || o.Correlation == o.Journal {
		return ""
	}
	return correlationPrefix(o.Correlation) + key
}

func correlationPrefix(correlation string) string {
	sum := sha256.Sum256([]byte(correlation))
	return "c/" + hex.EncodeToString(sum[:16]) + "/"
}

// Status is what became of a delivery as a whole.
type Status struct {
	Journal string `json:"journal"`
	// Disposition of the whole: while it is not final, accepted; else, of an
	// entry with several signals, dead-letter if one of them failed, change if
	// one changed something, no-change otherwise.
	Disposition journal.Disposition `json:"disposition"`
	// Final is true when nothing further will happen.
	Final bool `json:"final"`
	// Expected is how many signals the delivery gave; 0 while unknown, or if
	// it gave none.
	Expected int32 `json:"expected"`
	// Signals are the outcomes that are known, by index. For an entry with one
	// signal it is that one's.
	Signals     []journal.Outcome `json:"signals"`
	Source      string            `json:"source,omitempty"`
	Tenant      string            `json:"tenant,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Detail      string            `json:"detail,omitempty"`
	First       string            `json:"first,omitempty"`
	Correlation string            `json:"correlation,omitempty"`
	At          envelope.Instant  `json:"at"`
}

// Reader answers queries from the view. It is safe for concurrent use.
type Reader struct {
	view *View
	from views.Reader
}

// Reader reads what the engine keeps of the view.
func (v *View) Reader(from views.Reader) *Reader { return &Reader{view: v, from: from} }

// Ready tells whether the view has caught up since it started.
func (r *Reader) Ready() bool { return r.from.Ready() }

// Changed gives a channel that is closed at the next update of the view.
func (r *Reader) Changed() <-chan struct{} { return r.from.Changed() }

// Status combines the outcomes of a journal entry. ok is false if nothing is
// known of it: it was not processed yet, or is too old, or never was.
func (r *Reader) Status(journalID string) (s Status, ok bool, err error) {
	entry, err := r.get(journalID)
	if err != nil || entry == nil {
		return Status{}, false, err
	}
	s = Status{
		Journal: journalID, Disposition: entry.Disposition, Final: entry.Disposition.Final(), Expected: entry.Signals,
		Signals: []journal.Outcome{}, Source: entry.Source, Tenant: entry.Tenant,
		Reason: entry.Reason, Detail: entry.Detail, First: entry.First, Correlation: entry.Correlation, At: entry.At,
	}
	if s.Final {
		if entry.Resource != "" {
			s.Signals = append(s.Signals, *entry)
		}
		return s, true, nil
	}
	// The entry gave several signals; each has a record of its own, which lies
	// in the partition of its own key.
	for i := range entry.Signals {
		o, err := r.get(journal.OutcomeKey(journalID, i))
		if err != nil {
			return Status{}, false, err
		}
		if o != nil {
			s.Signals = append(s.Signals, *o)
		}
	}
	combine(&s)
	return s, true, nil
}

// combine sets the disposition of a delivery with several signals.
func combine(s *Status) {
	if int32(len(s.Signals)) < s.Expected || slices.ContainsFunc(s.Signals, func(o journal.Outcome) bool { return !o.Disposition.Final() }) {
		return
	}
	s.Final, s.Disposition = true, journal.Unchanged
	for i := range s.Signals {
		switch o := &s.Signals[i]; o.Disposition {
		case journal.DeadLetter:
			s.Disposition, s.Reason, s.Detail = journal.DeadLetter, o.Reason, o.Detail
			return
		case journal.Changed:
			s.Disposition = journal.Changed
		}
	}
}

// Lag tells how far what is known of a delivery may be behind what is committed.
func (r *Reader) Lag(journalID string) views.Lag { return r.from.Lag(journalID) }

func (r *Reader) get(key string) (*journal.Outcome, error) {
	b, err := r.from.Get(key, "o/"+key)
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "read outcome", key, err)
	}
	if b == nil {
		return nil, nil
	}
	o, err := r.view.decode(b)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read outcome", key, err)
	}
	return o, nil
}

// ByCorrelation gives the journal ids of the deliveries that have the
// correlation id, sorted, limit at most.
func (r *Reader) ByCorrelation(correlation string, limit int) ([]string, error) {
	prefix := correlationPrefix(correlation)
	var ids []string
	err := r.from.Scan(prefix, "", func(k string, _ []byte) bool {
		// The signals of an entry follow it in the order of keys.
		id, _, _ := strings.Cut(k[len(prefix):], "#")
		if len(ids) > 0 && ids[len(ids)-1] == id {
			return true
		}
		ids = append(ids, id)
		return len(ids) < limit
	})
	if err != nil {
		return nil, failure.Wrap(failure.Transient, "trace", correlation, err)
	}
	if len(ids) < limit && !slices.Contains(ids, correlation) {
		// The default correlation id is the journal id itself.
		o, err := r.get(correlation)
		if err != nil {
			return nil, err
		}
		if o != nil && o.Correlation == o.Journal {
			ids = append(ids, correlation)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
