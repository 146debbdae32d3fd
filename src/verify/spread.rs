//! Whether all instances do as well as each other.

use super::judge::{Judged, Verdict, off, too_few_lines, too_few_looks};
use crate::window::Window;
use config::rollout::{Data, Rules};

/// The rules that are about all of them.
pub fn judge(rules: &Rules, data: &Data, windows: &[Window]) -> Vec<Judged> {
    let names = ["spread_rate", "spread_p99"];
    match rules.spread_max {
        None => names.map(off).to_vec(),
        Some(_) if windows.len() < 2 => {
            names.map(|rule| Judged::new(rule, Verdict::Skipped, "one instance")).to_vec()
        }
        Some(limit) => {
            vec![rates(names[0], limit, data, windows), p99(names[1], limit, data, windows)]
        }
    }
}

/// The lowest and the highest, each with its place.
fn ends(values: &[f64]) -> (usize, usize) {
    let order = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    let of = |found: Option<usize>| found.expect("there are two at least");
    (of((0..values.len()).min_by(order)), of((0..values.len()).max_by(order)))
}

fn spread(low: f64, high: f64) -> f64 {
    if high > 0.0 { (high - low) / high } else { 0.0 }
}

fn judged(
    rule: &'static str,
    limit: f64,
    figure: Option<f64>,
    (verdict, why): (Verdict, String),
) -> Judged {
    let judged = Judged::new(rule, verdict, why);
    Judged { figure, limit: Some(limit), unit: "share", ..judged }
}

fn rates(rule: &'static str, limit: f64, data: &Data, windows: &[Window]) -> Judged {
    let rates: Vec<f64> =
        windows.iter().map(|window| window.rate(|of| of.lines).unwrap_or(0.0)).collect();
    let (low, high) = ends(&rates);
    let found = spread(rates[low], rates[high]);
    let few = windows.iter().find_map(|window| {
        let few = too_few_looks(window, data).or_else(|| {
            // As many lines as say something of a rate, on the faster side.
            too_few_lines(windows[high].total.lines, data)
        });
        few.map(|few| format!("{}: {few}", window.instance))
    });
    let why = format!(
        "{} {:.1} lines/s, {} {:.1} lines/s",
        windows[low].instance, rates[low], windows[high].instance, rates[high]
    );
    let result = match few {
        Some(few) => (Verdict::NotEnoughData, few),
        None if found > limit => (Verdict::NoGo, why),
        None => (Verdict::Go, why),
    };
    judged(rule, limit, Some(found), result)
}

fn p99(rule: &'static str, limit: f64, data: &Data, windows: &[Window]) -> Judged {
    let few = windows.iter().find_map(|window| {
        let lines = window.total.slowest().map_or(0.0, |(_, buckets)| buckets.count());
        too_few_lines(lines, data).map(|few| format!("{}: {few}", window.instance))
    });
    if let Some(few) = few {
        return judged(rule, limit, None, (Verdict::NotEnoughData, few));
    }
    let slowest = |window: &Window| {
        let (_, buckets) = window.total.slowest()?;
        Some((buckets.quantile(0.99)?, buckets.edge(0.99)?))
    };
    let found: Vec<(f64, f64)> = windows.iter().filter_map(slowest).collect();
    let p99: Vec<f64> = found.iter().map(|(p99, _)| *p99).collect();
    let (low, high) = ends(&p99);
    let figure = spread(p99[low], p99[high]);
    let why = format!(
        "{} {:.1} ms, {} {:.1} ms",
        windows[low].instance,
        p99[low] * 1e3,
        windows[high].instance,
        p99[high] * 1e3
    );
    let result = match figure > limit {
        false => (Verdict::Go, why),
        // Where in a bucket it is, is worked out and not known.
        true if found[low].1 == found[high].1 => (
            Verdict::NotEnoughData,
            format!("{why}: in one bucket of the histogram, which tells no more"),
        ),
        true => (Verdict::NoGo, why),
    };
    judged(rule, limit, Some(figure), result)
}
