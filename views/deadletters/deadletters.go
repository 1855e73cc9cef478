// Package deadletters is the read model of the records that failed: which, why,
// how often, and which letter is the latest of a record that failed again.
//
// It knows nothing of what was done about a letter: who redrives keeps that.
// It does not hold the records themselves: they stay in the topic.
//
// The store of one partition holds
//
//	l/<time, descending>/<partition>/<offset, descending>   the letter
//	o/<group>/<input position>                              key of its latest letter
package deadletters

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/topology"
	"github.com/touchstone-platform/touchstone/views"
)

// The headers of a dead letter that are read here; the engine writes them.
const (
	headerTopic     = "__connect.errors.topic"
	headerPartition = "__connect.errors.partition"
	headerOffset    = "__connect.errors.offset"
	headerGroup     = "__connect.errors.connector.name"
	headerStage     = "__connect.errors.stage"
	headerMessage   = "__connect.errors.exception.message"
	headerKind      = "touchstone.failure.kind"
	headerAttempt   = "touchstone.failure.attempt"
	headerAt        = "touchstone.failure.at"
	headerStation   = "touchstone.station"
	headerSource    = "touchstone.source"
	headerPrevious  = "touchstone.redrive"
	headerReplay    = "touchstone.replay"
)

// Letter is one dead letter without the record itself.
type Letter struct {
	// ID is "<domain>:<partition>:<offset>" of the letter in its topic.
	ID      string `json:"id"`
	Domain  string `json:"domain"`
	Station string `json:"station"`
	Group   string `json:"group"`
	// Reason is the kind of the failure; Message its text, cut.
	Reason  failure.Kind `json:"reason"`
	Message string       `json:"message"`
	Stage   string       `json:"stage,omitempty"`
	// Source of the delivery; empty if the record does not tell.
	Source string    `json:"source,omitempty"`
	Key    string    `json:"key"`
	At     time.Time `json:"at"`
	// Attempt counts how often the step was tried, this time included.
	Attempt int `json:"attempt"`
	// Topic, Partition and Offset are of the record that failed.
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Bytes     int    `json:"bytes"`
	// Previous is the letter that was redriven and became this one, Next the
	// latest letter of the same record, if this is not it.
	Previous string `json:"previous,omitempty"`
	Next     string `json:"next,omitempty"`
	// Replay that the record failed in; empty if it was none.
	Replay string `json:"replay,omitempty"`
}

// maxMessage bounds the text of a failure in the store, in bytes; the letter
// itself has more of it.
const maxMessage = 500

// Source finds the source that a record of a topic speaks of; "" if it tells
// none or cannot be read.
type Source func(topic string, value []byte) string

// View follows the dead letters of one domain.
type View struct {
	domain string
	source Source
}

var _ views.View = (*View)(nil)

// New makes the view of a domain's dead letters.
func New(domain string, source Source) *View { return &View{domain: domain, source: source} }

// Name is "<domain>.deadletters".
func (v *View) Name() string { return v.domain + ".deadletters" }

// Topic is the domain's dead letters.
func (v *View) Topic() string { return topology.DeadLetters(v.domain) }

// Layout identifies the form of the store; another one has to be rebuilt.
func (v *View) Layout() string { return "deadletters1" }

