package engine

import (
	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// headerSlab turns franz-go's headers into Sarama's with few allocations: the
// names of headers repeat, and the headers of many records share memory.
type headerSlab struct {
	names   map[string][]byte
	headers []sarama.RecordHeader
	ptrs    []*sarama.RecordHeader
}

const (
	maxHeaderNames = 1024 // a sender may make them up
	headerChunk    = 1024
)

func (s *headerSlab) convert(hs []kgo.RecordHeader) []*sarama.RecordHeader {
	if len(hs) == 0 {
		return nil
	}
	if len(s.headers) < len(hs) {
		n := max(headerChunk, len(hs))
		s.headers, s.ptrs = make([]sarama.RecordHeader, n), make([]*sarama.RecordHeader, n)
	}
	out := s.ptrs[:len(hs):len(hs)]
	for i, h := range hs {
		name, ok := s.names[h.Key]
		if !ok {
			name = []byte(h.Key)
			if len(s.names) < maxHeaderNames {
				s.names[h.Key] = name
			}
		}
		s.headers[i] = sarama.RecordHeader{Key: name, Value: h.Value}
		out[i] = &s.headers[i]
	}
	s.headers, s.ptrs = s.headers[len(hs):], s.ptrs[len(hs):]
	return out
}
