package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/command"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/views"
	"github.com/touchstone-platform/touchstone/views/commands"
)

// Commands reads what is told of commands; *commands.Reader is one.
type Commands interface {
	// Get gives nil if nothing is known of the command.
	Get(id string) (*run.Progress, error)
	List(commands.Query) (commands.Page, error)
	Changed() <-chan struct{}
	Lag(id string) views.Lag
}

// Intake takes commands in, and what people want of them. What is taken is durable
// when a call returns without error; errors are failures of kind Transient.
type Intake interface {
	Send(ctx context.Context, domain string, c *command.Command) error
	Order(ctx context.Context, domain, key string, o *saga.Order) error
	// Switch pauses the calls of a connection, or resumes them.
	Switch(ctx context.Context, domain string, s *run.Switch) error
	// Connections tells how the connections of a domain are doing in this process.
	Connections(domain string) []Connection
}

// Connection is a back end that can be asked, and how that goes.
type Connection struct {
	Name      string `json:"name"`
	Doc       string `json:"doc,omitempty"`
	Connector string `json:"connector"`
	Source    string `json:"source,omitempty"`
	// State is active, degraded (it fails, and is left alone for a while) or
	// paused.
	State string `json:"state"`
	// Here tells that this process calls it; the counters are its own.
	Here        bool     `json:"here"`
	Queued      int      `json:"queued"`
	Running     int      `json:"running"`
	Calls       int64    `json:"calls"`
	Failures    int64    `json:"failures"`
	LastFailure string   `json:"lastFailure,omitempty"`
	Operations  []string `json:"operations"`
}

