package config

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// EnvPrefix begins the name of every variable that is a configuration key.
const EnvPrefix = "TOUCHSTONE_"

// SecretEnvPrefix begins the names of variables that hold the secrets which
// domain definitions refer to (env:TOUCHSTONE_SECRET_...). They are not
// configuration keys.
const SecretEnvPrefix = EnvPrefix + "SECRET_"

// FileEnv names the configuration file where no flag does.
const FileEnv = EnvPrefix + "CONFIG"

// reservedEnv are variables with our prefix that are no keys.
var reservedEnv = map[string]bool{
	FileEnv:              true,
	EnvPrefix + "DATA":   true, // where the tests find shared data
	EnvPrefix + "SERVER": true, // the server that the commands of a client ask

	// Read, or refused, by internal/failpoint.
	EnvPrefix + "FAILPOINTS":      true,
	EnvPrefix + "FAILPOINT_SEED":  true,
	EnvPrefix + "FAILPOINT_CLOCK": true,
}

// Setting describes one key.
type Setting struct {
	Key     string // section.name
	Flag    string // without the dashes; of a secret, that of the file to read
	Env     string
	Type    string
	Doc     string
	Default string
	Secret  bool

	Value  string // as text; redacted where it is a secret
	Origin Origin
}

// Origin is where a value came from.
type Origin struct {
	Kind string // flag, environment, file or default
	Name string // of the flag, the variable, or path:line of the file
}

// String names the origin the way a user would.
func (o Origin) String() string {
	switch o.Kind {
	case "", "default":
		return "default"
	case "flag":
		return "flag --" + o.Name
	case "environment":
		return "environment variable " + o.Name
	}
	return o.Name
}

// Redacted stands for the value of a secret that is set.
const Redacted = "(redacted)"

// FileSuffix makes the key of a secret's twin, whose value is the path of a
// file that holds the secret.
const FileSuffix = "_file"

// field is a setting with the place its value goes to.
type field struct {
	Setting
	value reflect.Value
}

// fields lists the fields of a configuration in the order of declaration.
func fields(c *Config) []field {
	var list []field
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, ok := f.Tag.Lookup("key")
			if !ok {
				continue
			}
			key := prefix + name
			if f.Type.Kind() == reflect.Struct {
				walk(key+".", v.Field(i))
				continue
			}
			s := Setting{
				Key:    key,
				Flag:   f.Tag.Get("flag"),
				Env:    EnvPrefix + strings.ToUpper(words(key, '_')),
				Type:   typeName(f.Type),
				Doc:    f.Tag.Get("doc"),
				Secret: f.Tag.Get("secret") == "true",
			}
			if s.Flag == "" {
				s.Flag = words(key, '-')
			}
			if s.Secret {
				s.Flag += "-file" // the value itself would be seen in the list of processes
			}
			list = append(list, field{s, v.Field(i)})
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return list
}

// words rewrites a key, whose words are divided by dots and capitals, with
// another divider and in lower case.
func words(key string, divider rune) string {
	var b strings.Builder
	lower := false
	for _, r := range key {
		switch {
		case r == '.':
			b.WriteRune(divider)
		case unicode.IsUpper(r) && lower:
			b.WriteRune(divider)
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(unicode.ToLower(r))
		}
		lower = unicode.IsLower(r)
	}
	return b.String()
}

// Settings lists all keys with their defaults, and with the values and origins
// of this configuration. Secrets are redacted.
func (c *Config) Settings() []Setting {
	defaults := Default()
	of := fields(&defaults)
	var list []Setting
	for i, f := range fields(c) {
		s := f.Setting
		s.Default = format(of[i].value)
		s.Value = format(f.value)
		if s.Secret && s.Value != "" {
			s.Value = Redacted
		}
		s.Origin = c.origins[s.Key]
		if s.Origin.Kind == "" {
			s.Origin.Kind = "default"
		}
		list = append(list, s)
	}
	return list
}

// Dump is the configuration as a file that Load would read, with the origin of
// each value as a comment. Secrets are redacted, so that it can be shown.
func (c *Config) Dump() string {
	var b strings.Builder
	section := ""
	for _, s := range c.Settings() {
		at := strings.LastIndexByte(s.Key, '.')
		if head := s.Key[:max(at, 0)]; head != section {
			parts, before := strings.Split(head, "."), strings.Split(section, ".")
			for i, part := range parts {
				if i < len(before) && before[i] == part {
					continue
				}
				if part != "" {
					fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), part)
				}
			}
			section = head
		}
		indent := strings.Repeat("  ", strings.Count(s.Key, "."))
		fmt.Fprintf(&b, "%s%s: %s  # %s\n", indent, s.Key[at+1:], yamlValue(s), s.Origin)
	}
	return b.String()
}

func yamlValue(s Setting) string {
	switch {
	case s.Type == "list":
		if s.Value == "" {
			return "[]"
		}
		items := strings.Split(s.Value, ",")
		for i := range items {
			items[i] = fmt.Sprintf("%q", items[i])
		}
		return "[" + strings.Join(items, ", ") + "]"
	case s.Type == "string":
		return fmt.Sprintf("%q", s.Value)
	}
	return s.Value
}

// Reference is the content of docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`<!-- Generated from internal/config; "go test ./internal/config -update" writes it. -->
# Configuration

A value is taken from a flag, else from an environment variable, else from the
configuration file, else it is the default. The file is YAML, named by
` + "`--config`" + ` or ` + "`" + FileEnv + "`" + `; the dots of a key are its sections:

` + "```yaml" + `
api:
  listen: 127.0.0.1:8080
kafka:
  brokers: [kafka-1:9092, kafka-2:9092]
` + "```" + `

Keys and ` + "`" + EnvPrefix + "…`" + ` variables that do not exist are errors. A list is
separated by commas in flags and variables. Sizes are a number of bytes with or
without a unit (KB, MB, GB, KiB, MiB, GiB); durations are numbers with units
(50ms, 30s, 168h). An empty variable counts as not set.

A secret cannot be given as a flag, since flags are visible to every user of the
machine. Each has a twin that names a file to read it from: the key and
` + "`" + FileSuffix + "`" + `, the variable and ` + "`" + strings.ToUpper(FileSuffix) + "`" + `. Variables that begin with
` + "`" + SecretEnvPrefix + "`" + ` hold the secrets that domain definitions refer to.

` + "`touchstone config check`" + ` reports all errors at once; ` + "`touchstone config dump`" + `
prints every value and where it came from, with secrets redacted.

| key | flag | variable | type | default | meaning |
|---|---|---|---|---|---|
`)
	c := Default()
	for _, s := range c.Settings() {
		value := "`" + s.Default + "`"
		if s.Default == "" {
			value = "none"
		}
		kind, env := s.Type, "`"+s.Env+"`"
		if s.Secret {
			kind = "secret"
			env += ", `" + s.Env + strings.ToUpper(FileSuffix) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s | %s | %s |\n", s.Key, s.Flag, env, kind, value, s.Doc)
	}
	return b.String()
}
