//! The log of a queue with its index: one operation at a time, and the keeping of its space.

use super::body::{self, BodyError, Kind};
use super::filter::Filter;
use super::index::{FrameInfo, Index, Stats};
use super::record::Record;
use super::store::{DlqError, Draft, Found, PutError, Stored, What, drafts};
use super::{Options, WhenFull};
use io::disk::{Disk, DiskError};
use io::format::{BLOCK_BYTES, Seq, frame_bytes};
use io::wal::{self, Backlog, Committed, Durable, Place, Sealed, Wal};
use perf::errors::ErrorKey;
use std::collections::BTreeMap;

/// What one write takes at most.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// What one read of the log asks for.
const READ_BYTES: usize = 1 << 20;
/// Segments that records do not get: settled-frames and what is written anew go there.
const RESERVE_SEGMENTS: u64 = 4;
/// A file that is made and removed to see whether there is room: nothing to the log.
const ROOM_NAME: &str = "room";
/// Segments that one operation moves at most.
const MOVES_MAX: usize = 2;
/// Likewise, where there is no room without.
const MOVES_FOR_ROOM_MAX: usize = 8;

pub(super) struct State<D: Disk + Clone> {
    disk: D,
    options: Options,
    /// None after a failure: what of its last group is on the disk is unknown until it is read.
    wal: Option<Wal<D>>,
    pub index: Index,
    /// What the log may take, for settling.
    log_bytes_max: u64,
    /// Behind the last frame that was written.
    tail: Option<Place>,
    /// How far each segment is written, from the oldest on in which a frame waits.
    ends: BTreeMap<Seq, u64>,
    /// The disk had no room for a segment: this is tried for itself before the log is given anything.
    disk_full: bool,
    dropped: u64,
    damaged_frames: u64,
}

/// A write that did not come to its end: so many of its frames are durable.
struct Broken {
    durable: usize,
    error: DlqError,
}

/// The log may take `bytes_max`: more than the quota where it does already.
fn wal_options(options: &Options, bytes_max: u64) -> wal::Options {
    wal::Options {
        owner: options.owner,
        sinks: vec![options.sink.clone()],
        segment_bytes: options.segment_bytes,
        bytes_max,
        group_bytes_max: GROUP_BYTES_MAX,
        writes: options.writes,
    }
}

/// The log's one sink is this queue: what is acked is settled.
fn ack<D: Disk>(wal: &Wal<D>, to: Seq) {
    let ladder = wal.ladder();
    wal.sent(to.max(ladder.sent.0));
    wal.ack(0, wal::Acked::up_to(to.max(ladder.acked.0)));
}

fn sealed_bytes(sealed: &Sealed) -> u64 {
    frame_bytes(sealed.meta.len(), sealed.body.len()) as u64
}

impl<D: Disk + Clone> State<D> {
    pub async fn open(disk: D, options: Options) -> Result<(State<D>, Found), DlqError> {
        assert!(options.bytes_max >= 4 * RESERVE_SEGMENTS * options.segment_bytes);
        let mut state = State {
            disk,
            options,
            wal: None,
            log_bytes_max: 0,
            index: Index::default(),
            tail: None,
            ends: BTreeMap::new(),
            disk_full: false,
            dropped: 0,
            damaged_frames: 0,
        };
        let found = state.recover().await?;
        Ok((state, found))
    }

    pub async fn ensure_open(&mut self) -> Result<(), DlqError> {
        if self.wal.is_some() {
            return Ok(());
        }
        let before = std::mem::take(&mut self.index);
        match self.recover().await {
            Ok(_) => {
                for info in before.iter() {
                    self.index.resume(info);
                }
                Ok(())
            }
            Err(error) => {
                self.index = before;
                Err(error)
            }
        }
    }

