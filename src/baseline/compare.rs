//! Two baselines side by side. What is compared, by how much it may be worse, and from when on it is known, stands in
//! one table: [`rows`].
//!
//! Figures move by themselves, so that their difference is an interval. It is worse where all of that is beyond the
//! tolerance, the same where none of it is, and nothing is known in between.

use super::file::Baseline;
use crate::window::batches::Estimate;
use crate::window::figures::{Figures, Latency, MeanError};
use crate::window::slope::Slope;
use crate::window::{chance, names};
use std::cmp::Ordering;

/// Below so many lines, a latency is chance.
pub const LINES_MIN: f64 = 1_000.0;

/// Of memory, bytes an hour: less is none. Over a shorter time it says nothing: a process that has just started grows.
const SLOPE_MIN: f64 = 1e6;
/// How much steeper it may be: as much as verify allows at all by default.
const SLOPE_ALLOWED: f64 = 10e6;
const SLOPE_SECONDS_MIN: f64 = 600.0;

/// Below so many looks, nothing is known.
const LOOKS_MIN: usize = 5;
/// How often any figure may be called worse, and each the same, where that is wrong.
pub const CHANCE: f64 = 0.01;
/// It need not hurry.
const ACK: &str = "ack";

/// What a tolerance is given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    LinesPerSecond,
    BytesPerSecond,
    SourceToAck,
    Stages,
    Errors,
    DeadLetters,
    Cpu,
    Memory,
    OpenFds,
    Threads,
}

/// Its name, by how much it may be worse by default, and which difference is none in any case.
const NAMES: [(Name, &str, f64, f64); 10] = [
    (Name::LinesPerSecond, "lines_per_second", 0.1, 1.0),
    (Name::BytesPerSecond, "bytes_per_second", 0.1, 100.0),
    (Name::SourceToAck, "source_to_ack", 0.25, 0.002),
    (Name::Stages, "stages", 0.25, 0.002),
    (Name::Errors, "errors", 0.1, 0.001),
    (Name::DeadLetters, "dead_letters", 0.1, 0.0),
    (Name::Cpu, "cpu", 0.2, 0.01),
    (Name::Memory, "memory", 0.2, 4e6),
    (Name::OpenFds, "open_fds", 0.2, 8.0),
    (Name::Threads, "threads", 0.1, 2.0),
];

/// By how much each may be worse.
#[derive(Debug, Clone)]
pub struct Tolerances(Vec<(Name, f64)>);

impl Tolerances {
    /// Those that are given, and the defaults for the others.
    #[must_use]
    pub fn of(given: &[(Name, f64)]) -> Tolerances {
        let of = |(name, _, default, _): &(Name, &str, f64, f64)| {
            let own = given.iter().rev().find(|(given, _)| given == name);
            (*name, own.map_or(*default, |(_, share)| *share))
        };
        Tolerances(NAMES.iter().map(of).collect())
    }

    fn get(&self, name: Name) -> f64 {
        self.0.iter().find(|(known, _)| *known == name).expect("all are there").1
    }
}

