// Package topology declares every stream, table and group once, as data: what
// reads what, keyed by what, partitioned how, kept how long. Topics are created
// from it and `touchstone describe` prints it.
//
// It does not touch Kafka: package internal/engine does.
package topology

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Kind of topic.
type Kind string

// The kinds of topic.
const (
	// Stream topics are read in order and expire by age.
	Stream Kind = "stream"
	// Table topics hold the latest value of each key: changelogs.
	Table Kind = "table"
	// External topics are written by others; they are not created here.
	External Kind = "external"
)

// Record names what a topic's values are; codecs are chosen by it.
type Record string

// The platform's records. PublicEvent values have generated schemas,
// ControlEntry values are the engine's own, and Foreign ones are whatever their
// producers write.
const (
	JournalEntry Record = "JournalEntry"
	Seen         Record = "Seen"
	Signal       Record = "Signal"
	Fact         Record = "Fact"
	Entity       Record = "Entity"
	Change       Record = "Change"
	Published    Record = "Published"
	Outcome      Record = "Outcome"
	Command      Record = "Command"
	Admission    Record = "Admission"
	Intent       Record = "Intent"
	Plan         Record = "Plan"
	Lane         Record = "Lane"
	Ask          Record = "Ask"
	Snapshot     Record = "Snapshot"
	Request      Record = "Request"
	Answer       Record = "Answer"
	Order        Record = "Order"
	Report       Record = "Report"
	Attempt      Record = "Attempt"
	Progress     Record = "Progress"
	Activity     Record = "Activity"
	Switch       Record = "Switch"
	PublicEvent  Record = "PublicEvent"
	ControlEntry Record = "ControlEntry"
	Foreign      Record = "Foreign"
)

// Topic is one Kafka topic.
type Topic struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
	Kind   Kind   `json:"kind"`
	Record Record `json:"record"`
	// Key says in words what records are keyed by.
	Key        string `json:"key"`
	Partitions int    `json:"partitions"`
	// Replication factor; -1 is the broker's default.
	Replication int `json:"replication"`
	// Compact and Retention together give the cleanup policy: compaction
	// keeps the latest record of each key, a retention (zero: for ever)
	// removes what is older.
	Compact   bool          `json:"compact"`
	Retention time.Duration `json:"-"`
	// Derived topics can be rebuilt from those that are not.
	Derived bool `json:"derived"`
	// Public topics are a contract with other systems.
	Public bool   `json:"public"`
	Doc    string `json:"doc"`
}

// Configs gives the topic's broker configuration.
func (t Topic) Configs() map[string]string {
	c := map[string]string{"cleanup.policy": t.CleanupPolicy(), "retention.ms": "-1"}
	if t.Retention > 0 {
		c["retention.ms"] = strconv.FormatInt(t.Retention.Milliseconds(), 10)
	}
	return c
}

// CleanupPolicy as Kafka spells it.
func (t Topic) CleanupPolicy() string {
	switch {
	case t.Compact && t.Retention > 0:
		return "compact,delete"
	case t.Compact:
		return "compact"
	}
	return "delete"
}

// Group is one station of one domain: a consumer group with its table.
type Group struct {
	Name    string `json:"name"`
	Domain  string `json:"domain"`
	Station string `json:"station"`
	// Inputs, Table (empty if stateless), Outputs and DeadLetters are topics.
	Inputs      []string `json:"inputs"`
	Table       string   `json:"table,omitempty"`
	Outputs     []string `json:"outputs"`
	DeadLetters string   `json:"deadLetters"`
	// Control is where the group is asked for replays and redrives.
	Control string `json:"control"`
	Doc     string `json:"doc"`
}

// View is one read model.
type View struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
	Topic  string `json:"topic"`
	Doc    string `json:"doc"`
}

// Feed carries an external topic into the journal.
type Feed struct {
	Name    string   `json:"name"`
	Domain  string   `json:"domain"`
	Source  string   `json:"source"`
	Topics  []string `json:"topics"`
	Journal string   `json:"journal"`
}

// Executor makes the calls to one connection, outside of transactions.
type Executor struct {
	// Name of the consumer group.
	Name       string `json:"name"`
	Domain     string `json:"domain"`
	Connection string `json:"connection"`
	// Calls it reads, Answers and Attempts it writes, and Journal that what back
	// ends answer goes into; empty if it does not.
	Calls    string `json:"calls"`
	Answers  string `json:"answers"`
	Attempts string `json:"attempts"`
	Journal  string `json:"journal,omitempty"`
	Doc      string `json:"doc"`
}

// Topology is everything, in the order of the flow.
type Topology struct {
	Topics    []Topic    `json:"topics"`
	Feeds     []Feed     `json:"feeds"`
	Groups    []Group    `json:"groups"`
	Executors []Executor `json:"executors,omitempty"`
	Views     []View     `json:"views"`
}

