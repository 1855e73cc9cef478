package datadir_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
)

const childDir = "DATADIR_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		_, err := datadir.Acquire(dir)
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A second taker, in this process or another, is refused by name and number;
// after a release the directory is free again.
func TestAcquireRefusesASecondHolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	lock, err := datadir.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("data directory %s is in use by process %d", dir, os.Getpid())

	_, err = datadir.Acquire(dir)
	var inUse *datadir.InUseError
	if !errors.As(err, &inUse) || err.Error() != want {
		t.Errorf("second holder in this process: %v, want %q", err, want)
	}
	if got := child(t, dir); got != want {
		t.Errorf("second holder in another process: %q, want %q", got, want)
	}

	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Errorf("second release: %v", err)
	}
	// The child takes the lock and goes; its lock goes with it.
	if got := child(t, dir); got != "<nil>" {
		t.Errorf("after release another process got %q", got)
	}
	again, err := datadir.Acquire(dir)
	if err != nil {
		t.Fatalf("after the other process ended: %v", err)
	}
	again.Release()
}

func TestAcquireNeedsAPath(t *testing.T) {
	if _, err := datadir.Acquire(""); err == nil {
		t.Error("an empty path was locked")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := datadir.Acquire(file); err == nil {
		t.Error("a file was locked as a directory")
	}
}

func child(t *testing.T, dir string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}
