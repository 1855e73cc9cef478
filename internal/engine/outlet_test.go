package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"pgregory.net/rapid"
)

// clerks deal with what outlets hand on, and note it.
type clerks struct {
	mu    sync.Mutex
	done  map[string]int // by value of the record
	begun map[string]int // of those, marked as begun before
	now   map[string]int // under way
	twice []string       // that were under way twice at a time
	share map[string]float64
}

func newClerks() *clerks {
	return &clerks{done: map[string]int{}, begun: map[string]int{}, now: map[string]int{}, share: map[string]float64{}}
}

// outlet deals with each record in a goroutine, for as long as work takes.
func (c *clerks) outlet(name string, most int, durably bool, work func(value string, d *Delivery) bool) Outlet {
	return Outlet{Group: "outlet", Topic: "in", Most: most, Share: func(part float64) {
		c.mu.Lock()
		c.share[name] = part
		c.mu.Unlock()
	}, Take: func(d *Delivery) {
		go func() {
			v := string(d.Value)
			c.mu.Lock()
			if d.Begun {
				c.begun[v]++
			}
			c.mu.Unlock()
			for {
				err := d.Begin(durably)
				if errors.Is(err, ErrLeaving) {
					d.GiveUp(false)
					return
				}
				if err == nil {
					break
				}
			}
			c.mu.Lock()
			if c.now[v]++; c.now[v] > 1 {
				c.twice = append(c.twice, v)
			}
			c.mu.Unlock()
			ok := work(v, d)
			c.mu.Lock()
			c.now[v]--
			if ok {
				c.done[v]++
			}
			c.mu.Unlock()
			if ok {
				d.Done(true)
			} else {
				d.GiveUp(true)
			}
		}()
	}}
}

func (c *clerks) all(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.done) < n {
		return fmt.Errorf("%d of %d are done", len(c.done), n)
	}
	return nil
}

// Instances come and go while records are dealt with. Each is dealt with, and
// none at two places at a time; what is done does not come again after a stop in
// good order.
func TestOutlet(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 600, 50)
	c := newClerks()
	start := func(name string) *running {
		cfg := w.config(t.TempDir())
		cfg.Instance = name
		return w.start(cfg, func(e *Engine) {
			if err := e.AddOutlet(c.outlet(name, 40, name == "b", func(string, *Delivery) bool {
				<-time.After(time.Duration(rand.IntN(8)) * time.Millisecond) // the work
				return true
			})); err != nil {
				t.Fatal(err)
			}
		})
	}
	a := start("a")
	eventually(t, "some work", func() error { return c.all(100) })
	b := start("b")
	eventually(t, "a share for each", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.share["a"] != 0.5 || c.share["b"] != 0.5 {
			return fmt.Errorf("%v", c.share)
		}
		return nil
	})
	a.stop()
	w.feed(600, 900, 50)
	eventually(t, "the work", func() error { return c.all(900) })
	b.stop()
	last := start("c")
	w.feed(900, 901, 1)
	eventually(t, "the last", func() error { return c.all(901) })
	last.stop()
	for v, n := range c.done {
		if n != 1 {
			t.Errorf("%s was dealt with %d times", v, n)
		}
	}
	if len(c.twice) > 0 || len(c.begun) > 0 {
		t.Errorf("at two places at a time: %v; begun before: %v", c.twice, c.begun)
	}
}

