package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/internal/config"
	"github.com/touchstone-platform/touchstone/internal/embedded/datadir"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
)

// Configure gives the options that a configuration asks for, without the
// listener, the logger and what else belongs to one process.
func Configure(c *config.Config, domains []*definition.Domain) (Options, error) {
	clients, err := KafkaOptions(c.Kafka)
	if err != nil {
		return Options{}, err
	}
	o := Options{
		Domains: domains, Dir: c.Data.Dir, Brokers: c.Kafka.Brokers, Clients: clients,
		Registry: codecs.RegistryOptions{URL: c.Registry.URL, Username: c.Registry.Auth.User, Password: c.Registry.Auth.Password},
		Topology: topology.Defaults(),
		Engine: engine.Config{
			CommitInterval: c.Engine.CommitInterval, CacheBytes: int64(c.Engine.CacheBytes), StateCacheBytes: orNone(c.Engine.StateCacheBytes),
		},
		Standby: c.Engine.Standby,
		Limits:  api.DefaultLimits(),
	}
	for _, r := range Roles() {
		if c.HasRole(r) {
			o.Roles = append(o.Roles, r)
		}
	}
	o.Topology.Partitions, o.Topology.Replication, o.Topology.DedupeWindow = c.Topics.Partitions, c.Topics.Replication, c.Dedupe.Window
	o.Topology.CommandRetention = c.Commands.Keep
	o.Limits.Body = int64(c.API.MaxBodyBytes)
	return o, nil
}

// orNone gives the engine's word for none where the configuration says 0: its
// own 0 is a default.
func orNone(b config.Bytes) int64 {
	if b == 0 {
		return -1
	}
	return int64(b)
}

// Serve runs the roles of a process against Kafka and a schema registry until
// ctx ends. While they cannot be reached it waits, and says so in the log and
// at /readyz.
func Serve(ctx context.Context, listen string, o Options) (err error) {
	lock, err := lockData(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	ln, err := listenAPI(listen)
	if err != nil {
		return err
	}
	defer ln.Close() // Run closes it too; this is for what fails before
	o.Listener = ln
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	a, err := Prepare(o)
	if err != nil {
		return err
	}
	began := time.Now()
	a.opts.OnReady = func() {
		a.opts.Log.Info("ready", "after", time.Since(began).Round(time.Millisecond), "listen", ln.Addr().String(), "roles", fmt.Sprint(o.Roles))
	}
	a.opts.Log.Info("starting", "listen", ln.Addr().String(), "brokers", fmt.Sprint(o.Brokers), "registry", a.registry.URL(), "version", o.Version)
	return a.Run(ctx)
}

// lockData makes sure that one process at a time uses a data directory.
func lockData(dir string) (*datadir.Lock, error) {
	return datadir.Acquire(filepath.Clean(dir))
}
