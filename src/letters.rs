//! What the sink refuses, in the hands of a shard: into the dead-letter queue of that sink, and from
//! there to the sink again.
//!
//! Entries come with the ack of their frame ([`Letters::add`]). The frame counts as acked when they
//! are durable here ([`Letters::store`]); while the queue is full they wait, and the frame with them.
//! What is sent again goes by a lane of its own through the same egress as everything else
//! ([`Letters::turn`]): so it is judged alike, and holds up nobody.

use crate::desk::{How, Order, Slot, What};
use crate::dlq::replay::{self, Stamps, reason_of};
use crate::dlq::{self, Dlq, DlqError, Origin, PutError, Reason, Record, Stored};
use crate::handoff::{FRAMES_MAX, Frame, Lane};
use crate::track::{Ack, Rejected};
use crate::verdict;
use io::failpoint;
use io::format::Seq;
use io::uring::UringDisk;
use perf::errors::ErrorKey;
use perf::metrics;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    pub dlq: dlq::Options,
    /// The sink's, of frames that name none.
    pub tenant: String,
}

/// Entries that are refused and not durable yet, and the frames that wait for them.
struct Waiting {
    seqs: Vec<Seq>,
    rejected: Vec<Rejected>,
    /// Made of these when it is their turn: records are many times as large, and while the queue is
    /// full, much may wait.
    records: Vec<Record>,
}

/// A frame of the queue that is being sent again.
struct Replay {
    id: Seq,
    /// Made of it, and not handed over.
    frames: VecDeque<Frame>,
    /// Handed over, and not back.
    out: usize,
    records: Vec<Record>,
    /// Which of them are in each of the frames, in their order there.
    placed: HashMap<Seq, Vec<usize>>,
    /// What was refused once more.
    again: Vec<Record>,
    untried: Vec<Record>,
}

/// What the metrics hold of this queue.
#[derive(Default)]
struct Shown {
    entries: BTreeMap<&'static str, i64>,
    bytes: i64,
    bytes_max: i64,
}

/// A tenant of which nothing passes.
struct Held {
    until: Instant,
    wait: Duration,
}

pub struct Letters {
    options: Options,
    dlq: Dlq<UringDisk>,
    /// For what is sent again.
    lane: Arc<Lane>,
    slot: Arc<Slot>,
    counts: metrics::Sink,
    dead: metrics::ByReason,
    waiting: RefCell<VecDeque<Waiting>>,
    not_before: Cell<Option<Instant>>,
    full_said: Cell<bool>,
    replay: RefCell<Option<Replay>>,
    /// How what was asked for is sent, by order: one may come before what the one before asked for
    /// is sent.
    hows: RefCell<BTreeMap<u64, How>>,
    /// An order is being carried out, by this task.
    obeying: Cell<bool>,
    task: RefCell<Option<glommio::Task<()>>>,
    next_seq: Cell<Seq>,
    /// Tenants of which nothing passed, and until when nothing of them is sent again.
    held: RefCell<HashMap<Arc<str>, Held>>,
    /// When the queue was last looked through for what is due.
    looked_at: Cell<Option<Instant>>,
    /// What the metrics say of this queue.
    shown: RefCell<Shown>,
}

/// How often a queue that is full, or that has nothing due, is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Orders of which it is known how they want it, while what they asked for waits.
const HOWS_MAX: usize = 256;
/// A tenant of which nothing passes is left alone for so long, at first and at most.
const HELD_TIME: Duration = Duration::from_secs(5);
const HELD_TIME_MAX: Duration = Duration::from_secs(60);
/// A frame that cannot be read is left alone for so long.
const DAMAGED_NS: i64 = 3600 * 1_000_000_000;

