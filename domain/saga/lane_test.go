package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// lanePlans are commands that differ in their policy for conflicts, and in
// whether they are confirmed.
func lanePlans() map[string]*definition.Command {
	plans := map[string]*definition.Command{}
	for _, policy := range definition.Conflicts() {
		for _, confirmed := range []bool{false, true} {
			name := string(policy)
			p := &definition.Command{Name: name, Conflict: policy, Deadline: 700 * time.Millisecond, Stages: [][]*definition.Step{
				{{Name: "a", Kind: definition.Call, Timeout: 90 * time.Millisecond, Retry: definition.Retry{Attempts: 2, First: 20 * time.Millisecond},
					Undo: &definition.Undo{Timeout: 80 * time.Millisecond, Retry: definition.Retry{Attempts: 2, First: 30 * time.Millisecond}}}},
				{{Name: "b", Kind: definition.Call, Timeout: 110 * time.Millisecond, Retry: definition.Retry{Attempts: 1}}},
			}}
			if confirmed {
				p.Name += " confirmed"
				p.Confirm = definition.Confirmation{If: good{}, Within: 200 * time.Millisecond}
			}
			plans[p.Name] = p
		}
	}
	return plans
}

// street is a lane with everybody around it.
type street struct {
	t       *rapid.T
	lane    *Lane
	plans   map[string]*definition.Command
	now     envelope.Instant
	version int64
	calls   []Addressed // not answered yet
	asked   int
	status  map[string]Status // as last told
	sent    []string          // ids in the order of their submission
	begun   []string
}

func (x *street) known(command, fingerprint string) (*definition.Command, bool) {
	p, ok := x.plans[command]
	return p, ok && fingerprint == "plan"
}

// turn checks what must hold after every input.
func (x *street) turn(what string, turn Turn, err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatalf("%s: %v", what, err)
	}
	if turn.Ask {
		x.asked++
	}
	x.calls = append(x.calls, turn.Effects...)
	for _, s := range turn.Changed {
		was, told := x.status[s.ID]
		if told && was.Final() {
			x.t.Fatalf("%s: %s is %s after it was %s", what, s.ID, s.Status, was)
		}
		if s.Began != 0 && !slices.Contains(x.begun, s.ID) {
			for id, status := range x.status {
				if id != s.ID && slices.Contains(x.begun, id) && !status.Final() && !turned(turn, id) {
					x.t.Fatalf("%s: %s begins while %s is %s", what, s.ID, id, status)
				}
			}
			x.begun = append(x.begun, s.ID)
		}
		x.status[s.ID] = s.Status
	}
	l := x.lane
	places := map[string]int{}
	if l.Active != nil {
		places[l.Active.ID]++
		if l.Active.Status.Final() || l.Active.Status == Queued {
			x.t.Fatalf("%s: the active one is %s", what, l.Active.Status)
		}
	}
	for _, s := range l.Queue {
		places[s.ID]++
		if s.Status != Queued {
			x.t.Fatalf("%s: %s waits and is %s", what, s.ID, s.Status)
		}
	}
	for id, status := range x.status {
		if status.Final() != (places[id] == 0) || places[id] > 1 {
			x.t.Fatalf("%s: %s is %s and in %d places", what, id, status, places[id])
		}
	}
	if l.Idle() && (l.Known || l.Entity.ID != "" || len(l.Alarms) > 0) {
		x.t.Fatalf("%s: something is left of nothing: %+v", what, l)
	}
	for _, a := range l.Alarms {
		if question := a.Timer.Purpose == Question; question && !l.Asked || !question && l.Active == nil {
			x.t.Fatalf("%s: alarms %v of %v", what, l.Alarms, l.Active)
		}
	}
	if !slices.IsSortedFunc(l.Alarms, func(a, b Alarm) int { return int(a.Due - b.Due) }) {
		x.t.Fatalf("%s: alarms %v", what, l.Alarms)
	}
	if !l.Idle() && l.Active == nil && !l.Asked {
		x.t.Fatalf("%s: nothing is under way or asked for: %+v", what, l)
	}
	if len(l.Queue) > MaxQueue || len(l.Past) > MaxPast || len(l.Refused) > MaxPast {
		x.t.Fatalf("%s: %d wait, %d are remembered", what, len(l.Queue), len(l.Past))
	}
	b, err := json.Marshal(l)
	if err != nil {
		x.t.Fatal(err)
	}
	back := &Lane{}
	if err := json.Unmarshal(b, back); err != nil {
		x.t.Fatal(err)
	}
	if again, _ := json.Marshal(back); string(again) != string(b) {
		x.t.Fatalf("%s is read back as %s", b, again)
	}
	x.lane = back
}

