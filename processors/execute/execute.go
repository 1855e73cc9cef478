// Package execute makes the calls of sagas to back ends. It is no station of the
// flow: calls are made outside of transactions, side by side, within the limits
// of their connection, and each answer goes back to the saga by a topic.
//
// Each call is made at least once, with the same idempotency key each time. An
// operation that does not know such keys is noted before it is called; if its
// outcome is then lost in a crash, the saga is told that it is uncertain, and the
// call is not made again.
//
// A back end that fails several times in a row is left alone for a while; then
// one call tries whether it is well again (a circuit breaker). Calls that wait for
// such a reason, or because there are more of them than the connection may bear,
// are held: the saga is told, and their time does not run.
package execute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

// Ticket is a request's place in its topic.
type Ticket interface {
	// Begin is called before a call is made; durably has it known after a crash.
	// After errors.Is(err, Gone) the request is somebody else's.
	Begin(durably bool) error
	// Done: it is dealt with. GiveUp: it is not, and comes again.
	Done(begun bool)
	GiveUp(begun bool)
	// Context ends when there is no more time.
	Context() context.Context
}

// Call is a request with what is known of it.
type Call struct {
	Request *saga.Request
	// Key of the entity, and where the request lies: "<topic>/<partition>/<offset>".
	Key, Where string
	// At is when it was asked for.
	At envelope.Instant
	// Begun: somebody who died has begun with it.
	Begun  bool
	Ticket Ticket
}

// Outside is what the executor writes to. Functions are safe for concurrent use.
type Outside struct {
	// Answer writes an answer, and calls done when it is safe.
	Answer func(key string, a *saga.Answer, done func(error))
	// Tell writes what became of an attempt.
	Tell func(a *run.Attempt, done func(error))
	// Journal puts what a back end answered into the journal, and gives its
	// journal id; nil if the connection has no source.
	Journal func(ctx context.Context, c *Call, body canonical.Value) (string, error)
	// Gone is the error of Ticket.Begin for what is somebody else's.
	Gone error
	Log  *slog.Logger
}

// Executor makes the calls of one connection.
type Executor struct {
	connection *definition.Connection
	backend    connectors.Backend
	out        Outside
	breaker    *gobreaker.TwoStepCircuitBreaker[any]
	limit      *rate.Limiter

	mu      sync.Mutex
	queue   []*item         // in the order in which they came
	fresh   []*item         // those that are not held, and some that have begun since
	busy    map[string]bool // entities that a call is under way for
	running int
	share   float64
	paused  bool
	known   bool // whether it is paused
	// drip is the rate for as many calls as are dripping.
	drip     float64
	dripping int
	until    time.Time // the back end wants to be left alone until then
	timer    *time.Timer
	timerAt  time.Time
	closed   atomic.Bool
	wg       sync.WaitGroup
	stats    Stats
}

// Stats of an executor.
type Stats struct {
	Connection string
	// State of the connection: "active", "paused", or "degraded" while the breaker
	// is not closed.
	State   string
	Queued  int
	Running int
	// Calls that were made, and those that failed.
	Calls, Failures int64
	// LastFailure in words; empty if the last call did not fail.
	LastFailure string
}

type item struct {
	*Call
	operation *definition.Operation
	held      bool
	begun     bool // it is not in the queue any more
	refused   bool // nothing was asked of the back end
	holdAt    time.Time
}

// errNotMade tells the breaker of a call that was not made after all.
var errNotMade = errors.New("not made")

// New makes the executor of a connection. It makes no call before Pause or Resume
// has told whether the connection is paused. Close ends it.
func New(c *definition.Connection, b connectors.Backend, out Outside) *Executor {
	x := &Executor{connection: c, backend: b, out: out, share: 1, busy: map[string]bool{}, limit: rate.NewLimiter(rate.Inf, 1)}
	x.breaker = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: c.Name, MaxRequests: 1, Timeout: c.Limits.Pause,
		IsExcluded:  func(err error) bool { return errors.Is(err, errNotMade) },
		ReadyToTrip: func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= c.Limits.Failures },
		OnStateChange: func(name string, from, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				out.Log.Warn("back end fails and is left alone", "connection", name, "for", c.Limits.Pause)
			} else if to == gobreaker.StateClosed {
				out.Log.Info("back end is well again", "connection", name)
			}
		},
	})
	x.setRate()
	return x
}

