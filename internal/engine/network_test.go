package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// link is the network between one process and all brokers. What is set holds
// for the connections that there are and for new ones.
type link struct {
	mu        sync.Mutex
	up, down  chan struct{} // closed while requests, or answers, get through
	delay     time.Duration // of each read and write
	slice     int           // bytes of one write; 0 for all
	conns     map[*linkConn]bool
	atEnd     func()               // is called once, when an EndTxn is about to be sent
	endsLate  func() time.Duration // how late an EndTxn arrives, 0 for in time
	lateKeeps bool                 // the connection waits for it; else it breaks
	late      atomic.Int64
}

func newLink() *link {
	open := make(chan struct{})
	close(open)
	return &link{up: open, down: open, conns: map[*linkConn]bool{}}
}

// heal has everything get through again.
func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range []*chan struct{}{&l.up, &l.down} {
		select {
		case <-*c:
		default:
			close(*c)
		}
	}
	l.delay, l.slice = 0, 0
}

// set changes the link.
func (l *link) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// reset breaks all connections.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Conn.Close()
	}
}

func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	lc := &linkConn{Conn: c, l: l, gone: make(chan struct{})}
	l.mu.Lock()
	l.conns[lc] = true
	l.mu.Unlock()
	return lc, nil
}

type linkConn struct {
	net.Conn
	l    *link
	once sync.Once
	gone chan struct{} // closed when the process has closed it
	cut  atomic.Bool   // an EndTxn is under way on it; the process sees it broken
}

var errCut = errors.New("connection was cut")

func (c *linkConn) Close() error {
	c.once.Do(func() {
		close(c.gone)
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
	})
	if c.cut.Load() {
		return nil // whoever brings the EndTxn closes it
	}
	return c.Conn.Close()
}

// pass waits until the direction is open.
func (c *linkConn) pass(direction func() chan struct{}) (slice int, err error) {
	c.l.mu.Lock()
	open, delay, slice := direction(), c.l.delay, c.l.slice
	c.l.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-c.gone:
		}
	}
	select {
	case <-open:
		return slice, nil
	case <-c.gone:
		return 0, net.ErrClosed
	}
}

func (c *linkConn) Write(b []byte) (int, error) {
	// A request begins with its length and its API key.
	isEnd := len(b) > 6 && int16(b[4])<<8|int16(b[5]) == int16(kmsg.EndTxn)
	if isEnd {
		c.l.mu.Lock()
		at := c.l.atEnd
		c.l.atEnd = nil
		c.l.mu.Unlock()
		if at != nil {
			at()
		}
	}
	slice, err := c.pass(func() chan struct{} { return c.l.up })
	if err != nil {
		return 0, err
	}
	if isEnd && c.l.endsLate != nil {
		if by := c.l.endsLate(); by > 0 {
			return c.endLate(b, by)
		}
	}
	if slice <= 0 {
		return c.Conn.Write(b)
	}
	written := 0
	for len(b) > 0 {
		n, err := c.Conn.Write(b[:min(slice, len(b))])
		written += n
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// endLate has an EndTxn arrive late. If the link is to keep the connection its
// answer is late as well; else the process sees it break at once.
func (c *linkConn) endLate(b []byte, by time.Duration) (int, error) {
	c.l.late.Add(1)
	if c.l.lateKeeps {
		<-time.After(by)
		return c.Conn.Write(b)
	}
	request := append([]byte(nil), b...)
	c.cut.Store(true)
	go func() {
		<-time.After(by)
		if _, err := c.Conn.Write(request); err == nil {
			c.Conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			c.Conn.Read(make([]byte, 1024)) // so that it is carried out
		}
		c.Conn.Close()
	}()
	return 0, errCut
}

func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() {
		return 0, errCut
	}
	if err != nil {
		return n, err
	}
	if _, err := c.pass(func() chan struct{} { return c.l.down }); err != nil {
		return 0, err
	}
	return n, nil
}

// Oracle: the network of one of two processes breaks, hangs in one direction or
// in both, for a moment or for longer than a transaction may be silent, is slow
// or brings bytes one by one. Each input has its effect exactly once.
func TestNetworkFaults(t *testing.T) {
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(3, 3))
	l := newLink()
	cfg := w.config(t.TempDir())
	cfg.ClientOptions = []kgo.Opt{kgo.Dialer(l.dial)}
	e := w.startCounter(cfg, &counter{})
	other := w.config(t.TempDir())
	other.Instance = "b"
	w.startCounter(other, &counter{})
	stop := w.load(50)
	w.advances(50)
	shut := func(cs ...*chan struct{}) func() {
		return func() {
			l.set(func() {
				for _, c := range cs {
					*c = make(chan struct{})
				}
			})
		}
	}
	// What hangs from an EndTxn on hangs with a transaction open.
	atEnd := func(begin func()) func() {
		return func() {
			began := make(chan struct{})
			l.set(func() { l.atEnd = func() { begin(); close(began) } })
			<-began
		}
	}
	for _, fault := range []struct {
		name  string
		begin func()
		lasts time.Duration
		reset bool // at the end
	}{
		{"reset", func() {}, 0, true},
		{"slow", func() { l.set(func() { l.delay = 30 * time.Millisecond }) }, time.Second, false},
		{"requests hang", shut(&l.up), 300 * time.Millisecond, false},
		{"answers hang", shut(&l.down), 300 * time.Millisecond, false},
		{"reset at the end of a transaction", atEnd(l.reset), 0, false},
		{"bytes one by one", func() { l.set(func() { l.slice = 1 + rnd.IntN(7) }) }, time.Second, false},
		{"answers to the end of a transaction do not come back", atEnd(shut(&l.down)), 300 * time.Millisecond, true},
		{"answers hang beyond the transaction timeout", atEnd(shut(&l.down)), 4 * time.Second, false},
		{"requests hang beyond the transaction timeout", atEnd(shut(&l.up)), 4 * time.Second, false},
		{"both hang, then reset", atEnd(shut(&l.up, &l.down)), 4 * time.Second, true},
	} {
		fault.begin()
		<-time.After(fault.lasts)
		if fault.reset {
			l.reset()
		}
		l.heal()
		w.advances(20)
	}
	n := stop()
	w.eventuallyAudit(n, 50)
	s := e.group()
	if s.Restarts+s.Aborts+s.Unknown == 0 {
		t.Error("no fault was noticed: the test tests nothing")
	}
	t.Logf("%d inputs: %d aborts, %d unknown outcomes, %d restarts", n, s.Aborts, s.Unknown, s.Restarts)
}

