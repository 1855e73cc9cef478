package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// marker is the topic that says that a cluster belongs to tests.
const marker = "touchstone-tests-may-delete-everything-here"

// claim makes sure that a cluster of others may be wiped.
func (c *Cluster) claim() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	topics, err := c.adm.ListTopics(ctx)
	if err != nil {
		return err
	}
	if topics.Has(marker) {
		return nil
	}
	if len(topics) > 0 {
		return fmt.Errorf("the tests delete every topic, and this cluster has topics that are not theirs (%s): give them an empty one, or create the topic %s in it",
			strings.Join(topics.Names(), ", "), marker)
	}
	_, err = c.adm.CreateTopic(ctx, 1, -1, nil, marker)
	return err
}

// Reset gives a test the cluster as if it were new: all topics and groups of
// the tests before are deleted, and every broker knows it.
func (c *Cluster) Reset(t testing.TB) {
	t.Helper()
	must(t, c.Clear())
}

// Clear deletes all groups, and all topics but those to keep, and waits until
// every broker knows it.
func (c *Cluster) Clear(keep ...string) error {
	err := await(60*time.Second, func(ctx context.Context) error {
		topics, err := c.adm.ListTopics(ctx)
		if err != nil {
			return err
		}
		names := slices.DeleteFunc(topics.Names(), func(n string) bool { return n == marker || slices.Contains(keep, n) })
		if err := c.deleteTopics(ctx, names); err != nil {
			return err
		}
		return c.deleteGroups(ctx)
	})
	if err != nil {
		return fmt.Errorf("clear the cluster: %w\n%s", err, c.Excerpt())
	}
	return nil
}

func (c *Cluster) deleteTopics(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	c.cl.PurgeTopicsFromClient(names...) // it remembers their ids
	res, err := c.adm.DeleteTopics(ctx, names...)
	if err != nil {
		return err
	}
	for _, r := range res {
		if r.Err != nil && !errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("delete topic %s: %w", r.Topic, r.Err)
		}
	}
	return c.everywhere(ctx, names, func(broker int32, have map[string]kmsg.MetadataResponseTopic) error {
		for name := range have {
			return fmt.Errorf("broker %d still knows topic %s", broker, name)
		}
		return nil
	})
}

// everywhere asks every broker by itself what it knows of topics.
func (c *Cluster) everywhere(ctx context.Context, topics []string, check func(broker int32, have map[string]kmsg.MetadataResponseTopic) error) error {
	brokers, err := c.adm.ListBrokers(ctx)
	if err != nil {
		return err
	}
	for _, b := range brokers {
		req := kmsg.NewPtrMetadataRequest()
		for _, name := range topics {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = kmsg.StringPtr(name)
			req.Topics = append(req.Topics, rt)
		}
		resp, err := c.cl.Broker(int(b.NodeID)).RetriableRequest(ctx, req)
		if err != nil {
			return fmt.Errorf("broker %d: %w", b.NodeID, err)
		}
		have := map[string]kmsg.MetadataResponseTopic{}
		for _, d := range resp.(*kmsg.MetadataResponse).Topics {
			if d.Topic != nil && d.ErrorCode == 0 {
				have[*d.Topic] = d
			}
		}
		if err := check(b.NodeID, have); err != nil {
			return err
		}
	}
	return nil
}

// deleteGroups deletes all groups. Members that a test left behind, as a
// killed process does, are removed first.
func (c *Cluster) deleteGroups(ctx context.Context) error {
	groups, err := c.adm.ListGroups(ctx)
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		return nil
	}
	described, err := c.adm.DescribeGroups(ctx, groups.Groups()...)
	if err != nil {
		return err
	}
	for _, g := range described {
		for _, m := range g.Members {
			if m.InstanceID == nil {
				continue // it leaves when it is closed, or times out
			}
			if _, err := c.adm.LeaveGroup(ctx, kadm.LeaveGroup(g.Group).InstanceIDs(*m.InstanceID)); err != nil {
				return fmt.Errorf("remove %s from group %s: %w", *m.InstanceID, g.Group, err)
			}
		}
	}
	res, err := c.adm.DeleteGroups(ctx, groups.Groups()...)
	if err != nil {
		return err
	}
	for _, r := range res {
		if r.Err != nil && !errors.Is(r.Err, kerr.GroupIDNotFound) {
			return fmt.Errorf("delete group %s: %w", r.Group, r.Err)
		}
	}
	return nil
}

// CreateTopics creates topics with the cluster's replication and waits until
// every broker knows them and their leaders.
func (c *Cluster) CreateTopics(t testing.TB, partitions int32, names ...string) {
	t.Helper()
	must(t, c.Create(partitions, nil, names...))
}

// Create is CreateTopics for programs, with configurations by Kafka's names.
func (c *Cluster) Create(partitions int32, configs map[string]string, names ...string) error {
	given := make(map[string]*string, len(configs))
	for name, v := range configs {
		given[name] = &v
	}
	err := await(60*time.Second, func(ctx context.Context) error {
		res, err := c.adm.CreateTopics(ctx, partitions, -1, given, names...)
		if err != nil {
			return err
		}
		for _, r := range res {
			if r.Err != nil && !errors.Is(r.Err, kerr.TopicAlreadyExists) {
				return fmt.Errorf("create topic %s: %w", r.Topic, r.Err)
			}
		}
		return c.everywhere(ctx, names, func(broker int32, have map[string]kmsg.MetadataResponseTopic) error {
			for _, name := range names {
				if n := len(have[name].Partitions); n != int(partitions) {
					return fmt.Errorf("broker %d knows %d of %d partitions of topic %s", broker, n, partitions, name)
				}
				for _, p := range have[name].Partitions {
					if p.Leader < 0 || p.ErrorCode != 0 {
						return fmt.Errorf("broker %d knows no leader of %s/%d: %w", broker, name, p.Partition, kerr.ErrorForCode(p.ErrorCode))
					}
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("create topics: %w\n%s", err, c.Excerpt())
	}
	return nil
}

// DeleteTopics deletes topics and waits until no broker knows them.
func (c *Cluster) DeleteTopics(t testing.TB, names ...string) {
	t.Helper()
	must(t, c.Delete(names...))
}

// Delete is DeleteTopics for programs.
func (c *Cluster) Delete(names ...string) error {
	if err := await(60*time.Second, func(ctx context.Context) error { return c.deleteTopics(ctx, names) }); err != nil {
		return fmt.Errorf("delete topics: %w\n%s", err, c.Excerpt())
	}
	return nil
}
