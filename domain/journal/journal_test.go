package journal_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/journal"
)

func identify(e journal.Entry, volatile ...string) journal.Entry {
	e.Source, e.Tenant = "crm", "default"
	e.Identify(volatile)
	return e
}

func TestIdentify(t *testing.T) {
	body := func(s string) journal.Entry { return journal.Entry{Body: []byte(s)} }
	same := func(name string, a, b journal.Entry) {
		t.Helper()
		if a.DedupeKey != b.DedupeKey {
			t.Errorf("%s: keys differ: %s, %s", name, a.DedupeKey, b.DedupeKey)
		}
	}
	differ := func(name string, a, b journal.Entry) {
		t.Helper()
		if a.DedupeKey == b.DedupeKey {
			t.Errorf("%s: one key for both: %s", name, a.DedupeKey)
		}
	}
	same("spelling of JSON", identify(body(`{"a":1.0,"b":"x"}`)), identify(body(`{ "b":"\u0078", "a":1 }`)))
	differ("other content", identify(body(`{"a":1}`)), identify(body(`{"a":2}`)))
	differ("beyond a double", identify(body(`{"id":9007199254740993}`)), identify(body(`{"id":9007199254740992}`)))
	same("volatile", identify(body(`{"a":1,"sent":{"at":5}}`), "/sent/at"), identify(body(`{"a":1,"sent":{"at":6}}`), "/sent/at"))
	same("volatile items", identify(body(`{"l":[{"t":1},{"t":2}]}`), "/l/*/t"), identify(body(`{"l":[{"t":3},{"t":4}]}`), "/l/*/t"))
	same("volatile with escapes", identify(body(`{"a/b":{"~":1}}`), "/a~1b/~0"), identify(body(`{"a/b":{"~":2}}`), "/a~1b/~0"))
	differ("only the path is volatile", identify(body(`{"a":1,"t":5}`), "/t"), identify(body(`{"a":2,"t":5}`), "/t"))
	same("not JSON: bytes", identify(body("a,b")), identify(body("a,b")))
	differ("not JSON: any byte", identify(body("a,b")), identify(body("a,b ")))
	differ("duplicate members are not canonical", identify(body(`{"a":1,"a":2}`)), identify(body(`{"a":2}`)))
	differ("the record key counts", identify(journal.Entry{Key: []byte("1"), NoBody: true}), identify(journal.Entry{Key: []byte("2"), NoBody: true}))
	differ("tombstone and empty body", identify(journal.Entry{NoBody: true}), identify(journal.Entry{}))

	a, b := body(`{"a":1}`), body(`{"a":2}`)
	a.VendorID, b.VendorID = "evt-1", "evt-1"
	a, b = identify(a), identify(b)
	same("the vendor's id", a, b)
	if a.BodyHash == b.BodyHash {
		t.Error("the hash must tell a conflict from a duplicate")
	}
}

func TestIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := journal.ID{Domain: rapid.StringMatching(`[a-z][a-z-]{0,20}`).Draw(t, "domain"), Partition: rapid.Int32Min(0).Draw(t, "p"), Offset: rapid.Int64Min(0).Draw(t, "o")}
		got, err := journal.ParseID(id.String())
		if err != nil || got != id {
			t.Fatalf("%v became %v, %v", id, got, err)
		}
	})
	for _, bad := range []string{"", "a", "a:b:1", "a:1", "a:1:-2", ":1:2", "a:1:2:3", "a:99999999999:1"} {
		if id, err := journal.ParseID(bad); err == nil {
			t.Errorf("%q was read as %v", bad, id)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte(`{"a":[1]}`), "/a/0")
	f.Add([]byte(`not json`), "")
	f.Fuzz(func(t *testing.T, body []byte, path string) {
		e := identify(journal.Entry{Body: body}, path)
		if len(e.BodyHash) != 64 || e.DedupeKey == "" {
			t.Fatalf("hash %q, key %q", e.BodyHash, e.DedupeKey)
		}
	})
}

// Oracle: bodies that differ in any digit are not copies; other spellings of
// the same number are.
func TestEveryDigitCounts(t *testing.T) {
	hash := func(body string) string {
		e := journal.Entry{Body: []byte(body)}
		e.Identify([]string{"/sentAt"})
		return e.BodyHash
	}
	for _, pair := range [][2]string{
		{`{"amount":12345678901234567.89}`, `{"amount":12345678901234567.91}`},
		{`{"n":0.12345678901234567891}`, `{"n":0.12345678901234567892}`},
		{`{"n":9007199254740993}`, `{"n":9007199254740992}`},
		{`{"n":1e400}`, `{"n":2e400}`},
	} {
		if hash(pair[0]) == hash(pair[1]) {
			t.Errorf("%s and %s are taken for copies", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{
		{`{"n":1.50}`, `{"n":15e-1}`}, {`{"n":1.0}`, `{"n":1}`}, {`{"n":-0.0}`, `{"n":0}`}, {`{"n":100.0}`, `{"n":1E2}`},
		{`{"n":0.1,"sentAt":1}`, `{"sentAt":2,"n":0.10}`},
	} {
		if hash(pair[0]) != hash(pair[1]) {
			t.Errorf("%s and %s are not taken for copies", pair[0], pair[1])
		}
	}
}
