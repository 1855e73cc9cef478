package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/views"
)

// replica is one partition of a table in this process: one image of its
// changelog, which is written by one at a time. Either the process owns the
// partition, and the group's session writes what it has committed; or the
// replica follows the changelog as a standby, if the table is kept warm; or
// nobody writes it.
//
// The owner comes first: a standby that is at it ends its turn and waits until
// the owner has given the replica back. Both begin by reading the mark that is
// in Pebble with the data, and read the changelog from there, so nothing that
// happens between two turns can be lost or done twice.
type replica struct {
	table     *table
	partition int32
	began     time.Time // of the table's run
	// image is of who has the turn.
	image image
	// turn holds a token while somebody has the turn.
	turn chan struct{}

	mu     sync.Mutex
	owners int                // that want the turn or have it
	free   chan struct{}      // closed when there is no owner any more; nil without one
	yield  context.CancelFunc // ends the standby's turn

	state ReplicaState
	// readable: the image was opened, so it is of the form that we know.
	readable bool
	meter    meter
	restore  restoration
}

// ReplicaState is what a replica does.
type ReplicaState string

const (
	// ReplicaIdle: another process may own the partition, and this one does not
	// follow it.
	ReplicaIdle ReplicaState = "idle"
	// ReplicaRestoring: it reads the changelog up to its end.
	ReplicaRestoring ReplicaState = "restoring"
	// ReplicaFollowing: another process owns the partition; this one keeps up.
	ReplicaFollowing ReplicaState = "following"
	// ReplicaOwned: this process owns the partition.
	ReplicaOwned ReplicaState = "owned"
)

// restoration is how far a replica has come on its way to the end of the log.
type restoration struct {
	began          time.Time
	from, to, at   int64 // offsets
	records, bytes int64
}

// newReplica makes one; t is locked.
func newReplica(t *table, partition int32) *replica {
	r := &replica{
		table: t, partition: partition, began: t.began, turn: make(chan struct{}, 1), state: ReplicaIdle, meter: newMeter(),
		image: image{ks: newKeyspace(kindTable, t.topic, partition), owner: t.group, disk: t.engine.db.disk, partition: partition, index: t.index},
	}
	if t.index != nil {
		r.image.layout = t.index.layout
	}
	return r
}

// acquire makes the caller the owner, and has the image recovered when it
// returns: everything is in that was committed, and every transaction over that
// was open, at some time after the call. The caller has fenced its predecessor.
// What is acquired is released again.
func (r *replica) acquire(ctx context.Context) error {
	r.mu.Lock()
	r.owners++
	if r.free == nil {
		r.free = make(chan struct{})
	}
	if r.yield != nil {
		r.yield()
	}
	r.mu.Unlock()
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		r.disown()
		return ctx.Err()
	}
	if err := r.recover(ctx); err != nil {
		r.release()
		return err
	}
	r.mu.Lock()
	r.state = ReplicaOwned
	r.mu.Unlock()
	r.table.notify()
	return nil
}

// release ends the ownership.
func (r *replica) release() {
	r.mu.Lock()
	r.state = ReplicaIdle
	r.meter.current = time.Now() // nobody else has written so far
	r.mu.Unlock()
	<-r.turn
	r.disown()
}

func (r *replica) disown() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owners--; r.owners == 0 {
		close(r.free)
		r.free = nil
	}
}

