package api

import (
	"sync"

	"github.com/touchstone-platform/touchstone/domain/event"
)

// DomainChange is a canonical change and the domain it happened in.
type DomainChange struct {
	Domain string
	Change *event.Change
}

// Feed passes canonical changes on to whoever watches, and remembers the
// latest. It never waits for a watcher: one that does not keep up is dropped.
type Feed struct {
	keep int

	mu       sync.Mutex
	recent   []DomainChange // oldest first
	watchers map[chan DomainChange]struct{}
}

// NewFeed makes a feed that remembers the given number of changes.
func NewFeed(keep int) *Feed {
	return &Feed{keep: keep, watchers: map[chan DomainChange]struct{}{}}
}

// Publish passes a change on.
func (f *Feed) Publish(domain string, c *event.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dc := DomainChange{domain, c}
	if f.keep > 0 {
		if len(f.recent) == f.keep {
			copy(f.recent, f.recent[1:])
			f.recent = f.recent[:f.keep-1]
		}
		f.recent = append(f.recent, dc)
	}
	for w := range f.watchers {
		select {
		case w <- dc:
		default:
			delete(f.watchers, w)
			close(w)
		}
	}
}

// Recent gives the latest changes, newest first.
func (f *Feed) Recent() []DomainChange {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]DomainChange, len(f.recent))
	for i, c := range f.recent {
		out[len(out)-1-i] = c
	}
	return out
}

// Watch gives a channel of the changes from now on, which holds up to buffer
// of them and is closed when it overflows. stop ends the watch.
func (f *Feed) Watch(buffer int) (changes <-chan DomainChange, stop func()) {
	w := make(chan DomainChange, max(buffer, 1))
	f.mu.Lock()
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	return w, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, ok := f.watchers[w]; ok {
			delete(f.watchers, w)
			close(w)
		}
	}
}
