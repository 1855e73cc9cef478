package authority

import (
	"slices"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// MaxMoves is how many lifecycle claims an entity keeps apart. Within them a
// late claim takes its place in time and the state is folded anew, so that the
// order of arrival does not matter; older ones are folded into the base state,
// and a claim from before the base is rejected as too late.
const MaxMoves = 24

// joinMove takes a signal's claim to the lifecycle state into the moves. Only
// sources in the field's authority list may move it.
func joinMove(r *definition.Resource, e *canonical.Entity, s *signal.Signal, stamp canonical.Stamp) (bool, *canonical.Rejection) {
	i := slices.IndexFunc(s.Fields, func(n canonical.Named) bool { return n.Name == r.Lifecycle.Field })
	if i < 0 || s.Fields[i].Value == canonical.Null {
		return false, nil
	}
	f, ok := r.Field(r.Lifecycle.Field)
	if !ok || f.Rank(s.Source) < 0 {
		return false, nil
	}
	move := canonical.Move{To: s.Fields[i].Value.Text(), Source: s.Source, Stamp: stamp}
	if e.BaseStamp != nil && stamp.Compare(*e.BaseStamp) <= 0 {
		return false, &canonical.Rejection{From: e.Base, To: move.To, Source: move.Source, At: stamp.OccurredAt, Signal: stamp.Signal}
	}
	at, known := slices.BinarySearchFunc(e.Moves, stamp, func(m canonical.Move, t canonical.Stamp) int { return m.Stamp.Compare(t) })
	if known {
		return false, nil
	}
	e.Moves = slices.Insert(e.Moves, at, move)
	if len(e.Moves) > MaxMoves {
		oldest := e.Moves[0]
		if e.BaseStamp == nil {
			e.Base = r.Lifecycle.Initial
		}
		if r.Lifecycle.Allows(e.Base, oldest.To) {
			e.Base = oldest.To
		}
		e.BaseStamp = &oldest.Stamp
		e.Moves = slices.Delete(e.Moves, 0, 1)
	}
	return true, nil
}

// fold runs the moves through the state machine in stamp order. Illegal moves
// are recorded as rejections and leave the state as it is.
func fold(r *definition.Resource, e *canonical.Entity) {
	if r.Lifecycle == nil {
		e.State, e.StateSince, e.Rejections = "", 0, nil
		return
	}
	state := r.Lifecycle.Initial
	e.StateSince = 0
	if e.BaseStamp != nil {
		state, e.StateSince = e.Base, e.BaseStamp.OccurredAt
	}
	e.Rejections = e.Rejections[:0]
	for i := range e.Moves {
		m := &e.Moves[i]
		if !r.Lifecycle.Allows(state, m.To) {
			e.Rejections = append(e.Rejections, canonical.Rejection{From: state, To: m.To, Source: m.Source, At: m.Stamp.OccurredAt, Signal: m.Stamp.Signal})
			continue
		}
		if m.To != state {
			state, e.StateSince = m.To, m.Stamp.OccurredAt
		}
	}
	e.State = state
}

// stateWinner gives the state as a field value; its winner is the newest
// contribution of the source whose move led there, -1 for the initial state.
func stateWinner(e *canonical.Entity) winner {
	w := winner{value: canonical.String(e.State), contribution: -1}
	for i := len(e.Moves) - 1; i >= 0; i-- {
		if e.Moves[i].To != e.State {
			continue
		}
		for j := range e.Contributions {
			if e.Contributions[j].Source == e.Moves[i].Source {
				w.contribution = int32(j)
				break
			}
		}
		break
	}
	return w
}
