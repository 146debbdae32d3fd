//! Two baselines side by side. What is compared, by how much it may be worse, and from when on it is known, stands in
//! one table: [`rows`].

use super::file::Baseline;
use crate::window::figures::{Figures, Latency};
use std::cmp::Ordering;

/// Below so many lines, a latency is chance.
pub const LINES_MIN: f64 = 1_000.0;

/// Of memory, bytes an hour: less is none. Over a shorter time it says nothing: a process that has just started grows.
const SLOPE_MIN: f64 = 1e6;
const SLOPE_SECONDS_MIN: f64 = 600.0;

/// Below so many looks, nothing is known.
const LOOKS_MIN: usize = 5;
/// How many standard errors a difference has to be apart for 95 %.
const ERRORS_MIN: f64 = 2.0;
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

/// What of two files belongs together; or why nothing does.
pub fn pairs<'a>(
    a: &'a Baseline,
    b: &'a Baseline,
) -> Result<Vec<(&'a Figures, &'a Figures)>, String> {
    // One that has moved is still the one.
    if let ([one], [other]) = (a.instances.as_slice(), b.instances.as_slice()) {
        return Ok(vec![(one, other)]);
    }
    let names = |of: &Baseline| {
        let names: Vec<&str> =
            of.instances.iter().map(|figures| figures.instance.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let same = |figures: &'a Figures| {
        let found = b.instances.iter().find(|other| other.instance == figures.instance);
        found.map(|other| (figures, other))
    };
    let pairs: Vec<_> = a.instances.iter().filter_map(same).collect();
    if pairs.is_empty() || pairs.len() < a.instances.len() || pairs.len() < b.instances.len() {
        return Err(format!(
            "expected the same instances in both, found {} and {}",
            names(a),
            names(b)
        ));
    }
    Ok(pairs)
}

/// All that is compared of an instance.
#[must_use]
pub fn rows(a: &Figures, b: &Figures, tolerances: &Tolerances) -> Vec<Row> {
    let table = Table { a, b, tolerances };
    let (more, less) = (Ordering::Greater, Ordering::Less);
    let mut rows = vec![
        table.row("lines/s", Name::LinesPerSecond, "1/s", more, |of| {
            Some((of.lines_per_second, of.lines_per_second_error))
        }),
        table.row("bytes/s", Name::BytesPerSecond, "B/s", more, |of| {
            Some((of.bytes_per_second, of.bytes_per_second_error))
        }),
    ];
    rows.extend(table.latencies());
    rows.extend([
        table.row("errors", Name::Errors, "of lines", less, |of| Some((of.error_ratio?, None))),
        table.row("dead letters", Name::DeadLetters, "", less, |of| {
            Some((of.dead_letters_more, None))
        }),
        table.row("CPU", Name::Cpu, "cores", less, |of| Some((of.cpu_cores, of.cpu_cores_error))),
        table.row("memory", Name::Memory, "B", less, |of| Some((of.memory_bytes, None))),
        table.slope(),
        table.row("descriptors", Name::OpenFds, "", less, |of| Some((of.open_fds, None))),
        table.row("threads", Name::Threads, "", less, |of| Some((of.threads, None))),
        table.count("restarts", |of| of.restarts),
        table.count("breaker openings", |of| of.breaker_openings),
    ]);
    rows
}

/// A figure and its standard error, where that is known.
type Known = (f64, Option<f64>);

type Read = fn(&Latency) -> Option<Known>;

const QUANTILES: [(&str, Read); 3] = [
    ("p50", |of| Some((of.p50_seconds?, of.p50_error))),
    ("p95", |of| Some((of.p95_seconds?, of.p95_error))),
    ("p99", |of| Some((of.p99_seconds?, of.p99_error))),
];

struct Table<'a> {
    a: &'a Figures,
    b: &'a Figures,
    tolerances: &'a Tolerances,
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
            (Some((before, error)), Some((after, other))) if looks >= LOOKS_MIN => {
                let both = error.unwrap_or(0.0).hypot(other.unwrap_or(0.0));
                let allowed = (tolerance * before.abs()).max(floor).max(ERRORS_MIN * both);
                judge(before, after, allowed, good)
            }
            _ => Verdict::NotEnough,
        };
        let [before, after] = [before, after].map(|known| known.map(|(value, _)| value));
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

    /// Better or worse only where the intervals have nothing in common; where they do, that is no lack.
    fn slope(&self) -> Row {
        let slope = |of: &Figures| of.memory_bytes_slope;
        let (before, after) = (slope(self.a), slope(self.b));
        let verdict =
            match (before.and_then(|of| of.interval()), after.and_then(|of| of.interval())) {
                (Some(before), Some(after)) if after.0 > before.1 => Verdict::Worse,
                (Some(before), Some(after)) if after.1 < before.0 => Verdict::Better,
                (Some(_), Some(_)) => Verdict::Same,
                _ => Verdict::Shown,
            };
        let large = |of: Option<f64>| of.is_some_and(|of| of.abs() >= SLOPE_MIN);
        let (before, after) = (before.map(|of| of.per_hour), after.map(|of| of.per_hour));
        let short = self.a.seconds.min(self.b.seconds) < SLOPE_SECONDS_MIN;
        let verdict =
            if short || !(large(before) || large(after)) { Verdict::Shown } else { verdict };
        Row { verdict, ..self.of("memory slope", "B/h", before, after) }
    }

    fn count(&self, name: &str, of: impl Fn(&Figures) -> usize) -> Row {
        let (before, after) = (of(self.a) as f64, of(self.b) as f64);
        let verdict = judge(before, after, 0.0, Ordering::Less);
        Row { verdict, ..self.of(name, "", Some(before), Some(after)) }
    }
}

