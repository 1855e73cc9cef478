package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/topology"
)

// coordinator gives the broker that coordinates a transactional id of the
// merge station.
func (w *world) coordinator() int {
	ctx, cancel := context.WithTimeout(w.load, 10*time.Second)
	defer cancel()
	listed, err := w.adm.ListTransactions(ctx, nil, nil)
	if err == nil {
		ids := listed.TransactionalIDs()
		slices.Sort(ids)
		for _, id := range ids {
			if t := listed[id]; len(id) > 0 && t.Coordinator > 0 && int(t.Coordinator) <= w.cluster.Size() && w.rng.IntN(3) == 0 {
				return int(t.Coordinator) - 1
			}
		}
	}
	return w.rng.IntN(w.cluster.Size())
}

// The small disk of the instance whose store gets no space.
const smallDiskSize = 48 << 20

// smallDisk gives the first instance a file system of its own to keep its data in.
func smallDisk(w *world, i *instance) error {
	if i.n != 1 {
		return nil
	}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", i.dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDiskSize)); err != nil {
		return fmt.Errorf("mount a small file system at %s, which takes root: %w", i.dir, err)
	}
	return nil
}

func unmount(w *world) {
	if len(w.instances) == 0 {
		return
	}
	i := w.instances[0]
	w.check("stop", i.kill())
	if err := syscall.Unmount(i.dir, 0); err != nil {
		w.say("unmount %s: %v", i.dir, err)
	}
}

// fullDisk fills the small disk to the last byte, and frees it again. While it
// is full the store is made to need space: its process is restarted or killed
// now and then.
func fullDisk(w *world) {
	i := w.instances[0]
	ballast := filepath.Join(i.dir, "ballast")
	for w.pause(4*time.Second, 7*time.Second) {
		w.fault("disk full", "%s", i)
		w.setFull(true)
		w.check("fill", fill(ballast))
		switch w.rng.IntN(3) {
		case 0:
			w.kill(i)
			w.check("start", w.start(i))
		case 1:
			w.check("stop", i.signal(syscall.SIGTERM))
			w.check("stop", i.wait(stopWithin))
			w.check("start", w.start(i))
		}
		time.Sleep(5*time.Second + time.Duration(w.rng.IntN(5000))*time.Millisecond)
		w.check("free", os.Remove(ballast))
		w.revivals.Wait()
		w.setFull(false)
	}
}

func (w *world) setFull(full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.full = full
}

// fill writes a file until there is no space.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	return nil
}

// corruptions break the folder of an instance while it does not run.
func corruptions(w *world) {
	for w.pause(5*time.Second, 9*time.Second) {
		i := w.any()
		if w.rng.IntN(2) == 0 {
			w.check("stop", i.stop())
		} else {
			w.kill(i)
		}
		what, err := w.corrupt(i.pebble())
		w.check("corrupt", err)
		w.fault("folder: "+what, "%s", i)
		w.check("start", w.start(i))
	}
}

func (w *world) corrupt(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return "", err
	}
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	manifests, _ := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	markers, _ := filepath.Glob(filepath.Join(dir, "marker.*"))
	one := func(of []string) string { return of[w.rng.IntN(len(of))] }
	switch n := w.rng.IntN(6); {
	case n == 0 && len(tables) > 0:
		return "a table file is missing", os.Remove(one(tables))
	case n == 1 && len(manifests) > 0:
		return "the manifest is missing", os.Remove(one(manifests))
	case n == 2 && len(markers) > 0:
		return "a marker is missing", os.Remove(one(markers))
	case n == 3 && len(tables) > 0:
		f := one(tables)
		st, err := os.Stat(f)
		if err != nil {
			return "", err
		}
		return "a table file is cut", os.Truncate(f, w.rng.Int64N(st.Size()+1))
	case n == 4 && len(tables) > 0:
		return "bytes of a table file are flipped", w.flip(one(tables))
	case len(files) > 0:
		f := one(files)
		return "bytes of any file are flipped", w.flip(f)
	}
	return "the folder is empty", nil
}

// flip changes some bytes of a file.
func (w *world) flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return err
	}
	for range 1 + w.rng.IntN(64) {
		b[w.rng.IntN(len(b))] ^= byte(1 + w.rng.IntN(255))
	}
	return os.WriteFile(path, b, 0o600)
}

// tables are the changelogs.
func tables() []string {
	return []string{topology.TableName(audit.Domain, topology.Inbox), topology.TableName(audit.Domain, topology.Merge), topology.TableName(audit.Domain, topology.Publish)}
}