// Options of a topology.
type Options struct {
	// Partitions of every topic; it cannot be changed later without rekeying.
	Partitions int
	// Replication factor; -1 is the broker's default.
	Replication int
	// DedupeWindow is how long a delivery is remembered.
	DedupeWindow time.Duration
	// JournalRetention is how long the journal is kept; zero means for ever.
	JournalRetention time.Duration
	// OutcomeRetention is how long it can be asked what became of a delivery.
	OutcomeRetention time.Duration
	// CommandRetention is how long it can be asked what became of a command, and
	// how long its idempotency key is remembered.
	CommandRetention time.Duration
}

// Defaults for development: a window that outlasts the longest retry schedule
// of a webhook sender (Standard Webhooks: about three and a half days).
func Defaults() Options {
	return Options{Partitions: 4, Replication: -1, DedupeWindow: 7 * 24 * time.Hour, OutcomeRetention: 7 * 24 * time.Hour, CommandRetention: 30 * 24 * time.Hour}
}

// Names of a domain's topics and groups.
func Journal(domain string) string     { return domain + ".journal" }
func Signals(domain string) string     { return domain + ".signals" }
func Facts(domain string) string       { return domain + ".facts" }
func Changes(domain string) string     { return domain + ".changes" }
func Events(domain string) string      { return domain + ".events.v1" }
func Outcomes(domain string) string    { return domain + ".outcomes" }
func DeadLetters(domain string) string { return domain + ".deadletters" }
func Control(domain string) string     { return domain + ".control" }
func Commands(domain string) string    { return domain + ".commands" }
func Intents(domain string) string     { return domain + ".intents" }
func Asks(domain string) string        { return domain + ".asks" }
func Snapshots(domain string) string   { return domain + ".snapshots" }
func Plans(domain string) string       { return domain + ".plans" }
func Answers(domain string) string     { return domain + ".answers" }
func Orders(domain string) string      { return domain + ".orders" }
func Reports(domain string) string     { return domain + ".reports" }
func Switches(domain string) string    { return domain + ".switches" }
func Attempts(domain string) string    { return domain + ".attempts" }

// Activities is the topic that tells the world of commands, calls and failures.
func Activities(domain string) string { return domain + ".activities" }

// Calls gives the topic of the calls to a connection.
func Calls(domain, connection string) string { return domain + ".calls." + connection }

// GroupName gives the consumer group of a station.
func GroupName(domain, station string) string { return domain + "." + station }

// TableName gives the changelog topic of a station's table, as Goka names it.
func TableName(domain, station string) string { return GroupName(domain, station) + "-table" }

// The stations in the order of the flow.
const (
	Inbox       = "inbox"
	Resolve     = "resolve"
	Merge       = "merge"
	Publish     = "publish"
	Admit       = "admit"
	Orchestrate = "orchestrate"
	Execute     = "execute"
	Track       = "track"
)

// Follows tells which external topics a source reads; nil if it reads none.
// It is given by the assembly, since it is a connector's setting.
type Follows func(s *definition.Source) []string

// Build declares the topology of the domains.
func Build(domains []*definition.Domain, o Options, follows Follows) (*Topology, error) {
	if o.Partitions < 1 {
		return nil, fmt.Errorf("topics.partitions: found %d, expected at least 1", o.Partitions)
	}
	t := &Topology{}
	seen := map[string]bool{}
	for _, d := range domains {
		if seen[d.Name] {
			return nil, fmt.Errorf("domain %s is defined twice", d.Name)
		}
		seen[d.Name] = true
		t.add(d, domains, o, follows)
	}
	for _, x := range t.Topics {
		if x.Kind != External {
			continue
		}
		if t.ours(x.Name) {
			return nil, fmt.Errorf("domain %s: a source follows topic %s, which is one of ours; expected a topic that a back end writes", x.Domain, x.Name)
		}
	}
	return t, nil
}

// ours tells whether a topic is written by the door or a station of any domain.
func (t *Topology) ours(name string) bool {
	return slices.ContainsFunc(t.Topics, func(x Topic) bool { return x.Name == name && x.Kind != External })
}

