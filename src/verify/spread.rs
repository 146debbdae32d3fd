//! Whether all instances do as well as each other. Of each, an interval is known: they differ where two have nothing in
//! common even so, and are alike where none of what they may be is too far apart.

use super::judge::latency::sinks;
use super::judge::{Judged, Sure, Verdict, certain, off, too_few_lines, too_few_looks};
use crate::window::Window;
use crate::window::batches::Estimate;
use crate::window::chance;
use config::rollout::{Data, Rollout};

const RATE: &str = "spread_rate";
const P99: &str = "spread_p99";
/// What adding up leaves.
const ROUNDING: f64 = 1e-9;

/// The rules that are about all of them.
pub fn judge(rollout: &Rollout, windows: &[Window], sure: Sure) -> Vec<Judged> {
    let Some(limit) = rollout.rules.spread_max else { return [RATE, P99].map(off).to_vec() };
    if windows.len() < 2 {
        let one = |rule| Judged::new(rule, Verdict::Skipped, "one instance");
        return [RATE, P99].map(one).to_vec();
    }
    let mut all = vec![rates(limit, &rollout.data, windows, sure)];
    let sinks = sinks(windows);
    let count = sinks.len();
    all.extend(sinks.into_iter().map(|sink| {
        // Where p99 may be anything, every difference is one.
        let floor = limit * rollout.rules.p99_max.map_or(0.0, |max| max.as_secs_f64());
        let of = Latency { sink, limit, floor, data: &rollout.data };
        Judged { sink: Some(sink.to_owned()), ..of.judge(windows, sure, count) }
    }));
    all
}

/// All ordered pairs of different ones.
fn pairs<T: Copy>(all: &[T]) -> impl Iterator<Item = (T, T)> {
    let others = move |at: usize| (0..all.len()).filter(move |other| *other != at);
    (0..all.len()).flat_map(move |at| others(at).map(move |other| (all[at], all[other])))
}

fn spread(low: f64, high: f64) -> f64 {
    if high > 0.0 { (high - low) / high } else { 0.0 }
}

fn rates(limit: f64, data: &Data, windows: &[Window], sure: Sure) -> Judged {
    let of =
        |window: &Window| window.batches.estimate(|counts, seconds| Some(counts.lines / seconds));
    let mut known: Vec<(&Window, Estimate)> = Vec::new();
    let mut few: Option<String> = None;
    for window in windows {
        match (of(window), too_few_looks(window, data)) {
            (Some(rate), None) => known.push((window, rate)),
            (_, lack) => {
                let lack = lack.unwrap_or_else(|| "its looks depend on each other too much".into());
                few.get_or_insert(format!("{}: {lack}", window.instance));
            }
        }
    }
    let order = |a: &&(&Window, Estimate), b: &&(&Window, Estimate)| a.1.mean.total_cmp(&b.1.mean);
    let ends = known.iter().min_by(order).zip(known.iter().max_by(order));
    let Some((low, high)) = ends.filter(|_| known.len() > 1) else {
        return told(RATE, limit, None, Verdict::NotEnoughData, few.unwrap_or_default());
    };
    few = few.or_else(|| {
        // As many lines as say something of a rate, on the faster side.
        too_few_lines(high.0.total.lines, data).map(|few| format!("{}: {few}", high.0.instance))
    });
    let rates: Vec<Estimate> = known.iter().map(|(_, rate)| *rate).collect();
    let figure = spread(low.1.mean, high.1.mean);
    let why = format!(
        "{} {:.1} lines/s, {} {:.1} lines/s",
        low.0.instance, low.1.mean, high.0.instance, high.1.mean
    );
    let (verdict, why) = match judge_rates(&rates, limit, sure) {
        Verdict::NoGo if too_few_lines(high.0.total.lines, data).is_none() => (Verdict::NoGo, why),
        Verdict::NotEnoughData if few.is_none() => {
            (Verdict::NotEnoughData, format!("{why}: they move by more than that by themselves"))
        }
        verdict => match few {
            Some(few) => (Verdict::NotEnoughData, few),
            None => (verdict, why),
        },
    };
    told(RATE, limit, Some(figure), verdict, why)
}

