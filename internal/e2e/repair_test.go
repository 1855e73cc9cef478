package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/client"
	"github.com/touchstone-platform/touchstone/topology"
)

// client is the typed client of the system's API.
func (s *system) client() *client.Client {
	s.t.Helper()
	c, err := client.New(s.addr.API, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// replay asks for a replay and waits for its end.
func (s *system) replay(q client.ReplayQuery) *client.Replay {
	s.t.Helper()
	r, err := s.client().StartReplay(s.t.Context(), q)
	if err != nil {
		s.t.Fatalf("replay %+v: %v", q, err)
	}
	return s.replayed(r.ID)
}

func (s *system) replayed(id string) *client.Replay {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 60*time.Second)
	defer cancel()
	for {
		r, err := s.client().Replay(ctx, id, 10*time.Second)
		if err != nil {
			s.t.Fatalf("replay %s: %v", id, err)
		}
		if r.Ended() {
			return r
		}
	}
}

// truth is what a replay must leave as it is.
type truth struct {
	entities string
	events   map[string]int
	changes  int
}

func (s *system) truth(domain, resource string) truth {
	s.t.Helper()
	return truth{fmt.Sprint(s.list(domain, resource)), s.events(domain), s.length(topology.Changes(domain))}
}

func (s *system) unchanged(what, domain, resource string, want truth) {
	s.t.Helper()
	got := s.truth(domain, resource)
	if got.entities != want.entities {
		s.t.Errorf("%s: entities\n got %s\nwant %s", what, got.entities, want.entities)
	}
	if !maps.Equal(got.events, want.events) || got.changes != want.changes {
		s.t.Errorf("%s: %d changes and events %v, expected %d and %v", what, got.changes, got.events, want.changes, want.events)
	}
}

// row is a captured change of the table of products.
func row(id, i int) change {
	return change{fmt.Appendf(nil, `{"id":%d}`, id), fmt.Appendf(nil, `{"before":null,"after":{"id":%d,"name":"n%d","weight":%d},"source":{"table":"t","ts_ms":%d},"op":"u","ts_ms":1}`, id, i/5, i, 1000+i)}
}

// Oracle: a replay of any station, from the beginning, of a random suffix, of
// one key, of a range, or on trial, while new input goes on, counts what it was
// asked for and says that nothing changed; entities, changes and events are
// what they would be without it.
func TestReplayChangesNothing(t *testing.T) {
	s := start(t, t.TempDir(), define(t, products))
	cl := s.kafka()
	const entries = 60
	for i := range entries {
		s.capture(cl, row(i%10, i))
	}
	s.settle("products", entries, 30*time.Second)
	s.drained("products")
	before := s.truth("products", "row")
	all := map[string]int{}
	for _, g := range []struct{ station, input string }{
		{topology.Inbox, "products.journal"}, {topology.Resolve, "products.signals"}, {topology.Merge, "products.facts"}, {topology.Publish, "products.changes"},
	} {
		all[g.station] = s.length(g.input)
		r := s.replay(client.ReplayQuery{Station: g.station, From: "earliest"})
		if r.State != "done" || r.Changes != 0 || r.Events != 0 || r.Stations[0].Records != int64(all[g.station]) || r.Stations[0].DeadLetters != 0 {
			t.Errorf("replay of %s: %+v, expected %d records and no change", g.station, r, all[g.station])
		}
		if len(r.Stations) > 1 && r.Stations[1].Records == 0 && g.station != topology.Merge {
			t.Errorf("replay of %s: the station behind it tells of nothing: %+v", g.station, r.Stations)
		}
		s.unchanged("replay of "+g.station, "products", "row", before)
		dry := s.replay(client.ReplayQuery{Station: g.station, From: "earliest", DryRun: true})
		if dry.State != "done" || dry.Changes != 0 || dry.Events != 0 || dry.Stations[0].DeadLetters != 0 || dry.Stations[0].Records != int64(all[g.station]) {
			t.Errorf("dry run of %s: %+v", g.station, dry)
		}
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var places []string
	var want int64
	for p, end := range s.stands("products.merge", "products.facts") {
		from := rnd.Int64N(end)
		places = append(places, fmt.Sprintf("%d:%d", p, from))
		want += end - from
	}
	if r := s.replay(client.ReplayQuery{Station: "products.merge", From: strings.Join(places, ",")}); r.Total != want || r.Read != want || r.Changes+r.Events != 0 {
		t.Errorf("replay of a suffix: %+v, expected %d offsets", r, want)
	}
	key := s.keys("products.facts")[0]
	if r := s.replay(client.ReplayQuery{Station: topology.Merge, From: "earliest", Key: &key}); r.Stations[0].Records == 0 || r.Stations[0].Records >= entries || r.Changes+r.Events != 0 {
		t.Errorf("replay of %s: %+v", key, r)
	}
	for p, end := range s.stands("products.merge", "products.facts") {
		if end < 3 {
			continue
		}
		r := s.replay(client.ReplayQuery{Station: topology.Merge, From: fmt.Sprintf("%d:1", p), To: fmt.Sprintf("%d:2", p)})
		if len(r.Parts) != 1 || r.Parts[0].From != 1 || r.Parts[0].Next != 2 {
			t.Errorf("replay of a range: %+v", r)
		}
	}
	s.unchanged("parts", "products", "row", before)

	// While traffic goes on.
	var feeding sync.WaitGroup
	feeding.Go(func() {
		for i := entries; i < 2*entries; i++ {
			s.capture(cl, row(i%10, i))
		}
	})
	r := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"})
	feeding.Wait()
	if r.State != "done" || r.Changes != 0 || r.Events != 0 {
		t.Errorf("replay under traffic: %+v", r)
	}
	s.settle("products", 2*entries, 30*time.Second)
	s.drained("products")
	if got := s.length("products.changes"); got != 2*entries {
		t.Errorf("%d changes, expected one for each of %d entries", got, 2*entries)
	}
	s.gapFree("products")
}

// stands gives where a group stands in a topic.
func (s *system) stands(group, topic string) map[int32]int64 {
	s.t.Helper()
	offsets, err := kadm.NewClient(s.kafka()).FetchOffsets(s.t.Context(), group)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[int32]int64{}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic && o.At > 0 {
			out[o.Partition] = o.At
		}
	})
	return out
}

