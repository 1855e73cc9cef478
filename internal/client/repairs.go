package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// ReplayQuery asks a station to read a part of its input again. From and To are
// "earliest", an RFC 3339 timestamp or "PARTITION:OFFSET[,…]"; To is not
// included, and by default where the station stands.
type ReplayQuery struct {
	Station string  `json:"station"`
	Domain  string  `json:"domain,omitempty"`
	From    string  `json:"from"`
	To      string  `json:"to,omitempty"`
	Key     *string `json:"key,omitempty"`
	DryRun  bool    `json:"dryRun,omitempty"`
}

// Replay is a replay with what has come of it.
type Replay struct {
	ID      string    `json:"id"`
	Domain  string    `json:"domain"`
	Station string    `json:"station"`
	Group   string    `json:"group"`
	Key     *string   `json:"key,omitempty"`
	DryRun  bool      `json:"dryRun"`
	At      time.Time `json:"at"`
	// State is running, settling, done, cancelled or failed.
	State     string          `json:"state"`
	Error     string          `json:"error,omitempty"`
	Read      int64           `json:"read"`
	Total     int64           `json:"total"`
	Parts     []ReplayPart    `json:"partitions"`
	Stations  []StationCounts `json:"stations"`
	Changes   int64           `json:"changes"`
	Events    int64           `json:"events"`
	Failures  []string        `json:"failures,omitempty"`
	Unsettled []string        `json:"unsettled,omitempty"`
}

// Ended tells whether nothing further will happen to it.
func (r *Replay) Ended() bool {
	return r.State == "done" || r.State == "cancelled" || r.State == "failed"
}

// ReplayPart is a partition of a replay: From up to, not including, To, with
// the Next offset.
type ReplayPart struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Next      int64  `json:"next"`
	Error     string `json:"error,omitempty"`
}

// StationCounts is what a station did with the records of a replay.
type StationCounts struct {
	Station     string           `json:"station"`
	Records     int64            `json:"records"`
	Changes     int64            `json:"changes"`
	NoChange    int64            `json:"noChange"`
	Duplicates  int64            `json:"duplicates"`
	DeadLetters int64            `json:"deadLetters"`
	Events      int64            `json:"events"`
	State       int64            `json:"state"`
	Emitted     map[string]int64 `json:"emitted"`
}

// StartReplay asks for a replay.
func (c *Client) StartReplay(ctx context.Context, q ReplayQuery) (*Replay, error) {
	var r Replay
	return &r, c.send(ctx, http.MethodPost, &r, q, nil, "v1", "replays")
}

// Replay tells how far a replay has come, waiting up to wait for its end.
func (c *Client) Replay(ctx context.Context, id string, wait time.Duration) (*Replay, error) {
	var r Replay
	return &r, c.get(ctx, &r, waiting(wait), "v1", "replays", id)
}

// Replays lists the replays that are known, the newest first.
func (c *Client) Replays(ctx context.Context) ([]*Replay, error) {
	var page struct {
		Items []*Replay `json:"items"`
	}
	err := c.get(ctx, &page, nil, "v1", "replays")
	return page.Items, err
}

// CancelReplay ends a replay.
func (c *Client) CancelReplay(ctx context.Context, id string) (*Replay, error) {
	var r Replay
	return &r, c.send(ctx, http.MethodDelete, &r, nil, nil, "v1", "replays", id)
}

// RebuildQuery asks for a table to be built anew from its "changelog" or from
// the "journal", and compared with the live one.
type RebuildQuery struct {
	Table    string `json:"table"`
	Domain   string `json:"domain,omitempty"`
	From     string `json:"from"`
	Swap     bool   `json:"swap"`
	Examples int    `json:"examples"`
}

// Rebuild is a rebuild with what it has found.
type Rebuild struct {
	ID     string    `json:"id"`
	Domain string    `json:"domain"`
	Table  string    `json:"table"`
	From   string    `json:"from"`
	Swap   bool      `json:"swap"`
	At     time.Time `json:"at"`
	// State is running, done or failed.
	State     string            `json:"state"`
	Error     string            `json:"error,omitempty"`
	Records   int64             `json:"records"`
	Keys      int64             `json:"keys"`
	Missing   int64             `json:"missing"`
	Extra     int64             `json:"extra"`
	Different int64             `json:"different"`
	Repaired  int64             `json:"repaired"`
	Overtaken int64             `json:"overtaken"`
	Examples  []TableDifference `json:"examples"`
}