// commandRequest is what a client sends.
type commandRequest struct {
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

// commandView is a command as it is served.
type commandView struct {
	ID       string `json:"id"`
	Command  string `json:"command"`
	Resource string `json:"resource"`
	Entity   string `json:"entity"`
	// Status, and whether anything follows.
	Status      saga.Status      `json:"status"`
	Final       bool             `json:"final"`
	Principal   string           `json:"principal"`
	Correlation string           `json:"correlation"`
	Reason      *saga.Reason     `json:"reason,omitempty"`
	IfVersion   int64            `json:"ifVersion,omitempty"`
	Accepted    envelope.Instant `json:"acceptedAt"`
	Began       envelope.Instant `json:"beganAt"`
	Ended       envelope.Instant `json:"endedAt"`
	// Decisions are the steps that wait for somebody's decision.
	Decisions []string     `json:"decisions,omitempty"`
	Steps     []stepView   `json:"steps"`
	Timeline  []run.Moment `json:"timeline,omitempty"`
	Runs      []runView    `json:"runs,omitempty"`
	Location  string       `json:"location"`
}

// stepView is a step of a command.
type stepView struct {
	Name      string     `json:"name"`
	Phase     saga.Phase `json:"phase"`
	Attempts  int32      `json:"attempts"`
	Held      bool       `json:"held,omitempty"`
	Undo      saga.Phase `json:"undo,omitempty"`
	Uncertain bool       `json:"uncertain,omitempty"`
	Failure   string     `json:"failure,omitempty"`
}

// runView is an IntegrationRun.
type runView struct {
	run.Run
	Command string `json:"command"`
}

func commandLocation(domain, id string) string { return "/v1/" + domain + "/commands/" + id }

func presentCommand(domain string, p *run.Progress, whole bool) commandView {
	s := &p.Report.Saga
	v := commandView{
		ID: s.ID, Command: s.Command, Status: s.Status, Final: s.Status.Final(), Principal: s.Principal, Correlation: s.Cause.Correlation, Reason: s.Reason,
		IfVersion: s.IfVersion, Accepted: s.Accepted, Began: s.Began, Ended: s.Ended, Decisions: commands.Decisions(s), Steps: []stepView{}, Location: commandLocation(domain, s.ID),
	}
	if key, err := canonical.ParseEntityKey(p.Report.Key); err == nil {
		v.Resource, v.Entity = key.Resource, key.ID
	}
	for i := range s.Steps {
		x := &s.Steps[i]
		step := stepView{Name: x.Name, Phase: x.Do.Phase, Attempts: x.Do.Attempt, Held: x.Do.Held || x.Undo.Held, Uncertain: x.Uncertain}
		if x.Undo.Phase != saga.Idle {
			step.Undo = x.Undo.Phase
		}
		if x.Do.Kind != "" {
			step.Failure = string(x.Do.Kind)
		}
		v.Steps = append(v.Steps, step)
	}
	if whole {
		v.Timeline = p.Timeline
		for _, r := range p.Runs {
			v.Runs = append(v.Runs, runView{r, s.ID})
		}
	}
	return v
}

// domainOf finds the domain of a path that takes commands.
func (a *API) domainOf(r *http.Request) (*Domain, error) {
	d, ok := a.domains[mux.Vars(r)["domain"]]
	if !ok {
		return nil, problem(http.StatusNotFound, "unknown-domain", fmt.Sprintf("no domain is named %q", mux.Vars(r)["domain"]))
	}
	if d.Commands == nil || a.Intake == nil {
		return nil, problem(http.StatusNotFound, "no-commands", fmt.Sprintf("domain %s declares no commands", d.Definition.Name))
	}
	return d, nil
}

// postCommand takes a command. It is answered when it is durable and it is known
// whether it was sent before.
func (a *API) postCommand(w http.ResponseWriter, r *http.Request) error {
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	_, res, err := a.resource(r)
	if err != nil {
		return err
	}
	if _, err := query(r); err != nil {
		return err
	}
	var body commandRequest
	if err := requestBody(w, r, &body); err != nil {
		return err
	}
	c, err := a.commandOf(r, res, body)
	if err != nil {
		return err
	}
	wait, err := a.preferWait(r)
	if err != nil {
		return err
	}
	// Who asks again is answered by what became of it, whatever has changed since.
	id := c.ID()
	known, err := d.Commands.Get(id)
	if err != nil {
		return err
	}
	if known == nil || known.Report == nil {
		if _, refusal := command.Admit(d.Definition, c); refusal != nil {
			return refused422(refusal)
		}
		if err := a.precondition(d, c); err != nil {
			return err
		}
		if err := a.Intake.Send(r.Context(), d.Definition.Name, c); err != nil {
			return err
		}
	}
	// Admitted is soon; the whole command may take as long as the client waits.
	p, err := a.awaitCommand(r, d, id, a.Limits.Wait, func(p *run.Progress) bool { return true })
	if err != nil {
		return err
	}
	if p == nil {
		return problem(http.StatusServiceUnavailable, "unavailable", "the command is taken, but nobody has admitted it yet; send it again with the same Idempotency-Key").retry(1)
	}
	if f := p.Report.Saga.Fingerprint; f != c.Fingerprint() {
		return problem(http.StatusUnprocessableEntity, "idempotency-key-reused",
			fmt.Sprintf("the Idempotency-Key %q was used for another entity, input or version of command %s, expected a key of its own", c.IdempotencyKey, c.Name))
	}
	if wait > 0 {
		if p, err = a.awaitCommand(r, d, id, wait, func(p *run.Progress) bool { return p.Report.Saga.Status.Final() }); err != nil {
			return err
		}
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	v := presentCommand(d.Definition.Name, p, false)
	w.Header().Set("Location", v.Location)
	w.Header().Set("Correlation-Id", v.Correlation)
	status := http.StatusAccepted
	if wait > 0 && v.Final {
		status = http.StatusOK
	}
	return answer(w, status, v)
}

// commandOf makes the command of a request.
func (a *API) commandOf(r *http.Request, res *definition.Resource, body commandRequest) (*command.Command, error) {
	tenant, err := a.Tenant(r)
	if err != nil {
		return nil, err
	}
	if body.Name == "" {
		return nil, problem(http.StatusBadRequest, "invalid-body", "name: found nothing, expected the name of a command").at("/name", "expected the name of a command")
	}
	c := &command.Command{
		Tenant: tenant, Principal: a.Principal(r), IdempotencyKey: r.Header.Get("Idempotency-Key"), Name: body.Name, Resource: res.Name, Entity: mux.Vars(r)["id"],
		Input: canonical.Value(body.Input), At: envelope.At(a.Now()),
		Cause: envelope.Cause{Correlation: correlationOf(r.Header), Traceparent: traceparentOf(r.Context())},
	}
	if len(body.Input) == 0 {
		c.Input = "{}"
	}
	if c.IdempotencyKey == "" {
		c.IdempotencyKey = uuid.NewString() // then each request is a command of its own
	} else if k := strings.Trim(c.IdempotencyKey, `"`); k != "" {
		c.IdempotencyKey = k // the draft of the header field has it as an RFC 9651 string
	}
	if c.IfVersion, err = ifMatch(r.Header.Get("If-Match")); err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		p := asProblem(err)
		var f *failure.Error
		if errors.As(err, &f) {
			p.at("/"+f.Subject, f.Err.Error())
		}
		return nil, p
	}
	if c.Cause.Correlation == "" {
		c.Cause.Correlation = c.ID()
	}
	return c, nil
}

// ifMatch reads the version of an If-Match: the entity tag of an entity, with or
// without the hash of its provenance.
func ifMatch(header string) (int64, error) {
	s := strings.TrimSpace(header)
	if s == "" || s == "*" {
		return 0, nil
	}
	text, ok := strings.CutPrefix(s, `"`)
	text, ok2 := strings.CutSuffix(text, `"`)
	text, _, _ = strings.Cut(text, ".")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || !ok2 || err != nil || n < 1 {
		return 0, problem(http.StatusBadRequest, "invalid-header", fmt.Sprintf(`If-Match: found %q, expected the ETag of the entity, such as "3", or *`, header)).at("#/header/If-Match", "expected an entity tag")
	}
	return n, nil
}

// preferWait reads how long a client prefers to wait (RFC 7240).
func (a *API) preferWait(r *http.Request) (time.Duration, error) {
	for _, h := range r.Header.Values("Prefer") {
		for p := range strings.SplitSeq(h, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if err != nil || n < 0 {
				return 0, nil // a preference that is not understood is ignored
			}
			return min(time.Duration(n)*time.Second, a.Limits.Wait), nil
		}
	}
	return 0, nil
}

// precondition answers at once what would be refused anyway, where that is known:
// an entity that never was, or another version than wanted.
func (a *API) precondition(d *Domain, c *command.Command) error {
	e, err := d.Entities.Get(c.Tenant, c.Resource, c.Entity)
	if err != nil {
		return err
	}
	behind := d.Entities.Lag(c.Tenant, c.Resource, c.Entity).Records > 0
	switch {
	case e == nil && !behind:
		return problem(http.StatusNotFound, "unknown-entity", fmt.Sprintf("no %s has the id %q", c.Resource, c.Entity))
	case e != nil && !e.Exists && !behind:
		return problem(http.StatusGone, "gone", fmt.Sprintf("%s %s no longer exists: no source has a record of it", c.Resource, c.Entity))
	case e != nil && c.IfVersion != 0 && (e.Version > c.IfVersion || e.Version < c.IfVersion && !behind):
		return problem(http.StatusPreconditionFailed, "wrong-version", fmt.Sprintf("%s %s has version %d, expected %d", c.Resource, c.Entity, e.Version, c.IfVersion))
	}
	return nil
}

// refused422 tells why a command cannot be.
func refused422(r *command.Refusal) *Problem {
	switch r.Kind {
	case failure.NotFound:
		return problem(http.StatusNotFound, "unknown-command", r.Detail)
	case failure.Validation:
		p := problem(http.StatusUnprocessableEntity, "invalid-input", r.Detail)
		for _, v := range r.Violations {
			p.at("/input"+v.Pointer, "found "+v.Found+", expected "+v.Expected)
		}
		return p
	}
	return problem(statusOf(r.Kind), codeOf(r.Kind), r.Detail)
}

// awaitCommand waits until something is known of a command and it is as wanted. It
// gives what is known when the time is over; nil if nothing is.
func (a *API) awaitCommand(r *http.Request, d *Domain, id string, within time.Duration, enough func(*run.Progress) bool) (*run.Progress, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		changed := d.Commands.Changed()
		p, err := d.Commands.Get(id)
		if err != nil {
			return nil, err
		}
		if p != nil && p.Report == nil {
			p = nil
		}
		if p != nil && enough(p) {
			return p, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return p, nil
		case <-a.closing.Done():
			return p, nil
		case <-r.Context().Done():
			return p, nil
		}
	}
}

