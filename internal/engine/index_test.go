package engine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/touchstone-platform/touchstone/internal/testkit/viewtest"
	"github.com/touchstone-platform/touchstone/processors"
	"github.com/touchstone-platform/touchstone/views"
)

// The station of these tests keeps the last value of each key, so that its
// table is what was fed; a tombstone forgets.
func keepsLast(_ any, rec processors.Record) (processors.Effects, error) {
	if rec.Value == nil {
		return processors.Effects{Forget: true}, nil
	}
	return processors.Effects{State: rec.Value}, nil
}

func wordsSpec() Processor {
	return Processor{Group: "words", Station: stationFunc(keepsLast), Table: textCodec{}, DeadLetters: "dead", Inputs: []Edge{{"in", textCodec{}}}}
}

// startWords runs the index, and the processor of its table if owner.
func (w *world) startWords(cfg Config, owner bool) (*running, views.IndexReader) {
	w.t.Helper()
	var reader views.IndexReader
	e := w.start(cfg, func(e *Engine) {
		var err error
		if reader, err = e.AddIndex(viewtest.Words{}); err != nil {
			w.t.Fatal(err)
		}
		if owner {
			if err := e.AddProcessor(wordsSpec()); err != nil {
				w.t.Fatal(err)
			}
		}
	})
	e.waitReady()
	return e, reader
}

type indexKeeper struct {
	views.IndexReader
	w  *world
	to string
}

func (k indexKeeper) Feed(key string, value []byte) error {
	k.w.send(k.to, key, string(value))
	return nil
}

// An index conforms in a process that owns the table, and in one that follows
// what others write.
func TestIndexConforms(t *testing.T) {
	for name, owner := range map[string]bool{"owned": true, "followed": false} {
		t.Run(name, func(t *testing.T) {
			viewtest.TableConformance(t, func(t *testing.T) viewtest.TableKeeper {
				w := newWorld(t)
				w.topics(testPartitions, "words-table")
				_, r := w.startWords(w.config(t.TempDir()), owner)
				if owner {
					return indexKeeper{r, w, "in"}
				}
				return indexKeeper{r, w, "words-table"}
			})
		})
	}
}

// wordsIn gives everything that a folder has of the table, in the form of
// viewtest.Table.Contents, and fails if the terms in front of a value are not
// those that the index has of it.
func wordsIn(t testing.TB, db *pebble.DB) map[string]string {
	t.Helper()
	all, claimed := map[string]string{}, map[string]bool{}
	for p := range int32(testPartitions) {
		ks := newKeyspace(kindTable, "words-table", p)
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(ks), UpperBound: successor([]byte(ks))})
		if err != nil {
			t.Fatal(err)
		}
		for it.First(); it.Valid(); it.Next() {
			switch k := it.Key()[len(ks):]; k[0] {
			case partData:
				ts, v, err := splitTerms(it.Value())
				if err != nil {
					t.Fatal(err)
				}
				all["d/"+string(k[1:])] = string(v)
				for _, x := range ts {
					claimed["i/"+hex.EncodeToString(views.Terms{x}.Append(nil))+"/"+string(k[1:])] = true
				}
			case partIndex:
				all["i/"+hex.EncodeToString(k[1:9])+"/"+string(k[9:])] = string(it.Value())
			}
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for k := range all {
		if k[0] == 'i' && !claimed[k] {
			t.Errorf("index entry %s belongs to no value", k)
		}
	}
	for k := range claimed {
		if _, ok := all[k]; !ok {
			t.Errorf("index entry %s is missing", k)
		}
	}
	return all
}

