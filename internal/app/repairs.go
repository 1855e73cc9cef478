package app

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/domain/signal"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views/deadletters"
)

// maxAttempts is how often a dead letter may be tried without force.
const maxAttempts = 5

// repairs carries out what the API takes of replays, rebuilds and dead
// letters: it finds the group, and asks the owners of its partitions, in
// whichever process they are, by the domain's control topic.
type repairs struct {
	a       *App
	letters map[string]*deadletters.Reader // by domain

	// Rebuilds from the journal run until they are done or life ends.
	life    context.Context
	running *sync.WaitGroup

	mu       sync.Mutex
	settled  map[string]bool // replays whose consequences have been processed
	rebuilds map[string]*rebuild
}

func newRepairs(ctx context.Context, wg *sync.WaitGroup, a *App) (*repairs, error) {
	r := &repairs{a: a, life: ctx, running: wg, letters: map[string]*deadletters.Reader{}, settled: map[string]bool{}, rebuilds: map[string]*rebuild{}}
	for _, d := range a.opts.Domains {
		if err := a.engine.AddControl(topology.Control(d.Name)); err != nil {
			return nil, err
		}
		v := deadletters.New(d.Name, a.sourceOf)
		from, err := a.engine.AddView(v)
		if err != nil {
			return nil, err
		}
		r.letters[d.Name] = v.Reader(from)
	}
	return r, nil
}

// sourceOf finds the source that a record speaks of.
func (a *App) sourceOf(topic string, value []byte) string {
	v, err := a.decode(topic, value)
	if err != nil {
		return ""
	}
	switch v := v.(type) {
	case *journal.Entry:
		return v.Source
	case *signal.Signal:
		return v.Source
	case *signal.Fact:
		return v.Signal.Source
	}
	return ""
}

// decode reads a record of one of our topics.
func (a *App) decode(topic string, value []byte) (any, error) {
	c, err := a.platform.Codec(topic)
	if err != nil {
		return nil, err
	}
	return c.Decode(value)
}

// group finds the group of a station, by its name or by that of the group.
func (r *repairs) group(domain, station string) (topology.Group, error) {
	var found []topology.Group
	var names []string
	for _, g := range r.a.topology.Groups {
		if domain != "" && g.Domain != domain {
			continue
		}
		names = append(names, g.Name)
		if g.Station == station || g.Name == station {
			found = append(found, g)
		}
	}
	if err := r.domain(domain); err != nil {
		return topology.Group{}, err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return topology.Group{}, failure.New(failure.NotFound, "find station", fmt.Sprintf("%q", station), "there is none of this name; there are %s", strings.Join(names, ", "))
	}
	return topology.Group{}, failure.New(failure.Validation, "find station", fmt.Sprintf("%q", station), "several domains have it: %s; expected one of these names, or a domain", domainsOf(found))
}

func domainsOf(gs []topology.Group) string {
	names := make([]string, len(gs))
	for i, g := range gs {
		names[i] = g.Name
	}
	return strings.Join(names, ", ")
}

func (r *repairs) domain(name string) error {
	if name == "" || r.letters[name] != nil {
		return nil
	}
	return failure.New(failure.NotFound, "find domain", fmt.Sprintf("%q", name), "there is none of this name; there are %s", strings.Join(slices.Sorted(maps.Keys(r.letters)), ", "))
}

// requestTime bounds how long a request may take to be taken up.
const requestTime = 15 * time.Second

func (r *repairs) StartReplay(ctx context.Context, q api.ReplayQuery) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	g, err := r.group(q.Domain, q.Station)
	if err != nil {
		return "", err
	}
	var b engine.Bounds
	if b.From, err = engine.ParsePosition(q.From); err != nil {
		return "", failure.Wrap(failure.Validation, "from", "", err)
	}
	if b.To, err = engine.ParsePosition(q.To); err != nil {
		return "", failure.Wrap(failure.Validation, "to", "", err)
	}
	ranges, err := r.a.engine.PlanReplay(ctx, g.Name, g.Inputs, b)
	if err != nil {
		return "", err
	}
	return r.a.engine.Replay(ctx, g.Control, engine.Replay{Group: g.Name, Ranges: ranges, Key: q.Key, DryRun: q.DryRun})
}

