//! From a shard to the egress of one sink and back: frames within a credit, acks, and the backlog in
//! the log.
//!
//! A frame goes over from memory when it became durable, while the credit lasts. Where it does not,
//! the shard drops the bytes and remembers where it was; later it reads them back from its own log.
//! So memory stays flat however long a sink is away.
//!
//! Tenants share the credit: one whose frames are not acked takes no more than what it leaves to
//! the others, and falls behind in the log by itself. A tenant may have half of what is left free, and
//! always one frame; so however many stand still, the others go on.
//!
//! Lines from files were collected for `linger` before they came here. Pushed ones come with every
//! commit: their frames are collected here, so that a sink gets some pushes a second and not thousands.

#[cfg(test)]
mod tests;

use crate::lock;
use crate::track::Ack;
use io::disk::Disk;
use io::format::Seq;
use io::wal::{Acked, Backlog, Durable, Place, Wal};
use perf::recorder::Since;
use shards::asked::Asked;
use shards::bell::Bell;
use shards::ring::Ring;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A durable frame on its way to a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    pub seq: Seq,
    /// Empty: the sink's own.
    pub tenant: Arc<str>,
    /// The one stream of the body, or 0 for a mix.
    pub stream: u64,
    pub oldest_arrival_ns: i64,
    pub oldest_stamp_ns: i64,
    pub raw_len: u32,
    pub entries: u32,
    /// It was read back from the log, or came behind such a frame, or behind one that stood still. So it
    /// may hold streams that travelled alone before and have not arrived: other sinks are further, or an
    /// earlier run knew nothing of it.
    pub read_back: bool,
    /// How long its oldest line had waited in its file when it arrived, where that is known.
    pub waited: Duration,
    /// Since when it could be sent.
    pub since: Since,
    /// One snappy block; sinks share it.
    pub body: Arc<Vec<u8>>,
}

impl Frame {
    #[must_use]
    pub fn of(durable: Durable) -> Frame {
        Frame {
            seq: durable.seq,
            tenant: String::from_utf8_lossy(&durable.tag).into(),
            stream: durable.stream,
            oldest_arrival_ns: durable.oldest_arrival_ns,
            oldest_stamp_ns: durable.oldest_stamp_ns,
            raw_len: durable.raw_len,
            entries: durable.entries,
            body: Arc::new(durable.body),
            ..Frame::default()
        }
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64
    }

    #[cfg(test)]
    pub fn for_tests() -> Frame {
        Frame { seq: Seq(1), entries: 1, ..Frame::default() }
    }
}

/// A frame that just became durable, for each sink.
#[derive(Debug, Clone)]
pub struct Fresh {
    pub frame: Frame,
    /// Its lines were read from sources: they were collected before.
    pub sourced: bool,
    /// Where the next one stands.
    pub place: Place,
}

impl Fresh {
    #[must_use]
    pub fn of(durable: Durable) -> Fresh {
        let (sourced, place) = (durable.sourced, durable.place);
        Fresh { frame: Frame::of(durable), sourced, place }
    }

    /// With the times that are known of it.
    #[must_use]
    pub fn timed(mut self, waited: Duration, now: Instant) -> Fresh {
        (self.frame.waited, self.frame.since) = (waited, Some(now));
        self
    }
}

/// The two rings between a shard and a sink's egress: a lane. Frames of a tenant keep their order.
pub struct Lane {
    pub frames: Ring<Frame>,
    acks: Ring<Ack>,
    /// The shard cannot go on without acks. Else they wait until it wakes for another reason, a
    /// second at most: a wake-up for each push would cost more than the push.
    awaited: Asked,
    /// Frames up to here hold up others where nothing of their tenant passes; 0: none do.
    given_up: AtomicU64,
    /// Of which tenants; of all, where it is none.
    given_up_of: Mutex<Option<HashSet<Arc<str>>>>,
    /// No ack comes any more.
    ended: AtomicBool,
}

