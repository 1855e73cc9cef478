package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Rebuild is a request to build the local image of a group's table anew from
// its changelog, beside the live one, and to compare them. The owner of each
// partition carries it out for what it keeps.
type Rebuild struct {
	ID    string    `json:"-"`
	At    time.Time `json:"-"` // of the request
	Group string    `json:"group"`
	// Partitions of the table.
	Partitions int32 `json:"partitions"`
	// Swap puts the rebuilt values in place of those that differ.
	Swap bool `json:"swap"`
	// Examples is how many differences each partition tells.
	Examples int `json:"examples"`
}

// Difference is a key that the live image does not have as the changelog does.
type Difference struct {
	Partition int32  `json:"partition"`
	Key       string `json:"key"`
	Live      []byte `json:"live,omitempty"`    // nil: absent
	Rebuilt   []byte `json:"rebuilt,omitempty"` // nil: absent
}

// Kind is "missing", "extra" or "different", as seen from the live image.
func (d Difference) Kind() string {
	switch {
	case d.Live == nil:
		return "missing"
	case d.Rebuilt == nil:
		return "extra"
	}
	return "different"
}

// RebuildCounts is what a rebuild has found.
type RebuildCounts struct {
	// Records read of the changelog, Keys that the rebuilt image has.
	Records int64 `json:"records"`
	Keys    int64 `json:"keys"`
	// Missing keys are absent in the live image, Extra ones in the rebuilt one.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// Repaired keys have been swapped; Overtaken ones were right already when it
	// came to that, because they had been written since.
	Repaired  int64        `json:"repaired"`
	Overtaken int64        `json:"overtaken"`
	Examples  []Difference `json:"examples,omitempty"`
	Error     string       `json:"error,omitempty"`
}

// Add adds what another partition has found, with up to so many examples.
func (c *RebuildCounts) Add(o RebuildCounts, examples int) {
	c.Records += o.Records
	c.Keys += o.Keys
	c.Missing += o.Missing
	c.Extra += o.Extra
	c.Different += o.Different
	c.Repaired += o.Repaired
	c.Overtaken += o.Overtaken
	c.Examples = append(c.Examples, o.Examples[:min(len(o.Examples), max(examples-len(c.Examples), 0))]...)
	c.Error = cmp.Or(c.Error, o.Error)
}

// Note counts a difference and keeps it as an example while there are fewer
// than so many.
func (c *RebuildCounts) Note(d Difference, examples int) {
	switch d.Kind() {
	case "missing":
		c.Missing++
	case "extra":
		c.Extra++
	default:
		c.Different++
	}
	if len(c.Examples) < examples {
		c.Examples = append(c.Examples, d)
	}
}

// RebuildStatus is a rebuild with what it has found so far.
type RebuildStatus struct {
	Rebuild
	Done   bool
	Counts RebuildCounts
}

type rebuildState struct {
	Rebuild
	parts map[int32]RebuildCounts
}

// maxSwap is how many keys of a partition are repaired one by one. What is
// damaged beyond that is better restored as a whole.
const maxSwap = 100_000

// maxExampleBytes bounds the values of an example.
const maxExampleBytes = 8 << 10

// Rebuild asks the owners of a group's partitions for a rebuild and waits until
// it is known to be asked.
func (e *Engine) Rebuild(ctx context.Context, control string, r Rebuild) (string, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return "", err
	}
	if err := e.staffed(ctx, r.Group); err != nil {
		return "", err
	}
	ps, err := e.kafka.partitions(ctx, TableTopic(r.Group))
	if err != nil {
		return "", err
	}
	r.Partitions = int32(len(ps))
	id := uuid.NewString()
	if err := c.write(ctx, "rebuild/"+id, r); err != nil {
		return "", err
	}
	return id, c.await(ctx, func() bool { return c.rebuilds[id] != nil })
}

// RebuildStatus tells what a rebuild has found, waiting for its end until ctx
// ends.
func (e *Engine) RebuildStatus(ctx context.Context, control, id string) (*RebuildStatus, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		r, changed := c.rebuilds[id], c.changed
		if r == nil {
			c.mu.Unlock()
			return nil, failure.New(failure.NotFound, "rebuild", id, "there is none of this id")
		}
		s := &RebuildStatus{Rebuild: r.Rebuild, Done: len(r.parts) >= int(r.Partitions)}
		for p := range r.Partitions {
			s.Counts.Add(r.parts[p], r.Examples)
		}
		c.mu.Unlock()
		if s.Done {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, nil
		}
	}
}

