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
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	os.Exit(run(ctx, env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}, os.Args[1:]))
}
