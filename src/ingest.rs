//! One shard: from file to durable and handed off, and the way back of the ack.
//!
//! Three tasks on one executor, so that nothing between them needs a lock. In the order of a line:
//!
//! - [`Shard::read`]: discovery says which files changed; one chunk of each in turn is split into
//!   lines, the lines go into the batch; when no file has more, or the batch is full, it is sealed
//!   and appended to the log;
//! - [`Shard::commit`]: what was appended, and what was pushed in the meantime ([`crate::receive`]),
//!   is written and synced as one group, and is durable;
//! - [`Shard::deliver`]: durable frames go over to egress ([`crate::egress`]), acks come back, and
//!   when all frames of a segment are acked, a checkpoint is written and the segment removed.
//!
//! Each pushes back on the one before: no credit, frames stay in the log only; no room in the log,
//! nothing is appended; nothing is appended, no file is read.

use crate::alone::{self, Standing};
use crate::batch::Batch;
use crate::desk::Slot;
use crate::dlq::DlqError;
use crate::handoff::{self, Fresh, Handoff, Lane};
use crate::intake::Intake;
use crate::letters::{self, Letters};
use crate::sightings::Sightings;
use crate::source::{self, Follow, Sources, Start, Taken};
use crate::stream::{StreamId, Streams};
use io::disk::DiskError;
use io::failpoint;
use io::format::{Cursor, Seq};
use io::tail::{FileId, Identity};
use io::uring::UringDisk;
use io::wal::{self, Committed, Gap, Recovered, Sealed, Wal, WalError};
use perf::errors::ErrorKey;
use perf::metrics;
use perf::recorder::{Exchange, Recorder, Since, SinkRecorder};
use perf::stage::{ShardTime, SinkTime};
use shards::bell::{Bell, LocalBell};
use shards::ring::Ring;
use shards::stop::{Phase, Stop};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub struct Options {
    pub number: usize,
    pub dir: PathBuf,
    pub quarantine: PathBuf,
    pub wal: wal::Options,
    /// Of the file system, what the log leaves to the dead-letter queues: what they have no room for
    /// cannot leave the log.
    pub kept_bytes: u64,
    pub commit_interval: Duration,
    pub ring_bytes_max: u64,
    /// A batch is sealed when it holds this much.
    pub frame_raw_bytes: usize,
    pub alone: alone::Limits,
    pub sources: source::Options,
    pub policies: Vec<source::LinePolicy>,
    /// In the order of [`wal::Options::sinks`].
    pub routes: Vec<RouteOptions>,
}

/// Of a shard to one sink.
#[derive(Debug, Clone)]
pub struct RouteOptions {
    /// How long pushed lines are collected before they go over to egress.
    pub linger: Duration,
    pub letters: letters::Options,
}

/// What discovery tells a shard of its files.
#[derive(Debug)]
pub enum FileEvent {
    Follow(Box<Follow>),
    /// It was written to, at this moment or later.
    Changed(FileId, Instant),
    Renamed(FileId, PathBuf),
    Removed(FileId),
    /// A file of an earlier run that has been gone for long.
    Forget(Identity),
}

/// What a shard shares with the egress of one sink, and with the API.
#[derive(Clone)]
pub struct SinkLinks {
    pub lane: Arc<Lane>,
    /// For what the dead-letter queue sends again.
    pub replays: Arc<Lane>,
    pub slot: Arc<Slot>,
    pub counts: metrics::Sink,
    pub dead: metrics::ByReason,
    pub route: metrics::Route,
    pub times: Arc<SinkRecorder>,
}

impl SinkLinks {
    /// Nothing comes back any more.
    fn are_ended(&self) -> bool {
        self.lane.is_ended() && self.replays.is_ended()
    }
}

/// What a shard shares with other threads: rings and bells.
#[derive(Clone)]
pub struct Links {
    /// From discovery; rings `source_bell`.
    pub events: Arc<Ring<FileEvent>>,
    /// Heard by [`Shard::read`].
    pub source_bell: Arc<Bell>,
    /// To and from each sink; their acks ring `ack_bell`.
    pub sinks: Vec<SinkLinks>,
    /// Heard by [`Shard::deliver`].
    pub ack_bell: Arc<Bell>,
    /// Where the API asks for the files.
    pub sightings: Arc<Sightings>,
    pub stop: Stop,
    /// Where the shard leaves what it measured.
    pub times: Arc<Exchange>,
    pub counts: metrics::Shard,
}

