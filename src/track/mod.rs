//! The frames of one tenant and one shard on their way to one sink: which go next, in which pushes,
//! and what becomes of them. A plain state machine: [`crate::egress`] sends what it gives.
//!
//! A track has queues, each first in, first out, with one push in flight. Queue 0 holds the frames of
//! many streams. A stream that travels alone has a queue of its own: it was sealed so (new, hot or
//! late: see [`crate::alone`]), or it is in *trouble*: something of it was refused or limited. While a
//! stream is in trouble, the frames of queue 0 are taken apart and its entries put behind the others
//! in its own queue, so that it keeps its order and nobody waits for it. The same is done with a stream
//! that would go faster in company than the sink takes it, where frames had to wait.
//!
//! A push that is refused is sent again in halves until what is refused is found: first of its frames,
//! then between the streams of a frame, then of a stream. Which pieces go together then is the *plan*.

#[cfg(test)]
mod tests;

use crate::handoff::Frame;
use crate::part::{Part, stream_key};
use crate::verdict::{History, Reason};
use io::format::Seq;
use perf::recorder::Since;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A frame, or a part of one: what goes out as a whole.
#[derive(Debug, Clone)]
pub struct Piece {
    pub frame: Frame,
    /// Where it comes from, where it was taken apart.
    of: Option<Whole>,
    /// The mixed frames up to here go first.
    after: Seq,
}

/// A frame as it was read of the log, and which of its entries are meant. Many may wait: so it is kept as it is,
/// and read when it is asked for.
#[derive(Debug, Clone)]
struct Whole {
    body: Arc<Vec<u8>>,
    places: Vec<u32>,
}

impl Piece {
    #[must_use]
    pub fn of(frame: Frame) -> Piece {
        Piece { frame, of: None, after: Seq::NONE }
    }

    fn of_part(&self, part: &Part) -> Piece {
        let block = part.encode();
        let stream = part.stream().map_or(0, stream_key);
        let frame = Frame {
            stream,
            raw_len: block.raw_len,
            entries: block.entries,
            body: Arc::new(block.body),
            oldest_stamp_ns: part.oldest_stamp_ns(),
            ..self.frame.clone()
        };
        let body = self.of.as_ref().map_or(&self.frame.body, |of| &of.body).clone();
        let of = Some(Whole { body, places: part.indices().to_vec() });
        Piece { frame, of, after: Seq::NONE }
    }

    /// A frame that might have held more streams may turn out to be of one.
    fn known_as(self, part: &Part) -> Piece {
        let stream = part.stream().map_or(MIXED, stream_key);
        Piece { frame: Frame { stream, ..self.frame }, ..self }
    }

    fn part(&self) -> Part {
        match &self.of {
            Some(Whole { body, places }) => Part::of(body).with(places.clone()),
            None => Part::of(&self.frame.body),
        }
    }

    fn seq(&self) -> Seq {
        self.frame.seq
    }
}

/// Entries that go to the dead-letter queue, and why.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub seq: Seq,
    /// As its frame names it.
    pub tenant: Arc<str>,
    pub oldest_arrival_ns: i64,
    pub part: Part,
    pub reason: Reason,
    pub status: Option<u16>,
    /// What the sink said.
    pub text: Arc<str>,
    /// How often the push was tried in which they were last.
    pub attempts: u32,
}

/// What became of frames that went over: all of each is delivered, but for what is rejected.
#[derive(Debug, Default)]
pub struct Ack {
    pub seqs: Vec<Seq>,
    pub rejected: Vec<Rejected>,
    /// When the last answer for them came.
    pub answered: Since,
}

/// A push to be sent.
#[derive(Debug)]
pub struct Job {
    queue: u64,
    pub pieces: Vec<Piece>,
    /// How often it failed before.
    pub failures: u32,
    /// When it failed last, so many had passed.
    passes_before: u64,
    planned: bool,
}