    /// Reads all frames that may wait.
    async fn recover(&mut self) -> Result<Found, DlqError> {
        let used: u64 = self.disk.list().await?.iter().map(|entry| entry.bytes).sum();
        // Where the quota was larger once, what is there can be settled all the same.
        let Options { bytes_max, .. } = self.options;
        let enough = used + self.reserve() <= bytes_max;
        let larger = bytes_max.max(used + used / 8 + self.reserve());
        self.log_bytes_max = if enough { bytes_max } else { larger };
        let wal_options = wal_options(&self.options, self.log_bytes_max);
        let (wal, recovered) = Wal::open(self.disk.clone(), wal_options).await?;
        let mut found = Found {
            gaps: recovered.gaps,
            damaged: recovered.damaged,
            torn: recovered.torn,
            ..Found::default()
        };
        let (mut index, mut ends) = (Index::default(), BTreeMap::new());
        let mut backlog = Backlog::new(wal.ladder().acked.0.next(), None);
        loop {
            let batch = backlog.read(&wal, READ_BYTES).await?;
            if batch.frames.is_empty() && batch.gaps.is_empty() {
                break;
            }
            for gap in batch.gaps {
                let known = |known: &wal::Gap| {
                    known.frames.first <= gap.frames.first && gap.frames.last <= known.frames.last
                };
                if !found.gaps.iter().any(known) {
                    found.gaps.push(gap);
                }
            }
            for frame in batch.frames {
                ends.insert(frame.place.segment, frame.place.next_offset);
                if let Err(error) = take_in(&mut index, &frame) {
                    found.undecodable.push((frame.seq, error));
                }
            }
        }
        backlog.close(&wal).await?;
        let missing = |gap: &wal::Gap| gap.frames.last.0 - gap.frames.first.0 + 1;
        self.damaged_frames += found.gaps.iter().map(missing).sum::<u64>();
        for gap in &found.gaps {
            let (segment, frames) = (&gap.segment, gap.frames);
            tracing::error!(
                error_key = ErrorKey::DlqDamaged.name(),
                segment, %frames,
                "frames of a dead-letter queue are damaged"
            );
        }
        for (seq, error) in &found.undecodable {
            tracing::error!(
                error_key = ErrorKey::DlqUnreadable.name(),
                %seq, %error,
                "a frame is not understood; it is kept"
            );
        }
        (self.wal, self.index, self.tail, self.ends) = (Some(wal), index, None, ends);
        let stats = self.stats();
        (found.frames, found.entries) = (stats.frames, stats.entries);
        Ok(found)
    }

    pub fn stats(&self) -> Stats {
        Stats {
            bytes: self.wal.as_ref().map_or(0, Wal::disk_bytes),
            bytes_max: self.options.bytes_max,
            usable_bytes_max: self.options.bytes_max - self.reserve(),
            dropped: self.dropped,
            damaged_frames: self.damaged_frames,
            ..self.index.stats(self.options.backoff.attempts_max)
        }
    }

    fn wal(&self) -> &Wal<D> {
        self.wal.as_ref().expect("every operation opens it first")
    }

    pub async fn close(&mut self) -> Result<(), DlqError> {
        match self.wal.take() {
            Some(wal) => Ok(wal.close().await?),
            None => Ok(()),
        }
    }

    /// Whether the disk is full still. What the log was given and cannot write costs reading all of
    /// it anew; this does not, however often it is asked.
    async fn try_room(&mut self) -> Result<(), DiskError> {
        if !self.disk_full || self.tail.is_some() {
            return Ok(());
        }
        let mut head = self.disk.buffer(BLOCK_BYTES);
        head.fill(0);
        let file = self.disk.create(ROOM_NAME, self.options.segment_bytes, head).await?;
        self.disk.close(file).await?;
        self.disk.remove(&[ROOM_NAME.to_owned()]).await?;
        self.disk_full = false;
        Ok(())
    }

