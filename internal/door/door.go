// Package door takes deliveries in: it verifies and identifies each with the
// connector of its source, appends it to the journal, and only then says that
// it was taken. Webhooks, files and change streams all come through it.
//
// It does not interpret deliveries beyond what identifies and orders them; the
// inbox does.
package door

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/domain/jcs"
	"github.com/touchstone-platform/touchstone/domain/journal"
	"github.com/touchstone-platform/touchstone/internal/failpoint"
	"github.com/touchstone-platform/touchstone/topology"
)

// Appender writes to the journal. It reports success only when the record is
// durable as the broker promises with acks=all.
type Appender interface {
	// AppendAsync writes one record, to the partition that its order hashes
	// to, and calls done once. It blocks while too many appends are under way.
	AppendAsync(ctx context.Context, topic, key, order string, value []byte, done func(partition int32, offset int64, err error))
}

// Encoder turns a *journal.Entry into bytes.
type Encoder interface {
	Encode(value any) ([]byte, error)
}

// MaxEntry is the largest journal record, key and encoded entry, in bytes. It
// leaves room below Kafka's default limit of 1,048,588 for what a dead letter
// adds to it.
const MaxEntry = 1_000_000

// maxVendorID is the longest vendor event id that is kept as it is; it becomes
// part of a record key.
const maxVendorID = 256

// Intake is one source as the door sees it.
type Intake struct {
	Domain    *definition.Domain
	Source    *definition.Source
	Connector connectors.Connector

	accepted, refused atomic.Int64
}

// Counts tells how many deliveries were taken and refused since the start.
func (i *Intake) Counts() (accepted, refused int64) { return i.accepted.Load(), i.refused.Load() }

// Door takes deliveries in for any number of domains. It is safe for
// concurrent use.
type Door struct {
	intakes map[string]*Intake // by "<domain>.<source>"
	journal Appender
	entries map[string]Encoder // by domain
	log     *slog.Logger
	now     func() time.Time
	last    atomic.Int64 // the latest received-at that was given out
}

// New makes a door. entries gives the codec of each domain's journal.
func New(intakes []*Intake, journal Appender, entries map[string]Encoder, log *slog.Logger) *Door {
	d := &Door{intakes: map[string]*Intake{}, journal: journal, entries: entries, log: log, now: failpoint.Now}
	for _, i := range intakes {
		d.intakes[i.scope()] = i
	}
	return d
}

// Intake finds a source.
func (d *Door) Intake(domain, source string) (*Intake, error) {
	if i := d.intakes[domain+"."+source]; i != nil {
		return i, nil
	}
	return nil, failure.New(failure.NotFound, "take in", "source "+source, "domain %s does not declare it", domain)
}

// Receive takes one HTTP delivery. The error is a failure: NotFound for a
// source that takes no deliveries, Auth for a wrong signature, Validation for
// what cannot be a delivery at all, Transient while the journal cannot be written.
func (d *Door) Receive(ctx context.Context, domain, source, tenant string, in connectors.Delivery, cause envelope.Cause) (journal.ID, error) {
	i, err := d.Intake(domain, source)
	if err != nil {
		return journal.ID{}, err
	}
	receiver, ok := i.Connector.(connectors.Receiver)
	if !ok {
		return journal.ID{}, failure.New(failure.NotFound, "receive", "source "+source, "it is of kind %s and takes no deliveries over HTTP", i.Source.Connector)
	}
	entry, err := receiver.Receive(in)
	if err != nil {
		i.refused.Add(1)
		return journal.ID{}, err
	}
	return d.Take(ctx, i, tenant, entry, cause)
}

// Take completes an entry and appends it to the journal. An error that is due
// to the end of ctx leaves open whether it was written.
func (d *Door) Take(ctx context.Context, i *Intake, tenant string, entry *journal.Entry, cause envelope.Cause) (journal.ID, error) {
	type answer struct {
		id  journal.ID
		err error
	}
	answers := make(chan answer, 1)
	if err := d.TakeAsync(ctx, i, tenant, entry, cause, func(id journal.ID, err error) { answers <- answer{id, err} }); err != nil {
		return journal.ID{}, err
	}
	select {
	case a := <-answers:
		return a.id, a.err
	case <-ctx.Done():
		return journal.ID{}, ctx.Err()
	}
}