/// `NAME=10%`; the error is a hint.
pub fn parse_tolerance(text: &str) -> Result<(Name, f64), String> {
    let (name, share) = text.split_once('=').ok_or("write NAME=10%")?;
    let names = || NAMES.map(|(_, name, ..)| name).join(", ");
    let known = NAMES.iter().find(|(_, known, ..)| *known == name);
    let (name, ..) = known.ok_or_else(|| format!("the name is one of {}", names()))?;
    Ok((*name, config::rollout::parse_share(share)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Same,
    Worse,
    /// Too little was measured, on one side or both.
    NotEnough,
    /// It is shown, and has no part in the outcome.
    Shown,
}

impl Verdict {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Same => "same",
            Verdict::Worse => "WORSE",
            Verdict::NotEnough => "not enough data",
            Verdict::Shown => "",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub instance: String,
    pub name: String,
    pub unit: &'static str,
    pub before: Option<f64>,
    pub after: Option<f64>,
    pub tolerance: Option<f64>,
    pub verdict: Verdict,
}

/// What of two files belongs together, and the instances of either that have no counterpart in the other.
#[derive(Debug, Default)]
pub struct Paired<'a> {
    pub pairs: Vec<(&'a Figures, &'a Figures)>,
    pub alone: Vec<&'a Figures>,
}

/// Or why nothing belongs together.
pub fn pairs<'a>(a: &'a Baseline, b: &'a Baseline) -> Result<Paired<'a>, String> {
    // One that has moved is still the one.
    if let ([one], [other]) = (a.instances.as_slice(), b.instances.as_slice()) {
        return Ok(Paired { pairs: vec![(one, other)], alone: Vec::new() });
    }
    fn names(of: &Baseline) -> Vec<&str> {
        of.instances.iter().map(|figures| figures.instance.as_str()).collect()
    }
    let ours: Vec<&[String]> =
        a.instances.iter().map(|figures| std::slice::from_ref(&figures.instance)).collect();
    let found = names::counterparts(&ours, &names(b));
    let mut paired = Paired::default();
    for (figures, other) in a.instances.iter().zip(&found) {
        match other {
            Some(other) => paired.pairs.push((figures, &b.instances[*other])),
            None => paired.alone.push(figures),
        }
    }
    let left = b.instances.iter().enumerate().filter(|(at, _)| !found.contains(&Some(*at)));
    paired.alone.extend(left.map(|(_, figures)| figures));
    if paired.pairs.is_empty() {
        let text = |of: &Baseline| match names(of).as_slice() {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        return Err(format!(
            "expected the same instances in both, found {} and {}",
            text(a),
            text(b)
        ));
    }
    Ok(paired)
}

/// Of one that has nothing to be compared with.
#[must_use]
pub fn alone(figures: &Figures) -> Row {
    let (before, after, tolerance) = (None, None, None);
    let name = "no counterpart".to_owned();
    let instance = figures.instance.clone();
    Row { instance, name, unit: "", before, after, tolerance, verdict: Verdict::NotEnough }
}

/// All that is compared of an instance.
#[must_use]
pub fn rows(a: &Figures, b: &Figures, tolerances: &Tolerances, instances: usize) -> Vec<Row> {
    let ways = a.latency.len().max(b.latency.len());
    let comparisons = (FIGURES + ways * QUANTILES.len()) * instances.max(1);
    let table = Table { a, b, tolerances, beyond: 2.0 * CHANCE / comparisons as f64 };
    let (more, less) = (Ordering::Greater, Ordering::Less);
    let mut rows = vec![
        table.row("lines/s", Name::LinesPerSecond, "1/s", more, |of| {
            Some(Known::of(of.lines_per_second, of.lines_per_second_error))
        }),
        table.row("bytes/s", Name::BytesPerSecond, "B/s", more, |of| {
            Some(Known::of(of.bytes_per_second, of.bytes_per_second_error))
        }),
    ];
    rows.extend(table.latencies());
    rows.extend([
        table.row("errors", Name::Errors, "of lines", less, |of| {
            Some(Known::Share(of.error_ratio?, of.lines.max(1.0)))
        }),
        table.row("dead letters", Name::DeadLetters, "", less, |of| {
            Some(Known::Exact(of.dead_letters_more))
        }),
        table.row("CPU", Name::Cpu, "cores", less, |of| {
            Some(Known::of(of.cpu_cores, of.cpu_cores_error))
        }),
        table.row("memory", Name::Memory, "B", less, |of| Some(Known::Exact(of.memory_bytes))),
        table.slope(),
        table.row("descriptors", Name::OpenFds, "", less, |of| Some(Known::Exact(of.open_fds))),
        table.row("threads", Name::Threads, "", less, |of| Some(Known::Exact(of.threads))),
        table.count("bytes lost", |of| of.bytes_lost),
        table.count("restarts", |of| of.restarts as f64),
        table.count("breaker openings", |of| of.breaker_openings as f64),
    ]);
    rows
}

/// Of which the interval counts, apart from latencies.
const FIGURES: usize = 5;

/// What is known of a figure.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// It is what it is.
    Exact(f64),
    /// Of so many lines.
    Share(f64, f64),
    Estimate(Estimate),
    /// It moves, and by how much is not known.
    Unsure(f64),
}

impl Known {
    fn of(mean: f64, error: Option<MeanError>) -> Known {
        error.map_or(Known::Unsure(mean), |error| Known::Estimate(error.about(mean)))
    }

    fn value(self) -> f64 {
        match self {
            Known::Exact(value) | Known::Share(value, _) | Known::Unsure(value) => value,
            Known::Estimate(estimate) => estimate.mean,
        }
    }

    /// By how much it is more than `before`, at least and at most; beyond each with no more than half of `chance`.
    fn more_than(self, before: Known, chance: f64) -> Option<(f64, f64)> {
        let around = |middle: f64, half: f64| (middle - half, middle + half);
        match (self, before) {
            (Known::Unsure(_), _) | (_, Known::Unsure(_)) => None,
            (Known::Estimate(after), Known::Estimate(before)) => {
                let more = after.less(before);
                Some(around(more.mean, more.half_width(chance)))
            }
            (Known::Share(after, lines), Known::Share(before, lines_before)) => {
                // Each of the two may be where it is not expected.
                let bounds = |share: f64, lines| chance::share(share * lines, lines, chance / 4.0);
                let (now, then) = (bounds(after, lines), bounds(before, lines_before));
                Some((now.0 - then.1, now.1 - then.0))
            }
            (after, before) => Some(around(after.value() - before.value(), 0.0)),
        }
    }
}

type Read = fn(&Latency) -> Option<Known>;

const QUANTILES: [(&str, Read); 3] = [
    ("p50", |of| Some(Known::of(of.p50_seconds?, of.p50_error))),
    ("p95", |of| Some(Known::of(of.p95_seconds?, of.p95_error))),
    ("p99", |of| Some(Known::of(of.p99_seconds?, of.p99_error))),
];

struct Table<'a> {
    a: &'a Figures,
    b: &'a Figures,
    tolerances: &'a Tolerances,
    /// How often one figure may be called worse where that is wrong, twice.
    beyond: f64,
}