// rebuilds carries out the rebuilds that there are for the partitions of the
// generation.
func (x *side) rebuilds(ctx context.Context) (worked bool, err error) {
	type task struct {
		Rebuild
		partition int32
	}
	var tasks []task
	x.log.mu.Lock()
	for _, r := range x.log.rebuilds {
		if r.Group != x.s.p.spec.Group || time.Since(r.At) > abandonedAfter {
			continue
		}
		for p := range r.Partitions {
			if _, done := r.parts[p]; !done && x.s.table(p) != nil {
				tasks = append(tasks, task{r.Rebuild, p})
			}
		}
	}
	x.log.mu.Unlock()
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID), cmp.Compare(a.partition, b.partition))
	})
	for _, t := range tasks {
		counts, err := x.rebuild(ctx, t.Rebuild, t.partition)
		if err != nil {
			if ctx.Err() != nil {
				return true, err
			}
			counts.Error = fmt.Sprintf("partition %d: %v", t.partition, err)
		}
		for i := range counts.Examples {
			d := &counts.Examples[i]
			d.Live, d.Rebuilt = cutBytes(d.Live), cutBytes(d.Rebuilt)
		}
		if err := x.log.write(ctx, fmt.Sprintf("rebuild/%s/at/%d", t.ID, t.partition), counts); err != nil {
			return true, err
		}
		if err := x.log.await(ctx, func() bool {
			r := x.log.rebuilds[t.ID]
			if r == nil {
				return true
			}
			_, done := r.parts[t.partition]
			return done
		}); err != nil {
			return true, err
		}
	}
	return len(tasks) > 0, nil
}

func cutBytes(b []byte) []byte {
	if len(b) > maxExampleBytes {
		return []byte{}
	}
	return b
}

// kindRebuild is the keyspace that an image is rebuilt in; see keyspace.
const kindRebuild = 'r'

// rebuild builds the image of one partition anew and compares it with the live
// one as of the same offset.
func (x *side) rebuild(ctx context.Context, r Rebuild, partition int32) (c RebuildCounts, err error) {
	topic := x.s.p.tableTopic
	table := x.s.table(partition)
	if table == nil {
		return c, errRevoked
	}
	im := table.image
	live, scratch := newKeyspace(kindTable, topic, partition), newKeyspace(kindRebuild, topic, partition)
	db := x.s.db
	wipe := func() error {
		b := db.NewBatch()
		defer b.Close()
		if err := scratch.wipe(b); err != nil {
			return err
		}
		return commitLocal(b)
	}
	if err := wipe(); err != nil { // of one that did not come to its end
		return c, err
	}
	defer func() { err = errors.Join(err, wipe()) }()
	snapshot := db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	m, _, err := live.readMark(snapshot)
	if err != nil {
		return c, err
	}
	start, err := x.s.p.engine.kafka.start(ctx, topic, partition)
	if err != nil {
		return c, err
	}
	log := x.s.p.engine.kafka.reader(topic, partition, start)
	err = log.upTo(ctx, m.offset+1, func(r []changed) error {
		b := db.NewBatch()
		defer b.Close()
		for _, rec := range r {
			if err := scratch.put(b, rec.key, rec.value); err != nil {
				return err
			}
		}
		c.Records += int64(len(r))
		if err := im.disk.admit(); err != nil {
			return err
		}
		return commitLocal(b)
	})
	if err != nil {
		return c, err
	}
	var differ []Difference
	err = x.compare(snapshot, im, scratch, func(d Difference) error {
		d.Partition = partition
		c.Note(d, r.Examples)
		if r.Swap && len(differ) >= maxSwap {
			return fmt.Errorf("more than %d keys differ: nothing was repaired; stop the process and remove its state folder, it is then restored as a whole", maxSwap)
		}
		if r.Swap {
			differ = append(differ, d)
		}
		return nil
	}, &c.Keys)
	if err != nil || len(differ) == 0 {
		return c, err
	}
	return c, x.between(ctx, func() error { return x.swap(ctx, partition, log, differ, &c) })
}

