package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/processors"
)

func (w *world) startStandby(cfg Config, c processors.Station) *running {
	w.t.Helper()
	return w.start(cfg, func(e *Engine) {
		spec := counterSpec(c)
		spec.Standby = true
		if err := e.AddProcessor(spec); err != nil {
			w.t.Fatal(err)
		}
	})
}

// local gives what the folder has of the counter's table.
func (r *running) local() map[string]string {
	r.t.Helper()
	m := map[string]string{}
	for p := range int32(testPartitions) {
		im := &image{ks: newKeyspace(kindTable, "counter-table", p), db: r.db.handle(), disk: r.db.disk}
		it, err := newStore(im, nil, nil).Iterator()
		if err != nil {
			r.t.Fatal(err)
		}
		for it.Next() {
			v, err := it.Value()
			if err != nil {
				r.t.Fatal(err)
			}
			m[string(it.Key())] = string(v)
		}
		it.Release()
	}
	return m
}

// changelog gives the last committed value of each key of the counter's table.
func (w *world) changelog() map[string]string {
	w.t.Helper()
	m := map[string]string{}
	for _, r := range w.read("counter-table") {
		if r.Value == nil {
			delete(m, string(r.Key))
		} else {
			m[string(r.Key)] = string(r.Value)
		}
	}
	return m
}

// equalsLog waits until local state is the image of the changelog.
func (r *running) equalsLog(w *world) {
	r.t.Helper()
	eventually(r.t, "local state to equal the changelog", func() error {
		if have, want := r.local(), w.changelog(); !maps.Equal(have, want) {
			return fmt.Errorf("local %v, changelog %v", have, want)
		}
		return nil
	})
}

// A standby follows what another process owns, takes in what is committed and
// nothing that is not, and owns the table at once when the other goes away.
func TestStandby(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 200, 5)
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	cfg := w.config(t.TempDir())
	var stop atomic.Bool
	cfg.hooks.beforeEnd = func(string) {
		if stop.Load() {
			once.Do(func() { close(held); <-hold })
		}
	}
	a := w.startCounter(cfg, &counter{})
	w.eventuallyAudit(200, 5)
	a.equalsLog(w)

	// The other process has the group's table as a standby alone.
	cfg = w.config(t.TempDir())
	cfg.Instance = "b"
	b := w.start(cfg, func(e *Engine) { e.table("counter-table").standby = true })
	b.equalsLog(w)
	eventually(t, "no lag", func() error {
		for _, p := range b.Status().Tables[0].Partitions {
			if p.State != ReplicaFollowing || p.Lag.Records != 0 || p.Lag.Age != 0 {
				return fmt.Errorf("%+v", p)
			}
		}
		return nil
	})

	// Everything of a transaction is in the log, but it is not committed.
	before := w.changelog()
	stop.Store(true)
	w.feed(200, 300, 5)
	<-held
	if got := b.local(); !maps.Equal(got, before) {
		t.Errorf("the standby has %v while %v is committed", got, before)
	}
	close(hold)
	w.eventuallyAudit(300, 5)
	b.equalsLog(w)
	a.equalsLog(w)
	a.stop()
	b.stop()

	// It owns what it has followed without reading the changelog again.
	c := &counter{}
	cfg = w.config(cfg.Dir)
	cfg.Instance = "b"
	b = w.startStandby(cfg, c)
	w.feed(300, 310, 5)
	w.eventuallyAudit(310, 5)
	if n := b.Status().Tables[0].Followed; n != 0 {
		t.Errorf("%d changelog records were read, expected none", n)
	}
}

