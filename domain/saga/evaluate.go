package saga

import (
	"errors"
	"fmt"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// evaluate gives the arguments of a call. A failure names the argument.
func evaluate(with []definition.Argument, vars map[string]any) ([]canonical.Named, error) {
	out := make([]canonical.Named, 0, len(with))
	for _, a := range with {
		v, err := a.Expr.Eval(vars)
		if a.Optional && errors.Is(err, definition.ErrMissing) {
			continue
		}
		if err != nil {
			return nil, failure.Wrap(failure.Validation, "argument", a.Name, fmt.Errorf("%s: %w", a.Expr.Source(), err))
		}
		c, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
		if err != nil {
			return nil, failure.Wrap(failure.Validation, "argument", a.Name, fmt.Errorf("%s: %w", a.Expr.Source(), err))
		}
		out = append(out, canonical.Named{Name: a.Name, Value: c})
	}
	return out, nil
}
