//! When a rollout is good: the rules of `log-capturer verify`, in a file of their own.

use crate::error::Errors;
use crate::read::{Reader, Section};
use crate::tree::Node;
use crate::units;
use std::path::Path;
use std::time::Duration;

/// Checked rules. A limit that is not there is off.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub rules: Rules,
    pub data: Data,
    pub triggers: Triggers,
}

/// What has to hold of the whole time.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub health_worst: HealthWorst,
    pub p99_max: Option<Duration>,
    /// Of all lines.
    pub error_ratio_max: Option<f64>,
    /// Of files that were truncated or removed before they were read.
    pub bytes_lost_max: Option<u64>,
    pub memory_bytes_max: Option<u64>,
    /// Bytes an hour.
    pub memory_slope_max: Option<u64>,
    /// Below the baseline, of it.
    pub throughput_drop_max: Option<f64>,
    /// Entries more in the dead-letter queues.
    pub dead_letters_max: Option<usize>,
    pub breakers_closed: bool,
    pub no_restart: bool,
    /// Between instances, of the highest.
    pub spread_max: Option<f64>,
}

/// The worst that `GET /health` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthWorst {
    Healthy,
    Warning,
    Degraded,
}

/// From how much on something is known; below that, nothing is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    pub lines_min: usize,
    pub looks_min: usize,
    pub slope_time_min: Duration,
}

/// What ends it at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Triggers {
    pub error_ratio_max: Option<f64>,
    pub p99_max: Option<Duration>,
    pub memory_slope_max: Option<u64>,
    pub breakers_all_open: bool,
    /// In a row.
    pub unhealthy_looks: usize,
    pub unreached_looks: usize,
    /// The last so long counts, for errors and p99.
    pub over: Duration,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MB: u64 = 1_000_000;
const LOOKS_MAX: usize = 1_000;
const COUNT_MAX: usize = 1_000_000_000;

/// Reads and checks a file.
pub fn load(file: &Path) -> Result<Rollout, Errors> {
    let name = file.display().to_string();
    let text = crate::read(file)?;
    parse(&text, &name)
}

/// Those of an empty file.
#[must_use]
pub fn defaults() -> Rollout {
    parse("version: 1", "the defaults").expect("all keys are optional")
}

pub fn parse(text: &str, file: &str) -> Result<Rollout, Errors> {
    let tree = Node::parse(text).map_err(|problem| Errors::new(file, vec![problem]))?;
    let variable = |name: &str| std::env::var(name).ok();
    let mut reader = Reader::new(&variable);
    let r = &mut reader;
    let mut root = r.root(tree);
    r.integer(&mut root, "version", 1, 1..=1);
    let rollout = Rollout {
        rules: rules(r, &mut root),
        data: data(r, &mut root),
        triggers: triggers(r, &mut root),
    };
    r.finish(root);
    let problems = reader.into_problems();
    if problems.is_empty() { Ok(rollout) } else { Err(Errors::new(file, problems)) }
}

fn rules(r: &mut Reader<'_>, root: &mut Section) -> Rules {
    let s = &mut r.section(root, "rules");
    let worst = [
        ("healthy", HealthWorst::Healthy),
        ("warning", HealthWorst::Warning),
        ("degraded", HealthWorst::Degraded),
    ];
    let rules = Rules {
        health_worst: r.choice(s, "health_worst", HealthWorst::Warning, &worst),
        p99_max: time(r, s, "p99_max", 500 * MS),
        error_ratio_max: share(r, s, "error_ratio_max", 0.01),
        bytes_lost_max: limit(r, s, "bytes_lost_max", 0, SIZE, units::parse_bytes),
        memory_bytes_max: limit(r, s, "memory_max", 200 * MB, SIZE, units::parse_bytes),
        memory_slope_max: limit(r, s, "memory_slope_max", 10 * MB, SLOPE, slope),
        throughput_drop_max: share(r, s, "throughput_drop_max", 0.1),
        dead_letters_max: limit(r, s, "dead_letters_max", 100, "a whole number", count),
        breakers_closed: r.boolean(s, "breakers_closed", true),
        no_restart: r.boolean(s, "no_restart", true),
        spread_max: share(r, s, "spread_max", 0.1),
    };
    finish(r, s);
    rules
}