// A process is cut off in the middle of its work. What it had begun durably is
// marked when it is handed on again, and nothing else is.
func TestOutletTellsWhatHadBegun(t *testing.T) {
	w := newWorld(t)
	w.feed(0, 40, 10)
	c := newClerks()
	hang := make(chan struct{})
	var mu sync.Mutex
	hung := map[string]bool{}
	n := &network{}
	cfg := w.config(t.TempDir())
	cfg.Instance = "a"
	cfg.ClientOptions = n.options()
	a := w.start(cfg, func(e *Engine) {
		err := e.AddOutlet(c.outlet("a", 40, true, func(v string, d *Delivery) bool {
			mu.Lock()
			stuck := len(hung) < 7
			if stuck {
				hung[v] = true
			}
			mu.Unlock()
			if stuck {
				<-hang
			}
			return !stuck
		}))
		if err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the others", func() error { return c.all(33) })
	eventually(t, "their commit", func() error {
		offsets, err := w.adm.FetchOffsets(t.Context(), "outlet")
		if err != nil {
			return err
		}
		marks := 0
		offsets.Each(func(o kadm.OffsetResponse) {
			begun, _ := marksOf(o.Metadata, o.At)
			marks += len(begun)
		})
		if marks != 7 {
			return fmt.Errorf("%d records are marked as begun, expected 7", marks)
		}
		return nil
	})
	n.down(true) // as a kill -9 would
	b := w.start(w.config(t.TempDir()), func(e *Engine) {
		if err := e.AddOutlet(c.outlet("b", 40, true, func(string, *Delivery) bool { return true })); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the rest", func() error { return c.all(40) })
	c.mu.Lock()
	for v := range hung {
		if c.begun[v] != 1 {
			t.Errorf("%s had begun, and was marked %d times", v, c.begun[v])
		}
	}
	if len(c.begun) != len(hung) {
		t.Errorf("marked as begun: %v, expected %v", c.begun, hung)
	}
	c.mu.Unlock()
	close(hang)
	b.stop()
	n.down(false)
	a.stop()
}

// What Begin has noted is noted: also for the first records of a partition that
// was assigned a moment ago, while others are being committed.
func TestOutletNotesBeforeItBegins(t *testing.T) {
	w := newWorldOf(t, 12)
	w.feed(0, 400, 400)
	var mu sync.Mutex
	missing, noted := 0, 0
	for round := range 12 {
		done := make(chan struct{}, 400)
		e := w.start(w.config(t.TempDir()), func(e *Engine) {
			err := e.AddOutlet(Outlet{Group: fmt.Sprint("outlet-", round), Topic: "in", Most: 400, Take: func(d *Delivery) {
				go func() {
					defer func() { done <- struct{}{} }()
					if d.Begin(true) != nil {
						return
					}
					offsets, err := w.adm.FetchOffsets(t.Context(), fmt.Sprint("outlet-", round))
					mu.Lock()
					if o, ok := offsets.Lookup("in", d.Partition); err == nil && ok && begunIn(o, d.Offset) {
						noted++
					} else {
						missing++
					}
					mu.Unlock()
					d.Done(true)
				}()
			}})
			if err != nil {
				t.Fatal(err)
			}
		})
		for range 40 {
			<-done
		}
		e.stop()
	}
	if missing > 0 || noted == 0 {
		t.Errorf("%d had begun without a note, %d with one", missing, noted)
	}
}

// A commit releases those whose marks are in it, and nobody else: a partition may
// have been assigned since it was put together.
func TestOutletReleasesOnlyWhatIsNoted(t *testing.T) {
	r := &outletRun{outlet: &outlet{}, parts: map[int32]*outletPart{}}
	r.changed = sync.NewCond(&r.mu)
	for p := range int32(2) {
		r.parts[p] = &outletPart{partition: p, run: r, begun: map[int64]bool{}, was: map[int64]bool{}, finished: map[int64]bool{}, committed: -1}
	}
	there, later := make(chan error, 1), make(chan error, 1)
	r.waiters = []waiter{{r.parts[0], there}, {r.parts[1], later}}
	if err := r.commit(t.Context(), []*outletPart{r.parts[0]}); err != nil { // nothing to commit
		t.Fatal(err)
	}
	if len(there) != 1 || len(later) != 0 || len(r.waiters) != 1 {
		t.Errorf("released: %d of the partition, %d of another, %d left", len(there), len(later), len(r.waiters))
	}
	delete(r.parts, 1) // it is somebody else's: Begin then finds that out
	if err := r.commit(t.Context(), []*outletPart{r.parts[0]}); err != nil || len(later) != 1 {
		t.Errorf("%d released of a partition that is gone, %v", len(later), err)
	}
}

func begunIn(o kadm.OffsetResponse, offset int64) bool {
	begun, _ := marksOf(o.Metadata, o.At)
	return begun[offset]
}

// What was noted as begun and is done does not come again, though one before it
// is not done: neither after a crash nor after a rebalance.
func TestOutletRemembersWhatIsDoneBehindOthers(t *testing.T) {
	w := newWorldOf(t, 1)
	w.feed(0, 30, 30)
	n := &network{}
	var mu sync.Mutex
	seen := map[int64]int{}
	first := make(chan struct{})
	start := func(name string, stuck bool) *running {
		cfg := w.config(t.TempDir())
		cfg.Instance = name
		if stuck {
			cfg.ClientOptions = n.options()
		}
		return w.start(cfg, func(e *Engine) {
			err := e.AddOutlet(Outlet{Group: "outlet", Topic: "in", Most: 100, Take: func(d *Delivery) {
				go func() {
					if d.Begin(true) != nil {
						d.GiveUp(false)
						return
					}
					mu.Lock()
					seen[d.Offset]++
					mu.Unlock()
					if stuck && d.Offset == 3 {
						<-first
						d.GiveUp(true)
						return
					}
					d.Done(true)
				}()
			}})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	a := start("a", true)
	eventually(t, "all but one", func() error {
		offsets, err := w.adm.FetchOffsets(t.Context(), "outlet")
		if err != nil {
			return err
		}
		o, _ := offsets.Lookup("in", 0)
		if begun, done := marksOf(o.Metadata, o.At); len(begun) != 1 || len(done) != 26 {
			return fmt.Errorf("at %d: %q", o.At, o.Metadata)
		}
		return nil
	})
	n.down(true)
	b := start("b", false)
	eventually(t, "the rest", func() error {
		offsets, err := w.adm.FetchOffsets(t.Context(), "outlet")
		if err != nil {
			return err
		}
		if o, _ := offsets.Lookup("in", 0); o.At != 30 || o.Metadata != "" {
			return fmt.Errorf("at %d: %q", o.At, o.Metadata)
		}
		return nil
	})
	mu.Lock()
	for offset, times := range seen {
		if times != 1 && offset != 3 || offset == 3 && times != 2 {
			t.Errorf("%d was begun %d times", offset, times)
		}
	}
	mu.Unlock()
	b.stop()
	close(first)
	n.down(false)
	a.stop()
}

func TestMarks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Int64Range(0, 1<<60).Draw(t, "from")
		marks := [2]map[int64]bool{{}, {}}
		for range rapid.IntRange(0, outletMarks).Draw(t, "marks") {
			marks[rapid.IntRange(0, 1).Draw(t, "which")][from+rapid.Int64Range(0, 1<<22).Draw(t, "distance")] = true
		}
		text := marksText(marks[0], marks[1], from)
		if begun, done := marksOf(text, from); !reflect.DeepEqual(begun, marks[0]) || !reflect.DeepEqual(done, marks[1]) {
			t.Fatalf("%q gives %v and %v, expected %v", text, begun, done, marks)
		}
		if len(text) > 4096 {
			t.Fatalf("%d bytes", len(text))
		}
	})
	for _, other := range []string{"", "something else", "begun: x-"} {
		if begun, done := marksOf(other, 5); len(begun)+len(done) > 0 {
			t.Errorf("%q gives %v, %v", other, begun, done)
		}
	}
}
