package codecs

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// reader reads Avro's binary encoding into a Go value: each record has a function
// that goes over its fields in the order of the schema. It takes half the time
// of reading by reflection. See
// https://avro.apache.org/docs/1.12.0/specification/#binary-encoding.
//
// What is read shares one copy of the record's bytes: one allocation for all
// its texts. Words, which are texts of a small vocabulary such as the names of
// fields and sources, are shared between records.
type reader struct {
	in  string
	at  int
	err error
	// words seen, by a hash; what comes next takes the place.
	words [512]string
}

var errShort = errors.New("short buffer")

// fail notes what is wrong, and makes everything after it end at once.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: %w", r.at, err)
	}
	r.at = len(r.in)
}

// varint reads a zigzag-coded integer of at most 64 bits.
func (r *reader) varint() int64 {
	if r.at < len(r.in) && r.in[r.at] < 0x80 { // most are lengths
		u := r.in[r.at]
		r.at++
		return int64(u>>1) ^ -int64(u&1)
	}
	var u uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if r.at >= len(r.in) {
			r.fail(errShort)
			return 0
		}
		b := r.in[r.at]
		r.at++
		if shift == 63 && b > 1 {
			break
		}
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return int64(u>>1) ^ -int64(u&1)
		}
	}
	r.fail(errors.New("integer of more than 64 bits"))
	return 0
}

// span reads a length and so many bytes.
func (r *reader) span() string {
	n := r.varint()
	if n < 0 || n > int64(len(r.in)-r.at) {
		if r.err == nil {
			r.fail(fmt.Errorf("%w: a length of %d where %d bytes are left", errShort, n, len(r.in)-r.at))
		}
		return ""
	}
	s := r.in[r.at : r.at+int(n)]
	r.at += int(n)
	return s
}

func (r *reader) byte() byte {
	if r.at >= len(r.in) {
		r.fail(errShort)
		return 0
	}
	r.at++
	return r.in[r.at-1]
}

// readText is a string that is different in every record.
func readText[S ~string](r *reader, s *S) {
	*s = S(r.span())
}

// longestWord is the length above which a text is not looked for among words.
const longestWord = 40

// readWord is a string of a small vocabulary.
func readWord[S ~string](r *reader, s *S) {
	w := r.span()
	if n := len(w); n > 0 && n <= longestWord {
		h := uint32(2166136261) // FNV-1a
		for i := range n {
			h = (h ^ uint32(w[i])) * 16777619
		}
		h = (h ^ h>>15) % uint32(len(r.words))
		if r.words[h] != w {
			r.words[h] = strings.Clone(w)
		}
		w = r.words[h]
	}
	*s = S(w)
}

// readLong is a long, or a timestamp.
func readLong[I ~int64](r *reader, i *I) {
	*i = I(r.varint())
}

func readInt(r *reader, i *int32) {
	n := r.varint()
	if n < math.MinInt32 || n > math.MaxInt32 {
		r.fail(fmt.Errorf("%d is no int", n))
	}
	*i = int32(n)
}

// readBool takes any byte but 1 as false, as Java and the Avro library do.
func readBool(r *reader, v *bool) { *v = r.byte() == 1 }

func readDouble(r *reader, f *float64) {
	if len(r.in)-r.at < 8 {
		r.fail(errShort)
		return
	}
	var u uint64
	for i := range 8 {
		u |= uint64(r.in[r.at+i]) << (8 * i)
	}
	r.at += 8
	*f = math.Float64frombits(u)
}

func readBytes(r *reader, b *[]byte) {
	*b = []byte(r.span())
}

// readOptional is a union of null and something, in this order.
func readOptional[T any](r *reader, v **T, each func(*reader, *T)) {
	switch branch := r.varint(); branch {
	case 0:
		*v = nil
	case 1:
		*v = new(T)
		each(r, *v)
	default:
		r.fail(fmt.Errorf("branch %d of a union of two", branch))
	}
}

// block reads how many items follow in an array or map; 0 at its end. No item
// is shorter than a byte, which bounds what wrong bytes can ask for.
func (r *reader) block() int {
	n := r.varint()
	if n < 0 {
		r.varint() // the block's length in bytes, for those who skip it
		n = -n
	}
	if n < 0 || n > int64(len(r.in)-r.at) {
		r.fail(fmt.Errorf("%w: %d items where %d bytes are left", errShort, n, len(r.in)-r.at))
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// mostAtOnce bounds the memory that a count alone can ask for.
const mostAtOnce = 1024

func readList[T any](r *reader, s *[]T, each func(*reader, *T)) {
	var out []T
	for n := r.block(); n > 0; n = r.block() {
		if out == nil {
			out = make([]T, 0, min(n, mostAtOnce))
		}
		for ; n > 0 && r.err == nil; n-- {
			var zero T
			out = append(out, zero)
			each(r, &out[len(out)-1])
		}
	}
	*s = out
}

func readMap(r *reader, m *map[string]string) {
	*m = map[string]string{}
	for n := r.block(); n > 0; n = r.block() {
		for ; n > 0 && r.err == nil; n-- {
			var k, v string
			readWord(r, &k)
			readText(r, &v)
			(*m)[k] = v
		}
	}
}
