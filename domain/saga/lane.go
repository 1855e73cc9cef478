package saga

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Lane is the commands on one entity: one is carried out, the others wait for
// their turn in the order in which they came. It is all that has to be kept of
// them, and there is nothing in it while there are none but what ended lately.
type Lane struct {
	// Entity as it was last heard of, while there is a command. Known tells that
	// it was, and Asked that an answer is waited for.
	Entity Entity `avro:"entity" json:"entity"`
	Known  bool   `avro:"known" json:"known,omitempty"`
	Asked  bool   `avro:"asked" json:"asked,omitempty"`
	// Newest is the latest version that is said to exist.
	Newest int64 `avro:"newest" json:"newest,omitempty"`
	// Active is the saga under way, nil if there is none, and Alarms its timers
	// and that of the question, the next one first.
	Active *Saga   `avro:"active" json:"active,omitempty"`
	Alarms []Alarm `avro:"alarms" json:"alarms,omitempty"`
	// Queue is those that wait, the next one first.
	Queue []*Saga `avro:"queue" json:"queue,omitempty"`
	// Past is the ids of those that ended last, the latest first: one that comes
	// again is not carried out again. Refused is the same for those that were not
	// begun, so that many of them do not push the others out.
	Past    []string `avro:"past" json:"past,omitempty"`
	Refused []string `avro:"refused" json:"refused,omitempty"`
}

// Alarm is a timer that is set.
type Alarm struct {
	Timer Timer            `avro:"timer" json:"timer"`
	Due   envelope.Instant `avro:"due" json:"due"`
}

// Bounds of a lane.
const (
	// MaxQueue is how many commands may wait for one entity, and MaxQueueBytes how
	// large their inputs may be together: a lane is one record.
	MaxQueue      = 100
	MaxQueueBytes = 256 << 10
	// MaxPast is how many that have ended are remembered, and how many that were
	// not begun.
	MaxPast = 32
	// AskAgain is after what time without an answer the entity is asked for again.
	AskAgain = 30 * time.Second
)

// Plans gives the plan of a command by the fingerprint that a saga is pinned
// to; false if it is not known here.
type Plans func(command, fingerprint string) (*definition.Command, bool)

// Turn is what comes of an input to a lane.
type Turn struct {
	// Effects in the order in which they are wanted. Timers are kept by the lane.
	Effects []Addressed
	// Changed are the sagas that are not as they were, in the order in which they
	// changed; one that is final is in no lane any more.
	Changed []*Saga
	// Ask for the entity's canonical state.
	Ask bool
}

// Addressed is an effect that a saga wants.
type Addressed struct {
	Saga   *Saga
	Effect Effect
}

// turn is a lane while it takes an input.
type turn struct {
	*Lane
	Turn
	plans Plans
	now   envelope.Instant
}

// Submit puts a command into the lane, as its plan's policy for conflicts wants
// it. One that is there already, or was, changes nothing. After an error, of this
// and the others, the lane may be half changed and must not be kept.
func (l *Lane) Submit(s *Saga, plans Plans, now envelope.Instant) (Turn, error) {
	t := turn{Lane: l, plans: plans, now: now}
	if l.has(s.ID) {
		return t.Turn, nil
	}
	plan, err := t.plan(s)
	if err != nil {
		return t.Turn, err
	}
	idle := l.Idle()
	l.Queue = append(l.Queue, s)
	t.changed(s)
	switch {
	case l.Known && s.IfVersion != 0 && s.IfVersion < l.Entity.Version:
		t.outdated(s) // versions only grow
	case idle:
	case plan.Conflict == definition.Reject:
		t.reject(s, failure.Conflict, "another command on %s is under way: %s", l.subject(), l.first().ID)
	case plan.Conflict == definition.Supersede:
		for len(l.Queue) > 1 {
			t.reject(l.Queue[0], failure.Conflict, "superseded by %s %s", s.Command, s.ID)
		}
		if l.Active != nil {
			if err := t.take(Cancel{By: s.Command + " " + s.ID, Detail: "superseded"}); err != nil {
				return t.Turn, err
			}
		}
	case len(l.Queue) > MaxQueue:
		t.reject(s, failure.RateLimited, "%d commands wait for %s, expected at most %d", len(l.Queue)-1, l.subject(), MaxQueue)
	case len(l.Queue) > 1 && l.bytes() > MaxQueueBytes:
		t.reject(s, failure.RateLimited, "the inputs of the commands that wait for %s have %d bytes, expected at most %d", l.subject(), l.bytes(), MaxQueueBytes)
	}
	if idle {
		t.ask()
	}
	return t.Turn, t.next(false)
}

