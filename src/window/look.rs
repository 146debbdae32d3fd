//! What an instance tells at one moment, of what a window is made of.

use super::exposition::Sample;
use crate::ask::Text;
use std::collections::BTreeMap;

/// A latency, by its stage, or [`TO_ACK`], and where it has one by sink.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub of: String,
    pub sink: Option<String>,
}

/// The whole way of a line.
pub const TO_ACK: &str = "source_to_ack";

const STAGES: &str = "log_capturer_stage_seconds_bucket";
const WHOLE: &str = "log_capturer_source_to_ack_seconds_bucket";

/// The metrics that are looked at, for those who have to ask for them by name.
pub const NAMES: [&str; 17] = [
    "log_capturer_logs_processed_total",
    "log_capturer_source_bytes_total",
    "log_capturer_source_bytes_lost_total",
    "log_capturer_lines_refused_total",
    "log_capturer_lines_unstored_total",
    "log_capturer_dlq_stored_total",
    "log_capturer_dlq_dropped_total",
    "log_capturer_dlq_entries",
    "log_capturer_breakers_open",
    "log_capturer_sink_lag_seconds",
    "log_capturer_sink_unacked_lines",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_threads",
    STAGES,
    WHOLE,
];
/// Of reasons, of ways and of buckets: no instance has as many.
const KINDS_MAX: usize = 1_000;
/// Without it, it is no instance.
pub const STARTED: &str = "process_start_time_seconds";

/// Upper edges in seconds, and how many took no longer than each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    #[cfg(test)]
    pub fn of(edges: &[(f64, f64)]) -> Buckets {
        Buckets(edges.to_vec())
    }

    #[cfg(test)]
    #[must_use]
    pub fn plus(&self, other: &Buckets) -> Buckets {
        let mut sum = self.clone();
        sum.each(other, |own, more| own + more);
        sum
    }

    fn put(&mut self, edge: f64, count: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == edge) {
            Some((_, sum)) => *sum += count,
            None => {
                let at = self.0.partition_point(|(known, _)| *known < edge);
                self.0.insert(at, (edge, count));
            }
        }
    }

    #[must_use]
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Interpolated; None where nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        bench::measure::quantile(&self.0, quantile)
    }

    /// The edges of the bucket that it is in: where in it is worked out, and not known.
    #[must_use]
    pub fn bounds(&self, quantile: f64) -> Option<(f64, f64)> {
        let rank = quantile * self.count();
        let at = self.0.iter().position(|(_, count)| *count >= rank && *count > 0.0)?;
        let low = at.checked_sub(1).map_or(0.0, |before| self.0[before].0);
        Some((low, self.0[at].0))
    }

    fn each(&mut self, other: &Buckets, act: impl Fn(f64, f64) -> f64) {
        for (edge, count) in &other.0 {
            match self.0.iter_mut().find(|(known, _)| known == edge) {
                Some((_, own)) => *own = act(*own, *count),
                None => self.put(*edge, act(0.0, *count)),
            }
        }
    }
}

/// What only grows while a process runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub lines: f64,
    pub bytes: f64,
    pub cpu_seconds: f64,
    /// Of files that were truncated or removed before they were read.
    pub bytes_lost: f64,
    /// Of dead letters.
    pub dropped: f64,
    /// Lines by why they are not where they should be.
    pub errors: BTreeMap<String, f64>,
    /// Those of them that were never taken in.
    pub refused: f64,
    pub times: BTreeMap<Way, Buckets>,
}

impl Counts {
    /// What came since then, in one run of a process.
    #[must_use]
    pub fn since(&self, before: &Counts) -> Counts {
        // A count that is less than before is one that began anew.
        self.with(before, |now, then| if now >= then { now - then } else { now })
    }

    pub fn add(&mut self, more: &Counts) {
        *self = self.with(more, |sum, more| sum + more);
    }

    fn with(&self, other: &Counts, act: impl Fn(f64, f64) -> f64) -> Counts {
        let mut errors = self.errors.clone();
        for (reason, lines) in &other.errors {
            // Where every look brings other ones, they are added up.
            let known = errors.len() < KINDS_MAX || errors.contains_key(reason);
            let reason = if known { reason.as_str() } else { "others" };
            let own = errors.entry(reason.to_owned()).or_default();
            *own = act(*own, *lines);
        }
        let mut times = self.times.clone();
        for (way, buckets) in &other.times {
            if times.len() < KINDS_MAX || times.contains_key(way) {
                times.entry(way.clone()).or_default().each(buckets, &act);
            }
        }
        Counts {
            lines: act(self.lines, other.lines),
            bytes: act(self.bytes, other.bytes),
            cpu_seconds: act(self.cpu_seconds, other.cpu_seconds),
            bytes_lost: act(self.bytes_lost, other.bytes_lost),
            dropped: act(self.dropped, other.dropped),
            errors,
            refused: act(self.refused, other.refused),
            times,
        }
    }

