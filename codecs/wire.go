package codecs

import (
	"encoding/binary"

	"github.com/touchstone-platform/touchstone/domain/failure"
)

// The wire format of Confluent's serializers, version 0: a magic byte 0, the
// schema id as a big-endian 32-bit integer, then Avro's binary encoding.
const (
	magic      = 0
	headerSize = 5
)

// appendHeader appends the five bytes that precede the Avro data.
func appendHeader(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, magic), uint32(id))
}

// Unframe splits a framed value into schema id and Avro data, which still points
// into b. The error is a failure of kind Poison.
func Unframe(b []byte) (id int, data []byte, err error) {
	const op = "read Confluent wire format"
	if len(b) < headerSize {
		return 0, nil, failure.New(failure.Poison, op, "", "found %d bytes, expected at least %d: magic byte 0 and a 32-bit schema id", len(b), headerSize)
	}
	if b[0] != magic {
		return 0, nil, failure.New(failure.Poison, op, "", "found magic byte %#02x, expected 0x00", b[0])
	}
	n := binary.BigEndian.Uint32(b[1:headerSize])
	if n == 0 || n > 1<<31-1 {
		return 0, nil, failure.New(failure.Poison, op, "", "found schema id %d, expected 1 to 2147483647", n)
	}
	return int(n), b[headerSize:], nil
}