// turned tells that a saga ended in a turn.
func turned(turn Turn, id string) bool {
	return slices.ContainsFunc(turn.Changed, func(s *Saga) bool { return s.ID == id && s.Status.Final() })
}

func (x *street) submit(id, command string, version int64) {
	s := New(x.plans[command], "plan", id, nil, x.now)
	s.IfVersion = version
	idle, known, at := x.lane.Idle(), x.lane.Known, x.lane.Entity.Version
	turn, err := x.lane.Submit(s, x.known, x.now)
	x.sent = append(x.sent, id)
	x.turn("submit", turn, err)
	if idle && !turn.Ask {
		x.t.Fatal("a command comes and nobody asks for the entity")
	}
	rejected := x.status[id] == Rejected
	if x.plans[command].Conflict == definition.Supersede && known && version > at {
		return // what it superseded may have ended at once, so that it was its turn
	}
	outdated := known && version != 0 && version < at
	if refused := x.plans[command].Conflict == definition.Reject && !idle; rejected != (refused || outdated) {
		x.t.Fatalf("%s is %s; idle before: %v, outdated: %v", id, x.status[id], idle, outdated)
	}
}

func (x *street) heard(good bool) {
	if good || rapid.Bool().Draw(x.t, "changed") {
		x.version++
	}
	e := Entity{Resource: "customer", ID: "c1", Version: x.version, State: "bad"}
	if good {
		e.State = "good"
	}
	if x.lane.Asked && rapid.Bool().Draw(x.t, "answered") {
		x.answered(e)
		return
	}
	turn, err := x.lane.Heard(e, x.known, x.now)
	x.turn("heard", turn, err)
}

func (x *street) answered(e Entity) {
	turn, err := x.lane.Answered(e, x.known, x.now)
	x.turn("answered", turn, err)
}

func (x *street) answer(i int, kind failure.Kind) {
	a := x.calls[i]
	x.calls = slices.Delete(x.calls, i, i+1)
	c, ok := a.Effect.(Call)
	if !ok {
		return
	}
	turn, err := x.lane.Take(a.Saga.ID, Reply{Step: c.Step, Undo: c.Undo, Attempt: c.Attempt, Kind: kind}, x.known, x.now)
	x.turn("answer", turn, err)
}

func (x *street) wake() {
	turn, err := x.lane.Wake(x.known, x.now)
	x.turn("wake", turn, err)
	if due := x.lane.Due(); due != 0 && due <= x.now {
		x.t.Fatalf("still due at %d: %v", x.now, x.lane.Alarms)
	}
}