    /// Writes frames in their order and takes into the index what is durable.
    async fn write(&mut self, drafts: Vec<Draft>) -> Result<(), Broken> {
        if let Err(error) = self.try_room().await {
            return Err(Broken { durable: 0, error: error.into() });
        }
        // Out of the way meanwhile: should this be dropped half-way, the log is read anew.
        let wal = self.wal.take().expect("every operation opens it first");
        let mut whats = Vec::new();
        let mut full = None;
        for Draft { sealed, what } in drafts {
            if wal.append(sealed).is_err() {
                let bytes_max = self.options.bytes_max;
                full = Some(DlqError::Full { bytes: wal.disk_bytes(), bytes_max });
                break;
            }
            whats.push(what);
        }
        let (mut durable, mut whats) = (0, whats.into_iter());
        let error = loop {
            match wal.commit().await {
                Ok(Committed::Nothing) => {
                    self.wal = Some(wal);
                    return full.map_or(Ok(()), |error| Err(Broken { durable, error }));
                }
                Ok(Committed::Durable(frames)) => {
                    durable += frames.len();
                    for frame in frames {
                        self.written(&frame, whats.next().expect("what was appended"));
                    }
                }
                Ok(Committed::Full(error)) => {
                    self.disk_full = true;
                    break DlqError::Disk(error);
                }
                Err(error) => break DlqError::Wal(error),
            }
        };
        // What waits in the log is not to become durable behind the back of who put it.
        if let Err(error) = wal.close().await {
            tracing::warn!(
                error_key = ErrorKey::DlqWriteFailed.name(),
                %error,
                "a dead-letter queue's log cannot be closed"
            );
        }
        Err(Broken { durable, error })
    }

    fn full(&self) -> DlqError {
        DlqError::Full { bytes: self.wal().disk_bytes(), bytes_max: self.options.bytes_max }
    }

    fn written(&mut self, frame: &Durable, what: What) {
        self.tail = Some(frame.place);
        self.ends.insert(frame.place.segment, frame.place.next_offset);
        match what {
            What::Settled(seqs) => seqs.iter().for_each(|seq| drop(self.index.remove(*seq))),
            What::Records { info, replaces, moves } => {
                let before = replaces.and_then(|seq| self.index.remove(seq));
                let (place, bytes) = place_of(frame);
                let (seq, id) = (frame.seq, frame.seq);
                let mut info = FrameInfo { seq, id, place, bytes, ..info };
                if let Some(before) = before.filter(|_| moves) {
                    info.requested = before.requested;
                    info.not_before_ns = before.not_before_ns;
                    info.id = before.id;
                }
                self.index.insert(info);
            }
        }
    }

    /// Whether so much more makes no more than `bytes_max`; by the bound that the log has.
    fn fits(&self, bytes: u64, bytes_max: u64) -> bool {
        let segment_bytes = self.options.segment_bytes;
        let room = self.tail.map_or(0, |tail| segment_bytes.saturating_sub(tail.next_offset));
        let usable = (segment_bytes - BLOCK_BYTES as u64) / 2;
        let segments = bytes.saturating_sub(room).div_ceil(usable);
        self.wal().disk_bytes() + segments * segment_bytes <= bytes_max
    }

    /// What moving the frames that wait would give back, all of them taken together.
    fn settled_bytes(&self) -> u64 {
        let written = self.ends.values().map(|end| end - BLOCK_BYTES as u64).sum::<u64>();
        written.saturating_sub(self.index.bytes())
    }

    fn reserve(&self) -> u64 {
        RESERVE_SEGMENTS * self.options.segment_bytes
    }

    pub async fn put(&mut self, records: &[Record]) -> Result<Stored, PutError> {
        let drafts = drafts(records, self.options.frame_raw_bytes, None)
            .map_err(|at| PutError::TooLarge { at })?;
        let bytes = drafts.iter().map(|(draft, _)| sealed_bytes(&draft.sealed)).sum();
        let dropped = self.dropped;
        let room = self.make_room(bytes).await;
        let dropped = self.dropped - dropped;
        let left_of = |drafts: &[Vec<usize>]| {
            let mut left = drafts.concat();
            left.sort_unstable();
            left
        };
        let (drafts, of): (Vec<Draft>, Vec<Vec<usize>>) = drafts.into_iter().unzip();
        let (durable, error) = match room {
            Ok(()) => match self.write(drafts).await {
                Ok(()) => {
                    self.tidy().await;
                    return Ok(Stored { dropped });
                }
                Err(Broken { durable, error }) => (durable, error),
            },
            Err(error) => (0, error),
        };
        let left = left_of(&of[durable..]);
        if error.is_full() {
            let why = match error {
                DlqError::Full { bytes, bytes_max } => {
                    format!("it holds {bytes} bytes, the limit is {bytes_max}")
                }
                error => error.to_string(),
            };
            return Err(PutError::Full { left, dropped, why });
        }
        Err(PutError::Failed { left, error })
    }

