//! From a shard to egress and back: frames within a credit, acks, and the backlog in the log.
//!
//! A frame goes over from memory when it became durable, while the credit lasts. Where it does not,
//! the shard drops the bytes and remembers where it was; later it reads them back from its own log.
//! So memory stays flat however long a sink is away.
//!
//! Lines from files were collected for `linger` before they came here. Pushed ones come with every
//! commit: their frames are collected here, so that a sink gets some pushes a second and not thousands.

use io::disk::Disk;
use io::format::Seq;
use io::wal::{Backlog, Durable, Wal};
use shards::bell::Bell;
use shards::credit::Credit;
use shards::ring::Ring;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

/// A durable frame on its way to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub seq: Seq,
    pub tenant: String,
    pub oldest_arrival_ns: i64,
    pub raw_len: u32,
    pub entries: u32,
    /// One snappy block.
    pub body: Vec<u8>,
}

impl Frame {
    fn of(durable: Durable) -> Frame {
        Frame {
            seq: durable.seq,
            tenant: String::from_utf8_lossy(&durable.tag).into_owned(),
            oldest_arrival_ns: durable.oldest_arrival_ns,
            raw_len: durable.raw_len,
            entries: durable.entries,
            body: durable.body,
        }
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64
    }

    #[cfg(test)]
    pub fn for_tests() -> Frame {
        Frame {
            seq: Seq(1),
            tenant: String::new(),
            oldest_arrival_ns: 0,
            raw_len: 0,
            entries: 1,
            body: Vec::new(),
        }
    }
}

/// What became of frames that went over, in their order.
#[derive(Debug)]
pub enum Ack {
    /// The sink stored these frames; `last` is the highest, `bytes` those of their bodies.
    Delivered { last: Seq, frames: usize, bytes: u64 },
    /// The sink refuses this frame for good.
    Rejected { frame: Frame, reason: String },
}

/// The two rings between a shard and egress: a lane. Frames of a lane keep their order.
pub struct Lane {
    pub frames: Ring<Frame>,
    acks: Ring<Ack>,
    /// The shard cannot go on without acks. Else they wait until it wakes for another reason, a
    /// second at most: a wake-up for each push would cost more than the push.
    awaited: AtomicBool,
}

/// How many frames may be under way, where they are so small that the credit allows more.
const FRAMES_MAX: usize = 1024;
/// What one read of the backlog takes at most.
const READ_BYTES_MAX: u64 = 1 << 20;

impl Lane {
    #[must_use]
    pub fn new(egress: Arc<Bell>, shard: Arc<Bell>) -> Lane {
        // At most one ack for each frame: the way back never fills.
        Lane {
            frames: Ring::new(FRAMES_MAX, egress),
            acks: Ring::new(FRAMES_MAX, shard),
            awaited: AtomicBool::new(false),
        }
    }

    /// Tells the shard what became of its frames.
    pub fn ack(&self, ack: Ack) {
        let urgent = matches!(ack, Ack::Rejected { .. });
        self.acks.push_quietly(ack).expect("the way back holds an ack for each frame");
        // Against [`Handoff::await_acks`]: one of the two sees what the other did.
        fence(Ordering::SeqCst);
        if urgent || self.awaited.load(Ordering::Relaxed) {
            self.acks.announce();
        }
    }
}

/// Waiting frames of more than this go over, however short they have been collected.
const COLLECTED_BYTES_MAX: u64 = 256 << 10;

/// Where the next frames come from.
enum Way<D: Disk> {
    /// Everything durable went over, or waits here to.
    Memory,
    /// The credit ran out: from here on they are read back.
    Log(Backlog<D>),
    /// They are being read back just now.
    Reading,
}

/// The shard's end of a lane: pure bookkeeping, [`crate::ingest`] moves it.
pub struct Handoff<D: Disk> {
    lane: Arc<Lane>,
    credit: Credit,
    under_way: usize,
    /// Frames that the credit has room for and that have not gone over.
    waiting: VecDeque<Frame>,
    waiting_bytes: u64,
    /// How long pushed lines are collected.
    linger: Duration,
    /// When frames went over last, and until when those that wait are collected.
    sent_at: Option<Instant>,
    collected_at: Option<Instant>,
    way: Way<D>,
}

