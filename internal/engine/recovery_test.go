package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/processors"
)

// (e) A wiped folder is rebuilt from the changelog: counts go on where they were.
func TestRecoveryOfWipedFolder(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 200, 5)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(200, 5)
	e.stop()
	w.feed(200, 300, 5)
	w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(300, 5)
}

// (f) Whatever is done to the files of the folder, the engine notices or it
// does not matter; it never counts wrongly and never needs a person.
func TestRecoveryOfCorruptFolder(t *testing.T) {
	matches := func(dir, pattern string) []string {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"manifest deleted": func(t *testing.T, dir string) {
			for _, f := range matches(dir, "MANIFEST-*") {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		},
		"manifest truncated": func(t *testing.T, dir string) {
			for _, f := range matches(dir, "MANIFEST-*") {
				if err := os.Truncate(f, 10); err != nil {
					t.Fatal(err)
				}
			}
		},
		"table files flipped": func(t *testing.T, dir string) {
			files := matches(dir, "*.sst")
			if len(files) == 0 {
				t.Fatal("no table file: the test tests nothing")
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				for i := range min(len(b), 200) {
					b[i] ^= 0xff
				}
				if err := os.WriteFile(f, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
		"table files deleted": func(t *testing.T, dir string) {
			for _, f := range matches(dir, "*.sst") {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			dir := filepath.Join(t.TempDir(), "state")
			w.feed(0, 200, 5)
			e := w.startCounter(w.config(dir), &counter{})
			w.eventuallyAudit(200, 5)
			e.stop()
			damage(t, dir)
			w.feed(200, 300, 5)
			w.startCounter(w.config(dir), &counter{})
			w.eventuallyAudit(300, 5)
			if _, err := os.Stat(dir + ".corrupt"); err != nil {
				t.Errorf("the corrupt folder was not moved aside: %v", err)
			}
		})
	}
}

// A folder in use is a clear error and is left alone.
func TestFolderInUse(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.startCounter(w.config(dir), &counter{})
	_, err := New(w.config(dir))
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("got %v", err)
	}
}

// (g) The end of a changelog is invisible: transaction markers, aborted
// records, or both. A recovery that waits for the last record hangs.
func TestRecoveryOfInvisibleEnd(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 100, 5)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(100, 5)
	e.stop()
	ctx := context.Background()
	for i := range 3 {
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("aborter"+strconv.Itoa(i)),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var rs []*kgo.Record
		for p := range int32(testPartitions) {
			rs = append(rs, &kgo.Record{Topic: "counter-table", Partition: p, Key: []byte("key-0"), Value: []byte("999")})
		}
		if err := cl.ProduceSync(ctx, rs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		cl.Close()
	}
	e = w.startCounter(w.config(t.TempDir()), &counter{})
	e.waitReady()
	w.feed(100, 150, 5)
	w.eventuallyAudit(150, 5)
}

// A transaction that a dead process left open ends before recovery does: its
// records are either all there or not at all.
func TestRecoveryWaitsForOpenTransaction(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 100, 5)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(100, 5)
	e.stop()
	// Another instance hangs in the middle of a transaction.
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("counter.b"),
		kgo.TransactionTimeout(time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: "counter-table", Partition: 1, Key: []byte("key-0"), Value: []byte("999")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	e = w.startCounter(w.config(t.TempDir()), &counter{})
	e.waitReady()
	if d := time.Since(began); d < 500*time.Millisecond {
		t.Errorf("recovered after %v, before the open transaction was timed out", d)
	}
	w.feed(100, 150, 5)
	w.eventuallyAudit(150, 5)
}

// A transaction that nobody ends holds recovery up, and the log says which one
// it is. When it is ended, recovery goes on by itself.
func TestRecoveryNamesTransactionThatHangs(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 100, 5)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(100, 5)
	e.stop()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("counter.b"),
		kgo.TransactionTimeout(5*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	record := &kgo.Record{Topic: "counter-table", Partition: 1, Key: []byte("key-0"), Value: []byte("999")}
	if err := cl.ProduceSync(context.Background(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id, epoch, err := cl.ProducerID(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	log := &said{}
	cfg := w.config(t.TempDir())
	cfg.TransactionTimeout, cfg.lateTransactions = 200*time.Millisecond, time.Millisecond
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	e = w.startCounter(cfg, &counter{})
	expected := fmt.Sprintf("producer-id %d, producer-epoch %d, start-offset %d", id, epoch, record.Offset)
	eventually(t, "the transaction is named", func() error {
		if got := log.String(); !strings.Contains(got, expected) || !strings.Contains(got, "level=WARN") {
			return fmt.Errorf("expected %q, found %q", expected, got)
		}
		return nil
	})
	if e.Ready() == nil {
		t.Error("the engine says that it is ready while its table waits")
	}
	if err := cl.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	e.waitReady()
	w.feed(100, 150, 5)
	w.eventuallyAudit(150, 5)
}

// (h) A recreated changelog is another log, even if it is longer than the old
// one was: local state of the old one does not survive.
func TestRecreatedTopic(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.feed(0, 50, 5)
	e := w.startCounter(w.config(dir), &counter{})
	w.eventuallyAudit(50, 5)
	e.stop()
	w.deleteTopics("in", "out", "counter-table")
	w.topics(testPartitions, "in", "out", "counter-table")
	w.cl.PurgeTopicsFromClient("in", "counter-table")
	w.feed(0, 500, 5)
	e = w.startCounter(w.config(dir), &counter{})
	w.eventuallyAudit(500, 5)
	e.stop()
	// Once more with nothing to hide behind: the local offset is valid in the
	// new log as well, only the topic's id differs.
	w.deleteTopics("counter-table")
	w.cl.PurgeTopicsFromClient("counter-table")
	w.topics(testPartitions, "counter-table")
	var rs []*kgo.Record
	for i := range 2000 {
		rs = append(rs, &kgo.Record{Topic: "counter-table", Key: fmt.Appendf(nil, "key-%d", i%5), Value: []byte("7000")})
	}
	if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.feed(500, 505, 5)
	w.startCounter(w.config(dir), &counter{})
	eventually(t, "new counts", func() error {
		n := 0
		for _, r := range w.read("out") {
			if string(r.Value) == "7001" {
				n++
			}
		}
		if n != 5 {
			return fmt.Errorf("%d keys count from the new log, expected 5", n)
		}
		return nil
	})
}

// A log that was truncated at its start beyond what the folder has cannot be
// caught up with: the partition begins anew from what there is.
func TestLogStartBeyondLocalOffset(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.feed(0, 50, 1)
	e := w.startCounter(w.config(dir), &counter{})
	w.eventuallyAudit(50, 1)
	e.stop()
	p := Partition("key-0", testPartitions)
	ctx := context.Background()
	manual, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer manual.Close()
	for i, v := range []string{"1", "2", "500"} {
		r := &kgo.Record{Topic: "counter-table", Partition: p, Key: []byte("key-0"), Value: []byte(v)}
		if err := manual.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			var upTo kadm.Offsets
			upTo.Add(kadm.Offset{Topic: "counter-table", Partition: p, At: -1})
			if res, err := w.adm.DeleteRecords(ctx, upTo); err != nil || res.Error() != nil {
				t.Fatal(err, res.Error())
			}
		}
	}
	w.feed(50, 51, 1)
	w.startCounter(w.config(dir), &counter{})
	eventually(t, "the count to go on", func() error {
		rs := w.read("out")
		if last := string(rs[len(rs)-1].Value); last != "501" {
			return fmt.Errorf("last count is %s", last)
		}
		return nil
	})
}

// The broker goes away for good: a stop ends in bounded time all the same, and
// nothing is applied that is not known to be committed.
func TestStopWithoutBroker(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	cfg := w.config(dir)
	cfg.StopTimeout = 200 * time.Millisecond
	gone := make(chan struct{})
	stepped := make(chan struct{}, 1000)
	e := w.startCounter(cfg, &counter{before: func(n int64, rec processors.Record) error {
		if rec.Value.(int) == 100 {
			stepped <- struct{}{}
			<-gone
		}
		return nil
	}})
	w.feed(0, 100, 5)
	w.eventuallyAudit(100, 5)
	w.feed(100, 101, 5)
	<-stepped
	w.allGone()
	close(gone)
	began := time.Now()
	e.stop()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("stopped after %v", d)
	}
}

// forget writes tombstones for all keys of the counter's table, as a transaction
// does: what ends each partition is a marker.
func (w *world) forget(keys int) {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("forgetter"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	ctx := context.Background()
	var rs []*kgo.Record
	for k := range keys {
		key := fmt.Sprintf("key-%d", k)
		rs = append(rs, &kgo.Record{Topic: "counter-table", Partition: Partition(key, testPartitions), Key: []byte(key)})
	}
	if err := cl.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		w.t.Fatal(err)
	}
}

// beginsAnew feeds one record per key and expects each to be the first of its key.
func (w *world) beginsAnew(e *running, first, keys int) {
	w.t.Helper()
	e.waitReady()
	w.feed(first, first+keys, keys)
	eventually(w.t, "counts that begin anew", func() error {
		fresh := 0
		for _, r := range w.read("out") {
			if n, err := strconv.Atoi(string(r.Headers["input"])); err == nil && n >= first && string(r.Value) == "1" {
				fresh++
			}
		}
		if fresh != keys {
			return fmt.Errorf("%d of %d", fresh, keys)
		}
		return nil
	})
}

// A table of which nothing is left but deletions and markers, or nothing at all,
// is recovered like any other: by an empty folder, by one that is behind and by
// one that is at the end.
func TestTableCompactedToTheEnd(t *testing.T) {
	for name, compact := range map[string]func(w *world){
		"tombstones and markers": func(*world) {},
		"compacted": func(w *world) {
			w.compact("counter-table")
			for _, r := range w.read("counter-table") {
				if len(r.Value) > 0 {
					w.t.Fatalf("offset %d of partition %d is left after the compaction: the test tests nothing", r.Offset, r.Partition)
				}
			}
		},
		"nothing": func(w *world) {
			var upTo kadm.Offsets
			for p := range int32(testPartitions) {
				upTo.Add(kadm.Offset{Topic: "counter-table", Partition: p, At: -1})
			}
			if res, err := w.adm.DeleteRecords(context.Background(), upTo); err != nil || res.Error() != nil {
				w.t.Fatal(err, res.Error())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			dir := filepath.Join(t.TempDir(), "state")
			w.feed(0, 100, 20)
			e := w.startCounter(w.config(dir), &counter{})
			w.eventuallyAudit(100, 20)
			e.stop()
			w.forget(20)
			compact(w)
			e = w.startCounter(w.config(filepath.Join(t.TempDir(), "empty")), &counter{})
			w.beginsAnew(e, 100, 20)
			e.stop()
			w.forget(20)
			compact(w)
			e = w.startCounter(w.config(dir), &counter{})
			w.beginsAnew(e, 200, 20)
			e.stop() // its folder is at the end
			w.forget(20)
			e = w.startCounter(w.config(dir), &counter{})
			e.waitReady()
			e.stop()
			compact(w)
			e = w.startCounter(w.config(dir), &counter{})
			w.beginsAnew(e, 300, 20)
		})
	}
}
