package engine

import (
	"math"
	"time"
)

// pace chooses how long a transaction that has run dry waits for more input
// since the commit before. A transaction has a price of its own, whatever it
// holds. So the wait grows with the rate of records: few of them are committed
// at once, for nobody gains from a wait; many share a transaction.
type pace struct {
	rate float64 // records per second, lately
}

const (
	// paceMemory is the time constant of the mean that the rate is.
	paceMemory = 200 * time.Millisecond
	// fullPace is the rate, in records per second, from which the wait is the
	// longest. With the default of 20 ms, 1,000 records per second wait for at
	// most 10 ms and make 100 transactions of ten.
	fullPace = 2000
)

// committed takes note of a commit of so many records, so long after the one
// before.
func (p *pace) committed(records int, after time.Duration) {
	if after <= 0 {
		return
	}
	// Above fullPace it does not matter by how much, and would linger.
	now := min(float64(records)/after.Seconds(), fullPace)
	// What has passed since the last commit weighs by its length, so that a
	// record after a silence finds a quiet system.
	p.rate += (now - p.rate) * -math.Expm1(-float64(after)/float64(paceMemory))
}

// pause gives the time from one commit to the next, at most longest.
func (p *pace) pause(longest time.Duration) time.Duration {
	if longest <= 0 {
		return 0
	}
	return time.Duration(float64(longest) * min(p.rate/fullPace, 1))
}
