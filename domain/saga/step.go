package saga

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// New makes a saga of a command. It waits until it is begun.
func New(plan *definition.Command, fingerprint, id string, input []canonical.Named, now envelope.Instant) *Saga {
	s := &Saga{ID: id, Command: plan.Name, Input: input, Plan: fingerprint, Status: Queued, Round: 1, Accepted: now, Stage: -1}
	for _, stage := range plan.Stages {
		for _, p := range stage {
			s.Steps = append(s.Steps, Step{Name: p.Name, Approval: p.Kind == definition.Approve, Do: Leg{Phase: Idle}, Undo: Leg{Phase: Idle}})
		}
	}
	return s
}

// unmet tells why a saga may not begin on an entity as it is; nil if it may.
func (s *Saga) unmet(plan *definition.Command, entity Entity, now envelope.Instant) *Reason {
	if plan.Require == nil {
		return nil
	}
	x := *s
	x.Entity = entity
	m := machine{Saga: &x, plan: plan, now: now}
	holds, err := plan.Require.Holds(m.vars())
	switch {
	case err != nil:
		return &Reason{Kind: failure.KindOf(err), Detail: fmt.Sprintf("what it requires, %s: %v", plan.Require.Source(), err)}
	case !holds:
		return &Reason{Kind: failure.Conflict, Detail: fmt.Sprintf("it requires %s, which does not hold for version %d", plan.Require.Source(), entity.Version)}
	}
	return nil
}

// Begin takes the first steps of a saga that was queued, on an entity as it is.
func (s *Saga) Begin(plan *definition.Command, entity Entity, now envelope.Instant) []Effect {
	s.Status, s.Began, s.Entity = Running, now, entity
	m := machine{Saga: s, plan: plan, now: now}
	m.limit(plan.Deadline)
	m.forward()
	return m.effects
}

// Take gives an input to a saga. Inputs that come too late, or again, change
// nothing and have no effects.
func (s *Saga) Take(plan *definition.Command, in Input, now envelope.Instant) []Effect {
	if s.Status.Final() {
		return nil
	}
	m := machine{Saga: s, plan: plan, now: now}
	switch in := in.(type) {
	case Reply:
		m.reply(in)
	case Fired:
		m.fired(in.Timer)
	case Decision:
		m.decision(in)
	case Cancel:
		m.cancel(in)
	case Changed:
		m.changed(in.Entity)
	case Retry:
		m.again(in)
	case Abandon:
		m.abandon(in)
	}
	m.pace()
	return m.effects
}

// machine is a saga while it takes an input.
type machine struct {
	*Saga
	plan    *definition.Command
	now     envelope.Instant
	effects []Effect
}

func (m *machine) do(e Effect) { m.effects = append(m.effects, e) }

func (m *machine) set(t Timer, wait time.Duration) { m.do(Set{t, after(m.now, wait)}) }

func after(t envelope.Instant, d time.Duration) envelope.Instant {
	return t + envelope.Instant(d.Microseconds())
}

// own is one of the saga's own timers.
func (m *machine) own(p Purpose) Timer { return Timer{Purpose: p, Attempt: m.Round} }

// limit gives the steps so much time.
func (m *machine) limit(d time.Duration) {
	m.Due, m.Left = after(m.now, d), 0
	m.set(m.own(Deadline), d)
}

func (m *machine) unlimited() {
	m.Due, m.Left = 0, 0
	m.do(Clear{m.own(Deadline)})
}

// pace lets that time run while no call is held, and only then: what is paused on
// purpose, or because a back end is down, is not to be undone for that.
func (m *machine) pace() {
	if m.Status != Running || m.Stopping {
		return
	}
	held := slices.ContainsFunc(m.Steps, func(s Step) bool { return s.Do.Held })
	switch {
	case held && m.Due != 0:
		left := time.Duration(max(m.Due-m.now, 0)) * time.Microsecond
		m.unlimited()
		m.Left = left
	case !held && m.Due == 0:
		m.limit(m.Left)
	}
}

// find gives a step of the saga and of its plan.
func (m *machine) find(name string) (*Step, *definition.Step) {
	p, ok := m.plan.Step(name)
	if !ok {
		return nil, nil
	}
	return m.step(name), p
}

func (s *Saga) step(name string) *Step {
	for i := range s.Steps {
		if s.Steps[i].Name == name {
			return &s.Steps[i]
		}
	}
	return nil
}

func (s *Step) leg(undo bool) *Leg {
	if undo {
		return &s.Undo
	}
	return &s.Do
}

