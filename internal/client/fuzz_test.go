package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"testing"
)

// Oracle: whatever a server sends, every event that is given has JSON data, and
// the stream comes to an end.
func FuzzStream(f *testing.F) {
	f.Add([]byte("retry: 2000\n: connected\n\nid: 1\nevent: CustomerUpdated\ndata: {\"a\":\ndata: 1}\n\n"))
	f.Add([]byte("event: end\ndata: {\"reason\":\"x\"}\n\n"))
	f.Add([]byte("data\r\n\r\ndata:1\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := bufio.NewScanner(bytes.NewReader(b))
		for n := 0; ; n++ {
			e, err := next(lines)
			if err != nil {
				return
			}
			if !json.Valid(e.CloudEvent) || e.Type == "end" {
				t.Fatalf("%+v of %q", e, b)
			}
			if n > len(b) {
				t.Fatalf("more events than bytes of %q", b)
			}
		}
	})
}

// Oracle: an answer gives a report or an error, never both and never neither.
func FuzzReport(f *testing.F) {
	f.Add([]byte("{\"progress\":{\"rows\":1}}\n{\"report\":{\"rows\":1}}\n"))
	f.Add([]byte("{\"problem\":{\"status\":422,\"code\":\"file-refused\"}}"))
	f.Add([]byte("null\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readReport(bytes.NewReader(b), func(Progress) {})
		if (r == nil) == (err == nil) {
			t.Fatalf("%q gives %+v and %v", b, r, err)
		}
	})
}