// standIn waits until there is no owner and takes the turn; the context that it
// gives ends with ctx or when an owner comes. done gives the turn back.
func (r *replica) standIn(ctx context.Context) (turn context.Context, done func(), err error) {
	for {
		r.mu.Lock()
		free := r.free
		var cancel context.CancelFunc
		if free == nil {
			turn, cancel = context.WithCancel(ctx)
			r.yield = cancel
		}
		r.mu.Unlock()
		if free != nil {
			select {
			case <-free:
				continue
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		select {
		case r.turn <- struct{}{}:
			return turn, func() {
				cancel()
				r.mu.Lock()
				r.yield, r.state = nil, ReplicaIdle
				r.mu.Unlock()
				<-r.turn
			}, nil
		case <-turn.Done():
			cancel()
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
		}
	}
}

// stand follows the changelog whenever the process does not own the partition,
// until ctx ends.
func (r *replica) stand(ctx context.Context, f *follower) error {
	for {
		turn, done, err := r.standIn(ctx)
		if err != nil {
			return nil
		}
		err = r.follow(turn, f)
		yielded := turn.Err() != nil
		done()
		if !yielded {
			return fmt.Errorf("%s/%d: %w", r.table.topic, r.partition, err)
		}
	}
}

// follow keeps the image at the end of the log until ctx ends.
func (r *replica) follow(ctx context.Context, f *follower) error {
	if err := r.recover(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	r.state = ReplicaFollowing
	r.mu.Unlock()
	next := r.image.mark.offset + 1
	part, err := f.follow(topicPartition{r.table.topic, r.partition}, kgo.NewOffset().At(next), next)
	if err != nil {
		return err
	}
	defer part.close()
	for {
		fetches, next, err := part.take(ctx)
		if err != nil {
			return err
		}
		if err := r.take(fetches, next); err != nil {
			return err
		}
	}
}

// recover opens the image and reads the log up to its end.
func (r *replica) recover(ctx context.Context) error {
	k := r.table.engine.kafka
	if r.image.db = r.table.engine.db.handle(); r.image.db == nil {
		return errClosed
	}
	for {
		var start, end int64
		err := r.image.open(func() (topic [16]byte, s, e int64, err error) {
			topic, start, end, err = k.position(ctx, r.table.topic, r.partition)
			return topic, start, end, err
		})
		if err == nil {
			r.opened(max(start, r.image.mark.offset+1), end)
			err = r.catchUp(ctx, max(start, r.image.mark.offset+1), end)
		}
		if errors.Is(err, kerr.OffsetOutOfRange) && ctx.Err() == nil {
			r.table.log.Warn("the log was truncated while it was read", "partition", r.partition, "error", err)
			continue
		}
		if err != nil {
			r.table.engine.db.report(err)
			return err
		}
		r.restored()
		return nil
	}
}

// The log is read in pieces of about so many bytes, each of which is written
// as one batch. The next piece is on its way meanwhile.
const restoreBytes = 4 << 20

// catchUp reads the log up to the offset end. Where it meets a transaction that
// is still open it waits for the end of that.
func (r *replica) catchUp(ctx context.Context, next, end int64) error {
	type piece struct {
		fp   kgo.FetchPartition
		next int64
	}
	ctx, cancel := context.WithCancel(ctx)
	pieces := make(chan piece, 1)
	failed := make(chan error, 1)
	log := r.table.engine.kafka.reader(r.table.topic, r.partition, next)
	log.id, log.sure = r.image.mark.topic, true
	defer func() {
		cancel()
		for range pieces { // until the reader has ended
		}
	}()
	go func() {
		defer close(pieces)
		moved, limit := time.Now(), r.table.engine.cfg.patience()
		for told := moved; log.next < end; {
			from := log.next
			fp, err := log.read(ctx, restoreBytes)
			switch {
			case err != nil && !(kerr.IsRetriable(err) && ctx.Err() == nil):
				failed <- err
				return
			case err != nil || log.next == from:
				if now := time.Now(); err == nil && now.Sub(told) > limit {
					r.tellHanging(ctx, from, now.Sub(moved))
					told = now
				}
				select {
				case <-time.After(pollEvery):
				case <-ctx.Done():
				}
				continue
			}
			moved = time.Now()
			told = moved
			select {
			case pieces <- piece{fp, log.next}:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	for p := range pieces {
		if err := r.take([][]*kgo.Record{p.fp.Records}, p.next); err != nil {
			return err
		}
	}
	select {
	case err := <-failed:
		return fmt.Errorf("restore %s/%d from offset %d: %w", r.table.topic, r.partition, r.image.mark.offset+1, err)
	default:
	}
	if r.image.mark.offset < end-1 { // the log begins behind its last record
		return r.take(nil, end)
	}
	return nil
}

// take writes what the log has brought.
func (r *replica) take(fetches [][]*kgo.Record, next int64) error {
	if err := r.image.take(fetches, next); err != nil {
		r.table.engine.db.report(err)
		return err
	}
	records, bytes := 0, 0
	for _, rs := range fetches {
		records += len(rs)
		for _, rec := range rs {
			bytes += len(rec.Key) + len(rec.Value)
		}
	}
	r.table.counter.Add(float64(records))
	r.table.followed.Add(int64(records))
	r.mu.Lock()
	r.meter.offset = next - 1
	if r.state == ReplicaRestoring {
		r.restore.at = next
		r.restore.records += int64(records)
		r.restore.bytes += int64(bytes)
	}
	r.mu.Unlock()
	r.table.notify()
	return nil
}

// opened begins a restoration of what lies between two offsets.
func (r *replica) opened(next, end int64) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.readable = ReplicaRestoring, true
	r.meter.offset = r.image.mark.offset
	if r.image.mark.offset < 0 {
		r.meter.current = time.Time{} // begun anew
	}
	r.meter.saw(end, now)
	r.restore = restoration{began: now, from: next, at: next, to: end}
}

// restored ends a restoration.
func (r *replica) restored() {
	r.image.fresh = nil // what the owner writes does not go by it
	r.mu.Lock()
	r.meter.whole = true
	x, took := r.restore, time.Since(r.restore.began)
	r.mu.Unlock()
	r.table.restored(r.partition, x, took)
}

// wrote is told after each write of the owner, of so many entries.
func (r *replica) wrote(n int) {
	r.table.owned.Add(int64(n))
	r.mu.Lock()
	r.meter.offset = r.image.mark.offset
	r.mu.Unlock()
	r.table.notify()
}

// saw is told the end of what is committed, as of a time.
func (r *replica) saw(end int64, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meter.saw(end, at)
}

// lag tells how far the image is behind what is committed.
func (r *replica) lag(now time.Time) views.Lag {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lagLocked(now)
}

func (r *replica) lagLocked(now time.Time) views.Lag {
	if r.state == ReplicaOwned {
		return views.Lag{}
	}
	return r.meter.lag(now, r.began)
}

func (r *replica) status(now time.Time) ReplicaStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := ReplicaStatus{Partition: r.partition, State: r.state, Position: r.meter.offset + 1, End: r.meter.end}
	switch r.state {
	case ReplicaOwned:
		s.End = s.Position
	case ReplicaIdle:
	default:
		s.Lag = r.lagLocked(now)
	}
	if r.state == ReplicaRestoring {
		x, took := r.restore, now.Sub(r.restore.began)
		s.Restore = &RestoreStatus{Records: x.records, Bytes: x.bytes, Percent: x.percent(), Took: took, Left: x.left(took)}
	}
	return s
}