impl<D: Disk> Handoff<D> {
    /// Starts with what an earlier run left in the log.
    pub fn new(lane: Arc<Lane>, bytes_max: u64, linger: Duration, wal: &Wal<D>) -> Self {
        let ladder = wal.ladder();
        let next = ladder.acked.0.next();
        let behind = next <= ladder.durable.0;
        Handoff {
            lane,
            credit: Credit::new(bytes_max),
            under_way: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            linger,
            sent_at: None,
            collected_at: None,
            way: if behind { Way::Log(Backlog::new(next, None)) } else { Way::Memory },
        }
    }

    /// Frames just made durable. Those that the credit has no room for are read back later.
    pub fn durable(&mut self, frames: Vec<Durable>, now: Instant) {
        self.collect(frames.iter().any(|frame| frame.sourced), now);
        for frame in frames {
            let Way::Memory = self.way else { return };
            let idle = self.credit.out() + self.waiting_bytes == 0;
            if idle || self.credit.allows(self.waiting_bytes + frame.body.len() as u64) {
                self.enqueue(frame);
            } else {
                self.way = Way::Log(Backlog::new(frame.seq, None));
            }
        }
    }

    /// Until when what waits, and more that comes now, is collected. After a rest the first goes at once,
    /// and frames keep their order: what goes at once takes those before it along.
    fn collect(&mut self, goes_at_once: bool, now: Instant) {
        let rested = self.sent_at.is_none_or(|at| now.duration_since(at) >= self.linger);
        if goes_at_once || (self.waiting.is_empty() && rested) {
            self.collected_at = None;
        } else if self.waiting.is_empty() {
            self.collected_at = self.sent_at.map(|at| at + self.linger);
        }
    }

