// Command touchstone is the whole product in one program: it runs Touchstone,
// checks and describes definitions, and asks a running server.
//
// Data goes to standard output, everything else to standard error. docs/cli.md
// lists the commands, their flags and the exit codes; it is generated from the
// commands themselves.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	atLeastTwo()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	os.Exit(run(ctx, env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}, os.Args[1:]))
}

// atLeastTwo has Go run two goroutines at a time also where there is one core,
// and leave it to the system to share it. With one, whoever is woken waits until
// a compaction of Pebble has used up its ten milliseconds, several times in each
// commit: docs/performance.md has the figures. Where a container is limited to
// one core Go does the same by itself. The variable GOMAXPROCS decides otherwise.
func atLeastTwo() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
}
