// Package schemaregistry is a Confluent-compatible schema registry inside the
// process, for development and tests: Avro schemas, served over HTTP on a loopback
// address, kept in a file, and really checked for compatibility.
//
// The REST interface is that of srfake, franz-go's fake, which answers "compatible"
// to everything; this package stands in front of it, parses every schema, compares
// it with the earlier versions as the subject's level asks, and writes down each
// operation that changed something before it is answered. At the next start the
// operations are carried out again, which gives the same ids and versions.
//
// It does not authenticate, does not know contexts, JSON Schema or Protobuf (it
// refuses them rather than accept them unchecked), and one process alone can use
// a directory.
package schemaregistry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
)

// DefaultListen is the address that schema registries usually have.
const DefaultListen = "127.0.0.1:8081"

// Config of an embedded registry.
type Config struct {
	// Listen is a loopback address with a port, 0 for any; default DefaultListen.
	Listen string
	// Dir keeps the schemas; it must be the registry's alone. Empty keeps them in
	// memory.
	Dir string
	// Compatibility of subjects that have no level of their own, until it is
	// changed over HTTP; default BACKWARD.
	Compatibility sr.CompatibilityLevel
}

// Server is a running registry.
type Server struct {
	fake *srfake.Registry
	lock *datadir.Lock
	http *http.Server
	addr string
	done chan struct{}

	// mu makes check, registration and writing down one step.
	mu    sync.Mutex
	store store
}

// Start opens the directory, carries out its operations and serves. Errors are
// for the person who started it: an address that is taken or not loopback (names
// the flag), a directory in use (*datadir.InUseError), a damaged file (names it).
func Start(cfg Config) (*Server, error) {
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if cfg.Compatibility == 0 {
		cfg.Compatibility = sr.CompatBackward
	}
	ln, err := listen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	s := &Server{fake: srfake.NewRegistry(srfake.WithGlobalCompat(cfg.Compatibility)), addr: ln.Addr().String(), done: make(chan struct{})}
	if err := s.open(cfg.Dir); err != nil {
		ln.Close()
		return nil, err
	}
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(ln) // always ErrServerClosed or a closed listener
	}()
	return s, nil
}

func listen(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("embedded schema registry: --registry-listen %q: want host:port, such as %s", address, DefaultListen)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("embedded schema registry: --registry-listen %q: want a loopback address, such as %s, because the embedded registry has no authentication", address, DefaultListen)
	}
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("embedded schema registry: %s is taken by another program; choose another address with --registry-listen: %w", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded schema registry: --registry-listen %q: %w", address, err)
	}
	return ln, nil
}

func (s *Server) open(dir string) error {
	if dir == "" {
		return nil
	}
	lock, err := datadir.Acquire(dir)
	if err != nil {
		return err
	}
	if s.store, err = openStore(dir); err == nil {
		err = s.replay()
	}
	if err != nil {
		_ = lock.Release()
		return err
	}
	s.lock = lock
	return nil
}

// replay carries out the stored operations.
func (s *Server) replay() error {
	for i, op := range s.store.operations {
		a := s.do(op.Method, op.Path, op.Body)
		if a.status/100 != 2 {
			return fmt.Errorf("embedded schema registry: %s: operation %d, %s %s, fails: %s", s.store.path, i, op.Method, op.Path, a.body)
		}
		if op.ID != 0 && a.id() != op.ID {
			return fmt.Errorf("embedded schema registry: %s: operation %d, %s %s, gives schema id %d, expected %d: the file was changed by hand or is damaged", s.store.path, i, op.Method, op.Path, a.id(), op.ID)
		}
	}
	return nil
}

// Addr is the address it listens on.
func (s *Server) Addr() string { return s.addr }

// URL of the registry for clients.
func (s *Server) URL() string { return "http://" + s.addr }

