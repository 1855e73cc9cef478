package app

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/processors/inbox"
	"github.com/touchstone-platform/touchstone/processors/merge"
	"github.com/touchstone-platform/touchstone/processors/resolve"
	"github.com/touchstone-platform/touchstone/topology"
)

// settleTime is how long the stations may take to process what the journal
// holds when a rebuild from it begins.
const settleTime = 2 * time.Minute

// chain takes the steps of the stations in memory, one entry after the other,
// from the journal to the table that is rebuilt.
type chain struct {
	inbox, resolve, merge processors.Station
	window                time.Duration
	signals, facts        string
	seen                  map[string]*journal.Seen
	entities              map[string]*canonical.Entity
	// until is the latest journal position that was read, by partition.
	until map[int32]int64
	// at is the journal partition of each dedupe key.
	at map[string]int32
}

// fromJournal rebuilds the content of a table from the journal, and compares it
// with the changelog as soon as the stations have processed the same entries.
// What was written by later entries is left out.
func (r *repairs) fromJournal(ctx context.Context, g topology.Group, examples int, b *rebuild) error {
	d, ok := r.a.definition(g.Domain)
	if !ok {
		return failure.New(failure.NotFound, "rebuild", g.Table, "domain %s is not loaded", g.Domain)
	}
	dedupe, _ := r.a.topology.Topic(topology.TableName(d.Name, topology.Inbox))
	until, err := r.a.engine.Position(ctx, topology.GroupName(d.Name, topology.Inbox), topology.Journal(d.Name))
	if err != nil {
		return err
	}
	if err := r.journalIsWhole(ctx, d.Name); err != nil {
		return err
	}
	c := &chain{
		inbox: inbox.New(d, r.a.connectorsOf(d)), resolve: resolve.New(d), merge: merge.New(d), window: dedupe.Retention,
		signals: topology.Signals(d.Name), facts: topology.Facts(d.Name),
		seen: map[string]*journal.Seen{}, entities: map[string]*canonical.Entity{}, until: until, at: map[string]int32{},
	}
	entries, err := r.a.platform.Codec(topology.Journal(d.Name))
	if err != nil {
		return err
	}
	err = r.a.engine.Scan(ctx, topology.Journal(d.Name), until, func(rec engine.Record) error {
		b.change(func(s *api.Rebuild) { s.Records++ })
		v, err := entries.Decode(rec.Value)
		if err == nil {
			err = c.take(rec, v)
		}
		if retryable := failure.KindOf(err).Retryable(); err != nil && retryable {
			return err
		}
		return nil // the station made a dead letter of it: it is not in the table
	})
	if err != nil {
		return err
	}
	live, err := r.committed(ctx, g)
	if err != nil {
		return err
	}
	rebuilt := map[string]any{}
	if g.Station == topology.Inbox {
		for key, s := range c.seen {
			if !c.expired(s, envelope.At(time.Now())) {
				rebuilt[key] = inWords(reflect.ValueOf(s))
			}
		}
	} else {
		for key, e := range c.entities {
			rebuilt[key] = content(e)
		}
	}
	partitions, _ := r.a.topology.Topic(g.Table)
	tell := func(key string, live, rebuilt any) {
		d := engine.Difference{Key: key}
		x := api.TableDifference{Key: strings.ToValidUTF8(key, "\uFFFD"), Partition: engine.Partition(key, partitions.Partitions)}
		if live != nil {
			x.Live, d.Live = asJSON(live), []byte{}
		}
		if rebuilt != nil {
			x.Rebuilt, d.Rebuilt = asJSON(rebuilt), []byte{}
		}
		x.Kind = d.Kind()
		b.change(func(s *api.Rebuild) {
			var n engine.RebuildCounts
			n.Note(d, 0)
			s.Missing, s.Extra, s.Different = s.Missing+n.Missing, s.Extra+n.Extra, s.Different+n.Different
			if len(s.Examples) < examples {
				s.Examples = append(s.Examples, x)
			}
		})
	}
	b.change(func(s *api.Rebuild) { s.Keys = int64(len(rebuilt)) })
	keys := slices.Collect(maps.Keys(rebuilt))
	for key := range live {
		if _, ok := rebuilt[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		var now any
		switch v := live[key].(type) {
		case *journal.Seen:
			if v.Last >= c.end(key) {
				b.change(func(s *api.Rebuild) { s.Overtaken++ })
				continue
			}
			if !c.expired(v, envelope.At(time.Now())) {
				now = inWords(reflect.ValueOf(v))
			}
		case *canonical.Entity:
			if c.later(v) {
				b.change(func(s *api.Rebuild) { s.Overtaken++ })
				continue
			}
			now = content(v)
		}
		if !bytes.Equal(asJSON(now), asJSON(rebuilt[key])) {
			tell(key, now, rebuilt[key])
		}
	}
	return nil
}

// take takes the steps that follow from one journal entry.
func (c *chain) take(rec engine.Record, entry any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failure.New(failure.Poison, "rebuild", string(rec.Key), "panic: %v", p)
		}
	}()
	key := string(rec.Key)
	in := processors.Record{Stream: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Key: key, Value: entry, Headers: rec.Headers, Time: rec.Time}
	c.at[key] = rec.Partition
	var state any
	if s := c.seen[key]; s != nil && !c.expired(s, rec.Time) {
		state = s
	}
	effects, err := c.inbox.Step(state, in)
	if err != nil {
		return err
	}
	if s, ok := effects.State.(*journal.Seen); ok {
		c.seen[key] = s
	}
	for _, e := range effects.Emit {
		if e.Stream != c.signals {
			continue
		}
		facts, err := c.resolve.Step(nil, processors.Record{Stream: c.signals, Key: e.Key, Value: e.Value, Time: rec.Time})
		if err != nil {
			continue // a dead letter
		}
		for _, f := range facts.Emit {
			if f.Stream != c.facts {
				continue
			}
			var entity any
			if e := c.entities[f.Key]; e != nil {
				entity = e
			}
			merged, err := c.merge.Step(entity, processors.Record{Stream: c.facts, Key: f.Key, Value: f.Value, Time: rec.Time})
			if err != nil {
				continue
			}
			if e, ok := merged.State.(*canonical.Entity); ok {
				c.entities[f.Key] = e
			}
		}
	}
	return nil
}

