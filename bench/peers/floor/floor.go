// Package floor is the subject that does nothing: it consumes and produces in
// transactions. What it costs is what exactly once costs on franz-go and the
// broker, before any work.
package floor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Config of the floor.
type Config struct {
	Brokers []string
	Group   string
	// Every record of In is written to Out as it is.
	In, Out string
	// Commit is the time between commits.
	Commit time.Duration
}

// Run copies until ctx ends.
func Run(ctx context.Context, c Config) error {
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("floor"),
		kgo.ConsumerGroup(c.Group),
		kgo.InstanceID("bench"),
		kgo.SessionTimeout(10*time.Second),
		kgo.ConsumeTopics(c.In),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.TransactionalID(c.Group+"-bench"),
		kgo.TransactionTimeout(10*time.Second),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.FetchMaxBytes(50<<20),
		kgo.FetchMaxPartitionBytes(10<<20),
	)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	defer s.Close()
	for {
		if err := step(ctx, s, c); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("floor: %w", err)
		}
	}
}

// enough records end a transaction before its time, as they do in Touchstone.
const enough = 20_000

// step is one transaction.
func step(ctx context.Context, s *kgo.GroupTransactSession, c Config) error {
	fetches := s.PollRecords(ctx, enough)
	if err := fetches.Err0(); err != nil {
		return err
	}
	if err := s.Begin(); err != nil {
		return err
	}
	var failed error
	promise := func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) } // one at a time
	until, records := time.Now().Add(c.Commit), 0
	for {
		records += fetches.NumRecords()
		fetches.EachRecord(func(r *kgo.Record) {
			s.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: c.Out, Key: r.Key, Value: r.Value}, promise)
		})
		left := time.Until(until)
		if left <= 0 || records >= enough || ctx.Err() != nil {
			break
		}
		poll, cancel := context.WithTimeout(ctx, left)
		fetches = s.PollRecords(poll, enough)
		cancel()
	}
	end := context.WithoutCancel(ctx)
	if _, err := s.End(end, kgo.TryCommit); err != nil {
		return err
	}
	return failed
}
