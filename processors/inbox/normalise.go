package inbox

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
)

// MaxSignals bounds what one delivery may say: its signals are written in one
// transaction and held in memory until then.
const MaxSignals = 10_000

// normalise decodes an entry and applies the mapping rules of its source.
func (s *Station) normalise(entry *journal.Entry, id string) ([]*signal.Signal, error) {
	src, ok := s.domain.Source(entry.Source)
	c := s.connectors[entry.Source]
	if !ok || c == nil {
		return nil, failure.New(failure.NotFound, "normalise", "source "+entry.Source, "domain %s does not declare it", s.domain.Name)
	}
	records, err := c.Decode(entry)
	if err != nil {
		return nil, err
	}
	var out []*signal.Signal
	for _, rec := range records {
		vars := map[string]any(rec)
		vars["entry"] = entryVariables(entry)
		for _, rule := range src.Rules {
			if out, err = s.apply(out, rule, vars, entry, id); err != nil {
				return nil, err
			}
		}
	}
	for i, sig := range out {
		sig.Index, sig.Signals = int32(i), int32(len(out))
		if len(out) > 1 {
			sig.ID = journal.OutcomeKey(id, int32(i))
		}
	}
	return out, nil
}

// apply appends the signals that one rule makes of one record, up to MaxSignals.
func (s *Station) apply(out []*signal.Signal, rule *definition.Rule, vars map[string]any, entry *journal.Entry, id string) ([]*signal.Signal, error) {
	if rule.Each == nil {
		sig, err := s.signal(rule, vars, entry, id)
		if sig != nil {
			out = append(out, sig)
		}
		if len(out) > MaxSignals {
			return out, tooMany(rule)
		}
		return out, err
	}
	v, err := rule.Each.Eval(vars)
	if err != nil {
		if errors.Is(err, definition.ErrMissing) {
			return out, nil
		}
		return out, at(rule, "each", err)
	}
	items, ok := v.([]any)
	if !ok && v != nil {
		return out, at(rule, "each", fmt.Errorf("expected a list, found %T", v))
	}
	defer delete(vars, "item")
	for _, item := range items {
		vars["item"] = item
		sig, err := s.signal(rule, vars, entry, id)
		if err != nil {
			return out, err
		}
		if sig != nil {
			out = append(out, sig)
		}
		if len(out) > MaxSignals {
			return out, tooMany(rule)
		}
	}
	return out, nil
}

func tooMany(rule *definition.Rule) error {
	return at(rule, "signals", fmt.Errorf("found more than %d in one delivery, expected at most so many", MaxSignals))
}

