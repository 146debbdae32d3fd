//! What came of a window, as it is kept in a file and shown.

use super::Window;
use super::batches::Estimate;
use super::look::{Buckets, Counts, Way};
use super::slope::Slope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of one instance. What a version before it did not know is as where nothing was measured. An `_error` tells how
/// sure what it is of is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    pub instance: String,
    pub seconds: f64,
    pub looks: usize,
    pub looks_missed: usize,
    pub lines: f64,
    pub lines_per_second: f64,
    pub lines_per_second_error: Option<MeanError>,
    pub bytes_per_second: f64,
    pub bytes_per_second_error: Option<MeanError>,
    pub latency: Vec<Latency>,
    /// Lines that were refused or lost, of all that were offered, by reason.
    pub errors: BTreeMap<String, f64>,
    pub error_ratio: Option<f64>,
    pub bytes_lost: f64,
    pub dead_letters_more: f64,
    pub cpu_cores: f64,
    pub cpu_cores_error: Option<MeanError>,
    /// At the last look, and at most.
    pub memory_bytes: f64,
    pub memory_bytes_max: f64,
    pub memory_bytes_slope: Option<Slope>,
    pub open_fds: f64,
    pub threads: f64,
    pub restarts: usize,
    pub breaker_openings: usize,
}

/// How sure a mean is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanError {
    /// Its standard error,
    pub standard: f64,
    /// of so many degrees of freedom.
    pub freedom: f64,
}

impl MeanError {
    fn of(estimate: Estimate) -> MeanError {
        MeanError { standard: estimate.error, freedom: estimate.freedom }
    }

    #[must_use]
    pub fn about(self, mean: f64) -> Estimate {
        Estimate { mean, error: self.standard, freedom: self.freedom }
    }
}

/// Of the lines of the window, and of no others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// A stage, or `source_to_ack`.
    pub of: String,
    pub sink: Option<String>,
    pub lines: f64,
    pub p50_seconds: Option<f64>,
    pub p50_error: Option<MeanError>,
    pub p95_seconds: Option<f64>,
    pub p95_error: Option<MeanError>,
    pub p99_seconds: Option<f64>,
    pub p99_error: Option<MeanError>,
}

impl Latency {
    fn of(window: &Window, way: &Way, buckets: &Buckets) -> Latency {
        let error = |quantile| {
            let of = |counts: &Counts, _| counts.times.get(way)?.quantile(quantile);
            window.batches.estimate(of).map(MeanError::of)
        };
        Latency {
            of: way.of.clone(),
            sink: way.sink.clone(),
            lines: buckets.count(),
            p50_seconds: buckets.quantile(0.5),
            p50_error: error(0.5),
            p95_seconds: buckets.quantile(0.95),
            p95_error: error(0.95),
            p99_seconds: buckets.quantile(0.99),
            p99_error: error(0.99),
        }
    }

    /// `send loki`.
    #[must_use]
    pub fn name(&self) -> String {
        [Some(self.of.as_str()), self.sink.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Figures {
    /// Lines a second; none where it is not known how sure that is.
    #[must_use]
    pub fn rate(&self) -> Option<Estimate> {
        Some(self.lines_per_second_error?.about(self.lines_per_second))
    }

    #[must_use]
    pub fn of(window: &Window) -> Figures {
        let total = &window.total;
        let last = window.last().cloned().unwrap_or_default();
        let share = |lines: &f64| if total.offered() > 0.0 { lines / total.offered() } else { 0.0 };
        let error = |of: fn(&Counts) -> f64| {
            let rate = window.batches.estimate(|counts, seconds| Some(of(counts) / seconds));
            rate.map(MeanError::of)
        };
        let errors = total.errors.iter().filter(|(_, lines)| **lines > 0.0);
        Figures {
            instance: window.instance.clone(),
            seconds: window.seconds(),
            looks: window.looks,
            looks_missed: window.missed,
            lines: total.lines,
            lines_per_second: window.rate(|of| of.lines).unwrap_or(0.0),
            lines_per_second_error: error(|of| of.lines),
            bytes_per_second: window.rate(|of| of.bytes).unwrap_or(0.0),
            bytes_per_second_error: error(|of| of.bytes),
            latency: total
                .times
                .iter()
                .map(|(way, buckets)| Latency::of(window, way, buckets))
                .collect(),
            errors: errors.map(|(reason, lines)| (reason.clone(), share(lines))).collect(),
            error_ratio: total.error_ratio(),
            bytes_lost: total.bytes_lost,
            dead_letters_more: window.dead_letters_more(),
            cpu_cores: window.rate(|of| of.cpu_seconds).unwrap_or(0.0),
            cpu_cores_error: error(|of| of.cpu_seconds),
            memory_bytes: last.memory_bytes,
            memory_bytes_max: window.memory_bytes_max,
            memory_bytes_slope: window.memory_slope(),
            open_fds: last.open_fds,
            threads: last.threads,
            restarts: window.restarts,
            breaker_openings: window.breaker_openings,
        }
    }
}
