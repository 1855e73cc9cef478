package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
)

// digest is of a set of keys and values, whatever their order: the sum of the
// hashes of the pairs.
type digest [4]uint64

func pair(key string, value []byte) digest {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(key)))
	h.Write(n[:])
	h.Write([]byte(key))
	h.Write(value)
	var d digest
	sum := h.Sum(nil)
	for i := range d {
		d[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return d
}

func (d *digest) put(o digest) {
	for i := range d {
		d[i] += o[i]
	}
}

func (d *digest) drop(o digest) {
	for i := range d {
		d[i] -= o[i]
	}
}

// Local is what the folder of a stopped instance holds of one partition.
type Local struct {
	engine.Local
	Who    string
	keys   int
	digest digest
}

// Inspect looks into the Pebble folder of a stopped instance. It opens it for
// reading only; who names the instance and the occasion.
func Inspect(who, dir string) ([]Local, error) {
	by := map[engine.Local]*Local{}
	found, err := engine.InspectDir(dir, func(l engine.Local, key string, value []byte) error {
		x := by[l]
		if x == nil {
			x = &Local{}
			by[l] = x
		}
		x.keys++
		x.digest.put(pair(key, value))
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Local, len(found))
	for i, l := range found {
		if x := by[l]; x != nil {
			out[i] = *x
		}
		out[i].Local, out[i].Who = l, who
	}
	return out, nil
}

// AuditLocal checks that no folder was ahead of what is committed, and that the
// content of each table is the image of its changelog up to where the folder
// says that it is. compacted tells that older records are gone: then only what
// stands at the end can be compared.
func AuditLocal(folders []Local, log *Log, compacted bool) *Report {
	report := &Report{}
	logs := map[string][][]change{
		topology.TableName(Domain, topology.Inbox):   changelog(log.Seen),
		topology.TableName(Domain, topology.Merge):   changelog(log.Entities),
		topology.TableName(Domain, topology.Publish): changelog(log.Published),
	}
	for _, l := range folders {
		if l.View {
			continue
		}
		where := fmt.Sprintf("%s: table of %s, partition %d", l.Who, l.Name, l.Partition)
		partitions, ok := logs[l.Name]
		if !ok {
			report.add(Wrong, where, "no such table")
			continue
		}
		var records []change
		if int(l.Partition) < len(partitions) {
			records = partitions[l.Partition]
		}
		end := int64(-1)
		if len(records) > 0 {
			end = records[len(records)-1].offset
		}
		// A transaction marker takes an offset too, so the mark may be one
		// behind the last record, and one more for each empty transaction.
		keys, sum := image(records, l.Offset)
		switch {
		case compacted && l.Offset < end:
		case keys != l.keys || sum != l.digest:
			report.add(Wrong, where, "has %d keys at offset %d, which are not the image of the changelog up to there, %d keys of it up to %d", l.keys, l.Offset, keys, end)
		}
	}
	return report
}

type change struct {
	offset int64
	key    string
	value  []byte
}

func changelog[T any](records []At[T]) [][]change {
	var out [][]change
	for _, r := range records {
		for len(out) <= int(r.Partition) {
			out = append(out, nil)
		}
		out[r.Partition] = append(out[r.Partition], change{r.Offset, r.Key, r.Raw})
	}
	return out
}

// image folds a changelog up to an offset.
func image(records []change, upTo int64) (keys int, sum digest) {
	held := map[string]digest{}
	for _, r := range records {
		if r.offset > upTo {
			break
		}
		if old, ok := held[r.key]; ok {
			sum.drop(old)
			delete(held, r.key)
		}
		if r.value != nil {
			held[r.key] = pair(r.key, r.value)
			sum.put(held[r.key])
		}
	}
	return len(held), sum
}
