package expression

import (
	"fmt"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/touchstone-platform/touchstone/domain/definition"
)

// maxDepth of lists and maps in a value; JSON of a delivery is bounded below it.
const maxDepth = 200

// native makes a Go value of a CEL value, as canonical.Type.Coerce takes it.
func native(v ref.Val, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the value is nested deeper than %d", maxDepth)
	}
	switch x := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(x), nil
	case types.Int:
		return int64(x), nil
	case types.Uint:
		return uint64(x), nil
	case types.Double:
		return float64(x), nil
	case types.String:
		return string(x), nil
	case types.Bytes:
		return []byte(x), nil
	case types.Timestamp:
		return x.UTC(), nil
	case *types.Optional:
		if !x.HasValue() {
			return nil, fmt.Errorf("%w: the optional value is empty", definition.ErrMissing)
		}
		return native(x.GetValue(), depth+1)
	case *types.Err:
		return nil, x
	case types.Duration:
		return nil, fmt.Errorf("a duration (%s) is no value of a field; expected a number, such as .getSeconds() gives", time.Duration(x.Duration))
	case traits.Mapper:
		if m, ok := x.Value().(map[string]any); ok {
			return m, nil // a part of the record as it came
		}
		m := make(map[string]any, int(x.Size().(types.Int)))
		for it := x.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			name, ok := k.(types.String)
			if !ok {
				return nil, fmt.Errorf("expected a map with string keys, found key %v of type %s", k.Value(), k.Type().TypeName())
			}
			e, err := native(x.Get(k), depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", string(name), err)
			}
			m[string(name)] = e
		}
		return m, nil
	case traits.Lister:
		n := int(x.Size().(types.Int))
		l := make([]any, n)
		for i := range n {
			e, err := native(x.Get(types.Int(i)), depth+1)
			if err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
			l[i] = e
		}
		return l, nil
	}
	return nil, fmt.Errorf("a value of type %s is no value of a field", v.Type().TypeName())
}
