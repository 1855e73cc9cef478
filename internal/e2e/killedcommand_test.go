package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/internal/app"
)

// crashes is how often the process is killed at each place:
// TOUCHSTONE_TEST_CRASHES=100 for the long form.
func crashes(t *testing.T) int {
	s := os.Getenv("TOUCHSTONE_TEST_CRASHES")
	if s == "" {
		return 1
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("TOUCHSTONE_TEST_CRASHES=%q, expected a number from 1", s)
	}
	return n
}

// Oracle: the process that carries commands out is killed with SIGKILL before a
// call, after it, when its answer is in the log, before that is committed, and in
// each phase of the station's commit; on the way there and on the way back. Every
// command that was acknowledged comes to the end that its back ends allow, each
// effect is had once, and no command is left on the way. A call that is not
// idempotent is made once at most, and its command knows when it cannot know more.
func TestKilledAtCommands(t *testing.T) {
	dir := t.TempDir()
	o := newOffice(t)
	definition := filepath.Join(dir, "shop.yaml")
	text := strings.ReplaceAll(shop, "URL", o.URL)
	text = strings.Replace(text, "      ChangeEmail: {update: [email]}\n", `      ChangeEmail: {update: [email]}
      Charge:
        steps: [{call: billing.charge, with: {id: entity.refs.billing}, timeout: 3s}]
        confirm: steps
`, 1)
	text = strings.Replace(text, "      activate: {idempotent", "      charge: {settings: {path: '\"/accounts/\" + urlPart(args.id) + \"/charge\"', idempotencyHeader: '-'}}\n      activate: {idempotent", 1)
	text = strings.Replace(text, ", idempotencyHeader: '-'", "", 1)
	if err := os.WriteFile(definition, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	brokers, registry := ground(t, dir)
	serve := func(rules ...string) *child {
		listen := freeAddress(t)
		c := spawn(t, dir, strings.Join(rules, ";"), "serve", "--data", filepath.Join(dir, "data"), "--domain", definition, "--listen", listen,
			"--kafka-brokers", brokers, "--registry-url", registry, "--topics-partitions", "4")
		c.addr = app.DevAddresses{API: "http://" + listen, Kafka: brokers}
		if _, err := c.lines.find("msg=ready", 90*time.Second); err != nil && !c.firedOf(rules) {
			t.Fatal(err)
		}
		return c
	}
	points := []string{
		"execute/before-call[shop.billing]", "execute/after-call[shop.billing]", "execute/answered[shop.billing]", "execute/after-call[shop.crm]",
		"engine/outlet/begun[shop.execute.billing]", "engine/outlet/before-commit[shop.execute.billing]",
		"engine/commit/before-end[shop.orchestrate]", "engine/commit/after-end[shop.orchestrate]", "engine/commit/mid-apply[shop.orchestrate]",
		"engine/commit/after-end[shop.track]",
	}
	const each = 6
	rounds := len(points) * crashes(t)
	var customers []string
	for i := range rounds * each {
		customers = append(customers, strconv.Itoa(i+1))
	}
	// The CRM refuses every third customer: what billing did is undone.
	o.failing(func(path string, _ int) int {
		parts := strings.Split(path, "/")
		n, _ := strconv.Atoi(strings.TrimLeft(parts[3], "cb"))
		if parts[1] == "crm" && n%3 == 0 {
			return http.StatusUnprocessableEntity
		}
		return 0
	})
	c := serve()
	c.customers(customers...)
	rnd := rand.New(rand.NewPCG(1, 2))
	sent := map[string]string{} // location by "<command> <customer>"
	send := func(c *child, name, customer, input string) bool {
		key := name + " " + customer
		if sent[key] != "" {
			return true
		}
		req, err := http.NewRequest(http.MethodPost, c.addr.API+"/v1/shop/customer/"+customer+"/commands", strings.NewReader(`{"name":"`+name+`","input":`+input+`}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", key)
		res, err := c.http.Do(req)
		if err != nil {
			return false // it is gone
		}
		res.Body.Close()
		if res.StatusCode == http.StatusAccepted {
			sent[key] = res.Header.Get("Location")
		}
		return res.StatusCode == http.StatusAccepted
	}
	kills := 0
	for round := range rounds {
		c.cmd.Process.Kill()
		<-c.gone
		rule := fmt.Sprintf("%s=kill@%d", points[round%len(points)], 1+rnd.IntN(5))
		if strings.Contains(rule, "before-commit") || strings.Contains(rule, "shop.track") {
			rule = rule[:strings.LastIndexByte(rule, '@')] + "@1"
		}
		c = serve(rule)
		for _, x := range customers[round*each : (round+1)*each] {
			if !send(c, "Charge", x, "{}") || !send(c, "Suspend", x, `{"reason":"fee"}`) {
				break
			}
		}
		select {
		case <-c.gone:
			kills++
		case <-time.After(10 * time.Second):
			t.Errorf("%s did not fire", rule)
		}
	}
	c.cmd.Process.Kill()
	<-c.gone
	c = serve()
	for _, x := range customers { // who was not answered asks again
		for _, name := range []string{"Charge", "Suspend"} {
			input := map[string]string{"Charge": "{}", "Suspend": `{"reason":"fee"}`}[name]
			eventually(t, name+" of "+x, 30*time.Second, func() (bool, string) { return send(c, name, x, input), "not accepted" })
		}
	}
	answers := map[string]answer{}
	for key, location := range sent {
		answers[key] = c.system.ended(location)
	}
	ends, charged := map[string]int{}, map[string]int{}
	for _, line := range o.did() {
		charged[line]++
	}
	for key, a := range answers {
		name, customer, _ := strings.Cut(key, " ")
		n, _ := strconv.Atoi(customer)
		status := a.json["status"].(string)
		ends[name+" "+status]++
		calls := charged["billing charge b"+customer]
		switch {
		case name == "Charge" && status == "Completed":
			if calls != 1 {
				t.Errorf("charged %d times: %s", calls, a.body)
			}
		case name == "Charge":
			if calls > 1 || !strings.Contains(string(a.body), `"uncertain":true`) {
				t.Errorf("charged %d times: %s", calls, a.body)
			}
		case n%3 == 0 && status != "Failed", n%3 != 0 && status != "Completed":
			t.Errorf("customer %s: %s", customer, a.body)
		}
		if name != "Suspend" {
			continue
		}
		done := [3]int{charged["billing suspend b"+customer], charged["crm notes c"+customer], charged["billing activate b"+customer]}
		if want := map[bool][3]int{true: {1, 0, 1}, false: {1, 1, 0}}[n%3 == 0]; done != want {
			t.Errorf("customer %s was suspended, noted and activated %v times, expected %v: %s", customer, done, want, a.body)
		}
	}
	if a := c.get("/v1/shop/commands?attention=true"); len(a.json["items"].([]any)) > 0 {
		t.Errorf("%s", a.body)
	}
	told := c.system.activities("shop")
	for key, a := range answers {
		all := told[a.json["id"].(string)]
		if len(all) < 3 || all[0] != "CommandQueued" || all[len(all)-1] != "Command"+a.json["status"].(string) {
			t.Errorf("of %s, which is %s, is told %s", key, a.json["status"], all)
		}
	}
	t.Logf("%d kills, %d commands: %v", kills, len(sent), ends)
}