// Answered tells the canonical state of the entity because it was asked for.
func (l *Lane) Answered(e Entity, plans Plans, now envelope.Instant) (Turn, error) {
	return l.heard(e, true, plans, now)
}

// Heard tells of a new canonical state of the entity.
func (l *Lane) Heard(e Entity, plans Plans, now envelope.Instant) (Turn, error) {
	return l.heard(e, false, plans, now)
}

// Moved tells that the entity has a version, without saying what it is: the
// lane asks for it.
func (l *Lane) Moved(version int64, now envelope.Instant) Turn {
	t := turn{Lane: l, now: now}
	if l.Idle() || l.Known && version <= l.Entity.Version {
		return t.Turn
	}
	l.Newest = max(l.Newest, version)
	if !l.Asked {
		t.ask()
	}
	return t.Turn
}

func (l *Lane) heard(e Entity, answer bool, plans Plans, now envelope.Instant) (Turn, error) {
	t := turn{Lane: l, plans: plans, now: now}
	if l.Idle() {
		return t.Turn, nil
	}
	if answer {
		l.Asked = false
		t.clear(Timer{Purpose: Question, Attempt: 1})
		if e.Version < l.Newest {
			t.ask() // it was asked for before that
		}
	}
	if !l.Known || e.Version > l.Entity.Version {
		l.Entity, l.Known = e, true
		if err := t.take(Changed{e}); err != nil {
			return t.Turn, err
		}
	}
	return t.Turn, t.next(answer)
}

// Take gives an input to the saga of an id. One that is not here any more has
// no use for it.
func (l *Lane) Take(id string, in Input, plans Plans, now envelope.Instant) (Turn, error) {
	t := turn{Lane: l, plans: plans, now: now}
	if l.Active != nil && l.Active.ID == id {
		if err := t.take(in); err != nil {
			return t.Turn, err
		}
		return t.Turn, t.next(false)
	}
	i := slices.IndexFunc(l.Queue, func(s *Saga) bool { return s.ID == id })
	if i < 0 {
		return t.Turn, nil
	}
	s := l.Queue[i]
	plan, err := t.plan(s)
	if err != nil {
		return t.Turn, err
	}
	if s.Take(plan, in, now); s.Status.Final() {
		l.Queue = slices.Delete(l.Queue, i, i+1)
		t.ended(s)
		t.changed(s)
	}
	return t.Turn, t.next(false)
}

// Due gives when the next timer is due; 0 if none is set.
func (l *Lane) Due() envelope.Instant {
	if len(l.Alarms) == 0 {
		return 0
	}
	return l.Alarms[0].Due
}

// Wake has the timers fire that are due.
func (l *Lane) Wake(plans Plans, now envelope.Instant) (Turn, error) {
	t := turn{Lane: l, plans: plans, now: now}
	for due := l.Due(); due != 0 && due <= now; due = l.Due() {
		timer := l.Alarms[0].Timer
		l.Alarms = l.Alarms[1:]
		if timer.Purpose == Question {
			t.ask() // it, or its answer, was lost
			continue
		}
		if err := t.take(Fired{timer}); err != nil {
			return t.Turn, err
		}
		if err := t.next(false); err != nil {
			return t.Turn, err
		}
	}
	return t.Turn, nil
}

// Idle tells that no command is here.
func (l *Lane) Idle() bool { return l.Active == nil && len(l.Queue) == 0 }

func (l *Lane) has(id string) bool {
	return l.Active != nil && l.Active.ID == id || slices.Contains(l.Past, id) || slices.Contains(l.Refused, id) ||
		slices.ContainsFunc(l.Queue, func(s *Saga) bool { return s.ID == id })
}

// first is the command whose turn it is.
func (l *Lane) first() *Saga {
	if l.Active != nil {
		return l.Active
	}
	return l.Queue[0]
}

// bytes of the inputs that wait.
func (l *Lane) bytes() (n int) {
	for _, s := range l.Queue {
		for _, v := range s.Input {
			n += len(v.Name) + len(v.Value)
		}
	}
	return n
}

// subject names the entity.
func (l *Lane) subject() string {
	if l.Entity.ID == "" {
		return "the entity"
	}
	return l.Entity.Resource + " " + l.Entity.ID
}

