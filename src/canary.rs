//! A line that a shard writes by itself, once in a while, so that there is a latency from end to end where
//! nobody logs. It goes the way of a pushed line, in a stream of its own, and counts as no log.

use crate::receive::Receiver;
use perf::metrics;
use shards::stop::{Phase, Stop};
use std::rc::Rc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Options {
    pub shard: usize,
    pub interval: Duration,
    /// Of its stream; no other shard has the same.
    pub labels: Vec<(String, String)>,
}

/// Runs until no lines are taken in any more.
pub async fn run(options: Options, receiver: Rc<Receiver>, counts: metrics::Shard, stop: Stop) {
    for number in 1_u64.. {
        glommio::timer::sleep(options.interval).await;
        if stop.phase() != Phase::Running {
            return;
        }
        let line = format!("canary shard={} number={number}", options.shard);
        // While nothing is taken in there is nothing to measure.
        if receiver.take_own(&options.labels, line.as_bytes()).is_ok() {
            counts.canary_lines.inc();
        }
    }
}
