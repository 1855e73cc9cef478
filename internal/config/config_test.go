package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The reference in docs/ is the one that follows from the struct.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "configuration.md")
	want := Reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/configuration.md is not up to date; run go test ./internal/config -update\n%s", diff)
	}
}

func TestDefaultIsValid(t *testing.T) {
	c, err := Load(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), *c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	for _, s := range c.Settings() {
		if s.Doc == "" || s.Origin.String() != "default" || s.Value != s.Default {
			t.Errorf("%+v", s)
		}
	}
}

// Names are unique in each of the three places, and follow the one rule.
func TestNames(t *testing.T) {
	c := Default()
	seen := make(map[string]bool)
	for _, s := range c.Settings() {
		for _, name := range []string{"key " + s.Key, "flag " + s.Flag, "env " + s.Env} {
			if seen[name] {
				t.Errorf("%s twice", name)
			}
			seen[name] = true
		}
	}
	for _, want := range []string{
		"key api.maxBodyBytes", "flag api-max-body-bytes", "env TOUCHSTONE_API_MAX_BODY_BYTES",
		"flag listen", "flag data", "flag kafka-listen", "flag registry-listen", "env TOUCHSTONE_KAFKA_TLS_CA_FILE",
		"flag kafka-sasl-password-file", "env TOUCHSTONE_KAFKA_SASL_PASSWORD",
	} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
}

