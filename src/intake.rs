//! Where pushed lines wait for the next commit: what came while the last one was under way becomes
//! one frame of each tenant, and one sync answers all its requests.

use crate::alone::Standing;
use crate::batch::Batch;
use crate::block::{self, Block};
use crate::handoff::Position;
use io::format::Seq;
use io::wal::Sealed;
use shards::bell::LocalBell;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Options {
    /// A block is closed when its lines hold this much.
    pub block_raw_bytes: usize,
    /// Blocks are joined into frames of at most this much, before compression.
    pub frame_raw_bytes: usize,
    /// More is not taken before what is here was appended.
    pub bytes_max: usize,
}

/// Why lines were not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("the write-ahead log has used up its quota or its disk; try again later")]
    Full,
    #[error("the disk takes too long; the lines may be stored all the same")]
    TimedOut,
    #[error("starting: the write-ahead log is being recovered")]
    Starting,
    #[error("shutting down")]
    Closed,
}

/// Some lines on their way to the disk, with all that share their commit.
#[derive(Clone)]
pub struct Ticket(Rc<Group>);

/// What became of the lines that share a commit.
struct Group {
    way: Cell<Way>,
    /// Lines that were answered already: if they are refused, nobody is told.
    left: Cell<u64>,
    /// Heard by those who wait for this commit, and by nobody else.
    settled: LocalBell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Waiting,
    Appended(Seq),
    Durable,
    Refused,
    /// Nobody knows any more.
    Ended,
}

/// What waits of one tenant: of the streams that travel together, and of each that travels alone.
#[derive(Default)]
pub struct Tenant {
    mixed: Pending,
    alone: BTreeMap<u64, (Pending, Rc<Standing>)>,
    bytes: usize,
}

/// Lines that go into the same frames, in the order in which they came.
#[derive(Default)]
pub struct Pending {
    blocks: Vec<Block>,
    block_bytes: usize,
    batch: Batch,
    oldest_arrival_ns: Option<i64>,
    oldest_stamp_ns: i64,
}

/// The lines pushed to one shard that are not in its log yet.
pub struct Intake {
    options: Options,
    tenants: RefCell<BTreeMap<String, Tenant>>,
    /// Of all tenants: blocks as they are, lines before compression.
    bytes: Cell<usize>,
    /// Of what came since the last commit began.
    ticket: RefCell<Ticket>,
    /// What was appended and is not durable, in its order.
    appended: RefCell<VecDeque<Ticket>>,
    /// Answers that wait for the next commit.
    awaited: Cell<usize>,
    /// Rung when something came.
    moved: Rc<LocalBell>,
    /// Rung when enough answers wait.
    urgent: LocalBell,
    /// Rung when there is room again.
    room: LocalBell,
    state: Cell<State>,
    /// Of each sink.
    positions: RefCell<Vec<Position>>,
    /// Tenants whose lines found no room in the log since that was asked last.
    refused: RefCell<BTreeSet<String>>,
    /// Requests that are under way.
    guests: Cell<usize>,
    /// Another intake is to have those that come now.
    yields: Cell<bool>,
}

/// A request under way.
pub struct Guest<'a>(&'a Intake);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.guests.set(self.0.guests.get() - 1);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum State {
    /// The log is being recovered.
    Starting,
    Open,
    /// The disk is full.
    Full,
    /// Nothing comes any more.
    Closed,
}

/// Tenants whose buffers are kept for the next time.
const TENANTS_KEPT_MAX: usize = 16;

/// So many answers that wait are worth a commit before its time.
const AWAITED_MAX: usize = 16;

impl Ticket {
    fn new() -> Ticket {
        let (way, left) = (Cell::new(Way::Waiting), Cell::new(0));
        Ticket(Rc::new(Group { way, left, settled: LocalBell::default() }))
    }

    /// Nobody waits for these lines.
    pub fn leave(&self, lines: u64) {
        self.0.left.set(self.0.left.get() + lines);
    }

    fn settle(&self, way: Way) {
        self.0.way.set(way);
        self.0.settled.ring();
    }
}

