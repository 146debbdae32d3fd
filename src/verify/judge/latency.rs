//! The time from source to ack, of each sink by itself: one that is quick makes up for none that is slow.

use super::{Judged, Verdict, certain, off, too_few_lines};
use crate::window::Window;
use crate::window::look::Waiting;
use config::rollout::{Data, Rules};
use std::collections::BTreeSet;

const RULE: &str = "p99";
/// Of those that are acked and those that wait.
const WAITING_SHARE: f64 = 0.01;

pub fn p99(rules: &Rules, data: &Data, window: &Window) -> Vec<Judged> {
    let Some(limit) = rules.p99_max else { return vec![off(RULE)] };
    let sinks = sinks([window]);
    if sinks.is_empty() {
        let none = Judged::new(RULE, Verdict::NotEnoughData, "no line was acked by any sink");
        return vec![none.figure(None, limit.as_secs_f64(), "s")];
    }
    sinks.into_iter().map(|sink| one(sink, limit.as_secs_f64(), data, window)).collect()
}

/// That any of the windows knows of.
pub fn sinks<'a>(windows: impl IntoIterator<Item = &'a Window>) -> BTreeSet<&'a str> {
    let of = |window: &'a Window| {
        let waiting = window.last().into_iter().flat_map(|look| look.waiting.keys());
        window.total.to_ack().map(|(sink, _)| sink).chain(waiting.map(String::as_str))
    };
    windows.into_iter().flat_map(of).collect()
}

fn one(sink: &str, limit: f64, data: &Data, window: &Window) -> Judged {
    let buckets = window.total.to_sink(sink);
    let lines = buckets.map_or(0.0, |buckets| buckets.count());
    let told = format!("sink {sink}, {lines:.0} lines");
    let bounds = buckets.and_then(|buckets| buckets.bounds(0.99));
    let (low, high) = bounds.unwrap_or((0.0, f64::INFINITY));
    let waiting = window.last().and_then(|last| last.waiting.get(sink));
    let waiting = waiting.and_then(|waiting| unknown(*waiting, lines, limit));
    let (verdict, why) = match (too_few_lines(lines, data), waiting) {
        (Some(few), _) => (Verdict::NotEnoughData, format!("sink {sink}: {few}, were acked")),
        (None, Some(waiting)) if low < limit => {
            (Verdict::NotEnoughData, format!("sink {sink}: {waiting}"))
        }
        (None, _) => match certain(low >= limit, high <= limit) {
            Verdict::NotEnoughData => {
                let why = format!(
                    "{told}: in the bucket from {} to {} ms, which tells no more; have the limit at an edge",
                    low * 1e3,
                    high * 1e3
                );
                (Verdict::NotEnoughData, why)
            }
            verdict => (verdict, told),
        },
    };
    let p99 = buckets.and_then(|buckets| buckets.quantile(0.99));
    let judged = Judged::new(RULE, verdict, why).figure(p99, limit, "s");
    Judged { sink: Some(sink.to_owned()), ..judged }
}

/// Lines that are not acked are in no histogram. Where so many have waited for so long, it says nothing.
fn unknown(waiting: Waiting, acked: f64, limit: f64) -> Option<String> {
    let Waiting { seconds, lines } = waiting;
    let many = lines > (acked + lines) * WAITING_SHARE;
    (seconds >= limit && many).then(|| {
        format!("{lines:.0} lines wait for their ack, the oldest for {seconds:.1} s, and are in no figure")
    })
}
