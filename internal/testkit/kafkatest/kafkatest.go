// Package kafkatest gives tests a real Apache Kafka and a real schema registry:
// one or three brokers in KRaft mode and Apicurio Registry, as child processes
// on loopback ports with their data in a temporary folder. The jars come from
// Maven Central by test/kafka/pom.xml, once, into a cache outside the
// repository. Nothing is skipped: what is missing on the machine is an error
// that says what to install.
//
// If KAFKA_BROKERS names a cluster (host:port,…), that is used instead. Tests
// delete its topics and groups; so it must be empty at first, and is marked
// then. Its brokers cannot be killed: tests of broker faults need their own.
// The registry is started all the same.
//
// KAFKA_TEST_SIZE is the number of brokers, 1 (the default) or 3.
//
// Programs that need a Kafka for a while, such as the benchmark against other
// engines, call Open and the methods that return errors (cluster.go, topics.go);
// those that take a testing.TB are the same for tests.
//
// It is for tests and measurements alone: no security, small memory, short
// time-outs.
package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/internal/testkit/child"
)

// The variables that choose the cluster.
const (
	EnvBrokers = "KAFKA_BROKERS"
	EnvSize    = "KAFKA_TEST_SIZE"
)

// Cluster is a running Kafka. Its methods are safe for concurrent use, except
// that one test at a time may kill, pause and restart.
type Cluster struct {
	options Options
	dir     string
	lib     string
	addrs   []string // to be told to clients
	inside  []string // no proxy stands before these
	nodes   []*node  // nil if the cluster is another's
	cl      *kgo.Client
	adm     *kadm.Client
}

// node is one broker, which is also a controller.
type node struct {
	id     int
	config string
	log    string
	addr   string
	p      *child.Process
}

// Main is for TestMain: it starts a cluster, gives it to use, runs the tests,
// and stops it. The result is the exit code. If tests fail, the last lines of
// the brokers' logs are printed and the logs are kept.
func Main(run func() int, use func(*Cluster)) int {
	c, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	use(c)
	code := run()
	if code != 0 {
		fmt.Fprintln(os.Stderr, c.Excerpt())
	}
	c.Close(code != 0)
	return code
}

// Options of a cluster of one's own. The zero value is what tests use.
type Options struct {
	// Brokers is their number, 1 if zero.
	Brokers int
	// Dir is where a folder for the data and the logs is made; the system's
	// folder for temporary files if empty.
	Dir string
	// Java are the options of each broker's JVM, in the place of those for
	// small and short-lived processes.
	Java []string
	// CPUs are the processors that brokers may use, as taskset lists them
	// ("0", "0-1"); all if empty.
	CPUs string
	// Properties are added to server.properties and win over those above them.
	Properties map[string]string
	// Advertise, if set, is given the address that clients reach a broker at and
	// gives the one to tell them: that of a proxy. Brokers speak to each other by
	// listeners of their own then, and so does this package to them.
	Advertise func(broker int, addr string) (string, error)
}

// Start starts the cluster that the environment asks for and waits until it
// works, with transactions of version 2 (KIP-890).
func Start() (c *Cluster, err error) {
	if given := os.Getenv(EnvBrokers); given != "" {
		c = &Cluster{addrs: strings.Split(given, ",")}
		if err = answers(c.addrs); err == nil {
			err = c.connect()
		}
		if err == nil {
			err = errors.Join(c.awaitReady(1), c.claim())
		}
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", EnvBrokers, given, err)
		}
		return c, nil
	}
	size := 1
	if s := os.Getenv(EnvSize); s != "" {
		if size, err = strconv.Atoi(s); err != nil || (size != 1 && size != 3) {
			return nil, fmt.Errorf("%s: found %q, expected 1 or 3", EnvSize, s)
		}
	}
	return Open(Options{Brokers: size})
}