/// How many frames the credit is for, however small they are.
const CREDIT_FRAMES: usize = 1024;
/// How many may be under way: a tenant that has none may have one without credit, so that those who
/// stand still and hold all of it do not hold up the others.
pub const FRAMES_MAX: usize = 2 * CREDIT_FRAMES;
/// What one read of the backlog takes at most.
const READ_BYTES_MAX: u64 = 1 << 20;

impl Lane {
    #[must_use]
    pub fn new(egress: Arc<Bell>, shard: Arc<Bell>) -> Lane {
        // At most one ack for each frame: the way back never fills.
        Lane {
            frames: Ring::new(FRAMES_MAX, egress),
            acks: Ring::new(FRAMES_MAX, shard),
            awaited: Asked::default(),
            given_up: AtomicU64::new(0),
            given_up_of: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// The last ack was given: nobody sends any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.acks.announce();
    }

    /// Whether all acks there will be are there.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Frames up to this one go to the dead-letter queue where nothing of their tenant passes, which is
    /// one of these, or any.
    pub fn give_up(&self, to: Seq, of: Option<HashSet<Arc<str>>>) {
        let mut known = lock(&self.given_up_of);
        let news = *known != of || self.given_up() != to;
        *known = of;
        self.given_up.store(to.0, Ordering::Relaxed);
        if news {
            self.frames.announce();
        }
    }

    fn given_up(&self) -> Seq {
        Seq(self.given_up.load(Ordering::Relaxed))
    }

    /// Up to which frame.
    #[must_use]
    pub fn given_up_of(&self, tenant: &str) -> Seq {
        if self.given_up() == Seq::NONE {
            return Seq::NONE;
        }
        let of = lock(&self.given_up_of);
        let is_one = of.as_ref().is_none_or(|of| of.contains(tenant));
        if is_one { self.given_up() } else { Seq::NONE }
    }

    /// The next that came back.
    pub fn next_ack(&self) -> Option<Ack> {
        self.acks.pop()
    }

    /// From now on, every ack wakes the shard.
    pub fn await_all(&self) {
        self.awaited.ask(true);
    }

    /// Tells the shard what became of its frames.
    pub fn ack(&self, ack: Ack) {
        let urgent = !ack.rejected.is_empty();
        self.acks.push_quietly(ack).expect("the way back holds an ack for each frame");
        // Against [`Handoff::await_acks`].
        if self.awaited.is_wanted() || urgent {
            self.acks.announce();
        }
    }
}

/// Waiting frames of more than this go over, however short they have been collected.
const COLLECTED_BYTES_MAX: u64 = 256 << 10;

/// What went over, or waits here to, and is not acked.
#[derive(Debug)]
struct Out {
    tenant: Arc<str>,
    charge: u64,
    lines: u32,
    arrival_ns: i64,
}

/// Where the log is nearly full of what one tenant or sink holds in it while others are past that, or
/// full so that others do not get into it: what of it nothing passes goes to the dead-letter queue,
/// so that the others go on. `handoffs`: to all sinks; `refused`: tenants whose lines found no room.
pub fn set_aside<D: Disk>(
    handoffs: &[impl Deref<Target = Handoff<D>>],
    wal: &Wal<D>,
    wal_bytes_max: u64,
    refused: &BTreeSet<String>,
    now: Instant,
) {
    let full = !refused.is_empty() && !wal.has_pending();
    if !full && wal.disk_bytes() < wal_bytes_max / 4 * 3 {
        return;
    }
    let Some(oldest) = wal.oldest() else { return };
    let sink_is_past = handoffs.iter().any(|handoff| !handoff.holds(oldest));
    let has_all = |tenant: &String| handoffs.iter().any(|handoff| handoff.has_all_of(tenant));
    let kept_out = full && refused.iter().any(has_all);
    for handoff in handoffs {
        if sink_is_past || kept_out || handoff.others_are_past(oldest, now) {
            let holders = handoff.tenants_below(oldest);
            if !holders.is_empty() {
                handoff.give_up(oldest, holders);
            }
        }
    }
}

/// How far a sink is, for those who seal streams apart until they have arrived.
#[derive(Debug, Clone, Default)]
pub struct Position {
    acked: Acked,
    all_behind: bool,
    /// Whose frames are told to be read back.
    behind: HashSet<Arc<str>>,
}

impl Position {
    #[must_use]
    pub fn up_to(seq: Seq) -> Position {
        Position { acked: Acked::up_to(seq), ..Position::default() }
    }

