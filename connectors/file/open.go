package file

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Source is a file lane opened for one source. It is safe for concurrent use.
type Source struct {
	name          string
	jsonl         bool
	hasHeader     bool
	delimiter     byte
	quote         byte // 0 for none
	comment       byte // 0 for none
	latin1        bool
	skipBlankRows bool
	maxRowBytes   int
	maxDepth      int
	columns       []column // declared; in the order of the file if hasHeader is false
	sum           []string
	maxBadRows    int64 // -1 for no limit
	maxBadShare   float64

	// header of the entry decoded last: rows of one file come together.
	header atomic.Pointer[decodedHeader]
}

type decodedHeader struct {
	text   string
	labels []label
}

// column is what the settings declare about one column.
type column struct {
	name     string
	kind     canonical.Type
	required bool
}

// The types a column may have.
var kinds = []string{
	string(canonical.KindString), string(canonical.KindInt), string(canonical.KindFloat), string(canonical.KindDecimal),
	string(canonical.KindBool), string(canonical.KindDate), string(canonical.KindTimestamp),
}

// Open checks the settings of a source. It needs no secrets.
func (Kind) Open(src *definition.Source, _ connectors.Secrets) (connectors.Connector, error) {
	r := settings.Read(src.Settings)
	s := &Source{
		name:          src.Name,
		jsonl:         r.Choice("format", "csv", "csv", "jsonl") == "jsonl",
		hasHeader:     r.Bool("header", true),
		delimiter:     r.Character("delimiter", ','),
		quote:         r.Character("quote", '"'),
		comment:       r.Character("comment", 0),
		latin1:        r.Choice("encoding", "utf-8", "utf-8", "iso-8859-1") == "iso-8859-1",
		skipBlankRows: r.Bool("skipBlankRows", false),
		maxRowBytes:   int(r.Int("maxRowBytes", 1<<20, 1<<10, 1<<26)),
		maxDepth:      int(r.Int("maxDepth", connectors.DefaultDepth, 1, 512)),
		sum:           r.Part("controlTotals").Strings("sum"),
	}
	abort := r.Part("abort")
	s.maxBadRows = abort.Int("maxBadRows", -1, 0, 1<<62)
	s.maxBadShare = abort.Float("maxBadShare", 1, 0, 1)
	s.columns = openColumns(r, !s.hasHeader)
	if s.jsonl {
		for _, key := range []string{"header", "delimiter", "quote", "comment", "encoding"} {
			if r.Has(key) {
				r.Wrong(key, src.Settings[key], "nothing: only format csv takes it")
			}
		}
	} else if s.delimiter == 0 || s.delimiter == s.quote || s.delimiter == s.comment || s.quote != 0 && s.quote == s.comment {
		r.Wrong("delimiter", string(s.delimiter), "a delimiter, with delimiter, quote and comment all different")
	}
	for i, name := range s.sum {
		switch c := s.column(name); {
		case c == nil:
			s.columns = append(s.columns, column{name: name, kind: canonical.Type{Kind: canonical.KindDecimal}})
			if !s.hasHeader {
				r.Wrong(fmt.Sprintf("controlTotals.sum[%d]", i), name, "a column that columns lists, since there is no header row")
			}
		case !slices.Contains([]canonical.Kind{canonical.KindInt, canonical.KindDecimal}, c.kind.Kind):
			r.Wrong(fmt.Sprintf("controlTotals.sum[%d]", i), name, "a column of type int or decimal; it is "+c.kind.String())
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

func openColumns(r *settings.Reader, ordered bool) []column {
	var out []column
	read := func(p *settings.Reader, name string) {
		out = append(out, column{
			name:     name,
			kind:     canonical.Type{Kind: canonical.Kind(p.Choice("type", "string", kinds...))},
			required: p.Bool("required", false),
		})
	}
	if r.IsList("columns") {
		for _, p := range r.Parts("columns") {
			name := p.String("name", "")
			if name == "" {
				p.Missing("name", "the label of the column")
			} else if slices.ContainsFunc(out, func(c column) bool { return c.name == name }) {
				p.Wrong("name", name, "a label that no other column has")
			}
			read(p, name)
		}
		return out
	}
	if ordered && r.Has("columns") {
		r.Wrong("columns", map[string]any{}, "a list, which has an order, since there is no header row")
	}
	columns := r.Part("columns")
	for _, name := range columns.Keys() {
		read(columns.Part(name), name)
	}
	return out
}

func (s *Source) column(name string) *column {
	for i := range s.columns {
		if s.columns[i].name == name {
			return &s.columns[i]
		}
	}
	return nil
}