// oneCommand finds the command of a path.
func (a *API) oneCommand(r *http.Request, id string) (*Domain, *run.Progress, error) {
	d, err := a.domainOf(r)
	if err != nil {
		return nil, nil, err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return nil, nil, err
	}
	p, err := d.Commands.Get(id)
	if err != nil {
		return nil, nil, err
	}
	if p == nil || p.Report == nil || !strings.HasPrefix(p.Report.Key, tenant+"/") {
		return nil, nil, problem(http.StatusNotFound, "unknown-command", fmt.Sprintf("no command of %s has the id %q", d.Definition.Name, id))
	}
	return d, p, nil
}

func (a *API) getCommand(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "wait")
	if err != nil {
		return err
	}
	id := mux.Vars(r)["command"]
	d, p, err := a.oneCommand(r, id)
	if err != nil {
		return err
	}
	if s, ok := q["wait"]; ok {
		wait, err := a.waitOf("wait", s)
		if err != nil {
			return err
		}
		if p, err = a.awaitCommand(r, d, id, wait, func(p *run.Progress) bool { return p.Report.Saga.Status.Final() }); err != nil {
			return err
		}
	}
	tellLag(w, d.Commands.Lag(id))
	body, err := json.Marshal(presentCommand(d.Definition.Name, p, true))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("ETag", tag)
	if noneMatch(r.Header.Get("If-None-Match"), tag) {
		w.Header().Set("Cache-Control", "no-cache")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	write(w, http.StatusOK, body)
	return nil
}