impl Job {
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.frame.raw_len as usize).sum()
    }

    #[must_use]
    pub fn entries(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.frame.entries)).sum()
    }

    /// Whether all of it is known to be of one stream.
    #[must_use]
    pub fn is_one_stream(&self) -> bool {
        self.stream().is_some()
    }

    /// Its one stream, where it is known to be one.
    #[must_use]
    pub fn stream(&self) -> Option<u64> {
        let first = self.pieces[0].frame.stream;
        (first != MIXED && self.pieces.iter().all(|piece| piece.frame.stream == first))
            .then_some(first)
    }

    /// What is known of it once it was answered again; `passes` of its tenant, ever.
    #[must_use]
    pub fn history(&self, passes: u64) -> History {
        let single = self.entries() == 1;
        History {
            single,
            // Also in a frame that might have held more of others.
            one_stream: single || self.is_one_stream(),
            large: self.raw_bytes() > LARGE_BYTES,
            failures: self.failures + 1,
            others_pass: self.failures > 0 && passes > self.passes_before,
        }
    }
}

/// What limits a push now.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub now: Instant,
    /// Older entries are not sent: the sink would refuse them.
    pub oldest_ns: i64,
    pub bytes_max: usize,
    /// What came before this has waited: it may come faster now than it came here.
    pub behind_ns: i64,
    /// What came before this has waited for so long that the sink may have forgotten its streams.
    pub forgotten_ns: i64,
    /// So much of a stream may go in company within a second.
    pub stream_bytes_max: u64,
    /// And so much of one that travels alone in a push.
    pub alone_bytes_max: usize,
    /// The sink is failing: no more than one piece, to see whether it still is.
    pub probe: bool,
}

/// Why entries are rejected, in the words of whom.
#[derive(Debug, Clone)]
pub struct Because {
    pub reason: Reason,
    pub status: Option<u16>,
    pub text: Arc<str>,
}

/// What of a stream that travels alone goes out together: it is made one element, which costs as much as
/// compressing it did. A larger frame is one already, and goes by itself.
const ALONE_BYTES_MAX: usize = 256 << 10;
/// Streams in trouble at a time; more than that wait in queue 0.
const TROUBLED_MAX: usize = 64;
/// A size that was learned is forgotten after this: limits are raised, too.
const LEARNED_TIME: Duration = Duration::from_secs(600);
/// Nothing smaller is made smaller for its size: a failure that passes by itself must not leave crumbs.
pub const LARGE_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// How many from the front go out together in the next pushes; where it is empty, as many as fit.
    plan: VecDeque<usize>,
    /// The first of a push that is under way.
    in_flight: Option<Seq>,
    failures: u32,
    passes_before: u64,
    not_before: Option<Instant>,
    /// What failed for its size, and goes out in parts now.
    split_bytes: Option<usize>,
}

impl Queue {
    fn holds(&self, to: Seq, failures_min: u32) -> bool {
        let waits = self.in_flight.is_none() && self.failures >= failures_min;
        waits && self.pieces.front().is_some_and(|piece| piece.seq() <= to)
    }
}

/// What goes of a stream, where frames that waited are sent.
#[derive(Debug)]
struct Pace {
    since: Instant,
    bytes: u64,
    /// In the time before.
    before: u64,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { since: now, bytes: 0, before: 0 }
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= PACE_TIME {
            let before = if passed < 2 * PACE_TIME { self.bytes } else { 0 };
            *self = Pace { since: now, bytes: 0, before };
        }
    }

    fn is_above(&self, bytes_max: u64) -> bool {
        self.bytes.max(self.before) > bytes_max
    }
}

/// A frame of which parts are under way.
#[derive(Debug)]
struct Open {
    pieces: usize,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Default)]
