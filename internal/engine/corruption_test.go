package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// folder fills a folder with the history of three partitions, in several
// levels of table files, and closes it.
func folder(t *testing.T, dir string, seed uint64) []*history {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	d := openFolder(t, dir)
	hs := []*history{newHistory(d, 0), newHistory(d, 1), newHistory(d, 2)}
	for i := range 400 {
		err := hs[rnd.IntN(len(hs))].write(rnd)
		switch {
		case err == nil && i == 200:
			err = d.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)
		case err == nil && i > 360 && i%10 == 0:
			err = d.db.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := d.db.Metrics().Total().TablesCount; n < 2 {
		t.Fatalf("%d table files, expected several", n)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	return hs
}

func openFolder(t *testing.T, dir string) *database {
	t.Helper()
	cfg := Config{Brokers: []string{"none"}, Dir: dir, CacheBytes: 1 << 20, MemTableBytes: 16 << 10}.withDefaults()
	d, err := openDatabase(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// damage does one thing to a folder that a disk, a file system or a person may
// do, and says what.
func damage(dir, other string, rnd *rand.Rand) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	names := []string{}
	for _, e := range entries {
		if e.Name() != "LOCK" {
			names = append(names, e.Name())
		}
	}
	name := names[rnd.IntN(len(names))]
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	write := func(what string, b []byte) (string, error) {
		return what + " in " + name, os.WriteFile(path, b, 0o600)
	}
	if len(b) == 0 { // a marker: what counts is its name
		return name + " deleted", os.Remove(path)
	}
	at := rnd.IntN(len(b))
	switch rnd.IntN(8) {
	case 0:
		b[at] ^= 1 << rnd.IntN(8)
		return write(fmt.Sprintf("bit flipped at %d of %d", at, len(b)), b)
	case 1:
		n := 1 + rnd.IntN(50)
		for range n {
			b[rnd.IntN(len(b))] ^= byte(1 + rnd.IntN(255))
		}
		return write(fmt.Sprintf("%d bytes flipped", n), b)
	case 2:
		return write(fmt.Sprintf("truncated to %d of %d", at, len(b)), b[:at])
	case 3:
		n := min(len(b)-at, 1+rnd.IntN(4096))
		clear(b[at : at+n])
		return write(fmt.Sprintf("%d bytes zeroed at %d", n, at), b)
	case 4:
		return write("garbage appended", append(b, b[at:]...))
	case 5:
		return name + " deleted", os.Remove(path)
	case 6: // two table files change places
		tables := slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".sst") })
		if len(tables) < 2 {
			return name + " deleted", os.Remove(path)
		}
		i := rnd.IntN(len(tables))
		x, y := filepath.Join(dir, tables[i]), filepath.Join(dir, tables[(i+1)%len(tables)])
		return fmt.Sprintf("%s and %s swapped", filepath.Base(x), filepath.Base(y)),
			errors.Join(os.Rename(x, x+".tmp"), os.Rename(y, x), os.Rename(x+".tmp", y))
	}
	foreign, err := os.ReadFile(filepath.Join(other, name))
	if errors.Is(err, os.ErrNotExist) {
		return name + " deleted", os.Remove(path)
	}
	if err != nil {
		return "", err
	}
	return write("content of another folder's file", foreign)
}

// Oracle: whatever happened to a folder, either what it holds is what was
// written up to its mark, or it is noticed in a way that has the engine begin
// anew: the folder cannot be opened and is moved aside, or reading says that it
// is corrupt. Never is it silently something else.
func TestDamagedFolder(t *testing.T) {
	root := t.TempDir()
	whole, other := filepath.Join(root, "whole"), filepath.Join(root, "other")
	hs := folder(t, whole, 1)
	folder(t, other, 2)
	counts := map[string]int{}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		dir := filepath.Join(root, fmt.Sprint(seed))
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		what, err := damage(dir, other, rnd)
		if err != nil {
			t.Fatal(err)
		}
		d := openFolder(t, dir)
		verdict := "whole"
		if _, err := os.Stat(dir + ".corrupt"); err == nil {
			verdict = "moved aside at the start"
		}
		for p, h := range hs {
			m, err := h.check(d.db)
			switch {
			case err == nil && m == h.image.mark:
			case err == nil:
				if verdict == "whole" {
					verdict = "whole, of an earlier time"
				}
			case pebble.IsCorruptionError(err):
				verdict = "noticed when read"
			default:
				t.Errorf("seed %d, %s: partition %d: %v", seed, what, p, err)
			}
		}
		counts[verdict]++
		if err := d.db.Close(); err != nil && verdict != "noticed when read" {
			t.Errorf("seed %d, %s: close: %v", seed, what, err)
		}
		if err := errors.Join(d.lock.Close(), os.RemoveAll(dir), os.RemoveAll(dir+".corrupt")); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("300 damages: %v", counts)
	if counts["noticed when read"] == 0 || counts["moved aside at the start"] == 0 {
		t.Error("no damage was noticed: the test tests nothing")
	}
}

// panicking is a file system on which the manifest makes whoever reads it
// panic, as Pebble does over some that are damaged, until armed is false.
type panicking struct {
	vfs.FS
	armed *atomic.Bool
}

func (p panicking) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if strings.Contains(name, "MANIFEST") && p.armed.CompareAndSwap(true, false) {
		panic("deleted files after manifest replay")
	}
	return p.FS.Open(name, opts...)
}

// Oracle: a folder over which Pebble panics is moved aside like every other
// that it cannot open; the process does not end, or it would at each start.
func TestFolderThatMakesPebblePanic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	folder(t, dir, 1)
	var armed atomic.Bool
	armed.Store(true)
	cfg := Config{Brokers: []string{"none"}, Dir: dir, Logger: testLog(t), CacheBytes: 1 << 20, MemTableBytes: 16 << 10, fs: panicking{vfs.Default, &armed}}.withDefaults()
	d, err := openDatabase(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if armed.Load() {
		t.Error("nothing read the manifest: the test tests nothing")
	}
	if _, err := os.Stat(dir + ".corrupt"); err != nil {
		t.Errorf("the folder was not moved aside: %v", err)
	}
	if n := d.db.Metrics().Total().TablesCount; n != 0 {
		t.Errorf("%d table files in the new folder, expected none", n)
	}
}