// expired tells whether the dedupe table no longer has an entry.
func (c *chain) expired(s *journal.Seen, now envelope.Instant) bool {
	return c.window > 0 && s.At != 0 && s.At+envelope.Instant(c.window.Microseconds()) <= now
}

// end is how far the journal partition of a dedupe key was read.
func (c *chain) end(key string) int64 {
	p, ok := c.at[key]
	if !ok {
		return math.MaxInt64 // the journal does not know it at all
	}
	return c.until[p]
}

// later tells whether an entity has a claim from an entry behind those that
// were read.
func (c *chain) later(e *canonical.Entity) bool {
	behind := func(signal string) bool {
		id, _, _ := strings.Cut(signal, "#")
		j, err := journal.ParseID(id)
		return err == nil && j.Offset >= c.until[j.Partition]
	}
	return slices.ContainsFunc(e.Contributions, func(x canonical.Contribution) bool {
		return x.Deleted != nil && behind(x.Deleted.Signal) || slices.ContainsFunc(x.Stamps, func(s canonical.Stamp) bool { return behind(s.Signal) })
	})
}

// content is what an entity says, without what depends on the order in which
// sources raced: versions, and who holds a value that several claim.
func content(e *canonical.Entity) any {
	fields := map[string]canonical.Value{}
	for _, f := range e.Fields {
		fields[f.Name] = f.Value
	}
	claims := map[string]any{}
	for i := range e.Contributions {
		x := &e.Contributions[i]
		values := map[string]canonical.Value{}
		for _, r := range x.Registers {
			if v, _, ok := x.Claim(r.Name); ok {
				values[r.Name] = v
			}
		}
		claims[x.Source+"/"+x.SourceKey] = map[string]any{"values": values, "deleted": x.Deleted != nil}
	}
	return map[string]any{"exists": e.Exists, "state": e.State, "fields": fields, "claims": claims}
}

// journalIsWhole refuses a journal that has lost its beginning.
func (r *repairs) journalIsWhole(ctx context.Context, domain string) error {
	starts, err := r.a.engine.StartOffsets(ctx, topology.Journal(domain))
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(starts)) {
		if starts[p] > 0 {
			return failure.New(failure.Validation, "rebuild", fmt.Sprintf("%s/%d", topology.Journal(domain), p), "found offset %d as its first, expected 0: what came before is gone, so the table cannot be rebuilt from it", starts[p])
		}
	}
	return nil
}

// committed reads what the changelog of a table says now, once the stations up
// to it have processed what was there when it began.
func (r *repairs) committed(ctx context.Context, g topology.Group) (map[string]any, error) {
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for _, x := range r.a.topology.Groups {
		if x.Domain != g.Domain {
			continue
		}
		ok, err := r.a.engine.Settled(settled, x.Control, x.Name, x.Inputs)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, failure.New(failure.Transient, "rebuild", g.Table, "station %s has not processed its input within %s", x.Station, settleTime)
		}
		if x.Name == g.Name {
			break
		}
	}
	ends, err := r.a.engine.EndOffsets(ctx, g.Table)
	if err != nil {
		return nil, err
	}
	live := map[string]any{}
	err = r.a.engine.Scan(ctx, g.Table, ends, func(rec engine.Record) error {
		if rec.Value == nil {
			delete(live, string(rec.Key))
			return nil
		}
		v, err := r.a.decode(g.Table, rec.Value)
		if err != nil {
			return fmt.Errorf("%s/%d@%d, key %s: %w", g.Table, rec.Partition, rec.Offset, rec.Key, err)
		}
		live[string(rec.Key)] = v
		return nil
	})
	return live, err
}