pub struct Track {
    queues: BTreeMap<u64, Queue>,
    open: HashMap<Seq, Open>,
    /// Streams that queue 0 leaves out.
    troubled: HashSet<u64>,
    /// The last mixed frame that was taken in, wherever it is now.
    newest_mixed: Seq,
    /// Streams that went alone since frames of forgotten streams are sent.
    remembered: HashSet<u64>,
    /// Of each stream in frames that waited; afterwards of those that are too fast still.
    paces: HashMap<u64, Pace>,
    acks: Vec<Ack>,
    /// The queue that went last: the others have their turn first.
    last: u64,
    /// A smaller push than allowed, which the sink takes.
    learned: Option<(usize, Instant)>,
    oversize: Oversize,
}

/// Pushes of several pieces that failed, one after the other, while smaller ones passed.
#[derive(Debug, Default)]
struct Oversize {
    times: u32,
    /// The smallest of them.
    bytes: usize,
    /// The largest that passed meanwhile.
    passed: usize,
    /// What of their tenant had passed when the last one failed.
    passes: u64,
}

/// So many times of that, and pushes are made smaller.
const OVERSIZE_MAX: u32 = 3;

const MIXED: u64 = 0;

/// How fast streams go is looked at this often.
const PACE_TIME: Duration = Duration::from_secs(1);

impl Track {
    /// Takes in a frame; those of a track come in their order.
    pub fn take_in(&mut self, frame: Frame) {
        let newest_mixed = self.newest_mixed;
        if frame.stream == MIXED {
            self.newest_mixed = frame.seq;
            if frame.read_back {
                // It may hold what travels alone.
                self.troubled.extend(self.queues.keys().filter(|key| **key != MIXED));
            }
        }
        let queue = self.queues.entry(frame.stream).or_default();
        let mut after = Seq::NONE;
        let rested = queue.pieces.is_empty() && queue.in_flight.is_none();
        if frame.stream != MIXED && (rested || self.troubled.contains(&frame.stream)) {
            // It may have travelled with others until now; where it is in trouble, what did so may still
            // have to be sifted.
            after = newest_mixed;
        }
        if frame.stream != MIXED && frame.read_back {
            after = newest_mixed;
        }
        queue.pieces.push_back(Piece { after, ..Piece::of(frame) });
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.acks.is_empty()
    }