/// Appended and not durable: more than this, and reading waits for the commit under way.
const PENDING_BYTES_MAX: u64 = 4 << 20;
/// What one read of a file asks for, so that a busy file does not hold up the others.
const CHUNK_BYTES: usize = 128 << 10;
/// Likewise, where the stream travels alone: what is read becomes a push.
const ALONE_CHUNK_BYTES: usize = 512 << 10;
/// How often half lines, files at rest and checkpoints are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a full disk is tried again.
const FULL_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether requests under way were answered.
const GUESTS_INTERVAL: Duration = Duration::from_millis(2);

/// Since when there is something in the batch.
#[derive(Default)]
struct Begun {
    /// When the oldest of it was noticed, and when it was taken in.
    noticed: Option<Instant>,
    taken_at: Since,
}

impl Begun {
    fn with(&mut self, noticed: Instant, taken_at: Since) {
        self.noticed = self.noticed.into_iter().chain([noticed]).min();
        self.taken_at = self.taken_at.or(taken_at);
    }
}

struct Shard {
    options: Options,
    links: Links,
    times: Rc<Recorder>,
    /// Of the frames that were appended and are not durable, in their order.
    appended: RefCell<VecDeque<Appended>>,
    wal: Wal<UringDisk>,
    /// To each sink.
    routes: Vec<Route>,
    intake: Rc<Intake>,
    /// Rung when something was pushed, appended, committed, acked or removed.
    moved: Rc<LocalBell>,
    /// No more lines come: what was appended is all there will be.
    sealed: Cell<bool>,
    /// Everything that was appended is durable.
    settled: Cell<bool>,
    sweep: Cell<bool>,
    /// Cursors came or went without a frame: that wants a checkpoint of its own.
    adopted: Cell<bool>,
}

/// A frame on its way to the disk.
struct Appended {
    seq: Seq,
    at: Since,
    /// What its oldest line had waited before it counted as arrived.
    waited: Duration,
}

/// The way to one sink and back.
struct Route {
    metrics: metrics::Route,
    times: Arc<SinkRecorder>,
    handoff: RefCell<Handoff<UringDisk>>,
    letters: Rc<Letters>,
}

/// Why a shard did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Dlq(#[from] DlqError),
    #[error(
        "data_dir: the file system of {} cannot do direct I/O (O_DIRECT): ext4 and xfs can, put \
         data_dir on one of them", dir.display()
    )]
    NoDirectIo { dir: PathBuf },
}

impl ShardError {
    /// A format that this program cannot read, or a disk that it cannot use: the operator has to choose.
    #[must_use]
    pub fn is_setup(&self) -> bool {
        matches!(
            self,
            ShardError::NoDirectIo { .. }
                | ShardError::Wal(WalError::Format { .. })
                | ShardError::Dlq(DlqError::Wal(WalError::Format { .. }))
        )
    }
}

impl From<DiskError> for ShardError {
    fn from(error: DiskError) -> ShardError {
        ShardError::Wal(error.into())
    }
}

