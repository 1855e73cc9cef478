package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/views/deadletters"
)

// Repairs is what the log is for: reading input again, rebuilding tables, and
// giving dead letters another try. Its errors are failures: NotFound for what
// is unknown, Validation for what could not be right, Conflict for what cannot
// be now.
type Repairs interface {
	// StartReplay gives the id of a replay that is under way.
	StartReplay(ctx context.Context, q ReplayQuery) (string, error)
	// Replay tells how far one has come. It waits for its end until ctx ends.
	Replay(ctx context.Context, id string) (*Replay, error)
	Replays() ([]*Replay, error)
	CancelReplay(ctx context.Context, id string) error

	// StartRebuild gives the id of a rebuild that is under way.
	StartRebuild(ctx context.Context, q RebuildQuery) (string, error)
	// Rebuild tells how far one has come. It waits for its end until ctx ends.
	Rebuild(ctx context.Context, id string) (*Rebuild, error)

	// Letters gives the letters behind the cursor, the newest first, and the
	// cursor of the next page, empty on the last.
	Letters(ctx context.Context, q LetterQuery) (items []*Letter, next string, err error)
	// Letter gives a letter with its record.
	Letter(ctx context.Context, id journal.ID) (*Letter, error)
	// Redrive sends a letter back to its station and waits for what comes of
	// it until ctx ends. A letter with as many attempts as the limit is
	// refused unless force is set.
	Redrive(ctx context.Context, id journal.ID, force bool) (*Letter, error)
}

