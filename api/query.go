package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// query gives the parameters of a request. Unknown and repeated ones are
// refused: a misspelt filter must not give everything.
func query(r *http.Request, allowed ...string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem(http.StatusBadRequest, "invalid-query", "the query string is malformed")
	}
	q := make(map[string]string, len(values))
	for name, v := range values {
		if !slices.Contains(allowed, name) {
			expected := "none"
			if len(allowed) > 0 {
				expected = "one of " + strings.Join(allowed, ", ")
			}
			return nil, badQuery(name, fmt.Sprintf("found an unknown parameter %q, expected %s", name, expected))
		}
		if len(v) > 1 {
			return nil, badQuery(name, fmt.Sprintf("found %d times, expected once", len(v)))
		}
		q[name] = v[0]
	}
	return q, nil
}

// Page sizes of lists.
const (
	defaultLimit = 50
	maxLimit     = 500
)

func limitOf(q map[string]string) (int, error) {
	s, ok := q["limit"]
	if !ok {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, badQuery("limit", fmt.Sprintf("found %q, expected a number from 1 to %d", s, maxLimit))
	}
	return n, nil
}

// waitOf reads how long a client will wait: "5s", "500ms" or whole seconds.
func (a *API) waitOf(name, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.Atoi(s); nerr == nil && n >= 0 && n < 1e6 {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 || d > a.Limits.Wait {
		return 0, badQuery(name, fmt.Sprintf("found %q, expected a duration such as 5s, at most %s", s, a.Limits.Wait))
	}
	return d, nil
}

// cursor is where a page begins. It is bound to the query it came from by the
// hash of what was asked, so that it cannot be used with another one.
type cursor struct {
	Query string `json:"q"`
	After string `json:"a"`
}

func encodeCursor(asked, after string) string {
	b, err := json.Marshal(cursor{askedHash(asked), after})
	if err != nil {
		return "" // two strings always encode
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor gives the place to begin behind; empty for the first page.
func decodeCursor(q map[string]string, asked string) (string, error) {
	s, ok := q["cursor"]
	if !ok {
		return "", nil
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.After == "" {
		return "", badQuery("cursor", "found something that is no cursor, expected the one of a previous page's next link")
	}
	if c.Query != askedHash(asked) {
		return "", badQuery("cursor", "found the cursor of another query, expected one that came from the same path and filters")
	}
	return c.After, nil
}

func askedHash(asked string) string {
	sum := sha256.Sum256([]byte(asked))
	return hex.EncodeToString(sum[:8])
}

// nextLink is the path of the next page; it is also set as Link header (RFC 8288).
func nextLink(w http.ResponseWriter, r *http.Request, next string) string {
	q := r.URL.Query()
	q.Set("cursor", next)
	link := r.URL.EscapedPath() + "?" + q.Encode()
	w.Header().Set("Link", "<"+link+`>; rel="next"`)
	return link
}