    /// All lines that were offered.
    #[must_use]
    pub fn offered(&self) -> f64 {
        self.lines + self.refused
    }

    #[must_use]
    pub fn error_lines(&self) -> f64 {
        self.errors.values().sum()
    }

    /// Of those that were offered; None where there were none.
    #[must_use]
    pub fn error_ratio(&self) -> Option<f64> {
        (self.offered() > 0.0).then(|| self.error_lines() / self.offered())
    }

    /// From source to ack, by sink.
    pub fn to_ack(&self) -> impl Iterator<Item = (&str, &Buckets)> {
        let times = self.times.iter().filter(|(way, _)| way.of == TO_ACK);
        times.map(|(way, buckets)| (way.sink.as_deref().unwrap_or_default(), buckets))
    }

    /// Of one sink.
    #[must_use]
    pub fn to_sink(&self, sink: &str) -> Option<&Buckets> {
        self.to_ack().find(|(name, _)| *name == sink).map(|(_, buckets)| buckets)
    }

    /// The sink whose p99 is highest.
    #[must_use]
    pub fn slowest(&self) -> Option<(&str, &Buckets)> {
        let p99 = |buckets: &Buckets| buckets.quantile(0.99).unwrap_or(-1.0);
        self.to_ack().max_by(|a, b| p99(a.1).total_cmp(&p99(b.1)))
    }
}

/// A look at an instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// In seconds, from any moment on.
    pub at: f64,
    /// When the process was started, Unix time.
    pub started: f64,
    pub counts: Counts,
    pub memory_bytes: f64,
    pub open_fds: f64,
    pub threads: f64,
    pub dead_letters: f64,
    /// Tenants that are not served, by sink.
    pub breakers_open: BTreeMap<String, f64>,
    /// By sink.
    pub waiting: BTreeMap<String, Waiting>,
}

/// What is not acked yet, and is in no histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Waiting {
    /// Of the oldest.
    pub seconds: f64,
    pub lines: f64,
}

impl Look {
    /// Of what `/metrics` answered; or what is missing.
    pub fn of(at: f64, samples: &[Sample]) -> Result<Look, String> {
        let mut look = Look { at, ..Look::default() };
        for sample in samples {
            look.take(sample);
        }
        let edges = look.counts.times.values().map(|buckets| buckets.0.len()).max().unwrap_or(0);
        let sinks = look.waiting.len().max(look.breakers_open.len());
        let kinds = look.counts.errors.len().max(look.counts.times.len()).max(edges).max(sinks);
        if kinds > KINDS_MAX {
            return Err(format!(
                "expected no more than {KINDS_MAX} reasons, sinks or buckets, found {kinds}"
            ));
        }
        let has = |name: &str| samples.iter().any(|sample| sample.name == name);
        match [STARTED, NAMES[0]].into_iter().find(|name| !has(name)) {
            Some(missing) => Err(format!("expected {missing} in it, found none")),
            None => Ok(look),
        }
    }

    fn take(&mut self, sample: &Sample) {
        let Sample { name, value, .. } = sample;
        // A metric that cannot say is as one that is not there; and none of these is below zero.
        let value = if value.is_finite() && *value >= 0.0 { *value } else { return };
        let counts = &mut self.counts;
        let mut error = |what: &str| {
            let reason = format!("{what}{}", Text::of(sample.label("reason")));
            *counts.errors.entry(reason).or_default() += value;
        };
        match name.as_str() {
            "log_capturer_lines_refused_total" => {
                error("refused: ");
                counts.refused += value;
            }
            "log_capturer_lines_unstored_total" => error("no room in the log"),
            // What is held is delivered later.
            "log_capturer_dlq_stored_total" if sample.label("reason") != "held" => {
                error("dead letters: ");
            }
            "log_capturer_logs_processed_total" => counts.lines += value,
            "log_capturer_source_bytes_total" => counts.bytes += value,
            "log_capturer_source_bytes_lost_total" => counts.bytes_lost += value,
            "process_cpu_seconds_total" => counts.cpu_seconds += value,
            "log_capturer_dlq_dropped_total" => counts.dropped += value,
            "log_capturer_dlq_entries" => self.dead_letters += value,
            "log_capturer_breakers_open" => {
                *self.breakers_open.entry(sink(sample)).or_default() += value;
            }
            "log_capturer_sink_lag_seconds" => {
                let waiting = self.waiting.entry(sink(sample)).or_default();
                waiting.seconds = waiting.seconds.max(value);
            }
            "log_capturer_sink_unacked_lines" => {
                self.waiting.entry(sink(sample)).or_default().lines += value;
            }
            "process_resident_memory_bytes" => self.memory_bytes = value,
            "process_open_fds" => self.open_fds = value,
            "process_threads" => self.threads = value,
            STARTED => self.started = value,
            STAGES | WHOLE => self.time(sample, value),
            _ => {}
        }
    }

