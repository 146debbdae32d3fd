//! What stands in a log's directory, read and judged. Nothing is changed: recovery acts on it, and the
//! commands that look at a log show it.
//!
//! Beside a process that writes, files come and go between two reads. A segment that vanished was
//! done with; what else looks wrong is so where a second survey finds it, too.

use super::log::{CursorTable, Segment};
use super::recovery::{Judged, Seen, judge};
use super::scan::{Damage, Scan, Step};
use super::{WalError, read_segment_header};
use crate::disk::{Disk, DiskError, Entry};
use crate::format::{
    BLOCK_BYTES, CHECKPOINT_SLOTS, Checkpoint, Cursor, FormatError, FrameHeader, SegmentHeader,
    Seq, Versions, parse_segment_name, segment_name,
};
use std::io::ErrorKind;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What the newest checkpoint does not vouch for: enough to go on.
    Tail,
    Everything,
}

#[derive(Debug)]
pub struct Survey {
    /// Those that are there.
    pub slots: Vec<Slot>,
    /// The newest valid one; an empty one where there is none.
    pub checkpoint: Checkpoint,
    /// In their order.
    pub segments: Vec<Surveyed>,
    /// What the frames say that every sink of their time is past.
    pub acked: Seq,
    /// The last frame that counts, or is lost.
    pub durable: Seq,
    pub cursors: CursorTable,
}

/// A checkpoint's place.
#[derive(Debug)]
pub struct Slot {
    pub name: &'static str,
    pub bytes: u64,
    pub found: Result<Checkpoint, FormatError>,
}

/// A segment.
#[derive(Debug)]
pub struct Surveyed {
    pub name: String,
    pub first_seq: Seq,
    /// The last frame that counts, or is lost; `first_seq - 1` where it has none.
    pub last_seq: Seq,
    /// As long as the file is.
    pub bytes: u64,
    pub header: Result<SegmentHeader, FormatError>,
    /// Whole, but of another log or under another name.
    foreign: bool,
    /// All whole frames, in the order of their places; none where it was not read.
    pub frames: Vec<Frame>,
    pub judged: Judged,
    /// The first behind each whole frame.
    pub damage: Vec<Damage>,
    /// Where frames of older segments stand, whose blocks these were.
    pub stale: Vec<u64>,
    /// Of frames that count.
    pub cursor_errors: Vec<FormatError>,
    /// The disk gave it up to here only.
    pub unreadable: Option<DiskError>,
}

/// A whole frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub offset: u64,
    pub header: FrameHeader,
    /// Its header's own checksum.
    pub crc: u32,
    pub tag: Vec<u8>,
}

impl Survey {
    /// The segments that are of this log.
    pub fn ours(&self) -> impl DoubleEndedIterator<Item = &Surveyed> {
        self.segments.iter().filter(|segment| !segment.is_foreign())
    }

    /// Something in the directory is whole, but of another log.
    #[must_use]
    pub fn has_foreign(&self) -> bool {
        let foreign = |slot: &Slot| matches!(slot.found, Err(FormatError::Unexpected { .. }));
        self.segments.iter().any(Surveyed::is_foreign) || self.slots.iter().any(foreign)
    }
}

impl Surveyed {
    /// Whole, but of another log or under another name.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// It was there when the directory was listed, and is no more.
    #[must_use]
    pub fn has_vanished(&self) -> bool {
        self.unreadable.as_ref().is_some_and(|error| error.source.kind() == ErrorKind::NotFound)
    }