// Close stops serving, waits for requests under way for at most two seconds and
// releases the directory.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.done
	if s.lock != nil {
		err = errors.Join(err, s.lock.Release())
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /subjects/{subject}/versions", s.register)
	mux.HandleFunc("POST /subjects/{subject}", s.lookup)
	mux.HandleFunc("POST /compatibility/subjects/{subject}/versions/{version}", s.compatibility)
	mux.HandleFunc("POST /compatibility/subjects/{subject}/versions", s.compatibility)
	mux.HandleFunc("PUT /", s.change)
	mux.HandleFunc("DELETE /", s.change)
	mux.Handle("/", s.fake.Handler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The fake takes the prefix off, and a schema would pass unchecked.
		if strings.HasPrefix(r.URL.Path, "/contexts/") {
			refuse(w, http.StatusNotFound, 404, "the embedded registry has no contexts")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// register checks a schema against the earlier versions of its subject and
// registers it. A schema that is there already is given its id again.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	candidate, parsed, ok := s.schema(w, r)
	if !ok {
		return
	}
	subject := r.PathValue("subject")
	path := "/subjects/" + url.PathEscape(subject)
	body, err := json.Marshal(sr.Schema{Schema: candidate.Schema, References: candidate.References})
	if err != nil {
		refuse(w, http.StatusInternalServerError, 50001, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if there := s.do(http.MethodPost, path, body); there.status == http.StatusOK {
		// Its first registration may have been answered with an error because it
		// could not be written down: try again before saying that it is there.
		if err := s.store.flush(); err != nil {
			refuse(w, http.StatusInternalServerError, 50001, err.Error())
			return
		}
		answer{status: http.StatusOK, body: fmt.Appendf(nil, `{"id":%d}`, there.id())}.write(w)
		return
	}
	level, earlier, err := s.earlier(subject)
	if err != nil {
		refuse(w, http.StatusInternalServerError, 50001, err.Error())
		return
	}
	if messages := check(level, earlier, parsed); len(messages) > 0 {
		refuse(w, http.StatusConflict, codeIncompatible, fmt.Sprintf("Schema being registered is incompatible with an earlier schema for subject %q, details: [%s, {compatibility: '%s'}]", subject, strings.Join(messages, ", "), level))
		return
	}
	a := s.do(http.MethodPost, path+"/versions", body)
	if a.status == http.StatusNotFound {
		// The subject was deleted softly, and the fake does not let it be used
		// again. Its schemas keep their ids; versions begin anew.
		if deleted := s.do(http.MethodDelete, path+"?permanent=true", nil); deleted.status == http.StatusOK {
			s.store.add(operation{Method: http.MethodDelete, Path: path + "?permanent=true"})
			a = s.do(http.MethodPost, path+"/versions", body)
		}
	}
	if a.status == http.StatusOK {
		s.store.add(operation{Method: http.MethodPost, Path: path + "/versions", Body: body, ID: a.id()})
		if err := s.store.flush(); err != nil {
			refuse(w, http.StatusInternalServerError, 50001, err.Error())
			return
		}
	}
	a.write(w)
}

// lookup asks whether a subject has a schema.
func (s *Server) lookup(w http.ResponseWriter, r *http.Request) {
	candidate, _, ok := s.schema(w, r)
	if !ok {
		return
	}
	body, err := json.Marshal(sr.Schema{Schema: candidate.Schema, References: candidate.References})
	if err != nil {
		refuse(w, http.StatusInternalServerError, 50001, err.Error())
		return
	}
	path := "/subjects/" + url.PathEscape(r.PathValue("subject"))
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	s.do(http.MethodPost, path, body).write(w)
}

// compatibility answers whether a schema could be registered.
func (s *Server) compatibility(w http.ResponseWriter, r *http.Request) {
	_, parsed, ok := s.schema(w, r)
	if !ok {
		return
	}
	subject := r.PathValue("subject")
	s.mu.Lock()
	level, earlier, err := s.earlier(subject)
	s.mu.Unlock()
	if err != nil {
		refuse(w, http.StatusInternalServerError, 50001, err.Error())
		return
	}
	if asked := r.PathValue("version"); asked != "" && asked != "latest" {
		n, err := strconv.Atoi(asked)
		if err != nil || n < 1 {
			refuse(w, http.StatusUnprocessableEntity, sr.ErrInvalidVersion.Code, fmt.Sprintf("version: found %q, expected a number from 1 or latest", asked))
			return
		}
		var only []version
		for _, v := range earlier {
			if v.number == n {
				only = append(only, v)
			}
		}
		if only == nil {
			refuse(w, http.StatusNotFound, sr.ErrVersionNotFound.Code, fmt.Sprintf("Version %d of subject %q not found", n, subject))
			return
		}
		earlier = only
	} else if asked == "latest" && len(earlier) > 1 {
		earlier = earlier[len(earlier)-1:]
	}
	messages := check(level, earlier, parsed)
	out := map[string]any{"is_compatible": len(messages) == 0}
	if r.URL.Query().Get("verbose") == "true" {
		out["messages"] = append([]string{}, messages...)
	}
	body, err := json.Marshal(out)
	if err != nil {
		refuse(w, http.StatusInternalServerError, 50001, err.Error())
		return
	}
	answer{status: http.StatusOK, body: body}.write(w)
}

// change passes on what changes configuration or deletes, and writes it down.
func (s *Server) change(w http.ResponseWriter, r *http.Request) {
	body, ok := read(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.RequestURI()
	a := s.do(r.Method, path, body)
	if a.status/100 == 2 {
		s.store.add(operation{Method: r.Method, Path: path, Body: body})
		if err := s.store.flush(); err != nil {
			refuse(w, http.StatusInternalServerError, 50001, err.Error())
			return
		}
	}
	a.write(w)
}

// codeIncompatible as Confluent documents it.
const codeIncompatible = 40901

// maxBody of a request: schemas are kilobytes.
const maxBody = 1 << 20

func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	var b json.RawMessage
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := dec.Decode(&b); err != nil && r.Method != http.MethodDelete {
		refuse(w, http.StatusUnprocessableEntity, sr.ErrInvalidSchema.Code, "request body: "+err.Error())
		return nil, false
	}
	return b, true
}

// schema reads and parses the schema in a request, and answers if it is none.
func (s *Server) schema(w http.ResponseWriter, r *http.Request) (sr.Schema, *avro.Schema, bool) {
	var c sr.Schema
	body, ok := read(w, r)
	if !ok {
		return c, nil, false
	}
	err := json.Unmarshal(body, &c)
	if err == nil && c.Type != sr.TypeAvro {
		err = fmt.Errorf("found schema type %s, expected AVRO: the embedded registry cannot check others", c.Type)
	}
	var parsed *avro.Schema
	if err == nil {
		parsed, err = s.parse(c)
	}
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, sr.ErrInvalidSchema.Code, "Invalid schema: "+err.Error())
		return c, nil, false
	}
	return c, parsed, true
}

// maxReferences followed for one schema, however deep.
const maxReferences = 1000

// parse compiles a schema with everything that it refers to.
func (s *Server) parse(c sr.Schema) (*avro.Schema, error) {
	cache := new(avro.SchemaCache)
	seen := map[string]bool{}
	var load func(refs []sr.SchemaReference) error
	load = func(refs []sr.SchemaReference) error {
		for _, ref := range refs {
			key := ref.Subject + "\x00" + strconv.Itoa(ref.Version)
			if seen[key] {
				continue
			}
			if seen[key] = true; len(seen) > maxReferences {
				return fmt.Errorf("more than %d references", maxReferences)
			}
			there, ok := s.fake.GetSchema(ref.Subject, ref.Version)
			if !ok {
				return fmt.Errorf("reference %s: subject %q has no version %d", ref.Name, ref.Subject, ref.Version)
			}
			if err := load(there.References); err != nil {
				return err
			}
			if _, err := cache.Parse(there.Schema.Schema); err != nil {
				return fmt.Errorf("reference %s: %w", ref.Name, err)
			}
		}
		return nil
	}
	if err := load(c.References); err != nil {
		return nil, err
	}
	return cache.Parse(c.Schema)
}

// earlier gives a subject's level and its versions, oldest first.
func (s *Server) earlier(subject string) (sr.CompatibilityLevel, []version, error) {
	var config struct {
		Level sr.CompatibilityLevel `json:"compatibilityLevel"`
	}
	a := s.do(http.MethodGet, "/config/"+url.PathEscape(subject)+"?defaultToGlobal=true", nil)
	if err := json.Unmarshal(a.body, &config); err != nil || a.status != http.StatusOK {
		return 0, nil, fmt.Errorf("level of subject %q: %d %s", subject, a.status, a.body)
	}
	var numbers []int
	a = s.do(http.MethodGet, "/subjects/"+url.PathEscape(subject)+"/versions", nil)
	if a.status == http.StatusNotFound {
		return config.Level, nil, nil
	}
	if err := json.Unmarshal(a.body, &numbers); err != nil {
		return 0, nil, fmt.Errorf("versions of subject %q: %w", subject, err)
	}
	var out []version
	for _, n := range numbers {
		there, ok := s.fake.GetSchema(subject, n)
		if !ok {
			continue
		}
		parsed, err := s.parse(there.Schema)
		if err != nil {
			return 0, nil, fmt.Errorf("subject %q version %d: %w", subject, n, err)
		}
		out = append(out, version{n, parsed})
	}
	return config.Level, out, nil
}
