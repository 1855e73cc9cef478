//go:build kafka

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/simulate"
	"github.com/touchstone-platform/touchstone/internal/testkit/kafkatest"
)

// The cluster and the registry of all tests, one after the other, and whose
// they are at the moment: the folder of a test's systems.
var (
	realKafka    *kafkatest.Cluster
	realRegistry *kafkatest.Registry
	realOwner    string
)

func runTests(m *testing.M) int {
	r, err := kafkatest.StartRegistry()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer r.Close()
	realRegistry = r
	return kafkatest.Main(m.Run, func(c *kafkatest.Cluster) { realKafka = c })
}

// own empties the cluster and the registry for another folder.
func own(t testing.TB, dir string) {
	t.Helper()
	if realOwner == dir {
		return
	}
	realKafka.Reset(t)
	realRegistry.Reset(t)
	realOwner = dir
}

// assembly gives what runs a system as app.Dev does, without its broker and
// its registry.
func assembly(t testing.TB, dir string) func(context.Context, app.DevOptions) error {
	t.Helper()
	own(t, dir)
	return func(ctx context.Context, o app.DevOptions) error {
		ln, err := net.Listen("tcp", o.Listen)
		if err != nil {
			return err
		}
		defer ln.Close()
		secrets := o.Secrets
		given := func(ref string) (string, error) {
			if v, err := secrets(ref); err == nil {
				return v, nil
			}
			return "whsec_dG91Y2hzdG9uZSB0ZXN0cyBuZWVkIG5vIHNlY3JldHM=", nil
		}
		desk := simulate.NewDesk(given)
		asked := httptest.NewServer(desk)
		defer asked.Close()
		o.Secrets = simulate.Addresses(asked.URL, given)
		o.Options.Dir, o.Listener, o.Brokers = o.Dir, ln, realKafka.Addrs()
		o.Registry = codecs.RegistryOptions{URL: realRegistry.URL()}
		o.CreateExternal = true
		ready := make(chan struct{})
		o.OnReady = sync.OnceFunc(func() { close(ready) })
		a, err := app.Prepare(o.Options)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			select {
			case <-ready:
			case <-ctx.Done():
				return
			}
			addr := app.DevAddresses{API: "http://" + ln.Addr().String(), Kafka: strings.Join(realKafka.Addrs(), ","), Registry: realRegistry.URL(), Secrets: o.Secrets}
			o.Started(addr)
			if !o.Simulate {
				return
			}
			var domains []string
			for _, d := range o.Domains {
				domains = append(domains, d.Name)
			}
			if err := simulate.Run(ctx, simulate.Config{
				API: addr.API, Brokers: realKafka.Addrs(), Secret: o.Secrets, Domains: domains, Pause: o.SimulatePause, Seed: 7, Log: o.Log, Desk: desk,
			}); err != nil {
				t.Errorf("simulators: %v", err)
			}
		})
		return a.Run(ctx)
	}
}

// offline connects to the cluster while the system is stopped.
func offline(t *testing.T, _ string, do func(*kgo.Client)) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(realKafka.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	do(client)
}

// keepsRequests: what was asked for outlives a kill -9.
const keepsRequests = true

// launch starts `touchstone serve`.
func launch(t *testing.T, dir, definition string, _ bool, rules ...string) *child {
	t.Helper()
	own(t, dir)
	return join(t, dir, definition, rules...)
}

// join starts `touchstone serve` beside what there is.
func join(t *testing.T, dir, definition string, rules ...string) *child {
	t.Helper()
	listen := freeAddress(t)
	c := spawn(t, dir, strings.Join(rules, ";"), "serve", "--data", dir, "--domain", definition, "--listen", listen,
		"--kafka-brokers", strings.Join(realKafka.Addrs(), ","), "--registry-url", realRegistry.URL())
	c.addr = app.DevAddresses{API: "http://" + listen, Kafka: strings.Join(realKafka.Addrs(), ","), Registry: realRegistry.URL()}
	if _, err := c.lines.find("msg=ready", 90*time.Second); err != nil && !c.firedOf(rules) {
		t.Fatal(err)
	}
	return c
}

// ground gives the broker and the registry, empty.
func ground(t *testing.T, dir string) (brokers, registry string) {
	t.Helper()
	own(t, dir)
	return strings.Join(realKafka.Addrs(), ","), realRegistry.URL()
}
