package saga

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// TestMain has properties checked on 10,500 cases each unless told otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	holdFor = 250 * time.Millisecond // so that histories have calls that are held longer
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "rapid.checks" })
	if !told {
		if err := flag.Set("rapid.checks", "10500"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// when is a condition: that a step was done, or a constant.
type when struct {
	Step         string
	Const, Fails bool
}

func (w when) Source() string { return fmt.Sprintf("%+v", struct{ when }{w}) }
func (w when) Holds(vars map[string]any) (bool, error) {
	if w.Fails {
		return false, failure.New(failure.Validation, "condition", "", "cannot be evaluated")
	}
	if w.Step != "" {
		_, done := vars["steps"].(map[string]any)[w.Step]
		return done, nil
	}
	return w.Const, nil
}

// good is the condition that the canonical state agrees.
type good struct{}

func (good) Source() string { return `entity.state == "good"` }
func (good) Holds(vars map[string]any) (bool, error) {
	return vars["entity"].(map[string]any)["state"] == "good", nil
}

// draw makes up a plan and what happens to it. Every time gets an offset of its
// own, so that seldom two things happen at the same microsecond.
func draw(t *rapid.T) *story {
	offset := time.Duration(0)
	span := func(label string, lo, hi int) time.Duration {
		offset += 7 * time.Microsecond
		return time.Duration(rapid.IntRange(lo, hi).Draw(t, label))*time.Millisecond + offset
	}
	plan := &definition.Command{Name: "Test", Deadline: span("deadline", 1, 3000)}
	if rapid.Bool().Draw(t, "no deadline") {
		plan.Deadline = time.Hour
	}
	s := &story{Plan: plan, Fates: map[string]*fate{}, Cancel: never}
	if rapid.Bool().Draw(t, "confirm") {
		plan.Confirm = definition.Confirmation{If: good{}, Within: span("within", 1, 1000)}
	}
	retry := func(label string) definition.Retry {
		return definition.Retry{
			Attempts: rapid.IntRange(1, 4).Draw(t, label+" attempts"),
			First:    time.Duration(rapid.IntRange(1, 50).Draw(t, label+" first")) * time.Millisecond,
			Max:      time.Duration(rapid.IntRange(1, 200).Draw(t, label+" max")) * time.Millisecond,
		}
	}
	answers := func(label string, timeout time.Duration, retry definition.Retry) []answer {
		var out []answer
		for range retry.Attempts + 2 {
			a := answer{}
			switch rapid.IntRange(0, 9).Draw(t, label) {
			case 0:
				a.Kind, a.Uncertain = failure.Transient, rapid.Bool().Draw(t, "uncertain")
			case 1:
				a.Kind, a.Pause = failure.RateLimited, span("pause", 0, 300)
			case 2:
				a.Kind = failure.Auth
			case 3:
				a.Kind = rapid.SampledFrom([]failure.Kind{failure.Validation, failure.Poison, failure.Conflict, failure.NotFound}).Draw(t, "kind")
			case 4:
				a.Silent = true
			case 5:
				a.Silent, a.After = true, timeout+span("late", 1, 1000)
			}
			if !a.Silent {
				a.After = span("reply", 0, int(timeout/time.Millisecond)-1)
				if rapid.IntRange(0, 9).Draw(t, "held") == 0 {
					a.Held = a.After
					longest := 1000
					if len(out) > retry.Attempts { // what goes on for ever must not be held for ever
						longest = 200
					}
					a.After += span("hold", 1, longest)
				}
			}
			if a.Held > 0 && len(out) < retry.Attempts+1 && rapid.IntRange(0, 2).Draw(t, "gone") == 0 {
				a.Gone = a.Held + span("gone", 1, 500)
			}
			out = append(out, a)
		}
		return out
	}
	final := false
	var names []string
	for i := range rapid.IntRange(0, 4).Draw(t, "stages") {
		var stage []*definition.Step
		width := rapid.IntRange(1, 3).Draw(t, "steps")
		makeFinal := !final && rapid.IntRange(0, 4).Draw(t, "final") == 0
		if makeFinal {
			width = 1
		}
		for j := range width {
			p := &definition.Step{
				Name: fmt.Sprintf("s%d-%d", i, j), Operation: "do", Final: makeFinal,
				Kind:    rapid.SampledFrom([]definition.StepKind{definition.Call, definition.Call, definition.Child, definition.Approve}).Draw(t, "kind"),
				Timeout: span("timeout", 20, 500), Retry: retry("do"),
			}
			f := &fate{Do: answers("do", p.Timeout, p.Retry), Refused: rapid.IntRange(0, 3).Draw(t, "refused") == 0}
			if p.Kind == definition.Approve { // a person answers in time or not at all
				p.Retry.Attempts = 1
				for k := range f.Do {
					f.Do[k] = answer{Silent: f.Do[k].Silent, After: min(f.Do[k].After, p.Timeout-time.Duration(i*3+j+k*16+1)*time.Microsecond)}
				}
			} else if !final && !makeFinal && rapid.IntRange(0, 4).Draw(t, "undo") > 0 {
				p.Undo = &definition.Undo{Operation: "undo", Timeout: span("undo timeout", 20, 500), Retry: retry("undo")}
				f.Undo = answers("undo", p.Undo.Timeout, p.Undo.Retry)
			}
			switch w := rapid.IntRange(0, 19).Draw(t, "when"); {
			case w == 0:
				p.When = when{Const: false}
			case w == 1:
				p.When = when{Fails: true}
			case w < 6 && len(names) > 0:
				p.When = when{Step: rapid.SampledFrom(names).Draw(t, "needs")}
			}
			s.Fates[p.Name] = f
			stage = append(stage, p)
		}
		for _, p := range stage {
			names = append(names, p.Name)
		}
		final = final || makeFinal
		plan.Stages = append(plan.Stages, stage)
	}
	if rapid.IntRange(0, 3).Draw(t, "cancel") == 0 {
		s.Cancel = after(start, span("cancelled", 0, 2000))
	}
	at := start
	for range rapid.IntRange(0, 4).Draw(t, "changes") {
		at = after(at, span("change", 0, 1000))
		s.Changes = append(s.Changes, change{at, rapid.Bool().Draw(t, "good")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "retries") {
		s.Retries = append(s.Retries, span("retry", 0, 1500))
	}
	s.Lost = rapid.IntRange(0, 3).Draw(t, "withdrawals are lost") == 0
	if rapid.IntRange(0, 2).Draw(t, "abandon") == 0 {
		s.Abandon = span("abandoned", 1, 1500)
	}
	return s
}

const start = envelope.Instant(1_000_000_000)

// world is everybody whom a saga has to do with.
type world struct {
	*story
	t      *rapid.T
	saga   *Saga
	timers map[Timer]envelope.Instant
	coming []arrival
	order  int
	now    envelope.Instant
	keys   map[string]string // what a key was used for
	// tie: two things happened at the same time. The model does not say which
	// comes first.
	tie bool
	verdict
}

// arrival is an input on its way.
type arrival struct {
	at    envelope.Instant
	order int
	in    Input
}

func (w *world) send(at envelope.Instant, in Input) {
	w.order++
	w.coming = append(w.coming, arrival{at, w.order, in})
}

// perform does what the saga wants.
func (w *world) perform(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Set:
			w.timers[e.Timer] = e.Due
		case Clear:
			delete(w.timers, e.Timer)
		case Call:
			w.Asked = append(w.Asked, asked{w.now, e.Step, e.Undo, int(e.Attempt)})
			of := fmt.Sprint(e.Step, e.Undo, e.Operation, e.Args)
			if was, used := w.keys[e.Key]; used && was != of {
				w.t.Fatalf("key %s is used for %s and for %s", e.Key, was, of)
			}
			w.keys[e.Key] = of
			w.answer(e)
		case Refresh:
			w.Refreshes++
		case Escalate:
			w.verdict.Escalate++
			w.tryAgain()
		case Withdraw:
			w.coming = slices.DeleteFunc(w.coming, func(a arrival) bool {
				d, ok := a.in.(Decision)
				return ok && d.Step == e.Step
			})
			if w.Lost {
				w.coming = slices.DeleteFunc(w.coming, func(a arrival) bool {
					r, ok := a.in.(Reply)
					return ok && r.Step == e.Step && r.Undo == e.Undo && r.Attempt == e.Attempt && !r.Held
				})
			}
			for i, a := range w.coming {
				if r, ok := a.in.(Reply); ok && r.Step == e.Step && r.Undo == e.Undo && r.Attempt == e.Attempt && !r.Held {
					w.coming[i] = arrival{after(w.now, withdrawal), a.order, Reply{Step: e.Step, Undo: e.Undo, Attempt: e.Attempt, Kind: failure.Conflict, Unbegun: true, Detail: "withdrawn"}}
				}
			}
		}
	}
}

// tryAgain is somebody who tries again after a while.
func (w *world) tryAgain() {
	if len(w.Retries) > 0 {
		w.send(after(w.now, w.Retries[0]), Retry{By: "somebody"})
		w.Retries = w.Retries[1:]
	} else if w.Abandon > 0 {
		w.send(after(w.now, w.Abandon), Abandon{By: "somebody"})
	}
}

func (w *world) answer(c Call) {
	f := w.Fates[c.Step]
	a := f.answer(c.Undo, int(c.Attempt))
	if c.Kind == definition.Approve {
		if !a.Silent {
			w.send(after(w.now, a.After), Decision{Step: c.Step, Approved: !f.Refused, By: "somebody"})
		}
		return
	}
	r := Reply{Step: c.Step, Undo: c.Undo, Attempt: c.Attempt, Kind: a.Kind, Uncertain: a.Uncertain, After: a.Pause, Detail: string(a.Kind)}
	if a.Silent && a.After == 0 {
		return
	}
	if a.Held > 0 {
		w.send(after(w.now, a.Held), Reply{Step: c.Step, Undo: c.Undo, Attempt: c.Attempt, Held: true})
	}
	if a.Gone > 0 {
		w.send(after(w.now, a.Gone), Reply{Step: c.Step, Undo: c.Undo, Attempt: c.Attempt, Kind: failure.Transient, Unbegun: true})
		return
	}
	if r.Kind == "" {
		r.Output = []canonical.Named{{Name: "at", Value: canonical.Int(int64(w.now))}}
	}
	w.send(after(w.now, a.After), r)
}

// live has everything happen, in the order of its time, some of it twice, and
// with crashes in between.
func (w *world) live() {
	w.now = start
	w.saga = New(w.Plan, "plan", "cmd-1", nil, start)
	w.perform(w.saga.Begin(w.Plan, Entity{Resource: "customer", ID: "c1", State: "bad"}, start))
	for i, c := range w.Changes {
		e := Entity{Resource: "customer", ID: "c1", Version: int64(i + 1), State: "bad"}
		if c.Good {
			e.State = "good"
		}
		w.send(c.At, Changed{e})
	}
	if w.Cancel < never {
		w.send(w.Cancel, Cancel{By: "somebody"})
	}
	for steps := 0; ; steps++ {
		if steps > 10_000 {
			w.t.Fatal("no end")
		}
		in, ok := w.nextInput()
		if !ok {
			return
		}
		if rapid.IntRange(0, 4).Draw(w.t, "crash") == 0 {
			w.restart()
		}
		before, _ := json.Marshal(w.saga)
		was := w.saga.Status
		effects := w.saga.Take(w.Plan, in, w.now)
		w.perform(effects)
		for _, s := range w.saga.Steps {
			for _, undo := range []bool{false, true} {
				leg := s.leg(undo)
				_, limited := w.timers[Timer{Attempt, s.Name, undo, leg.Attempt}]
				_, held := w.timers[Timer{Recall, s.Name, undo, leg.Attempt}]
				if limited != (leg.Phase == Asked && !leg.Held) || held != leg.Held || held && leg.Phase != Asked {
					w.t.Fatalf("after %+v step %s is %+v; its time runs: %v, that of being held: %v", in, s.Name, *leg, limited, held)
				}
			}
		}
		if was.Final() {
			if now, _ := json.Marshal(w.saga); len(effects) > 0 || string(now) != string(before) {
				w.t.Fatalf("%s is final, but %+v changed it to %s with %v", before, in, now, effects)
			}
		}
		if w.saga.Status.Final() && len(w.timers) > 0 {
			w.t.Fatalf("%s with timers %v", w.saga.Status, w.timers)
		}
	}
}

// nextInput gives what happens next: something that arrives, or a timer.
func (w *world) nextInput() (Input, bool) {
	var due Timer
	at := never
	for t, d := range w.timers {
		if d < at {
			due, at = t, d
		}
	}
	same := map[envelope.Instant]int{}
	for _, d := range w.timers {
		same[d]++
	}
	for _, a := range w.coming {
		same[a.at]++
	}
	for t, n := range same {
		w.tie = w.tie || n > 1 && t < never
	}
	if len(w.coming) > 0 {
		i := 0
		for k := range w.coming {
			if cmp.Or(cmp.Compare(w.coming[k].at, w.coming[i].at), cmp.Compare(w.coming[k].order, w.coming[i].order)) < 0 {
				i = k
			}
		}
		if a := w.coming[i]; a.at <= at {
			w.coming = slices.Delete(w.coming, i, i+1)
			w.now = a.at
			w.twice(a.in)
			return a.in, true
		}
	}
	if at == never {
		return nil, false
	}
	w.now = at
	delete(w.timers, due)
	w.twice(Fired{due})
	return Fired{due}, true
}

// twice has some inputs come again later; what that could change is left out:
// another wish to try again is a new wish.
func (w *world) twice(in Input) {
	switch in := in.(type) {
	case Retry, Cancel, Abandon:
		return
	case Reply:
		if in.Held {
			return
		}
	case Decision:
		if w.saga.step(in.Step).Do.Attempt > 0 {
			return // the next attempt would take it for its own
		}
	}
	if rapid.IntRange(0, 5).Draw(w.t, "twice") == 0 {
		w.send(after(w.now, time.Duration(rapid.IntRange(0, 1000).Draw(w.t, "again after"))*time.Millisecond+3*time.Microsecond), in)
	}
}

// restart is a crash: what is kept is all that is left.
func (w *world) restart() {
	b, err := json.Marshal(w.saga)
	if err != nil {
		w.t.Fatal(err)
	}
	back := &Saga{}
	if err := json.Unmarshal(b, back); err != nil {
		w.t.Fatal(err)
	}
	if again, _ := json.Marshal(back); string(again) != string(b) {
		w.t.Fatalf("%s is read back as %s", b, again)
	}
	w.saga = back
}

// Whatever happens, and in whatever order, twice or too late: a saga comes to
// the end that the model foretells, by the same attempts at the same times.
func TestSagaDoesWhatTheModelSays(t *testing.T) {
	seen := map[Status]int{}
	ties, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		all++
		s := draw(t)
		if err := s.Plan.Check(); err != nil {
			t.Fatal(err)
		}
		want := s.foretell("cmd-1", start)
		w := &world{story: &story{}, t: t, timers: map[Timer]envelope.Instant{}, keys: map[string]string{}}
		*w.story = *s
		w.live()
		if w.tie {
			ties++
			return
		}
		got := w.verdict
		got.Status, got.At = w.saga.Status, w.saga.Ended
		slices.SortStableFunc(got.Asked, func(a, b asked) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Step, b.Step)) })
		slices.SortStableFunc(want.Asked, func(a, b asked) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Step, b.Step)) })
		if !reflect.DeepEqual(got, want) {
			b, _ := json.MarshalIndent(w.saga, "", " ")
			t.Fatalf("got  %+v\nwant %+v\n%s", got, want, b)
		}
		if (w.saga.Reason == nil) != (got.Status == Completed) {
			t.Fatalf("%s for the reason %+v", got.Status, w.saga.Reason)
		}
		seen[got.Status]++
	})
	t.Logf("%d histories, %d of them with a tie, ended %v", all, ties, seen)
	if ties > all/20 {
		t.Errorf("%d of %d histories have a tie: the test tests too little", ties, all)
	}
	if !t.Failed() {
		for _, s := range []Status{Completed, Unconfirmed, Failed, Cancelled, Abandoned, Stuck, CompensationFailed} {
			if seen[s] == 0 {
				t.Errorf("no history ended as %s: the test tests too little", s)
			}
		}
	}
}