func (t *Topology) add(d *definition.Domain, domains []*definition.Domain, o Options, follows Follows) {
	n := d.Name
	topic := func(name string, kind Kind, rec Record, key, doc string) Topic {
		return Topic{Name: name, Domain: n, Kind: kind, Record: rec, Key: key, Partitions: o.Partitions, Replication: o.Replication, Derived: true, Doc: doc}
	}
	const week, month = 7 * 24 * time.Hour, 30 * 24 * time.Hour
	external := map[string]bool{}
	for _, s := range d.Sources {
		topics := []string(nil)
		if follows != nil {
			topics = follows(s)
		}
		if len(topics) == 0 {
			continue
		}
		t.Feeds = append(t.Feeds, Feed{Name: n + ".feed." + s.Name, Domain: n, Source: s.Name, Topics: topics, Journal: Journal(n)})
		for _, name := range topics {
			if !external[name] {
				external[name] = true
				t.Topics = append(t.Topics, Topic{Name: name, Domain: n, Kind: External, Record: Foreign, Key: "the producer's", Replication: o.Replication, Partitions: 1, Doc: "written by the back end of source " + s.Name})
			}
		}
	}
	journal := topic(Journal(n), Stream, JournalEntry, "dedupe key", "every delivery exactly as received; the truth everything else is derived from")
	journal.Derived, journal.Retention = false, o.JournalRetention
	seen := topic(TableName(n, Inbox), Table, Seen, "dedupe key", "which delivery came first, for the dedupe window")
	seen.Compact, seen.Retention = true, o.DedupeWindow
	signals := topic(Signals(n), Stream, Signal, "tenant/source/resource/source key", "what sources claim about their own records")
	signals.Retention = week
	facts := topic(Facts(n), Stream, Fact, "tenant/resource/entity id", "signals whose entity is known")
	facts.Retention = week
	entities := topic(TableName(n, Merge), Table, Entity, "tenant/resource/entity id", "canonical entities with provenance and every contribution")
	entities.Compact = true
	changes := topic(Changes(n), Stream, Change, "tenant/resource/entity id", "each step of canonical state: the outbox")
	changes.Retention = month
	events := topic(Events(n), Stream, PublicEvent, "tenant/resource/entity id", "public domain events, Avro with CloudEvents headers")
	events.Retention, events.Public = month, true
	published := topic(TableName(n, Publish), Table, Published, "tenant/resource/entity id", "up to which version the events of an entity are published")
	published.Compact = true
	outcomes := topic(Outcomes(n), Table, Outcome, "journal id, and #index for one of several signals", "what became of each delivery")
	outcomes.Compact, outcomes.Retention = true, o.OutcomeRetention
	dead := topic(DeadLetters(n), Stream, Foreign, "the failed record's", "records that a station could not handle, with the reason in headers")
	dead.Retention = month
	// One partition: everyone reads the same requests in the same order. They
	// are kept for longer than dead letters, of which they tell what became.
	control := topic(Control(n), Table, ControlEntry, "the request's", "replays and redrives: what was asked for, and how far it has come")
	control.Partitions, control.Compact, control.Retention = 1, true, 2*month
	t.Topics = append(t.Topics, journal, seen, signals, facts, entities, changes, events, published, outcomes, dead, control)

	group := func(station string, inputs []string, table string, outputs []string, doc string) {
		t.Groups = append(t.Groups, Group{Name: GroupName(n, station), Domain: n, Station: station, Inputs: inputs, Table: table, Outputs: outputs, DeadLetters: dead.Name, Control: control.Name, Doc: doc})
	}
	group(Inbox, []string{journal.Name}, seen.Name, []string{signals.Name, outcomes.Name}, "drops duplicates, normalises deliveries into signals")
	group(Resolve, []string{signals.Name}, "", []string{facts.Name, outcomes.Name}, "finds the entity a signal speaks of")
	commands := len(d.Commands()) > 0
	mergeIn, mergeOut := []string{facts.Name}, []string{changes.Name, outcomes.Name}
	if commands {
		mergeIn, mergeOut = append(mergeIn, Asks(n)), append(mergeOut, Snapshots(n))
	}
	group(Merge, mergeIn, entities.Name, mergeOut, "decides field by field whose word counts; the only writer of canonical state")
	group(Publish, []string{changes.Name}, published.Name, []string{events.Name}, "publishes the domain events of each change, once")

	if commands {
		t.addCommands(d, domains, o, topic, group)
	}

	t.Views = append(t.Views,
		View{Name: n + ".entities", Domain: n, Topic: entities.Name, Doc: "canonical entities by id, and by the declared filter fields"},
		View{Name: n + ".history", Domain: n, Topic: changes.Name, Doc: "changes by entity and version"},
		View{Name: n + ".outcomes", Domain: n, Topic: outcomes.Name, Doc: "what became of each delivery"},
		View{Name: n + ".deadletters", Domain: n, Topic: dead.Name, Doc: "dead letters with their reasons"},
	)
}

// Children are the domains among those given that take commands from steps of d.
func Children(d *definition.Domain, domains []*definition.Domain) (out []string) {
	for _, name := range d.Children() {
		if slices.ContainsFunc(domains, func(x *definition.Domain) bool { return x.Name == name && len(x.Commands()) > 0 }) {
			out = append(out, name)
		}
	}
	return out
}

