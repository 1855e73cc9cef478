package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Local says what a data folder holds of one partition of a table or view.
type Local struct {
	// View tells a view from a table.
	View bool
	// Name of the view, or the table's topic.
	Name      string
	Partition int32
	// Topic is the id of the topic that this is the image of.
	Topic [16]byte
	// Offset of the last record of that topic which is taken in; -1 if none is.
	Offset int64
}

// InspectDir looks into the Pebble folder of an engine that is not running,
// without changing it: it lists what is there and gives each key and value to
// visit, which must not keep the value. Keys without the note up to where they
// are whole, which there must never be, come with the offset -1. An index that
// does not have exactly what the values say is an error.
func InspectDir(dir string, visit func(l Local, key string, value []byte) error) (found []Local, err error) {
	db, err := pebble.Open(dir, &pebble.Options{ReadOnly: true, FS: vfs.Default, Logger: pebbleLogger{slog.New(slog.DiscardHandler)}})
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	it, err := db.NewIter(nil)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var last keyspace
	var l Local
	var layout uint64
	terms, entries := 0, 0
	for ok := it.First(); ok; ok = it.Next() {
		ks, part, ok := splitKey(it.Key())
		if !ok {
			return nil, fmt.Errorf("inspect %s: key %q, expected one of a keyspace", dir, it.Key())
		}
		if ks != last {
			m, _, err := ks.readMark(db)
			if err != nil {
				return nil, fmt.Errorf("inspect %s: %w", dir, err)
			}
			last, layout = ks, m.layout
			name, partition := ks.split()
			l = Local{View: ks[0] == kindView, Name: name, Partition: partition, Topic: m.topic, Offset: m.offset}
			found = append(found, l)
		}
		if part != partData {
			if part == partIndex || part == partWake {
				entries++
			}
			continue
		}
		v, err := it.ValueAndErr()
		if err == nil && ks[0] == kindTable && layout != 0 {
			var n int
			n, v, err = ks.indexed(db, string(ks.userKey(it.Key())), v)
			terms += n
		}
		if err == nil {
			err = visit(l, string(ks.userKey(it.Key())), v)
		}
		if err != nil {
			return nil, fmt.Errorf("inspect %s: %w", dir, err)
		}
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", dir, err)
	}
	if terms != entries {
		return nil, fmt.Errorf("inspect %s: the indexes have %d entries, expected %d", dir, entries, terms)
	}
	return found, nil
}

// indexed gives the value of an entry of a table with an index, after a look
// whether the index has what the entry says. The first term may be the time at
// which the entry is to be woken.
func (ks keyspace) indexed(db pebble.Reader, key string, b []byte) (terms int, value []byte, err error) {
	ts, value, err := splitTerms(b)
	if err == nil && len(ts) > 0 {
		due, rest := dueOf(ts)
		_, closer, missing := db.Get(ks.appendWakeKey(nil, due, key))
		switch {
		case missing == nil:
			terms, ts, err = 1, rest, closer.Close()
		case due == 0: // never
			ts = rest
		}
	}
	for _, t := range ts {
		if err == nil {
			_, closer, missing := db.Get(ks.appendTermKey(nil, t, key))
			if missing != nil {
				return 0, nil, fmt.Errorf("key %q is not in the index under the term %x: %w", key, t, missing)
			}
			err = closer.Close()
		}
	}
	return terms + len(ts), value, err
}

// splitKey gives the keyspace of a Pebble key, and which part of it the key is of.
func splitKey(k []byte) (ks keyspace, part byte, ok bool) {
	zero := bytes.IndexByte(k, 0)
	if zero < 1 || len(k) < zero+6 || k[0] != kindTable && k[0] != kindView {
		return "", 0, false
	}
	part = k[zero+5]
	return keyspace(k[:zero+5]), part, part == partData || part == partMark || part == partIndex || part == partWake
}

// split gives the name and the partition of a keyspace.
func (ks keyspace) split() (name string, partition int32) {
	b := []byte(ks)
	return string(b[1 : len(b)-5]), int32(binary.BigEndian.Uint32(b[len(b)-4:]))
}
