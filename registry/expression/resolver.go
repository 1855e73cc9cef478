package expression

import (
	"errors"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Resolver chooses the value of a field with policy "expression".
type Resolver struct {
	expr *Expr
	typ  canonical.Type
}

// Source is the expression's text.
func (r *Resolver) Source() string { return r.expr.text }

// Choose evaluates the expression over the claims, which it sees as a list of
// {source, sourceKey, value, occurredAt, receivedAt, rank} in authority order.
// occurredAt is null where the source did not say. An expression that meets
// nothing (an index out of range, an empty optional) gives no value.
func (r *Resolver) Choose(claims []definition.Claim) (canonical.Value, error) {
	list := make([]any, len(claims))
	for i, c := range claims {
		list[i] = map[string]any{
			"source": c.Source, "sourceKey": c.SourceKey, "value": c.Value.Any(), "rank": int64(c.Rank),
			"occurredAt": moment(c.Stamp.OccurredAt), "receivedAt": moment(c.Stamp.ReceivedAt),
		}
	}
	v, err := r.expr.Eval(map[string]any{"claims": list})
	if err != nil {
		if errors.Is(err, definition.ErrMissing) {
			return "", nil
		}
		return "", err
	}
	value, err := r.typ.Coerce(v)
	if err != nil {
		return "", failure.Wrap(failure.Validation, "evaluate", "`"+shorten(r.expr.text)+"`", err)
	}
	return value, nil
}

func moment(i envelope.Instant) any {
	if i == 0 {
		return nil
	}
	return i.Time()
}
