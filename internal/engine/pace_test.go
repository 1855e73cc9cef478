package engine

import (
	"testing"
	"time"
)

// Oracle: the wait is in proportion to a steady rate up to the longest; a
// burst after a silence waits for nothing; a change of rate is followed within
// a second, up and down.
func TestPace(t *testing.T) {
	const longest = 20 * time.Millisecond
	steady := func(p *pace, rate float64, lasting time.Duration) {
		for at := time.Duration(0); at < lasting; {
			// The next commit is after the pause, or with the next record.
			after := max(p.pause(longest), time.Duration(float64(time.Second)/rate), time.Millisecond)
			p.committed(int(rate*after.Seconds()+0.5), after)
			at += after
		}
	}
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("%s: waits %v, expected about %v", what, got, want)
		}
	}
	var p pace
	if p.pause(longest) != 0 {
		t.Errorf("nothing has come yet, and it waits %v", p.pause(longest))
	}
	steady(&p, 10, time.Second)
	near("10/s", p.pause(longest), longest*10/fullPace)
	steady(&p, 500, time.Second)
	near("500/s", p.pause(longest), longest/4)
	steady(&p, 1000, time.Second)
	near("1000/s", p.pause(longest), longest/2)
	steady(&p, 50_000, time.Second)
	if got := p.pause(longest); got < longest*99/100 || got > longest {
		t.Errorf("50,000/s: waits %v, expected nearly %v", got, longest)
	}
	steady(&p, 100, time.Second)
	near("100/s after full load", p.pause(longest), longest/20)
	p.committed(100, 3*time.Second)
	if got := p.pause(longest); got > longest/50 {
		t.Errorf("a hundred records after three seconds of silence: waits %v", got)
	}
	before := p
	p.committed(10, 0)
	if p != before {
		t.Error("a clock that stands still made a rate")
	}
	if got := p.pause(-1); got != 0 {
		t.Errorf("without a pause: waits %v", got)
	}
}
