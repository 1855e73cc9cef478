package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Appender writes records outside of processors: the door to the journal, and
// whatever else enters from outside. A record is acknowledged when all in-sync
// replicas have it; retries do not double it. It is safe for concurrent use.
type Appender struct {
	cl       *kgo.Client
	appended *prometheus.CounterVec
}

// NewAppender connects an appender. The caller closes it.
func (e *Engine) NewAppender() (*Appender, error) {
	cl, err := kgo.NewClient(e.cfg.clientOptions("appender",
		kgo.RecordPartitioner(byOrder()),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedBytes(64<<20),
		kgo.MaxBufferedRecords(100_000),
		kgo.RecordDeliveryTimeout(2*time.Minute),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return &Appender{cl: cl, appended: e.metrics.appended}, nil
}

// Append writes one record and waits until it is safe. An error that is due to
// the end of ctx leaves open whether it was written.
func (a *Appender) Append(ctx context.Context, topic, key string, value []byte, headers map[string][]byte) (partition int32, offset int64, err error) {
	type answer struct {
		partition int32
		offset    int64
		err       error
	}
	done := make(chan answer, 1)
	a.AppendAsync(ctx, topic, key, value, headers, func(p int32, o int64, err error) { done <- answer{p, o, err} })
	select {
	case r := <-done:
		return r.partition, r.offset, r.err
	case <-ctx.Done():
		return -1, -1, fmt.Errorf("append to %s: %w", topic, ctx.Err())
	}
}

// AppendAsync writes one record and calls done, which must not block, when it
// is safe or has failed. It waits while too much is under way. Records of
// equal key are kept in the order of the calls.
func (a *Appender) AppendAsync(ctx context.Context, topic, key string, value []byte, headers map[string][]byte, done func(partition int32, offset int64, err error)) {
	a.cl.Produce(ctx, newRecord(topic, key, value, headers), func(r *kgo.Record, err error) {
		if err != nil {
			done(-1, -1, fmt.Errorf("append to %s: %w", topic, err))
			return
		}
		a.appended.WithLabelValues(topic).Inc()
		done(r.Partition, r.Offset, nil)
	})
}

// Flush waits until everything appended so far is safe or has failed.
func (a *Appender) Flush(ctx context.Context) error { return a.cl.Flush(ctx) }

// Close ends the appender; what is under way fails.
func (a *Appender) Close() { a.cl.Close() }
