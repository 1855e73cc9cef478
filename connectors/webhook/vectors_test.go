package webhook

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// The oracle are signatures that vendors and their libraries published: an
// invalid one that is accepted is a hole. Vectors that a product may refuse by
// policy (SHA-1, unused algorithms) are refused by default and accepted with
// allowWeak.
func TestPublishedVectors(t *testing.T) {
	f, err := os.Open(connectortest.SharedData(t, "webhook-signatures", "vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var valid, invalid, weak int
	notDone := map[string]int{}
	for lines.Scan() {
		var v struct {
			ID, Vendor, Scheme, Secret, Body, Expect, Policy string
			Body64                                           string `json:"body_b64"`
			SHA256                                           string `json:"body_sha256"`
			Headers                                          map[string]string
			Now, ToleranceS                                  int64
		}
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		body := []byte(v.Body)
		if v.Body64 != "" {
			body, _ = base64.StdEncoding.DecodeString(v.Body64)
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Fatalf("%s: the body is not what was published", v.ID)
		}
		if !slices.Contains([]string{"github", "gitea", "gocardless", "shopify", "slack", "standard-webhooks"}, v.Vendor) {
			notDone[v.Vendor]++
			continue
		}
		d := connectors.Delivery{Header: http.Header{}, Body: body, Now: time.Unix(v.Now, 0)}
		for k, x := range v.Headers {
			d.Header.Set(k, x)
		}
		receive := func(allowWeak bool) error {
			set := map[string]any{"scheme": v.Vendor, "secrets": live("a")}
			if allowWeak {
				set["signature"] = map[string]any{"allowWeak": true}
			}
			// A secret that cannot serve is refused when the source is
			// opened, before any delivery.
			c, err := Kind{}.Open(&definition.Source{Name: "s", Settings: set}, func(string) (string, error) { return v.Secret, nil })
			if err != nil {
				return failure.Wrap(failure.Auth, "open", "", err)
			}
			_, err = c.(connectors.Receiver).Receive(d)
			return err
		}
		err := receive(false)
		switch {
		case v.Expect == "invalid":
			invalid++
			if failure.KindOf(err) != failure.Auth {
				t.Errorf("SECURITY %s: an invalid signature was accepted (%v)", v.ID, err)
			}
			if v.Vendor == "github" {
				if err := receive(true); failure.KindOf(err) != failure.Auth {
					t.Errorf("SECURITY %s with allowWeak: an invalid signature was accepted (%v)", v.ID, err)
				}
			}
		case v.Policy != "":
			weak++
			if failure.KindOf(err) != failure.Auth {
				t.Errorf("%s: a weak signature was accepted without allowWeak (%v)", v.ID, err)
			}
			if err := receive(true); err != nil {
				t.Errorf("%s with allowWeak: %v", v.ID, err)
			}
		default:
			valid++
			if err != nil {
				t.Errorf("%s: %v", v.ID, err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if valid == 0 || invalid == 0 {
		t.Fatal("no vectors were read")
	}
	t.Logf("%d valid accepted, %d invalid refused, %d weak refused by default and accepted with allowWeak; schemes not implemented: %v",
		valid, invalid, weak, slices.Sorted(maps.Keys(notDone)))
}