// commandQuery reads what commands are asked for.
func (a *API) commandQuery(r *http.Request, d *Domain, more ...string) (commands.Query, map[string]string, error) {
	q, err := query(r, append([]string{"status", "entity", "connection", "open", "attention", "limit", "cursor"}, more...)...)
	if err != nil {
		return commands.Query{}, nil, err
	}
	out := commands.Query{Status: saga.Status(q["status"]), Connection: q["connection"]}
	if out.Tenant, err = a.Tenant(r); err != nil {
		return out, nil, err
	}
	if out.Status != "" && !slices.Contains(saga.Statuses(), out.Status) {
		return out, nil, badQuery("status", fmt.Sprintf("found %q, expected one of %s", q["status"], joined(saga.Statuses())))
	}
	if s, ok := q["entity"]; ok {
		resource, id, found := strings.Cut(s, "/")
		if !found || id == "" {
			return out, nil, badQuery("entity", fmt.Sprintf("found %q, expected <resource>/<id>", s))
		}
		out.Entity = canonical.EntityKey{Tenant: out.Tenant, Resource: resource, ID: id}.String()
	}
	if out.Connection != "" {
		if _, ok := d.Definition.Connection(out.Connection); !ok {
			return out, nil, badQuery("connection", fmt.Sprintf("domain %s has no connection %q", d.Definition.Name, out.Connection))
		}
	}
	for name, into := range map[string]*bool{"open": &out.Open, "attention": &out.Attention} {
		switch s, ok := q[name]; {
		case !ok || s == "false":
		case s == "true":
			*into = true
		default:
			return out, nil, badQuery(name, fmt.Sprintf("found %q, expected true or false", s))
		}
	}
	if out.Limit, err = limitOf(q); err != nil {
		return out, nil, err
	}
	out.After, err = decodeCursor(q, asked(r, q))
	return out, q, err
}

