package authority

import (
	"cmp"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// claim is one live claim for a field.
type claim struct {
	contribution int32
	rank         int
	value        canonical.Value
	stamp        canonical.Stamp
}

// winner is the outcome of a policy.
type winner struct {
	value        canonical.Value
	contribution int32
	confidence   float64
}

// verdict says why a claim counts or does not.
type verdict string

const (
	counts       verdict = ""
	notAuthority verdict = "not an authority for this field"
	ended        verdict = "its record was deleted"
	tooOld       verdict = "older than the field's maxAge"
)

// cursors go over the registers of contributions, in step with the fields of a
// resource: both are sorted by name.
type cursors []int

// liveClaims appends the claims that count for a field, in contribution order.
// It is asked for one field after the other, in the order of their names.
func (at cursors) liveClaims(dst []claim, name string, authority []string, maxAge time.Duration, e *canonical.Entity) []claim {
	for i := range e.Contributions {
		c := &e.Contributions[i]
		rank := slices.Index(authority, c.Source)
		if rank < 0 {
			continue
		}
		j := at[i]
		for j < len(c.Registers) && c.Registers[j].Name != name && c.Registers[j].Name < name {
			j++
		}
		at[i] = j
		if j == len(c.Registers) || c.Registers[j].Name != name {
			continue
		}
		if v, s, ok := c.LiveRegister(j); ok && young(s, maxAge, e.SeenAt) {
			dst = append(dst, claim{int32(i), rank, v, s})
		}
	}
	return dst
}

// effective is the time a claim is dated by: when the source says that it
// happened, or when it was received if the source does not say.
func effective(s canonical.Stamp) envelope.Instant {
	if s.OccurredAt == 0 {
		return s.ReceivedAt
	}
	return s.OccurredAt
}

// young measures a claim's age against the newest fact of the entity and not
// against a clock, so that a replay decides as the first run did.
func young(s canonical.Stamp, maxAge time.Duration, seen envelope.Instant) bool {
	return maxAge <= 0 || int64(seen)-int64(effective(s)) <= maxAge.Microseconds()
}

// byTime orders claims of different sources: by their time, then the less
// authoritative first, then by stamp. Sequences of different sources cannot be
// compared, so they come last and only make the order total.
func byTime(a, b claim) int {
	return cmp.Or(cmp.Compare(effective(a.stamp), effective(b.stamp)), -cmp.Compare(a.rank, b.rank), a.stamp.Compare(b.stamp))
}

// byRank orders claims by authority, the later of equally ranked ones first.
func byRank(a, b claim) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), -cmp.Compare(effective(a.stamp), effective(b.stamp)), -a.stamp.Compare(b.stamp))
}

// choose applies the field's policy to its live claims. The claims may be
// reordered.
func choose(f *definition.Field, e *canonical.Entity, claims []claim) (winner, error) {
	if len(claims) == 0 {
		return winner{}, nil
	}
	switch f.Policy {
	case definition.Priority, "":
		return won(slices.MinFunc(claims, byRank)), nil
	case definition.Latest:
		return won(slices.MaxFunc(claims, byTime)), nil
	case definition.Earliest:
		// Of equally old ones the more authoritative.
		return won(slices.MinFunc(claims, func(a, b claim) int {
			return cmp.Or(cmp.Compare(effective(a.stamp), effective(b.stamp)), byRank(a, b))
		})), nil
	}
	slices.SortFunc(claims, byRank)
	switch f.Policy {
	case definition.Max, definition.Min:
		return extreme(f, claims), nil
	case definition.Majority:
		return majority(e, claims), nil
	case definition.Union:
		return union(claims), nil
	case definition.Weighted:
		return weighted(f, e, claims), nil
	case definition.Expression:
		return expression(f, e, claims)
	}
	return winner{}, failure.New(failure.Poison, "resolve field", f.Name, "policy %q is not known", f.Policy)
}

func won(c claim) winner { return winner{value: c.value, contribution: c.contribution} }

// extreme gives the greatest or smallest value; null loses to any value.
func extreme(f *definition.Field, claims []claim) winner {
	best := claims[0]
	for _, c := range claims[1:] {
		if c.value == canonical.Null {
			continue
		}
		d := compareValues(f.Type.Kind, c.value, best.value)
		if f.Policy == definition.Min {
			d = -d
		}
		if best.value == canonical.Null || d > 0 {
			best = c
		}
	}
	return won(best)
}

// compareValues orders two values of one type.
func compareValues(k canonical.Kind, a, b canonical.Value) int {
	switch k {
	case canonical.KindInt:
		x, _ := a.Any().(int64)
		y, _ := b.Any().(int64)
		return cmp.Compare(x, y)
	case canonical.KindFloat:
		return cmp.Compare(number(a), number(b))
	case canonical.KindDecimal:
		x, okx := new(big.Rat).SetString(a.Text())
		y, oky := new(big.Rat).SetString(b.Text())
		if okx && oky {
			return x.Cmp(y)
		}
	case canonical.KindTimestamp:
		x, errx := time.Parse(time.RFC3339Nano, a.Text())
		y, erry := time.Parse(time.RFC3339Nano, b.Text())
		if errx == nil && erry == nil {
			return x.Compare(y)
		}
	}
	return cmp.Compare(a.Text(), b.Text())
}