impl Table<'_> {
    fn of(
        &self,
        name: impl Into<String>,
        unit: &'static str,
        before: Option<f64>,
        after: Option<f64>,
    ) -> Row {
        Row {
            instance: self.b.instance.clone(),
            name: name.into(),
            unit,
            before,
            after,
            tolerance: None,
            verdict: Verdict::Shown,
        }
    }

    fn row(
        &self,
        name: impl Into<String>,
        tolerance: Name,
        unit: &'static str,
        good: Ordering,
        of: impl Fn(&Figures) -> Option<Known>,
    ) -> Row {
        let (before, after) = (of(self.a), of(self.b));
        let known = NAMES.iter().find(|(known, ..)| *known == tolerance);
        let floor = known.expect("all are there").3;
        let tolerance = self.tolerances.get(tolerance);
        let looks = self.a.looks.min(self.b.looks);
        let verdict = match (before, after) {
            (Some(before), Some(after)) if looks >= LOOKS_MIN => {
                let allowed = (tolerance * before.value().abs()).max(floor);
                let more = |chance| after.more_than(before, chance);
                let (beyond, within) = (more(self.beyond), more(2.0 * CHANCE));
                beyond.zip(within).map_or(Verdict::NotEnough, |(beyond, within)| {
                    judge(beyond, within, allowed, good)
                })
            }
            _ => Verdict::NotEnough,
        };
        let [before, after] = [before, after].map(|known| known.map(Known::value));
        Row { tolerance: Some(tolerance), verdict, ..self.of(name, unit, before, after) }
    }

    fn latencies(&self) -> Vec<Row> {
        let mut all: Vec<&Latency> = self.a.latency.iter().collect();
        let known = |of: &Latency| self.a.latency.iter().any(|other| other.name() == of.name());
        all.extend(self.b.latency.iter().filter(|of| !known(of)));
        let whole = |latency: &Latency| latency.of == crate::window::look::TO_ACK;
        all.sort_by_key(|latency| (!whole(latency), latency.name()));
        let mut rows = Vec::new();
        for latency in all {
            let name = latency.name();
            let find = |of: &Figures| of.latency.iter().find(|of| of.name() == name).cloned();
            let tolerance = if whole(latency) { Name::SourceToAck } else { Name::Stages };
            // Nothing goes that way on either side.
            if [self.a, self.b].iter().all(|of| find(of).is_none_or(|of| of.lines == 0.0)) {
                continue;
            }
            for (quantile, read) in QUANTILES {
                let of = |figures: &Figures| {
                    find(figures).filter(|of| of.lines >= LINES_MIN).and_then(|of| read(&of))
                };
                let title = format!("{name} {quantile}");
                let row = self.row(title, tolerance, "s", Ordering::Less, of);
                rows.push(if latency.of == ACK {
                    Row { verdict: Verdict::Shown, tolerance: None, ..row }
                } else {
                    row
                });
            }
        }
        rows
    }

    /// Over a short time, or where it is small on both sides, it says nothing.
    fn slope(&self) -> Row {
        let slope = |of: &Figures| of.memory_bytes_slope;
        let (before, after) = (slope(self.a), slope(self.b));
        let known = |slope: Option<Slope>| {
            let (slope, mean) = (slope?, slope?.per_hour);
            let (error, freedom) = (slope.standard_error?, slope.freedom?);
            Some(Known::Estimate(Estimate { mean, error, freedom }))
        };
        let verdict = known(before).zip(known(after)).and_then(|(before, after)| {
            let more = |chance| after.more_than(before, chance);
            Some(judge(more(self.beyond)?, more(2.0 * CHANCE)?, SLOPE_ALLOWED, Ordering::Less))
        });
        let large = |of: Option<f64>| of.is_some_and(|of| of.abs() >= SLOPE_MIN);
        let (before, after) = (before.map(|of| of.per_hour), after.map(|of| of.per_hour));
        let short = self.a.seconds.min(self.b.seconds) < SLOPE_SECONDS_MIN;
        let says = !short && (large(before) || large(after));
        let verdict = verdict.filter(|_| says).unwrap_or(Verdict::Shown);
        Row { verdict, ..self.of("memory slope", "B/h", before, after) }
    }

    fn count(&self, name: &str, of: impl Fn(&Figures) -> f64) -> Row {
        let (before, after) = (of(self.a), of(self.b));
        let more = (after - before, after - before);
        let verdict = judge(more, more, 0.0, Ordering::Less);
        Row { verdict, ..self.of(name, "", Some(before), Some(after)) }
    }
}

/// By how much it is more, surely and likely. `good`: how the second is to be beside the first to be better.
fn judge(surely: (f64, f64), likely: (f64, f64), allowed: f64, good: Ordering) -> Verdict {
    let turned = |(low, high): (f64, f64)| if good.is_gt() { (-high, -low) } else { (low, high) };
    let ((least, most), (_, most_likely)) = (turned(surely), turned(likely));
    match () {
        () if least > allowed => Verdict::Worse,
        () if most < -allowed => Verdict::Better,
        // It may be better as well.
        () if most_likely <= allowed => Verdict::Same,
        () => Verdict::NotEnough,
    }
}

#[cfg(test)]
mod tests;