// Share tells which part of the connection's calls are made here: limits hold for
// all processes together.
func (x *Executor) Share(part float64) {
	x.mu.Lock()
	x.share = part
	x.setRate()
	x.mu.Unlock()
	x.dispatch()
}

func (x *Executor) setRate() {
	r := x.connection.Limits.Rate
	if x.drip > 0 && x.dripping > 0 && (r == 0 || x.drip < r) {
		r = x.drip
	}
	if r == 0 {
		x.limit.SetLimit(rate.Inf)
	} else if x.share > 0 {
		x.limit.SetLimit(rate.Limit(r * x.share))
		x.limit.SetBurst(max(1, int(r*x.share/10)))
	}
}

// Pause has no further call begun, until Resume.
func (x *Executor) Pause() {
	x.mu.Lock()
	x.paused, x.known = true, true
	x.mu.Unlock()
	x.dispatch()
}

// Resume has calls begun again: with a drip rate, no more than so many in a second
// over all processes until those that wait now are through.
func (x *Executor) Resume(drip float64) {
	x.mu.Lock()
	x.paused, x.known = false, true
	if x.drip = drip; drip > 0 {
		x.dripping = len(x.queue)
	}
	x.setRate()
	x.mu.Unlock()
	x.dispatch()
}

// Stats tells how the connection is doing here.
func (x *Executor) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.stats
	s.Connection, s.Queued, s.Running, s.State = x.connection.Name, len(x.queue), x.running, "active"
	switch {
	case x.paused:
		s.State = "paused"
	case x.breaker.State() != gobreaker.StateClosed:
		s.State = "degraded"
	}
	return s
}

// Close waits for the calls that are under way, and closes the back end. Nothing
// is taken any more.
func (x *Executor) Close() error {
	x.mu.Lock()
	x.closed.Store(true)
	x.queue, x.fresh = nil, nil
	if x.timer != nil {
		x.timer.Stop()
	}
	x.mu.Unlock()
	x.wg.Wait()
	return x.backend.Close()
}

// Take takes a request in. It returns at once.
func (x *Executor) Take(c *Call) {
	r := c.Request
	op, ok := x.connection.Operation(r.Operation)
	switch {
	case r.Withdrawn:
		x.withdraw(c)
		return
	case !ok:
		x.refuse(c, failure.NotFound, fmt.Sprintf("connection %s has no operation %q any more", x.connection.Name, r.Operation))
		return
	case r.Uncertain && !op.Idempotent:
		x.finish(&item{Call: c, operation: op}, false, connectors.Reply{}, &connectors.CallError{
			Uncertain: true, Err: failure.New(failure.Conflict, "call", r.Connection+"."+r.Operation, "an earlier attempt may have had its effect, and the operation is not declared idempotent: it is not called again"),
		}, time.Now(), "")
		return
	case c.Begun && !op.Idempotent:
		x.finish(&item{Call: c, operation: op}, false, connectors.Reply{}, &connectors.CallError{
			Uncertain: true, Err: failure.New(failure.Conflict, "call", r.Connection+"."+r.Operation, "who made the call died before its outcome was known, and the operation is not declared idempotent"),
		}, time.Now(), "")
		return
	}
	i := &item{Call: c, operation: op, holdAt: c.At.Time().Add(r.Timeout / 2)}
	if i.late(time.Now()) {
		x.tooLate(i)
		return
	}
	x.mu.Lock()
	if x.closed.Load() {
		x.mu.Unlock()
		return
	}
	x.queue = append(x.queue, i)
	x.await(i)
	x.mu.Unlock()
	x.dispatch()
}

// await puts an item among those that are not held, in the order in which they
// would have to be.
func (x *Executor) await(i *item) {
	at := len(x.fresh)
	for at > 0 && x.fresh[at-1].holdAt.After(i.holdAt) {
		at--
	}
	x.fresh = slices.Insert(x.fresh, at, i)
}

