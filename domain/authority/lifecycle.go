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
// and a claim from before the base is rejected as too late. As many claims of
// sources without authority are kept beside them: they move nothing, unless
// the rules come to let them.
const MaxMoves = 24

// joinMove takes a signal's claim to the lifecycle state into the moves. Moves
// are kept whoever makes them; fold asks who may.
func joinMove(r *definition.Resource, e *canonical.Entity, s *signal.Signal, stamp canonical.Stamp) (bool, *canonical.Rejection) {
	i := slices.IndexFunc(s.Fields, func(n canonical.Named) bool { return n.Name == r.Lifecycle.Field })
	if i < 0 || s.Fields[i].Value == canonical.Null {
		return false, nil
	}
	f, ok := r.Field(r.Lifecycle.Field)
	if !ok {
		return false, nil
	}
	may := f.Rank(s.Source) >= 0
	move := canonical.Move{To: s.Fields[i].Value.Text(), Source: s.Source, Stamp: stamp}
	if e.BaseStamp != nil && stamp.Compare(*e.BaseStamp) <= 0 {
		if !may {
			return false, nil
		}
		return false, &canonical.Rejection{From: e.Base, To: move.To, Source: move.Source, At: stamp.OccurredAt, Signal: stamp.Signal}
	}
	at, known := slices.BinarySearchFunc(e.Moves, stamp, func(m canonical.Move, t canonical.Stamp) int { return m.Stamp.Compare(t) })
	if known {
		same := e.Moves[at].To == move.To // else the mapping reads the signal otherwise now
		e.Moves[at] = move
		return !same, nil
	}
	e.Moves = slices.Insert(e.Moves, at, move)
	bound(r, f, e, may)
	return true, nil
}

// bound keeps the number of moves that may, or may not, move the entity within
// MaxMoves. The oldest that may goes into the base, and with it what is older.
func bound(r *definition.Resource, f *definition.Field, e *canonical.Entity, may bool) {
	n, oldest := 0, -1
	for i := range e.Moves {
		if (f.Rank(e.Moves[i].Source) >= 0) == may {
			n++
			if oldest < 0 {
				oldest = i
			}
		}
	}
	if n <= MaxMoves {
		return
	}
	if !may {
		e.Moves = slices.Delete(e.Moves, oldest, oldest+1)
		return
	}
	m := e.Moves[oldest]
	if e.BaseStamp == nil {
		e.Base = r.Lifecycle.Initial
	}
	if r.Lifecycle.Allows(e.Base, m.To) {
		e.Base = m.To
	}
	e.BaseStamp = &m.Stamp
	e.Moves = slices.Delete(e.Moves, 0, oldest+1)
}

// fold runs the moves through the state machine in stamp order. Illegal moves
// are recorded as rejections and leave the state as it is. It gives the move
// that the state rests on, nil if that is the base or the initial state.
func fold(r *definition.Resource, e *canonical.Entity) *canonical.Move {
	if r.Lifecycle == nil {
		e.State, e.StateSince, e.Rejections = "", 0, nil
		return nil
	}
	f, _ := r.Field(r.Lifecycle.Field)
	state := r.Lifecycle.Initial
	e.StateSince = 0
	if e.BaseStamp != nil {
		state, e.StateSince = e.Base, e.BaseStamp.OccurredAt
	}
	e.Rejections = e.Rejections[:0]
	var last *canonical.Move
	for i := range e.Moves {
		m := &e.Moves[i]
		if f == nil || f.Rank(m.Source) < 0 {
			continue
		}
		if !r.Lifecycle.Allows(state, m.To) {
			e.Rejections = append(e.Rejections, canonical.Rejection{From: state, To: m.To, Source: m.Source, At: m.Stamp.OccurredAt, Signal: m.Stamp.Signal})
			continue
		}
		if m.To != state {
			state, e.StateSince = m.To, m.Stamp.OccurredAt
		}
		last = m
	}
	e.State = state
	return last
}

// stateWinner gives the state as a field value; its winner is the contribution
// that made the move which the state rests on, -1 where none is kept.
func stateWinner(e *canonical.Entity, m *canonical.Move) winner {
	w := winner{value: canonical.String(e.State), contribution: -1}
	if m != nil {
		w.contribution = contributor(e, m)
	}
	return w
}

// contributor finds the contribution that made a move: the one that refers to
// its stamp still, else that of the move's source with the newest claim.
func contributor(e *canonical.Entity, m *canonical.Move) int32 {
	found := int32(-1)
	var newest canonical.Stamp
	for i := range e.Contributions {
		c := &e.Contributions[i]
		if c.Source != m.Source || len(c.Stamps) == 0 {
			continue
		}
		if slices.Contains(c.Stamps, m.Stamp) {
			return int32(i)
		}
		if s := c.Stamps[len(c.Stamps)-1]; found < 0 || s.Compare(newest) > 0 {
			found, newest = int32(i), s
		}
	}
	return found
}
