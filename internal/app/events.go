package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
)

// position is a place in the public events of all domains: the next offset by
// topic and partition. Its token is opaque to clients.
type position map[string]map[int32]int64

func (p position) token() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("position: %v", err)) // integers and strings always encode
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parsePosition(token string) (position, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	p := position{}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return nil, failure.New(failure.Validation, "resume stream", "position", "found %.60q, expected the id of an event of this stream", token)
	}
	return p, nil
}

func (p position) clone() position {
	c := make(position, len(p))
	for t, m := range p {
		c[t] = maps.Clone(m)
	}
	return c
}

// streams serve the public events of all domains to any number of readers. One
// reader of each topic serves all who listen from now on; who resumes from a
// position reads for itself.
type streams struct {
	a      *App
	decode *codecs.Reader
	topics map[string]string // topic to domain

	mu   sync.Mutex
	at   position
	live map[*subscription]struct{}
}

// openStreams finds the ends of the event topics and follows them from there.
func (a *App) openStreams(ctx context.Context, wg *sync.WaitGroup) (*streams, error) {
	s := &streams{a: a, decode: codecs.NewReader(a.registry), topics: map[string]string{}, at: position{}, live: map[*subscription]struct{}{}}
	for _, d := range a.opts.Domains {
		topic := topology.Events(d.Name)
		ends, err := a.engine.EndOffsets(ctx, topic)
		if err != nil {
			return nil, err
		}
		s.topics[topic], s.at[topic] = d.Name, ends
	}
	for topic := range s.topics {
		wg.Go(func() { s.follow(ctx, topic) })
	}
	return s, nil
}

// follow passes the events of one topic on to whoever listens.
func (s *streams) follow(ctx context.Context, topic string) {
	for ctx.Err() == nil {
		s.mu.Lock()
		from := engine.Offsets(maps.Clone(s.at[topic]))
		s.mu.Unlock()
		err := s.a.engine.Tail(ctx, topic, from, func(r engine.Record) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.at[topic][r.Partition] = r.Offset + 1
			if len(s.live) == 0 {
				return nil
			}
			e := s.event(topic, r)
			if e == nil {
				return nil
			}
			e.Position = s.at.token()
			for sub := range s.live {
				select {
				case sub.events <- *e:
				default:
					// It does not keep up; it can resume where it stood.
					delete(s.live, sub)
					sub.end(errTooSlow)
				}
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		s.a.opts.Log.Warn("public events are followed again", "topic", topic, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

var errTooSlow = failure.New(failure.Transient, "stream events", "", "the reader does not keep up; resume with Last-Event-ID")

// event makes a stream event of a record; nil if it cannot be read, which is
// logged.
func (s *streams) event(topic string, r engine.Record) *api.StreamEvent {
	decoded, err := s.decode.Decode(r.Value)
	if err != nil {
		s.a.opts.Log.Warn("a public event could not be read", "topic", topic, "partition", r.Partition, "offset", r.Offset, "error", err)
		return nil
	}
	ce := map[string]any{"datacontenttype": "application/json", "data": decoded.Data}
	for name, v := range r.Headers {
		if attribute, ok := strings.CutPrefix(name, "ce_"); ok {
			ce[attribute] = string(v)
		}
	}
	b, err := json.Marshal(ce)
	if err != nil {
		s.a.opts.Log.Warn("a public event has no JSON form", "topic", topic, "partition", r.Partition, "offset", r.Offset, "error", err)
		return nil
	}
	key, _ := canonical.ParseEntityKey(string(r.Key))
	full := string(r.Headers[codecs.HeaderType])
	return &api.StreamEvent{
		Type: full[strings.LastIndexByte(full, '.')+1:], Domain: s.topics[topic], Resource: key.Resource, ID: key.ID, CloudEvent: b,
	}
}

// Subscribe begins behind a position, or now if it is empty.
func (s *streams) Subscribe(ctx context.Context, after string) (api.EventSubscription, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	sub := &subscription{streams: s, events: make(chan api.StreamEvent, 1024), ended: ctx, cancel: cancel}
	if after == "" {
		s.mu.Lock()
		s.live[sub] = struct{}{}
		s.mu.Unlock()
		return sub, nil
	}
	at, err := parsePosition(after)
	if err != nil {
		cancel(err)
		return nil, err
	}
	s.mu.Lock()
	now := s.at.clone()
	s.mu.Unlock()
	for topic := range s.topics {
		if at[topic] == nil {
			at[topic] = now[topic] // a domain that was not there at the time
		}
	}
	var mu sync.Mutex
	for topic := range s.topics {
		from := engine.Offsets(maps.Clone(at[topic]))
		go func() {
			err := s.a.engine.Tail(ctx, topic, from, func(r engine.Record) error {
				mu.Lock()
				at[topic][r.Partition] = r.Offset + 1
				token := at.token()
				mu.Unlock()
				e := s.event(topic, r)
				if e == nil {
					return nil
				}
				e.Position = token
				select {
				case sub.events <- *e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			if err != nil && ctx.Err() == nil {
				sub.end(failure.Wrap(failure.Transient, "stream events", topic, err))
			}
		}()
	}
	return sub, nil
}

// subscription is one reader's place.
type subscription struct {
	streams *streams
	events  chan api.StreamEvent
	ended   context.Context
	cancel  context.CancelCauseFunc
}

func (s *subscription) end(err error) { s.cancel(err) }

// Next waits for the next event, or the end of ctx.
func (s *subscription) Next(ctx context.Context) (api.StreamEvent, error) {
	select {
	case e := <-s.events:
		return e, nil
	default:
	}
	select {
	case e := <-s.events:
		return e, nil
	case <-ctx.Done():
		return api.StreamEvent{}, ctx.Err()
	case <-s.ended.Done():
		return api.StreamEvent{}, context.Cause(s.ended)
	}
}

// Close ends the subscription.
func (s *subscription) Close() {
	s.streams.mu.Lock()
	delete(s.streams.live, s)
	s.streams.mu.Unlock()
	s.cancel(errors.New("closed"))
}
