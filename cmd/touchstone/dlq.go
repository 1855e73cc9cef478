package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/domain/envelope"
	"github.com/touchstone-platform/touchstone/internal/client"
)

func newDLQ(e env) *cobra.Command {
	return group("dlq", "Dead letters: records that a station could not handle", newDLQList(e), newDLQShow(e), newDLQRedrive(e))
}

// letterFlags adds the filters of dead letters.
func letterFlags(c *cobra.Command) *client.LetterQuery {
	q := &client.LetterQuery{}
	c.Flags().StringVar(&q.Domain, "domain", "", "only of this domain")
	c.Flags().StringVar(&q.Reason, "reason", "", "only of this kind of failure: Validation, Poison, Conflict, …")
	c.Flags().StringVar(&q.Station, "station", "", "only of this station")
	c.Flags().StringVar(&q.Source, "source", "", "only of this source")
	c.Flags().StringVar(&q.Key, "key", "", "only of this record key")
	return q
}

func newDLQList(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the newest first",
		Long: `List dead letters, the newest first, one page of them; where there are more,
standard error says how to get the next page. A letter is open, redriven (it was
tried again, and is under way or has become a new letter) or resolved (it was
redriven, or read again by a replay, and went through).`,
		Example: `  touchstone dlq list --state open
  touchstone dlq list --station inbox --source crm --reason Validation -o json`,
		Args: noArguments,
	}
	r, out, q := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), letterFlags(c)
	c.Flags().StringVar(&q.State, "state", "", "only those that are open, redriven or resolved")
	c.Flags().IntVar(&q.Limit, "limit", 0, "letters in the page (default: the server's)")
	c.Flags().StringVar(&q.Cursor, "cursor", "", "begin at the page of this cursor")
	c.RunE = func(c *cobra.Command, _ []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		page, err := api.Letters(c.Context(), *q)
		if err != nil {
			return err
		}
		if err := e.printer(out).print(page, func(p printer) error { return tellLetters(p, page.Items) }); err != nil {
			return err
		}
		if page.Cursor != "" && out.value == "table" {
			fmt.Fprintf(e.Stderr, "there are more: --cursor %s\n", printable(page.Cursor))
		}
		return nil
	}
	return c
}

func tellLetters(p printer, letters []*client.Letter) error {
	t := table{header: []string{"LETTER", "AT", "STATE", "TRY", "STATION", "SOURCE", "REASON", "KEY", "MESSAGE"}}
	for _, l := range letters {
		t.add(l.ID, at(envelope.At(l.At)), l.State, strconv.Itoa(l.Attempt), l.Station, orDash(l.Source), string(l.Reason), short(l.Key), short(l.Message))
	}
	return t.write(p)
}

// short cuts a text for a table.
func short(s string) string {
	if r := []rune(s); len(r) > valueWidth {
		return string(r[:valueWidth-1]) + "…"
	}
	return s
}

func newDLQShow(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "show LETTER",
		Short: "Show a dead letter: its reason, headers and record",
		Long: `Show a dead letter: why and where it failed, what became of it, its headers, and
the record, decoded as the station would see it where that can be done, and as it
came otherwise.`,
		Example: `  touchstone dlq show customer-management:2:17`,
		Args:    arguments("LETTER"),
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := r.client()
		if err != nil {
			return err
		}
		l, err := api.Letter(c.Context(), args[0])
		if err != nil {
			return err
		}
		return e.printer(out).print(l, func(p printer) error { return tellLetter(p, l) })
	}
	return c
}

func tellLetter(p printer, l *client.Letter) error {
	if err := p.printf("dead letter %s\n", l.ID); err != nil {
		return err
	}
	t := table{indent: "  "}
	state := l.State
	if l.Detail != "" {
		state += ": " + l.Detail
	}
	for _, row := range [][2]string{
		{"state", state}, {"reason", string(l.Reason)}, {"message", l.Message}, {"station", l.Group}, {"stage", l.Stage}, {"source", l.Source},
		{"record", fmt.Sprintf("%s/%d@%d, key %s", l.Topic, l.Partition, l.Offset, l.Key)}, {"failed at", at(envelope.At(l.At))}, {"attempt", strconv.Itoa(l.Attempt)},
		{"letter before", l.Previous}, {"latest letter", l.Next}, {"in replay", l.Replay},
	} {
		if row[1] != "" {
			t.add(row[0], row[1])
		}
	}
	if err := t.write(p); err != nil {
		return err
	}
	if err := p.printf("headers\n"); err != nil {
		return err
	}
	headers := table{indent: "  "}
	for _, k := range slices.Sorted(maps.Keys(l.Headers)) {
		headers.add(k, l.Headers[k])
	}
	if err := headers.write(p); err != nil {
		return err
	}
	return tellRecord(p, l)
}

