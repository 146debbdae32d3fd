//! Who measures, and who adds it up.
//!
//! A shard measures into memory of its own, without an atomic, and once a second hands it over for an
//! empty one ([`Recorder::hand_over`]). The senders of a sink share a [`SinkRecorder`]: once for a push.
//! The control thread adds up both ([`Times::collect`]); who scrapes sees what it had then.

use crate::histogram::{Buckets, Latency, Spans, Spread};
use crate::stage::{ShardTime, SinkTime};
use crossbeam::queue::ArrayQueue;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type ShardSet = [Latency; ShardTime::COUNT];
type SinkSet = [Latency; SinkTime::COUNT];

/// Between a shard and the control thread.
pub struct Exchange {
    full: ArrayQueue<Box<ShardSet>>,
    empty: ArrayQueue<Box<ShardSet>>,
    measures: bool,
}

/// Of one shard, on its thread.
pub struct Recorder {
    exchange: Arc<Exchange>,
    now: RefCell<Box<ShardSet>>,
}

/// A moment from which something is measured; none where nothing is.
pub type Since = Option<Instant>;

impl Recorder {
    #[must_use]
    pub fn new(exchange: Arc<Exchange>) -> Recorder {
        Recorder { exchange, now: RefCell::default() }
    }

    /// Whether what is measured goes there.
    #[must_use]
    pub fn is_for(&self, exchange: &Arc<Exchange>) -> bool {
        Arc::ptr_eq(&self.exchange, exchange)
    }

    #[must_use]
    pub fn start(&self) -> Since {
        self.exchange.measures.then(Instant::now)
    }

    /// So many lines took as long as since then. Gives the present, from which the next stage is measured.
    pub fn passed(&self, time: ShardTime, since: Since, lines: u64) -> Since {
        let now = since.map(|_| Instant::now());
        self.took(time, since, now, lines);
        now
    }

    pub fn took(&self, time: ShardTime, since: Since, until: Since, lines: u64) {
        if let (Some(since), Some(until)) = (since, until) {
            self.record(time, until.saturating_duration_since(since), lines);
        }
    }

    pub fn record(&self, time: ShardTime, took: Duration, lines: u64) {
        if self.exchange.measures {
            self.now.borrow_mut()[time as usize].record(took, lines);
        }
    }

    /// Gives away what was measured, unless nobody took what was given away before.
    pub fn hand_over(&self) {
        if let Some(empty) = self.exchange.empty.pop() {
            let full = self.now.replace(empty);
            self.exchange.full.push(full).expect("there are two: this is the other one");
        }
    }
}

/// Of one sink, for its senders.
pub struct SinkRecorder {
    set: Mutex<Box<SinkSet>>,
    measures: bool,
    /// What takes longer is late.
    objective: Duration,
    lines: AtomicU64,
    late: AtomicU64,
}

impl SinkRecorder {
    #[must_use]
    pub fn start(&self) -> Since {
        self.measures.then(Instant::now)
    }

    /// How long a line may take.
    #[must_use]
    pub fn objective(&self) -> Duration {
        self.objective
    }

    pub fn took(&self, time: SinkTime, since: Since, until: Since, lines: u64) {
        if let (Some(since), Some(until)) = (since, until) {
            self.record([(time, until.saturating_duration_since(since), lines)]);
        }
    }

    /// Lines and how long they took: several at once, for one lock.
    pub fn record(&self, all: impl IntoIterator<Item = (SinkTime, Duration, u64)>) {
        let mut set = lock(&self.set);
        for (time, took, lines) in all {
            if time == SinkTime::SourceToAck {
                // Counted also where nothing is measured: the objective is.
                self.lines.fetch_add(lines, Ordering::Relaxed);
                if took > self.objective {
                    self.late.fetch_add(lines, Ordering::Relaxed);
                }
            }
            if self.measures {
                set[time as usize].record(took, lines);
            }
        }
    }

