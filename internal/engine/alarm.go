package engine

import (
	"context"
	"sync"
)

// alarm interrupts who listens to it. One that rings while nobody listens is
// heard by the next who does. After it has listened, the listener looks for
// itself at what there is to do.
type alarm struct {
	mu     sync.Mutex
	rung   bool
	cancel context.CancelFunc
}

// ring does not wait.
func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rung = true
	if a.cancel != nil {
		a.cancel()
	}
}

// listen gives a context that ends with parent or when the alarm rings, or at
// once if it has rung since it was last listened to. Only one may listen at a
// time; stop must be called.
func (a *alarm) listen(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rung {
		cancel()
	}
	a.cancel = cancel
	return ctx, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.rung, a.cancel = false, nil
	}
}