// Timers of a round that is over do nothing, however late they come.
func TestOldTimersDoNothing(t *testing.T) {
	plan := &definition.Command{
		Name: "Test", Deadline: time.Second, Confirm: definition.Confirmation{If: good{}, Within: time.Second},
		Stages: [][]*definition.Step{
			{{Name: "a", Kind: definition.Call, Final: true, Timeout: time.Second, Retry: definition.Retry{Attempts: 1}}},
			{{Name: "b", Kind: definition.Call, Timeout: time.Second, Retry: definition.Retry{Attempts: 1}}},
		},
	}
	s := New(plan, "plan", "cmd-1", nil, start)
	s.Begin(plan, Entity{}, start)
	take := func(in Input, want Status) []Effect {
		t.Helper()
		effects := s.Take(plan, in, start)
		if s.Status != want {
			t.Fatalf("after %+v: %s, expected %s", in, s.Status, want)
		}
		return effects
	}
	take(Reply{Step: "a", Attempt: 1}, Running)
	take(Reply{Step: "b", Attempt: 1, Kind: failure.Validation}, Stuck)
	take(Retry{By: "somebody"}, Running)
	take(Fired{Timer{Purpose: Deadline, Attempt: 1}}, Running)
	if s.Stopping {
		t.Error("the deadline of the first round stops the second")
	}
	take(Reply{Step: "b", Attempt: 2}, Confirming)
	take(Fired{Timer{Purpose: Confirm, Attempt: 1}}, Confirming)
	take(Fired{Timer{Purpose: Confirm, Attempt: 2}}, Refreshing)
	take(Retry{By: "somebody"}, Refreshing)
	take(Abandon{By: "somebody"}, Refreshing)
	take(Fired{Timer{Purpose: Confirm, Attempt: 2}}, Refreshing)
	take(Changed{Entity{Version: 1, State: "good"}}, Completed)
	if e := take(Cancel{By: "somebody"}, Completed); len(e) > 0 {
		t.Errorf("%v after the end", e)
	}
}

