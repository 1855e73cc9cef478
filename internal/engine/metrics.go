package engine

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the engine's collectors. Labels are groups, topics and views:
// never keys, ids or tenants.
type metrics struct {
	in, out, dead           *prometheus.CounterVec
	step                    *prometheus.HistogramVec
	commits, aborts         *prometheus.CounterVec
	unknown, restarts       *prometheus.CounterVec
	commit, recovery, batch *prometheus.HistogramVec
	swept                   *prometheus.CounterVec
	wakes, wakeFailed       *prometheus.CounterVec
	wakeDelay               *prometheus.HistogramVec
	appended                *prometheus.CounterVec
	viewRecords, viewFailed *prometheus.CounterVec
	tableRecords            *prometheus.CounterVec
	restored, restoredBytes *prometheus.CounterVec
	restore                 *prometheus.HistogramVec
	cacheHits, cacheMisses  *prometheus.CounterVec
	cacheEvictions          *prometheus.CounterVec
	cacheBytes              *prometheus.GaugeVec
	partitions              *prometheus.GaugeVec
	rebalances, partFailed  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "touchstone_" + name, Help: help}, labels)
	}
	histogramOf := func(label, name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "touchstone_" + name, Help: help, Buckets: buckets}, []string{label})
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return histogramOf("group", name, help, buckets)
	}
	m := &metrics{
		in:          counter("records_in_total", "Input records of committed transactions.", "group"),
		out:         counter("records_out_total", "Records emitted by committed transactions.", "group", "topic"),
		dead:        counter("dead_letters_total", "Records that failed, by failure kind. A record of an aborted transaction counts again.", "group", "kind"),
		step:        histogram("step_seconds", "Duration of a station's step; one in 16 is observed.", prometheus.ExponentialBuckets(1e-6, 4, 12)),
		commits:     counter("commits_total", "Committed transactions.", "group"),
		aborts:      counter("aborts_total", "Aborted transactions.", "group"),
		unknown:     counter("commits_unknown_total", "Transactions that ended without telling whether they are committed, which the next session finds out.", "group"),
		restarts:    counter("restarts_total", "Sessions that failed and were started again.", "group"),
		commit:      histogram("commit_seconds", "From the last step of a transaction until local state has followed.", prometheus.ExponentialBuckets(0.0005, 2, 14)),
		recovery:    histogram("recovery_seconds", "From the assignment of a partition until its table is recovered.", prometheus.ExponentialBuckets(0.005, 3, 12)),
		batch:       histogram("commit_records", "Input records per committed transaction.", prometheus.ExponentialBuckets(1, 4, 9)),
		swept:       counter("table_expired_total", "Expired table entries removed from local state.", "group"),
		wakes:       counter("wakes_total", "Table entries that were due and woken, in committed transactions.", "group"),
		wakeFailed:  counter("wake_failures_total", "Table entries that were due and could not be woken; they are woken again.", "group"),
		wakeDelay:   histogram("wake_delay_seconds", "From the time at which a table entry was due until its step.", prometheus.ExponentialBuckets(0.001, 3, 13)),
		appended:    counter("appended_total", "Records appended outside of processors.", "topic"),
		viewRecords: counter("view_records_total", "Records taken in by a view.", "view"),
		viewFailed:  counter("view_failures_total", "Records that a view could not take in and skipped.", "view"),

		tableRecords:   counter("table_followed_records_total", "Changelog records taken into local state, in a restoration or as a standby.", "table"),
		restored:       counter("table_restored_records_total", "Changelog records read by finished restorations.", "table"),
		restoredBytes:  counter("table_restored_bytes_total", "Bytes of keys and values read by finished restorations.", "table"),
		restore:        histogramOf("table", "table_restore_seconds", "Duration of the restoration of one partition of a table up to the end of its changelog.", prometheus.ExponentialBuckets(0.001, 3, 13)),
		cacheHits:      counter("state_cache_hits_total", "States that a step found decoded in memory.", "group"),
		cacheMisses:    counter("state_cache_misses_total", "States that a step had to read and decode, or that did not exist.", "group"),
		cacheEvictions: counter("state_cache_evictions_total", "Decoded states that made room for others.", "group"),
		cacheBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "touchstone_state_cache_bytes",
			Help: "Memory of decoded states, estimated by their encoded length."}, []string{"group"}),
		partitions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "touchstone_partitions",
			Help: "Partition numbers assigned to this instance, by state: recovering, running or withheld."}, []string{"group", "state"}),
		rebalances: counter("rebalances_total", "Assignments that the group has made to this instance.", "group"),
		partFailed: counter("partition_failures_total", "Partitions that failed and were started again while the others went on.", "group"),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.in, m.out, m.dead, m.step, m.commits, m.aborts, m.unknown, m.restarts,
		m.commit, m.recovery, m.batch, m.swept, m.wakes, m.wakeFailed, m.wakeDelay, m.appended, m.viewRecords, m.viewFailed, m.tableRecords, m.restored, m.restoredBytes, m.restore,
		m.cacheHits, m.cacheMisses, m.cacheEvictions, m.cacheBytes, m.partitions, m.rebalances, m.partFailed} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// groupMetrics are the metrics of one group, looked up once.