    /// Everything of a tenant up to here has arrived. None where its frames are read back: then whoever
    /// sends them looks after its streams, and nobody else need wait for them.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Option<Seq> {
        let behind = self.all_behind || self.behind.contains(tenant);
        (!behind).then(|| self.acked.of(tenant))
    }

    /// As above, of one that is behind as well.
    #[must_use]
    pub fn acked(&self, tenant: &str) -> Seq {
        self.acked.of(tenant)
    }
}

/// What a tenant has out.
#[derive(Debug)]
struct Share {
    charge: u64,
    /// When something of it was acked last, or since when it has something out.
    moved_at: Instant,
}

/// Where a tenant is that has fallen behind: its next frame stands there, or later.
#[derive(Debug, Clone, Copy)]
struct Behind {
    next: Seq,
    place: Option<Place>,
    /// What that frame takes of the credit, where it is known: there was no room for it.
    charge: u64,
    /// When that frame arrived, or one before it.
    arrival_ns: i64,
}

/// The shard's end of a lane: pure bookkeeping, [`crate::ingest`] moves it.
pub struct Handoff<D: Disk> {
    lane: Arc<Lane>,
    bytes_max: u64,
    out: BTreeMap<Seq, Out>,
    out_bytes: u64,
    /// Of `out`, by tenant.
    tenants: HashMap<Arc<str>, Share>,
    under_way: usize,
    /// Frames that the credit has room for and that have not gone over.
    waiting: VecDeque<Frame>,
    waiting_bytes: u64,
    /// How long pushed lines are collected.
    linger: Duration,
    /// When frames went over last, and until when those that wait are collected.
    sent_at: Option<Instant>,
    collected_at: Option<Instant>,
    /// Tenants whose frames are read back.
    behind: HashMap<Arc<str>, Behind>,
    /// After a start: where all those are that have not been met.
    unmet: Option<Behind>,
    /// Reads the log for those behind; where it is not being used just now.
    backlog: Option<Backlog<D>>,
    reading: bool,
    /// Where the last durable frame ends.
    place: Option<Place>,
    /// Tenants of which frames were read back, or that stood still, until nothing of them is out.
    read_back: HashSet<Arc<str>>,
    /// What is acked, or who is behind, is not what it was.
    moved: bool,
    /// The highest frame that is acked.
    acked_max: Seq,
    acked_at: Option<Instant>,
    /// When tenants that were not met were looked for last.
    looked_at: Option<Instant>,
    /// Up to here an earlier run left frames.
    durable_before: Seq,
    /// Of this run's frames, by tenant.
    unacked: HashMap<Arc<str>, u64>,
}

/// After so long without an ack a tenant stands still, and those that were not met since the start are
/// looked for.
const STILL_TIME: Duration = Duration::from_secs(2);
/// Likewise after so long in which there was no room for looking.
const LOOK_TIME: Duration = Duration::from_millis(20);

