package app

import "github.com/prometheus/client_golang/prometheus"

// callMetrics tells how the connections of this process are doing.
type callMetrics struct{ a *App }

var (
	connectionLabels = []string{"domain", "connection"}
	callsTotal       = prometheus.NewDesc("touchstone_calls_total", "Calls to back ends that were made.", connectionLabels, nil)
	callFailures     = prometheus.NewDesc("touchstone_call_failures_total", "Calls to back ends that failed, of any kind.", connectionLabels, nil)
	callsQueued      = prometheus.NewDesc("touchstone_calls_queued", "Calls that wait: for their turn, a limit, or because the connection is paused or not well.", connectionLabels, nil)
	callsRunning     = prometheus.NewDesc("touchstone_calls_running", "Calls that are under way.", connectionLabels, nil)
	connectionUp     = prometheus.NewDesc("touchstone_connection_active", "1 if calls are made; 0 while the connection is paused, or left alone because it fails.", connectionLabels, nil)
)

// Describe is part of prometheus.Collector.
func (callMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsTotal, callFailures, callsQueued, callsRunning, connectionUp} {
		out <- d
	}
}

// Collect is part of prometheus.Collector.
func (m callMetrics) Collect(out chan<- prometheus.Metric) {
	for _, x := range m.a.executors {
		s := x.Stats()
		active := 0.0
		if s.State == "active" {
			active = 1
		}
		labels := []string{x.domain, s.Connection}
		out <- prometheus.MustNewConstMetric(callsTotal, prometheus.CounterValue, float64(s.Calls), labels...)
		out <- prometheus.MustNewConstMetric(callFailures, prometheus.CounterValue, float64(s.Failures), labels...)
		out <- prometheus.MustNewConstMetric(callsQueued, prometheus.GaugeValue, float64(s.Queued), labels...)
		out <- prometheus.MustNewConstMetric(callsRunning, prometheus.GaugeValue, float64(s.Running), labels...)
		out <- prometheus.MustNewConstMetric(connectionUp, prometheus.GaugeValue, active, labels...)
	}
}