/// `good`: how the second is to be beside the first to be better.
fn judge(before: f64, after: f64, allowed: f64, good: Ordering) -> Verdict {
    if (after - before).abs() <= allowed {
        return Verdict::Same;
    }
    if after.total_cmp(&before) == good { Verdict::Better } else { Verdict::Worse }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let latency = |of: &str, p99: f64| Latency {
            of: of.into(),
            lines: 5_000.0,
            p50_seconds: Some(p99 / 4.0),
            p95_seconds: Some(p99 / 2.0),
            p99_seconds: Some(p99),
            ..Latency::default()
        };
        Figures {
            instance: "a".into(),
            seconds: 60.0,
            looks: 13,
            lines: 5_000.0,
            lines_per_second: 1_000.0,
            bytes_per_second: 1e5,
            latency: vec![latency("read", 0.004), latency("source_to_ack", 0.1)],
            error_ratio: Some(0.0),
            cpu_cores: 0.1,
            memory_bytes: 30e6,
            open_fds: 40.0,
            threads: 8.0,
            ..Figures::default()
        }
    }

    fn verdict(change: impl Fn(&mut Figures), name: &str, given: &[(Name, f64)]) -> Verdict {
        let (a, mut b) = (figures(), figures());
        change(&mut b);
        let rows = rows(&a, &b, &Tolerances::of(given));
        let found = rows.iter().find(|row| row.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {rows:#?}")).verdict
    }

    #[test]
    fn what_is_worse_by_more_than_it_may_is_worse() {
        let rate = |rate: f64| move |of: &mut Figures| of.lines_per_second = rate;
        assert_eq!(verdict(rate(905.0), "lines/s", &[]), Verdict::Same);
        assert_eq!(verdict(rate(895.0), "lines/s", &[]), Verdict::Worse);
        assert_eq!(verdict(rate(1_200.0), "lines/s", &[]), Verdict::Better);
        let wide = [(Name::LinesPerSecond, 0.2)];
        assert_eq!(verdict(rate(895.0), "lines/s", &wide), Verdict::Same);
        let p99 = |p99: f64| move |of: &mut Figures| of.latency[1].p99_seconds = Some(p99);
        assert_eq!(verdict(p99(0.12), "source_to_ack p99", &[]), Verdict::Same);
        assert_eq!(verdict(p99(0.2), "source_to_ack p99", &[]), Verdict::Worse);
        assert_eq!(verdict(p99(0.02), "source_to_ack p99", &[]), Verdict::Better);
        // Half as much again, and no time.
        let read = |of: &mut Figures| of.latency[0].p99_seconds = Some(0.006);
        assert_eq!(verdict(read, "read p99", &[]), Verdict::Same);
        assert_eq!(verdict(|of| of.restarts = 1, "restarts", &[]), Verdict::Worse);
        assert_eq!(verdict(|of| of.dead_letters_more = 1.0, "dead letters", &[]), Verdict::Worse);
        assert_eq!(verdict(|of| of.error_ratio = Some(0.02), "errors", &[]), Verdict::Worse);
    }

    #[test]
    fn what_moves_as_much_by_itself_is_the_same() {
        let slow = |error: f64| {
            move |of: &mut Figures| {
                of.latency[1].p99_seconds = Some(0.2);
                of.latency[1].p99_error = Some(error);
            }
        };
        assert_eq!(verdict(slow(0.04), "source_to_ack p99", &[]), Verdict::Worse);
        assert_eq!(verdict(slow(0.06), "source_to_ack p99", &[]), Verdict::Same);
    }

    #[test]
    fn what_was_measured_too_little_is_no_verdict() {
        let few = |of: &mut Figures| of.latency[1].lines = 999.0;
        assert_eq!(verdict(few, "source_to_ack p50", &[]), Verdict::NotEnough);
        assert_eq!(verdict(|of| of.error_ratio = None, "errors", &[]), Verdict::NotEnough);
        assert_eq!(verdict(|of| of.looks = 4, "lines/s", &[]), Verdict::NotEnough);
        assert_eq!(verdict(|_| (), "memory slope", &[]), Verdict::Shown);
    }

    #[test]
    fn instances_are_paired_by_name_or_alone() {
        let of = |names: &[&str]| {
            let named = |name: &&str| Figures { instance: (*name).into(), ..figures() };
            Baseline::new(names.iter().map(named).collect())
        };
        assert_eq!(pairs(&of(&["a"]), &of(&["b"])).unwrap().len(), 1);
        let both = (of(&["a", "b"]), of(&["b", "a"]));
        let both = pairs(&both.0, &both.1).unwrap();
        assert!(both.len() == 2 && both.iter().all(|(a, b)| a.instance == b.instance));
        for (a, b) in
            [(of(&["a", "b"]), of(&["a"])), (of(&[]), of(&[])), (of(&["a", "b"]), of(&["c", "a"]))]
        {
            assert!(pairs(&a, &b).unwrap_err().contains("the same instances"));
        }
    }

    #[test]
    fn a_tolerance_has_a_known_name_and_a_share() {
        assert_eq!(parse_tolerance("cpu=35%"), Ok((Name::Cpu, 0.35)));
        assert!(
            parse_tolerance("cpus=35%").unwrap_err().contains("lines_per_second, bytes_per_second")
        );
        for text in ["cpu", "cpu=", "cpu=3", "cpu=-1%"] {
            assert!(parse_tolerance(text).is_err(), "{text}");
        }
    }
}
