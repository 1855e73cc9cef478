package kafka_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/connectors/kafka"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// billing is a back end that reads requests and answers them.
type billing struct {
	addrs []string
	asked atomic.Int64
}

func start(t *testing.T) *billing {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "requests", "replies", "told"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := &billing{addrs: c.ListenAddrs()}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.ConsumeTopics("requests"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { b.answer(cl, r) })
		}
	}()
	t.Cleanup(func() { stop(); cl.Close(); <-done })
	return b
}

func (b *billing) answer(cl *kgo.Client, r *kgo.Record) {
	b.asked.Add(1)
	out := &kgo.Record{Topic: "replies", Value: r.Value}
	for _, h := range r.Headers {
		if h.Key == "correlationId" {
			out.Headers = append(out.Headers, h)
		}
	}
	switch v := string(r.Value); {
	case strings.Contains(v, "slow"):
		return
	case strings.Contains(v, "bad"):
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: "failure", Value: []byte("conflict")})
	case strings.Contains(v, "strange"):
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: "failure", Value: []byte("odd")})
	case strings.Contains(v, "garbage"):
		out.Value = []byte("{")
	}
	cl.Produce(context.Background(), out, nil)
}

func connection(b *billing, set map[string]any) *definition.Connection {
	s := map[string]any{"brokers": []any{b.addrs[0]}, "replies": "replies"}
	for k, v := range set {
		s[k] = v
	}
	return &definition.Connection{Name: "billing", Connector: "kafka", Settings: s, Operations: []*definition.Operation{
		{Name: "ask", Settings: map[string]any{"topic": "requests", "key": "args.id", "reply": true, "headers": map[string]any{"kind": `"test"`, "none": "args.none"}}},
		{Name: "tell", Settings: map[string]any{"topic": "told"}},
		{Name: "nowhere", Settings: map[string]any{"topic": "nosuchtopic"}},
	}}
}

func call(op, id string) connectors.Call {
	return connectors.Call{Operation: op, Key: "cmd-1/s/do/" + id, Attempt: 1, Args: map[string]any{"id": id}}
}

func TestConformance(t *testing.T) {
	b := start(t)
	connectortest.RunBackend(t, kafka.Kind{}, expression.Compile, []connectortest.BackendCase{{
		Name: "request and reply", Connection: connection(b, nil), Asked: func() int { return int(b.asked.Load()) },
		Good: []connectors.Call{call("ask", "7")}, Bad: []connectors.Call{call("ask", "bad"), call("ask", "garbage"), {Operation: "ask", Key: "k"}}, Slow: []connectors.Call{call("ask", "slow")},
	}})
}

func TestAnswers(t *testing.T) {
	b := start(t)
	back, err := kafka.Kind{}.Connect(connection(b, nil), connectors.Options{Secrets: connectortest.Secrets, Compile: expression.Compile})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if r, err := back.Call(t.Context(), call("ask", "7")); err != nil || r.Output != `{"id":"7"}` {
		t.Errorf("%s, %v", r.Output, err)
	}
	if r, err := back.Call(t.Context(), call("tell", "7")); err != nil || !strings.Contains(string(r.Output), `"topic":"told"`) {
		t.Errorf("%s, %v", r.Output, err)
	}
	for _, c := range []struct {
		id        string
		kind      failure.Kind
		uncertain bool
		want      string
	}{
		{"bad", failure.Conflict, false, `the back end answers {"id":"bad"}`}, {"strange", failure.Poison, true, `found the kind of failure "odd"`},
		{"garbage", failure.Poison, true, "the reply is no JSON"},
	} {
		_, err := back.Call(t.Context(), call("ask", c.id))
		var ce *connectors.CallError
		if !errors.As(err, &ce) || failure.KindOf(err) != c.kind || ce.Uncertain != c.uncertain || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %+v", c.id, err, ce)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var ce *connectors.CallError
	if _, err := back.Call(ctx, call("ask", "slow")); !errors.As(err, &ce) || !ce.Uncertain || failure.KindOf(err) != failure.Transient {
		t.Errorf("no reply: %v", err)
	}
}

func TestSettings(t *testing.T) {
	c := connection(&billing{addrs: []string{"nowhere"}}, map[string]any{"sasl": map[string]any{"mechanism": "magic"}, "tls": 1})
	c.Operations[0].Settings = map[string]any{"topic": "", "value": "args.", "reply": true}
	c.Settings["replies"] = ""
	_, err := kafka.Kind{}.Connect(c, connectors.Options{Secrets: connectortest.Secrets, Compile: expression.Compile})
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var keys []string
	for _, w := range wrong {
		keys = append(keys, w.Key)
	}
	if got, want := strings.Join(keys, " "), "brokers[0] sasl.mechanism tls operations.ask.reply operations.ask.topic operations.ask.value"; got != want {
		t.Errorf("%s\nexpected\n%s", got, want)
	}
}
