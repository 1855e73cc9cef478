package cdc

import "testing"

func BenchmarkDecode(b *testing.B) {
	s := open(b, nil)
	e := s.Entry([]byte(`{"id":7}`), []byte(pgUpdate), false, nil)
	b.SetBytes(int64(len(pgUpdate)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Decode(e); err != nil {
			b.Fatal(err)
		}
	}
}
