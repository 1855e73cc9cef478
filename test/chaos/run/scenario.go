package run

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// Scenario is a way to break things.
type Scenario struct {
	Name string
	// Doc says what is done.
	Doc                string
	Brokers, Instances int
	// Load is the least that it needs to do what it is for.
	Load time.Duration
	// Proxied puts a proxy before each broker.
	Proxied bool
	// Compacts tells that older records of the tables' changelogs go.
	Compacts bool
	// Corrupts tells that folders are broken on purpose.
	Corrupts bool
	// Clocks tells that those of the instances are wrong.
	Clocks bool
	// Properties of the brokers.
	Properties map[string]string
	// Failpoints gives the rules of a process that is started.
	Failpoints func(rng *rand.Rand) string
	// Faults injects until w.load ends.
	Faults func(w *world)

	before func(w *world, i *instance) error // a data folder is made
	after  func(w *world)                    // everything has ended
}

// Scenarios lists all, in the order in which a run takes them.
func Scenarios() []*Scenario {
	return []*Scenario{
		{Name: "calm", Doc: "no faults: what the audit finds here is wrong without any", Brokers: 1, Instances: 2},
		{Name: "kill", Doc: "kill -9 of a random instance of three every 3 to 8 s", Brokers: 1, Instances: 3, Faults: kills(3*time.Second, 8*time.Second)},
		{Name: "kill-only", Doc: "kill -9 of the only instance every 4 to 9 s", Brokers: 1, Instances: 1, Faults: kills(4*time.Second, 9*time.Second)},
		{Name: "commit-phases", Doc: "kill -9 at each phase of a commit, of recovery and of the door", Brokers: 1, Instances: 2, Failpoints: phases},
		{Name: "panics", Doc: "panics and errors in stations and sessions", Brokers: 1, Instances: 2, Failpoints: panics},
		{Name: "broker-kill", Doc: "kill -9 of the only broker, and its restart", Brokers: 1, Instances: 2, Load: 75 * time.Second, Faults: brokerKills},
		{Name: "brokers-rolling", Doc: "kill -9 of one of three brokers after the other", Brokers: 3, Instances: 2, Load: 90 * time.Second, Faults: rollingKills},
		{Name: "brokers-gone", Doc: "all three brokers killed for 60 s", Brokers: 3, Instances: 2, Load: 110 * time.Second, Faults: allGone},
		{Name: "coordinator", Doc: "SIGSTOP of a transaction coordinator for longer than the transaction timeout", Brokers: 3, Instances: 2, Load: 90 * time.Second, Faults: slowCoordinator},
		{Name: "late-commits", Doc: "transactions that are committed after their timeout, or whose end is noticed late", Brokers: 1, Instances: 2, Load: 90 * time.Second, Failpoints: lateCommits},
		{Name: "network", Doc: "latency, resets, slices, silence and cut connections between instances and broker", Brokers: 1, Instances: 2, Load: 90 * time.Second, Proxied: true, Faults: badNetwork},
		{Name: "rebalance-storm", Doc: "three to eight instances that come, leave and are killed every 3 s", Brokers: 1, Instances: 3, Load: 75 * time.Second, Faults: storm},
		{Name: "zombie", Doc: "SIGSTOP of an instance for 40 s, 30 beyond session and transaction timeout", Brokers: 1, Instances: 2, Load: 100 * time.Second, Faults: zombies},
		{Name: "disk-full", Doc: "no space left for one instance's store, for 5 to 10 s", Brokers: 1, Instances: 2, Faults: fullDisk, before: smallDisk, after: unmount},
		{Name: "corrupt", Doc: "flipped bytes, cut and missing files in the folder of a stopped instance", Brokers: 1, Instances: 2, Corrupts: true, Faults: corruptions},
		{Name: "stale-offset", Doc: "changelogs whose start is moved beyond what the folders know", Brokers: 1, Instances: 2, Compacts: true, Faults: staleOffsets},
		{Name: "compacted", Doc: "changelogs compacted to the end under load, folders wiped", Brokers: 1, Instances: 2, Compacts: true, Faults: compactions,
			Properties: map[string]string{"log.cleaner.backoff.ms": "500", "log.segment.ms": "2000", "log.cleaner.min.cleanable.ratio": "0.01", "log.cleaner.delete.retention.ms": "1000", "log.roll.ms": "2000"}},
		{Name: "clocks", Doc: "clocks of the instances that jump by up to an hour, back and forth; kills with it", Brokers: 1, Instances: 2, Clocks: true, Faults: wrongClocks},
		{Name: "everything", Doc: "kills, pauses, dead brokers and a bad network, all at once", Brokers: 3, Instances: 3, Load: 90 * time.Second, Proxied: true, Failpoints: everywhere, Faults: everything},
		{Name: "hung-stop", Doc: "SIGTERM of an instance while the only broker hangs for 45 s", Brokers: 1, Instances: 2, Load: 130 * time.Second, Faults: hungStops},
		{Name: "rebalance-kill", Doc: "kill -9 of an instance in the moment in which partitions move", Brokers: 1, Instances: 2, Faults: killedInRebalance},
	}
}

