package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Oracle: nine of ten records are of one key, a quarter of all are poison of
// random bytes, and their times jump by an hour to and fro. Each good one has
// its effect exactly once, in order of its key; each bad one is exactly one
// dead letter; nothing stands still.
func TestHotKeyPoisonAndJumpingClocks(t *testing.T) {
	w := newWorld(t)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	rnd := rand.New(rand.NewPCG(5, 5))
	at := time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)
	good, poison := 0, map[string]bool{}
	var rs []*kgo.Record
	for len(rs) < 4000 {
		key := "key-0"
		if rnd.IntN(10) == 0 {
			key = fmt.Sprintf("key-%d", rnd.IntN(50))
		}
		at = at.Add(time.Duration(rnd.IntN(3)-1) * time.Hour)
		r := &kgo.Record{Topic: "in", Key: []byte(key), Timestamp: at}
		if rnd.IntN(4) > 0 {
			r.Value = []byte(strconv.Itoa(good))
			good++
		} else {
			r.Value = make([]byte, 1+rnd.IntN(300))
			for i := range r.Value {
				r.Value[i] = byte(rnd.IntN(256))
			}
			r.Value[0] = 0xff // no number
			poison[string(r.Value)] = true
		}
		rs = append(rs, r)
	}
	bad := len(rs) - good
	for len(rs) > 0 {
		n := min(100, len(rs))
		if err := w.cl.ProduceSync(context.Background(), rs[:n]...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		rs = rs[n:]
	}
	w.eventuallyAudit(good, 50)
	eventually(t, "all dead letters", func() error {
		if n := len(w.read("dead")); n < bad {
			return fmt.Errorf("%d of %d", n, bad)
		}
		return nil
	})
	letters := map[string]bool{}
	for _, r := range w.read("dead") {
		from := fmt.Sprintf("%s/%s", r.Headers["__connect.errors.partition"], r.Headers["__connect.errors.offset"])
		if letters[from] {
			t.Errorf("%s is a dead letter twice", from)
		}
		letters[from] = true
		if !poison[string(r.Value)] {
			t.Errorf("%s: %q is a dead letter", from, r.Value)
		}
	}
	if len(letters) != bad {
		t.Errorf("%d dead letters, expected %d", len(letters), bad)
	}
	if s := e.group(); s.Restarts != 0 || s.Aborts > spurious {
		t.Errorf("%d restarts, %d aborts, expected none and at most %d", s.Restarts, s.Aborts, spurious)
	}
}