impl Tenant {
    /// Puts lines of a stream where they belong; of streams that travel together, `alone` is none.
    pub fn put<T>(
        &mut self,
        alone: Option<&Rc<Standing>>,
        put: impl FnOnce(&mut Pending) -> T,
    ) -> T {
        let pending = match alone {
            None => &mut self.mixed,
            Some(standing) => {
                standing.waits();
                let new = || (Pending::default(), standing.clone());
                &mut self.alone.entry(standing.key).or_insert_with(new).0
            }
        };
        let before = pending.bytes();
        let done = put(pending);
        self.bytes = self.bytes + pending.bytes() - before;
        done
    }

    /// Hands everything over as frames of `tenant`; false where one found no room.
    pub fn seal(
        &mut self,
        tenant: &str,
        frame_raw_bytes: usize,
        mut append: impl FnMut(Sealed) -> Option<Seq>,
    ) -> bool {
        self.bytes = 0;
        // Who travels alone now may have travelled with the others before.
        let mixed = self.mixed.seal(tenant, 0, frame_raw_bytes);
        let mut stored = mixed.into_iter().all(|frame| append(frame).is_some());
        for (key, (mut pending, standing)) in std::mem::take(&mut self.alone) {
            let mut last = None;
            for frame in pending.seal(tenant, key, frame_raw_bytes) {
                let seq = if stored { append(frame) } else { None };
                stored &= seq.is_some();
                last = seq.or(last);
            }
            standing.sealed(last);
        }
        stored
    }
}

impl Pending {
    /// For lines, an element at a time; see [`Pending::cut`].
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Closes the block under way where it is large enough.
    pub fn cut(&mut self, raw_bytes: usize) {
        if self.batch.raw_bytes() >= raw_bytes {
            self.close_block();
        }
    }

    /// Takes in a block as it came.
    pub fn add(&mut self, block: Block, arrival_ns: i64) {
        self.close_block();
        self.keep(block, arrival_ns);
    }

    fn close_block(&mut self) {
        if !self.batch.is_empty() {
            let arrival_ns = self.batch.oldest_arrival_ns();
            let block = self.batch.compress();
            self.keep(block, arrival_ns);
        }
    }

    fn keep(&mut self, block: Block, arrival_ns: i64) {
        let first = self.oldest_arrival_ns.is_none();
        self.oldest_stamp_ns = if first {
            block.oldest_stamp_ns
        } else {
            self.oldest_stamp_ns.min(block.oldest_stamp_ns)
        };
        self.arrived(arrival_ns);
        self.block_bytes += block.body.len();
        self.blocks.push(block);
    }

    fn arrived(&mut self, ns: i64) {
        self.oldest_arrival_ns = Some(self.oldest_arrival_ns.map_or(ns, |oldest| oldest.min(ns)));
    }

    fn bytes(&self) -> usize {
        self.block_bytes + self.batch.raw_bytes()
    }

    /// Everything, as frames of `tenant`.
    fn seal(&mut self, tenant: &str, stream: u64, frame_raw_bytes: usize) -> Vec<Sealed> {
        self.close_block();
        self.block_bytes = 0;
        let Some(oldest_arrival_ns) = self.oldest_arrival_ns.take() else { return Vec::new() };
        let mut frames = Vec::new();
        let mut blocks = std::mem::take(&mut self.blocks).into_iter().peekable();
        while let Some(first) = blocks.next() {
            let mut raw_bytes = first.raw_len as usize;
            let mut joined = vec![first];
            // What travels alone goes as one element, and each block is one.
            while stream == 0
                && let Some(next) =
                    blocks.next_if(|next| raw_bytes + next.raw_len as usize <= frame_raw_bytes)
            {
                raw_bytes += next.raw_len as usize;
                joined.push(next);
            }
            let entries = joined.iter().map(|block| block.entries).sum();
            let body = match &mut joined[..] {
                [alone] => std::mem::take(&mut alone.body),
                many => block::join(many.iter().map(|block| &block.body[..]), raw_bytes as u64),
            };
            frames.push(Sealed {
                meta: tenant.as_bytes().to_vec(),
                tag_len: u16::try_from(tenant.len()).expect("a tenant's name is short"),
                body,
                raw_len: u32::try_from(raw_bytes).expect("a frame is small"),
                entries,
                stream,
                oldest_arrival_ns,
                oldest_stamp_ns: self.oldest_stamp_ns,
            });
        }
        frames
    }
}

