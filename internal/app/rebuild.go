package app

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
)

// rebuild is a rebuild from the journal, which this process carries out. It is
// known for as long as the process lives.
type rebuild struct {
	done chan struct{}

	mu     sync.Mutex
	status api.Rebuild
}

func (b *rebuild) change(fn func(s *api.Rebuild)) {
	b.mu.Lock()
	fn(&b.status)
	b.mu.Unlock()
}

func (b *rebuild) now() *api.Rebuild {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Examples = append([]api.TableDifference{}, s.Examples...)
	return &s
}

// table finds the group that keeps a table, by the table's topic or by the
// names of the group.
func (r *repairs) table(domain, table string) (topology.Group, error) {
	for _, g := range r.a.topology.Groups {
		if g.Table != "" && g.Table == table && (domain == "" || g.Domain == domain) {
			return g, nil
		}
	}
	g, err := r.group(domain, table)
	if failure.KindOf(err) == failure.NotFound || err == nil && g.Table == "" {
		var names []string
		for _, g := range r.a.topology.Groups {
			if g.Table != "" && (domain == "" || g.Domain == domain) {
				names = append(names, g.Table)
			}
		}
		return g, failure.New(failure.NotFound, "find table", fmt.Sprintf("%q", table), "there is none of this name; there are %s", strings.Join(names, ", "))
	}
	return g, err
}

func (r *repairs) StartRebuild(ctx context.Context, q api.RebuildQuery) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	g, err := r.table(q.Domain, q.Table)
	if err != nil {
		return "", err
	}
	if q.From == "changelog" {
		return r.a.engine.Rebuild(ctx, g.Control, engine.Rebuild{Group: g.Name, Swap: q.Swap, Examples: q.Examples})
	}
	switch {
	case q.Swap:
		return "", failure.New(failure.Validation, "rebuild", g.Table, "content is not swapped, as its station alone writes it; a replay of station %s repairs what the journal knows", topology.Inbox)
	case g.Station == topology.Publish:
		return "", failure.New(failure.Validation, "rebuild", g.Table, "it follows from the order of changes, which the journal alone does not determine; expected the changelog, or the table of %s or %s", topology.Inbox, topology.Merge)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.rebuilds {
		if s := b.now(); s.Table == g.Table && s.State == "running" {
			return "", failure.New(failure.Conflict, "rebuild", g.Table, "rebuild %s is under way since %s, expected it to end first", s.ID, s.At.Format(time.RFC3339))
		}
	}
	b := &rebuild{done: make(chan struct{}), status: api.Rebuild{ID: uuid.NewString(), Domain: g.Domain, Table: g.Table, From: q.From, At: time.Now().UTC(), State: "running", Examples: []api.TableDifference{}}}
	r.rebuilds[b.status.ID] = b
	r.running.Go(func() {
		defer close(b.done)
		err := r.fromJournal(r.life, g, q.Examples, b)
		b.change(func(s *api.Rebuild) {
			s.State = "done"
			if err != nil {
				s.State, s.Error = "failed", err.Error()
			}
		})
	})
	return b.status.ID, nil
}

func (r *repairs) Rebuild(ctx context.Context, id string) (*api.Rebuild, error) {
	r.mu.Lock()
	b := r.rebuilds[id]
	r.mu.Unlock()
	if b != nil {
		select {
		case <-b.done:
		case <-ctx.Done():
		}
		return b.now(), nil
	}
	var missing error
	for _, d := range r.a.opts.Domains {
		s, err := r.a.engine.RebuildStatus(ctx, topology.Control(d.Name), id)
		if err != nil {
			if failure.KindOf(err) != failure.NotFound {
				return nil, err
			}
			missing = err
			continue
		}
		g, err := r.group(d.Name, s.Group)
		if err != nil {
			return nil, err
		}
		return r.tellRebuild(s, g), nil
	}
	return nil, missing
}

func (r *repairs) tellRebuild(s *engine.RebuildStatus, g topology.Group) *api.Rebuild {
	out := &api.Rebuild{
		ID: s.ID, Domain: g.Domain, Table: g.Table, From: "changelog", Swap: s.Swap, At: s.At.UTC(), State: "running", Error: s.Counts.Error,
		Records: s.Counts.Records, Keys: s.Counts.Keys, Missing: s.Counts.Missing, Extra: s.Counts.Extra, Different: s.Counts.Different,
		Repaired: s.Counts.Repaired, Overtaken: s.Counts.Overtaken, Examples: []api.TableDifference{},
	}
	switch {
	case s.Done && s.Counts.Error != "":
		out.State = "failed"
	case s.Done:
		out.State = "done"
	}
	for _, d := range s.Counts.Examples {
		out.Examples = append(out.Examples, api.TableDifference{
			Key: strings.ToValidUTF8(d.Key, "\uFFFD"), Partition: d.Partition, Kind: d.Kind(), Live: r.value(g.Table, d.Live), Rebuilt: r.value(g.Table, d.Rebuilt),
		})
	}
	return out
}

// value words a table's value; what cannot be decoded as its bytes.
func (r *repairs) value(topic string, b []byte) json.RawMessage {
	if b == nil {
		return nil
	}
	var v any = api.ContentOf(b)
	if decoded, err := r.a.decode(topic, b); err == nil {
		v = inWords(reflect.ValueOf(decoded))
	}
	return asJSON(v)
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(err.Error()) // a string always encodes
	}
	return b
}
