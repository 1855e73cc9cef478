// Package kafka is the kind of back end that is asked by records: each call
// writes one, and waits for the answer if the operation has a topic for answers.
//
// A reply is told from others by the header correlationId, which has the call's
// idempotency key and attempt.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

// Kind is the kafka kind; the zero value is ready.
type Kind struct{}

// Name is "kafka".
func (Kind) Name() string { return "kafka" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "A back end that is asked by records of a Kafka topic, and may answer by those of another."
}

// Headers of requests and replies.
const (
	headerCorrelation = "correlationId"
	headerKey         = "idempotencyKey"
	headerReplyTo     = "replyTo"
	headerFailure     = "failure"
)

// Settings of a connection.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "brokers", Form: "list of host:port", Default: "required", Doc: "brokers to begin with"},
		{Key: "replies", Form: "topic", Default: "", Doc: "topic that the back end answers to; each process reads all of it from its start on, so it should be short-lived. Needed by operations with reply"},
		{Key: "sasl.mechanism", Form: "none | plain | scram-sha-256 | scram-sha-512", Default: "none", Doc: "how the brokers know who asks"},
		{Key: "sasl.password", Form: "secret reference", Default: "required with a mechanism", Doc: "password at the brokers"},
		{Key: "sasl.user", Form: "string", Default: "required with a mechanism", Doc: "user at the brokers"},
		{Key: "tls", Form: "bool", Default: "false", Doc: "connect with TLS"},
	}
}

// OperationSettings are those of one operation.
func (Kind) OperationSettings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "headers", Form: "map of expressions over args, key", Default: "{}", Doc: "headers of the record; one that is missing is left out"},
		{Key: "key", Form: "expression over args, key", Default: "key", Doc: "key of the record: records of equal key stay in order"},
		{Key: "reply", Form: "bool", Default: "false", Doc: "wait for the answer: a record of the topic replies whose header correlationId is that of the request. Its value is JSON; its header failure, if it is there, is a kind of failure"},
		{Key: "topic", Form: "topic", Default: "required", Doc: "topic that the record is written to"},
		{Key: "value", Form: "expression over args, key", Default: "args", Doc: "value of the record, written as JSON; null for none"},
	}
}

type operation struct {
	topic      string
	key, value definition.Expr
	headers    map[string]definition.Expr
	reply      bool
}

type backend struct {
	name       string
	options    []kgo.Opt
	replies    string
	operations map[string]operation

	connect sync.Once
	cl      *kgo.Client
	failed  error
	stop    context.CancelFunc
	reading chan struct{}
	ready   chan struct{} // closed when replies are read from their end

	mu      sync.Mutex
	waiting map[string]chan *kgo.Record
}