// tries are the attempts that count.
func (l *Leg) tries() int { return int(l.Attempt - l.Spared) }

// uncertain notes that an attempt may have had its effect.
func (s *Step) uncertain(undo bool) {
	s.leg(undo).Uncertain = true
	if !undo {
		s.Uncertain = true
	}
}

// forward begins stages until one has something under way, or the plan is
// through, or something has failed.
func (m *machine) forward() {
	for m.Stage++; int(m.Stage) < len(m.plan.Stages); m.Stage++ {
		for _, p := range m.plan.Stages[m.Stage] {
			if m.Stopping {
				break
			}
			m.begin(m.step(p.Name), p)
		}
		if !m.stageSettled() {
			return
		}
		if m.Stopping {
			m.backward()
			return
		}
	}
	m.Stage = int32(len(m.plan.Stages))
	m.confirm()
}

// begin takes the first attempt of a step, if it is needed.
func (m *machine) begin(s *Step, p *definition.Step) {
	vars := m.vars()
	if p.When != nil {
		holds, err := p.When.Holds(vars)
		if err != nil {
			m.broken(s, failure.KindOf(err), fmt.Sprintf("condition %s: %v", p.When.Source(), err))
			return
		}
		if !holds {
			s.Do.Phase = Skipped
			return
		}
	}
	args, err := evaluate(p.With, vars)
	if err != nil {
		m.broken(s, failure.KindOf(err), err.Error())
		return
	}
	s.Do.Args = args
	m.attempt(s, p, false)
}

// attempt makes the next attempt in one direction.
func (m *machine) attempt(s *Step, p *definition.Step, undo bool) {
	leg := s.leg(undo)
	leg.Phase = Asked
	leg.Attempt++
	c := Call{
		Step: s.Name, Undo: undo, Attempt: leg.Attempt, Key: m.Key(s.Name, undo), Kind: p.Kind,
		Connection: p.Connection, Operation: p.Operation, Args: leg.Args, Timeout: p.Timeout,
	}
	retry := p.Retry
	if undo {
		c.Operation, c.Timeout = p.Undo.Operation, p.Undo.Timeout
		retry = p.Undo.Retry
	}
	c.Uncertain = leg.Uncertain
	c.Last, c.Escalates, c.Cause = leg.tries() >= retry.Attempts, undo || m.final(), m.Cause
	with := p.With
	if undo {
		with = p.Undo.With
	}
	for _, a := range with {
		if a.Masked {
			c.Masked = append(c.Masked, a.Name)
		}
	}
	m.do(c)
	m.set(Timer{Attempt, s.Name, undo, leg.Attempt}, c.Timeout)
}

func (m *machine) reply(r Reply) {
	s, p := m.find(r.Step)
	if s == nil {
		return
	}
	leg := s.leg(r.Undo)
	if leg.Phase == Idle || r.Attempt < 1 || r.Attempt > leg.Attempt {
		return // to nothing that was asked
	}
	if r.Uncertain {
		s.uncertain(r.Undo) // even if nobody waits for it any more
	}
	current := leg.Phase == Asked && r.Attempt == leg.Attempt
	switch {
	case leg.Phase == Broken && r.Kind == "" && !r.Held && (r.Undo || m.Status != Compensating && m.Status != CompensationFailed):
		// It was done after all: nobody need ask for it again.
		leg.Phase = Done
		if !r.Undo {
			s.Output = r.Output
		}
	case leg.Phase.settled():
		// What was given up and was done after all is uncertain already.
	case r.Kind == "" && !r.Held:
		m.clear(s, r.Undo)
		if !r.Undo {
			s.Output = r.Output
		}
		leg.Phase, leg.Kind, leg.Detail = Done, "", ""
		m.settled(r.Undo)
	case !current:
	case r.Unbegun && (leg.Held || leg.Recalled && (r.Undo || !m.Stopping)):
		// Who held it is gone, and who came after would not begin it so late; or it
		// was recalled.
		m.clear(s, r.Undo)
		leg.Spared++
		m.attempt(s, p, r.Undo)
	case r.Held && (leg.Held || leg.Recalled): // it comes again
	case r.Held:
		m.clear(s, r.Undo)
		leg.Held = true
		m.set(Timer{Recall, s.Name, r.Undo, leg.Attempt}, holdFor)
		if m.Stopping && !r.Undo {
			m.withdraw(s, p)
		}
	default:
		m.failed(s, p, r)
	}
}

