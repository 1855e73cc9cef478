//go:build failpoints

package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// Oracle: a process is killed with SIGKILL at each point of a commit and of a
// recovery, at an early and at a later time, and started again on its folder.
// After each kill the folder is the image of the committed changelog up to its
// mark: local state is never ahead. At the end each input has had its effect
// exactly once.
func TestKilledAtEachPhase(t *testing.T) {
	for _, c := range []struct {
		point failpoint.Point
		hits  []int
	}{
		{failpoint.StepBefore, []int{1, 300}},
		{failpoint.CommitFlush, []int{1, 4}},
		{failpoint.CommitEnd, []int{1, 4}},
		{failpoint.CommitEndSent, []int{1, 4}},
		{failpoint.CommitAfterEnd, []int{1, 4}},
		{failpoint.CommitMidApply, []int{1, 2 + 4*testPartitions}},
		{failpoint.CommitAfterApply, []int{1, 4}},
		{failpoint.SessionFence, []int{1}},
		{failpoint.RecoveryRecord, []int{1, 40}},
		{failpoint.RecoveryWrite, []int{1, 2}},
		{failpoint.RecoveryDone, []int{1}},
	} {
		t.Run(filepath.Base(filepath.Dir(string(c.point)))+" "+filepath.Base(string(c.point)), func(t *testing.T) {
			w := newWorld(t)
			dir := filepath.Join(t.TempDir(), "state")
			n := 0
			more := func(records int) {
				w.feed(n, n+records, 50)
				n += records
			}
			// There is a past: without one there would be nothing to recover.
			more(400)
			first := w.work(dir, "a", "")
			w.eventuallyAudit(n, 50)
			first.cmd.Process.Kill()
			<-first.ended
			compared := w.checkStore(dir)
			for _, hit := range c.hits {
				more(100)
				if strings.HasPrefix(string(c.point), "engine/recovery/") {
					// All of the log is to be recovered, not a tail.
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
				}
				p := w.work(dir, "a", fmt.Sprintf("%s[counter]=kill@%d", c.point, hit))
				for until := time.Now().Add(patience); p.alive() && time.Now().Before(until); <-time.After(5 * time.Millisecond) {
					more(25) // until there were enough commits
				}
				p.killed()
				compared += w.checkStore(dir)
			}
			last := w.work(dir, "a", "")
			more(50)
			w.eventuallyAudit(n, 50)
			last.stop()
			whole := w.checkStore(dir)
			if whole != 50 {
				t.Errorf("%d entries in the folder at the end, expected 50", whole)
			}
			t.Logf("%d kills, %d inputs, %d entries compared with the changelog after kills", len(c.hits), n, compared)
		})
	}
}

func (p *worker) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}
