package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

type partitionKey struct {
	topic     string
	partition int32
}

// syncer syncs the segment files of partitions, one sync for all who wait at
// the same time. Partitions are synced independently of each other.
type syncer struct {
	dir      string
	syncFile func(path string) error // replaced by tests

	mu         sync.Mutex
	partitions map[partitionKey]*syncPartition
	txns       map[int64][]partitionKey // by producer id: primary partitions it wrote to in transactions
	err        error                    // the first failure; it stays
}

type syncPartition struct {
	path string

	mu      sync.Mutex
	waiting *round // joined by whoever comes now; nil if nobody waits
	running bool
	done    int64 // segments with a lower base offset are synced; owned by the running round
}

// round is one sync and everybody who waits for it.
type round struct {
	done chan struct{}
	err  error
}

func newSyncer(dir string) *syncer {
	return &syncer{
		dir:        dir,
		syncFile:   syncFile,
		partitions: make(map[partitionKey]*syncPartition),
		txns:       make(map[int64][]partitionKey),
	}
}

// Err is the first failure, if any.
func (s *syncer) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// do does a duty and returns when it is done.
func (s *syncer) do(d duty) error {
	if d.forget {
		s.mu.Lock()
		clear(s.partitions)
		clear(s.txns)
		s.mu.Unlock()
	}
	if len(d.sync) == 0 {
		return nil
	}
	rounds := make([]*round, len(d.sync))
	for i, key := range d.sync {
		rounds[i] = s.join(key)
	}
	for _, r := range rounds {
		<-r.done
	}
	for _, r := range rounds {
		if r.err != nil {
			s.fail(r.err)
		}
	}
	return s.Err()
}

func (s *syncer) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// join enters the next round of a partition: one that starts after now, and so
// covers everything written before now.
func (s *syncer) join(key partitionKey) *round {
	s.mu.Lock()
	p := s.partitions[key]
	if p == nil {
		p = &syncPartition{path: partitionDir(s.dir, key.topic, key.partition), done: -1}
		s.partitions[key] = p
	}
	s.mu.Unlock()

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = &round{done: make(chan struct{})}
	}
	r := p.waiting
	if !p.running {
		p.running = true
		go s.run(p)
	}
	return r
}

// run does rounds until nobody waits.
func (s *syncer) run(p *syncPartition) {
	for {
		p.mu.Lock()
		r := p.waiting
		p.waiting = nil
		if r == nil {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()

		r.err = s.sync(p)
		close(r.done)
	}
}

// sync syncs every segment of the partition that may hold unsynced bytes: the
// one that is written to, and those that were full since the last time. The
// index files are not synced: recovery writes them anew. A new file is not safe
// before the directories above it are.
func (s *syncer) sync(p *syncPartition) error {
	bases, err := segmentBases(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was written: the broker refused the batch, or the topic is gone
	}
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	fresh := false
	for _, base := range bases {
		if base < p.done {
			continue
		}
		err := s.syncFile(filepath.Join(p.path, segmentName(base)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // expired or deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		fresh = fresh || base > p.done
	}
	if fresh {
		for _, dir := range []string{p.path, filepath.Dir(p.path), s.dir} {
			if err := s.syncFile(dir); err != nil {
				return fmt.Errorf("sync: %w", err)
			}
			if p.done >= 0 {
				break // the directory of the partition is known to be safe
			}
		}
	}
	if len(bases) > 0 {
		p.done = bases[len(bases)-1]
	}
	return nil
}

// addToTransaction remembers that a transaction of the producer wrote to a
// primary partition. What is remembered stays, so that a repeated end of
// transaction is synced again; there are few such producers.
func (s *syncer) addToTransaction(producer int64, key partitionKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.txns[producer], key) {
		s.txns[producer] = append(s.txns[producer], key)
	}
}

// transaction lists the primary partitions that transactions of the producer
// wrote to.
func (s *syncer) transaction(producer int64) []partitionKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.txns[producer])
}

// syncFile makes the content of a file or of a directory durable. It need not
// be the descriptor that was written with: a sync belongs to the file.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDir(path string) error { return syncFile(path) }

// syncTree makes everything below a directory durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || d.Type().IsRegular() {
			return syncFile(path)
		}
		return nil
	})
}

// writeFileSync replaces a file as a whole: a reader, and a start after a crash,
// finds the old content or the new one.
func writeFileSync(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