    /// How long the waiting frames are still collected.
    #[must_use]
    pub fn collects_for(&self, now: Instant) -> Option<Duration> {
        let until = self.collected_at.filter(|_| !self.waiting.is_empty())?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero() && self.waiting_bytes < COLLECTED_BYTES_MAX).then_some(left)
    }

    fn enqueue(&mut self, frame: Durable) {
        let frame = Frame::of(frame);
        self.waiting_bytes += frame.bytes();
        self.waiting.push_back(frame);
    }

    /// Hands over what the credit allows.
    pub fn send(&mut self, wal: &Wal<D>, now: Instant) {
        if !self.waiting.is_empty() {
            self.sent_at = Some(now);
        }
        while let Some(bytes) = self.waiting.front().map(Frame::bytes)
            && self.credit.allows(bytes)
            && self.under_way < FRAMES_MAX
        {
            let frame = self.waiting.pop_front().expect("just seen");
            self.waiting_bytes -= bytes;
            self.credit.take(bytes);
            self.under_way += 1;
            wal.sent(frame.seq);
            self.lane.frames.push(frame).expect("no more are under way than the ring holds");
        }
    }

    /// Whether it is time to read back, and how much: not for every ack, but when half of the
    /// credit is free.
    pub fn start_read(&mut self) -> Option<(Backlog<D>, usize)> {
        if !self.waiting.is_empty() || self.credit.left() < self.credit.out() {
            return None;
        }
        match std::mem::replace(&mut self.way, Way::Reading) {
            Way::Log(backlog) => {
                let bytes = self.credit.left().clamp(1, READ_BYTES_MAX);
                Some((backlog, usize::try_from(bytes).expect("clamped")))
            }
            other => {
                self.way = other;
                None
            }
        }
    }

    /// What was read. Without a backlog the way from memory is open again: nothing durable may be
    /// left in the log, and nothing awaited since that was seen.
    pub fn finish_read(&mut self, frames: Vec<Durable>, backlog: Option<Backlog<D>>) {
        self.collected_at = None;
        frames.into_iter().for_each(|frame| self.enqueue(frame));
        self.way = backlog.map_or(Way::Memory, Way::Log);
    }

    pub fn next_ack(&mut self) -> Option<Ack> {
        let ack = self.lane.acks.pop()?;
        let (frames, bytes) = match &ack {
            Ack::Delivered { frames, bytes, .. } => (*frames, *bytes),
            Ack::Rejected { frame, .. } => (1, frame.bytes()),
        };
        self.under_way -= frames;
        self.credit.give_back(bytes);
        Some(ack)
    }

    /// Before a wait: asks to be woken by acks where they are needed, which is where frames wait for
    /// credit, or half of it is out, or `draining`. False where one is there already.
    #[must_use]
    pub fn await_acks(&self, draining: bool) -> bool {
        let room = matches!(self.way, Way::Memory) && self.waiting.is_empty();
        let needed = draining || !room || self.credit.left() < self.credit.out();
        self.lane.awaited.store(needed, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !needed || self.lane.acks.is_empty()
    }

    /// Everything durable was handed over and is acked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.way, Way::Memory) && self.waiting.is_empty() && self.under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use io::format::BLOCK_BYTES;
    use io::sim::SimDisk;
    use io::wal::{self, Committed, Sealed};

    const LINGER: Duration = Duration::from_millis(50);

    struct Bed {
        wal: Wal<SimDisk>,
        handoff: Handoff<SimDisk>,
        lane: Arc<Lane>,
        start: Instant,
    }

    impl Bed {
        fn new(linger: Duration) -> Bed {
            let options = wal::Options {
                owner: 0,
                sink: "loki".into(),
                segment_bytes: 256 * BLOCK_BYTES as u64,
                bytes_max: 2048 * BLOCK_BYTES as u64,
                group_bytes_max: 256 * BLOCK_BYTES,
            };
            let (wal, _) = block_on(Wal::open(SimDisk::default(), options)).unwrap();
            let lane = Arc::new(Lane::new(Arc::default(), Arc::default()));
            let handoff = Handoff::new(lane.clone(), 8 << 20, linger, &wal);
            Bed { wal, handoff, lane, start: Instant::now() }
        }

        /// A frame becomes durable at this time, in milliseconds, pushed or from a file; gives how many
        /// have gone over by then.
        fn durable(&mut self, at_ms: u64, bytes: usize, sourced: bool) -> usize {
            let now = self.start + Duration::from_millis(at_ms);
            let body = vec![7; bytes];
            let sealed = Sealed {
                meta: Vec::new(),
                tag_len: 0,
                body,
                raw_len: 1,
                entries: 1,
                stream: 0,
                oldest_arrival_ns: 1,
            };
            self.wal.append(sealed).unwrap();
            let Committed::Durable(mut frames) = block_on(self.wal.commit()).unwrap() else {
                panic!("nothing was committed")
            };
            frames[0].sourced = sourced;
            self.handoff.durable(frames, now);
            self.look(at_ms)
        }

        fn look(&mut self, at_ms: u64) -> usize {
            let now = self.start + Duration::from_millis(at_ms);
            if self.handoff.collects_for(now).is_none() {
                self.handoff.send(&self.wal, now);
            }
            std::iter::from_fn(|| self.lane.frames.pop()).count()
        }
    }

    #[test]
    fn pushed_lines_are_collected_after_the_first_that_came_after_a_rest() {
        let mut bed = Bed::new(LINGER);
        assert_eq!(bed.durable(0, 100, false), 1);
        for at_ms in [1, 20, 49] {
            assert_eq!(bed.durable(at_ms, 100, false), 0, "{at_ms}");
        }
        assert_eq!(bed.look(50), 3);
        assert_eq!(bed.durable(60, 100, false), 0);
        assert_eq!(bed.look(100), 1);
        assert_eq!(bed.durable(151, 100, false), 1, "rested");
    }

    #[test]
    fn what_is_much_or_comes_from_files_takes_all_along_at_once() {
        let mut bed = Bed::new(LINGER);
        assert_eq!(bed.durable(0, 100, false), 1);
        assert_eq!(bed.durable(1, 100, false), 0);
        assert_eq!(bed.durable(2, 100, true), 2);
        assert_eq!(bed.durable(3, 200 << 10, false), 0);
        assert_eq!(bed.durable(4, 100 << 10, false), 2);
        let mut bed = Bed::new(Duration::ZERO);
        assert!((0..5).all(|at_ms| bed.durable(at_ms, 100, false) == 1));
    }
}