fn data(r: &mut Reader<'_>, root: &mut Section) -> Data {
    let s = &mut r.section(root, "data");
    let data = Data {
        lines_min: r.integer(s, "lines_min", 1_000, 1..=COUNT_MAX),
        looks_min: r.integer(s, "looks_min", 10, 3..=LOOKS_MAX),
        slope_time_min: r.duration(s, "slope_time_min", 10 * MINUTE, SECOND..=DAY),
    };
    finish(r, s);
    data
}

fn triggers(r: &mut Reader<'_>, root: &mut Section) -> Triggers {
    let s = &mut r.section(root, "triggers");
    let triggers = Triggers {
        error_ratio_max: share(r, s, "error_ratio_max", 0.05),
        p99_max: time(r, s, "p99_max", SECOND),
        memory_slope_max: limit(r, s, "memory_slope_max", 20 * MB, SLOPE, slope),
        breakers_all_open: r.boolean(s, "breakers_all_open", true),
        unhealthy_looks: r.integer(s, "unhealthy_looks", 3, 1..=LOOKS_MAX),
        unreached_looks: r.integer(s, "unreached_looks", 3, 1..=LOOKS_MAX),
        over: r.duration(s, "over", MINUTE, SECOND..=60 * MINUTE),
    };
    finish(r, s);
    triggers
}

fn finish(r: &mut Reader<'_>, section: &mut Section) {
    r.finish(std::mem::take(section));
}

const SIZE: &str = "a size such as 200MB";
const SLOPE: &str = "a size an hour such as 10MB/h";

/// A limit, or `off`; the error of `read` is a hint.
fn limit<T>(
    r: &mut Reader<'_>,
    of: &mut Section,
    key: &'static str,
    default: T,
    expected: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let read = |text: &str| if text == "off" { Ok(None) } else { read(text).map(Some) };
    r.value(of, key, &format!("{expected}, or off"), read).unwrap_or(Some(default))
}

fn time(
    r: &mut Reader<'_>,
    of: &mut Section,
    key: &'static str,
    default: Duration,
) -> Option<Duration> {
    limit(r, of, key, default, "a duration such as 500ms", units::parse_duration)
}

fn share(r: &mut Reader<'_>, of: &mut Section, key: &'static str, default: f64) -> Option<f64> {
    limit(r, of, key, default, "a share such as 10%", parse_share)
}

fn slope(text: &str) -> Result<u64, String> {
    let size = text.strip_suffix("/h").ok_or("write a size and /h, such as 10MB/h")?;
    units::parse_bytes(size.trim_end())
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count <= COUNT_MAX).ok_or_else(String::new)
}

/// `10%` is 0.1; the error is a hint.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let hint = || "write a number from 0 to 100 and %, such as 10%".to_owned();
    let number = text.strip_suffix('%').ok_or_else(hint)?.trim_end();
    let number: f64 = number.parse().map_err(|_| hint())?;
    if (0.0..=100.0).contains(&number) { Ok(number / 100.0) } else { Err(hint()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_the_defaults() {
        let example = parse(include_str!("../examples/rollout.yaml"), "rollout.yaml");
        assert_eq!(example.unwrap_or_else(|errors| panic!("{errors}")), defaults());
    }

    #[test]
    fn limits_are_read_or_off() {
        let text = "rules: { p99_max: 2s, memory_max: off, memory_slope_max: 1MiB/h, spread_max: 2.5%, dead_letters_max: 0 }\n\
                    data: { looks_min: 3 }\ntriggers: { error_ratio_max: off }";
        let Rollout { rules, data, triggers } = parse(text, "r.yaml").unwrap();
        assert_eq!((rules.p99_max, rules.memory_bytes_max), (Some(2 * SECOND), None));
        assert_eq!((rules.memory_slope_max, rules.spread_max), (Some(1 << 20), Some(0.025)));
        assert_eq!((rules.dead_letters_max, data.looks_min), (Some(0), 3));
        assert_eq!(triggers.error_ratio_max, None);
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let text = "version: 2\nrules: { p99_max: 5, error_ratio_max: 1, memory_slope_max: 10MB, health_worst: bad }\n\
                    triggers: { unhealthy_look: 3 }";
        let errors = parse(text, "r.yaml").unwrap_err().to_string();
        for part in [
            "r.yaml:1: version",
            "rules.p99_max: expected a duration such as 500ms, or off, found \"5\"",
            "such as 10%",
            "such as 10MB/h",
            "healthy or warning or degraded",
            "did you mean unhealthy_looks?",
        ] {
            assert!(errors.contains(part), "{part} is missing in {errors}");
        }
    }
}