impl<D: Disk> Handoff<D> {
    /// Starts with what an earlier run left in the log for this sink.
    pub fn new(
        lane: Arc<Lane>,
        bytes_max: u64,
        linger: Duration,
        sink: usize,
        wal: &Wal<D>,
    ) -> Self {
        assert!(bytes_max > 0);
        let (acked, durable) = (wal.acked(sink), wal.ladder().durable.0);
        let now_ns = perf::clock::unix_ns();
        let at =
            |acked: Seq| Behind { next: acked.next(), place: None, charge: 0, arrival_ns: now_ns };
        let unmet = (acked.all < durable).then(|| at(acked.all));
        let behind =
            acked.behind.iter().map(|(tenant, acked)| (tenant.as_str().into(), at(*acked)));
        Handoff {
            lane,
            bytes_max,
            out: BTreeMap::new(),
            out_bytes: 0,
            tenants: HashMap::new(),
            under_way: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            linger,
            sent_at: None,
            collected_at: None,
            behind: behind.collect(),
            unmet,
            backlog: None,
            reading: false,
            place: None,
            read_back: HashSet::new(),
            moved: true,
            acked_max: acked.all,
            acked_at: None,
            looked_at: None,
            durable_before: durable,
            unacked: HashMap::new(),
        }
    }

    /// Frames just made durable. Those that the credit has no room for are read back later.
    pub fn durable(&mut self, frames: &[Fresh], now: Instant) {
        self.collect(frames.iter().any(|fresh| fresh.sourced), now);
        for Fresh { frame, place, .. } in frames {
            let before = self.place.replace(*place);
            *self.unacked.entry(frame.tenant.clone()).or_default() += u64::from(frame.entries);
            if self.unmet.is_some() || self.behind.contains_key(&frame.tenant) {
                continue;
            }
            if self.allows(frame) {
                let read_back = self.read_back.contains(&frame.tenant);
                self.enqueue(Frame { read_back, ..frame.clone() }, now);
            } else {
                self.moved = true;
                let (next, charge, arrival_ns) =
                    (frame.seq, self.charge(frame), frame.oldest_arrival_ns);
                let behind = Behind { next, place: before, charge, arrival_ns };
                self.behind.insert(frame.tenant.clone(), behind);
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

    /// What a frame takes of the credit: as many as fit leave room in the rings for other tenants.
    fn charge(&self, frame: &Frame) -> u64 {
        frame.bytes().max(self.bytes_max / CREDIT_FRAMES as u64)
    }

    fn left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.out_bytes)
    }

    fn out_of(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, |share| share.charge)
    }

    fn allows(&self, frame: &Frame) -> bool {
        self.has_room(&frame.tenant, self.charge(frame))
    }

    fn has_room(&self, tenant: &str, charge: u64) -> bool {
        let out = self.out_of(tenant);
        let mut others = self.tenants.keys().chain(self.behind.keys());
        let alone = self.unmet.is_none() && others.all(|other| **other == *tenant);
        let room = if alone { self.left() } else { self.left().saturating_sub(out) };
        self.out.len() < FRAMES_MAX && (out == 0 || charge <= room)
    }

    fn enqueue(&mut self, frame: Frame, now: Instant) {
        let charge = self.charge(&frame);
        self.out_bytes += charge;
        let new = || Share { charge: 0, moved_at: now };
        self.tenants.entry(frame.tenant.clone()).or_insert_with(new).charge += charge;
        let (tenant, lines, arrival_ns) =
            (frame.tenant.clone(), frame.entries, frame.oldest_arrival_ns);
        self.out.insert(frame.seq, Out { tenant, charge, lines, arrival_ns });
        self.waiting_bytes += frame.bytes();
        self.waiting.push_back(frame);
    }

    /// Hands over what waits.
    pub fn send(&mut self, wal: &Wal<D>, now: Instant) {
        if !self.waiting.is_empty() {
            self.sent_at = Some(now);
        }
        self.waiting_bytes = 0;
        if io::planted!(RingReordering) {
            self.waiting.make_contiguous().reverse();
        }
        for frame in self.waiting.drain(..) {
            self.under_way += 1;
            wal.sent(frame.seq);
            self.lane.frames.push(frame).expect("no more are out than the ring holds");
        }
    }

