package kafkatest

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/touchstone-platform/touchstone/internal/testkit/child"
)

// startJava starts a JVM that writes to a log file.
func startJava(log string, args ...string) (*child.Process, error) {
	return startJavaOn("", log, args...)
}

// startJavaOn starts a JVM on some processors of the machine, all if cpus is
// empty.
func startJavaOn(cpus, log string, args ...string) (*child.Process, error) {
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
	return child.Start(exec.Command(java, args...), log, nil)
}

// runJava runs a JVM to its end.
func runJava(log string, args ...string) error {
	p, err := startJava(log, args...)
	if err != nil {
		return err
	}
	<-p.Done()
	if p.Err() != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args[len(args)-6:], " "), p.Err(), child.Tail(log, 20))
	}
	return nil
}

// alive gives nil, or how the process ended.
func alive(p *child.Process) error {
	if !p.Ended() {
		return nil
	}
	return fmt.Errorf("the process has ended: %w", errors.Join(p.Err(), errEnded))
}

var errEnded = errors.New("see its log")

// javaOptions are for short-lived small processes: the quick compiler alone,
// and one thread of garbage collection.
func javaOptions(megabytes int) []string {
	return []string{fmt.Sprintf("-Xmx%dm", megabytes), "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"}
}
