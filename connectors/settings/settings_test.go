package settings

import (
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	r := Read(map[string]any{
		"s": "x", "b": true, "n": 7, "f": 0.5, "d": "90s", "c": `\t`, "one": "a", "list": []any{"a", "b"},
		"part": map[string]any{"k": 1.0}, "parts": []any{map[string]any{"name": "p"}}, "names": map[string]any{"y": nil, "x": 1},
	})
	p := r.Part("part")
	parts := r.Parts("parts")
	if r.String("s", "") != "x" || !r.Bool("b", false) || r.Int("n", 0, 0, 9) != 7 || r.Float("f", 0, 0, 1) != 0.5 ||
		r.Duration("d", 0) != 90*time.Second || r.Character("c", 0) != '\t' || len(r.Strings("one")) != 1 || len(r.Strings("list")) != 2 ||
		p.Int("k", 0, 0, 9) != 1 || len(parts) != 1 || parts[0].String("name", "") != "p" || strings.Join(r.Part("names").Keys(), "") != "xy" ||
		!r.IsList("list") || r.IsList("one") {
		t.Error("a value was not read")
	}
	if r.String("absent", "default") != "default" || r.Choice("absent", "a", "a") != "a" || r.Parts("absent") != nil || r.Has("absent") {
		t.Error("a default was not given")
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if err := Read(nil).Err(); err != nil {
		t.Error(err)
	}
}

func TestEveryMistakeIsTold(t *testing.T) {
	r := Read(map[string]any{
		"b": "yes", "c": 3, "d": "-1s", "f": "1", "l": []any{"a", 1, "a", ""}, "m": "x", "n": 10, "ps": []any{1}, "s": 1, "typo": strings.Repeat("x", 99), "w": "z",
		"part": map[string]any{"inner": []any{}},
	})
	r.Bool("b", false)
	r.Character("c", 0)
	r.Duration("d", 0)
	r.Float("f", 0, 0, 1)
	r.Strings("l")
	r.Part("m")
	r.Int("n", 0, 0, 9)
	r.Part("part").Strings("known")
	r.Parts("ps")
	r.String("s", "")
	r.Choice("w", "", "x", "y")
	want := `b: found "yes", expected true or false
c: found 3, expected one ASCII character
d: found "-1s", expected a positive duration such as 5m or 30s
f: found "1", expected a number from 0 to 1
l[1]: found 1, expected a string that is not empty and not repeated
l[2]: found "a", expected a string that is not empty and not repeated
l[3]: found "", expected a string that is not empty and not repeated
m: found "x", expected a map of settings
n: found 10, expected an integer from 0 to 9
part.inner: found a list, expected no such setting; one of known
ps[0]: found 1, expected a map
s: found 1, expected a string
typo: found "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", expected no such setting; one of b, c, d, f, l, m, n, part, ps, s, w
w: found "z", expected one of x, y`
	if got := strings.ReplaceAll(r.Err().Error(), "; ", "\n"); got != strings.ReplaceAll(want, "; ", "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
