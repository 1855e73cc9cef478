package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/touchstone-platform/touchstone/test/chaos/audit"
	"github.com/touchstone-platform/touchstone/test/chaos/workload"
)

// senders deliver what the generator makes, each delivery until it is
// acknowledged, to whichever instance takes it.
type senders struct {
	gen     *workload.Generator
	rate    int // deliveries a second, at most
	workers int
	targets func() []string
	http    *http.Client
	// odd is told an answer that no delivery may get.
	odd func(what string)

	mu   sync.Mutex
	sent []audit.Sent
}

// run sends until ctx ends, and then until everything begun is acknowledged or
// give up ends.
func (s *senders) run(ctx, giveUp context.Context) {
	work := make(chan workload.Delivery)
	var wg sync.WaitGroup
	for w := range s.workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1)) // whom to ask; it decides nothing
			for d := range work {
				s.deliver(giveUp, d, rng)
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began, n := time.Now(), 0
	for ctx.Err() == nil {
		<-tick.C
		due := int(time.Since(began).Seconds() * float64(s.rate))
		if due > n+s.rate { // what could not be sent for a while is not made up for
			began, n = time.Now(), 0
			due = 0
		}
		for ; n < due && ctx.Err() == nil; n++ {
			select {
			case work <- s.gen.Next():
			case <-giveUp.Done():
			}
		}
	}
	close(work)
	wg.Wait()
}

func (s *senders) deliver(ctx context.Context, d workload.Delivery, rng *rand.Rand) {
	r := audit.Sent{Delivery: d}
	pause := 20 * time.Millisecond
	for ctx.Err() == nil && !r.Acked && !r.Refused {
		targets := s.targets()
		if len(targets) > 0 {
			r.Attempts++
			if s.post(ctx, targets[rng.IntN(len(targets))], &r) {
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
	s.mu.Lock()
	s.sent = append(s.sent, r)
	s.mu.Unlock()
}

// post delivers once. It tells whether the answer is final.
func (s *senders) post(ctx context.Context, target string, r *audit.Sent) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+"/v1/ingress/"+r.Source, bytes.NewReader(r.Body))
	if err != nil {
		s.odd(err.Error())
		return true
	}
	req.Header.Set("Content-Type", "application/json")
	if r.EventID != "" {
		req.Header.Set("X-Event-Id", r.EventID)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return false
	}
	switch {
	case res.StatusCode == http.StatusAccepted:
		var a struct{ Journal string }
		if err := json.Unmarshal(body, &a); err != nil || a.Journal == "" {
			s.odd(fmt.Sprintf("delivery %d was accepted with %q", r.N, body))
			return true
		}
		r.Acked, r.ID = true, a.Journal
	case res.StatusCode == http.StatusRequestEntityTooLarge || res.StatusCode == http.StatusUnprocessableEntity:
		r.Refused = true
	case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests:
		return false
	default:
		s.odd(fmt.Sprintf("delivery %d (%s) was answered %s: %.300s", r.N, r.Class, res.Status, body))
	}
	return true
}

// all gives what was sent, in the order in which it was made.
func (s *senders) all() []audit.Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.sent)
	slices.SortFunc(out, func(a, b audit.Sent) int { return a.N - b.N })
	return out
}

func (s *senders) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// unfinished are deliveries that were given up.
func unfinished(sent []audit.Sent) error {
	n := 0
	for _, s := range sent {
		if !s.Acked && !s.Refused {
			n++
		}
	}
	if n > 0 {
		return errors.New(fmt.Sprint(n, " deliveries were never acknowledged"))
	}
	return nil
}
