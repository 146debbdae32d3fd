//! What is read off the product while it runs.

use crate::product::{self, Product, Usage};
use crate::report::{Figure, Plot, Scale, Series};
use crate::stub::Stub;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The five that are asked for of every latency.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// A latency's figures, from microseconds.
#[must_use]
pub fn latency_figures(what: &str, histogram: &Histogram<u64>) -> Vec<Figure> {
    QUANTILES
        .iter()
        .map(|(name, quantile)| {
            let ms = histogram.value_at_quantile(*quantile) as f64 / 1e3;
            Figure::less(format!("{what} {name}"), ms, "ms")
        })
        .collect()
}

/// A histogram that the product exports.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `wal commit` of `log_capturer_wal_commit_seconds`, `sync` of that stage.
    pub name: String,
    /// Upper edge in seconds, and how many are below it.
    buckets: Vec<(f64, f64)>,
}

impl Stage {
    /// What the product exports, with everything that it measured before.
    pub fn of(product: &Product) -> Result<Vec<Stage>, product::Error> {
        // Once a second a shard gives away what it measured, and once a second that is added up.
        std::thread::sleep(Duration::from_millis(2_200));
        Ok(Stage::all(&product.metrics_text()?))
    }

    /// All of them in Prometheus' text, summed over their labels.
    #[must_use]
    pub fn all(metrics: &str) -> Vec<Stage> {
        let mut stages: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for line in metrics.lines() {
            let read = || {
                let rest = line.strip_prefix("log_capturer_")?;
                let (name, rest) = rest.split_once("_seconds_bucket{")?;
                let stage = rest.split_once("stage=\"").and_then(|(_, rest)| rest.split_once('"'));
                let name = stage.map_or(name, |(stage, _)| stage);
                let (edge, rest) = rest.split_once("le=\"")?.1.split_once('"')?;
                let count: f64 = rest.rsplit_once(' ')?.1.parse().ok()?;
                Some((name.replace('_', " "), edge.parse::<f64>().ok()?, count))
            };
            let Some((name, edge, count)) = read() else { continue };
            let buckets = stages.entry(name).or_default();
            match buckets.iter_mut().find(|(known, _)| *known == edge) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((edge, count)),
            }
        }
        stages.into_iter().map(|(name, buckets)| Stage { name, buckets }).collect()
    }

    /// Nothing where nothing was measured.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_secs_f64(self::quantile(&self.buckets, quantile).unwrap_or(0.0))
    }

    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        QUANTILES
            .iter()
            .map(|(name, quantile)| {
                let ms = self.quantile(*quantile).as_secs_f64() * 1e3;
                Figure::less(format!("{} {name}", self.name), ms, "ms")
            })
            .collect()
    }
}

/// Of upper edges, and how many are below each. Interpolated within the bucket, as Prometheus does; of the last
/// bucket its lower edge. None where nothing was counted.
#[must_use]
pub fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let rank = quantile * total;
    let mut below = (0.0, 0.0);
    for (edge, count) in buckets {
        if total > 0.0 && *count >= rank && *count > below.1 {
            let share = (rank - below.1) / (count - below.1);
            let edge = if edge.is_finite() { *edge } else { below.0 };
            return Some(below.0 + (edge - below.0) * share);
        }
        below = (*edge, *count);
    }
    None
}

/// A look at the product.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Duration,
    pub usage: Usage,
    /// Entries that the receiver has taken.
    pub entries: u64,
    pub disk_bytes: u64,
    /// Milliseconds, of the lines since the look before.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Looks over time, bounded: where there are too many, every second one is forgotten.
pub struct Timeline {
    start: Instant,
    step: Duration,
    next: Duration,
    data_dir: PathBuf,
    pub samples: Vec<Sample>,
}

const STEP: Duration = Duration::from_millis(250);
const SAMPLES_MAX: usize = 2_000;

impl Timeline {
    #[must_use]
    pub fn start(data_dir: PathBuf) -> Timeline {
        let samples = Vec::with_capacity(SAMPLES_MAX);
        Timeline { start: Instant::now(), step: STEP, next: Duration::ZERO, data_dir, samples }
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes a sample if it is time for one.
    pub fn look(&mut self, product: &Product, stub: &Stub) -> Result<(), product::Error> {
        let at = self.start.elapsed();
        if at < self.next {
            return Ok(());
        }
        let window = stub.take_latency_window();
        let ms = |quantile| window.value_at_quantile(quantile) as f64 / 1e3;
        self.samples.push(Sample {
            at,
            usage: product.usage()?,
            entries: stub.entries_taken(),
            disk_bytes: disk_bytes(&self.data_dir),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        });
        if self.samples.len() == SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.step *= 2;
        }
        self.next = at + self.step;
        Ok(())
    }

    /// Throughput, latency, memory and disk over time.
    #[must_use]
    pub fn plots(&self, group: &str) -> Vec<Plot> {
        let over_time = |value: fn(&Sample) -> f64| {
            self.samples.iter().map(|s| (s.at.as_secs_f64(), value(s))).collect::<Vec<_>>()
        };
        let rates = self.samples.windows(2).map(|pair| {
            let lines = pair[1].entries.saturating_sub(pair[0].entries) as f64;
            (pair[1].at.as_secs_f64(), lines / (pair[1].at - pair[0].at).as_secs_f64())
        });
        let title = |what: &str| {
            if group.is_empty() { what.to_owned() } else { format!("{group}: {what}") }
        };
        let plot = |what: &str, y: &str, series| Plot {
            title: title(what),
            x: "seconds".into(),
            y: y.into(),
            scale: Scale::Linear,
            series,
        };
        vec![
            plot("throughput over time", "lines/s", vec![Series::new("received", rates.collect())]),
            plot(
                "latency over time",
                "ms",
                vec![
                    Series::new("p50", over_time(|s| s.p50_ms)),
                    Series::new("p99", over_time(|s| s.p99_ms)),
                ],
            ),
            plot(
                "memory and disk over time",
                "MiB",
                vec![
                    Series::new("memory", over_time(|s| mib(s.usage.rss_bytes))),
                    Series::new("disk", over_time(|s| mib(s.disk_bytes))),
                ],
            ),
        ]
    }
}

/// What the files under a directory take on disk.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    // What goes away while it is looked at takes nothing.
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            Some(if meta.is_dir() { disk_bytes(&entry.path()) } else { meta.blocks() * 512 })
        })
        .sum()
}

/// CPU time of this program so far: load, stub and looking on.
#[must_use]
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below 1e9"))
}

#[must_use]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[must_use]
pub fn now_ns() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_nanos()).expect("a time before the year 2262")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_read_from_buckets_of_all_shards() {
        let line = |shard, edge, count| {
            format!(
                "log_capturer_wal_commit_seconds_bucket{{shard=\"{shard}\",le=\"{edge}\"}} {count}\n"
            )
        };
        let text: String = [
            line(0, "0.01", 40),
            line(0, "0.1", 50),
            line(0, "+Inf", 50),
            line(1, "0.01", 20),
            line(1, "0.1", 49),
            line(1, "+Inf", 50),
        ]
        .concat();
        let stages = Stage::all(&text);
        assert_eq!((stages.len(), stages[0].name.as_str()), (1, "wal commit"));
        let ms = |quantile| (stages[0].quantile(quantile).as_secs_f64() * 1e3).round();
        assert_eq!((ms(0.3), ms(0.6), ms(0.99), ms(1.0)), (5.0, 10.0, 100.0, 100.0));
        assert!(Stage::all("").is_empty());
    }
}
