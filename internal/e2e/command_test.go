package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/registry"
)

// shop has two back ends that are asked over HTTP; what they answer is a
// delivery of theirs.
const shop = `
apiVersion: touchstone/v1
domain: shop
resources:
  customer:
    identity: number
    fields:
      number: {type: string, authority: [crm, billing]}
      email: {type: string, authority: [crm], writable: true, pii: contact}
      status: {type: enum, authority: [billing]}
    lifecycle: {field: status, initial: active, moves: {active: [suspended], suspended: [active]}}
    events:
      CustomerSuspended: {when: {enters: suspended}}
    commands:
      Suspend:
        input:
          reason: {type: enum, symbols: [fraud, fee], required: true}
        require: entity.state == "active"
        steps:
          - call: billing.suspend
            with: {id: entity.refs.billing, reason: input.reason}
            undo: activate
            timeout: 3s
            retry: {attempts: 3, first: 20ms, max: 100ms}
          - call: crm.note
            with: {id: entity.refs.crm, text: '"suspended: " + input.reason'}
            timeout: 3s
            retry: {attempts: 3, first: 20ms, max: 100ms}
        confirm: {if: entity.state == "suspended", within: 3s}
      ChangeEmail: {update: [email]}
      Activate:
        require: entity.state == "suspended"
        steps: [{call: billing.activate, with: {id: entity.refs.billing}, timeout: 3s}]
        confirm: {if: entity.state == "active", within: 3s}
sources:
  crm:
    connector: webhook
    settings: {scheme: none}
    map:
      - {resource: customer, key: body.id, sequence: body.rev, fields: {number: body.number, "?email": body.email}}
  billing:
    connector: webhook
    settings: {scheme: none}
    map:
      - {resource: customer, key: body.id, sequence: body.rev, fields: {number: body.number, "?status": {value: body.state, states: {ok: active, stopped: suspended}}}}
connections:
  billing:
    connector: rest
    source: billing
    settings: {url: "URL/billing"}
    operations:
      suspend: {idempotent: true, settings: {path: '"/accounts/" + urlPart(args.id) + "/suspend"'}, journal: output.account}
      activate: {idempotent: true, settings: {path: '"/accounts/" + urlPart(args.id) + "/activate"'}, journal: output.account}
      read: {idempotent: true, settings: {method: GET, path: '"/accounts/" + urlPart(args.key) + "/read"'}, journal: output.account}
    reads: {customer: read}
  crm:
    connector: rest
    source: crm
    settings: {url: "URL/crm"}
    limits: {failures: 1000}
    operations:
      note: {idempotent: true, settings: {path: '"/customers/" + urlPart(args.id) + "/notes"'}}
      update: {idempotent: true, settings: {method: PATCH, path: '"/customers/" + urlPart(args.key)'}, journal: output}
    updates: {customer: {operation: update}}
`

// office is the back ends: each remembers what it did under which key.
type office struct {
	*httptest.Server
	mu    sync.Mutex
	done  map[string]string // answers by idempotency key
	state map[string]string
	email map[string]string
	rev   int
	log   []string
	// fail gives the status with which a request fails; 0 for none.
	fail func(path string, n int) int
	n    int
	lies bool
	// silent: billing does what it is asked for, and does not tell.
	silent bool
}

func newOffice(t testing.TB) *office {
	o := &office{done: map[string]string{}, state: map[string]string{}, email: map[string]string{}}
	o.Server = httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(o.Close)
	return o
}