    /// Whom it is time to read back for, if anyone: not for every ack, but when a tenant has acked half
    /// of what it may have; where the reader goes to, and how much it reads.
    pub fn start_read(&mut self, durable: Seq, now: Instant) -> Option<(Backlog<D>, usize)> {
        if self.reading || !self.waiting.is_empty() || self.out.len() >= FRAMES_MAX {
            return None;
        }
        let left = self.left();
        let wants = |(tenant, at): &(&Arc<str>, &Behind)| {
            let out = self.out_of(tenant);
            // What it stands at is taken then: no read is for nothing.
            at.next <= durable && (out == 0 || (out <= left && self.has_room(tenant, at.charge)))
        };
        let behind = self.behind.iter().filter(wants).map(|(_, at)| *at);
        // Whom nobody has met may be well, though those who were met stand still.
        let over = |at: Option<Instant>, time| at.is_some_and(|at| now.duration_since(at) >= time);
        // Nor is it to wait for as long as others go on.
        let look = over(self.acked_at, STILL_TIME) || over(self.looked_at, LOOK_TIME);
        let unmet = self.unmet.filter(|_| look || self.out_bytes <= left);
        let Behind { next, place, .. } = behind.chain(unmet).min_by_key(|at| at.next)?;
        self.acked_at.get_or_insert(now);
        let looks = unmet.is_some_and(|at| at.next == next);
        if looks || self.looked_at.is_none() {
            self.looked_at = Some(now);
        }
        self.reading = true;
        let backlog = match self.backlog.take() {
            None => Backlog::new(next, place),
            Some(mut backlog) => {
                backlog.seek(next, place);
                backlog
            }
        };
        // Who looks for tenants may have to pass by much for which there is no room.
        let bytes = if looks && look { READ_BYTES_MAX } else { left.clamp(1, READ_BYTES_MAX) };
        Some((backlog, usize::try_from(bytes).expect("clamped")))
    }

    /// What was read from `from` on. Who has seen everything that is durable has caught up, and gets
    /// what follows from memory again: nothing is awaited between that and the next [`Handoff::durable`].
    pub fn finish_read(
        &mut self,
        from: Seq,
        frames: Vec<Durable>,
        backlog: Backlog<D>,
        durable: Seq,
        now: Instant,
    ) {
        self.collected_at = None;
        let mut refused: Vec<Arc<str>> = Vec::new();
        let mut before = None;
        let mut arrived_ns = 0;
        for durable in frames {
            let here = Some(durable.place);
            let frame = Frame { read_back: true, since: Some(now), ..Frame::of(durable) };
            let arrival_ns = frame.oldest_arrival_ns;
            arrived_ns = arrived_ns.max(arrival_ns);
            let known = self.behind.get(&frame.tenant).copied().or(self.unmet);
            // Who stands before what was read has not seen it: it is not its turn.
            if let Some(known) = known.filter(|at| (from..=frame.seq).contains(&at.next)) {
                // Of the first frame that was read, who stands there knows where.
                let before = before.or(known.place.filter(|_| known.next == frame.seq));
                let taken = !refused.contains(&frame.tenant) && self.allows(&frame);
                if taken {
                    let at = Behind { next: frame.seq.next(), place: here, charge: 0, arrival_ns };
                    self.behind.insert(frame.tenant.clone(), at);
                    self.read_back.insert(frame.tenant.clone());
                    self.enqueue(frame, now);
                } else if !refused.contains(&frame.tenant) {
                    let charge = self.charge(&frame);
                    let at = Behind { next: frame.seq, place: before, charge, arrival_ns };
                    self.behind.insert(frame.tenant.clone(), at);
                    refused.push(frame.tenant);
                }
            }
            before = here;
        }
        let (next, place) = (backlog.next(), backlog.place());
        let saw_all = |at: &mut Behind| {
            if at.next >= from && at.next < next {
                *at = Behind { next, place, charge: 0, arrival_ns: at.arrival_ns.max(arrived_ns) };
            }
        };
        let moved = self.behind.iter_mut().filter(|(tenant, _)| !refused.contains(tenant));
        moved.for_each(|(_, at)| saw_all(at));
        self.unmet.as_mut().map(saw_all);
        self.unmet = self.unmet.filter(|at| at.next <= durable);
        if self.unmet.is_none() {
            self.behind.retain(|_, at| at.next <= durable);
        }
        let (out, behind) = (&self.tenants, &self.behind);
        self.read_back.retain(|tenant| out.contains_key(tenant) || behind.contains_key(tenant));
        self.backlog = Some(backlog);
        self.reading = false;
        self.moved = true;
    }

