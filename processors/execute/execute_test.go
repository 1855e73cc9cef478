package execute_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/processors/execute"
)

var errGone = errors.New("gone")

// office is everybody around an executor. It is used in a bubble of synctest,
// whose time runs when everybody waits.
type office struct {
	x       *execute.Executor
	mu      sync.Mutex
	answers map[string][]*saga.Answer // by saga
	told    map[string][]run.State
	tickets map[string]*ticket
	journal []string
	calls   int
	now     int // calls under way
	most    int
	refuse  int // answers that cannot be written
	call    func(ctx context.Context, c connectors.Call) (connectors.Reply, error)
}

func (o *office) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	o.mu.Lock()
	o.calls++
	o.now++
	o.most = max(o.most, o.now)
	call := o.call
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.now--
		o.mu.Unlock()
	}()
	return call(ctx, c)
}

func (o *office) answerWith(call func(context.Context, connectors.Call) (connectors.Reply, error)) {
	o.mu.Lock()
	o.call = call
	o.mu.Unlock()
}

func (o *office) Close() error { return nil }

type ticket struct {
	ctx            context.Context
	begun, durably bool
	done, givenUp  atomic.Int32
	err            error
}

func (t *ticket) Begin(durably bool) error {
	t.begun, t.durably = t.err == nil, durably
	return t.err
}
func (t *ticket) Done(bool)                { t.done.Add(1) }
func (t *ticket) GiveUp(bool)              { t.givenUp.Add(1) }
func (t *ticket) Context() context.Context { return t.ctx }

type journalAll struct{}

func (journalAll) Source() string { return "output" }
func (journalAll) Eval(vars map[string]any) (any, error) {
	return vars["output"], nil
}

func connection(limits definition.Limits) *definition.Connection {
	if limits.Concurrency == 0 {
		limits.Concurrency = 4
	}
	if limits.Failures == 0 {
		limits.Failures, limits.Pause = 5, 10*time.Second
	}
	return &definition.Connection{Name: "billing", Source: "billing", Limits: limits, Operations: []*definition.Operation{
		{Name: "once"}, {Name: "pause", Idempotent: true}, {Name: "tell", Idempotent: true, Journal: journalAll{}},
	}}
}

