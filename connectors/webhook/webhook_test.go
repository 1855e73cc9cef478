package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// lookup resolves every reference "x" to the secret "secret-x".
func lookup(ref string) (string, error) { return "secret-" + ref, nil }

func open(t testing.TB, set map[string]any) *Source {
	t.Helper()
	return openWith(t, set, lookup)
}

func openWith(t testing.TB, set map[string]any, secrets connectors.Secrets) *Source {
	t.Helper()
	c, err := Kind{}.Open(&definition.Source{Name: "billing", Connector: "webhook", Settings: set}, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Source)
}

func live(refs ...string) []any {
	var l []any
	for _, r := range refs {
		l = append(l, map[string]any{"name": "key-" + r, "ref": r})
	}
	return l
}

func sign(key string, content string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(content))
	return m.Sum(nil)
}

var now = time.Unix(1_700_000_000, 0)

func delivery(body string, headers ...string) connectors.Delivery {
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	return connectors.Delivery{Header: h, Body: []byte(body), Now: now}
}

func TestGitHub(t *testing.T) {
	s := open(t, map[string]any{"scheme": "github", "secrets": live("old", "new")})
	body := `{"action":"opened"}`
	sig := "sha256=" + hex.EncodeToString(sign("secret-new", body))
	e, err := s.Receive(delivery(body, "X-Hub-Signature-256", sig, "X-GitHub-Delivery", "72d3162e", "X-GitHub-Event", "issues",
		"Content-Type", "application/json", "Authorization", "Bearer x"))
	if err != nil {
		t.Fatal(err)
	}
	want := &journal.Entry{
		ContentType: "application/json", Body: []byte(body), VendorID: "72d3162e",
		Headers:   map[string]string{"x-github-delivery": "72d3162e", "x-github-event": "issues"},
		Signature: journal.Signature{Scheme: "github", Verified: true, Secret: "key-new"},
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("entry\n got %+v\nwant %+v", e, want)
	}
	recs, err := s.Decode(e)
	if err != nil || len(recs) != 1 {
		t.Fatal(recs, err)
	}
	if recs[0]["event"] != "issues" || !reflect.DeepEqual(recs[0]["body"], map[string]any{"action": "opened"}) {
		t.Errorf("record %v", recs[0])
	}
}

// Whoever can choose between a strong and a weak header must not be able to.
func TestWeakHeaderNeverOutranksStrong(t *testing.T) {
	s := open(t, map[string]any{"scheme": "github", "secrets": live("a"), "signature": map[string]any{"allowWeak": true}})
	good := "sha256=" + hex.EncodeToString(sign("secret-a", "{}"))
	if _, err := s.Receive(delivery("{}", "X-Hub-Signature", good)); err != nil {
		t.Errorf("legacy header alone: %v", err)
	}
	if _, err := s.Receive(delivery("{}", "X-Hub-Signature", good, "X-Hub-Signature-256", "sha256=00")); err == nil {
		t.Error("the legacy header was taken although the strong one was there")
	}
}

