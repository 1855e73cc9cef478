package narrate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/narrate"
)

func TestChange(t *testing.T) {
	d := &definition.Domain{Name: "customer-management", Resources: []*definition.Resource{{
		Name: "customer", Lifecycle: &definition.Lifecycle{Field: "status", Initial: "prospect"},
		Fields: []*definition.Field{
			{Name: "balance", Authority: []string{"billing"}},
			{Name: "city", Authority: []string{"crm", "billing", "risk"}},
			{Name: "email", Authority: []string{"marketing", "crm"}},
			{Name: "phone", Authority: []string{"crm", "billing"}},
			{Name: "status", Authority: []string{"crm"}},
			{Name: "tags", Authority: []string{"crm", "billing"}, Policy: definition.Union},
		},
	}}}
	c := &event.Change{
		Resource: "customer", ID: "C-1", Version: 3, Kind: event.Updated, Source: "crm", Journal: "customer-management:0:9",
		ReceivedAt: envelope.At(time.Date(2026, 1, 2, 14, 3, 7, 0, time.UTC)),
		Changed: []event.FieldChange{
			{Name: "balance", Before: `"120"`, After: `"80.5"`, Source: "billing"},
			{Name: "city", After: `"Lund"`, Source: "risk"},
			{Name: "email", Before: `"old@x"`, After: `"new@x"`, Source: "marketing"},
			{Name: "phone", Before: `"1"`, After: canonical.String("\x1b[2J" + strings.Repeat("9", 60)), Source: "billing"},
			{Name: "segment", Before: `"gold"`},
			{Name: "status", Before: `"prospect"`, After: `"active"`, Source: "crm"},
			{Name: "tags", After: `["a"]`, Source: "crm"},
		},
		Events: []event.Ref{{Type: "CustomerActivated"}, {Type: "CustomerUpdated"}},
	}
	var b strings.Builder
	if err := narrate.Change(&b, d, c, narrate.Style{}); err != nil {
		t.Fatal(err)
	}
	want := `14:03:07 customer C-1  v3 updated  by crm  customer-management:0:9
           balance  120 → 80.5   only billing decides it
           city     Lund   risk decides while crm and billing are silent
           email    old@x → new@x   marketing wins, before crm
           phone    1 → ·[2J9999999999999999999999999999999999999999999…   billing decides while crm is silent
           segment  gold → gone
           status   prospect → active   crm moved it
           tags     ["a"]   crm wins by union
           published CustomerActivated, CustomerUpdated
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	c.Events = nil
	if err := narrate.Change(&b, d, c, narrate.Style{Color: true}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "no event is declared") || !strings.Contains(b.String(), "\x1b[33mupdated\x1b[0m") {
		t.Errorf("got %q", b.String())
	}
}

func TestCommand(t *testing.T) {
	report := func(status saga.Status, do, undo saga.Phase) *saga.Report {
		return &saga.Report{Key: "default/customer/C-1001", At: 1772373787000000, Saga: saga.Saga{Command: "SuspendCustomer", Status: status, Steps: []saga.Step{{
			Name: "billingSuspend", Do: saga.Leg{Phase: do, Attempt: 1}, Undo: saga.Leg{Phase: undo, Attempt: 1},
		}}}}
	}
	var b strings.Builder
	reports := []*saga.Report{report(saga.Running, saga.Asked, saga.Idle), report(saga.Compensating, saga.Done, saga.Asked), report(saga.Failed, saga.Done, saga.Done)}
	for i, r := range reports {
		var before *saga.Report
		if i > 0 {
			before = reports[i-1]
		}
		if err := narrate.Command(&b, before, r, narrate.Style{}); err != nil {
			t.Fatal(err)
		}
	}
	want := "14:03:07 command SuspendCustomer C-1001  Running  billingSuspend asked\n" +
		"14:03:07 command SuspendCustomer C-1001  Compensating  billingSuspend asked: done; billingSuspend undo\n" +
		"14:03:07 command SuspendCustomer C-1001  Failed  billingSuspend undo: done\n"
	if b.String() != want {
		t.Errorf("%s\nexpected\n%s", b.String(), want)
	}
}
