package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Ping tells whether the cluster answers. The error names the addresses.
func (e *Engine) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := e.kafka.cl.Ping(ctx); err != nil {
		return fmt.Errorf("no Kafka broker answers at %s: %w", strings.Join(e.cfg.Brokers, ", "), err)
	}
	return nil
}

// WaitReady waits, with backoff, until the cluster answers. It logs each
// failure and tells it to failed, which may be nil. It gives the last failure
// if ctx ends first.
func (e *Engine) WaitReady(ctx context.Context, failed func(err error, next time.Duration)) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 200*time.Millisecond, 10*time.Second
	for {
		err := e.Ping(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		d := wait.NextBackOff()
		e.cfg.Logger.Warn("waiting for Kafka", "error", err, "next", d.Round(time.Millisecond))
		if failed != nil {
			failed(err, d)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(d):
		}
	}
}
