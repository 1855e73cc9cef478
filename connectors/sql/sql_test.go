package sql_test

import (
	dbsql "database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/connectortest"
	"github.com/touchstone-platform/touchstone/connectors/sql"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/registry/expression"
)

// database is one that tests run on.
type database struct{ driver, open, dsn string }

func (d database) db(t *testing.T) *dbsql.DB {
	t.Helper()
	db, err := dbsql.Open(d.open, d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func (d database) make(t *testing.T) {
	t.Helper()
	db := d.db(t)
	for _, s := range []string{
		"DROP TABLE IF EXISTS accounts", "DROP TABLE IF EXISTS calls",
		"CREATE TABLE accounts (id varchar(20) PRIMARY KEY, state varchar(20) NOT NULL, changes int NOT NULL)",
		"CREATE TABLE calls (call_key varchar(300) PRIMARY KEY, answer text NOT NULL)",
		"INSERT INTO accounts VALUES ('7', 'open', 0), ('8', 'open', 0)",
	} {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// place is the placeholder of the driver.
func (d database) place(n int) string {
	if d.driver == "postgres" {
		return fmt.Sprintf("$%d", n)
	}
	return "?"
}

func (d database) connection(set map[string]any) *definition.Connection {
	s := map[string]any{"driver": d.driver, "dsn": "env:DSN"}
	for k, v := range set {
		s[k] = v
	}
	statements := func(list ...map[string]any) map[string]any {
		var out []any
		for _, x := range list {
			out = append(out, x)
		}
		return map[string]any{"statements": out}
	}
	set7 := map[string]any{"sql": "UPDATE accounts SET state = " + d.place(1) + ", changes = changes + 1 WHERE id = " + d.place(2), "args": []any{"args.state", "args.id"}, "rows": "one"}
	get := map[string]any{"sql": "SELECT id, state, changes FROM accounts WHERE id = " + d.place(1), "args": []any{"args.id"}}
	return &definition.Connection{Name: "billing", Connector: "sql", Settings: s, Limits: definition.Limits{Concurrency: 4}, Operations: []*definition.Operation{
		{Name: "pause", Settings: statements(set7, get)},
		{Name: "read", Settings: statements(get)},
		{Name: "insert", Settings: statements(map[string]any{"sql": "INSERT INTO accounts VALUES (" + d.place(1) + ", 'open', 0)", "args": []any{"args.id"}})},
		{Name: "wrong", Settings: statements(map[string]any{"sql": "UPDATE nosuchtable SET x = 1"})},
		{Name: "typed", Settings: statements(map[string]any{"sql": "UPDATE accounts SET changes = " + d.place(1) + " WHERE id = '8'", "args": []any{"args.n"}})},
		// After the first statement the second fails: nothing of it stays.
		{Name: "half", Settings: statements(set7, map[string]any{"sql": "UPDATE accounts SET state = 'x' WHERE id = 'nobody'", "rows": "some"})},
	}}
}

func (d database) connect(t *testing.T, set map[string]any) connectors.Backend {
	t.Helper()
	b, err := sql.Kind{}.Connect(d.connection(set), connectors.Options{Secrets: func(string) (string, error) { return d.dsn, nil }, Compile: expression.Compile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func call(op, id, state string) connectors.Call {
	return connectors.Call{Operation: op, Key: "cmd-1/" + op + "/" + id, Attempt: 1, Args: map[string]any{"id": id, "state": state}}
}

func testDatabase(t *testing.T, d database) {
	d.make(t)
	b := d.connect(t, nil)
	if r, err := b.Call(t.Context(), call("pause", "7", "paused'; DROP TABLE accounts; --")); err != nil || !strings.Contains(string(r.Output), `"state":"paused'; DROP TABLE`) || !strings.Contains(string(r.Output), `"changed":1`) {
		if d.driver == "sqlite" || err == nil {
			t.Errorf("%s, %v", r.Output, err)
		}
	}
	if r, err := b.Call(t.Context(), call("pause", "7", "paused")); err != nil || !strings.Contains(string(r.Output), `"state":"paused"`) {
		t.Errorf("%s, %v", r.Output, err)
	}
	for _, c := range []struct {
		call connectors.Call
		kind failure.Kind
		want string
	}{
		{call("pause", "nobody", "x"), failure.NotFound, "statements[0]: found 0 rows, expected one"},
		{call("insert", "7", ""), failure.Conflict, "statements[0]"},
		{call("wrong", "7", ""), failure.Validation, "statements[0]"},
		{call("half", "8", "gone"), failure.NotFound, "statements[1]: found 0 rows, expected some"},
	} {
		_, err := b.Call(t.Context(), c.call)
		if failure.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %s: %v, expected %s with %s", c.call.Operation, failure.KindOf(err), err, c.kind, c.want)
		}
	}
	if r, err := b.Call(t.Context(), call("read", "8", "")); err != nil || !strings.Contains(string(r.Output), `"changes":0`) || !strings.Contains(string(r.Output), `"state":"open"`) {
		t.Errorf("half of it stays: %s, %v", r.Output, err)
	}

	// With a table for keys, copies of a call have one effect and one answer.
	k := d.connect(t, map[string]any{"keys": "calls"})
	var wg sync.WaitGroup
	answers := make(chan string, 16)
	for range 16 {
		wg.Go(func() {
			for {
				r, err := k.Call(t.Context(), call("pause", "8", "paused"))
				if kind := failure.KindOf(err); err != nil && (kind == failure.Conflict || kind == failure.Transient) {
					continue // another copy was first; asked again it is answered
				}
				if err != nil {
					t.Error(err)
				}
				answers <- string(r.Output)
				return
			}
		})
	}
	wg.Wait()
	close(answers)
	first := <-answers
	for a := range answers {
		if a != first {
			t.Errorf("%s and %s", first, a)
		}
	}
	var changes int
	if err := d.db(t).QueryRow("SELECT changes FROM accounts WHERE id = '8'").Scan(&changes); err != nil || changes != 1 {
		t.Errorf("%d changes, %v", changes, err)
	}
}

func TestSQLite(t *testing.T) {
	d := database{"sqlite", "sqlite", "file:" + filepath.Join(t.TempDir(), "test.db") + "?_pragma=busy_timeout(5000)&_txlock=immediate"}
	testDatabase(t, d)
	d.make(t)
	slow := d.connection(nil)
	slow.Operations = append(slow.Operations, &definition.Operation{Name: "slow", Settings: map[string]any{"statements": []any{
		map[string]any{"sql": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n WHERE x < 0"},
	}}})
	conformance(t, d, slow)
}

func conformance(t *testing.T, d database, c *definition.Connection) {
	c.Settings["dsn"] = "env:DSN"
	connectortest.RunBackendWith(t, sql.Kind{}, connectors.Options{Secrets: func(string) (string, error) { return d.dsn, nil }, Compile: expression.Compile}, []connectortest.BackendCase{{
		Name: d.driver, Connection: c, Good: []connectors.Call{call("read", "7", "")},
		Bad: []connectors.Call{call("pause", "nobody", "x"), call("wrong", "7", "")}, Slow: []connectors.Call{{Operation: "slow", Key: "s"}},
	}})
}

// TestPostgres runs on a PostgreSQL of its own, where its programs are installed,
// or on the one in TOUCHSTONE_TEST_POSTGRES.
func TestPostgres(t *testing.T) {
	dsn := os.Getenv("TOUCHSTONE_TEST_POSTGRES")
	if dsn == "" {
		dsn = startPostgres(t)
	}
	d := database{"postgres", "pgx", dsn}
	testDatabase(t, d)
	d.make(t)
	b := d.connect(t, nil)
	bad := call("typed", "8", "")
	bad.Args["n"] = "not a number"
	if _, err := b.Call(t.Context(), bad); failure.KindOf(err) != failure.Validation && failure.KindOf(err) != failure.Transient {
		t.Errorf("a value of the wrong type: %v", err)
	}
	slow := d.connection(nil)
	slow.Operations = append(slow.Operations, &definition.Operation{Name: "slow", Settings: map[string]any{"statements": []any{map[string]any{"sql": "SELECT pg_sleep(5)"}}}})
	conformance(t, d, slow)
	gone := database{"postgres", "pgx", "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"}
	if _, err := gone.connect(t, nil).Call(t.Context(), call("read", "7", "")); failure.KindOf(err) != failure.Transient {
		t.Errorf("nobody there: %v", err)
	}
}

// TestMySQL runs on a MariaDB of its own, where its programs are installed, or on
// the server in TOUCHSTONE_TEST_MYSQL.
func TestMySQL(t *testing.T) {
	dsn := os.Getenv("TOUCHSTONE_TEST_MYSQL")
	if dsn == "" {
		dsn = startMariaDB(t)
	}
	d := database{"mysql", "mysql", dsn}
	testDatabase(t, d)
	d.make(t)
	b := d.connect(t, nil)
	bad := call("typed", "8", "")
	bad.Args["n"] = "not a number"
	if _, err := b.Call(t.Context(), bad); failure.KindOf(err) != failure.Validation {
		t.Errorf("a value of the wrong type: %s %v", failure.KindOf(err), err)
	}
	slow := d.connection(nil)
	slow.Operations = append(slow.Operations, &definition.Operation{Name: "slow", Settings: map[string]any{"statements": []any{map[string]any{"sql": "SELECT SLEEP(5)"}}}})
	conformance(t, d, slow)
	gone := database{"mysql", "mysql", "nobody@tcp(127.0.0.1:1)/none?timeout=1s"}
	if _, err := gone.connect(t, nil).Call(t.Context(), call("read", "7", "")); failure.KindOf(err) != failure.Transient {
		t.Errorf("nobody there: %v", err)
	}
}

// startPostgres runs a server in a folder of its own.
func startPostgres(t *testing.T) string {
	t.Helper()
	s := server{t: t, name: "PostgreSQL", setting: "TOUCHSTONE_TEST_POSTGRES", dirs: "/usr/lib/postgresql/*/bin/"}
	initdb, postgres := s.find("initdb"), s.find("postgres")
	s.folder()
	s.run(initdb, "-D", s.dir, "-U", "test", "-A", "trust", "--no-sync")
	port := freePort(t)
	s.start(postgres, "-D", s.dir, "-p", fmt.Sprint(port), "-k", s.dir, "-h", "127.0.0.1", "-F")
	return s.wait("pgx", fmt.Sprintf("postgres://test@127.0.0.1:%d/postgres?sslmode=disable", port))
}

// startMariaDB runs a server in a folder of its own.
func startMariaDB(t *testing.T) string {
	t.Helper()
	s := server{t: t, name: "MariaDB", setting: "TOUCHSTONE_TEST_MYSQL", dirs: "/usr/sbin/"}
	install, mariadbd := s.find("mariadb-install-db"), s.find("mariadbd")
	s.find("my_print_defaults") // which the first needs
	s.folder()
	data, socket, port := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "s"), freePort(t)
	s.run(install, "--no-defaults", "--datadir="+data, "--skip-test-db", "--auth-root-authentication-method=normal")
	s.start(mariadbd, "--no-defaults", "--datadir="+data, "--socket="+socket, "--port="+fmt.Sprint(port), "--bind-address=127.0.0.1", "--pid-file="+filepath.Join(s.dir, "pid"), "--innodb-flush-log-at-trx-commit=0")
	dsn := fmt.Sprintf("root@tcp(127.0.0.1:%d)/", port)
	db, err := dbsql.Open("mysql", s.wait("mysql", dsn))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE DATABASE shop"); err != nil {
		t.Fatal(err)
	}
	return dsn + "shop"
}

// server is a database server that is installed here and started for a test.
type server struct {
	t *testing.T
	// name of it, the environment variable that names another one, and the folder
	// of its programs if they are not on the path.
	name, setting, dirs string
	dir                 string
}

func (s *server) find(name string) string {
	s.t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	if all, _ := filepath.Glob(s.dirs + name); len(all) > 0 {
		return all[len(all)-1]
	}
	s.t.Skipf("%s is absent: there is no %s (set %s to the URL of a database)", s.name, name, s.setting)
	return ""
}

// nobody is the user of that name: these servers do not run as root.
const nobody = 65534

func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// folder makes that of the server. Its path is short, as sockets want it.
func (s *server) folder() {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "touchstone-sql")
	if err == nil && os.Getuid() == 0 {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	s.dir = dir
}

func (s *server) run(name string, args ...string) {
	s.t.Helper()
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (s *server) start(name string, args ...string) {
	s.t.Helper()
	cmd := s.command(name, args...)
	log := filepath.Join(s.dir, "log")
	f, err := os.Create(log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if s.t.Failed() {
			b, _ := os.ReadFile(log)
			s.t.Logf("%s:\n%s", s.name, b)
		}
	})
}

// wait gives the URL once the server answers.
func (s *server) wait(driver, dsn string) string {
	s.t.Helper()
	db, err := dbsql.Open(driver, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	for end := time.Now().Add(30 * time.Second); ; {
		if err = db.Ping(); err == nil {
			return dsn
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s did not start: %v", s.name, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func TestSettings(t *testing.T) {
	c := &definition.Connection{Name: "billing", Settings: map[string]any{"driver": "oracle", "keys": "calls; DROP"}, Operations: []*definition.Operation{
		{Name: "a", Settings: map[string]any{"isolation": "none", "statements": []any{map[string]any{"sql": "", "args": []any{"args.", 7}, "rows": "many"}}}},
		{Name: "b"},
	}}
	_, err := sql.Kind{}.Connect(c, connectors.Options{Secrets: connectortest.Secrets, Compile: expression.Compile})
	var wrong connectors.SettingErrors
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var keys []string
	for _, w := range wrong {
		keys = append(keys, w.Key)
	}
	want := "driver dsn keys operations.a.isolation operations.a.statements[0].args[0] operations.a.statements[0].args[1] operations.a.statements[0].rows operations.a.statements[0].sql operations.b.statements"
	if got := strings.Join(keys, " "); got != want {
		t.Errorf("%s\nexpected\n%s", got, want)
	}
}
