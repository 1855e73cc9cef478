package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/app"
	"github.com/touchstone-platform/touchstone/internal/door"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/registry"
	"github.com/touchstone-platform/touchstone/topology"
)

// system is a Touchstone with everything in this process.
type system struct {
	app        *app.App
	door       *door.Door
	engine     *engine.Engine
	reads      api.Domain
	intakes    []*door.Intake // in the order of speakers
	readyAfter time.Duration
	stop       func() error
}

// start runs domains as `touchstone dev` does, and waits until all is ready.
func start(ctx context.Context, dir string, domains []*definition.Domain, partitions int) (*system, error) {
	o := app.DevOptions{Dir: dir, Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}
	o.Domains, o.Topology, o.Version = domains, topology.Defaults(), "bench"
	o.Topology.Partitions = partitions
	o.Secrets = func(ref string) (string, error) { return "", fmt.Errorf("secret %s is not set", ref) }
	o.Limits = api.DefaultLimits()
	running := make(chan *app.App, 1)
	o.Running = func(a *app.App) { running <- a }

	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- app.Dev(ctx, o) }()
	s := &system{}
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	select {
	case s.app = <-running:
	case err := <-ended:
		cancel()
		return nil, errors.Join(err, errors.New("it ended before it was ready"))
	}
	s.readyAfter = time.Since(began)
	s.door, s.engine = s.app.Door(), s.app.Engine()
	if len(domains) != 1 || domains[0].Name != domainName {
		return s, nil
	}
	s.reads, _ = s.app.Reads(domainName)
	for _, sp := range speakers() {
		i, err := s.door.Intake(domainName, sp.name)
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
		s.intakes = append(s.intakes, i)
	}
	return s, nil
}

// samplesStart measures the start of the sample domains in an empty folder,
// and again after a stop in good order.
func samplesStart(ctx context.Context, dir string) (cold, warm time.Duration, err error) {
	for _, took := range []*time.Duration{&cold, &warm} {
		domains, err := registry.Embedded(builtin.Kinds())
		if err != nil {
			return 0, 0, err
		}
		s, err := start(ctx, dir, domains, topology.Defaults().Partitions)
		if err != nil {
			return 0, 0, err
		}
		*took = s.readyAfter
		if err := s.stop(); err != nil {
			return 0, 0, err
		}
	}
	return cold, warm, nil
}

// take brings a delivery through the door: as over HTTP, but without HTTP.
func (s *system) take(ctx context.Context, d delivery, done func(journal.ID, error)) error {
	i := s.intakes[d.source]
	entry, err := i.Connector.(connectors.Receiver).Receive(connectors.Delivery{Header: header, Body: d.body, Now: time.Now()})
	if err != nil {
		return err
	}
	return s.door.TakeAsync(ctx, i, envelope.DefaultTenant, entry, envelope.Cause{}, done)
}

var header = http.Header{"Content-Type": {"application/json"}}

// outcomes is how many outcomes the view has taken in since the start.
func (s *system) outcomes() int64 {
	for _, v := range s.engine.Status().Views {
		if v.Topic == topology.Outcomes(domainName) {
			return v.Records
		}
	}
	return 0
}

// final tells what became of a delivery, if that is visible.
func (s *system) final(id string) (journal.Outcome, bool, error) {
	st, ok, err := s.reads.Outcomes.Status(id)
	if err != nil || !ok || !st.Final {
		return journal.Outcome{}, false, err
	}
	o := journal.Outcome{Disposition: st.Disposition}
	if len(st.Signals) == 1 {
		o = st.Signals[0]
	}
	return o, true, nil
}
