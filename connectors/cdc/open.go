package cdc

import (
	"fmt"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Source is change data capture opened for one source.
type Source struct {
	name        string
	topics      []string
	maxwell     bool
	tables      map[string]bool // nil follows all
	key         []string
	keep        []string // lower case
	unavailable placeholder
	maxDepth    int
}

// Open checks the settings of a source. It needs no secrets.
func (Kind) Open(src *definition.Source, _ connectors.Secrets) (connectors.Connector, error) {
	r := settings.Read(src.Settings)
	s := &Source{
		name:        src.Name,
		topics:      r.Strings("topics"),
		maxwell:     r.Choice("format", "debezium", "debezium", "maxwell") == "maxwell",
		key:         r.Strings("key"),
		unavailable: newPlaceholder(r.String("unavailable", "__debezium_unavailable_value")),
		maxDepth:    int(r.Int("maxDepth", connectors.DefaultDepth, 1, 512)),
	}
	for i, t := range s.topics {
		if !topicName(t) {
			r.Wrong(fmt.Sprintf("topics[%d]", i), t, "a Kafka topic: letters, digits, '.', '_' and '-', at most 249")
		}
	}
	if tables := r.Strings("tables"); len(tables) > 0 {
		s.tables = map[string]bool{}
		for _, t := range tables {
			s.tables[t] = true
		}
	}
	for i, h := range r.Strings("keepHeaders") {
		if h != "" && connectors.Credential(h) {
			r.Wrong(fmt.Sprintf("keepHeaders[%d]", i), h, "a header that carries no credential: the journal is read by many")
		}
		s.keep = append(s.keep, strings.ToLower(h))
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

func topicName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '.' && c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != "" && len(s) <= 249 && s != "." && s != ".."
}

// Topics that the source follows; none if it is fed from files only.
func (s *Source) Topics() []string { return s.topics }

// Decode gives the record of a change; none for a tombstone, for what is no
// change of a row (truncation, logical messages, transaction markers, schema
// changes, heartbeats) and for tables that are not followed. What cannot be
// read is a failure of kind Validation.
func (s *Source) Decode(e *journal.Entry) ([]connectors.Record, error) {
	if e.NoBody {
		return nil, nil
	}
	c, err := s.parse(e.Key, e.Body)
	if err != nil {
		return nil, failure.Wrap(failure.Validation, "decode change", "source "+s.name, err)
	}
	if c == nil || !s.follows(c) {
		return nil, nil
	}
	return []connectors.Record{c.record()}, nil
}

// Volatile gives the times at which a change was sent, which differ when the
// capture sends it again after a restart. They count where nothing else tells
// two changes apart: a change that is taken for a copy is lost, a copy that is
// taken for a change does no harm.
func (s *Source) Volatile(e *journal.Entry) []string {
	if e.VendorID == "" || s.maxwell {
		return nil
	}
	return volatile
}

var volatile = []string{
	"/ts_ms", "/ts_us", "/ts_ns", "/source/version",
	"/payload/ts_ms", "/payload/ts_us", "/payload/ts_ns", "/payload/source/version",
}

func (s *Source) follows(c *change) bool {
	if s.tables == nil {
		return true
	}
	for _, name := range []string{c.table, c.schema + "." + c.table, c.db + "." + c.table, c.db + "." + c.schema + "." + c.table} {
		if s.tables[name] {
			return true
		}
	}
	return false
}

func (s *Source) parse(key, value []byte) (*change, error) {
	if len(value) > 0 && value[0] == 0 {
		return nil, fmt.Errorf("found bytes in the Confluent wire format (they start with 0x00), expected JSON; the capture must use the JSON converter")
	}
	v, err := connectors.DecodeJSONNumbers(value, s.maxDepth)
	if err != nil {
		return nil, err
	}
	if s.maxwell {
		return s.parseMaxwell(v)
	}
	return s.parseDebezium(key, v)
}
