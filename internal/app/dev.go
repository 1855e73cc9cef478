package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/domain/saga"
	"github.com/touchstone-platform/touchstone/internal/embedded/broker"
	"github.com/touchstone-platform/touchstone/internal/embedded/schemaregistry"
	"github.com/touchstone-platform/touchstone/internal/narrate"
	"github.com/touchstone-platform/touchstone/internal/simulate"
	"github.com/touchstone-platform/touchstone/topology"
)

// DevOptions say how to run everything in one process.
type DevOptions struct {
	Options // Brokers, Registry, Dir, Listener, Secrets and OnChange are set here
	// Dir holds everything: broker, registry, state.
	Dir string
	// Listen, KafkaListen, RegistryListen and BackendsListen are loopback
	// addresses; port 0 means any free port. An empty one of BackendsListen does,
	// too: it is where the simulated back ends are asked for something.
	Listen, KafkaListen, RegistryListen, BackendsListen string
	// Simulate plays the back ends of the sample domains.
	Simulate bool
	// SimulatePause is the time between two actions of the play.
	SimulatePause time.Duration
	// Story takes the account of what happens, for a person to read; nil for none.
	Story io.Writer
	Style narrate.Style
	// Started, if set, is told the addresses once everything runs.
	Started func(DevAddresses)
	// Running, if set, is given the process before Started is called. It is for
	// who measures from inside; whoever uses the process goes by the addresses.
	Running func(*App)
}

// DevAddresses are where a dev process can be reached.
type DevAddresses struct {
	API, Kafka, Registry, Backends string
	// Secrets of the sources, by reference: random ones where the environment
	// gives none.
	Secrets connectors.Secrets
}

