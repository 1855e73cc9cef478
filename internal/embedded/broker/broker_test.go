package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDirEnv); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

// The topics of the tests follow one rule: what the shop stations compute is
// derived, everything else is primary.
const (
	journal  = "shop.journal"
	external = "erp.orders"
	table    = "shop.merge-table"
	events   = "shop.events.v1"
	station  = "shop.merge"
)

func testConfig(dir string) Config {
	return Config{
		Dir:          dir,
		Listen:       "127.0.0.1:0",
		Derived:      func(t string) bool { return strings.HasPrefix(t, "shop.") && t != journal },
		DerivedGroup: func(g string) bool { return strings.HasPrefix(g, "shop.") },
		AutoCreate:   true,
	}
}

func mustStart(t testing.TB, cfg Config) *Broker {
	t.Helper()
	b, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func client(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func createTopics(t testing.TB, addr string, partitions int32, topics ...string) {
	t.Helper()
	adm := kadm.NewClient(client(t, addr))
	for _, topic := range topics {
		_, err := adm.CreateTopic(deadline(t), partitions, 1, nil, topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			t.Fatal(err)
		}
	}
}

func produce(t testing.TB, c *kgo.Client, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := c.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

type row struct {
	Partition int32
	Offset    int64
	Value     string
}

// read reads a topic from its beginning to its present end, as a reader of
// committed records.
func read(t testing.TB, addr, topic string) []row {
	t.Helper()
	ctx := deadline(t)
	ends, err := kadm.NewClient(client(t, addr)).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[int32]int64)
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	c := client(t, addr, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	var rows []row
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s, left %v: %v", topic, left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				rows = append(rows, row{r.Partition, r.Offset, string(r.Value)})
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			// A log that begins at its end has nothing to wait for.
			if p.LogStartOffset >= left[p.Partition] {
				delete(left, p.Partition)
			}
		})
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(a.Offset - b.Offset)
	})
	return rows
}

func values(rows []row) []string {
	var vs []string
	for _, r := range rows {
		vs = append(vs, r.Value)
	}
	return vs
}

// abandon ends a broker as a kill does, as far as one process can: what was
// written is in the files, and nothing that a clean stop writes is. It copies
// the directory of the living broker.
func abandon(t testing.TB, b *Broker) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(b.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func topicNames(t testing.TB, addr string) []string {
	t.Helper()
	topics, err := kadm.NewClient(client(t, addr)).ListTopics(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	names := topics.Names()
	slices.Sort(names)
	return names
}

// After a clean stop everything is as it was: topics, records, offsets, groups.
func TestCleanRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	b := mustStart(t, testConfig(dir))
	createTopics(t, b.Addr(), 2, journal, table)
	c := client(t, b.Addr())
	produce(t, c, journal, "a", "b", "c")
	produce(t, c, table, "x")
	adm := kadm.NewClient(c)
	if err := adm.CommitAllOffsets(deadline(t), station, offsets(journal, 0, 7)); err != nil {
		t.Fatal(err)
	}
	before := read(t, b.Addr(), journal)
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}

	b = mustStart(t, testConfig(dir))
	if r := b.Recovered(); r.Unclean {
		t.Errorf("a clean stop was taken for an unclean one: %s", r)
	}
	if after := read(t, b.Addr(), journal); !slices.Equal(before, after) {
		t.Errorf("journal was %v, is %v", before, after)
	}
	if got := values(read(t, b.Addr(), table)); !slices.Equal(got, []string{"x"}) {
		t.Errorf("derived topic: %v, want [x]", got)
	}
	if at := committed(t, b.Addr(), station, journal, 0); at != 7 {
		t.Errorf("committed offset is %d, want 7", at)
	}
}

func offsets(topic string, partition int32, at int64) kadm.Offsets {
	o := make(kadm.Offsets)
	o.AddOffset(topic, partition, at, -1)
	return o
}

// committed is the committed offset of a group, -1 if it has none.
func committed(t testing.TB, addr, group, topic string, partition int32) int64 {
	t.Helper()
	got, err := kadm.NewClient(client(t, addr)).FetchOffsets(deadline(t), group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.Fatal(err)
	}
	if o, ok := got.Lookup(topic, partition); ok {
		return o.At
	}
	return -1
}

