package file

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
)

// keptOfLong is how much of a row beyond the limit is kept, in bytes.
const keptOfLong = 4 << 10

// lines reads physical lines and hashes every byte on the way. A line that
// turned out not to belong to a record can be given back.
type lines struct {
	in      *bufio.Reader
	hash    hash.Hash
	bytes   int64
	max     int
	number  int64 // of the line given last
	back    []line
	first   bool
	foreign bool // the file starts with the mark of an encoding that is not read
}

// line is one physical line with its end.
type line struct {
	text   []byte
	number int64
	long   bool // longer than the limit; text is its beginning
}

func newLines(r io.Reader, limit int) *lines {
	return &lines{in: bufio.NewReaderSize(r, 64<<10), hash: sha256.New(), max: limit, first: true}
}

// next gives the next line; io.EOF after the last one.
func (l *lines) next() (line, error) {
	if n := len(l.back); n > 0 {
		top := l.back[n-1]
		l.back = l.back[:n-1]
		return top, nil
	}
	var out line
	for {
		chunk, err := l.in.ReadSlice('\n')
		l.hash.Write(chunk)
		l.bytes += int64(len(chunk))
		switch {
		case out.long:
		case len(out.text)+len(chunk) > l.max+2: // the line end does not count
			out.long = true
			out.text = append(out.text, chunk...)
			out.text = bytes.Clone(out.text[:min(len(out.text), keptOfLong)])
		default:
			out.text = append(out.text, chunk...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !(errors.Is(err, io.EOF) && len(out.text) > 0) {
			return line{}, err
		}
		break
	}
	if l.first {
		l.first = false
		out.text = bytes.TrimPrefix(out.text, []byte("\xef\xbb\xbf"))
		l.foreign = bytes.HasPrefix(out.text, []byte("\xff\xfe")) || bytes.HasPrefix(out.text, []byte("\xfe\xff"))
	}
	l.number++
	out.number = l.number
	return out, nil
}

// giveBack puts lines back, to be given again in the same order.
func (l *lines) giveBack(ls []line) {
	for i := len(ls) - 1; i >= 0; i-- {
		l.back = append(l.back, ls[i])
	}
}

// drain reads on to the end, for the hash.
func (l *lines) drain() error {
	n, err := io.Copy(l.hash, l.in)
	l.bytes += n
	return err
}

// trimEnd cuts the line end off.
func trimEnd(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r"))
}