// Whatever is sent to a lane, in whatever order: one command at a time is
// carried out, in the order in which they came; each comes to one end; and
// nothing stays.
func TestLane(t *testing.T) {
	seen := map[Status]int{}
	rapid.Check(t, func(t *rapid.T) {
		x := &street{t: t, lane: &Lane{}, plans: lanePlans(), now: start, version: 1, status: map[string]Status{}}
		var names []string
		for name := range x.plans {
			names = append(names, name)
		}
		slices.Sort(names)
		for range rapid.IntRange(1, 40).Draw(t, "inputs") {
			x.now = after(x.now, time.Duration(rapid.IntRange(0, 60).Draw(t, "time"))*time.Millisecond)
			switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
			case what < 3:
				x.submit(fmt.Sprintf("cmd-%d", len(x.sent)), rapid.SampledFrom(names).Draw(t, "command"), int64(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2, 5}).Draw(t, "version")))
			case what == 3 && len(x.sent) > 0:
				// Again: nothing comes of it.
				id := rapid.SampledFrom(x.sent).Draw(t, "again")
				before, _ := json.Marshal(x.lane)
				turn, err := x.lane.Submit(New(x.plans[names[0]], "plan", id, nil, x.now), x.known, x.now)
				if now, _ := json.Marshal(x.lane); err != nil || len(turn.Changed)+len(turn.Effects) > 0 || turn.Ask || string(now) != string(before) {
					t.Fatalf("%s again: %+v, %v; %s was %s", id, turn, err, now, before)
				}
			case what == 4 && len(x.sent) > 0:
				id := rapid.SampledFrom(x.sent).Draw(t, "cancelled")
				turn, err := x.lane.Take(id, Cancel{By: "somebody"}, x.known, x.now)
				x.turn("cancel", turn, err)
			case what == 5 && len(x.sent) > 0:
				id := rapid.SampledFrom(x.sent).Draw(t, "tried again")
				turn, err := x.lane.Take(id, Retry{By: "somebody"}, x.known, x.now)
				x.turn("retry", turn, err)
			case what == 6:
				x.heard(rapid.Bool().Draw(t, "good"))
			case what == 7:
				x.wake()
			case len(x.calls) > 0:
				x.answer(rapid.IntRange(0, len(x.calls)-1).Draw(t, "call"), rapid.SampledFrom([]failure.Kind{"", "", "", failure.Transient, failure.Validation}).Draw(t, "kind"))
			}
		}
		for n := 0; !x.lane.Idle(); n++ {
			if n > 5000 {
				b, _ := json.Marshal(x.lane)
				t.Fatalf("no end: %s", b)
			}
			if len(x.calls) > 0 {
				x.answer(0, "")
			}
			if a := x.lane.Active; a != nil && (a.Status == Stuck || a.Status == CompensationFailed) {
				turn, err := x.lane.Take(a.ID, Abandon{By: "somebody"}, x.known, x.now)
				x.turn("abandon", turn, err)
			}
			if x.lane.Asked && n%3 == 0 {
				x.version++
				x.answered(Entity{Resource: "customer", ID: "c1", Version: x.version, State: "good"})
			}
			if x.lane.Active != nil && x.lane.Active.Status == Confirming && n%2 == 0 {
				x.heard(true)
			}
			x.now = after(x.now, 50*time.Millisecond)
			x.wake()
		}
		if !slices.IsSortedFunc(x.begun, func(a, b string) int { return slices.Index(x.sent, a) - slices.Index(x.sent, b) }) {
			t.Fatalf("sent %v, begun %v", x.sent, x.begun)
		}
		for _, id := range x.sent {
			if !x.status[id].Final() {
				t.Fatalf("%s is %s in the end", id, x.status[id])
			}
			seen[x.status[id]]++
		}
	})
	t.Logf("%v", seen)
	for _, s := range []Status{Completed, Unconfirmed, Failed, Cancelled, Rejected, Abandoned} {
		if !t.Failed() && seen[s] == 0 {
			t.Errorf("no command ended as %s: the test tests too little", s)
		}
	}
}