/// Runs one shard from recovery to its end. `recovered` is called once, with what was found. What
/// is pushed comes by `intake`, which is closed when nothing more will. What time all of it takes goes
/// to `times`.
pub async fn run(
    options: Options,
    links: Links,
    intake: Rc<Intake>,
    times: Rc<Recorder>,
    recovered: impl FnOnce(Recovered),
) -> Result<(), ShardError> {
    let disk = UringDisk::open(&options.dir, &options.quarantine).await.map_err(|error| {
        if error.lacks_direct_io() {
            return ShardError::NoDirectIo { dir: options.dir.clone() };
        }
        error.into()
    })?;
    let disk = disk.keeping(options.kept_bytes);
    let (wal, found) = Wal::open(disk, options.wal.clone()).await?;
    report(options.number, &found);
    let mut routes = Vec::new();
    for (sink, (links, route)) in links.sinks.iter().zip(&options.routes).enumerate() {
        let SinkLinks { lane, replays, slot, counts, dead, route: metrics, times } = links.clone();
        let handoff = Handoff::new(lane, options.ring_bytes_max, route.linger, sink, &wal);
        let letters = Letters::open(route.letters.clone(), replays, slot, counts, dead).await?;
        let (handoff, letters) = (RefCell::new(handoff), Rc::new(letters));
        routes.push(Route { metrics, times, handoff, letters });
    }
    recovered(found);
    links.counts.wal_bytes_max.set(i64::try_from(options.wal.bytes_max).unwrap_or(i64::MAX));
    let shard = Rc::new(Shard {
        options,
        links,
        times,
        appended: RefCell::default(),
        wal,
        routes,
        moved: intake.moved(),
        intake,
        sealed: Cell::new(false),
        settled: Cell::new(false),
        sweep: Cell::new(false),
        adopted: Cell::new(false),
    });
    shard.show_positions(Instant::now());
    shard.intake.open();
    let sweeper = glommio::spawn_local(shard.clone().sweep_regularly());
    let commit = glommio::spawn_local(shard.clone().commit());
    let read = glommio::spawn_local(shard.clone().read()).detach();
    // Delivery is the last to end; a failure of any ends the shard.
    let deliver = async {
        shard.clone().deliver().await?;
        shard.settle().await
    };
    let ended = futures_lite::future::or(deliver, async {
        commit.await?;
        std::future::pending().await
    })
    .await
    .map_err(ShardError::from);
    read.cancel();
    shard.links.counts.lines_unstored.inc_by(shard.intake.end());
    sweeper.cancel().await;
    for route in &shard.routes {
        route.letters.end().await;
    }
    ended
}

impl Shard {
    /// From file to appended frame.
    async fn read(self: Rc<Self>) {
        let mut sources = Sources::new(self.options.sources.clone(), self.options.policies.clone());
        let mut streams = Streams::default();
        let mut batch = Batch::default();
        let mut buffer = Vec::new();
        let mut begun = Begun::default();
        // Where the batch is of one stream that travels alone.
        let mut apart: Option<StreamId> = None;
        while self.links.stop.phase() == Phase::Running {
            self.take_events(&mut sources, &mut streams);
            if let Some(file) = sources.next_turn() {
                let stream = sources.stream(file);
                let alone = self.travels_alone(&streams.get(stream).standing).then_some(stream);
                if alone != apart {
                    self.seal_and_append(&mut batch, &mut begun, &mut sources, &streams, apart)
                        .await;
                    apart = alone;
                }
                let alone = apart.is_some();
                self.read_chunk(
                    file,
                    alone,
                    &mut sources,
                    &mut streams,
                    (&mut batch, &mut begun),
                    &mut buffer,
                )
                .await;
                if batch.raw_bytes() >= self.options.frame_raw_bytes {
                    self.seal_and_append(&mut batch, &mut begun, &mut sources, &streams, apart)
                        .await;
                }
                glommio::yield_if_needed().await;
            } else {
                self.seal_and_append(&mut batch, &mut begun, &mut sources, &streams, apart).await;
                self.links.source_bell.wait().await;
            }
        }
        if self.links.stop.has_successor() {
            self.intake.yields();
        }
        self.seal_and_append(&mut batch, &mut begun, &mut sources, &streams, apart).await;
        // Requests under way are answered, those that come wait for who comes next.
        while self.links.stop.phase() == Phase::Yielding && self.intake.has_guests() {
            glommio::timer::sleep(GUESTS_INTERVAL).await;
        }
        // Where a file is to be read from its end, that is remembered.
        self.take_events(&mut sources, &mut streams);
        self.intake.close();
        self.sealed.set(true);
        self.moved.ring();
    }