// clear ends the wait of a leg, with its timer.
func (m *machine) clear(s *Step, undo bool) {
	leg := s.leg(undo)
	held := leg.Held
	leg.Held, leg.Recalled = false, false
	switch {
	case held:
		m.do(Clear{Timer{Recall, s.Name, undo, leg.Attempt}})
	case leg.Phase == Asked:
		m.do(Clear{Timer{Attempt, s.Name, undo, leg.Attempt}})
	case leg.Phase == Waiting:
		m.do(Clear{Timer{Again, s.Name, undo, leg.Attempt}})
	}
}

// failed handles the failure of the attempt under way.
func (m *machine) failed(s *Step, p *definition.Step, r Reply) {
	leg := s.leg(r.Undo)
	m.clear(s, r.Undo)
	leg.Kind, leg.Detail = r.Kind, r.Detail
	retry := p.Retry
	if r.Undo {
		retry = p.Undo.Retry
	}
	if p.Kind != definition.Approve && tryAgain(r.Kind) && leg.tries() < retry.Attempts && (r.Undo || !m.Stopping) {
		leg.Phase = Waiting
		m.set(Timer{Again, s.Name, r.Undo, leg.Attempt}, max(m.wait(retry, s.Name, r.Undo, int32(leg.tries())), r.After))
		return
	}
	if r.Undo {
		leg.Phase = Broken
		m.settled(true)
		return
	}
	m.broken(s, r.Kind, r.Detail)
	m.settled(false)
}

// tryAgain tells whether an attempt that failed so may be made again. With
// credentials that were refused it may: they are renewed beside the saga.
func tryAgain(k failure.Kind) bool { return k.Retryable() || k == failure.Auth }

// wait is the time between an attempt and the next: exponential, and cut short
// by up to half, so that those who failed together do not come back together.
func (m *machine) wait(r definition.Retry, step string, undo bool, attempt int32) time.Duration {
	d, most := r.First, max(r.First, r.Max)
	for i := int32(1); i < attempt && d < most; i++ {
		d = min(2*d, most)
	}
	h := fnv.New64a()
	h.Write([]byte(m.Key(step, undo) + "/" + strconv.Itoa(int(attempt))))
	half := uint64(d / 2)
	return d - time.Duration(h.Sum64()>>1%(half+1))
}

// broken gives a step up, and with it the plan.
func (m *machine) broken(s *Step, kind failure.Kind, detail string) {
	s.Do.Phase, s.Do.Kind, s.Do.Detail = Broken, kind, detail
	m.stop(Reason{Step: s.Name, Kind: kind, Detail: detail})
}

// stop has no further step begun, and no further attempt made.
func (m *machine) stop(why Reason) {
	if m.Reason == nil || !m.Stopping {
		m.Reason = &why
	}
	if m.Stopping {
		return
	}
	m.Stopping = true
	m.unlimited()
	for i := range m.Steps {
		s := &m.Steps[i]
		p, _ := m.plan.Step(s.Name)
		switch {
		case s.Do.Phase == Waiting:
			m.clear(s, false)
			s.Do.Phase = Broken
		case s.Do.Phase == Asked && p.Kind == definition.Approve:
			m.clear(s, false)
			m.do(Withdraw{Step: s.Name, Attempt: s.Do.Attempt})
			s.Do.Phase = Broken
			s.Do.Kind, s.Do.Detail = failure.Conflict, "withdrawn"
		case s.Do.Phase == Asked && s.Do.Held:
			m.withdraw(s, p)
		}
	}
}

// withdraw takes a call back that is held. It may have begun by now; so it is
// waited for like any other.
func (m *machine) withdraw(s *Step, p *definition.Step) {
	m.clear(s, false)
	m.takeBack(s, p, false)
}

// takeBack withdraws a call, and waits for what is said to that.
func (m *machine) takeBack(s *Step, p *definition.Step, undo bool) {
	leg, timeout := s.leg(undo), p.Timeout
	if undo {
		timeout = p.Undo.Timeout
	}
	m.do(Withdraw{s.Name, undo, leg.Attempt, p.Connection})
	m.set(Timer{Attempt, s.Name, undo, leg.Attempt}, timeout)
}

// holdFor is how long a call may be held before it is asked for anew: what holds
// it is kept for a week (package topology), and a saga must not wait for what
// nobody knows of any more.
var holdFor = 24 * time.Hour

func (m *machine) stageSettled() bool {
	if m.Stage < 0 || int(m.Stage) >= len(m.plan.Stages) {
		return true
	}
	for _, p := range m.plan.Stages[m.Stage] {
		if ph := m.step(p.Name).Do.Phase; !ph.settled() && !(ph == Idle && m.Stopping) {
			return false
		}
	}
	return true
}

