package file

import (
	"strings"
	"testing"

	"github.com/touchstone-platform/touchstone/domain/journal"
)

func BenchmarkInspect(b *testing.B) {
	s := open(b, map[string]any{"controlTotals": map[string]any{"sum": "limit"}})
	text := "customer,score,limit,name\n" + strings.Repeat("007,700,10.50,\"Lovelace, Ada\"\n", 10_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if r, err := s.Inspect(strings.NewReader(text)); err != nil || r.Good != 10_000 {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	s := open(b, nil)
	e := &journal.Entry{Body: []byte(`007,700,10.50,"Lovelace, Ada"`), Headers: map[string]string{headerRow: "2", headerColumns: "customer,score,limit,name"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Decode(e); err != nil {
			b.Fatal(err)
		}
	}
}