// TakeAsync is Take without waiting; done is called once unless TakeAsync
// itself returns an error.
func (d *Door) TakeAsync(ctx context.Context, i *Intake, tenant string, entry *journal.Entry, cause envelope.Cause, done func(journal.ID, error)) error {
	order, value, err := d.prepare(i, tenant, entry, cause)
	if err == nil {
		if n := len(entry.DedupeKey) + len(value); n > MaxEntry {
			err = failure.New(failure.Validation, "take in", i.String(), "the delivery has %d bytes with its envelope, expected at most %d", n, MaxEntry)
		}
	}
	if err != nil {
		return err
	}
	d.append(ctx, i, entry, order, value, done)
	return nil
}

// takeAny is TakeAsync for what comes in a row with others and has no sender
// who could mend it: a delivery that is too large for the journal is taken
// without its content, and becomes a dead letter that says where that is. Else
// it would hold up whatever comes behind it for ever.
func (d *Door) takeAny(ctx context.Context, i *Intake, tenant string, origin func() string, entry *journal.Entry, cause envelope.Cause, done func(journal.ID, error)) error {
	order, value, err := d.prepare(i, tenant, entry, cause)
	if n := len(entry.DedupeKey) + len(value); err == nil && n > MaxEntry {
		entry.Key, entry.Body = nil, nil // the hash of both remains
		entry.Quarantine = fmt.Sprintf("%s has %d bytes with its envelope, expected at most %d; its content is not kept", origin(), n, MaxEntry)
		value, err = d.entries[i.Domain.Name].Encode(entry)
	}
	if err != nil {
		return err
	}
	d.append(ctx, i, entry, order, value, done)
	return nil
}

func (d *Door) append(ctx context.Context, i *Intake, entry *journal.Entry, order string, value []byte, done func(journal.ID, error)) {
	if failpoint.Enabled {
		if err := failpoint.Reach(failpoint.DoorBeforeAppend, i.scope()); err != nil {
			done(journal.ID{}, unwritten(i, err))
			return
		}
	}
	d.journal.AppendAsync(ctx, topology.Journal(i.Domain.Name), entry.DedupeKey, order, value, func(p int32, o int64, err error) {
		if err != nil {
			done(journal.ID{}, unwritten(i, err))
			return
		}
		if failpoint.Enabled {
			_ = failpoint.Reach(failpoint.DoorAfterAppend, i.scope()) // it has no error
		}
		i.accepted.Add(1)
		done(journal.ID{Domain: i.Domain.Name, Partition: p, Offset: o}, nil)
	})
}

func unwritten(i *Intake, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return failure.Wrap(failure.Transient, "append to journal", topology.Journal(i.Domain.Name), err)
}

// prepare fills in what identifies and orders an entry and encodes it.
func (d *Door) prepare(i *Intake, tenant string, entry *journal.Entry, cause envelope.Cause) (order string, value []byte, err error) {
	entry.Source, entry.Tenant, entry.Cause = i.Source.Name, tenant, cause
	entry.ContentType = strings.ToValidUTF8(entry.ContentType, "\ufffd") // the sender's; Avro has no other text
	entry.ReceivedAt = d.receivedAt()
	order = i.Identify(entry)
	value, err = d.entries[i.Domain.Name].Encode(entry)
	return order, value, err
}

// Identify sets what identifies an entry whose Source, Tenant and ReceivedAt
// are set: VendorID where the source declares an expression for it, BodyHash
// and DedupeKey. It gives what the entry is ordered by.
func (i *Intake) Identify(entry *journal.Entry) (order string) {
	var vars map[string]any
	if i.Source.Dedupe.ID != nil || i.Source.OrderBy != nil {
		vars = i.first(entry)
	}
	if i.Source.Dedupe.ID != nil && vars != nil {
		// Without an id the content identifies the delivery; what is wrong
		// with it will show at the inbox.
		if id, err := i.Source.Dedupe.ID.Eval(vars); err == nil {
			entry.VendorID, _ = token(id)
			if len(entry.VendorID) > maxVendorID {
				sum := sha256.Sum256([]byte(entry.VendorID))
				entry.VendorID = "sha256:" + hex.EncodeToString(sum[:])
			}
		}
	}
	entry.Identify(connectors.Volatile(i.Source, i.Connector, entry))
	return i.order(entry, vars)
}

