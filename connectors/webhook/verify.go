package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxCandidates bounds the signatures in one header, and with them the work
// that an unauthenticated caller can cause.
const maxCandidates = 16

// verifier checks deliveries against the live secrets of a source.
type verifier struct {
	scheme    string
	read      func(http.Header) (claim, error)
	payload   []segment
	tolerance time.Duration
	secrets   []secret
}

// secret is a live key: an HMAC key, or an ed25519 public key.
type secret struct {
	name   string
	key    []byte
	public ed25519.PublicKey
}

// claim is what the headers of a delivery say about its signature.
type claim struct {
	id, timestamp string
	signatures    []candidate
}

// candidate is one signature that may be the right one.
type candidate struct {
	algorithm string // sha1, sha256, sha512, ed25519
	sum       []byte
}

// segment is a piece of the signed content: literal text or a placeholder.
type segment struct{ literal, placeholder string }

func parsePayload(template string) []segment {
	var out []segment
	at := 0
	for _, m := range placeholder.FindAllStringIndex(template, -1) {
		if m[0] > at {
			out = append(out, segment{literal: template[at:m[0]]})
		}
		out = append(out, segment{placeholder: template[m[0]:m[1]]})
		at = m[1]
	}
	if at < len(template) {
		out = append(out, segment{literal: template[at:]})
	}
	return out
}

// verify names the secret that signed the delivery. The error is fit for the
// caller's eyes: it tells what is wrong and never what would be right.
func (v *verifier) verify(h http.Header, body []byte, now time.Time) (string, error) {
	c, err := v.read(h)
	if err != nil {
		return "", err
	}
	if len(c.signatures) > maxCandidates {
		return "", fmt.Errorf("found %d signatures, expected at most %d", len(c.signatures), maxCandidates)
	}
	if c.timestamp != "" {
		if err := checkTime(c.timestamp, now, v.tolerance); err != nil {
			return "", err
		}
	}
	for _, s := range v.secrets {
		if v.matches(s, c, body) {
			return s.name, nil
		}
	}
	return "", fmt.Errorf("the signature matches none of the %d live secrets", len(v.secrets))
}

// matches tells whether any candidate was made with the secret. Sums are
// compared in constant time.
func (v *verifier) matches(s secret, c claim, body []byte) bool {
	sums := map[string][]byte{}
	for _, sig := range c.signatures {
		if sig.algorithm == "ed25519" {
			if s.public != nil && len(sig.sum) == ed25519.SignatureSize && ed25519.Verify(s.public, v.content(c, body), sig.sum) {
				return true
			}
			continue
		}
		if s.key == nil {
			continue
		}
		sum, ok := sums[sig.algorithm]
		if !ok {
			m := hmac.New(hashes[sig.algorithm], s.key)
			v.write(m, c, body)
			sum = m.Sum(nil)
			sums[sig.algorithm] = sum
		}
		if hmac.Equal(sum, sig.sum) {
			return true
		}
	}
	return false
}

var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

func (v *verifier) write(w hash.Hash, c claim, body []byte) {
	for _, s := range v.payload {
		switch s.placeholder {
		case "{body}":
			w.Write(body)
		case "{timestamp}":
			w.Write([]byte(c.timestamp))
		case "{id}":
			w.Write([]byte(c.id))
		default:
			w.Write([]byte(s.literal))
		}
	}
}

// content is what write writes, for ed25519, which signs the whole message.
func (v *verifier) content(c claim, body []byte) []byte {
	out := make([]byte, 0, len(body)+len(c.id)+len(c.timestamp)+8)
	for _, s := range v.payload {
		switch s.placeholder {
		case "{body}":
			out = append(out, body...)
		case "{timestamp}":
			out = append(out, c.timestamp...)
		case "{id}":
			out = append(out, c.id...)
		default:
			out = append(out, s.literal...)
		}
	}
	return out
}

// checkTime refuses a signed Unix time (seconds) that is further than the
// tolerance from now: a signature that was once seen must not stay good.
func checkTime(text string, now time.Time, tolerance time.Duration) error {
	if len(text) > 12 || strings.Trim(text, "0123456789") != "" {
		return fmt.Errorf("timestamp: found %.40q, expected Unix time in seconds", text)
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("timestamp: found %.40q, expected Unix time in seconds", text)
	}
	// In seconds: as a Duration, a time far off would overflow into tolerance.
	age, limit := now.Unix()-sec, int64(tolerance/time.Second)
	switch {
	case age > limit:
		return fmt.Errorf("timestamp %d is %d s old, more than the tolerance of %v", sec, age, tolerance)
	case -age > limit:
		return fmt.Errorf("timestamp %d lies %d s in the future, more than the tolerance of %v", sec, -age, tolerance)
	}
	return nil
}

// single gives the one value of a header. A header that occurs twice is
// refused: which of the two a proxy or a sender meant cannot be told.
func single(h http.Header, name string) (string, error) {
	switch v := h.Values(name); {
	case len(v) == 0 || len(v) == 1 && v[0] == "":
		return "", fmt.Errorf("header %s is missing", name)
	case len(v) > 1:
		return "", fmt.Errorf("header %s occurs %d times, expected once", name, len(v))
	default:
		return v[0], nil
	}
}

