package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/client"
	"github.com/touchstone-platform/touchstone/topology"
)

// rebuild asks for a rebuild and waits for its end.
func (s *system) rebuild(q client.RebuildQuery) *client.Rebuild {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 60*time.Second)
	defer cancel()
	r, err := s.client().StartRebuild(ctx, q)
	for err == nil && r.State == "running" {
		r, err = s.client().Rebuild(ctx, r.ID, 10*time.Second)
	}
	if err != nil || r.State != "done" {
		s.t.Fatalf("rebuild %+v came to %+v, %v", q, r, err)
	}
	return r
}

// Oracle: tables of a sound system are what their changelogs and the journal
// say. With one entity gone from the changelog, and another one that has the
// value of a third, the local image still agrees with the changelog, but the
// journal tells both, with their values. What cannot be is refused.
func TestRebuild(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, define(t, products))
	cl := s.kafka()
	const entries = 40
	for i := range entries {
		s.capture(cl, row(i%10, i))
	}
	s.capture(cl, change{[]byte(`{"id":3}`), []byte(`{"before":{"id":3},"after":null,"source":{"table":"t","ts_ms":9000},"op":"d","ts_ms":1}`)})
	s.capture(cl, row(1, 1)) // a copy
	s.settle("products", entries+2, 30*time.Second)
	s.drained("products")
	for _, q := range []client.RebuildQuery{
		{Table: "products.inbox-table", From: "changelog"}, {Table: "merge", From: "changelog"}, {Table: "publish", From: "changelog", Swap: true},
		{Table: "inbox", From: "journal"}, {Table: "products.merge", From: "journal"},
	} {
		q.Examples = 5
		if r := s.rebuild(q); r.Differences() != 0 || r.Overtaken != 0 || r.Records == 0 || r.Keys == 0 {
			t.Errorf("a sound system: %+v gave %+v", q, r)
		}
	}
	for _, c := range []struct {
		q    client.RebuildQuery
		want string
	}{
		{client.RebuildQuery{Table: "resolve", From: "changelog"}, "not-found"},
		{client.RebuildQuery{Table: "elsewhere", From: "changelog"}, "not-found"},
		{client.RebuildQuery{Table: "merge", From: "journal", Swap: true}, "invalid"},
		{client.RebuildQuery{Table: "publish", From: "journal"}, "invalid"},
		{client.RebuildQuery{Table: "merge", From: "memory"}, "invalid-body"},
	} {
		if _, err := s.client().StartRebuild(t.Context(), c.q); client.ProblemCode(err) != c.want {
			t.Errorf("%+v gave %v, expected %s", c.q, err, c.want)
		}
	}

	table := topology.TableName("products", topology.Merge)
	latest := map[string]*kgo.Record{}
	var keys []string
	s.read(table, func(r *kgo.Record) {
		if latest[string(r.Key)] == nil {
			keys = append(keys, string(r.Key))
		}
		latest[string(r.Key)] = r
	})
	s.stop()
	lost, wrong, other := latest[keys[0]], latest[keys[1]], latest[keys[2]]
	offline(t, dir, func(client *kgo.Client) {
		for _, r := range []*kgo.Record{
			{Topic: table, Partition: lost.Partition, Key: lost.Key},
			{Topic: table, Partition: wrong.Partition, Key: wrong.Key, Value: other.Value},
		} {
			// The partitions of a changelog are those of the murmur2 hash.
			if err := client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	})

	s = start(t, dir, define(t, products))
	if r := s.rebuild(client.RebuildQuery{Table: "merge", From: "changelog"}); r.Differences() != 0 {
		t.Errorf("the image and its changelog: %+v", r)
	}
	r := s.rebuild(client.RebuildQuery{Table: "merge", From: "journal", Examples: 5})
	found := map[string]string{}
	for _, d := range r.Examples {
		found[d.Key] = d.Kind
		if d.Rebuilt == nil || (d.Live == nil) != (d.Kind == "missing") {
			t.Errorf("%+v", d)
		}
	}
	if r.Missing != 1 || r.Different != 1 || r.Extra != 0 || found[string(lost.Key)] != "missing" || found[string(wrong.Key)] != "different" {
		t.Errorf("found %v: %+v", found, r)
	}
	// The repair goes by the door that all truth comes by.
	replay := s.replay(client.ReplayQuery{Station: topology.Inbox, From: "earliest"})
	if replay.State != "done" || replay.Changes == 0 {
		t.Errorf("the replay that repairs: %+v", replay)
	}
	if r := s.rebuild(client.RebuildQuery{Table: "merge", From: "journal", Examples: 5}); r.Missing != 0 {
		t.Errorf("after the replay: %+v", r)
	}
}
