//! What `/metrics` answers: Prometheus' text format, or OpenMetrics where that is asked for.

use crate::histogram::{Buckets, EDGES_US};
use crate::recorder::Times;
use crate::stage::{ShardTime, SinkTime};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Version 0.0.4.
    Text,
    /// Version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper with this Accept header likes most, of both.
    #[must_use]
    pub fn accepted(accept: &str) -> Format {
        let quality = |kind: &str| {
            let of = |range: &str| {
                let mut parts = range.split(';').map(str::trim);
                if !parts.next()?.eq_ignore_ascii_case(kind) {
                    return None;
                }
                let mut quality = 1.0;
                for part in parts {
                    let (name, value) = part.split_once('=')?;
                    if name.eq_ignore_ascii_case("q") {
                        quality = value.parse().ok()?;
                    }
                }
                Some(quality)
            };
            accept.split(',').filter_map(of).fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        let text = quality("text/plain");
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }

    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    #[must_use]
    pub fn encode(self, families: &[MetricFamily]) -> Vec<u8> {
        match self {
            Format::Text => {
                let mut out = Vec::new();
                TextEncoder::new().encode(families, &mut out).expect("memory takes everything");
                out
            }
            Format::OpenMetrics => open_metrics(families).into_bytes(),
        }
    }
}

const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

fn open_metrics(families: &[MetricFamily]) -> String {
    let mut out = String::with_capacity(64 << 10);
    for family in families {
        // A counter is named without its suffix; its samples have it.
        let kind = family.get_field_type();
        let name = match kind {
            MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
            _ => family.name(),
        };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        line(&mut out, format_args!("# TYPE {name} {word}"));
        if let Some(unit) =
            name.rsplit_once('_').map(|(_, unit)| unit).filter(|unit| UNITS.contains(unit))
        {
            line(&mut out, format_args!("# UNIT {name} {unit}"));
        }
        line(&mut out, format_args!("# HELP {name} {}", escaped(family.help())));
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match kind {
                MetricType::COUNTER => {
                    let value = metric.get_counter().get_value();
                    sample(&mut out, &format!("{name}_total"), &labels, "", value);
                }
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let count = histogram.get_sample_count();
                    let edges = histogram
                        .get_bucket()
                        .iter()
                        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
                    let last = edges.clone().next_back();
                    for (edge, below) in edges {
                        bucket(&mut out, name, &labels, edge, below);
                    }
                    if last.is_none_or(|(edge, _)| edge.is_finite()) {
                        bucket(&mut out, name, &labels, f64::INFINITY, count);
                    }
                    let sum = histogram.get_sample_sum();
                    sample(&mut out, &format!("{name}_count"), &labels, "", count as f64);
                    sample(&mut out, &format!("{name}_sum"), &labels, "", sum);
                }
                _ => sample(&mut out, name, &labels, "", metric.get_gauge().get_value()),
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

fn bucket(out: &mut String, name: &str, labels: &str, edge: f64, below: u64) {
    // Canonical: always with a point.
    let edge = if edge.is_finite() { format!("{edge:?}") } else { "+Inf".to_owned() };
    sample(out, &format!("{name}_bucket"), labels, &format!("le=\"{edge}\""), below as f64);
}

fn sample(out: &mut String, name: &str, labels: &str, more: &str, value: f64) {
    let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
    let labels = format!("{labels}{comma}{more}");
    let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
    line(out, format_args!("{name}{labels} {value}"));
}

fn labels(pairs: &[LabelPair]) -> String {
    let pair = |pair: &LabelPair| format!("{}=\"{}\"", pair.name(), escaped(pair.value()));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The histograms of [`Times`].
pub struct TimesCollector {
    times: Arc<Times>,
    sinks: Vec<String>,
    descs: Vec<Desc>,
}

const STAGES: (&str, &str) = (
    "log_capturer_stage_seconds",
    "Time that lines spend in each stage of their way, counted by lines. Of shards: read, pipeline, seal, \
     append, sync; of sinks: handoff, send, ack.",
);
const COMMIT: (&str, &str) =
    ("log_capturer_wal_commit_seconds", "Time to write and sync a group of frames.");
const ANSWER: (&str, &str) = (
    "log_capturer_http_answer_seconds",
    "Time from the head of a request for lines to its answer.",
);
const PUSH: (&str, &str) =
    ("log_capturer_push_seconds", "Time from the start of a push to its answer, whatever that is.");
const TO_ACK: (&str, &str) = (
    "log_capturer_source_to_ack_seconds",
    "Time from the notice of a write, or the arrival of a push, to the sink's answer, counted by lines: each \
     as long as the oldest of its frame.",
);

impl TimesCollector {
    #[must_use]
    pub fn new(times: Arc<Times>, sinks: Vec<String>) -> TimesCollector {
        let desc = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.into(), help.into(), labels, HashMap::new()).expect("a name")
        };
        let descs = vec![
            desc(STAGES, &["stage"]),
            desc(COMMIT, &["shard"]),
            desc(ANSWER, &["shard"]),
            desc(PUSH, &["sink"]),
            desc(TO_ACK, &["sink"]),
        ];
        TimesCollector { times, sinks, descs }
    }

    fn shards(&self, time: ShardTime) -> Vec<Metric> {
        let buckets = self.times.of_shards(time);
        let of = |(shard, buckets): (usize, &Buckets)| {
            metric(time.stage(), ("shard", &shard.to_string()), buckets)
        };
        buckets.iter().enumerate().map(of).collect()
    }

    fn sinks(&self, time: SinkTime) -> Vec<Metric> {
        let buckets = self.times.of_sinks(time);
        let of =
            |(sink, buckets): (&String, &Buckets)| metric(time.stage(), ("sink", sink), buckets);
        self.sinks.iter().zip(&buckets).map(of).collect()
    }
}

impl Collector for TimesCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let of_shards = ShardTime::ALL.into_iter().filter(|time| time.stage().is_some());
        let of_sinks = SinkTime::ALL.into_iter().filter(|time| time.stage().is_some());
        let stages = of_shards.flat_map(|time| self.shards(time));
        let stages = stages.chain(of_sinks.flat_map(|time| self.sinks(time)));
        vec![
            family(STAGES, stages.collect()),
            family(COMMIT, self.shards(ShardTime::Commit)),
            family(ANSWER, self.shards(ShardTime::Answer)),
            family(PUSH, self.sinks(SinkTime::Push)),
            family(TO_ACK, self.sinks(SinkTime::SourceToAck)),
        ]
    }
}

fn family((name, help): (&str, &str), metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

fn metric(stage: Option<&str>, (name, value): (&str, &str), buckets: &Buckets) -> Metric {
    let label = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut below = 0;
    let edges = EDGES_US.iter().zip(buckets.counts).map(|(edge, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*edge as f64 / 1e6);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(edges.collect());
    histogram.set_sample_count(buckets.count());
    histogram.set_sample_sum(buckets.sum_us as f64 / 1e6);
    let mut metric = Metric::default();
    let stage = stage.map(|stage| label("stage", stage));
    metric.set_label(std::iter::once(label(name, value)).chain(stage).collect());
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_scraper_likes_most() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, Application/OpenMetrics-Text; q=0.4", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.9", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
