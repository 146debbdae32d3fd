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

use crate::batch::Batch;
use crate::handoff::{Ack, Handoff, Lane};
use crate::intake::Intake;
use crate::park;
use crate::source::{self, Follow, Sources, Start, Taken};
use crate::stream::Streams;
use io::format::{Cursor, Seq};
use io::tail::{FileId, Identity};
use io::uring::UringDisk;
use io::wal::{self, Backlog, Committed, Gap, Recovered, Sealed, Wal, WalError};
use perf::metrics;
use shards::bell::{Bell, LocalBell};
use shards::ring::Ring;
use shards::stop::{Phase, Stop};
use std::cell::{Cell, RefCell};
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
    pub commit_interval: Duration,
    pub ring_bytes_max: u64,
    /// How long pushed lines are collected before they go over to egress.
    pub linger: Duration,
    /// A batch is sealed when it holds this much.
    pub frame_raw_bytes: usize,
    pub tenant: String,
    pub sources: source::Options,
    pub policies: Vec<source::LinePolicy>,
    pub park: park::Options,
}

/// What discovery tells a shard of its files.
#[derive(Debug)]
pub enum FileEvent {
    Follow(Box<Follow>),
    Changed(FileId),
    Renamed(FileId, PathBuf),
    Removed(FileId),
    /// A file of an earlier run that has been gone for long.
    Forget(Identity),
}

/// What a shard shares with other threads: rings and bells.
#[derive(Clone)]
pub struct Links {
    /// From discovery; rings `source_bell`.
    pub events: Arc<Ring<FileEvent>>,
    /// Heard by [`Shard::read`].
    pub source_bell: Arc<Bell>,
    /// To and from egress; its acks ring `ack_bell`.
    pub lane: Arc<Lane>,
    /// Heard by [`Shard::deliver`].
    pub ack_bell: Arc<Bell>,
    pub stop: Stop,
    pub counts: metrics::Shard,
}

/// Appended and not durable: more than this, and reading waits for the commit under way.
const PENDING_BYTES_MAX: u64 = 4 << 20;
/// What one read of a file asks for, so that a busy file does not hold up the others.
const CHUNK_BYTES: usize = 128 << 10;
/// How often half lines, files at rest and checkpoints are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a full disk is tried again.
const FULL_INTERVAL: Duration = Duration::from_millis(500);

struct Shard {
    options: Options,
    links: Links,
    wal: Wal<UringDisk>,
    handoff: RefCell<Handoff<UringDisk>>,
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

/// Runs one shard from recovery to its end. `recovered` is called once, with what was found. What
/// is pushed comes by `intake`, which is closed when nothing more will.
pub async fn run(
    options: Options,
    links: Links,
    intake: Rc<Intake>,
    recovered: impl FnOnce(Recovered),
) -> Result<(), WalError> {
    let disk = UringDisk::open(&options.dir, &options.quarantine).await?;
    let (wal, found) = Wal::open(disk, options.wal.clone()).await?;
    report(options.number, &found);
    let handoff = Handoff::new(links.lane.clone(), options.ring_bytes_max, options.linger, &wal);
    recovered(found);
    intake.open();
    let shard = Rc::new(Shard {
        options,
        links,
        wal,
        handoff: RefCell::new(handoff),
        moved: intake.moved(),
        intake,
        sealed: Cell::new(false),
        settled: Cell::new(false),
        sweep: Cell::new(false),
        adopted: Cell::new(false),
    });
    let sweeper = glommio::spawn_local(shard.clone().sweep_regularly());
    let commit = glommio::spawn_local(shard.clone().commit());
    let read = glommio::spawn_local(shard.clone().read()).detach();
    // Delivery is the last to end; a failure of any ends the shard.
    let ended = futures_lite::future::or(shard.clone().deliver(), async {
        commit.await?;
        std::future::pending().await
    })
    .await;
    read.cancel();
    sweeper.cancel().await;
    ended
}

impl Shard {
    /// From file to appended frame.
    async fn read(self: Rc<Self>) {
        let mut sources = Sources::new(self.options.sources.clone(), self.options.policies.clone());
        let mut streams = Streams::default();
        let mut batch = Batch::default();
        let mut buffer = Vec::new();
        while self.links.stop.phase() == Phase::Running {
            self.take_events(&mut sources, &mut streams);
            if let Some(file) = sources.next_turn() {
                self.read_chunk(file, &mut sources, &mut streams, &mut batch, &mut buffer).await;
                if batch.raw_bytes() >= self.options.frame_raw_bytes {
                    self.seal_and_append(&mut batch, &mut sources, &streams).await;
                }
                glommio::yield_if_needed().await;
            } else {
                self.seal_and_append(&mut batch, &mut sources, &streams).await;
                self.links.source_bell.wait().await;
            }
        }
        self.seal_and_append(&mut batch, &mut sources, &streams).await;
        self.intake.close();
        self.sealed.set(true);
        self.moved.ring();
    }

