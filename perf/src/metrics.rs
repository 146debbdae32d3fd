//! Every metric by name, unit and help text, in one place. Prefix `log_capturer_`.
//!
//! The counters are atomics that one thread writes: touched for a chunk, a frame or a push, never
//! for a line.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::cell::RefCell;

/// Latency buckets from 100 us to 60 s; 500 ms, the objective, is an edge.
const LATENCY_BUCKETS_S: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

macro_rules! metrics {
    ($(#[$doc:meta])* $name:ident by $label:literal {
        $($field:ident: $kind:ident $metric:literal $help:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $(#[doc = $help] pub $field: metrics!(@type $kind),)*
        }

        impl $name {
            /// Registers the families once and makes the metrics of each label value.
            fn all(registry: &Registry, labels: &[String]) -> Vec<$name> {
                $(let $field = metrics!(@family $kind $metric $help $label);
                registry.register(Box::new($field.clone())).expect("each name is used once");)*
                labels.iter().map(|label| $name {
                    $($field: $field.with_label_values(&[label]),)*
                }).collect()
            }
        }
    };
    (@type counter) => { IntCounter };
    (@type gauge) => { IntGauge };
    (@type latency) => { Histogram };
    (@family counter $metric:literal $help:literal $label:literal) => {
        IntCounterVec::new(Opts::new($metric, $help), &[$label]).expect("a valid name")
    };
    (@family gauge $metric:literal $help:literal $label:literal) => {
        IntGaugeVec::new(Opts::new($metric, $help), &[$label]).expect("a valid name")
    };
    (@family latency $metric:literal $help:literal $label:literal) => {
        HistogramVec::new(
            HistogramOpts::new($metric, $help).buckets(LATENCY_BUCKETS_S.to_vec()),
            &[$label],
        ).expect("a valid name")
    };
}

metrics! {
    /// Of one shard.
    Shard by "shard" {
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
        commit_seconds: latency "log_capturer_wal_commit_seconds"
            "Time to write and sync a group of frames.",
        wal_bytes: gauge "log_capturer_wal_bytes"
            "Disk space that the write-ahead log takes, preallocation included.",
        wal_unacked_frames: gauge "log_capturer_wal_unacked_frames"
            "Durable frames that are not acked yet.",
        wal_full: gauge "log_capturer_wal_full"
            "1 while the quota or the disk is used up and sources wait.",
        wal_gap_frames: counter "log_capturer_wal_gap_frames_total"
            "Durable frames that could not be read back.",
        backlog_frames: counter "log_capturer_backlog_frames_total"
            "Frames that were read back from the log because the sink had fallen behind.",
    }
}

metrics! {
    /// Of one sink.
    Sink by "sink" {
        accepted: counter "log_capturer_pushes_accepted_total"
            "Pushes that the sink stored.",
        retried: counter "log_capturer_pushes_retried_total"
            "Pushes that will be sent again: the sink failed, or was not reached.",
        split: counter "log_capturer_pushes_split_total"
            "Pushes that are sent again in parts because they are too large, or seem to be.",
        isolated: counter "log_capturer_pushes_isolated_total"
            "Pushes that are sent again in parts because something in them is refused or limited.",
        held: counter "log_capturer_pushes_held_total"
            "Pushes held back because the sink refuses service: 260, 401, 403, 404, redirects.",
        rejected: counter "log_capturer_pushes_rejected_total"
            "Pushes that the sink refuses for good: their entries go to the dead-letter queue.",
        push_body_bytes: counter "log_capturer_push_body_bytes_total"
            "Bytes of accepted pushes on the wire.",
        push_entries: counter "log_capturer_push_entries_total"
            "Lines in accepted pushes.",
        push_seconds: latency "log_capturer_push_seconds"
            "Time from the start of a push to its answer.",
        ack_seconds: latency "log_capturer_source_to_ack_seconds"
            "Time from the arrival of a push's oldest line to the sink's answer.",
        in_flight: gauge "log_capturer_pushes_in_flight"
            "Pushes under way.",
        dlq_entries: gauge "log_capturer_dlq_entries"
            "Entries in the dead-letter queues of the sink.",
        dlq_bytes: gauge "log_capturer_dlq_bytes"
            "Disk space that they take, preallocation included.",
        dlq_stored: counter "log_capturer_dlq_stored_total"
            "Entries that the sink refused and that were put into its dead-letter queues.",
        dlq_dropped: counter "log_capturer_dlq_dropped_total"
            "Entries that were dropped from full dead-letter queues to make room (when_full: drop_oldest): lost.",
        dlq_replayed: counter "log_capturer_dlq_replayed_frames_total"
            "Frames of dead-letter queues that were sent again; what was refused once more is back there.",
        breakers_open: gauge "log_capturer_breakers_open"
            "Tenants to whom nothing but a probe is sent, because the sink fails them; GET /sinks names them.",
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
    pub shards: Vec<Shard>,
    pub sinks: Vec<Sink>,
    pub missing_sources: IntCounter,
    pub discovery_overflows: IntCounter,
}

impl Metrics {
    #[must_use]
    pub fn new(shards: usize, sinks: &[String], version: &str) -> Metrics {
        let registry = Registry::new();
        let numbers: Vec<String> = (0..shards).map(|shard| shard.to_string()).collect();
        let build = IntGaugeVec::new(
            Opts::new("log_capturer_build_info", "Constant 1; the version is the label."),
            &["version"],
        )
        .expect("a valid name");
        build.with_label_values(&[version]).set(1);
        registry.register(Box::new(build)).expect("each name is used once");
        let family = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name");
            registry.register(Box::new(family.clone())).expect("each name is used once");
            family
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid name");
            registry.register(Box::new(counter.clone())).expect("each name is used once");
            counter
        };
        registry.register(Box::new(crate::errors::family())).expect("each name is used once");
        Metrics {
            missing_sources: counter(
                "log_capturer_sources_missing_total",
                "Files that an earlier run was reading and that cannot be found: what they held past their cursor is lost.",
            ),
            discovery_overflows: counter(
                "log_capturer_inotify_overflows_total",
                "Times inotify lost events or watches; the reconcile makes up for it.",
            ),
            requests: family(
                "log_capturer_http_requests_total",
                "Requests to send lines, by endpoint and status.",
                &["endpoint", "code"],
            ),
            refused: family(
                "log_capturer_lines_refused_total",
                "Pushed lines that were refused because Loki would refuse them, by its reason.",
                &["reason"],
            ),
            shards: Shard::all(&registry, &numbers),
            sinks: Sink::all(&registry, sinks),
            registry,
        }
    }

    /// For the requests that one shard answers.
    #[must_use]
    pub fn receive(&self) -> Receive {
        let (requests, refused) = (self.requests.clone(), self.refused.clone());
        Receive { requests, refused, known: RefCell::default() }
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .expect("writing to memory does not fail");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_and_sink_is_exposed() {
        let metrics = Metrics::new(2, &["loki".into()], "1.2.3");
        metrics.shards[1].lines.inc_by(5);
        metrics.sinks[0].push_seconds.observe(0.2);
        let text = String::from_utf8(metrics.text()).unwrap();
        for line in [
            "log_capturer_logs_processed_total{shard=\"0\"} 0",
            "log_capturer_logs_processed_total{shard=\"1\"} 5",
            "log_capturer_push_seconds_bucket{sink=\"loki\",le=\"0.25\"} 1",
            "log_capturer_push_seconds_bucket{sink=\"loki\",le=\"0.1\"} 0",
            "log_capturer_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
}