func hexMAC(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, errors.New("not hexadecimal")
	}
	return b, nil
}

func base64MAC(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64")
	}
	return b, nil
}

// decodeMAC decodes one signature and checks its length.
func decodeMAC(name, text, algorithm string, decode func(string) ([]byte, error)) (candidate, error) {
	sum, err := decode(text)
	if err != nil {
		return candidate{}, fmt.Errorf("header %s: the signature is %w", name, err)
	}
	if size := hashes[algorithm]().Size(); len(sum) != size {
		return candidate{}, fmt.Errorf("header %s: the signature has %d bytes, expected the %d of %s", name, len(sum), size, algorithm)
	}
	return candidate{algorithm, sum}, nil
}

// headerClaim reads one signature from one header, and the signed time from
// another if it is named.
func headerClaim(name, prefix string, decode func(string) ([]byte, error), algorithm, timestampHeader string) func(http.Header) (claim, error) {
	return func(h http.Header) (c claim, err error) {
		text, err := single(h, name)
		if err != nil {
			return c, err
		}
		text, ok := strings.CutPrefix(text, prefix)
		if !ok {
			return c, fmt.Errorf("header %s: the signature does not start with %q", name, prefix)
		}
		if timestampHeader != "" {
			if c.timestamp, err = single(h, timestampHeader); err != nil {
				return c, err
			}
		}
		sig, err := decodeMAC(name, text, algorithm, decode)
		c.signatures = []candidate{sig}
		return c, err
	}
}

// githubClaim reads X-Hub-Signature-256, and if weak hashes are allowed the
// legacy X-Hub-Signature where the former is absent. While the strong header is
// there it alone counts, so that nobody can choose the weak one.
//
// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
func githubClaim(weak bool) func(http.Header) (claim, error) {
	strong := headerClaim("X-Hub-Signature-256", "sha256=", hexMAC, "sha256", "")
	return func(h http.Header) (c claim, err error) {
		const legacy = "X-Hub-Signature"
		if !weak || len(h.Values("X-Hub-Signature-256")) > 0 || len(h.Values(legacy)) == 0 {
			return strong(h)
		}
		text, err := single(h, legacy)
		if err != nil {
			return c, err
		}
		algorithm, sum, ok := strings.Cut(text, "=")
		if _, known := hashes[algorithm]; !ok || !known {
			return c, fmt.Errorf("header %s: the signature does not start with sha1=, sha256= or sha512=", legacy)
		}
		sig, err := decodeMAC(legacy, sum, algorithm, hexMAC)
		c.signatures = []candidate{sig}
		return c, err
	}
}

// stripeClaim reads "t=<seconds>,v1=<hex>[,v1=<hex>...]"; other items are for
// other versions of the scheme and do not count.
//
// https://docs.stripe.com/webhooks#verify-manually
func stripeClaim(h http.Header) (c claim, err error) {
	const name = "Stripe-Signature"
	text, err := single(h, name)
	if err != nil {
		return c, err
	}
	for item := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		switch key {
		case "t":
			if c.timestamp != "" {
				return c, fmt.Errorf("header %s: t occurs twice", name)
			}
			c.timestamp = value
		case "v1":
			sig, err := decodeMAC(name, value, "sha256", hexMAC)
			if err != nil {
				return c, err
			}
			c.signatures = append(c.signatures, sig)
		}
	}
	if c.timestamp == "" || len(c.signatures) == 0 {
		return c, fmt.Errorf("header %s: expected t=<seconds>,v1=<signature>", name)
	}
	return c, nil
}

// standardClaim reads the headers of Standard Webhooks: a list of signatures
// separated by spaces, "v1,<base64 of HMAC-SHA256>" or "v1a,<base64 of
// ed25519>". Versions that are not known and items that cannot be read do not
// count: the list is how senders move from one to the next.
//
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func standardClaim(h http.Header) (c claim, err error) {
	if c.id, err = single(h, "Webhook-Id"); err != nil {
		return c, err
	}
	if c.timestamp, err = single(h, "Webhook-Timestamp"); err != nil {
		return c, err
	}
	text, err := single(h, "Webhook-Signature")
	if err != nil {
		return c, err
	}
	for item := range strings.SplitSeq(text, " ") {
		version, value, _ := strings.Cut(item, ",")
		sum, err := base64MAC(value)
		switch {
		case err != nil:
		case version == "v1" && len(sum) == sha256.Size:
			c.signatures = append(c.signatures, candidate{"sha256", sum})
		case version == "v1a" && len(sum) == ed25519.SignatureSize:
			c.signatures = append(c.signatures, candidate{"ed25519", sum})
		}
	}
	if len(c.signatures) == 0 {
		return c, errors.New("header Webhook-Signature: expected v1,<base64> or v1a,<base64>")
	}
	return c, nil
}
