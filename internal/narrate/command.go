package narrate

import (
	"fmt"
	"io"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

// Command writes how far a command is, in a line; before is what was told of it
// last, nil if nothing was.
//
//	14:03:07 command SuspendCustomer C-1001  Compensating  crmNote asked failed for good (Validation); billingSuspend undo
func Command(w io.Writer, before, r *saga.Report, s Style) error {
	key, err := canonical.ParseEntityKey(r.Key)
	if err != nil {
		key.ID = r.Key
	}
	status := string(r.Saga.Status)
	switch r.Saga.Status {
	case saga.Completed:
		status = s.paint("32", status)
	case saga.Failed, saga.Stuck, saga.CompensationFailed, saga.Unconfirmed, saga.Rejected:
		status = s.paint("31", status)
	default:
		status = s.bold(status)
	}
	text := run.Describe(before, r)
	line := fmt.Sprintf("%s command %s %s  %s", s.dim(r.At.Time().Format("15:04:05")), r.Saga.Command, s.bold(key.ID), status)
	if text != "" {
		line += "  " + text
	}
	_, err = io.WriteString(w, strings.TrimRight(line, " ")+"\n")
	return err
}
