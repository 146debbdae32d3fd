//! Whether the rules hold: windows against limits, and nothing else.
//!
//! What was measured too little gets no verdict. Where chance has a part in a figure, it is an interval: the rule does not
//! hold where all of it is beyond the limit, holds where none of it is, and nothing is known in between. [`Sure`] says how
//! wide it is.

pub mod latency;
pub mod throughput;

use crate::baseline::file::Baseline;
use crate::baseline::number;
use crate::health::Level;
use crate::window::{Window, chance};
use config::rollout::{Data, HealthWorst, Rollout, Rules};
use serde::Serialize;

/// How often one rule may say no-go in a whole run, or go, where that is wrong.
pub const CHANCE: f64 = 0.01;

/// How often the rules are judged in a run. Each time, and each comparison of a rule, may be wrong by chance: so each has
/// a share of [`CHANCE`] for a no-go. To go, all of them have to hold, and each has all of it.
#[derive(Debug, Clone, Copy)]
pub struct Sure {
    pub times: f64,
}

impl Sure {
    pub const ONCE: Sure = Sure { times: 1.0 };

    /// For a no-go of one of so many comparisons, on both sides together.
    #[must_use]
    pub fn beyond(self, comparisons: usize) -> f64 {
        2.0 * self.share(comparisons)
    }

    /// On one side.
    #[must_use]
    pub fn share(self, comparisons: usize) -> f64 {
        CHANCE / self.times / comparisons.max(1) as f64
    }

    /// For a go, on both sides together.
    pub const WITHIN: f64 = 2.0 * CHANCE;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Go,
    NoGo,
    NotEnoughData,
    /// It was switched off, or there is nothing to hold it against.
    Skipped,
}

impl Verdict {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Go => "go",
            Verdict::NoGo => "NO-GO",
            Verdict::NotEnoughData => "not enough data",
            Verdict::Skipped => "skipped",
        }
    }

    /// Of all of them.
    #[must_use]
    pub fn of(all: &[Judged]) -> Verdict {
        let any = |verdict| all.iter().any(|judged| judged.verdict == verdict);
        match (any(Verdict::NoGo), any(Verdict::NotEnoughData)) {
            (true, _) => Verdict::NoGo,
            (_, true) => Verdict::NotEnoughData,
            _ => Verdict::Go,
        }
    }
}

/// One rule, of one instance or of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    pub rule: &'static str,
    /// None: of all of them.
    pub instance: Option<String>,
    /// Of a rule that each sink is judged by.
    pub sink: Option<String>,
    pub figure: Option<f64>,
    pub limit: Option<f64>,
    pub unit: &'static str,
    pub verdict: Verdict,
    /// What it is about, where figure and limit do not say it.
    pub why: String,
}

impl Judged {
    #[must_use]
    pub fn new(rule: &'static str, verdict: Verdict, why: impl Into<String>) -> Judged {
        let why = why.into();
        let (instance, sink, figure, limit) = (None, None, None, None);
        Judged { rule, instance, sink, figure, limit, unit: "", verdict, why }
    }

    #[must_use]
    pub fn figure(self, figure: Option<f64>, limit: f64, unit: &'static str) -> Judged {
        let figure = figure.filter(|figure| figure.is_finite());
        Judged { figure, limit: Some(limit), unit, ..self }
    }

    /// What was found, as people read it.
    #[must_use]
    pub fn found(&self) -> String {
        self.figure.map_or_else(|| "-".into(), |figure| number(figure, self.unit))
    }

    #[must_use]
    pub fn allowed(&self) -> String {
        self.limit.map_or_else(String::new, |limit| number(limit, self.unit))
    }
}

/// All rules, in the order of the file.
#[must_use]
pub fn judge(
    rollout: &Rollout,
    windows: &[Window],
    baseline: Option<&Baseline>,
    sure: Sure,
) -> Vec<Judged> {
    let mut all = Vec::new();
    let throughputs = throughput::judge(rollout, windows, baseline, sure);
    for (window, throughput) in windows.iter().zip(throughputs) {
        let (rules, data, instances) = (&rollout.rules, &rollout.data, windows.len());
        let of = Of { rules, data, window, instances, sure };
        let mut judged = vec![of.reached(rollout.triggers.unreached_looks), of.healthy()];
        judged.extend(latency::p99(rules, data, window));
        judged.extend([
            of.errors(),
            of.bytes_lost(),
            of.memory(),
            of.memory_slope(),
            throughput,
            of.dead_letters(),
            of.breakers(),
            of.restarts(),
        ]);
        let named = |judged| Judged { instance: Some(window.instance.clone()), ..judged };
        all.extend(judged.into_iter().map(named));
    }
    all.extend(super::spread::judge(rollout, windows, sure));
    all
}

