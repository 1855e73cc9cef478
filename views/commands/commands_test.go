package commands_test

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/run"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/views/commands"
)

func decode(b []byte) (*run.Progress, error) {
	p := &run.Progress{}
	return p, json.Unmarshal(b, p)
}

func feed(t interface{ Fatal(...any) }, table *viewtest.Table, p *run.Progress) {
	b, err := json.Marshal(p)
	if err == nil {
		err = table.Feed(p.Report.Saga.ID, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func progress(id, key string, status saga.Status) *run.Progress {
	return &run.Progress{Report: &saga.Report{Key: key, Saga: saga.Saga{ID: id, Status: status}}}
}

// Lists give what was told, all of it and nothing else, page by page.
func TestList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := commands.New("shop", decode)
		table := viewtest.NewTable(x, 3)
		r := x.Reader(table)
		statuses := []saga.Status{saga.Running, saga.Stuck, saga.Completed}
		entities := []string{"default/customer/C1", "default/customer/C2", "other/customer/C1"}
		all := map[string]*run.Progress{}
		for range rapid.IntRange(0, 40).Draw(t, "commands") {
			p := progress("cmd-"+rapid.StringMatching(`[0-9a-c]{2}`).Draw(t, "id"), rapid.SampledFrom(entities).Draw(t, "entity"), rapid.SampledFrom(statuses).Draw(t, "status"))
			if rapid.Bool().Draw(t, "failed") {
				p.Attempted(&run.Attempt{Saga: p.Report.Saga.ID, Step: "s", Attempt: 1, Connection: rapid.SampledFrom([]string{"crm", "billing"}).Draw(t, "connection"), State: run.Failed, Kind: failure.Transient, Action: run.Retry, At: 5})
			}
			if rapid.IntRange(0, 4).Draw(t, "approval") == 0 {
				p.Report.Saga.Steps = []saga.Step{{Name: "ok", Approval: true, Do: saga.Leg{Phase: saga.Asked, Attempt: 1}}}
			}
			all[p.Report.Saga.ID] = p
			feed(t, table, p)
		}
		q := commands.Query{Tenant: "default", Limit: rapid.IntRange(1, 10).Draw(t, "limit")}
		q.Status = rapid.SampledFrom(append(statuses, "")).Draw(t, "wanted status")
		q.Entity = rapid.SampledFrom(append(entities, "")).Draw(t, "wanted entity")
		q.Connection = rapid.SampledFrom([]string{"", "", "crm"}).Draw(t, "wanted connection")
		q.Open, q.Attention = rapid.Bool().Draw(t, "open"), rapid.Bool().Draw(t, "attention")
		var want, got []string
		for id, p := range all {
			failed := len(p.Runs) > 0 && p.Runs[0].Attempts[0].Failure.Resolved == 0
			look := p.Report.Saga.Status == saga.Stuck || len(p.Report.Saga.Steps) > 0
			if p.Report.Key[:7] == "default" && (q.Status == "" || p.Report.Saga.Status == q.Status) && (q.Entity == "" || q.Entity == p.Report.Key) &&
				(q.Connection == "" || len(p.Runs) > 0 && p.Runs[0].Connection == q.Connection) && (!q.Open || failed) && (!q.Attention || look) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		for {
			page, err := r.List(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range page.Commands {
				got = append(got, p.Report.Saga.ID)
			}
			if len(page.Commands) > q.Limit {
				t.Fatalf("%d on a page of %d", len(page.Commands), q.Limit)
			}
			if q.After = page.Next; page.Next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v gives %v, expected %v", q, got, want)
		}
	})
}

func TestGet(t *testing.T) {
	x := commands.New("shop", decode)
	table := viewtest.NewTable(x, 3)
	r := x.Reader(table)
	if p, err := r.Get("cmd-1"); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
	feed(t, table, progress("cmd-1", "default/customer/C1", saga.Completed))
	if p, err := r.Get("cmd-1"); err != nil || p.Report.Saga.Status != saga.Completed {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := r.List(commands.Query{}); failure.KindOf(err) != failure.Validation {
		t.Errorf("no limit: %v", err)
	}
}