// signal applies a rule; nil if its condition does not hold.
func (s *Station) signal(rule *definition.Rule, vars map[string]any, entry *journal.Entry, id string) (*signal.Signal, error) {
	if rule.When != nil {
		ok, err := rule.When.Holds(vars)
		if err != nil {
			// A condition that asks for a member which the record does not
			// have is about another kind of record.
			if errors.Is(err, definition.ErrMissing) {
				return nil, nil
			}
			return nil, at(rule, "when", err)
		}
		if !ok {
			return nil, nil
		}
	}
	r, ok := s.domain.Resource(rule.Resource)
	if !ok {
		return nil, at(rule, "resource", fmt.Errorf("%s is not declared", rule.Resource))
	}
	sig := &signal.Signal{
		ID: id, Journal: id, Tenant: entry.Tenant, Source: entry.Source, Resource: rule.Resource,
		ReceivedAt: entry.ReceivedAt, Mapping: rule.Name,
		Cause: envelope.Cause{Correlation: correlation(entry, id), Causation: id, Traceparent: entry.Cause.Traceparent},
	}
	key, err := rule.Key.Eval(vars)
	if err != nil {
		return nil, at(rule, "key", err)
	}
	if sig.SourceKey, err = text(key); err != nil {
		return nil, at(rule, "key", err)
	}
	sig.Match = make([]canonical.Value, len(rule.Identity))
	for i, x := range rule.Identity {
		v, err := x.Eval(vars)
		if err != nil {
			return nil, at(rule, "identity "+r.Identity[i], err)
		}
		if sig.Match[i], err = matchValue(r, r.Identity[i], v); err != nil {
			return nil, at(rule, "identity "+r.Identity[i], err)
		}
	}
	if rule.OccurredAt != nil {
		v, err := rule.OccurredAt.Eval(vars)
		if err == nil {
			sig.OccurredAt, err = instant(v)
		}
		if err != nil {
			return nil, at(rule, "occurredAt", err)
		}
	}
	if sig.OccurredAt == 0 {
		sig.OccurredAt = entry.ReceivedAt
	}
	if rule.Sequence != nil {
		v, err := rule.Sequence.Eval(vars)
		if err != nil {
			return nil, at(rule, "sequence", err)
		}
		n, ok := v.(int64)
		if !ok && v != nil {
			return nil, at(rule, "sequence", fmt.Errorf("expected int, found %T", v))
		}
		sig.Sequence = n
	}
	if rule.Deleted != nil {
		if sig.Deleted, err = rule.Deleted.Holds(vars); err != nil {
			return nil, at(rule, "deleted", err)
		}
	}
	if sig.Deleted {
		return sig, nil // a record that is gone claims nothing
	}
	sig.Fields, err = claims(r, rule, vars)
	return sig, err
}

// claims evaluates the field rules.
func claims(r *definition.Resource, rule *definition.Rule, vars map[string]any) ([]canonical.Named, error) {
	out := make([]canonical.Named, 0, len(rule.Fields))
	for i := range rule.Fields {
		fr := &rule.Fields[i]
		v, err := fr.Expr.Eval(vars)
		if err != nil {
			if fr.Optional && errors.Is(err, definition.ErrMissing) {
				continue
			}
			return nil, at(rule, "field "+fr.Field, err)
		}
		f, ok := r.Field(fr.Field)
		if !ok {
			return nil, at(rule, "field "+fr.Field, fmt.Errorf("resource %s does not declare it", r.Name))
		}
		if fr.States != nil && v != nil {
			status, err := text(v)
			if err != nil {
				return nil, at(rule, "field "+fr.Field, err)
			}
			state, known := fr.States[status]
			if !known {
				return nil, at(rule, "field "+fr.Field, fmt.Errorf("status %q is not among the declared states", status))
			}
			v = state
		}
		value, err := f.Type.Coerce(v)
		if err != nil {
			return nil, at(rule, "field "+fr.Field, err)
		}
		out = append(out, canonical.Named{Name: fr.Field, Value: value})
	}
	return out, nil
}

// matchValue makes an identity value of the field's type where the field is
// declared, and a string of a string or an integer otherwise. An integer may
// stand for a string key: back ends differ in how they type the same number.
func matchValue(r *definition.Resource, name string, v any) (canonical.Value, error) {
	if f, ok := r.Field(name); ok && f.Type.Kind != canonical.KindString {
		return f.Type.Coerce(v)
	}
	if v == nil {
		return canonical.Null, nil
	}
	t, err := text(v)
	return canonical.String(t), err
}

// text reads a key: a string or an integer.
func text(v any) (string, error) {
	switch k := v.(type) {
	case string:
		if k == "" {
			return "", errors.New("expected a key, found an empty string")
		}
		return k, nil
	case int64:
		return strconv.FormatInt(k, 10), nil
	case uint64:
		return strconv.FormatUint(k, 10), nil
	case float64:
		if k == float64(int64(k)) {
			return strconv.FormatInt(int64(k), 10), nil
		}
	case nil:
		return "", errors.New("expected a string or an int, found null")
	}
	return "", fmt.Errorf("expected a string or an int, found %T", v)
}

// at says where in the definition an error arose.
func at(rule *definition.Rule, part string, err error) error {
	return failure.Wrap(failure.Validation, "map by rule "+rule.Name, part, err)
}
