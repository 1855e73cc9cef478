package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate judges a configuration that was put together in code. The error is
// an *Error with all problems.
func (c *Config) Validate() error {
	var problems []Problem
	c.validate(func(p Problem) { problems = append(problems, p) })
	if len(problems) == 0 {
		return nil
	}
	return &Error{problems}
}

func (c *Config) validate(report func(Problem)) {
	v := validator{c, report}
	v.need(c.Data.Dir != "", "data.dir", c.Data.Dir, "the path of a directory")

	v.address("api.listen", c.API.Listen)
	v.need(c.API.MaxBodyBytes >= 1<<10 && c.API.MaxBodyBytes <= MaxBody, "api.maxBodyBytes", c.API.MaxBodyBytes.String(), "1KiB to 900000")

	v.need(len(c.Kafka.Brokers) > 0, "kafka.brokers", "", "at least one host:port")
	for _, b := range c.Kafka.Brokers {
		v.address("kafka.brokers", b)
	}
	v.address("kafka.listen", c.Kafka.Listen)
	v.tls()
	v.sasl()

	u, err := url.Parse(c.Registry.URL)
	v.need(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil,
		"registry.url", redactURL(c.Registry.URL), "an http or https URL without user and password; those are registry.auth.user and registry.auth.password")
	v.address("registry.listen", c.Registry.Listen)
	v.need(c.Registry.Auth.Password == "" || c.Registry.Auth.User != "", "registry.auth.user", "", "a user name, since there is a password")

	if c.Domains.Dir != "" {
		info, err := os.Stat(c.Domains.Dir)
		v.need(err == nil && info.IsDir(), "domains.dir", c.Domains.Dir, "an existing directory")
	}
	for _, f := range c.Domains.Files {
		v.file("domains.files", f)
	}

	v.need(c.Engine.CommitInterval >= time.Millisecond && c.Engine.CommitInterval <= 10*time.Second,
		"engine.commitInterval", formatDuration(c.Engine.CommitInterval), "1ms to 10s")
	v.need(c.Engine.CacheBytes >= 1<<20, "engine.cacheBytes", c.Engine.CacheBytes.String(), "at least 1MiB")
	v.need(c.Topics.Partitions >= 1 && c.Topics.Partitions <= 1000, "topics.partitions", strconv.Itoa(c.Topics.Partitions), "1 to 1000")
	v.need(c.Topics.Replication == -1 || c.Topics.Replication >= 1 && c.Topics.Replication <= 32767, "topics.replication", strconv.Itoa(c.Topics.Replication), "-1, or 1 and more")
	v.address("backends.listen", c.Backends.Listen)
	v.need(c.Commands.Keep >= time.Hour, "commands.keep", formatDuration(c.Commands.Keep), "at least 1h")
	v.need(c.Dedupe.Window >= time.Minute, "dedupe.window", formatDuration(c.Dedupe.Window), "at least 1m")

	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("engine.standby", c.Engine.Standby, "auto", "on", "off")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	v.need(len(c.Roles) > 0, "roles", "", "all, or at least one role")
	for _, r := range c.Roles {
		v.oneOf("roles", r, append([]string{"all"}, RoleNames()...)...)
	}
}

type validator struct {
	c      *Config
	report func(Problem)
}

// need reports a key whose value breaks a rule.
func (v validator) need(ok bool, key, found, expected string) {
	if ok {
		return
	}
	what := fmt.Sprintf("%q", found)
	if found == "" {
		what = "nothing"
	}
	v.report(Problem{Key: key, Found: what, Expected: expected, Where: v.c.origins[key].String()})
}

func (v validator) oneOf(key, found string, allowed ...string) {
	v.need(slices.Contains(allowed, found), key, found, "one of "+strings.Join(allowed, ", "))
}

func (v validator) address(key, found string) {
	_, port, err := net.SplitHostPort(found)
	n, perr := strconv.ParseUint(port, 10, 16)
	v.need(err == nil && perr == nil && n <= 65535, key, found, "host:port")
}

func (v validator) file(key, path string) {
	info, err := os.Stat(path)
	v.need(err == nil && info.Mode().IsRegular(), key, path, "an existing file")
}

func (v validator) tls() {
	t := v.c.Kafka.TLS
	for _, f := range []struct{ key, path string }{
		{"kafka.tls.caFile", t.CAFile}, {"kafka.tls.certFile", t.CertFile}, {"kafka.tls.keyFile", t.KeyFile},
	} {
		if f.path != "" {
			v.need(t.Enabled, f.key, f.path, "nothing, or kafka.tls.enabled")
			v.file(f.key, f.path)
		}
	}
	v.need(t.CertFile == "" || t.KeyFile != "", "kafka.tls.keyFile", "", "the key of the certificate in kafka.tls.certFile")
	v.need(t.KeyFile == "" || t.CertFile != "", "kafka.tls.certFile", "", "the certificate of the key in kafka.tls.keyFile")
}

func (v validator) sasl() {
	s := v.c.Kafka.SASL
	if s.Mechanism != "" {
		v.oneOf("kafka.sasl.mechanism", s.Mechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
	} else {
		v.need(s.User == "" && s.Password == "", "kafka.sasl.mechanism", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, since there is a user or a password")
		return
	}
	v.need(s.User != "", "kafka.sasl.user", "", "a user name, since there is a mechanism")
	v.need(s.Password != "", "kafka.sasl.password", "", "a password, since there is a mechanism")
}

// redactURL keeps a password that does not belong into a URL out of the message
// that says so.
func redactURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "something that is not a URL"
	}
	return u.Redacted()
}
