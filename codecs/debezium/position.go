package debezium

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// position gives the id of a change and its place in the order of its source.
//
// An id is "<connector>/<server>/<database>.<schema>.<table>/<log position>/<op>/<key>".
// The log position alone would not do: all rows of a snapshot share one, and so
// do, in some sources, all changes of a transaction. Without a record key a hash
// of the row stands for it.
//
//	source      log position                          sequence
//	PostgreSQL  lsn, txId                             lsn
//	MySQL       file, pos, row (file not empty);      number of the file (21 bits), pos (32),
//	            else gtid with the transaction's      row (10, saturating)
//	            total_order
//	MongoDB     ts_ms, ord, and tord, txnNumber,      seconds (31 bits), ord (32)
//	            lsid within a transaction
//	SQL Server  change_lsn, commit_lsn,               change_lsn's three parts (24, 27 and
//	            event_serial_no                       12 bits); 0 if they do not fit
//	Db2         the same                              0
//	Oracle      scn, rs_id, ssn, txId                 scn
//
// A transaction that updates one row twice at one Oracle scn without rs_id and
// ssn gives two changes one id; their bodies then differ.
func position(e *Event) (id string, sequence int64) {
	if e.Op == "" || e.Source == nil {
		return "", 0
	}
	log, sequence := logPosition(e)
	if log == "" {
		return "", 0
	}
	key := e.KeyText
	if key == "" {
		key = rowHash(e)
	}
	table := e.Table
	if e.Schema != "" {
		table = e.Schema + "." + table
	}
	if e.Database != "" {
		table = e.Database + "." + table
	}
	return strings.Join([]string{e.Connector, e.Server, table, log, string(e.Op), key}, "/"), sequence
}

// rowHash is "row:" and the first 128 bits of SHA-256 over the rows' canonical JSON.
func rowHash(e *Event) string {
	b, err := jcs.Append(nil, []any{orNull(e.Before), orNull(e.After)})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return "row:" + hex.EncodeToString(sum[:16])
}

func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

func logPosition(e *Event) (log string, sequence int64) {
	s := e.Source
	num := func(name string) (int64, bool) {
		n, ok, err := integer(s, name)
		return n, ok && err == nil
	}
	if lsn, ok := num("lsn"); ok {
		return "lsn=" + strconv.FormatInt(lsn, 10) + optional(s, "txId"), lsn
	}
	if file := text(s, "file"); file != "" {
		pos, ok := num("pos")
		if !ok {
			return "", 0
		}
		row, _ := num("row")
		log = file + ":" + strconv.FormatInt(pos, 10) + ":" + strconv.FormatInt(row, 10) + optional(s, "server_id")
		return log, binlogSequence(file, pos, row)
	}
	if gtid := text(s, "gtid"); gtid != "" {
		if order := optional(e.Transaction, "total_order"); order != "" {
			return "gtid=" + gtid + order, 0
		}
		return "", 0
	}
	if lsn := text(s, "change_lsn"); lsn != "" {
		return "change_lsn=" + lsn + optional(s, "commit_lsn") + optional(s, "event_serial_no"), serverLSN(lsn)
	}
	if ord, ok := num("ord"); ok && e.Connector == "mongodb" {
		ms, ok := num("ts_ms")
		if !ok || ms <= 0 || ord < 0 || ord >= 1<<32 {
			return "", 0
		}
		log = "ts=" + strconv.FormatInt(ms, 10) + ",ord=" + strconv.FormatInt(ord, 10)
		return log + optional(s, "tord") + optional(s, "txnNumber") + optional(s, "lsid"), (ms/1000)<<32 | ord
	}
	if scn := textOrNumber(s, "scn"); scn != "" {
		n, _ := strconv.ParseInt(scn, 10, 64)
		return "scn=" + scn + optional(s, "rs_id") + optional(s, "ssn") + optional(s, "txId"), n
	}
	return "", 0
}

// optional gives ",name=value", or "" if there is no value.
func optional(m map[string]any, name string) string {
	if v := textOrNumber(m, name); v != "" {
		return "," + name + "=" + v
	}
	return ""
}

func textOrNumber(m map[string]any, name string) string {
	switch v := m[name].(type) {
	case string:
		return strings.TrimSpace(v)
	case nil, map[string]any, []any:
		return ""
	default:
		b, err := jcs.Append(nil, v)
		if err != nil {
			return ""
		}
		return string(b)
	}
}

// binlogSequence packs "mysql-bin.000003", a position and a row number; 0 if
// they do not fit.
func binlogSequence(file string, pos, row int64) int64 {
	i := strings.LastIndexByte(file, '.')
	n, err := strconv.ParseInt(file[i+1:], 10, 64)
	if i < 0 || err != nil || n < 0 || n >= 1<<21 || pos < 0 || pos >= 1<<32 || row < 0 {
		return 0
	}
	return n<<42 | pos<<10 | min(row, 1<<10-1)
}

// serverLSN packs SQL Server's "00000027:00000758:0003" (hexadecimal: virtual log
// file, block, slot); 0 if it does not fit.
func serverLSN(lsn string) int64 {
	parts := strings.Split(lsn, ":")
	bits := [...]int{24, 27, 12}
	if len(parts) != len(bits) {
		return 0
	}
	var n int64
	for i, b := range bits {
		p, err := strconv.ParseInt(parts[i], 16, 64)
		if err != nil || p < 0 || p >= 1<<b {
			return 0
		}
		n = n<<b | p
	}
	return n
}
