//go:build kafka

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Oracle: each broker in turn is killed with SIGKILL while deliveries arrive,
// and comes back. Senders repeat what is not acknowledged, as webhook senders
// do. Every acknowledged delivery is in the journal; each of them has exactly
// one entity in its first version and one event.
func TestBrokerKilledUnderIngest(t *testing.T) {
	realKafka.RequireOwn(t)
	ds := deliveries(t)
	dir, file := codeHosting(t)
	c := launch(t, filepath.Join(dir, "data"), file, false)
	guid := func(i int) string { return fmt.Sprintf("5a5e8f0c-242f-11e5-81e1-%012d", i) }
	var mu sync.Mutex
	acknowledged := map[string]int{} // journal id to delivery
	done, repeated := 0, 0
	work := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range work {
				for {
					id, err := c.try(ds[i%len(ds)], guid(i))
					mu.Lock()
					if err == nil {
						acknowledged[id] = i
						done++
						mu.Unlock()
						break
					}
					repeated++
					mu.Unlock()
					<-time.After(100 * time.Millisecond)
				}
			}
		})
	}
	acks := func() int {
		mu.Lock()
		defer mu.Unlock()
		return done
	}
	stop, fed := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case work <- n:
				<-time.After(10 * time.Millisecond) // a steady stream for as long as brokers come and go
			case <-stop:
				close(work)
				fed <- n
				return
			}
		}
	}()
	more := func(n int) {
		at := acks()
		eventually(t, "more acknowledgements", 90*time.Second, func() (bool, string) { return acks() >= at+n, fmt.Sprint(acks() - at) })
	}
	more(50)
	for i := range realKafka.Size() {
		realKafka.Kill(t, i)
		if realKafka.Size() > 1 {
			more(50) // the others do its work
		}
		realKafka.Restart(t)
		more(50)
	}
	close(stop)
	n := <-fed
	wg.Wait()
	out := c.settle("code-hosting", len(acknowledged), 90*time.Second)
	kinds := count(out)
	t.Logf("%d deliveries while %d brokers were killed one by one, %d attempts repeated: %v", n, realKafka.Size(), repeated, kinds)
	told := map[string]bool{}
	for _, o := range out {
		told[o.journal] = true
	}
	for id, i := range acknowledged {
		if !told[id] {
			t.Errorf("acknowledged delivery %s (%s) is not in the journal", id, guid(i))
			continue
		}
		if i%20 == 0 { // the others were told of by position; these are read
			if a := c.get("/v1/deliveries/" + id + "/content"); a.status != http.StatusOK || !strings.Contains(string(a.body), guid(i)) {
				t.Errorf("acknowledged delivery %s (%s): %d %.200s", id, guid(i), a.status, a.body)
			}
		}
	}
	entities := c.list("code-hosting", "delivery")
	for _, e := range entities {
		if e["version"] != float64(1) {
			t.Errorf("delivery %v has version %v", e["id"], e["version"])
		}
	}
	if len(entities) != n {
		t.Errorf("%d entities of %d deliveries", len(entities), n)
	}
	if ev := c.events("code-hosting"); ev["code.hosting.v1.DeliverySeen"] != n || ev["code.hosting.v1.DeliveryChanged"] != 0 {
		t.Errorf("events %v, expected %d of DeliverySeen", ev, n)
	}
	c.gapFree("code-hosting")
}
