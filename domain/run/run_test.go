package run_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
)

func attempt(n int32, state run.State, at envelope.Instant) *run.Attempt {
	a := &run.Attempt{Saga: "cmd-1", Step: "pause", Attempt: n, Key: "default/customer/C1", Connection: "billing", Operation: "pause", State: state, At: at, Request: fmt.Sprintf("t/0/%d", n)}
	if state == run.Failed {
		a.Kind, a.Detail, a.Action = failure.Transient, "503", run.Retry
	}
	return a
}

func report(status saga.Status, at envelope.Instant) *saga.Report {
	return &saga.Report{Key: "default/customer/C1", At: at, Saga: saga.Saga{ID: "cmd-1", Status: status, Revision: int32(at)}}
}

func text(p *run.Progress) string {
	var b strings.Builder
	for _, r := range p.Runs {
		fmt.Fprintf(&b, "%s %s", r.ID, r.State)
		for _, t := range r.Attempts {
			fmt.Fprintf(&b, " %d(%d-%d)", t.Number, t.Began, t.Ended)
			if f := t.Failure; f != nil {
				fmt.Fprintf(&b, "%s:%s:%s", f.ID, f.Action, f.By)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestRun(t *testing.T) {
	last := attempt(2, run.Failed, 40)
	last.Action = run.DeadLetter
	for _, c := range []struct {
		name string
		in   []any
		want string
	}{
		{"done at once", []any{attempt(1, run.Running, 10), attempt(1, run.Completed, 20)}, "run-1.pause Completed 1(10-20)\n"},
		{"waits, then done", []any{attempt(1, run.Pending, 5), attempt(1, run.Running, 10), attempt(1, run.Completed, 20)}, "run-1.pause Completed 1(10-20)\n"},
		{"under way", []any{attempt(1, run.Running, 10)}, "run-1.pause Running 1(10-0)\n"},
		{"tried again", []any{attempt(1, run.Running, 10), attempt(1, run.Failed, 20), attempt(2, run.Running, 30), attempt(2, run.Completed, 40)},
			"run-1.pause Completed 1(10-20)fail-1.pause.1:Retry:run-1.pause 2(30-40)\n"},
		{"given up, and the command ends", []any{attempt(1, run.Failed, 20), last, report(saga.Failed, 50)},
			"run-1.pause Failed 1(20-20)fail-1.pause.1:Retry:cmd-1 Failed 2(40-40)fail-1.pause.2:DeadLetter:cmd-1 Failed\n"},
		{"tried again by a person", []any{attempt(1, run.Failed, 20), last, attempt(3, run.Running, 60), attempt(3, run.Completed, 70)},
			"run-1.pause Failed 1(20-20)fail-1.pause.1:Retry: 2(40-40)fail-1.pause.2:DeadLetter:\nrun-1.pause.3 Completed 3(60-70)\n"},
		{"an end comes twice, and the second is another", []any{attempt(1, run.Completed, 20), attempt(1, run.Failed, 30)}, "run-1.pause Completed 1(20-20)\n"},
		{"what is older comes late", []any{attempt(2, run.Completed, 20), attempt(1, run.Failed, 30)}, "run-1.pause Completed 1(30-30)fail-1.pause.1:Retry:run-1.pause 2(20-20)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &run.Progress{}
			for _, in := range c.in {
				switch v := in.(type) {
				case *run.Attempt:
					p.Attempted(v)
				case *saga.Report:
					p.Reported(v)
				}
			}
			if got := text(p); got != c.want {
				t.Errorf("got\n%sexpected\n%s", got, c.want)
			}
		})
	}
}

// Whatever comes in whatever order, as often as it likes: states only move on,
// what is resolved stays so, nothing grows for ever, and once the command has
// ended nothing is open. All that happens is told once.
func TestProgressOnlyMovesOn(t *testing.T) {
	rank := map[run.State]int{run.Pending: 0, run.Running: 1, run.Completed: 2, run.Failed: 2}
	rapid.Check(t, func(t *rapid.T) {
		p := &run.Progress{}
		states, resolved := map[string]run.State{}, map[string]string{}
		ended := false
		told := map[string]run.ActivityType{}
		tell := func(events []run.Activity, changed bool) bool {
			for _, e := range events {
				if _, again := told[e.ID]; again || !changed || e.Command != "cmd-1" || e.Key != "default/customer/C1" || e.At == 0 {
					t.Fatalf("%+v is told again, or of nothing", e)
				}
				told[e.ID] = e.Type
			}
			return changed
		}
		for i := range rapid.IntRange(1, 80).Draw(t, "inputs") {
			at := envelope.Instant(i + 1)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				s := rapid.SampledFrom(saga.Statuses()).Draw(t, "status")
				ended = tell(p.Reported(report(s, at))) && s.Final() || ended
			default:
				a := attempt(rapid.Int32Range(1, 40).Draw(t, "attempt"), rapid.SampledFrom(run.States()).Draw(t, "state"), at)
				a.Step = rapid.SampledFrom([]string{"pause", "tell"}).Draw(t, "step")
				a.Undo = rapid.Bool().Draw(t, "undo")
				if a.State == run.Failed {
					a.Action = rapid.SampledFrom([]run.Action{run.Retry, run.DeadLetter, run.Escalate}).Draw(t, "action")
				}
				tell(p.Attempted(a))
				before := text(p)
				if a.State.Final() && tell(p.Attempted(a)) || text(p) != before {
					t.Fatalf("the same again changes\n%sto\n%s", before, text(p))
				}
			}
			if len(p.Timeline) > run.MaxTimeline {
				t.Fatalf("%d moments", len(p.Timeline))
			}
			seen := map[string]bool{}
			for _, r := range p.Runs {
				if seen[r.ID] || len(r.Attempts) > run.MaxAttempts {
					t.Fatalf("run %s twice, or with %d attempts", r.ID, len(r.Attempts))
				}
				seen[r.ID] = true
				if was, ok := states[r.ID]; ok && was != r.State && (was.Final() || rank[was] > rank[r.State]) {
					t.Fatalf("%s goes from %s to %s", r.ID, was, r.State)
				}
				states[r.ID] = r.State
				want := map[run.State]run.ActivityType{run.Completed: run.RunCompleted, run.Failed: run.RunFailed}[r.State]
				if got := told[r.ID+"/"+string(r.State)]; got != want {
					t.Fatalf("%s is %s, which was told as %q", r.ID, r.State, got)
				}
				for n, x := range r.Attempts {
					if n > 0 && x.Number <= r.Attempts[n-1].Number {
						t.Fatalf("attempts out of order: %s", text(p))
					}
					f := x.Failure
					if f == nil {
						continue
					}
					if was := resolved[f.ID]; was != "" && was != f.By || ended && f.By == "" {
						t.Fatalf("%s was resolved by %q and is by %q", f.ID, was, f.By)
					}
					resolved[f.ID] = f.By
					if told[f.ID+"/opened"] != run.FailureOpened || (told[f.ID+"/resolved"] == run.FailureResolved) != (f.By != "") {
						t.Fatalf("%+v is told as %v", f, told)
					}
					if c, ok := run.Command(f.ID); !ok || c != "cmd-1" {
						t.Fatalf("%s belongs to %s", f.ID, c)
					}
				}
			}
		}
	})
}

// The timeline reads like what happened.
func TestTimeline(t *testing.T) {
	p := &run.Progress{}
	say := func(status saga.Status, at envelope.Instant, do, undo saga.Leg) {
		r := report(status, at)
		r.Saga.Steps = []saga.Step{{Name: "pause", Do: do, Undo: undo}}
		p.Reported(r)
	}
	idle := saga.Leg{Phase: saga.Idle}
	say(saga.Queued, 1, idle, idle)
	say(saga.Running, 2, saga.Leg{Phase: saga.Asked, Attempt: 1}, idle)
	say(saga.Running, 3, saga.Leg{Phase: saga.Waiting, Attempt: 1, Kind: failure.Transient}, idle)
	say(saga.Running, 4, saga.Leg{Phase: saga.Asked, Attempt: 2}, idle)
	say(saga.Running, 5, saga.Leg{Phase: saga.Asked, Attempt: 2, Held: true}, idle)
	say(saga.Compensating, 6, saga.Leg{Phase: saga.Done, Attempt: 2}, saga.Leg{Phase: saga.Asked, Attempt: 1})
	say(saga.Failed, 7, saga.Leg{Phase: saga.Done, Attempt: 2}, saga.Leg{Phase: saga.Done, Attempt: 1})
	say(saga.Running, 6, idle, idle) // late
	var got []string
	for _, m := range p.Timeline {
		got = append(got, string(m.Status)+": "+m.Text)
	}
	want := []string{
		"Queued: ", "Running: pause asked", "Running: pause asked failed (Transient), is tried again", "Running: pause asked again, attempt 2",
		"Running: pause waits for its connection", "Compensating: pause asked: done; pause undo", "Failed: pause undo: done",
	}
	if !reflect.DeepEqual(got, want) {
		b, _ := json.MarshalIndent(got, "", " ")
		t.Errorf("%s", b)
	}
}

// What is told names what it is about, what became of it and why.
func TestActivities(t *testing.T) {
	p := &run.Progress{}
	var got []string
	tell := func(events []run.Activity, _ bool) {
		for _, e := range events {
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(b))
		}
	}
	r := report(saga.Running, 10)
	r.Saga.Command, r.Saga.Cause = "Suspend", envelope.Cause{Correlation: "case-7"}
	tell(p.Reported(r))
	tell(p.Attempted(attempt(1, run.Running, 20)))
	tell(p.Attempted(attempt(1, run.Failed, 30)))
	tell(p.Attempted(attempt(2, run.Completed, 40)))
	undo := attempt(1, run.Failed, 50)
	undo.Undo, undo.Kind, undo.Detail, undo.Action = true, failure.Conflict, "409", run.Escalate
	tell(p.Attempted(undo))
	r = report(saga.CompensationFailed, 60)
	r.Saga.Command, r.Saga.Cause = "Suspend", envelope.Cause{Correlation: "case-7"}
	r.Saga.Reason, r.Escalated = &saga.Reason{Step: "tell", Kind: failure.Validation, Detail: "400"}, &saga.Reason{Step: "pause", Kind: failure.Conflict, Detail: "409"}
	tell(p.Reported(r))
	again := *r
	again.Saga.Revision, again.At = 65, 65 // the same status
	tell(p.Reported(&again))
	r = report(saga.Abandoned, 70)
	tell(p.Reported(r))
	const command = `"command":"cmd-1","name":"Suspend","key":"default/customer/C1"`
	const one, two = `"run":"run-1.pause","step":"pause","connection":"billing","operation":"pause","attempt":1`, `"run":"run-1.pause.undo","step":"pause","undo":true,"connection":"billing","operation":"pause","attempt":1`
	const cause = `"cause":{"correlation":"case-7"}}`
	want := []string{
		`{"id":"cmd-1/10","type":"CommandRunning","at":"1970-01-01T00:00:00.00001Z",` + command + `,"status":"Running",` + cause,
		`{"id":"fail-1.pause.1/opened","type":"IntegrationFailureOpened","at":"1970-01-01T00:00:00.00003Z",` + command + `,"status":"Running",` + one + `,"failure":"fail-1.pause.1","kind":"Transient","detail":"503","action":"Retry",` + cause,
		`{"id":"run-1.pause/Completed","type":"IntegrationRunCompleted","at":"1970-01-01T00:00:00.00004Z",` + command + `,"status":"Running",` + strings.Replace(one, `"attempt":1`, `"attempt":2`, 1) + `,` + cause,
		`{"id":"fail-1.pause.1/resolved","type":"IntegrationFailureResolved","at":"1970-01-01T00:00:00.00004Z",` + command + `,"status":"Running",` + one + `,"failure":"fail-1.pause.1","by":"run-1.pause","kind":"Transient","detail":"503","action":"Retry",` + cause,
		`{"id":"fail-1.pause.undo.1/opened","type":"IntegrationFailureOpened","at":"1970-01-01T00:00:00.00005Z",` + command + `,"status":"Running",` + two + `,"failure":"fail-1.pause.undo.1","kind":"Conflict","detail":"409","action":"Escalate","attention":true,` + cause,
		`{"id":"run-1.pause.undo/Failed","type":"IntegrationRunFailed","at":"1970-01-01T00:00:00.00005Z",` + command + `,"status":"Running",` + two + `,"kind":"Conflict","detail":"409","action":"Escalate",` + cause,
		`{"id":"cmd-1/60","type":"CommandCompensationFailed","at":"1970-01-01T00:00:00.00006Z",` + command + `,"status":"CompensationFailed","step":"pause","kind":"Conflict","detail":"409","attention":true,` + cause,
		`{"id":"cmd-1/70","type":"CommandAbandoned","at":"1970-01-01T00:00:00.00007Z","command":"cmd-1","key":"default/customer/C1","status":"Abandoned","cause":{}}`,
		`{"id":"fail-1.pause.undo.1/resolved","type":"IntegrationFailureResolved","at":"1970-01-01T00:00:00.00007Z","command":"cmd-1","key":"default/customer/C1","status":"Abandoned",` + two + `,"failure":"fail-1.pause.undo.1","by":"cmd-1 Abandoned","kind":"Conflict","detail":"409","action":"Escalate","cause":{}}`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