impl Letters {
    pub async fn open(
        options: Options,
        lane: Arc<Lane>,
        slot: Arc<Slot>,
        counts: metrics::Sink,
        dead: metrics::ByReason,
    ) -> Result<Letters, DlqError> {
        let disk = UringDisk::open(&options.dlq.dir, &options.dlq.quarantine).await?;
        let (dlq, found) = Dlq::open(disk, options.dlq.clone()).await?;
        if found.entries > 0 {
            let (shard, sink) = (slot.shard, &slot.sink);
            tracing::info!(
                shard,
                sink,
                entries = found.entries,
                "the dead-letter queue holds entries"
            );
        }
        lane.await_all();
        // What is sent again waits here, and not where others would wait for it.
        lane.give_up(Seq(u64::MAX), None);
        let letters = Letters {
            options,
            dlq,
            lane,
            slot,
            counts,
            dead,
            waiting: RefCell::default(),
            not_before: Cell::new(None),
            full_said: Cell::new(false),
            replay: RefCell::new(None),
            hows: RefCell::default(),
            obeying: Cell::new(false),
            task: RefCell::default(),
            next_seq: Cell::new(Seq(1)),
            held: RefCell::default(),
            looked_at: Cell::new(None),
            shown: RefCell::default(),
        };
        letters.show();
        Ok(letters)
    }

    /// An ack with what was refused of its frames.
    pub fn add(&self, ack: Ack) {
        let Ack { seqs, rejected, .. } = ack;
        self.waiting.borrow_mut().push_back(Waiting { seqs, rejected, records: Vec::new() });
    }