func open(c *definition.Connection, call func(ctx context.Context, c connectors.Call) (connectors.Reply, error)) *office {
	o := &office{answers: map[string][]*saga.Answer{}, told: map[string][]run.State{}, tickets: map[string]*ticket{}, call: call}
	o.x = execute.New(c, o, execute.Outside{
		Answer: func(key string, a *saga.Answer, done func(error)) {
			o.mu.Lock()
			refused := o.refuse > 0
			if refused {
				o.refuse--
			} else {
				o.answers[a.Saga] = append(o.answers[a.Saga], a)
			}
			o.mu.Unlock()
			if refused {
				done(errors.New("no broker"))
				return
			}
			done(nil)
		},
		Tell: func(a *run.Attempt, done func(error)) {
			o.mu.Lock()
			o.told[a.Saga] = append(o.told[a.Saga], a.State)
			o.mu.Unlock()
			done(nil)
		},
		Journal: func(_ context.Context, c *execute.Call, body canonical.Value) (string, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.journal = append(o.journal, string(body))
			return fmt.Sprintf("d:0:%d", len(o.journal)), nil
		},
		Gone: errGone,
		Log:  slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	o.x.Resume(0)
	return o
}

func (o *office) ask(id, operation string, change func(c *execute.Call)) *ticket {
	t := &ticket{ctx: context.Background()}
	c := &execute.Call{
		Request: &saga.Request{Saga: id, Step: "s", Attempt: 1, Key: id + "/s/do", Kind: definition.Call, Connection: "billing", Operation: operation, Timeout: 30 * time.Second},
		Key:     "default/customer/" + id, Where: "t/0/1", At: envelope.At(time.Now()), Ticket: t,
	}
	if change != nil {
		change(c)
	}
	o.mu.Lock()
	o.tickets[id] = t
	o.mu.Unlock()
	o.x.Take(c)
	return t
}

// last gives the last answer to a saga, and checks that its request is done.
func (o *office) last(t *testing.T, id string) *saga.Answer {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	as := o.answers[id]
	if len(as) == 0 {
		t.Fatalf("%s is not answered", id)
	}
	if n := o.tickets[id].done.Load(); n != 1 && !as[len(as)-1].Held {
		t.Fatalf("the request of %s is done %d times", id, n)
	}
	return as[len(as)-1]
}

func ok(context.Context, connectors.Call) (connectors.Reply, error) {
	return connectors.Reply{Status: 200, Output: `{"id":7,"state":"paused"}`}, nil
}

func TestCalls(t *testing.T) {
	failed := func(kind failure.Kind, change func(*connectors.CallError)) func(context.Context, connectors.Call) (connectors.Reply, error) {
		return func(context.Context, connectors.Call) (connectors.Reply, error) {
			e := &connectors.CallError{Err: failure.New(kind, "call", "billing", "it says no to jane@example.org"), Status: 500}
			if change != nil {
				change(e)
			}
			return connectors.Reply{}, e
		}
	}
	for _, c := range []struct {
		name, operation string
		call            func(context.Context, connectors.Call) (connectors.Reply, error)
		change          func(*execute.Call)
		want            string // the answer
		told            string
		calls           int
		durably         bool
	}{
		{"done", "pause", ok, nil, "id=7 state=\"paused\"", "[Running Completed]", 1, false},
		{"done, journaled", "tell", ok, nil, "id=7 state=\"paused\"", "[Running Completed]", 1, false},
		{"not idempotent", "once", ok, nil, "id=7 state=\"paused\"", "[Running Completed]", 1, true},
		{"no object", "pause", func(context.Context, connectors.Call) (connectors.Reply, error) {
			return connectors.Reply{Output: `[1,2]`}, nil
		}, nil, "value=[1,2]", "[Running Completed]", 1, false},
		{"fails", "pause", failed(failure.Transient, nil), nil, "Transient: call billing: it says no to jane@example.org", "[Running Failed]", 1, false},
		{"masked", "pause", failed(failure.Validation, nil), func(c *execute.Call) {
			c.Request.Args, c.Request.Masked = []canonical.Named{{Name: "email", Value: `"jane@example.org"`}}, []string{"email"}
		}, "Validation: call billing: it says no to •••", "[Running Failed]", 1, false},
		{"uncertain, later", "pause", failed(failure.RateLimited, func(e *connectors.CallError) { e.Uncertain, e.After = true, time.Minute }), nil,
			"RateLimited: call billing: it says no to jane@example.org (uncertain) after 1m0s", "[Running Failed]", 1, false},
		{"panics", "pause", func(context.Context, connectors.Call) (connectors.Reply, error) { panic("oh") }, nil, "Poison: call billing.pause: panic: oh (uncertain)", "[Running Failed]", 1, false},
		{"hangs", "pause", func(ctx context.Context, _ connectors.Call) (connectors.Reply, error) {
			<-ctx.Done()
			return connectors.Reply{}, ctx.Err()
		}, nil, "Transient: call billing.pause: no answer within 30s (uncertain)", "[Running Failed]", 1, false},
		{"unknown operation", "stop", ok, nil, `NotFound: call billing.stop: connection billing has no operation "stop" any more`, "[Failed]", 0, false},
		{"too late", "pause", ok, func(c *execute.Call) { c.At = envelope.At(time.Now().Add(-31 * time.Second)) }, "Transient: call billing.pause: its time was over before it began", "[Failed]", 0, false},
		{"begun before, idempotent", "pause", ok, func(c *execute.Call) { c.Begun = true }, "id=7 state=\"paused\"", "[Running Completed]", 1, false},
		{"an earlier attempt may have done it", "once", ok, func(c *execute.Call) { c.Request.Uncertain = true }, "Conflict: call billing.once: an earlier attempt may have had its effect, and the operation is not declared idempotent: it is not called again (uncertain)", "[Failed]", 0, false},
		{"an earlier attempt of an idempotent one may have", "pause", ok, func(c *execute.Call) { c.Request.Uncertain = true }, "id=7 state=\"paused\"", "[Running Completed]", 1, false},
		{"too much", "pause", func(context.Context, connectors.Call) (connectors.Reply, error) {
			return connectors.Reply{Output: canonical.Value(`"` + strings.Repeat("x", 200<<10) + `"`)}, nil
		}, nil, "Validation: call billing.pause: found 204802 bytes for the steps that follow, expected at most 131072: the operation's output can choose what is needed (uncertain)", "[Running Failed]", 1, false},
		{"cut in the middle of what is masked", "pause", func(context.Context, connectors.Call) (connectors.Reply, error) {
			return connectors.Reply{}, failure.New(failure.Validation, "call", "billing", "nobody has jane@exam…")
		}, func(c *execute.Call) {
			c.Request.Args, c.Request.Masked = []canonical.Named{{Name: "email", Value: `"jane@example.org"`}}, []string{"email"}
		}, "Validation: call billing: nobody has •••…", "[Running Failed]", 1, false},
		{"begun before", "once", ok, func(c *execute.Call) { c.Begun = true }, "Conflict: call billing.once: who made the call died before its outcome was known, and the operation is not declared idempotent (uncertain)", "[Failed]", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := open(connection(definition.Limits{}), c.call)
				ticket := o.ask("cmd-1", c.operation, c.change)
				time.Sleep(time.Minute)
				a := o.last(t, "cmd-1")
				var parts []string
				for _, v := range a.Output {
					parts = append(parts, v.Name+"="+string(v.Value))
				}
				got := strings.Join(parts, " ")
				if a.Kind != "" {
					got = fmt.Sprintf("%s: %s", a.Kind, a.Detail)
				}
				if a.Uncertain {
					got += " (uncertain)"
				}
				if a.After > 0 {
					got += " after " + a.After.String()
				}
				if got != c.want {
					t.Errorf("answered %q, expected %q", got, c.want)
				}
				if told := fmt.Sprint(o.told["cmd-1"]); told != c.told || o.calls != c.calls || ticket.durably != c.durably {
					t.Errorf("told %s, %d calls, durably %v", told, o.calls, ticket.durably)
				}
				if (c.operation == "tell") != (len(o.journal) == 1) {
					t.Errorf("journaled: %q", o.journal)
				}
				o.x.Close()
			})
		})
	}
}