// Differences that are left.
func (r *Rebuild) Differences() int64 { return r.Missing + r.Extra + r.Different - r.Repaired }

// TableDifference is one key that is not as it should be.
type TableDifference struct {
	Key       string          `json:"key"`
	Partition int32           `json:"partition"`
	Kind      string          `json:"kind"`
	Live      json.RawMessage `json:"live,omitempty"`
	Rebuilt   json.RawMessage `json:"rebuilt,omitempty"`
}

// StartRebuild asks for a rebuild.
func (c *Client) StartRebuild(ctx context.Context, q RebuildQuery) (*Rebuild, error) {
	var r Rebuild
	return &r, c.send(ctx, http.MethodPost, &r, q, nil, "v1", "rebuilds")
}

// Rebuild tells what a rebuild has found, waiting up to wait for its end.
func (c *Client) Rebuild(ctx context.Context, id string, wait time.Duration) (*Rebuild, error) {
	var r Rebuild
	return &r, c.get(ctx, &r, waiting(wait), "v1", "rebuilds", id)
}

// LetterQuery selects dead letters; empty members select all.
type LetterQuery struct {
	Domain, Reason, Station, Source, Key, State string
	// Limit of the page; zero leaves it to the server. Cursor of the page.
	Limit  int
	Cursor string
}

// Letter is a dead letter; its record only where one was asked for.
type Letter struct {
	ID        string       `json:"id"`
	Domain    string       `json:"domain"`
	Station   string       `json:"station"`
	Group     string       `json:"group"`
	Reason    failure.Kind `json:"reason"`
	Message   string       `json:"message"`
	Stage     string       `json:"stage,omitempty"`
	Source    string       `json:"source,omitempty"`
	Key       string       `json:"key"`
	At        time.Time    `json:"at"`
	Attempt   int          `json:"attempt"`
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Bytes     int          `json:"bytes"`
	Previous  string       `json:"previous,omitempty"`
	Next      string       `json:"next,omitempty"`
	Replay    string       `json:"replay,omitempty"`
	// State is open, redriven or resolved; Detail says how it came to that.
	State        string            `json:"state"`
	Detail       string            `json:"detail,omitempty"`
	Headers      map[string]string `json:"headers,omitempty"`
	Content      *Content          `json:"content,omitempty"`
	Decoded      json.RawMessage   `json:"decoded,omitempty"`
	DecodeError  string            `json:"decodeError,omitempty"`
	ValueOmitted bool              `json:"valueOmitted,omitempty"`
}

// LetterPage is one page; Cursor is that of the next page, empty on the last.
type LetterPage struct {
	Items  []*Letter `json:"items"`
	Cursor string    `json:"cursor,omitempty"`
}

// Letters reads a page of dead letters, the newest first.
func (c *Client) Letters(ctx context.Context, q LetterQuery) (*LetterPage, error) {
	v := url.Values{}
	for name, value := range map[string]string{"domain": q.Domain, "reason": q.Reason, "station": q.Station, "source": q.Source, "key": q.Key, "state": q.State, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	var p LetterPage
	return &p, c.get(ctx, &p, v, "v1", "dead-letters")
}

// Letter reads a dead letter with its record.
func (c *Client) Letter(ctx context.Context, id string) (*Letter, error) {
	var l Letter
	return &l, c.get(ctx, &l, nil, "v1", "dead-letters", id)
}

// Redrive has a station try the record of a letter again, and waits for what
// comes of it. force does so although it was tried too often.
func (c *Client) Redrive(ctx context.Context, id string, force bool, wait time.Duration) (*Letter, error) {
	v := waiting(wait)
	if force {
		v.Set("force", "true")
	}
	var l Letter
	return &l, c.send(ctx, http.MethodPost, &l, nil, v, "v1", "dead-letters", id, "redrive")
}

func waiting(d time.Duration) url.Values {
	v := url.Values{}
	if d > 0 {
		v.Set("wait", d.String())
	}
	return v
}

// send sends a JSON body, if there is one, and reads a JSON answer.
func (c *Client) send(ctx context.Context, method string, into, body any, query url.Values, segments ...string) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	r, err := c.request(ctx, method, segments, query, content)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.answer(r, into)
}
