package bench

import (
	"bytes"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// cpuTime is what the process has used so far, in user and system mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// maxRSS is the most memory, in bytes, that the process ever had resident.
func maxRSS() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss * 1024 // Linux counts in KiB
}

// memory watches the resident memory.
type memory struct {
	most  atomic.Int64
	ended chan struct{}
	wg    sync.WaitGroup
}

func watchMemory() *memory {
	m := &memory{ended: make(chan struct{})}
	m.wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			m.most.Store(max(m.most.Load(), residentBytes()))
			select {
			case <-m.ended:
				return
			case <-tick.C:
			}
		}
	})
	return m
}

// peak gives the most since the last call.
func (m *memory) peak() int64 { return m.most.Swap(residentBytes()) }

func (m *memory) stop() {
	close(m.ended)
	m.wg.Wait()
}

// residentBytes is the second number of /proc/self/statm, in pages; 0 where
// there is no such file.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// profiled runs fn under the CPU profiler. Where path is set the profile is
// also written there, and what is on the heap at its end beside it.
func profiled(path string, fn func() error) (*profile, error) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, err
	}
	err := fn()
	pprof.StopCPUProfile()
	if err != nil {
		return nil, err
	}
	if path != "" {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			return nil, err
		}
		var heap bytes.Buffer
		if err := pprof.WriteHeapProfile(&heap); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path+".heap", heap.Bytes(), 0o644); err != nil {
			return nil, err
		}
	}
	return readProfile(b.Bytes())
}
