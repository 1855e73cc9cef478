// Package failpoint lets a test make a running process fail at a named place:
// be killed between two steps of a commit, panic in a callback, stop for longer
// than a timeout. Built without the tag failpoints, as every release is, there
// is nothing of it: Enabled is false and [Reach] is a constant nil, which the
// compiler inlines and removes together with whatever would handle its error.
// TestNothingRemainsOfFailpoints, in internal/e2e, looks into the program.
//
// It does not simulate: kill is SIGKILL to the own process, not an exit, so
// nothing is flushed, closed or told to anyone. It knows nothing of the
// network and of disks; faults of those are made from outside.
//
// # Configuration
//
// A binary built with -tags failpoints reads two variables at its start:
//
//	TOUCHSTONE_FAILPOINTS       rules, separated by semicolons
//	TOUCHSTONE_FAILPOINT_SEED   unsigned integer; one is drawn, and printed, if absent
//
// A rule is point[scope]=action@trigger:
//
//	engine/commit/before-flush[customer-management.merge]=kill@3
//	engine/recovery/record=kill@p0.001
//	engine/commit/after-end=sleep(12s)@1
//	engine/step/station[orders.merge]=panic
//
// The scope is what the point is reached for, mostly a consumer group (see
// [Points]); a rule without one holds for all. The action is one of
//
//	kill       SIGKILL to the own process
//	panic      a panic in the goroutine that is there
//	error      an error from the point, where it can have one
//	sleep(d)   waits, such as sleep(1500ms)
//
// and the trigger
//
//	@N         the Nth time that the rule's point is reached, once
//	@pP        each time with the probability P, as 0.001
//	(none)     every time
//
// Times are counted per rule and process. Chance is drawn per rule from the
// seed, so that a rule fires at the same times in every process with that seed:
// who restarts a process that is to get further changes the seed.
//
// A third variable, TOUCHSTONE_FAILPOINT_CLOCK, names a file with a duration such
// as 1h or -90s. By that much the clock is wrong which stamps deliveries; the file
// may change, or not be there, at any time. (libfaketime does not reach a static
// Go program.)
//
// Every rule that fires says so on standard error, in one line, before it acts.
//
// There is prior art in go.etcd.io/gofail and github.com/pingcap/failpoint. Both
// rewrite the source before it is compiled; a build tag needs no tool.
package failpoint
