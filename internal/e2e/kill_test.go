package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

var killDefinition = strings.NewReplacer(
	"resources:\n", `resources:
  delivery:
    identity: guid
    fields:
      guid: {type: string, authority: [github]}
      event: {type: string, authority: [github]}
    events:
      DeliverySeen: {when: {created: true}}
      DeliveryChanged: {when: {changes: any}}
`,
	`settings: {scheme: github,`, `settings: {scheme: github, keepHeaders: [X-GitHub-Delivery],`,
	"    map:\n", `    map:
      - resource: delivery
        key: headers["x-github-delivery"]
        fields: {guid: 'headers["x-github-delivery"]', event: event}
`).Replace(github)

// built is the folder of the built programs; it is there if a test needed one.
var built = filepath.Join(os.TempDir(), fmt.Sprintf("touchstone-e2e-%d", os.Getpid()))

// program builds the real program once per run of the tests; faulty builds the
// one that has failpoints.
var (
	program = sync.OnceValues(func() (string, error) { return build("touchstone") })
	faulty  = sync.OnceValues(func() (string, error) { return build("touchstone-faulty", "-tags", "failpoints") })
)

func build(name string, flags ...string) (string, error) {
	if err := os.MkdirAll(built, 0o700); err != nil {
		return "", err
	}
	bin := filepath.Join(built, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, flags...), "../../cmd/touchstone")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
}

func TestMain(m *testing.M) {
	code := runTests(m)
	os.RemoveAll(built)
	os.Exit(code)
}

// child is the program at work.
type child struct {
	*system
	cmd   *exec.Cmd
	lines *transcript
	gone  chan struct{} // closed when its process has been waited for
}

// codeHosting gives a folder of the test's own with killDefinition in a file.
func codeHosting(t *testing.T) (dir, definition string) {
	t.Helper()
	dir = t.TempDir()
	definition = filepath.Join(dir, "code-hosting.yaml")
	if err := os.WriteFile(definition, []byte(killDefinition), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, definition
}

// firedOf tells that one of the failpoints has fired: views that catch up with
// what is there may reach theirs before the process is ready.
func (c *child) firedOf(rules []string) bool {
	return slices.ContainsFunc(rules, func(rule string) bool {
		_, err := c.lines.find(": "+rule, 0)
		return err == nil
	})
}

// ended gives a channel that is closed when the child has ended.
func (c *child) ended() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c.lines.mu.Lock()
			ended, more := c.lines.ended, c.lines.more
			c.lines.mu.Unlock()
			if ended {
				return
			}
			<-more
		}
	}()
	return done
}

// transcript keeps what a child says and tells when it says something.
type transcript struct {
	mu    sync.Mutex
	said  []string
	ended bool
	more  chan struct{}
}

func (l *transcript) follow(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		l.mu.Lock()
		l.said = append(l.said, sc.Text())
		close(l.more)
		l.more = make(chan struct{})
		l.mu.Unlock()
	}
	l.mu.Lock()
	l.ended = true
	close(l.more)
	l.more = make(chan struct{})
	l.mu.Unlock()
}

// find waits for a line that contains what, and gives it.
func (l *transcript) find(what string, within time.Duration) (string, error) {
	deadline := time.After(within)
	for {
		l.mu.Lock()
		for _, s := range l.said {
			if strings.Contains(s, what) {
				l.mu.Unlock()
				return s, nil
			}
		}
		ended, more, said := l.ended, l.more, strings.Join(l.said, "\n")
		l.mu.Unlock()
		if ended {
			return "", fmt.Errorf("it ended without saying %q; it said:\n%s", what, said)
		}
		select {
		case <-more:
		case <-deadline:
			return "", fmt.Errorf("it did not say %q within %s; it said:\n%s", what, within, said)
		}
	}
}

// spawn starts the program and follows what it says. rules are failpoints, none
// if empty.
func spawn(t *testing.T, dir, rules string, args ...string) *child {
	t.Helper()
	find := program
	if rules != "" {
		find = faulty
	}
	bin, err := find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	// What configures the tests is no configuration of the program.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TOUCHSTONE_") })
	cmd.Env = append(env, "GITHUB_TEST_SECRET="+githubSecret)
	if rules != "" {
		cmd.Env = append(cmd.Env, failpoint.RulesEnv+"="+rules)
	}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{system: &system{t: t, dir: dir, http: &http.Client{Timeout: 30 * time.Second}}, cmd: cmd, lines: &transcript{more: make(chan struct{})}, gone: make(chan struct{})}
	go c.lines.follow(r)
	go func() { cmd.Wait(); w.Close(); close(c.gone) }()
	t.Cleanup(func() { cmd.Process.Kill() })
	return c
}

// deliveries are the real GitHub deliveries, or as many of our own where those
// are absent: what is killed here has to be killed everywhere.
func deliveries(t *testing.T) []githubDelivery {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dataRoot(), "github-webhooks")); err == nil {
		return githubDeliveries(t)
	}
	t.Log("the real deliveries are absent; these are our own")
	out := make([]githubDelivery, 329)
	for i := range out {
		out[i] = githubDelivery{Event: "push", Payload: fmt.Appendf(nil, `{"repository":{"id":%d,"full_name":"own/r%d","stargazers_count":%d}}`, i%40, i%40, i)}
	}
	return out
}

