package failpoint

import (
	"strings"
	"testing"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

// Oracle: without variables nothing happens in either build; a build without
// failpoints refuses them, one with failpoints refuses what is wrong.
func TestSetup(t *testing.T) {
	if err := Setup(environment(nil)); err != nil {
		t.Error(err)
	}
	if err := Reach(CommitEnd, "g"); err != nil {
		t.Error(err)
	}
	want := map[bool]string{
		false: `TOUCHSTONE_FAILPOINTS: found "x" in a program without failpoints, expected one built with -tags failpoints`,
		true:  `TOUCHSTONE_FAILPOINTS: rule 1 "x": found no =`,
	}[Enabled]
	if err := Setup(environment(map[string]string{RulesEnv: "x"})); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, expected … %s", err, want)
	}
	want = map[bool]string{
		false: `TOUCHSTONE_FAILPOINT`,
		true:  `TOUCHSTONE_FAILPOINT_SEED: found "-1", expected an unsigned integer of 64 bits`,
	}[Enabled]
	if err := Setup(environment(map[string]string{RulesEnv: "engine/commit/before-end=kill", SeedEnv: "-1"})); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, expected … %s", err, want)
	}
}