    /// The frames that count.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Frame> {
        self.judged.kept.iter().map(|at| &self.frames[*at])
    }

    /// A segment of which the header alone was read. Refuses a format that cannot be read.
    async fn head<D: Disk>(
        disk: &D,
        owner: u32,
        first_seq: Seq,
        bytes: u64,
    ) -> Result<Surveyed, WalError> {
        let mut surveyed = Surveyed {
            name: segment_name(first_seq),
            first_seq,
            last_seq: first_seq.previous(),
            bytes,
            header: Err(FormatError::Short { expected: BLOCK_BYTES, found: 0 }),
            foreign: false,
            frames: Vec::new(),
            judged: Judged::default(),
            damage: Vec::new(),
            stale: Vec::new(),
            cursor_errors: Vec::new(),
            unreadable: None,
        };
        if let Err(error) = surveyed.read_head(disk, owner).await {
            surveyed.unreadable = Some(error);
        }
        if let Err(source @ FormatError::Version { .. }) = surveyed.header {
            return Err(WalError::Format { name: surveyed.name, source });
        }
        Ok(surveyed)
    }

    async fn read_head<D: Disk>(&mut self, disk: &D, owner: u32) -> Result<(), DiskError> {
        let file = disk.open(&self.name).await?;
        let found = read_segment_header(disk, &file).await?;
        self.header = found.clone().and_then(|header| header.check(self.first_seq, owner));
        if let (Ok(header), Err(_)) = (found, &self.header) {
            // Frames with another salt than its own: the segment is in its place, and of it the header
            // alone was overwritten.
            let start = BLOCK_BYTES as u64;
            let mut scan = Scan::new(disk, &file, Some(header.salt), start, self.bytes);
            self.foreign = match scan.next().await? {
                Step::Frame(_) => true,
                Step::End { .. } => scan.stale().is_empty(),
            };
        }
        disk.close(file).await
    }

    pub(super) fn segment(&self) -> Segment {
        let Surveyed { first_seq, last_seq, bytes, .. } = *self;
        Segment { first_seq, last_seq, bytes }
    }
}

/// Reads the log of `owner`. Refuses a format that it cannot read.
pub async fn survey<D: Disk>(disk: &D, owner: u32, reach: Reach) -> Result<Survey, WalError> {
    let entries = disk.list().await?;
    let mut slots = Vec::new();
    for name in CHECKPOINT_SLOTS {
        let Some(entry) = entries.iter().find(|entry| entry.name == name) else { continue };
        let found = read_checkpoint(disk, name, owner).await?;
        if let Err(source @ FormatError::Version { .. }) = found {
            return Err(WalError::Format { name: name.into(), source });
        }
        slots.push(Slot { name, bytes: entry.bytes, found });
    }
    let valid = slots.iter().filter_map(|slot| slot.found.as_ref().ok());
    let checkpoint =
        valid.max_by_key(|checkpoint| checkpoint.generation).cloned().unwrap_or_default();
    let mut cursors = CursorTable::default();
    checkpoint.cursors.iter().for_each(|cursor| cursors.replace(cursor.clone()));
    let mut roll = RollForward {
        disk,
        reach,
        checkpointed: checkpoint.durable,
        watermark: checkpoint.durable,
        acked: Seq::NONE,
        cursors,
        met: Vec::new(),
        next: checkpoint.durable.next(),
    };
    let mut segments = Vec::new();
    for entry in &entries {
        let Some(first_seq) = parse_segment_name(&entry.name) else { continue };
        segments.push(Surveyed::head(disk, owner, first_seq, entry.bytes).await?);
    }
    // From the last on: what strayed in supersedes nothing.
    let mut successor = None;
    let mut successors = Vec::with_capacity(segments.len());
    for segment in segments.iter().rev() {
        successors.push(successor);
        successor = Some(segment.first_seq).filter(|_| !segment.foreign).or(successor);
    }
    for (segment, successor) in segments.iter_mut().zip(successors.into_iter().rev()) {
        if !segment.foreign {
            roll.segment(segment, successor).await;
        }
    }
    let RollForward { acked, cursors, next, .. } = roll;
    Ok(Survey { slots, checkpoint, segments, acked, durable: next.previous(), cursors })
}

/// What a file of a log says of its format.
#[derive(Debug)]
pub struct Head {
    pub name: String,
    /// A segment, or else a checkpoint.
    pub is_segment: bool,
    pub versions: Result<Versions, FormatError>,
}

/// The heads of all files of a log, those that cannot be read by this program as well. What vanishes
/// meanwhile is not among them.
pub async fn heads<D: Disk>(disk: &D) -> Result<Vec<Head>, DiskError> {
    let mut heads = Vec::new();
    for Entry { name, .. } in disk.list().await? {
        let is_segment = parse_segment_name(&name).is_some();
        if !is_segment && !CHECKPOINT_SLOTS.contains(&&*name) {
            continue;
        }
        let file = match disk.open(&name).await {
            Err(gone) if gone.source.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let head = disk.read(&file, 0, BLOCK_BYTES).await?;
        disk.close(file).await?;
        let versions =
            if is_segment { SegmentHeader::versions(&head) } else { Checkpoint::versions(&head) };
        heads.push(Head { name, is_segment, versions });
    }
    Ok(heads)
}

/// A frame's bytes once more; [`FrameView::decode`](crate::format::FrameView::decode) reads them.
pub async fn read_frame<D: Disk>(
    disk: &D,
    file: &D::File,
    frame: &Frame,
) -> Result<Vec<u8>, DiskError> {
    disk.read(file, frame.offset, frame.header.frame_bytes()).await
}

struct RollForward<'a, D: Disk> {
    disk: &'a D,
    reach: Reach,
    /// What the checkpoint knows of.
    checkpointed: Seq,
    /// What is known to have been durable.
    watermark: Seq,
    acked: Seq,
    cursors: CursorTable,
    /// Those of each whole frame of a segment, until it is known which of them count.
    met: Vec<Result<Vec<Cursor>, FormatError>>,
    /// The sequence number after everything that counts.
    next: Seq,
}

