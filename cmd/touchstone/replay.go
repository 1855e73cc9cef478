package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newReplay(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "replay",
		Short: "Have a station read a part of its input again, and tell what changed",
		Long: `Have a station read a part of its input again while the rest goes on. The
processes that run the station carry it out, each for the partitions that it
owns and within its transactions: the group's position stays where it is, every
effect is exactly once, and a process that dies in the middle is followed by one
that goes on where it stopped. What was merged before changes nothing, so a
replay of it ends with no change and no event.

--from is "earliest", an RFC 3339 timestamp, or PARTITION:OFFSET[,…], which reads
the partitions that are named only. --to has the same forms, is not included, and
is by default where the station stands now. --key takes the records of one key
of the station's input. touchstone describe names stations and their inputs.

--dry-run takes the same steps on a copy of the station's table and tells what
would change, without writing anything; the stations behind it are then not
asked.

Progress goes to standard error. Interrupting the command leaves the replay
under way: --follow ID tells of it again, --cancel ID ends it. The exit code is 6
if records failed and became dead letters, 2 if a position is not in the log, 3 if
there is no such station or replay.`,
		Example: `  touchstone replay --station merge --domain customer-management --from earliest --dry-run
  touchstone replay --station inbox --domain order-fulfilment --from 2026-01-31T12:00:00Z
  touchstone replay --station order-fulfilment.merge --from 0:1200,3:900 --to 0:1300 --key default/order/4711`,
		Args: noArguments,
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	var q client.ReplayQuery
	var key, follow, cancel string
	c.Flags().StringVar(&q.Station, "station", "", "station to replay, or its group (see touchstone describe)")
	c.Flags().StringVar(&q.Domain, "domain", "", "domain of the station, if several have one of that name")
	c.Flags().StringVar(&q.From, "from", "", "where to begin: earliest, a timestamp, or PARTITION:OFFSET[,…]")
	c.Flags().StringVar(&q.To, "to", "", "where to end, not included (default: where the station stands)")
	c.Flags().StringVar(&key, "key", "", "take the records of this key only")
	c.Flags().BoolVar(&q.DryRun, "dry-run", false, "tell what would change and write nothing")
	c.Flags().StringVar(&follow, "follow", "", "tell of the replay of this id, which is under way or has ended")
	c.Flags().StringVar(&cancel, "cancel", "", "end the replay of this id; what it has done stays")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := exactlyOne(c, "station", "follow", "cancel"); err != nil {
			return err
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		if c.Flags().Changed("key") {
			q.Key = &key
		}
		var x *client.Replay
		switch {
		case cancel != "":
			x, err = api.CancelReplay(c.Context(), cancel)
		case follow != "":
			x, err = api.Replay(c.Context(), follow, 0)
		case q.From == "":
			return usage("--from: found nothing, expected earliest, a timestamp or PARTITION:OFFSET[,…]")
		default:
			x, err = api.StartReplay(c.Context(), q)
		}
		if err != nil {
			return err
		}
		if x, err = e.followReplay(c.Context(), api, x); err != nil {
			return err
		}
		if err := e.printer(out).print(x, func(p printer) error { return tellReplay(p, x) }); err != nil {
			return err
		}
		return replayResult(x)
	}
	return c
}

// progressEvery is how often progress is asked for.
const progressEvery = time.Second

// followReplay tells how a replay goes until it has ended.
func (e env) followReplay(ctx context.Context, api *client.Client, x *client.Replay) (*client.Replay, error) {
	for !x.Ended() {
		what := fmt.Sprintf("%d of %d offsets read", x.Read, x.Total)
		if x.State == "settling" {
			what += ", the stations behind are still busy with what followed"
		}
		fmt.Fprintf(e.Stderr, "replay %s of %s: %s\n", x.ID, x.Group, what)
		next, err := api.Replay(ctx, x.ID, progressEvery)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				fmt.Fprintf(e.Stderr, "the replay goes on: touchstone replay --follow %s tells of it, --cancel %s ends it\n", x.ID, x.ID)
			}
			return nil, err
		}
		x = next
	}
	return x, nil
}

func replayResult(x *client.Replay) error {
	if x.State == "failed" {
		return &exitError{code: exitFailure, err: fmt.Errorf("replay %s failed: %s", x.ID, x.Error)}
	}
	var dead int64
	for _, s := range x.Stations {
		dead += s.DeadLetters
	}
	if dead > 0 {
		return &exitError{code: exitDiffers, err: fmt.Errorf("%s of the replay failed; touchstone dlq list shows why", count(dead, "record"))}
	}
	return nil
}

func tellReplay(p printer, x *client.Replay) error {
	verb := "read again"
	if x.DryRun {
		verb = "read on trial, nothing was written"
	}
	if x.State == "cancelled" {
		verb += ", then cancelled"
	}
	if err := p.printf("replay %s of %s: %s, %s\n", x.ID, x.Group, verb, count(x.Read, "offset")); err != nil {
		return err
	}
	parts := table{indent: "  ", header: []string{"PARTITION", "FROM", "TO", "REACHED"}}
	for _, r := range x.Parts {
		parts.add(fmt.Sprintf("%s/%d", r.Topic, r.Partition), num(r.From), num(r.To), num(r.Next))
	}
	if err := parts.write(p); err != nil {
		return err
	}
	t := table{indent: "  ", header: []string{"STATION", "RECORDS", "CHANGES", "NO-CHANGE", "DUPLICATES", "DEAD-LETTERS", "EVENTS", "TABLE"}}
	for _, s := range x.Stations {
		t.add(s.Station, num(s.Records), num(s.Changes), num(s.NoChange), num(s.Duplicates), num(s.DeadLetters), num(s.Events), num(s.State))
	}
	if err := t.write(p); err != nil {
		return err
	}
	for _, f := range x.Failures {
		if err := p.printf("  failed: %s\n", f); err != nil {
			return err
		}
	}
	for _, s := range x.Unsettled {
		if err := p.printf("  no process runs station %s: what it will make of this is not known yet\n", s); err != nil {
			return err
		}
	}
	would := "changed"
	if x.DryRun {
		would = "would change at this station"
	}
	if x.Changes == 0 && x.Events == 0 {
		return p.printf("nothing %s: no change of canonical state, no event\n", would)
	}
	return p.printf("%s: %s of canonical state, %s\n", would, count(x.Changes, "change"), count(x.Events, "event"))
}

func num(n int64) string { return strconv.FormatInt(n, 10) }
