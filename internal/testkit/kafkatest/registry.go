package kafkatest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/internal/testkit/child"
)

// Registry is a running Apicurio Registry. It keeps schemas in memory: one
// that is started anew knows nothing.
type Registry struct {
	dir string
	url string
	p   *child.Process
}

// StartRegistry starts Apicurio Registry and waits until it answers.
func StartRegistry() (r *Registry, err error) {
	jar, err := apicurioJar()
	if err != nil {
		return nil, fmt.Errorf("a real schema registry for tests: %w", err)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	r = &Registry{url: fmt.Sprintf("http://127.0.0.1:%d/apis/ccompat/v7", ports[0])}
	if r.dir, err = os.MkdirTemp("", "touchstone-registry-"); err != nil {
		return nil, err
	}
	log := filepath.Join(r.dir, "registry.log")
	r.p, err = startJava(log, append(javaOptions(256), "-Dquarkus.http.host=127.0.0.1", fmt.Sprintf("-Dquarkus.http.port=%d", ports[0]), "-jar", jar)...)
	if err == nil {
		err = await(60*time.Second, func(ctx context.Context) error {
			if err := alive(r.p); err != nil {
				return final{err}
			}
			return r.ping(ctx)
		})
	}
	if err != nil {
		err = fmt.Errorf("start Apicurio Registry: %w\n%s", err, child.Tail(log, 40))
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Registry) ping(ctx context.Context) error {
	_, err := r.ask(ctx, http.MethodGet, "/subjects")
	return err
}

func (r *Registry) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true // no idle connection outlives a test
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s %s", method, req.URL, res.Status, body)
	}
	return body, err
}

// Reset deletes all subjects.
func (r *Registry) Reset(t testing.TB) {
	t.Helper()
	body, err := r.ask(t.Context(), http.MethodGet, "/subjects")
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	if err := json.Unmarshal(body, &subjects); err != nil {
		t.Fatalf("subjects %s: %v", body, err)
	}
	for _, s := range subjects {
		for _, how := range []string{"", "?permanent=true"} {
			if _, err := r.ask(t.Context(), http.MethodDelete, "/subjects/"+url.PathEscape(s)+how); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// URL is that of the Confluent-compatible API.
func (r *Registry) URL() string { return r.url }

// Close ends it.
func (r *Registry) Close() {
	if r.p != nil {
		r.p.Kill()
	}
	os.RemoveAll(r.dir)
}