    /// It is empty, and nothing is to be remembered of what went: how fast streams are, in a drain of
    /// which it sees a piece at a time.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        let rests = |pace: &Pace| now.saturating_duration_since(pace.since) >= 2 * PACE_TIME;
        self.is_empty() && self.paces.values().all(rests)
    }

    /// Whether something may go out now, as far as the track is concerned.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.queues.iter().any(|(key, queue)| self.may_go(*key, queue, now))
    }

    /// When something that waits for its time may go out.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let waiting = self.queues.values().filter(|queue| queue.in_flight.is_none());
        waiting.filter_map(|queue| queue.not_before).min()
    }

    /// What became of frames since this was asked last.
    pub fn acks(&mut self) -> Vec<Ack> {
        std::mem::take(&mut self.acks)
    }

    fn may_go(&self, key: u64, queue: &Queue, now: Instant) -> bool {
        queue.in_flight.is_none()
            && queue.not_before.is_none_or(|at| at <= now)
            && queue.pieces.front().is_some_and(|piece| self.is_its_turn(key, piece))
    }

    /// Whether the mixed frames that go before it are through.
    fn is_its_turn(&self, key: u64, piece: &Piece) -> bool {
        let first = || {
            let mixed = self.queues.get(&MIXED)?;
            mixed.in_flight.or(mixed.pieces.front().map(Piece::seq))
        };
        key == MIXED || piece.after == Seq::NONE || first().is_none_or(|first| first > piece.after)
    }

    /// The next push, of whichever queue's turn it is.
    pub fn next(&mut self, terms: Terms) -> Option<Job> {
        loop {
            let ready = self.ready(terms.now);
            if ready.is_empty() {
                return None;
            }
            for key in ready {
                let job = self.take(key, terms);
                self.last = key;
                self.forget_if_empty(key);
                if job.is_some() {
                    return job;
                }
            }
            // Nothing of those was left to send: others may have waited for them.
        }
    }

    /// The queues that may go, those first whose turn it is.
    fn ready(&self, now: Instant) -> Vec<u64> {
        let later = self.queues.range(self.last.saturating_add(1)..);
        let earlier = self.queues.range(..=self.last);
        let may_go = later.chain(earlier).filter(|(key, queue)| self.may_go(**key, queue, now));
        may_go.map(|(key, _)| *key).collect()
    }

    /// The next push of one queue. What is too old for the sink, or of a stream in trouble, leaves it.
    fn take(&mut self, key: u64, terms: Terms) -> Option<Job> {
        let mut bytes_max = self.bytes_max(terms);
        if key != MIXED {
            bytes_max = bytes_max.min(terms.alone_bytes_max).min(ALONE_BYTES_MAX);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut bytes = 0;
        let planned = self.queue(key).plan.pop_front();
        let pieces_max = planned.unwrap_or(if terms.probe { 1 } else { usize::MAX });
        let mut looked_at = 0;
        while looked_at < pieces_max {
            let Some(piece) = self.pop(key) else { break };
            let Some(piece) = self.prepare(key, piece, terms) else {
                // Nothing is left of it; where a plan counted it, it has had its turn.
                looked_at += usize::from(planned.is_some());
                continue;
            };
            let size = piece.frame.raw_len as usize;
            if planned.is_none() && self.learned.is_some_and(|(fits, _)| size > fits) {
                // A frame alone is too much, too.
                if let Some((halves, _)) = self.halve_piece(&piece) {
                    let pieces = &mut self.queue(key).pieces;
                    halves.into_iter().rev().for_each(|half| pieces.push_front(half));
                    continue;
                }
            }
            if planned.is_none() && !pieces.is_empty() && bytes + size > bytes_max {
                self.queue(key).pieces.push_front(piece);
                break;
            }
            looked_at += 1;
            bytes += size;
            pieces.push(piece);
        }
        if pieces.is_empty() {
            // All that a plan named has left: what comes behind it goes on.
            return planned.and_then(|_| self.take(key, terms));
        }
        if let Some(pace) = self.paces.get_mut(&key) {
            pace.look(terms.now);
            pace.bytes += bytes as u64;
        }
        let queue = self.queue(key);
        queue.in_flight = Some(pieces[0].seq());
        let (failures, passes_before) = (queue.failures, queue.passes_before);
        Some(Job { queue: key, pieces, failures, passes_before, planned: planned.is_some() })
    }

    fn pop(&mut self, key: u64) -> Option<Piece> {
        let front = self.queues.get(&key)?.pieces.front()?;
        self.is_its_turn(key, front).then(|| self.queue(key).pieces.pop_front())?
    }

    fn bytes_max(&mut self, terms: Terms) -> usize {
        if self.learned.is_some_and(|(_, at)| terms.now.duration_since(at) >= LEARNED_TIME) {
            self.learned = None;
        }
        self.learned.map_or(terms.bytes_max, |(bytes, _)| bytes.min(terms.bytes_max))
    }

    /// A piece as it may go out of queue `key` now, or nothing where nothing of it may.
    fn prepare(&mut self, key: u64, piece: Piece, terms: Terms) -> Option<Piece> {
        let old = piece.frame.oldest_stamp_ns < terms.oldest_ns;
        let behind = piece.frame.oldest_arrival_ns < terms.behind_ns;
        let paced = key == MIXED && (behind || !self.paces.is_empty());
        let forgotten = key == MIXED && piece.frame.oldest_arrival_ns < terms.forgotten_ns;
        if key == MIXED && !forgotten {
            self.remembered.clear();
        }
        if !old && !paced && !forgotten && (key != MIXED || self.troubled.is_empty()) {
            return Some(piece);
        }
        let mut part = piece.part();
        let entries = part.len();
        let mut gone = Vec::new();
        if old {
            let (old, rest) = part.by_age(terms.oldest_ns);
            part = rest;
            gone.push(old);
        }
        let mut leaving = if paced { self.pace(&part, behind, terms) } else { Vec::new() };
        if forgotten {
            leaving.extend(self.forgotten(&part));
        }
        let mut side = Vec::new();
        if key == MIXED && !self.troubled.is_empty() {
            (side, part) = part.without(&self.troubled);
        }
        if part.len() == entries {
            return Some(piece.known_as(&part));
        }
        gone.retain(|part| !part.is_empty());
        let left = usize::from(!part.is_empty());
        self.replaced(piece.seq(), gone.len() + side.len() + left);
        for part in gone {
            let text = "older than the sink takes".into();
            let because = Because { reason: Reason::TooOld, status: None, text };
            self.rejected(&piece, part, &because, 0);
        }
        for part in side {
            let key = stream_key(part.stream().expect("each is one stream"));
            let mut side = piece.of_part(&part);
            if leaving.contains(&key) {
                // What came before of it may go out in company just now.
                side.after = piece.seq().previous();
            }
            // Behind what is older; it may have travelled alone again since.
            let pieces = &mut self.queue(key).pieces;
            let at = pieces.partition_point(|other| other.seq() <= side.seq());
            pieces.insert(at, side);
        }
        (left > 0).then(|| piece.of_part(&part))
    }

    /// In the company of others goes only what is under no limit of its own, as far as that shows where
    /// it comes in. What waited comes out faster: of a stream that is too fast now, the rest leaves
    /// queue 0. Gives those that begin to.
    fn pace(&mut self, part: &Part, behind: bool, terms: Terms) -> Vec<u64> {
        let Terms { now, stream_bytes_max, .. } = terms;
        self.paces.values_mut().for_each(|pace| pace.look(now));
        if !behind {
            self.paces.retain(|_, pace| pace.is_above(stream_bytes_max));
        }
        let mut too_fast = Vec::new();
        for (key, bytes) in part.bytes_by_stream() {
            let pace = match self.paces.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) if behind => new.insert(Pace::new(now)),
                Entry::Vacant(_) => continue,
            };
            if !self.troubled.contains(&key) {
                pace.bytes += bytes;
                if pace.is_above(stream_bytes_max) {
                    self.troubled.insert(key);
                    too_fast.push(key);
                }
            }
        }
        too_fast
    }

    /// The sink takes a stream that it has forgotten for a new one, and may have no room for it: so each
    /// goes alone once, as when it was new.
    fn forgotten(&mut self, part: &Part) -> Vec<u64> {
        let keys = part.bytes_by_stream().into_iter().map(|(key, _)| key);
        let unknown = keys.filter(|key| !self.remembered.contains(key));
        unknown.filter(|key| self.troubled.insert(*key)).collect()
    }

    fn queue(&mut self, key: u64) -> &mut Queue {
        self.queues.entry(key).or_default()
    }

    fn forget_if_empty(&mut self, key: u64) {
        let queue = self.queue(key);
        if queue.pieces.is_empty() && queue.in_flight.is_none() {
            self.queues.remove(&key);
            self.troubled.remove(&key);
        }
    }

    /// One piece of a frame has become so many.
    fn replaced(&mut self, seq: Seq, by: usize) {
        let open = self.open.entry(seq).or_insert(Open { pieces: 1, rejected: Vec::new() });
        open.pieces = open.pieces + by - 1;
    }

    /// A piece is done with; gives the ack where the frame was never taken apart.
    fn done(&mut self, seq: Seq) -> Option<Seq> {
        let Some(open) = self.open.get_mut(&seq) else { return Some(seq) };
        open.pieces -= 1;
        if open.pieces == 0 {
            let open = self.open.remove(&seq).expect("just seen");
            self.acks.push(Ack { seqs: vec![seq], rejected: open.rejected, answered: None });
        }
        None
    }

    fn rejected(&mut self, piece: &Piece, part: Part, because: &Because, attempts: u32) {
        let seq = piece.seq();
        let open = self.open.entry(seq).or_insert(Open { pieces: 1, rejected: Vec::new() });
        let Because { reason, status, text } = because.clone();
        let oldest_arrival_ns = piece.frame.oldest_arrival_ns;
        open.rejected.push(Rejected {
            seq,
            tenant: piece.frame.tenant.clone(),
            oldest_arrival_ns,
            part,
            reason,
            status,
            text,
            attempts,
        });
        self.done(seq);
    }

    /// The sink stored it.
    pub fn accepted(&mut self, job: Job, now: Instant) {
        let bytes = job.raw_bytes();
        let failed_before = job.failures > 0;
        let seqs: Vec<Seq> = job.pieces.iter().filter_map(|piece| self.done(piece.seq())).collect();
        if !seqs.is_empty() {
            self.acks.push(Ack { seqs, ..Ack::default() });
        }
        if bytes >= self.oversize.bytes {
            self.oversize = Oversize::default();
        }
        self.oversize.passed = self.oversize.passed.max(bytes);
        if job.queue != MIXED {
            self.remembered.insert(job.queue);
        }
        let split_bytes = self.landed(job.queue);
        // Half of what failed again and again passes at once: it was too large.
        if !failed_before && let Some(split_bytes) = split_bytes {
            let fits = bytes.max(LARGE_BYTES);
            if fits < split_bytes {
                self.learned = Some((fits, now));
            }
        }
        self.forget_if_empty(job.queue);
    }

    /// All of it goes to the dead-letter queue.
    pub fn reject(&mut self, job: Job, because: &Because) {
        let attempts = job.failures + 1;
        for piece in &job.pieces {
            self.rejected(piece, piece.part(), because, attempts);
        }
        self.landed(job.queue);
        self.forget_if_empty(job.queue);
    }

    /// Something of the frames up to `to` waits, and failed so often.
    #[must_use]
    pub fn holds(&self, to: Seq, failures_min: u32) -> bool {
        self.queues.values().any(|queue| queue.holds(to, failures_min))
    }

    /// What waits of the frames up to `to`, and failed so often, goes to the dead-letter queue: a piece
    /// of each queue, for it is read for that.
    pub fn give_up(&mut self, to: Seq, failures_min: u32, because: &Because) {
        let keys: Vec<u64> = self.queues.keys().copied().collect();
        for key in keys {
            let queue = self.queue(key);
            if queue.holds(to, failures_min) {
                let piece = queue.pieces.pop_front().expect("it holds one");
                let attempts = queue.failures;
                queue.plan.clear();
                self.landed(key);
                self.rejected(&piece, piece.part(), because, attempts);
            }
            self.forget_if_empty(key);
        }
    }

    /// A push of this queue is over, one way or another.
    fn landed(&mut self, key: u64) -> Option<usize> {
        let queue = self.queue(key);
        queue.in_flight = None;
        queue.failures = 0;
        queue.not_before = None;
        queue.split_bytes.take()
    }

    /// The same pieces go again, not before that time; those of other queues may go meanwhile.
    /// `passes`: of its tenant, ever.
    pub fn again(&mut self, job: Job, not_before: Option<Instant>, passes: u64, now: Instant) {
        if job.pieces.len() > 1 {
            self.failed_with_many(&job, passes, now);
        }
        let queue = self.queue(job.queue);
        queue.in_flight = None;
        queue.passes_before = passes;
        queue.failures = job.failures + 1;
        queue.not_before = not_before;
        if job.planned {
            queue.plan.push_front(job.pieces.len());
        }
        job.pieces.into_iter().rev().for_each(|piece| queue.pieces.push_front(piece));
    }

    /// Some of Loki's limits answer like an overload, and a smaller push passes.
    fn failed_with_many(&mut self, job: &Job, passes: u64, now: Instant) {
        let bytes = job.raw_bytes();
        let Oversize { times, .. } = self.oversize;
        self.oversize = if times == 0 {
            Oversize { times: 1, bytes, passed: 0, passes }
        } else {
            let smaller_passed = u32::from(passes > self.oversize.passes);
            let bytes = bytes.min(self.oversize.bytes);
            Oversize { times: times + smaller_passed, bytes, passes, ..self.oversize }
        };
        let Oversize { times, bytes, passed, .. } = self.oversize;
        if times > OVERSIZE_MAX {
            self.learned = Some((passed.max(bytes / 2).max(LARGE_BYTES), now));
            self.oversize = Oversize::default();
        }
    }

    /// One stream is limited: it waits in a queue of its own, and its mates go on.
    pub fn set_aside(
        &mut self,
        mut job: Job,
        not_before: Option<Instant>,
        passes: u64,
        now: Instant,
    ) {
        let Some(key) = self.aside_of(&mut job) else {
            return self.again(job, not_before, passes, now);
        };
        self.landed(MIXED);
        let count = job.pieces.len();
        self.move_aside(key, std::mem::take(&mut job.pieces));
        let queue = self.queue(key);
        queue.plan.push_front(count);
        queue.passes_before = passes;
        queue.failures = 1;
        queue.not_before = not_before;
        self.forget_if_empty(MIXED);
    }

    /// The stream of a job of queue 0 that may leave it.
    fn aside(&self, job: &Job) -> Option<u64> {
        let key = job.stream()?;
        let failing = self.queues.values().filter(|queue| queue.failures > 0).count();
        (job.queue == MIXED && failing < TROUBLED_MAX).then_some(key)
    }

    fn move_aside(&mut self, key: u64, pieces: Vec<Piece>) {
        self.troubled.insert(key);
        let queue = self.queue(key);
        // Whatever it had of its own came later.
        pieces.into_iter().rev().for_each(|piece| queue.pieces.push_front(piece));
    }

    /// The pieces go again in halves; `for_size`: because they are too much at once.
    pub fn halve(&mut self, mut job: Job, for_size: bool) {
        let bytes = job.raw_bytes();
        self.landed(job.queue);
        let key = if for_size { None } else { self.aside_of(&mut job) };
        let halves = match &job.pieces[..] {
            [piece] => self.halve_piece(piece),
            _ => {
                let second = job.pieces.len() / 2;
                let first = job.pieces.len() - second;
                Some((std::mem::take(&mut job.pieces), [first, second]))
            }
        };
        let (pieces, plan) = halves.unwrap_or_else(|| (std::mem::take(&mut job.pieces), [1, 0]));
        let to = key.unwrap_or(job.queue);
        if key.is_some() {
            self.move_aside(to, pieces);
        } else {
            let queue = self.queue(to);
            pieces.into_iter().rev().for_each(|piece| queue.pieces.push_front(piece));
        }
        let queue = self.queue(to);
        plan.into_iter().rev().filter(|n| *n > 0).for_each(|n| queue.plan.push_front(n));
        queue.split_bytes = for_size.then_some(bytes);
        self.forget_if_empty(job.queue);
    }

    /// Where something of a single stream is refused, the stream leaves queue 0.
    fn aside_of(&self, job: &mut Job) -> Option<u64> {
        if let [piece] = &mut job.pieces[..] {
            *piece = piece.clone().known_as(&piece.part());
        }
        self.aside(job)
    }

    fn halve_piece(&mut self, piece: &Piece) -> Option<(Vec<Piece>, [usize; 2])> {
        let part = piece.part();
        if part.len() < 2 {
            return None;
        }
        let (first, second) = part.halves();
        self.replaced(piece.seq(), 2);
        let pieces = [first, second].map(|part| piece.of_part(&part));
        Some((pieces.into(), [1, 1]))
    }
}
