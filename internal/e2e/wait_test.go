package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafka connects a plain client to the system's broker.
func (s *system) kafka(opts ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(s.addr.Kafka, ",")...)}, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	return cl
}

// outcome is what became of one delivery.
type outcome struct {
	journal, disposition, detail string
}

// settle waits until the journal of a domain holds at least n entries and all
// of them have come to their end, and gives what became of each.
func (s *system) settle(domain string, n int, within time.Duration) []outcome {
	s.t.Helper()
	adm := kadm.NewClient(s.kafka())
	var ids []string
	eventually(s.t, fmt.Sprintf("%d entries in the journal of %s", n, domain), within, func() (bool, string) {
		ends, err := adm.ListEndOffsets(context.Background(), domain+".journal")
		if err != nil {
			return false, err.Error()
		}
		ids = ids[:0]
		ends.Each(func(o kadm.ListedOffset) {
			for i := int64(0); i < o.Offset; i++ {
				ids = append(ids, fmt.Sprintf("%s:%d:%d", domain, o.Partition, i))
			}
		})
		return len(ids) >= n, fmt.Sprint(len(ids))
	})
	sort.Strings(ids)
	out := make([]outcome, len(ids))
	work := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range work {
				a := s.get("/v1/deliveries/" + url.PathEscape(ids[i]) + "?wait=" + "30s")
				if final, _ := a.json["final"].(bool); !final {
					s.t.Errorf("%s did not come to its end: %d %s", ids[i], a.status, a.body)
				}
				out[i] = outcome{ids[i], fmt.Sprint(a.json["disposition"]), string(a.body)}
			}
		})
	}
	for i := range ids {
		work <- i
	}
	close(work)
	wg.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.visible(domain, out)
	return out
}

// visible waits until the view of entities shows the versions that the
// outcomes tell of: it follows its topic in its own time.
func (s *system) visible(domain string, out []outcome) {
	s.t.Helper()
	want := map[string]map[string]float64{} // resource to entity to version
	for _, o := range out {
		var status struct {
			Signals []struct {
				Resource, Entity string
				Version          float64
			}
		}
		if err := json.Unmarshal([]byte(o.detail), &status); err != nil {
			s.t.Fatal(err)
		}
		for _, sig := range status.Signals {
			if want[sig.Resource] == nil {
				want[sig.Resource] = map[string]float64{}
			}
			want[sig.Resource][sig.Entity] = max(want[sig.Resource][sig.Entity], sig.Version)
		}
	}
	for resource, entities := range want {
		eventually(s.t, "the latest versions of "+resource, 30*time.Second, func() (bool, string) {
			have := map[string]float64{}
			for _, e := range s.list(domain, resource) {
				have[e["id"].(string)] = e["version"].(float64)
			}
			for id, v := range entities {
				if have[id] >= v {
					continue
				}
				// One that no longer exists is not in the list.
				if _, listed := have[id]; listed || s.get(fmt.Sprintf("/v1/%s/%s/%s", domain, resource, id)).status != http.StatusGone {
					return false, fmt.Sprintf("%s at version %v of %v", id, have[id], v)
				}
			}
			return true, ""
		})
	}
}

func count(out []outcome) map[string]int {
	n := map[string]int{}
	for _, o := range out {
		n[o.disposition]++
	}
	return n
}

// events reads every public event of a domain that is committed now, by type,
// and fails if an id occurs twice.
func (s *system) events(domain string) map[string]int {
	s.t.Helper()
	s.published(domain)
	topic := domain + ".events.v1"
	n := map[string]int{}
	ids := map[string]bool{}
	s.read(topic, func(r *kgo.Record) {
		h := map[string]string{}
		for _, x := range r.Headers {
			h[x.Key] = string(x.Value)
		}
		if ids[h["ce_id"]] {
			s.t.Errorf("event %s of type %s was published twice", h["ce_id"], h["ce_type"])
		}
		ids[h["ce_id"]] = true
		n[h["ce_type"]]++
	})
	return n
}

// activities reads what is told of the commands of a domain: the types by what
// they are about. It fails if an id occurs twice.
func (s *system) activities(domain string) map[string][]string {
	s.t.Helper()
	told := map[string][]string{}
	ids := map[string]bool{}
	s.read(domain+".activities", func(r *kgo.Record) {
		h := map[string]string{}
		for _, x := range r.Headers {
			h[x.Key] = string(x.Value)
		}
		if ids[h["ce_id"]] {
			s.t.Errorf("%s of type %s was told twice", h["ce_id"], h["ce_type"])
		}
		ids[h["ce_id"]] = true
		told[h["ce_subject"]] = append(told[h["ce_subject"]], strings.TrimPrefix(h["ce_type"], "touchstone.platform.v1."))
	})
	return told
}

// published waits until the events of all changes are out.
func (s *system) published(domain string) {
	s.t.Helper()
	last := map[int32]int64{}
	s.read(domain+".changes", func(r *kgo.Record) { last[r.Partition] = r.Offset + 1 })
	adm := kadm.NewClient(s.kafka())
	eventually(s.t, "the events of all changes of "+domain, 30*time.Second, func() (bool, string) {
		offsets, err := adm.FetchOffsets(context.Background(), domain+".publish")
		if err != nil {
			return false, err.Error()
		}
		for p, want := range last {
			if o, ok := offsets.Lookup(domain+".changes", p); !ok || o.At < want {
				return false, fmt.Sprintf("partition %d at %d of %d", p, o.At, want)
			}
		}
		return true, ""
	})
}

// read reads the committed records of a topic up to its end as of now. The end
// is the high watermark: an answered commit may still be on its way to some of
// its partitions, and this waits for it.
func (s *system) read(topic string, fn func(*kgo.Record)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	adm := kadm.NewClient(s.kafka())
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil || ends.Error() != nil {
		s.t.Fatal(err, ends.Error())
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	if len(left) == 0 {
		return
	}
	// Control records are kept so that the end is seen even where the last
	// offset is a transaction marker.
	cl := s.kafka(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			s.t.Fatalf("read %s: %v (left %v)", topic, err, left)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				fn(r)
			}
			if end, ok := left[r.Partition]; ok && r.Offset >= end-1 {
				delete(left, r.Partition)
			}
		})
	}
}

// list gives every entity of a resource.
func (s *system) list(domain, resource string) []map[string]any {
	s.t.Helper()
	var out []map[string]any
	path := fmt.Sprintf("/v1/%s/%s?limit=200", domain, resource)
	for {
		a := s.get(path)
		if a.status != 200 {
			s.t.Fatalf("GET %s: %d %s", path, a.status, a.body)
		}
		items, _ := a.json["items"].([]any)
		for _, i := range items {
			out = append(out, i.(map[string]any))
		}
		next, _ := a.json["next"].(string)
		if next == "" {
			return out
		}
		path = next
	}
}

// lines reads a JSON Lines file.
func lines(t testing.TB, path string, fn func(line []byte)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		fn(append([]byte(nil), sc.Bytes()...))
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

func decode[T any](t testing.TB, b []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
