package e2e

import (
	"bytes"
	"os"
	"testing"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// Oracle: a program built without the tag has neither the names of the points
// nor the code that would act on them.
func TestNothingRemainsOfFailpoints(t *testing.T) {
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(failpoint.RulesEnv)) {
		t.Fatal("it cannot be told: not even the name of the variable is there, which is refused")
	}
	left := []string{"failpoint.Parse", "failpoint.(*Rules)", "failpoint.killSelf"}
	for _, p := range failpoint.Points() {
		left = append(left, string(p.Point))
	}
	for _, name := range left {
		if bytes.Contains(b, []byte(name)) {
			t.Errorf("%s is in the built program", name)
		}
	}
}
