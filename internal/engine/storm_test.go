package engine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Instances join and leave, three to eight of them, while records arrive; one
// in eight dies instead of leaving, and its folder with it. Whatever the order,
// which a seed decides, the audit holds at the end: each input has its effect
// once, versions have no gap. TOUCHSTONE_TEST_STORM makes it last longer than
// the default, such as 10m.
func TestStormWithDeaths(t *testing.T) {
	const partitions, keys, most, least = 12, 240, 8, 3
	lasts, step := stormLasts, stormStep
	if s := os.Getenv("TOUCHSTONE_TEST_STORM"); s != "" {
		var err error
		if lasts, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := testSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newWorldOf(t, partitions)
	root := t.TempDir()
	type process struct {
		*running
		net *network
	}
	procs := map[int]*process{}
	var dead []*process
	folders := 0
	var joins, leaves, deaths int
	var aborts, restarts int64
	start := func(i int) {
		folders++
		cfg := w.config(fmt.Sprintf("%s/%d", root, folders))
		cfg.Instance = fmt.Sprintf("i%d", i)
		p := &process{net: &network{}}
		cfg.ClientOptions = p.net.options()
		p.running = w.startCounter(cfg, &counter{})
		procs[i] = p
		joins++
	}
	stopOne := func(i int) {
		s := procs[i].group()
		aborts, restarts = aborts+s.Aborts, restarts+s.Restarts
		if rnd.IntN(8) == 0 {
			procs[i].net.down(true)
			dead = append(dead, procs[i])
			deaths++
		} else {
			procs[i].stop()
			leaves++
		}
		delete(procs, i)
	}
	for i := range least {
		start(i)
	}
	stop := w.load(keys)
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		i := rnd.IntN(most)
		switch {
		case procs[i] == nil:
			start(i)
		case len(procs) > least:
			stopOne(i)
		}
		<-time.After(step/2 + rand.N(step)) // the storm has no other rhythm
	}
	fed := stop()
	w.eventuallyAudit(fed, keys)
	for _, p := range procs {
		s := p.group()
		aborts, restarts = aborts+s.Aborts, restarts+s.Restarts
	}
	for _, p := range dead { // they wake up as zombies
		p.net.down(false)
		p.stop()
	}
	if err := w.audit(fed, keys); err != nil {
		t.Fatalf("after the dead woke up: %v", err)
	}
	t.Logf("%v: %d records, %d joined, %d left, %d died; %d aborts, %d sessions restarted", lasts, fed, joins, leaves, deaths, aborts, restarts)
}

// testSeed gives the seed of a test that draws its events.
func testSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TOUCHSTONE_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TOUCHSTONE_TEST_SEED=%d", seed)
	return seed
}
