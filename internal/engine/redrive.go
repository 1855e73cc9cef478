package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Redrive is a request to take the step of a dead letter again.
type Redrive struct {
	// Letter names the dead letter, in the words of who asks; it has no slash.
	Letter  string    `json:"-"`
	Request string    `json:"-"`
	At      time.Time `json:"-"` // of the request
	// Group and Input are those that the record failed in.
	Group string   `json:"group"`
	Input InputRef `json:"input"`
	// Topic, Partition and Offset are where the letter is.
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// InputRef is the position of an input record.
type InputRef struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// RedriveResult is what came of a redrive.
type RedriveResult struct {
	At time.Time `json:"-"`
	// Resolved: the step went through. Otherwise there is a new letter, or, if
	// there was nothing to try, Error says why.
	Resolved bool   `json:"resolved"`
	Error    string `json:"error,omitempty"`
	Counts   Counts `json:"counts"`
}

// RedriveStatus is a redrive with what came of it, if anything did yet.
type RedriveStatus struct {
	Redrive
	Result *RedriveResult
}

// HeaderRedrive is on what a redriven record becomes if it fails again: the
// name of the letter before.
const HeaderRedrive = "touchstone.redrive"

// Redrive asks the owner of a partition to take the step of a dead letter
// again, and waits until it is known to be asked. A letter is redriven once:
// after that it is resolved or has a new letter. Whoever asks again, be it at
// the same moment, gets a failure of kind Conflict.
func (e *Engine) Redrive(ctx context.Context, control string, r Redrive) error {
	c, err := e.controlOf(control)
	if err != nil {
		return err
	}
	if err := e.staffed(ctx, r.Group); err != nil {
		return err
	}
	if err := c.caughtUp(ctx); err != nil {
		return err
	}
	if s := c.redrive(r.Letter); s != nil {
		return redrivenAlready(s)
	}
	request := uuid.NewString()
	if err := c.write(ctx, "redrive/"+r.Letter+"/"+request, r); err != nil {
		return err
	}
	if err := c.await(ctx, func() bool { return c.redrives[r.Letter] != nil }); err != nil {
		return err
	}
	if s := c.redrive(r.Letter); s.Request != request {
		return redrivenAlready(s)
	}
	return nil
}

func redrivenAlready(s *RedriveStatus) error {
	became := "is under way"
	if s.Result != nil {
		became = "has a new letter"
		if s.Result.Resolved {
			became = "is resolved"
		}
	}
	return failure.New(failure.Conflict, "redrive", s.Letter, "it was redriven before and %s", became)
}

func (c *controlLog) redrive(letter string) *RedriveStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.redrives[letter]
	if s == nil {
		return nil
	}
	return &RedriveStatus{Redrive: s.Redrive, Result: s.result}
}

// RedriveStatus tells what came of a redrive, waiting for it until ctx ends;
// nil if nobody asked for one.
func (e *Engine) RedriveStatus(ctx context.Context, control, letter string) (*RedriveStatus, error) {
	c, err := e.controlOf(control)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		s := c.redrive(letter)
		if s == nil || s.Result != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, nil
		}
	}
}

// input makes the record that failed of its dead letter: the same identity,
// the same key and value, and its own headers with the number of attempts so
// far. The time is that of the letter, as that of the record is not kept.
func (r *Redrive) input(ctx context.Context, e *Engine) (*kgo.Record, error) {
	letter, err := e.ReadAt(ctx, r.Topic, r.Partition, r.Offset)
	if err != nil {
		return nil, err
	}
	h := letter.Headers
	in := InputRef{Topic: string(h[HeaderErrorTopic])}
	p, perr := strconv.ParseInt(string(h[HeaderErrorPartition]), 10, 32)
	o, oerr := strconv.ParseInt(string(h[HeaderErrorOffset]), 10, 64)
	in.Partition, in.Offset = int32(p), o
	if perr != nil || oerr != nil || in != r.Input {
		return nil, failure.New(failure.Conflict, "redrive", r.Letter, "the letter at %s/%d@%d is of %v, expected %v", r.Topic, r.Partition, r.Offset, in, r.Input)
	}
	value := letter.Value
	if h[HeaderValueOmitted] != nil {
		original, err := e.ReadAt(ctx, in.Topic, in.Partition, in.Offset)
		if err != nil {
			return nil, fmt.Errorf("the letter was too large for its value, which stands at %s/%d@%d: %w", in.Topic, in.Partition, in.Offset, err)
		}
		value = original.Value
	}
	out := &kgo.Record{Topic: in.Topic, Partition: in.Partition, Offset: in.Offset, Key: letter.Key, Value: value, Timestamp: letter.Time.Time()}
	for _, x := range headersFrom(h) {
		if !slices.Contains(letterHeaders, x.Key) {
			out.Headers = append(out.Headers, x)
		}
	}
	out.Headers = append(out.Headers, kgo.RecordHeader{Key: HeaderRedrive, Value: []byte(r.Letter)})
	return out, nil
}

// letterHeaders are those that a record got by becoming a dead letter, but for
// the number of its attempts.
var letterHeaders = []string{
	HeaderErrorTopic, HeaderErrorPartition, HeaderErrorOffset, HeaderErrorConnector, HeaderErrorTask, HeaderErrorStage,
	HeaderErrorClass, HeaderErrorException, HeaderErrorMessage, HeaderErrorStacktrace,
	HeaderFailureKind, HeaderFailureAt, HeaderStation, HeaderValueOmitted, HeaderRedrive, HeaderReplay,
}

// gone tells that what was asked for is not there, however often it is tried.
func gone(err error) bool {
	var f *failure.Error
	return errors.As(err, &f) && (f.Kind == failure.NotFound || f.Kind == failure.Conflict)
}
