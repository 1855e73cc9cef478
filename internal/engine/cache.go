package engine

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/touchstone-platform/touchstone/views"
)

// cache keeps decoded committed values of one partition of a table, up to a
// number of bytes. It is a segmented LRU (Karedla, Love, Wherry: Caching
// Strategies to Improve Disk System Performance, 1994): a value enters on
// probation, and one that is asked for again is protected from those that
// never are. One goroutine at a time uses it.
//
// A step may change the value that it is given. So a value leaves the cache
// when it is asked for; who took it puts it back once it is what is committed.
type cache struct {
	budget    *cacheBudget
	metrics   *cacheMetrics
	values    map[string]*cached
	bytes     int64
	protected cacheList
	probation cacheList
}

// cached is a value in one of the two lists.
type cached struct {
	key        string
	value      any
	terms      views.Terms // by which the table's index has it
	bytes      int64
	again      bool // in the protected list
	prev, next *cached
}

// cacheList is a ring with the most recently used value behind its root.
type cacheList struct {
	root  cached
	bytes int64
}

func (l *cacheList) push(c *cached) {
	if l.root.next == nil {
		l.root.next, l.root.prev = &l.root, &l.root
	}
	c.prev, c.next = &l.root, l.root.next
	c.prev.next, c.next.prev = c, c
	l.bytes += c.bytes
}

func (l *cacheList) remove(c *cached) {
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	l.bytes -= c.bytes
}

// last gives the least recently used value, nil if there is none.
func (l *cacheList) last() *cached {
	if l.root.prev == nil || l.root.prev == &l.root {
		return nil
	}
	return l.root.prev
}

// cacheBudget is the memory that all caches of a process share in equal parts.
type cacheBudget struct {
	bytes  int64
	caches atomic.Int64
}

type cacheMetrics struct {
	hits, misses, evictions prometheus.Counter
	bytes                   prometheus.Gauge
}

// A decoded value takes about so many times the memory of its encoded form,
// and so many bytes for its place here. An entity of 20 fields from three
// sources has 1,450 bytes encoded and 4,300 decoded.
const (
	decodedFactor   = 3
	cacheEntryBytes = 200
)

// newCache makes a cache with a share of the budget; nil, which is a cache that
// keeps nothing, if there is none.
func newCache(budget *cacheBudget, metrics *cacheMetrics) *cache {
	if budget == nil || budget.bytes <= 0 {
		return nil
	}
	budget.caches.Add(1)
	return &cache{budget: budget, metrics: metrics, values: map[string]*cached{}}
}

// close gives the share back.
func (c *cache) close() {
	if c == nil {
		return
	}
	c.budget.caches.Add(-1)
	c.metrics.bytes.Sub(float64(c.bytes))
	c.values = map[string]*cached{}
	c.bytes, c.protected, c.probation = 0, cacheList{}, cacheList{}
}

// take removes a value and gives it; nil if it is not there.
func (c *cache) take(key string) *cached {
	if c == nil {
		return nil
	}
	e := c.values[key]
	if e == nil {
		c.metrics.misses.Inc()
		return nil
	}
	c.metrics.hits.Inc()
	c.remove(e)
	return e
}

// restore puts back what was taken and has not been changed.
func (c *cache) restore(e *cached) {
	e.again = true
	c.add(e)
}

// drop removes a value that is no longer what is committed.
func (c *cache) drop(key string) {
	if c == nil {
		return
	}
	if e := c.values[key]; e != nil {
		c.remove(e)
	}
}

// put keeps a committed value that has so many bytes encoded. again says that
// it was taken from here before.
func (c *cache) put(key string, value any, encoded int, again bool, terms views.Terms) {
	if c == nil || value == nil {
		return
	}
	c.drop(key)
	c.add(&cached{key: key, value: value, terms: terms, bytes: int64(len(key) + encoded*decodedFactor + 8*len(terms) + cacheEntryBytes), again: again})
}

func (c *cache) add(e *cached) {
	c.values[e.key] = e
	c.bytes += e.bytes
	c.metrics.bytes.Add(float64(e.bytes))
	limit := c.budget.bytes / max(c.budget.caches.Load(), 1)
	if e.again {
		c.protected.push(e)
		for c.protected.bytes > limit/5*4 {
			old := c.protected.last()
			c.protected.remove(old)
			old.again = false
			c.probation.push(old)
		}
	} else {
		c.probation.push(e)
	}
	for c.bytes > limit {
		old := c.probation.last()
		if old == nil {
			old = c.protected.last()
		}
		c.remove(old)
		c.metrics.evictions.Inc()
	}
}

func (c *cache) remove(e *cached) {
	if e.again {
		c.protected.remove(e)
	} else {
		c.probation.remove(e)
	}
	delete(c.values, e.key)
	c.bytes -= e.bytes
	c.metrics.bytes.Sub(float64(e.bytes))
}
