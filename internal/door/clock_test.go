package door

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Oracle: whatever the clock does, deliveries that are taken in one after the
// other are received one after the other, and never later than the latest that
// the clock has said, but for the microseconds that tell them apart.
func TestReceivedAtWhileTheClockJumps(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	now := time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC)
	d := &Door{now: func() time.Time { return now }}
	var last envelope.Instant
	latest := now
	for i := range 10_000 {
		switch rnd.IntN(20) {
		case 0:
			now = now.Add(time.Hour)
		case 1:
			now = now.Add(-time.Hour)
		case 2: // stands still
		default:
			now = now.Add(time.Duration(rnd.IntN(1000)) * time.Microsecond)
		}
		if now.After(latest) {
			latest = now
		}
		at := d.receivedAt()
		if at <= last {
			t.Fatalf("delivery %d was received at %d, the one before at %d", i, at, last)
		}
		if most := envelope.Instant(latest.UnixMicro() + int64(i) + 1); at > most {
			t.Fatalf("delivery %d was received at %d, the clock never said more than %d", i, at, most)
		}
		last = at
	}
}
