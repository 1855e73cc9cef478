package topology_test

import (
	"bytes"
	"testing"

	"github.com/sebdah/goldie/v2"

	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/topology"
)

func build(t *testing.T) *topology.Topology {
	t.Helper()
	d := &definition.Domain{Name: "customer-management", Sources: []*definition.Source{{Name: "billing", Connector: "webhook"}, {Name: "crm", Connector: "cdc"}}}
	top, err := topology.Build([]*definition.Domain{d, {Name: "orders"}}, topology.Defaults(), func(s *definition.Source) []string {
		if s.Connector == "cdc" {
			return []string{"crm.public.customers"}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// The printed topology is reviewed like prose: a change of it is a change of
// what runs in production. Rewrite with: go test ./topology -update
func TestDescribe(t *testing.T) {
	g := goldie.New(t, goldie.WithNameSuffix(""))
	top := build(t)
	for name, print := range map[string]func(*bytes.Buffer) error{
		"describe.txt":  func(b *bytes.Buffer) error { return top.Text(b) },
		"describe.mmd":  func(b *bytes.Buffer) error { return top.Mermaid(b) },
		"describe.json": func(b *bytes.Buffer) error { return top.JSON(b) },
	} {
		var b bytes.Buffer
		if err := print(&b); err != nil {
			t.Fatal(err)
		}
		g.Assert(t, name, b.Bytes())
	}
}

// Oracle: whatever a group reads or writes and whatever a view follows is a
// declared topic; all topics of a domain have one partition count, but for the
// control topic, which has an order of all requests; everything
// but the journal and what others write can be rebuilt.
func TestTopologyIsClosed(t *testing.T) {
	top := build(t)
	declared := func(name, by string) topology.Topic {
		x, ok := top.Topic(name)
		if !ok {
			t.Fatalf("%s uses %s, which is not declared", by, name)
		}
		return x
	}
	for _, g := range top.Groups {
		for _, name := range append(append([]string{g.DeadLetters}, g.Inputs...), g.Outputs...) {
			declared(name, g.Name)
		}
		if g.Table != "" && declared(g.Table, g.Name).Kind != topology.Table {
			t.Errorf("the table of %s is no table", g.Name)
		}
	}
	for _, v := range top.Views {
		declared(v.Topic, v.Name)
	}
	for _, f := range top.Feeds {
		declared(f.Journal, f.Name)
	}
	for _, x := range top.Topics {
		if x.Kind == topology.External {
			continue
		}
		if want := topology.Defaults().Partitions; x.Partitions != want && (x.Record != topology.ControlEntry || x.Partitions != 1) {
			t.Errorf("%s has %d partitions", x.Name, x.Partitions)
		}
		if primary := x.Record == topology.JournalEntry; x.Derived == primary {
			t.Errorf("%s: derived is %v", x.Name, x.Derived)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	if _, err := topology.Build(nil, topology.Options{}, nil); err == nil {
		t.Error("no partitions were accepted")
	}
	d := &definition.Domain{Name: "a"}
	if _, err := topology.Build([]*definition.Domain{d, d}, topology.Defaults(), nil); err == nil {
		t.Error("two domains of one name were accepted")
	}
}

// Oracle: a source cannot follow what stations write: its own journal would
// feed itself for ever.
func TestBuildRefusesToFollowItself(t *testing.T) {
	domains := []*definition.Domain{
		{Name: "sales", Sources: []*definition.Source{{Name: "crm"}}}, {Name: "stock"},
	}
	for followed, ok := range map[string]bool{"sales.journal": false, "stock.changes": false, "crm.changes": true} {
		_, err := topology.Build(domains, topology.Defaults(), func(*definition.Source) []string { return []string{followed} })
		if (err == nil) != ok {
			t.Errorf("%s: %v", followed, err)
		}
	}
}
