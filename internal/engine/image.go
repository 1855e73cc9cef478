package engine

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// image is what the Pebble folder has of one partition of a log: the entries,
// and up to where they are whole. One at a time may write it: Goka for a view;
// for a table whoever has the replica's turn.
type image struct {
	ks    keyspace
	db    *pebble.DB
	disk  *disk
	owner string // the group or view that it belongs to
	// layout that the entries are written by; see mark.
	layout uint64
	mark   mark
	// index of a table, nil if it has none; and the partition, to name it.
	index     *tableIndex
	partition int32
	// fresh has the keys of an image that was begun anew and is being restored;
	// nil otherwise.
	fresh *keyFilter
}

// logPosition finds out what there is of the log that an image is of.
type logPosition func() (topic [16]byte, start, end int64, err error)

// open reads up to where the image is whole. If the log is not what the image
// was made from, or does not have what the image needs next, the image begins
// anew.
func (im *image) open(log logPosition) error {
	topic, start, end, err := log()
	if err != nil {
		return err
	}
	m, found, err := im.ks.readMark(im.db)
	if err != nil {
		return err
	}
	fresh := mark{topic: topic, layout: im.layout, offset: -1}
	if !found {
		// Something may be there without a mark: of another version.
		return im.rebuild(fresh)
	}
	switch {
	case m.topic != topic, // recreated
		m.layout != im.layout, // written in another form
		m.offset >= end,       // truncated
		m.offset+1 < start:    // what comes next was deleted
		return im.rebuild(fresh)
	}
	im.mark = m
	return nil
}

func (im *image) rebuild(fresh mark) error {
	if err := im.disk.admit(); err != nil {
		return err
	}
	im.mark = fresh
	if im.index != nil {
		im.fresh = newKeyFilter()
	}
	b := im.db.NewBatch()
	defer b.Close()
	if err := errors.Join(im.ks.wipe(b), im.ks.putMark(b, fresh)); err != nil {
		return err
	}
	return commitLocal(b)
}

// take writes what a log has brought as one batch: of each key the last
// record, and the mark that says that all before next is in.
func (im *image) take(fetches [][]*kgo.Record, next int64) error {
	bytes := 0
	for _, rs := range fetches {
		for _, r := range rs {
			bytes += len(r.Key) + len(r.Value) + entryBytes
		}
	}
	b := newBatch(im.db, bytes)
	defer b.Close()
	var last map[string]*kgo.Record // by key; only what is costly to write is looked through
	if im.index != nil {
		last = map[string]*kgo.Record{}
		for _, rs := range fetches {
			for _, r := range rs {
				if !r.Attrs.IsControl() {
					last[string(r.Key)] = r
				}
			}
		}
	}
	for _, rs := range fetches {
		for _, r := range rs {
			if r.Attrs.IsControl() {
				continue
			}
			if err := failpoint.Reach(failpoint.RecoveryRecord, im.owner); err != nil {
				return err
			}
			var err error
			if im.index == nil {
				err = im.ks.putBytes(b, r.Key, r.Value)
			} else if key := string(r.Key); last[key] == r {
				err = im.add(b, key, write{value: r.Value})
			}
			if err != nil {
				return err
			}
		}
	}
	m := im.mark
	m.offset = next - 1
	if err := im.ks.putMark(b, m); err != nil {
		return err
	}
	if err := failpoint.Reach(failpoint.RecoveryWrite, im.owner); err != nil {
		return err
	}
	if err := im.disk.admit(); err != nil {
		return err
	}
	if err := commitLocal(b); err != nil {
		return err
	}
	im.mark = m
	return nil
}

// entryBytes is about what an entry of a batch takes beside its key and value.
const entryBytes = 40

// newBatch makes a batch with room for so many bytes, which would else be moved
// again and again while it grows.
func newBatch(db *pebble.DB, bytes int) *pebble.Batch {
	return db.NewBatchWithSize(bytes+1024, pebble.WithMaxRetainedSizeBytes(4<<20))
}

// commitLocal applies a batch to local state. There is no write-ahead log to
// sync: the changelog is the log.
func commitLocal(b *pebble.Batch) error {
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write local state: %w", err)
	}
	return nil
}
