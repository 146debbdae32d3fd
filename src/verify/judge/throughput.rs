//! Lines a second against the baseline. Both move by themselves: what counts is the interval of their difference.

use super::{Judged, Sure, Verdict, certain, off, too_few_looks};
use crate::ask::Text;
use crate::baseline::file::Baseline;
use crate::window::batches::Estimate;
use crate::window::figures::Figures;
use crate::window::{Window, names};
use config::rollout::Rollout;

const RULE: &str = "throughput";
/// Fewer instances say nothing of another one.
const INSTANCES_MIN: usize = 3;

/// One for each window.
pub fn judge(
    rollout: &Rollout,
    windows: &[Window],
    baseline: Option<&Baseline>,
    sure: Sure,
) -> Vec<Judged> {
    let every = |judged: Judged| vec![judged; windows.len()];
    let Some(drop) = rollout.rules.throughput_drop_max else { return every(off(RULE)) };
    let Some(baseline) = baseline else {
        return every(Judged::new(RULE, Verdict::Skipped, "no --baseline"));
    };
    let chance = sure.beyond(windows.len());
    let found = counterparts(windows, baseline);
    let one = |(window, found): (&Window, Option<&Figures>)| {
        let few = too_few_looks(window, &rollout.data);
        let rate = window.batches.estimate(|counts, seconds| Some(counts.lines / seconds));
        let (before, of) = match found {
            Some(figures) => known(figures),
            None => others(&baseline.instances),
        };
        let figure = window.rate(|of| of.lines);
        let (Some(rate), Some(before), None) = (rate, before, &few) else {
            let lack = rate.map_or("it was looked at too few times", |_| "");
            let why = few.unwrap_or_else(|| if lack.is_empty() { of.clone() } else { lack.into() });
            let judged = Judged::new(RULE, Verdict::NotEnoughData, why);
            return Judged { figure, unit: "1/s", ..judged };
        };
        let (verdict, interval) = held(rate, before, drop, chance);
        let why = format!("{of} {:.1}; {interval}", before.mean);
        Judged::new(RULE, verdict, why).figure(figure, before.mean * (1.0 - drop), "1/s")
    };
    windows.iter().zip(found).map(one).collect()
}

/// The same instances as they were. One that has moved is still the one.
fn counterparts<'a>(windows: &[Window], baseline: &'a Baseline) -> Vec<Option<&'a Figures>> {
    if let ([_], [figures]) = (windows, baseline.instances.as_slice()) {
        return vec![Some(figures)];
    }
    let ours: Vec<&[String]> = windows.iter().map(|window| &window.addresses[..]).collect();
    let theirs: Vec<&str> = baseline.instances.iter().map(|of| of.instance.as_str()).collect();
    let found = names::counterparts(&ours, &theirs).into_iter();
    found.map(|at| at.map(|at| &baseline.instances[at])).collect()
}

/// Instances of the baseline that nobody looked at: they may be gone, or called otherwise.
#[must_use]
pub fn left_out(windows: &[Window], baseline: &Baseline) -> Option<Judged> {
    let found = counterparts(windows, baseline);
    let is_found = |of: &&Figures| found.iter().flatten().any(|found| std::ptr::eq(*found, *of));
    let left: Vec<&str> = baseline
        .instances
        .iter()
        .filter(|of| !is_found(of))
        .map(|of| of.instance.as_str())
        .collect();
    let why = format!("in the baseline, and not looked at: {}", Text::of(&left.join(", ")));
    (!left.is_empty()).then(|| Judged::new("baseline", Verdict::Skipped, why))
}

/// What it is held against, and how that is called; none where the baseline does not say how sure it is.
fn known(figures: &Figures) -> (Option<Estimate>, String) {
    match figures.rate() {
        Some(rate) => (Some(rate), format!("baseline of {}", Text::of(&figures.instance))),
        None => (None, "the baseline is too short, or of an earlier version: take it anew".into()),
    }
}

/// A new instance is as those of the baseline, and differs from them as they do from each other.
fn others(instances: &[Figures]) -> (Option<Estimate>, String) {
    let n = instances.len() as f64;
    let rates = || instances.iter().map(|figures| figures.lines_per_second);
    let mean = rates().sum::<f64>() / n;
    let squares: f64 = rates().map(|rate| (rate - mean).powi(2)).sum();
    let error = (squares / (n - 1.0) * (1.0 + 1.0 / n)).sqrt();
    let of = format!("no counterpart in the baseline; mean of its {n} instances");
    match instances.len() {
        INSTANCES_MIN.. => (Some(Estimate { mean, error, freedom: n - 1.0 }), of),
        _ => {
            let few = "no counterpart in the baseline, whose instances are too few to say what another does";
            (None, few.into())
        }
    }
}

/// How far it is above the limit.
fn held(rate: Estimate, before: Estimate, drop: f64, chance: f64) -> (Verdict, String) {
    let above = rate.less(before.times(1.0 - drop));
    let beyond = above.mean + above.half_width(chance) < 0.0;
    let half = above.half_width(Sure::WITHIN);
    let verdict = certain(beyond, above.mean - half >= 0.0);
    let interval = format!("{:+.1} from the limit, ± {half:.1} with 98 %", above.mean);
    (verdict, interval)
}
