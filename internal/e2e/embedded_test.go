//go:build !kafka

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/embedded/broker"
	"github.com/touchstone-platform/touchstone/internal/embedded/schemaregistry"
)

func runTests(m *testing.M) int { return m.Run() }

// assembly gives what runs a system on what is kept in a folder.
func assembly(testing.TB, string) func(context.Context, app.DevOptions) error { return app.Dev }

// offline connects to the broker of a system that is stopped.
func offline(t *testing.T, dir string, do func(*kgo.Client)) {
	t.Helper()
	b, err := broker.Start(broker.Config{Dir: filepath.Join(dir, "broker"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	do(client)
	client.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// keepsRequests: what was asked for outlives a kill -9. The embedded broker is
// killed too, and everything derived is rebuilt from the journal instead.
const keepsRequests = false

// launch starts `touchstone dev` on free ports, in a folder where it may have
// been killed before.
func launch(t *testing.T, dir, definition string, killed bool, rules ...string) *child {
	t.Helper()
	c := spawn(t, dir, strings.Join(rules, ";"), "dev", "--data", dir, "--domain", definition, "--no-simulators",
		"--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--backends-listen", "127.0.0.1:0")
	for what, to := range map[string]*string{"console and API": &c.addr.API, "Kafka  ": &c.addr.Kafka, "schema registry": &c.addr.Registry} {
		line, err := c.lines.find(what, 60*time.Second)
		if err != nil && c.firedOf(rules) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(line)
		*to = f[len(f)-1]
	}
	if killed {
		if _, err := c.lines.find("the last stop was unclean", time.Second); err != nil {
			t.Errorf("the start after a kill does not say so: %v", err)
		}
	}
	return c
}

// ground starts a broker and a registry that outlive the processes of a test.
func ground(t *testing.T, dir string) (brokers, registry string) {
	t.Helper()
	b, err := broker.Start(broker.Config{Dir: filepath.Join(dir, "broker"), Listen: "127.0.0.1:0", AutoCreate: true, Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // its data is of no use any more
	r, err := schemaregistry.Start(schemaregistry.Config{Dir: filepath.Join(dir, "registry"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return b.Addr(), r.URL()
}
