// Package builtin lists the kinds of connector that Touchstone comes with, and
// opens the sources of a domain with them. It is the one place that knows them
// all; nothing registers itself.
package builtin

import (
	"errors"
	"fmt"
	"strings"

	"github.com/touchstone-platform/touchstone/connectors"
	"github.com/touchstone-platform/touchstone/connectors/cdc"
	"github.com/touchstone-platform/touchstone/connectors/fake"
	"github.com/touchstone-platform/touchstone/connectors/file"
	"github.com/touchstone-platform/touchstone/connectors/kafka"
	"github.com/touchstone-platform/touchstone/connectors/rest"
	"github.com/touchstone-platform/touchstone/connectors/sql"
	"github.com/touchstone-platform/touchstone/connectors/webhook"
	"github.com/touchstone-platform/touchstone/domain/definition"
)

// Kinds gives every kind, sorted by name.
func Kinds() connectors.Kinds {
	return connectors.Kinds{Sources: []connectors.Kind{cdc.Kind{}, file.Kind{}, webhook.Kind{}}, Backends: []connectors.BackendKind{fake.Kind{}, kafka.Kind{}, rest.Kind{}, sql.Kind{}}}
}

// Open opens every source of a domain by its connector's kind. All sources are
// tried; the error joins what is wrong with each, as "source name: ...".
func Open(d *definition.Domain, secrets connectors.Secrets) (map[string]connectors.Connector, error) {
	kinds := map[string]connectors.Kind{}
	names := []string{}
	for _, k := range Kinds().Sources {
		kinds[k.Name()] = k
		names = append(names, k.Name())
	}
	opened := make(map[string]connectors.Connector, len(d.Sources))
	var errs []error
	for _, src := range d.Sources {
		k, ok := kinds[src.Connector]
		if !ok {
			errs = append(errs, fmt.Errorf("source %s: connector: found %q, expected one of %s", src.Name, src.Connector, strings.Join(names, ", ")))
			continue
		}
		c, err := k.Open(src, secrets)
		if err != nil {
			errs = append(errs, fmt.Errorf("source %s: %w", src.Name, err))
			continue
		}
		opened[src.Name] = c
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return opened, nil
}
