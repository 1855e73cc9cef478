// Package datadir gives one process the sole use of a directory.
//
// Everything that keeps files of its own (the embedded broker, the stores of
// the stations) must be sure that no second process writes the same files. A
// lock of the operating system says so: it is held by an open file and goes
// with the process, so a killed process leaves no stale lock behind. The
// process id inside the lock file serves the error message alone.
//
// The package does not know what the directory holds, and it does not tell a
// clean stop from an unclean one: see package broker for that.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// LockName is the name of the lock file inside a locked directory.
const LockName = "LOCK"

// InUseError says that another process holds the directory.
type InUseError struct {
	Dir string // the directory as it was asked for
	PID int    // the process that holds it; 0 where the lock file does not tell
}

// Error names the directory and the process.
func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("data directory %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("data directory %s is in use by process %d", e.Dir, e.PID)
}

// Lock is a held directory.
type Lock struct {
	dir  string
	file *os.File
}

// Acquire creates dir where it is absent (mode 0700: it holds raw deliveries)
// and locks it. Where another process, or this one, holds it already, the
// error is an *InUseError.
func Acquire(dir string) (*Lock, error) {
	if dir == "" {
		return nil, errors.New("data directory: no path given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, LockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &InUseError{Dir: dir, PID: holder(f)}
		}
		return nil, fmt.Errorf("data directory: lock %s: %w", path, err)
	}
	// The lock is ours whether or not its file can name us.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Lock{dir: dir, file: f}, nil
}

// holder reads the process id that the holder of the lock wrote.
func holder(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

// Dir is the directory that is held.
func (l *Lock) Dir() string { return l.dir }

// Release gives the directory free. The lock file stays: removing it would let
// a process that has opened it lock a file that nobody else can see.
func (l *Lock) Release() error {
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	_ = f.Truncate(0)
	return f.Close()
}