// Oracle: an EndTxn arrives late, when the process has given up its connection,
// asked again on another one and begun the next transaction: it must not end
// that one. Each input has its effect exactly once.
func TestEndArrivesInTheNextTransaction(t *testing.T) {
	w := newWorld(t)
	l := newLink()
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(4, 4))
	var seen int
	l.endsLate = func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen%4 != 0 {
			return 0
		}
		return time.Duration(1+rnd.IntN(60)) * time.Millisecond
	}
	cfg := w.config(t.TempDir())
	cfg.ClientOptions = []kgo.Opt{kgo.Dialer(l.dial)}
	e := w.startCounter(cfg, &counter{})
	stop := w.load(50)
	eventually(t, "25 late requests", func() error {
		if n := l.late.Load(); n < 25 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	n := stop()
	w.eventuallyAudit(n, 50)
	s := e.group()
	t.Logf("%d inputs, %d late: %d aborts, %d unknown outcomes, %d restarts", n, l.late.Load(), s.Aborts, s.Unknown, s.Restarts)
}

// Oracle: an EndTxn arrives when the broker has aborted its transaction long
// since. What it was about is done again, once.
func TestEndArrivesAfterTheTransactionTimeout(t *testing.T) {
	w := newWorld(t)
	l := newLink()
	l.lateKeeps = true
	var seen atomic.Int64
	l.endsLate = func() time.Duration {
		if n := seen.Add(1); n == 5 || n == 12 {
			return 4 * time.Second // the timeout is 2 s, and looked at now and then
		}
		return 0
	}
	cfg := w.config(t.TempDir())
	cfg.ClientOptions = []kgo.Opt{kgo.Dialer(l.dial)}
	e := w.startCounter(cfg, &counter{})
	stop := w.load(50)
	eventually(t, "two late requests and work after them", func() error {
		if n := seen.Load(); n < 20 {
			return fmt.Errorf("%d transactions", n)
		}
		return nil
	})
	n := stop()
	w.eventuallyAudit(n, 50)
	s := e.group()
	if s.Restarts+s.Aborts+s.Unknown == 0 {
		t.Error("no late request was noticed: the test tests nothing")
	}
	t.Logf("%d inputs: %d aborts, %d unknown outcomes, %d restarts", n, s.Aborts, s.Unknown, s.Restarts)
}
