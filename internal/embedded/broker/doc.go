// Package broker runs a Kafka-protocol broker inside the process, with its data
// on disk, so that Touchstone can be developed, tested and used on one small
// machine without a Kafka installation. Any Kafka client can use it: kcat,
// Debezium, a producer in another language.
//
// The broker itself is kfake of the franz-go project. This package adds what a
// fake for tests does not have: durability of what was acknowledged, a start
// that succeeds after any kind of stop, and sole use of the data directory.
//
// It is not a replacement for Kafka: one node, no replication, no
// authentication (it listens on a loopback address only), and all requests go
// through one goroutine. Production runs on Kafka.
//
// # Primary and derived topics
//
// Topics are of two kinds. A primary topic holds what cannot be computed again:
// the journals, the commands, whatever other programs produce. A derived topic
// is computed from primary topics by a station of the pipeline. Config.Derived
// tells them apart.
//
// An acknowledged record of a primary topic is on disk: the answer to a produce
// request leaves the broker only after the segment files it was written to have
// been synced. All produce requests that wait at the same time share one sync
// (group commit). kfake's own SyncWrites option is not used, because it syncs
// every batch of every topic twice and holds up every other request meanwhile;
// it also ignores the errors of the syncs. The answer is held back on the
// connection (see conn.go), so this promise is kept to every client.
//
// A derived topic is left to the page cache. It survives a killed process and
// a clean stop, not the loss of power.
//
// # Stops
//
// A clean stop ([Broker.Close]) leaves everything as it is.
//
// After an unclean stop (kill -9, power loss) kfake's transactional state cannot
// be trusted: it replays an open transaction as aborted without writing a
// marker, and may lose a commit that reached only some partitions. Therefore the
// next start keeps the primary topics alone, repaired and with unchanged
// offsets, and drops the derived topics, the transactional state, the stations'
// consumer group offsets and the directories named by Config.Discard (the
// stations' local stores). The stations then rebuild all of it from the
// journals. [Recovered] tells what was done.
//
// # What is not promised
//
//   - A consumer can read a record of a primary topic before it is synced, and
//     act on it; if power fails in that moment the record is gone. It was never
//     acknowledged.
//   - An idempotent producer of another process that survives an unclean stop
//     of the broker may write its unacknowledged batch a second time.
//   - A transaction of another program that spans several primary partitions
//     can end up committed in some and aborted in others when the broker is
//     killed in the middle of its commit, before that was acknowledged.
//   - Start reads all data once, whatever the stop, to build the index that
//     kfake keeps in memory: about a second per gigabyte.
package broker