type groupMetrics struct {
	in, commits, aborts, unknown, restarts, swept prometheus.Counter
	rebalances, partitionFailures                 prometheus.Counter
	wakes, wakeFailures                           prometheus.Counter
	wakeDelay                                     prometheus.Observer
	partitions                                    *prometheus.GaugeVec
	out, dead                                     *prometheus.CounterVec
	step, commit, recovery, batch                 prometheus.Observer
	cache                                         cacheMetrics
}

func (m *metrics) group(g string) groupMetrics {
	with := prometheus.Labels{"group": g}
	return groupMetrics{
		in: m.in.WithLabelValues(g), commits: m.commits.WithLabelValues(g), aborts: m.aborts.WithLabelValues(g),
		unknown: m.unknown.WithLabelValues(g), restarts: m.restarts.WithLabelValues(g), swept: m.swept.WithLabelValues(g),
		rebalances: m.rebalances.WithLabelValues(g), partitionFailures: m.partFailed.WithLabelValues(g),
		wakes: m.wakes.WithLabelValues(g), wakeFailures: m.wakeFailed.WithLabelValues(g), wakeDelay: m.wakeDelay.WithLabelValues(g),
		partitions: m.partitions.MustCurryWith(with),
		out:        m.out.MustCurryWith(with), dead: m.dead.MustCurryWith(with),
		step: m.step.WithLabelValues(g), commit: m.commit.WithLabelValues(g),
		recovery: m.recovery.WithLabelValues(g), batch: m.batch.WithLabelValues(g),
		cache: cacheMetrics{hits: m.cacheHits.WithLabelValues(g), misses: m.cacheMisses.WithLabelValues(g),
			evictions: m.cacheEvictions.WithLabelValues(g), bytes: m.cacheBytes.WithLabelValues(g)},
	}
}

// committed takes note of a transaction that is committed and applied.
func (p *processor) committed(records int, ends map[topicPartition]int64, took time.Duration) {
	m := &p.metrics
	m.in.Add(float64(records))
	m.batch.Observe(float64(records))
	m.commits.Inc()
	m.commit.Observe(took.Seconds())
	emitted := map[string]int64{}
	for topic, o := range p.outputs {
		if n := o.count.Load(); n > 0 {
			m.out.WithLabelValues(topic).Add(float64(n))
			emitted[topic] = n
		}
	}
	p.status.committed(records, ends, emitted)
}

func (p *processor) aborted(cause error) {
	p.metrics.aborts.Inc()
	p.status.aborted(cause)
}

func (p *processor) unknown() {
	p.metrics.unknown.Inc()
	p.status.unknown()
}

// lagCollector tells, when it is asked, how far tables and views are behind.
type lagCollector struct{ e *Engine }

var (
	tableState       = prometheus.NewDesc("touchstone_table_partitions", "Partitions of a table in this process, by state: owned, following, restoring or idle.", []string{"table", "state"}, nil)
	tableLagRecords  = prometheus.NewDesc("touchstone_table_lag_records", "Places of its changelog that a partition of a table lacks at most.", []string{"table", "partition"}, nil)
	tableLagSeconds  = prometheus.NewDesc("touchstone_table_lag_seconds", "Seconds since a partition of a table lacked nothing that is committed.", []string{"table", "partition"}, nil)
	tableRestoreDone = prometheus.NewDesc("touchstone_table_restore_ratio", "How much of its restoration a partition of a table has behind it, from 0 to 1; only while it is restored.", []string{"table", "partition"}, nil)
	viewLagRecords   = prometheus.NewDesc("touchstone_view_lag_records", "Places of its log that a view lacks at most, in the partition that is furthest behind.", []string{"view"}, nil)
	viewLagSeconds   = prometheus.NewDesc("touchstone_view_lag_seconds", "Seconds since a view lacked nothing that is committed.", []string{"view"}, nil)
)

func (lagCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tableState, tableLagRecords, tableLagSeconds, tableRestoreDone, viewLagRecords, viewLagSeconds} {
		ch <- d
	}
}

func (c lagCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.e.Status()
	for _, t := range s.Tables {
		states := map[ReplicaState]int{ReplicaOwned: 0, ReplicaFollowing: 0, ReplicaRestoring: 0, ReplicaIdle: 0}
		for _, p := range t.Partitions {
			states[p.State]++
			partition := strconv.Itoa(int(p.Partition))
			gauge(tableLagRecords, float64(p.Lag.Records), t.Table, partition)
			gauge(tableLagSeconds, p.Lag.Age.Seconds(), t.Table, partition)
			if p.Restore != nil {
				gauge(tableRestoreDone, p.Restore.Percent/100, t.Table, partition)
			}
		}
		for state, n := range states {
			gauge(tableState, float64(n), t.Table, string(state))
		}
	}
	for _, v := range s.Views {
		gauge(viewLagRecords, float64(v.Lag.Records), v.View)
		gauge(viewLagSeconds, v.Lag.Age.Seconds(), v.View)
	}
}