    /// Has room for so much, by what the policy allows.
    async fn make_room(&mut self, bytes: u64) -> Result<(), DlqError> {
        let mut moves = 0;
        while !self.fits(bytes, self.options.bytes_max - self.reserve()) {
            let worth_it = self.settled_bytes() >= 2 * self.options.segment_bytes;
            if worth_it && moves < MOVES_FOR_ROOM_MAX && self.move_oldest().await? {
                moves += 1;
                continue;
            }
            let oldest = self.index.oldest_segment();
            if self.options.when_full == WhenFull::Keep || oldest.is_empty() {
                return Err(self.full());
            }
            let entries: u64 = oldest.iter().map(|info| u64::from(info.entries)).sum();
            let seqs: Vec<Seq> = oldest.iter().map(|info| info.seq).collect();
            tracing::warn!(
                error_key = ErrorKey::DlqDropped.name(),
                entries,
                "a dead-letter queue is full: its oldest entries are dropped"
            );
            self.write(Draft::settled(&seqs).collect()).await.map_err(|broken| broken.error)?;
            self.dropped += entries;
            self.trim().await?;
        }
        Ok(())
    }

    /// Gives back the space of what is settled. A failure costs nothing but space, for now.
    pub async fn tidy(&mut self) {
        let tidied = async {
            self.trim().await?;
            for _ in 0..MOVES_MAX {
                if !self.should_move() || !self.move_oldest().await? {
                    break;
                }
            }
            Ok::<_, DlqError>(())
        };
        if let Err(error) = tidied.await {
            tracing::warn!(
                error_key = ErrorKey::DlqWriteFailed.name(),
                %error,
                "space of a dead-letter queue was not given back"
            );
        }
    }

    async fn trim(&mut self) -> Result<(), DlqError> {
        let wal = self.wal();
        let durable = wal.ladder().durable.0;
        let oldest = self.index.oldest();
        ack(wal, oldest.map_or(durable, |info| info.seq.previous()));
        let segment = oldest.map(|info| info.place.segment).or(self.tail.map(|tail| tail.segment));
        self.ends = segment.map_or_else(BTreeMap::new, |first| self.ends.split_off(&first));
        let wal = self.wal();
        if wal.can_trim() || wal.checkpoint_is_stale() {
            wal.checkpoint().await?;
        }
        Ok(())
    }

    fn should_move(&self) -> bool {
        let Options { segment_bytes, bytes_max, .. } = self.options;
        let used = self.wal().disk_bytes();
        let waiting: u64 = self.index.oldest_segment().iter().map(|info| info.bytes).sum();
        let settled = self.settled_bytes();
        let in_reserve = used + self.reserve() > bytes_max && settled >= 2 * segment_bytes;
        used * 2 > bytes_max && (waiting * 2 < segment_bytes || settled * 2 > used || in_reserve)
    }

    /// Moves what waits in the oldest segment to the tail, as it is. False where that cannot be.
    async fn move_oldest(&mut self) -> Result<bool, DlqError> {
        let oldest: Vec<FrameInfo> = self.index.oldest_segment().into_iter().cloned().collect();
        let Some(first) = oldest.first() else { return Ok(false) };
        let bytes = oldest.iter().map(|info| info.bytes).sum();
        let is_tail = self.tail.is_some_and(|tail| tail.segment == first.place.segment);
        if is_tail || !self.fits(bytes, self.log_bytes_max) {
            return Ok(false);
        }
        let mut drafts = Vec::new();
        for info in oldest {
            let Some(frame) = self.load(&info).await? else { continue };
            let replaces = Some(info.seq);
            let (meta, what) = if info.undecodable {
                // Its tag may be what is not understood: the frame stays as it is, and is settled.
                (frame.tag, What::Records { info: info.clone(), replaces: None, moves: false })
            } else {
                let kind = Kind::Records { replaces };
                (kind.tag(), What::Records { info: info.clone(), replaces, moves: true })
            };
            let sealed = Sealed {
                tag_len: u16::try_from(meta.len()).expect("a tag is short"),
                meta,
                body: frame.body,
                raw_len: frame.raw_len,
                entries: frame.entries,
                stream: frame.stream,
                oldest_arrival_ns: frame.oldest_arrival_ns,
                oldest_stamp_ns: frame.oldest_arrival_ns,
            };
            drafts.push(Draft { sealed, what });
            if info.undecodable {
                drafts.extend(Draft::settled(&[info.seq]));
            }
        }
        self.write(drafts).await.map_err(|broken| broken.error)?;
        self.trim().await?;
        Ok(true)
    }