// order gives what the entry is ordered by: the source's declared expression,
// else the connector's own notion, else nothing but the dedupe key.
func (i *Intake) order(entry *journal.Entry, vars map[string]any) string {
	if i.Source.OrderBy != nil && vars != nil {
		if v, err := i.Source.OrderBy.Eval(vars); err == nil {
			if t, ok := token(v); ok {
				return entry.Tenant + "/" + entry.Source + "/" + t
			}
		}
	}
	if o, ok := i.Connector.(connectors.Orderer); ok && i.Source.OrderBy == nil {
		if t := o.Order(entry); t != "" {
			return entry.Tenant + "/" + entry.Source + "/" + t
		}
	}
	return entry.DedupeKey
}

// first gives the variables of the first record of an entry; nil if it cannot
// be decoded or says nothing.
func (i *Intake) first(entry *journal.Entry) map[string]any {
	records, err := i.Connector.Decode(entry)
	if err != nil || len(records) == 0 {
		return nil
	}
	vars := map[string]any(records[0])
	headers := make(map[string]any, len(entry.Headers))
	for k, v := range entry.Headers {
		headers[k] = v
	}
	vars["entry"] = map[string]any{"source": entry.Source, "tenant": entry.Tenant, "receivedAt": entry.ReceivedAt.Time(), "headers": headers}
	return vars
}

// token makes text of a key value: a string as it is, anything else as its
// canonical JSON. null and the empty string are none.
func token(v any) (string, bool) {
	switch t := v.(type) {
	case nil:
		return "", false
	case string:
		return t, t != ""
	}
	b, err := jcs.Append(nil, v)
	return string(b), err == nil
}

// receivedAt gives the time, strictly increasing within the process, so that
// deliveries taken one after the other are ordered even within a microsecond
// or while the clock is set back.
func (d *Door) receivedAt() envelope.Instant {
	for {
		last, now := d.last.Load(), d.now().UnixMicro()
		next := max(now, last+1)
		if d.last.CompareAndSwap(last, next) {
			return envelope.Instant(next)
		}
	}
}

// StreamRecord is one record of a Kafka topic that a source follows. Header
// names are in lower case.
type StreamRecord struct {
	// Origin says where the record stands, for people: "crm.customers/0 offset 17".
	Origin     func() string
	Key, Value []byte
	Tombstone  bool
	Headers    map[string]string
}

// Records takes records of a Kafka topic and waits until all of them are
// journaled. After an error some may be; taking them again makes duplicates
// that the inbox recognises.
func (d *Door) Records(ctx context.Context, i *Intake, rs []StreamRecord) error {
	stream, ok := i.Connector.(Stream)
	if !ok {
		return failure.New(failure.Poison, "follow topics", "source "+i.Source.Name, "its kind %s reads no topics", i.Source.Connector)
	}
	var wg sync.WaitGroup
	var first atomic.Pointer[error]
	for _, r := range rs {
		wg.Add(1)
		err := d.takeAny(ctx, i, envelope.DefaultTenant, func() string { return "record " + r.Origin() }, stream.Entry(r.Key, r.Value, r.Tombstone, r.Headers), causeOf(r.Headers), func(_ journal.ID, err error) {
			if err != nil {
				first.CompareAndSwap(nil, &err)
			}
			wg.Done()
		})
		if err != nil {
			first.CompareAndSwap(nil, &err)
			wg.Done()
			break
		}
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// Stream is a connector that takes records of a Kafka topic.
type Stream interface {
	Entry(key, value []byte, tombstone bool, headers map[string]string) *journal.Entry
}

// scope names an intake in failpoints.
func (i *Intake) scope() string { return i.Domain.Name + "." + i.Source.Name }

// String names an intake in messages.
func (i *Intake) String() string {
	return fmt.Sprintf("source %s of domain %s", i.Source.Name, i.Domain.Name)
}

// causeOf reads what the headers of a record say of its cause, which anyone may
// have written: what has not the form of a correlation id or a trace context is
// left out.
func causeOf(headers map[string]string) envelope.Cause {
	var c envelope.Cause
	if id := headers[envelope.HeaderCorrelation]; len(id) <= 128 && !strings.ContainsFunc(id, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		c.Correlation = id
	}
	if t, err := envelope.ParseTraceparent(strings.ToLower(headers[envelope.HeaderTraceparent])); err == nil {
		c.Traceparent = t.String()
	}
	return c
}