    fn take_events(&self, sources: &mut Sources, streams: &mut Streams) {
        while let Some(event) = self.links.events.pop() {
            match event {
                FileEvent::Follow(follow) => {
                    let (stream, is_new) = streams.acquire(follow.labels.clone());
                    streams.get_mut(stream).not_before(follow.stamp_ns);
                    if let Start::Resume(cursor) = &follow.start {
                        streams.get_mut(stream).resume(cursor.stamp_ns);
                    }
                    let file = follow.file;
                    sources.follow(*follow, stream, is_new);
                    self.adopt(sources.cursor(file, streams.get(stream).last_ns()));
                }
                FileEvent::Changed(file, noticed) => sources.written(file, Some(noticed)),
                FileEvent::Renamed(file, path) => {
                    self.links.counts.rotations.inc();
                    sources.renamed(file, path);
                }
                FileEvent::Removed(file) => {
                    self.links.counts.rotations.inc();
                    sources.removed(file);
                }
                FileEvent::Forget(identity) => {
                    self.wal.forget(&identity);
                    self.adopted.set(true);
                }
            }
        }
        if self.sweep.take() {
            self.show_lag(sources, None);
            for gone in sources.sweep(&self.links.counts) {
                streams.release(gone.stream);
                self.wal.forget(&gone.identity);
            }
        }
        sources.close_surplus();
        self.links.sightings.tell(|| sources.seen(streams));
        self.links.counts.files_open.set(i64_of(sources.open_files()));
        self.links.counts.files_watched.set(i64_of(sources.len()));
    }

    /// What of the files waits to be read, and of what was read and has no room since when.
    fn show_lag(&self, sources: &Sources, noticed: Option<Instant>) {
        let (bytes, since) = sources.waiting();
        let since = since.into_iter().chain(noticed).min();
        let lag = since.map_or(Duration::ZERO, |since| since.elapsed());
        self.links.counts.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.links.counts.lag_seconds.set(lag.as_secs_f64());
    }

    /// A file that starts elsewhere than at 0 is remembered even if no line of it ever comes: a
    /// restart must not take it for a file never seen before.
    fn adopt(&self, cursor: Cursor) {
        if cursor.offset > 0 && self.wal.adopt(cursor) {
            self.adopted.set(true);
            self.links.ack_bell.ring();
        }
    }

    fn travels_alone(&self, standing: &Standing) -> bool {
        let now_ns = perf::clock::unix_ns();
        standing.travels_alone(self.intake.acked(""), now_ns, &self.options.alone)
    }