// find looks a replay up in the control logs of all domains.
func (r *repairs) find(ctx context.Context, id string) (*engine.ReplayStatus, topology.Group, error) {
	var missing error
	for _, d := range r.a.opts.Domains {
		s, err := r.a.engine.ReplayStatus(ctx, topology.Control(d.Name), id, nil)
		if err != nil {
			if failure.KindOf(err) != failure.NotFound {
				return nil, topology.Group{}, err
			}
			missing = err
			continue
		}
		g, err := r.group(d.Name, s.Group)
		return s, g, err
	}
	return nil, topology.Group{}, missing
}

func (r *repairs) Replay(ctx context.Context, id string) (*api.Replay, error) {
	s, g, err := r.find(context.WithoutCancel(ctx), id)
	if err != nil {
		return nil, err
	}
	for !s.Done && ctx.Err() == nil {
		if s, err = r.a.engine.ReplayStatus(ctx, g.Control, id, s); err != nil {
			return nil, err
		}
	}
	behind := r.behind(g)
	settled, unsettled := true, []string(nil)
	if s.Done && !s.DryRun && s.Error == "" {
		if settled, unsettled, err = r.settle(ctx, id, behind); err != nil {
			return nil, err
		}
		if s, err = r.a.engine.ReplayStatus(ctx, g.Control, id, nil); err != nil {
			return nil, err
		}
	}
	out := r.tell(s, g, behind, settled)
	out.Unsettled = unsettled
	return out, nil
}

// settle waits until the stations behind have processed what a replay has
// written.
func (r *repairs) settle(ctx context.Context, id string, behind []topology.Group) (settled bool, unstaffed []string, err error) {
	r.mu.Lock()
	settled = r.settled[id]
	r.mu.Unlock()
	if settled {
		return true, nil, nil
	}
	for _, g := range behind {
		ok, err := r.a.engine.Staffed(context.WithoutCancel(ctx), g.Name)
		if err != nil {
			return false, nil, err
		}
		if !ok {
			unstaffed = append(unstaffed, g.Station)
			continue
		}
		if ok, err = r.a.engine.Settled(ctx, g.Control, g.Name, g.Inputs); err != nil || !ok {
			return false, unstaffed, err
		}
	}
	if len(unstaffed) == 0 {
		r.mu.Lock()
		r.settled[id] = true
		r.mu.Unlock()
	}
	return true, unstaffed, nil
}

// behind gives the groups that read what a group writes, and what those write,
// in the order of the flow.
func (r *repairs) behind(g topology.Group) []topology.Group {
	written := map[string]bool{}
	for _, t := range g.Outputs {
		written[t] = true
	}
	var out []topology.Group
	for _, x := range r.a.topology.Groups {
		if x.Name == g.Name || !slices.ContainsFunc(x.Inputs, func(t string) bool { return written[t] }) {
			continue
		}
		out = append(out, x)
		for _, t := range x.Outputs {
			written[t] = true
		}
	}
	return out
}

// tell words a status.
func (r *repairs) tell(s *engine.ReplayStatus, g topology.Group, behind []topology.Group, settled bool) *api.Replay {
	out := &api.Replay{
		ID: s.ID, Domain: g.Domain, Station: g.Station, Group: g.Name, Key: s.Key, DryRun: s.DryRun, At: s.At.UTC(), Error: s.Error,
		Parts: []api.ReplayPart{}, Failures: s.Counts.Examples,
	}
	switch {
	case !s.Done:
		out.State = "running"
	case s.Cancelled:
		out.State = "cancelled"
	case s.Error != "":
		out.State = "failed"
	case !settled:
		out.State = "settling"
	default:
		out.State = "done"
	}
	for i, x := range s.Ranges {
		p := s.Parts[i]
		out.Parts = append(out.Parts, api.ReplayPart{Topic: x.Topic, Partition: x.Partition, From: x.From, To: x.To, Next: p.Next, Error: p.Error})
		out.Read += p.Next - x.From
		out.Total += x.To - x.From
	}
	out.Stations = []api.StationCounts{countsOf(g, s.Counts)}
	if !s.DryRun {
		for _, b := range behind {
			n := s.Downstream[b.Name]
			out.Stations = append(out.Stations, countsOf(b, n))
			out.Failures = append(out.Failures, n.Examples...)
		}
	}
	for _, n := range out.Stations {
		out.Changes += n.Changes
		out.Events += n.Events
	}
	return out
}

