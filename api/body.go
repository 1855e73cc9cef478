package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// delivery reads the body of a delivery, decompressed, within the limits.
func (a *API) delivery(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := a.stream(w, r, a.Limits.Body)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, bodyError(err, a.Limits.Body)
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // see wrap
	if isJSON(r.Header.Get("Content-Type"), b) && deeper(b, a.Limits.Depth) {
		return nil, problem(http.StatusUnprocessableEntity, "too-deep", fmt.Sprintf("the body nests arrays and objects deeper than %d", a.Limits.Depth))
	}
	return b, nil
}

// stream gives a request's body as a reader that ends with a problem at the
// limit, counted before and after decompression.
func (a *API) stream(w http.ResponseWriter, r *http.Request, limit int64) (io.Reader, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	limited := io.Reader(http.MaxBytesReader(w, r.Body, limit))
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
		return limited, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(limited)
		if err != nil {
			return nil, bodyError(err, limit)
		}
		return &capped{from: z, left: limit, limit: limit}, nil
	default:
		p := problem(http.StatusUnsupportedMediaType, "unsupported-encoding", fmt.Sprintf("Content-Encoding: found %q, expected gzip or none", encoding))
		p.header = http.Header{"Accept-Encoding": {"gzip"}} // RFC 9110 §12.5.3, in answers
		return nil, p
	}
}

// capped refuses what decompresses to more than the limit, without
// decompressing more than one byte beyond it.
type capped struct {
	from        io.Reader
	left, limit int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left == 0 {
		var one [1]byte
		n, err := io.ReadFull(c.from, one[:])
		if n > 0 {
			return 0, tooLarge(c.limit)
		}
		return 0, err
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.from.Read(p)
	c.left -= int64(n)
	return n, err
}

// rolling moves the deadline of reading on with every piece that arrives, and
// tells errors of reading as problems, whoever reads.
type rolling struct {
	from    io.Reader
	control *http.ResponseController
	within  time.Duration
	limit   int64
}

func (r *rolling) Read(p []byte) (int, error) {
	_ = r.control.SetReadDeadline(time.Now().Add(r.within)) // a test's writer has none
	n, err := r.from.Read(p)
	if err != nil {
		_ = r.control.SetReadDeadline(time.Time{}) // see wrap
		if err != io.EOF {
			err = bodyError(err, r.limit)
		}
	}
	return n, err
}

func tooLarge(limit int64) *Problem {
	return problem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the body is larger than %d bytes, as sent or decompressed", limit))
}

// bodyError tells why a body could not be read.
func bodyError(err error, limit int64) error {
	var p *Problem
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &large):
		return tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return problem(http.StatusRequestTimeout, "slow-body", "the body did not arrive in time")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return problem(http.StatusBadRequest, "invalid-encoding", "the body is not the gzip data that Content-Encoding says")
	}
	return problem(http.StatusBadRequest, "broken-body", "the body could not be read to its end")
}

// isJSON tells whether a body is, or may be, read as JSON.
func isJSON(contentType string, body []byte) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	media = strings.TrimSpace(media)
	if media == "application/json" || strings.HasSuffix(media, "+json") {
		return true
	}
	// Senders forget the type, and connectors look at the body all the same.
	b := bytes.TrimLeft(body, " \t\r\n")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// deeper tells whether JSON nests deeper than the limit, without building
// anything. Of invalid JSON it tells how deep brackets nest outside strings.
func deeper(b []byte, limit int) bool {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString:
			if c == '\\' {
				i++
			} else if c == '"' {
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
