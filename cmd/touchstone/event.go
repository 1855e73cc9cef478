package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/touchstone-platform/touchstone/internal/client"
)

func newEvent(e env) *cobra.Command {
	return group("event", "Follow the public domain events", newEventTail(e))
}

func newEventTail(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "tail",
		Short: "Print public domain events as they are published",
		Long: `Print public domain events as they are published, one line each, until
interrupted. With -o json each line is the CloudEvent. --after goes on behind a
position; when the stream breaks off, standard error gives the last one.`,
		Example: `  touchstone event tail --domain customer-management
  touchstone event tail --type CustomerActivated -o json | jq .data`,
		Args: noArguments,
	}
	r, out := serverFlags(e, c), outputFlag(c, "table", "json")
	var q client.EventQuery
	c.Flags().StringVar(&q.Domain, "domain", "", "only of this domain")
	c.Flags().StringVar(&q.Resource, "resource", "", "only of this resource")
	c.Flags().StringVar(&q.Type, "type", "", "only of this type")
	c.Flags().StringVar(&q.After, "after", "", "begin behind this position (default: now)")
	limit := c.Flags().Int("limit", 0, "end after so many events (default: never)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *limit < 0 {
			return usage("--limit: found %d, expected 0 or more", *limit)
		}
		api, err := r.client()
		if err != nil {
			return err
		}
		s, err := api.Events(c.Context(), q)
		if err != nil {
			return err
		}
		defer s.Close()
		p := e.printer(out)
		for n, last := 1, q.After; ; n++ {
			x, err := s.Next()
			if errors.Is(err, context.Canceled) {
				return nil // interrupted, which is how an endless output ends
			}
			if err != nil {
				hint := "no event had come"
				if last != "" {
					hint = "go on with --after " + printable(last)
				}
				return &exitError{code: codeOf(err), err: err, hint: hint}
			}
			last = x.Position
			if err := tellEvent(p, x); err != nil {
				return err
			}
			if n == *limit {
				return nil
			}
		}
	}
	return c
}

func tellEvent(p printer, x client.StreamEvent) error {
	var line bytes.Buffer
	if err := json.Compact(&line, x.CloudEvent); err != nil {
		return fmt.Errorf("event at %s: %w", x.Position, err)
	}
	if p.form == "json" {
		line.WriteByte('\n')
		_, err := p.w.Write(line.Bytes())
		return err
	}
	var ce struct {
		ID      string `json:"id"`
		Source  string `json:"source"`
		Subject string `json:"subject"`
		Time    string `json:"time"`
	}
	if err := json.Unmarshal(line.Bytes(), &ce); err != nil {
		return fmt.Errorf("event at %s: %w", x.Position, err)
	}
	return p.printf("%s  %s  %s %s  %s\n", orDash(ce.Time), x.Type, path.Base(ce.Source), orDash(ce.Subject), ce.ID)
}