// Connect is part of connectors.BackendKind.
func (Kind) Connect(c *definition.Connection, o connectors.Options) (connectors.Backend, error) {
	r := settings.Read(c.Settings)
	b := &backend{name: c.Name, operations: map[string]operation{}, waiting: map[string]chan *kgo.Record{}, reading: make(chan struct{}), ready: make(chan struct{})}
	brokers := r.Strings("brokers")
	if len(brokers) == 0 {
		r.Missing("brokers", "at least one host:port")
	}
	for i, x := range brokers {
		if _, _, err := net.SplitHostPort(x); err != nil {
			r.Wrong("brokers["+strconv.Itoa(i)+"]", x, "host:port")
		}
	}
	b.replies = r.String("replies", "")
	b.options = []kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.ClientID("touchstone-" + c.Name), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(time.Minute),
	}
	if r.Bool("tls", false) {
		b.options = append(b.options, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if m, err := mechanism(r.Part("sasl"), o.Secrets); err == nil && m != nil {
		b.options = append(b.options, kgo.SASL(m))
	}
	wrong, _ := r.Err().(connectors.SettingErrors)
	for _, op := range c.Operations {
		x, bad := b.operation(op, o)
		for _, w := range bad {
			w.Key = "operations." + op.Name + "." + w.Key
			wrong = append(wrong, w)
		}
		b.operations[op.Name] = x
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return b, nil
}

func mechanism(r *settings.Reader, secrets connectors.Secrets) (sasl.Mechanism, error) {
	kind := r.Choice("mechanism", "none", "none", "plain", "scram-sha-256", "scram-sha-512")
	user, ref := r.String("user", ""), r.String("password", "")
	if kind == "none" {
		return nil, nil
	}
	if user == "" {
		r.Missing("user", "the user at the brokers")
	}
	if ref == "" {
		r.Missing("password", "a secret reference such as env:TOUCHSTONE_SECRET_KAFKA")
		return nil, nil
	}
	password, err := secrets(ref)
	if err != nil {
		r.Wrong("password", ref, "a secret reference: "+err.Error())
		return nil, err
	}
	switch kind {
	case "plain":
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	}
	return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
}

func (b *backend) operation(op *definition.Operation, o connectors.Options) (operation, connectors.SettingErrors) {
	r := settings.Read(op.Settings)
	x := operation{topic: r.String("topic", ""), headers: map[string]definition.Expr{}, reply: r.Bool("reply", false)}
	if x.topic == "" {
		r.Missing("topic", "the topic that the record is written to")
	}
	if x.reply && b.replies == "" {
		r.Wrong("reply", true, "the setting replies of the connection, or no reply")
	}
	expr := func(r *settings.Reader, key, byDefault string) definition.Expr {
		text := r.String(key, byDefault)
		if text == "" {
			return nil
		}
		e, err := o.Compile(text, "args", "key")
		if err != nil {
			r.Wrong(key, text, "an expression over args, key: "+err.Error())
		}
		return e
	}
	x.key, x.value = expr(r, "key", "key"), expr(r, "value", "args")
	h := r.Part("headers")
	for _, name := range h.Keys() {
		if e := expr(h, name, ""); e != nil {
			x.headers[name] = e
		}
	}
	wrong, _ := r.Err().(connectors.SettingErrors)
	return x, wrong
}

// open connects at the first call.
func (b *backend) open() error {
	b.connect.Do(func() {
		if b.cl, b.failed = kgo.NewClient(b.options...); b.failed != nil {
			return
		}
		ctx, stop := context.WithCancel(context.Background())
		b.stop = stop
		go b.read(ctx)
	})
	return b.failed
}

// read hands replies to who waits for them. Where the topic of replies ends is
// looked up before the first request is written, so that none is missed.
func (b *backend) read(ctx context.Context) {
	defer close(b.reading)
	if b.replies == "" {
		return
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ends, err := kadm.NewClient(b.cl).ListEndOffsets(ctx, b.replies)
		if err == nil {
			err = ends.Error()
		}
		if err == nil && len(ends[b.replies]) > 0 {
			from := map[int32]kgo.Offset{}
			for p, o := range ends[b.replies] {
				from[p] = kgo.NewOffset().At(o.Offset)
			}
			b.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{b.replies: from})
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	close(b.ready)
	for ctx.Err() == nil {
		b.take(b.cl.PollFetches(ctx))
	}
}

func (b *backend) take(fs kgo.Fetches) {
	fs.EachRecord(func(r *kgo.Record) {
		id := ""
		for _, h := range r.Headers {
			if h.Key == headerCorrelation {
				id = string(h.Value)
			}
		}
		b.mu.Lock()
		to := b.waiting[id]
		delete(b.waiting, id)
		b.mu.Unlock()
		if to != nil {
			to <- r
		}
	})
}

// Close is part of connectors.Backend.
func (b *backend) Close() error {
	b.connect.Do(func() { b.failed = errors.New("the connection is closed") })
	if b.cl != nil {
		b.stop()
		b.cl.Close()
		<-b.reading
	}
	return nil
}

// Call is part of connectors.Backend.
func (b *backend) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	subject := b.name + "." + c.Operation
	op, ok := b.operations[c.Operation]
	if !ok {
		return connectors.Reply{}, failure.New(failure.NotFound, "call", b.name, "no operation %q", c.Operation)
	}
	if err := b.open(); err != nil {
		return connectors.Reply{}, failure.Wrap(failure.Transient, "call", subject, err)
	}
	id := c.Key + "/" + strconv.Itoa(int(c.Attempt))
	rec, err := b.record(op, c, id)
	if err != nil {
		return connectors.Reply{}, failure.Wrap(failure.Validation, "call", subject, err)
	}
	var answer chan *kgo.Record
	if op.reply {
		select {
		case <-b.ready:
		case <-ctx.Done():
			return connectors.Reply{}, failure.New(failure.Transient, "call", subject, "the topic of replies cannot be read")
		}
		answer = make(chan *kgo.Record, 1)
		b.mu.Lock()
		b.waiting[id] = answer
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			delete(b.waiting, id)
			b.mu.Unlock()
		}()
	}
	if err := b.cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return connectors.Reply{}, &connectors.CallError{Err: failure.Wrap(kindOf(err), "call", subject, fmt.Errorf("write to %s: %w", op.topic, err)), Uncertain: kindOf(err) == failure.Transient}
	}
	if answer == nil {
		out := fmt.Sprintf(`{"offset":%d,"partition":%d,"topic":%s}`, rec.Offset, rec.Partition, canonical.String(op.topic))
		return connectors.Reply{Output: canonical.Value(out)}, nil
	}
	select {
	case r := <-answer:
		return replyOf(subject, r)
	case <-ctx.Done():
		return connectors.Reply{}, &connectors.CallError{Err: failure.New(failure.Transient, "call", subject, "no reply: %w", ctx.Err()), Uncertain: true}
	}
}