    /// A frame that waits, from the disk; `None` where it is damaged, which is said and counted.
    async fn load(&mut self, info: &FrameInfo) -> Result<Option<Durable>, DlqError> {
        let mut backlog = Backlog::new(info.seq, Some(info.place));
        let wal = self.wal();
        let batch = backlog.read(wal, 1).await?;
        backlog.close(wal).await?;
        let frame = batch.frames.into_iter().find(|frame| frame.seq == info.seq);
        if frame.is_none() {
            let (seq, entries) = (info.seq, info.entries);
            tracing::error!(
                error_key = ErrorKey::DlqDamaged.name(),
                %seq, entries,
                "a frame of a dead-letter queue is damaged"
            );
            self.index.remove(info.seq);
            self.damaged_frames += 1;
        }
        Ok(frame)
    }

    pub async fn read(&mut self, seq: Seq) -> Result<Vec<Record>, DlqError> {
        let seq = self.index.resolve(seq).ok_or(DlqError::Settled { seq })?;
        let info = self.index.get(seq).expect("resolved").clone();
        let frame = self.load(&info).await?.ok_or(DlqError::Damaged { seq })?;
        Kind::of(&frame.tag)
            .and_then(|_| body::records(&frame.body))
            .map_err(|source| DlqError::Undecodable { seq, source })
    }

    pub async fn settle(&mut self, done: &[Seq], again: &[Record]) -> Result<(), DlqError> {
        let done: Vec<Seq> = done.iter().filter_map(|seq| self.index.resolve(*seq)).collect();
        if done.is_empty() {
            return Ok(());
        }
        self.replace(&done, &[again]).await?;
        self.tidy().await;
        Ok(())
    }

    pub async fn settle_tried(
        &mut self,
        done: Seq,
        again: &[Record],
        untried: &[Record],
    ) -> Result<(), DlqError> {
        let Some(info) = self.index.resolve(done).and_then(|seq| self.index.get(seq)) else {
            return Ok(());
        };
        let (seq, order) = (info.seq, info.requested);
        for seq in self.replace_by(seq, again, untried).await? {
            if let Some(mut mark) = self.index.get_mut(seq) {
                mark.requested(order);
            }
        }
        self.tidy().await;
        Ok(())
    }

    /// Writes what is left of a frame; gives the new frames of the second group.
    async fn replace_by(
        &mut self,
        seq: Seq,
        first: &[Record],
        second: &[Record],
    ) -> Result<Vec<Seq>, DlqError> {
        let before = self.wal().ladder().durable.0;
        self.replace(&[seq], &[first, second]).await?;
        // Frames of the first come first, and are told by what they hold.
        let mut left = first.len();
        let mut of_second = Vec::new();
        for info in self.index.iter().filter(|info| info.seq > before) {
            if left == 0 {
                of_second.push(info.seq);
            }
            left = left.saturating_sub(info.entries as usize);
        }
        Ok(of_second)
    }

    /// Writes what is left of frames, each group of records in frames of its own, and settles them.
    async fn replace(&mut self, done: &[Seq], left: &[&[Record]]) -> Result<(), DlqError> {
        let raw_bytes_max = self.options.frame_raw_bytes.max(body::RAW_BYTES_MAX / 8);
        let too_large = |_| self.full();
        let mut new = Vec::new();
        for records in left {
            new.extend(drafts(records, raw_bytes_max, None).map_err(too_large)?);
        }
        let drafts: Vec<Draft> = match (done, &mut new[..]) {
            ([seq], [(draft, _)]) => {
                draft.sealed.meta = Kind::Records { replaces: Some(*seq) }.tag();
                draft.sealed.tag_len = u16::try_from(draft.sealed.meta.len()).expect("short");
                if let What::Records { replaces, .. } = &mut draft.what {
                    *replaces = Some(*seq);
                }
                new.into_iter().map(|(draft, _)| draft).collect()
            }
            _ => new.into_iter().map(|(draft, _)| draft).chain(Draft::settled(done)).collect(),
        };
        let bytes = drafts.iter().map(|draft| sealed_bytes(&draft.sealed)).sum();
        if !self.fits(bytes, self.log_bytes_max) {
            return Err(self.full());
        }
        self.write(drafts).await.map_err(|broken| broken.error)
    }

