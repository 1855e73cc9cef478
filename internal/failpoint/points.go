package failpoint

// Point is a place in the program that can be made to fail.
type Point string

// The points, in the order in which a record meets them.
const (
	DoorBeforeAppend Point = "door/before-append"
	DoorAfterAppend  Point = "door/after-append"

	FeedBeforeTake   Point = "engine/feed/before-take"
	FeedBeforeCommit Point = "engine/feed/before-commit"

	OutletBegun        Point = "engine/outlet/begun"
	OutletBeforeCommit Point = "engine/outlet/before-commit"

	ExecuteCall     Point = "execute/before-call"
	ExecuteCalled   Point = "execute/after-call"
	ExecuteAnswered Point = "execute/answered"

	SessionFence     Point = "engine/session/fence"
	RecoveryRecord   Point = "engine/recovery/record"
	RecoveryWrite    Point = "engine/recovery/write"
	RecoveryDone     Point = "engine/recovery/done"
	StepBefore       Point = "engine/step/before"
	StepStation      Point = "engine/step/station"
	CommitFlush      Point = "engine/commit/before-flush"
	CommitEnd        Point = "engine/commit/before-end"
	CommitEndSent    Point = "engine/commit/end-sent"
	CommitAfterEnd   Point = "engine/commit/after-end"
	CommitMidApply   Point = "engine/commit/mid-apply"
	CommitAfterApply Point = "engine/commit/after-apply"

	ViewRecord Point = "engine/view/record"
	ViewWrite  Point = "engine/view/write"
)

// Place describes a point.
type Place struct {
	Point Point
	// Scope is what stands in the brackets of a rule.
	Scope string
	// Doc says when it is reached.
	Doc string
	// Errors tells that the action error is possible.
	Errors bool
}

// Points lists all points.
func Points() []Place {
	const group, view, feed, source, connection = "consumer group", "view", "consumer group of the feed", "<domain>.<source>", "<domain>.<connection>"
	return []Place{
		{DoorBeforeAppend, source, "a delivery is verified and not yet in the journal", true},
		{DoorAfterAppend, source, "a delivery is in the journal and not yet acknowledged to its sender", false},
		{FeedBeforeTake, feed, "records of a foreign topic are read and not yet handed on", true},
		{FeedBeforeCommit, feed, "records of a foreign topic are in the journal, their offsets not yet committed", true},
		{OutletBegun, group, "it is noted durably that a record has begun, nothing is done for it yet", true},
		{OutletBeforeCommit, group, "records are dealt with, their offsets not yet committed", true},
		{ExecuteCall, connection, "a back end is about to be called", true},
		{ExecuteCalled, connection, "a back end has been called, nothing of what it answered is written", true},
		{ExecuteAnswered, connection, "the answer of a back end is in the log, its request not yet done with", false},
		{SessionFence, group, "a processor is about to fence the one before it", true},
		{RecoveryRecord, group, "a record of the changelog is taken in by recovery", true},
		{RecoveryWrite, group, "what recovery has taken in is about to be written to Pebble", true},
		{RecoveryDone, group, "the table of a partition is restored, none of its input is read yet", true},
		{StepBefore, group, "an input record is about to be processed; an error or panic ends the work on its partition, and aborts the transaction", true},
		{StepStation, group, "the station is about to be called; an error or panic makes a dead letter of the record", true},
		{CommitFlush, group, "everything of the transaction is processed and not yet flushed", true},
		{CommitEnd, group, "everything is flushed, EndTxn not yet sent", true},
		{CommitEndSent, group, "EndTxn is sent, its answer not yet read; also for an abort", false},
		{CommitAfterEnd, group, "the transaction is committed, nothing of it is in Pebble yet", true},
		{CommitMidApply, group, "a part of the batch for Pebble is made, once for each partition", true},
		{CommitAfterApply, group, "the transaction is committed and in Pebble", true},
		{ViewRecord, view, "a record is about to be taken in by a view", true},
		{ViewWrite, view, "what a view has taken in is about to be written to Pebble", true},
	}
}

func (p Point) place() (Place, bool) {
	for _, at := range Points() {
		if at.Point == p {
			return at, true
		}
	}
	return Place{}, false
}