// settled goes on after a leg has settled.
func (m *machine) settled(undo bool) {
	switch {
	case undo:
		m.backward()
	case m.Status != Running || !m.stageSettled():
	case m.Stopping:
		m.backward()
	default:
		m.forward()
	}
}

// final tells whether the point of no return is behind.
func (m *machine) final() bool {
	for i := range m.Steps {
		if p, _ := m.plan.Step(m.Steps[i].Name); p.Final && (m.Steps[i].Do.Phase == Done || m.Steps[i].Uncertain) {
			return true
		}
	}
	return false
}

// backward undoes one thing after the other, the last stage first, or has a
// person look if the point of no return is behind.
func (m *machine) backward() {
	if m.Status != Compensating {
		if m.final() {
			m.end(Stuck)
			return
		}
		m.Status = Compensating
	}
	for i := len(m.Steps) - 1; i >= 0; i-- {
		s := &m.Steps[i]
		p, _ := m.plan.Step(s.Name)
		switch s.Undo.Phase {
		case Done, Skipped:
			continue
		case Broken:
			m.end(CompensationFailed)
			return
		case Asked, Waiting:
			return
		}
		if p.Undo == nil || s.Do.Phase != Done && !s.Uncertain {
			s.Undo.Phase = Skipped
			continue
		}
		vars := m.vars()
		vars["args"] = members(s.Do.Args)
		args, err := evaluate(p.Undo.With, vars)
		if err != nil {
			s.Undo.Phase, s.Undo.Kind, s.Undo.Detail = Broken, failure.KindOf(err), err.Error()
			m.end(CompensationFailed)
			return
		}
		s.Undo.Args = args
		m.attempt(s, p, true)
		return
	}
	if m.Reason != nil && m.Reason.Wished {
		m.end(Cancelled)
	} else {
		m.end(Failed)
	}
}

// end comes to a status in which nothing is under way.
func (m *machine) end(to Status) {
	m.Status = to
	switch to {
	case Stuck, CompensationFailed:
		why := *m.Reason
		for i := range m.Steps {
			if u := m.Steps[i].Undo; u.Phase == Broken {
				why = Reason{Step: m.Steps[i].Name, Kind: u.Kind, Detail: u.Detail}
			}
		}
		m.do(Escalate{why})
	case Completed:
		m.Reason, m.Ended = nil, m.now
	default:
		m.Ended = m.now
	}
}

// confirm waits for the canonical state to agree, which it may do already.
func (m *machine) confirm() {
	m.unlimited()
	if m.agreed() {
		m.end(Completed)
		return
	}
	m.Status = Confirming
	m.set(m.own(Confirm), m.plan.Confirm.Within)
}

func (m *machine) agreed() bool {
	c := m.plan.Confirm.If
	if c == nil {
		return true
	}
	holds, err := c.Holds(m.vars())
	if err != nil {
		m.Reason = &Reason{Kind: failure.KindOf(err), Detail: fmt.Sprintf("confirmation %s: %v", c.Source(), err)}
	}
	return holds && err == nil
}

func (m *machine) changed(e Entity) {
	if e.Version <= m.Entity.Version {
		return
	}
	m.Entity = e
	if (m.Status == Confirming || m.Status == Refreshing) && m.agreed() {
		m.do(Clear{m.own(Confirm)})
		m.end(Completed)
	}
}

func (m *machine) fired(t Timer) {
	switch t.Purpose {
	case Deadline:
		if t == m.own(Deadline) && m.Status == Running && !m.Stopping && m.Due != 0 {
			m.stop(Reason{Kind: failure.Transient, Detail: fmt.Sprintf("not through within %s", m.plan.Deadline)})
			m.settled(false)
		}
	case Confirm:
		switch {
		case t != m.own(Confirm):
		case m.Status == Confirming:
			m.Status = Refreshing
			m.Round++
			m.do(Refresh{})
			m.set(m.own(Confirm), m.plan.Confirm.Within)
		case m.Status == Refreshing:
			if m.Reason == nil {
				m.Reason = &Reason{Kind: failure.Transient, Detail: fmt.Sprintf("not confirmed within %s, nor within as long after its sources were asked: %s", m.plan.Confirm.Within, m.plan.Confirm.If.Source())}
			}
			m.end(Unconfirmed)
		}
	case Attempt, Again, Recall:
		s, p := m.find(t.Step)
		if s == nil || s.leg(t.Undo).Attempt != t.Attempt {
			return
		}
		leg := s.leg(t.Undo)
		switch {
		case t.Purpose == Again && leg.Phase == Waiting:
			m.attempt(s, p, t.Undo)
		case t.Purpose == Recall && leg.Held:
			leg.Held, leg.Recalled = false, true
			m.takeBack(s, p, t.Undo)
		case t.Purpose == Attempt && leg.Phase == Asked && !leg.Held:
			if p.Kind != definition.Approve {
				s.uncertain(t.Undo)
			}
			timeout := p.Timeout
			if t.Undo {
				timeout = p.Undo.Timeout
			}
			m.failed(s, p, Reply{Step: s.Name, Undo: t.Undo, Attempt: t.Attempt, Kind: failure.Transient, Detail: fmt.Sprintf("no answer within %s", timeout)})
		}
	}
}

