package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Oracle: the definition in the README is taken as it stands there, and does
// what the README says.
func TestReadmeDefinition(t *testing.T) {
	text := string(read(t, "../../README.md"))
	_, rest, found := strings.Cut(text, "```yaml\n")
	definition, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the README has no YAML any more")
	}
	s := start(t, t.TempDir(), define(t, definition))
	a := s.post("/v1/ingress/erp/files?name=machines.csv", []byte("serial,site,fw\nM-1,Oslo,1.0\n"), map[string]string{"Content-Type": "text/csv"})
	if a.status != http.StatusAccepted {
		t.Fatal(a.status, string(a.body))
	}
	if a := s.post("/v1/ingress/sensors", []byte(`{"serial":"M-1","firmware":"1.1"}`), map[string]string{"Content-Type": "application/json"}); a.status != http.StatusAccepted {
		t.Fatal(a.status, string(a.body))
	}
	s.settle("assets", 2, 30*time.Second)
	if e := s.list("assets", "machine"); len(e) != 1 || e[0]["fields"].(map[string]any)["firmware"] != "1.1" || e[0]["fields"].(map[string]any)["site"] != "Oslo" {
		t.Errorf("entities %v", e)
	}
}
