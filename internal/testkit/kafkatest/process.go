package kafkatest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// process is a child that does not outlive the tests, however they end.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, once done is closed
}

// startJava starts a JVM that writes to a log file.
func startJava(log string, args ...string) (*process, error) {
	return startJavaOn("", log, args...)
}

// startJavaOn starts a JVM on some processors of the machine, all if cpus is
// empty.
func startJavaOn(cpus, log string, args ...string) (*process, error) {
	java, err := javaCommand()
	if err != nil {
		return nil, err
	}
	if cpus != "" {
		pin, err := exec.LookPath("taskset")
		if err != nil {
			return nil, errors.New("needs taskset to keep a process on some processors (on Debian and Ubuntu: apt-get install util-linux)")
		}
		// It executes the JVM in its own place: the process id is the JVM's.
		java, args = pin, append([]string{"-c", cpus, java}, args...)
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	p := &process{cmd: exec.Command(java, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// The kernel kills the child when the thread that started it ends; so that
	// thread is kept for as long as the child lives.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", java, err)
	}
	return p, nil
}

// runJava runs a JVM to its end.
func runJava(log string, args ...string) error {
	p, err := startJava(log, args...)
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args[len(args)-6:], " "), p.err, tail(log, 20))
	}
	return nil
}

// alive gives nil, or how the process ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("the process has ended: %w", errors.Join(p.err, errEnded))
	default:
		return nil
	}
}

var errEnded = errors.New("see its log")

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// kill kills and waits for the end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// javaOptions are for short-lived small processes: the quick compiler alone,
// and one thread of garbage collection.
func javaOptions(megabytes int) []string {
	return []string{fmt.Sprintf("-Xmx%dm", megabytes), "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"}
}

// tail gives the last lines of a file.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error() + "\n"
	}
	all := strings.SplitAfter(string(b), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}