func (m *machine) decision(d Decision) {
	s, p := m.find(d.Step)
	if s == nil || p.Kind != definition.Approve || s.Do.Phase != Asked {
		return
	}
	m.clear(s, false)
	if d.Approved {
		s.Do.Phase = Done
		s.Output = []canonical.Named{{Name: "by", Value: canonical.String(d.By)}}
	} else {
		detail := "refused by " + d.By
		if d.Detail != "" {
			detail += ": " + d.Detail
		}
		m.broken(s, failure.Conflict, detail)
	}
	m.settled(false)
}

// cancel stops a saga whose steps are not all done and that has not passed the
// point of no return.
func (m *machine) cancel(c Cancel) {
	detail := "cancelled by " + c.By
	if c.Detail != "" {
		detail += ": " + c.Detail
	}
	if m.Status == Queued {
		m.Reason = &Reason{Kind: failure.Conflict, Detail: detail, Wished: true}
		m.end(Cancelled)
		return
	}
	if m.Status != Running || m.Stopping || m.finalAsked() {
		return
	}
	m.stop(Reason{Kind: failure.Conflict, Detail: detail, Wished: true})
	m.settled(false)
}

func (m *machine) finalAsked() bool {
	for i := range m.Steps {
		if p, _ := m.plan.Step(m.Steps[i].Name); p.Final && m.Steps[i].Do.Phase != Idle && m.Steps[i].Do.Phase != Skipped {
			return true
		}
	}
	return false
}

// again tries anew what waits for a person: what could not be undone, or what
// could not be done after the point of no return.
func (m *machine) again(Retry) {
	undo := m.Status == CompensationFailed
	switch m.Status {
	case Stuck:
		m.Status, m.Stopping = Running, false
		m.Round++
		m.limit(m.plan.Deadline)
	case CompensationFailed:
		m.Status = Compensating
	default:
		return
	}
	for i := range m.Steps {
		leg := m.Steps[i].leg(undo)
		if leg.Phase == Broken {
			*leg = Leg{Phase: Idle, Attempt: leg.Attempt, Spared: leg.Spared}
		}
	}
	if undo {
		m.backward()
		return
	}
	m.resume()
}

// abandon ends what waits for a person. What went wrong stays the reason.
func (m *machine) abandon(a Abandon) {
	if m.Status != Stuck && m.Status != CompensationFailed {
		return
	}
	detail := "abandoned by " + a.By
	if a.Detail != "" {
		detail += ": " + a.Detail
	}
	m.Reason.Detail += "; " + detail
	m.end(Abandoned)
}

// resume goes on with the stage that was stuck: what is settled in it stays.
func (m *machine) resume() {
	for _, p := range m.plan.Stages[m.Stage] {
		if s := m.step(p.Name); s.Do.Phase == Idle && !m.Stopping {
			m.begin(s, p)
		}
	}
	if m.stageSettled() {
		m.settled(false)
	}
}

// vars are what expressions see: input, entity and steps.
func (m *machine) vars() map[string]any {
	refs := map[string]any{}
	for _, r := range m.Entity.Refs {
		refs[r.Source] = r.Key
	}
	steps := map[string]any{}
	for i := range m.Steps {
		if s := &m.Steps[i]; s.Do.Phase == Done {
			steps[s.Name] = members(s.Output)
		}
	}
	return map[string]any{
		"input": members(m.Input),
		"entity": map[string]any{
			"resource": m.Entity.Resource, "id": m.Entity.ID, "version": m.Entity.Version, "state": m.Entity.State,
			"fields": members(m.Entity.Fields), "refs": refs,
		},
		"steps": steps,
	}
}

func members(values []canonical.Named) map[string]any {
	out := make(map[string]any, len(values))
	for _, v := range values {
		out[v.Name] = v.Value.Any()
	}
	return out
}
