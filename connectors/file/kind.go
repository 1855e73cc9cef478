// Package file is the kind of source that hands over whole files: CSV (RFC
// 4180) and JSON Lines, of any size, in bounded memory. Each row becomes one
// journal entry; bad rows are kept in quarantine with their row number, column
// and reason; control totals tell whether all of it arrived.
//
// It does not find, fetch or spool files: whoever takes the upload does, and
// reads it twice, first with Inspect to decide, then with Entries to journal.
package file

import "github.com/touchstone-platform/touchstone/connectors"

// Kind is the file kind; the zero value is ready.
type Kind struct{}

// Name is "file".
func (Kind) Name() string { return "file" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "Whole files of CSV or JSON Lines, a journal entry per row, with control totals and quarantine."
}

// Variables that the records have.
func (Kind) Variables() []connectors.Variable {
	return []connectors.Variable{
		{Name: "row", Doc: "map of the columns by label; in CSV every value is a string, an empty cell the empty string"},
		{Name: "file", Doc: "map {name: string, sha256: string, row: int}; row counts as in the file, the header of a CSV file being row 1"},
	}
}

// Settings that a source of this kind takes.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "abort.maxBadRows", Form: "int", Default: "no limit", Doc: "refuse the whole file if it has more bad rows"},
		{Key: "abort.maxBadShare", Form: "number, 0 to 1", Default: "1", Doc: "refuse the whole file if a greater share of its rows is bad"},
		{Key: "columns", Form: "map of name to {type, required}, or list of {name, type, required}", Default: "{}", Doc: "checks per column: type is string, int, float, decimal, bool, date or timestamp (default string), required means not empty. Labels that are not listed are taken as they are. Without a header row the list names the columns"},
		{Key: "comment", Form: "one ASCII character", Default: "", Doc: "CSV: lines that start with it are skipped"},
		{Key: "controlTotals.sum", Form: "list of columns", Default: "[]", Doc: "columns that are summed exactly, to compare with the sender's manifest; they must be numeric"},
		{Key: "delimiter", Form: "one ASCII character", Default: ",", Doc: `CSV: between cells; "\t" is the tabulator`},
		{Key: "encoding", Form: "utf-8 | iso-8859-1", Default: "utf-8", Doc: "CSV: character encoding; a UTF-8 byte order mark is skipped"},
		{Key: "format", Form: "csv | jsonl", Default: "csv", Doc: "the form of the file"},
		{Key: "header", Form: "bool", Default: "true", Doc: "CSV: the first row holds the labels; without it columns names them, else they are field1, field2 and so on"},
		{Key: "maxDepth", Form: "int, 1 to 512", Default: "64", Doc: "JSON Lines: deepest nesting of a row"},
		{Key: "maxRowBytes", Form: "int, 1024 to 67108864", Default: "1048576", Doc: "longest row in bytes; a longer one is a bad row"},
		{Key: "quote", Form: "one ASCII character", Default: `"`, Doc: "CSV: around cells that contain delimiters, quotes (doubled) or line ends"},
		{Key: "skipBlankRows", Form: "bool", Default: "false", Doc: "skip rows without any value instead of reporting them"},
	}
}