// tellRecord prints the record of a letter in the most readable form there is.
func tellRecord(p printer, l *client.Letter) error {
	switch {
	case l.ValueOmitted:
		return p.printf("the record was too large for the letter; it stands at %s/%d@%d\n", l.Topic, l.Partition, l.Offset)
	case l.Content == nil:
		return p.printf("%s\n", "the record is a tombstone")
	case l.Decoded != nil:
		var b bytes.Buffer
		if err := json.Indent(&b, l.Decoded, "  ", "  "); err != nil {
			return err
		}
		if err := p.printf("record\n  "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.w, printableLines(b.String()))
		return err
	}
	if err := p.printf("record of %s, which cannot be decoded: %s\n", count(l.Bytes, "byte"), l.DecodeError); err != nil {
		return err
	}
	if l.Content.Base64 != nil {
		return p.printf("  %x\n", l.Content.Base64)
	}
	_, err := fmt.Fprintln(p.w, "  "+printableLines(string(l.Content.Bytes())))
	return err
}

func newDLQRedrive(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "redrive [LETTER...]",
		Short: "Have stations try dead letters again",
		Long: `Send dead letters back to the stations that they failed at: those that are named,
or with --all every open one that the filters select. The record is tried again
under its own identity, so whatever follows from it is what would have followed at
first, once; a letter can be redriven once, also by several people at the same
moment. A record that fails again is a new letter with one attempt more. One that
was tried five times is refused unless --force is given.

The exit code is 6 if any of them failed again or could not be sent back.`,
		Example: `  touchstone dlq redrive customer-management:2:17
  touchstone dlq redrive --all --station inbox --source crm --reason Validation`,
		Args: func(*cobra.Command, []string) error { return nil },
	}
	r, out, q := serverFlags(e, c), outputFlag(c, "table", "json", "yaml"), letterFlags(c)
	all := c.Flags().Bool("all", false, "every open letter that the filters select")
	force := c.Flags().Bool("force", false, "also those that were tried too often")
	wait := c.Flags().Duration("wait", 30*time.Second, "how long to wait for what comes of each")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all == (len(args) > 0) {
			return usage("found %s and --all=%v, expected letters or --all", count(len(args), "letter"), *all)
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		if *all {
			if args, err = openLetters(c, api, *q); err != nil {
				return err
			}
		}
		done := []*client.Letter{}
		var failed int
		for _, id := range args {
			l, err := api.Redrive(c.Context(), id, *force, *wait)
			if err != nil {
				if len(args) == 1 || client.ProblemCode(err) != "conflict" {
					return err
				}
				fmt.Fprintf(e.Stderr, "%s: %s\n", printable(id), printable(err.Error()))
				failed++
				continue
			}
			if l.State != "resolved" {
				failed++
			}
			done = append(done, l)
			fmt.Fprintf(e.Stderr, "%d of %d: %s is %s\n", len(done), len(args), l.ID, l.State)
		}
		if err := e.printer(out).print(map[string]any{"items": done}, func(p printer) error {
			t := table{header: []string{"LETTER", "STATE", "TRY", "DETAIL"}}
			for _, l := range done {
				t.add(l.ID, l.State, strconv.Itoa(l.Attempt+1), orDash(l.Detail))
			}
			return t.write(p)
		}); err != nil {
			return err
		}
		if failed > 0 {
			return &exitError{code: exitDiffers, err: fmt.Errorf("%d of %s not resolved", failed, count(len(args), "letter"))}
		}
		return nil
	}
	return c
}

// openLetters gives the ids of all open letters of a query, the oldest first:
// what came first is tried first.
func openLetters(c *cobra.Command, api *client.Client, q client.LetterQuery) ([]string, error) {
	q.State, q.Limit = "open", 500
	var ids []string
	for {
		page, err := api.Letters(c.Context(), q)
		if err != nil {
			return nil, err
		}
		for _, l := range page.Items {
			ids = append(ids, l.ID)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			slices.Reverse(ids)
			return ids, nil
		}
	}
}