func countsOf(g topology.Group, n engine.Counts) api.StationCounts {
	c := api.StationCounts{
		Station: g.Station, Records: n.Records, DeadLetters: n.DeadLetters, State: n.Changed,
		Changes: n.Emitted[topology.Changes(g.Domain)], Events: n.Emitted[topology.Events(g.Domain)],
		Duplicates: n.Verdicts[string(journal.Duplicate)], Emitted: n.Emitted,
	}
	if c.Emitted == nil {
		c.Emitted = map[string]int64{}
	}
	c.NoChange = c.Records - c.Changes - c.Duplicates - c.DeadLetters
	return c
}

func (r *repairs) Replays() ([]*api.Replay, error) {
	var out []*api.Replay
	for _, d := range r.a.opts.Domains {
		all, err := r.a.engine.Replays(topology.Control(d.Name))
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			g, err := r.group(d.Name, s.Group)
			if err != nil {
				continue // of a station that is no more
			}
			r.mu.Lock()
			settled := r.settled[s.ID] || s.DryRun || time.Since(s.At) > time.Hour
			r.mu.Unlock()
			out = append(out, r.tell(s, g, r.behind(g), settled))
		}
	}
	slices.SortFunc(out, func(a, b *api.Replay) int { return b.At.Compare(a.At) })
	return out, nil
}

func (r *repairs) CancelReplay(ctx context.Context, id string) error {
	_, g, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	return r.a.engine.CancelReplay(ctx, g.Control, id)
}

