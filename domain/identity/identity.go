// Package identity decides which entity a signal speaks of. Here it is direct:
// the id is made of the declared identity fields, so that every source which
// gives the same values speaks of the same entity, whichever comes first.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/touchstone-platform/touchstone/domain/canonical"
)

// MaxID is the longest id in bytes; longer ones are replaced by a hash.
const MaxID = 160

// Direct makes the entity id from the values of the identity fields, in order.
// Letters, digits and . _ @ : + - stay as they are, every other byte becomes
// "=XX", and values are joined by "~", so that an id is readable, unambiguous
// and needs no escaping in a URL path. An id beyond MaxID becomes "~" and the
// SHA-256 of it in hexadecimal. Absent, null or empty values are an error:
// there is nothing to identify by.
func Direct(names []string, values []canonical.Value) (string, error) {
	if len(values) == 0 || len(values) != len(names) {
		return "", fmt.Errorf("identity: expected %d values (%v), found %d", len(names), names, len(values))
	}
	id := make([]byte, 0, 32)
	for i, v := range values {
		text := v.Text()
		if text == "" {
			found := string(v)
			if found == "" {
				found = "nothing"
			}
			return "", fmt.Errorf("identity field %s: expected a value to identify the entity by, found %s", names[i], found)
		}
		if i > 0 {
			id = append(id, '~')
		}
		id = appendEscaped(id, text)
	}
	if len(id) > MaxID {
		sum := sha256.Sum256(id)
		return "~" + hex.EncodeToString(sum[:]), nil
	}
	return string(id), nil
}

func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '_', c == '@', c == ':', c == '+', c == '-',
			c == '.' && len(s) > 2: // "." and ".." are not path segments
			dst = append(dst, c)
		default:
			dst = append(dst, '=', digits[c>>4], digits[c&15])
		}
	}
	return dst
}
