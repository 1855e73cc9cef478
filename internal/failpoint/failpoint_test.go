package failpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Oracle: each wrong rule is named with what was found and what was expected,
// and all of them at once.
func TestWrongRules(t *testing.T) {
	for text, want := range map[string]string{
		"engine/commit/before-flush":              `rule 1 "engine/commit/before-flush": found no =, expected point[scope]=action@trigger`,
		"engine/comit=kill":                       `point: found "engine/comit", expected one of door/before-append, `,
		"engine/commit/before-end[=kill":          `scope: found "[", expected [name] before the =`,
		"engine/commit/before-end[]=kill":         `scope: found "[]", expected [name] before the =`,
		"engine/commit/before-end=explode":        `action: found "explode", expected kill, panic, error or sleep(duration)`,
		"engine/commit/before-end=":               `action: found "", expected kill`,
		"engine/commit/before-end=sleep(12)":      `action: found "sleep(12)", expected a positive duration as in sleep(1500ms)`,
		"engine/commit/before-end=sleep(1s":       `action: found "sleep(1s", expected a positive duration`,
		"engine/commit/before-end=sleep(-1s)":     `action: found "sleep(-1s)", expected a positive duration`,
		"engine/commit/end-sent=error":            `action: found "error", which engine/commit/end-sent cannot have, expected kill, panic or sleep(duration)`,
		"engine/commit/before-end=kill@0":         `trigger: found "@0", expected @N, a count from 1, or @pP, a probability`,
		"engine/commit/before-end=kill@":          `trigger: found "@", expected @N`,
		"engine/commit/before-end=kill@p0":        `trigger: found "@p0", expected a probability above 0 and at most 1 as in @p0.001`,
		"engine/commit/before-end=kill@pNaN":      `trigger: found "@pNaN", expected a probability`,
		"engine/commit/before-end=kill@p1.5":      `trigger: found "@p1.5", expected a probability`,
		"door/after-append=kill; x=kill; y=kill":  `TOUCHSTONE_FAILPOINTS: rule 3 "y=kill": point: found "y"`,
		"door/after-append=kill; x=kill; y=panic": `TOUCHSTONE_FAILPOINTS: rule 2 "x=kill": point: found "x"`,
	} {
		if _, err := Parse(text, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant … %s", text, err, want)
		}
	}
}

// record makes rules note what they do.
func record(t *testing.T, text string, seed uint64) (rs *Rules, did *[]string, said *strings.Builder) {
	t.Helper()
	rs, err := Parse(text, seed)
	if err != nil {
		t.Fatal(err)
	}
	did, said = new([]string), new(strings.Builder)
	rs.out = said
	rs.kill = func() { *did = append(*did, "kill") }
	rs.sleep = func(d time.Duration) { *did = append(*did, "sleep "+d.String()) }
	return rs, did, said
}

// Oracle: what each rule does at which hit is written down here.
func TestReach(t *testing.T) {
	rs, did, said := record(t, " engine/commit/before-end[g]=kill@3; engine/commit/before-end=sleep(12s)@1;engine/commit/before-end[h]=error ;", 1)
	for range 5 {
		if err := rs.Reach(CommitEnd, "g"); err != nil {
			t.Error(err)
		}
	}
	if err := rs.Reach(CommitFlush, "h"); err != nil {
		t.Error("another point:", err)
	}
	err := rs.Reach(CommitEnd, "h")
	if !errors.Is(err, ErrInjected) || err.Error() != "failpoint engine/commit/before-end[h] hit 1: injected error" {
		t.Error(err)
	}
	if want := []string{"sleep 12s", "kill"}; !slices.Equal(*did, want) {
		t.Errorf("it did %q, expected %q", *did, want)
	}
	want := `failpoint: engine/commit/before-end[g] hit 1: engine/commit/before-end=sleep(12s)@1
failpoint: engine/commit/before-end[g] hit 3: engine/commit/before-end[g]=kill@3
failpoint: engine/commit/before-end[h] hit 1: engine/commit/before-end[h]=error
`
	if said.String() != want {
		t.Errorf("it said\n%swant\n%s", said, want)
	}
	rs, _, _ = record(t, "engine/step/station=panic", 1)
	defer func() {
		if v := fmt.Sprint(recover()); v != "failpoint: engine/step/station[g] hit 1" {
			t.Errorf("panic %q", v)
		}
	}()
	_ = rs.Reach(StepStation, "g")
}

// Oracle: a probability holds over many hits, the same seed fires at the same
// hits, another one at others, and two rules at hits of their own.
func TestChance(t *testing.T) {
	fired := func(seed uint64) (first, second string) {
		rs, _, _ := record(t, "engine/commit/before-end[a]=error@p0.1;engine/commit/before-end[b]=error@p0.1", seed)
		var a, b strings.Builder
		for i := range 10_000 {
			if rs.Reach(CommitEnd, "a") != nil {
				fmt.Fprintln(&a, i)
			}
			if rs.Reach(CommitEnd, "b") != nil {
				fmt.Fprintln(&b, i)
			}
		}
		return a.String(), b.String()
	}
	a, b := fired(1)
	// 10,000 × 0.1 with a standard deviation of 30: five of them are ample.
	if n := strings.Count(a, "\n"); n < 850 || n > 1150 {
		t.Errorf("fired %d times of 10,000 with probability 0.1", n)
	}
	if again, _ := fired(1); again != a {
		t.Error("the same seed fires at other hits")
	}
	if other, _ := fired(2); other == a {
		t.Error("another seed fires at the same hits")
	}
	if a == b {
		t.Error("two rules fire at the same hits")
	}
}

// Oracle: points are told apart and described.
func TestPoints(t *testing.T) {
	seen := map[Point]bool{}
	for _, p := range Points() {
		if seen[p.Point] || p.Scope == "" || p.Doc == "" {
			t.Errorf("%+v: doubled or not described", p)
		}
		seen[p.Point] = true
	}
}
