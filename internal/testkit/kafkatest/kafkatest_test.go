//go:build kafka

package kafkatest

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Oracle: what was acknowledged before a broker is killed, or paused, is there
// when it is back; a reset leaves nothing of a test to the next.
func TestCluster(t *testing.T) {
	c, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Failed()) }) // a defer would come before the clean-ups that resume brokers
	r, err := StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := t.Context()
	for range 2 {
		c.Reset(t)
		if _, err := c.adm.CreateTopic(ctx, 2, -1, nil, "a"); err != nil {
			t.Fatal(err)
		}
		if err := c.cl.ProduceSync(ctx, &kgo.Record{Topic: "a", Value: []byte("1")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if c.Size() > 0 {
			c.Kill(t, 0)
			c.Restart(t)
			c.Pause(t, 0)
			c.Resume(t, 0)
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.ConsumeTopics("a"), kgo.ConsumerGroup("g"))
		if err != nil {
			t.Fatal(err)
		}
		if fs := cl.PollFetches(ctx); fs.NumRecords() != 1 || fs.Err() != nil {
			t.Errorf("%d records, %v", fs.NumRecords(), fs.Err())
		}
		if err := cl.CommitUncommittedOffsets(context.Background()); err != nil {
			t.Error(err)
		}
		cl.Close()
	}
	c.Reset(t)
	if groups, err := c.adm.ListGroups(ctx); err != nil || len(groups) != 0 {
		t.Errorf("groups %v, %v", groups, err)
	}
}
