package main

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/touchstone-platform/touchstone/internal/client/clienttest"
)

var update = flag.Bool("update", false, "write docs/cli.md and the expected output in testdata/script anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"touchstone": main})
}

// The scripts run the program as a user would. Those that need a server find
// one that serves what came of testdata/customer.yaml; $ELSEWHERE is a server that
// is not Touchstone, and nobody listens at $NOBODY.
func TestScripts(t *testing.T) {

	srv := httptest.NewServer(clienttest.New(t, "testdata/customer.yaml"))
	t.Cleanup(srv.Close) // the scripts outlive this function
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv(serverVariable, srv.URL)
			e.Setenv("ELSEWHERE", elsewhere.URL)
			e.Setenv("NOBODY", nobody.URL)
			e.Setenv("REPO", root)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // or each command sleeps a second at its end
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs the program and checks its exit code: exits CODE ARGUMENT...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARGUMENT...")
	}
	err := ts.Exec("touchstone", args[1:]...)
	code := "0"
	var failed interface{ ExitCode() int }
	if err != nil {
		var ok bool
		if failed, ok = err.(interface{ ExitCode() int }); !ok {
			ts.Fatalf("touchstone: %v", err)
		}
		code = exitCode(failed.ExitCode()).String()
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// docs/cli.md is what the commands say of themselves.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "cli.md")
	want := reference(newCommand(env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/cli.md is not up to date; run go test ./cmd/touchstone -update\n%s", diff)
	}
}