// No more calls are under way than the connection may bear, in parts if there are
// several processes; and no more are begun in a second.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{Concurrency: 8, Rate: 20, Failures: 5, Pause: time.Second}), func(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
			time.Sleep(time.Second)
			return connectors.Reply{}, nil
		})
		o.x.Share(0.5)
		began := time.Now()
		for i := range 60 {
			o.ask(fmt.Sprint("cmd-", i), "pause", nil)
		}
		for o.done() < 60 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < 14*time.Second || took > 17*time.Second {
			t.Errorf("60 calls of a second each, 4 at a time, took %s", took) // 4/s
		}
		if o.most != 4 {
			t.Errorf("%d calls were under way at a time, expected half of 8", o.most)
		}
		o.x.Share(1)
		o.answerWith(ok)
		began = time.Now()
		for i := range 100 {
			o.ask(fmt.Sprint("cmd-2-", i), "pause", nil)
		}
		for o.done() < 160 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < 4700*time.Millisecond || took > 5500*time.Millisecond {
			t.Errorf("100 calls at 20 in a second took %s", took)
		}
		o.x.Close()
	})
}

func (o *office) done() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.tickets {
		n += int(t.done.Load())
	}
	return n
}

// Before it is known whether a connection is paused, nothing is called and nobody
// is told to wait.
func TestNotKnownYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		o.x.Close()
		x := execute.New(connection(definition.Limits{}), o, execute.Outside{Answer: func(string, *saga.Answer, func(error)) { t.Error("answered") }, Log: slog.New(slog.DiscardHandler)})
		x.Take(&execute.Call{Request: &saga.Request{Saga: "cmd-1", Step: "s", Attempt: 1, Operation: "pause", Timeout: time.Second}, At: envelope.At(time.Now()), Ticket: &ticket{ctx: context.Background()}})
		time.Sleep(time.Minute)
		synctest.Wait()
		if o.calls > 0 {
			t.Errorf("%d calls", o.calls)
		}
		x.Close()
	})
}

