package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/client"
	"github.com/touchstone-platform/touchstone/internal/config"
	"github.com/touchstone-platform/touchstone/registry"
)

// exitCode is what the program ends with.
type exitCode int

// The exit codes; exitCodes documents them.
const (
	exitOK          exitCode = 0
	exitFailure     exitCode = 1
	exitUsage       exitCode = 2
	exitNotFound    exitCode = 3
	exitUnreachable exitCode = 4
	exitRefused     exitCode = 5
	exitDiffers     exitCode = 6
)

// exitCodes says what each code means, in order.
func exitCodes() []string {
	return []string{
		exitOK:          "success",
		exitFailure:     "failure",
		exitUsage:       "wrong usage or bad input: flags, arguments, definitions, configuration, or a request that the server calls invalid",
		exitNotFound:    "what was asked for does not exist, or no longer does",
		exitUnreachable: "no answer from the server",
		exitRefused:     "a file was refused as a whole: its bad rows reached the threshold of the source, or a control total does not match",
		exitDiffers:     "something is not as it should be: a table differs from the log, or records of a replay or redrive failed again",
	}
}

// exitError gives an error its exit code.
type exitError struct {
	code exitCode
	err  error
	// hint is a further line for the person at the terminal.
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage is an error of whoever called the program.
func usage(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// codeOf chooses the exit code of an error; it is the one place that does.
func codeOf(err error) exitCode {
	var (
		coded       *exitError
		problems    registry.Problems
		problem     *client.Problem
		unreachable *client.Unreachable
		failed      *failure.Error
		settings    *config.Error
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &problems), errors.As(err, &settings):
		return exitUsage
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.As(err, &problem):
		switch {
		case problem.Code == client.FileRefused:
			return exitRefused
		case problem.Status == http.StatusNotFound, problem.Status == http.StatusGone:
			return exitNotFound
		case problem.Status >= 400 && problem.Status < 500 && problem.Status != http.StatusUnauthorized && problem.Status != http.StatusForbidden &&
			problem.Status != http.StatusRequestTimeout && problem.Status != http.StatusTooManyRequests:
			return exitUsage
		}
	case errors.As(err, &failed):
		switch failed.Kind {
		case failure.Validation:
			return exitUsage
		case failure.NotFound:
			return exitNotFound
		}
	}
	return exitFailure
}

// explainError writes an error for the person at the terminal: one line, the
// places that are wrong below it, and what to do about it.
func explainError(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "touchstone: interrupted")
		return
	}
	fmt.Fprintf(w, "touchstone: %s\n", printableLines(err.Error()))
	var problem *client.Problem
	if errors.As(err, &problem) {
		for _, p := range problem.Errors {
			line := p.Detail
			if p.Pointer != "" {
				line = p.Pointer + ": " + line
			}
			fmt.Fprintf(w, "  %s\n", printable(line))
		}
		if problem.Status >= 500 && problem.TraceID != "" {
			fmt.Fprintf(w, "  trace id %s\n", printable(problem.TraceID))
		}
	}
	var unreachable *client.Unreachable
	if errors.As(err, &unreachable) {
		fmt.Fprintf(w, "  is it running? --%s or %s names another server\n", serverFlag, serverVariable)
	}
	var coded *exitError
	if errors.As(err, &coded) && coded.hint != "" {
		fmt.Fprintf(w, "  %s\n", coded.hint)
	}
}

func (c exitCode) String() string { return strconv.Itoa(int(c)) }
