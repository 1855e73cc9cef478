package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Record is a record as read from Kafka.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte // nil if the record has none
	Value     []byte // nil for a tombstone
	// Headers as on the wire; the last of equal names wins.
	Headers map[string][]byte
	Time    envelope.Instant
}

func recordOf(r *kgo.Record) Record {
	return Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Key: r.Key, Value: r.Value, Headers: headersOf(r), Time: envelope.At(r.Timestamp),
	}
}

func headersOf(r *kgo.Record) map[string][]byte {
	if len(r.Headers) == 0 {
		return nil
	}
	m := make(map[string][]byte, len(r.Headers))
	for _, h := range r.Headers {
		m[h.Key] = h.Value
	}
	return m
}

// ReadAt reads one committed record by its position. A position that has no
// record (not written yet, deleted by retention, aborted, or taken by a
// transaction marker) is a failure of kind NotFound.
func (e *Engine) ReadAt(ctx context.Context, topic string, partition int32, offset int64) (Record, error) {
	absent := func(err error) error {
		return &failure.Error{Op: "read", Subject: fmt.Sprintf("%s/%d@%d", topic, partition, offset), Kind: failure.NotFound, Err: err}
	}
	if offset < 0 {
		return Record{}, absent(errors.New("no such position"))
	}
	for {
		fp, _, err := e.kafka.fetch(ctx, topic, partition, offset, e.cfg.FetchMaxBytes)
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange), errors.Is(err, kerr.UnknownTopicOrPartition):
			return Record{}, absent(err)
		case errors.Is(err, kerr.NotLeaderForPartition), errors.Is(err, kerr.FencedLeaderEpoch):
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			if ctx.Err() == nil {
				continue
			}
		}
		if err != nil {
			return Record{}, fmt.Errorf("read %s/%d@%d: %w", topic, partition, offset, err)
		}
		if len(fp.Records) == 0 || fp.Records[0].Offset != offset {
			return Record{}, absent(errors.New("no record at this position"))
		}
		return recordOf(fp.Records[0]), nil
	}
}

// fetch reads once, committed records only, without waiting. next is the
// offset behind everything that was looked at, invisible records included.
func (k *kafka) fetch(ctx context.Context, topic string, partition int32, offset int64, maxBytes int32) (fp kgo.FetchPartition, next int64, err error) {
	r := k.reader(topic, partition, offset)
	fp, err = r.read(ctx, maxBytes)
	return fp, r.next, err
}

// logReader reads one partition of a log by one request at a time, committed
// records only, without waiting for what is not there yet.
type logReader struct {
	k         *kafka
	topic     string
	partition int32
	// next is the offset behind everything that was looked at, invisible
	// records included.
	next int64

	known  bool // where the partition is
	id     [16]byte
	leader int32
	// sure: id was given by who reads, and no other topic of the name will do.
	sure bool
}

var errRecreated = errors.New("the topic was deleted and created again")

func (k *kafka) reader(topic string, partition int32, offset int64) *logReader {
	return &logReader{k: k, topic: topic, partition: partition, next: offset}
}

// read gives what comes next, at most about maxBytes of it but at least one
// batch if there is any. After an error the same is read again.
func (r *logReader) read(ctx context.Context, maxBytes int32) (fp kgo.FetchPartition, err error) {
	if err := r.find(ctx); err != nil {
		return fp, err
	}
	defer func() { r.known = r.known && err == nil }()
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MinBytes, req.MaxBytes = -1, 0, maxBytes
	req.IsolationLevel, req.SessionEpoch = 1, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = r.topic, r.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = r.partition, r.next, maxBytes, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	kresp, err := r.k.cl.Broker(int(r.leader)).RetriableRequest(ctx, req)
	if err != nil {
		return fp, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fp, err
	}
	if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
		return fp, nil
	}
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: r.next, IsolationLevel: kgo.ReadCommitted(), Topic: r.topic, Partition: r.partition,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if fp.Err == nil {
		r.next = next
	}
	return fp, fp.Err
}

// find looks up who leads the partition, unless that is known.
func (r *logReader) find(ctx context.Context) error {
	if r.known {
		return nil
	}
	d, err := r.k.detail(ctx, r.topic)
	if err != nil {
		return err
	}
	p, ok := d.Partitions[r.partition]
	if !ok {
		return kerr.UnknownTopicOrPartition
	}
	if r.sure && d.ID != r.id {
		return fmt.Errorf("topic %s: %w", r.topic, errRecreated)
	}
	r.known, r.id, r.leader = true, d.ID, p.Leader
	return nil
}