// late tells that the saga has given up on a request that it was not told to wait
// for.
func (i *item) late(now time.Time) bool {
	return !i.held && i.Request.Timeout > 0 && now.Sub(i.At.Time()) > i.Request.Timeout
}

// gone tells that the request is somebody else's: its partition was lost.
func (i *item) gone() bool { return i.Ticket.Context().Err() != nil }

// withdraw takes a request back that waits. One that has begun goes on.
func (x *Executor) withdraw(c *Call) {
	r := c.Request
	var found []*item
	x.mu.Lock()
	x.queue = slices.DeleteFunc(x.queue, func(i *item) bool {
		same := i.Request.Saga == r.Saga && i.Request.Step == r.Step && i.Request.Attempt == r.Attempt && i.Request.Undo == r.Undo
		if same {
			i.begun = true
			found = append(found, i)
		}
		return same
	})
	x.mu.Unlock()
	for _, i := range found {
		if i.gone() {
			i.Ticket.GiveUp(false)
			continue
		}
		x.refuse(i.Call, failure.Conflict, "withdrawn before it began")
	}
	c.Ticket.Done(false)
}

// refuse answers a request that is not called.
func (x *Executor) refuse(c *Call, kind failure.Kind, detail string) {
	x.finish(&item{Call: c, refused: true}, false, connectors.Reply{}, failure.New(kind, "call", x.connection.Name+"."+c.Request.Operation, "%s", detail), time.Now(), "")
}

// tooLate refuses a request whose time is over.
func (x *Executor) tooLate(i *item) {
	x.refuse(i.Call, failure.Transient, "its time was over before it began")
}

// dispatch begins what may begin, and sees to it that it is called again when
// more may. Nothing is written under its lock.
func (x *Executor) dispatch() {
	x.mu.Lock()
	hold, late := x.choose()
	x.mu.Unlock()
	for _, i := range hold {
		x.hold(i)
	}
	for _, i := range late {
		x.tooLate(i)
	}
}

// choose begins what may begin, and gives what is to be held, and what the saga
// has given up by now.
func (x *Executor) choose() (hold, late []*item) {
	now := time.Now()
	if x.closed.Load() || !x.known {
		return nil, nil // it is not known yet whether the connection is paused
	}
	most := max(1, int(float64(x.connection.Limits.Concurrency)*x.share+0.5))
	var again time.Time
	for len(x.queue) > 0 && !x.paused {
		if x.running >= most {
			break
		}
		at := x.next()
		if at < 0 {
			break
		}
		if i := x.queue[at]; i.gone() || i.late(now) {
			x.remove(at)
			i.begun = true
			if i.gone() {
				i.Ticket.GiveUp(false)
			} else {
				late = append(late, i)
			}
			continue
		}
		if now.Before(x.until) {
			again = x.until
			break
		}
		token := x.limit.ReserveN(now, 1)
		if d := token.DelayFrom(now); d > 0 {
			token.CancelAt(now)
			again = now.Add(d)
			break
		}
		done, err := x.breaker.Allow()
		if err != nil {
			token.CancelAt(now)
			again = now.Add(x.connection.Limits.Pause/20 + time.Millisecond)
			break
		}
		i := x.queue[at]
		x.remove(at)
		i.begun = true
		if x.connection.Limits.Ordered {
			x.busy[i.Key] = true
		}
		if x.dripping > 0 {
			if x.dripping--; x.dripping == 0 {
				x.setRate()
			}
		}
		x.running++
		x.wg.Go(func() { x.call(i, done) })
	}
	// Whoever would wait for longer than the saga does is held; at once if it is
	// known that the wait is long.
	long := x.paused || now.Before(x.until) || x.breaker.State() == gobreaker.StateOpen
	for len(x.fresh) > 0 && (x.fresh[0].begun || long || !now.Before(x.fresh[0].holdAt)) {
		i := x.fresh[0]
		x.fresh[0] = nil
		x.fresh = x.fresh[1:]
		if !i.begun && !i.gone() && !i.late(now) {
			i.held = true
			hold = append(hold, i)
		}
	}
	if len(x.fresh) > 0 && (again.IsZero() || x.fresh[0].holdAt.Before(again)) {
		again = x.fresh[0].holdAt
	}
	x.alarm(again, now)
	return hold, late
}