// An attempt is told that one before it may have had its effect, until a person
// has looked and asks for another.
func TestAttemptsKnowOfUncertainOnes(t *testing.T) {
	retry := definition.Retry{Attempts: 2, First: time.Millisecond}
	plan := &definition.Command{
		Name: "Test", Deadline: time.Hour, Confirm: definition.Confirmation{If: good{}, Within: time.Second},
		Stages: [][]*definition.Step{
			{{Name: "a", Kind: definition.Call, Timeout: time.Second, Retry: retry, Undo: &definition.Undo{Operation: "u", Timeout: time.Second, Retry: retry}}},
			{{Name: "b", Kind: definition.Call, Timeout: time.Second, Retry: retry}},
		},
	}
	s := New(plan, "plan", "cmd-1", nil, start)
	s.Begin(plan, Entity{}, start)
	take := func(in Input, want ...Call) {
		t.Helper()
		var calls []Call
		for _, e := range s.Take(plan, in, start) {
			if c, ok := e.(Call); ok {
				calls = append(calls, Call{Step: c.Step, Undo: c.Undo, Attempt: c.Attempt, Uncertain: c.Uncertain})
			}
		}
		if !reflect.DeepEqual(calls, want) {
			t.Fatalf("after %+v the calls are %+v, expected %+v", in, calls, want)
		}
	}
	take(Reply{Step: "a", Attempt: 1, Kind: failure.Transient})
	take(Fired{Timer{Again, "a", false, 1}}, Call{Step: "a", Attempt: 2})
	take(Reply{Step: "a", Attempt: 2}, Call{Step: "b", Attempt: 1})
	take(Fired{Timer{Attempt, "b", false, 1}})
	take(Fired{Timer{Again, "b", false, 1}}, Call{Step: "b", Attempt: 2, Uncertain: true})
	take(Reply{Step: "b", Attempt: 2, Kind: failure.Conflict}, Call{Step: "a", Undo: true, Attempt: 1})
	take(Reply{Step: "a", Undo: true, Attempt: 1, Kind: failure.Transient, Uncertain: true})
	take(Fired{Timer{Again, "a", true, 1}}, Call{Step: "a", Undo: true, Attempt: 2, Uncertain: true})
	take(Reply{Step: "a", Undo: true, Attempt: 2, Kind: failure.Conflict})
	take(Retry{By: "somebody"}, Call{Step: "a", Undo: true, Attempt: 3})
}

