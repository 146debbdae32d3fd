//! What ends it at once. It is looked for at every look, so that each may be wrong by chance only so much less often.

use super::judge::{Judged, Sure, Verdict, certain_slope, too_few_lines};
use crate::baseline::number;
use crate::window::{Window, chance};
use config::rollout::Rollout;

/// The first that holds, as it is said.
#[must_use]
pub fn pulled(rollout: &Rollout, windows: &[Window], sure: Sure) -> Option<Judged> {
    let each = Sure { times: sure.times * windows.len() as f64 };
    windows.iter().find_map(|window| {
        let why = of(rollout, window, each)?;
        let judged = Judged::new("trigger", Verdict::NoGo, why);
        Some(Judged { instance: Some(window.instance.clone()), ..judged })
    })
}

fn of(rollout: &Rollout, window: &Window, sure: Sure) -> Option<String> {
    let triggers = &rollout.triggers;
    if window.missed_in_row >= triggers.unreached_looks {
        let error = window.error.as_deref().unwrap_or_default();
        return Some(format!("not reached {} times in a row: {error}", window.missed_in_row));
    }
    // What is older than an answer that is missing is no news.
    let health = window.health.as_ref().filter(|_| window.missed_in_row == 0)?;
    if window.critical_in_row >= triggers.unhealthy_looks {
        return Some(format!(
            "critical {} times in a row: {}",
            window.critical_in_row, health.unwell
        ));
    }
    if triggers.breakers_all_open && health.breakers_all_open {
        return Some(format!("every breaker is open: {}", health.unwell));
    }
    errors(rollout, window, sure)
        .or_else(|| p99(rollout, window))
        .or_else(|| memory(rollout, window, sure))
}

/// Of a few lines, all of them.
fn errors(rollout: &Rollout, window: &Window, sure: Sure) -> Option<String> {
    let limit = rollout.triggers.error_ratio_max?;
    let recent = window.recent();
    let (low, _) = chance::share(recent.error_lines(), recent.offered(), sure.share(1));
    let ratio = recent.error_ratio().filter(|_| low > limit)?;
    let of = format!("of {:.0} lines", recent.offered());
    Some(format!("{} ({of})", over("error rate", ratio, limit, "of lines")))
}

/// Of any sink, even where the least counts that its bucket may hold.
fn p99(rollout: &Rollout, window: &Window) -> Option<String> {
    let limit = rollout.triggers.p99_max?.as_secs_f64();
    let recent = window.recent();
    recent.to_ack().find_map(|(sink, buckets)| {
        let (low, _) = buckets.bounds(0.99).filter(|(low, _)| *low >= limit)?;
        let p99 = buckets.quantile(0.99).unwrap_or(low);
        let enough = too_few_lines(buckets.count(), &rollout.data).is_none();
        enough.then(|| format!("{} (sink {sink})", over("p99", p99, limit, "s")))
    })
}

fn memory(rollout: &Rollout, window: &Window, sure: Sure) -> Option<String> {
    let limit = rollout.triggers.memory_slope_max? as f64;
    let (low, _) = certain_slope(window, &rollout.data, sure.beyond(1)).ok()?;
    (low > limit).then(|| over("memory grows by at least", low, limit, "B/h"))
}

fn over(what: &str, found: f64, limit: f64, unit: &str) -> String {
    format!("{what} {}, of at most {}", number(found, unit), number(limit, unit))
}
