// Package simulate plays the back ends of the sample domains, so that
// `touchstone dev` shows something from the first second: a CRM whose changes
// Debezium captures, a billing system, a marketing platform and a credit
// agency for customer-management; a shop, a payment provider, a warehouse and
// a carrier for order-fulfilment.
//
// They are outsiders: they speak HTTP and the Kafka protocol like any other
// system, sign what they send, and know nothing of the program's inside. They
// behave as back ends do: they repeat themselves, say things twice, late, and
// about fields that are not theirs.
package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says where the back ends find Touchstone.
type Config struct {
	// API is the base URL, such as http://127.0.0.1:8080.
	API string
	// Brokers of the Kafka cluster that the CRM's changes go to.
	Brokers []string
	// Secret gives the secret that deliveries of a source are signed with, by
	// its reference in the definition.
	Secret func(ref string) (string, error)
	// Domains to play, by name; others are left alone.
	Domains []string
	// Desk is where the back ends are asked for something; nil for none.
	Desk *Desk
	// Pause between two actions after the opening. Default two seconds.
	Pause time.Duration
	// Seed of the play; equal seeds play the same.
	Seed uint64
	Log  *slog.Logger
}

// Run plays until ctx ends. A delivery that is not taken is logged and played on.
func Run(ctx context.Context, c Config) error {
	if c.Pause <= 0 {
		c.Pause = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	kafka, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers...), kgo.ClientID("touchstone-simulator"), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("simulators: %w", err)
	}
	defer kafka.Close()
	s := &stage{
		Config: c, kafka: kafka, http: &http.Client{Timeout: 10 * time.Second},
		rng: rand.New(rand.NewPCG(c.Seed, 0x70756368)), now: time.Now,
	}
	var acts []act
	for _, d := range c.Domains {
		switch d {
		case "customer-management":
			c := newCustomers(s)
			acts = append(acts, c)
			if c.s.Desk != nil {
				c.s.Desk.play(c)
			}
		case "order-fulfilment":
			acts = append(acts, newOrders(s))
		}
	}
	for _, a := range acts {
		for _, scene := range a.opening() {
			if err := s.play(ctx, scene); err != nil {
				return nil
			}
		}
	}
	if len(acts) == 0 {
		return nil
	}
	tick := time.NewTicker(c.Pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.mu.Lock()
			next := acts[s.rng.IntN(len(acts))].next()
			s.mu.Unlock()
			if err := s.play(ctx, next); err != nil {
				return nil
			}
		}
	}
}

// act is the play of one domain.
type act interface {
	opening() []scene
	next() scene
}

// scene is one thing that a back end does.
type scene struct {
	what string
	do   func(ctx context.Context) error
}

// stage is what all back ends share.
type stage struct {
	Config
	// mu guards all of it: the back ends play, and are asked for something.
	mu    sync.Mutex
	kafka *kgo.Client
	http  *http.Client
	rng   *rand.Rand
	now   func() time.Time
	count int
}

// play does one scene; only the end of ctx is an error.
func (s *stage) play(ctx context.Context, sc scene) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := sc.do(ctx); err != nil && ctx.Err() == nil {
		s.Log.Warn("a simulated back end was not heard", "what", sc.what, "error", err)
	}
	return ctx.Err()
}

// id gives a new number for events and deliveries.
func (s *stage) id(prefix string) string {
	s.count++
	return fmt.Sprintf("%s_%d_%d", prefix, s.now().UnixMicro(), s.count)
}

func pick[T any](s *stage, of []T) T { return of[s.rng.IntN(len(of))] }

// post sends one delivery and, one time in eight, sends it again as senders do
// that did not see the answer.
func (s *stage) post(ctx context.Context, path string, body []byte, headers map[string]string) error {
	times := 1
	if s.rng.IntN(8) == 0 {
		times = 2
	}
	for range times {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.API+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		for k, v := range headers {
			req.Header.Set(k, v)
		}
		res, err := s.http.Do(req)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return err
		}
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("POST %s: %s: %s", path, res.Status, bytes.TrimSpace(answer))
		}
	}
	return nil
}

// produce writes one record to a Kafka topic.
func (s *stage) produce(ctx context.Context, topic string, key, value any) error {
	k, err := json.Marshal(key)
	if err != nil {
		return err
	}
	v, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return s.kafka.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: k, Value: v}).FirstErr()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("simulate: %v", err)) // maps of plain values always encode
	}
	return b
}

type object = map[string]any
