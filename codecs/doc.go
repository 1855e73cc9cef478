// Package codecs turns bytes into domain types and back: Avro in Confluent's wire
// format, with schemas kept in a schema registry, and the headers of CloudEvents.
//
// Platform records (journal entries, signals, entities …) have fixed schemas,
// embedded in package schemas, and are coded straight from and to their Go types.
// Public events have schemas that are generated from the definition of their
// domain and are coded dynamically.
//
// Platform records use github.com/twmb/avro because they are on the hot path;
// public events are written with github.com/linkedin/goavro/v2 and read with
// twmb/avro, which stands bytes that lie about their length. Both write the same
// bytes; benchmarks and tests in this package keep that honest.
//
// It does not produce or consume, and does not decide what is published.
package codecs
