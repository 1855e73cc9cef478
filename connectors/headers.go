package connectors

import (
	"slices"
	"strings"
)

// MaxHeaderValue bounds a header value that is kept, in bytes.
const MaxHeaderValue = 4096

// Credential tells whether a header carries a credential or a signature, by
// its name. Such headers are never kept: the journal is read by many.
func Credential(name string) bool {
	n := strings.ToLower(name)
	if slices.Contains([]string{"authorization", "proxy-authorization", "authentication", "cookie", "set-cookie"}, n) {
		return true
	}
	for _, part := range []string{"signature", "hmac", "token", "secret", "password", "passwd", "api-key", "apikey", "credential"} {
		if strings.Contains(n, part) {
			return true
		}
	}
	return slices.Contains(strings.Split(n, "-"), "auth")
}

// HeaderName tells whether a text is a header name (RFC 9110, a token).
func HeaderName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