fn judge_rates(rates: &[Estimate], limit: f64, sure: Sure) -> Verdict {
    let pair_count = rates.len() * (rates.len() - 1);
    // Of a difference, no less than of the surer side: one width for all is none too narrow.
    let freedom = rates.iter().map(|rate| rate.freedom).fold(f64::INFINITY, f64::min);
    let [beyond, within] =
        [sure.beyond(pair_count), Sure::WITHIN].map(|chance| chance::student(freedom, chance));
    // How far the one is above what the other allows.
    let above = || pairs(rates).map(|(low, high)| low.less(high.times(1.0 - limit)));
    certain(
        above().any(|of| of.mean + beyond * of.error < 0.0),
        above().all(|of| of.mean - within * of.error >= 0.0),
    )
}

struct Latency<'a> {
    sink: &'a str,
    limit: f64,
    /// What is less, in seconds, is no difference.
    floor: f64,
    data: &'a Data,
}

impl Latency<'_> {
    fn judge(&self, windows: &[Window], sure: Sure, sinks: usize) -> Judged {
        let has = |window: &&Window| window.total.to_sink(self.sink).is_some();
        let windows: Vec<&Window> = windows.iter().filter(has).collect();
        if windows.len() < 2 {
            let why = format!("sink {}: one instance has it", self.sink);
            return Judged::new(P99, Verdict::Skipped, why);
        }
        let few = windows.iter().find_map(|window| {
            let lines = window.total.to_sink(self.sink).map_or(0.0, |of| of.count());
            let few = too_few_lines(lines, self.data)?;
            Some(format!("sink {}: {}: {few}", self.sink, window.instance))
        });
        if let Some(few) = few {
            return told(P99, self.limit, None, Verdict::NotEnoughData, few);
        }
        let at = |chance| -> Vec<(f64, f64)> {
            windows.iter().filter_map(|window| interval(window, self.sink, chance)).collect()
        };
        let [beyond, within] = [at(sure.beyond(windows.len() * sinks)), at(Sure::WITHIN)];
        let verdict = certain(
            beyond.len() > 1 && pairs(&beyond).any(|(quick, slow)| self.differ(quick, slow)),
            within.len() == windows.len()
                && pairs(&within).all(|(quick, slow)| self.are_alike(quick, slow)),
        );
        let p99 = |window: &Window| window.total.to_sink(self.sink)?.quantile(0.99);
        let known: Vec<(&str, f64)> = windows
            .iter()
            .filter_map(|window| Some((window.instance.as_str(), p99(window)?)))
            .collect();
        let order = |a: &&(&str, f64), b: &&(&str, f64)| a.1.total_cmp(&b.1);
        let ends = known.iter().min_by(order).zip(known.iter().max_by(order));
        let (figure, shown) = ends.map_or((None, String::new()), |(low, high)| {
            let shown =
                format!("{} {:.1} ms, {} {:.1} ms", low.0, low.1 * 1e3, high.0, high.1 * 1e3);
            (Some(spread(low.1, high.1)), shown)
        });
        let unknown = match verdict {
            Verdict::NotEnoughData => {
                ": the buckets of the histogram, and how they move, tell no more"
            }
            _ => "",
        };
        told(P99, self.limit, figure, verdict, format!("sink {}: {shown}{unknown}", self.sink))
    }

    /// Even the quickest that the one, and the slowest that the other may be.
    fn differ(&self, (_, quick): (f64, f64), (slow, _): (f64, f64)) -> bool {
        slow * (1.0 - self.limit) > quick && slow - quick > self.floor
    }

    fn are_alike(&self, (quick, _): (f64, f64), (_, slow): (f64, f64)) -> bool {
        slow - quick <= (self.limit * slow).max(self.floor) * (1.0 + ROUNDING)
    }
}

/// Where the p99 is: in its bucket, and as far beyond that as the buckets of the parts move.
fn interval(window: &Window, sink: &str, chance: f64) -> Option<(f64, f64)> {
    let (low, high) = window.total.to_sink(sink)?.bounds(0.99)?;
    let parts = |of: fn((f64, f64)) -> f64| {
        window.batches.estimate(|counts, _| {
            let buckets = counts.to_sink(sink).filter(|buckets| buckets.count() > 0.0)?;
            buckets.bounds(0.99).map(of)
        })
    };
    let lows = parts(|(low, _)| low)?;
    let low = low.min(lows.mean - lows.half_width(chance));
    // What is above all edges has none of its own.
    let highs = parts(|(_, high)| high).filter(|_| high.is_finite());
    let high = highs.map_or(f64::INFINITY, |of| high.max(of.mean + of.half_width(chance)));
    Some((low.max(0.0), high))
}

fn told(
    rule: &'static str,
    limit: f64,
    figure: Option<f64>,
    verdict: Verdict,
    why: String,
) -> Judged {
    Judged::new(rule, verdict, why).figure(figure, limit, "share")
}
