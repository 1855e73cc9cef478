package authority

import (
	"fmt"
	"slices"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
)

// Explanation tells why a field has its value.
type Explanation struct {
	Field string          `json:"field"`
	Value canonical.Value `json:"value"`
	// Rule is the policy in words: "priority: crm, then billing".
	Rule string `json:"rule"`
	// Claims of every source record, the winner first, then by authority. Of
	// the lifecycle field the moves that are kept, then the newest first.
	Claims []ExplainedClaim `json:"claims"`
	// Rejections of lifecycle moves, for the lifecycle field.
	Rejections []canonical.Rejection `json:"rejections,omitempty"`
	Confidence float64               `json:"confidence,omitempty"`
}

// ExplainedClaim is one claim and what became of it.
type ExplainedClaim struct {
	Source     string           `json:"source"`
	SourceKey  string           `json:"sourceKey"`
	Value      canonical.Value  `json:"value"`
	Won        bool             `json:"won"`
	Reason     string           `json:"reason"`
	OccurredAt envelope.Instant `json:"occurredAt"`
	ReceivedAt envelope.Instant `json:"receivedAt"`
	Signal     string           `json:"signal"`
}

// Explain tells for one field who won, who lost and why. ok is false if the
// resource has no such field.
func Explain(r *definition.Resource, e *canonical.Entity, name string) (Explanation, bool) {
	f, ok := r.Field(name)
	if !ok {
		return Explanation{}, false
	}
	authority, policy, maxAge, group := f.Authority, f.Policy, f.MaxAge, ""
	if g := groupOf(r, f); g != nil {
		authority, policy, maxAge, group = g.Authority, g.Policy, g.MaxAge, g.Name
	}
	if policy == "" {
		policy = definition.Priority
	}
	isState := r.Lifecycle != nil && r.Lifecycle.Field == name
	x := Explanation{Field: name, Rule: rule(r, policy, authority, group, maxAge, isState, f)}
	win := int32(-1)
	if field, ok := e.Field(name); ok {
		x.Value, win, x.Confidence = field.Value, field.Winner, field.Confidence
	}
	if isState {
		x.Claims, x.Rejections = moves(f, e), e.Rejections
		return x, true
	}
	type ranked struct {
		ExplainedClaim
		rank int
		c    claim
	}
	var all []ranked
	for i := range e.Contributions {
		c := &e.Contributions[i]
		j, found := searchRegister(c.Registers, name)
		if !found {
			continue
		}
		v, s := c.Registers[j].Value, c.Stamps[c.Registers[j].Stamp]
		rank := slices.Index(authority, c.Source)
		ec := ExplainedClaim{Source: c.Source, SourceKey: c.SourceKey, Value: v, OccurredAt: s.OccurredAt, ReceivedAt: s.ReceivedAt, Signal: s.Signal, Won: int32(i) == win}
		why := counts
		switch _, _, live := c.Claim(name); {
		case rank < 0:
			why, rank = notAuthority, len(authority)
		case !live:
			why = ended
		case !young(s, maxAge, e.SeenAt):
			why = tooOld
		}
		ec.Reason = reason(x, policy, ec, why, win, e, group)
		all = append(all, ranked{ec, rank, claim{int32(i), rank, v, s}})
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		if a.Won != b.Won {
			if a.Won {
				return -1
			}
			return 1
		}
		return byRank(a.c, b.c)
	})
	for _, a := range all {
		x.Claims = append(x.Claims, a.ExplainedClaim)
	}
	return x, true
}

// moves explains the lifecycle field: not what its sources claim last counts,
// but what each of their moves did in its turn.
func moves(f *definition.Field, e *canonical.Entity) []ExplainedClaim {
	rejected := make(map[string]canonical.Rejection, len(e.Rejections))
	for _, x := range e.Rejections {
		rejected[x.Signal] = x
	}
	out := make([]ExplainedClaim, 0, len(e.Moves))
	won := false
	for i := len(e.Moves) - 1; i >= 0; i-- {
		m := &e.Moves[i]
		c := ExplainedClaim{
			Source: m.Source, Value: canonical.String(m.To),
			OccurredAt: m.Stamp.OccurredAt, ReceivedAt: m.Stamp.ReceivedAt, Signal: m.Stamp.Signal,
		}
		if j := contributor(e, m); j >= 0 {
			c.SourceKey = e.Contributions[j].SourceKey
		}
		x, illegal := rejected[m.Stamp.Signal]
		switch {
		case f.Rank(m.Source) < 0:
			c.Reason = string(notAuthority)
		case illegal:
			c.Reason = fmt.Sprintf("a move from %q to %q is not allowed", x.From, x.To)
		case !won:
			c.Won, c.Reason, won = true, "its move was the last legal one", true
			out = slices.Insert(out, 0, c)
			continue
		default:
			c.Reason = "its move was followed by a later one"
		}
		out = append(out, c)
	}
	return out
}

func groupOf(r *definition.Resource, f *definition.Field) *definition.Group {
	for _, g := range r.Groups {
		if g.Name == f.Group && f.Group != "" {
			return g
		}
	}
	return nil
}

func rule(r *definition.Resource, p definition.Policy, authority []string, group string, maxAge time.Duration, isState bool, f *definition.Field) string {
	s := string(p) + ": "
	for i, a := range authority {
		if i > 0 {
			s += ", "
			if p == definition.Priority {
				s += "then "
			}
		}
		s += a
	}
	if isState {
		s = fmt.Sprintf("lifecycle from %q, moved by %v in the order of time", r.Lifecycle.Initial, authority)
	}
	if p == definition.Expression && f.Resolve != nil && !isState {
		s += " by " + f.Resolve.Source()
	}
	if group != "" {
		s += " (wins as a unit with the group " + group + ")"
	}
	if maxAge > 0 {
		s += fmt.Sprintf(", at most %s old", maxAge)
	}
	return s
}

func reason(x Explanation, p definition.Policy, c ExplainedClaim, why verdict, win int32, e *canonical.Entity, group string) string {
	if c.Won {
		switch {
		case group != "":
			return "its record leads the group " + group
		case p == definition.Priority:
			return "the most authoritative live claim"
		case p == definition.Union:
			return "the most authoritative of the lists united"
		}
		return "chosen by " + string(p)
	}
	if why != counts {
		return string(why)
	}
	if c.Value == x.Value {
		return "agrees with the winner"
	}
	if p == definition.Union {
		return "its items are part of the union"
	}
	by := "no one"
	if win >= 0 && int(win) < len(e.Contributions) {
		by = e.Contributions[win].Source
		if by == c.Source {
			by += " (record " + e.Contributions[win].SourceKey + ")"
		}
	}
	switch p {
	case definition.Priority:
		return "outranked by " + by
	case definition.Latest:
		return "older than the claim of " + by
	case definition.Earliest:
		return "newer than the claim of " + by
	}
	return "lost to " + by + " by " + string(p)
}
