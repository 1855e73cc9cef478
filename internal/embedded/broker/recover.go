package broker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Recovered tells what a start did about an unclean stop. The zero value is
// that of a start after a clean stop, or of the first.
type Recovered struct {
	Unclean bool      // the stop before this start was unclean
	Kept    []string  // primary topics, sorted
	Dropped []string  // derived topics, sorted
	Groups  []string  // consumer groups whose offsets were dropped, sorted
	Torn    []Torn    // unfinished batches at the end of a log, cut off: nothing acknowledged
	Damaged []Damaged // bytes in the middle of a log that could not be read
}

// Torn is an unfinished write at the end of a partition.
type Torn struct {
	Topic     string
	Partition int32
	Bytes     int
}

// Damaged is a stretch of a partition that could not be read. What lies behind
// it was kept, with its offsets.
type Damaged struct {
	Topic     string
	Partition int32
	From, To  int64  // offsets that are lost, To excluded
	Bytes     int    // that belong to no readable batch; 0 where they are missing altogether
	Aside     string // copy of the file as it was found; empty where there was nothing to copy
}

// String says it in one line.
func (r Recovered) String() string {
	if !r.Unclean {
		return "the last stop was clean"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the last stop was unclean: kept %s, dropped %s to rebuild from them",
		count(len(r.Kept), "primary topic"), count(len(r.Dropped), "derived topic"))
	if len(r.Torn) > 0 {
		n := 0
		for _, t := range r.Torn {
			n += t.Bytes
		}
		fmt.Fprintf(&b, "; cut off %s of unacknowledged writes", count(n, "byte"))
	}
	for _, d := range r.Damaged {
		fmt.Fprintf(&b, "; offsets from %d to before %d of %s, partition %d, are lost", d.From, d.To, d.Topic, d.Partition)
		if d.Aside != "" {
			fmt.Fprintf(&b, " (the damaged file is kept as %s)", d.Aside)
		}
	}
	return b.String()
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// recoverDir prepares the directory for a start after an unclean stop. It only
// ever removes and replaces, and every step can be done again, so that it may
// itself be interrupted at any point.
func recoverDir(cfg Config) (Recovered, error) {
	r := Recovered{Unclean: true}
	dir := cfg.Dir

	// Outside first: once the derived topics are gone a local store that
	// mirrors them would be ahead of its changelog.
	for _, path := range cfg.Discard {
		if err := os.RemoveAll(path); err != nil {
			return r, err
		}
	}
	if err := removeTemporary(dir); err != nil {
		return r, err
	}
	topics, err := recoverTopics(cfg)
	if err != nil {
		return r, err
	}
	kept := topicsJSON{Version: layoutVersion}
	known := make(map[partitionKey]bool)
	for _, t := range topics.Topics {
		if cfg.Derived(t.Name) {
			r.Dropped = append(r.Dropped, t.Name)
			continue
		}
		r.Kept = append(r.Kept, t.Name)
		kept.Topics = append(kept.Topics, t)
		for p := range int32(t.Partitions) {
			known[partitionKey{t.Name, p}] = true
		}
	}
	slices.Sort(r.Kept)
	slices.Sort(r.Dropped)

	for _, name := range []string{pidsFile, windowsFile, sessionFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	if r.Groups, err = recoverGroups(cfg, kept); err != nil {
		return r, err
	}
	if err := writeJSON(filepath.Join(dir, topicsFile), kept); err != nil {
		return r, err
	}

	// Directories of derived topics, and those that a deletion left behind.
	dirs, err := os.ReadDir(filepath.Join(dir, partitions))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	floor := readPositions(dir)
	for _, d := range dirs {
		path := filepath.Join(dir, partitions, d.Name())
		key, ok := parsePartitionDir(d.Name())
		if !ok || !known[key] {
			if err := os.RemoveAll(path); err != nil {
				return r, err
			}
			continue
		}
		repaired := partitionRepair{root: dir, path: path, key: key, floor: floor[key.topic][key.partition]}
		if err := repaired.run(); err != nil {
			return r, err
		}
		r.Torn = append(r.Torn, repaired.torn...)
		r.Damaged = append(r.Damaged, repaired.damaged...)
	}
	return r, nil
}

// removeTemporary removes what interrupted replacements of files left.
func removeTemporary(dir string) error {
	for _, pattern := range []string{"*.tmp", partitions + "/*/*.tmp"} {
		paths, err := filepath.Glob(filepath.Join(escapeGlob(dir), pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// recoverTopics reads the list of topics and makes sure that the other JSON
// files can be read. The list is the one file that cannot be made up: without
// it nobody knows how many partitions a topic had.
func recoverTopics(cfg Config) (topicsJSON, error) {
	path := filepath.Join(cfg.Dir, topicsFile)
	found, err := exists(path)
	if err != nil {
		return topicsJSON{}, err
	}
	if !found {
		// Killed before the first state was complete. That is fine as long as
		// nothing was stored.
		dats, err := filepath.Glob(filepath.Join(escapeGlob(cfg.Dir), partitions, "*", "*.dat"))
		if err != nil {
			return topicsJSON{}, err
		}
		for _, dat := range dats {
			key, ok := parsePartitionDir(filepath.Base(filepath.Dir(dat)))
			if info, err := os.Stat(dat); ok && err == nil && info.Size() > 0 && !cfg.Derived(key.topic) {
				return topicsJSON{}, fmt.Errorf("%s is missing, but there are records of topic %s", path, key.topic)
			}
		}
	}
	topics, err := readTopics(cfg.Dir)
	if err != nil {
		return topicsJSON{}, err
	}

	var meta metaJSON
	if found, err := readJSON(filepath.Join(cfg.Dir, metaFile), &meta); err != nil || !found {
		if err := writeJSON(filepath.Join(cfg.Dir, metaFile), metaJSON{layoutVersion, "touchstone-embedded"}); err != nil {
			return topicsJSON{}, err
		}
	}
	for _, name := range []string{"acls.json", "sasl.json", "quotas.json", "broker_configs.json"} {
		var any map[string]json.RawMessage
		if _, err := readJSON(filepath.Join(cfg.Dir, name), &any); err != nil {
			if err := os.Remove(filepath.Join(cfg.Dir, name)); err != nil {
				return topicsJSON{}, err
			}
		}
	}
	return topics, nil
}

// recoverGroups keeps the offsets that other programs committed on primary
// topics, and drops group members, the stations' groups and offsets on topics
// that are gone. It returns the groups that were dropped.
func recoverGroups(cfg Config, kept topicsJSON) ([]string, error) {
	path := filepath.Join(cfg.Dir, groupsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	topics := make(map[string]bool)
	for _, t := range kept.Topics {
		topics[t.Name] = true
	}
	var keep bytes.Buffer
	dropped := make(map[string]bool)
	for _, framed := range splitEntries(raw) {
		var e groupEntry
		if err := json.Unmarshal(framed[entryHeader:], &e); err != nil {
			continue // kfake skips it as well
		}
		switch {
		case cfg.DerivedGroup(e.Group):
			dropped[e.Group] = true
		case e.Type == "static":
		case (e.Type == "commit" || e.Type == "delete") && !topics[e.Topic]:
		default:
			keep.Write(framed)
		}
	}
	groups := make([]string, 0, len(dropped))
	for g := range dropped {
		groups = append(groups, g)
	}
	slices.Sort(groups)
	return groups, writeFileSync(path, keep.Bytes())
}

// partitionRepair makes the files of one partition consistent: whole batches
// only, an index that matches, transactions ended, and a snapshot that lets
// kfake take the files as they are. Offsets do not change, and none that was
// ever given is given again.
type partitionRepair struct {
	root  string // of the broker
	path  string
	key   partitionKey
	floor int64 // the next offset is at least this

	torn    []Torn
	damaged []Damaged

	next     int64 // the offset behind the last batch
	last     header
	maxStamp int64
	open     map[int64]header // by producer id: first batch of a transaction without an end
	aborted  []abortedJSON
	segments []segmentJSON
	first    int64 // offset of the first batch; -1 if none
}

func (p *partitionRepair) run() error {
	p.first = -1
	p.open = make(map[int64]header)

	// The snapshot of the last clean stop may be out of date, but it is never
	// wrong about how far the log had come, or what was deleted, by then.
	var old snapshotJSON
	if _, err := readJSON(filepath.Join(p.path, snapshotFile), &old); err != nil {
		old = snapshotJSON{}
	}
	p.floor = max(p.floor, old.HighWatermark)

	bases, err := segmentBases(p.path)
	if err != nil {
		return err
	}
	for i, base := range bases {
		// An empty segment at the end stands for the position of an emptied
		// partition.
		p.floor = max(p.floor, base)
		following := int64(-1)
		if i+1 < len(bases) {
			following = bases[i+1]
		}
		if err := p.segment(base, following); err != nil {
			return err
		}
	}
	if err := p.endTransactions(); err != nil {
		return err
	}
	if err := p.removeOrphans(); err != nil {
		return err
	}

	end := max(p.next, p.floor)
	start := end
	if p.first >= 0 {
		start = max(p.first, min(old.LogStartOffset, end))
	} else if end > 0 {
		if err := p.holdPosition(end); err != nil {
			return err
		}
	}
	created := old.CreatedAt
	if created.IsZero() {
		created = time.Now()
	}
	return writeJSON(filepath.Join(p.path, snapshotFile), snapshotJSON{
		Version:          layoutVersion,
		HighWatermark:    end,
		LastStableOffset: end,
		LogStartOffset:   start,
		Epoch:            max(old.Epoch, p.last.epoch),
		MaxTimestamp:     p.maxStamp,
		CreatedAt:        created,
		AbortedTxns:      p.aborted,
		Segments:         p.segments,
	})
}

// segment repairs one segment and follows its batches. The base offset of the
// next segment is following, or -1 if this is the last.
func (p *partitionRepair) segment(base, following int64) error {
	path := filepath.Join(p.path, segmentName(base))
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	batches, at, damaged := scanSegment(raw, max(p.next, base))

	if len(damaged) == 1 && damaged[0].to == len(raw) && following < 0 {
		p.torn = append(p.torn, Torn{p.key.topic, p.key.partition, damaged[0].to - damaged[0].from})
		if err := os.Truncate(path, int64(damaged[0].from)); err != nil {
			return err
		}
		raw = raw[:damaged[0].from]
	} else if len(damaged) > 0 {
		if raw, err = p.salvage(base, following, raw, batches, at, damaged); err != nil {
			return err
		}
	}
	if len(batches) == 0 {
		return errors.Join(remove(path), remove(filepath.Join(p.path, indexName(base))))
	}

	info := segmentJSON{BaseOffset: base, Size: int64(len(raw)), MinEpoch: batches[0].epoch, MaxEpoch: batches[0].epoch}
	index := make([]byte, 0, len(batches)*indexEntrySize)
	pos := 0
	for _, h := range batches {
		p.follow(h, raw[pos:pos+h.size])
		pos += h.size
		e := indexEntry(h, p.maxStamp)
		index = append(index, e[:]...)
		info.MinEpoch, info.MaxEpoch = min(info.MinEpoch, h.epoch), max(info.MaxEpoch, h.epoch)
	}
	p.segments = append(p.segments, info)
	return writeFileSync(filepath.Join(p.path, indexName(base)), index)
}

// follow takes a batch into account.
func (p *partitionRepair) follow(h header, batch []byte) {
	if p.first < 0 {
		p.first = h.base
		p.maxStamp = h.timestamp
	}
	p.next, p.last = h.end(), h
	p.maxStamp = max(p.maxStamp, h.timestamp)
	switch {
	case h.control():
		begin, ok := p.open[h.producerID]
		if ok && aborts(batch) {
			p.aborted = append(p.aborted, abortedJSON{h.producerID, begin.base, h.base})
		}
		delete(p.open, h.producerID)
	case h.transactional():
		if _, ok := p.open[h.producerID]; !ok {
			p.open[h.producerID] = h
		}
	}
}

// salvage puts a copy of a damaged segment aside and keeps its readable batches.
// Gaps between offsets are normal in a Kafka log, so the others keep theirs.
func (p *partitionRepair) salvage(base, following int64, raw []byte, batches []header, at, damaged []span) ([]byte, error) {
	aside := filepath.Join(p.root, damagedDir, filepath.Base(p.path)+"-"+segmentName(base))
	if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
		return nil, err
	}
	if found, err := exists(aside); err != nil {
		return nil, err
	} else if !found { // an interrupted recovery has put the original there
		if err := writeFileSync(aside, raw); err != nil {
			return nil, err
		}
	}
	good := make([]byte, 0, len(raw))
	for _, s := range at {
		good = append(good, raw[s.from:s.to]...)
	}
	for _, s := range damaged {
		d := Damaged{
			Topic: p.key.topic, Partition: p.key.partition,
			From: max(p.next, base), To: following, Bytes: s.to - s.from, Aside: aside,
		}
		for i, h := range batches {
			if at[i].to <= s.from {
				d.From = h.end()
			} else if at[i].from >= s.to {
				d.To = h.base
				break
			}
		}
		d.To = max(d.From, d.To)
		p.damaged = append(p.damaged, d)
	}
	return good, writeFileSync(filepath.Join(p.path, segmentName(base)), good)
}

// endTransactions appends an abort marker for every transaction that was open,
// so that readers of committed records see its end, and makes sure that the log
// reaches as far as it had ever come: kfake takes the end of the last batch for
// the end of the log.
func (p *partitionRepair) endTransactions() error {
	if p.first < 0 {
		return nil
	}
	var add []byte
	mark := func(offset, producer int64, epoch int16) header {
		b := abortMarker(offset, p.last.epoch, producer, epoch, p.maxStamp)
		add = append(add, b...)
		h := readHeader(b)
		p.follow(h, b)
		return h
	}
	var headers []header
	open := make([]header, 0, len(p.open))
	for _, h := range p.open {
		open = append(open, h)
	}
	slices.SortFunc(open, func(a, b header) int { return cmp.Compare(a.base, b.base) })
	for _, h := range open {
		headers = append(headers, mark(p.next, h.producerID, h.producerEp))
	}
	if p.next < p.floor {
		// The end of a transaction nobody began: it carries the position.
		p.damaged = append(p.damaged, Damaged{Topic: p.key.topic, Partition: p.key.partition, From: p.next, To: p.floor})
		headers = append(headers, mark(p.floor, rand.Int64(), 0))
	}
	slices.SortFunc(p.aborted, func(a, b abortedJSON) int { return cmp.Compare(a.LastOffset, b.LastOffset) })
	if len(headers) == 0 {
		return nil
	}

	s := &p.segments[len(p.segments)-1]
	var index []byte
	for _, h := range headers {
		e := indexEntry(h, p.maxStamp)
		index = append(index, e[:]...)
	}
	s.Size += int64(len(add))
	return errors.Join(
		appendFileSync(filepath.Join(p.path, segmentName(s.BaseOffset)), add),
		appendFileSync(filepath.Join(p.path, indexName(s.BaseOffset)), index),
	)
}

// removeOrphans removes index files without a segment.
func (p *partitionRepair) removeOrphans() error {
	keep := make(map[string]bool)
	for _, s := range p.segments {
		keep[indexName(s.BaseOffset)] = true
	}
	files, err := os.ReadDir(p.path)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".idx") && !keep[f.Name()] {
			if err := remove(filepath.Join(p.path, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// holdPosition keeps the end of an empty partition. kfake believes a snapshot
// only if there is a segment, and otherwise begins at offset zero again; an
// empty segment with the right name is enough, and the next batch goes into it.
func (p *partitionRepair) holdPosition(end int64) error {
	p.segments = []segmentJSON{{BaseOffset: end}}
	return writeFileSync(filepath.Join(p.path, segmentName(end)), nil)
}

// keepEmptyPositions does what holdPosition does after a clean stop: retention
// or deletion may have emptied partitions, derived ones as well, and consumers
// hold offsets in them.
func keepEmptyPositions(dir string) error {
	snapshots, err := filepath.Glob(filepath.Join(escapeGlob(dir), partitions, "*", snapshotFile))
	if err != nil {
		return err
	}
	for _, path := range snapshots {
		var snap snapshotJSON
		if _, err := readJSON(path, &snap); err != nil {
			continue // kfake replays the segments instead
		}
		if len(snap.Segments) > 0 || snap.HighWatermark == 0 {
			continue
		}
		p := partitionRepair{path: filepath.Dir(path)}
		if bases, err := segmentBases(p.path); err != nil || len(bases) > 0 {
			continue
		}
		if err := p.holdPosition(snap.HighWatermark); err != nil {
			return err
		}
		snap.Segments = p.segments
		snap.LogStartOffset = snap.HighWatermark
		if err := writeJSON(path, snap); err != nil {
			return err
		}
	}
	return nil
}

// forgetSessions removes the group members and fetch sessions that kfake saves
// at a clean stop. It does so for tests that restart the broker under living
// clients. Here the clients have gone with the process, and a member that never
// comes back would hold up its group for a session timeout. Open transactions
// stay: their producers fence themselves when they begin.
func forgetSessions(dir string) error {
	path := filepath.Join(dir, sessionFile)
	var state map[string]json.RawMessage
	found, err := readJSON(path, &state)
	if !found {
		return err
	}
	if err != nil {
		return nil // kfake ignores it as well
	}
	for _, key := range []string{"classicGroups", "consumerGroups", "fetchSessions"} {
		delete(state, key)
	}
	return writeJSON(path, state)
}

func appendFileSync(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