func (r *repairs) Letters(ctx context.Context, q api.LetterQuery) (items []*api.Letter, next string, err error) {
	if err := r.domain(q.Domain); err != nil {
		return nil, "", err
	}
	domain, after, _ := strings.Cut(q.After, "|")
	for _, d := range slices.Sorted(maps.Keys(r.letters)) {
		if q.Domain != "" && d != q.Domain || d < domain {
			continue
		}
		if d != domain {
			after = ""
		}
		replays, err := r.a.engine.Replays(topology.Control(d))
		if err != nil {
			return nil, "", err
		}
		var failed error
		more, last := false, ""
		err = r.letters[d].List(q.Query, after, func(l *deadletters.Letter, cursor string) bool {
			x, err := r.letter(ctx, l, replays)
			if err != nil {
				failed = err
				return false
			}
			if q.State != "" && x.State != q.State {
				return true
			}
			if len(items) == q.Limit {
				more = true
				return false
			}
			items, last = append(items, x), cursor
			return true
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return nil, "", err
		}
		if more {
			if last == "" {
				last = after // the page was full before this domain
			}
			return items, d + "|" + last, nil
		}
	}
	return items, "", nil
}

// letter finds what was done about a letter.
func (r *repairs) letter(ctx context.Context, l *deadletters.Letter, replays []*engine.ReplayStatus) (*api.Letter, error) {
	x := &api.Letter{Letter: *l, State: "open"}
	now, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	s, err := r.a.engine.RedriveStatus(now, topology.Control(l.Domain), l.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case s != nil && s.Result == nil:
		x.State, x.Detail = "redriven", "it is on its way"
	case s != nil && s.Result.Resolved:
		x.State, x.Detail = "resolved", "redriven, and went through"
	case s != nil:
		x.State, x.Detail = "redriven", "it failed again: "+s.Result.Error
	case l.Next != "":
		x.State, x.Detail = "redriven", "the record failed again, see "+l.Next
	default:
		for _, p := range replays {
			if p.ID != l.Replay && p.Covers(l.Group, l.Topic, l.Partition, l.Offset, l.Key, l.At) {
				x.State, x.Detail = "resolved", "the record went through in replay "+p.ID
				break
			}
		}
	}
	return x, nil
}

func unknownLetter(id journal.ID) error {
	return failure.New(failure.NotFound, "read dead letter", id.String(), "there is none at this position, or no longer")
}

func (r *repairs) Letter(ctx context.Context, id journal.ID) (*api.Letter, error) {
	if r.letters[id.Domain] == nil {
		return nil, unknownLetter(id)
	}
	rec, err := r.a.engine.ReadAt(ctx, topology.DeadLetters(id.Domain), id.Partition, id.Offset)
	if err != nil {
		if failure.KindOf(err) == failure.NotFound {
			return nil, unknownLetter(id)
		}
		return nil, err
	}
	l, err := deadletters.Read(id.Domain, id.Partition, id.Offset, string(rec.Key), rec.Value, rec.Headers)
	if err != nil {
		return nil, failure.Wrap(failure.Poison, "read dead letter", id.String(), err)
	}
	if l.Source == "" {
		l.Source = r.a.sourceOf(l.Topic, rec.Value)
	}
	latest, err := r.letters[id.Domain].Latest(l)
	if err != nil {
		return nil, err
	}
	if latest != l.ID {
		l.Next = latest
	}
	replays, err := r.a.engine.Replays(topology.Control(id.Domain))
	if err != nil {
		return nil, err
	}
	x, err := r.letter(ctx, l, replays)
	if err != nil {
		return nil, err
	}
	x.Headers = map[string]string{}
	for k, v := range rec.Headers {
		x.Headers[k] = strings.ToValidUTF8(string(v), "\uFFFD")
	}
	x.ValueOmitted = rec.Headers[engine.HeaderValueOmitted] != nil
	if rec.Value != nil {
		x.Content = api.ContentOf(rec.Value)
		if v, err := r.a.decode(l.Topic, rec.Value); err != nil {
			x.DecodeError = err.Error()
		} else {
			x.Decoded = inWords(reflect.ValueOf(v))
		}
	}
	return x, nil
}

func (r *repairs) Redrive(ctx context.Context, id journal.ID, force bool) (*api.Letter, error) {
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
	defer cancel()
	l, err := r.Letter(asking, id)
	if err != nil {
		return nil, err
	}
	g, err := r.group(l.Domain, l.Group)
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(g.Inputs, l.Topic):
		return nil, failure.New(failure.Conflict, "redrive", l.ID, "it is of %s, which station %s does not read; expected one of %s", l.Topic, g.Station, strings.Join(g.Inputs, ", "))
	case l.Next != "":
		return nil, failure.New(failure.Conflict, "redrive", l.ID, "the record has a later letter, %s; expected that one", l.Next)
	case l.State == "resolved":
		return nil, failure.New(failure.Conflict, "redrive", l.ID, "it is resolved: %s", l.Detail)
	case l.Attempt >= maxAttempts && !force:
		return nil, failure.New(failure.Conflict, "redrive", l.ID, "it was tried %d times, expected fewer than %d; force tries it all the same", l.Attempt, maxAttempts)
	}
	err = r.a.engine.Redrive(asking, g.Control, engine.Redrive{
		Letter: l.ID, Group: g.Name, Input: engine.InputRef{Topic: l.Topic, Partition: l.Partition, Offset: l.Offset},
		Topic: topology.DeadLetters(id.Domain), Partition: id.Partition, Offset: id.Offset,
	})
	if err != nil {
		return nil, err
	}
	if _, err := r.a.engine.RedriveStatus(ctx, g.Control, l.ID); err != nil {
		return nil, err
	}
	return r.Letter(context.WithoutCancel(ctx), id)
}

// inWords gives a domain value in the form of JSON, its members named as in the
// platform's schemas.
func inWords(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if v.CanInterface() {
		if b, ok := v.Interface().([]byte); ok {
			if b == nil {
				return nil
			}
			return api.ContentOf(b)
		}
		if m, ok := v.Interface().(json.Marshaler); ok && v.Kind() != reflect.Pointer {
			return m
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return inWords(v.Elem())
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("avro"); name != "" && !v.Field(i).IsZero() {
				m[name] = inWords(v.Field(i))
			}
		}
		return m
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = inWords(v.Index(i))
		}
		return out
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[fmt.Sprint(k.Interface())] = inWords(v.MapIndex(k))
		}
		return m
	}
	return v.Interface()
}