// Flag before variable before file before default, and each value knows which
// it was.
func TestPrecedence(t *testing.T) {
	file := write(t, "touchstone.yaml", `
api:
  listen: 127.0.0.1:1
  maxBodyBytes: 2KiB
log: {level: warn, format: json}
kafka:
  brokers: [a:1, b:2]
  sasl:
    password: from-file
    mechanism: PLAIN
    user: me
engine:
  commitInterval:
`)
	secret := write(t, "password", "hunter2\n")
	c, err := Load(Sources{
		Env: []string{
			"TOUCHSTONE_CONFIG=" + file, "TOUCHSTONE_API_LISTEN=127.0.0.1:2", "TOUCHSTONE_LOG_LEVEL=error",
			"TOUCHSTONE_KAFKA_SASL_PASSWORD_FILE=" + secret, "TOUCHSTONE_SECRET_GITHUB=x", "TOUCHSTONE_DEDUPE_WINDOW=", "PATH=/bin",
		},
		Flags: map[string]string{"listen": "127.0.0.1:3", "output": "json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.API = API{Listen: "127.0.0.1:3", MaxBodyBytes: 2048}
	want.Log = Log{Level: "error", Format: "json"}
	want.Kafka.Brokers = []string{"a:1", "b:2"}
	want.Kafka.SASL = SASL{Mechanism: "PLAIN", User: "me", Password: "hunter2"}
	if diff := cmp.Diff(want, *c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
	origins := make(map[string]string)
	for _, s := range c.Settings() {
		origins[s.Key] = s.Origin.String()
		if s.Key == "kafka.sasl.password" && s.Value != Redacted {
			t.Errorf("the password is shown: %q", s.Value)
		}
	}
	for key, want := range map[string]string{
		"api.listen":            "flag --listen",
		"api.maxBodyBytes":      file + ":4",
		"log.level":             "environment variable TOUCHSTONE_LOG_LEVEL",
		"log.format":            file + ":5",
		"kafka.sasl.password":   "environment variable TOUCHSTONE_KAFKA_SASL_PASSWORD_FILE",
		"engine.commitInterval": "default",
		"dedupe.window":         "default",
	} {
		if origins[key] != want {
			t.Errorf("%s comes from %q, want %q", key, origins[key], want)
		}
	}
	if dump := c.Dump(); strings.Contains(dump, "hunter2") || !strings.Contains(dump, `listen: "127.0.0.1:3"  # flag --listen`) {
		t.Errorf("dump:\n%s", dump)
	}
}

// Every error is reported, all at once, with key, what was found, what was
// expected and where.
func TestErrors(t *testing.T) {
	file := write(t, "touchstone.yaml", `api:
  lissen: 127.0.0.1:1
  listen: nowhere
  listen: twice
kafka:
  brokers: {a: b}
  tls:
    certFile: /does/not/exist
  sasl: PLAIN
dedup:
  window: 1h
engine: {commitInterval: 5}
registry: {url: "ftp://u:secret@x"}
topics: [1]
`)
	_, err := Load(Sources{
		File:  file,
		Env:   []string{"TOUCHSTONE_LOG_LEVL=x", "TOUCHSTONE_LOG_FORMAT=xml", "TOUCHSTONE_KAFKA_SASL_PASSWORD=a", "TOUCHSTONE_KAFKA_SASL_PASSWORD_FILE=b", "TOUCHSTONE_REGISTRY_AUTH_PASSWORD_FILE=/does/not/exist"},
		Flags: map[string]string{"topics-partitions": "many", "roles": "api,cook"},
	})
	var all *Error
	if !errors.As(err, &all) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{
		file + `:2: api.lissen: found an unknown key, expected a known one; did you mean api.listen?`,
		file + `:4: api.listen: found the key a second time, expected it once; the first is on line 3`,
		file + `:3: api.listen: found "nowhere", expected host:port`,
		file + `:6: kafka.brokers: found keys and values, expected a list`,
		file + `:8: kafka.tls.certFile: found "/does/not/exist", expected nothing, or kafka.tls.enabled`,
		file + `:8: kafka.tls.certFile: found "/does/not/exist", expected an existing file`,
		`default: kafka.tls.keyFile: found nothing, expected the key of the certificate in kafka.tls.certFile`,
		file + `:9: kafka.sasl: found "PLAIN", expected keys and values`,
		file + `:10: dedup: found an unknown key, expected one of those in docs/configuration.md`,
		file + `:12: engine.commitInterval: found "5", expected a duration such as 50ms, 30s or 168h`,
		file + `:13: registry.url: found "ftp://u:xxxxx@x", expected an http or https URL`,
		file + `:14: topics: found a list, expected keys and values`,
		`environment variable TOUCHSTONE_LOG_LEVL: TOUCHSTONE_LOG_LEVL: found an unknown key, expected a known one; did you mean TOUCHSTONE_LOG_LEVEL?`,
		`environment variable TOUCHSTONE_LOG_FORMAT: log.format: found "xml", expected one of text, json`,
		`environment variable TOUCHSTONE_KAFKA_SASL_PASSWORD: kafka.sasl.password: found both`,
		`environment variable TOUCHSTONE_REGISTRY_AUTH_PASSWORD_FILE: registry.auth.password_file: found "/does/not/exist" (no such file or directory), expected the path of a readable file`,
		`flag --topics-partitions: topics.partitions: found "many", expected a whole number`,
		`flag --roles: roles: found "cook", expected one of all, api, feeds, inbox, resolve, merge, publish`,
	} {
		if !slices.ContainsFunc(all.Problems, func(p Problem) bool { return strings.HasPrefix(p.String(), want) }) {
			t.Errorf("not reported: %s", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	if strings.Contains(err.Error(), "secret@") {
		t.Error("a password is in the message")
	}

	for _, test := range []struct{ file, want string }{
		{filepath.Join(t.TempDir(), "absent.yaml"), "no such file"},
		{write(t, "bad.yaml", "a: [\n"), "expected YAML"},
		{write(t, "list.yaml", "- a\n"), "expected keys and values"},
	} {
		if _, err := Load(Sources{File: test.file}); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
			t.Errorf("%s: %v, want %q", test.file, err, test.want)
		}
	}
}

// A secret in a file of its own, named in the configuration file.
func TestSecretTwin(t *testing.T) {
	secret := write(t, "password", "s3cret\n")
	file := write(t, "f.yaml", "registry:\n  auth:\n    user: me\n    password_file: "+secret+"\n")
	c, err := Load(Sources{File: file})
	if err != nil || c.Registry.Auth.Password != "s3cret" {
		t.Errorf("%q, %v", c.Registry.Auth.Password, err)
	}
	file = write(t, "f.yaml", "registry:\n  auth:\n    user: me\n    password: x\n    password_file: "+secret+"\n")
	want := file + ":5: registry.auth.password_file: found both registry.auth.password and registry.auth.password_file, expected one of them"
	if _, err := Load(Sources{File: file}); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestValidateWithoutLoad(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Topics.Partitions = 0
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "topics.partitions") {
		t.Error(err)
	}
}

func TestHasRole(t *testing.T) {
	c := Default()
	if !c.HasRole("api") || !c.HasRole("merge") {
		t.Error("all is not every role")
	}
	c.Roles = []string{"merge"}
	if c.HasRole("api") || !c.HasRole("merge") {
		t.Error("a role that was not given")
	}
}

// A dumped configuration reads back as the same.
func TestDumpReadsBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := Default()
		c.API.MaxBodyBytes = Bytes(rapid.Int64Range(1<<10, MaxBody).Draw(rt, "body"))
		c.Engine.CommitInterval = time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(10*time.Second)).Draw(rt, "interval"))
		c.Kafka.Brokers = rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,8}:[1-9][0-9]{3}`), 1, 3).Draw(rt, "brokers")
		c.Kafka.TLS.ServerName = rapid.StringMatching(`[a-z "'\\#:]{0,10}`).Draw(rt, "name")
		c.Data.Dir = rapid.StringMatching(`[a-z ./"\\-]{1,20}`).Draw(rt, "dir")
		path := filepath.Join(t.TempDir(), "dump.yaml")
		if err := os.WriteFile(path, []byte(c.Dump()), 0o600); err != nil {
			rt.Fatal(err)
		}
		back, err := Load(Sources{File: path})
		if err != nil {
			rt.Fatalf("%v\n%s", err, c.Dump())
		}
		if diff := cmp.Diff(c, *back, cmpopts.IgnoreUnexported(Config{})); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "17": 17, "17B": 17, "1 KiB": 1024, "16MiB": 16 << 20, "2GB": 2e9, "3KB": 3000} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MB", "1TB", "9223372036854775807KiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64Min(0).Draw(t, "bytes"))
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%s is read back as %d, %v", b, got, err)
		}
	})
}

// Whatever the file holds, Load answers with values or with errors that say
// where they come from.
func FuzzFile(f *testing.F) {
	f.Add("api: {listen: x}\nroles: [a, b]\n")
	f.Add("a: &a [*a]\n")
	f.Add("api: &x {listen: *x}")
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(Sources{File: path})
		var all *Error
		if err != nil && (!errors.As(err, &all) || len(all.Problems) == 0) {
			t.Fatal(err)
		}
		for _, p := range all.problems() {
			if p.Where == "" || p.Found == "" || p.Expected == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

func (e *Error) problems() []Problem {
	if e == nil {
		return nil
	}
	return e.Problems
}