func TestTimerNames(t *testing.T) {
	for _, timer := range []Timer{{Purpose: Deadline, Attempt: 1}, {Purpose: Confirm, Attempt: 12}, {Attempt, "pause-billing", false, 3}, {Again, "s", true, 1}, {Purpose: Question, Attempt: 1}} {
		if back, err := ParseTimer(timer.String()); err != nil || back != timer {
			t.Errorf("%+v is written as %s and read as %+v, %v", timer, timer, back, err)
		}
	}
	for _, s := range []string{"", "deadline", "deadline/0", "deadline/01", "deadline/1/do/1", "attempt/1", "attempt/s/do/-1", "attempt/s/did/1", "again//do/1", "again/s/undo/1/1", "confirm/99999999999999999999"} {
		if timer, err := ParseTimer(s); err == nil {
			t.Errorf("%q is read as %+v, expected an error", s, timer)
		}
	}
}

func FuzzParseTimer(f *testing.F) {
	f.Add("attempt/s/do/1")
	f.Fuzz(func(t *testing.T, s string) {
		if timer, err := ParseTimer(s); err == nil && timer.String() != s {
			t.Errorf("%q is read as %+v and written as %q", s, timer, timer)
		}
	})
}

// A wait is between half of what is declared and all of it, doubles, and never
// is longer than the longest.
func TestWaitsBetweenAttempts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := definition.Retry{First: time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "first")), Max: time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "max"))}
		attempt := rapid.IntRange(1, 70).Draw(t, "attempt")
		m := machine{Saga: &Saga{ID: rapid.StringN(1, 8, -1).Draw(t, "id")}}
		got := m.wait(r, "s", false, int32(attempt))
		full := float64(r.First)
		for range attempt - 1 {
			full *= 2
		}
		full = min(full, float64(max(r.First, r.Max)))
		if g := float64(got); g < full/2-1 || g > full {
			t.Fatalf("%v after attempt %d of %+v, expected %v to %v", got, attempt, r, time.Duration(full/2), time.Duration(full))
		}
		if again := m.wait(r, "s", false, int32(attempt)); again != got {
			t.Fatalf("%v and then %v", got, again)
		}
	})
}
