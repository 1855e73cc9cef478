// Package cdc is the kind of source whose deliveries are row changes captured
// from a database: Debezium's JSON envelope, with and without the Connect
// schema block, and Maxwell's. They come from Kafka topics or from files.
//
// It does not consume topics: the door does, and hands each record to Entry.
package cdc

import "github.com/touchstone-platform/touchstone/connectors"

// Kind is the cdc kind; the zero value is ready.
type Kind struct{}

// Name is "cdc".
func (Kind) Name() string { return "cdc" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "Row changes captured from a database by Debezium or Maxwell, from Kafka topics or files."
}

// Variables that the records have.
func (Kind) Variables() []connectors.Variable {
	return []connectors.Variable{
		{Name: "op", Doc: `"c" created, "u" updated, "d" deleted, "r" read by a snapshot`},
		{Name: "before", Doc: "map of the columns before the change, or null"},
		{Name: "after", Doc: "map of the columns after the change, or null; a column whose value the capture did not have (unchanged TOAST) is absent"},
		{Name: "row", Doc: "map: after, or before for a delete, with the key columns added; never null"},
		{Name: "key", Doc: "map of the key columns, empty if no key is known"},
		{Name: "table", Doc: "table or collection, a string"},
		{Name: "db", Doc: "database, a string; may be empty"},
		{Name: "schema", Doc: "database schema, a string; may be empty"},
		{Name: "source", Doc: "map: the envelope's source block as sent"},
		{Name: "ts", Doc: "int: milliseconds since 1970 at which the database made the change (source.ts_ms, else ts_ms); 0 if unknown"},
		{Name: "deleted", Doc: `bool: op is "d"`},
		{Name: "snapshot", Doc: "bool: read by a snapshot rather than captured as it happened"},
		{Name: "position", Doc: "string: where in the database's log the change stands; empty if unknown"},
		{Name: "sequence", Doc: "int: orders changes of one source that carry the same time; 0 if unknown"},
	}
}

// Settings that a source of this kind takes.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "format", Form: "debezium | maxwell", Default: "debezium", Doc: "the envelope"},
		{Key: "keepHeaders", Form: "list of header names", Default: "[]", Doc: "Kafka record headers kept in the journal; headers that carry credentials are refused"},
		{Key: "key", Form: "list of columns", Default: "from the record key", Doc: "key columns of the table, for records that come without a record key"},
		{Key: "maxDepth", Form: "int, 1 to 512", Default: "64", Doc: "deepest nesting of key and value"},
		{Key: "tables", Form: "list of table, schema.table, db.table or db.schema.table", Default: "[] (all)", Doc: "tables that are followed; changes of others are ignored"},
		{Key: "topics", Form: "list of Kafka topics", Default: "[]", Doc: "topics to follow; without any, changes come from files only"},
		{Key: "unavailable", Form: "string", Default: "__debezium_unavailable_value", Doc: "placeholder of a column whose value the capture did not have; such columns are left out"},
	}
}