// remove takes a request out of the queue.
func (x *Executor) remove(at int) {
	if at == 0 {
		x.queue[0] = nil
		x.queue = x.queue[1:]
		return
	}
	x.queue = slices.Delete(x.queue, at, at+1)
}

// next finds the first request that may begin; -1 if there is none.
func (x *Executor) next() int {
	if !x.connection.Limits.Ordered {
		return 0
	}
	return slices.IndexFunc(x.queue, func(i *item) bool { return !x.busy[i.Key] })
}

// alarm has dispatch called at a time; zero for never.
func (x *Executor) alarm(at, now time.Time) {
	if at.IsZero() || x.closed.Load() || !x.timerAt.IsZero() && !x.timerAt.After(at) && x.timerAt.After(now) {
		return
	}
	if x.timer != nil {
		x.timer.Stop()
	}
	x.timerAt = at
	x.timer = time.AfterFunc(max(at.Sub(now), time.Millisecond), func() {
		x.mu.Lock()
		x.timerAt = time.Time{}
		x.mu.Unlock()
		x.dispatch()
	})
}

// hold tells the saga that a request waits.
func (x *Executor) hold(i *item) {
	r := i.Request
	x.out.Answer(i.Key, &saga.Answer{Saga: r.Saga, Step: r.Step, Undo: r.Undo, Attempt: r.Attempt, Held: true}, x.ignore)
	x.out.Tell(x.attempt(i.Call, run.Pending), x.ignore)
}

// ignore is for what may be lost: a saga that is not told tries again.
func (x *Executor) ignore(err error) {
	if err != nil {
		x.out.Log.Debug("could not be told", "connection", x.connection.Name, "error", err)
	}
}

func (x *Executor) attempt(c *Call, state run.State) *run.Attempt {
	r := c.Request
	return &run.Attempt{
		Saga: r.Saga, Step: r.Step, Undo: r.Undo, Attempt: r.Attempt, Key: c.Key, Connection: x.connection.Name, Operation: r.Operation,
		State: state, At: envelope.At(time.Now()), Request: c.Where,
	}
}

// call makes one call and tells what became of it.
func (x *Executor) call(i *item, report func(error)) {
	defer func() {
		x.mu.Lock()
		x.running--
		delete(x.busy, i.Key)
		x.mu.Unlock()
		x.dispatch()
	}()
	if err := i.Ticket.Begin(!i.operation.Idempotent); err != nil {
		report(errNotMade)
		if errors.Is(err, x.out.Gone) {
			i.Ticket.GiveUp(false)
			return
		}
		x.out.Log.Warn("call could not be noted and is tried again", "connection", x.connection.Name, "error", err)
		x.mu.Lock()
		if !x.closed.Load() {
			i.begun = false
			x.queue = append([]*item{i}, x.queue...)
			if !i.held {
				x.await(i)
			}
		}
		x.mu.Unlock()
		return
	}
	x.out.Tell(x.attempt(i.Call, run.Running), x.ignore)
	began := time.Now()
	reply, err := x.make(i)
	if err == nil && len(reply.Output) > maxOutput {
		err = &connectors.CallError{Status: reply.Status, Uncertain: true, Err: failure.New(failure.Validation, "call", x.connection.Name+"."+i.Request.Operation,
			"found %d bytes for the steps that follow, expected at most %d: the operation's output can choose what is needed", len(reply.Output), maxOutput)}
	}
	x.note(i, err)
	report(unwell(err))
	journal := ""
	if err == nil && i.operation.Journal != nil && x.out.Journal != nil {
		journal, err = x.journal(i, reply)
	}
	if i.Ticket.Context().Err() != nil && err != nil {
		i.Ticket.GiveUp(true) // who has it now makes it again, or tells that it is uncertain
		return
	}
	x.finish(i, true, reply, err, began, journal)
}