// After an unclean stop the primary topics are there with their offsets; what
// is derived from them is gone, the local stores of the stations included.
func TestUncleanRestartKeepsPrimaryTopicsAlone(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	createTopics(t, b.Addr(), 2, journal, external, table, events)
	c := client(t, b.Addr(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	produce(t, c, journal, "a", "b", "c")
	produce(t, c, external, "o1", "o2")

	txn := client(t, b.Addr(), kgo.TransactionalID("shop.merge-0"))
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produce(t, txn, table, "t")
		produce(t, txn, events, "e")
		if err := txn.EndTransaction(deadline(t), end); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(c)
	for _, g := range []string{station, "report"} {
		for _, topic := range []string{journal, table} {
			if err := adm.CommitAllOffsets(deadline(t), g, offsets(topic, 0, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, beforeOrders := read(t, b.Addr(), journal), read(t, b.Addr(), external)

	cfg := testConfig(abandon(t, b))
	store := filepath.Join(t.TempDir(), "stores", "merge")
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.Discard = []string{filepath.Dir(store), filepath.Join(t.TempDir(), "absent")}
	b = mustStart(t, cfg)

	want := Recovered{Unclean: true, Kept: []string{external, journal}, Dropped: []string{events, table}, Groups: []string{station}}
	if got := b.Recovered(); fmt.Sprint(got) != fmt.Sprint(want) || !slices.Equal(got.Groups, want.Groups) {
		t.Errorf("recovered %+v, want %+v", got, want)
	}
	if got := topicNames(t, b.Addr()); !slices.Equal(got, want.Kept) {
		t.Errorf("topics %v, want %v", got, want.Kept)
	}
	if after := read(t, b.Addr(), journal); !slices.Equal(before, after) {
		t.Errorf("journal was %v, is %v", before, after)
	}
	if after := read(t, b.Addr(), external); !slices.Equal(beforeOrders, after) {
		t.Errorf("orders were %v, are %v", beforeOrders, after)
	}
	for _, test := range []struct {
		group, topic string
		want         int64
	}{{station, journal, -1}, {"report", journal, 1}, {"report", table, -1}} {
		if at := committed(t, b.Addr(), test.group, test.topic, 0); at != test.want {
			t.Errorf("offset of group %s on %s is %d, want %d", test.group, test.topic, at, test.want)
		}
	}
	if _, err := os.Stat(store); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store is still there: %v", err)
	}

	// What was dropped can be built again at once, by the same producer.
	createTopics(t, b.Addr(), 2, table)
	txn = client(t, b.Addr(), kgo.TransactionalID("shop.merge-0"))
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, txn, table, "again")
	if err := txn.EndTransaction(deadline(t), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if got := values(read(t, b.Addr(), table)); !slices.Equal(got, []string{"again"}) {
		t.Errorf("derived topic after recovery: %v", got)
	}
}

// A transaction of another program that the stop left open on a primary topic
// is aborted with a marker: its records stay invisible, later ones do not wait
// for it, and committed ones stay.
func TestUncleanStopEndsOpenTransactions(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	createTopics(t, b.Addr(), 1, external)
	txn := client(t, b.Addr(), kgo.TransactionalID("erp"))
	for _, step := range []struct {
		value string
		end   kgo.TransactionEndTry
	}{{"committed", kgo.TryCommit}, {"aborted", kgo.TryAbort}} {
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produce(t, txn, external, step.value)
		if err := txn.EndTransaction(deadline(t), step.end); err != nil {
			t.Fatal(err)
		}
	}
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, txn, external, "open")

	b = mustStart(t, testConfig(abandon(t, b)))
	produce(t, client(t, b.Addr()), external, "later")
	want := []row{{0, 0, "committed"}, {0, 6, "later"}} // markers at 1, 3 and 5
	if got := read(t, b.Addr(), external); !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	// The same holds when everything is loaded from the files again.
	b = mustStart(t, testConfig(abandon(t, b)))
	if got := read(t, b.Addr(), external); !slices.Equal(got, want) {
		t.Errorf("after another unclean stop %v, want %v", got, want)
	}
}

// Positions are never given twice, not even where every record has gone.
func TestEmptiedPartitionsKeepTheirPosition(t *testing.T) {
	dir := t.TempDir()
	b := mustStart(t, testConfig(dir))
	createTopics(t, b.Addr(), 1, journal, table)
	c := client(t, b.Addr())
	produce(t, c, journal, "a", "b", "c")
	produce(t, c, table, "x", "y")
	empty := func(topic string, to int64) {
		t.Helper()
		if _, err := kadm.NewClient(c).DeleteRecords(deadline(t), offsets(topic, 0, to)); err != nil {
			t.Fatal(err)
		}
	}
	empty(table, 2)
	b.recordPositions()
	empty(journal, 3)
	killed := abandon(t, b)
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	next := func(b *Broker, topic string) int64 {
		t.Helper()
		r, err := client(t, b.Addr()).ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: []byte("next")}).First()
		if err != nil {
			t.Fatal(err)
		}
		return r.Offset
	}
	b = mustStart(t, testConfig(dir))
	if at := next(b, journal); at != 3 {
		t.Errorf("after a clean stop the journal goes on at %d, want 3", at)
	}
	if at := next(b, table); at != 2 {
		t.Errorf("after a clean stop the table goes on at %d, want 2", at)
	}
	b = mustStart(t, testConfig(killed))
	if at := next(b, journal); at != 3 {
		t.Errorf("after an unclean stop the journal goes on at %d, want 3", at)
	}
	b = mustStart(t, testConfig(abandon(t, b)))
	if got := read(t, b.Addr(), journal); !slices.Equal(got, []row{{0, 3, "next"}}) {
		t.Errorf("journal: %v", got)
	}
}

// Whatever its creator asks for, a primary topic is not compacted; a derived
// one is.
func TestPrimaryTopicsAreNotCompacted(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	adm := kadm.NewClient(client(t, b.Addr()))
	compact := "compact"
	for _, topic := range []string{external, table} {
		if _, err := adm.CreateTopic(deadline(t), 1, 1, map[string]*string{"cleanup.policy": &compact}, topic); err != nil {
			t.Fatal(err)
		}
	}
	policy := func(topic string) string {
		t.Helper()
		rs, err := adm.DescribeTopicConfigs(deadline(t), topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rs[0].Configs {
			if c.Key == "cleanup.policy" {
				return c.MaybeValue()
			}
		}
		return ""
	}
	if got := policy(external); got != "delete" {
		t.Errorf("cleanup.policy of a primary topic is %q", got)
	}
	if got := policy(table); got != "compact" {
		t.Errorf("cleanup.policy of a derived topic is %q", got)
	}
	alter := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "cleanup.policy", Value: &compact}}
	if _, err := adm.AlterTopicConfigs(deadline(t), alter, external); err != nil {
		t.Fatal(err)
	}
	if got := policy(external); got != "delete" {
		t.Errorf("after it was altered, cleanup.policy of a primary topic is %q", got)
	}
	retention := "1000"
	alter = []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &retention}}
	if _, err := adm.AlterTopicConfigs(deadline(t), alter, external); err != nil {
		t.Fatal(err)
	}
}

