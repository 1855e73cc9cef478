package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallDisk is a file system that can be full: then nothing is created and of
// each write only the first byte gets there.
type smallDisk struct {
	vfs.FS
	full    atomic.Bool
	refused atomic.Int64
}

func (d *smallDisk) check() error {
	if d.full.Load() {
		d.refused.Add(1)
		return syscall.ENOSPC
	}
	return nil
}

func (d *smallDisk) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	u, err := d.FS.GetDiskUsage(path)
	if d.full.Load() {
		u.AvailBytes = 0
	}
	return u, err
}

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, c)
	return smallFile{f, d}, err
}

type smallFile struct {
	vfs.File
	d *smallDisk
}

func (f smallFile) Write(b []byte) (int, error) {
	if err := f.d.check(); err != nil && len(b) > 0 {
		n, _ := f.File.Write(b[:1])
		return n, err
	}
	return f.File.Write(b)
}

// Oracle: while the disk is full the engine is not ready and says why, goes on
// reading, and does nothing wrong; when there is space again it goes on by
// itself, in the same process, and the folder can be opened afterwards.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	disk := &smallDisk{FS: vfs.Default}
	cfg := w.config(filepath.Join(t.TempDir(), "state"))
	cfg.MemTableBytes, cfg.fs = 64<<10, disk
	e := w.startCounter(cfg, &counter{})
	w.feed(0, 500, 50)
	w.eventuallyAudit(500, 50)
	n := 500
	for range 3 {
		disk.full.Store(true)
		eventually(t, "the engine to be not ready", func() error {
			w.feed(n, n+200, 50)
			n += 200
			err := e.Ready()
			if err == nil || !strings.Contains(err.Error(), "disk of data directory "+cfg.Dir+" is full") {
				return fmt.Errorf("ready says %v", err)
			}
			return nil
		})
		w.feed(n, n+200, 50)
		n += 200
		disk.full.Store(false)
		w.eventuallyAudit(n, 50)
		e.waitReady()
	}
	if disk.refused.Load() == 0 {
		t.Fatal("nothing was refused: the test tests nothing")
	}
	if s := e.group(); s.Restarts != 0 {
		t.Errorf("%d restarts, expected none", s.Restarts)
	}
	e.stop()
	if entries := w.checkStore(cfg.Dir); entries != 50 {
		t.Errorf("%d entries in the folder, expected 50", entries)
	}
}

// Oracle: a stop while the disk is full ends in bounded time, and the folder
// holds nothing wrong.
func TestStopWhileDiskIsFull(t *testing.T) {
	w := newWorld(t)
	disk := &smallDisk{FS: vfs.Default}
	cfg := w.config(filepath.Join(t.TempDir(), "state"))
	cfg.MemTableBytes, cfg.fs = 64<<10, disk
	e := w.startCounter(cfg, &counter{})
	w.feed(0, 500, 50)
	w.eventuallyAudit(500, 50)
	disk.full.Store(true)
	n := 500
	eventually(t, "the engine to be not ready", func() error {
		w.feed(n, n+200, 50)
		n += 200
		if e.Ready() == nil {
			return errors.New("ready")
		}
		return nil
	})
	began := time.Now()
	e.stop()
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("stopped after %v", d)
	}
	w.checkStore(copyFolder(t, cfg.Dir))
	disk.full.Store(false)
	eventually(t, "the folder to be free", func() error {
		again, err := New(cfg)
		if err != nil {
			return err
		}
		return again.Close()
	})
	w.startCounter(cfg, &counter{})
	w.eventuallyAudit(n, 50)
}
