package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Oracle: the program is killed with SIGKILL at the places where it holds
// something that only it knows of: a delivery that is in the journal and not yet
// acknowledged, a commit of each station before and after its end, a view in the
// middle of a record. Senders repeat what was not acknowledged. Every
// acknowledged delivery is in the journal; each has exactly one entity in its
// first version and one event.
func TestKilledAtDoorStationsAndViews(t *testing.T) {
	ds := deliveries(t)[:240]
	dir, definition := codeHosting(t)
	guid := func(i int) string { return fmt.Sprintf("7c1be2f4-242f-11e5-81e1-%012d", i) }
	acknowledged := map[string]int{} // journal id to delivery
	for round, rule := range []string{
		"door/before-append[code-hosting.github]=kill@15",
		"door/after-append[code-hosting.github]=kill@15",
		"engine/commit/before-end[code-hosting.inbox]=kill@3",
		"engine/commit/after-end[code-hosting.inbox]=kill@3",
		"engine/commit/end-sent[code-hosting.merge]=kill@3",
		"engine/commit/mid-apply[code-hosting.merge]=kill@3",
		"engine/commit/after-end[code-hosting.publish]=kill@3",
		"engine/view/record=kill@40",
		"engine/view/write=kill@20",
	} {
		c := launch(t, filepath.Join(dir, "data"), definition, round > 0, rule)
		var mu sync.Mutex
		next := round * 25
		var senders sync.WaitGroup
		for range 3 {
			senders.Go(func() {
				for until := time.Now().Add(60 * time.Second); time.Now().Before(until); {
					mu.Lock()
					i := next % len(ds)
					next++
					mu.Unlock()
					id, err := c.try(ds[i], guid(i))
					if err != nil {
						return // the process is gone; the sender sends it again later
					}
					mu.Lock()
					acknowledged[id] = i
					mu.Unlock()
				}
			})
		}
		senders.Wait()
		select {
		case <-c.gone:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s did not fire", rule)
		}
		// The line of the failpoint is the last thing that it does.
		if _, err := c.lines.find(": "+rule, time.Second); err != nil || !strings.Contains(c.cmd.ProcessState.String(), "killed") {
			t.Fatalf("it ended with %v and not by %s: %v", c.cmd.ProcessState, rule, err)
		}
	}
	c := launch(t, filepath.Join(dir, "data"), definition, true)
	n := c.eachOnce(ds, guid, acknowledged)
	t.Logf("%d acknowledged before 9 kills, then all %d sent again: %v", len(acknowledged), len(ds), n)
}
