// Package config holds the configuration of the touchstone program: its keys,
// their defaults and rules, and where each value came from.
//
// A value is taken from a flag, else from an environment variable, else from
// the configuration file (YAML), else it is the default. The key api.listen is
// the flag --listen, the variable TOUCHSTONE_API_LISTEN, and the entry listen of
// the section api in the file. Keys that do not exist are errors, in the file
// and in the environment alike, because a misspelt key that is silently ignored
// is a default nobody asked for. All errors are reported at once, each with the
// key, what was found, what was expected, and where.
//
// The keys are declared once, by the fields of [Config] and their tags; flags,
// variables, the reference in docs/configuration.md and the redacted dump follow
// from them.
//
// The package reads values and judges them; it opens no connection, and it knows
// nothing of domains: those are data of their own (see package registry).
package config

import "time"

// Config is the whole configuration. Obtain one from Load, or from Default and
// then Validate. The tags: key, below the section's; flag, where it differs from
// the key in kebab case; doc; secret, for values that are never shown and that
// may be read from a file named by the key with _file behind it.
type Config struct {
	Data     Data     `key:"data"`
	API      API      `key:"api"`
	Kafka    Kafka    `key:"kafka"`
	Registry Registry `key:"registry"`
	Domains  Domains  `key:"domains"`
	Engine   Engine   `key:"engine"`
	Topics   Topics   `key:"topics"`
	Dedupe   Dedupe   `key:"dedupe"`
	Commands Commands `key:"commands"`
	Backends Backends `key:"backends"`
	Log      Log      `key:"log"`
	Roles    []string `key:"roles" doc:"What this process does: all, or some of api, feeds, inbox, resolve, merge, publish, admit, orchestrate, execute, track."`

	origins map[string]Origin
}

// Data is where the process keeps files.
type Data struct {
	Dir string `key:"dir" flag:"data" doc:"Directory of the local stores and, in dev, of the embedded broker. One process at a time."`
}

// API is the HTTP side.
type API struct {
	Listen       string `key:"listen" flag:"listen" doc:"Address of the HTTP API, host:port."`
	MaxBodyBytes Bytes  `key:"maxBodyBytes" doc:"Largest request body that is accepted, after decompression. With its envelope it must fit into one Kafka message."`
}

// Kafka is the broker connection; Listen is that of the embedded broker.
type Kafka struct {
	Brokers []string `key:"brokers" doc:"Addresses of the Kafka brokers to begin with, host:port. Not used by dev."`
	Listen  string   `key:"listen" doc:"Loopback address of the embedded broker, host:port. Used by dev alone."`
	TLS     TLS      `key:"tls"`
	SASL    SASL     `key:"sasl"`
}

// TLS encrypts the connections to Kafka.
type TLS struct {
	Enabled    bool   `key:"enabled" doc:"Connect to Kafka with TLS."`
	CAFile     string `key:"caFile" doc:"Certificates to trust, PEM; empty means those of the system."`
	CertFile   string `key:"certFile" doc:"Client certificate, PEM."`
	KeyFile    string `key:"keyFile" doc:"Key of the client certificate, PEM."`
	ServerName string `key:"serverName" doc:"Name to expect in the broker's certificate; empty means the host that is connected to."`
}

// SASL authenticates to Kafka.
type SASL struct {
	Mechanism string `key:"mechanism" doc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty means no authentication."`
	User      string `key:"user" doc:"User name at Kafka."`
	Password  string `key:"password" secret:"true" doc:"Password at Kafka."`
}

// Registry is the schema registry; Listen is that of the embedded one.
type Registry struct {
	URL    string       `key:"url" doc:"URL of the Confluent-compatible schema registry. Not used by dev."`
	Listen string       `key:"listen" doc:"Loopback address of the embedded schema registry, host:port. Used by dev alone."`
	Auth   RegistryAuth `key:"auth"`
}