// answers tells at once that nobody is at any of the addresses, which a client
// would go on to try for long.
func answers(addrs []string) error {
	var errs []error
	for _, a := range addrs {
		conn, err := net.DialTimeout("tcp", a, 5*time.Second)
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no broker answers, expected host:port of one that runs: %w", errors.Join(errs...))
}

// Open starts a cluster, whatever the environment says, and waits until it
// works. The caller closes it.
func Open(o Options) (c *Cluster, err error) {
	size := max(o.Brokers, 1)
	c = &Cluster{options: o}
	if c.lib, err = kafkaJars(); err != nil {
		return nil, fmt.Errorf("a real Kafka: %w", err)
	}
	if c.dir, err = os.MkdirTemp(o.Dir, "touchstone-kafka-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %d Kafka brokers: %w\n%s", size, err, c.Excerpt())
			c.Close(true)
		}
	}()
	if err = c.format(size); err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if err = c.start(n); err != nil {
			return nil, err
		}
	}
	if err = c.connect(); err != nil {
		return nil, err
	}
	return c, c.awaitReady(size)
}

func (c *Cluster) connect() (err error) {
	seeds := c.inside
	if seeds == nil {
		seeds = c.addrs
	}
	c.cl, err = kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ClientID("kafkatest"), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	c.adm = kadm.NewClient(c.cl)
	return nil
}

// awaitReady waits until so many brokers have joined and transactions are of
// version 2.
func (c *Cluster) awaitReady(size int) error {
	return await(90*time.Second, func(ctx context.Context) error {
		for _, n := range c.nodes {
			if err := alive(n.p); err != nil {
				return final{fmt.Errorf("broker %d: %w", n.id, err)}
			}
		}
		brokers, err := c.adm.ListBrokers(ctx)
		if err != nil {
			return err
		}
		if len(brokers) < size {
			return fmt.Errorf("%d of %d brokers have joined", len(brokers), size)
		}
		versions, err := c.adm.ApiVersions(ctx)
		if err != nil {
			return err
		}
		for id, v := range versions {
			if v.Err != nil {
				return fmt.Errorf("broker %d: %w", id, v.Err)
			}
			level := int16(-1)
			for _, f := range v.Raw().FinalizedFeatures {
				if f.Name == "transaction.version" {
					level = f.MaxVersionLevel
				}
			}
			if level < 2 {
				return fmt.Errorf("broker %d: transaction.version is %d, expected 2 or more", id, level)
			}
		}
		return nil
	})
}

// final is an error that waiting does not mend.
type final struct{ error }

// await calls check until it gives nil or a final error.
func await(within time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try, done := context.WithTimeout(ctx, 5*time.Second)
		err := check(try)
		done()
		var f final
		if err == nil || errors.As(err, &f) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		case <-tick.C:
		}
	}
}

// Version of Kafka that the pom names: that of clusters of our own.
func Version() (string, error) {
	p, err := readPom()
	return p.Kafka, err
}

// Addrs are the addresses of the brokers, host:port.
func (c *Cluster) Addrs() []string { return c.addrs }

// InsideAddrs are addresses that lead to the brokers without whatever Advertise
// put before them.
func (c *Cluster) InsideAddrs() []string { return c.inside }

// Size is the number of brokers that are ours.
func (c *Cluster) Size() int { return len(c.nodes) }

// Close ends the cluster; its data is worth nothing to anybody. The logs can be
// kept, and their folder is told then.
func (c *Cluster) Close(keepLogs bool) {
	if c.cl != nil {
		c.cl.Close()
	}
	for _, n := range c.nodes {
		if n.p != nil {
			n.p.Kill()
		}
	}
	if c.dir == "" {
		return
	}
	for _, n := range c.nodes {
		os.RemoveAll(filepath.Join(c.dir, fmt.Sprintf("data%d", n.id)))
	}
	if keepLogs {
		fmt.Fprintln(os.Stderr, "logs of the brokers are kept in", c.dir)
		return
	}
	os.RemoveAll(c.dir)
}

// Excerpt gives the last lines that each broker logged.
func (c *Cluster) Excerpt() string {
	if len(c.nodes) == 0 {
		return "the brokers are not ours: their logs are elsewhere"
	}
	var b strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "--- broker %d at %s, end of %s\n%s", n.id, n.addr, n.log, child.Tail(n.log, 40))
	}
	return b.String()
}

func (c *Cluster) start(n *node) (err error) {
	java := c.options.Java
	if java == nil {
		java = append(javaOptions(512), "-XX:MaxDirectMemorySize=256m")
	}
	n.p, err = startJavaOn(c.options.CPUs, n.log, append(slices.Clone(java), "-Dlog4j2.configurationFile="+filepath.Join(c.dir, "log4j2.properties"),
		"-cp", filepath.Join(c.lib, "*"), "kafka.Kafka", n.config)...)
	return err
}

