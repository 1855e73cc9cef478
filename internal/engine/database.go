package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// database is the Pebble folder of the process. It holds nothing that could
// not be rebuilt from Kafka, so a folder that cannot be read is moved aside and
// begun anew. Every reader outside of the processors goes through view, which
// never meets a closed database.
type database struct {
	dir  string
	cfg  *Config
	log  *slog.Logger
	disk *disk

	mu   sync.RWMutex
	db   *pebble.DB // nil when closed
	lock *pebble.Lock

	// corrupt is signalled, once per opening, when Pebble finds that a file is
	// not what it wrote.
	corrupt chan error
}

var errClosed = errors.New("local state is closed")

// openDatabase locks and opens the folder.
func openDatabase(cfg *Config) (*database, error) {
	d := &database{dir: cfg.Dir, cfg: cfg, log: cfg.Logger, disk: newDisk(cfg.fs, cfg.Dir, cfg.MemTableBytes, cfg.Logger)}
	if err := d.open(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *database) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.acquire(); err != nil {
		return err
	}
	err := d.openPebble()
	if err != nil && !ofTheMachine(err) {
		if qerr := d.moveAside(err); qerr != nil {
			return qerr
		}
		if err := d.acquire(); err != nil {
			return err
		}
		err = d.openPebble()
	}
	if err != nil {
		d.lock.Close()
		return fmt.Errorf("open data directory %s: %w", d.dir, err)
	}
	return nil
}

func (d *database) acquire() error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return fmt.Errorf("create data directory %s: %w", d.dir, err)
	}
	lock, err := pebble.LockDirectory(d.dir, vfs.Default)
	if err == nil {
		d.lock = lock
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("lock data directory %s: %w", d.dir, err)
	}
	return fmt.Errorf("data directory %s is in use by another process (%w)", d.dir, err)
}

// ofTheMachine tells errors that say nothing about the folder's contents.
func ofTheMachine(err error) bool {
	for _, e := range []error{fs.ErrPermission, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.EDQUOT, syscall.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// moveAside gives the folder another name; an older one of that name goes.
// The lock is on a file inside, which moves with it.
func (d *database) moveAside(cause error) error {
	d.lock.Close()
	aside := d.dir + ".corrupt"
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove %s: %w", aside, err)
	}
	if err := os.Rename(d.dir, aside); err != nil {
		return fmt.Errorf("move corrupt data directory aside: %w", err)
	}
	d.log.Error("data directory is corrupt: moved aside, local state is being rebuilt from Kafka",
		"dir", d.dir, "aside", aside, "cause", cause)
	return nil
}

func (d *database) openPebble() (err error) {
	d.disk.setOpened(false)
	// Pebble panics over some folders that it cannot make sense of, and over
	// more of them in a build with its own checks, which the race detector
	// brings. What it then holds is little, and given back with the process.
	defer func() {
		switch v := recover().(type) {
		case nil:
		case pebbleFatal:
			err = v
		default:
			err = fmt.Errorf("pebble panicked: %v", v)
			d.log.Error("pebble: panic while the data directory was opened", "dir", d.dir, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	corrupt := make(chan error, 1)
	report := func(err error) {
		select {
		case corrupt <- err:
		default:
		}
	}
	// Pebble takes the memory of memtables out of the cache. One is written to
	// while another is flushed; without room for them no block would stay.
	cache := pebble.NewCache(d.cfg.CacheBytes + 2*int64(d.cfg.MemTableBytes))
	defer cache.Unref()
	opts := &pebble.Options{
		Cache:                       cache,
		FS:                          d.disk.guarded(),
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                d.cfg.MemTableBytes,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       24,
		// Entities that are spoken of often are written again and again: the
		// more room above the last level, the fewer old copies are moved down.
		LBaseMaxBytes: 256 << 20,
		Lock:          d.lock,
		Logger:        pebbleLogger{d.log},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				d.log.Error("pebble: background work failed", "error", err)
				if pebble.IsCorruptionError(err) {
					report(err)
				}
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) { report(info.Details) },
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		if i < len(opts.Levels)-1 {
			// What will be rewritten soon is not worth compressing.
			opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		} else {
			opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
		}
	}
	opts.Experimental.ReadSamplingMultiplier = -1 // read-triggered compaction costs more than it gives here
	db, err := pebble.Open(d.dir, opts)
	if err != nil {
		return err
	}
	d.db, d.corrupt = db, corrupt
	d.disk.setOpened(true)
	return nil
}

// reopen begins with an empty folder after corruption was found. Nothing may
// use the database any more but readers by way of view.
func (d *database) reopen(cause error) error {
	d.mu.Lock()
	if d.db != nil {
		if err := d.db.Close(); err != nil {
			d.log.Debug("close corrupt data directory", "error", err)
		}
		d.db = nil
		if err := d.moveAside(cause); err != nil {
			d.mu.Unlock()
			return err
		}
	}
	d.mu.Unlock()
	return d.open()
}

// report tells of an error that may be corruption.
func (d *database) report(err error) {
	if err == nil || !pebble.IsCorruptionError(err) {
		return
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	select {
	case d.corrupt <- err:
	default:
	}
}

// view calls fn with the open database.
func (d *database) view(fn func(db *pebble.DB) error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.db == nil {
		return errClosed
	}
	err := fn(d.db)
	if err != nil && pebble.IsCorruptionError(err) {
		select {
		case d.corrupt <- err:
		default: // told already
		}
	}
	return err
}

// handle is for those who are stopped before the database is closed.
func (d *database) handle() *pebble.DB {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.db
}

// found is signalled when corruption was found since the last opening.
func (d *database) found() <-chan error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.corrupt
}

// flush makes everything written so far durable, unless the disk is full: then
// the rest is read from the changelogs again.
func (d *database) flush() error {
	return d.view(func(db *pebble.DB) error {
		if d.disk.err() != nil {
			return nil
		}
		flushed, err := db.AsyncFlush()
		if err != nil {
			return err
		}
		select {
		case <-flushed:
		case <-d.disk.full():
		}
		return nil
	})
}

func (d *database) close() error {
	err := d.flush()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.db == nil {
		return nil
	}
	if d.disk.err() != nil {
		// Pebble waits for its flush, and that for space; nobody else needs to.
		// The folder is whole as it is, and the lock on it ends with the process.
		d.log.Warn("data directory is left as it is: its disk is full", "dir", d.dir)
		go func(db *pebble.DB, lock *pebble.Lock) {
			<-d.disk.room()
			if err := errors.Join(db.Close(), lock.Close()); err != nil {
				d.log.Warn("close data directory", "dir", d.dir, "error", err)
			}
		}(d.db, d.lock)
		d.db = nil
		return nil
	}
	err = errors.Join(err, d.db.Close(), d.lock.Close())
	d.db = nil
	if err != nil {
		return fmt.Errorf("close data directory %s: %w", d.dir, err)
	}
	return nil
}
