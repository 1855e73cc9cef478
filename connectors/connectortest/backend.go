package connectortest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// BackendCase is one back end of a kind, that is there and can be asked.
type BackendCase struct {
	Name       string
	Connection *definition.Connection
	// Good calls succeed, Bad ones fail, Slow ones take longer than 50 ms.
	Good, Bad, Slow []connectors.Call
	// Asked gives how often the back end was asked so far; nil if that cannot be
	// told.
	Asked func() int
}

// RunBackend checks what connectors.BackendKind and Backend promise.
func RunBackend(t *testing.T, kind connectors.BackendKind, compile func(text string, variables ...string) (definition.Expr, error), cases []BackendCase) {
	t.Helper()
	RunBackendWith(t, kind, connectors.Options{Secrets: Secrets, Compile: compile}, cases)
}

// RunBackendWith is RunBackend with secrets of one's own.
func RunBackendWith(t *testing.T, kind connectors.BackendKind, o connectors.Options, cases []BackendCase) {
	t.Run("described", func(t *testing.T) {
		if kind.Name() == "" || kind.Doc() == "" {
			t.Error("a kind has a name and a text")
		}
		settingsDescribed(t, kind.Settings())
		settingsDescribed(t, kind.OperationSettings())
	})
	if len(cases) == 0 {
		t.Fatal("no cases: nothing of the back end itself would be checked")
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Run("wrong settings", func(t *testing.T) { wrongBackend(t, kind, c.Connection, o) })
			b, err := kind.Connect(c.Connection, o)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Good) == 0 || len(c.Bad) == 0 || len(c.Slow) == 0 {
				t.Fatal("a case needs good, bad and slow calls")
			}
			calls(t, b, c)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func settingsDescribed(t *testing.T, settings []connectors.Setting) {
	t.Helper()
	for i, s := range settings {
		if s.Key == "" || s.Form == "" || s.Doc == "" {
			t.Errorf("setting %q lacks its form or its text", s.Key)
		}
		if i > 0 && settings[i-1].Key >= s.Key {
			t.Errorf("setting %q is not sorted", s.Key)
		}
	}
}

// wrongBackend: a setting that nobody knows is told with its key, of a connection
// and of an operation.
func wrongBackend(t *testing.T, kind connectors.BackendKind, good *definition.Connection, o connectors.Options) {
	c := *good
	c.Settings = map[string]any{}
	for k, v := range good.Settings {
		c.Settings[k] = v
	}
	c.Settings["nosuchsetting"] = 1
	op := *good.Operations[0]
	op.Settings = map[string]any{"nosuchthing": 1}
	for k, v := range good.Operations[0].Settings {
		op.Settings[k] = v
	}
	c.Operations = []*definition.Operation{&op}
	_, err := kind.Connect(&c, o)
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		t.Fatalf("%v, expected connectors.SettingErrors", err)
	}
	found := map[string]bool{}
	for _, w := range wrong {
		found[w.Key] = true
		if w.Found == "" || w.Expected == "" {
			t.Errorf("%+v says too little", w)
		}
	}
	for _, key := range []string{"nosuchsetting", "operations." + op.Name + ".nosuchthing"} {
		if !found[key] {
			t.Errorf("%v: nothing is said of %s", err, key)
		}
	}
}

// calls: each is made once, whatever comes of it; failures have a kind; who has no
// more time gets an end; many may be made at a time.
func calls(t *testing.T, b connectors.Backend, c BackendCase) {
	asked := func() int {
		if c.Asked == nil {
			return -1
		}
		return c.Asked()
	}
	for i, call := range c.Good {
		before := asked()
		if _, err := b.Call(t.Context(), call); err != nil {
			t.Errorf("good call %d: %v", i, err)
		}
		if n := asked(); n >= 0 && n != before+1 && call.Args["pages"] == nil {
			t.Errorf("good call %d asked the back end %d times", i, n-before)
		}
	}
	for i, call := range c.Bad {
		before := asked()
		_, err := b.Call(t.Context(), call)
		var f *failure.Error
		if !errors.As(err, &f) || f.Kind == "" {
			t.Errorf("bad call %d: %v, expected a failure", i, err)
		}
		if n := asked(); n > before+1 {
			t.Errorf("bad call %d asked the back end %d times: trying again is not its matter", i, n-before)
		}
	}
	if _, err := b.Call(t.Context(), connectors.Call{Operation: "nosuchoperation", Key: "k"}); failure.KindOf(err) != failure.NotFound {
		t.Errorf("an unknown operation: %v, expected a failure of kind NotFound", err)
	}
	for i, call := range c.Slow {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		_, err := b.Call(ctx, call)
		cancel()
		if err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("slow call %d: %v after %s, expected its time to end it", i, err, time.Since(began))
		}
		if k := failure.KindOf(err); k != failure.Transient {
			t.Errorf("slow call %d: %v is %s, expected Transient", i, err, k)
		}
	}
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 64 {
		call := c.Good[i%len(c.Good)]
		call.Key = fmt.Sprintf("%s/%d", call.Key, i)
		wg.Go(func() {
			if _, err := b.Call(t.Context(), call); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Errorf("of 64 at a time: %v", err)
	}
}
