// Package fake is a back end that lives in memory: for tests, for load tests and
// for trying a definition out before there is a real back end. It answers what its
// definition says, and can be slow, fail, or lose its answers on purpose.
package fake

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Kind is the fake kind; the zero value is ready.
type Kind struct{}

// Name is "fake".
func (Kind) Name() string { return "fake" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "No back end at all: it answers what the definition says, slowly or wrongly if that is wanted."
}

// Settings of a connection.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "delay", Form: "duration", Default: "0s", Doc: "how long each call takes"},
		{Key: "failures", Form: "number, 0 to 1", Default: "0", Doc: "share of the calls that fail; which ones follows from their key and attempt"},
		{Key: "kind", Form: kinds(), Default: "Transient", Doc: "kind of those failures"},
	}
}

// OperationSettings are those of one operation.
func (Kind) OperationSettings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "error", Form: "expression over args, key", Default: "", Doc: "text of a failure of kind Validation; empty, null or missing for none"},
		{Key: "output", Form: "expression over args, key", Default: "args", Doc: "what it answers"},
	}
}

func kinds() string {
	var out []string
	for _, k := range failure.Kinds() {
		out = append(out, string(k))
	}
	return strings.Join(out, " | ")
}

type backend struct {
	name       string
	delay      time.Duration
	failures   float64
	kind       failure.Kind
	operations map[string]operation

	mu   sync.Mutex
	done map[string]canonical.Value // by key, as a back end with idempotency keys
	keys []string                   // in their order, the oldest first
}

type operation struct{ output, error definition.Expr }

// remembered is how many keys are remembered.
const remembered = 10_000

// Connect is part of connectors.BackendKind.
func (Kind) Connect(c *definition.Connection, o connectors.Options) (connectors.Backend, error) {
	r := settings.Read(c.Settings)
	b := &backend{name: c.Name, operations: map[string]operation{}, done: map[string]canonical.Value{}}
	b.delay, b.failures = r.Duration("delay", 0), r.Float("failures", 0, 0, 1)
	b.kind = failure.Kind(r.Choice("kind", string(failure.Transient), strings.Split(kinds(), " | ")...))
	wrong, _ := r.Err().(connectors.SettingErrors)
	for _, op := range c.Operations {
		r := settings.Read(op.Settings)
		x := operation{}
		for key, into := range map[string]*definition.Expr{"output": &x.output, "error": &x.error} {
			text := r.String(key, "")
			if text == "" && key == "output" {
				text = "args"
			}
			if text == "" {
				continue
			}
			e, err := o.Compile(text, "args", "key")
			if err != nil {
				r.Wrong(key, text, "an expression over args, key: "+err.Error())
			}
			*into = e
		}
		bad, _ := r.Err().(connectors.SettingErrors)
		for _, w := range bad {
			w.Key = "operations." + op.Name + "." + w.Key
			wrong = append(wrong, w)
		}
		b.operations[op.Name] = x
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return b, nil
}

// Close is part of connectors.Backend.
func (*backend) Close() error { return nil }

// Call is part of connectors.Backend.
func (b *backend) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	subject := b.name + "." + c.Operation
	op, ok := b.operations[c.Operation]
	if !ok {
		return connectors.Reply{}, failure.New(failure.NotFound, "call", b.name, "no operation %q", c.Operation)
	}
	if b.delay > 0 {
		select {
		case <-ctx.Done():
			return connectors.Reply{}, &connectors.CallError{Err: failure.Wrap(failure.Transient, "call", subject, ctx.Err()), Uncertain: true}
		case <-time.After(b.delay):
		}
	} else if err := ctx.Err(); err != nil {
		return connectors.Reply{}, failure.Wrap(failure.Transient, "call", subject, err)
	}
	if b.fails(c) {
		return connectors.Reply{}, failure.New(b.kind, "call", subject, "it fails on purpose")
	}
	b.mu.Lock()
	v, again := b.done[c.Key]
	b.mu.Unlock()
	if again {
		return connectors.Reply{Output: v}, nil
	}
	vars := map[string]any{"args": c.Args, "key": c.Key}
	if op.error != nil {
		v, err := op.error.Eval(vars)
		if err != nil && !errors.Is(err, definition.ErrMissing) {
			return connectors.Reply{}, failure.Wrap(failure.Validation, "call", subject, err)
		}
		if err == nil && v != nil && v != "" {
			return connectors.Reply{}, failure.New(failure.Validation, "call", subject, "%s", fmt.Sprint(v))
		}
	}
	out, err := op.output.Eval(vars)
	if err == nil {
		v, err = canonical.Type{Kind: canonical.KindJSON}.Coerce(out)
	}
	if err != nil {
		return connectors.Reply{}, failure.Wrap(failure.Validation, "call", subject, fmt.Errorf("output: %w", err))
	}
	b.remember(c.Key, v)
	return connectors.Reply{Output: v}, nil
}

// fails tells whether a call is one of those that fail.
func (b *backend) fails(c connectors.Call) bool {
	if b.failures == 0 {
		return false
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", c.Key, c.Attempt)
	// FNV's last bytes hardly reach its upper bits: mix them (MurmurHash3's fmix64).
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return float64((x^x>>33)>>11)/(1<<53) < b.failures
}

func (b *backend) remember(key string, v canonical.Value) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.done[key]; ok {
		return
	}
	b.done[key] = v
	if b.keys = append(b.keys, key); len(b.keys) > remembered {
		delete(b.done, b.keys[0])
		b.keys = b.keys[1:]
	}
}
