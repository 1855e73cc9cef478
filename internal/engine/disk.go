package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk watches for the disk of the data directory to be full. Pebble's write
// that found it so waits in filled until there is space and is then tried once
// more: a flush or compaction that fails is repeated at once and for ever, and
// where the write is one to the MANIFEST Pebble gives up the process. Everyone
// who is about to give Pebble more asks admit first, because what Pebble cannot
// flush it keeps in memory, and when that is used up it blocks for good.
type disk struct {
	fs   vfs.FS
	dir  string
	need uint64 // bytes that must be free to go on
	log  *slog.Logger

	mu      sync.Mutex
	opened  bool            // before, there is nobody to wait for: the error is the caller's
	until   <-chan struct{} // is closed when nobody is to wait any more
	isFull  chan struct{}   // closed while it is full
	hasRoom chan struct{}   // closed while it is not
}

func newDisk(fs vfs.FS, dir string, need uint64, log *slog.Logger) *disk {
	d := &disk{fs: fs, dir: dir, need: need, log: log, isFull: make(chan struct{}), hasRoom: make(chan struct{})}
	close(d.hasRoom)
	return d
}

// guarded is the file system that Pebble is to use.
func (d *disk) guarded() vfs.FS { return vfs.OnDiskFull(d.fs, d.filled) }

func (d *disk) setOpened(opened bool) {
	d.mu.Lock()
	d.opened = opened
	d.mu.Unlock()
}

// diskLook is how often a full disk is looked at.
const diskLook = 200 * time.Millisecond

// filled is called by the write that finds the disk full and returns when the
// write may be tried again. All other writes wait for it.
func (d *disk) filled() {
	d.mu.Lock()
	if !d.opened {
		d.mu.Unlock()
		return
	}
	d.hasRoom = make(chan struct{})
	close(d.isFull)
	d.mu.Unlock()
	d.log.Error("disk of the data directory is full: waiting for space", "dir", d.dir, "bytes", d.need)
	began := time.Now()
	for {
		<-time.After(diskLook)
		// On a small disk a twentieth of it is enough.
		u, err := d.fs.GetDiskUsage(d.dir)
		if err == nil && u.AvailBytes >= min(d.need, u.TotalBytes/20) {
			break
		}
	}
	d.log.Warn("disk of the data directory has space again", "dir", d.dir, "after", time.Since(began).Round(time.Millisecond))
	d.mu.Lock()
	d.isFull = make(chan struct{})
	close(d.hasRoom)
	d.mu.Unlock()
}

// full gives a channel that is closed when the disk is full.
func (d *disk) full() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.isFull
}

// room gives a channel that is closed when the disk is not full.
func (d *disk) room() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hasRoom
}

// err says that the disk is full, if it is.
func (d *disk) err() error {
	select {
	case <-d.full():
		return fmt.Errorf("disk of data directory %s is full: expected %d bytes free", d.dir, d.need)
	default:
		return nil
	}
}

// waitUntil sets the end of all waiting in admit.
func (d *disk) waitUntil(ctx context.Context) {
	d.mu.Lock()
	d.until = ctx.Done()
	d.mu.Unlock()
}

// admit waits while the disk is full; an error if the engine is to stop before
// there is room.
func (d *disk) admit() error {
	d.mu.Lock()
	room, until := d.hasRoom, d.until
	d.mu.Unlock()
	select {
	case <-room:
		return nil
	default:
	}
	select {
	case <-room:
		return nil
	case <-until:
		if err := d.err(); err != nil {
			return fmt.Errorf("write local state: %w", err)
		}
		return nil
	}
}