// listEntityCommands lists the commands about one entity.
func (a *API) listEntityCommands(w http.ResponseWriter, r *http.Request) error {
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	_, res, err := a.resource(r)
	if err != nil {
		return err
	}
	q, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	tenant, err := a.Tenant(r)
	if err != nil {
		return err
	}
	cq := commands.Query{Tenant: tenant, Entity: canonical.EntityKey{Tenant: tenant, Resource: res.Name, ID: mux.Vars(r)["id"]}.String()}
	if cq.Limit, err = limitOf(q); err != nil {
		return err
	}
	if cq.After, err = decodeCursor(q, asked(r, q)); err != nil {
		return err
	}
	tellLag(w, d.Commands.Lag(""))
	page, err := d.Commands.List(cq)
	if err != nil {
		return err
	}
	items := []commandView{}
	for _, p := range page.Commands {
		items = append(items, presentCommand(d.Definition.Name, p, false))
	}
	return a.listPage(w, r, q, items, page.Next)
}

func joined[T ~string](all []T) string {
	var out []string
	for _, x := range all {
		out = append(out, string(x))
	}
	return strings.Join(out, ", ")
}

// asked is what a cursor is bound to: the path and all parameters but those of
// paging.
func asked(r *http.Request, q map[string]string) string {
	var parts []string
	for name, v := range q {
		if name != "cursor" && name != "limit" {
			parts = append(parts, name+"="+v)
		}
	}
	slices.Sort(parts)
	return r.URL.EscapedPath() + "?" + strings.Join(parts, "&")
}

func (a *API) listCommands(w http.ResponseWriter, r *http.Request) error {
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	cq, q, err := a.commandQuery(r, d)
	if err != nil {
		return err
	}
	tellLag(w, d.Commands.Lag(""))
	page, err := d.Commands.List(cq)
	if err != nil {
		return err
	}
	items := []commandView{}
	for _, p := range page.Commands {
		items = append(items, presentCommand(d.Definition.Name, p, false))
	}
	return a.listPage(w, r, q, items, page.Next)
}

// listPage answers with one page of a list.
func (a *API) listPage(w http.ResponseWriter, r *http.Request, q map[string]string, items any, next string) error {
	out := struct {
		Items  any    `json:"items"`
		Cursor string `json:"cursor,omitempty"`
		Next   string `json:"next,omitempty"`
	}{Items: items}
	if next != "" {
		out.Cursor = encodeCursor(asked(r, q), next)
		out.Next = nextLink(w, r, out.Cursor)
	}
	return answer(w, http.StatusOK, out)
}

// orderBody is what a person adds to an order.
type orderBody struct {
	Step   string `json:"step"`
	Detail string `json:"detail"`
}

// postOrder takes what a person wants of a command under way.
func (a *API) postOrder(kind saga.OrderKind) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := query(r); err != nil {
			return err
		}
		d, p, err := a.oneCommand(r, mux.Vars(r)["command"])
		if err != nil {
			return err
		}
		var body orderBody
		if r.ContentLength != 0 {
			if err := requestBody(w, r, &body); err != nil {
				return err
			}
		}
		s := &p.Report.Saga
		conflict := func(format string, args ...any) error {
			return problem(http.StatusConflict, "conflict", fmt.Sprintf(format, args...))
		}
		waiting := s.Status == saga.Stuck || s.Status == saga.CompensationFailed
		switch {
		case s.Status.Final():
			return conflict("the command is %s: nothing follows", s.Status)
		case (kind == saga.OrderRetry || kind == saga.OrderAbandon) && !waiting:
			return conflict("the command is %s, expected %s or %s", s.Status, saga.Stuck, saga.CompensationFailed)
		case kind == saga.OrderCancel && s.Status != saga.Queued && s.Status != saga.Running:
			return conflict("the command is %s, expected %s or %s", s.Status, saga.Queued, saga.Running)
		case kind == saga.OrderApprove || kind == saga.OrderRefuse:
			open := commands.Decisions(s)
			if body.Step == "" && len(open) == 1 {
				body.Step = open[0]
			}
			if !slices.Contains(open, body.Step) {
				return conflict("step %q waits for no decision; those that do: %s", body.Step, orNone(open))
			}
		}
		o := &saga.Order{Saga: s.ID, Kind: kind, Step: body.Step, By: a.Principal(r), Detail: body.Detail}
		if err := a.Intake.Order(r.Context(), d.Definition.Name, p.Report.Key, o); err != nil {
			return err
		}
		w.Header().Set("Location", commandLocation(d.Definition.Name, s.ID))
		return answer(w, http.StatusAccepted, presentCommand(d.Definition.Name, p, false))
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// failureView is an IntegrationFailure with what it belongs to.
type failureView struct {
	run.Failure
	Run        string `json:"run"`
	Command    string `json:"command"`
	Connection string `json:"connection"`
	Operation  string `json:"operation"`
	Attempt    int32  `json:"attempt"`
	Open       bool   `json:"open"`
}

