package fake_test

import (
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/connectors/fake"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

func connection(settings map[string]any) *definition.Connection {
	return &definition.Connection{Name: "billing", Connector: "fake", Settings: settings, Operations: []*definition.Operation{
		{Name: "pause", Settings: map[string]any{"output": `{"id": args.id, "state": "paused"}`, "error": `args.id == "bad" ? "no such account" : ""`}},
	}}
}

func TestConformance(t *testing.T) {
	good := connectors.Call{Operation: "pause", Key: "k", Args: map[string]any{"id": "7"}}
	connectortest.RunBackend(t, fake.Kind{}, expression.Compile, []connectortest.BackendCase{{
		Name: "in 60 ms", Connection: connection(map[string]any{"delay": "60ms"}), Good: []connectors.Call{good},
		Bad:  []connectors.Call{{Operation: "pause", Key: "l", Args: map[string]any{"id": "bad"}}, {Operation: "pause", Key: "m"}},
		Slow: []connectors.Call{good},
	}})
}

func TestAnswers(t *testing.T) {
	b, err := fake.Kind{}.Connect(connection(map[string]any{"failures": 0.3, "kind": "RateLimited"}), connectors.Options{Secrets: connectortest.Secrets, Compile: expression.Compile})
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range int32(1000) {
		r, err := b.Call(t.Context(), connectors.Call{Operation: "pause", Key: "k", Attempt: i, Args: map[string]any{"id": "7"}})
		switch {
		case err != nil && failure.KindOf(err) == failure.RateLimited:
			failed++
		case err != nil || r.Output != `{"id":"7","state":"paused"}`:
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if failed < 230 || failed > 370 {
		t.Errorf("%d of 1000 failed, expected about 300", failed)
	}
}