// record makes the record of a call.
func (b *backend) record(op operation, c connectors.Call, id string) (*kgo.Record, error) {
	vars := map[string]any{"args": c.Args, "key": c.Key}
	rec := &kgo.Record{Topic: op.topic, Headers: []kgo.RecordHeader{
		{Key: headerCorrelation, Value: []byte(id)}, {Key: headerKey, Value: []byte(c.Key)}, {Key: "content-type", Value: []byte("application/json")},
	}}
	if op.reply {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: headerReplyTo, Value: []byte(b.replies)})
	}
	if c.Cause.Traceparent != "" {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: "traceparent", Value: []byte(c.Cause.Traceparent)})
	}
	v, err := op.key.Eval(vars)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	rec.Key = []byte(text(v))
	for name, e := range op.headers {
		v, err := e.Eval(vars)
		if errors.Is(err, definition.ErrMissing) || err == nil && v == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(text(v))})
	}
	if v, err = op.value.Eval(vars); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if v != nil {
		json, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
		if err != nil {
			return nil, fmt.Errorf("value: %w", err)
		}
		rec.Value = []byte(json)
	}
	return rec, nil
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return fmt.Sprint(v)
}

// replyOf reads a reply.
func replyOf(subject string, r *kgo.Record) (connectors.Reply, error) {
	kind := ""
	for _, h := range r.Headers {
		if h.Key == headerFailure {
			kind = string(h.Value)
		}
	}
	var v any
	if len(r.Value) > 0 {
		var err error
		if v, err = connectors.DecodeJSON(r.Value, connectors.DefaultDepth); err != nil {
			return connectors.Reply{}, &connectors.CallError{Err: failure.New(failure.Poison, "call", subject, "the reply is no JSON: %w", err), Uncertain: kind == ""}
		}
	}
	out, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(v)
	if err != nil {
		return connectors.Reply{}, &connectors.CallError{Err: failure.New(failure.Poison, "call", subject, "the reply cannot be kept: %w", err), Uncertain: kind == ""}
	}
	if kind == "" {
		return connectors.Reply{Output: out}, nil
	}
	for _, k := range failure.Kinds() {
		if strings.EqualFold(string(k), kind) {
			return connectors.Reply{}, &connectors.CallError{Err: failure.New(k, "call", subject, "the back end answers %.200s", r.Value), Answer: out}
		}
	}
	return connectors.Reply{}, &connectors.CallError{Err: failure.New(failure.Poison, "call", subject, "found the kind of failure %.40q, expected one of %v", kind, failure.Kinds()), Uncertain: true}
}

// kindOf says what an error of writing means.
func kindOf(err error) failure.Kind {
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return failure.Auth
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTopicException):
		return failure.Validation
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return failure.NotFound
	}
	return failure.Transient
}