    /// Makes durable what waits; gives the frames that are done with.
    pub async fn store(&self) -> Vec<Seq> {
        let mut settled = Vec::new();
        if self.not_before.get().is_some_and(|at| at > Instant::now()) {
            return settled;
        }
        self.not_before.set(None);
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(mut next) = next else { break };
            for rejected in std::mem::take(&mut next.rejected) {
                let now_ns = perf::clock::unix_ns();
                let Slot { shard, sink, .. } = &*self.slot;
                let tenant = &self.options.tenant;
                next.records.extend(records(&rejected, *shard, sink, tenant, now_ns));
            }
            match self.put(&mut next.records).await {
                Ok(()) => {
                    failpoint::passed("letters.stored");
                    self.full_said.set(false);
                    settled.extend(next.seqs);
                }
                Err(error) => {
                    if !self.full_said.replace(true) {
                        let (shard, sink) = (self.slot.shard, &self.slot.sink);
                        tracing::error!(
                            error_key = ErrorKey::DlqWriteFailed.name(),
                            shard, sink, %error,
                            "refused entries cannot be stored"
                        );
                    }
                    self.waiting.borrow_mut().push_front(next);
                    self.not_before.set(Some(Instant::now() + LOOK_INTERVAL));
                    break;
                }
            }
        }
        if !settled.is_empty() {
            self.show();
        }
        settled
    }

    /// Stores all; what is not stored is left in `records`.
    async fn put(&self, records: &mut Vec<Record>) -> Result<(), PutError> {
        let reasons: Vec<Reason> = records.iter().map(|record| record.reason.clone()).collect();
        match self.dlq.put(records).await {
            Ok(Stored { dropped }) => {
                self.count_stored(reasons.iter());
                self.counts.dlq_dropped.inc_by(dropped);
                Ok(())
            }
            Err(error) => {
                if let PutError::Full { left, .. } | PutError::Failed { left, .. } = &error {
                    let mut at = 0..;
                    // They are in their order.
                    let is_left = |at: usize| left.binary_search(&at).is_ok();
                    let stored = reasons.iter().enumerate().filter(|(at, _)| !is_left(*at));
                    self.count_stored(stored.map(|(_, reason)| reason));
                    records.retain(|_| is_left(at.next().expect("without end")));
                }
                if let PutError::Full { dropped, .. } = &error {
                    self.counts.dlq_dropped.inc_by(*dropped);
                }
                Err(error)
            }
        }
    }

    fn count_stored<'a>(&self, reasons: impl Iterator<Item = &'a Reason>) {
        reasons.for_each(|reason| self.dead.stored(reason.known_name(), 1));
    }

    /// What was asked of the queue, what came back of what was sent again, and what is due: a step at
    /// a time. True where there may be more to do at once.
    pub async fn turn(self: &Rc<Self>, draining: bool) -> bool {
        let mut more = false;
        // A long queue takes its time, and nothing else is to wait for it.
        if !draining
            && !self.obeying.get()
            && let Some(order) = self.slot.next_order()
        {
            self.obeying.set(true);
            let letters = self.clone();
            let task = glommio::spawn_local(async move { letters.obey(order).await });
            self.task.replace(Some(task));
        }
        while let Some(ack) = self.lane.next_ack() {
            self.came_back(ack);
        }
        more |= self.finish_replay().await;
        if !draining {
            self.hand_over();
            more |= self.start_replay().await;
        }
        more
    }

    /// Before the shard ends: an order that is still under way is left as it is. Whoever opens the queue
    /// next shows what is in it.
    pub async fn end(&self) {
        let task = self.task.take();
        if let Some(task) = task {
            task.cancel().await;
        }
        while self.slot.next_order().is_some() {}
        self.show_in_place(Shown::default());
    }

    async fn obey(&self, order: Order) {
        let now_ns = perf::clock::unix_ns();
        let done = match &order.what {
            What::Purge => self.dlq.purge(&order.filter, now_ns).await,
            What::Reprocess(how) => {
                self.held.borrow_mut().clear();
                let number = self.number(how);
                self.looked_at.set(None);
                self.dlq.request(&order.filter, now_ns, number).await
            }
        };
        self.show();
        order.answer(done.map_err(|error| error.to_string()));
        self.looked_at.set(None);
        self.obeying.set(false);
        self.slot.ring();
    }

    /// Notes how an order wants what it asks for to be sent.
    fn number(&self, how: &How) -> u64 {
        let mut hows = self.hows.borrow_mut();
        let number = hows.last_key_value().map_or(1, |(last, _)| last + 1);
        hows.insert(number, how.clone());
        if hows.len() > HOWS_MAX {
            hows.pop_first();
        }
        number
    }

    async fn start_replay(&self) -> bool {
        let now = Instant::now();
        let looked = self.looked_at.get().is_some_and(|at| now.duration_since(at) < LOOK_INTERVAL);
        if looked || self.replay.borrow().is_some() {
            return false;
        }
        let now_ns = perf::clock::unix_ns();
        self.held.borrow_mut().retain(|_, held| held.until + HELD_TIME_MAX > now);
        let held = |tenant: &str| self.held.borrow().get(tenant).is_some_and(|of| of.until > now);
        let Some(id) = self.dlq.due(now_ns, &self.options.dlq.backoff, held).await else {
            self.looked_at.set(Some(now));
            return false;
        };
        let records = match self.dlq.read(id).await {
            Ok(records) if !records.is_empty() => records,
            other => {
                let error = other.err().map(|error| error.to_string());
                tracing::error!(
                    error_key = ErrorKey::DlqUnreadable.name(),
                    %id, error,
                    "a frame of the dead-letter queue cannot be sent again"
                );
                self.dlq.postpone(id, now_ns.saturating_add(DAMAGED_NS)).await;
                return true;
            }
        };
        let order = self.dlq.requested(id).await;
        let how = self.hows.borrow().get(&order).cloned().unwrap_or_default();
        let mut stamps = how.restamp.then(|| Stamps::new(now_ns));
        let (mut frames, mut placed) = (VecDeque::new(), HashMap::new());
        for part in replay::frames(&records, &how.labels, stamps.as_mut()) {
            let seq = self.next_seq.replace(self.next_seq.get().next());
            frames.push_back(Frame { seq, ..part.frame() });
            placed.insert(seq, part.records().collect());
        }
        let (again, untried) = (Vec::new(), Vec::new());
        let replay = Replay { id, frames, out: 0, records, placed, again, untried };
        *self.replay.borrow_mut() = Some(replay);
        self.hand_over();
        false
    }

    fn hand_over(&self) {
        let mut replay = self.replay.borrow_mut();
        let Some(replay) = replay.as_mut() else { return };
        // No more than the way back holds, however fast the senders take them.
        while replay.out < FRAMES_MAX
            && let Some(frame) = replay.frames.pop_front()
        {
            if let Err(frame) = self.lane.frames.push(frame) {
                replay.frames.push_front(frame);
                break;
            }
            replay.out += 1;
        }
    }

    fn came_back(&self, ack: Ack) {
        let mut replay = self.replay.borrow_mut();
        let replay = replay.as_mut().expect("only what is under way comes back");
        replay.out -= ack.seqs.len();
        let now_ns = perf::clock::unix_ns();
        for rejected in &ack.rejected {
            let (reason, status) = (reason(rejected), rejected.status);
            for place in rejected.part.places() {
                let mut record = replay.records[replay.placed[&rejected.seq][place]].clone();
                if reason == Reason::Held {
                    // No attempt: nothing of its tenant passes now.
                    replay.untried.push(record);
                } else {
                    record.rejected_again(Some(reason.clone()), status, &rejected.text, now_ns);
                    replay.again.push(record);
                }
            }
        }
    }

    async fn finish_replay(&self) -> bool {
        let done = self.replay.borrow_mut().take_if(|r| r.out == 0 && r.frames.is_empty());
        let Some(replay) = done else { return false };
        let tenant = replay.records[0].tenant.as_str();
        if replay.untried.len() == replay.records.len() {
            self.hold(tenant);
            return true;
        }
        self.held.borrow_mut().remove(tenant);
        match self.dlq.settle_tried(replay.id, &replay.again, &replay.untried).await {
            Ok(()) => self.counts.dlq_replayed.inc(),
            Err(error) => {
                // It is still there: sent again later, Loki knows it.
                tracing::error!(
                    error_key = ErrorKey::DlqWriteFailed.name(),
                    %error,
                    "what was sent again cannot be taken out of the queue"
                );
                let until_ns = perf::clock::unix_ns().saturating_add(60_000_000_000);
                self.dlq.postpone(replay.id, until_ns).await;
            }
        }
        self.show();
        self.looked_at.set(None);
        true
    }

    /// Nothing of a tenant passes: it is left alone for a while, and for longer each time.
    fn hold(&self, tenant: &str) {
        let mut held = self.held.borrow_mut();
        let wait = held.get(tenant).map_or(HELD_TIME, |of| (2 * of.wait).min(HELD_TIME_MAX));
        held.insert(tenant.into(), Held { until: Instant::now() + wait, wait });
    }

    /// Publishes how the queue stands.
    fn show(&self) {
        let stats = self.dlq.stats();
        let i64_of = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut entries: BTreeMap<&'static str, i64> = BTreeMap::new();
        for (reason, count) in &stats.by_reason {
            *entries.entry(reason.known_name()).or_default() += i64_of(*count);
        }
        let (bytes, bytes_max) = (i64_of(stats.bytes), i64_of(stats.usable_bytes_max));
        self.show_in_place(Shown { entries, bytes, bytes_max });
        self.slot.publish(stats);
    }

    /// In place of what was shown before.
    fn show_in_place(&self, shown: Shown) {
        let (bytes, bytes_max) = (shown.bytes, shown.bytes_max);
        shown.entries.iter().for_each(|(reason, count)| self.dead.entries(reason, *count));
        let before = self.shown.replace(shown);
        before.entries.iter().for_each(|(reason, count)| self.dead.entries(reason, -count));
        self.counts.dlq_bytes.add(bytes - before.bytes);
        self.counts.dlq_bytes_max.add(bytes_max - before.bytes_max);
    }
}