// Oracle: what could not be right is refused with the place and what was
// expected, and with a code that tells the kinds of refusal apart.
func TestReplayIsRefused(t *testing.T) {
	s := start(t, t.TempDir(), define(t, products))
	s.capture(s.kafka(), row(1, 1))
	s.settle("products", 1, 30*time.Second)
	for _, c := range []struct {
		q      client.ReplayQuery
		status int
		want   string
	}{
		{client.ReplayQuery{Station: "nowhere", From: "earliest"}, http.StatusNotFound, "products.inbox"},
		{client.ReplayQuery{Station: "merge", Domain: "elsewhere", From: "earliest"}, http.StatusNotFound, "products"},
		{client.ReplayQuery{Station: "merge"}, http.StatusBadRequest, "from"},
		{client.ReplayQuery{Station: "merge", From: "yesterday"}, http.StatusBadRequest, "expected earliest, a timestamp"},
		{client.ReplayQuery{Station: "merge", From: "7:0"}, http.StatusBadRequest, "there is no such partition"},
		{client.ReplayQuery{Station: "merge", From: "0:123456"}, http.StatusBadRequest, "where the log ends"},
		{client.ReplayQuery{Station: "merge", From: "2999-01-01T00:00:00Z"}, http.StatusBadRequest, "nothing lies between"},
	} {
		_, err := s.client().StartReplay(t.Context(), c.q)
		var p *client.Problem
		if !errors.As(err, &p) || p.Status != c.status || !strings.Contains(p.Error(), c.want) {
			t.Errorf("%+v gave %v, expected %d and %q", c.q, err, c.status, c.want)
		}
	}
	if _, err := s.client().Replay(t.Context(), "x", 0); client.ProblemCode(err) != "not-found" {
		t.Errorf("an unknown replay gave %v", err)
	}
	if _, err := s.client().Letter(t.Context(), "products:0:99"); client.ProblemCode(err) != "not-found" {
		t.Errorf("an unknown letter gave %v", err)
	}
}

// keys gives the record keys of a topic.
func (s *system) keys(topic string) (out []string) {
	s.t.Helper()
	s.read(topic, func(r *kgo.Record) { out = append(out, string(r.Key)) })
	return out
}

// brokenProducts fails for every row with a name that is no number.
var brokenProducts = strings.Replace(products, "?name: row.name", `?name: 'string(int(row.name))'`, 1)

