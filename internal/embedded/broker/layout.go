package broker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The layout of kfake's data directory, format version 1, as its persist.go
// writes and reads it (franz-go/pkg/kfake at 01f206a7e32c). A newer kfake may
// change it: TestLayout compares what this file knows with what the linked
// version does.
//
//	meta.json            cluster id; its presence makes kfake load at all
//	topics.json          names, ids, partition counts, configs
//	groups.log           consumer groups and their offsets: framed JSON entries
//	pids.log             producer ids and ends of transactions: framed JSON entries
//	seq_windows.json     sequence numbers per producer, written by a clean stop
//	session_state.json   group members and open transactions, written by a clean stop, removed on load
//	acls.json, sasl.json, quotas.json, broker_configs.json
//	partitions/<topic>-<n>/<base>.dat      record batches as on the wire, one after the other
//	partitions/<topic>-<n>/<base>.idx      15 bytes a batch; see indexEntry
//	partitions/<topic>-<n>/snapshot.json   ends of the log and sizes of the segments, written by a clean stop
//
// JSON files are replaced by rename. The .dat and .idx files and the logs are
// appended to with write(2), the batch before its index entry, before the
// request is answered. A snapshot whose sizes differ from the files is ignored,
// and the files are then replayed. Our own files in the same directory are
// LOCK, RUNNING, positions.json and damaged/.
const (
	layoutVersion = 1

	runningFile   = "RUNNING" // present while a broker runs, and after an unclean stop
	positionsFile = "positions.json"
	damagedDir    = "damaged"

	metaFile     = "meta.json"
	topicsFile   = "topics.json"
	groupsFile   = "groups.log"
	pidsFile     = "pids.log"
	windowsFile  = "seq_windows.json"
	sessionFile  = "session_state.json"
	snapshotFile = "snapshot.json"
	partitions   = "partitions"
)

