//! Loki's limits and the words in which it refuses.

use super::decode::Entry;
use super::labels::Labels;
use super::stats::Reason;
use std::time::Duration;

/// What Loki refuses; [`Limits::loki`] has its defaults, without the rates.
#[derive(Debug, Clone)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub label_names_max: usize,
    pub label_name_bytes_max: usize,
    pub label_value_bytes_max: usize,
    /// Of one tenant.
    pub streams_max: usize,
    pub age_max: Duration,
    pub ahead_max: Duration,
    /// How far an entry may be behind the newest of its stream.
    pub behind_max: Duration,
    /// Of one push, compressed.
    pub body_bytes_max: usize,
    /// Of one push, decompressed: what one ingester takes.
    pub decoded_bytes_max: usize,
    pub metadata_bytes_max: usize,
    pub metadata_pairs_max: usize,
    /// Of all that one tenant sends.
    pub tenant_rate: Option<Rate>,
    pub stream_rate: Option<Rate>,
}

/// Bytes of lines, as a token bucket counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub bytes_per_second: u64,
    pub burst_bytes: u64,
}

impl Limits {
    #[must_use]
    pub fn loki() -> Limits {
        Limits {
            line_bytes_max: 262_144,
            label_names_max: 15,
            label_name_bytes_max: 1_024,
            label_value_bytes_max: 2_048,
            streams_max: 5_000,
            age_max: Duration::from_hours(7 * 24),
            ahead_max: Duration::from_mins(10),
            behind_max: Duration::from_hours(1),
            body_bytes_max: 100 << 20,
            decoded_bytes_max: 4 << 20,
            metadata_bytes_max: 64 << 10,
            metadata_pairs_max: 128,
            tenant_rate: None,
            stream_rate: None,
        }
    }

    /// With Loki's default rates too, which a measurement soon exceeds.
    #[must_use]
    pub fn loki_rates() -> Limits {
        Limits {
            tenant_rate: Some(Rate { bytes_per_second: 4 << 20, burst_bytes: 6 << 20 }),
            stream_rate: Some(Rate { bytes_per_second: 3 << 20, burst_bytes: 15 << 20 }),
            ..Limits::loki()
        }
    }
}

impl Limits {
    pub(super) fn behind_ns_max(&self) -> i64 {
        i64::try_from(self.behind_max.as_nanos()).unwrap_or(i64::MAX)
    }

    pub(super) fn labels_error(&self, labels: &Labels) -> Option<String> {
        let Labels { pairs, canonical } = labels;
        if pairs.is_empty() {
            return Some("error at least one label pair is required per stream".into());
        }
        if pairs.len() > self.label_names_max {
            let (count, max) = (pairs.len(), self.label_names_max);
            return Some(format!(
                "entry for stream '{canonical}' has {count} label names; limit {max}"
            ));
        }
        for (at, (name, value)) in pairs.iter().enumerate() {
            if name.len() > self.label_name_bytes_max {
                return Some(format!("stream '{canonical}' has label name too long: '{name}'"));
            }
            if value.len() > self.label_value_bytes_max {
                return Some(format!("stream '{canonical}' has label value too long: '{value}'"));
            }
            if at > 0 && pairs[at - 1].0 == *name {
                return Some(format!("stream '{canonical}' has duplicate label name: '{name}'"));
            }
        }
        None
    }

    pub(super) fn too_old(&self, labels: &str, timestamp_ns: i64, now_ns: i64) -> String {
        let age_ns_max = i64::try_from(self.age_max.as_nanos()).unwrap_or(i64::MAX);
        format!(
            "entry for stream '{labels}' has timestamp too old: {}, oldest acceptable timestamp is: {}",
            rfc3339(timestamp_ns),
            rfc3339(now_ns.saturating_sub(age_ns_max)),
        )
    }

    pub(super) fn entry_error(
        &self,
        labels: &str,
        entry: &Entry<'_>,
        now_ns: i64,
    ) -> Option<(Reason, String)> {
        let ns = |limit: Duration| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        if entry.timestamp_ns < now_ns.saturating_sub(ns(self.age_max)) {
            return Some((Reason::TooOld, self.too_old(labels, entry.timestamp_ns, now_ns)));
        }
        if entry.timestamp_ns > now_ns.saturating_add(ns(self.ahead_max)) {
            let text = format!(
                "entry for stream '{labels}' has timestamp too new: {}",
                rfc3339(entry.timestamp_ns)
            );
            return Some((Reason::TooNew, text));
        }
        if entry.line.len() > self.line_bytes_max {
            let text = format!(
                "Max entry size '{}' bytes exceeded for stream '{labels}' while adding an entry \
                 with length '{}' bytes",
                self.line_bytes_max,
                entry.line.len(),
            );
            return Some((Reason::LineTooLong, text));
        }
        if entry.metadata_pairs > self.metadata_pairs_max {
            let (pairs, max) = (entry.metadata_pairs, self.metadata_pairs_max);
            let text = format!(
                "stream '{labels}' has too many structured metadata labels: '{pairs}', limit: '{max}'"
            );
            return Some((Reason::Metadata, text));
        }
        if entry.metadata_bytes > self.metadata_bytes_max {
            let (bytes, max) = (entry.metadata_bytes, self.metadata_bytes_max);
            let text = format!(
                "stream '{labels}' has structured metadata too large: '{bytes}' bytes, limit: \
                 '{max}' bytes"
            );
            return Some((Reason::Metadata, text));
        }
        None
    }
}

fn time(ns: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .expect("64 bits of nanoseconds are within the years that jiff knows")
}

pub(super) fn rfc3339(ns: i64) -> String {
    time(ns).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn go_time(ns: i64) -> String {
    time(ns).strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

/// A token bucket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    used_bytes: f64,
    at_ns: i64,
}

impl Bucket {
    /// Takes so many bytes, or none where that is more than is left.
    pub(super) fn take(&mut self, bytes: u64, rate: Rate, now_ns: i64) -> bool {
        let passed = (now_ns - self.at_ns).max(0) as f64 / 1e9;
        self.used_bytes = (self.used_bytes - passed * rate.bytes_per_second as f64).max(0.0);
        self.at_ns = self.at_ns.max(now_ns);
        let fits = self.used_bytes + bytes as f64 <= rate.burst_bytes as f64;
        if fits {
            self.used_bytes += bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { bytes_per_second: 100, burst_bytes: 150 };
        let mut bucket = Bucket::default();
        let second = 1_000_000_000;
        assert!(bucket.take(150, rate, second));
        assert!(!bucket.take(1, rate, second));
        assert!(!bucket.take(101, rate, 2 * second));
        assert!(bucket.take(100, rate, 2 * second));
        assert!(!bucket.take(151, rate, 99 * second), "more than the burst never fits");
    }
}