impl Intake {
    #[must_use]
    pub fn new(options: Options) -> Intake {
        Intake {
            options,
            tenants: RefCell::default(),
            bytes: Cell::new(0),
            ticket: RefCell::new(Ticket::new()),
            appended: RefCell::default(),
            awaited: Cell::new(0),
            moved: Rc::default(),
            urgent: LocalBell::default(),
            room: LocalBell::default(),
            state: Cell::new(State::Starting),
            positions: RefCell::default(),
            refused: RefCell::default(),
            guests: Cell::new(0),
            yields: Cell::new(false),
        }
    }

    /// A request comes, and goes with what this gives.
    #[must_use]
    pub fn enter(&self) -> Guest<'_> {
        self.guests.set(self.guests.get() + 1);
        Guest(self)
    }

    #[must_use]
    pub fn has_guests(&self) -> bool {
        self.guests.get() > 0
    }

    /// From now on, requests wait for the intake that comes after this one.
    pub fn yields(&self) {
        self.yields.set(true);
    }

    #[must_use]
    pub fn is_yielding(&self) -> bool {
        self.yields.get()
    }

    /// How far a sink is.
    pub fn set_position(&self, sink: usize, position: Position) {
        let mut positions = self.positions.borrow_mut();
        if positions.len() <= sink {
            positions.resize_with(sink + 1, Position::default);
        }
        positions[sink] = position;
    }

    /// Everything of this tenant up to here is at the sinks: a tenant that stands still is not to keep
    /// the streams of others apart, nor a sink those that go to others.
    #[must_use]
    pub fn acked(&self, tenant: &str) -> Seq {
        let positions = self.positions.borrow();
        let of = |position: &Position| position.acked(tenant);
        let level = positions.iter().filter_map(|position| position.of(tenant)).min();
        level.or_else(|| positions.iter().map(of).min()).unwrap_or(Seq::NONE)
    }

    /// Lines of this tenant found no room in the log.
    pub fn found_no_room(&self, tenant: &str) {
        let mut refused = self.refused.borrow_mut();
        if !refused.contains(tenant) {
            refused.insert(tenant.to_owned());
        }
    }

    /// Whose lines found no room since this was asked last.
    #[must_use]
    pub fn take_refused(&self) -> BTreeSet<String> {
        self.refused.take()
    }

    /// Rung when something came.
    #[must_use]
    pub fn moved(&self) -> Rc<LocalBell> {
        self.moved.clone()
    }

    /// Whether lines may come now.
    pub fn check(&self) -> Result<(), NotStored> {
        match self.state.get() {
            State::Open => Ok(()),
            State::Starting => Err(NotStored::Starting),
            State::Full => Err(NotStored::Full),
            State::Closed => Err(NotStored::Closed),
        }
    }

    /// The log is there: lines may come.
    pub fn open(&self) {
        self.state.set(State::Open);
    }

    /// Whether the disk is full: then nothing is taken until it is not.
    pub fn full(&self, full: bool) {
        if self.state.get() < State::Closed {
            self.state.set(if full { State::Full } else { State::Open });
        }
    }

    /// No lines come any more.
    pub fn close(&self) {
        self.state.set(State::Closed);
        self.moved.ring();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.get() == 0
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Waits until so many answers wait that the next commit is not to be put off.
    pub async fn urgent(&self) {
        self.urgent.until(|| (self.awaited.get() >= AWAITED_MAX).then_some(())).await;
    }

    /// Who brings more has to wait.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.bytes.get() >= self.options.bytes_max
    }

    /// Waits until there is room for more lines.
    pub async fn room(&self, deadline: Instant) -> Result<(), NotStored> {
        self.room
            .until(|| match self.check() {
                Ok(()) if self.is_crowded() => {
                    (Instant::now() >= deadline).then_some(Err(NotStored::TimedOut))
                }
                known => Some(known),
            })
            .await
    }

    /// Takes lines of `tenant` in: `put` appends them. The ticket tells when they are durable.
    pub fn take<T>(&self, tenant: &str, put: impl FnOnce(&mut Tenant) -> T) -> (T, Ticket) {
        let mut tenants = self.tenants.borrow_mut();
        if !tenants.contains_key(tenant) {
            tenants.insert(tenant.to_owned(), Tenant::default());
        }
        let tenant = tenants.get_mut(tenant).expect("just made where there was none");
        let before = tenant.bytes;
        let done = put(tenant);
        self.bytes.set(self.bytes.get() + tenant.bytes - before);
        self.moved.ring();
        (done, self.ticket.borrow().clone())
    }

    /// Hands everything over to the log, which gives back what it has no room for. Gives the number
    /// of lines that were answered and are not stored.
    pub fn seal(&self, mut append: impl FnMut(Sealed) -> Result<Seq, Sealed>) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let ticket = self.ticket.replace(Ticket::new());
        let mut last = None;
        let mut tenants = self.tenants.borrow_mut();
        // Whoever pushed what finds no room is told, and has it still.
        let mut stored = true;
        for (tenant, pending) in tenants.iter_mut() {
            let waited = pending.bytes > 0;
            stored &= pending.seal(tenant, self.options.frame_raw_bytes, |frame| {
                last = if stored { append(frame).ok() } else { None };
                last
            });
            if waited && !stored {
                self.found_no_room(tenant);
            }
        }
        let way = last.filter(|_| stored).map_or(Way::Refused, Way::Appended);
        if way == Way::Refused || tenants.len() > TENANTS_KEPT_MAX {
            tenants.clear();
        }
        self.bytes.set(0);
        self.awaited.set(0);
        self.room.ring();
        if way == Way::Refused {
            ticket.settle(way);
            return ticket.0.left.get();
        }
        ticket.0.way.set(way);
        self.appended.borrow_mut().push_back(ticket);
        0
    }

    /// Nothing of what is here goes anywhere any more. Gives the number of lines that were answered and may
    /// not be stored.
    pub fn end(&self) -> u64 {
        self.close();
        let ticket = self.ticket.replace(Ticket::new());
        let rest = self.appended.take().into_iter().chain([ticket]);
        let mut left = 0;
        for ticket in rest {
            left += ticket.0.left.get();
            ticket.settle(Way::Ended);
        }
        self.room.ring();
        left
    }

    /// Everything up to `durable` stands on the disk.
    pub fn committed(&self, durable: Seq) {
        let mut appended = self.appended.borrow_mut();
        while let Some(ticket) = appended.pop_front_if(
            |ticket| matches!(ticket.0.way.get(), Way::Appended(seq) if seq <= durable),
        ) {
            ticket.settle(Way::Durable);
        }
    }

    /// Whoever waits looks whether it did so for too long.
    pub fn look_at_clock(&self) {
        self.room.ring();
        self.ticket.borrow().0.settled.ring();
        self.appended.borrow().iter().for_each(|ticket| ticket.0.settled.ring());
    }

    /// Waits until the lines of a ticket stand on the disk.
    pub async fn durable(&self, ticket: &Ticket, deadline: Instant) -> Result<(), NotStored> {
        let group = &ticket.0;
        if group.way.get() == Way::Waiting {
            self.awaited.set(self.awaited.get() + 1);
            if self.awaited.get() == AWAITED_MAX {
                self.urgent.ring();
            }
        }
        group
            .settled
            .until(|| match group.way.get() {
                Way::Durable => Some(Ok(())),
                Way::Refused => Some(Err(NotStored::Full)),
                Way::Ended => Some(Err(NotStored::Closed)),
                Way::Waiting | Way::Appended(_) => {
                    (Instant::now() >= deadline).then_some(Err(NotStored::TimedOut))
                }
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::cell::RefCell;
    use std::time::Duration;

    const OPTIONS: Options =
        Options { block_raw_bytes: 1000, frame_raw_bytes: 4000, bytes_max: 100_000 };

    fn open() -> Intake {
        let intake = Intake::new(OPTIONS);
        assert_eq!(intake.check(), Err(NotStored::Starting));
        intake.open();
        intake
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn put(intake: &Intake, tenant: &str, line: &[u8]) -> Ticket {
        let put = |pending: &mut Pending| {
            pending.batch().element("{a=\"1\"}", 7).push(1, line, &[]);
            pending.cut(OPTIONS.block_raw_bytes);
        };
        intake.take(tenant, |tenant| tenant.put(None, put)).1
    }

    /// Seals, and gives the frames: tenant, entries, lines.
    fn seal(intake: &Intake) -> Vec<(String, u32, Vec<u8>)> {
        let frames = RefCell::new(Vec::new());
        let lost = intake.seal(|frame| {
            let raw = snap::raw::Decoder::new().decompress_vec(&frame.body).unwrap();
            assert_eq!(raw.len(), frame.raw_len as usize);
            let tenant = String::from_utf8(frame.meta).unwrap();
            frames.borrow_mut().push((tenant, frame.entries, raw));
            Ok(Seq(frames.borrow().len() as u64))
        });
        assert_eq!(lost, 0);
        frames.into_inner()
    }

    #[test]
    fn what_came_between_two_commits_is_a_frame_of_each_tenant_in_its_order() {
        let intake = open();
        put(&intake, "b", b"first");
        put(&intake, "a", b"other");
        let body = snap::raw::Encoder::new().compress_vec(b"as it came").unwrap();
        let block = Block { body, raw_len: 10, entries: 3, oldest_stamp_ns: 2 };
        intake.take("b", |tenant| tenant.put(None, |pending| pending.add(block, 9)));
        put(&intake, "b", b"last");
        let frames = seal(&intake);
        let [(a, 1, _), (b, 5, raw)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
        let at = |text: &[u8]| raw.windows(text.len()).position(|found| found == text).unwrap();
        assert!(at(b"first") < at(b"as it came") && at(b"as it came") < at(b"last"));
        assert!(intake.is_empty() && seal(&intake).is_empty());
    }

    #[test]
    fn frames_are_no_larger_than_they_may_be() {
        let intake = open();
        for _ in 0..20 {
            put(&intake, "", &[b'x'; 900]);
        }
        let frames = seal(&intake);
        assert_eq!(frames.iter().map(|(_, entries, _)| entries).sum::<u32>(), 20);
        assert!(frames.len() > 4 && frames.iter().all(|(.., raw)| raw.len() <= 4000));
    }

    #[test]
    fn who_waits_is_told_when_its_lines_are_durable_and_not_before() {
        let intake = open();
        let first = put(&intake, "", b"first");
        assert_eq!(seal(&intake).len(), 1);
        let second = put(&intake, "", b"second");
        let wait = |ticket: &Ticket| block_on(poll_once(intake.durable(ticket, soon())));
        assert_eq!((wait(&first), wait(&second)), (None, None));
        intake.committed(Seq(1));
        assert_eq!((wait(&first), wait(&second)), (Some(Ok(())), None));
        let late = block_on(poll_once(intake.durable(&second, Instant::now())));
        assert_eq!(late, Some(Err(NotStored::TimedOut)));
        seal(&intake);
        intake.committed(Seq(1));
        assert_eq!(wait(&second), Some(Ok(())));
    }

    #[test]
    fn what_finds_no_room_is_refused_and_counted_where_nobody_is_told() {
        let intake = open();
        let told = put(&intake, "", b"told");
        put(&intake, "", b"left").leave(1);
        assert_eq!(intake.seal(Err), 1);
        let waited = block_on(poll_once(intake.durable(&told, soon())));
        assert_eq!(waited, Some(Err(NotStored::Full)));
        assert!(intake.is_empty() && seal(&intake).is_empty());
        assert_eq!(intake.take_refused(), [String::new()].into());
        assert!(intake.take_refused().is_empty());
        intake.full(true);
        assert_eq!(intake.check(), Err(NotStored::Full));
        intake.full(false);
        assert_eq!(intake.check(), Ok(()));
        intake.close();
        intake.full(false);
        assert_eq!(intake.check(), Err(NotStored::Closed));
    }

    #[test]
    fn a_full_intake_makes_the_next_one_wait() {
        let intake = open();
        let room = || block_on(poll_once(intake.room(soon())));
        assert_eq!(room(), Some(Ok(())));
        for _ in 0..200 {
            let block = Block { body: vec![0; 1000], raw_len: 1, entries: 1, oldest_stamp_ns: 1 };
            intake.take("", |tenant| tenant.put(None, |pending| pending.add(block, 1)));
        }
        assert_eq!(room(), None);
        intake.seal(|_| Ok(Seq(1)));
        assert_eq!(room(), Some(Ok(())));
    }

    #[test]
    fn many_that_wait_are_not_put_off() {
        let intake = open();
        let ticket = put(&intake, "", b"line");
        let urgent = || block_on(poll_once(intake.urgent())).is_some();
        let mut waiting: Vec<_> =
            (0..AWAITED_MAX).map(|_| Box::pin(intake.durable(&ticket, soon()))).collect();
        for wait in &mut waiting {
            assert!(!urgent());
            assert!(block_on(poll_once(wait)).is_none());
        }
        assert!(urgent());
        seal(&intake);
        assert!(!urgent());
    }
}
