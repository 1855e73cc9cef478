// Package connectortest is the conformance suite that every kind of connector
// passes, and where its tests find the shared data.
//
// It does not test what a kind means by its settings; its own tests do.
package connectortest

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Case is one way to open a kind, with entries that it reads and entries that
// it does not.
type Case struct {
	Name     string
	Settings map[string]any
	// Good entries decode; Bad ones are failures of kind Validation or Poison.
	Good, Bad []*journal.Entry
}

// Run checks what connectors.Kind, Connector and Receiver promise.
func Run(t *testing.T, kind connectors.Kind, cases []Case) {
	t.Run("described", func(t *testing.T) { described(t, kind) })
	t.Run("wrong settings", func(t *testing.T) { wrongSettings(t, kind) })
	if len(cases) == 0 {
		t.Fatal("no cases: nothing of the connector itself would be checked")
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			conn := open(t, kind, c.Settings)
			if len(c.Good) == 0 || len(c.Bad) == 0 {
				t.Fatal("a case needs good and bad entries")
			}
			for _, e := range c.Good {
				records(t, kind, conn, e)
			}
			for _, e := range c.Bad {
				if recs, err := conn.Decode(clone(e)); err == nil {
					t.Errorf("%.60q decodes to %v, expected a failure", e.Body, recs)
				} else if k := failure.KindOf(err); k != failure.Validation && k != failure.Poison {
					t.Errorf("%.60q: %v is %s, expected Validation or Poison", e.Body, err, k)
				}
			}
			concurrent(t, conn, c.Good)
			if r, ok := conn.(connectors.Receiver); ok {
				receives(t, r)
			}
		})
	}
}

// Secrets resolves every reference to a secret of its own, which is also the
// base64 of 24 bytes.
func Secrets(ref string) (string, error) {
	return (ref + strings.Repeat("A", 32))[:32], nil
}

func open(t *testing.T, kind connectors.Kind, set map[string]any) connectors.Connector {
	t.Helper()
	c, err := kind.Open(&definition.Source{Name: "conformance", Connector: kind.Name(), Settings: set}, Secrets)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// described: names, variables and settings are documented, sorted, unique.
func described(t *testing.T, kind connectors.Kind) {
	if n := kind.Name(); n == "" || n != strings.ToLower(n) {
		t.Errorf("name %q", n)
	}
	if d := kind.Doc(); !strings.HasSuffix(d, ".") || strings.Count(d, ". ") > 0 {
		t.Errorf("doc %q, expected one sentence", d)
	}
	seen := map[string]bool{}
	for _, v := range kind.Variables() {
		if v.Name == "" || v.Doc == "" || seen[v.Name] {
			t.Errorf("variable %+v is not documented or not unique", v)
		}
		// Mapping expressions have these besides the connector's variables.
		if v.Name == "entry" || v.Name == "item" {
			t.Errorf("variable %s hides the one of every source", v.Name)
		}
		seen[v.Name] = true
	}
	if len(seen) == 0 {
		t.Error("no variables")
	}
	set := kind.Settings()
	if !slices.IsSortedFunc(set, func(a, b connectors.Setting) int { return strings.Compare(a.Key, b.Key) }) {
		t.Error("settings are not sorted by key")
	}
	for i, s := range set {
		if s.Key == "" || s.Form == "" || s.Doc == "" || i > 0 && set[i-1].Key == s.Key {
			t.Errorf("setting %+v is not documented or not unique", s)
		}
	}
}

// wrongSettings: a setting that does not exist is named, and every documented
// one is known.
func wrongSettings(t *testing.T, kind connectors.Kind) {
	_, err := kind.Open(&definition.Source{Name: "s", Settings: map[string]any{"no-such-setting": 1}}, Secrets)
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) || !slices.ContainsFunc(wrong, func(e connectors.SettingError) bool {
		return e.Key == "no-such-setting" && e.Found == "1" && e.Expected != ""
	}) {
		t.Errorf("got %v, expected connectors.SettingErrors with no-such-setting", err)
	}
	for _, s := range kind.Settings() {
		set := map[string]any{}
		at := set
		path := strings.Split(s.Key, ".")
		for _, part := range path[:len(path)-1] {
			next := map[string]any{}
			at[part], at = next, next
		}
		at[path[len(path)-1]] = struct{}{} // of no form that a setting has
		_, err := kind.Open(&definition.Source{Name: "s", Settings: set}, Secrets)
		if !errors.As(err, &wrong) {
			t.Errorf("%s: got %v, expected connectors.SettingErrors", s.Key, err)
			continue
		}
		i := slices.IndexFunc(wrong, func(e connectors.SettingError) bool { return e.Key == s.Key })
		if i < 0 {
			t.Errorf("%s: its wrong value is not told in %v", s.Key, wrong)
		} else if strings.HasPrefix(wrong[i].Expected, "no such setting") {
			t.Errorf("%s is documented and not known", s.Key)
		}
	}
}

