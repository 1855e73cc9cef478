package definition

import (
	"strings"
	"testing"
	"time"
)

func TestCommandCheck(t *testing.T) {
	step := func(name string, change ...func(*Step)) *Step {
		s := &Step{Name: name, Kind: Call, Timeout: time.Second, Retry: Retry{Attempts: 1}}
		for _, c := range change {
			c(s)
		}
		return s
	}
	undo := func(s *Step) { s.Undo = &Undo{Timeout: time.Second, Retry: Retry{Attempts: 1}} }
	approve := func(s *Step) { s.Kind = Approve }
	final := func(s *Step) { s.Final = true }
	for _, c := range []struct {
		name, err string
		command   Command
	}{
		{"without steps", "", Command{Deadline: time.Second}},
		{"stages", "", Command{Deadline: time.Second, Stages: [][]*Step{{step("a", undo), step("b")}, {step("c", final)}, {step("d")}}}},
		{"same name", `step "a": the name is taken`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a")}, {step("a")}}}},
		{"no attempt", `step "a": 0 attempts, expected at least 1`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", func(s *Step) { s.Retry.Attempts = 0 })}}}},
		{"no timeout", `step "a": timeout 0s, expected a time above zero`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", func(s *Step) { s.Timeout = 0 })}}}},
		{"undo without attempt", `undo of step "a": 0 attempts of 1s each`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", undo, func(s *Step) { s.Undo.Retry.Attempts = 0 })}}}},
		{"unknown kind", `step "a": kind "wait", expected call, approve or command`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", func(s *Step) { s.Kind = "wait" })}}}},
		{"approval with undo", `step "a": an approval cannot be undone`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", approve, undo)}}}},
		{"approval twice", `step "a": 2 attempts, expected 1`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", approve, func(s *Step) { s.Retry.Attempts = 2 })}}}},
		{"final beside others", `step "a": the point of no return runs beside others`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", final), step("b")}}}},
		{"two finals", `step "b": there is a second point of no return after step "a"`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", final)}, {step("b", final)}}}},
		{"undo after final", `step "b": it can never be undone after step "a"`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", final)}, {step("b", undo)}}}},
		{"undo of final", `step "a": it can never be undone after step "a"`, Command{Deadline: time.Second, Stages: [][]*Step{{step("a", final, undo)}}}},
		{"no deadline", "deadline 0s, expected a time above zero", Command{}},
		{"no time to confirm", "confirmation within 0s, expected", Command{Deadline: time.Second, Confirm: Confirmation{If: always{}}}},
	} {
		err := c.command.Check()
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, expected %q", c.name, err, c.err)
		}
	}
}

type always struct{}

func (always) Holds(map[string]any) (bool, error) { return true, nil }
func (always) Source() string                     { return "true" }
