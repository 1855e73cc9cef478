//go:build kafka

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Oracle: a process that is told to stop while every broker hangs ends in
// bounded time. What it had begun is aborted by the broker and done again.
func TestStopWhileBrokersHang(t *testing.T) {
	realKafka.RequireOwn(t)
	ds := deliveries(t)
	dir, file := codeHosting(t)
	c := launch(t, filepath.Join(dir, "data"), file, false)
	for i := range 20 {
		if _, err := c.try(ds[i], fmt.Sprintf("5a5e8f0c-242f-11e5-81e1-%012d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range realKafka.Size() {
		realKafka.Pause(t, i)
		defer realKafka.Resume(t, i)
	}
	began := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.gone:
		// Well within the half minute that orchestrators wait before they kill.
		if d := time.Since(began); d > 25*time.Second {
			t.Errorf("ended after %v", d)
		}
	case <-time.After(60 * time.Second):
		_ = c.cmd.Process.Signal(syscall.SIGQUIT) // its stacks
		<-c.gone
		c.lines.mu.Lock()
		defer c.lines.mu.Unlock()
		t.Fatalf("runs still a minute after SIGTERM:\n%s", strings.Join(c.lines.said, "\n"))
	}
}
