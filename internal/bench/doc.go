// Package bench measures Touchstone as a whole: in one process with the
// embedded broker and registry, from the door over journal, stations and
// publisher to the views. It fills a domain of its own with seeded deliveries,
// measures throughput, latency, memory and start, says where the processor time
// went, and then checks that everything came out right: a run that is not
// correct gives no figures.
//
// Deliveries enter by the door (receive, identify, append to the journal) as
// those of HTTP and files do, but without HTTP. It does not measure a real Kafka
// cluster, nor the network, nor parts by themselves: those have benchmarks of
// their own beside their code.
package bench
