package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// From says where to begin to read a topic.
type From struct {
	end     bool
	offsets map[int32]int64
}

// Start reads from the first record there is.
func Start() From { return From{} }

// End reads what is written from now on.
func End() From { return From{end: true} }

// Offsets reads each partition from the offset given; partitions that are not
// named are read from their start.
func Offsets(m map[int32]int64) From { return From{offsets: m} }

// Tail reads the committed records of a topic without a group, in order per
// partition, and calls fn for each until ctx ends, which gives nil, or fn gives
// an error. An offset that is no longer there is an error.
func (e *Engine) Tail(ctx context.Context, topic string, from From, fn func(Record) error) error {
	partitions, err := e.kafka.partitions(ctx, topic)
	if err != nil {
		return err
	}
	at := map[int32]kgo.Offset{}
	// The end is looked up now, so that nothing written after the call is missed.
	var ends map[int32]int64
	if from.end {
		if ends, err = e.EndOffsets(ctx, topic); err != nil {
			return err
		}
	}
	for _, p := range partitions {
		o, named := from.offsets[p]
		switch {
		case from.end:
			at[p] = kgo.NewOffset().At(ends[p])
		case named:
			at[p] = kgo.NewOffset().At(o)
		default:
			at[p] = kgo.NewOffset().AtStart()
		}
	}
	cl, err := kgo.NewClient(e.cfg.clientOptions("tail",
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, fe := range fs.Errors() {
			if !errors.Is(fe.Err, context.Canceled) {
				return fmt.Errorf("tail %s/%d: %w", fe.Topic, fe.Partition, fe.Err)
			}
		}
		for it := fs.RecordIter(); !it.Done(); {
			if err := fn(recordOf(it.Next())); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}
