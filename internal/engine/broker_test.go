//go:build kafka

package engine

import (
	"fmt"
	"testing"
	"time"
)

// The tests here take brokers away under load. They need brokers of their own.

// progress waits until another n records were counted.
func (r *running) progress(n int64) {
	r.t.Helper()
	at := r.group().Records
	eventually(r.t, "more records", func() error {
		if got := r.group().Records; got < at+n {
			return fmt.Errorf("%d of %d", got, at+n)
		}
		return nil
	})
}

// Each broker in turn is killed while records arrive, and comes back.
func TestBrokerKilled(t *testing.T) {
	realKafka.RequireOwn(t)
	w := newWorld(t)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	stop := w.load(9)
	e.progress(500)
	for i := range min(w.cluster.Size(), 2) {
		w.cluster.Kill(t, i)
		if w.cluster.Size() > 1 {
			e.progress(500) // the others do its work
		}
		w.cluster.Restart(t)
		e.progress(500)
	}
	n := stop()
	w.eventuallyAudit(n, 9)
	s := e.group()
	t.Logf("%d records, %d of %d brokers killed one by one: %d aborts, %d unknown outcomes, %d restarts", n, min(w.cluster.Size(), 2), w.cluster.Size(), s.Aborts, s.Unknown, s.Restarts)
}

// A broker hangs for longer than sessions and transactions may be silent, and
// goes on as if nothing had been.
func TestBrokerHangs(t *testing.T) {
	realKafka.RequireOwn(t)
	w := newWorld(t)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	stop := w.load(9)
	e.progress(500)
	for i := range w.cluster.Size() {
		w.cluster.Pause(t, i)
		<-time.After(8 * time.Second)
		w.cluster.Resume(t, i)
		e.progress(500)
		w.cluster.AwaitInSync(t)
	}
	n := stop()
	w.eventuallyAudit(n, 9)
	s := e.group()
	t.Logf("%d records, %d brokers hung one by one: %d aborts, %d unknown outcomes, %d restarts", n, w.cluster.Size(), s.Aborts, s.Unknown, s.Restarts)
}

// All brokers are gone for longer than sessions and transactions may be silent.
func TestBrokersAllGone(t *testing.T) {
	realKafka.RequireOwn(t)
	w := newWorld(t)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	stop := w.load(9)
	e.progress(500)
	for i := range w.cluster.Size() {
		w.cluster.Kill(t, i)
	}
	<-time.After(15 * time.Second)
	w.cluster.Restart(t)
	e.progress(500)
	n := stop()
	w.eventuallyAudit(n, 9)
	s := e.group()
	t.Logf("%d records, all brokers gone for 15 s: %d aborts, %d unknown outcomes, %d restarts", n, s.Aborts, s.Unknown, s.Restarts)
}
