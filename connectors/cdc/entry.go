package cdc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Entry makes the journal entry of one Kafka record: ContentType, Headers,
// Key, Body, NoBody and VendorID are set, the rest is the caller's. A record
// that cannot be read gives an entry too: it is journaled, and fails when it
// is decoded.
func (s *Source) Entry(key, value []byte, tombstone bool, headers map[string]string) *journal.Entry {
	e := &journal.Entry{ContentType: "application/json", Headers: map[string]string{}, Key: key, Body: value, NoBody: tombstone}
	for name, v := range headers {
		name = strings.ToLower(name)
		if slices.Contains(s.keep, name) && len(v) <= connectors.MaxHeaderValue {
			e.Headers[name] = strings.ToValidUTF8(v, "\ufffd")
		}
	}
	if tombstone {
		e.Body = nil
		return e
	}
	if c, err := s.parse(key, value); err == nil && c != nil {
		e.VendorID = c.vendorID()
	}
	return e
}

// MaxLine is the longest line of a file of changes, in bytes.
const MaxLine = 16 << 20

// Entries reads a file of changes in JSON Lines and gives the entry of each.
// A line is a value as Kafka would carry it, or {"key": ..., "value": ...}
// (headers, topic, partition, offset and timestamp may stand beside them); a
// value of null is a tombstone. Blank lines are skipped. Reading stops at the
// first error of fn, which is returned, and at a line longer than MaxLine.
func (s *Source) Entries(r io.Reader, fn func(line int64, e *journal.Entry) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
	n := int64(0)
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) == 0 {
			continue
		}
		if err := fn(n, s.lineEntry(bytes.Clone(line))); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return failure.New(failure.Validation, "read changes", fmt.Sprintf("line %d", n+1), "longer than %d bytes", MaxLine)
	} else if err != nil {
		return fmt.Errorf("read changes after line %d: %w", n, err)
	}
	return nil
}

func (s *Source) lineEntry(line []byte) *journal.Entry {
	if bytes.Equal(line, []byte("null")) {
		return s.Entry(nil, nil, true, nil)
	}
	var pair struct {
		Key, Value json.RawMessage
		Headers    map[string]string
	}
	if !isPair(line) || json.Unmarshal(line, &pair) != nil {
		return s.Entry(nil, line, false, nil)
	}
	value := embedded(pair.Value)
	return s.Entry(embedded(pair.Key), value, value == nil, pair.Headers)
}

// isPair tells a record of key and value from a value.
func isPair(line []byte) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal(line, &m) != nil || m["value"] == nil {
		return false
	}
	for name := range maps.Keys(m) {
		if !slices.Contains([]string{"key", "value", "headers", "topic", "partition", "offset", "timestamp"}, name) {
			return false
		}
	}
	return true
}

// embedded gives the bytes that Kafka would carry: nil for null, the content
// of a string (tools print records so), else the JSON itself.
func embedded(raw json.RawMessage) []byte {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	var s string
	if raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return []byte(s)
	}
	return bytes.Clone(raw)
}