// maxOutput bounds what is kept of an answer, in bytes: it becomes a part of the
// state of its entity's commands.
const maxOutput = 128 << 10

// make makes the call, in its time.
func (x *Executor) make(i *item) (reply connectors.Reply, err error) {
	r := i.Request
	ctx := i.Ticket.Context()
	if r.Timeout > 0 {
		// The saga's time runs from when it asked, unless it was told to wait.
		left := r.Timeout
		if !i.held {
			left = min(left, max(time.Until(i.At.Time())+r.Timeout, r.Timeout/4))
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	defer func() {
		if p := recover(); p != nil {
			err = &connectors.CallError{Uncertain: true, Err: failure.New(failure.Poison, "call", r.Connection+"."+r.Operation, "panic: %v", p)}
		}
	}()
	args := make(map[string]any, len(r.Args))
	for _, a := range r.Args {
		args[a.Name] = a.Value.Any()
	}
	reply, err = x.backend.Call(ctx, connectors.Call{Operation: r.Operation, Key: r.Key, Attempt: r.Attempt, Args: args, Cause: r.Cause})
	if err != nil && ctx.Err() != nil && i.Ticket.Context().Err() == nil {
		err = &connectors.CallError{Uncertain: true, Err: failure.New(failure.Transient, "call", r.Connection+"."+r.Operation, "no answer within %s", r.Timeout)}
	}
	return reply, err
}

// note keeps what is told of the connection, and leaves it alone if it asks for
// that.
func (x *Executor) note(i *item, err error) {
	var ce *connectors.CallError
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.Calls++
	x.stats.LastFailure = ""
	if err != nil {
		x.stats.Failures++
		x.stats.LastFailure = detail(err, i.Request)
		if errors.As(err, &ce) && ce.After > 0 && failure.KindOf(err) == failure.RateLimited {
			if until := time.Now().Add(ce.After); until.After(x.until) {
				x.until = until
			}
		}
	}
}

// unwell tells the breaker which failures say that a back end is not well: those
// that say something about the one call do not.
func unwell(err error) error {
	switch failure.KindOf(err) {
	case failure.Transient, failure.Auth:
		return err
	}
	return nil
}

// journal puts what is to be journaled of an answer into the journal, as a
// delivery of the connection's source.
func (x *Executor) journal(i *item, reply connectors.Reply) (string, error) {
	args := map[string]any{}
	for _, a := range i.Request.Args {
		args[a.Name] = a.Value.Any()
	}
	v, err := i.operation.Journal.Eval(map[string]any{"args": args, "output": reply.Output.Any(), "status": int64(reply.Status)})
	if errors.Is(err, definition.ErrMissing) || err == nil && v == nil {
		return "", nil // there is nothing in it
	}
	uncertain := func(kind failure.Kind, err error) error {
		return &connectors.CallError{Status: reply.Status, Uncertain: true, Err: failure.Wrap(kind, "journal the answer of", x.connection.Name+"."+i.Request.Operation, err)}
	}
	if err != nil {
		return "", uncertain(failure.Validation, err)
	}
	body, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
	if err != nil {
		return "", uncertain(failure.Validation, err)
	}
	id, err := x.out.Journal(i.Ticket.Context(), i.Call, body)
	if err != nil {
		return "", uncertain(failure.Transient, err)
	}
	return id, nil
}

// finish answers the saga and tells what became of the attempt; both are safe
// before the request is done with.
func (x *Executor) finish(i *item, begun bool, reply connectors.Reply, err error, began time.Time, journal string) {
	r := i.Request
	a := &saga.Answer{Saga: r.Saga, Step: r.Step, Undo: r.Undo, Attempt: r.Attempt, Unbegun: i.refused}
	t := x.attempt(i.Call, run.Completed)
	t.Status, t.Response, t.Latency = reply.Status, journal, time.Since(began)
	if err != nil {
		var ce *connectors.CallError
		if errors.As(err, &ce) {
			a.Uncertain, a.After, t.Status, t.Uncertain = ce.Uncertain, ce.After, ce.Status, ce.Uncertain
		}
		a.Kind, a.Detail = failure.KindOf(err), detail(err, r)
		t.State, t.Kind, t.Detail, t.Action = run.Failed, a.Kind, a.Detail, action(r, a.Kind)
	} else {
		a.Output = outputs(reply.Output)
	}
	x.wg.Add(1)
	x.write(i, begun, a, t, answerPatience)
}

// answerPatience is how long is waited before an answer that could not be written
// is written again; twice as long each time.
const answerPatience = 500 * time.Millisecond

// write writes an answer and what became of its attempt, until both are safe or
// the request is somebody else's.
func (x *Executor) write(i *item, begun bool, a *saga.Answer, t *run.Attempt, wait time.Duration) {
	var mu sync.Mutex
	var failed error
	left := 2
	safe := func(err error) {
		mu.Lock()
		failed = errors.Join(failed, err)
		left--
		last := left == 0
		mu.Unlock()
		switch {
		case !last:
		case failed == nil:
			i.Ticket.Done(begun)
			x.wg.Done()
		case i.Ticket.Context().Err() != nil || x.closed.Load():
			i.Ticket.GiveUp(begun)
			x.wg.Done()
		default:
			x.out.Log.Error("answer of a back end could not be written and is written again", "connection", x.connection.Name, "saga", a.Saga, "step", a.Step, "error", failed)
			time.AfterFunc(wait, func() { x.write(i, begun, a, t, min(2*wait, time.Minute)) })
		}
	}
	x.out.Answer(i.Key, a, safe)
	x.out.Tell(t, safe)
}

// action is what follows a failure. It is what the saga does, told beforehand.
func action(r *saga.Request, kind failure.Kind) run.Action {
	switch {
	case !r.Last && (kind.Retryable() || kind == failure.Auth):
		return run.Retry
	case r.Escalates:
		return run.Escalate
	}
	return run.DeadLetter
}

// outputs gives what steps see of an answer: the members of an object, or
// anything else as "value".
func outputs(v canonical.Value) []canonical.Named {
	if !v.Present() || v == "null" {
		return nil
	}
	members, ok := v.Any().(map[string]any)
	if !ok {
		return []canonical.Named{{Name: "value", Value: v}}
	}
	var out []canonical.Named
	for name, m := range members {
		if c, err := (canonical.Type{Kind: canonical.KindJSON}).Coerce(m); err == nil {
			out = append(out, canonical.Named{Name: name, Value: c})
		}
	}
	slices.SortFunc(out, func(a, b canonical.Named) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// detail is a failure in words, without personal data.
func detail(err error, r *saga.Request) string { return shorten(Mask(err.Error(), r)) }

const longestDetail = 500

func shorten(s string) string {
	if len(s) <= longestDetail {
		return s
	}
	return strings.ToValidUTF8(s[:longestDetail-3], "") + "…"
}

// Mask replaces the values of arguments that hold personal data in a text, and
// those in them.
func Mask(text string, r *saga.Request) string {
	var mask func(v any)
	mask = func(v any) {
		switch v := v.(type) {
		case string:
			if len(v) > 1 {
				text = strings.ReplaceAll(text, v, "•••")
			}
			// A connector may have cut the text in the middle of it.
			if cut, ok := strings.CutSuffix(text, "…"); ok {
				for n := len(v) - 1; n > 2; n-- {
					if rest, ok := strings.CutSuffix(cut, v[:n]); ok {
						text = rest + "•••…"
						break
					}
				}
			}
		case []any:
			for _, e := range v {
				mask(e)
			}
		case map[string]any:
			for _, e := range v {
				mask(e)
			}
		case nil, bool:
		default:
			if s := fmt.Sprint(v); len(s) > 3 {
				text = strings.ReplaceAll(text, s, "•••")
			}
		}
	}
	for _, a := range r.Args {
		if slices.Contains(r.Masked, a.Name) {
			mask(a.Value.Any())
		}
	}
	return text
}
