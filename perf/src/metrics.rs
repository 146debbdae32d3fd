//! Every metric by name, unit and help text, in one place. Prefix `log_capturer_`. Histograms of time are in
//! [`crate::exposition`], what all programs have in [`crate::process`].
//!
//! The counters are atomics that one thread writes: touched for a chunk, a frame or a push, never
//! for a line.

use crate::exposition::{Format, TimesCollector};
use crate::process::ProcessCollector;
use crate::recorder::Times;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Sizes of groups of frames: 4 KiB to 8 MiB.
const BUCKETS_BYTES: [f64; 12] = [
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
];

/// The families by name: each is registered once, however many metrics of it there are.
struct Families<'a> {
    registry: &'a Registry,
    counters: HashMap<&'static str, IntCounterVec>,
    seconds: HashMap<&'static str, CounterVec>,
    gauges: HashMap<&'static str, IntGaugeVec>,
    numbers: HashMap<&'static str, GaugeVec>,
    sizes: HashMap<&'static str, HistogramVec>,
}

macro_rules! family {
    ($kind:ident, $vec:ident, $metric:ident, $all:ident, |$opts:ident, $labels:ident| $new:expr) => {
        fn $kind(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)]) -> $metric {
            let registry = self.registry;
            let family = self.$all.entry(name).or_insert_with(|| {
                let $labels: Vec<&str> = labels.iter().map(|(label, _)| *label).collect();
                let $opts = Opts::new(name, help);
                registered(registry, $new.expect("a valid name"))
            });
            let values: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
            family.with_label_values(&values)
        }
    };
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, family: C) -> C {
    registry.register(Box::new(family.clone())).expect("each name is used once");
    family
}