// A partition goes and comes back while a connection is paused. A call that is
// withdrawn then is not made, though its request is there twice.
func TestWithdrawnAfterReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		o.x.Pause()
		lost, cancel := context.WithCancel(context.Background())
		first := o.ask("cmd-1", "pause", func(c *execute.Call) { c.Ticket.(*ticket).ctx = lost })
		cancel()
		o.ask("cmd-1", "pause", nil)
		o.x.Take(&execute.Call{Request: &saga.Request{Saga: "cmd-1", Step: "s", Attempt: 1, Connection: "billing", Withdrawn: true}, Ticket: &ticket{ctx: context.Background()}})
		o.x.Resume(0)
		if a := o.last(t, "cmd-1"); a.Kind != failure.Conflict || o.calls > 0 || first.givenUp.Load() != 1 {
			t.Errorf("%+v, %d calls", a, o.calls)
		}
		o.x.Close()
	})
}

// A back end is down for a minute while ten thousand sagas want something of it.
// Each is told once that it waits, each is called, and there is hardly a call in
// vain.
func TestBackEndIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		end := time.Now().Add(time.Minute)
		o := open(connection(definition.Limits{Concurrency: 16, Failures: 5, Pause: 5 * time.Second}), func(context.Context, connectors.Call) (connectors.Reply, error) {
			time.Sleep(5 * time.Millisecond)
			if time.Now().Before(end) {
				return connectors.Reply{}, failure.New(failure.Transient, "call", "billing", "connection refused")
			}
			return connectors.Reply{}, nil
		})
		for i := range n {
			o.ask(fmt.Sprint("cmd-", i), "pause", nil)
		}
		retry := map[string]int{}
		for {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			again := []string{}
			o.mu.Lock()
			good := 0
			for id, as := range o.answers {
				switch a := as[len(as)-1]; {
				case a.Kind == failure.Transient && o.tickets[id].done.Load() == 1:
					again = append(again, id) // as the saga would, after a while
				case a.Kind == "" && !a.Held:
					good++
				}
			}
			o.mu.Unlock()
			for _, id := range again {
				retry[id]++
				o.ask(id, "pause", func(c *execute.Call) { c.Request.Attempt += int32(retry[id]) })
				o.mu.Lock()
				o.answers[id] = []*saga.Answer{{Held: true}}
				o.mu.Unlock()
			}
			if good == n {
				break
			}
			if time.Now().After(end.Add(time.Minute)) {
				t.Fatalf("%d are done a minute after the back end came back", good)
			}
		}
		if float64(o.calls) > 1.2*n {
			t.Errorf("%d calls for %d that were needed", o.calls, n)
		}
		t.Logf("%d calls for %d that were needed; done %s after the back end came back", o.calls, n, time.Since(end).Round(time.Second))
		for id, as := range o.answers {
			held := 0
			for _, a := range as {
				if a.Held {
					held++
				}
			}
			if held > 1 {
				t.Fatalf("%s was told %d times that it waits", id, held)
			}
		}
		o.x.Close()
	})
}

// A back end that wants to be left alone is, and everybody who waits is told.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		var at []time.Duration
		began := time.Now()
		o := open(connection(definition.Limits{Concurrency: 1}), func(context.Context, connectors.Call) (connectors.Reply, error) {
			at = append(at, time.Since(began))
			if first {
				first = false
				return connectors.Reply{}, &connectors.CallError{Err: failure.New(failure.RateLimited, "call", "billing", "429"), After: 20 * time.Second}
			}
			return connectors.Reply{}, nil
		})
		for i := range 3 {
			o.ask(fmt.Sprint("cmd-", i), "pause", nil)
		}
		time.Sleep(time.Second)
		if a := o.last(t, "cmd-2"); !a.Held {
			t.Errorf("%+v, expected to be held", a)
		}
		time.Sleep(25 * time.Second)
		if a := o.last(t, "cmd-2"); a.Held || len(at) != 3 || at[1] != 20*time.Second {
			t.Errorf("%+v, called at %v", a, at)
		}
		o.x.Close()
	})
}

