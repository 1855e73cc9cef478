package saga

import (
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// The model says what becomes of a saga, knowing beforehand what everybody will
// do and when. It has no states and no inputs: it goes through the plan from
// the first stage to the last, or back, and adds up times. What it shares with
// the machine is the plan and the waits between attempts.

const never = envelope.Instant(1) << 60

// withdrawal is how long it takes to answer that a call that was held is
// withdrawn.
const withdrawal = 5 * time.Microsecond

// answer is what comes of an attempt.
type answer struct {
	Kind      failure.Kind // empty: success
	Silent    bool         // no reply in time
	Uncertain bool
	// After is when the reply comes, from the attempt's begin; of a silent one
	// that is a success that comes too late, or never if it is zero.
	After time.Duration
	// Held is when the connection was paused; zero if it was not.
	Held time.Duration
	// Gone is when who held it was found to be gone, before the call was made; zero
	// if it was not.
	Gone  time.Duration
	Pause time.Duration // that a rate limit asks for
}

// fate is what happens to a step.
type fate struct {
	Do, Undo []answer // by attempt; the last one goes on for ever
	// Approval: refused, and when.
	Refused bool
}

// story is all that is decided beforehand.
type story struct {
	Plan  *definition.Command
	Fates map[string]*fate
	// Cancel is when somebody cancels; never if nobody does.
	Cancel envelope.Instant
	// Changes of the canonical state: when, and whether the plan's condition
	// holds after it.
	Changes []change
	// Lost: whoever has held calls does not answer when they are withdrawn.
	Lost bool
	// Retries are how long after an escalation somebody tries again.
	Retries []time.Duration
	// Abandon is how long after the last of those somebody gives up; 0 if nobody
	// does.
	Abandon time.Duration
}

type change struct {
	At   envelope.Instant
	Good bool
}

func (f *fate) answer(undo bool, attempt int) answer {
	list := f.Do
	if undo {
		list = f.Undo
	}
	return list[min(attempt, len(list))-1]
}

// asked is one attempt that was made.
type asked struct {
	At      envelope.Instant
	Step    string
	Undo    bool
	Attempt int
}

// verdict is what became of a saga.
type verdict struct {
	Status              Status
	At                  envelope.Instant // of its final status, else 0
	Asked               []asked
	Refreshes, Escalate int
}

// course is one direction of a step as the model follows it.
type course struct {
	attempt   int
	spared    int                   // attempts that do not count
	held      [][2]envelope.Instant // when calls were held
	late      []envelope.Instant    // successes on their way for attempts that were given up
	settled   envelope.Instant
	phase     Phase
	uncertain bool
}

type model struct {
	*story
	id      string
	steps   map[string]*course
	undos   map[string]*course
	verdict verdict
}

// run follows one direction of a step from a time on until it has settled. From
// stop on nothing is tried again.
func (m *model) run(c course, name string, undo bool, timeout time.Duration, retry definition.Retry, from, stop envelope.Instant) (course, []asked) {
	var calls []asked
	c.late = slices.Clone(c.late)
	end := func(p Phase, t envelope.Instant) (course, []asked) {
		c.phase, c.settled = p, t
		return c, calls
	}
	for t := from; ; {
		c.attempt++
		calls = append(calls, asked{t, name, undo, c.attempt})
		a := m.Fates[name].answer(undo, c.attempt)
		over, given, spared := after(t, a.After), a.Kind, a.Gone > 0
		if spared {
			over = after(t, a.Gone)
		}
		held := after(t, a.Held) // until is the end of that
		until := over
		if recall := after(held, holdFor); a.Held > 0 && recall < over && (undo || recall < stop) {
			over, given, a.Uncertain, spared = after(recall, withdrawal), failure.Conflict, false, true
			if m.Lost {
				over, given, a.Uncertain, spared = after(recall, timeout), failure.Transient, true, false
				a.Pause = 0
			}
			until, spared = recall, spared && (undo || over < stop)
		} else if at := max(stop, held); !undo && a.Held > 0 && at < over {
			over, given, a.Uncertain, spared = after(at, withdrawal), failure.Conflict, false, false
			if m.Lost {
				over, given, a.Uncertain = after(at, timeout), failure.Transient, true
			}
		}
		if a.Silent {
			over, given = after(t, timeout), failure.Transient
		}
		if until = min(until, over, first(c.late, t)); !undo && a.Held > 0 && held < until {
			c.held = append(c.held, [2]envelope.Instant{held, until})
		}
		if l := first(c.late, t); l < over {
			return end(Done, l)
		}
		if spared {
			c.spared++
			t = over
			continue
		}
		if given == "" {
			return end(Done, over)
		}
		c.uncertain = c.uncertain || a.Uncertain || a.Silent
		if a.Silent && a.After > 0 {
			c.late = append(c.late, after(t, a.After))
		}
		mayPass := given == failure.Transient || given == failure.RateLimited || given == failure.Auth
		if !mayPass || c.attempt-c.spared >= retry.Attempts || !undo && stop <= over {
			return end(Broken, over)
		}
		wait := (&machine{Saga: &Saga{ID: m.id}}).wait(retry, name, undo, int32(c.attempt-c.spared))
		if !a.Silent {
			wait = max(wait, a.Pause)
		}
		next := after(over, wait)
		l := first(c.late, over)
		switch {
		case l < next && (undo || l < stop):
			return end(Done, l)
		case !undo && stop < next:
			return end(Broken, stop)
		}
		t = next
	}
}

// first gives the earliest time from t on.
func first(times []envelope.Instant, t envelope.Instant) envelope.Instant {
	out := never
	for _, x := range times {
		if x >= t {
			out = min(out, x)
		}
	}
	return out
}

// foretell says what becomes of a saga that begins at a time.
func (s *story) foretell(id string, began envelope.Instant) verdict {
	m := &model{story: s, id: id, steps: map[string]*course{}, undos: map[string]*course{}}
	for _, stage := range s.Plan.Stages {
		for _, p := range stage {
			m.steps[p.Name], m.undos[p.Name] = &course{phase: Idle}, &course{phase: Idle}
		}
	}
	m.through(0, began, after(began, s.Plan.Deadline), s.Retries)
	slices.SortStableFunc(m.verdict.Asked, func(a, b asked) int { return int(a.At - b.At) })
	return m.verdict
}

// through follows the stages from one on.
func (m *model) through(stage int, t, deadline envelope.Instant, retries []time.Duration) {
	for ; stage < len(m.Plan.Stages); stage++ {
		end, limit, stopped, wished := m.stage(stage, t, deadline)
		deadline = limit
		if !stopped {
			t = end
			continue
		}
		if !m.passed() {
			m.back(end, wished, retries)
			return
		}
		m.verdict.Status = Stuck
		m.verdict.Escalate++
		if len(retries) == 0 {
			m.abandoned(end)
			return
		}
		again := after(end, retries[0])
		for _, p := range m.Plan.Stages[stage] {
			if c := m.steps[p.Name]; c.phase == Broken {
				c.phase = Idle
				if l := first(c.late, c.settled); l < again {
					c.phase = Done
				}
			}
		}
		m.through(stage, again, after(again, m.Plan.Deadline), retries[1:])
		return
	}
	m.confirm(t)
}

// abandoned ends what nobody tries again after a time.
func (m *model) abandoned(t envelope.Instant) {
	if m.Abandon > 0 {
		m.verdict.Status, m.verdict.At = Abandoned, after(t, m.Abandon)
	}
}

// passed tells whether the point of no return is behind.
func (m *model) passed() bool {
	for _, stage := range m.Plan.Stages {
		for _, p := range stage {
			if c := m.steps[p.Name]; p.Final && (c.phase == Done || c.uncertain) {
				return true
			}
		}
	}
	return false
}

// stage follows the steps of one stage from t on. The time in which a call was
// held is added to the deadline.
func (m *model) stage(n int, t, deadline envelope.Instant) (end, limit envelope.Instant, stopped, wished bool) {
	stop := never
	var begun []*definition.Step
	for _, p := range m.Plan.Stages[n] {
		c := m.steps[p.Name]
		if c.phase != Idle || stop < never {
			continue
		}
		if w, ok := p.When.(when); ok {
			holds, err := m.holds(w)
			if err {
				c.phase, c.settled, stop = Broken, t, t
				continue
			}
			if !holds {
				c.phase, c.settled = Skipped, t
				continue
			}
		}
		begun = append(begun, p)
	}
	follow := func(stop envelope.Instant) (end, fails envelope.Instant, out map[string]course, calls []asked) {
		end, fails, out = t, never, map[string]course{}
		for _, p := range begun {
			var c course
			var a []asked
			if p.Kind == definition.Approve {
				c, a = m.approval(p, t, stop)
			} else {
				c, a = m.run(*m.steps[p.Name], p.Name, false, p.Timeout, p.Retry, t, stop)
			}
			end = max(end, c.settled)
			if c.phase == Broken {
				fails = min(fails, c.settled)
			}
			out[p.Name], calls = c, append(calls, a...)
		}
		return end, fails, out, calls
	}
	end, fails, out, calls := follow(stop)
	if stop == never {
		stop = fails
		deadline = put(deadline, t, out)
		if deadline < min(stop, end) {
			stop = deadline
		}
		if c := m.Cancel; c >= t && c < min(stop, end) && !m.committed(n) {
			stop, wished = c, true
		}
		if stop < never {
			end, _, out, calls = follow(stop)
		}
	}
	if stop < never {
		end = max(end, stop) // nobody may be under way
	}
	for name, c := range out {
		*m.steps[name] = c
	}
	m.verdict.Asked = append(m.verdict.Asked, calls...)
	return end, deadline, stop < never, wished
}

// put gives the deadline as what was held since t puts it off.
func put(deadline, t envelope.Instant, courses map[string]course) envelope.Instant {
	var held [][2]envelope.Instant
	for _, c := range courses {
		for _, h := range c.held {
			if h[0] >= t {
				held = append(held, h)
			}
		}
	}
	slices.SortFunc(held, func(a, b [2]envelope.Instant) int { return int(a[0] - b[0]) })
	upTo := t // all before has been added
	for _, h := range held {
		if h[0] >= deadline {
			break
		}
		if from := max(h[0], upTo); h[1] > from {
			deadline += h[1] - from
			upTo = h[1]
		}
	}
	return deadline
}

// committed tells that a point of no return is asked for in a stage or was
// before: nobody can cancel any more.
func (m *model) committed(n int) bool {
	for i := range n + 1 {
		for _, p := range m.Plan.Stages[i] {
			if p.Final && m.steps[p.Name].phase != Skipped {
				return true
			}
		}
	}
	return false
}

func (m *model) holds(w when) (holds, err bool) {
	if w.Step != "" {
		return m.steps[w.Step].phase == Done, false
	}
	return w.Const, w.Fails
}

func (m *model) approval(p *definition.Step, t, stop envelope.Instant) (course, []asked) {
	c := *m.steps[p.Name]
	c.attempt++
	a := m.Fates[p.Name].answer(false, c.attempt)
	c.phase, c.settled = Done, after(t, a.After)
	if a.Silent {
		c.phase, c.settled = Broken, after(t, p.Timeout)
	} else if m.Fates[p.Name].Refused {
		c.phase = Broken
	}
	if stop < c.settled {
		c.phase, c.settled = Broken, stop
	}
	return c, []asked{{t, p.Name, false, c.attempt}}
}

// back undoes what may have been done, the last step first.
func (m *model) back(t envelope.Instant, wished bool, retries []time.Duration) {
	for _, stage := range slices.Backward(m.Plan.Stages) {
		for _, p := range slices.Backward(stage) {
			c, u := m.steps[p.Name], m.undos[p.Name]
			if p.Undo == nil || c.phase != Done && !c.uncertain {
				continue
			}
			for u.phase != Done {
				var calls []asked
				*u, calls = m.run(*u, p.Name, true, p.Undo.Timeout, p.Undo.Retry, t, never)
				m.verdict.Asked = append(m.verdict.Asked, calls...)
				t = u.settled
				if u.phase == Done {
					break
				}
				m.verdict.Escalate++
				m.verdict.Status = CompensationFailed
				if len(retries) == 0 {
					m.abandoned(t)
					return
				}
				again := after(t, retries[0])
				retries = retries[1:]
				if first(u.late, t) < again {
					u.phase = Done
				}
				t = again
			}
		}
	}
	m.verdict.Status, m.verdict.At = Failed, t
	if wished {
		m.verdict.Status = Cancelled
	}
}

// confirm waits for the canonical state from t on.
func (m *model) confirm(t envelope.Instant) {
	m.verdict.Status, m.verdict.At = Completed, t
	if m.Plan.Confirm.If == nil {
		return
	}
	good := false
	for _, c := range m.Changes {
		if c.At <= t {
			good = c.Good
		}
	}
	if good {
		return
	}
	agrees := never
	for _, c := range m.Changes {
		if c.At > t && c.Good {
			agrees = min(agrees, c.At)
		}
	}
	asked := after(t, m.Plan.Confirm.Within)
	given := after(asked, m.Plan.Confirm.Within)
	if agrees > asked {
		m.verdict.Refreshes++
	}
	m.verdict.At = agrees
	if agrees > given {
		m.verdict.Status, m.verdict.At = Unconfirmed, given
	}
}
