package identity_test

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/identity"
)

func TestDirect(t *testing.T) {
	for _, tc := range []struct{ values, want string }{
		{"C-1001", "C-1001"},
		{"jane@example.com", "jane@example.com"},
		{"AA|2011-12-01", "AA~2011-12-01"},
		{"a~b", "a=7Eb"},
		{"a/b c", "a=2Fb=20c"},
		{"..", "=2E=2E"},
		{"Zürich", "Z=C3=BCrich"},
	} {
		var names []string
		var values []canonical.Value
		for _, v := range strings.Split(tc.values, "|") {
			names, values = append(names, "n"), append(values, canonical.String(v))
		}
		got, err := identity.Direct(names, values)
		if err != nil || got != tc.want {
			t.Errorf("%s: %q %v, want %q", tc.values, got, err, tc.want)
		}
	}
	if got, err := identity.Direct([]string{"n"}, []canonical.Value{canonical.Int(7)}); err != nil || got != "7" {
		t.Errorf("an int key gave %q %v", got, err)
	}
	if got, _ := identity.Direct([]string{"n"}, []canonical.Value{canonical.String(strings.Repeat("x", 500))}); len(got) != 65 || got[0] != '~' {
		t.Errorf("a long key gave %q", got)
	}
	for _, bad := range []canonical.Value{"", canonical.Null, `""`} {
		if got, err := identity.Direct([]string{"customerNumber"}, []canonical.Value{bad}); err == nil || !strings.Contains(err.Error(), "customerNumber") {
			t.Errorf("%q gave %q, %v", bad, got, err)
		}
	}
}

// Oracle: different values have different ids, and an id is one path segment
// as it stands.
func TestDirectIsInjective(t *testing.T) {
	texts := rapid.SliceOfN(rapid.StringN(1, 20, 40), 2, 2)
	rapid.Check(t, func(t *rapid.T) {
		a, b := texts.Draw(t, "a"), texts.Draw(t, "b")
		id := func(s []string) string {
			id, err := identity.Direct([]string{"x", "y"}, []canonical.Value{canonical.String(s[0]), canonical.String(s[1])})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		x, y := id(a), id(b)
		same := strings.ToValidUTF8(a[0], "\ufffd") == strings.ToValidUTF8(b[0], "\ufffd") && strings.ToValidUTF8(a[1], "\ufffd") == strings.ToValidUTF8(b[1], "\ufffd")
		if (x == y) != same {
			t.Fatalf("%q and %q gave %q and %q", a, b, x, y)
		}
		if strings.Contains(x, "/") || (&url.URL{Path: "/" + x}).EscapedPath() != "/"+x {
			t.Fatalf("%q is not a path segment", x)
		}
	})
}