func (t *turn) plan(s *Saga) (*definition.Command, error) {
	plan, ok := t.plans(s.Command, s.Plan)
	if !ok {
		// Whoever has the definition can go on with it: nothing is lost.
		return nil, failure.New(failure.Transient, "carry out", s.ID, "the definition %s of command %s is not known here", s.Plan, s.Command)
	}
	return plan, nil
}

func (t *turn) changed(s *Saga) {
	if !slices.Contains(t.Changed, s) {
		s.Revision++
		t.Changed = append(t.Changed, s)
	}
}

// ended remembers a command.
func (t *turn) ended(s *Saga) {
	list := &t.Past
	if s.Began == 0 {
		list = &t.Refused
	}
	*list = append([]string{s.ID}, (*list)[:min(len(*list), MaxPast-1)]...)
}

// ask for the entity.
func (t *turn) ask() {
	t.Ask, t.Asked = true, true
	t.alarm(Timer{Purpose: Question, Attempt: 1}, after(t.now, AskAgain))
}

// reject ends a command that waits.
func (t *turn) reject(s *Saga, kind failure.Kind, format string, args ...any) {
	t.Queue = slices.DeleteFunc(t.Queue, func(x *Saga) bool { return x == s })
	s.Status, s.Ended, s.Reason = Rejected, t.now, &Reason{Kind: kind, Detail: fmt.Sprintf(format, args...)}
	t.ended(s)
	t.changed(s)
}

func (t *turn) outdated(s *Saga) {
	t.reject(s, failure.Conflict, "%s has version %d, expected %d", t.subject(), t.Entity.Version, s.IfVersion)
}

// next begins the command whose turn it is. fresh tells that what is known of
// the entity was asked for since it is.
func (t *turn) next(fresh bool) error {
	for t.Active == nil && t.Known && len(t.Queue) > 0 {
		s := t.Queue[0]
		switch {
		case s.IfVersion > t.Entity.Version && !fresh:
			// Who sent it may know more than has been heard of here.
			if !t.Asked {
				t.ask()
			}
			return nil
		case t.Entity.Version == 0 || t.Entity.Gone:
			t.reject(s, failure.NotFound, "there is no %s %s", t.Entity.Resource, t.Entity.ID)
			continue
		case s.IfVersion != 0 && s.IfVersion != t.Entity.Version:
			t.outdated(s)
			continue
		}
		plan, err := t.plan(s)
		if err != nil {
			return err
		}
		if why := s.unmet(plan, t.Entity, t.now); why != nil {
			t.reject(s, why.Kind, "%s", why.Detail)
			continue
		}
		t.Queue = t.Queue[1:]
		t.Active = s
		t.changed(s)
		t.perform(s.Begin(plan, t.Entity, t.now))
	}
	if t.Idle() {
		t.Entity, t.Known, t.Asked, t.Newest, t.Queue, t.Alarms = Entity{}, false, false, 0, nil, nil
	}
	return nil
}

// take gives an input to the active saga, if there is one.
func (t *turn) take(in Input) error {
	s := t.Active
	if s == nil {
		return nil
	}
	plan, err := t.plan(s)
	if err != nil {
		return err
	}
	was := s.progress()
	t.perform(s.Take(plan, in, t.now))
	if s.progress() != was {
		t.changed(s)
	}
	return nil
}

// perform keeps the timers that the active saga wants, and hands on the rest.
func (t *turn) perform(effects []Effect) {
	s := t.Active
	for _, e := range effects {
		switch e := e.(type) {
		case Set:
			t.alarm(e.Timer, e.Due)
		case Clear:
			t.clear(e.Timer)
		default:
			t.Effects = append(t.Effects, Addressed{s, e})
		}
	}
	if s.Status.Final() {
		t.Active = nil
		t.ended(s)
	}
}

// alarm sets a timer; it replaces one of the same name.
func (t *turn) alarm(timer Timer, due envelope.Instant) {
	t.clear(timer)
	a := Alarm{timer, due}
	i, _ := slices.BinarySearchFunc(t.Alarms, a, func(x, y Alarm) int {
		return cmp.Or(cmp.Compare(x.Due, y.Due), cmp.Compare(x.Timer.String(), y.Timer.String()))
	})
	t.Alarms = slices.Insert(t.Alarms, i, a)
}

func (t *turn) clear(timer Timer) {
	t.Alarms = slices.DeleteFunc(t.Alarms, func(a Alarm) bool { return a.Timer == timer })
}