func (o *office) serve(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	if o.fail != nil {
		if status := o.fail(r.URL.Path, o.n); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	key := r.Header.Get("Idempotency-Key")
	if strings.HasSuffix(r.URL.Path, "/read") {
		id := strings.Split(r.URL.Path, "/")[3]
		o.rev++
		o.log = append(o.log, "billing read "+id)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"account":{"id":%q,"number":%q,"state":%q,"rev":%d}}`, id, strings.TrimPrefix(id, "b"), cmp.Or(o.state[id], "ok"), o.rev)
		return
	}
	answer, again := o.done[key]
	if !again || strings.HasSuffix(r.URL.Path, "/charge") { // that does not know keys
		answer = o.do(r.URL.Path, b)
		o.done[key] = answer
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, answer)
}

func (o *office) do(path string, body []byte) string {
	parts := strings.Split(path, "/")
	id, verb := parts[3], parts[len(parts)-1]
	o.log = append(o.log, parts[1]+" "+verb+" "+id)
	o.rev++
	if o.silent && verb == "suspend" {
		o.state[id] = "stopped" // it does not say so
		return `{}`
	}
	switch {
	case o.lies:
		return `{}`
	case verb == "suspend":
		o.state[id] = "stopped"
	case verb == "activate":
		o.state[id] = "ok"
	case verb == "notes":
		return `{"noted":true}`
	case verb == "charge":
		return `{}`
	default:
		var in map[string]string
		_ = json.Unmarshal(body, &in)
		o.email[id] = in["email"]
		return fmt.Sprintf(`{"id":%q,"number":%q,"email":%q,"rev":%d}`, id, strings.TrimPrefix(id, "c"), in["email"], o.rev)
	}
	return fmt.Sprintf(`{"account":{"id":%q,"number":%q,"state":%q,"rev":%d}}`, id, strings.TrimPrefix(id, "b"), o.state[id], o.rev)
}

func (o *office) did() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.log)
}

func (o *office) failing(fail func(path string, n int) int) {
	o.mu.Lock()
	o.fail, o.n = fail, 0
	o.mu.Unlock()
}

// startShop runs the shop with its back ends and makes customers.
func startShop(t testing.TB, o *office, customers ...string) *system {
	t.Helper()
	s := start(t, t.TempDir(), define(t, strings.ReplaceAll(shop, "URL", o.URL)), func(d *app.DevOptions) { d.Simulate = false })
	s.customers(customers...)
	return s
}

// customers are told of by both sources.
func (s *system) customers(numbers ...string) {
	s.t.Helper()
	for _, n := range numbers {
		for _, d := range [][2]string{{"crm", `{"id":"c` + n + `","number":"` + n + `","email":"a@example.org","rev":0}`}, {"billing", `{"id":"b` + n + `","number":"` + n + `","state":"ok","rev":0}`}} {
			if a := s.post("/v1/ingress/"+d[0], []byte(d[1]), map[string]string{"Content-Type": "application/json"}); a.status != http.StatusAccepted {
				s.t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	for _, n := range numbers {
		eventually(s.t, "customer "+n, 20*time.Second, func() (bool, string) {
			a := s.get("/v1/shop/customer/" + n)
			fields, _ := a.json["fields"].(map[string]any)
			return fields["email"] != nil && a.json["state"] == "active", string(a.body)
		})
	}
}

func (s *system) send(customer, body string, headers map[string]string) answer {
	s.t.Helper()
	h := map[string]string{"Content-Type": "application/json"}
	for k, v := range headers {
		h[k] = v
	}
	return s.post("/v1/shop/customer/"+customer+"/commands", []byte(body), h)
}

// ended waits for the end of a command.
func (s *system) ended(location string) answer {
	s.t.Helper()
	var a answer
	eventually(s.t, "the end of "+location, 30*time.Second, func() (bool, string) {
		a = s.get(location + "?wait=5s")
		return a.json["final"] == true, string(a.body)
	})
	return a
}

func timeline(a answer) (out []string) {
	for _, m := range a.json["timeline"].([]any) {
		m := m.(map[string]any)
		text, _ := m["text"].(string)
		out = append(out, strings.TrimSuffix(m["status"].(string)+": "+text, ": "))
	}
	return out
}

// A command goes its whole way: to both back ends, by the journal back into the
// entity, which confirms it; then it is an event.
func TestCommandIsCarriedOut(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	a := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"Prefer": "wait=20", "Correlation-Id": "case-7"})
	if a.status != http.StatusOK || a.json["status"] != "Completed" || a.header.Get("Preference-Applied") != "wait=20" || a.header.Get("Correlation-Id") != "case-7" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := fmt.Sprint(o.did()); got != "[billing suspend b1 crm notes c1]" {
		t.Errorf("the back ends did %s", got)
	}
	location := a.header.Get("Location")
	if a = s.get("/v1/shop/customer/1"); a.json["state"] != "suspended" {
		t.Errorf("the customer is %s", a.body)
	}
	a = s.get(location)
	want := []string{
		"Queued", "Running: billingSuspend asked", "Running: billingSuspend asked: done; crmNote asked", "Completed: crmNote asked: done",
	}
	if got := timeline(a); !slices.Equal(got, want) && !slices.Equal(got, append(want[:3:3], "Confirming: crmNote asked: done", "Completed")) {
		t.Errorf("timeline %q\n%s", got, a.body)
	}
	runs := a.json["runs"].([]any)
	if len(runs) != 2 || runs[0].(map[string]any)["state"] != "Completed" {
		t.Errorf("runs %v", runs)
	}
	id := runs[0].(map[string]any)["id"].(string)
	if r := s.get("/v1/shop/runs/" + id); r.status != http.StatusOK || r.json["connection"] != "billing" {
		t.Errorf("%d %s", r.status, r.body)
	}
	// What the back end answered is in the journal, and the run tells where.
	attempt := runs[0].(map[string]any)["attempts"].([]any)[0].(map[string]any)
	if r := s.get("/v1/deliveries/" + attempt["response"].(string)); r.json["disposition"] != "changed" && r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	// The same again is nothing new: the state does not allow it, and it is told.
	a = s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"Prefer": "wait=20"})
	if a.status != http.StatusOK || a.json["status"] != "Rejected" || !strings.Contains(string(a.body), "which does not hold for version") {
		t.Errorf("%d %s", a.status, a.body)
	}
	// A derived command goes to who decides the field.
	a = s.send("1", `{"name":"ChangeEmail","input":{"email":"new@example.org"}}`, map[string]string{"Prefer": "wait=20"})
	if a.json["status"] != "Completed" || o.email["c1"] != "new@example.org" {
		t.Errorf("%d %s, the CRM has %v", a.status, a.body, o.email)
	}
	if a = s.get("/v1/shop/customer/1"); a.json["fields"].(map[string]any)["email"] != "new@example.org" {
		t.Errorf("%s", a.body)
	}
	if a = s.get("/v1/shop/commands?status=Completed"); len(a.json["items"].([]any)) != 2 {
		t.Errorf("%s", a.body)
	}
	if a = s.get("/v1/shop/customer/1/commands"); len(a.json["items"].([]any)) != 3 {
		t.Errorf("%s", a.body)
	}
}

// The second back end refuses: what the first did is undone. Failures are told,
// and resolved by the end.
func TestCommandIsCompensated(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	o.failing(func(path string, _ int) int {
		if strings.Contains(path, "/crm/") {
			return http.StatusUnprocessableEntity
		}
		return 0
	})
	a := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil)
	if a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	a = s.ended(a.header.Get("Location"))
	if a.json["status"] != "Failed" || a.json["reason"].(map[string]any)["kind"] != "Validation" {
		t.Errorf("%s", a.body)
	}
	if got := fmt.Sprint(o.did()); got != "[billing suspend b1 billing activate b1]" {
		t.Errorf("the back ends did %s", got)
	}
	eventually(t, "the customer to be active again", 10*time.Second, func() (bool, string) {
		a := s.get("/v1/shop/customer/1")
		return a.json["state"] == "active" && a.json["version"].(float64) >= 3, string(a.body)
	})
	f := s.get("/v1/shop/failures")
	items := f.json["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("%s", f.body)
	}
	one := items[0].(map[string]any)
	if one["kind"] != "Validation" || one["action"] != "DeadLetter" || one["open"] != false || !strings.HasSuffix(one["by"].(string), " Failed") {
		t.Errorf("%s", f.body)
	}
	if a := s.get("/v1/shop/failures/" + one["id"].(string)); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	id := strings.TrimPrefix(a.json["id"].(string), "cmd-")
	want := map[string][]string{
		"cmd-" + id:                          {"CommandQueued", "CommandRunning", "CommandCompensating", "CommandFailed"},
		"run-" + id + ".billingSuspend":      {"IntegrationRunCompleted"},
		"run-" + id + ".billingSuspend.undo": {"IntegrationRunCompleted"},
		"run-" + id + ".crmNote":             {"IntegrationRunFailed"},
		"fail-" + id + ".crmNote.1":          {"IntegrationFailureOpened", "IntegrationFailureResolved"},
	}
	eventually(t, "all of it to be told", 10*time.Second, func() (bool, string) {
		told := s.activities("shop") // of calls by another way than of commands
		return reflect.DeepEqual(told, want), fmt.Sprint(told)
	})
}

// What is served is as the OpenAPI document says, the requests of the declared
// commands among it.
func TestCommandsAreAsDocumented(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	doc, err := openapi3.NewLoader().LoadFromData(s.get("/openapi.json").body)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	is := func(schema string, v any) error {
		x := doc.Components.Schemas[schema]
		if x == nil {
			return fmt.Errorf("there is no schema %s", schema)
		}
		return x.Value.VisitJSON(v, openapi3.EnableJSONSchema2020())
	}
	documented := func(schema string, a answer) answer {
		t.Helper()
		if err := is(schema, a.json); err != nil {
			t.Errorf("%s is no %s: %v", a.body, schema, err)
		}
		return a
	}
	for body, ok := range map[string]bool{
		`{"name":"Suspend","input":{"reason":"fee"}}`: true, `{"name":"Suspend","input":{"reason":"joke"}}`: false, `{"name":"Suspend","input":{}}`: false,
		`{"name":"ChangeEmail","input":{"email":"x"}}`: true, `{"name":"ChangeEmail","input":{"mail":"x"}}`: false, `{"name":"Explode"}`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		if err := is("CommandRequest", v); ok != (err == nil) {
			t.Errorf("%s: %v", body, err)
		}
	}
	o.failing(func(path string, n int) int {
		if n == 1 {
			return http.StatusServiceUnavailable
		}
		if strings.Contains(path, "/crm/") {
			return http.StatusUnprocessableEntity
		}
		return 0
	})
	location := documented("Command", s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil)).header.Get("Location")
	a := documented("Command", s.ended(location))
	run := a.json["runs"].([]any)[0].(map[string]any)["id"].(string)
	documented("Run", s.get("/v1/shop/runs/"+run))
	documented("RunPage", s.get("/v1/shop/runs?state=Failed"))
	f := documented("FailurePage", s.get("/v1/shop/failures"))
	documented("Failure", s.get("/v1/shop/failures/"+f.json["items"].([]any)[0].(map[string]any)["id"].(string)))
	documented("CommandPage", s.get("/v1/shop/commands?connection=crm&limit=1"))
	documented("CommandPage", s.get("/v1/shop/customer/1/commands"))
	documented("Connections", s.get("/v1/shop/connections"))
	if m := s.get("/metrics"); !strings.Contains(string(m.body), `touchstone_call_failures_total{connection="crm",domain="shop"} 1`) {
		t.Errorf("no metrics of calls")
	}
	documented("DeclaredCommands", s.get("/v1/shop/definitions/commands"))
	documented("Switch", s.post("/v1/shop/connections/crm/pause", nil, nil))
	for path, status := range map[string]int{
		"/v1/shop/commands?status=Odd": 400, "/v1/shop/commands?cursor=x": 400, "/v1/shop/commands?entity=x": 400, "/v1/shop/commands?connection=x": 400, "/v1/shop/commands?open=maybe": 400,
		"/v1/shop/runs/x": 404, "/v1/shop/runs/run-1.x": 404, "/v1/shop/failures/fail-1.x.1": 404, "/v1/shops/commands": 404,
	} {
		if a := documented("Problem", s.get(path)); a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for _, verb := range []string{"cancel", "retry", "abandon", "approve", "refuse"} {
		if a := documented("Problem", s.post(location+"/"+verb, nil, nil)); a.status != http.StatusConflict {
			t.Errorf("%s: %d %s", verb, a.status, a.body)
		}
	}
}

// Failures that pass are tried again, with the same key: one effect.
func TestCommandIsTriedAgain(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	o.failing(func(path string, n int) int {
		if n <= 2 {
			return http.StatusServiceUnavailable
		}
		return 0
	})
	a := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"Prefer": "wait=20"})
	if a.json["status"] != "Completed" {
		t.Fatalf("%s\n%s\n%s\n%s", a.body, s.get(a.header.Get("Location")).body, s.get("/v1/shop/customer/1").body, s.get("/v1/dead-letters").body)
	}
	a = s.get(a.header.Get("Location"))
	if n := len(a.json["runs"].([]any)[0].(map[string]any)["attempts"].([]any)); n != 3 {
		t.Errorf("%d attempts\n%s", n, a.body)
	}
	if got := fmt.Sprint(o.did()); got != "[billing suspend b1 crm notes c1]" {
		t.Errorf("the back ends did %s", got)
	}
}

// A back end that says yes and does nothing is found out: the command is not
// confirmed.
func TestCommandIsNotConfirmed(t *testing.T) {
	o := newOffice(t)
	o.lies = true
	s := startShop(t, o, "1")
	a := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil)
	a = s.ended(a.header.Get("Location"))
	if a.json["status"] != "Unconfirmed" {
		t.Errorf("%s", a.body)
	}
}

// A back end that does what it should and does not say so is asked: then the
// command is confirmed.
func TestCommandIsConfirmedByAsking(t *testing.T) {
	o := newOffice(t)
	o.silent = true
	s := startShop(t, o, "1")
	a := s.ended(s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location"))
	if a.json["status"] != "Completed" || !slices.Contains(o.did(), "billing read b1") || !slices.Contains(timeline(a), "Refreshing") {
		t.Errorf("the back ends did %v: %s", o.did(), a.body)
	}
}

// desk has commands that send commands to the shop.
const desk = `
apiVersion: touchstone/v1
domain: desk
resources:
  case:
    identity: id
    fields: {id: {type: string, authority: [tickets]}}
    commands:
      Block:
        input: {customer: {type: string, required: true}, note: {type: string, required: true}}
        steps:
          - {command: shop.customer.Suspend, entity: input.customer, with: {reason: '"fraud"'}, undo: Activate, timeout: 20s}
          - {call: tickets.note, with: {text: input.note}}
        confirm: steps
sources:
  tickets: {connector: webhook, settings: {scheme: none}, map: [{resource: case, key: body.id, fields: {id: body.id}}]}
connections:
  tickets: {connector: fake, source: tickets, operations: {note: {idempotent: true, settings: {error: 'args.text == "bad" ? "no such note" : ""'}}}}
`

// A command of one domain sends commands to another, and takes them back.
func TestCommandSendsCommands(t *testing.T) {
	o := newOffice(t)
	domains := append(define(t, strings.ReplaceAll(shop, "URL", o.URL)), define(t, desk)...)
	if err := registry.Together(domains); err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), domains)
	s.customers("1", "2")
	if a := s.post("/v1/ingress/tickets", []byte(`{"id":"T1"}`), nil); a.status != http.StatusAccepted {
		t.Fatalf("%s", a.body)
	}
	eventually(t, "the case", 10*time.Second, func() (bool, string) { a := s.get("/v1/desk/case/T1"); return a.status == 200, string(a.body) })
	block := func(customer, note string) answer {
		a := s.post("/v1/desk/case/T1/commands", fmt.Appendf(nil, `{"name":"Block","input":{"customer":%q,"note":%q}}`, customer, note), nil)
		if a.status != http.StatusAccepted {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return s.ended(a.header.Get("Location"))
	}
	if a := block("1", "well"); a.json["status"] != "Completed" {
		t.Errorf("%s", a.body)
	}
	if a := s.get("/v1/shop/customer/1"); a.json["state"] != "suspended" {
		t.Errorf("%s", a.body)
	}
	if a := s.get("/v1/shop/customer/1/commands"); !strings.Contains(string(a.body), `"principal":"command cmd-`) {
		t.Errorf("%s", a.body)
	}
	a := block("2", "bad")
	if a.json["status"] != "Failed" || !strings.Contains(string(a.body), "no such note") {
		t.Errorf("%s", a.body)
	}
	if a := s.get("/v1/shop/customer/2"); a.json["state"] != "active" || a.json["version"].(float64) < 3 {
		t.Errorf("%s", a.body)
	}
	// One that is refused ends its parent.
	if a := block("1", "well"); a.json["status"] != "Failed" || !strings.Contains(string(a.body), "ended as Rejected: it requires") {
		t.Errorf("%s", a.body)
	}
	if a := block("nobody", "well"); a.json["status"] != "Failed" || !strings.Contains(string(a.body), "there is no customer nobody") {
		t.Errorf("%s", a.body)
	}
}