// Apply takes in one letter.
func (v *View) Apply(s views.Store, r views.Record) error {
	var h map[string][]byte
	if r.Headers != nil {
		h = r.Headers()
	}
	l, err := Read(v.domain, r.Partition, r.Offset, r.Key, r.Value, h)
	if err != nil {
		return err
	}
	if l.Source == "" {
		l.Source = v.source(l.Topic, r.Value)
	}
	if len(l.Message) > maxMessage {
		l.Message = strings.ToValidUTF8(l.Message[:maxMessage-3], "") + "..."
	}
	key, origin := rowKey(l, r), fmt.Sprintf("o/%s/%s/%d/%d", l.Group, l.Topic, l.Partition, l.Offset)
	before, err := s.Get(origin)
	if err != nil {
		return err
	}
	if before != nil && string(before) != key {
		if err := v.supersede(s, string(before), l.ID); err != nil {
			return err
		}
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := s.Set(key, b); err != nil {
		return err
	}
	return s.Set(origin, []byte(key))
}

// rowKey sorts letters from the newest to the oldest.
func rowKey(l *Letter, r views.Record) string {
	return fmt.Sprintf("l/%010d/%05d/%019d", math.MaxUint32-min(max(l.At.Unix(), 0), math.MaxUint32), r.Partition, math.MaxInt64-r.Offset)
}

// supersede says in an older letter which one is the latest.
func (v *View) supersede(s views.Store, key, next string) error {
	b, err := s.Get(key)
	if err != nil || b == nil {
		return err
	}
	var l Letter
	if err := json.Unmarshal(b, &l); err != nil {
		return fmt.Errorf("stored letter: %w", err)
	}
	if l.ID == next {
		return nil
	}
	l.Next = next
	if b, err = json.Marshal(l); err != nil {
		return err
	}
	return s.Set(key, b)
}

// Read reads what a dead letter tells of itself.
func Read(domain string, partition int32, offset int64, key string, value []byte, h map[string][]byte) (*Letter, error) {
	l := &Letter{
		ID:     journal.ID{Domain: domain, Partition: partition, Offset: offset}.String(),
		Domain: domain, Station: string(h[headerStation]), Group: string(h[headerGroup]),
		Reason: failure.Kind(h[headerKind]), Message: string(h[headerMessage]), Stage: string(h[headerStage]), Source: string(h[headerSource]),
		Key: key, Topic: string(h[headerTopic]), Bytes: len(value), Previous: string(h[headerPrevious]), Replay: string(h[headerReplay]), Attempt: 1,
	}
	p, perr := strconv.ParseInt(string(h[headerPartition]), 10, 32)
	o, oerr := strconv.ParseInt(string(h[headerOffset]), 10, 64)
	at, terr := time.Parse(time.RFC3339, string(h[headerAt]))
	if l.Topic == "" || l.Group == "" || perr != nil || oerr != nil || terr != nil {
		return nil, fmt.Errorf("%s: partition %d offset %d: headers do not tell where and when it failed; expected %s, %s, %s, %s and %s",
			topology.DeadLetters(domain), partition, offset, headerTopic, headerPartition, headerOffset, headerGroup, headerAt)
	}
	l.Partition, l.Offset, l.At = int32(p), o, at
	if n, err := strconv.Atoi(string(h[headerAttempt])); err == nil && n > 0 {
		l.Attempt = n
	}
	return l, nil
}

// Query selects letters; empty members select all.
type Query struct {
	Reason               failure.Kind
	Station, Source, Key string
}

func (q Query) takes(l *Letter) bool {
	return (q.Reason == "" || q.Reason == l.Reason) && (q.Station == "" || q.Station == l.Station) &&
		(q.Source == "" || q.Source == l.Source) && (q.Key == "" || q.Key == l.Key)
}

// Reader answers queries from the view. It is safe for concurrent use.
type Reader struct{ from views.Reader }

// Reader reads what the engine keeps of the view.
func (v *View) Reader(from views.Reader) *Reader { return &Reader{from} }

// Changed gives a channel that is closed at the next update of the view.
func (r *Reader) Changed() <-chan struct{} { return r.from.Changed() }

// List calls fn for the letters of a query, the newest first, beginning behind
// the cursor ("" is the first), with the cursor of each, until fn gives false.
func (r *Reader) List(q Query, after string, fn func(l *Letter, cursor string) bool) error {
	var failed error
	err := r.from.Scan("l/", after, func(key string, value []byte) bool {
		l := &Letter{}
		if failed = json.Unmarshal(value, l); failed != nil {
			failed = failure.Wrap(failure.Poison, "read dead letter", key, failed)
			return false
		}
		return !q.takes(l) || fn(l, key)
	})
	if err != nil {
		return failure.Wrap(failure.Transient, "list dead letters", "", err)
	}
	return failed
}

// Latest gives the id of the latest letter of the record that a letter is of;
// "" if the view does not know it yet.
func (r *Reader) Latest(l *Letter) (string, error) {
	origin, latest := fmt.Sprintf("o/%s/%s/%d/%d", l.Group, l.Topic, l.Partition, l.Offset), ""
	err := r.from.Scan(origin, "", func(key string, value []byte) bool {
		if key != origin {
			return false
		}
		// l/<time>/<partition>/<descending offset>
		parts := strings.Split(string(value), "/")
		p, perr := strconv.ParseInt(parts[len(parts)-2], 10, 32)
		o, oerr := strconv.ParseInt(parts[len(parts)-1], 10, 64)
		if perr == nil && oerr == nil {
			latest = journal.ID{Domain: l.Domain, Partition: int32(p), Offset: math.MaxInt64 - o}.String()
		}
		return false
	})
	if err != nil {
		return "", failure.Wrap(failure.Transient, "read dead letter", l.ID, err)
	}
	return latest, nil
}