func TestGenericHMAC(t *testing.T) {
	s := open(t, map[string]any{"scheme": "hmac", "secrets": live("a"), "idHeader": "X-Id", "signature": map[string]any{
		"header": "X-Sig", "encoding": "base64", "prefix": "v1=", "timestampHeader": "X-Time", "payload": "{timestamp}.{body}", "tolerance": "30s"}})
	at := func(sec int64) string { return fmt.Sprint(now.Unix() + sec) }
	sig := func(ts string) string { return "v1=" + base64.StdEncoding.EncodeToString(sign("secret-a", ts+".{}")) }
	for _, c := range []struct {
		name    string
		headers []string
		ok      bool
		says    string
	}{
		{"good", []string{"X-Sig", sig(at(0)), "X-Time", at(0)}, true, ""},
		{"30 s old", []string{"X-Sig", sig(at(-30)), "X-Time", at(-30)}, true, ""},
		{"31 s old", []string{"X-Sig", sig(at(-31)), "X-Time", at(-31)}, false, "old"},
		{"31 s ahead", []string{"X-Sig", sig(at(31)), "X-Time", at(31)}, false, "future"},
		{"far ahead", []string{"X-Sig", sig("999999999999"), "X-Time", "999999999999"}, false, "future"},
		{"another time than was signed", []string{"X-Sig", sig(at(-5)), "X-Time", at(0)}, false, "matches none"},
		{"no time", []string{"X-Sig", sig(at(0))}, false, "X-Time is missing"},
		{"no number", []string{"X-Sig", sig("now"), "X-Time", "now"}, false, "Unix time"},
		{"no prefix", []string{"X-Sig", sig(at(0))[3:], "X-Time", at(0)}, false, "does not start with"},
		{"twice", []string{"X-Sig", sig(at(0)), "X-Sig", sig(at(0)), "X-Time", at(0)}, false, "occurs 2 times"},
		{"loose base64", []string{"X-Sig", sig(at(0)) + "=", "X-Time", at(0)}, false, "not base64"},
		{"short", []string{"X-Sig", "v1=" + base64.StdEncoding.EncodeToString([]byte("abc")), "X-Time", at(0)}, false, "3 bytes"},
	} {
		_, err := s.Receive(delivery("{}", c.headers...))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err != nil && (failure.KindOf(err) != failure.Auth || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v (%s), expected Auth with %q", c.name, err, failure.KindOf(err), c.says)
		}
	}
}

// The upstream vectors have no asymmetric case, so the key pair is made here.
func TestStandardWebhooksAsymmetric(t *testing.T) {
	seed := sha256.Sum256([]byte("a fixed seed"))
	private := ed25519.NewKeyFromSeed(seed[:])
	public := "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	s := openWith(t, map[string]any{"scheme": "standard-webhooks", "secrets": live("a")}, func(string) (string, error) { return public, nil })
	ts := fmt.Sprint(now.Unix())
	sig := "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte("msg_1."+ts+".{}")))
	e, err := s.Receive(delivery("{}", "Webhook-Id", "msg_1", "Webhook-Timestamp", ts, "Webhook-Signature", "v1,AAAA "+sig))
	if err != nil || e.VendorID != "msg_1" {
		t.Fatal(e, err)
	}
	if _, err := s.Receive(delivery("{} ", "Webhook-Id", "msg_1", "Webhook-Timestamp", ts, "Webhook-Signature", sig)); failure.KindOf(err) != failure.Auth {
		t.Errorf("another body: %v", err)
	}
	// A public key is no HMAC key: it is public.
	forged := hmac.New(sha256.New, private.Public().(ed25519.PublicKey))
	forged.Write([]byte("msg_1." + ts + ".{}"))
	if _, err := s.Receive(delivery("{}", "Webhook-Id", "msg_1", "Webhook-Timestamp", ts,
		"Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(forged.Sum(nil)))); failure.KindOf(err) != failure.Auth {
		t.Errorf("signed with the public key as HMAC key: %v", err)
	}
}

func TestStripe(t *testing.T) {
	s := open(t, map[string]any{"scheme": "stripe", "secrets": live("a")})
	ts := fmt.Sprint(now.Unix())
	good := hex.EncodeToString(sign("secret-a", ts+".{}"))
	other := hex.EncodeToString(sign("secret-b", ts+".{}"))
	for header, ok := range map[string]bool{
		"t=" + ts + ",v1=" + good:                     true,
		"t=" + ts + ",v1=" + other + ",v1=" + good:    true,
		"t=" + ts + ",v0=" + good:                     false,
		"t=" + ts + ",v1=" + other:                    false,
		"v1=" + good:                                  false,
		"t=" + ts + ",t=" + ts + ",v1=" + good:        false,
		"t=" + ts + strings.Repeat(",v1="+other, 999): false,
	} {
		if _, err := s.Receive(delivery("{}", "Stripe-Signature", header)); (err == nil) != ok {
			t.Errorf("%.80s: %v", header, err)
		}
	}
}

func TestShopifyIDsAreTakenPerTopic(t *testing.T) {
	s := open(t, map[string]any{"scheme": "shopify", "secrets": live("a")})
	e, err := s.Receive(delivery("{}", "X-Shopify-Hmac-Sha256", base64.StdEncoding.EncodeToString(sign("secret-a", "{}")),
		"X-Shopify-Event-Id", "98880550", "X-Shopify-Topic", "orders/create"))
	if err != nil || e.VendorID != "orders/create/98880550" {
		t.Error(e, err)
	}
}

// No message may contain the right signature or a secret.
func TestRefusalsDoNotLeak(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Kind{}.Open(&definition.Source{Name: "s", Settings: map[string]any{"scheme": "github", "secrets": live("a", "b")}}, lookup)
		if err != nil {
			t.Fatal(err)
		}
		body := rapid.String().Draw(t, "body")
		given := rapid.OneOf(rapid.String(), rapid.StringMatching(`sha256=[0-9a-f]{64}`)).Draw(t, "signature")
		_, err = s.(*Source).Receive(delivery(body, "X-Hub-Signature-256", given))
		if failure.KindOf(err) != failure.Auth {
			t.Fatalf("accepted %q: %v", given, err)
		}
		for _, secret := range []string{"secret-a", "secret-b"} {
			if m := err.Error(); strings.Contains(m, hex.EncodeToString(sign(secret, body))) || strings.Contains(m, secret) {
				t.Fatalf("leaks: %s", m)
			}
		}
	})
}

