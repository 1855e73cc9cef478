package app

import (
	"context"
	"time"

	"github.com/touchstone-platform/touchstone/api"
	"github.com/touchstone-platform/touchstone/domain/definition"
	"github.com/touchstone-platform/touchstone/domain/event"
	"github.com/touchstone-platform/touchstone/internal/engine"
	"github.com/touchstone-platform/touchstone/topology"
)

// missing lists what the process still waits for.
func (a *App) missing() []string { return lines(a.engine.Ready()) }

// stats gives the counters of the moment.
func (a *App) stats() api.Stats {
	s := api.Stats{Topics: map[string]api.TopicStats{}, Groups: map[string]api.GroupStats{}, Tables: map[string]api.TableStats{}, Views: map[string]api.ViewStats{}, Sources: map[string]api.SourceStats{}}
	status := a.engine.Status()
	for _, g := range status.Groups {
		x := api.GroupStats{In: g.Records, DeadLetters: g.DeadLetters, Running: g.Recovered}
		for topic, n := range g.Emitted {
			x.Out += n
			s.Topics[topic] = api.TopicStats{Records: s.Topics[topic].Records + n}
		}
		for _, p := range g.Partitions {
			if p.Position >= 0 { // else nothing was committed since the assignment
				x.Lag += max(p.Lag, 0)
			}
		}
		s.Groups[g.Group] = x
	}
	for _, t := range status.Tables {
		s.Tables[t.Table] = tableStats(t)
	}
	for _, v := range status.Views {
		lag := api.LagOf(v.Lag)
		s.Views[v.View] = api.ViewStats{Ready: v.Ready, Lag: lag.Records, LagSeconds: lag.Seconds}
	}
	for _, i := range a.intakes {
		accepted, refused := i.Counts()
		s.Sources[i.Domain.Name+"."+i.Source.Name] = api.SourceStats{Accepted: accepted, Refused: refused}
		journal := topology.Journal(i.Domain.Name)
		s.Topics[journal] = api.TopicStats{Records: s.Topics[journal].Records + accepted}
	}
	return s
}

// tableStats gives the status of a table as it is served.
func tableStats(t engine.TableStatus) api.TableStats {
	s := api.TableStats{Standby: t.Standby, Partitions: make([]api.TablePartition, 0, len(t.Partitions))}
	for _, p := range t.Partitions {
		x := api.TablePartition{Partition: p.Partition, State: string(p.State), Position: p.Position, End: p.End, Lag: api.LagOf(p.Lag)}
		if r := p.Restore; r != nil {
			x.Restore = &api.RestoreStats{Records: r.Records, Bytes: r.Bytes, Percent: r.Percent, Seconds: r.Took.Seconds(), SecondsLeft: r.Left.Seconds()}
		}
		s.Partitions = append(s.Partitions, x)
	}
	return s
}

// watchChanges passes the changes of a domain on as they are committed, to the
// console and to whoever asked for them. It begins with now: what was is in
// the views.
func (a *App) watchChanges(ctx context.Context, d *definition.Domain) {
	c, err := a.platform.Codec(topology.Changes(d.Name))
	if err != nil {
		a.opts.Log.Error("changes cannot be watched", "domain", d.Name, "error", err)
		return
	}
	decode := decoder[*event.Change](c)
	from := engine.End()
	next := map[int32]int64{}
	for ctx.Err() == nil {
		err := a.engine.Tail(ctx, topology.Changes(d.Name), from, func(r engine.Record) error {
			next[r.Partition] = r.Offset + 1
			change, err := decode(r.Value)
			if err != nil {
				a.opts.Log.Warn("a change could not be read", "domain", d.Name, "partition", r.Partition, "offset", r.Offset, "error", err)
				return nil
			}
			a.changes.Publish(d.Name, change)
			if a.opts.OnChange != nil {
				a.opts.OnChange(d, change)
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		a.opts.Log.Warn("changes are watched again", "domain", d.Name, "error", err)
		if len(next) > 0 {
			from = engine.Offsets(next)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
