package cdc

import (
	"github.com/touchstone-platform/touchstone/domain/jcs"
	"github.com/touchstone-platform/touchstone/domain/journal"
)

// Order names the row that an entry is a change of: its table and the
// canonical JSON of its key. A tombstone and a record without a known key have
// the raw record key instead.
func (s *Source) Order(e *journal.Entry) string {
	if !e.NoBody {
		if c, err := s.parse(e.Key, e.Body); err == nil && c != nil && len(c.key) > 0 {
			if key, err := jcs.Append(nil, c.key); err == nil {
				return c.db + "." + c.schema + "." + c.table + "/" + string(key)
			}
		}
	}
	return string(e.Key)
}