// What is refused says why, in words for who sent it.
func TestLaneRefuses(t *testing.T) {
	plans := lanePlans()
	known := func(command, fingerprint string) (*definition.Command, bool) {
		p, ok := plans[command]
		return p, ok && fingerprint == "plan"
	}
	entity := Entity{Resource: "customer", ID: "c1", Version: 7}
	for _, c := range []struct {
		name   string
		before []string // commands that come first
		entity Entity
		mine   *Saga
		want   string
	}{
		{"unknown entity", nil, Entity{Resource: "customer", ID: "c1"}, New(plans["queue"], "plan", "mine", nil, start), "there is no customer c1"},
		{"an entity that is gone", nil, Entity{Resource: "customer", ID: "c1", Version: 7, Gone: true}, New(plans["queue"], "plan", "mine", nil, start), "there is no customer c1"},
		{"another version", nil, entity, &Saga{ID: "mine", Command: "queue", Plan: "plan", Status: Queued, IfVersion: 6}, "customer c1 has version 7, expected 6"},
		{"a version that is yet to come", nil, entity, &Saga{ID: "mine", Command: "queue", Plan: "plan", Status: Queued, IfVersion: 8}, "customer c1 has version 7, expected 8"},
		{"an old version in the queue", []string{"queue"}, entity, &Saga{ID: "mine", Command: "queue", Plan: "plan", Status: Queued, IfVersion: 6}, "customer c1 has version 7, expected 6"},
		{"under way", []string{"queue"}, entity, New(plans["reject"], "plan", "mine", nil, start), "another command on customer c1 is under way: first-0"},
		{"a full queue", slices.Repeat([]string{"queue"}, MaxQueue+1), entity, New(plans["queue"], "plan", "mine", nil, start), "100 commands wait for customer c1, expected at most 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &Lane{}
			for i, name := range c.before {
				if _, err := l.Submit(New(plans[name], "plan", fmt.Sprintf("first-%d", i), nil, start), known, start); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					if _, err := l.Answered(c.entity, known, start); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := l.Submit(c.mine, known, start); err != nil {
				t.Fatal(err)
			}
			if len(c.before) == 0 {
				if _, err := l.Answered(c.entity, known, start); err != nil {
					t.Fatal(err)
				}
			}
			if c.mine.Status != Rejected || c.mine.Reason == nil || c.mine.Reason.Detail != c.want || c.mine.Ended != start {
				t.Errorf("%s, %+v, expected %s: %s", c.mine.Status, c.mine.Reason, Rejected, c.want)
			}
		})
	}
	t.Run("superseded", func(t *testing.T) {
		l := &Lane{}
		var all []*Saga
		for i, name := range []string{"queue", "queue", "queue", "supersede"} {
			s := New(plans[name], "plan", fmt.Sprintf("cmd-%d", i), nil, start)
			all = append(all, s)
			if _, err := l.Submit(s, known, start); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if _, err := l.Heard(entity, known, start); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, want := range []Status{Running, Rejected, Rejected, Queued} {
			if all[i].Status != want {
				t.Errorf("%s is %s, expected %s", all[i].ID, all[i].Status, want)
			}
		}
		if !all[0].Stopping || !strings.Contains(all[0].Reason.Detail, "superseded") || all[1].Reason.Detail != "superseded by supersede cmd-3" {
			t.Errorf("%+v, %+v", all[0].Reason, all[1].Reason)
		}
	})
	t.Run("a definition that is not known here", func(t *testing.T) {
		_, err := (&Lane{}).Submit(New(plans["queue"], "newer", "mine", nil, start), known, start)
		var f *failure.Error
		if !errors.As(err, &f) || f.Kind != failure.Transient || !strings.Contains(err.Error(), "newer") {
			t.Errorf("%v", err)
		}
	})
}

// What ended lately is remembered, and no more than that.
func TestLaneRemembers(t *testing.T) {
	plans := lanePlans()
	known := func(command, _ string) (*definition.Command, bool) { p, ok := plans[command]; return p, ok }
	l := &Lane{}
	submit := func(id string) Status {
		t.Helper()
		s := New(plans["queue"], "plan", id, nil, start)
		if _, err := l.Submit(s, known, start); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Take(id, Cancel{By: "somebody"}, known, start); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	for i := range MaxPast + 1 {
		if got := submit(fmt.Sprint(i)); got != Cancelled {
			t.Fatalf("%d is %s", i, got)
		}
	}
	// One that was carried out is remembered beside them.
	plan := *plans["queue"]
	plan.Stages = nil
	done := New(&plan, "plan", "done", nil, start)
	nothing := func(string, string) (*definition.Command, bool) { return &plan, true }
	if _, err := l.Submit(done, nothing, start); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Answered(Entity{Version: 1}, nothing, start); err != nil || done.Status != Completed || !slices.Equal(l.Past, []string{"done"}) {
		t.Fatalf("%s, %v, %v", done.Status, l.Past, err)
	}
	if turn, err := l.Submit(New(&plan, "plan", "done", nil, start), nothing, start); err != nil || len(turn.Changed) > 0 || !l.Idle() {
		t.Fatalf("%+v, %v: expected nothing of one that was carried out", turn, err)
	}
	for id, want := range map[string]Status{"1": Queued, fmt.Sprint(MaxPast): Queued} {
		if got := submit(id); got != want {
			t.Errorf("%s again is %s, expected %s: it is not taken in", id, got, want)
		}
	}
	if got := submit("0"); got != Cancelled {
		t.Errorf("the oldest again is %s, expected %s: it is forgotten", got, Cancelled)
	}
	if len(l.Refused) != MaxPast {
		t.Errorf("%d are remembered, expected %d", len(l.Refused), MaxPast)
	}
}

// What a lane asked for and does not hear of is asked for again; and a command
// for a version that it has not heard of yet begins when that comes.
func TestLaneAsks(t *testing.T) {
	plans := lanePlans()
	known := func(command, _ string) (*definition.Command, bool) { p, ok := plans[command]; return p, ok }
	l := &Lane{}
	first, second := New(plans["queue"], "plan", "first", nil, start), New(plans["queue"], "plan", "second", nil, start)
	second.IfVersion = 8
	expect := func(turn Turn, err error, asks bool) {
		t.Helper()
		if err != nil || turn.Ask != asks {
			t.Fatalf("asks: %v, %v; expected %v", turn.Ask, err, asks)
		}
	}
	turn, err := l.Submit(first, known, start)
	expect(turn, err, true)
	for i := range 3 {
		due := l.Due()
		if want := after(start, time.Duration(i+1)*AskAgain); due != want {
			t.Fatalf("due at %d, expected %d", due, want)
		}
		turn, err = l.Wake(known, due)
		expect(turn, err, true)
	}
	turn, err = l.Answered(Entity{Resource: "customer", ID: "c1", Version: 7}, known, start)
	expect(turn, err, false)
	if first.Status != Running {
		t.Fatalf("%s", first.Status)
	}
	turn, err = l.Submit(second, known, start)
	expect(turn, err, false)
	turn, err = l.Take("first", Cancel{By: "somebody"}, known, start)
	expect(turn, err, false)
	turn, err = l.Take("first", Reply{Step: "a", Attempt: 1, Kind: failure.Validation}, known, start)
	expect(turn, err, true)
	turn, err = l.Heard(Entity{Resource: "customer", ID: "c1", Version: 8}, known, start)
	expect(turn, err, false)
	if second.Status != Running {
		t.Fatalf("%s, %+v: version 8 is here", second.Status, second.Reason)
	}
}

// A lane that is told of a new version asks for it, and asks again if the answer
// is from before it.
func TestLaneFollows(t *testing.T) {
	plans := lanePlans()
	known := func(command, _ string) (*definition.Command, bool) { p, ok := plans[command]; return p, ok }
	entity := func(version int64, state string) Entity {
		return Entity{Resource: "customer", ID: "c1", Version: version, State: state}
	}
	l := &Lane{}
	if turn := l.Moved(9, start); turn.Ask || !l.Idle() || l.Newest != 0 {
		t.Fatalf("%+v, %+v: there is no command", turn, l)
	}
	s := New(plans["queue confirmed"], "plan", "cmd", nil, start)
	answered := func(e Entity, asks bool) {
		t.Helper()
		if turn, err := l.Answered(e, known, start); err != nil || turn.Ask != asks {
			t.Fatalf("asks: %v, %v; expected %v", turn.Ask, err, asks)
		}
	}
	moved := func(version int64, asks bool) {
		t.Helper()
		if turn := l.Moved(version, start); turn.Ask != asks {
			t.Fatalf("asks: %v, expected %v", turn.Ask, asks)
		}
	}
	if _, err := l.Submit(s, known, start); err != nil {
		t.Fatal(err)
	}
	moved(4, false) // it has asked already, but that may be answered with 3
	answered(entity(3, "bad"), true)
	answered(entity(4, "bad"), false)
	moved(4, false)
	moved(5, true)
	moved(6, false)
	answered(entity(6, "bad"), false)
	for _, step := range []string{"a", "b"} {
		if _, err := l.Take("cmd", Reply{Step: step, Attempt: 1}, known, start); err != nil {
			t.Fatal(err)
		}
	}
	if s.Status != Confirming {
		t.Fatal(s.Status)
	}
	moved(7, true)
	answered(entity(7, "good"), false)
	if s.Status != Completed || !l.Idle() || l.Newest != 0 {
		t.Errorf("%s, %+v", s.Status, l)
	}
}