    /// So many lines did not arrive: they are late for good.
    pub fn refused(&self, lines: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.late.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines that were acked or refused, and those of them that were late.
    #[must_use]
    pub fn acked(&self) -> (u64, u64) {
        // Late ones first: a ratio is never above 1.
        let late = self.late.load(Ordering::Acquire);
        (self.lines.load(Ordering::Relaxed), late)
    }
}

/// What all shards and sinks measured.
pub struct Times {
    exchanges: Vec<Arc<Exchange>>,
    sinks: Vec<Arc<SinkRecorder>>,
    merged: Mutex<Merged>,
}

struct Merged {
    by_shard: Vec<[Buckets; ShardTime::COUNT]>,
    by_sink: Vec<[Buckets; SinkTime::COUNT]>,
    /// Of all shards.
    shards: [Spread; ShardTime::COUNT],
    sinks: Vec<[Spread; SinkTime::COUNT]>,
    turned_at: Option<Instant>,
}

/// Half of what "the last minute" is.
const TURN_INTERVAL: Duration = Duration::from_secs(30);

impl Times {
    /// Where `measures` is false, nothing is measured; lines are held against the objective all the same.
    #[must_use]
    pub fn new(shards: usize, sinks: usize, objective: Duration, measures: bool) -> Times {
        let exchange = || {
            let exchange =
                Exchange { full: ArrayQueue::new(1), empty: ArrayQueue::new(1), measures };
            assert!(exchange.empty.push(Box::default()).is_ok());
            Arc::new(exchange)
        };
        let recorder = || {
            let (lines, late) = (AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(SinkRecorder { set: Mutex::default(), measures, objective, lines, late })
        };
        let merged = Merged {
            by_shard: vec![Default::default(); shards],
            by_sink: vec![Default::default(); sinks],
            shards: Default::default(),
            sinks: (0..sinks).map(|_| Default::default()).collect(),
            turned_at: None,
        };
        Times {
            exchanges: (0..shards).map(|_| exchange()).collect(),
            sinks: (0..sinks).map(|_| recorder()).collect(),
            merged: Mutex::new(merged),
        }
    }

    #[must_use]
    pub fn shard(&self, shard: usize) -> Arc<Exchange> {
        self.exchanges[shard].clone()
    }

    #[must_use]
    pub fn sink(&self, sink: usize) -> Arc<SinkRecorder> {
        self.sinks[sink].clone()
    }

    /// Adds up what came since; once a second. Gives the shards that had something: a shard that runs has,
    /// every second.
    pub fn collect(&self, now: Instant) -> Vec<bool> {
        let mut merged = lock(&self.merged);
        let Merged { by_shard, by_sink, shards, sinks, turned_at } = &mut *merged;
        if now.duration_since(*turned_at.get_or_insert(now)) >= TURN_INTERVAL {
            *turned_at = Some(now);
            shards.iter_mut().chain(sinks.iter_mut().flatten()).for_each(Spread::turn);
        }
        let mut live = Vec::new();
        for (exchange, by_shard) in self.exchanges.iter().zip(by_shard) {
            let set = exchange.full.pop();
            live.push(set.is_some());
            let Some(mut set) = set else { continue };
            take(&mut set[..], by_shard, shards);
            assert!(exchange.empty.push(set).is_ok(), "there are two: this is the other one");
        }
        for ((recorder, by_sink), spreads) in self.sinks.iter().zip(by_sink).zip(sinks) {
            take(&mut lock(&recorder.set)[..], by_sink, spreads);
        }
        live
    }

    /// Of each shard.
    #[must_use]
    pub fn of_shards(&self, time: ShardTime) -> Vec<Buckets> {
        lock(&self.merged).by_shard.iter().map(|shard| shard[time as usize].clone()).collect()
    }

    /// Of each sink.
    #[must_use]
    pub fn of_sinks(&self, time: SinkTime) -> Vec<Buckets> {
        lock(&self.merged).by_sink.iter().map(|sink| sink[time as usize].clone()).collect()
    }

    /// Of all shards together.
    #[must_use]
    pub fn shard_spans(&self, time: ShardTime) -> Spans {
        lock(&self.merged).shards[time as usize].quantiles()
    }

    #[must_use]
    pub fn sink_spans(&self, sink: usize, time: SinkTime) -> Spans {
        lock(&self.merged).sinks[sink][time as usize].quantiles()
    }
}

fn take(from: &mut [Latency], buckets: &mut [Buckets], spreads: &mut [Spread]) {
    for ((latency, buckets), spread) in from.iter_mut().zip(buckets).zip(spreads) {
        buckets.merge(&latency.buckets);
        spread.add(latency);
        latency.clear();
    }
}

/// A panic of whoever held it ends the process.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVE: Duration = Duration::from_millis(500);

    #[test]
    fn nothing_is_lost_however_seldom_it_is_collected() {
        let times = Times::new(2, 1, OBJECTIVE, true);
        let recorder = Recorder::new(times.shard(1));
        let ms = Duration::from_millis;
        for round in 1..=50 {
            recorder.record(ShardTime::Sync, ms(round), 2);
            recorder.hand_over();
            if round % 7 == 0 {
                times.collect(Instant::now());
            }
        }
        for _ in 0..2 {
            times.collect(Instant::now());
            recorder.hand_over();
        }
        let found = times.of_shards(ShardTime::Sync);
        assert_eq!((found[0].count(), found[1].count()), (0, 100));
        assert_eq!(found[1].sum_us, 2 * 1000 * (1..=50).sum::<u128>());
        let spans = times.shard_spans(ShardTime::Sync);
        assert_eq!(spans.since_start.unwrap().lines, 100);
        assert_eq!(times.shard_spans(ShardTime::Read).since_start, None);
    }

    #[test]
    fn lines_are_held_against_the_objective_also_where_nothing_is_measured() {
        for measures in [false, true] {
            let times = Times::new(1, 2, OBJECTIVE, measures);
            let sink = times.sink(1);
            sink.record([
                (SinkTime::SourceToAck, OBJECTIVE, 7),
                (SinkTime::SourceToAck, OBJECTIVE + Duration::from_micros(1), 3),
                (SinkTime::Send, OBJECTIVE * 2, 5),
            ]);
            assert_eq!((sink.acked(), times.sink(0).acked()), ((10, 3), (0, 0)));
            times.collect(Instant::now());
            let measured = times.of_sinks(SinkTime::Send)[1].count();
            assert_eq!(
                (measured, sink.start().is_some()),
                (if measures { 5 } else { 0 }, measures)
            );
        }
    }
}