// Partitions move back and forth between processes under load: whoever owns
// one writes it, who does not follows it, and in the end all have the same.
func TestOwnersChange(t *testing.T) {
	w := newWorld(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	start := func(i int) *running {
		cfg := w.config(dirs[i])
		cfg.Instance = string(rune('a' + i))
		return w.startStandby(cfg, &counter{})
	}
	const rounds, each = 6, 300
	e := []*running{start(0), start(1)}
	for i := range rounds {
		w.feed(i*each, (i+1)*each, 11)
		r := i % 2
		if i%3 == 2 {
			eventually(t, "some of it", func() error {
				if n := len(w.read("out")); n < i*each+each/2 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
		}
		e[r].stop()
		e[r] = start(r)
	}
	w.eventuallyAudit(rounds*each, 11)
	e[0].waitReady()
	for _, r := range e {
		r.equalsLog(w)
	}
}

// A crash between the commit and local state, with a replica: the tail that
// local state lacks is read again, and nothing else.
func TestRestartReadsTheTailAlone(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.feed(0, 400, 5)
	e := w.startStandby(w.config(dir), &counter{})
	w.eventuallyAudit(400, 5)
	e.equalsLog(w)
	e.stop()

	// 20 more are committed, of which local state hears nothing.
	cfg := w.config(dir)
	crash := make(chan struct{})
	var once sync.Once
	cfg.hooks.beforeApply = func(string) error {
		once.Do(func() { close(crash) })
		return errors.New("crash")
	}
	cfg.StopTimeout = time.Second
	e = w.startCounter(cfg, &counter{})
	w.feed(400, 420, 5)
	<-crash
	w.eventuallyAudit(420, 5)
	e.cancel()
	<-e.done
	e.once.Do(func() {})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	e = w.startCounter(w.config(dir), &counter{})
	e.waitReady()
	e.equalsLog(w)
	// Sessions that failed in the same way have read it before, then there is
	// nothing left to read.
	if n := e.Status().Tables[0].Followed; n > 20 {
		t.Errorf("%d changelog records were read, expected the 20 of the tail at most", n)
	}
}

// The log that a standby follows is truncated beyond what it has, and then
// deleted and created again: it begins anew.
func TestStandbyBeginsAnew(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	put := func(key, value string) {
		w.send("counter-table", key, value)
	}
	dir := t.TempDir()
	standby := func() *running {
		return w.start(w.config(dir), func(e *Engine) { e.table("counter-table").standby = true })
	}
	for k := range 20 {
		put("key-"+strconv.Itoa(k), "1")
	}
	e := standby()
	e.equalsLog(w)
	e.stop()
	for k := range 20 {
		put("key-"+strconv.Itoa(k), "2") // in every partition something that it lacks
	}
	ends, err := w.adm.ListEndOffsets(ctx, "counter-table")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.adm.DeleteRecords(ctx, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	put("key-1", "3")
	e = standby()
	e.equalsLog(w)
	e.stop()
	w.deleteTopics("counter-table")
	w.cl.PurgeTopicsFromClient("counter-table")
	w.topics(testPartitions, "counter-table")
	for k := range 100 {
		put("key-"+strconv.Itoa(k%7), strconv.Itoa(k))
	}
	e = standby()
	e.equalsLog(w)
}

// While a standby works its folder turns out to be corrupt: it begins anew and
// never shows what is not there.
func TestStandbyOfCorruptFolder(t *testing.T) {
	w := newWorld(t)
	for k := range 50 {
		w.send("counter-table", "key-"+strconv.Itoa(k), "1")
	}
	dir := t.TempDir() + "/state"
	e := w.start(w.config(dir), func(e *Engine) { e.table("counter-table").standby = true })
	e.equalsLog(w)
	e.db.corrupt <- errors.New("a file is not what was written")
	eventually(t, "the folder to be moved aside", func() error {
		_, err := os.Stat(dir + ".corrupt")
		return err
	})
	w.send("counter-table", "key-0", "2")
	eventually(t, "the database to be open", func() error {
		if e.db.handle() == nil {
			return errClosed
		}
		return nil
	})
	e.equalsLog(w)
}

// Aborted records and markers at the end of the log are no reason to wait.
func TestStandbyOfInvisibleEnd(t *testing.T) {
	w := newWorld(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID("other"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := context.Background()
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for p := range int32(testPartitions) {
			r := &kgo.Record{Topic: "counter-table", Partition: p, Key: []byte("key"), Value: []byte(strconv.Itoa(i))}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	e := w.start(w.config(t.TempDir()), func(e *Engine) { e.table("counter-table").standby = true })
	eventually(t, "the end", func() error {
		var ends kadm.ListedOffsets
		if ends, err = w.adm.ListEndOffsets(ctx, "counter-table"); err != nil {
			return err
		}
		ps := e.Status().Tables[0].Partitions
		if len(ps) != testPartitions {
			return fmt.Errorf("%d partitions", len(ps))
		}
		for _, p := range ps {
			if o, _ := ends.Lookup("counter-table", p.Partition); p.Position != o.Offset {
				return fmt.Errorf("at %d of %d", p.Position, o.Offset)
			}
		}
		return nil
	})
	if got := e.local(); len(got) != 1 || got["key"] != "0" {
		t.Errorf("local state is %v", got)
	}
}