func failuresOf(p *run.Progress) (out []failureView) {
	for i := range p.Runs {
		r := &p.Runs[i]
		for _, t := range r.Attempts {
			if t.Failure != nil {
				out = append(out, failureView{*t.Failure, r.ID, p.Report.Saga.ID, r.Connection, r.Operation, t.Number, t.Failure.Resolved == 0})
			}
		}
	}
	return out
}

func (a *API) getRun(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id := mux.Vars(r)["run"]
	name, ok := run.Command(id)
	if !ok {
		return problem(http.StatusNotFound, "unknown-run", fmt.Sprintf("found %q, expected the id of a run, such as run-….pause", id))
	}
	_, p, err := a.oneCommand(r, name)
	if err != nil {
		return err
	}
	for _, x := range p.Runs {
		if x.ID == id {
			return answer(w, http.StatusOK, runView{x, name})
		}
	}
	return problem(http.StatusNotFound, "unknown-run", fmt.Sprintf("command %s has no run %q", name, id))
}

func (a *API) getFailure(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id := mux.Vars(r)["failure"]
	name, ok := run.Command(id)
	if !ok {
		return problem(http.StatusNotFound, "unknown-failure", fmt.Sprintf("found %q, expected the id of a failure, such as fail-….pause.1", id))
	}
	_, p, err := a.oneCommand(r, name)
	if err != nil {
		return err
	}
	for _, f := range failuresOf(p) {
		if f.ID == id {
			return answer(w, http.StatusOK, f)
		}
	}
	return problem(http.StatusNotFound, "unknown-failure", fmt.Sprintf("command %s has no failure %q", name, id))
}

// listRuns gives the runs of the commands of a page, and listFailures their
// failures: a page may have more or fewer than its limit.
func (a *API) listRuns(w http.ResponseWriter, r *http.Request) error {
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	cq, q, err := a.commandQuery(r, d, "state")
	if err != nil {
		return err
	}
	state := run.State(q["state"])
	if state != "" && !slices.Contains(run.States(), state) {
		return badQuery("state", fmt.Sprintf("found %q, expected one of %s", state, joined(run.States())))
	}
	tellLag(w, d.Commands.Lag(""))
	page, err := d.Commands.List(cq)
	if err != nil {
		return err
	}
	items := []runView{}
	for _, p := range page.Commands {
		for _, x := range p.Runs {
			if (state == "" || x.State == state) && (cq.Connection == "" || x.Connection == cq.Connection) {
				items = append(items, runView{x, p.Report.Saga.ID})
			}
		}
	}
	return a.listPage(w, r, q, items, page.Next)
}

func (a *API) listFailures(w http.ResponseWriter, r *http.Request) error {
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	cq, q, err := a.commandQuery(r, d)
	if err != nil {
		return err
	}
	tellLag(w, d.Commands.Lag(""))
	page, err := d.Commands.List(cq)
	if err != nil {
		return err
	}
	items := []failureView{}
	for _, p := range page.Commands {
		for _, f := range failuresOf(p) {
			if (!cq.Open || f.Open) && (cq.Connection == "" || f.Connection == cq.Connection) {
				items = append(items, f)
			}
		}
	}
	return a.listPage(w, r, q, items, page.Next)
}

