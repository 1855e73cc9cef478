package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// Identify sets the entry's BodyHash and DedupeKey.
//
// The hash is SHA-256 over the record key and the content that copies share:
// the canonical JSON (RFC 8785, see package jcs) of the body without the
// volatile paths where the body is JSON, else the bytes of the body. The
// dedupe key is "<tenant>/<source>/id/<vendor id>" where the sender has an
// event id of its own, else "<tenant>/<source>/sha256/<hash>".
//
// volatile holds JSON pointers (RFC 6901); a reference token "*" stands for
// every item of an array and every member of an object. Pointers that lead
// nowhere are skipped.
func (e *Entry) Identify(volatile []string) {
	e.BodyHash = contentHash(e.Key, e.Body, e.NoBody, volatile)
	if e.VendorID != "" {
		e.DedupeKey = e.Tenant + "/" + e.Source + "/id/" + e.VendorID
		return
	}
	e.DedupeKey = e.Tenant + "/" + e.Source + "/sha256/" + e.BodyHash
}

func contentHash(key, body []byte, noBody bool, volatile []string) string {
	content := body
	if c, ok := canonicalWithout(body, volatile); ok {
		content = c
	}
	h := sha256.New()
	// The lengths keep (key, body) pairs apart whose concatenation is equal,
	// and a tombstone from an empty body.
	var prefix [9]byte
	binary.BigEndian.PutUint64(prefix[:8], uint64(len(key)))
	if noBody {
		prefix[8] = 1
	}
	h.Write(prefix[:])
	h.Write(key)
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}

// canonicalWithout gives the canonical JSON of body without the paths. It is
// not ok if body is no JSON object or array: a bare scalar has no form to
// normalise.
func canonicalWithout(body []byte, paths []string) ([]byte, bool) {
	t := bytes.TrimLeft(body, " \t\r\n")
	if len(t) == 0 || t[0] != '{' && t[0] != '[' {
		return nil, false
	}
	v, err := exact.Parse(body)
	if err != nil {
		return nil, false
	}
	for _, p := range paths {
		if tokens, ok := pointer(p); ok {
			v = without(v, tokens)
		}
	}
	c, err := jcs.Append(nil, v)
	return c, err == nil
}

// exact reads what is hashed. Numbers that a double does not hold to the last
// digit keep their spelling: two deliveries that differ in such a digit alone
// are not copies of each other, and the second must not be dropped.
var exact = jcs.Parser{MaxDepth: jcs.MaxDepth, Unique: true, Number: func(literal string) (any, error) {
	n := jcs.Number(literal)
	if f, ok := n.(float64); ok && digits(literal) != digits(strconv.FormatFloat(f, 'e', -1, 64)) || n == nil {
		return json.Number(literal), nil
	}
	return n, nil
}}

// digits gives the significant digits of a number's literal.
func digits(literal string) string {
	mantissa := literal
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		mantissa = literal[:i]
	}
	return strings.Trim(strings.Replace(strings.TrimPrefix(mantissa, "-"), ".", "", 1), "0")
}

// pointer splits a JSON pointer into its reference tokens.
func pointer(p string) ([]string, bool) {
	if p == "" || p[0] != '/' {
		return nil, false
	}
	tokens := strings.Split(p[1:], "/")
	for i, t := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return tokens, true
}

func without(v any, tokens []string) any {
	if len(tokens) == 0 {
		return v
	}
	last := len(tokens) == 1
	switch x := v.(type) {
	case map[string]any:
		for name, member := range x {
			if tokens[0] != name && tokens[0] != "*" {
				continue
			}
			if last {
				delete(x, name)
			} else {
				x[name] = without(member, tokens[1:])
			}
		}
	case []any:
		for i, item := range x {
			if tokens[0] != strconv.Itoa(i) && tokens[0] != "*" {
				continue
			}
			if last {
				x[i] = nil // the other items keep their places
			} else {
				x[i] = without(item, tokens[1:])
			}
		}
	}
	return v
}