    /// The reader, where nobody needs it any more: to be closed.
    pub fn idle_backlog(&mut self) -> Option<Backlog<D>> {
        let needed = self.unmet.is_some() || !self.behind.is_empty();
        if needed { None } else { self.backlog.take() }
    }

    pub fn next_ack(&mut self) -> Option<Ack> {
        let ack = self.lane.next_ack()?;
        self.under_way -= ack.seqs.len();
        Some(ack)
    }

    /// These frames are delivered.
    pub fn settled(&mut self, seqs: &[Seq], now: Instant) {
        self.settle(seqs, true, now);
    }

    /// These stand in the dead-letter queue: that says nothing of whether the sink takes any.
    pub fn refused(&mut self, seqs: &[Seq], now: Instant) {
        self.settle(seqs, false, now);
    }

    fn settle(&mut self, seqs: &[Seq], passed: bool, now: Instant) {
        for seq in seqs {
            let Out { tenant, charge, lines, .. } =
                self.out.remove(seq).expect("acked once, and it went over");
            if *seq > self.durable_before
                && let Some(unacked) = self.unacked.get_mut(&tenant)
            {
                *unacked = unacked.saturating_sub(u64::from(lines));
                if *unacked == 0 {
                    self.unacked.remove(&tenant);
                }
            }
            self.out_bytes -= charge;
            let left = self.tenants.get_mut(&tenant).expect("it has something out");
            left.charge -= charge;
            if passed {
                left.moved_at = now;
            }
            if left.charge == 0 {
                self.tenants.remove(&tenant);
                if !self.behind.contains_key(&tenant) {
                    self.read_back.remove(&tenant);
                }
            }
            self.acked_max = self.acked_max.max(*seq);
        }
        self.acked_at = Some(now);
        self.moved = true;
        if self.is_done() {
            // Frames that could not be read back are never acked.
            self.unacked.clear();
        }
    }

