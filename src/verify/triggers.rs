//! What ends it at once.

use super::judge::{Judged, Verdict, certain_slope, too_few_lines};
use crate::baseline::number;
use crate::window::Window;
use config::rollout::Rollout;

/// The first that holds, as it is said.
#[must_use]
pub fn pulled(rollout: &Rollout, windows: &[Window]) -> Option<Judged> {
    windows.iter().find_map(|window| {
        let why = of(rollout, window)?;
        let judged = Judged::new("trigger", Verdict::NoGo, why);
        Some(Judged { instance: Some(window.instance.clone()), ..judged })
    })
}

fn of(rollout: &Rollout, window: &Window) -> Option<String> {
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
    errors(rollout, window).or_else(|| p99(rollout, window)).or_else(|| memory(rollout, window))
}

fn errors(rollout: &Rollout, window: &Window) -> Option<String> {
    let limit = rollout.triggers.error_ratio_max?;
    let recent = window.recent();
    let ratio = recent.error_ratio().filter(|ratio| *ratio > limit)?;
    let enough = too_few_lines(recent.offered(), &rollout.data).is_none();
    enough.then(|| over("error rate", ratio, limit, "of lines"))
}

fn p99(rollout: &Rollout, window: &Window) -> Option<String> {
    let limit = rollout.triggers.p99_max?.as_secs_f64();
    let recent = window.recent();
    let (_, buckets) = recent.slowest()?;
    let p99 = buckets.quantile(0.99).filter(|p99| *p99 > limit)?;
    let enough = too_few_lines(buckets.count(), &rollout.data).is_none();
    enough.then(|| over("p99", p99, limit, "s"))
}

fn memory(rollout: &Rollout, window: &Window) -> Option<String> {
    let limit = rollout.triggers.memory_slope_max? as f64;
    let (low, _) = certain_slope(window, &rollout.data).ok()?;
    (low > limit).then(|| over("memory grows by at least", low, limit, "B/h"))
}

fn over(what: &str, found: f64, limit: f64, unit: &str) -> String {
    format!("{what} {}, of at most {}", number(found, unit), number(limit, unit))
}