// Oracle: with a bad definition deliveries become dead letters that can be
// found by reason, station, source and key, page by page. After the definition
// is put right each is redriven, by several at once, and has exactly one
// effect under its first journal id; the list then says that it is resolved. One
// that is redriven too early is a new letter with one attempt more.
func TestDeadLettersAreRedriven(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, brokenProducts))
	cl := s.kafka()
	const entries = 12
	for i := range entries {
		s.capture(cl, row(i, i))
	}
	out := s.settle("products", entries, 30*time.Second)
	if n := count(out); n["dead-letter"] != entries {
		t.Fatalf("dispositions %v", n)
	}
	letters := s.letters(client.LetterQuery{Reason: "Validation", Station: "inbox", Source: "db", Limit: 5}, entries)
	if got := s.letters(client.LetterQuery{Source: "crm"}, 0); len(got) != 0 {
		t.Errorf("letters of another source: %+v", got)
	}
	if got := s.letters(client.LetterQuery{Key: letters[3].Key}, 1); got[0].ID != letters[3].ID {
		t.Errorf("by key: %+v", got)
	}
	shown, err := s.client().Letter(t.Context(), letters[0].ID)
	if err != nil || shown.State != "open" || shown.Headers["touchstone.failure.kind"] != "Validation" || !strings.Contains(string(shown.Decoded), `"source":"db"`) || !strings.Contains(string(shown.Decoded), "weight") {
		t.Errorf("shown: %+v, %v", shown, err)
	}
	early, err := s.client().Redrive(t.Context(), letters[0].ID, false, 20*time.Second)
	if err != nil || early.State != "redriven" {
		t.Errorf("redriven too early: %+v, %v", early, err)
	}
	second := s.letters(client.LetterQuery{State: "open"}, entries)[0]
	if second.Attempt != 2 || second.Previous != letters[0].ID || second.Offset != letters[0].Offset {
		t.Errorf("the second letter: %+v", second)
	}
	s.stop()

	s = start(t, dir, define(t, products))
	open := s.letters(client.LetterQuery{State: "open"}, entries)
	for _, l := range open {
		var accepted sync.Map
		var asked sync.WaitGroup
		for i := range 3 {
			asked.Go(func() {
				x, err := s.client().Redrive(context.Background(), l.ID, false, 20*time.Second)
				switch {
				case err == nil:
					accepted.Store(i, x)
				case client.ProblemCode(err) != "conflict":
					t.Errorf("redrive of %s: %v", l.ID, err)
				}
			})
		}
		asked.Wait()
		n := 0
		accepted.Range(func(_, x any) bool {
			n++
			if x.(*client.Letter).State != "resolved" {
				t.Errorf("redriven: %+v", x)
			}
			return true
		})
		if n != 1 {
			t.Errorf("%s was accepted %d times", l.ID, n)
		}
	}
	s.drained("products")
	if ev := s.events("products"); ev["products.v1.RowCreated"] != entries || len(ev) != 1 {
		t.Errorf("events %v, expected %d created", ev, entries)
	}
	if n := count(s.settle("products", entries, 30*time.Second)); n["change"] != entries {
		t.Errorf("dispositions %v", n)
	}
	s.letters(client.LetterQuery{State: "resolved"}, entries)
	s.letters(client.LetterQuery{State: "redriven"}, 1)
	s.letters(client.LetterQuery{State: "open"}, 0)
}

// Oracle: a replay with the definition put right resolves the letters of what
// it has read, without redriving any.
func TestReplayResolvesLetters(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, brokenProducts))
	cl := s.kafka()
	for i := range 8 {
		s.capture(cl, row(i, i))
	}
	s.settle("products", 8, 30*time.Second)
	s.letters(client.LetterQuery{State: "open"}, 8)
	again := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"})
	if again.Stations[0].DeadLetters != 8 || len(again.Failures) == 0 {
		t.Errorf("replay with the bad definition: %+v", again)
	}
	s.letters(client.LetterQuery{State: "open"}, 8) // the latest of each
	s.stop()
	s = start(t, dir, define(t, products))
	r := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"})
	if r.State != "done" || r.Changes != 8 || r.Events != 8 || r.Stations[0].Changes != 0 {
		t.Errorf("replay with the definition put right: %+v", r)
	}
	s.letters(client.LetterQuery{State: "resolved"}, 8)
	s.letters(client.LetterQuery{State: "open"}, 0)
}

// Oracle: a replay with a mapping put right replaces the values that the same
// deliveries were mapped to before, each as one change; a second one changes
// nothing.
func TestReplayCorrectsAMapping(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, strings.Replace(products, "?name: row.name", `?name: '"always the same"'`, 1)))
	cl := s.kafka()
	for i := range 8 {
		s.capture(cl, row(i, i))
	}
	s.settle("products", 8, 30*time.Second)
	s.stop()
	s = start(t, dir, define(t, products))
	if r := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"}); r.State != "done" || r.Changes != 8 || r.Events != 8 {
		t.Errorf("the replay that corrects: %+v", r)
	}
	s.drained("products")
	eventually(t, "the corrected names", 20*time.Second, func() (bool, string) {
		list := fmt.Sprint(s.list("products", "row"))
		return !strings.Contains(list, "always the same") && strings.Contains(list, "name:n1"), list
	})
	if r := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"}); r.Changes+r.Events != 0 {
		t.Errorf("the second replay: %+v", r)
	}
}