// Wrong commands are refused, each with what is wrong.
func TestWrongCommands(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	for _, c := range []struct {
		name, customer, body string
		headers              map[string]string
		status               int
		want                 string
	}{
		{"unknown command", "1", `{"name":"Explode"}`, nil, 404, `there is no command \"Explode\" of customer, expected one of Activate, ChangeEmail, Suspend, UpdateCustomer`},
		{"no name", "1", `{"input":{}}`, nil, 400, "name: found nothing"},
		{"no JSON", "1", `{`, nil, 400, "invalid-body"},
		{"unknown member", "1", `{"name":"Suspend","inputs":{}}`, nil, 400, `unknown field`},
		{"unknown entity", "9", `{"name":"Suspend","input":{"reason":"fee"}}`, nil, 404, `no customer has the id`},
		{"invalid input", "1", `{"name":"Suspend","input":{"reason":"joke","until":1}}`, nil, 422, `"pointer":"/input/reason"`},
		{"all that is wrong", "1", `{"name":"Suspend","input":{"reason":"joke","until":1}}`, nil, 422, `"pointer":"/input/until"`},
		{"wrong version", "1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"If-Match": `"77"`}, 412, "has version"},
		{"no version", "1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"If-Match": `7`}, 400, "If-Match"},
		{"long key", "1", `{"name":"Suspend","input":{"reason":"fee"}}`, map[string]string{"Idempotency-Key": strings.Repeat("k", 256)}, 400, "found 256 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := s.send(c.customer, c.body, c.headers); a.status != c.status || !strings.Contains(string(a.body), c.want) {
				t.Errorf("%d %s, expected %d with %s", a.status, a.body, c.status, c.want)
			}
		})
	}
	if a := s.get("/v1/shop/commands/cmd-1"); a.status != 404 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.get("/v1/shop/commands"); len(a.json["items"].([]any)) != 0 {
		t.Errorf("%s", a.body)
	}
}