// Dev runs everything in one process until ctx ends: the embedded broker and
// schema registry, all roles, and the simulators.
func Dev(ctx context.Context, o DevOptions) (err error) {
	began := time.Now()
	story := newStory(o.Story, o.Style)
	lock, err := lockData(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	ln, err := listenAPI(o.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() // Run closes it too; this is for what fails before
	given := devSecrets(o.Options.Secrets)
	desk := simulate.NewDesk(given)
	backends, err := net.Listen("tcp", cmp.Or(o.BackendsListen, "127.0.0.1:0"))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("simulated back ends: %s is taken by another program; choose another address with --backends-listen: %w", o.BackendsListen, err)
	}
	if err != nil {
		return fmt.Errorf("simulated back ends: --backends-listen %q: %w", o.BackendsListen, err)
	}
	asked := &http.Server{Handler: desk, ReadHeaderTimeout: 10 * time.Second}
	go asked.Serve(backends)
	defer asked.Close()
	secrets := connectors.Secrets(simulate.Addresses("http://"+backends.Addr().String(), given))
	external, err := followed(o.Domains, secrets)
	if err != nil {
		return err
	}
	var b *broker.Broker
	pprof.Do(ctx, pprof.Labels("part", "broker"), func(context.Context) {
		b, err = broker.Start(broker.Config{
			Dir: filepath.Join(o.Dir, "broker"), Listen: o.KafkaListen, Logger: o.Log,
			Derived: derivedTopic(external), DerivedGroup: derivedGroup(),
			Discard: []string{filepath.Join(o.Dir, "state")}, AutoCreate: true, Partitions: max(o.Topology.Partitions, 1),
		})
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if r := b.Recovered(); r.Unclean {
		story.say("embedded broker: %s", r)
	}
	reg, err := schemaregistry.Start(schemaregistry.Config{Dir: filepath.Join(o.Dir, "registry"), Listen: o.RegistryListen})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()

	opts := o.Options
	opts.Dir, opts.Listener, opts.Secrets = o.Dir, ln, secrets
	opts.Brokers, opts.Registry = []string{b.Addr()}, codecs.RegistryOptions{URL: reg.URL()}
	opts.CreateExternal = true
	opts.OnChange = func(d *definition.Domain, c *event.Change) { story.change(d, c) }
	opts.OnReport = story.command
	ready := make(chan struct{})
	opts.OnReady = sync.OnceFunc(func() { close(ready) })
	a, err := Prepare(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
		addr := DevAddresses{API: "http://" + ln.Addr().String(), Kafka: b.Addr(), Registry: reg.URL(), Backends: "http://" + backends.Addr().String(), Secrets: secrets}
		story.say("ready in %s", time.Since(began).Round(time.Millisecond))
		story.say("  console and API   %s", addr.API)
		story.say("  Kafka             %s", addr.Kafka)
		story.say("  schema registry   %s", addr.Registry)
		if o.Simulate {
			story.say("  back ends         %s", addr.Backends)
		}
		story.say("  data              %s", o.Dir)
		if o.Running != nil {
			o.Running(a)
		}
		if o.Started != nil {
			o.Started(addr)
		}
		if !o.Simulate {
			return
		}
		story.say("simulated back ends begin to speak; each change of canonical state is told below\n")
		if err := simulate.Run(ctx, simulate.Config{
			API: addr.API, Brokers: []string{addr.Kafka}, Secret: secrets, Domains: names(o.Domains), Pause: o.SimulatePause, Seed: 7, Log: opts.Log, Desk: desk,
		}); err != nil {
			opts.Log.Error("simulators", "error", err)
		}
	})
	err = a.Run(ctx)
	cancel()
	wg.Wait()
	story.say("stopped; everything is on disk")
	return err
}

func names(domains []*definition.Domain) []string {
	out := make([]string, len(domains))
	for i, d := range domains {
		out[i] = d.Name
	}
	return out
}

func listenAPI(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("API: %s is taken by another program; choose another address with --listen: %w", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("API: --listen %q: %w", address, err)
	}
	return ln, nil
}

// derivedTopic tells the topics that stations derive from the journals. They are
// told by name and not by the loaded definitions, so that the topics of a
// domain that is not loaded this time are treated alike; those that sources
// follow are others' whatever they are called ("crm.changes").
func derivedTopic(external map[string]bool) func(string) bool {
	derived := map[string]bool{}
	const probe = "x"
	t, err := topology.Build([]*definition.Domain{{
		Name: probe, Connections: []*definition.Connection{{Name: probe}},
		Resources: []*definition.Resource{{Commands: []*definition.Command{{}}}},
	}}, topology.Options{Partitions: 1}, nil)
	if err != nil {
		panic(err) // the options are constant
	}
	for _, x := range t.Topics {
		if x.Derived {
			derived[strings.TrimPrefix(x.Name, probe)] = true
		}
	}
	return func(topic string) bool {
		i := strings.IndexByte(topic, '.')
		if i < 0 || external[topic] {
			return false
		}
		// Commands are forgotten with what is known of them: carried out anew, they
		// would ask the back ends for what was done long ago.
		return derived[topic[i:]] || topic[i:] == topology.Commands("") || strings.HasPrefix(topic[i:], topology.Calls("", ""))
	}
}

// followed gives the topics that back ends write and sources follow.
func followed(domains []*definition.Domain, secrets connectors.Secrets) (map[string]bool, error) {
	intakes, err := openSources(domains, secrets)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, i := range intakes {
		if f, ok := i.Connector.(follower); ok {
			for _, t := range f.Topics() {
				out[t] = true
			}
		}
	}
	return out, nil
}

// derivedGroup tells the stations' groups by their names.
func derivedGroup() func(string) bool {
	return func(group string) bool {
		_, station, ok := strings.Cut(group, ".")
		switch station {
		case topology.Inbox, topology.Resolve, topology.Merge, topology.Publish, topology.Admit, topology.Orchestrate, topology.Track:
			return ok
		}
		return ok && strings.HasPrefix(station, topology.Execute+".")
	}
}

// devSecrets resolves references as given, and makes up a random secret for
// each reference to the environment that is not set, so that the samples run
// without preparation. Such a secret lives as long as the process.
func devSecrets(given connectors.Secrets) connectors.Secrets {
	var mu sync.Mutex
	made := map[string]string{}
	return func(ref string) (string, error) {
		v, err := given(ref)
		if err == nil || !strings.HasPrefix(ref, "env:") {
			return v, err
		}
		mu.Lock()
		defer mu.Unlock()
		if made[ref] == "" {
			var b [32]byte
			if _, err := rand.Read(b[:]); err != nil {
				return "", err
			}
			// The spelling that Standard Webhooks asks for is a fine secret
			// for every other scheme too.
			made[ref] = "whsec_" + base64.StdEncoding.EncodeToString(b[:])
		}
		return made[ref], nil
	}
}

// story writes for a person, one thing at a time.
type story struct {
	mu    sync.Mutex
	w     io.Writer
	style narrate.Style
}

func newStory(w io.Writer, s narrate.Style) *story {
	if w == nil {
		w = io.Discard
	}
	return &story{w: w, style: s}
}

func (s *story) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, format+"\n", args...)
}

func (s *story) change(d *definition.Domain, c *event.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = narrate.Change(s.w, d, c, s.style) // a closed terminal must not stop the work
}

func (s *story) command(_ *definition.Domain, before, r *saga.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = narrate.Command(s.w, before, r, s.style) // as above
}
