package sql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"modernc.org/sqlite"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/settings"
	"github.com/touchstone-platform/touchstone/domain/canonical"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
)

type statement struct {
	text string
	args []definition.Expr
	rows string // any, one or some
	// asks tells that it gives rows.
	asks bool
}

type operation struct {
	statements []statement
	isolation  sql.IsolationLevel
}

type backend struct {
	name, driver, keys string
	db                 *sql.DB
	operations         map[string]operation
}

// tableName is what a table may be called: it is put into statements.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)

// returns finds statements that give rows.
var returns = regexp.MustCompile(`(?is)^\s*(select|with|values|show)\b|\breturning\b`)

// Connect is part of connectors.BackendKind.
func (Kind) Connect(c *definition.Connection, o connectors.Options) (connectors.Backend, error) {
	r := settings.Read(c.Settings)
	b := &backend{name: c.Name, operations: map[string]operation{}}
	b.driver = r.Choice("driver", "", strings.Split(drivers, " | ")...)
	if !r.Has("driver") {
		r.Missing("driver", "one of "+drivers)
	}
	dsn := ""
	if ref := r.String("dsn", ""); ref == "" {
		r.Missing("dsn", "a secret reference such as env:TOUCHSTONE_SECRET_BILLING_DB")
	} else {
		var err error
		if dsn, err = o.Secrets(ref); err != nil {
			r.Wrong("dsn", ref, "a secret reference: "+err.Error())
		}
	}
	if b.keys = r.String("keys", ""); b.keys != "" && !tableName.MatchString(b.keys) {
		r.Wrong("keys", b.keys, "the name of a table")
	}
	wrong, _ := r.Err().(connectors.SettingErrors)
	for _, op := range c.Operations {
		x, bad := operationOf(op, o)
		for _, w := range bad {
			w.Key = "operations." + op.Name + "." + w.Key
			wrong = append(wrong, w)
		}
		b.operations[op.Name] = x
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	var err error
	if b.db, err = sql.Open(map[string]string{"postgres": "pgx", "mysql": "mysql", "sqlite": "sqlite"}[b.driver], dsn); err != nil {
		if !o.Checking {
			return nil, connectors.SettingErrors{{Key: "dsn", Found: "something that driver " + b.driver + " does not take", Expected: "where the database is, as the driver spells it"}}
		}
		// What stands for the secret is no place.
		if b.db, err = sql.Open("sqlite", "file::memory:"); err != nil {
			return nil, err
		}
	}
	b.db.SetMaxOpenConns(c.Limits.Concurrency)
	b.db.SetMaxIdleConns(c.Limits.Concurrency)
	b.db.SetConnMaxIdleTime(5 * time.Minute)
	return b, nil
}

func operationOf(op *definition.Operation, o connectors.Options) (operation, connectors.SettingErrors) {
	r := settings.Read(op.Settings)
	x := operation{isolation: map[string]sql.IsolationLevel{"default": sql.LevelDefault, "repeatable-read": sql.LevelRepeatableRead, "serializable": sql.LevelSerializable}[r.Choice("isolation", "default", "default", "repeatable-read", "serializable")]}
	parts := r.Parts("statements")
	if len(parts) == 0 {
		r.Missing("statements", "at least one statement")
	}
	for _, p := range parts {
		s := statement{text: strings.TrimSpace(p.String("sql", "")), rows: p.Choice("rows", "any", "any", "one", "some")}
		if s.text == "" {
			p.Missing("sql", "a statement")
		}
		s.asks = returns.MatchString(s.text)
		for i, text := range p.Texts("args") {
			e, err := o.Compile(text, "args", "key", "rows")
			if err != nil {
				p.Wrong("args["+strconv.Itoa(i)+"]", text, "an expression over args, key, rows: "+err.Error())
			}
			s.args = append(s.args, e)
		}
		x.statements = append(x.statements, s)
	}
	wrong, _ := r.Err().(connectors.SettingErrors)
	return x, wrong
}

// Close is part of connectors.Backend.
func (b *backend) Close() error { return b.db.Close() }

// Call is part of connectors.Backend.
func (b *backend) Call(ctx context.Context, c connectors.Call) (connectors.Reply, error) {
	op, ok := b.operations[c.Operation]
	if !ok {
		return connectors.Reply{}, failure.New(failure.NotFound, "call", b.name, "no operation %q", c.Operation)
	}
	tx, err := b.db.BeginTx(ctx, &sql.TxOptions{Isolation: op.isolation})
	if err != nil {
		return connectors.Reply{}, b.failed(c, "begin", err, false)
	}
	defer tx.Rollback() // does nothing after a commit
	if b.keys != "" {
		switch answer, err := b.known(ctx, tx, c.Key); {
		case err != nil:
			return connectors.Reply{}, b.failed(c, "look the key up", err, false)
		case answer != "":
			return connectors.Reply{Output: answer}, nil
		}
	}
	out, err := b.perform(ctx, tx, op, c)
	if err != nil {
		return connectors.Reply{}, err
	}
	if b.keys != "" {
		if _, err := tx.ExecContext(ctx, "INSERT INTO "+b.keys+" (call_key, answer) VALUES ("+b.place(1)+", "+b.place(2)+")", c.Key, string(out)); err != nil {
			if kindOf(err) == failure.Conflict {
				// Another attempt was faster: the next one reads what it answered.
				err = failure.Wrap(failure.Transient, "keep", "the key", err)
			}
			return connectors.Reply{}, b.failed(c, "keep the key", err, false)
		}
	}
	if err := tx.Commit(); err != nil {
		// With keys it is found out the next time.
		return connectors.Reply{}, b.failed(c, "commit", err, true)
	}
	return connectors.Reply{Output: out}, nil
}

// place is a placeholder of the driver.
func (b *backend) place(n int) string {
	if b.driver == "postgres" {
		return "$" + strconv.Itoa(n)
	}
	return "?"
}

// known gives the answer that was given to a key; empty if there was none.
func (b *backend) known(ctx context.Context, tx *sql.Tx, key string) (canonical.Value, error) {
	var answer string
	err := tx.QueryRowContext(ctx, "SELECT answer FROM "+b.keys+" WHERE call_key = "+b.place(1), key).Scan(&answer)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return canonical.Value(answer), err
}

// perform runs the statements. The answer has the rows of the last one that gave
// some, and how many rows were changed.
func (b *backend) perform(ctx context.Context, tx *sql.Tx, op operation, c connectors.Call) (canonical.Value, error) {
	rows, changed := []any{}, int64(0)
	for i, s := range op.statements {
		args := make([]any, len(s.args))
		for j, e := range s.args {
			v, err := e.Eval(map[string]any{"args": c.Args, "key": c.Key, "rows": rows})
			if err == nil || errors.Is(err, definition.ErrMissing) {
				args[j], err = parameter(v)
			}
			if err != nil {
				return "", failure.Wrap(failure.Validation, "call", b.name+"."+c.Operation, fmt.Errorf("statements[%d].args[%d]: %w", i, j, err))
			}
		}
		n := int64(0)
		if s.asks {
			found, err := query(ctx, tx, s.text, args)
			if err != nil {
				return "", b.failed(c, fmt.Sprintf("statements[%d]", i), err, false)
			}
			rows, n = found, int64(len(found))
		} else {
			res, err := tx.ExecContext(ctx, s.text, args...)
			if err != nil {
				return "", b.failed(c, fmt.Sprintf("statements[%d]", i), err, false)
			}
			if n, err = res.RowsAffected(); err != nil {
				n = -1 // a driver that does not tell
			}
			changed += max(n, 0)
		}
		if n == 0 && s.rows != "any" || n > 1 && s.rows == "one" {
			kind := failure.NotFound
			if n > 1 {
				kind = failure.Conflict
			}
			return "", failure.New(kind, "call", b.name+"."+c.Operation, "statements[%d]: found %d rows, expected %s", i, n, s.rows)
		}
	}
	out, err := canonical.Type{Kind: canonical.KindJSON}.Coerce(map[string]any{"rows": rows, "changed": changed})
	return out, failure.Wrap(failure.Validation, "call", b.name+"."+c.Operation, err)
}

// parameter makes a value of an expression one that drivers take: lists and
// objects are JSON.
func parameter(v any) (any, error) {
	switch v := v.(type) {
	case []any, map[string]any:
		b, err := json.Marshal(v)
		return string(b), err
	case uint64:
		if v > 1<<63-1 {
			return strconv.FormatUint(v, 10), nil
		}
		return int64(v), nil
	}
	return v, nil
}

// maxRows that a statement may give.
const maxRows = 10_000

func query(ctx context.Context, tx *sql.Tx, text string, args []any) ([]any, error) {
	rs, err := tx.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	names, err := rs.Columns()
	if err != nil {
		return nil, err
	}
	out := []any{}
	for rs.Next() {
		if len(out) == maxRows {
			return nil, failure.New(failure.Validation, "read", "rows", "found more than %d, expected at most as many", maxRows)
		}
		cells, into := make([]any, len(names)), make([]any, len(names))
		for i := range cells {
			into[i] = &cells[i]
		}
		if err := rs.Scan(into...); err != nil {
			return nil, err
		}
		row := map[string]any{}
		for i, name := range names {
			switch v := cells[i].(type) {
			case []byte:
				row[name] = strings.ToValidUTF8(string(v), "\uFFFD")
			case time.Time:
				row[name] = v.UTC().Format(time.RFC3339Nano)
			default:
				row[name] = v
			}
		}
		out = append(out, row)
	}
	return out, rs.Err()
}

// failed says what an error of the database means.
func (b *backend) failed(c connectors.Call, doing string, err error, committing bool) error {
	kind := kindOf(err)
	e := &connectors.CallError{Err: failure.Wrap(kind, "call", b.name+"."+c.Operation, fmt.Errorf("%s: %w", doing, err))}
	e.Uncertain = committing && kind == failure.Transient
	return e
}

// kindOf reads the SQLSTATE of PostgreSQL and the numbers of MySQL and SQLite.
func kindOf(err error) failure.Kind {
	var f *failure.Error
	if errors.As(err, &f) {
		return f.Kind
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return stateKind(pg.Code)
	}
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		switch my.Number {
		case 1044, 1045, 1142, 1143:
			return failure.Auth
		case 1062, 1586:
			return failure.Conflict
		case 1040, 1203, 1226:
			return failure.RateLimited
		case 1205, 1213, 1053, 1290, 1836:
			return failure.Transient
		}
		return stateKind(string(my.SQLState[:]))
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch code := lite.Code() & 0xff; {
		case lite.Code() == 2067 || lite.Code() == 1555: // SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY
			return failure.Conflict
		case code == 5 || code == 6 || code == 10 || code == 13: // BUSY, LOCKED, IOERR, FULL
			return failure.Transient
		case code == 23: // AUTH
			return failure.Auth
		}
		return failure.Validation
	}
	var n net.Error
	if errors.Is(err, driver.ErrBadConn) || errors.As(err, &n) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrConnDone) {
		return failure.Transient
	}
	var refused *pgconn.ConnectError
	if errors.As(err, &refused) {
		return failure.Transient
	}
	return failure.Transient
}

// stateKind reads an SQLSTATE (ISO/IEC 9075): its first two characters are a class.
func stateKind(state string) failure.Kind {
	if len(state) != 5 {
		return failure.Transient
	}
	switch state[:2] {
	case "08", "40", "53", "57", "58", "HY":
		return failure.Transient
	case "28":
		return failure.Auth
	case "23":
		if state == "23505" {
			return failure.Conflict
		}
		return failure.Validation
	case "22", "42", "0A", "21", "44", "P0":
		if state == "42501" {
			return failure.Auth
		}
		return failure.Validation
	case "55":
		return failure.Transient
	}
	return failure.Validation
}
