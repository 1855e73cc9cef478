package run

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/internal/testkit/child"
)

// instance is one `touchstone serve` with a data folder of its own, through all
// the lives of its process.
type instance struct {
	n      int
	dir    string // data
	log    string
	clock  string // a file that says by how much its clock is wrong
	listen string
	args   []string
	bin    string

	mu     sync.Mutex
	starts int
	life   *life // nil before the first
	// died is told each end that nobody wanted: why, empty if the process
	// killed itself at a failpoint.
	died func(*instance, string)
}

// life is that of one process.
type life struct {
	*child.Process
	paused bool
	meant  bool // somebody ends it on purpose
	mortal bool // it may kill itself at a failpoint
}

func (i *instance) url() string { return "http://" + i.listen }

func (i *instance) String() string { return fmt.Sprintf("instance %d", i.n) }

// start starts the process; env is added to its environment.
func (i *instance) start(env ...string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.alive() {
		return nil
	}
	if err := i.note(env); err != nil {
		return err
	}
	cmd := exec.Command(i.bin, i.args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GOMAXPROCS=2"}
	cmd.Env = append(cmd.Env, env...)
	l := &life{mortal: strings.Contains(strings.Join(env, " "), failpoint.RulesEnv+"=")}
	p, err := child.Start(cmd, i.log, func(err error) {
		i.mu.Lock()
		meant := l.meant
		i.mu.Unlock()
		if !meant {
			i.died(i, cause(l, err, i.log))
		}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", i, err)
	}
	l.Process = p
	i.life = l
	i.starts++
	return nil
}

// note writes into the log that a process is started.
func (i *instance) note(env []string) error {
	out, err := os.OpenFile(i.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "--- start %d of %s at %s %s\n", i.starts+1, i, time.Now().Format("15:04:05.000"), strings.Join(env, " "))
	return out.Close()
}

// cause tells how a process ended that nobody ended.
func cause(l *life, err error, log string) string {
	var exit *exec.ExitError
	if l.mortal && errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signal() == syscall.SIGKILL {
			return ""
		}
	}
	return fmt.Sprintf("ended by itself: %v\n%s", err, child.Tail(log, 30))
}

// alive tells whether the process runs. Callers hold mu.
func (i *instance) alive() bool {
	return i.life != nil && !i.life.Ended()
}

func (i *instance) running() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.alive()
}

// answers tells whether the process runs and is not paused.
func (i *instance) answers() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.alive() && !i.life.paused
}

// signal sends one to a process that runs.
func (i *instance) signal(s syscall.Signal) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.alive() {
		return nil
	}
	if s == syscall.SIGKILL || s == syscall.SIGTERM {
		i.life.meant = true
	}
	switch s {
	case syscall.SIGSTOP:
		i.life.paused = true
	case syscall.SIGCONT:
		i.life.paused = false
	}
	return i.life.Signal(s)
}

// kill ends the process with SIGKILL and waits until it is gone.
func (i *instance) kill() error {
	if err := i.signal(syscall.SIGKILL); err != nil {
		return err
	}
	return i.wait(10 * time.Second)
}

// stopWithin is how long a process may take to stop. Ten seconds is what it asks
// for; a broker that hangs meanwhile, on a machine that does other things as
// well, is no fault of it.
const stopWithin = 2 * time.Minute

// stop ends the process with SIGTERM.
func (i *instance) stop() error {
	if err := i.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := i.wait(stopWithin); err != nil {
		return errors.Join(fmt.Errorf("%s did not stop on SIGTERM: %w\n%s", i, err, child.Tail(i.log, 20)), i.kill())
	}
	return nil
}

func (i *instance) wait(within time.Duration) error {
	i.mu.Lock()
	l := i.life
	i.mu.Unlock()
	if l == nil {
		return nil
	}
	select {
	case <-l.Done():
		return nil
	case <-time.After(within):
		return fmt.Errorf("it runs still after %s", within)
	}
}

// ready asks whether everything in it runs.
func (i *instance) ready(c *http.Client) bool {
	res, err := c.Get(i.url() + "/readyz")
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// pebble is the folder of its local state.
func (i *instance) pebble() string { return filepath.Join(i.dir, "state") }

// freePort gives a port that nobody listens on, below those that the system
// gives to outgoing connections and those that brokers take. It is drawn, so
// that two runs at once do not take each other's while an instance is down.
func freePort() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(7_000))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, ln.Close()
		}
	}
	return "", errors.New("no free port between 12000 and 19000")
}