// format writes the configuration of each broker and formats its storage.
func (c *Cluster) format(size int) error {
	if err := os.WriteFile(filepath.Join(c.dir, "log4j2.properties"), []byte(logging), 0o600); err != nil {
		return err
	}
	ports, err := freePorts(3 * size)
	if err != nil {
		return err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	id[0] &= 0x7f // an id that begins with a dash would be taken for an option
	cluster := base64.RawURLEncoding.EncodeToString(id[:])
	var voters []string
	for i := range size {
		n := &node{
			id: i + 1, addr: fmt.Sprintf("127.0.0.1:%d", ports[i]),
			config: filepath.Join(c.dir, fmt.Sprintf("broker%d.properties", i+1)),
			log:    filepath.Join(c.dir, fmt.Sprintf("broker%d.log", i+1)),
		}
		advertised, inside := n.addr, n.addr
		if c.options.Advertise != nil {
			if advertised, err = c.options.Advertise(n.id, n.addr); err != nil {
				return err
			}
			inside = fmt.Sprintf("127.0.0.1:%d", ports[2*size+i])
		}
		c.nodes, c.addrs, c.inside = append(c.nodes, n), append(c.addrs, advertised), append(c.inside, inside)
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", n.id, ports[size+i]))
	}
	var wg sync.WaitGroup
	errs := make([]error, size)
	for i, n := range c.nodes {
		text := fmt.Sprintf(properties, n.id, strings.Join(voters, ","), n.addr, ports[size+i],
			filepath.Join(c.dir, fmt.Sprintf("data%d", n.id)), size, max(1, size-1))
		if c.options.Advertise != nil {
			text += fmt.Sprintf(proxied, n.addr, ports[size+i], c.addrs[i], c.inside[i])
		}
		for _, name := range slices.Sorted(maps.Keys(c.options.Properties)) {
			text += name + "=" + c.options.Properties[name] + "\n"
		}
		if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
			return err
		}
		wg.Go(func() {
			errs[i] = runJava(n.log, append(javaOptions(256), "-Dlog4j2.configurationFile="+filepath.Join(c.dir, "log4j2.properties"),
				"-cp", filepath.Join(c.lib, "*"), "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", n.config)...)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// The times are those of impatient tests: a dead broker is replaced after four
// seconds, a dead transaction is aborted half a second after its time-out.
const properties = `process.roles=broker,controller
node.id=%[1]d
controller.quorum.voters=%[2]s
listeners=PLAINTEXT://%[3]s,CONTROLLER://127.0.0.1:%[4]d
advertised.listeners=PLAINTEXT://%[3]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[5]s
default.replication.factor=%[6]d
min.insync.replicas=%[7]d
unclean.leader.election.enable=false
auto.create.topics.enable=false
num.partitions=4
offsets.topic.replication.factor=%[6]d
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=%[6]d
transaction.state.log.min.isr=%[7]d
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=%[6]d
share.coordinator.state.topic.min.isr=%[7]d
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
log.segment.delete.delay.ms=1000
log.cleaner.backoff.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=33554432
`

// What is different where clients are told the address of a proxy.
const proxied = `listeners=PLAINTEXT://%[1]s,CONTROLLER://127.0.0.1:%[2]d,INSIDE://%[4]s
advertised.listeners=PLAINTEXT://%[3]s,INSIDE://%[4]s
inter.broker.listener.name=INSIDE
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT
`

// The log leaves out the pages in which Kafka prints its configuration.
const logging = `rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
logger.values.name=org.apache.kafka.common.config.AbstractConfig
logger.values.level=WARN
logger.config.name=kafka.server.KafkaConfig
logger.config.level=WARN
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{HH:mm:ss.SSS} %-5p %m (%c{1})%n%throwable{8}
`

// freePorts gives ports that nobody listens on. They are below those that the
// system gives to outgoing connections, so that nobody takes the port of a
// broker while it is down.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		r, err := rand.Int(rand.Reader, big.NewInt(10_000))
		if err != nil {
			return nil, err
		}
		port := 20_000 + int(r.Int64())
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer ln.Close() // when all are found: else one could be found twice
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports between 20000 and 30000")
}
