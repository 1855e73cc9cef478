// Package sql is the kind of back end that is a database: PostgreSQL, MySQL or
// SQLite. A call is one transaction of parameterised statements. With a table for
// keys a call has its effect once, whatever crashes: the key is written in the
// same transaction.
package sql

import "github.com/touchstone-platform/touchstone/connectors"

// Kind is the sql kind; the zero value is ready.
type Kind struct{}

// Name is "sql".
func (Kind) Name() string { return "sql" }

// Doc in one sentence.
func (Kind) Doc() string {
	return "A database (PostgreSQL, MySQL, SQLite) that is asked by parameterised statements, one transaction a call."
}

// Settings of a connection.
func (Kind) Settings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "driver", Form: drivers, Default: "required", Doc: "which database it is"},
		{Key: "dsn", Form: "secret reference", Default: "required", Doc: "where it is and who asks, as the driver spells it: postgres://user:password@host/db, user:password@tcp(host:3306)/db, file:path.db"},
		{Key: "keys", Form: "name of a table", Default: "", Doc: "table with the columns call_key (text, primary key) and answer (text), in which the keys of calls are kept: a call whose key is there is answered as it was, and does nothing"},
	}
}

// OperationSettings are those of one operation.
func (Kind) OperationSettings() []connectors.Setting {
	return []connectors.Setting{
		{Key: "isolation", Form: "default | repeatable-read | serializable", Default: "default", Doc: "isolation of the transaction"},
		{Key: "statements", Form: "list of {sql, args, rows}", Default: "required", Doc: "statements in their order. sql has the placeholders of the driver ($1 or ?) and is taken as it stands; args are expressions over args, key and rows, the rows of the statement before; rows is how many it must give or change: any, one, some"},
	}
}

const drivers = "postgres | mysql | sqlite"