// records: the entry decodes, to the same records every time, of plain values,
// with every documented variable and no other; and it is not changed.
func records(t *testing.T, kind connectors.Kind, c connectors.Connector, e *journal.Entry) {
	t.Helper()
	given := clone(e)
	recs, err := c.Decode(given)
	if err != nil {
		t.Errorf("%.60q: %v", e.Body, err)
		return
	}
	if !reflect.DeepEqual(given, e) {
		t.Errorf("%.60q: Decode changed the entry", e.Body)
	}
	if again, err := c.Decode(clone(e)); err != nil || !reflect.DeepEqual(recs, again) {
		t.Errorf("%.60q: decodes to %v, and then to %v, %v", e.Body, recs, again, err)
	}
	for _, r := range recs {
		for _, v := range kind.Variables() {
			if _, ok := r[v.Name]; !ok {
				t.Errorf("%.60q: the record has no variable %s", e.Body, v.Name)
			}
		}
		if len(r) != len(kind.Variables()) {
			t.Errorf("%.60q: variables %v, expected those that are documented", e.Body, slices.Sorted(maps.Keys(r)))
		}
		for name, v := range r {
			plain(t, name, v)
		}
	}
}

// plain: expressions understand these types and no others. A nil map is a map
// to them, not null.
func plain(t *testing.T, path string, v any) {
	t.Helper()
	switch x := v.(type) {
	case nil, bool, string, int64, float64:
	case []any:
		for _, item := range x {
			plain(t, path+"[]", item)
		}
	case map[string]any:
		if x == nil {
			t.Errorf("%s is a nil map", path)
		}
		for k, member := range x {
			plain(t, path+"."+k, member)
		}
	default:
		t.Errorf("%s is %T", path, v)
	}
}

// concurrent: one connector serves all partitions. The race detector is the
// oracle.
func concurrent(t *testing.T, c connectors.Connector, entries []*journal.Entry) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, e := range entries {
				if _, err := c.Decode(clone(e)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// receives: an unsigned delivery is either refused as Auth or taken as not
// verified; credentials are never kept.
func receives(t *testing.T, r connectors.Receiver) {
	h := http.Header{}
	for _, name := range []string{"Authorization", "Cookie", "X-Api-Key", "X-Hub-Signature-256", "Proxy-Authorization"} {
		h.Set(name, "credential")
	}
	h.Set("Content-Type", "application/json")
	body := []byte(`{"a":1}`)
	e, err := r.Receive(connectors.Delivery{Header: h, Body: body, Now: time.Unix(1_700_000_000, 0)})
	if err != nil {
		if failure.KindOf(err) != failure.Auth {
			t.Errorf("unsigned: %v is %s, expected Auth", err, failure.KindOf(err))
		}
		return
	}
	if e.Signature.Verified || e.Signature.Secret != "" {
		t.Errorf("unsigned and verified: %+v", e.Signature)
	}
	if !bytes.Equal(e.Body, body) || e.ContentType != "application/json" {
		t.Errorf("entry %+v, expected the delivery as it was", e)
	}
	for name, v := range e.Headers {
		if name != strings.ToLower(name) || v == "credential" {
			t.Errorf("header %s: %s is kept", name, v)
		}
	}
}

func clone(e *journal.Entry) *journal.Entry {
	c := *e
	c.Headers, c.Key, c.Body = maps.Clone(e.Headers), bytes.Clone(e.Key), bytes.Clone(e.Body)
	return &c
}
