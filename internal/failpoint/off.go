//go:build !failpoints

package failpoint

import (
	"fmt"
	"time"
)

// Enabled tells whether the program was built with failpoints.
const Enabled = false

// Reach does nothing.
func Reach(Point, string) error { return nil }

// Now is time.Now.
func Now() time.Time { return time.Now() }

// Setup refuses rules: a test whose faults silently do not happen proves
// nothing. getenv gives an environment variable and whether it is set.
func Setup(getenv func(string) (string, bool)) error {
	for _, name := range []string{RulesEnv, SeedEnv, ClockEnv} {
		if v, ok := getenv(name); ok {
			return fmt.Errorf("%s: found %q in a program without failpoints, expected one built with -tags failpoints", name, v)
		}
	}
	return nil
}
