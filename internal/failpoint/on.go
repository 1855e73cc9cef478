//go:build failpoints

package failpoint

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Enabled tells whether the program was built with failpoints.
const Enabled = true

// active are the rules of the process; nil for none.
var active atomic.Pointer[Rules]

// Reach does what the rules of the process say for the point. scope is what it
// is reached for; see Points.
func Reach(point Point, scope string) error {
	if rs := active.Load(); rs != nil {
		return rs.Reach(point, scope)
	}
	return nil
}

// Use makes these the rules of the process, nil for none, and gives what undoes
// that. It is for tests that fail points of their own process.
func Use(rs *Rules) (restore func()) {
	old := active.Swap(rs)
	return func() { active.Store(old) }
}

// clock is the file of ClockEnv; nil for a clock that is right.
var clock atomic.Pointer[string]

// Now is the time of the clock that the door stamps deliveries by: the right
// one, or wrong by what the file of ClockEnv says just now.
func Now() time.Time {
	path := clock.Load()
	if path == nil {
		return time.Now()
	}
	b, err := os.ReadFile(*path)
	if err != nil {
		return time.Now() // a clock that nobody has touched yet
	}
	wrong, err := time.ParseDuration(strings.TrimSpace(string(b)))
	if err != nil {
		panic(fmt.Sprintf("failpoint: %s of %s: %v", ClockEnv, *path, err))
	}
	return time.Now().Add(wrong)
}

// Setup reads the rules of the process and says on standard error that there
// are some. getenv gives an environment variable and whether it is set.
func Setup(getenv func(string) (string, bool)) error {
	if path, ok := getenv(ClockEnv); ok {
		clock.Store(&path)
	}
	text, ok := getenv(RulesEnv)
	if !ok {
		return nil
	}
	seed := rand.Uint64()
	if s, ok := getenv(SeedEnv); ok {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			return fmt.Errorf("%s: found %q, expected an unsigned integer of 64 bits", SeedEnv, s)
		}
	}
	rs, err := Parse(text, seed)
	if err != nil {
		return err
	}
	active.Store(rs)
	fmt.Fprintf(os.Stderr, "failpoint: %d rules, seed %d: %s\n", len(rs.list), seed, text)
	return nil
}