/// A limit that is off.
pub fn off(rule: &'static str) -> Judged {
    Judged::new(rule, Verdict::Skipped, "off")
}

/// Of an interval: `beyond` where all of it is beyond the limit, `within` where none of it is.
#[must_use]
pub fn certain(beyond: bool, within: bool) -> Verdict {
    match (beyond, within) {
        (true, _) => Verdict::NoGo,
        (false, true) => Verdict::Go,
        (false, false) => Verdict::NotEnoughData,
    }
}

fn hold(holds: bool) -> Verdict {
    if holds { Verdict::Go } else { Verdict::NoGo }
}

/// Why so few lines say nothing; None where they are enough.
#[must_use]
pub fn too_few_lines(lines: f64, data: &Data) -> Option<String> {
    let least = data.lines_min;
    (lines < least as f64).then(|| format!("{lines:.0} lines, of at least {least}"))
}

#[must_use]
pub fn too_few_looks(window: &Window, data: &Data) -> Option<String> {
    let (looks, least) = (window.looks, data.looks_min);
    (looks < least).then(|| format!("{looks} looks, of at least {least}"))
}

/// One look of so many may be missed.
const MISSED_SHARE: usize = 10;

struct Of<'a> {
    rules: &'a Rules,
    data: &'a Data,
    window: &'a Window,
    /// So many are judged.
    instances: usize,
    sure: Sure,
}

