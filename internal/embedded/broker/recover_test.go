package broker

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// A log with damage in its middle keeps every record that can be read at its
// offset, tells which are lost, and puts a copy of the file aside.
func TestDamageInTheMiddleLosesOnlyItself(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	createTopics(t, b.Addr(), 1, journal)
	c := client(t, b.Addr())
	produce(t, c, journal, "a", "b", "c", "d")
	dir := abandon(t, b)
	path := filepath.Join(partitionDir(dir, journal, 0), segmentName(0))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, at, _ := scanSegment(raw, 0)
	raw[at[1].to-1] ^= 0xff // the value of b
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}

	b = mustStart(t, testConfig(dir))
	aside := filepath.Join(dir, damagedDir, "shop.journal-0-0.dat")
	want := []Damaged{{Topic: journal, From: 1, To: 2, Bytes: at[1].to - at[1].from, Aside: aside}}
	if got := b.Recovered().Damaged; !slices.Equal(got, want) {
		t.Errorf("damaged %+v, want %+v", got, want)
	}
	if copied, err := os.ReadFile(aside); err != nil || !bytes.Equal(copied, raw) {
		t.Errorf("the copy differs from the damaged file (%v)", err)
	}
	produce(t, client(t, b.Addr()), journal, "e")
	rows := []row{{0, 0, "a"}, {0, 2, "c"}, {0, 3, "d"}, {0, 4, "e"}}
	if got := read(t, b.Addr(), journal); !slices.Equal(got, rows) {
		t.Errorf("read %v, want %v", got, rows)
	}
}

// Where records that were there at the last clean stop are missing from the end
// of a log, their offsets are not given to others.
func TestLostTailIsNotGivenAgain(t *testing.T) {
	dir := t.TempDir()
	b := mustStart(t, testConfig(dir))
	createTopics(t, b.Addr(), 1, journal)
	c := client(t, b.Addr())
	produce(t, c, journal, "a", "b", "c")
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(partitionDir(dir, journal, 0), segmentName(0))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, at, _ := scanSegment(raw, 0)
	if err := os.Truncate(path, int64(at[1].to-3)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, runningFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	b = mustStart(t, testConfig(dir))
	want := []Damaged{{Topic: journal, From: 1, To: 3}}
	if got := b.Recovered().Damaged; !slices.Equal(got, want) {
		t.Errorf("damaged %+v, want %+v", got, want)
	}
	r, err := client(t, b.Addr()).ProduceSync(deadline(t), &kgo.Record{Topic: journal, Value: []byte("d")}).First()
	if err != nil || r.Offset < 3 {
		t.Errorf("the next record is at %v, %v; offsets below 3 were given before", r, err)
	}
	if got := values(read(t, b.Addr(), journal)); !slices.Equal(got, []string{"a", "d"}) {
		t.Errorf("read %v", got)
	}
}

// batch builds a record batch as a producer would have it stored.
func batch(base int64, records int32, payload []byte) []byte {
	b := abortMarker(base, 0, 7, 0, 1)
	rb := kmsg.RecordBatch{}
	if err := rb.ReadFrom(b); err != nil {
		panic(err)
	}
	rb.Attributes, rb.LastOffsetDelta, rb.NumRecords, rb.Records = 0, records-1, records, payload
	return seal(rb.AppendTo(nil))
}

// Whatever is cut off or written over, a scan accounts for every byte once, in
// order, and finds every batch that was not touched.
func TestScanSegment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var raw []byte
		var want []span
		next := int64(0)
		for range rapid.IntRange(0, 8).Draw(t, "batches") {
			next += rapid.Int64Range(0, 5).Draw(t, "gap")
			n := rapid.Int32Range(1, 9).Draw(t, "records")
			b := batch(next, n, rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "payload"))
			want = append(want, span{len(raw), len(raw) + len(b)})
			raw = append(raw, b...)
			next += int64(n)
		}
		touched := span{len(raw), len(raw)}
		if len(raw) > 0 && rapid.Bool().Draw(t, "cut") {
			cut := rapid.IntRange(0, len(raw)).Draw(t, "at")
			raw, touched = raw[:cut], span{cut, len(raw)}
		} else if len(raw) > 0 && rapid.Bool().Draw(t, "overwrite") {
			from := rapid.IntRange(0, len(raw)-1).Draw(t, "from")
			to := rapid.IntRange(from+1, min(len(raw), from+40)).Draw(t, "to")
			for i := from; i < to; i++ {
				raw[i] = 0xee
			}
			touched = span{from, to}
		}

		batches, at, damaged := scanSegment(raw, 0)
		if len(batches) != len(at) {
			t.Fatalf("%d batches at %d places", len(batches), len(at))
		}
		all := slices.Concat(at, damaged)
		slices.SortFunc(all, func(a, b span) int { return a.from - b.from })
		pos := 0
		for _, s := range all {
			if s.from != pos || s.to <= s.from {
				t.Fatalf("bytes %d to %d are not accounted for once: %v", pos, s.from, all)
			}
			pos = s.to
		}
		if pos != len(raw) {
			t.Fatalf("%d of %d bytes are accounted for", pos, len(raw))
		}
		for _, w := range want {
			if (w.to <= touched.from || w.from >= touched.to) && !slices.Contains(at, w) {
				t.Errorf("the batch at %v was not found; touched %v, found %v", w, touched, at)
			}
		}
	})
}

func FuzzScanSegment(f *testing.F) {
	f.Add(slices.Concat(batch(0, 2, []byte("abc")), batch(2, 1, nil), []byte("torn")), int64(0))
	f.Add([]byte{}, int64(3))
	f.Fuzz(func(t *testing.T, raw []byte, next int64) {
		batches, at, damaged := scanSegment(raw, next)
		total := 0
		for _, s := range slices.Concat(at, damaged) {
			total += s.to - s.from
		}
		if total != len(raw) {
			t.Fatalf("%d of %d bytes are accounted for", total, len(raw))
		}
		for i, h := range batches {
			if h.base < next || h.size != at[i].to-at[i].from {
				t.Fatalf("batch %d at %v: %+v, next %d", i, at[i], h, next)
			}
			next = h.end()
		}
		splitEntries(raw)
	})
}