fn reason(rejected: &Rejected) -> Reason {
    match rejected.reason {
        verdict::Reason::Refused => reason_of(rejected.status.unwrap_or(0), &rejected.text),
        verdict::Reason::TooOld => Reason::TooOld,
        verdict::Reason::Failing => Reason::Failing,
        verdict::Reason::StreamLimited => Reason::StreamLimited,
        verdict::Reason::Held => Reason::Held,
    }
}

/// What was rejected, entry by entry; `tenant` is the sink's.
pub(crate) fn records(
    rejected: &Rejected,
    shard: usize,
    sink: &str,
    tenant: &str,
    now_ns: i64,
) -> Vec<Record> {
    let here = u32::try_from(shard).expect("a small number");
    let origin = Origin { shard: here, frame: rejected.seq.0 };
    let reason = reason(rejected);
    let tenant = if rejected.tenant.is_empty() { tenant } else { &*rejected.tenant };
    let record = |entry: crate::part::Taken<'_>| Record {
        sink: sink.to_owned(),
        tenant: tenant.to_owned(),
        labels: entry.labels.to_owned(),
        timestamp_ns: entry.stamp_ns,
        line: entry.line.to_vec(),
        metadata: entry.metadata.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        origin,
        arrived_ns: rejected.oldest_arrival_ns,
        reason: reason.clone(),
        status: rejected.status,
        text: dlq::record::limit_text(&rejected.text).to_owned(),
        attempts: 0,
        first_rejected_ns: now_ns,
        rejected_ns: now_ns,
    };
    rejected.part.entries().map(record).collect()
}