// compare tells the keys that two keyspaces do not have alike, in their order.
// An entry that has expired may be gone from the live one.
func (x *side) compare(snapshot *pebble.Snapshot, im *image, scratch keyspace, tell func(Difference) error, keys *int64) (err error) {
	live := im.ks
	open := func(r pebble.Reader, ks keyspace) (*pebble.Iterator, error) {
		lower, upper := ks.bounds("")
		return r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	}
	a, err := open(snapshot, live)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := open(x.s.db, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	inA, inB := a.First(), b.First()
	for inA || inB {
		var side int
		switch {
		case !inB:
			side = -1
		case !inA:
			side = 1
		default:
			side = bytes.Compare(live.userKey(a.Key()), scratch.userKey(b.Key()))
		}
		var d Difference
		if side <= 0 {
			v, err := a.ValueAndErr()
			if err != nil {
				return err
			}
			// What is not even stored in the right form is another value.
			if plain, _, err := im.split(v); err == nil {
				v = plain
			}
			d.Key, d.Live = string(live.userKey(a.Key())), append([]byte{}, v...)
		}
		if side >= 0 {
			v, err := b.ValueAndErr()
			if err != nil {
				return err
			}
			*keys++
			d.Key, d.Rebuilt = string(scratch.userKey(b.Key())), append([]byte{}, v...)
		}
		if side < 0 || side > 0 && !x.expired(d.Rebuilt) || side == 0 && !bytes.Equal(d.Live, d.Rebuilt) {
			if err := tell(d); err != nil {
				return err
			}
		}
		if side <= 0 {
			inA = a.Next()
		}
		if side >= 0 {
			inB = b.Next()
		}
	}
	return errors.Join(a.Error(), b.Error())
}

// expired tells whether an entry may be absent because of its age.
func (x *side) expired(value []byte) bool {
	r := x.s.p.spec.Retention
	if r == nil {
		return false
	}
	v, err := x.s.p.spec.Table.Decode(value)
	return err == nil && r.expired(v, envelope.At(time.Now()))
}

// swap brings keys of the live image to what the changelog says as of where the
// image is now. It runs between two transactions, so that nobody else writes.
func (x *side) swap(ctx context.Context, partition int32, log *logReader, differ []Difference, c *RebuildCounts) error {
	table := x.s.table(partition)
	if table == nil {
		return errRevoked
	}
	at := make(map[string]int, len(differ))
	for i := range differ {
		at[differ[i].Key] = i
	}
	// What was committed since the snapshot is in the changelog.
	err := log.upTo(ctx, table.mark.offset+1, func(rs []changed) error {
		for _, r := range rs {
			if i, ok := at[r.key]; ok {
				differ[i].Rebuilt = r.value
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := x.s.db.NewBatch()
	defer b.Close()
	var repaired, overtaken int64
	for _, d := range differ {
		table.cache.take(d.Key) // what it was decoded from may be what is repaired
		now, before, broken := table.image.get(x.s.db, d.Key)
		if broken == nil && (now == nil) == (d.Rebuilt == nil) && bytes.Equal(now, d.Rebuilt) {
			overtaken++
			continue
		}
		w := write{value: d.Rebuilt, known: true, before: before, after: table.termsOf(d.Key, d.Rebuilt, nil)}
		if err := table.image.add(b, d.Key, w); err != nil {
			return err
		}
		repaired++
	}
	if err := table.disk.admit(); err != nil {
		return err
	}
	if err := commitLocal(b); err != nil {
		return err
	}
	c.Repaired, c.Overtaken = repaired, overtaken
	table.wakes.lookAgain()
	x.s.log.Warn("local state was repaired from the changelog", "partition", partition, "keys", repaired)
	return nil
}

// between has the session run fn when no transaction is open, and waits for it.
func (x *side) between(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	x.mu.Lock()
	x.pending = append(x.pending, func() { done <- fn() })
	if x.wake != nil {
		x.wake()
	}
	x.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runPending runs what waits for the end of a transaction; the session's.
func (x *side) runPending() {
	if x == nil {
		return
	}
	x.mu.Lock()
	pending := x.pending
	x.pending = nil
	x.mu.Unlock()
	for _, fn := range pending {
		fn()
	}
}

// changed is a record of a changelog; a nil value deletes.
type changed struct {
	key   string
	value []byte
}

// upTo reads a changelog on to the offset end, in pieces.
func (r *logReader) upTo(ctx context.Context, end int64, take func([]changed) error) error {
	for r.next < end {
		from := r.next
		fp, err := r.read(ctx, restoreBytes)
		if err != nil && !(kerr.IsRetriable(err) && ctx.Err() == nil) {
			return fmt.Errorf("read %s/%d@%d: %w", r.topic, r.partition, from, err)
		}
		if err != nil || r.next == from {
			if !pauseFor(ctx, pollEvery) {
				return ctx.Err()
			}
			continue
		}
		piece := make([]changed, 0, len(fp.Records))
		for _, rec := range fp.Records {
			if rec.Offset >= end {
				r.next = end // the rest is for another time
				break
			}
			piece = append(piece, changed{string(rec.Key), rec.Value})
		}
		if err := take(piece); err != nil {
			return err
		}
	}
	return nil
}

// start gives the first offset that a partition has.
func (k *kafka) start(ctx context.Context, topic string, partition int32) (int64, error) {
	_, start, _, err := k.position(ctx, topic, partition)
	return start, err
}

// Scan reads the committed records of a topic, partition by partition, up to
// the offsets that are given, and calls fn for each.
func (e *Engine) Scan(ctx context.Context, topic string, to map[int32]int64, fn func(Record) error) error {
	starts, err := e.StartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for p := range int32(len(starts)) {
		log := e.kafka.reader(topic, p, starts[p])
		for log.next < to[p] {
			from := log.next
			fp, err := log.read(ctx, restoreBytes)
			if err != nil && !(kerr.IsRetriable(err) && ctx.Err() == nil) {
				return fmt.Errorf("read %s/%d@%d: %w", topic, p, from, err)
			}
			if err != nil || log.next == from {
				if !pauseFor(ctx, pollEvery) {
					return ctx.Err()
				}
				continue
			}
			for _, r := range fp.Records {
				if r.Offset >= to[p] {
					break
				}
				if err := fn(recordOf(r)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Position gives the offsets that a group has processed a topic up to.
func (e *Engine) Position(ctx context.Context, group, topic string) (map[int32]int64, error) {
	offsets, err := e.kafka.adm.FetchOffsets(ctx, group)
	if err == nil {
		err = offsets.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	out := map[int32]int64{}
	for _, o := range offsets.Sorted() {
		if o.Topic == topic && o.At > 0 {
			out[o.Partition] = o.At
		}
	}
	return out, nil
}
