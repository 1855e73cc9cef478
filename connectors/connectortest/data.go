package connectortest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// SharedData gives the path of a file of the shared test data, which lies in
// ../shared/data beside the repository or where TOUCHSTONE_DATA says. The test
// is skipped if the file is not there.
func SharedData(t testing.TB, path ...string) string {
	t.Helper()
	dir := os.Getenv("TOUCHSTONE_DATA")
	if dir == "" {
		_, here, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(here), "..", "..", "..", "shared", "data")
	}
	file := filepath.Join(append([]string{dir}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("shared data %s is absent: put it beside the repository or set TOUCHSTONE_DATA", filepath.Join(path...))
	}
	return file
}
