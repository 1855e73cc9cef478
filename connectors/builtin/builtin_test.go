package builtin_test

import (
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

func body(text string) *journal.Entry { return &journal.Entry{Body: []byte(text)} }

func row(text string) *journal.Entry {
	return &journal.Entry{Body: []byte(text), Headers: map[string]string{
		"file.name": "f.csv", "file.sha256": "00", "file.row": "2", "file.columns": "id,name,id"}}
}

func secrets() []any { return []any{map[string]any{"name": "a", "ref": "a"}} }

var cases = map[string][]connectortest.Case{
	"webhook": {
		{Name: "none", Settings: map[string]any{"scheme": "none", "keepHeaders": []any{"X-Region"}},
			Good: []*journal.Entry{body(`{"a":[1,2.5,null,true,"x",18446744073709551616]}`), body(`[]`)},
			Bad:  []*journal.Entry{body(""), body("{"), body("7"), body("\xff")}},
		{Name: "github", Settings: map[string]any{"scheme": "github", "secrets": secrets()},
			Good: []*journal.Entry{{Body: []byte(`payload=%7B%7D`), ContentType: "application/x-www-form-urlencoded", Headers: map[string]string{"x-github-event": "push"}}},
			Bad:  []*journal.Entry{body("payload=")}},
		{Name: "standard-webhooks, batch", Settings: map[string]any{"scheme": "standard-webhooks", "secrets": secrets(), "batch": "array"},
			Good: []*journal.Entry{body(`[{"a":1},2,null]`), body(`[]`)}, Bad: []*journal.Entry{body(`{}`)}},
		{Name: "hmac, lines", Settings: map[string]any{"scheme": "hmac", "secrets": secrets(), "batch": "lines", "signature": map[string]any{"header": "X-Sig"}},
			Good: []*journal.Entry{body("{}\n{}\n")}, Bad: []*journal.Entry{body("{}\n{")}},
	},
	"cdc": {
		{Name: "debezium", Settings: map[string]any{"key": "id"},
			Good: []*journal.Entry{
				body(`{"op":"c","before":null,"after":{"id":1,"big":18446744073709551616},"source":{"table":"t","lsn":5,"ts_ms":7}}`),
				body(`{"op":"u","after":{"id":1}}`),
				body(`{"op":"t"}`),
				{Key: []byte(`{"id":1}`), Body: []byte(`{"op":"d","before":null,"after":null}`)},
				{Key: []byte(`{"id":1}`), NoBody: true},
				body(`{"schema":{"type":"struct","fields":[{"field":"after","type":"struct","fields":[{"field":"d","type":"int32","name":"io.debezium.time.Date"}]}]},"payload":{"op":"r","after":{"d":1,"x":1.5}}}`),
			},
			Bad: []*journal.Entry{body(""), body("{"), body(`{"op":"x"}`), body(`{"id":1}`), body(`{"op":"d"}`)}},
		{Name: "maxwell", Settings: map[string]any{"format": "maxwell"},
			Good: []*journal.Entry{body(`{"type":"insert","database":"d","table":"t","ts":1,"xid":2,"commit":true,"data":{"id":1},"primary_key_columns":["id"]}`)},
			Bad:  []*journal.Entry{body(`{"type":"insert"}`), body(`{}`)}},
	},
	"file": {
		{Name: "csv", Settings: map[string]any{"columns": map[string]any{"name": map[string]any{"required": true}}},
			Good: []*journal.Entry{row(`007,"a ""b""",x`)},
			Bad:  []*journal.Entry{row("1"), row("1,,2"), row("1,a,2,3"), row(""), body("1,a,2"), row("1,\xff,2")}},
		{Name: "jsonl", Settings: map[string]any{"format": "jsonl", "columns": map[string]any{"id": map[string]any{"type": "int", "required": true}}},
			Good: []*journal.Entry{row(`{"id":1,"x":[{"y":0.5}]}`)},
			Bad:  []*journal.Entry{row(`{"id":"1"}`), row(`{}`), row(`[]`), row(`{`), row(``)}},
	},
}

func TestConformance(t *testing.T) {
	last := ""
	for _, kind := range builtin.Kinds().Sources {
		if kind.Name() <= last {
			t.Errorf("kind %s stands behind %s", kind.Name(), last)
		}
		last = kind.Name()
		t.Run(kind.Name(), func(t *testing.T) { connectortest.Run(t, kind, cases[kind.Name()]) })
	}
}

func TestOpenReportsEverySource(t *testing.T) {
	d := &definition.Domain{Sources: []*definition.Source{
		{Name: "billing", Connector: "webhook"},
		{Name: "crm", Connector: "cdc"},
		{Name: "mail", Connector: "imap"},
	}}
	_, err := builtin.Open(d, connectortest.Secrets)
	for _, want := range []string{
		"source billing: scheme: found nothing, expected one of none,",
		`source mail: connector: found "imap", expected one of cdc, file, webhook`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %q", err, want)
		}
	}
	d.Sources = d.Sources[1:2]
	cs, err := builtin.Open(d, nil)
	if _, ok := cs["crm"].(connectors.Resender); err != nil || !ok {
		t.Error(cs, err)
	}
}