    fn take_events(&self, sources: &mut Sources, streams: &mut Streams) {
        while let Some(event) = self.links.events.pop() {
            match event {
                FileEvent::Follow(follow) => {
                    let (stream, is_new) = streams.acquire(follow.labels.clone());
                    if let Start::Resume(cursor) = &follow.start {
                        streams.get_mut(stream).resume(cursor.stamp_ns);
                    }
                    let file = follow.file;
                    sources.follow(*follow, stream, is_new);
                    self.adopt(sources.cursor(file, streams.get(stream).last_ns()));
                }
                FileEvent::Changed(file) => sources.changed(file),
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
            for gone in sources.sweep(&self.links.counts) {
                streams.release(gone.stream);
                self.wal.forget(&gone.identity);
            }
        }
        sources.close_surplus();
        self.links.counts.files_open.set(i64_of(sources.open_files()));
        self.links.counts.files_watched.set(i64_of(sources.len()));
    }

    /// A file that starts elsewhere than at 0 is remembered even if no line of it ever comes: a
    /// restart must not take it for a file never seen before.
    fn adopt(&self, cursor: Cursor) {
        if cursor.offset > 0 && self.wal.adopt(cursor) {
            self.adopted.set(true);
            self.links.ack_bell.ring();
        }
    }

    /// One chunk of one file into the batch.
    async fn read_chunk(
        &self,
        file: FileId,
        sources: &mut Sources,
        streams: &mut Streams,
        batch: &mut Batch,
        buffer: &mut Vec<u8>,
    ) {
        let Some(opened) = sources.prepare(file, &self.links.counts) else { return };
        let offset = sources.offset(file);
        // A line may be longer than a chunk: then the rest of it is asked for, too.
        let wanted = sources.chunk_bytes(file, CHUNK_BYTES);
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
                tracing::warn!(%error, file = ?sources.path(file), "a source cannot be read");
                return;
            }
        };
        let more = source::goes_on(&opened, offset, read, wanted);
        let chunk = &buffer[..read];
        let now_ns = perf::clock::unix_ns();
        let mut lines = batch.lines(streams.get_mut(sources.stream(file)), now_ns);
        let mut taken = sources.take(file, chunk, more, &mut lines);
        let rest = &chunk[usize::try_from(taken.bytes).expect("of the chunk")..];
        if !more && !rest.is_empty() && sources.partial_is_due(file) {
            taken += sources.take_partial(file, rest, &mut lines);
        }
        drop(lines);
        self.count(&taken);
    }

    /// What was batched becomes a frame, with the cursors behind its lines inside, and goes into the
    /// log. Waits while the log has no room.
    async fn seal_and_append(&self, batch: &mut Batch, sources: &mut Sources, streams: &Streams) {
        if batch.is_empty() {
            return;
        }
        let mut meta = self.options.tenant.clone().into_bytes();
        let tag_len = u16::try_from(meta.len()).expect("checked with the configuration");
        sources.seal_cursors(&mut meta, |stream| streams.get(stream).last_ns());
        let sealed = batch.seal(meta, tag_len);
        self.links.counts.frames.inc();
        self.links.counts.frame_raw_bytes.inc_by(sealed.raw_len.into());
        self.links.counts.frame_body_bytes.inc_by(sealed.body.len() as u64);
        let mut sealed = Some(sealed);
        let mut full = false;
        self.moved
            .until(|| {
                if self.links.stop.phase() == Phase::Leaving {
                    // Not taken in, its cursors not moved: read again by the next run.
                    return Some(());
                }
                if self.wal.pending_bytes() >= PENDING_BYTES_MAX {
                    return None;
                }
                match self.wal.append(sealed.take()?) {
                    Ok(_) => Some(()),
                    Err(back) => {
                        sealed = Some(back);
                        self.say_full(&mut full, "the write-ahead log has used up its quota");
                        None
                    }
                }
            })
            .await;
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
                    full = false;
                    self.links.counts.wal_full.set(0);
                    self.links.counts.commits.inc();
                    self.links.counts.commit_seconds.observe(started.elapsed().as_secs_f64());
                    self.handoff.borrow_mut().durable(frames, Instant::now());
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
        Ok(())
    }

    /// A frame of pushed lines, or back where the log has no room: then it is not stored, and whoever
    /// pushed its lines is told.
    fn append_pushed(&self, frame: Sealed, full: &mut bool) -> Result<Seq, Sealed> {
        let (raw_bytes, body_bytes) = (frame.raw_len, frame.body.len());
        let appended = self.wal.append(frame);
        match &appended {
            Ok(_) => {
                self.links.counts.frames.inc();
                self.links.counts.frame_raw_bytes.inc_by(raw_bytes.into());
                self.links.counts.frame_body_bytes.inc_by(body_bytes as u64);
            }
            Err(_) => self.say_full(full, "the write-ahead log has used up its quota"),
        }
        appended
    }