// Oracle: the table in memory, fed with the committed changelog alone. After
// any history (writes and deletions, owners that stop, crash before local
// state has followed, and lose their folder) what an owner, a process that
// follows, and one that is rebuilt have on disk is the same, byte for byte, and
// in every folder that a crash left behind the index is that of the data.
func TestIndexEqualsRecomputation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	w.topics(testPartitions, "words-table")
	words := []string{"red", "blue", "round", "square", "big", "red round", "blue square big", "red!", "red?", ""}
	dirs := []string{t.TempDir() + "/a", t.TempDir() + "/b"}
	follower, _ := w.startWords(w.config(dirs[1]), false)
	latest := map[string]string{}
	n := 0
	feed := func(count int) {
		for range count {
			key, value := fmt.Sprintf("k%02d", rnd.IntN(30)), words[rnd.IntN(len(words))]
			if value != "" {
				n++
				value = fmt.Sprintf("%s n%d", value, n%50)
				latest[key] = value
			} else {
				delete(latest, key)
			}
			w.send("in", key, value)
		}
	}
	settled := func() map[string]string {
		var want map[string]string
		eventually(t, "the table", func() error {
			m := viewtest.NewTable(viewtest.Words{}, 1)
			have := map[string]string{}
			for _, r := range w.read("words-table") {
				_ = m.Feed(string(r.Key), r.Value) // that some have no terms is meant
				have[string(r.Key)] = string(r.Value)
				if r.Value == nil {
					delete(have, string(r.Key))
				}
			}
			if !maps.Equal(have, latest) {
				return fmt.Errorf("changelog has %d keys, expected %d", len(have), len(latest))
			}
			want = m.Contents()
			return nil
		})
		return want
	}
	same := func(what string, e *running, want map[string]string) {
		t.Helper()
		eventually(t, what, func() error {
			if d := cmp.Diff(want, wordsIn(t, e.db.handle())); d != "" {
				return errors.New("recomputed (-) and kept (+) differ:\n" + d)
			}
			return nil
		})
	}
	for round := range 5 {
		cfg := w.config(dirs[0])
		cfg.StopTimeout = time.Second
		crash, crashed := rnd.IntN(2) == 0, make(chan struct{})
		var once sync.Once
		after := 1 + rnd.IntN(5)
		commits := 0
		cfg.hooks.beforeApply = func(string) error {
			if commits++; crash && commits >= after {
				once.Do(func() { close(crashed) })
				return errors.New("crash")
			}
			return nil
		}
		owner, _ := w.startWords(cfg, true)
		feed(20 + rnd.IntN(60))
		if crash {
			eventually(t, "a crash", func() error {
				select {
				case <-crashed:
					return nil
				default:
					feed(1) // so that there is something to commit
					return errors.New("no crash")
				}
			})
		} else {
			same("the owner", owner, settled())
		}
		copied := fmt.Sprintf("%s/%d", t.TempDir(), round)
		owner.stop()
		if crash && rnd.IntN(3) == 0 {
			if err := os.RemoveAll(dirs[0]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.CopyFS(copied, os.DirFS(dirs[0])); err != nil {
			t.Fatal(err)
		}
		db, err := pebble.Open(copied, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{testLog(t)}})
		if err != nil {
			t.Fatal(err)
		}
		wordsIn(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	owner, _ := w.startWords(w.config(dirs[0]), true)
	want := settled()
	same("the owner", owner, want)
	same("the follower", follower, want)
	cfg := w.config(t.TempDir())
	cfg.Instance = "c"
	rebuilt, _ := w.startWords(cfg, false)
	same("the rebuilt", rebuilt, want)
}

// A folder that was written without the index, or with another one, is rebuilt.
func TestIndexOfAnotherLayout(t *testing.T) {
	w := newWorld(t)
	w.topics(testPartitions, "words-table")
	dir := t.TempDir()
	w.send("in", "a", "red")
	plain := w.start(w.config(dir), func(e *Engine) {
		if err := e.AddProcessor(wordsSpec()); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the table", func() error {
		if n := len(w.read("words-table")); n != 1 {
			return fmt.Errorf("%d records", n)
		}
		return nil
	})
	plain.stop()
	e, r := w.startWords(w.config(dir), true)
	if b, err := r.Get("a"); string(b) != "red" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if got := wordsIn(t, e.db.handle()); len(got) != 2 {
		t.Errorf("got %v, expected a value and its entry", got)
	}
}

// While the owner of a table goes away and comes back, another process takes
// over and gives up, reads are answered all the time, by what was committed
// before, and both stay ready.
func TestReadsGoOnWhilePartitionsMove(t *testing.T) {
	w := newWorld(t)
	w.topics(testPartitions, "words-table")
	cfg := w.config(t.TempDir())
	b, r := w.startWords(cfg, true)
	const keys = 12
	version := func(n int) {
		for k := range keys {
			w.send("in", fmt.Sprintf("k%d", k), fmt.Sprintf("word %d", n))
		}
	}
	reads := func(n int) func() error {
		return func() error {
			for k := range keys {
				v, err := r.Get(fmt.Sprintf("k%d", k))
				if want := fmt.Sprintf("word %d", n); err != nil || string(v) != want {
					return fmt.Errorf("k%d is %q, %v, expected %q", k, v, err, want)
				}
			}
			return nil
		}
	}
	version(0)
	eventually(t, "the first version", reads(0))
	ctx, cancel := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() {
		last := map[string]int{}
		for ctx.Err() == nil {
			found := 0
			if err := r.Lookup(views.TermOf("word"), "", "", func(string) bool { found++; return true }); err != nil || found != keys {
				t.Errorf("a lookup found %d of %d keys, %v", found, keys, err)
				return
			}
			for k := range keys {
				key, n := fmt.Sprintf("k%d", k), 0
				v, err := r.Get(key)
				if err == nil {
					_, err = fmt.Sscanf(string(v), "word %d", &n)
				}
				if err != nil || n < last[key] || !r.Ready() {
					t.Errorf("%s is %q after version %d, ready %v, %v", key, v, last[key], r.Ready(), err)
					return
				}
				last[key] = n
			}
			<-time.After(time.Millisecond)
		}
	})
	dir := t.TempDir()
	for n := 1; n <= 4; n++ {
		other := w.config(dir)
		other.Instance = "b"
		a, _ := w.startWords(other, true)
		version(n)
		eventually(t, "the version", reads(n))
		a.stop()
	}
	cancel()
	reader.Wait()
	eventually(t, "no lag", func() error {
		if l := r.Lag(""); l != (views.Lag{}) {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	if s := b.Status(); len(s.Views) != 1 || !s.Views[0].Ready || s.Views[0].Failures != 0 {
		t.Errorf("status %+v", s.Views)
	}
}

// A table has one index, of a name of its own.
func TestIndexDeclaredTwice(t *testing.T) {
	w := newWorld(t)
	e, err := New(w.config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.AddIndex(viewtest.Words{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AddIndex(viewtest.Words{}); err == nil {
		t.Error("an index was declared twice")
	}
	if _, err := e.AddView(&renamed{tally{topic: "in"}, "words"}); err == nil {
		t.Error("a view was declared by the name of an index")
	}
}
