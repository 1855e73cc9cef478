package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/domain/failure"
	"github.com/touchstone-platform/touchstone/processors"
)

// stationFunc is a station made of a function.
type stationFunc func(state any, rec processors.Record) (processors.Effects, error)

func (f stationFunc) Step(state any, rec processors.Record) (processors.Effects, error) {
	return f(state, rec)
}

// reporting is a station that says something of its own about failures.
type reporting struct{ stationFunc }

func (reporting) Failed(rec processors.Record, cause error) []processors.Emit {
	return []processors.Emit{{Stream: "out", Key: rec.Key, Value: fmt.Sprintf("failed: %v", cause)}}
}

// (i) Every way to fail gives one dead letter with the original record, Kafka
// Connect's headers and ours, and nothing else of the step.
func TestDeadLetters(t *testing.T) {
	w := newWorld(t)
	station := reporting{func(state any, rec processors.Record) (processors.Effects, error) {
		good := processors.Emit{Stream: "out", Key: rec.Key, Value: "half"}
		switch v := rec.Value.(string); v {
		case "error":
			return processors.Effects{State: 1, Emit: []processors.Emit{good}},
				failure.Wrap(failure.Validation, "check field", "email", errors.New("not an address"))
		case "plain":
			return processors.Effects{}, errors.New("no kind")
		case "panic":
			return processors.Effects{}, errors.New(strings.Repeat("x", state.(int)))
		case "state":
			return processors.Effects{State: -1, Emit: []processors.Emit{good}}, nil
		case "emit":
			return processors.Effects{State: 1, Emit: []processors.Emit{good, {Stream: "out", Key: rec.Key, Value: 5}}}, nil
		case "stream":
			return processors.Effects{State: 1, Emit: []processors.Emit{good, {Stream: "elsewhere", Key: rec.Key, Value: "x"}}}, nil
		case "large":
			return processors.Effects{State: 1, Emit: []processors.Emit{good, {Stream: "out", Key: rec.Key, Value: strings.Repeat("x", 2000)}}}, nil
		}
		return processors.Effects{Emit: []processors.Emit{good}}, nil
	}}
	cfg := w.config(t.TempDir())
	cfg.MaxRecordBytes = 1500
	w.start(cfg, func(e *Engine) {
		err := e.AddProcessor(Processor{
			Group: "counter", Name: "tester", Station: station, Table: intCodec{}, DeadLetters: "dead",
			Inputs: []Edge{{"in", pickyCodec{}}}, Outputs: []Edge{{"out", pickyCodec{}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	cases := []struct{ value, kind, stage, exception, message string }{
		{"undecodable", "Poison", "VALUE_CONVERTER", "*errors.errorString", "decode record of in: cannot read this"},
		{"codec-panic", "Poison", "VALUE_CONVERTER", "panic", "panic in tester codec-panic: codec went wrong"},
		{"error", "Validation", "TRANSFORMATION", "*errors.errorString", "check field email: not an address"},
		{"plain", "Poison", "TRANSFORMATION", "*errors.errorString", "no kind"},
		{"panic", "Poison", "TRANSFORMATION", "panic", "panic in tester panic: interface conversion: interface {} is nil, not int"},
		{"state", "Poison", "KAFKA_PRODUCE", "*fmt.wrapError", ""},
		{"emit", "Poison", "KAFKA_PRODUCE", "", "encode record for out: int is no text"},
		{"stream", "Poison", "KAFKA_PRODUCE", "", "emit to elsewhere: not an output of group counter"},
		{"large", "Validation", "KAFKA_PRODUCE", "", "record for out: 2069 bytes, expected at most 1500"},
	}
	var rs []*kgo.Record
	for _, c := range cases {
		rs = append(rs, &kgo.Record{Topic: "in", Key: []byte(c.value), Value: []byte(c.value), Headers: []kgo.RecordHeader{
			{Key: "correlationid", Value: []byte("corr-" + c.value)},
			{Key: HeaderSource, Value: []byte("crm")},
			{Key: HeaderFailureAttempt, Value: []byte("2")},
		}})
	}
	if err := w.cl.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var dead map[string]Record
	eventually(t, "dead letters", func() error {
		dead = map[string]Record{}
		all := w.read("dead")
		for _, r := range all {
			dead[string(r.Key)] = r
		}
		if len(all) != len(cases) {
			return fmt.Errorf("%d dead letters", len(all))
		}
		return nil
	})
	origin := map[string]Record{}
	for _, r := range w.read("in") {
		origin[string(r.Key)] = r
	}
	for _, c := range cases {
		d, o := dead[c.value], origin[c.value]
		if string(d.Value) != c.value {
			t.Errorf("%s: value %q", c.value, d.Value)
		}
		want := map[string]string{
			HeaderErrorTopic: "in", HeaderErrorPartition: strconv.Itoa(int(o.Partition)), HeaderErrorOffset: strconv.FormatInt(o.Offset, 10),
			HeaderErrorConnector: "counter", HeaderErrorTask: strconv.Itoa(int(o.Partition)), HeaderErrorStage: c.stage,
			HeaderFailureKind: c.kind, HeaderFailureAttempt: "3", HeaderStation: "tester",
			HeaderSource: "crm", "correlationid": "corr-" + c.value,
		}
		if c.message != "" {
			want[HeaderErrorMessage] = c.message
		}
		if c.exception == "panic" {
			want[HeaderErrorException] = c.exception
		}
		for h, v := range want {
			if got := string(d.Headers[h]); got != v {
				t.Errorf("%s: header %s is %q, expected %q", c.value, h, got, v)
			}
		}
		if _, err := time.Parse(time.RFC3339, string(d.Headers[HeaderFailureAt])); err != nil {
			t.Errorf("%s: %v", c.value, err)
		}
		if c.exception == "panic" && !strings.Contains(string(d.Headers[HeaderErrorStacktrace]), ".go:") {
			t.Errorf("%s: stack %q", c.value, d.Headers[HeaderErrorStacktrace])
		}
		if len(d.Headers[HeaderErrorClass]) == 0 {
			t.Errorf("%s: no class name", c.value)
		}
	}
	// The reports are there, and no half of a step.
	reports := map[string]bool{}
	for _, r := range w.read("out") {
		if !strings.HasPrefix(string(r.Value), "failed: ") {
			t.Errorf("%s: %q was emitted by a step that failed", r.Key, r.Value)
		}
		reports[string(r.Key)] = true
	}
	if len(reports) != len(cases) {
		t.Errorf("%d reports, expected %d", len(reports), len(cases))
	}
	if rs := w.read("counter-table"); len(rs) != 0 {
		t.Errorf("%d records in the changelog, expected none", len(rs))
	}
}

// pickyCodec is text, with words that it cannot take.
type pickyCodec struct{}

func (pickyCodec) Encode(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("%T is no text", v)
	}
	return []byte(s), nil
}

func (pickyCodec) Decode(b []byte) (any, error) {
	switch string(b) {
	case "undecodable":
		return nil, errors.New("cannot read this")
	case "codec-panic":
		panic("codec went wrong")
	}
	return string(b), nil
}

// A record that the broker refuses for good makes its input a dead letter
// instead of holding up the partition.
func TestRefusedOutputIsDeadLetter(t *testing.T) {
	w := newWorld(t)
	w.refuseLarge("out", 3000)
	cfg := w.config(t.TempDir())
	cfg.ClientOptions = []kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression())}
	w.start(cfg, func(e *Engine) {
		if err := e.AddProcessor(Processor{Group: "copy", Inputs: []Edge{{"in", textCodec{}}}, Outputs: []Edge{{"out", textCodec{}}}, DeadLetters: "dead",
			Station: stationFunc(func(_ any, rec processors.Record) (processors.Effects, error) {
				return processors.Effects{Emit: []processors.Emit{{Stream: "out", Key: rec.Key, Value: rec.Value}}}, nil
			})}); err != nil {
			t.Fatal(err)
		}
	})
	big := strings.Repeat("x", 5000)
	for i, v := range []string{"small", big, "small", "small", big, "small"} {
		if err := w.cl.ProduceSync(context.Background(), &kgo.Record{Topic: "in", Key: []byte("k"), Value: []byte(v + strconv.Itoa(i))}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "four copies and two dead letters", func() error {
		out, dead := w.read("out"), w.read("dead")
		if len(out) != 4 || len(dead) != 2 {
			return fmt.Errorf("%d copies, %d dead letters", len(out), len(dead))
		}
		return nil
	})
	for _, r := range w.read("dead") {
		if len(r.Value) != len(big)+1 || !strings.Contains(string(r.Headers[HeaderErrorMessage]), "MESSAGE_TOO_LARGE") {
			t.Errorf("dead letter of %d bytes: %s", len(r.Value), r.Headers[HeaderErrorMessage])
		}
	}
}

// The state of a key follows the partition of its input, however that was
// chosen, so that recovery finds it.
func TestForeignPartitioning(t *testing.T) {
	w := newWorld(t)
	manual, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer manual.Close()
	foreign := (Partition("k", testPartitions) + 1) % testPartitions
	add := func(n int) {
		for i := range n {
			if err := manual.ProduceSync(context.Background(), &kgo.Record{Topic: "in", Partition: foreign, Key: []byte("k"), Value: []byte(strconv.Itoa(i))}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(n int) {
		eventually(t, "counts", func() error {
			rs := w.read("out")
			if len(rs) != n || string(rs[n-1].Value) != strconv.Itoa(n) {
				return fmt.Errorf("%d counts", len(rs))
			}
			return nil
		})
	}
	add(3)
	e := w.startCounter(w.config(t.TempDir()), &counter{})
	expect(3)
	e.stop()
	add(2)
	w.startCounter(w.config(t.TempDir()), &counter{})
	expect(5)
}

// (j) A table with a retention forgets: an expired entry reads as absent by
// the time of the record that asks, and leaves local state bit by bit.
func TestRetention(t *testing.T) {
	w := newWorld(t)
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := w.start(w.config(t.TempDir()), func(e *Engine) {
		spec := Processor{
			Group: "counter", DeadLetters: "dead", Table: textCodec{}, Inputs: []Edge{{"in", textCodec{}}}, Outputs: []Edge{{"out", textCodec{}}},
			Retention: &Retention{Window: time.Hour, Since: func(v any) envelope.Instant {
				n, err := strconv.ParseInt(v.(string), 10, 64)
				if err != nil {
					t.Errorf("state %v", v)
				}
				return envelope.Instant(n)
			}},
			Station: stationFunc(func(state any, rec processors.Record) (processors.Effects, error) {
				if state != nil {
					return processors.Effects{Emit: []processors.Emit{{Stream: "out", Key: rec.Key, Value: "duplicate"}}}, nil
				}
				return processors.Effects{State: strconv.FormatInt(int64(rec.Time), 10), Emit: []processors.Emit{{Stream: "out", Key: rec.Key, Value: "new"}}}, nil
			}),
		}
		if err := e.AddProcessor(spec); err != nil {
			t.Fatal(err)
		}
	})
	send := func(key string, at time.Duration) {
		r := &kgo.Record{Topic: "in", Key: []byte(key), Value: []byte("x"), Timestamp: t0.Add(at)}
		if err := w.cl.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	send("a", 0)
	send("a", 59*time.Minute)
	send("a", 61*time.Minute) // new again
	send("a", 62*time.Minute)
	for i := range 200 {
		send("old-"+strconv.Itoa(i), 2*time.Hour)
	}
	eventually(t, "all records", func() error {
		if n := len(w.read("out")); n != 204 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	var seen []string
	for _, r := range w.read("out") {
		if string(r.Key) == "a" {
			seen = append(seen, string(r.Value))
		}
	}
	if got := strings.Join(seen, " "); got != "new duplicate new duplicate" {
		t.Errorf("got %s", got)
	}
	// Records of later times come by in every partition: what is old goes.
	i := 0
	eventually(t, "expired entries to go", func() error {
		for p := range int32(testPartitions) {
			for ; Partition("later-"+strconv.Itoa(i), testPartitions) != p; i++ {
			}
			send("later-"+strconv.Itoa(i), 4*time.Hour+time.Duration(i)*time.Second)
			i++
		}
		left := 0
		for p := range int32(testPartitions) {
			st := newStore(&image{db: e.db.handle(), disk: e.db.disk, ks: newKeyspace(kindTable, "counter-table", p)}, nil, nil)
			it, err := st.Iterator()
			if err != nil {
				t.Fatal(err)
			}
			for it.Next() {
				if strings.HasPrefix(string(it.Key()), "old-") {
					left++
				}
			}
			it.Release()
		}
		if left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
}

// flakyCodec cannot reach what it needs for the first few records it reads.
type flakyCodec struct {
	intCodec
	failures *atomic.Int64
}

func (c flakyCodec) Decode(b []byte) (any, error) {
	if c.failures.Add(-1) >= 0 {
		return nil, failure.New(failure.Transient, "look up schema", "7", "the registry does not answer")
	}
	return c.intCodec.Decode(b)
}

// A failure that says it is transient makes no dead letter: the records are
// processed again, and each has its effect exactly once.
func TestTransientFailuresAreTriedAgain(t *testing.T) {
	w := newWorld(t)
	left := &atomic.Int64{}
	left.Store(5)
	spec := counterSpec(&counter{})
	spec.Inputs[0].Codec = flakyCodec{failures: left}
	e := w.start(w.config(t.TempDir()), func(e *Engine) {
		if err := e.AddProcessor(spec); err != nil {
			t.Fatal(err)
		}
	})
	w.feed(0, 200, 20)
	w.eventuallyAudit(200, 20)
	if n := len(w.read("dead")); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	if g := e.group(); g.Aborts == 0 || left.Load() >= 0 {
		t.Errorf("nothing was tried again: %+v", g)
	}
}

// A step may succeed and still keep its input as a dead letter.
func TestKeptAndFlagged(t *testing.T) {
	w := newWorld(t)
	station := stationFunc(func(_ any, rec processors.Record) (processors.Effects, error) {
		return processors.Effects{
			Emit:       []processors.Emit{{Stream: "out", Key: rec.Key, Value: "done"}},
			DeadLetter: failure.New(failure.Conflict, "deduplicate", rec.Key, "seen with another body"),
		}, nil
	})
	w.start(w.config(t.TempDir()), func(e *Engine) {
		err := e.AddProcessor(Processor{Group: "counter", Station: station, DeadLetters: "dead", Inputs: []Edge{{"in", textCodec{}}}, Outputs: []Edge{{"out", textCodec{}}}})
		if err != nil {
			t.Fatal(err)
		}
	})
	w.send("in", "k", "body")
	eventually(t, "output and dead letter", func() error {
		out, dead := w.read("out"), w.read("dead")
		if len(out) != 1 || len(dead) != 1 {
			return fmt.Errorf("%d outputs, %d dead letters", len(out), len(dead))
		}
		if string(dead[0].Value) != "body" || string(dead[0].Headers[HeaderFailureKind]) != "Conflict" {
			return fmt.Errorf("dead letter %+v", dead[0])
		}
		return nil
	})
}
