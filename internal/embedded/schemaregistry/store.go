package schemaregistry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fileName of the operations inside the directory.
const fileName = "schemas.json"

// fileFormat is the version of the file's form.
const fileFormat = 1

// operation is one request that changed something.
type operation struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
	// ID that a registration gave, to be sure that it gives it again.
	ID int `json:"id,omitempty"`
}

// store keeps the operations in a file. The zero store keeps them in memory.
type store struct {
	path       string
	operations []operation
	dirty      bool
}

type file struct {
	Format     int         `json:"format"`
	Operations []operation `json:"operations"`
}

func openStore(dir string) (store, error) {
	s := store{path: filepath.Join(dir, fileName)}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return store{}, fmt.Errorf("embedded schema registry: %w", err)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return store{}, fmt.Errorf("embedded schema registry: %s is damaged: %w", s.path, err)
	}
	if f.Format != fileFormat {
		return store{}, fmt.Errorf("embedded schema registry: %s: found format %d, expected %d", s.path, f.Format, fileFormat)
	}
	s.operations = f.Operations
	return s, nil
}

// add remembers an operation. Of the settings of one path only the last counts.
func (s *store) add(op operation) {
	s.dirty = true
	if strings.HasPrefix(op.Path, "/config") || strings.HasPrefix(op.Path, "/mode") {
		s.operations = slices.DeleteFunc(s.operations, func(o operation) bool { return o.Method == http.MethodPut && o.Path == op.Path })
		if op.Method == http.MethodDelete {
			return
		}
	}
	s.operations = append(s.operations, op)
}

// flush writes the file anew if there is something to write: a copy beside it,
// synced, then renamed over it, so that it is the old one or the new one
// whenever the process ends.
func (s *store) flush() error {
	if !s.dirty || s.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(file{fileFormat, s.operations}, "", " ")
	if err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	tmp := s.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	s.dirty = false
	return nil
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// answer is a response kept in memory.
type answer struct {
	header http.Header
	status int
	body   []byte
}

// do lets the fake handle a request.
func (s *Server) do(method, path string, body []byte) answer {
	r, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil {
		return answer{status: http.StatusBadRequest, body: fmt.Appendf(nil, `{"error_code":400,"message":%q}`, err.Error())}
	}
	rec := &recorder{answer{header: http.Header{}, status: http.StatusOK}}
	s.fake.Handler().ServeHTTP(rec, r)
	return rec.answer
}

// id in the body of an answer; 0 if there is none.
func (a answer) id() int {
	var b struct {
		ID int `json:"id"`
	}
	_ = json.Unmarshal(a.body, &b) // other bodies have no id
	return b.ID
}

func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client is gone if it fails
}

func refuse(w http.ResponseWriter, status, code int, message string) {
	body, err := json.Marshal(map[string]any{"error_code": code, "message": message})
	if err != nil {
		body = []byte(`{"error_code":50001,"message":"error in the backend data store"}`)
	}
	answer{status: status, body: body}.write(w)
}

// recorder is the http.ResponseWriter of do.
type recorder struct{ answer }

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	r.status = status
}
func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}
