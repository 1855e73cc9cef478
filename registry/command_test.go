package registry_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/registry"
)

func commandsOf(t *testing.T, file string) *definition.Resource {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := registry.Parse(filepath.Base(file), text, testKinds())
	if err != nil {
		t.Fatal(err)
	}
	return d.Resources[0]
}

// What is written of a command is all there is to it: read on its own it is the
// same plan, and neither comments nor the way it is written make it another one.
func TestPlansOnTheirOwn(t *testing.T) {
	r := commandsOf(t, "testdata/commands/shop.yaml")
	if len(r.Commands) != 5 {
		t.Fatalf("%d commands", len(r.Commands))
	}
	other := commandsOf(t, "testdata/commands/shop-rewritten.yaml")
	for i, c := range r.Commands {
		again, err := registry.ParsePlan(c.Text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.Name, err, c.Text)
		}
		if again.Fingerprint != c.Fingerprint || again.Text != c.Text {
			t.Errorf("%s: read again it is\n%s", c.Name, cmp.Diff(c.Text, again.Text))
		}
		if len(again.Stages) != len(c.Stages) || again.Deadline != c.Deadline || again.Confirm.Within != c.Confirm.Within || again.Derived != c.Derived {
			t.Errorf("%s: %+v, expected %+v", c.Name, again, c)
		}
		if o := other.Commands[i]; o.Fingerprint != c.Fingerprint {
			t.Errorf("%s: written otherwise it is\n%s", c.Name, cmp.Diff(c.Text, o.Text))
		}
	}
	if _, err := registry.ParsePlan("Suspend: {steps: 7, confirm: steps}"); err == nil {
		t.Error("a plan without steps is taken")
	}
}

// Whoever decides a field is asked to change it: the most authoritative source
// that has a record of the entity.
func TestDerivedCommands(t *testing.T) {
	r := commandsOf(t, "testdata/commands/shop.yaml")
	plan, ok := r.Command("UpdateCustomer")
	if !ok || !plan.Derived || len(plan.Stages) != 1 || len(plan.Stages[0]) != 2 {
		t.Fatalf("%+v", plan)
	}
	for _, c := range []struct {
		name  string
		refs  []saga.Ref
		input []canonical.Named
		calls map[string]string // arguments by connection
		undo  map[string]string
	}{
		{"both", []saga.Ref{{Source: "crm", Key: "7"}, {Source: "web", Key: "w7"}}, []canonical.Named{{Name: "email", Value: `"b@x"`}, {Name: "city", Value: `"Rome"`}},
			map[string]string{"crm": `city="Rome" key="7" was={"city":"Oslo","email":"a@x"}`, "web": `email="b@x" key="w7" was={"email":"a@x"}`},
			map[string]string{"crm": `city="Oslo" key="7"`, "web": `email="a@x" key="w7"`}},
		{"one has none", []saga.Ref{{Source: "crm", Key: "7"}}, []canonical.Named{{Name: "email", Value: `"b@x"`}},
			map[string]string{"crm": `email="b@x" key="7" was={"city":"Oslo","email":"a@x"}`}, map[string]string{"crm": `email="a@x" key="7"`}},
		{"was not there", []saga.Ref{{Source: "web", Key: "w7"}}, []canonical.Named{{Name: "phone", Value: `"1"`}},
			map[string]string{"web": `key="w7" phone="1" was={"email":"a@x"}`}, map[string]string{"web": `key="w7" phone=null`}},
		{"nothing", []saga.Ref{{Source: "crm", Key: "7"}}, nil, map[string]string{}, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fields := []canonical.Named{{Name: "city", Value: `"Oslo"`}, {Name: "email", Value: `"a@x"`}}
			s := saga.New(plan, plan.Fingerprint, "cmd-1", c.input, 1)
			entity := saga.Entity{Resource: "customer", ID: "1", Version: 3, Fields: fields, Refs: c.refs}
			text := func(args []canonical.Named) (out string) {
				for i, a := range args {
					if i > 0 {
						out += " "
					}
					out += a.Name + "=" + string(a.Value)
				}
				return out
			}
			calls, undone := map[string]string{}, map[string]string{}
			var asked []saga.Call
			take := func(effects []saga.Effect) {
				for _, e := range effects {
					if call, ok := e.(saga.Call); ok {
						asked = append(asked, call)
						if call.Undo {
							undone[call.Connection] = text(call.Args)
						} else {
							calls[call.Connection] = text(call.Args)
						}
					}
				}
			}
			take(s.Begin(plan, entity, 1))
			if d := cmp.Diff(c.calls, calls); d != "" {
				t.Error(d)
			}
			// Everything is done, then undone: what it was comes back.
			take(s.Take(plan, saga.Cancel{By: "somebody"}, 2))
			for len(asked) > 0 {
				x := asked[0]
				asked = asked[1:]
				take(s.Take(plan, saga.Reply{Step: x.Step, Undo: x.Undo, Attempt: x.Attempt}, 3))
			}
			if d := cmp.Diff(c.undo, undone); d != "" {
				t.Error(d)
			}
			if len(c.calls) > 0 && s.Status != saga.Cancelled {
				t.Errorf("it is %s", s.Status)
			}
		})
	}
}
