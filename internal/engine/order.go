package engine

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

// orderKey is under what a record's context carries what it is ordered by.
type orderKey struct{}

// AppendOrdered is AppendAsync for a record that is ordered by something else
// than its key: its partition is that of order, so that records of equal order
// stay in the order of the calls. An empty order is the key.
func (a *Appender) AppendOrdered(ctx context.Context, topic, key, order string, value []byte, headers map[string][]byte, done func(partition int32, offset int64, err error)) {
	if order != "" && order != key {
		ctx = context.WithValue(ctx, orderKey{}, order)
	}
	a.AppendAsync(ctx, topic, key, value, headers, done)
}

// byOrder partitions by what a record is ordered by, as Kafka's default
// partitioner does by key. Records without key and order go anywhere.
func byOrder() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(string) func(r *kgo.Record, n int) int {
		next := 0
		return func(r *kgo.Record, n int) int {
			if order, ok := r.Context.Value(orderKey{}).(string); ok {
				return int(Partition(order, n))
			}
			if r.Key == nil {
				next = (next + 1) % n
				return next
			}
			return int(Partition(string(r.Key), n))
		}
	})
}