    fn time(&mut self, sample: &Sample, value: f64) {
        let Ok(edge) = sample.label("le").parse::<f64>() else { return };
        let of = if sample.name == WHOLE { TO_ACK } else { sample.label("stage") };
        let sink = sample.labels.get("sink").map(|sink| Text::of(sink).to_string());
        self.counts
            .times
            .entry(Way { of: Text::of(of).to_string(), sink })
            .or_default()
            .put(edge, value);
    }

    /// Whether it was started anew since then. The time of a start is worked out from the host's clock: where that is
    /// set, it moves by whole seconds, and the process goes on.
    #[must_use]
    pub fn is_of_another_process(&self, before: &Look) -> bool {
        let moved = self.started - before.started;
        let by_whole_seconds = (moved - moved.round()).abs() < 0.005;
        !by_whole_seconds || self.counts.cpu_seconds < before.counts.cpu_seconds
    }

    /// Of all sinks.
    #[must_use]
    pub fn all_breakers_open(&self) -> f64 {
        self.breakers_open.values().sum()
    }
}

fn sink(sample: &Sample) -> String {
    Text::of(sample.label("sink")).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::exposition::parse;
    use super::*;

    #[test]
    fn shards_are_added_up_and_sinks_are_told_apart() {
        let text = "process_start_time_seconds 5\nlog_capturer_logs_processed_total{shard=\"0\"} 3\n\
            log_capturer_logs_processed_total{shard=\"1\"} 4\nlog_capturer_lines_refused_total{reason=\"too_old\"} 1\n\
            log_capturer_dlq_stored_total{reason=\"held\",sink=\"a\"} 9\nlog_capturer_dlq_stored_total{reason=\"refused\",sink=\"a\"} 1\n\
            log_capturer_stage_seconds_bucket{shard=\"0\",stage=\"read\",le=\"0.1\"} 1\n\
            log_capturer_stage_seconds_bucket{shard=\"0\",stage=\"read\",le=\"+Inf\"} 1\n\
            log_capturer_stage_seconds_bucket{shard=\"1\",stage=\"read\",le=\"0.1\"} 0\n\
            log_capturer_stage_seconds_bucket{shard=\"1\",stage=\"read\",le=\"+Inf\"} 1\n\
            log_capturer_source_to_ack_seconds_bucket{sink=\"a\",le=\"+Inf\"} 7\n\
            log_capturer_source_to_ack_seconds_bucket{sink=\"b\",le=\"+Inf\"} 6\n\
            log_capturer_breakers_open{sink=\"a\"} 1\n";
        let look = Look::of(1.0, &parse(text).unwrap()).unwrap();
        assert_eq!(
            (look.counts.lines, look.counts.offered(), look.all_breakers_open()),
            (7.0, 8.0, 1.0)
        );
        assert_eq!(look.counts.error_ratio(), Some(0.25));
        let read = Way { of: "read".into(), sink: None };
        assert_eq!(look.counts.times[&read].0, [(0.1, 1.0), (f64::INFINITY, 2.0)]);
        let acked: Vec<_> = look.counts.to_ack().map(|(sink, of)| (sink, of.count())).collect();
        assert_eq!(acked, [("a", 7.0), ("b", 6.0)]);
        let missing = Look::of(1.0, &parse("a 1\n").unwrap()).unwrap_err();
        assert!(missing.contains(STARTED), "{missing}");
    }

    #[test]
    fn a_clock_that_is_set_is_no_restart() {
        let of = |started: f64, cpu_seconds: f64| {
            let counts = Counts { cpu_seconds, ..Counts::default() };
            Look { started, counts, ..Look::default() }
        };
        let before = of(1_800_000_000.25, 7.0);
        for (started, cpu, anew) in [
            (1_800_000_000.25, 7.5, false),
            (1_800_000_001.25, 7.5, false),
            (1_799_990_000.25, 7.0, false),
            (1_800_000_001.26, 7.5, true),
            (1_800_000_001.25, 0.1, true),
        ] {
            assert_eq!(of(started, cpu).is_of_another_process(&before), anew, "{started} {cpu}");
        }
    }

    #[test]
    fn a_quantile_is_in_a_bucket() {
        let buckets = Buckets(vec![(0.1, 90.0), (0.5, 99.0), (1.0, 100.0), (f64::INFINITY, 100.0)]);
        let found = [0.5, 0.99, 0.999, 1.0].map(|quantile| buckets.bounds(quantile).unwrap());
        assert_eq!(found, [(0.0, 0.1), (0.1, 0.5), (0.5, 1.0), (0.5, 1.0)]);
        assert_eq!(buckets.quantile(0.99), Some(0.5));
        assert_eq!(
            (Buckets::default().bounds(0.5), Buckets::default().quantile(0.5)),
            (None, None)
        );
    }
}