func number(v canonical.Value) float64 {
	switch n := v.Any().(type) {
	case int64:
		return float64(n)
	case float64:
		return n
	case json.Number:
		f, _ := n.Float64()
		return f
	}
	return 0
}

// majority gives the value that most sources claim. A source with several
// records that agree counts once. Of equally supported values the one with the
// most authoritative supporter wins: claims come in that order.
func majority(e *canonical.Entity, claims []claim) winner {
	type vote struct {
		value  canonical.Value
		source string
	}
	cast := make(map[vote]bool, len(claims))
	votes := make(map[canonical.Value]int, len(claims))
	for _, c := range claims {
		v := vote{c.value, e.Contributions[c.contribution].Source}
		if !cast[v] {
			cast[v] = true
			votes[c.value]++
		}
	}
	best, most := claims[0], 0
	for _, c := range claims {
		if votes[c.value] > most {
			best, most = c, votes[c.value]
		}
	}
	return won(best)
}

// union gives the set of all items of all lists, sorted by their JSON text.
func union(claims []claim) winner {
	var items []string
	some := false
	for _, c := range claims {
		list, ok := c.value.Any().([]any)
		some = some || ok
		for _, item := range list {
			if b, err := jcs.Append(nil, item); err == nil {
				items = append(items, string(b))
			}
		}
	}
	if !some { // only nulls
		return won(claims[0])
	}
	slices.Sort(items)
	items = slices.Compact(items)
	b := []byte{'['}
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, item...)
	}
	return winner{value: canonical.Value(append(b, ']')), contribution: claims[0].contribution}
}

// weighted gives the value with the greatest sum of trust × freshness, where
// freshness halves with every HalfLife of age. Confidence is the winner's
// share of the whole weight. Claims come in a fixed order, so that the sums
// are the same to the last bit whatever the order of arrival.
func weighted(f *definition.Field, e *canonical.Entity, claims []claim) winner {
	weight := func(c claim) float64 {
		w := 1.0
		if t, ok := f.Trust[e.Contributions[c.contribution].Source]; ok {
			w = t
		}
		if f.HalfLife > 0 {
			age := float64(int64(e.SeenAt) - int64(effective(c.stamp)))
			w *= math.Exp2(-max(age, 0) / float64(f.HalfLife.Microseconds()))
		}
		return w
	}
	var total, most float64
	best := claims[0]
	for i, c := range claims {
		total += weight(c)
		seen := slices.ContainsFunc(claims[:i], func(o claim) bool { return o.value == c.value })
		if seen {
			continue
		}
		var sum float64
		for _, o := range claims[i:] {
			if o.value == c.value {
				sum += weight(o)
			}
		}
		if sum > most {
			best, most = c, sum
		}
	}
	w := won(best)
	if total > 0 {
		w.confidence = most / total
	}
	return w
}

// expression lets the definition choose. The winner is the first claim, in
// authority order, that has the chosen value.
func expression(f *definition.Field, e *canonical.Entity, claims []claim) (winner, error) {
	public := make([]definition.Claim, len(claims))
	for i, c := range claims {
		o := &e.Contributions[c.contribution]
		public[i] = definition.Claim{Source: o.Source, SourceKey: o.SourceKey, Value: c.value, Stamp: c.stamp, Rank: c.rank}
	}
	v, err := f.Resolve.Choose(public)
	if err != nil {
		return winner{}, failure.Wrap(failure.Validation, "resolve field", f.Name, err)
	}
	w := winner{value: v, contribution: claims[0].contribution}
	for _, c := range claims {
		if c.value == v {
			w.contribution = c.contribution
			break
		}
	}
	return w, nil
}

// leaders gives, for each group, the contribution that decides it.
type leaders map[string]int32

// groupWinners chooses the leader of each group: among the source records with
// a live claim to any of the group's fields, the best by the group's policy,
// dated by the newest such claim.
func groupWinners(r *definition.Resource, e *canonical.Entity) leaders {
	if len(r.Groups) == 0 {
		return nil
	}
	out := make(leaders, len(r.Groups))
	for _, g := range r.Groups {
		var candidates []claim
		for i := range e.Contributions {
			c := &e.Contributions[i]
			rank := slices.Index(g.Authority, c.Source)
			if rank < 0 {
				continue
			}
			best := claim{contribution: -1}
			for _, name := range g.Fields {
				if _, s, ok := c.Claim(name); ok && young(s, g.MaxAge, e.SeenAt) && (best.contribution < 0 || s.Compare(best.stamp) > 0) {
					best = claim{contribution: int32(i), rank: rank, stamp: s}
				}
			}
			if best.contribution >= 0 {
				candidates = append(candidates, best)
			}
		}
		out[g.Name] = -1
		if len(candidates) == 0 {
			continue
		}
		w, _ := choose(&definition.Field{Name: g.Name, Policy: g.Policy}, e, candidates)
		out[g.Name] = w.contribution
	}
	return out
}

// value gives the leader's claim for one field of a group; absent if it makes none.
func (l leaders) value(r *definition.Resource, e *canonical.Entity, f *definition.Field) winner {
	i, ok := l[f.Group]
	if !ok || i < 0 {
		return winner{}
	}
	v, _, ok := e.Contributions[i].Claim(f.Name)
	if !ok {
		return winner{}
	}
	return winner{value: v, contribution: i}
}
