package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

// Command is a command with what has become of it.
type Command struct {
	ID          string        `json:"id"`
	Command     string        `json:"command"`
	Resource    string        `json:"resource"`
	Entity      string        `json:"entity"`
	Status      saga.Status   `json:"status"`
	Final       bool          `json:"final"`
	Principal   string        `json:"principal"`
	Correlation string        `json:"correlation"`
	Reason      *saga.Reason  `json:"reason,omitempty"`
	Accepted    *time.Time    `json:"acceptedAt"`
	Began       *time.Time    `json:"beganAt"`
	Ended       *time.Time    `json:"endedAt"`
	Decisions   []string      `json:"decisions,omitempty"`
	Steps       []CommandStep `json:"steps"`
	Timeline    []run.Moment  `json:"timeline,omitempty"`
	Runs        []CommandRun  `json:"runs,omitempty"`
	Location    string        `json:"location"`
}

// CommandStep is a step of a command.
type CommandStep struct {
	Name      string     `json:"name"`
	Phase     saga.Phase `json:"phase"`
	Attempts  int32      `json:"attempts"`
	Held      bool       `json:"held,omitempty"`
	Undo      saga.Phase `json:"undo,omitempty"`
	Uncertain bool       `json:"uncertain,omitempty"`
	Failure   string     `json:"failure,omitempty"`
}

// CommandRun is one call to a back end.
type CommandRun struct {
	run.Run
	Command string `json:"command"`
}

// CommandPage is one page of commands; Cursor is that of the next, empty on the
// last.
type CommandPage struct {
	Items  []*Command `json:"items"`
	Cursor string     `json:"cursor,omitempty"`
}

// CommandRequest is a command to be sent.
type CommandRequest struct {
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input,omitempty"`
	// Key is the sender's name for it; IfVersion what version the entity must
	// have, 0 for any; Wait how long to wait for its end.
	Key       string        `json:"-"`
	IfVersion int64         `json:"-"`
	Wait      time.Duration `json:"-"`
}

// SendCommand sends a command about an entity.
func (c *Client) SendCommand(ctx context.Context, domain, resource, id string, q CommandRequest) (*Command, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	r, err := c.request(ctx, http.MethodPost, []string{"v1", domain, resource, id, "commands"}, nil, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if q.Key != "" {
		r.Header.Set("Idempotency-Key", q.Key)
	}
	if q.IfVersion > 0 {
		r.Header.Set("If-Match", `"`+strconv.FormatInt(q.IfVersion, 10)+`"`)
	}
	if q.Wait > 0 {
		r.Header.Set("Prefer", "wait="+strconv.Itoa(int(q.Wait.Seconds())))
	}
	var x Command
	return &x, c.answer(r, &x)
}

// Command tells how far a command is, waiting up to wait for its end.
func (c *Client) Command(ctx context.Context, domain, id string, wait time.Duration) (*Command, error) {
	var x Command
	return &x, c.get(ctx, &x, waiting(wait), "v1", domain, "commands", id)
}

// CommandQuery selects commands; empty members select all.
type CommandQuery struct {
	Status, Entity, Connection string
	Open, Attention            bool
	Limit                      int
	Cursor                     string
}

// Commands lists commands, one page of them.
func (c *Client) Commands(ctx context.Context, domain string, q CommandQuery) (*CommandPage, error) {
	v := url.Values{}
	for name, s := range map[string]string{"status": q.Status, "entity": q.Entity, "connection": q.Connection, "cursor": q.Cursor} {
		if s != "" {
			v.Set(name, s)
		}
	}
	for name, b := range map[string]bool{"open": q.Open, "attention": q.Attention} {
		if b {
			v.Set(name, "true")
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	var page CommandPage
	return &page, c.get(ctx, &page, v, "v1", domain, "commands")
}

// OrderCommand says what a person wants of a command: cancel, retry, abandon,
// approve or refuse.
func (c *Client) OrderCommand(ctx context.Context, domain, id string, kind saga.OrderKind, step, detail string) (*Command, error) {
	body := map[string]string{}
	for name, s := range map[string]string{"step": step, "detail": detail} {
		if s != "" {
			body[name] = s
		}
	}
	var x Command
	return &x, c.send(ctx, http.MethodPost, &x, body, nil, "v1", domain, "commands", id, string(kind))
}

// Connection is a back end that can be asked.
type Connection struct {
	Name        string   `json:"name"`
	Doc         string   `json:"doc,omitempty"`
	Connector   string   `json:"connector"`
	Source      string   `json:"source,omitempty"`
	State       string   `json:"state"`
	Here        bool     `json:"here"`
	Queued      int      `json:"queued"`
	Running     int      `json:"running"`
	Calls       int64    `json:"calls"`
	Failures    int64    `json:"failures"`
	LastFailure string   `json:"lastFailure,omitempty"`
	Operations  []string `json:"operations"`
}

// Connections tells how the back ends of a domain are doing.
func (c *Client) Connections(ctx context.Context, domain string) ([]*Connection, error) {
	var page struct {
		Items []*Connection `json:"items"`
	}
	err := c.get(ctx, &page, nil, "v1", domain, "connections")
	return page.Items, err
}

// SwitchConnection pauses the calls of a connection, or resumes them at a rate.
func (c *Client) SwitchConnection(ctx context.Context, domain, name string, paused bool, rate float64) (*run.Switch, error) {
	verb, body := "resume", map[string]float64{}
	if paused {
		verb = "pause"
	}
	if rate > 0 {
		body["rate"] = rate
	}
	var s run.Switch
	return &s, c.send(ctx, http.MethodPost, &s, body, nil, "v1", domain, "connections", name, verb)
}