// Find gives a scenario by name.
func Find(name string) (*Scenario, error) {
	names := ""
	for _, s := range Scenarios() {
		if s.Name == name {
			return s, nil
		}
		names += " " + s.Name
	}
	return nil, fmt.Errorf("scenario: found %q, expected one of%s", name, names)
}

// revive starts an instance again after a while.
func (w *world) revive(i *instance, after time.Duration) {
	w.revivals.Go(func() {
		time.Sleep(after)
		w.check("start again", w.start(i))
	})
}

func kills(least, most time.Duration) func(*world) {
	return func(w *world) {
		for w.pause(least, most) {
			i := w.any()
			w.kill(i)
			w.revive(i, time.Duration(w.rng.IntN(1500))*time.Millisecond)
		}
	}
}

// phases gives each process one or two places to die at.
func phases(rng *rand.Rand) string {
	places := []string{
		"engine/commit/before-flush=kill@p0.003", "engine/commit/before-end=kill@p0.003", "engine/commit/end-sent=kill@p0.003",
		"engine/commit/after-end=kill@p0.003", "engine/commit/mid-apply=kill@p0.001", "engine/commit/after-apply=kill@p0.003",
		"engine/recovery/record=kill@p0.0005", "engine/recovery/write=kill@p0.02", "engine/recovery/done=kill@p0.1", "engine/session/fence=kill@p0.1",
		"engine/step/station=kill@p0.0003", "door/before-append=kill@p0.001", "door/after-append=kill@p0.001", "engine/view/record=kill@p0.0002", "engine/view/write=kill@p0.002",
	}
	a, b := rng.IntN(len(places)), rng.IntN(len(places))
	if a == b {
		return places[a]
	}
	return places[a] + ";" + places[b]
}

func panics(*rand.Rand) string {
	return "engine/step/station=panic@p0.001;engine/step/before=panic@p0.0002;engine/commit/before-flush=error@p0.002;engine/commit/before-end=error@p0.002;" +
		"engine/commit/after-end=error@p0.002;engine/commit/mid-apply=error@p0.001;engine/recovery/write=error@p0.02;door/before-append=error@p0.002;engine/view/write=error@p0.002"
}

func lateCommits(*rand.Rand) string {
	return "engine/commit/before-end=sleep(12s)@p0.0015;engine/commit/end-sent=sleep(12s)@p0.001;engine/commit/after-end=sleep(12s)@p0.001;engine/commit/before-flush=sleep(12s)@p0.001"
}

func everywhere(*rand.Rand) string {
	return "engine/commit/before-end=kill@p0.0005;engine/commit/end-sent=kill@p0.0005;engine/commit/after-end=kill@p0.0005;engine/commit/before-end=sleep(11s)@p0.0003"
}

func brokerKills(w *world) {
	for w.pause(8*time.Second, 15*time.Second) {
		w.fault("broker kill -9", "broker 1")
		w.check("kill broker", w.cluster.KillBroker(0))
		time.Sleep(time.Duration(w.rng.IntN(5000)) * time.Millisecond)
		w.check("start broker", w.cluster.StartKilled())
	}
}

func rollingKills(w *world) {
	for b := 0; w.pause(4*time.Second, 8*time.Second); b = (b + 1) % w.cluster.Size() {
		w.fault("broker kill -9", "broker %d", b+1)
		w.check("kill broker", w.cluster.KillBroker(b))
		time.Sleep(time.Duration(500+w.rng.IntN(5000)) * time.Millisecond)
		w.check("start broker", w.cluster.StartKilled())
	}
}

func allGone(w *world) {
	if !w.pause(10*time.Second, 15*time.Second) {
		return
	}
	w.fault("all brokers gone for 60 s", "kill -9 of %d", w.cluster.Size())
	for b := range w.cluster.Size() {
		w.check("kill broker", w.cluster.KillBroker(b))
	}
	time.Sleep(60 * time.Second)
	w.check("start brokers", w.cluster.StartKilled())
}

// slowCoordinator stops the broker that coordinates the transactions of the
// merge station for longer than these may take.
func slowCoordinator(w *world) {
	for w.pause(5*time.Second, 9*time.Second) {
		b := w.coordinator()
		w.fault("coordinator stopped for 14 s", "broker %d", b+1)
		w.check("pause broker", w.cluster.PauseBroker(b))
		time.Sleep(14 * time.Second)
		w.check("resume broker", w.cluster.ResumeBroker(b))
	}
}

