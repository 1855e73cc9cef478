package engine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// keyspace is the part of the Pebble folder that one partition of one table or
// view has for itself:
//
//	<kind> <name> 0x00 <partition, 4 bytes big endian> 'd' <key>  → value
//	<kind> <name> 0x00 <partition, 4 bytes big endian> 'm'        → mark
//	<kind> <name> 0x00 <partition, 4 bytes big endian> 'i' <term, 8 bytes> <key>
//	<kind> <name> 0x00 <partition, 4 bytes big endian> 'w' <due, 8 bytes> <key>
//
// A name has no zero byte, so that no keyspace is a prefix of another.
type keyspace string

const (
	kindTable = 't'
	kindView  = 'v'
	partData  = 'd'
	partMark  = 'm'
	partIndex = 'i'
	partWake  = 'w'
)

func newKeyspace(kind byte, name string, partition int32) keyspace {
	b := append([]byte{kind}, name...)
	b = append(b, 0)
	return keyspace(binary.BigEndian.AppendUint32(b, uint32(partition)))
}

// appendKey appends the Pebble key of k to b.
func (ks keyspace) appendKey(b []byte, k string) []byte { return appendEntryKey(b, ks, k) }

func appendEntryKey[K string | []byte](b []byte, ks keyspace, k K) []byte {
	b = append(b, ks...)
	b = append(b, partData)
	return append(b, k...)
}

func (ks keyspace) markKey() []byte { return append([]byte(ks), partMark) }

// userKey is the key below which a Pebble key is kept here.
func (ks keyspace) userKey(b []byte) []byte { return b[len(ks)+1:] }

// bounds of the Pebble keys whose user key has the prefix.
func (ks keyspace) bounds(prefix string) (lower, upper []byte) {
	lower = ks.appendKey(nil, prefix)
	return lower, successor(lower)
}

// successor is the smallest byte string greater than everything that has the
// prefix p; nil if there is none.
func successor(p []byte) []byte {
	s := append([]byte(nil), p...)
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != 0xff {
			s[i]++
			return s[:i+1]
		}
	}
	return nil
}

// get reads a value as committed; nil if there is none. The result is the
// caller's.
func (ks keyspace) get(db pebble.Reader, k string) ([]byte, error) {
	var buf [160]byte
	v, closer, err := db.Get(ks.appendKey(buf[:0], k))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read local state of %q: %w", k, err)
	}
	out := make([]byte, len(v))
	copy(out, v)
	return out, closer.Close()
}

// put adds a write to a batch; a nil value deletes.
func (ks keyspace) put(b *pebble.Batch, k string, v []byte) error { return putEntry(ks, b, k, v) }

// putBytes is put of a key as a record has it.
func (ks keyspace) putBytes(b *pebble.Batch, k, v []byte) error { return putEntry(ks, b, k, v) }

func putEntry[K string | []byte](ks keyspace, b *pebble.Batch, k K, v []byte) error {
	n := len(ks) + 1 + len(k)
	if v == nil {
		op := b.DeleteDeferred(n)
		appendEntryKey(op.Key[:0], ks, k)
		return op.Finish()
	}
	op := b.SetDeferred(n, len(v))
	appendEntryKey(op.Key[:0], ks, k)
	copy(op.Value, v)
	return op.Finish()
}

// wipe adds the deletion of the whole keyspace to a batch.
func (ks keyspace) wipe(b *pebble.Batch) error {
	return b.DeleteRange([]byte(ks), successor([]byte(ks)), nil)
}

// mark says which log a keyspace is the image of, and up to where.
type mark struct {
	// topic is the id that Kafka gave the topic; a recreated topic has another.
	topic [16]byte
	// layout is a hash of the layout that a view, or a table's index, is written
	// by; 0 for what has none.
	layout uint64
	// offset of the last record taken in; -1 if none was.
	offset int64
}

const markVersion = 2

func (ks keyspace) readMark(db pebble.Reader) (m mark, found bool, err error) {
	v, closer, err := db.Get(ks.markKey())
	if errors.Is(err, pebble.ErrNotFound) {
		return mark{offset: -1}, false, nil
	}
	if err != nil {
		return mark{}, false, fmt.Errorf("read offset of local state: %w", err)
	}
	defer closer.Close()
	if len(v) != 33 || v[0] != markVersion {
		// Written by another version of the program: as good as absent.
		return mark{offset: -1}, false, nil
	}
	copy(m.topic[:], v[1:17])
	m.layout = binary.BigEndian.Uint64(v[17:])
	m.offset = int64(binary.BigEndian.Uint64(v[25:]))
	return m, true, nil
}

func (ks keyspace) putMark(b *pebble.Batch, m mark) error {
	v := append([]byte{markVersion}, m.topic[:]...)
	v = binary.BigEndian.AppendUint64(v, m.layout)
	return b.Set(ks.markKey(), binary.BigEndian.AppendUint64(v, uint64(m.offset)), nil)
}
