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