func badNetwork(w *world) {
	kinds := []struct {
		name string
		do   func() error
	}{
		{"latency of 0.3 to 1 s", func() error { return w.net.toxic(0, "latency", "", `"latency":650,"jitter":350`) }},
		{"latency beyond the transaction timeout", func() error { return w.net.toxic(0, "latency", "downstream", `"latency":12000`) }},
		{"connections reset", func() error { return w.net.toxic(0, "reset_peer", "", `"timeout":300`) }},
		{"slices of 64 bytes", func() error {
			return w.net.toxic(0, "slicer", "", `"average_size":64,"size_variation":32,"delay":20`)
		}},
		{"answers swallowed", func() error { return w.net.toxic(0, "timeout", "downstream", `"timeout":0`) }},
		{"requests swallowed", func() error { return w.net.toxic(0, "timeout", "upstream", `"timeout":0`) }},
		{"cut", func() error { w.net.cut(0); return nil }},
	}
	for k := w.rng.IntN(len(kinds)); w.pause(2*time.Second, 5*time.Second); k = (k + 1) % len(kinds) {
		w.fault("network: "+kinds[k].name, "broker 1")
		w.check("toxic", kinds[k].do())
		least := 2 * time.Second
		if k == 1 || k >= 4 {
			least = 5 * time.Second
		}
		if k == 1 {
			least = 14 * time.Second
		}
		time.Sleep(least + time.Duration(w.rng.IntN(3000))*time.Millisecond)
		w.check("heal", w.net.heal())
	}
}

func storm(w *world) {
	for w.sleep(3 * time.Second) {
		running := 0
		for _, i := range w.instances {
			if i.running() {
				running++
			}
		}
		switch {
		case running < 3 || running < 8 && w.rng.IntN(2) == 0:
			if len(w.instances) < 8 {
				i, err := w.add()
				w.check("add", err)
				if err == nil {
					w.fault("instance added", "%s", i)
					w.check("start", w.start(i))
				}
				continue
			}
			for _, i := range w.instances {
				if !i.running() {
					w.fault("instance comes back", "%s", i)
					w.check("start", w.start(i))
					break
				}
			}
		default:
			i := w.any()
			if !i.running() {
				continue
			}
			if w.rng.IntN(3) == 0 {
				w.kill(i)
				continue
			}
			w.fault("instance leaves", "%s", i)
			w.check("stop", i.stop())
			w.inspect(i, "stopped")
		}
	}
}

func zombies(w *world) {
	for w.pause(3*time.Second, 6*time.Second) {
		i := w.any()
		w.fault("SIGSTOP for 40 s", "%s", i)
		w.check("pause", i.signal(syscall.SIGSTOP))
		time.Sleep(40 * time.Second)
		w.check("resume", i.signal(syscall.SIGCONT))
	}
}

// hungStops stops an instance while nothing answers it. It must be gone before
// the broker is back.
func hungStops(w *world) {
	for w.pause(4*time.Second, 8*time.Second) {
		i := w.any()
		w.fault("stop while the broker hangs", "%s", i)
		w.check("pause broker", w.cluster.PauseBroker(0))
		began := time.Now()
		time.Sleep(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
		w.check("stop", i.signal(syscall.SIGTERM))
		gone := i.wait(45 * time.Second)
		w.say("%s stopped after %s: %v", i, time.Since(began).Round(100*time.Millisecond), gone)
		time.Sleep(time.Until(began.Add(45 * time.Second)))
		w.check("resume broker", w.cluster.ResumeBroker(0))
		w.check("stop", i.wait(stopWithin))
		w.check("start", w.start(i))
	}
}

func everything(w *world) {
	for w.pause(2*time.Second, 6*time.Second) {
		switch w.rng.IntN(5) {
		case 0, 1:
			i := w.any()
			w.kill(i)
			w.revive(i, time.Duration(w.rng.IntN(2000))*time.Millisecond)
		case 2:
			b := w.rng.IntN(w.cluster.Size())
			w.fault("broker kill -9", "broker %d", b+1)
			w.check("kill broker", w.cluster.KillBroker(b))
			time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
			w.check("start broker", w.cluster.StartKilled())
		case 3:
			b := w.rng.IntN(w.cluster.Size())
			w.fault("broker stopped for 12 s", "broker %d", b+1)
			w.check("pause broker", w.cluster.PauseBroker(b))
			time.Sleep(12 * time.Second)
			w.check("resume broker", w.cluster.ResumeBroker(b))
		case 4:
			b := w.rng.IntN(w.cluster.Size())
			w.fault("network: connections reset", "broker %d", b+1)
			w.check("toxic", w.net.toxic(b, "reset_peer", "", `"timeout":200`))
			time.Sleep(time.Duration(1000+w.rng.IntN(2000)) * time.Millisecond)
			w.check("heal", w.net.heal())
		}
	}
}
