package engine

import (
	"encoding/binary"
	"hash"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Partition gives the partition of a key as Kafka's default partitioner does:
// murmur2 with its seed 0x9747b28c, sign bit cleared, modulo partitions. Every
// producer that keeps to it, in any language, puts a key in the same place.
func Partition(key string, partitions int) int32 {
	return int32((murmur2([]byte(key)) & 0x7fffffff) % uint32(partitions))
}

// murmur2 is MurmurHash2 by Austin Appleby as in
// org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(b []byte) uint32 {
	const m = 0x5bd1e995
	h := 0x9747b28c ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		k ^= k >> 24
		h = h*m ^ k*m
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// murmurHasher is the same as a hash.Hash32, the form that Goka takes it in:
// Goka takes the absolute value modulo partitions, hence the cleared sign bit.
type murmurHasher struct{ b []byte }

func newHasher() hash.Hash32 { return &murmurHasher{} }

func (h *murmurHasher) Write(p []byte) (int, error) { h.b = append(h.b, p...); return len(p), nil }
func (h *murmurHasher) Sum(b []byte) []byte         { return binary.BigEndian.AppendUint32(b, h.Sum32()) }
func (h *murmurHasher) Sum32() uint32               { return murmur2(h.b) & 0x7fffffff }
func (h *murmurHasher) Reset()                      { h.b = h.b[:0] }
func (h *murmurHasher) Size() int                   { return 4 }
func (h *murmurHasher) BlockSize() int              { return 4 }

// tablePartitioner partitions by key, but takes the partition of a changelog
// record as given: it is that of the input record.
type tablePartitioner struct {
	table string
	byKey kgo.Partitioner
}

func (p tablePartitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.table {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.byKey.ForTopic(topic)
}