// Pausing holds what waits, however long; resuming has it called. What is
// withdrawn meanwhile is not.
func TestPauseAndWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		o.x.Pause()
		a, b := o.ask("cmd-1", "pause", nil), o.ask("cmd-2", "pause", nil)
		time.Sleep(time.Hour)
		if !o.last(t, "cmd-1").Held || o.calls > 0 || o.x.Stats().State != "paused" || o.x.Stats().Queued != 2 {
			t.Fatalf("%+v", o.x.Stats())
		}
		w := &ticket{ctx: context.Background()}
		o.x.Take(&execute.Call{Request: &saga.Request{Saga: "cmd-1", Step: "s", Attempt: 1, Connection: "billing", Withdrawn: true}, Ticket: w})
		if x := o.last(t, "cmd-1"); x.Kind != failure.Conflict || x.Uncertain || w.done.Load() != 1 {
			t.Errorf("withdrawn: %+v", x)
		}
		o.x.Resume(0)
		if x := o.last(t, "cmd-2"); x.Held || x.Kind != "" || o.calls != 1 || a.done.Load() != 1 || b.done.Load() != 1 {
			t.Errorf("resumed: %+v, %d calls", x, o.calls)
		}
		o.x.Close()
	})
}

// Those that waited while a connection was paused come by and by, if that is
// wanted; those behind them as fast as ever.
func TestDrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		o.x.Pause()
		for i := range 100 {
			o.ask(fmt.Sprint("cmd-", i), "pause", nil)
		}
		o.x.Resume(10)
		began := time.Now()
		for o.done() < 100 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took < 9500*time.Millisecond || took > 10500*time.Millisecond {
			t.Errorf("100 calls at 10 in a second took %s", took)
		}
		for i := range 100 {
			o.ask(fmt.Sprint("cmd-2-", i), "pause", nil)
		}
		synctest.Wait()
		if n := o.done(); n != 200 {
			t.Errorf("%d are done at once", n-100)
		}
		o.x.Close()
	})
}

// An answer that cannot be written is written again: the saga hears of it, and the
// call is not made again for that.
func TestAnswerIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		o.refuse = 3
		ticket := o.ask("cmd-1", "pause", nil)
		time.Sleep(time.Second)
		if ticket.done.Load() != 0 {
			t.Error("done with before the answer is safe")
		}
		time.Sleep(time.Minute)
		if a := o.last(t, "cmd-1"); a.Kind != "" || o.calls != 1 {
			t.Errorf("%+v, %d calls", a, o.calls)
		}
		o.x.Close()
	})
}

// With ordered, calls about one entity do not overlap, and others go past them.
func TestOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := map[string]int{}
		var o *office
		o = open(connection(definition.Limits{Concurrency: 4, Ordered: true}), func(_ context.Context, c connectors.Call) (connectors.Reply, error) {
			entity := c.Args["entity"].(string)
			o.mu.Lock()
			if under[entity]++; under[entity] > 1 {
				t.Errorf("two calls about %s at a time", entity)
			}
			o.mu.Unlock()
			time.Sleep(time.Second)
			o.mu.Lock()
			under[entity]--
			o.mu.Unlock()
			return connectors.Reply{}, nil
		})
		began := time.Now()
		for i := range 12 {
			entity := fmt.Sprint("C", i/6)
			o.ask(fmt.Sprint("cmd-", i), "pause", func(c *execute.Call) {
				c.Key = entity
				c.Request.Args = []canonical.Named{{Name: "entity", Value: canonical.String(entity)}}
			})
		}
		time.Sleep(5500 * time.Millisecond)
		synctest.Wait()
		if o.done() != 10 || o.most != 2 {
			t.Errorf("%d are done after %s, %d at a time", o.done(), time.Since(began), o.most)
		}
		time.Sleep(10 * time.Second)
		o.x.Close()
	})
}

// What belongs to somebody else by now is left to them.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(connection(definition.Limits{}), ok)
		x := o.ask("cmd-1", "pause", func(c *execute.Call) { c.Ticket.(*ticket).err = errGone })
		synctest.Wait()
		if x.givenUp.Load() != 1 || x.done.Load() != 0 || o.calls != 0 || len(o.answers) > 0 {
			t.Errorf("%d calls", o.calls)
		}
		// A call whose time ends with its partition is not answered here.
		ctx, cancel := context.WithCancel(context.Background())
		o.answerWith(func(ctx context.Context, _ connectors.Call) (connectors.Reply, error) {
			<-ctx.Done()
			return connectors.Reply{}, ctx.Err()
		})
		y := o.ask("cmd-2", "pause", func(c *execute.Call) { c.Ticket.(*ticket).ctx = ctx })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if y.givenUp.Load() != 1 || y.done.Load() != 0 || len(o.answers) > 0 {
			t.Errorf("answers %v", o.answers)
		}
		o.x.Close()
	})
}