// ReplayQuery asks for a replay. See the OpenAPI document for positions.
type ReplayQuery struct {
	Station string  `json:"station"`
	Domain  string  `json:"domain"`
	From    string  `json:"from"`
	To      string  `json:"to"`
	Key     *string `json:"key"`
	DryRun  bool    `json:"dryRun"`
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
	// State is running, settling (it has ended, and the stations behind it are
	// still busy with what followed), done, cancelled or failed.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Read of Total offsets, over all partitions.
	Read  int64        `json:"read"`
	Total int64        `json:"total"`
	Parts []ReplayPart `json:"partitions"`
	// Stations have what each did, the replayed one first, those behind it in
	// the order of the flow.
	Stations []StationCounts `json:"stations"`
	// Changes of canonical state and public events over all stations.
	Changes int64 `json:"changes"`
	Events  int64 `json:"events"`
	// Failures are examples of records that failed.
	Failures []string `json:"failures,omitempty"`
	// Unsettled are stations behind it that no process runs: what they will
	// make of it is not known yet.
	Unsettled []string `json:"unsettled,omitempty"`
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

// StationCounts is what a station did with the records of a replay, counted by
// what it really produced.
type StationCounts struct {
	Station     string `json:"station"`
	Records     int64  `json:"records"`
	Changes     int64  `json:"changes"`
	NoChange    int64  `json:"noChange"`
	Duplicates  int64  `json:"duplicates"`
	DeadLetters int64  `json:"deadLetters"`
	Events      int64  `json:"events"`
	// State counts records that left another state in the station's table,
	// Emitted what was written by topic.
	State   int64            `json:"state"`
	Emitted map[string]int64 `json:"emitted"`
}

// RebuildQuery asks for a table to be built anew and compared.
type RebuildQuery struct {
	Table  string `json:"table"`
	Domain string `json:"domain"`
	// From is "changelog" or "journal".
	From string `json:"from"`
	Swap bool   `json:"swap"`
	// Examples is how many differences are told one by one.
	Examples int `json:"examples"`
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
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// Records read, and keys that the rebuilt table has.
	Records int64 `json:"records"`
	Keys    int64 `json:"keys"`
	// Missing keys are those that the live table lacks, Extra those that it
	// has and the rebuilt one does not, Different those with another value.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// Repaired keys were swapped; Overtaken ones have been written since and
	// were left alone.
	Repaired  int64             `json:"repaired"`
	Overtaken int64             `json:"overtaken"`
	Examples  []TableDifference `json:"examples"`
}

// TableDifference is one key that is not as it should be. Values are decoded;
// absent where there is none.
type TableDifference struct {
	Key       string          `json:"key"`
	Partition int32           `json:"partition"`
	Kind      string          `json:"kind"` // missing, extra or different
	Live      json.RawMessage `json:"live,omitempty"`
	Rebuilt   json.RawMessage `json:"rebuilt,omitempty"`
}

// LetterQuery selects letters; empty members select all.
type LetterQuery struct {
	deadletters.Query
	Domain string
	State  string
	Limit  int
	After  string
}

// LetterStates are what a letter can be.
var LetterStates = []string{"open", "redriven", "resolved"}

// Letter is a dead letter with what was done about it; the record only where
// it was asked for.
type Letter struct {
	deadletters.Letter
	// State is open (nothing was done), redriven (it was tried again: it is
	// under way, or failed again and Next is the new letter) or resolved.
	State string `json:"state"`
	// Detail says in words how it came to that.
	Detail  string            `json:"detail,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Content *Content          `json:"content,omitempty"`
	// Decoded is the record as the station would see it; absent if it cannot
	// be read, of which DecodeError tells.
	Decoded     any    `json:"decoded,omitempty"`
	DecodeError string `json:"decodeError,omitempty"`
	// ValueOmitted: the letter was too large for the value, which stands at
	// the position that it names.
	ValueOmitted bool `json:"valueOmitted,omitempty"`
}

// Content is bytes in the most readable form that loses nothing: exactly one
// of the members is set.
type Content = content

// ContentOf gives bytes as content.
func ContentOf(b []byte) *Content { return contentOf(b) }

func (a *API) repairs() (Repairs, error) {
	if a.Repairs == nil {
		return nil, problem(http.StatusServiceUnavailable, "unavailable", "this process does not serve repairs")
	}
	return a.Repairs, nil
}

// maxRequest bounds the JSON of a request for a repair, in bytes.
const maxRequest = 64 << 10

// requestBody reads a JSON request. Unknown members are refused: a misspelt one
// must not be ignored.
func requestBody(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("found something behind the object")
		}
	}
	if err != nil {
		return problem(http.StatusBadRequest, "invalid-body", "the body is not the JSON object that was expected: "+err.Error()).at("", err.Error())
	}
	return nil
}

func (a *API) postReplay(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	var q ReplayQuery
	if err := requestBody(w, r, &q); err != nil {
		return err
	}
	switch {
	case q.Station == "":
		return problem(http.StatusBadRequest, "invalid-body", "station: found nothing, expected the name of a station").at("/station", "expected the name of a station")
	case q.From == "":
		return problem(http.StatusBadRequest, "invalid-body", "from: found nothing, expected earliest, a timestamp or PARTITION:OFFSET[,…]").at("/from", "expected a position")
	}
	id, err := x.StartReplay(r.Context(), q)
	if err != nil {
		return err
	}
	now, done := context.WithCancel(r.Context())
	done()
	s, err := x.Replay(now, id)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/replays/"+id)
	return answer(w, http.StatusAccepted, s)
}

func (a *API) getReplays(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	items, err := x.Replays()
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, map[string]any{"items": append([]*Replay{}, items...)})
}

// waiting gives the context of the wait that a request asks for.
func (a *API) waiting(r *http.Request, q map[string]string) (context.Context, context.CancelFunc, error) {
	var d time.Duration
	if s, ok := q["wait"]; ok {
		var err error
		if d, err = a.waitOf("wait", s); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := a.patient(r, d)
	return ctx, cancel, nil
}

func (a *API) getReplay(w http.ResponseWriter, r *http.Request) error {
	return followed(a, w, r, Repairs.Replay)
}

// followed answers with how far one has come, at once or when it goes on.
func followed[T any](a *API, w http.ResponseWriter, r *http.Request, get func(Repairs, context.Context, string) (T, error)) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	q, err := query(r, "wait")
	if err != nil {
		return err
	}
	ctx, cancel, err := a.waiting(r, q)
	if err != nil {
		return err
	}
	defer cancel()
	s, err := get(x, ctx, mux.Vars(r)["id"])
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, s)
}

func (a *API) deleteReplay(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	id := mux.Vars(r)["id"]
	if err := x.CancelReplay(r.Context(), id); err != nil {
		return err
	}
	now, done := context.WithCancel(r.Context())
	done()
	s, err := x.Replay(now, id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s)
}

// Examples of differences: how many by default and at most.
const (
	defaultExamples = 10
	maxExamples     = 1000
)

func (a *API) postRebuild(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	q := RebuildQuery{From: "changelog", Examples: defaultExamples}
	if err := requestBody(w, r, &q); err != nil {
		return err
	}
	switch {
	case q.Table == "":
		return problem(http.StatusBadRequest, "invalid-body", "table: found nothing, expected the name of a table").at("/table", "expected the name of a table")
	case q.From != "changelog" && q.From != "journal":
		detail := fmt.Sprintf("found %q, expected changelog or journal", q.From)
		return problem(http.StatusBadRequest, "invalid-body", "from: "+detail).at("/from", detail)
	case q.Examples < 0 || q.Examples > maxExamples:
		detail := fmt.Sprintf("found %d, expected 0 to %d", q.Examples, maxExamples)
		return problem(http.StatusBadRequest, "invalid-body", "examples: "+detail).at("/examples", detail)
	}
	id, err := x.StartRebuild(r.Context(), q)
	if err != nil {
		return err
	}
	now, done := context.WithCancel(r.Context())
	done()
	s, err := x.Rebuild(now, id)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/rebuilds/"+id)
	return answer(w, http.StatusAccepted, s)
}

func (a *API) getRebuild(w http.ResponseWriter, r *http.Request) error {
	return followed(a, w, r, Repairs.Rebuild)
}

// letterPage is one page of dead letters.
type letterPage struct {
	Items  []*Letter `json:"items"`
	Cursor string    `json:"cursor,omitempty"`
	Next   string    `json:"next,omitempty"`
}

func (a *API) getLetters(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	q, err := query(r, "domain", "reason", "station", "source", "key", "state", "limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := limitOf(q)
	if err != nil {
		return err
	}
	if d, ok := q["domain"]; ok && a.domains[d] == nil {
		return problem(http.StatusNotFound, "unknown-domain", fmt.Sprintf("no domain is named %q", d))
	}
	if s, ok := q["state"]; ok && !slices.Contains(LetterStates, s) {
		return badQuery("state", fmt.Sprintf("found %q, expected one of %s", s, strings.Join(LetterStates, ", ")))
	}
	if k, ok := q["reason"]; ok && !slices.Contains(failure.Kinds(), failure.Kind(k)) {
		return badQuery("reason", fmt.Sprintf("found %q, expected one of %s", k, strings.Trim(fmt.Sprint(failure.Kinds()), "[]")))
	}
	asked := strings.Join([]string{"dead-letters", q["domain"], q["reason"], q["station"], q["source"], q["key"], q["state"]}, "\x00")
	after, err := decodeCursor(q, asked)
	if err != nil {
		return err
	}
	items, next, err := x.Letters(r.Context(), LetterQuery{
		Query:  deadletters.Query{Reason: failure.Kind(q["reason"]), Station: q["station"], Source: q["source"], Key: q["key"]},
		Domain: q["domain"], State: q["state"], Limit: limit, After: after,
	})
	if err != nil {
		return err
	}
	p := letterPage{Items: append([]*Letter{}, items...)}
	if next != "" {
		p.Cursor = encodeCursor(asked, next)
		p.Next = nextLink(w, r, p.Cursor)
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, p)
}

// letterID reads the id in the path.
func (a *API) letterID(r *http.Request) (journal.ID, error) {
	s := mux.Vars(r)["id"]
	id, err := journal.ParseID(s)
	if err != nil {
		return id, problem(http.StatusBadRequest, "invalid-letter-id", fmt.Sprintf("found %q, expected <domain>:<partition>:<offset>", s))
	}
	if a.domains[id.Domain] == nil {
		return id, problem(http.StatusNotFound, "unknown-letter", fmt.Sprintf("there is no dead letter %s", id))
	}
	return id, nil
}

func (a *API) getLetter(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	id, err := a.letterID(r)
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	l, err := x.Letter(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, l)
}

func (a *API) postRedrive(w http.ResponseWriter, r *http.Request) error {
	x, err := a.repairs()
	if err != nil {
		return err
	}
	id, err := a.letterID(r)
	if err != nil {
		return err
	}
	q, err := query(r, "wait", "force")
	if err != nil {
		return err
	}
	if f, ok := q["force"]; ok && f != "true" && f != "false" {
		return badQuery("force", fmt.Sprintf("found %q, expected true or false", f))
	}
	ctx, cancel, err := a.waiting(r, q)
	if err != nil {
		return err
	}
	defer cancel()
	l, err := x.Redrive(ctx, id, q["force"] == "true")
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/dead-letters/"+id.String())
	return answer(w, http.StatusAccepted, l)
}
