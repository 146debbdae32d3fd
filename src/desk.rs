//! Where the API asks the dead-letter queues, each of which is in the hands of its shard.

use crate::dlq::{Filter, Stats};
use crate::lock;
use shards::bell::Bell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// How entries are sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct How {
    /// Added to those they have.
    pub labels: BTreeMap<String, String>,
    /// With the present time, where their own is too old for the sink.
    pub restamp: bool,
}

#[derive(Debug, Clone)]
pub enum What {
    Reprocess(How),
    Purge,
}

/// What a queue is asked for, and where it answers with a number of entries.
#[derive(Debug)]
pub struct Order {
    pub what: What,
    pub filter: Filter,
    answer: Answer,
}

type Answer = Arc<Mutex<Option<Result<u64, String>>>>;

impl Order {
    pub fn answer(&self, answer: Result<u64, String>) {
        *lock(&self.answer) = Some(answer);
    }
}

/// Whoever waits for an answer gets one.
impl Drop for Order {
    fn drop(&mut self) {
        let unanswered = || Err("it was closed before all of that was done; ask again".to_owned());
        lock(&self.answer).get_or_insert_with(unanswered);
    }
}

/// One queue, as the API sees it.
pub struct Slot {
    pub shard: usize,
    pub sink: String,
    /// None until its log was read.
    stats: Mutex<Option<Stats>>,
    orders: Mutex<VecDeque<Order>>,
    bell: Arc<Bell>,
}

/// More are refused.
const ORDERS_MAX: usize = 16;

impl Slot {
    #[must_use]
    pub fn new(shard: usize, sink: &str, bell: Arc<Bell>) -> Slot {
        let (stats, orders) = (Mutex::default(), Mutex::default());
        Slot { shard, sink: sink.to_owned(), stats, orders, bell }
    }

    pub fn next_order(&self) -> Option<Order> {
        lock(&self.orders).pop_front()
    }

    /// Wakes its shard: the next order may be carried out.
    pub fn ring(&self) {
        self.bell.ring();
    }

    pub fn publish(&self, stats: Stats) {
        *lock(&self.stats) = Some(stats);
    }

    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        lock(&self.stats).clone()
    }
}

/// All queues.
#[derive(Default)]
pub struct Desk {
    slots: Vec<Arc<Slot>>,
}

/// Answers that are waited for, each with its queue.
pub struct Asked(Vec<(Arc<Slot>, Answer)>);

impl Desk {
    #[must_use]
    pub fn new(slots: Vec<Arc<Slot>>) -> Desk {
        Desk { slots }
    }

    #[must_use]
    pub fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    #[must_use]
    pub fn slot(&self, shard: usize, sink: &str) -> Arc<Slot> {
        let slot = self.slots.iter().find(|slot| slot.shard == shard && slot.sink == sink);
        slot.expect("there is one for each shard and sink").clone()
    }

    /// Asks every queue that the filter does not rule out; none where one has too much to do.
    pub fn ask(&self, what: &What, filter: &Filter) -> Option<Asked> {
        let meant = |slot: &&Arc<Slot>| filter.sink().is_none_or(|sink| sink == slot.sink);
        let slots: Vec<&Arc<Slot>> = self.slots.iter().filter(meant).collect();
        if slots.iter().any(|slot| lock(&slot.orders).len() >= ORDERS_MAX) {
            return None;
        }
        let ask = |slot: &Arc<Slot>| {
            let answer = Answer::default();
            let (what, filter) = (what.clone(), filter.clone());
            lock(&slot.orders).push_back(Order { what, filter, answer: answer.clone() });
            slot.bell.ring();
            (slot.clone(), answer)
        };
        Some(Asked(slots.into_iter().map(ask).collect()))
    }
}

impl Asked {
    /// How many entries in all, once every queue has answered; or what went wrong, and where.
    #[must_use]
    pub fn answer(&self) -> Option<Result<u64, String>> {
        let mut sum = 0;
        let mut wrong = Vec::new();
        for (slot, answer) in &self.0 {
            match lock(answer).as_ref()? {
                Ok(entries) => sum += entries,
                Err(why) => wrong.push(format!("shard {}, sink {}: {why}", slot.shard, slot.sink)),
            }
        }
        Some(if wrong.is_empty() { Ok(sum) } else { Err(wrong.join("; ")) })
    }
}
