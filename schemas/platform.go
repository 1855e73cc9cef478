// Package schemas holds the data that the product is built around, embedded so
// that one binary is enough: the Avro schemas of the platform's own records, and
// the sample domains. It holds no code that acts on them.
package schemas

import "embed"

// Platform holds platform/*.avsc: one Avro schema per platform record, named
// after it in lower case with hyphens ("platform/journal-entry.avsc").
//
// They evolve compatibly, forwards and backwards: a new field has a default and
// is appended, none is renamed, none changes its type.
//
//go:embed platform/*.avsc
var Platform embed.FS
