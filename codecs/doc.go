// Package codecs turns bytes into domain types and back: Avro in Confluent's wire
// format, with schemas kept in a schema registry, and the headers of CloudEvents.
//
// Platform records (journal entries, signals, entities …) have fixed schemas,
// embedded in package schemas, and are coded straight from and to their Go types.
// Public events have schemas that are generated from the definition of their
// domain and are coded dynamically.
//
// Platform records are written by github.com/twmb/avro and read by functions of
// this package, because they are on the hot path. Public events are appended
// straight from the change and read with twmb/avro, which stands bytes that lie
// about their length. github.com/linkedin/goavro/v2 compiles every generated
// schema before it is used. Tests and fuzzing hold all of them against each
// other, and benchmarks keep that honest.
//
// It does not produce or consume, and does not decide what is published.
package codecs
