package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// EventQuery filters the stream of public events; empty members do not.
type EventQuery struct {
	Domain, Resource, Type string
	// After is a position to begin behind; empty means now.
	After string
}

// StreamEvent is one public event.
type StreamEvent struct {
	// Position to begin behind in order to go on from here.
	Position string
	Type     string
	// CloudEvent in structured JSON.
	CloudEvent json.RawMessage
}

// EventStream is an open stream. It is read by one goroutine.
type EventStream struct {
	ctx   context.Context
	close func() error
	lines *bufio.Scanner
	c     *Client
}

// Events opens the stream of public events. It is open when this returns:
// whatever is published from then on is in it. The stream ends with ctx.
func (c *Client) Events(ctx context.Context, q EventQuery) (*EventStream, error) {
	v := url.Values{}
	for name, value := range map[string]string{"domain": q.Domain, "resource": q.Resource, "type": q.Type, "after": q.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	r, err := c.request(ctx, http.MethodGet, []string{"v1", "events"}, v, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/event-stream")
	a, err := c.do(r)
	if err != nil {
		return nil, err
	}
	s := &EventStream{ctx: ctx, close: a.Body.Close, lines: bufio.NewScanner(a.Body), c: c}
	s.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	return s, nil
}

// Close ends the stream.
func (s *EventStream) Close() error { return s.close() }

// Next waits for the next event. A stream that the server ends, or that breaks
// off, is Unreachable; the position of the last event leads on.
func (s *EventStream) Next() (StreamEvent, error) {
	e, err := next(s.lines)
	if err != nil {
		if cause := s.ctx.Err(); cause != nil {
			return StreamEvent{}, cause
		}
		return StreamEvent{}, &Unreachable{Server: s.c.Server(), Err: err}
	}
	return e, nil
}

// next reads one event of a stream of server-sent events (WHATWG HTML §9.2.6).
// Comments and events without data are passed over; the event "end" is the
// server's reason for ending the stream.
func next(lines *bufio.Scanner) (StreamEvent, error) {
	var e StreamEvent
	var data []string
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if data == nil {
				e.Type = ""
				continue
			}
			e.CloudEvent = json.RawMessage(strings.Join(data, "\n"))
			if e.Type == "end" {
				var end struct {
					Reason string `json:"reason"`
				}
				if json.Unmarshal(e.CloudEvent, &end) != nil || end.Reason == "" {
					end.Reason = "the server ended the stream"
				}
				return StreamEvent{}, errors.New(end.Reason)
			}
			if !json.Valid(e.CloudEvent) {
				return StreamEvent{}, fmt.Errorf("event %s at %s: its data is not JSON", e.Type, e.Position)
			}
			return e, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			e.Position = value
		case "event":
			e.Type = value
		case "data":
			data = append(data, value)
		}
	}
	if err := lines.Err(); err != nil {
		return StreamEvent{}, err
	}
	return StreamEvent{}, io.ErrUnexpectedEOF
}
