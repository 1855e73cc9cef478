package peers

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/touchstone-platform/touchstone/internal/testkit/child"
)

// process is a subject that runs. It does not outlive the benchmark.
type process struct {
	*child.Process
	log string
}

// startProcess starts a command on some processors; its output goes to a file.
func startProcess(cpus, log string, env []string, command ...string) (*process, error) {
	// taskset executes the command in its own place. All processors are named
	// as well: a child would be where this program is kept.
	cmd := exec.Command("taskset", append([]string{"-c", cmp.Or(cpus, allCPUs())}, command...)...)
	cmd.Env = append(os.Environ(), env...)
	p, err := child.Start(cmd, log, nil)
	if err != nil {
		return nil, err
	}
	return &process{Process: p, log: log}, nil
}

// alive gives nil, or how the process ended and its last words.
func (p *process) alive() error {
	if !p.Ended() {
		return nil
	}
	return fmt.Errorf("it has ended (%v); end of its log:\n%s", p.Err(), child.Tail(p.log, 30))
}

// stop asks the process to end, and kills it if it does not.
func (p *process) stop(within time.Duration) error {
	if err := p.alive(); err != nil {
		return err
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("it did not end within %s of SIGTERM; end of its log:\n%s", within, child.Tail(p.log, 30))
	}
}

// ticks of /proc are hundredths of a second on Linux, whatever the kernel uses
// inside.
const tick = 10 * time.Millisecond

// cpuTime is what a process has used in user and system mode, all threads
// together. See proc_pid_stat(5).
func cpuTime(pid int) (time.Duration, error) {
	_, used, err := readStat(pid)
	return used, err
}

// readStat gives a process's parent and what it has used.
func readStat(pid int) (parent int, used time.Duration, err error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	// The second field, the command in parentheses, may contain anything.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, 0, fmt.Errorf("%s: %d fields after the command, expected 13 or more", path, len(f))
	}
	parent, err0 := strconv.Atoi(string(f[1]))
	user, err1 := strconv.ParseInt(string(f[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(f[12]), 10, 64)
	return parent, time.Duration(user+system) * tick, errors.Join(err0, err1, err2)
}

// kernelTime is what the kernel's own threads have used, those of kthreadd,
// whose process id is 2.
func kernelTime() (total time.Duration, err error) {
	const kthreadd = 2
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, used, err := readStat(pid); err == nil && (parent == kthreadd || pid == kthreadd) {
			total += used // a process that is gone by now is none of the kernel's
		}
	}
	return total, nil
}

// machineTime is how long processors were busy in user and system mode, by
// whatever process, and how much time the hypervisor took from them.
type machineTime struct{ busy, steal time.Duration }

// readMachine reads the first line of /proc/stat: "cpu", then ticks in user,
// nice, system, idle, iowait, irq, softirq, steal. See proc_stat(5).
func readMachine() (machineTime, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return machineTime{}, fmt.Errorf("/proc/stat begins with %q, expected cpu and eight numbers", line)
	}
	var m machineTime
	for _, i := range []int{1, 2, 3, 8} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return machineTime{}, fmt.Errorf("/proc/stat: %w", err)
		}
		if i == 8 {
			m.steal = time.Duration(n) * tick
		} else {
			m.busy += time.Duration(n) * tick
		}
	}
	return m, nil
}

// number reads "name: value" of a file of /proc.
func number(pid int, file, name string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %s: %w", path, name, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// written is how many bytes a process gave to its files and sockets, and how
// many of its files' pages went towards the disk.
func written(pid int) (calls, disk int64, err error) {
	if calls, err = number(pid, "io", "wchar"); err == nil {
		disk, err = number(pid, "io", "write_bytes")
	}
	return calls, disk, err
}

// readBytes is how many bytes a process read from files and sockets.
func readBytes(pid int) (int64, error) { return number(pid, "io", "rchar") }

// peakMemory is the most memory that was resident since forgetPeak, in bytes.
func peakMemory(pid int) (int64, error) {
	n, err := number(pid, "status", "VmHWM")
	return n * 1024, err
}

// forgetPeak makes peakMemory begin anew. See proc_pid_clear_refs(5).
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// allCPUs are those that this process had when it started.
func allCPUs() string { return fmt.Sprintf("0-%d", runtime.NumCPU()-1) }

// pin keeps this process, which feeds and observes, on some processors; all of
// the machine if none are named.
func pin(cpus string) error {
	out, err := exec.Command("taskset", "-apc", cmp.Or(cpus, allCPUs()), strconv.Itoa(os.Getpid())).CombinedOutput()
	if err != nil {
		return fmt.Errorf("taskset: %w\n%s", err, out)
	}
	return nil
}
