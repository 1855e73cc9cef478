//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Oracle: the process says what fires and dies of SIGKILL there; nothing that
// would run at an exit does.
func TestKill(t *testing.T) {
	if os.Getenv(RulesEnv) != "" {
		if err := Setup(os.LookupEnv); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Stderr.WriteString("cleaned up\n") })
		_ = Reach(CommitEnd, "g")
		_ = Reach(CommitEnd, "g")
		t.Fatal("it goes on")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), RulesEnv+"=engine/commit/before-end[g]=kill@2", SeedEnv+"=7")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v, expected SIGKILL", err)
	}
	want := `failpoint: 1 rules, seed 7: engine/commit/before-end[g]=kill@2
failpoint: engine/commit/before-end[g] hit 2: engine/commit/before-end[g]=kill@2
`
	if string(out) != want {
		t.Errorf("it said\n%s\nexpected\n%s", out, want)
	}
	if strings.Contains(string(out), "cleaned up") {
		t.Error("it was not killed, it left")
	}
}

// Oracle: Use replaces the rules of the process until it is undone.
func TestUse(t *testing.T) {
	rs, err := Parse("engine/commit/before-end=error", 1)
	if err != nil {
		t.Fatal(err)
	}
	restore := Use(rs)
	if err := Reach(CommitEnd, "g"); !errors.Is(err, ErrInjected) {
		t.Error(err)
	}
	restore()
	if err := Reach(CommitEnd, "g"); err != nil {
		t.Error(err)
	}
}

// Oracle: the clock is wrong by what the file says at the moment, and right
// without one.
func TestClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	if err := Setup(environment(map[string]string{ClockEnv: path})); err != nil {
		t.Fatal(err)
	}
	defer clock.Store(nil)
	for text, want := range map[string]time.Duration{"": 0, "1h\n": time.Hour, "-90m": -90 * time.Minute} {
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if wrong := time.Until(Now()) - want; wrong.Abs() > time.Minute {
			t.Errorf("%q: wrong by %s more than expected", text, wrong)
		}
	}
}