    /// One chunk of one file into the batch.
    async fn read_chunk(
        &self,
        file: FileId,
        alone: bool,
        sources: &mut Sources,
        streams: &mut Streams,
        (batch, begun): (&mut Batch, &mut Begun),
        buffer: &mut Vec<u8>,
    ) {
        let noticed = sources.noticed(file);
        let Some(opened) = sources.prepare(file, &self.links.counts) else { return };
        let offset = sources.offset(file);
        let chunk_bytes = if alone { ALONE_CHUNK_BYTES } else { CHUNK_BYTES };
        // A line may be longer than a chunk: then the rest of it is asked for, too.
        let wanted = sources.chunk_bytes(file, chunk_bytes);
        buffer.resize(wanted, 0);
        let read = match source::read_cached(&opened, buffer, offset) {
            Ok(Some(read)) => Ok(read),
            Ok(None) => {
                // Not in the page cache: the disk is waited for elsewhere.
                let (opened, mut bytes) = (opened.clone(), std::mem::take(buffer));
                let (bytes, read) = glommio::executor()
                    .spawn_blocking(move || {
                        let read = source::read_blocking(&opened, &mut bytes, offset);
                        (bytes, read)
                    })
                    .await;
                *buffer = bytes;
                read
            }
            Err(error) => Err(error),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(
                    error_key = ErrorKey::SourceUnreadable.name(),
                    %error, file = ?sources.path(file),
                    "a source cannot be read"
                );
                return;
            }
        };
        let more = source::goes_on(&opened, offset, read, wanted);
        let chunk = &buffer[..read];
        let now_ns = perf::clock::unix_ns();
        let read_at = self.times.start();
        let stream = sources.stream(file);
        let mut lines = batch.lines(streams.get_mut(stream), now_ns);
        let mut taken = sources.take(file, chunk, more, &mut lines);
        let rest = &chunk[usize::try_from(taken.bytes).expect("of the chunk")..];
        if !more && !rest.is_empty() && sources.partial_is_due(file) {
            taken += sources.take_partial(file, rest, &mut lines);
        }
        drop(lines);
        let standing = &streams.get(stream).standing;
        standing.came(taken.bytes, (now_ns, now_ns), now_ns, &self.options.alone);
        if alone && taken.lines > 0 {
            standing.waits();
        }
        self.count(&taken);
        if taken.lines > 0 {
            self.times.took(ShardTime::Read, Some(noticed), read_at, taken.lines);
            let taken_at = self.times.passed(ShardTime::Pipeline, read_at, taken.lines);
            begun.with(noticed, taken_at);
        }
    }

    /// What was batched becomes a frame, with the cursors behind its lines inside, and goes into the
    /// log. Waits while the log has no room.
    async fn seal_and_append(
        &self,
        batch: &mut Batch,
        begun: &mut Begun,
        sources: &mut Sources,
        streams: &Streams,
        apart: Option<StreamId>,
    ) {
        if batch.is_empty() {
            return;
        }
        let Begun { noticed, taken_at } = std::mem::take(begun);
        let waited = self.waited(noticed, batch.oldest_arrival_ns());
        // No tag: the tenant of each sink.
        let mut meta = Vec::new();
        sources.seal_cursors(&mut meta, |stream| streams.get(stream).last_ns());
        let standing = apart.map(|stream| &streams.get(stream).standing);
        let sealed = batch.seal(meta, 0, standing.map_or(0, |standing| standing.key));
        self.links.counts.frames.inc();
        self.links.counts.frame_raw_bytes.inc_by(sealed.raw_len.into());
        self.links.counts.frame_body_bytes.inc_by(sealed.body.len() as u64);
        let lines = sealed.entries.into();
        let sealed_at = self.times.passed(ShardTime::Seal, taken_at, lines);
        let mut sealed = Some(sealed);
        let mut full = false;
        let mut swept = false;
        self.moved
            .until(|| {
                if self.links.stop.phase() == Phase::Leaving {
                    // Not taken in, its cursors not moved: read again by the next run.
                    return Some(());
                }
                // However long this takes, who asks is told, and who watches.
                self.links.sightings.tell(|| sources.seen(streams));
                if self.sweep.take() {
                    swept = true;
                    self.show_lag(sources, noticed);
                }
                if self.wal.pending_bytes() >= PENDING_BYTES_MAX {
                    return None;
                }
                match self.wal.append(sealed.take()?) {
                    Ok(seq) => {
                        let at = self.times.passed(ShardTime::Append, sealed_at, lines);
                        self.appended.borrow_mut().push_back(Appended { seq, at, waited });
                        if let Some(standing) = standing {
                            standing.sealed(Some(seq));
                        }
                        Some(())
                    }
                    Err(back) => {
                        sealed = Some(back);
                        self.intake.found_no_room("");
                        self.say_full(&mut full, "the write-ahead log has used up its quota");
                        None
                    }
                }
            })
            .await;
        if swept {
            self.sweep.set(true);
        }
        self.links.counts.wal_full.set(0);
        self.moved.ring();
    }

    /// From appended to durable.
    async fn commit(self: Rc<Self>) -> Result<(), WalError> {
        let mut last = None::<Instant>;
        let mut full = false;
        loop {
            let more = self
                .moved
                .until(|| {
                    let more = self.wal.has_pending() || !self.intake.is_empty();
                    (more || self.sealed.get()).then_some(more)
                })
                .await;
            if !more {
                break;
            }
            if let Some(wait) =
                last.and_then(|last| self.options.commit_interval.checked_sub(last.elapsed()))
            {
                let time = glommio::timer::sleep(wait);
                futures_lite::future::or(self.intake.urgent(), time).await;
            }
            let started = Instant::now();
            last = Some(started);
            // What is written more slowly than it comes stays with those who push it.
            if self.wal.pending_bytes() < PENDING_BYTES_MAX {
                let lost = self.intake.seal(|frame| self.append_pushed(frame, &mut full));
                self.links.counts.lines_unstored.inc_by(lost);
            }
            match self.wal.commit().await? {
                Committed::Durable(frames) => {
                    failpoint::passed("committed");
                    full = false;
                    self.links.counts.wal_full.set(0);
                    self.links.counts.commits.inc();
                    self.times.record(ShardTime::Commit, started.elapsed(), 1);
                    let now = Instant::now();
                    let fresh = self.fresh(frames, now);
                    self.routes().for_each(|mut handoff| handoff.durable(&fresh, now));
                    self.intake.full(false);
                    self.intake.committed(self.wal.ladder().durable.0);
                    self.links.ack_bell.ring();
                    self.moved.ring();
                }
                Committed::Nothing => {}
                Committed::Full(error) => {
                    self.intake.full(true);
                    self.say_full(&mut full, &error.to_string());
                    if self.links.stop.phase() != Phase::Running {
                        // Not durable, so not acknowledged: its lines are read again.
                        break;
                    }
                    glommio::timer::sleep(FULL_INTERVAL).await;
                }
            }
        }
        self.settled.set(true);
        self.links.ack_bell.ring();
        self.moved.ring();
        Ok(())
    }

    /// Nothing is under way to the disk any more: another may have the log.
    async fn settle(&self) -> Result<(), WalError> {
        self.moved.until(|| self.settled.get().then_some(())).await;
        if self.adopted.take() { self.checkpoint().await } else { Ok(()) }
    }

    /// How long what was noticed then had waited when it was read, at `arrival_ns`.
    fn waited(&self, noticed: Option<Instant>, arrival_ns: i64) -> Duration {
        let since_read = perf::clock::unix_ns().saturating_sub(arrival_ns).max(0);
        let since_read = Duration::from_nanos(since_read.unsigned_abs());
        noticed.map_or(Duration::ZERO, |noticed| noticed.elapsed().saturating_sub(since_read))
    }

    /// What just became durable, for the sinks.
    fn fresh(&self, frames: Vec<wal::Durable>, now: Instant) -> Vec<Fresh> {
        let mut appended = self.appended.borrow_mut();
        let mut bytes = 0;
        let fresh = frames.into_iter().map(|durable| {
            bytes += durable.body.len();
            while appended.front().is_some_and(|appended| appended.seq < durable.seq) {
                appended.pop_front();
            }
            let known = appended.pop_front_if(|appended| appended.seq == durable.seq);
            let waited = known.as_ref().map_or(Duration::ZERO, |known| known.waited);
            let since = known.and_then(|known| known.at);
            let until = since.map(|_| now);
            self.times.took(ShardTime::Sync, since, until, durable.entries.into());
            Fresh::of(durable).timed(waited, now)
        });
        let fresh = fresh.collect();
        self.links.counts.commit_bytes.observe(bytes as f64);
        fresh
    }

    /// A frame of pushed lines, or back where the log has no room: then it is not stored, and whoever
    /// pushed its lines is told.
    fn append_pushed(&self, frame: Sealed, full: &mut bool) -> Result<Seq, Sealed> {
        let (raw_bytes, body_bytes) = (frame.raw_len, frame.body.len());
        let (lines, arrival_ns) = (frame.entries.into(), frame.oldest_arrival_ns);
        let sealed_at = self.times.start();
        let sealing = perf::clock::unix_ns().saturating_sub(arrival_ns).max(0);
        let sealing = Duration::from_nanos(sealing.unsigned_abs());
        let appended = self.wal.append(frame);
        match &appended {
            Ok(seq) => {
                self.times.record(ShardTime::Seal, sealing, lines);
                let at = self.times.passed(ShardTime::Append, sealed_at, lines);
                let appended = Appended { seq: *seq, at, waited: Duration::ZERO };
                self.appended.borrow_mut().push_back(appended);
                self.links.counts.frames.inc();
                self.links.counts.frame_raw_bytes.inc_by(raw_bytes.into());
                self.links.counts.frame_body_bytes.inc_by(body_bytes as u64);
            }
            Err(_) => self.say_full(full, "the write-ahead log has used up its quota"),
        }
        appended
    }

    fn routes(&self) -> impl Iterator<Item = RefMut<'_, Handoff<UringDisk>>> {
        self.routes.iter().map(|route| route.handoff.borrow_mut())
    }

    /// From durable to egress, and from ack to removed.
    async fn deliver(self: Rc<Self>) -> Result<(), WalError> {
        let mut checkpoint_at = Instant::now();
        loop {
            let phase = self.links.stop.phase();
            let draining = phase != Phase::Running;
            // Asked before the last acks are taken.
            let answered = self.links.sinks.iter().all(SinkLinks::are_ended);
            let yielded = phase == Phase::Yielding && self.settled.get() && answered;
            let mut more = false;
            for (sink, route) in self.routes.iter().enumerate() {
                self.take_acks(sink, route).await;
                more |= route.letters.turn(draining).await;
            }
            self.set_aside(Instant::now());
            let due = checkpoint_at.elapsed() >= SWEEP_INTERVAL;
            if self.wal.can_trim() || due && (self.adopted.take() || self.wal.checkpoint_is_stale())
            {
                self.checkpoint().await?;
                checkpoint_at = Instant::now();
            }
            let now = Instant::now();
            let mut collects: Option<Duration> = None;
            for mut handoff in self.routes() {
                match handoff.collects_for(now).filter(|_| !draining) {
                    None => handoff.send(&self.wal, now),
                    Some(time) => collects = collects.into_iter().chain([time]).min(),
                }
            }
            for route in &self.routes {
                more |= self.read_back(route, now).await?;
            }
            self.show_positions(now);
            if more && !yielded {
                continue;
            }
            let ladder = self.wal.ladder();
            let unacked = ladder.durable.0.0 - ladder.acked.0.0;
            self.links.counts.wal_unacked_frames.set(i64::try_from(unacked).unwrap_or(i64::MAX));
            self.links.counts.wal_bytes.set(i64::try_from(self.wal.disk_bytes()).unwrap_or(0));
            let leaving = yielded || self.links.stop.phase() == Phase::Leaving;
            let done = self.settled.get()
                && phase != Phase::Yielding
                && self.routes().all(|handoff| handoff.is_done());
            if done || leaving {
                self.checkpoint().await?;
                return Ok(());
            }
            // Each is asked, so that each knows.
            let quiet = self.routes().map(|handoff| handoff.await_acks(draining));
            if quiet.fold(true, |all, quiet| all & quiet) {
                let rung = self.links.ack_bell.wait();
                match collects {
                    Some(time) => {
                        futures_lite::future::or(rung, glommio::timer::sleep(time)).await;
                    }
                    None => rung.await,
                }
            }
        }
    }

    /// Once a second, for those who watch.
    fn show_overdue(&self) {
        for route in &self.routes {
            let objective_ns =
                i64::try_from(route.times.objective().as_nanos()).unwrap_or(i64::MAX);
            let before_ns = perf::clock::unix_ns().saturating_sub(objective_ns);
            route.metrics.show_overdue(route.handoff.borrow().overdue_lines(before_ns));
        }
    }

    /// Tells those who seal streams apart, and those who watch, how far the sinks are.
    fn show_positions(&self, now: Instant) {
        for (sink, route) in self.routes.iter().enumerate() {
            let mut handoff = route.handoff.borrow_mut();
            let behind_since_ns = handoff.behind_since_ns().unwrap_or(0);
            let unacked = i64::try_from(handoff.unacked_lines()).unwrap_or(i64::MAX);
            route.metrics.show(behind_since_ns, unacked);
            route.metrics.gauges.credit.set(i64::try_from(handoff.credit()).unwrap_or(i64::MAX));
            if let Some(position) = handoff.take_position(now) {
                self.intake.set_position(sink, position);
            }
        }
    }

    /// See [`handoff::set_aside`].
    fn set_aside(&self, now: Instant) {
        let refused = self.intake.take_refused();
        let handoffs: Vec<_> = self.routes().collect();
        handoff::set_aside(&handoffs, &self.wal, self.options.wal.bytes_max, &refused, now);
    }

    /// What came back from one sink. What it refuses counts when it stands in the dead-letter queue,
    /// and not before.
    async fn take_acks(&self, sink: usize, route: &Route) {
        let mut settled = Vec::new();
        let now = route.times.start();
        loop {
            let ack = route.handoff.borrow_mut().next_ack();
            let Some(ack) = ack else { break };
            let lines = route.handoff.borrow().lines_of(&ack.seqs);
            route.times.took(SinkTime::Ack, ack.answered, now, lines);
            route.times.refused(ack.rejected.iter().map(|of| of.part.len() as u64).sum());
            if ack.rejected.is_empty() {
                settled.extend(ack.seqs);
            } else {
                route.letters.add(ack);
            }
        }
        let refused = route.letters.store().await;
        if !settled.is_empty() || !refused.is_empty() {
            let acked = {
                let (mut handoff, now) = (route.handoff.borrow_mut(), Instant::now());
                handoff.settled(&settled, now);
                handoff.refused(&refused, now);
                handoff.acked()
            };
            self.wal.ack(sink, acked);
            self.moved.ring();
        }
    }

    async fn checkpoint(&self) -> Result<(), WalError> {
        failpoint::passed("checkpoint");
        match self.wal.checkpoint().await {
            Ok(()) => {}
            // Segments stay until there is room for the checkpoint that lets them go.
            Err(error) if error.is_full() => {
                tracing::warn!(
                    error_key = ErrorKey::CheckpointNoRoom.name(),
                    %error,
                    "no room for a checkpoint"
                );
                glommio::timer::sleep(FULL_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.moved.ring();
        Ok(())
    }

    /// Reads back for one sink, where that is due; true where it did.
    async fn read_back(&self, route: &Route, now: Instant) -> Result<bool, WalError> {
        let durable = self.wal.ladder().durable.0;
        let started = route.handoff.borrow_mut().start_read(durable, now);
        let Some((mut backlog, bytes_max)) = started else {
            let idle = route.handoff.borrow_mut().idle_backlog();
            if let Some(mut backlog) = idle {
                backlog.close(&self.wal).await?;
            }
            return Ok(false);
        };
        let from = backlog.next();
        let (batch, more) = match backlog.read(&self.wal, bytes_max).await {
            // The other sinks go on, and a second later this is tried again.
            Err(WalError::Disk(error)) if error.is_full() => {
                tracing::warn!(
                    error_key = ErrorKey::WalUnreadable.name(),
                    %error,
                    "the log cannot be read back now"
                );
                (wal::Batch::default(), false)
            }
            read => (read?, true),
        };
        for Gap { segment, frames, damage } in &batch.gaps {
            self.links.counts.wal_gap_frames.inc_by(frames.last.0 - frames.first.0 + 1);
            tracing::error!(
                error_key = ErrorKey::WalGap.name(),
                segment, %frames, ?damage,
                "durable frames cannot be read back; their segment was copied to quarantine"
            );
        }
        self.links.counts.backlog_frames.inc_by(batch.frames.len() as u64);
        let durable = self.wal.ladder().durable.0;
        route.handoff.borrow_mut().finish_read(from, batch.frames, backlog, durable, now);
        Ok(more)
    }

    async fn sweep_regularly(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(SWEEP_INTERVAL).await;
            self.sweep.set(true);
            self.show_overdue();
            self.times.hand_over();
            let busy = perf::clock::thread_cpu();
            let more = busy.as_secs_f64() - self.links.counts.busy_seconds.get();
            self.links.counts.busy_seconds.inc_by(more.max(0.0));
            self.links.source_bell.ring();
            self.links.ack_bell.ring();
            // Whoever waits for the quota, or for the disk, looks whether it is time to give up.
            self.moved.ring();
            self.intake.look_at_clock();
        }
    }

    fn say_full(&self, said: &mut bool, why: &str) {
        self.links.counts.wal_full.set(1);
        if !std::mem::replace(said, true) {
            tracing::warn!(
                error_key = ErrorKey::WalFull.name(),
                shard = self.options.number,
                why,
                "no room: sources wait, egress goes on"
            );
        }
    }

    fn count(&self, taken: &Taken) {
        let counts = &self.links.counts;
        counts.lines.inc_by(taken.lines);
        counts.bytes.inc_by(taken.bytes);
        counts.lines_cut.inc_by(taken.lines_cut);
        counts.bytes_truncated.inc_by(taken.bytes_truncated);
        counts.line_ends_stripped.inc_by(taken.line_ends_stripped);
        counts.partial_lines.inc_by(taken.partial_lines);
    }
}

fn report(shard: usize, found: &Recovered) {
    for (name, error) in &found.damaged {
        tracing::error!(
            error_key = ErrorKey::WalDamaged.name(),
            shard, name, %error,
            "a file of the write-ahead log is damaged"
        );
    }
    for Gap { segment, frames, damage } in &found.gaps {
        tracing::error!(
            error_key = ErrorKey::WalGap.name(),
            shard, segment, %frames, ?damage,
            "durable frames are lost"
        );
    }
    tracing::info!(
        shard,
        unacked_frames = found.unacked,
        sources = found.cursors.len(),
        torn_tail = found.torn,
        "recovered"
    );
}

fn i64_of(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
