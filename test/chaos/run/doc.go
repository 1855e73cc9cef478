// Package run carries out the scenarios of the chaos run: it starts Apache
// Kafka, a schema registry and real processes of `touchstone serve` (built with
// the tag failpoints), sends the deliveries of package workload over HTTP,
// injects faults, lets the system settle, and has package audit compare
// everything with package oracle. Then it sets the consumer groups back, to
// zero and to random positions, and checks that reading again changes nothing.
//
// The deliveries and the choices among faults follow from the seed; when
// exactly a fault meets which record does not, on a real machine. Verdicts do
// not depend on time: a scenario that does not settle for five minutes after
// its faults ended fails, and so does one in which something differs.
package run
