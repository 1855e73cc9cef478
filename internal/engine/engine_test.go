package engine

import "testing"

func TestExactlyOnceUndisturbed(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 500, 7)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	w.eventuallyAudit(500, 7)
	w.feed(500, 600, 7)
	w.eventuallyAudit(600, 7)
	e.stop()
	if err := w.audit(600, 7); err != nil {
		t.Fatal(err)
	}
}