// staleOffsets stops everything, writes the last record of each key once more
// at the end of the changelogs and deletes all before them, as a restored topic
// would be. The folders then stand below the start of the log.
func staleOffsets(w *world) {
	for w.pause(10*time.Second, 14*time.Second) {
		w.fault("changelogs begin beyond the folders", "all tables")
		w.check("stop", w.stopAll("stopped"))
		for _, topic := range tables() {
			w.check("renew "+topic, w.insist(func(ctx context.Context) error { return w.renew(ctx, topic) }))
		}
		w.check("start", w.startAll())
	}
}

// insist repeats what a broker may refuse while it is busy with itself.
func (w *world) insist(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, time.Minute)
		err := do(try)
		done()
		if err == nil || ctx.Err() != nil {
			return err
		}
		w.say("again: %v", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// renew writes a changelog's last records once more and deletes what is before
// them. It can be repeated: nothing is deleted that is not written again.
func (w *world) renew(ctx context.Context, topic string) error {
	read, err := audit.Committed(ctx, w.cluster.InsideAddrs(), topic)
	if err != nil {
		return err
	}
	last := map[string]*kgo.Record{}
	for _, r := range read[topic] {
		last[fmt.Sprintf("%d/%s", r.Partition, r.Key)] = r
	}
	ends, err := w.adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	if err := w.write(ctx, last); err != nil {
		return err
	}
	policy, err := w.cleanup(ctx, topic)
	if err != nil {
		return err
	}
	if err := w.setCleanup(ctx, topic, "compact,delete"); err != nil {
		return err
	}
	gone, err := w.adm.DeleteRecords(ctx, ends.Offsets())
	if err == nil {
		err = gone.Error()
	}
	// A policy that is not known everywhere yet forbids to delete.
	for wait := 0; err != nil && wait < 20; wait++ {
		time.Sleep(250 * time.Millisecond)
		if gone, err = w.adm.DeleteRecords(ctx, ends.Offsets()); err == nil {
			err = gone.Error()
		}
	}
	return errors.Join(err, w.setCleanup(ctx, topic, policy))
}

func (w *world) write(ctx context.Context, records map[string]*kgo.Record) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.InsideAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	var copies []*kgo.Record
	for _, r := range records {
		if r.Value != nil {
			copies = append(copies, &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp})
		}
	}
	return cl.ProduceSync(ctx, copies...).FirstErr()
}

func (w *world) cleanup(ctx context.Context, topic string) (string, error) {
	described, err := w.adm.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", err
	}
	for _, d := range described {
		for _, c := range d.Configs {
			if c.Key == "cleanup.policy" {
				return c.MaybeValue(), d.Err
			}
		}
	}
	return "", fmt.Errorf("topic %s has no cleanup.policy", topic)
}

func (w *world) setCleanup(ctx context.Context, topic, policy string) error {
	altered, err := w.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: kadm.StringPtr(policy)}}, topic)
	for _, a := range altered {
		err = errors.Join(err, a.Err)
	}
	return err
}

// compactions let the broker compact changelogs as often as it can, and make
// instances read them from the begin.
func compactions(w *world) {
	for w.pause(6*time.Second, 10*time.Second) {
		i := w.any()
		w.kill(i)
		if w.rng.IntN(2) == 0 {
			w.fault("folder wiped", "%s", i)
			w.check("wipe", os.RemoveAll(i.pebble()))
		}
		w.check("start", w.start(i))
	}
}

// wrongClocks lets the clocks jump by which instances stamp deliveries. They are
// killed now and then, so that a process begins with a clock that is behind what
// it wrote before. Brokers keep the right time: under libfaketime they are so
// slow that they do not come up.
func wrongClocks(w *world) {
	jump := func() time.Duration {
		if w.rng.IntN(3) == 0 {
			return time.Duration(w.rng.IntN(3)-1) * time.Second // a leap second, or right again
		}
		return time.Duration(w.rng.Int64N(int64(2*time.Hour))) - time.Hour
	}
	for w.pause(2*time.Second, 5*time.Second) {
		by := jump()
		i := w.any()
		w.fault("instance's clock jumps", "%s to %s", i, by)
		w.check("clock", os.WriteFile(i.clock, []byte(by.String()), 0o600))
		if w.rng.IntN(3) == 0 {
			w.kill(i)
			w.check("start", w.start(i))
		}
	}
}
