package cdc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/touchstone-platform/touchstone/domain/jcs"
)

// position tells where in the log of its database a change stands, as text,
// and as a number that orders changes of one source: later changes have greater
// numbers. Without a real position in the source block it gives "" and 0.
//
// A Kafka offset is no position: Debezium sends changes again after a restart,
// and they get new offsets.
func position(source map[string]any) (string, int64) {
	str := func(name string) string {
		switch v := source[name].(type) {
		case string:
			return v
		case int64:
			return strconv.FormatInt(v, 10)
		}
		return ""
	}
	num := func(name string) int64 { n, _ := strconv.ParseInt(str(name), 10, 64); return n }
	switch {
	case str("change_lsn") != "" || str("commit_lsn") != "": // SQL Server, Db2
		p := "lsn " + str("change_lsn") + " commit " + str("commit_lsn")
		if s := str("event_serial_no"); s != "" {
			p += " serial " + s
		}
		lsn := str("change_lsn")
		if lsn == "" {
			lsn = str("commit_lsn")
		}
		return p, sqlServerSequence(lsn)
	case num("lsn") > 0: // PostgreSQL
		return "tx " + str("txId") + " lsn " + str("lsn"), num("lsn")
	case str("file") != "": // MySQL, MariaDB
		p := str("file") + ":" + str("pos") + ":" + str("row")
		return p, binlogSequence(str("file"), num("pos"), num("row"))
	case str("scn") != "": // Oracle
		p := "scn " + str("scn") + " tx " + str("txId")
		for _, name := range []string{"redo_thread", "rs_id", "ssn"} { // LogMiner's place within the SCN
			if s := strings.TrimSpace(str(name)); s != "" {
				p += " " + name + " " + s
			}
		}
		return p, num("scn")
	case str("ord") != "" && str("connector") == "mongodb":
		p := "ord " + str("ord")
		for _, name := range []string{"tord", "lsid", "txnNumber"} { // within a transaction
			if s := str(name); s != "" {
				p += " " + name + " " + s
			}
		}
		return p, num("ord")
	}
	return "", 0
}

// transactionPosition tells the place by a global transaction id and the order
// within the transaction (provide.transaction.metadata), for MySQL without the
// place in its binary log.
func transactionPosition(source map[string]any, transaction any) string {
	gtid, _ := source["gtid"].(string)
	m, _ := transaction.(map[string]any)
	order := ""
	switch v := m["total_order"].(type) {
	case string:
		order = v
	case fmt.Stringer: // a number's literal
		order = v.String()
	}
	if gtid == "" || order == "" {
		return ""
	}
	return "gtid " + gtid + " order " + order
}

// binlogSequence packs the number of the binary log file (21 bits), the place
// in it (34 bits) and the row of the event (8 bits) into a positive integer.
func binlogSequence(file string, pos, row int64) int64 {
	n, _ := strconv.ParseInt(file[strings.LastIndexByte(file, '.')+1:], 10, 64)
	clamp := func(v, bits int64) int64 { return min(max(v, 0), 1<<bits-1) }
	return clamp(n, 21)<<42 | clamp(pos, 34)<<8 | clamp(row, 8)
}

// sqlServerSequence packs an LSN "00000027:00000758:0005" (virtual log file,
// block, slot) into a positive integer, the lower 23, 28 and 12 bits of them.
func sqlServerSequence(lsn string) int64 {
	parts := strings.Split(lsn, ":")
	if len(parts) != 3 {
		return 0
	}
	var n [3]uint64
	for i, p := range parts {
		n[i], _ = strconv.ParseUint(p, 16, 32)
	}
	return int64(n[0]&(1<<23-1)<<40 | n[1]&(1<<28-1)<<12 | n[2]&(1<<12-1))
}

// vendorID identifies the change by its position; empty without one, and its
// content then identifies it. Rows of a snapshot, and rows of one statement,
// share a position, so the key of the row is part of it, or the row itself
// where no key is known. The time guards against a log that began anew.
func (c *change) vendorID() string {
	if c.position == "" {
		return ""
	}
	var row any = c.key
	if len(c.key) == 0 {
		row = []any{orNull(c.before), orNull(c.after)}
	}
	canonical, err := jcs.Append(nil, row)
	if err != nil {
		return ""
	}
	table := c.table
	for _, scope := range []string{c.schema, c.db} {
		if scope != "" {
			table = scope + "." + table
		}
	}
	id := fmt.Sprintf("%s/%s/%s/%d/%s/%s", c.capture, table, c.position, c.ts, c.op, digest(canonical)[:16])
	if len(id) > 256 || strings.IndexFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		return digest([]byte(id))
	}
	return id
}

func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