// Parents are the domains among those given whose steps send commands to d.
func Parents(d *definition.Domain, domains []*definition.Domain) (out []string) {
	for _, x := range domains {
		if slices.Contains(x.Children(), d.Name) {
			out = append(out, x.Name)
		}
	}
	slices.Sort(out)
	return out
}

// addCommands declares what carries out the commands of a domain.
func (t *Topology) addCommands(d *definition.Domain, domains []*definition.Domain, o Options, topic func(name string, kind Kind, rec Record, key, doc string) Topic, group func(station string, inputs []string, table string, outputs []string, doc string)) {
	n := d.Name
	const entity = "tenant/resource/entity id"
	const day, week = 24 * time.Hour, 7 * 24 * time.Hour
	kept := func(t Topic, retention time.Duration) Topic {
		t.Retention, t.Compact = retention, t.Kind == Table
		return t
	}
	commands := kept(topic(Commands(n), Stream, Command, "command id; anything else is written again under it", "commands as they were sent, over HTTP or by any producer"), o.CommandRetention)
	commands.Derived, commands.Public = false, true
	admitted := kept(topic(TableName(n, Admit), Table, Admission, "command id", "which command was first with its idempotency key"), o.CommandRetention)
	intents := kept(topic(Intents(n), Stream, Intent, entity, "commands that are to be carried out"), week)
	plans := kept(topic(Plans(n), Table, Plan, "fingerprint", "every definition of a command that one may be carried out by"), 0)
	plans.Derived, plans.Partitions = false, 1
	asks := kept(topic(Asks(n), Stream, Ask, entity, "who carries out a command asks for its entity"), day)
	snapshots := kept(topic(Snapshots(n), Stream, Snapshot, entity, "entities that were asked for"), day)
	answers := kept(topic(Answers(n), Stream, Answer, entity, "what became of calls"), week)
	orders := kept(topic(Orders(n), Stream, Order, entity, "what people want of commands under way: cancel, retry, abandon, approve, refuse"), week)
	lanes := kept(topic(TableName(n, Orchestrate), Table, Lane, entity, "commands under way on each entity, with their timers"), 0)
	reports := kept(topic(Reports(n), Stream, Report, "command id", "each step of a command"), o.CommandRetention)
	attempts := kept(topic(Attempts(n), Stream, Attempt, "command id", "each attempt at a call: its beginning and its end"), week)
	activities := kept(topic(Activities(n), Stream, Activity, "command id", "what became of commands, of calls and of failures, with CloudEvents headers"), o.CommandRetention)
	activities.Public = true
	progress := kept(topic(TableName(n, Track), Table, Progress, "command id", "how far commands are, with the calls that were made for them; forgotten after a while"), 0)
	switches := kept(topic(Switches(n), Table, Switch, "connection", "which connections are paused"), 0)
	switches.Derived, switches.Partitions = false, 1
	t.Topics = append(t.Topics, commands, admitted, intents, plans, asks, snapshots)
	out := []string{asks.Name, reports.Name}
	for _, c := range d.Connections {
		calls := kept(topic(Calls(n, c.Name), Stream, Request, entity, "what connection "+c.Name+" is asked for"), week)
		t.Topics = append(t.Topics, calls)
		out = append(out, calls.Name)
		x := Executor{
			Name: GroupName(n, Execute+"."+c.Name), Domain: n, Connection: c.Name, Calls: calls.Name, Answers: answers.Name, Attempts: attempts.Name,
			Doc: "calls " + c.Name + ", within its limits",
		}
		if c.Source != "" {
			x.Journal = Journal(n)
		}
		t.Executors = append(t.Executors, x)
	}
	t.Topics = append(t.Topics, answers, attempts, switches, orders, lanes, reports, progress, activities)
	for _, child := range Children(d, domains) {
		out = append(out, Commands(child))
	}
	admits := []string{commands.Name, intents.Name, reports.Name}
	for _, parent := range Parents(d, domains) {
		out, admits = append(out, Answers(parent)), append(admits, Answers(parent))
	}
	slices.Sort(out[2:])
	out = slices.Compact(out)
	group(Admit, []string{commands.Name}, admitted.Name, admits, "recognises commands that come again, refuses what is not declared")
	group(Orchestrate, []string{intents.Name, snapshots.Name, Changes(n), answers.Name, orders.Name}, lanes.Name, out, "carries commands out: sagas over the back ends, one at a time on each entity")
	group(Track, []string{reports.Name, attempts.Name}, progress.Name, []string{activities.Name}, "keeps what is told of commands and calls")
	t.Views = append(t.Views, View{Name: n + ".commands", Domain: n, Topic: progress.Name, Doc: "commands by id, entity and status; calls and their failures"})
}

// Topic finds a topic by name.
func (t *Topology) Topic(name string) (Topic, bool) {
	for _, x := range t.Topics {
		if x.Name == name {
			return x, true
		}
	}
	return Topic{}, false
}
