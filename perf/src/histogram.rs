//! Latency as an HDR histogram for quantiles, and as exact counts for Prometheus' buckets.

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;
use std::time::Duration;

/// Upper edges of the buckets, microseconds: 100 us to 60 s; 500 ms, the objective, is one.
pub const EDGES_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// What is longer counts as this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Of a quantile: exact below 256 us, within 0.8 % above.
const DIGITS: u8 = 2;

/// Counts by bucket, not cumulative; the last is what is above all edges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets {
    pub counts: [u64; EDGES_US.len() + 1],
    pub sum_us: u128,
}

impl Buckets {
    fn add(&mut self, us: u64, count: u64) {
        self.counts[EDGES_US.partition_point(|edge| *edge < us)] += count;
        self.sum_us += u128::from(us) * u128::from(count);
    }

    pub fn merge(&mut self, other: &Buckets) {
        self.counts.iter_mut().zip(other.counts).for_each(|(to, from)| *to += from);
        self.sum_us += other.sum_us;
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What was measured since it was handed over last. Its memory is all there from the start.
#[derive(Debug, Clone)]
pub struct Latency {
    pub buckets: Buckets,
    pub values: Histogram<u32>,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: Buckets::default(), values: values() }
    }
}

impl Latency {
    /// So many lines, or whatever is counted, took so long.
    pub fn record(&mut self, took: Duration, count: u64) {
        if count > 0 {
            let us = u64::try_from(took.min(LONGEST).as_micros()).expect("no longer than a day");
            self.buckets.add(us, count);
            self.values.saturating_record_n(us, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.buckets = Buckets::default();
            self.values.reset();
        }
    }
}

fn values<C: Counter>() -> Histogram<C> {
    let longest = u64::try_from(LONGEST.as_micros()).expect("a day is short");
    Histogram::new_with_bounds(1, longest, DIGITS).expect("the bounds are in order")
}

/// Since the start, and of the last minute: the last half minute that is over, and what came since.
#[derive(Debug)]
pub struct Spread {
    total: Histogram<u64>,
    recent: [Histogram<u32>; 2],
}

impl Default for Spread {
    fn default() -> Spread {
        Spread { total: values(), recent: [values(), values()] }
    }
}

impl Spread {
    pub fn add(&mut self, latency: &Latency) {
        if !latency.is_empty() {
            for at in latency.values.iter_recorded() {
                self.total.saturating_record_n(at.value_iterated_to(), at.count_at_value().into());
            }
            self.recent[0].add(&latency.values).expect("of one range");
        }
    }

    /// Half a minute is over.
    pub fn turn(&mut self) {
        self.recent.swap(0, 1);
        if !self.recent[0].is_empty() {
            self.recent[0].reset();
        }
    }

    #[must_use]
    pub fn quantiles(&self) -> Spans {
        let mut recent = self.recent[0].clone();
        recent.add(&self.recent[1]).expect("of one range");
        Spans { since_start: Quantiles::of(&self.total), last_minute: Quantiles::of(&recent) }
    }
}

/// As `/stats` shows it; none where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spans {
    pub since_start: Option<Quantiles>,
    pub last_minute: Option<Quantiles>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    pub lines: u64,
    pub mean_seconds: f64,
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    pub p95_seconds: f64,
    pub p99_seconds: f64,
    pub p999_seconds: f64,
    pub max_seconds: f64,
}

impl Quantiles {
    fn of<C: Counter>(values: &Histogram<C>) -> Option<Quantiles> {
        let at = |quantile| values.value_at_quantile(quantile) as f64 / 1e6;
        (!values.is_empty()).then(|| Quantiles {
            lines: values.len(),
            mean_seconds: (values.mean() / 1e6 * 1e6).round() / 1e6,
            p50_seconds: at(0.5),
            p90_seconds: at(0.9),
            p95_seconds: at(0.95),
            p99_seconds: at(0.99),
            p999_seconds: at(0.999),
            max_seconds: values.max() as f64 / 1e6,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_at_their_edges() {
        let mut latency = Latency::default();
        for us in EDGES_US {
            latency.record(Duration::from_micros(us), 1);
            latency.record(Duration::from_micros(us + 1), 2);
        }
        let mut expected = [3; EDGES_US.len() + 1];
        expected[0] = 1;
        expected[EDGES_US.len()] = 2;
        assert_eq!(latency.buckets.counts, expected);
        let sum: u64 = EDGES_US.iter().map(|us| 3 * us + 2).sum();
        assert_eq!(latency.buckets.sum_us, u128::from(sum));
    }

    #[test]
    fn quantiles_are_within_their_error_and_follow_the_minute() {
        let mut spread = Spread::default();
        let mut latency = Latency::default();
        (1..=100_000).for_each(|us| latency.record(Duration::from_micros(us), 1));
        spread.add(&latency);
        let spans = spread.quantiles();
        let all = spans.since_start.unwrap();
        assert_eq!(spans.last_minute, Some(all));
        assert_eq!(all.lines, 100_000);
        for (found, expected) in
            [(all.p50_seconds, 0.05), (all.p99_seconds, 0.099), (all.max_seconds, 0.1)]
        {
            assert!((found / expected - 1.0).abs() < 0.008, "{found} is not {expected}");
        }
        spread.turn();
        assert!(spread.quantiles().last_minute.is_some());
        spread.turn();
        assert_eq!(spread.quantiles().last_minute, None);
        assert_eq!(spread.quantiles().since_start, Some(all));
    }

    #[test]
    fn what_is_longer_than_a_day_counts_as_a_day() {
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(1_000_000), u64::MAX >> 40);
        assert_eq!(latency.buckets.counts[EDGES_US.len()], u64::MAX >> 40);
        latency.clear();
        assert!(latency.is_empty() && latency.buckets == Buckets::default());
    }
}
