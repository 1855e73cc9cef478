package child

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// A child's end, its words and its signals are told.
func TestStart(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	ended := make(chan error, 1)
	p, err := Start(exec.Command("sh", "-c", "echo one; echo two >&2; exit 3"), log, func(err error) { ended <- err })
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := <-ended; err == nil || p.Err() == nil || err.Error() != "exit status 3" || !p.Ended() {
		t.Errorf("ended with %v and %v, expected exit status 3", err, p.Err())
	}
	if s := Tail(log, 1); s != "two\n" {
		t.Errorf("last line: found %q, expected two", s)
	}
	p, err = Start(exec.Command("sleep", "1000"), log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Ended() || p.Err() != nil {
		t.Errorf("a sleeping child has ended: %v", p.Err())
	}
	p.Kill()
	if err := p.Err(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("ended with %v, expected to be killed", err)
	}
	if _, err := Start(exec.Command(filepath.Join(t.TempDir(), "nobody")), log, nil); err == nil {
		t.Error("a command that is not there was started")
	}
}