// Oracle: the program (`touchstone dev`, or `touchstone serve` on a real Kafka)
// is killed with SIGKILL in the middle of an ingest of the GitHub set, three
// times, and started again. Every delivery that was
// acknowledged is in the journal at the position that was acknowledged; after
// the rest is sent, each of the deliveries has exactly one entity in its
// first version and exactly one event, and versions are gap-free.
func TestKillInTheMiddleOfAnIngest(t *testing.T) {
	ds := deliveries(t)
	dir, definition := codeHosting(t)
	guid := func(i int) string { return fmt.Sprintf("0b989ba4-242f-11e5-81e1-%012d", i) }
	acknowledged := map[string]int{} // journal id to delivery
	var mu sync.Mutex
	next := 0
	for round := range 3 {
		c := launch(t, filepath.Join(dir, "data"), definition, round > 0)
		// Four senders; after another 80 acknowledgements the process is
		// killed while they go on.
		target, kill := len(acknowledged)+80, make(chan struct{})
		var once sync.Once
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					mu.Lock()
					i := next
					next++
					mu.Unlock()
					if i >= len(ds) {
						once.Do(func() { close(kill) })
						return
					}
					id, err := c.try(ds[i], guid(i))
					if err != nil {
						return // the process is gone; the sender sends it again later
					}
					mu.Lock()
					acknowledged[id] = i
					enough := len(acknowledged) >= target
					mu.Unlock()
					if enough {
						once.Do(func() { close(kill) })
					}
				}
			})
		}
		<-kill
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	c := launch(t, filepath.Join(dir, "data"), definition, true)
	n := c.eachOnce(ds, guid, acknowledged)
	t.Logf("%d acknowledged before 3 kills, then all %d sent again: %v", len(acknowledged), len(ds), n)
}

// eachOnce sends all deliveries again and checks that what was acknowledged
// before is in the journal, and that each delivery has had its effect once. It
// gives what became of them.
func (c *child) eachOnce(ds []githubDelivery, guid func(int) string, acknowledged map[string]int) map[string]int {
	t := c.t
	t.Helper()
	c.postAll(len(ds), func(i int) answer { return c.post("/v1/ingress/github", ds[i].Payload, githubHeaders(ds[i], guid(i))) })
	out := c.settle("code-hosting", len(acknowledged)+len(ds), 60*time.Second)
	n := count(out)
	for id, i := range acknowledged {
		a := c.get("/v1/deliveries/" + id + "/content")
		if a.status != http.StatusOK || !strings.Contains(string(a.body), guid(i)) {
			t.Errorf("acknowledged delivery %s (%s) is not in the journal: %d %.200s", id, guid(i), a.status, a.body)
		}
	}
	if n["dead-letter"]+n["conflict"] > 0 {
		t.Errorf("dispositions %v", n)
	}
	entities := c.list("code-hosting", "delivery")
	for _, e := range entities {
		if e["version"] != float64(1) {
			t.Errorf("delivery %v has version %v", e["id"], e["version"])
		}
	}
	if len(entities) != len(ds) {
		t.Errorf("%d entities of %d deliveries", len(entities), len(ds))
	}
	if ev := c.events("code-hosting"); ev["code.hosting.v1.DeliverySeen"] != len(ds) || ev["code.hosting.v1.DeliveryChanged"] != 0 {
		t.Errorf("events %v, expected %d of DeliverySeen", ev, len(ds))
	}
	c.gapFree("code-hosting")
	return n
}

// try posts one delivery and gives its journal id.
func (c *child) try(d githubDelivery, guid string) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, c.addr.API+"/v1/ingress/github", strings.NewReader(string(d.Payload)))
	if err != nil {
		return "", err
	}
	for k, v := range githubHeaders(d, guid) {
		req.Header.Set(k, v)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("%s: %s", res.Status, body)
	}
	return decode[struct{ Journal string }](c.t, body).Journal, nil
}

// gapFree checks that the committed changes of each entity have the versions
// 1, 2, 3 … in order. The version of a change is in its events' headers.
func (s *system) gapFree(domain string) {
	s.t.Helper()
	last := map[string]string{}
	versions := map[string]int{}
	s.read(domain+".events.v1", func(r *kgo.Record) {
		for _, h := range r.Headers {
			if h.Key != "ce_sequence" {
				continue
			}
			key, v := string(r.Key), string(h.Value)
			if v == last[key] {
				continue // another event of the same change
			}
			if v <= last[key] {
				s.t.Errorf("%s: version %s follows %s", key, v, last[key])
			}
			last[key] = v
			versions[key]++
			if want := fmt.Sprintf("%019d", versions[key]); v != want {
				s.t.Errorf("%s: version %s, expected %s", key, v, want)
			}
		}
	})
}

// Oracle: a clean stop rebuilds nothing, and what was there is there again.
func TestCleanRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, products))
	s.capture(s.kafka(), change{[]byte(`{"id":1}`), []byte(`{"before":null,"after":{"id":1,"name":"a"},"source":{"table":"t","ts_ms":1},"op":"c","ts_ms":1}`)})
	s.settle("products", 1, 30*time.Second)
	before := fmt.Sprint(s.list("products", "row"))
	s.stop()
	again := start(t, dir, define(t, products), func(o *app.DevOptions) { o.Story = testWriter{t} })
	if got := fmt.Sprint(again.list("products", "row")); got != before {
		t.Errorf("after a clean restart:\n got %s\nwant %s", got, before)
	}
	if n := again.events("products"); n["products.v1.RowCreated"] != 1 {
		t.Errorf("events %v", n)
	}
}