// Every acknowledgement of a primary record has been preceded by a sync of its
// file that began after the record was written, whatever the client; derived
// records wait for none; many waiting producers share a sync.
func TestAcknowledgedMeansSynced(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Partitions = 1
	b := mustStart(t, cfg)
	createTopics(t, b.Addr(), 1, journal, table)

	var mu sync.Mutex
	synced := make(map[string]int64) // file: size covered by a sync
	syncs := 0
	b.syncer.syncFile = func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if err := syncFile(path); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if filepath.Ext(path) == ".dat" {
			synced[path] = info.Size()
			syncs++
		}
		return nil
	}

	const producers, each = 20, 10
	file := filepath.Join(partitionDir(b.cfg.Dir, journal, 0), segmentName(0))
	var wg sync.WaitGroup
	for range producers {
		c := client(t, b.Addr())
		wg.Go(func() {
			for range each {
				r, err := c.ProduceSync(deadline(t), &kgo.Record{Topic: journal, Value: []byte("v")}).First()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				size := synced[file]
				mu.Unlock()
				f, err := os.Open(file)
				if err != nil {
					t.Error(err)
					return
				}
				raw := make([]byte, size)
				_, err = f.Read(raw)
				f.Close()
				if err != nil {
					t.Errorf("offset %d acknowledged with %d bytes synced: %v", r.Offset, size, err)
					return
				}
				batches, _, _ := scanSegment(raw, 0)
				if len(batches) == 0 || batches[len(batches)-1].end() <= r.Offset {
					t.Errorf("offset %d was acknowledged before it was synced", r.Offset)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	if syncs == 0 || syncs >= producers*each {
		t.Errorf("%d syncs for %d records: they were not shared", syncs, producers*each)
	}
	t.Logf("%d syncs for %d single-record produce requests of %d producers", syncs, producers*each, producers)
	syncs = 0
	mu.Unlock()

	produce(t, client(t, b.Addr()), table, "x")
	if syncs != 0 {
		t.Errorf("a derived record cost %d syncs", syncs)
	}
}

// The commit of a transaction on a primary topic is acknowledged when its
// marker is synced.
func TestCommitOfPrimaryTransactionIsSynced(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	createTopics(t, b.Addr(), 1, external)
	txn := client(t, b.Addr(), kgo.TransactionalID("erp"))
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, txn, external, "a")
	var covered int64
	b.syncer.syncFile = func(path string) error {
		if info, err := os.Stat(path); err == nil && filepath.Ext(path) == ".dat" {
			covered = info.Size()
		}
		return syncFile(path)
	}
	if err := txn.EndTransaction(deadline(t), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(partitionDir(b.cfg.Dir, external, 0), segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	batches, _, _ := scanSegment(raw, 0)
	if n := len(batches); n != 2 || !batches[1].control() || covered != int64(len(raw)) {
		t.Errorf("%d batches in %d bytes, of which %d were synced at the commit", n, len(raw), covered)
	}
}

// A sync that fails is an unacknowledged record, now and from then on.
func TestFailedSyncIsNeverAcknowledged(t *testing.T) {
	b := mustStart(t, testConfig(t.TempDir()))
	createTopics(t, b.Addr(), 1, journal)
	broken := errors.New("no space left on device")
	b.syncer.syncFile = func(string) error { return broken }
	c := client(t, b.Addr())
	if err := c.ProduceSync(deadline(t), &kgo.Record{Topic: journal, Value: []byte("v")}).FirstErr(); !errors.Is(err, kerr.UnknownServerError) {
		t.Errorf("a record whose sync failed: %v", err)
	}
	b.syncer.syncFile = syncFile
	if err := c.ProduceSync(deadline(t), &kgo.Record{Topic: journal, Value: []byte("v")}).FirstErr(); !errors.Is(err, kerr.UnknownServerError) {
		t.Errorf("a record after a failed sync: %v", err)
	}
	if !errors.Is(b.Err(), broken) {
		t.Errorf("Err is %v", b.Err())
	}
	if err := b.Close(); !errors.Is(err, broken) {
		t.Errorf("Close is %v", err)
	}
	if found, _ := exists(filepath.Join(b.cfg.Dir, runningFile)); !found {
		t.Error("the stop was marked as clean")
	}
}

func TestStartRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct {
		listen string
		want   []string
	}{
		{taken.Addr().String(), []string{"taken", "--kafka-listen", taken.Addr().String()}},
		{"0.0.0.0:0", []string{"loopback", "--kafka-listen"}},
		{":9092", []string{"loopback", "--kafka-listen"}},
		{"9092", []string{"host:port", "--kafka-listen"}},
	} {
		cfg := testConfig(t.TempDir())
		cfg.Listen = test.listen
		_, err := Start(cfg)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("listen on %s: %v, want %q in it", test.listen, err, want)
			}
		}
		if found, _ := exists(filepath.Join(cfg.Dir, runningFile)); found {
			t.Errorf("listen on %s: the directory counts as used", test.listen)
		}
	}

	b := mustStart(t, testConfig(t.TempDir()))
	_, err = Start(testConfig(b.cfg.Dir))
	var inUse *datadir.InUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("second broker in one directory: %v", err)
	}

	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, metaFile), []byte(`{"version":1,"cluster_id":"x"}`), 0o600)
	os.WriteFile(filepath.Join(dir, topicsFile), []byte(`{"ver`), 0o600)
	if _, err := Start(testConfig(dir)); err == nil || !strings.Contains(err.Error(), topicsFile) {
		t.Errorf("damaged list of topics: %v", err)
	}
	if found, _ := exists(filepath.Join(dir, runningFile)); found {
		t.Error("damaged list of topics: the directory counts as used")
	}
	os.WriteFile(filepath.Join(dir, runningFile), nil, 0o600)
	if _, err := Start(testConfig(dir)); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, topicsFile)) {
		t.Errorf("damaged list of topics after an unclean stop: %v", err)
	}
}

