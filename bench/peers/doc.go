// Package peers compares Touchstone with what a user would pick instead: the
// same merge on the same real Kafka, by Kafka Streams, by plain Goka, and by a
// floor that only consumes and produces in transactions.
//
// A run gives figures only if the state and the changes that the subject left
// equal those of a sequential oracle (package workload). The subjects are
// processes of their own; Touchstone is its released binary with the role merge.
// What is measured is read from Kafka's committed offsets and from /proc, so
// that no subject is asked about itself.
//
// It is not part of the product, and needs Linux, Java 17 and Maven.
package peers
