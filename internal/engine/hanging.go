package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// openTransaction is one that keeps a partition's readers from going on.
type openTransaction struct {
	producer int64
	epoch    int16
	from     int64 // the offset of its first record in the partition
}

// String is in the words of kafka-transactions.sh, which can end one.
func (o openTransaction) String() string {
	return fmt.Sprintf("producer-id %d, producer-epoch %d, start-offset %d", o.producer, o.epoch, o.from)
}

// openTransactions gives those that are open in a partition, by its leader.
func (k *kafka) openTransactions(ctx context.Context, topic string, partition int32) (open []openTransaction, err error) {
	var of kadm.TopicsSet
	of.Add(topic, partition)
	described, err := k.adm.DescribeProducers(ctx, of)
	if err != nil {
		return nil, err
	}
	for _, p := range described.SortedPartitions() {
		if p.Err != nil {
			return nil, p.Err
		}
	}
	described.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 {
			open = append(open, openTransaction{p.ProducerID, p.ProducerEpoch, p.CurrentTxnStartOffset})
		}
	})
	return open, nil
}

// patience is for how long a log that is recovered may stand at an open
// transaction before that is told: ours would have ended long ago.
func (c *Config) patience() time.Duration { return 2*c.TransactionTimeout + c.lateTransactions }

// tellHanging warns that recovery has stood at an offset for so long: whoever
// operates the cluster may have to end a transaction that hangs, since nobody
// else does. A broker whose coordinator forgot one leaves it so (KAFKA-20734).
func (r *replica) tellHanging(ctx context.Context, offset int64, stood time.Duration) {
	attrs := []any{"partition", r.partition, "offset", offset, "stood", stood.Round(time.Second)}
	switch open, err := r.table.engine.kafka.openTransactions(ctx, r.table.topic, r.partition); {
	case ctx.Err() != nil:
		return
	case err != nil:
		attrs = append(attrs, "error", err)
	default:
		attrs = append(attrs, "open", fmt.Sprint(open))
	}
	r.table.log.Warn("the table waits for a transaction that is open in its log; if it hangs, end it with kafka-transactions.sh abort", attrs...)
}
