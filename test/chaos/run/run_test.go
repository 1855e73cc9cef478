package run

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/touchstone-platform/touchstone/internal/failpoint"
)

// Oracle: whatever rules a scenario draws, the program understands them; names
// are told apart, and found.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		if found, err := Find(s.Name); seen[s.Name] || s.Doc == "" || err != nil || found.Name != s.Name {
			t.Errorf("%s: doubled, not described or not found (%v)", s.Name, err)
		}
		seen[s.Name] = true
		if s.Failpoints == nil {
			continue
		}
		for seed := range uint64(200) {
			rules := s.Failpoints(rand.New(rand.NewPCG(seed, 1)))
			if _, err := failpoint.Parse(rules, 1); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
	}
	if _, err := Find("peace"); err == nil {
		t.Error("a scenario that is not there was found")
	}
}

// Oracle: the times are laid out by hand.
func TestTimes(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	w := &watcher{arrivals: map[int32][]time.Time{0: {at(1), at(2), at(7), at(8)}, 1: {at(1), at(3), at(4), at(9)}}}
	if s, _ := w.stalls(at(0), at(10)); s.d != 5*time.Second || s.partition == 0 && !s.since.Equal(at(2)) || s.partition == 1 && !s.since.Equal(at(4)) {
		t.Errorf("longest stall %s, expected 5s", s)
	}
	if s, _ := w.stalls(at(0), at(20)); s != (stall{12 * time.Second, 0, at(8)}) {
		t.Errorf("longest stall up to the end %s, expected 12s", s)
	}
	if d, ok := w.after(at(2.5)); !ok || d != 4500*time.Millisecond {
		t.Errorf("after a kill %s, %t, expected 4.5s", d, ok)
	}
	if _, ok := w.after(at(8.5)); ok {
		t.Error("a partition that had no change any more has a time")
	}
}

// Oracle: a line has the slope that it was made with, whatever came in the
// first half.
func TestTrends(t *testing.T) {
	var samples []Sample
	for i := range 100 {
		s := Sample{After: time.Duration(i) * time.Minute, RSS: 100e6, Goroutines: 50 + float64(i)/60}
		if i < 50 {
			s.RSS = 10e6
		}
		samples = append(samples, s)
	}
	for _, tr := range Trends(samples) {
		want := 0.0
		if tr.Name == "goroutines" {
			want = 1
		}
		if math.Abs(tr.SlopePerHour-want) > 1e-6 {
			t.Errorf("%+v, expected a slope of %v", tr, want)
		}
	}
}