    /// Those of a frame that match, and the others; `None` where there are none to match.
    async fn partition(
        &mut self,
        seq: Seq,
        filter: &Filter,
        now_ns: i64,
    ) -> Result<Option<(Seq, Vec<Record>, Vec<Record>)>, DlqError> {
        let Some(info) = self.index.resolve(seq).and_then(|seq| self.index.get(seq)) else {
            return Ok(None);
        };
        let seq = info.seq;
        if info.undecodable || !filter.may_match(info.reasons.iter().map(|(reason, _)| reason)) {
            return Ok(None);
        }
        match self.read(seq).await {
            Ok(records) => {
                let (matching, others): (Vec<_>, Vec<_>) =
                    records.into_iter().partition(|record| filter.matches(record, now_ns));
                Ok((!matching.is_empty()).then_some((seq, matching, others)))
            }
            // Said and counted already; the others are looked at all the same.
            Err(DlqError::Damaged { .. } | DlqError::Undecodable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn request(
        &mut self,
        seq: Seq,
        filter: &Filter,
        now_ns: i64,
        order: u64,
    ) -> Result<u64, DlqError> {
        let Some((seq, matching, others)) = self.partition(seq, filter, now_ns).await? else {
            return Ok(0);
        };
        let mut marked = vec![seq];
        if !others.is_empty() {
            marked = self.replace_by(seq, &others, &matching).await?;
        }
        for seq in marked {
            if let Some(mut mark) = self.index.get_mut(seq) {
                mark.requested(order);
                mark.not_before(i64::MIN);
            }
        }
        self.tidy().await;
        Ok(matching.len() as u64)
    }

    /// How many entries match, and whether the frame is still to be settled, as a whole.
    pub async fn purge(
        &mut self,
        seq: Seq,
        filter: &Filter,
        now_ns: i64,
    ) -> Result<(u64, bool), DlqError> {
        if filter.is_empty() {
            let info = self.index.resolve(seq).and_then(|seq| self.index.get(seq));
            return Ok(info.map_or((0, false), |info| (info.entries.into(), true)));
        }
        let Some((seq, matching, others)) = self.partition(seq, filter, now_ns).await? else {
            return Ok((0, false));
        };
        if !others.is_empty() {
            self.replace(&[seq], &[&others]).await?;
            self.tidy().await;
        }
        Ok((matching.len() as u64, others.is_empty()))
    }
}

fn place_of(frame: &Durable) -> (Place, u64) {
    let bytes = frame_bytes(frame.tag.len(), frame.body.len()) as u64;
    let Place { segment, next_offset } = frame.place;
    (Place { segment, next_offset: next_offset - bytes }, bytes)
}

/// Reads a frame into the index. One that is not understood waits there as well.
pub(super) fn take_in(index: &mut Index, frame: &Durable) -> Result<(), BodyError> {
    let (place, bytes) = place_of(frame);
    let known = Kind::of(&frame.tag).and_then(|kind| match kind {
        Kind::Settled => body::settled(&frame.body).map(What::Settled),
        Kind::Records { replaces } => body::records(&frame.body).map(|records| What::Records {
            info: FrameInfo::of(records.iter()),
            replaces,
            moves: false,
        }),
    });
    match known {
        Ok(What::Settled(seqs)) => {
            seqs.iter().for_each(|seq| drop(index.remove(*seq)));
            Ok(())
        }
        Ok(What::Records { info, replaces, .. }) => {
            replaces.and_then(|seq| index.remove(seq));
            index.insert(FrameInfo { seq: frame.seq, id: frame.seq, place, bytes, ..info });
            Ok(())
        }
        Err(error) => {
            let info = FrameInfo::undecodable(frame.entries, frame.oldest_arrival_ns);
            index.insert(FrameInfo { seq: frame.seq, id: frame.seq, place, bytes, ..info });
            Err(error)
        }
    }
}