// Members of groups do not outlive the process that they were part of, and
// open transactions do.
func TestForgetSessions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, sessionFile)
	if err := forgetSessions(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"classicGroups":{"g":{}},"fetchSessions":{},"inProgressTxns":[{"pid":3}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := forgetSessions(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := `{"inProgressTxns":[{"pid":3}]}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

// The names and fields of layout.go are those the linked kfake writes.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	b := mustStart(t, testConfig(dir))
	createTopics(t, b.Addr(), 3, journal, "a/b c")
	c := client(t, b.Addr())
	produce(t, c, journal, "a", "b")
	if err := kadm.NewClient(c).CommitAllOffsets(deadline(t), station, offsets(journal, 0, 1)); err != nil {
		t.Fatal(err)
	}
	rows := read(t, b.Addr(), journal)
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{metaFile, topicsFile, groupsFile, pidsFile, windowsFile} {
		if found, _ := exists(filepath.Join(dir, name)); !found {
			t.Errorf("no file %s", name)
		}
	}
	topics, err := readTopics(dir)
	if err != nil || len(topics.Topics) != 2 || topics.Topics[0].Partitions != 3 || len(topics.Topics[0].ID) == 0 {
		t.Errorf("topics %+v, %v", topics, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, groupsFile))
	if err != nil {
		t.Fatal(err)
	}
	var commits int
	for _, framed := range splitEntries(raw) {
		var e groupEntry
		if err := json.Unmarshal(framed[entryHeader:], &e); err != nil {
			t.Fatal(err)
		}
		if e == (groupEntry{"commit", station, journal}) {
			commits++
		}
	}
	if commits != 1 {
		t.Errorf("%d commits in %s", commits, raw)
	}

	part := partitionDir(dir, journal, rows[0].Partition)
	var snap snapshotJSON
	if found, err := readJSON(filepath.Join(part, snapshotFile), &snap); !found || err != nil {
		t.Fatal(found, err)
	}
	dat, err := os.ReadFile(filepath.Join(part, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	batches, _, damaged := scanSegment(dat, 0)
	if len(damaged) > 0 || len(snap.Segments) != 1 || snap.Segments[0].Size != int64(len(dat)) || batches[len(batches)-1].end() != snap.HighWatermark {
		t.Errorf("snapshot %+v, batches %+v, damaged %v", snap, batches, damaged)
	}
	idx, err := os.ReadFile(filepath.Join(part, indexName(0)))
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	stamp := int64(0)
	for _, h := range batches {
		stamp = max(stamp, h.timestamp)
		e := indexEntry(h, stamp)
		want = append(want, e[:]...)
	}
	if string(idx) != string(want) {
		t.Errorf("index\n%x, want\n%x", idx, want)
	}
	dirs, err := os.ReadDir(filepath.Join(dir, partitions))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		key, ok := parsePartitionDir(d.Name())
		if !ok || filepath.Base(partitionDir(dir, key.topic, key.partition)) != d.Name() {
			t.Errorf("directory %s is read as %v, %t", d.Name(), key, ok)
		}
	}
}

func TestRecoveredString(t *testing.T) {
	r := Recovered{
		Unclean: true, Kept: []string{"a"}, Dropped: []string{"b", "c"},
		Torn:    []Torn{{"a", 0, 7}},
		Damaged: []Damaged{{"a", 1, 5, 9, 100, "damaged/a-1-0.dat"}},
	}
	want := "the last stop was unclean: kept 1 primary topic, dropped 2 derived topics to rebuild from them; " +
		"cut off 7 bytes of unacknowledged writes; offsets from 5 to before 9 of a, partition 1, are lost (the damaged file is kept as damaged/a-1-0.dat)"
	if r.String() != want {
		t.Errorf("%s\nwant\n%s", r, want)
	}
	if got := (Recovered{}).String(); got != "the last stop was clean" {
		t.Error(got)
	}
}
