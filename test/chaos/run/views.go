package run

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/test/chaos/audit"
)

// served is an entity as the API gives it.
type served struct {
	ID         string                     `json:"id"`
	Version    int64                      `json:"version"`
	State      string                     `json:"state"`
	Fields     map[string]json.RawMessage `json:"fields"`
	Provenance map[string]struct {
		Source    string `json:"source"`
		SourceKey string `json:"sourceKey"`
		Signal    string `json:"signal"`
		Since     int64  `json:"sinceVersion"`
	} `json:"provenance"`
}

// list reads all entities of a resource from an instance.
func list(ctx context.Context, c *http.Client, url, resource string) (map[string]served, error) {
	out := map[string]served{}
	for cursor := ""; ; {
		u := fmt.Sprintf("%s/v1/%s/%s?include=provenance&limit=200", url, audit.Domain, resource)
		if cursor != "" {
			u += "&cursor=" + cursor
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, err
		}
		res, err := c.Do(req)
		if err != nil {
			return nil, err
		}
		var page struct {
			Items  []served
			Cursor string
		}
		err = json.NewDecoder(res.Body).Decode(&page)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %s, %v", u, res.Status, err)
		}
		for _, e := range page.Items {
			out[e.ID] = e
		}
		if page.Cursor == "" {
			return out, nil
		}
		cursor = page.Cursor
	}
}

// reads compares what every instance serves with the table, until it is the
// same or patience ends.
func (w *world) reads(log *audit.Log) []audit.Finding {
	want := map[string]*canonical.Entity{}
	for _, r := range log.Entities {
		want[r.Key] = r.Value
	}
	var found []audit.Finding
	for _, i := range w.instances {
		deadline := time.Now().Add(90 * time.Second)
		for {
			found := w.differences(i, want)
			if len(found) == 0 {
				break
			}
			if w.ctx.Err() != nil || time.Now().After(deadline) {
				return append(found, audit.Finding{Kind: audit.Wrong, Where: i.String(), What: "its views do not come to what the table says"})
			}
			time.Sleep(500 * time.Millisecond)
		}
	}
	return found
}

func (w *world) differences(i *instance, want map[string]*canonical.Entity) (found []audit.Finding) {
	add := func(k audit.Kind, where, format string, args ...any) {
		found = append(found, audit.Finding{Kind: k, Where: where, What: i.String() + ": " + fmt.Sprintf(format, args...)})
	}
	got := map[string]map[string]served{}
	for _, resource := range []string{"account", "device"} {
		l, err := list(w.ctx, w.http, i.url(), resource)
		if err != nil {
			add(audit.Lost, resource, "is not served: %v", err)
			return found
		}
		got[resource] = l
	}
	for key, e := range want {
		s, ok := got[e.Resource][e.ID]
		delete(got[e.Resource], e.ID)
		switch {
		case !e.Exists && ok:
			add(audit.Doubled, key, "is served, and no source has a record of it")
			continue
		case !e.Exists:
			continue
		case !ok:
			add(audit.Lost, key, "is not served")
			continue
		}
		var parts []string
		is := func(what string, found, want any) {
			if found != want {
				parts = append(parts, fmt.Sprintf("%s is %v, expected %v", what, found, want))
			}
		}
		is("version", s.Version, e.Version)
		is("state", s.State, e.State)
		is("number of fields", len(s.Fields), len(e.Fields))
		for _, f := range e.Fields {
			is(f.Name, string(s.Fields[f.Name]), string(f.Value))
			if p, ok := e.Provenance(f.Name); ok {
				v := s.Provenance[f.Name]
				is(f.Name+" provenance", fmt.Sprint(v.Source, v.SourceKey, v.Signal, v.Since), fmt.Sprint(p.Source, p.SourceKey, p.Signal, p.Since))
			}
		}
		if len(parts) > 0 {
			add(audit.Wrong, key, "as served: %s", strings.Join(parts, "; "))
		}
	}
	for resource, left := range got {
		for id := range left {
			add(audit.Doubled, resource+"/"+id, "is served, and not in the table")
		}
	}
	return found
}
