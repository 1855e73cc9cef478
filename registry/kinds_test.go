package registry_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// kind is a connector of these tests: it takes the settings "secret" (a
// reference), "format" (csv or jsonl) and "limits.rows" (an int), and any
// other is wrong. So the goldens do not depend on the real connectors.
type kind struct {
	name      string
	variables []string
}

// lenient takes any settings.
type lenient struct{ connectors.Kind }

func (lenient) Open(*definition.Source, connectors.Secrets) (connectors.Connector, error) {
	return silent{}, nil
}

func lenientKinds() connectors.Kinds {
	kinds := testKinds()
	for i, k := range kinds.Sources {
		kinds.Sources[i] = lenient{k}
	}
	kinds.Backends = append(kinds.Backends, anything{name: "rest"})
	return kinds
}

func testKinds() connectors.Kinds {
	return connectors.Kinds{Backends: []connectors.BackendKind{backend{}}, Sources: []connectors.Kind{
		kind{"webhook", []string{"body", "headers", "event"}},
		kind{"cdc", []string{"op", "before", "after", "row", "key", "table", "source", "ts", "deleted", "sequence"}},
		kind{"file", []string{"row", "file"}},
	}}
}

func (k kind) Name() string { return k.name }
func (k kind) Doc() string  { return "of the tests" }
func (k kind) Variables() []connectors.Variable {
	var out []connectors.Variable
	for _, v := range k.variables {
		out = append(out, connectors.Variable{Name: v})
	}
	return out
}

func (k kind) Settings() []connectors.Setting {
	return []connectors.Setting{{Key: "format"}, {Key: "limits.rows"}, {Key: "secret"}, {Key: "secrets"}}
}

func (k kind) Open(src *definition.Source, secrets connectors.Secrets) (connectors.Connector, error) {
	var wrong connectors.SettingErrors
	bad := func(key, found, expected string) {
		wrong = append(wrong, connectors.SettingError{Key: key, Found: found, Expected: expected})
	}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range src.Settings {
			if !yield(key) {
				return
			}
		}
	}) {
		v := src.Settings[key]
		switch key {
		case "format":
			if v != "csv" && v != "jsonl" {
				bad(key, fmt.Sprint(v), "csv or jsonl")
			}
		case "secret":
			if _, err := secrets(fmt.Sprint(v)); err != nil {
				bad(key, fmt.Sprint(v), "a secret reference")
			}
		case "secrets":
			for i, x := range v.([]any) {
				if _, err := secrets(fmt.Sprint(x.(map[string]any)["ref"])); err != nil {
					bad(fmt.Sprintf("secrets[%d].ref", i), fmt.Sprint(x.(map[string]any)["ref"]), "a secret reference")
				}
			}
		case "limits":
			if n, ok := v.(map[string]any)["rows"].(int); !ok || n < 1 {
				bad("limits.rows", fmt.Sprint(v.(map[string]any)["rows"]), "a number of rows")
			}
		default:
			bad(key, "unknown setting", strings.Join([]string{"format", "limits.rows", "secret", "secrets"}, ", "))
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	return silent{}, nil
}

type silent struct{}

func (silent) Decode(*journal.Entry) ([]connectors.Record, error) { return nil, nil }

// backend is a kind of back end with one setting of a connection and one of an
// operation.
type backend struct{ connectors.BackendKind }

func (backend) Name() string { return "test" }
func (backend) Settings() []connectors.Setting {
	return []connectors.Setting{{Key: "url"}}
}
func (backend) OperationSettings() []connectors.Setting {
	return []connectors.Setting{{Key: "path"}}
}
func (backend) Connect(c *definition.Connection, o connectors.Options) (connectors.Backend, error) {
	var wrong connectors.SettingErrors
	for k := range c.Settings {
		if k != "url" {
			wrong = append(wrong, connectors.SettingError{Key: k, Found: "an unknown setting", Expected: "no such setting; one of url"})
		}
	}
	for _, op := range c.Operations {
		if path, ok := op.Settings["path"].(string); ok {
			if _, err := o.Compile(path, "args"); err != nil {
				wrong = append(wrong, connectors.SettingError{Key: "operations." + op.Name + ".path", Found: path, Expected: "an expression: " + err.Error()})
			}
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return nil, nil
}

// anything takes any settings.
type anything struct {
	connectors.BackendKind
	name string
}

func (a anything) Name() string { return a.name }
func (anything) Connect(*definition.Connection, connectors.Options) (connectors.Backend, error) {
	return nil, nil
}
