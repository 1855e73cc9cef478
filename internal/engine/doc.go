// Package engine drives the stations and views over Kafka: it runs Goka on
// franz-go, one Kafka transaction per commit, with Pebble as Goka's storage.
// It is the only package that knows Goka.
//
// It does not know what a record means: codecs and stations are handed in, and
// nothing here decides about business content. It does not serve HTTP and does
// not declare topics: package topology does.
//
// # The path of a record through a processor
//
//	session.run       polls records, begins a transaction at the first
//	task              hands those of its partition number to Goka, counts what
//	                  is in flight
//	Goka              keeps the order per partition, calls step.handle
//	step.handle       decode → Station.Step → encode everything → then do it:
//	                    state      → overlay of the partition's table
//	                    changelog  → produced into the transaction
//	                    emits      → produced into the transaction
//	                  a failure or panic: a dead letter instead of all of it
//	session.commit    input dry, interval over or enough records:
//	                  wait until nothing is in flight, flush, end the
//	                  transaction with the group's offsets
//	                    committed → one Pebble batch {overlay, changelog offset}
//	                    aborted   → drop the overlay, rewind
//	                    unknown   → end the session; the next one fences it and finds out
//
// # What is not obvious
//
//   - The transaction is the acknowledgement. A step is done when it returns;
//     what it produced is confirmed, or everything is undone, at the commit.
//   - What a step wants done goes straight to the transaction and not by
//     goka.Context: that spares two promises per record, and the changelog is
//     written to the partition that the input came from, so that a table is
//     whole even if a foreign producer hashed its keys in another way.
//   - Local state never runs ahead of the changelog: it is written only after
//     the commit, with the changelog offset in the same Pebble batch. Pebble
//     therefore needs no write-ahead log: the changelog is the log.
//   - A producer fences its predecessor (InitProducerID) before any recovery
//     looks at a changelog. Else a transaction that the predecessor left open
//     could commit behind the recovery's back.
//   - Recovery reads committed records but must reach the high watermark, so it
//     waits for every transaction that was open when it began. The last offset
//     may be a transaction marker, which no reader sees: see follower.
//   - Never block in a rebalance callback: GroupTransactSession.End may wait
//     for the goroutine that runs it. Callbacks leave a note and wake the loop.
//   - An entry of a table with a Retention expires by the time of the record
//     that asks, not by the clock, so that a replay decides as the first run did.
//
// # Tables
//
//	table      a table as this process has it, with a replica per partition
//	replica    one image of the partition, and whose turn it is to write it
//	image      what Pebble has: entries, their index, and the mark
//	store      Goka's storage of a partition that is owned: an overlay over the
//	           image for the open transaction; states lies above it
//	logReader  reads a changelog by single requests, to restore an image
//	follower   reads changelogs on and on, for standbys and for Goka
//
// What holds:
//
//   - One at a time writes an image: the session that owns the partition, or
//     the standby. The owner comes first. Each begins by the mark in Pebble and
//     reads the changelog from there, so a turn may end anywhere.
//   - A session does not apply a commit to a store that was closed meanwhile:
//     who has the replica now reads the changelog.
//   - An index entry is written and removed in the batch that writes the value
//     it belongs to. The terms of a value lie in front of it in Pebble.
//   - Readers see an image only after it was opened in this run: before, it may
//     be of another form.
//
// # When partitions come and go
//
// A group assigns partition numbers (copartition): a number is that partition
// of every input and of the table. Each is a task with a Goka processor of its
// own, and all tasks at work share the session's transaction.
//
//	membership   notes what the group says, in franz-go's goroutines
//	adopt        between two transactions: starts tasks for numbers that came,
//	             stops those of numbers that went, lets recovered ones work
//
// What holds:
//
//   - A number that stays is not touched: no abort, no recovery, no Goka setup.
//   - What was done for a number that goes is committed before it is given up.
//     franz-go holds the revocation back while a transaction is open; if the
//     commit takes too long it goes ahead and the transaction is aborted.
//   - A number that comes recovers while the others work. Its records are
//     withheld until then.
//   - A task that fails, in recovery or at work, is started again after a while
//     with its records withheld; the others go on. If it had part in the open
//     transaction, that is aborted once and processed again without it.
//   - A step that takes long holds up the commit of all tasks of its group in
//     this process, because the transaction is shared, and nothing else: new
//     records of the others are processed until 500 wait behind it.
//   - Between two generations nobody commits. Work goes on in the open
//     transaction until half of its timeout is over; then it is aborted, and
//     the next begins with the new generation.
//   - An assignment has an epoch: a number that was lost and came back is not
//     taken for one that stayed, because someone else may have written.
package engine
