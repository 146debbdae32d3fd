//! Whether the rules hold: windows against limits, and nothing else.
//!
//! What was measured too little gets no verdict. A latency or a share of errors needs lines, a rate needs looks, and the
//! slope of the memory is certain only where its whole interval is on one side of the limit.

use crate::baseline::file::Baseline;
use crate::baseline::number;
use crate::health::Level;
use crate::window::Window;
use config::rollout::{Data, HealthWorst, Rollout, Rules};
use serde::Serialize;

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
        Judged { rule, instance: None, figure: None, limit: None, unit: "", verdict, why }
    }

    fn figure(self, figure: Option<f64>, limit: f64, unit: &'static str) -> Judged {
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
pub fn judge(rollout: &Rollout, windows: &[Window], baseline: Option<&Baseline>) -> Vec<Judged> {
    let mut all = Vec::new();
    for window in windows {
        let of = Of { rules: &rollout.rules, data: &rollout.data, window };
        let judged = [
            of.reached(rollout.triggers.unreached_looks),
            of.healthy(),
            of.p99(),
            of.errors(),
            of.memory(),
            of.memory_slope(),
            of.throughput(baseline),
            of.dead_letters(),
            of.breakers(),
            of.restarts(),
        ];
        let named = |judged| Judged { instance: Some(window.instance.clone()), ..judged };
        all.extend(judged.into_iter().map(named));
    }
    all.extend(super::spread::judge(&rollout.rules, &rollout.data, windows));
    all
}

/// A limit that is off.
pub fn off(rule: &'static str) -> Judged {
    Judged::new(rule, Verdict::Skipped, "off")
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

    fn p99(&self) -> Judged {
        let rule = "p99";
        let Some(limit) = self.rules.p99_max else { return off(rule) };
        let limit = limit.as_secs_f64();
        let slowest = self.window.total.slowest();
        let p99 = slowest.and_then(|(_, buckets)| buckets.quantile(0.99));
        let lines = slowest.map_or(0.0, |(_, buckets)| buckets.count());
        let sink = slowest.map_or("", |(sink, _)| sink);
        let (verdict, why) = match (too_few_lines(lines, self.data), self.waiting(lines, limit)) {
            (Some(few), _) => (Verdict::NotEnoughData, format!("{few}, were acked")),
            (None, _) if p99.is_none_or(|p99| p99 >= limit) => {
                (Verdict::NoGo, format!("sink {sink}, {lines:.0} lines"))
            }
            (None, Some(waiting)) => (Verdict::NotEnoughData, waiting),
            (None, None) => (Verdict::Go, format!("sink {sink}, {lines:.0} lines")),
        };
        Judged::new(rule, verdict, why).figure(p99, limit, "s")
    }

    /// Lines that are not acked are in no histogram. Where so many have waited for so long, it says nothing.
    fn waiting(&self, acked: f64, limit: f64) -> Option<String> {
        let last = self.window.last()?;
        let (lag, waiting) = (last.lag_seconds, last.unacked_lines);
        let many = waiting > (acked + waiting) * 0.01;
        (lag >= limit && many).then(|| {
            format!("{waiting:.0} lines wait for their ack, the oldest for {lag:.1} s, and are in no figure")
        })
    }

    fn errors(&self) -> Judged {
        let rule = "error_rate";
        let Some(limit) = self.rules.error_ratio_max else { return off(rule) };
        let total = &self.window.total;
        let ratio = total.error_ratio();
        let (verdict, why) = match (too_few_lines(total.offered(), self.data), ratio) {
            (None, Some(ratio)) => (hold(ratio < limit), self.reasons()),
            (few, _) => (Verdict::NotEnoughData, few.unwrap_or_default()),
        };
        Judged::new(rule, verdict, why).figure(ratio, limit, "of lines")
    }

    fn reasons(&self) -> String {
        let errors = self.window.total.errors.iter().filter(|(_, lines)| **lines > 0.0);
        errors
            .map(|(reason, lines)| format!("{reason}: {lines:.0} lines"))
            .collect::<Vec<_>>()
            .join(", ")
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
        let (verdict, why) = match certain_slope(self.window, self.data) {
            Err(why) => (Verdict::NotEnoughData, why),
            Ok((low, high)) => {
                let why =
                    format!("between {} and {} with 95 %", number(low, "B/h"), number(high, "B/h"));
                let verdict = match () {
                    () if low >= limit => Verdict::NoGo,
                    () if high < limit => Verdict::Go,
                    () => Verdict::NotEnoughData,
                };
                (verdict, why)
            }
        };
        Judged::new(rule, verdict, why).figure(figure, limit, "B/h")
    }

    fn throughput(&self, baseline: Option<&Baseline>) -> Judged {
        let rule = "throughput";
        let Some(drop) = self.rules.throughput_drop_max else { return off(rule) };
        let Some(baseline) = baseline else {
            return Judged::new(rule, Verdict::Skipped, "no --baseline");
        };
        let before = rate_of(baseline, &self.window.instance);
        let limit = before * (1.0 - drop);
        let rate = self.window.rate(|of| of.lines);
        let (verdict, why) = match (too_few_looks(self.window, self.data), rate) {
            (None, Some(rate)) => (hold(rate >= limit), format!("baseline {before:.1}")),
            (few, _) => (Verdict::NotEnoughData, few.unwrap_or_default()),
        };
        Judged::new(rule, verdict, why).figure(rate, limit, "1/s")
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

/// Of the instance of that name; or the mean of all, where it is a new one.
fn rate_of(baseline: &Baseline, instance: &str) -> f64 {
    let same = baseline.instances.iter().find(|figures| figures.instance == instance);
    let rates = baseline.instances.iter().map(|figures| figures.lines_per_second);
    let mean = rates.sum::<f64>() / baseline.instances.len().max(1) as f64;
    same.map_or(mean, |figures| figures.lines_per_second)
}

/// The interval of the slope, in bytes an hour; or why it says nothing.
pub fn certain_slope(window: &Window, data: &Data) -> Result<(f64, f64), String> {
    let slope = window.memory_slope().ok_or("too few looks at this process")?;
    let least = data.slope_time_min.as_secs_f64();
    if slope.seconds < least {
        return Err(format!("{:.0} s of this process, of at least {least:.0} s", slope.seconds));
    }
    if let Some(few) = too_few_looks(window, data) {
        return Err(few);
    }
    slope.interval().ok_or_else(|| "its looks depend on each other too much".into())
}

#[cfg(test)]
mod tests;