// Flipping any bit of the body, or of the signature, is noticed.
func TestAnyChangeIsNoticed(t *testing.T) {
	s := open(t, map[string]any{"scheme": "hmac", "secrets": live("a"), "signature": map[string]any{"header": "X-Sig"}})
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		sum := sign("secret-a", string(body))
		if _, err := s.Receive(delivery(string(body), "X-Sig", hex.EncodeToString(sum))); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "in the body") {
			body[rapid.IntRange(0, len(body)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		} else {
			sum[rapid.IntRange(0, len(sum)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		if _, err := s.Receive(delivery(string(body), "X-Sig", hex.EncodeToString(sum))); failure.KindOf(err) != failure.Auth {
			t.Fatalf("accepted: %v", err)
		}
	})
}

func TestVendorID(t *testing.T) {
	s := open(t, map[string]any{"scheme": "none", "idHeader": "X-Id"})
	if e, err := s.Receive(delivery("{}")); err != nil || e.VendorID != "" || e.Signature != (journal.Signature{}) {
		t.Error(e, err)
	}
	for _, id := range []string{"a\x00b", "\xff", strings.Repeat("x", 257), "a\u2028b"} {
		if _, err := s.Receive(delivery("{}", "X-Id", id)); failure.KindOf(err) != failure.Validation {
			t.Errorf("%.20q: %v", id, err)
		}
	}
	c, err := Kind{}.Open(&definition.Source{Name: "s", Settings: map[string]any{"scheme": "none"}, Dedupe: definition.Dedupe{Header: "x-event"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.(*Source).Receive(delivery("{}", "X-Event", "7")); err != nil || e.VendorID != "7" {
		t.Error("dedupe.header of the definition: ", e, err)
	}
}

func TestDecode(t *testing.T) {
	const form = "application/x-www-form-urlencoded; charset=utf-8"
	for _, c := range []struct {
		name, batch, contentType, body string
		want                           []any
		says                           string
	}{
		{name: "object", body: `{"n":9007199254740993,"f":1.5,"big":18446744073709551616}`,
			want: []any{map[string]any{"n": int64(9007199254740993), "f": 1.5, "big": "18446744073709551616"}}},
		{name: "array", body: `[1,2]`, want: []any{[]any{int64(1), int64(2)}}},
		{name: "byte order mark", body: "\ufeff{}", want: []any{map[string]any{}}},
		{name: "batch", batch: "array", body: `[{"a":1},{"a":2}]`, want: []any{map[string]any{"a": int64(1)}, map[string]any{"a": int64(2)}}},
		{name: "empty batch", batch: "array", body: `[]`},
		{name: "no batch", batch: "array", body: `{}`, says: "expected a JSON array (batch: array), found an object"},
		{name: "lines", batch: "lines", body: "{\"a\":1}\n\n{\"a\":2}\r\n", want: []any{map[string]any{"a": int64(1)}, map[string]any{"a": int64(2)}}},
		{name: "bad line", batch: "lines", body: "{}\n{\n", says: "line 2: invalid JSON at byte 2: unexpected end"},
		{name: "form", contentType: form, body: "a=1&b=x+y&b=%C3%A4", want: []any{map[string]any{"a": "1", "b": []any{"x y", "ä"}}}},
		{name: "form with payload", contentType: form, body: "payload=%7B%22yo%22%3Atrue%7D", want: []any{map[string]any{"yo": true}}},
		{name: "form with bad payload", contentType: form, body: "payload=%7B", says: "unexpected end"},
		{name: "form that is not UTF-8", contentType: form, body: "a=%FF", says: `form field "a": expected UTF-8`},
		{name: "bad form", contentType: form, body: "a=%ZZ", says: "invalid URL escape"},
		{name: "empty", body: " \n", says: "the body is empty"},
		{name: "scalar", body: `"hush"`, says: "expected a JSON object or array, found a string"},
		{name: "cut", body: `{"a":[1,2`, says: "invalid JSON at byte 9: unexpected end"},
		{name: "garbage", body: `{"a":nope}`, says: "invalid JSON at byte 6"},
		{name: "trailing", body: `{} {}`, says: "invalid JSON at byte 3: expected the end"},
		{name: "not UTF-8", body: "{\"a\":\"\xff\"}", says: "invalid JSON at byte 6: invalid UTF-8"},
		{name: "deep", body: strings.Repeat("[", 65), says: "invalid JSON at byte 64: nested deeper than 64"},
		{name: "beyond a double", body: `[1e999]`, says: "beyond a double"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := map[string]any{"scheme": "none"}
			if c.batch != "" {
				set["batch"] = c.batch
			}
			recs, err := open(t, set).Decode(&journal.Entry{Body: []byte(c.body), ContentType: c.contentType})
			if c.says != "" {
				if failure.KindOf(err) != failure.Validation || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, expected Validation with %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []any
			for _, r := range recs {
				got = append(got, r["body"])
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %#v\nwant %#v", got, c.want)
			}
		})
	}
}

func TestSettingMistakesAreAllReported(t *testing.T) {
	_, err := Kind{}.Open(&definition.Source{Name: "s", Settings: map[string]any{
		"scheme": "hmac", "keepHeaders": []any{"X-Region", "Authorization", "X-Hub-Signature-256", "no header"},
		"eventHeader": "Cookie", "maxDepth": 0, "bacth": "array", "idHeader": 7,
		"secrets":   []any{map[string]any{"name": "a", "ref": "x"}, map[string]any{"name": "a", "ref": "empty", "key": 1}, map[string]any{"ref": "missing"}},
		"signature": map[string]any{"algorithm": "sha1", "payload": "{time}", "tolerance": "soon"},
	}}, func(ref string) (string, error) {
		switch ref {
		case "missing":
			return "", fmt.Errorf("environment variable MISSING is not set")
		case "empty":
			return "", nil
		}
		return "value", nil
	})
	got, ok := err.(connectors.SettingErrors)
	if !ok {
		t.Fatalf("got %T: %v", err, err)
	}
	var lines []string
	for _, e := range got {
		lines = append(lines, e.Error())
	}
	want := []string{
		`bacth: found "array", expected no such setting; one of batch, eventHeader, idHeader, keepHeaders, maxDepth, scheme, secrets, signature`,
		`eventHeader: found "Cookie", expected a header that carries no credential: its value is kept in the journal`,
		`idHeader: found 7, expected a string`,
		`keepHeaders[1]: found "Authorization", expected a header that carries no credential or signature: the journal is read by many`,
		`keepHeaders[2]: found "X-Hub-Signature-256", expected a header that carries no credential or signature: the journal is read by many`,
		`keepHeaders[3]: found "no header", expected a header name such as X-Region`,
		`maxDepth: found 0, expected an integer from 1 to 512`,
		`secrets[1].key: found 1, expected no such setting; one of name, ref`,
		`secrets[1].name: found "a", expected a name that no other secret has`,
		`secrets[1].ref: found "empty", expected a secret that is not empty: anybody can sign with an empty key`,
		`secrets[2].name: found nothing, expected a name for the secret, which is recorded when it matches`,
		`secrets[2].ref: found "missing", expected a secret that can be read: environment variable MISSING is not set`,
		`signature.algorithm: found "sha1", expected sha256 or sha512; sha1 is weak and needs signature.allowWeak`,
		`signature.header: found nothing, expected the header that carries the signature`,
		`signature.payload: found "{time}", expected only {body} and {timestamp} in braces`,
		`signature.payload: found "{time}", expected a template with {body} once`,
		`signature.tolerance: found "soon", expected a positive duration such as 5m or 30s`,
	}
	if g, w := strings.Join(lines, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\n\nwant\n%s", g, w)
	}
}

func TestSchemeMustBeSaid(t *testing.T) {
	_, err := Kind{}.Open(&definition.Source{Name: "s"}, lookup)
	if err == nil || !strings.Contains(err.Error(), "scheme: found nothing, expected one of none, hmac") {
		t.Error(err)
	}
	_, err = Kind{}.Open(&definition.Source{Name: "s", Settings: map[string]any{"scheme": "slack", "signature": map[string]any{"payload": "{body}"}, "secrets": live("a")}}, lookup)
	if err == nil || !strings.Contains(err.Error(), "only scheme hmac takes it") {
		t.Error(err)
	}
}

// Whatever the headers hold, a delivery is accepted only if it carries a
// signature that a live secret made over its very content.
func FuzzSignatureHeaders(f *testing.F) {
	f.Add("github", "sha256=00", "", "", "{}")
	f.Add("standard-webhooks", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,AA==", "1700000000", "msg", "{}")
	f.Add("stripe", "t=1700000000,v1=00,v1=", "", "", "{}")
	f.Add("slack", "v0=00", "1700000000", "", "payload=%7B%7D")
	f.Add("shopify", "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI=", "", "", "[]")
	sources := map[string]*Source{}
	for _, scheme := range []string{"github", "gitea", "gocardless", "shopify", "slack", "stripe"} {
		sources[scheme] = open(f, map[string]any{"scheme": scheme, "secrets": live("a", "b")})
	}
	sources["standard-webhooks"] = openWith(f, map[string]any{"scheme": "standard-webhooks", "secrets": live("a")},
		func(string) (string, error) { return "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", nil })
	f.Fuzz(func(t *testing.T, scheme, sig, ts, id, body string) {
		s, ok := sources[scheme]
		if !ok {
			return
		}
		d := delivery(body, "X-Hub-Signature-256", sig, "X-Gitea-Signature", sig, "Webhook-Signature", sig, "X-Shopify-Hmac-Sha256", sig,
			"X-Slack-Signature", sig, "Stripe-Signature", sig, "X-Slack-Request-Timestamp", ts, "Webhook-Timestamp", ts, "Webhook-Id", id)
		if _, err := s.Receive(d); failure.KindOf(err) != failure.Auth {
			t.Errorf("%s accepted %q: %v", scheme, sig, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("application/json", []byte(`{"a":[1,2.5,null,{"b":"c"}]}`))
	f.Add("application/x-www-form-urlencoded", []byte(`payload=%7B%22a%22%3A1%7D`))
	f.Add("application/x-www-form-urlencoded;;", []byte(`a=b&a=c`))
	s := open(f, map[string]any{"scheme": "none"})
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		recs, err := s.Decode(&journal.Entry{ContentType: contentType, Body: body})
		if err != nil {
			if failure.KindOf(err) != failure.Validation {
				t.Fatalf("%v is %s", err, failure.KindOf(err))
			}
			return
		}
		if len(recs) != 1 || recs[0]["body"] == nil {
			t.Fatalf("%v", recs)
		}
	})
}
