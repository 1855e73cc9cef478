package peers

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lovoo/goka"

	"github.com/touchstone-platform/touchstone/bench/peers/floor"
	"github.com/touchstone-platform/touchstone/bench/peers/plaingoka"
	"github.com/touchstone-platform/touchstone/codecs"
	"github.com/touchstone-platform/touchstone/connectors/builtin"
	"github.com/touchstone-platform/touchstone/registry"
)

// RunSubject is this program as a subject; see Subject.command.
func RunSubject(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("expected %s or %s", PlainGoka, Floor)
	}
	s := Subject{Kind: args[0]}
	f := flag.NewFlagSet("subject", flag.ContinueOnError)
	brokers := f.String("brokers", "", "host:port,…")
	registryURL := f.String("registry", "", "URL")
	file := f.String("definition", "", "file")
	dir := f.String("dir", "", "folder of the state")
	commit := f.Duration("commit", 100*time.Millisecond, "between commits")
	cacheMB := f.Int64("cache", 64, "MiB")
	outcomes := f.String("outcomes", "yes", "yes or no")
	partitions := f.Int("partitions", 4, "of the topics")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch s.Kind {
	case Floor:
		return floor.Run(ctx, floor.Config{Brokers: strings.Split(*brokers, ","), Group: s.group(), In: factsTopic(), Out: changesTopic(), Commit: *commit})
	case PlainGoka:
	default:
		return fmt.Errorf("subject %q: expected %s or %s", s.Kind, PlainGoka, Floor)
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	domain, err := registry.Parse(*file, text, builtin.Kinds())
	if err != nil {
		return err
	}
	r, err := codecs.NewRegistry(codecs.RegistryOptions{URL: *registryURL})
	if err != nil {
		return err
	}
	c := plaingoka.Config{
		Brokers: strings.Split(*brokers, ","), Group: s.group(), Dir: *dir, Domain: domain, Facts: factsTopic(), Changes: changesTopic(),
		Codecs: map[string]goka.Codec{}, Commit: *commit, CacheBytes: *cacheMB << 20, Partitions: *partitions,
	}
	bindings := []codecs.Binding{{Topic: c.Facts, Record: codecs.Fact}, {Topic: s.table(), Record: codecs.Entity}, {Topic: c.Changes, Record: codecs.Change}}
	if *outcomes == "yes" {
		c.Outcomes = outcomesTopic()
		bindings = append(bindings, codecs.Binding{Topic: c.Outcomes, Record: codecs.Outcome})
	}
	p, err := codecs.OpenPlatform(ctx, r, bindings)
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range bindings {
		topic := b.Topic
		if b.Record == codecs.Entity {
			topic = c.Group
		}
		codec, err := p.Codec(b.Topic)
		errs = append(errs, err)
		c.Codecs[topic] = codec
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return plaingoka.Run(ctx, c)
}
