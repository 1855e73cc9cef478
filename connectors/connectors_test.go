package connectors

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

func TestCredential(t *testing.T) {
	for name, want := range map[string]bool{
		"Authorization": true, "proxy-authorization": true, "Cookie": true, "Set-Cookie": true, "X-Api-Key": true, "X-Auth": true,
		"X-Hub-Signature-256": true, "X-Shopify-Hmac-Sha256": true, "X-Gitlab-Token": true, "Stripe-Signature": true,
		"X-GitHub-Event": false, "X-Author": false, "Webhook-Id": false, "Idempotency-Key": false, "traceparent": false,
	} {
		if got := Credential(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHeaderName(t *testing.T) {
	for name, want := range map[string]bool{"X-Id": true, "x_id.1": true, "": false, "a b": false, "a:b": false, "ä": false, "a\n": false} {
		if got := HeaderName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

type resender struct{ Connector }

func (resender) Volatile(e *journal.Entry) []string { return []string{"/" + e.VendorID} }

func TestVolatile(t *testing.T) {
	declared := make([]string, 1, 8) // room that must not be written into
	declared[0] = "/at"
	src := &definition.Source{Dedupe: definition.Dedupe{Volatile: declared}}
	if got := Volatile(src, resender{}, &journal.Entry{VendorID: "x"}); !reflect.DeepEqual(got, []string{"/at", "/x"}) {
		t.Error(got)
	}
	if got := Volatile(src, nil, &journal.Entry{}); !reflect.DeepEqual(got, []string{"/at"}) || declared[:2][1] != "" {
		t.Error(got, declared[:2])
	}
}

// The oracle is encoding/json: both accept the same texts and read the same
// values, but for what a connector refuses beyond it.
func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0,2.5e3,null,true,"\u00e4\ud83d\ude00"],"a":2}`, `18446744073709551616`, ` [ ] `, `{} x`, `"\`, "[[[", `{"a"}`, "\xff", `1e999`, `{"["`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeJSON(b, 100)
		if err != nil && (strings.Contains(err.Error(), "nested deeper") || strings.Contains(err.Error(), "beyond a double")) {
			return
		}
		var want any
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		valid := utf8.Valid(b) && json.Valid(b) && dec.Decode(&want) == nil
		if (err == nil) != valid {
			t.Fatalf("error %v, encoding/json finds valid: %t", err, valid)
		}
		if err != nil {
			return
		}
		if want, err = Plain(want); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, want %#v, %v", got, want, err)
		}
	})
}