// 64 copies at once are one command; another body with the same key is refused.
func TestCopiesOfACommand(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1")
	key := map[string]string{"Idempotency-Key": "order-1"}
	var wg sync.WaitGroup
	locations := make(chan string, 64)
	for range 64 {
		wg.Go(func() {
			a := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, key)
			if a.status != http.StatusAccepted {
				t.Errorf("%d %s", a.status, a.body)
			}
			locations <- a.header.Get("Location")
		})
	}
	wg.Wait()
	close(locations)
	first := <-locations
	for l := range locations {
		if l != first {
			t.Errorf("%s and %s", first, l)
		}
	}
	if a := s.ended(first); a.json["status"] != "Completed" {
		t.Errorf("%s", a.body)
	}
	if got := fmt.Sprint(o.did()); got != "[billing suspend b1 crm notes c1]" {
		t.Errorf("the back ends did %s", got)
	}
	if a := s.send("1", `{"input": {"reason":"fee"}, "name":"Suspend"}`, key); a.status != http.StatusAccepted || a.header.Get("Location") != first || a.json["status"] != "Completed" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.send("1", `{"name":"Suspend","input":{"reason":"fraud"}}`, key); a.status != 422 || !strings.Contains(string(a.body), "idempotency-key-reused") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A connection is paused: commands wait, and go on when it is resumed. One that is
