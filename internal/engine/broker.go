package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kmsg"
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
			e.warnOfOldBrokers(ctx)
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

// markersTell is the version of WriteTxnMarkers from which a broker can tell a
// marker that comes late from one for the transaction under way.
const markersTell = 2

// warnOfOldBrokers logs which brokers may commit what was to be aborted.
func (e *Engine) warnOfOldBrokers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch old, err := e.oldBrokers(ctx); {
	case err != nil:
		e.cfg.Logger.Debug("what the brokers are able to is not known", "error", err)
	case len(old) > 0:
		e.cfg.Logger.Warn("brokers take a late marker for one of the transaction under way, so that what is aborted may be read; better is Apache Kafka 4.2 or newer (KIP-1228)", "brokers", old)
	}
}

// oldBrokers gives the brokers that cannot tell markers apart.
func (e *Engine) oldBrokers(ctx context.Context) (old []int32, err error) {
	versions, err := e.kafka.adm.ApiVersions(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range versions.Sorted() {
		if most, known := v.KeyMaxVersion(kmsg.WriteTxnMarkers.Int16()); known && most < markersTell {
			old = append(old, v.NodeID)
		}
	}
	return old, nil
}
