package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const amounts = `
apiVersion: touchstone/v1
domain: amounts
owners: {business: Test, technical: Test, changeAuthority: Test}
resources:
  account:
    identity: number
    fields:
      number: {type: string, authority: [ledger]}
      amount: {type: decimal, authority: [ledger]}
sources:
  ledger:
    connector: file
    settings:
      columns: {amount: {type: decimal, required: true}}
      controlTotals: {sum: [amount]}
      abort: {maxBadShare: 0.5}
    map:
      - resource: account
        key: row.number
        fields: {number: row.number, amount: row.amount}
`

// Oracle: a file whose control totals do not match, or that has too many bad
// rows, is refused as a whole and leaves nothing in the journal; one that
// agrees with them is taken.
func TestControlTotals(t *testing.T) {
	s := start(t, t.TempDir(), define(t, amounts))
	csv := "number,amount\nA,10.10\nB,20.2\nC,0.000000000000000001\n"
	send := func(body, query string) answer {
		return s.post("/v1/ingress/ledger/files?name=a.csv"+query, []byte(body), map[string]string{"Content-Type": "text/csv"})
	}
	for query, says := range map[string]string{
		"&rows=4":                            "rows: found 3",
		"&sha256=" + strings.Repeat("0", 64): "sha256",
		"&sums=" + url.QueryEscape(`{"amount":"30.30"}`): "amount: found 30.300000000000000001",
		"&sums=" + url.QueryEscape(`{"balance":"1"}`):    "balance: it is not summed",
	} {
		if a := send(csv, query); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), says) {
			t.Errorf("%s: %d %s, expected a refusal that says %q", query, a.status, a.body, says)
		}
	}
	if a := send("number,amount\nA,x\nB,y\nC,1\n", ""); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "maxBadShare") {
		t.Errorf("too many bad rows: %d %s", a.status, a.body)
	}
	if a := send(csv, "&sums=nonsense"); a.status != http.StatusBadRequest {
		t.Errorf("malformed sums: %d %s", a.status, a.body)
	}
	if a := send(csv, "&rows=3&sums="+url.QueryEscape(`{"amount":"30.300000000000000001"}`)); a.status != http.StatusAccepted {
		t.Fatalf("the right totals: %d %s", a.status, a.body)
	}
	if out := s.settle("amounts", 3, 30e9); len(out) != 3 {
		t.Errorf("%d entries in the journal, expected the 3 of the accepted file", len(out))
	}
}