// letters lists, page by page, and waits for the number that is expected.
func (s *system) letters(q client.LetterQuery, want int) (all []*client.Letter) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d letters of %+v", want, q), 20*time.Second, func() (bool, string) {
		all = nil
		seen := map[string]bool{}
		for page := q; ; {
			p, err := s.client().Letters(s.t.Context(), page)
			if err != nil {
				s.t.Fatal(err)
			}
			for _, l := range p.Items {
				if seen[l.ID] {
					s.t.Errorf("%s is on two pages", l.ID)
				}
				seen[l.ID] = true
			}
			all = append(all, p.Items...)
			if q.Limit > 0 && len(p.Items) > q.Limit {
				s.t.Errorf("%d letters on a page of %d", len(p.Items), q.Limit)
			}
			if page.Cursor = p.Cursor; p.Cursor == "" {
				return len(all) == want, fmt.Sprint(len(all))
			}
		}
	})
	return all
}

// brokenKill is the definition of the kill test, unable to handle any delivery.
var brokenKill = strings.Replace(killDefinition, "event: event}", `event: 'string(int("x" + event))'}`, 1)

// Oracle: the program is killed with SIGKILL just after a replay was asked for,
// three times. With Kafka the replay goes on after the restart and comes to its
// end; in the embedded mode the restart rebuilds everything. In both, each
// delivery has its entity and its one event as before. The same for redrives: each letter has its one
// effect.
func TestKillInTheMiddleOfRepairs(t *testing.T) {
	ds := deliveries(t)
	dir := t.TempDir()
	definition := filepath.Join(dir, "code-hosting.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(definition, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	guid := func(i int) string { return fmt.Sprintf("0b989ba4-242f-11e5-81e1-%012d", i) }
	const bad = 20
	write(brokenKill)
	c := launch(t, filepath.Join(dir, "data"), definition, false)
	c.postAll(bad, func(i int) answer { return c.post("/v1/ingress/github", ds[i].Payload, githubHeaders(ds[i], guid(i))) })
	c.settle("code-hosting", bad, 60*time.Second)
	letters := c.letters(client.LetterQuery{State: "open"}, bad)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.ended()

	write(killDefinition)
	c = launch(t, filepath.Join(dir, "data"), definition, true)
	if keepsRequests {
		for i, l := range letters {
			if _, err := c.client().Redrive(t.Context(), l.ID, false, 0); err != nil {
				t.Fatalf("redrive %d: %v", i, err)
			}
		}
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.ended()
	c = launch(t, filepath.Join(dir, "data"), definition, true)
	if keepsRequests {
		c.letters(client.LetterQuery{State: "resolved"}, bad)
	}
	c.postAll(len(ds)-bad, func(i int) answer {
		return c.post("/v1/ingress/github", ds[bad+i].Payload, githubHeaders(ds[bad+i], guid(bad+i)))
	})
	c.settle("code-hosting", len(ds), 60*time.Second)
	c.drained("code-hosting")
	before := c.truth("code-hosting", "delivery")
	if before.events["code.hosting.v1.DeliverySeen"] != len(ds) || before.events["code.hosting.v1.DeliveryChanged"] != 0 {
		t.Errorf("events %v, expected %d of DeliverySeen", before.events, len(ds))
	}
	for round := range 3 {
		r, err := c.client().StartReplay(t.Context(), client.ReplayQuery{Station: []string{topology.Inbox, topology.Merge, topology.Publish}[round], From: "earliest"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-c.ended()
		c = launch(t, filepath.Join(dir, "data"), definition, true)
		if !keepsRequests {
			if _, err := c.client().Replay(t.Context(), r.ID, 0); client.ProblemCode(err) != "not-found" {
				t.Errorf("a replay that a rebuild has overtaken gave %v", err)
			}
			c.settle("code-hosting", len(ds), 60*time.Second)
		} else if end := c.replayed(r.ID); end.State != "done" || end.Read != end.Total || end.Stations[0].Records < int64(len(ds)) || end.Changes+end.Events != 0 {
			t.Errorf("round %d: %+v, expected at least %d records and no change", round, end, len(ds))
		}
		c.drained("code-hosting")
		if keepsRequests {
			c.unchanged(fmt.Sprintf("round %d", round), "code-hosting", "delivery", before)
			continue
		}
		// Deliveries about one repository race, and a rebuild may have them in
		// another order (ADR 10). Each delivery has its one event all the same.
		if ev := c.events("code-hosting"); ev["code.hosting.v1.DeliverySeen"] != len(ds) || ev["code.hosting.v1.DeliveryChanged"] != 0 {
			t.Errorf("round %d: events %v, expected %d of DeliverySeen", round, ev, len(ds))
		}
		if list := fmt.Sprint(c.list("code-hosting", "delivery")); list != before.entities {
			t.Errorf("round %d: entities\n got %s\nwant %s", round, list, before.entities)
		}
	}
}