    /// Frames up to `seq` are not all acked, for one tenant or another.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        let mut read_back = self.behind.values().chain(&self.unmet);
        self.out.keys().next().is_some_and(|out| *out <= seq) || read_back.any(|at| at.next <= seq)
    }

    /// Tenants that hold frames up to `seq`.
    #[must_use]
    pub fn tenants_below(&self, seq: Seq) -> HashSet<Arc<str>> {
        self.out.range(..=seq).map(|(_, out)| out.tenant.clone()).collect()
    }

    /// A tenant that does not stand still has frames here, and none of them is up to `seq`.
    #[must_use]
    pub fn others_are_past(&self, seq: Seq, now: Instant) -> bool {
        let hold: HashSet<&Arc<str>> = self.out.range(..=seq).map(|(_, out)| &out.tenant).collect();
        let behind = |tenant| self.behind.get(tenant).is_some_and(|at| at.next <= seq);
        let goes_on = |share: &Share| now.saturating_duration_since(share.moved_at) < STILL_TIME;
        let mut all = self.tenants.iter().filter(|(_, share)| goes_on(share));
        self.unmet.is_none() && all.any(|(tenant, _)| !hold.contains(tenant) && !behind(tenant))
    }

    /// Nothing of this tenant waits for the sink.
    #[must_use]
    pub fn has_all_of(&self, tenant: &str) -> bool {
        let waits = self.tenants.contains_key(tenant) || self.behind.contains_key(tenant);
        self.unmet.is_none() && !waits
    }

    /// See [`Lane::give_up`].
    pub fn give_up(&self, to: Seq, of: HashSet<Arc<str>>) {
        self.lane.give_up(to, Some(of));
    }

    /// How far the sink is now.
    #[must_use]
    pub fn acked(&self) -> Acked {
        let unmet = self.unmet.map(|at| at.next.previous());
        let all = unmet.map_or(self.acked_max, |unmet| unmet.min(self.acked_max));
        let mut behind = BTreeMap::new();
        let out = self.out.iter().map(|(seq, out)| (&out.tenant, *seq));
        let read_back = self.behind.iter().map(|(tenant, at)| (tenant, at.next));
        for (tenant, next) in out.chain(read_back) {
            let acked = next.previous();
            if acked < all {
                let known = behind.entry(tenant.to_string()).or_insert(acked);
                *known = acked.min(*known);
            }
        }
        Acked { all, behind }
    }

    /// How far the sink is, where that is news.
    pub fn take_position(&mut self, now: Instant) -> Option<Position> {
        let stands = |share: &Share| now.saturating_duration_since(share.moved_at) >= STILL_TIME;
        for (tenant, _) in self.tenants.iter().filter(|(_, share)| stands(share)) {
            self.moved |= self.read_back.insert(tenant.clone());
        }
        std::mem::take(&mut self.moved).then(|| Position {
            acked: self.acked(),
            all_behind: self.unmet.is_some(),
            behind: self.behind.keys().chain(&self.read_back).cloned().collect(),
        })
    }

    /// Before a wait: asks to be woken by acks where they are needed, which is where frames wait for
    /// credit, or half of it is out, or `draining`. False where one is there already.
    #[must_use]
    pub fn await_acks(&self, draining: bool) -> bool {
        let room = self.unmet.is_none() && self.behind.is_empty() && self.waiting.is_empty();
        let needed = draining || !room || self.left() < self.out_bytes;
        self.lane.awaited.ask(needed);
        !needed || self.lane.acks.is_empty()
    }

    /// What is free of the credit.
    #[must_use]
    pub fn credit(&self) -> u64 {
        self.left()
    }

    /// Since when something waits for its ack, in Unix time, or a little longer; none where everything is
    /// acked.
    #[must_use]
    pub fn behind_since_ns(&self) -> Option<i64> {
        let out = self.out.values().next().map(|out| out.arrival_ns);
        let read_back = self.behind.values().chain(&self.unmet).map(|at| at.arrival_ns);
        read_back.chain(out).min()
    }

    /// Lines of this run that are durable and not acked.
    #[must_use]
    pub fn unacked_lines(&self) -> u64 {
        self.unacked.values().sum()
    }

    /// Of those, the lines of tenants of which something arrived before this and is not acked.
    #[must_use]
    pub fn overdue_lines(&self, arrived_before_ns: i64) -> u64 {
        let out = self.out.values().map(|out| (&out.tenant, out.arrival_ns));
        let behind = self.behind.iter().map(|(tenant, at)| (tenant, at.arrival_ns));
        let late = out.chain(behind).filter(|(_, arrival_ns)| *arrival_ns < arrived_before_ns);
        let late: HashSet<&Arc<str>> = late.map(|(tenant, _)| tenant).collect();
        late.into_iter().filter_map(|tenant| self.unacked.get(tenant)).sum()
    }

    /// How many lines these frames hold, which are out.
    #[must_use]
    pub fn lines_of(&self, seqs: &[Seq]) -> u64 {
        seqs.iter().filter_map(|seq| self.out.get(seq)).map(|out| u64::from(out.lines)).sum()
    }

    /// Everything durable was handed over and is acked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unmet.is_none() && self.behind.is_empty() && self.out.is_empty()
    }
}