impl Of<'_> {
    /// Of an instance that does not answer at the end, nothing is known.
    fn reached(&self, unreached_looks: usize) -> Judged {
        let Window { looks, missed, missed_in_row, error, .. } = self.window;
        let verdict = match *missed_in_row {
            // Of one that answers now and then, too little is known.
            0 if *missed * MISSED_SHARE > looks + missed => Verdict::NotEnoughData,
            0 => Verdict::Go,
            row if row < unreached_looks => Verdict::NotEnoughData,
            _ => Verdict::NoGo,
        };
        let last = error.as_ref().map_or_else(String::new, |error| format!(", {error}"));
        let why = format!("{missed} of {} looks missed{last}", looks + missed);
        Judged::new("reached", verdict, why)
    }

    fn healthy(&self) -> Judged {
        let rule = "healthy";
        let allowed = match self.rules.health_worst {
            HealthWorst::Healthy => Level::Healthy,
            HealthWorst::Warning => Level::Warning,
            HealthWorst::Degraded => Level::Degraded,
        };
        let few = too_few_looks(self.window, self.data);
        match (&self.window.worst, few) {
            (Some(worst), _) if worst.status > allowed => {
                let level = format!("{:?}", worst.status).to_lowercase();
                Judged::new(rule, Verdict::NoGo, format!("{level}: {}", worst.unwell))
            }
            (Some(worst), None) => {
                let level = format!("{:?}", worst.status).to_lowercase();
                Judged::new(
                    rule,
                    Verdict::Go,
                    format!("{level} at worst {}", worst.unwell).trim_end(),
                )
            }
            (_, few) => {
                let missed = self.window.error.clone().unwrap_or_default();
                Judged::new(rule, Verdict::NotEnoughData, few.unwrap_or(missed))
            }
        }
    }

    /// However few lines there are: the share of errors is known the less.
    fn errors(&self) -> Judged {
        let rule = "error_rate";
        let Some(limit) = self.rules.error_ratio_max else { return off(rule) };
        let total = &self.window.total;
        let bounds = |chance| chance::share(total.error_lines(), total.offered(), chance);
        let (low, _) = bounds(self.sure.share(self.instances));
        let (_, high) = bounds(CHANCE);
        let verdict = certain(low >= limit, high < limit);
        let unknown = (verdict == Verdict::NotEnoughData).then(|| {
            let [low, high] = [bounds(CHANCE).0, high].map(|share| number(share, "of lines"));
            format!("between {low} and {high}, of {:.0} lines", total.offered())
        });
        let why = [unknown, Some(self.reasons()).filter(|reasons| !reasons.is_empty())];
        let why = why.into_iter().flatten().collect::<Vec<_>>().join("; ");
        Judged::new(rule, verdict, why).figure(total.error_ratio(), limit, "of lines")
    }

    fn reasons(&self) -> String {
        let errors = self.window.total.errors.iter().filter(|(_, lines)| **lines > 0.0);
        errors
            .map(|(reason, lines)| format!("{reason}: {lines:.0} lines"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Bytes of files that were truncated or removed before they were read. They were lost, however few looks there are.
    fn bytes_lost(&self) -> Judged {
        let rule = "bytes_lost";
        let Some(limit) = self.rules.bytes_lost_max else { return off(rule) };
        let (lost, limit) = (self.window.total.bytes_lost, limit as f64);
        self.seen(rule, lost <= limit).figure(Some(lost), limit, "B")
    }

    fn memory(&self) -> Judged {
        let rule = "memory";
        let Some(limit) = self.rules.memory_bytes_max else { return off(rule) };
        let limit = limit as f64;
        let most = self.window.memory_bytes_max;
        let (verdict, why) = match too_few_looks(self.window, self.data) {
            _ if most >= limit => (Verdict::NoGo, String::new()),
            Some(few) => (Verdict::NotEnoughData, few),
            None => (Verdict::Go, String::new()),
        };
        Judged::new(rule, verdict, why).figure(Some(most), limit, "B")
    }

    fn memory_slope(&self) -> Judged {
        let rule = "memory_slope";
        let Some(limit) = self.rules.memory_slope_max else { return off(rule) };
        let limit = limit as f64;
        let slope = self.window.memory_slope();
        let figure = slope.map(|slope| slope.per_hour);
        let interval = |chance| certain_slope(self.window, self.data, chance);
        let bounds = interval(self.sure.beyond(self.instances))
            .and_then(|(low, _)| interval(Sure::WITHIN).map(|within| (low, within)));
        let (verdict, why) = match bounds {
            Err(why) => (Verdict::NotEnoughData, why),
            Ok((beyond, (low, high))) => {
                let why =
                    format!("between {} and {} with 98 %", number(low, "B/h"), number(high, "B/h"));
                (certain(beyond >= limit, high < limit), why)
            }
        };
        Judged::new(rule, verdict, why).figure(figure, limit, "B/h")
    }

    fn dead_letters(&self) -> Judged {
        let rule = "dead_letters";
        let Some(limit) = self.rules.dead_letters_max else { return off(rule) };
        let more = self.window.dead_letters_more();
        // None is below a limit of none.
        let holds = more < limit as f64 || more <= 0.0;
        self.seen(rule, holds).figure(Some(more), limit as f64, "")
    }

    fn breakers(&self) -> Judged {
        if !self.rules.breakers_closed {
            return off("breakers");
        }
        let openings = self.window.breaker_openings;
        self.seen("breakers", openings == 0).figure(Some(openings as f64), 0.0, "")
    }

    fn restarts(&self) -> Judged {
        if !self.rules.no_restart {
            return off("restarts");
        }
        let restarts = self.window.restarts;
        self.seen("restarts", restarts == 0).figure(Some(restarts as f64), 0.0, "")
    }

    /// What was not seen in so few looks may be there all the same.
    fn seen(&self, rule: &'static str, holds: bool) -> Judged {
        match too_few_looks(self.window, self.data) {
            Some(few) if holds => Judged::new(rule, Verdict::NotEnoughData, few),
            _ => Judged::new(rule, hold(holds), ""),
        }
    }
}

/// The interval of the slope, in bytes an hour, outside of which it is with no more than `chance`; or why it says
/// nothing.
pub fn certain_slope(window: &Window, data: &Data, chance: f64) -> Result<(f64, f64), String> {
    let slope = window.memory_slope().ok_or("too few looks at this process")?;
    let least = data.slope_time_min.as_secs_f64();
    if slope.seconds < least {
        return Err(format!("{:.0} s of this process, of at least {least:.0} s", slope.seconds));
    }
    if let Some(few) = too_few_looks(window, data) {
        return Err(few);
    }
    slope.interval_at(chance).ok_or_else(|| "its looks depend on each other too much".into())
}

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