type (
	metaJSON struct {
		Version   int    `json:"version"`
		ClusterID string `json:"cluster_id"`
	}

	topicsJSON struct {
		Version int         `json:"version"`
		Topics  []topicJSON `json:"topics"`
	}

	topicJSON struct {
		Name       string            `json:"name"`
		ID         json.RawMessage   `json:"id"`
		Partitions int               `json:"partitions"`
		Replicas   int               `json:"replicas"`
		Configs    map[string]string `json:"configs,omitempty"`
	}

	snapshotJSON struct {
		Version          int           `json:"version"`
		HighWatermark    int64         `json:"high_watermark"`
		LastStableOffset int64         `json:"last_stable_offset"`
		LogStartOffset   int64         `json:"log_start_offset"`
		Epoch            int32         `json:"epoch"`
		LeaderNode       int32         `json:"leader_node,omitempty"`
		MaxTimestamp     int64         `json:"max_timestamp"`
		CreatedAt        time.Time     `json:"created_at"`
		AbortedTxns      []abortedJSON `json:"aborted_txns,omitempty"`
		Segments         []segmentJSON `json:"segments"`
	}

	abortedJSON struct {
		ProducerID  int64 `json:"producer_id"`
		FirstOffset int64 `json:"first_offset"`
		LastOffset  int64 `json:"last_offset"` // that of the abort marker
	}

	segmentJSON struct {
		BaseOffset int64 `json:"base_offset"`
		Size       int64 `json:"size"`
		MinEpoch   int32 `json:"min_epoch,omitempty"`
		MaxEpoch   int32 `json:"max_epoch,omitempty"`
	}

	// groupEntry holds what recovery needs to know of an entry of groups.log.
	groupEntry struct {
		Type  string `json:"type"` // meta, meta848, static, commit, delete
		Group string `json:"g"`
		Topic string `json:"t"`
	}
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readJSON reads a JSON file; found is false where it does not exist.
func readJSON(path string, into any) (found bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return true, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return true, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFileSync(path, b)
}

func readTopics(dir string) (topicsJSON, error) {
	topics := topicsJSON{Version: layoutVersion}
	_, err := readJSON(filepath.Join(dir, topicsFile), &topics)
	if err == nil && topics.Version > layoutVersion {
		err = fmt.Errorf("%s has format version %d, want at most %d", filepath.Join(dir, topicsFile), topics.Version, layoutVersion)
	}
	return topics, err
}

func partitionDir(dir, topic string, partition int32) string {
	return filepath.Join(dir, partitions, fmt.Sprintf("%s-%d", url.PathEscape(topic), partition))
}

// parsePartitionDir is the inverse of partitionDir, for the last element of
// the path.
func parsePartitionDir(name string) (partitionKey, bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return partitionKey{}, false
	}
	topic, err := url.PathUnescape(name[:i])
	if err != nil {
		return partitionKey{}, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 {
		return partitionKey{}, false
	}
	return partitionKey{topic, int32(n)}, true
}

func segmentName(base int64) string { return strconv.FormatInt(base, 10) + ".dat" }
func indexName(base int64) string   { return strconv.FormatInt(base, 10) + ".idx" }

// segmentBases lists the base offsets of the segments of a partition's
// directory, ascending.
func segmentBases(dir string) ([]int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var bases []int64
	for _, name := range names {
		if number, ok := strings.CutSuffix(name, ".dat"); ok {
			if base, err := strconv.ParseInt(number, 10, 64); err == nil {
				bases = append(bases, base)
			}
		}
	}
	slices.Sort(bases)
	return bases, nil
}

// batchHeader is the size of a record batch (format version 2) without its
// records. All integers are big endian.
const batchHeader = 61

// header is what the header of a record batch says.
type header struct {
	base       int64 // offset of the first record
	size       int   // of the whole batch, in bytes
	epoch      int32
	magic      int8
	crc        uint32 // CRC-32C of everything from the attributes on
	attributes int16
	lastDelta  int32 // offset of the last record, less base
	timestamp  int64 // the highest, in milliseconds
	producerID int64
	producerEp int16
	records    int32
}

// readHeader decodes a header; b has at least batchHeader bytes.
func readHeader(b []byte) header {
	return header{
		base:       int64(binary.BigEndian.Uint64(b[0:])),
		size:       12 + int(int32(binary.BigEndian.Uint32(b[8:]))),
		epoch:      int32(binary.BigEndian.Uint32(b[12:])),
		magic:      int8(b[16]),
		crc:        binary.BigEndian.Uint32(b[17:]),
		attributes: int16(binary.BigEndian.Uint16(b[21:])),
		lastDelta:  int32(binary.BigEndian.Uint32(b[23:])),
		timestamp:  int64(binary.BigEndian.Uint64(b[35:])),
		producerID: int64(binary.BigEndian.Uint64(b[43:])),
		producerEp: int16(binary.BigEndian.Uint16(b[51:])),
		records:    int32(binary.BigEndian.Uint32(b[57:])),
	}
}

func (h header) transactional() bool { return h.attributes&0x10 != 0 }
func (h header) control() bool       { return h.attributes&0x20 != 0 }
func (h header) end() int64          { return h.base + int64(h.lastDelta) + 1 } // the offset behind the batch

// batchAt decodes the batch at the start of b. It is false where there is no
// complete, undamaged batch whose offsets come at or after next.
func batchAt(b []byte, next int64) (header, bool) {
	if len(b) < batchHeader {
		return header{}, false
	}
	h := readHeader(b)
	if h.magic != 2 || h.size < batchHeader || h.size > len(b) || h.base < next || h.lastDelta < 0 || h.records <= 0 || h.end() <= h.base {
		return header{}, false
	}
	return h, crc32.Checksum(b[21:h.size], castagnoli) == h.crc
}

// credibleAt is batchAt with some distrust of the offset, which the checksum
// does not cover. An offset that leaves a gap is possible, but not if the batch
// behind it has a lower one.
func credibleAt(b []byte, next int64) (header, bool) {
	h, ok := batchAt(b, next)
	if !ok || h.base == next {
		return h, ok
	}
	if behind, ok := batchAt(b[h.size:], next); ok && behind.base < h.end() {
		return header{}, false
	}
	return h, true
}

// span is a range of bytes of a file.
type span struct{ from, to int }

// scanSegment finds the batches of a segment and the bytes that belong to none.
// Offsets ascend from next on. Behind damaged bytes it looks for the next batch
// byte by byte.
func scanSegment(raw []byte, next int64) (batches []header, at []span, damaged []span) {
	for pos := 0; pos < len(raw); {
		h, ok := credibleAt(raw[pos:], next)
		if !ok {
			from := pos
			for pos++; pos < len(raw); pos++ {
				if len(raw)-pos < batchHeader {
					pos = len(raw)
					break
				}
				if raw[pos+16] != 2 {
					continue
				}
				if _, ok := credibleAt(raw[pos:], next); ok {
					break
				}
			}
			damaged = append(damaged, span{from, pos})
			continue
		}
		batches = append(batches, h)
		at = append(at, span{pos, pos + h.size})
		next = h.end()
		pos += h.size
	}
	return batches, at, damaged
}

const indexEntrySize = 15

// indexEntry encodes the index entry of a batch: version, low byte of the
// CRC-32C of what follows, epoch, the highest timestamp so far, and whether the
// batch belongs to a transaction. Integers are little endian.
func indexEntry(h header, maxTimestamp int64) [indexEntrySize]byte {
	var e [indexEntrySize]byte
	e[0] = layoutVersion
	binary.LittleEndian.PutUint32(e[2:], uint32(h.epoch))
	binary.LittleEndian.PutUint64(e[6:], uint64(maxTimestamp))
	if h.transactional() && !h.control() {
		e[14] = 1
	}
	e[1] = byte(crc32.Checksum(e[2:], castagnoli))
	return e
}

// entryHeader is the size of the framing of an entry of groups.log: length of
// what follows the checksum, CRC-32C of that, version. Little endian.
const entryHeader = 4 + 4 + 2

// splitEntries splits a log of framed entries, framing included, up to the
// first one that is torn or damaged.
func splitEntries(raw []byte) [][]byte {
	var entries [][]byte
	for len(raw) >= entryHeader {
		size := 8 + int(binary.LittleEndian.Uint32(raw))
		if size < entryHeader || size > len(raw) || crc32.Checksum(raw[8:size], castagnoli) != binary.LittleEndian.Uint32(raw[4:]) {
			break
		}
		entries = append(entries, raw[:size])
		raw = raw[size:]
	}
	return entries
}

// abortMarker builds the control batch that ends a producer's transaction as
// aborted, with the given offset (Kafka protocol, control record type 0).
func abortMarker(offset int64, epoch int32, producer int64, producerEpoch int16, timestamp int64) []byte {
	key := kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeAbort}
	record := kmsg.Record{Key: key.AppendTo(nil), Value: new(kmsg.EndTxnMarker).AppendTo(nil)}
	record.Length = int32(len(record.AppendTo(nil)) - 1) // without itself: a length below 64 is one byte
	batch := kmsg.RecordBatch{
		FirstOffset:          offset,
		PartitionLeaderEpoch: epoch,
		Magic:                2,
		Attributes:           0x30, // control, transactional
		FirstTimestamp:       timestamp,
		MaxTimestamp:         timestamp,
		ProducerID:           producer,
		ProducerEpoch:        producerEpoch,
		FirstSequence:        -1,
		NumRecords:           1,
		Records:              record.AppendTo(nil),
	}
	return seal(batch.AppendTo(nil))
}

// seal fills in the length and the checksum of an encoded batch.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// aborts says whether a control batch ends its transaction as aborted. What
// cannot be read counts as an abort, as it does in kfake.
func aborts(batch []byte) bool {
	var record kmsg.Record
	if err := record.ReadFrom(batch[batchHeader:]); err != nil || len(record.Key) < 4 {
		return true
	}
	return int16(binary.BigEndian.Uint16(record.Key[2:])) != int16(kmsg.ControlRecordKeyTypeCommit)
}

// positions are the ends of partitions: the offset the next record gets.
type positions map[string]map[int32]int64

func (p positions) set(topic string, partition int32, end int64) {
	if p[topic] == nil {
		p[topic] = make(map[int32]int64)
	}
	p[topic][partition] = end
}

func (p positions) write(dir string) error {
	return writeJSON(filepath.Join(dir, positionsFile), p)
}

// readPositions reads the recorded positions. They are a lower bound that
// matters for emptied partitions alone, so an unreadable file counts as none.
func readPositions(dir string) positions {
	p := make(positions)
	if _, err := readJSON(filepath.Join(dir, positionsFile), &p); err != nil {
		return make(positions)
	}
	return p
}