// RegistryAuth is HTTP basic authentication.
type RegistryAuth struct {
	User     string `key:"user" doc:"User name at the schema registry; empty means no authentication."`
	Password string `key:"password" secret:"true" doc:"Password at the schema registry."`
}

// Domains says where the domain definitions are.
type Domains struct {
	Dir   string   `key:"dir" flag:"domains" doc:"Directory whose *.yaml files are domain definitions."`
	Files []string `key:"files" flag:"domain" doc:"Single files with domain definitions, in addition to those of the directory."`
}

// Engine tunes the stations.
type Engine struct {
	CommitInterval  time.Duration `key:"commitInterval" doc:"Longest time a transaction stays open while there is input. Without input it ends at once."`
	CacheBytes      Bytes         `key:"cacheBytes" doc:"Memory for cached blocks of the local stores, for the whole process."`
	Standby         string        `key:"standby" doc:"Keep a warm copy of the tables' partitions that other processes own, to take them over at once: on, off, or auto, which is on where the process serves the API."`
	StateCacheBytes Bytes         `key:"stateCacheBytes" doc:"Memory for decoded entities that stations ask for often, for the whole process; an estimate. 0 for none."`
}

// Topics are the defaults of created topics.
type Topics struct {
	Partitions  int `key:"partitions" doc:"Partitions of each topic of a domain. It cannot be changed once a domain has data."`
	Replication int `key:"replication" doc:"Replicas of each topic; -1 leaves it to the broker."`
}

// Dedupe bounds the memory for duplicates.
type Dedupe struct {
	Window time.Duration `key:"window" doc:"How long a delivery is remembered, so that a repetition is recognised."`
}

// Commands bounds the memory for commands.
type Commands struct {
	Keep time.Duration `key:"keep" doc:"How long a command's idempotency key is remembered, and how long after its end it can be asked what became of it."`
}

// Backends are the simulated ones.
type Backends struct {
	Listen string `key:"listen" doc:"Loopback address at which the simulated back ends are asked for something, host:port. Used by dev alone."`
}

// Log is the process log, on standard error.
type Log struct {
	Level  string `key:"level" doc:"debug, info, warn or error."`
	Format string `key:"format" doc:"text or json."`
}

// MaxBody is the most that api.maxBodyBytes can be: a journal record holds the
// body and its envelope, and is kept below 1,000,000 bytes, so that it and its
// dead letter fit into Kafka's default message size.
const MaxBody = 900_000

// Default is the configuration of a process that is told nothing.
func Default() Config {
	return Config{
		Data:     Data{Dir: ".touchstone"},
		API:      API{Listen: "127.0.0.1:8080", MaxBodyBytes: MaxBody},
		Kafka:    Kafka{Brokers: []string{"127.0.0.1:9092"}, Listen: "127.0.0.1:9092"},
		Registry: Registry{URL: "http://127.0.0.1:8081", Listen: "127.0.0.1:8081"},
		Engine:   Engine{CommitInterval: 50 * time.Millisecond, CacheBytes: 128 << 20, StateCacheBytes: 64 << 20, Standby: "auto"},
		Topics:   Topics{Partitions: 8, Replication: -1},
		Dedupe:   Dedupe{Window: 7 * 24 * time.Hour},
		Commands: Commands{Keep: 30 * 24 * time.Hour},
		Backends: Backends{Listen: "127.0.0.1:8082"},
		Log:      Log{Level: "info", Format: "text"},
		Roles:    []string{"all"},
	}
}

// RoleNames are the values of the key roles, apart from all.
func RoleNames() []string {
	return []string{"api", "feeds", "inbox", "resolve", "merge", "publish", "admit", "orchestrate", "execute", "track"}
}

// HasRole says whether the process is to play a role.
func (c *Config) HasRole(role string) bool {
	for _, r := range c.Roles {
		if r == role || r == "all" {
			return true
		}
	}
	return false
}
