//go:build kafka

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Oracle: a second `touchstone serve`, told nothing but the brokers, the
// registry and a folder of its own, takes half of the partitions of every
// station while deliveries arrive at both; each answers for all entities. When
// the first one stops, the second goes on alone. Each delivery has exactly one
// entity in its first version and one event.
func TestTwoInstances(t *testing.T) {
	ds := deliveries(t)
	dir, file := codeHosting(t)
	const partitions, batch = 8, 150 // the default of serve
	sent := 0
	send := func(to ...*child) {
		t.Helper()
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := sent + w; i < sent+batch; i += 4 {
					if _, err := to[i%len(to)].try(ds[i%len(ds)], fmt.Sprintf("5a5e8f0c-242f-11e5-81e1-%012d", i)); err != nil {
						t.Errorf("delivery %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
		sent += batch
	}
	running := regexp.MustCompile(`touchstone_partitions\{group="([^"]+)",state="running"\} (\d+)`)
	works := func(c *child, want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d partitions of every station", want), 60*time.Second, func() (bool, string) {
			found := running.FindAllStringSubmatch(string(c.get("/metrics").body), -1)
			for _, m := range found {
				if n, _ := strconv.Atoi(m[2]); n != want {
					return false, fmt.Sprint(found)
				}
			}
			return len(found) > 0, fmt.Sprint(found)
		})
	}
	one := launch(t, filepath.Join(dir, "one"), file, false)
	send(one)
	works(one, partitions)
	two := join(t, filepath.Join(dir, "two"), file)
	send(one, two)
	works(one, partitions/2)
	works(two, partitions/2)
	send(one, two)
	for _, c := range []*child{one, two} {
		c.settle("code-hosting", sent, 60*time.Second)
		if n := len(c.list("code-hosting", "delivery")); n != sent {
			t.Errorf("%d entities of %d deliveries", n, sent)
		}
	}
	if err := one.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	send(two)
	works(two, partitions)
	send(two)
	two.settle("code-hosting", sent, 60*time.Second)
	entities := two.list("code-hosting", "delivery")
	for _, e := range entities {
		if e["version"] != float64(1) {
			t.Errorf("delivery %v has version %v", e["id"], e["version"])
		}
	}
	if len(entities) != sent {
		t.Errorf("%d entities of %d deliveries", len(entities), sent)
	}
	if ev := two.events("code-hosting"); ev["code.hosting.v1.DeliverySeen"] != sent || ev["code.hosting.v1.DeliveryChanged"] != 0 {
		t.Errorf("events %v, expected %d of DeliverySeen", ev, sent)
	}
	two.gapFree("code-hosting")
	t.Logf("%d deliveries to two instances that came and went", sent)
}