// cancelled meanwhile is not carried out.
func TestPausedConnection(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1", "2")
	if a := s.post("/v1/shop/connections/billing/pause", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	eventually(t, "the pause", 10*time.Second, func() (bool, string) {
		a := s.get("/v1/shop/connections")
		return strings.Contains(string(a.body), `"state":"paused"`), string(a.body)
	})
	one := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location")
	two := s.send("2", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location")
	for _, l := range []string{one, two} {
		eventually(t, l+" to wait", 10*time.Second, func() (bool, string) {
			a := s.get(l)
			return strings.Contains(string(a.body), `"held":true`), string(a.body)
		})
	}
	if a := s.post(two+"/cancel", []byte(`{"detail":"no longer wanted"}`), nil); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.ended(two); a.json["status"] != "Cancelled" {
		t.Errorf("%s", a.body)
	}
	if a := s.post(two+"/cancel", nil, nil); a.status != http.StatusConflict {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := o.did(); len(got) > 0 {
		t.Errorf("the back ends did %s", got)
	}
	if a := s.post("/v1/shop/connections/billing/resume", []byte(`{"rate":50}`), nil); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := s.ended(one); a.json["status"] != "Completed" {
		t.Errorf("%s", a.body)
	}
}

// A command waits for its connection however often the system starts anew: that
// uses up no attempt, and its step has but two.
func TestHeldCommandOutlivesRestarts(t *testing.T) {
	o := newOffice(t)
	dir := t.TempDir()
	text := strings.Replace(strings.ReplaceAll(shop, "URL", o.URL), "timeout: 3s\n            retry: {attempts: 3, first: 20ms, max: 100ms}", "timeout: 300ms\n            retry: {attempts: 2}", 1)
	if !strings.Contains(text, "timeout: 300ms") {
		t.Fatal("the definition is not the one that is meant")
	}
	domains := define(t, text)
	s := start(t, dir, domains)
	s.customers("1")
	if a := s.post("/v1/shop/connections/billing/pause", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("%s", a.body)
	}
	eventually(t, "the pause", 10*time.Second, func() (bool, string) {
		a := s.get("/v1/shop/connections")
		return strings.Contains(string(a.body), `"state":"paused"`), string(a.body)
	})
	one := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location")
	for range 8 { // of which each takes half of that time
		eventually(t, one+" to wait", 10*time.Second, func() (bool, string) {
			a := s.get(one)
			return strings.Contains(string(a.body), `"held":true`), string(a.body)
		})
		s.stop()
		s = start(t, dir, domains)
	}
	if got := o.did(); len(got) > 0 {
		t.Errorf("the back ends did %s", got)
	}
	if a := s.post("/v1/shop/connections/billing/resume", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("%s", a.body)
	}
	if a := s.ended(one); a.json["status"] != "Completed" {
		t.Errorf("%s", a.body)
	}
	if got := fmt.Sprint(o.did()); got != "[billing suspend b1 crm notes c1]" {
		t.Errorf("the back ends did %s", got)
	}
}

// A command waits while the system is stopped and its definition is changed; it
// goes on by the one that it began with, and those after it by the new one. A
// connection that is paused stays so.
func TestDefinitionOfCommandChanges(t *testing.T) {
	o := newOffice(t)
	dir := t.TempDir()
	text := strings.ReplaceAll(shop, "URL", o.URL)
	s := start(t, dir, define(t, text))
	s.customers("1", "2")
	if a := s.post("/v1/shop/connections/billing/pause", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("%s", a.body)
	}
	eventually(t, "the pause", 10*time.Second, func() (bool, string) {
		a := s.get("/v1/shop/connections")
		return strings.Contains(string(a.body), `"state":"paused"`), string(a.body)
	})
	one := s.send("1", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location")
	eventually(t, one+" to wait", 10*time.Second, func() (bool, string) {
		a := s.get(one)
		return strings.Contains(string(a.body), `"held":true`), string(a.body)
	})
	s.stop()
	i := strings.Index(text, "          - call: crm.note")
	j := strings.Index(text, "        confirm: {if: entity.state == \"suspended\"")
	s = start(t, dir, define(t, text[:i]+text[j:]))
	eventually(t, "the pause", 10*time.Second, func() (bool, string) {
		a := s.get("/v1/shop/connections")
		return strings.Contains(string(a.body), `"state":"paused"`), string(a.body)
	})
	two := s.send("2", `{"name":"Suspend","input":{"reason":"fee"}}`, nil).header.Get("Location")
	if a := s.post("/v1/shop/connections/billing/resume", nil, nil); a.status != http.StatusAccepted {
		t.Fatalf("%s", a.body)
	}
	for _, l := range []string{one, two} {
		if a := s.ended(l); a.json["status"] != "Completed" {
			t.Errorf("%s", a.body)
		}
	}
	done := o.did()
	slices.Sort(done)
	if got := fmt.Sprint(done); got != "[billing suspend b1 billing suspend b2 crm notes c1]" {
		t.Errorf("the back ends did %s", got)
	}
}

// The command line sends, shows, lists, pauses and decides.
func TestCommandLine(t *testing.T) {
	o := newOffice(t)
	s := startShop(t, o, "1", "2")
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	touchstone := func(args ...string) (string, int) {
		cmd := exec.Command(bin, append(args, "--server", s.addr.API)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	id := ""
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"command send customer 1 Suspend reason=fee --key k1", 0, []string{"Suspend cmd-", "on customer 1: Completed", "billingSuspend  Done", "WHAT HAPPENED"}},
		{"command send customer 1 Suspend reason=fee --key k1", 0, []string{"on customer 1: Completed"}},
		{"command send customer 1 Suspend reason=fraud --key k1", 2, []string{`the Idempotency-Key "k1" was used for another entity`}},
		{"command send customer 1 Suspend reason=fee", 6, []string{"Rejected", "because it requires", "ended as Rejected"}},
		{"command send customer 2 Suspend reason=joke", 2, []string{"/input/reason: found \"joke\", expected enum(fraud|fee)"}},
		{"command send customer 9 Suspend reason=fee", 3, []string{`no customer has the id "9"`}},
		{"command send customer 2 Suspend reason", 2, []string{"expected NAME=VALUE"}},
		{"command list --entity customer/1", 0, []string{"COMMAND", "customer/1", "Completed", "Rejected"}},
		{"command list --status Odd", 2, []string{"expected one of Queued"}},
		{"command get cmd-1", 3, []string{"no command of shop"}},
		{"connection pause billing", 0, []string{"billing is paused"}},
		{"connection list", 0, []string{"CONNECTION", "billing", "rest"}},
		{"command send customer 2 Suspend reason=fee --wait 0s -o json", 0, []string{`"final": false`}},
		{"command cancel ID --detail late", 0, []string{"cancel is taken"}},
		{"command get ID --wait 10s", 0, []string{"Cancelled"}},
		{"command retry ID", 2, []string{"nothing follows"}},
		{"connection resume billing --rate 10", 0, []string{"billing goes on"}},
		{"connection resume bilink", 3, []string{`no connection "bilink"`}},
	} {
		out, code := touchstone(strings.Fields(strings.ReplaceAll(c.args, "ID", id))...)
		if code != c.code {
			t.Errorf("%s: exit code %d, expected %d\n%s", c.args, code, c.code, out)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: nothing of %q\n%s", c.args, w, out)
			}
		}
		if i := strings.Index(out, "cmd-"); i >= 0 && len(out) >= i+36 {
			id = out[i : i+36]
		}
	}
}