impl<'a> Families<'a> {
    fn new(registry: &'a Registry) -> Families<'a> {
        Families {
            registry,
            counters: HashMap::new(),
            seconds: HashMap::new(),
            gauges: HashMap::new(),
            numbers: HashMap::new(),
            sizes: HashMap::new(),
        }
    }

    family!(counter, IntCounterVec, IntCounter, counters, |o, l| IntCounterVec::new(o, &l));
    family!(seconds, CounterVec, Counter, seconds, |o, l| CounterVec::new(o, &l));
    family!(gauge, IntGaugeVec, IntGauge, gauges, |o, l| IntGaugeVec::new(o, &l));
    family!(number, GaugeVec, Gauge, numbers, |o, l| GaugeVec::new(o, &l));
    family!(sizes, HistogramVec, Histogram, sizes, |o, l| {
        HistogramVec::new(HistogramOpts::from(o).buckets(BUCKETS_BYTES.to_vec()), &l)
    });
}

macro_rules! metrics {
    ($(#[$doc:meta])* $name:ident {
        $($field:ident: $kind:ident $metric:literal $([$more:literal = $value:literal])? $help:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $(#[doc = $help] pub $field: metrics!(@type $kind),)*
        }

        impl $name {
            fn new(families: &mut Families<'_>, labels: &[(&str, &str)]) -> $name {
                $name {
                    $($field: families.$kind(
                        $metric, $help, &[labels, &[$(($more, $value))?]].concat(),
                    ),)*
                }
            }
        }
    };
    (@type counter) => { IntCounter };
    (@type seconds) => { Counter };
    (@type gauge) => { IntGauge };
    (@type number) => { Gauge };
    (@type sizes) => { Histogram };
}

metrics! {
    /// Of one shard.
    Shard {
        lines: counter "log_capturer_logs_processed_total"
            "Lines taken in from files and requests.",
        bytes: counter "log_capturer_source_bytes_total"
            "Bytes taken in: of files with line ends, of requests the lines alone.",
        lines_cut: counter "log_capturer_lines_cut_total"
            "Lines over line_bytes_max that were split or truncated.",
        bytes_truncated: counter "log_capturer_truncated_bytes_total"
            "Bytes of over-long lines dropped by long_lines: truncate.",
        lines_unstored: counter "log_capturer_lines_unstored_total"
            "Pushed lines that were answered with ack: memory and then found no room in the log: lost.",
        line_ends_stripped: counter "log_capturer_line_ends_stripped_total"
            "Lines of which a carriage return before the newline was removed.",
        partial_lines: counter "log_capturer_partial_lines_total"
            "Last lines taken without their newline: after partial_line_timeout or at the end of a removed file.",
        truncations: counter "log_capturer_file_truncations_total"
            "Files found shorter than what was read of them, or rewritten: read again from the start.",
        rotations: counter "log_capturer_file_rotations_total"
            "Files that were renamed or removed while they were followed.",
        bytes_lost: counter "log_capturer_source_bytes_lost_total"
            "Bytes known to be lost: unread in a file that was removed or truncated before it could be read.",
        files_open: gauge "log_capturer_files_open"
            "Source files held open.",
        files_watched: gauge "log_capturer_files_watched"
            "Source files followed.",
        frames: counter "log_capturer_frames_total"
            "Frames sealed.",
        frame_raw_bytes: counter "log_capturer_frame_raw_bytes_total"
            "Bytes of frame bodies before compression.",
        frame_body_bytes: counter "log_capturer_frame_body_bytes_total"
            "Bytes of frame bodies as stored and sent.",
        commits: counter "log_capturer_wal_commits_total"
            "Groups of frames written and synced.",
        commit_bytes: sizes "log_capturer_wal_commit_bytes"
            "Bytes of frame bodies that were written and synced as one group.",
        wal_bytes: gauge "log_capturer_wal_bytes"
            "Disk space that the write-ahead log takes, preallocation included.",
        wal_bytes_max: gauge "log_capturer_wal_bytes_max"
            "The shard's share of the quota of the write-ahead log.",
        wal_unacked_frames: gauge "log_capturer_wal_unacked_frames"
            "Durable frames that are not acked yet.",
        wal_full: gauge "log_capturer_wal_full"
            "1 while the quota or the disk is used up and sources wait.",
        wal_gap_frames: counter "log_capturer_wal_gap_frames_total"
            "Durable frames that could not be read back.",
        backlog_frames: counter "log_capturer_backlog_frames_total"
            "Frames that were read back from the log because the sink had fallen behind.",
        busy_seconds: seconds "log_capturer_shard_busy_seconds_total"
            "CPU time of the shard's thread: its rate is how busy the shard is.",
        lag_bytes: gauge "log_capturer_source_lag_bytes"
            "Bytes of files that are known to be written and were not read.",
        lag_seconds: number "log_capturer_source_lag_seconds"
            "How long the file that waits longest has waited to be read.",
        canary_lines: counter "log_capturer_canary_lines_total"
            "Lines that the canary wrote by itself; they are no logs.",
    }
}

metrics! {
    /// Of one sink.
    Sink {
        accepted: counter "log_capturer_pushes_total" ["verdict" = "accepted"]
            "Pushes, by what the answer meant for them.",
        retried: counter "log_capturer_pushes_total" ["verdict" = "retried"]
            "Pushes, by what the answer meant for them.",
        split: counter "log_capturer_pushes_total" ["verdict" = "split"]
            "Pushes, by what the answer meant for them.",
        isolated: counter "log_capturer_pushes_total" ["verdict" = "isolated"]
            "Pushes, by what the answer meant for them.",
        held: counter "log_capturer_pushes_total" ["verdict" = "held"]
            "Pushes, by what the answer meant for them.",
        rejected: counter "log_capturer_pushes_total" ["verdict" = "rejected"]
            "Pushes, by what the answer meant for them.",
        push_body_bytes: counter "log_capturer_push_body_bytes_total"
            "Bytes of accepted pushes on the wire.",
        push_entries: counter "log_capturer_push_entries_total"
            "Lines in accepted pushes.",
        in_flight: gauge "log_capturer_pushes_in_flight"
            "Pushes under way.",
        dlq_bytes: gauge "log_capturer_dlq_bytes"
            "Disk space that they take, preallocation included.",
        dlq_bytes_max: gauge "log_capturer_dlq_bytes_max"
            "What entries may take of their quota, of all shards.",
        dlq_dropped: counter "log_capturer_dlq_dropped_total"
            "Entries that were dropped from full dead-letter queues to make room (when_full: drop_oldest): lost.",
        dlq_replayed: counter "log_capturer_dlq_replayed_frames_total"
            "Frames of dead-letter queues that were sent again; what was refused once more is back there.",
        breakers_open: gauge "log_capturer_breakers_open"
            "Tenants to whom nothing but a probe is sent, because the sink fails them; GET /sinks names them.",
        lag_seconds: number "log_capturer_sink_lag_seconds"
            "How long the oldest line that is not acked has waited; 0 where all are.",
        unacked_lines: gauge "log_capturer_sink_unacked_lines"
            "Lines of this run that are durable and not acked.",
        clock_ahead_seconds: number "log_capturer_sink_clock_ahead_seconds"
            "How far the sink's clock is ahead of this host's, in steps of a second; 0 below 3 s.",
    }
}

metrics! {
    /// Of the way from one shard to one sink.
    RouteGauges {
        credit: gauge "log_capturer_ring_credit_bytes"
            "What is free of ring_bytes_max: frames that are not acked hold the rest.",
    }
}

/// Of the way from one shard to one sink; what the last two say is shown of the sink.
#[derive(Clone)]
pub struct Route {
    pub gauges: RouteGauges,
    /// Unix time in nanoseconds since when something is not acked; 0: everything is.
    behind_since_ns: Arc<AtomicI64>,
    unacked_lines: Arc<AtomicI64>,
    overdue_lines: Arc<AtomicU64>,
}

impl Route {
    /// Lines that wait for their ack for longer than the objective has it.
    pub fn show_overdue(&self, lines: u64) {
        self.overdue_lines.store(lines, Ordering::Relaxed);
    }

    #[must_use]
    pub fn overdue_lines(&self) -> u64 {
        self.overdue_lines.load(Ordering::Relaxed)
    }

    pub fn show(&self, behind_since_ns: i64, unacked_lines: i64) {
        self.behind_since_ns.store(behind_since_ns, Ordering::Relaxed);
        self.unacked_lines.store(unacked_lines, Ordering::Relaxed);
    }

    #[must_use]
    pub fn behind_since_ns(&self) -> Option<i64> {
        Some(self.behind_since_ns.load(Ordering::Relaxed)).filter(|ns| *ns > 0)
    }

    #[must_use]
    pub fn unacked_lines(&self) -> i64 {
        self.unacked_lines.load(Ordering::Relaxed)
    }
}

metrics! {
    /// Of the whole process.
    Whole {
        sources_missing: counter "log_capturer_sources_missing_total"
            "Files that an earlier run was reading and that cannot be found: what they held past their cursor is lost.",
        inotify_overflows: counter "log_capturer_inotify_overflows_total"
            "Times inotify lost events or watches; the reconcile makes up for it.",
        ready: gauge "log_capturer_ready"
            "1 while lines are taken in.",
        slo_seconds: number "log_capturer_slo_objective_seconds"
            "The objective: how long a line may take from its source to the ack.",
        slo_ratio: number "log_capturer_slo_objective_ratio"
            "How many of the lines are not to take longer.",
        slo_lines_per_second: number "log_capturer_slo_objective_lines_per_second"
            "How many lines a second are to be taken in time.",
        slo_lines: counter "log_capturer_slo_lines_total"
            "Lines that were acked, by all sinks.",
        slo_lines_late: counter "log_capturer_slo_lines_late_total"
            "Those of them that took longer than the objective.",
        slo_budget: number "log_capturer_slo_error_budget_remaining_ratio"
            "What is left of the lines that may be late, over 3 days; below 0 the objective is missed.",
        data_dir_free_bytes: gauge "log_capturer_data_dir_free_bytes"
            "Free space of the file system of data_dir, for this user.",
        data_dir_size_bytes: gauge "log_capturer_data_dir_size_bytes"
            "Size of the file system of data_dir.",
        memory_limit_bytes: gauge "log_capturer_memory_limit_bytes"
            "Memory that the control group, or else the host, has for this process.",
        reloads: counter "log_capturer_config_reloads_total" ["result" = "success"]
            "Configurations that were put in force, the one at the start included, and those that were not.",
        reloads_failed: counter "log_capturer_config_reloads_total" ["result" = "failure"]
            "Configurations that were put in force, the one at the start included, and those that were not.",
        reload_successful: gauge "log_capturer_config_last_reload_successful"
            "1 where the last configuration that was to be put in force was.",
        reload_success_time: number "log_capturer_config_last_reload_success_timestamp_seconds"
            "When a configuration was put in force last, Unix time.",
    }
}

/// A family with one more label, whose values another crate knows.
#[derive(Clone)]
pub struct ByReason {
    sink: String,
    entries: IntGaugeVec,
    stored: IntCounterVec,
    reasons: Arc<[String]>,
}

impl ByReason {
    /// So many more, or less, are in the sink's dead-letter queues for this reason.
    pub fn entries(&self, reason: &str, more: i64) {
        self.entries.with_label_values(&[&self.sink, reason]).add(more);
    }

    /// How many there are of each.
    pub fn by_reason(&self) -> impl Iterator<Item = (String, u64)> {
        self.reasons.iter().map(|reason| {
            let entries = self.entries.with_label_values(&[&self.sink, reason]).get();
            (reason.clone(), u64::try_from(entries).unwrap_or(0))
        })
    }

    #[must_use]
    pub fn all_entries(&self) -> u64 {
        self.by_reason().map(|(_, entries)| entries).sum()
    }

    /// How many were put there, for whatever reason.
    #[must_use]
    pub fn all_stored(&self) -> u64 {
        let of = |reason: &String| self.stored.with_label_values(&[&self.sink, reason]).get();
        self.reasons.iter().map(of).sum()
    }

    /// So many were put there.
    pub fn stored(&self, reason: &str, count: u64) {
        self.stored.with_label_values(&[&self.sink, reason]).inc_by(count);
    }
}

/// Of the requests that one shard answers; the counters are shared.
#[derive(Clone)]
pub struct Receive {
    requests: IntCounterVec,
    refused: IntCounterVec,
    /// Those counted before, so that no request looks them up behind a lock.
    known: RefCell<Vec<(&'static str, u16, IntCounter)>>,
}

impl Receive {
    /// One request was answered with this status.
    pub fn request(&self, endpoint: &'static str, code: u16) {
        let mut known = self.known.borrow_mut();
        if let Some((.., counter)) = known.iter().find(|(e, c, _)| (*e, *c) == (endpoint, code)) {
            return counter.inc();
        }
        let counter = self.requests.with_label_values(&[endpoint, &code.to_string()]);
        counter.inc();
        known.push((endpoint, code, counter));
    }

    /// So many lines were refused.
    pub fn refused(&self, reason: &str, lines: u64) {
        self.refused.with_label_values(&[reason]).inc_by(lines);
    }
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refused: IntCounterVec,
    health: IntGaugeVec,
    config: IntGaugeVec,
    burn_rate: GaugeVec,
    pub shards: Vec<Shard>,
    pub sinks: Vec<Sink>,
    pub dlq: Vec<ByReason>,
    /// By shard, then by sink.
    pub routes: Vec<Vec<Route>>,
    pub whole: Whole,
    pub times: Arc<Times>,
}

impl Metrics {
    /// `reasons` are why entries may be in a dead-letter queue.
    #[must_use]
    pub fn new(shards: usize, sinks: &[String], reasons: &[&str], times: Times) -> Metrics {
        let registry = Registry::new();
        let times = Arc::new(times);
        let collectors: [Box<dyn Collector>; 2] = [
            Box::new(TimesCollector::new(times.clone(), sinks.to_vec())),
            Box::<ProcessCollector>::default(),
        ];
        for collector in collectors {
            registry.register(collector).expect("each name is used once");
        }
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name");
            registered(&registry, family)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid name");
            registered(&registry, family)
        };
        let entries = gauges(
            "log_capturer_dlq_entries",
            "Entries in the dead-letter queues of the sink, by why they are there.",
            &["sink", "reason"],
        );
        let stored = counters(
            "log_capturer_dlq_stored_total",
            "Entries that were put into the dead-letter queues of the sink, by why.",
            &["sink", "reason"],
        );
        let dlq: Vec<ByReason> = sinks
            .iter()
            .map(|sink| ByReason {
                sink: sink.clone(),
                entries: entries.clone(),
                stored: stored.clone(),
                reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            })
            .collect();
        for (sink, reason) in dlq.iter().flat_map(|sink| reasons.iter().map(move |why| (sink, why)))
        {
            sink.entries(reason, 0);
            sink.stored(reason, 0);
        }
        let mut families = Families::new(&registry);
        let numbers: Vec<String> = (0..shards).map(|shard| shard.to_string()).collect();
        let shards =
            numbers.iter().map(|shard| Shard::new(&mut families, &[("shard", shard)])).collect();
        let routes = numbers
            .iter()
            .map(|shard| {
                let route = |sink: &String| Route {
                    gauges: RouteGauges::new(&mut families, &[("shard", shard), ("sink", sink)]),
                    behind_since_ns: Arc::default(),
                    unacked_lines: Arc::default(),
                    overdue_lines: Arc::default(),
                };
                sinks.iter().map(route).collect()
            })
            .collect();
        let of_sinks =
            sinks.iter().map(|sink| Sink::new(&mut families, &[("sink", sink)])).collect();
        let whole = Whole::new(&mut families, &[]);
        registry.register(Box::new(crate::errors::family())).expect("each name is used once");
        for family in crate::guard::counts().families() {
            registry.register(family).expect("each name is used once");
        }
        Metrics {
            requests: counters(
                "log_capturer_http_requests_total",
                "Requests to send lines, by endpoint and status.",
                &["endpoint", "code"],
            ),
            refused: counters(
                "log_capturer_lines_refused_total",
                "Pushed lines that were refused because Loki would refuse them, by its reason.",
                &["reason"],
            ),
            config: gauges(
                "log_capturer_config_info",
                "Constant 1; a hash of the configuration in force, without its secrets.",
                &["hash"],
            ),
            health: gauges(
                "log_capturer_health_status",
                "What GET /health says of each check: 0 healthy, 1 warning, 2 degraded, 3 critical.",
                &["check"],
            ),
            burn_rate: registered(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "log_capturer_slo_burn_rate",
                        "How fast the lines that may be late are used up: 1 uses up all of them, just.",
                    ),
                    &["window"],
                )
                .expect("a valid name"),
            ),
            shards,
            sinks: of_sinks,
            dlq,
            routes,
            whole,
            times,
            registry,
        }
    }

    /// Constant 1, what it is about is the label.
    pub fn info(&self, name: &str, help: &str, label: &str, value: &str) {
        let family = IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a valid name");
        registered(&self.registry, family).with_label_values(&[value]).set(1);
    }

    /// Of the configuration in force.
    pub fn config_hash(&self, hash: &str) {
        self.config.reset();
        self.config.with_label_values(&[hash]).set(1);
    }

    /// For the requests that one shard answers.
    #[must_use]
    pub fn receive(&self) -> Receive {
        let (requests, refused) = (self.requests.clone(), self.refused.clone());
        Receive { requests, refused, known: RefCell::default() }
    }

    pub fn health(&self, check: &str, level: i64) {
        self.health.with_label_values(&[check]).set(level);
    }

    pub fn burn_rate(&self, window: &str, rate: f64) {
        self.burn_rate.with_label_values(&[window]).set(rate);
    }

    /// What `/metrics` answers.
    #[must_use]
    pub fn encode(&self, format: Format) -> Vec<u8> {
        format.encode(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::SinkTime;
    use std::time::{Duration, Instant};

    fn metrics() -> Metrics {
        let times = Times::new(2, 1, Duration::from_millis(500), true);
        let metrics = Metrics::new(2, &["loki".into()], &["refused"], times);
        metrics.shards[1].lines.inc_by(5);
        metrics.shards[0].commit_bytes.observe(5000.0);
        metrics.sinks[0].held.inc();
        metrics.times.sink(0).record([(SinkTime::Send, Duration::from_millis(200), 3)]);
        metrics.times.collect(Instant::now());
        metrics.info("log_capturer_build_info", "What runs.", "version", "1.2.3 \"\\\n");
        metrics
    }

    fn holds(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn every_shard_and_sink_is_exposed() {
        let text = String::from_utf8(metrics().encode(Format::Text)).unwrap();
        holds(
            &text,
            &[
                "log_capturer_logs_processed_total{shard=\"0\"} 0",
                "log_capturer_logs_processed_total{shard=\"1\"} 5",
                "log_capturer_pushes_total{sink=\"loki\",verdict=\"held\"} 1",
                "log_capturer_pushes_total{sink=\"loki\",verdict=\"accepted\"} 0",
                "log_capturer_stage_seconds_bucket{sink=\"loki\",stage=\"send\",le=\"0.25\"} 3",
                "log_capturer_stage_seconds_bucket{sink=\"loki\",stage=\"send\",le=\"0.1\"} 0",
                "log_capturer_stage_seconds_sum{sink=\"loki\",stage=\"send\"} 0.6",
                "log_capturer_ring_credit_bytes{shard=\"1\",sink=\"loki\"} 0",
                "log_capturer_dlq_entries{reason=\"refused\",sink=\"loki\"} 0",
                "log_capturer_build_info{version=\"1.2.3 \\\"\\\\\\n\"} 1",
            ],
        );
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn open_metrics_name_counters_without_their_suffix_and_end() {
        let text = String::from_utf8(metrics().encode(Format::OpenMetrics)).unwrap();
        holds(
            &text,
            &[
                "# TYPE log_capturer_logs_processed counter",
                "log_capturer_logs_processed_total{shard=\"1\"} 5",
                "# TYPE log_capturer_stage_seconds histogram",
                "# UNIT log_capturer_stage_seconds seconds",
                "log_capturer_stage_seconds_bucket{sink=\"loki\",stage=\"send\",le=\"1.0\"} 3",
                "log_capturer_stage_seconds_bucket{sink=\"loki\",stage=\"send\",le=\"+Inf\"} 3",
                "log_capturer_stage_seconds_count{sink=\"loki\",stage=\"send\"} 3",
                "log_capturer_wal_commit_bytes_bucket{shard=\"0\",le=\"8192.0\"} 1",
                "log_capturer_build_info{version=\"1.2.3 \\\"\\\\\\n\"} 1",
            ],
        );
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }
}
