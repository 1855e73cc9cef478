package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pebbleOn opens an engine's database on a file system that holds nothing else.
func pebbleOn(t testing.TB, fs vfs.FS) (*database, error) {
	cfg := Config{Brokers: []string{"none"}, Dir: "state", Logger: testLog(t), CacheBytes: 1 << 20, MemTableBytes: 16 << 10, fs: fs}.withDefaults()
	d := &database{dir: cfg.Dir, cfg: &cfg, log: cfg.Logger, disk: newDisk(fs, cfg.Dir, 0, cfg.Logger)}
	return d, d.openPebble()
}

// history is what a partition's log said, as it was written to an image: the
// entries after each of its writes, by the mark.
type history struct {
	image image
	after map[mark]map[string]string
}

func newHistory(d *database, partition int32) *history {
	fresh := mark{offset: -1}
	return &history{
		image: image{ks: newKeyspace(kindTable, "table", partition), db: d.db, disk: d.disk, mark: fresh},
		after: map[mark]map[string]string{fresh: {}},
	}
}

// anew has the image begin anew, as if the topic had been recreated.
func (h *history) anew() error {
	fresh := mark{topic: h.image.mark.topic, offset: -1}
	fresh.topic[0]++
	h.after[fresh] = map[string]string{}
	return h.image.rebuild(fresh)
}

// write takes a few records in.
func (h *history) write(rnd *rand.Rand) error {
	state := maps.Clone(h.after[h.image.mark])
	next := h.image.mark.offset + 1
	var rs []*kgo.Record
	for range 1 + rnd.IntN(20) {
		r := &kgo.Record{Key: fmt.Appendf(nil, "key-%d", rnd.IntN(60)), Offset: next}
		if rnd.IntN(5) > 0 {
			r.Value = fmt.Appendf(nil, "%d-%0*d", next, rnd.IntN(200), 0)
			state[string(r.Key)] = string(r.Value)
		} else {
			delete(state, string(r.Key))
		}
		rs = append(rs, r)
		next++
	}
	end := h.image.mark
	end.offset = next - 1
	h.after[end] = state
	return h.image.take([][]*kgo.Record{rs}, next)
}

// check compares what a database has of the partition with its history, and
// gives the mark that it stands at.
func (h *history) check(db *pebble.DB) (mark, error) {
	m, _, err := h.image.ks.readMark(db) // without one it begins anew
	if err != nil {
		return m, err
	}
	want, known := h.after[m]
	if !known {
		return m, fmt.Errorf("it stands at %v, where no write ended", m)
	}
	have, err := contents(db, h.image.ks)
	if err != nil {
		return m, err
	}
	if !maps.Equal(have, want) {
		return m, fmt.Errorf("at %v it holds %d entries that differ from the %d written", m, len(have), len(want))
	}
	return m, nil
}

// contents gives the entries of a keyspace.
func contents(db *pebble.DB, ks keyspace) (map[string]string, error) {
	lower, upper := ks.bounds("")
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for ok := it.First(); ok; ok = it.Next() {
		out[string(ks.userKey(it.Key()))] = string(it.Value())
	}
	return out, it.Close()
}

// Oracle: the power fails at any moment of writes, flushes and compactions,
// and any part of what was not synced is lost. What the folder then holds of
// each partition is exactly what was written up to its mark.
func TestPowerLoss(t *testing.T) {
	seeds := uint64(1000)
	if testing.Short() {
		seeds = 100
	}
	first := uint64(1)
	if s := os.Getenv("TOUCHSTONE_TEST_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		seeds = 1
	}
	losses, writes, behind := 0, 0, 0
	for seed := first; seed < first+seeds; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 0))
		fs := vfs.NewCrashableMem()
		d, err := pebbleOn(t, fs)
		if err != nil {
			t.Fatalf("TOUCHSTONE_TEST_SEED=%d: %v", seed, err)
		}
		hs := []*history{newHistory(d, 0), newHistory(d, 1), newHistory(d, 2)}
		for range 30 + rnd.IntN(120) {
			var err error
			switch n := rnd.IntN(100); {
			case n < 90:
				err = hs[rnd.IntN(len(hs))].write(rnd)
				writes++
			case n < 95:
				_, err = d.db.AsyncFlush()
			case n < 97:
				err = d.db.Flush()
			case n < 99:
				err = d.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)
			default:
				err = hs[0].anew()
			}
			if err != nil {
				t.Fatalf("TOUCHSTONE_TEST_SEED=%d: %v", seed, err)
			}
		}
		lost := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
		if err := d.db.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := pebbleOn(t, lost)
		if err != nil {
			t.Errorf("TOUCHSTONE_TEST_SEED=%d: the folder cannot be opened after a power loss: %v", seed, err)
			continue
		}
		losses++
		for p, h := range hs {
			at, err := h.check(again.db)
			if err != nil {
				t.Errorf("TOUCHSTONE_TEST_SEED=%d: partition %d: %v", seed, p, err)
			}
			if at != h.image.mark {
				behind++
			}
		}
		if err := again.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if behind == 0 || behind == losses*3 {
		t.Errorf("%d of %d partitions lost something, expected some", behind, 3*losses)
	}
	t.Logf("%d losses of power after %d writes: %d of %d partitions had to read a tail again", losses, writes, behind, 3*losses)
}
