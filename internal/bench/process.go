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

// machineTime is what all processors of the machine have been busy so far, by
// whatever process; 0 where there is no /proc/stat. A tick is a hundredth of a
// second on Linux, whatever the kernel uses inside.
func machineTime() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	return busyTime(b)
}

// busyTime reads the first line of /proc/stat: "cpu", then ticks in user, nice,
// system, idle, iowait, irq, softirq and steal, all but idle and iowait busy.
// What follows is contained in user and nice. See proc_stat(5).
func busyTime(stat []byte) time.Duration {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return 0
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// others gives how many processors were busy with other processes on average.
func others(machine, ours, elapsed time.Duration) float64 {
	return max((machine-ours).Seconds()/elapsed.Seconds(), 0)
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