func (a *API) listConnections(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	d, err := a.domainOf(r)
	if err != nil {
		return err
	}
	items := a.Intake.Connections(d.Definition.Name)
	if items == nil {
		items = []Connection{}
	}
	return answer(w, http.StatusOK, struct {
		Items []Connection `json:"items"`
	}{items})
}

// switchBody is how fast a connection is resumed.
type switchBody struct {
	// Rate of calls in a second until those that wait are through; 0 for the
	// connection's own.
	Rate float64 `json:"rate"`
}

func (a *API) postSwitch(paused bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := query(r); err != nil {
			return err
		}
		d, err := a.domainOf(r)
		if err != nil {
			return err
		}
		name := mux.Vars(r)["connection"]
		if _, ok := d.Definition.Connection(name); !ok {
			return problem(http.StatusNotFound, "unknown-connection", fmt.Sprintf("domain %s has no connection %q", d.Definition.Name, name))
		}
		var body switchBody
		if r.ContentLength != 0 {
			if err := requestBody(w, r, &body); err != nil {
				return err
			}
		}
		if body.Rate < 0 || paused && body.Rate != 0 {
			return problem(http.StatusBadRequest, "invalid-body", fmt.Sprintf("rate: found %v, expected calls in a second, when resuming only", body.Rate)).at("/rate", "expected calls in a second")
		}
		s := &run.Switch{Connection: name, Paused: paused, Rate: body.Rate, By: a.Principal(r), At: envelope.At(a.Now())}
		if err := a.Intake.Switch(r.Context(), d.Definition.Name, s); err != nil {
			return err
		}
		return answer(w, http.StatusAccepted, s)
	}
}

// declaredView is a command that a resource takes.
type declaredView struct {
	Name     string     `json:"name"`
	Resource string     `json:"resource"`
	Doc      string     `json:"doc,omitempty"`
	Derived  bool       `json:"derived,omitempty"`
	Conflict string     `json:"conflict"`
	Plan     string     `json:"plan"`
	Requires string     `json:"requires,omitempty"`
	Confirms string     `json:"confirms,omitempty"`
	Deadline string     `json:"deadline"`
	Input    object     `json:"input"`
	Stages   [][]string `json:"stages"`
}

// getDeclared lists the commands that the resources of a domain take.
func (a *API) getDeclared(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	d, ok := a.domains[mux.Vars(r)["domain"]]
	if !ok {
		return problem(http.StatusNotFound, "unknown-domain", fmt.Sprintf("no domain is named %q", mux.Vars(r)["domain"]))
	}
	items := []declaredView{}
	for _, res := range d.Definition.Resources {
		for _, c := range res.Commands {
			v := declaredView{Name: c.Name, Resource: res.Name, Doc: c.Doc, Derived: c.Derived, Conflict: string(c.Conflict), Plan: c.Fingerprint, Deadline: c.Deadline.String(), Input: inputSchema(c)}
			if c.Require != nil {
				v.Requires = c.Require.Source()
			}
			if c.Confirm.If != nil {
				v.Confirms = c.Confirm.If.Source()
			}
			for _, stage := range c.Stages {
				var names []string
				for _, s := range stage {
					names = append(names, s.Name)
				}
				v.Stages = append(v.Stages, names)
			}
			items = append(items, v)
		}
	}
	return answer(w, http.StatusOK, struct {
		Items []declaredView `json:"items"`
	}{items})
}

// inputSchema is the JSON Schema of a command's input.
func inputSchema(c *definition.Command) object {
	properties, required := object{}, []string{}
	for _, p := range c.Input {
		t := typeSchema(p.Type)
		if p.Doc != "" {
			t["description"] = p.Doc
		}
		if p.Required {
			required = append(required, p.Name)
		} else {
			t = object{"anyOf": []object{t, {"type": "null"}}}
		}
		properties[p.Name] = t
	}
	o := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}