    /// From durable to egress, and from ack to removed.
    async fn deliver(self: Rc<Self>) -> Result<(), WalError> {
        let mut checkpoint_at = Instant::now();
        loop {
            while let Some(ack) = self.next_ack() {
                self.settle(ack).await;
            }
            let due = checkpoint_at.elapsed() >= SWEEP_INTERVAL;
            if self.wal.can_trim() || due && (self.adopted.take() || self.wal.checkpoint_is_stale())
            {
                self.checkpoint().await?;
                checkpoint_at = Instant::now();
            }
            let draining = self.links.stop.phase() != Phase::Running;
            let now = Instant::now();
            let collects = self.handoff.borrow().collects_for(now).filter(|_| !draining);
            if collects.is_none() {
                self.handoff.borrow_mut().send(&self.wal, now);
            }
            let read_back = self.handoff.borrow_mut().start_read();
            if let Some((backlog, bytes_max)) = read_back {
                self.read_back(backlog, bytes_max).await?;
                continue;
            }
            let ladder = self.wal.ladder();
            let unacked = ladder.durable.0.0 - ladder.acked.0.0;
            self.links.counts.wal_unacked_frames.set(i64::try_from(unacked).unwrap_or(i64::MAX));
            self.links.counts.wal_bytes.set(i64::try_from(self.wal.disk_bytes()).unwrap_or(0));
            let leaving = self.links.stop.phase() == Phase::Leaving;
            let done = self.settled.get() && self.handoff.borrow().is_done();
            if done || leaving {
                self.checkpoint().await?;
                return Ok(());
            }
            if self.handoff.borrow().await_acks(draining) {
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

    fn next_ack(&self) -> Option<Ack> {
        self.handoff.borrow_mut().next_ack()
    }

    async fn settle(&self, ack: Ack) {
        match ack {
            Ack::Delivered { last, .. } => self.acked(last),
            Ack::Rejected { frame, reason } => {
                // It counts as acked when it stands elsewhere, and not before.
                let mut frame = frame;
                loop {
                    let (options, why) = (self.options.park.clone(), reason.clone());
                    let (back, parked) = glommio::executor()
                        .spawn_blocking(move || {
                            let parked = park::park(&options, &frame, &why);
                            (frame, parked)
                        })
                        .await;
                    frame = back;
                    match parked {
                        Ok(bytes) => {
                            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                            self.links.counts.parked_bytes.set(bytes);
                            return self.acked(frame.seq);
                        }
                        Err(_) if self.links.stop.phase() != Phase::Running => return,
                        Err(error) => {
                            tracing::error!(%error, "a refused frame cannot be parked");
                            glommio::timer::sleep(Duration::from_secs(5)).await;
                        }
                    }
                }
            }
        }
    }

    fn acked(&self, last: Seq) {
        self.wal.ack(last);
        self.moved.ring();
    }

    async fn checkpoint(&self) -> Result<(), WalError> {
        match self.wal.checkpoint().await {
            Ok(()) => {}
            // Segments stay until there is room for the checkpoint that lets them go.
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "no room for a checkpoint");
                glommio::timer::sleep(FULL_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.moved.ring();
        Ok(())
    }

    async fn read_back(
        &self,
        mut backlog: Backlog<UringDisk>,
        bytes_max: usize,
    ) -> Result<(), WalError> {
        let batch = loop {
            match backlog.read(&self.wal, bytes_max).await {
                Err(WalError::Disk(error)) if error.is_full() => {
                    tracing::warn!(%error, "the log cannot be read back now");
                    glommio::timer::sleep(FULL_INTERVAL).await;
                }
                read => break read?,
            }
        };
        for Gap { segment, frames, damage } in &batch.gaps {
            self.links.counts.wal_gap_frames.inc_by(frames.last.0 - frames.first.0 + 1);
            tracing::error!(
                segment, %frames, ?damage,
                "durable frames cannot be read back; their segment was copied to quarantine"
            );
        }
        self.links.counts.backlog_frames.inc_by(batch.frames.len() as u64);
        let caught_up = |backlog: &Backlog<_>| backlog.next() > self.wal.ladder().durable.0;
        if caught_up(&backlog) {
            backlog.close(&self.wal).await?;
        }
        let behind = !caught_up(&backlog);
        self.handoff.borrow_mut().finish_read(batch.frames, behind.then_some(backlog));
        Ok(())
    }

    async fn sweep_regularly(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(SWEEP_INTERVAL).await;
            self.sweep.set(true);
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
        tracing::error!(shard, name, %error, "a file of the write-ahead log is damaged");
    }
    for Gap { segment, frames, damage } in &found.gaps {
        tracing::error!(shard, segment, %frames, ?damage, "durable frames are lost");
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
