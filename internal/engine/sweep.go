package engine

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Retention bounds a table by time: an entry is absent once the window has
// passed since the instant that the entry names. Expired entries are removed
// from local state bit by bit; the changelog is bounded by the retention that
// its topic has on the broker.
type Retention struct {
	Window time.Duration
	// Since gives the instant from which an entry's window runs; zero for an
	// entry that does not expire. The value is what the table's codec decodes.
	Since func(value any) envelope.Instant
}

// expired tells whether an entry is absent at the time now.
func (r *Retention) expired(value any, now envelope.Instant) bool {
	since := r.Since(value)
	return since != 0 && now != 0 && since+envelope.Instant(r.Window.Microseconds()) <= now
}

// Each pass over a table examines so many entries per commit, and a new pass
// begins when the table's time has moved by this part of its window. A table
// thus holds at most 1/8 more than its window while there is input.
const (
	sweepStep   = 1000
	sweepPasses = 8
)

// sweeper is where a store's pass has come to.
type sweeper struct {
	began  envelope.Instant // stream time at the begin of the pass
	cursor []byte           // Pebble key to go on from; nil between passes
}

// sweep examines the next entries of the store at the time now, which is that
// of the records, and removes those that have expired. No transaction may be
// open. It gives the number of entries removed.
func (s *states) sweep(r *Retention, codec Codec, now envelope.Instant) (int, error) {
	sw := &s.sweeper
	if sw.cursor == nil {
		if now-sw.began < envelope.Instant(r.Window.Microseconds()/sweepPasses) {
			return 0, nil
		}
		sw.began = now
		sw.cursor, _ = s.ks.bounds("")
	}
	_, upper := s.ks.bounds("")
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: sw.cursor, UpperBound: upper})
	if err != nil {
		return 0, fmt.Errorf("sweep local state: %w", err)
	}
	defer it.Close()
	b := s.db.NewBatch()
	defer b.Close()
	removed, n := 0, 0
	more := it.First()
	for ; more && n < sweepStep; more = it.Next() {
		n++
		raw, err := it.ValueAndErr()
		if err != nil {
			return 0, fmt.Errorf("sweep local state: %w", err)
		}
		raw, terms, err := s.split(raw)
		if err != nil {
			return 0, fmt.Errorf("sweep local state: %w", err)
		}
		// The codec may keep what it is given.
		v, err := codec.Decode(append([]byte(nil), raw...))
		if err != nil || !r.expired(v, now) {
			continue // what cannot be decoded is the step's to report
		}
		if err := s.add(b, string(s.ks.userKey(it.Key())), write{before: terms, known: true}); err != nil {
			return 0, fmt.Errorf("sweep local state: %w", err)
		}
		s.cache.drop(string(s.ks.userKey(it.Key())))
		removed++
	}
	if err := it.Error(); err != nil {
		return 0, fmt.Errorf("sweep local state: %w", err)
	}
	if more {
		sw.cursor = append(sw.cursor[:0:0], it.Key()...)
	} else {
		sw.cursor = nil
	}
	if removed == 0 {
		return 0, nil
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return 0, fmt.Errorf("sweep local state: %w", err)
	}
	return removed, nil
}
