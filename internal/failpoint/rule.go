package failpoint

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The environment variables.
const (
	RulesEnv = "TOUCHSTONE_FAILPOINTS"
	SeedEnv  = "TOUCHSTONE_FAILPOINT_SEED"
	ClockEnv = "TOUCHSTONE_FAILPOINT_CLOCK"
)

// ErrInjected is what the action error gives, wrapped with the point.
var ErrInjected = errors.New("injected error")

type verb string

const (
	doKill  verb = "kill"
	doPanic verb = "panic"
	doError verb = "error"
	doSleep verb = "sleep"
)

// rule is what is to happen at a point.
type rule struct {
	text  string
	point Point
	scope string // "" is any
	do    verb
	pause time.Duration
	nth   uint64  // 0 is every
	p     float64 // 0 is always

	mu   sync.Mutex
	hits uint64
	rng  *rand.Rand
}

// Rules are parsed rules and how often their points were reached.
type Rules struct {
	list []*rule

	// What they act on; tests have their own.
	out   io.Writer
	kill  func()
	sleep func(time.Duration)
}

// Parse reads rules as in the variable TOUCHSTONE_FAILPOINTS. The error tells
// everything that is wrong with them at once.
func Parse(text string, seed uint64) (*Rules, error) {
	rs := &Rules{out: os.Stderr, kill: killSelf, sleep: time.Sleep}
	var errs []error
	n := 0
	for part := range strings.SplitSeq(text, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		n++
		r, err := parseRule(part)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: rule %d %q: %w", RulesEnv, n, part, err))
			continue
		}
		r.rng = rand.New(rand.NewPCG(seed, uint64(n)))
		rs.list = append(rs.list, r)
	}
	return rs, errors.Join(errs...)
}

func parseRule(text string) (*rule, error) {
	at, rest, ok := strings.Cut(text, "=")
	if !ok {
		return nil, errors.New("found no =, expected point[scope]=action@trigger")
	}
	r := &rule{text: text}
	name, scope, scoped := strings.Cut(at, "[")
	if scoped {
		if r.scope, ok = strings.CutSuffix(scope, "]"); !ok || r.scope == "" {
			return nil, fmt.Errorf("scope: found %q, expected [name] before the =", "["+scope)
		}
	}
	r.point = Point(name)
	place, ok := r.point.place()
	if !ok {
		return nil, fmt.Errorf("point: found %q, expected one of %s", name, pointNames())
	}
	action, trigger, triggered := strings.Cut(rest, "@")
	if err := r.parseAction(action, place); err != nil {
		return nil, err
	}
	if triggered {
		return r, r.parseTrigger(trigger)
	}
	return r, nil
}

func (r *rule) parseAction(text string, place Place) error {
	r.do = verb(text)
	switch arg, isSleep := strings.CutPrefix(text, "sleep("); {
	case isSleep:
		arg, closed := strings.CutSuffix(arg, ")")
		d, err := time.ParseDuration(arg)
		if err != nil || !closed || d <= 0 {
			return fmt.Errorf("action: found %q, expected a positive duration as in sleep(1500ms)", text)
		}
		r.do, r.pause = doSleep, d
	case r.do == doError && !place.Errors:
		return fmt.Errorf("action: found %q, which %s cannot have, expected kill, panic or sleep(duration)", text, place.Point)
	case r.do == doKill, r.do == doPanic, r.do == doError:
	default:
		return fmt.Errorf("action: found %q, expected kill, panic, error or sleep(duration)", text)
	}
	return nil
}

func (r *rule) parseTrigger(text string) (err error) {
	if p, ok := strings.CutPrefix(text, "p"); ok {
		if r.p, err = strconv.ParseFloat(p, 64); err != nil || !(r.p > 0 && r.p <= 1) {
			return fmt.Errorf("trigger: found %q, expected a probability above 0 and at most 1 as in @p0.001", "@"+text)
		}
		return nil
	}
	if r.nth, err = strconv.ParseUint(text, 10, 64); err != nil || r.nth == 0 {
		return fmt.Errorf("trigger: found %q, expected @N, a count from 1, or @pP, a probability", "@"+text)
	}
	return nil
}

func pointNames() string {
	var names []string
	for _, p := range Points() {
		names = append(names, string(p.Point))
	}
	return strings.Join(names, ", ")
}

// Reach does what the rules say for the point. The rules act in their order; an
// error ends them.
func (rs *Rules) Reach(point Point, scope string) error {
	for _, r := range rs.list {
		if r.point != point || r.scope != "" && r.scope != scope {
			continue
		}
		hit, fires := r.hit()
		if !fires {
			continue
		}
		if err := rs.act(r, hit, scope); err != nil {
			return err
		}
	}
	return nil
}

// hit counts, and tells whether the rule fires.
func (r *rule) hit() (hit uint64, fires bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hits++
	switch {
	case r.nth > 0:
		return r.hits, r.hits == r.nth
	case r.p > 0:
		return r.hits, r.rng.Float64() < r.p
	}
	return r.hits, true
}

func (rs *Rules) act(r *rule, hit uint64, scope string) error {
	what := fmt.Sprintf("%s[%s] hit %d", r.point, scope, hit)
	// One write, so that lines of several goroutines do not mix.
	_, _ = io.WriteString(rs.out, "failpoint: "+what+": "+r.text+"\n")
	switch r.do {
	case doKill:
		rs.kill()
	case doPanic:
		panic("failpoint: " + what)
	case doSleep:
		rs.sleep(r.pause)
	case doError:
		return fmt.Errorf("failpoint %s: %w", what, ErrInjected)
	}
	return nil
}

// killSelf ends the process as a crash does: nothing deferred runs, nothing is
// flushed. It does not return.
func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(fmt.Sprintf("failpoint: kill: %v", err))
	}
	select {} // the signal is on its way
}
