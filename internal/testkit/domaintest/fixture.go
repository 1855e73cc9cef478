// Package domaintest runs the fixtures of a domain definition: deliveries in,
// canonical entities and domain events out, as text that is compared with a
// golden file. It is what `touchstone domain test` does.
//
// A fixture begins behind the door: signatures are not verified, and no broker
// is needed, because it drives the pure steps of the stations. State is kept
// between them as the bytes that a table would hold.
package domaintest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"
)

// Fixture is a play: what the sources deliver, in order.
type Fixture struct {
	// Domain is the name of the domain.
	Domain string `yaml:"domain"`
	Doc    string `yaml:"doc"`
	// Tenant that the deliveries are for; "default" if empty.
	Tenant string `yaml:"tenant"`
	// Start is when the first delivery is received, if it does not say.
	Start time.Time `yaml:"start"`
	// Deliveries in the order in which they are received.
	Deliveries []Delivery `yaml:"deliveries"`
}

// Delivery is one delivery of a source.
type Delivery struct {
	Doc    string `yaml:"doc"`
	Source string `yaml:"source"`
	// At is when it is received; one second after the one before if zero.
	At time.Time `yaml:"at"`
	// ID is the sender's event id, where the connector would find it in a
	// signed header.
	ID      string            `yaml:"id"`
	Headers map[string]string `yaml:"headers"`
	// ContentType of a delivery over HTTP; JSON if empty.
	ContentType string `yaml:"contentType"`
	// Key of a change, and Body, are YAML that is delivered as JSON; Text is a
	// body that is delivered as it is. Tombstone is a change without a body.
	Key       yaml.Node `yaml:"key"`
	Body      yaml.Node `yaml:"body"`
	Text      string    `yaml:"text"`
	Tombstone bool      `yaml:"tombstone"`
	// File is the name of a file whose content is Text.
	File string `yaml:"file"`
	// Again repeats a delivery by its number, from 1, with the At of this one.
	Again int `yaml:"again"`
}

// defaultStart of fixtures that have none.
var defaultStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Parse reads a fixture from YAML or JSON. file names it in errors.
func Parse(file string, text []byte) (*Fixture, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	f := &Fixture{}
	if err := d.Decode(f); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("found an empty file, expected a fixture")
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if f.Domain == "" {
		return nil, fmt.Errorf("%s: domain: found nothing, expected the name of a domain", file)
	}
	if len(f.Deliveries) == 0 {
		return nil, fmt.Errorf("%s: deliveries: found none, expected at least one", file)
	}
	if f.Start.IsZero() {
		f.Start = defaultStart
	}
	at := f.Start.Add(-time.Second)
	for i := range f.Deliveries {
		x := &f.Deliveries[i]
		if x.At.IsZero() {
			x.At = at.Add(time.Second)
		}
		if !x.At.After(at) {
			return nil, fmt.Errorf("%s: deliveries[%d].at: found %s, expected a time after the delivery before, %s", file, i, x.At.Format(time.RFC3339Nano), at.Format(time.RFC3339Nano))
		}
		at = x.At
		if x.Again != 0 {
			if x.Again < 1 || x.Again > i {
				return nil, fmt.Errorf("%s: deliveries[%d].again: found %d, expected the number of a delivery before it, 1 to %d", file, i, x.Again, i)
			}
			doc, number := x.Doc, x.Again
			*x = f.Deliveries[number-1]
			x.At, x.Doc, x.Again = at, doc, number
			continue
		}
		if x.Source == "" {
			return nil, fmt.Errorf("%s: deliveries[%d].source: found nothing, expected a source of the domain", file, i)
		}
	}
	return f, nil
}

// jsonOf writes a YAML value as JSON; nil if there is none. What looks like a
// date stays the text that it is.
func jsonOf(n *yaml.Node) ([]byte, error) {
	if n.IsZero() {
		return nil, nil
	}
	v, err := plain(n)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func plain(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := plain(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		l := make([]any, len(n.Content))
		for i, c := range n.Content {
			v, err := plain(c)
			if err != nil {
				return nil, err
			}
			l[i] = v
		}
		return l, nil
	case yaml.AliasNode:
		return nil, fmt.Errorf("line %d: found a YAML alias, expected the value written out", n.Line)
	}
	switch n.Tag {
	case "!!timestamp":
		return n.Value, nil
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil // with all its digits
		}
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, fmt.Errorf("line %d: %w", n.Line, err)
	}
	return v, nil
}