impl<D: Disk> RollForward<'_, D> {
    async fn segment(&mut self, surveyed: &mut Surveyed, successor: Option<Seq>) {
        let passed =
            successor.filter(|next| self.reach == Reach::Tail && next.previous() <= self.watermark);
        self.met.clear();
        if passed.is_none()
            && surveyed.unreadable.is_none()
            && let Err(error) = self.read(surveyed).await
        {
            surveyed.unreadable = Some(error);
        }
        match passed {
            Some(successor) => surveyed.last_seq = successor.previous(),
            None => self.judge(surveyed, successor),
        }
        self.next = self.next.max(surveyed.last_seq.next());
    }

    /// Which of the frames that were met count, and what they say.
    fn judge(&mut self, surveyed: &mut Surveyed, successor: Option<Seq>) {
        let seen: Vec<Seen> = surveyed
            .frames
            .iter()
            .map(|Frame { header, .. }| Seen { seq: header.seq, durable: header.durable })
            .collect();
        let judged = judge(&seen, surveyed.first_seq, self.watermark, successor);
        let mut met = std::mem::take(&mut self.met);
        for at in judged.kept.iter().copied() {
            let header = surveyed.frames[at].header;
            match std::mem::replace(&mut met[at], Ok(Vec::new())) {
                // The checkpoint has them, and what came without a frame since then.
                Ok(_) if header.seq <= self.checkpointed => {}
                Ok(cursors) => cursors.into_iter().for_each(|c| self.cursors.replace(c)),
                Err(error) => surveyed.cursor_errors.push(error),
            }
            // No frame knows of acks of its own, or of later ones.
            self.acked = self.acked.max(header.acked.min(header.seq.previous()));
        }
        self.watermark = self.watermark.max(judged.last);
        surveyed.last_seq = judged.last;
        surveyed.judged = judged;
    }

    /// The whole frames.
    async fn read(&mut self, to: &mut Surveyed) -> Result<(), DiskError> {
        let file = self.disk.open(&to.name).await?;
        // Without a header they do as well: each repeats the salt.
        let salt = to.header.as_ref().ok().map(|header| header.salt);
        self.frames(&file, salt, to).await?;
        self.disk.close(file).await
    }

    async fn frames(
        &mut self,
        file: &D::File,
        salt: Option<u64>,
        to: &mut Surveyed,
    ) -> Result<(), DiskError> {
        let mut scan = Scan::new(self.disk, file, salt, BLOCK_BYTES as u64, to.bytes);
        loop {
            match scan.next().await? {
                Step::Frame(found) => {
                    to.damage.extend(found.damage.clone());
                    let view = scan.view(&found);
                    let (offset, header, crc) = (found.offset, found.header, found.crc);
                    to.frames.push(Frame { offset, header, crc, tag: view.tag.to_vec() });
                    self.met.push(view.cursors());
                }
                Step::End { damage } => {
                    to.damage.extend(damage);
                    to.stale = scan.stale();
                    return Ok(());
                }
            }
        }
    }
}

async fn read_checkpoint<D: Disk>(
    disk: &D,
    slot: &str,
    owner: u32,
) -> Result<Result<Checkpoint, FormatError>, DiskError> {
    let file = disk.open(slot).await?;
    let mut bytes = Vec::new();
    loop {
        let more = disk.read(&file, bytes.len() as u64, 1 << 20).await?;
        bytes.extend_from_slice(&more);
        if more.len() < 1 << 20 {
            break;
        }
    }
    disk.close(file).await?;
    Ok(Checkpoint::decode(&bytes).and_then(|checkpoint| {
        if checkpoint.owner != owner {
            return Err(FormatError::Unexpected {
                what: "the checkpoint's owner",
                found: checkpoint.owner.into(),
                expected: owner.into(),
            });
        }
        Ok(checkpoint)
    }))
}
