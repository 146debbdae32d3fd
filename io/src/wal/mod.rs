//! The write-ahead log of one shard: what was appended, what is durable, what was sent and acked.
//!
//! - [`ladder`]: the positions, and the order between them.
//! - [`log`]: the bookkeeping as a plain state machine that does no I/O.
//! - [`scan`]: which frames stand in a segment; [`survey`]: all segments, judged, and nothing changed;
//!   [`recovery`]: what that means after a stop.
//! - [`backlog`]: durable frames read back, for a sink that fell behind.
//! - [`Wal`] (here): carries the log's decisions out on a [`Disk`].
//!
//! A crash, step by step. A frame is *appended*: a crash loses it, its cursor was not moved, its
//! source is read again. Its group is written but not synced: it may be there whole, torn or not at
//! all; recovery takes what is whole up to the first that is not, and its source is read from the
//! cursor of the last one taken. The group is synced, the frame *durable*: from here on it is sent
//! until the sink acked it, whatever happens. It is *acked*: a crash may send it again, since that
//! position becomes durable only with the next frame or checkpoint. Every frame of its segment is
//! acked and a checkpoint that says so is durable: the segment is removed (*trimmed*).

pub mod backlog;
pub mod ladder;
pub mod log;
pub mod recovery;
pub mod scan;
pub mod survey;

pub use backlog::{Backlog, Batch};
pub use ladder::Ladder;
pub use log::{Acked, Options, Sealed};
pub use recovery::{Gap, Recovered};

use crate::disk::{Disk, DiskError};
use crate::format::{
    BLOCK_BYTES, CHECKPOINT_SLOTS, Checkpoint, Cursor, FormatError, FormatVersion, FrameHeader,
    FrameView, SegmentHeader, Seq, segment_name,
};
use crate::tail::Identity;
use log::{Group, Log};
use perf::errors::ErrorKey;
use std::cell::RefCell;

/// What can go wrong in the log, apart from a full disk.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("{name}: {source}")]
    Format { name: String, source: FormatError },
    #[error(
        "writing the log failed twice in a row, the shard stops: {first}; then: {second}; check \
         the disk under data_dir, what is not durable was not acknowledged"
    )]
    Broken { first: DiskError, second: DiskError },
}

/// A frame that stands on the disk, with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    pub seq: Seq,
    pub place: Place,
    pub tag: Vec<u8>,
    /// It carries cursors: its lines were read from sources, and not pushed.
    pub sourced: bool,
    pub stream: u64,
    pub oldest_arrival_ns: i64,
    pub oldest_stamp_ns: i64,
    pub raw_len: u32,
    pub entries: u32,
    pub body: Vec<u8>,
}

/// The block after a frame: where its successor stands if it is in the same segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: Seq,
    pub next_offset: u64,
}

/// The outcome of a commit.
#[derive(Debug)]
pub enum Committed {
    /// These frames are durable now.
    Durable(Vec<Durable>),
    /// Nothing was waiting.
    Nothing,
    /// No space: the frames wait, try again when there may be some.
    Full(DiskError),
}

/// The log of one shard on a disk.
///
/// [`Wal::append`] and [`Wal::commit`] may run at once; of commit, only one. A commit that is
/// dropped half-way leaves its frames neither durable nor pending: drop it only to end the shard.
pub struct Wal<D: Disk> {
    disk: D,
    log: RefCell<Log>,
    open: RefCell<Option<(Seq, D::File)>>,
}

impl<D: Disk> Wal<D> {
    /// Reads what an earlier run left and goes on behind it. Reports damage, never stops for it,
    /// but refuses a format that it cannot read.
    pub async fn open(disk: D, options: Options) -> Result<(Wal<D>, Recovered), WalError> {
        let (log, recovered) = recovery::recover(&disk, options).await?;
        Ok((Wal { disk, log: RefCell::new(log), open: RefCell::new(None) }, recovered))
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Takes a frame in, or gives it back where the quota is used up.
    pub fn append(&self, frame: Sealed) -> Result<Seq, Sealed> {
        self.log.borrow_mut().append(frame)
    }

    /// Makes durable what waits, as one group: one write.
    ///
    /// A failure poisons the segment: its frames go to a fresh one, and where that fails too, the
    /// error is final. A write is never tried again in its place: what of it is on the disk is
    /// unknown, and a sync that failed may succeed the next time with the data gone.
    pub async fn commit(&self) -> Result<Committed, WalError> {
        let mut first: Option<DiskError> = None;
        loop {
            let Some(group) = self.log.borrow_mut().next_group() else {
                return Ok(Committed::Nothing);
            };
            if crate::planted!(AckBeforeSync) {
                self.log.borrow_mut().ladder.make_durable(group.last());
            }
            match self.write(&group).await {
                Ok(last_crc) => {
                    let durable = self.log.borrow_mut().group_done(group, last_crc);
                    return Ok(Committed::Durable(durable));
                }
                Err(error) => {
                    self.log.borrow_mut().group_failed(group);
                    if error.is_full() {
                        return Ok(Committed::Full(error));
                    }
                    tracing::error!(
                        error_key = ErrorKey::WalWriteFailed.name(),
                        %error,
                        "a write to the log failed; its frames go to a new segment"
                    );
                    match first.take() {
                        None => first = Some(error),
                        Some(first) => return Err(WalError::Broken { first, second: error }),
                    }
                }
            }
        }
    }

    async fn write(&self, group: &Group) -> Result<u32, DiskError> {
        if let Some(birth) = &group.birth {
            // The segment before is complete: what it holds was synced group by group.
            let previous = self.open.borrow_mut().take();
            if let Some((_, file)) = previous {
                self.disk.close(file).await?;
            }
            let mut head = self.disk.buffer(BLOCK_BYTES);
            birth.header.encode(&mut head, birth.writes);
            let file = self.disk.create(&segment_name(group.segment), birth.bytes, head).await?;
            *self.open.borrow_mut() = Some((group.segment, file));
        }
        let mut buffer = self.disk.buffer(group.bytes + group.zeros);
        let (frames, zeros) = buffer.split_at_mut(group.bytes);
        let last_crc = group.encode(frames);
        zeros.fill(0);
        let Some((segment, file)) = self.open.borrow_mut().take() else {
            unreachable!("a group without birth follows one that opened its segment")
        };
        assert_eq!(segment, group.segment);
        let done = self.disk.write(&file, group.offset, buffer).await;
        // A poisoned file is closed by the birth of the next segment.
        *self.open.borrow_mut() = Some((segment, file));
        done.map(|()| last_crc)
    }

    /// How far a sink is now. What every sink is past need not be kept.
    pub fn ack(&self, sink: usize, acked: Acked) {
        self.log.borrow_mut().ack(sink, acked);
    }

    /// How far a sink is.
    pub fn acked(&self, sink: usize) -> Acked {
        self.log.borrow().acked(sink).clone()
    }

    pub fn sent(&self, sent: Seq) {
        self.log.borrow_mut().sent(sent);
    }

    pub fn ladder(&self) -> Ladder {
        self.log.borrow().ladder
    }

    pub fn has_pending(&self) -> bool {
        self.log.borrow().pending_bytes() > 0
    }

    /// Bytes appended that are not durable yet.
    pub fn pending_bytes(&self) -> u64 {
        self.log.borrow().pending_bytes()
    }

    /// Disk space that the segments take, preallocation included.
    pub fn disk_bytes(&self) -> u64 {
        self.log.borrow().disk_bytes()
    }

    /// The last frame of the oldest segment, where that takes no more.
    pub fn oldest(&self) -> Option<Seq> {
        self.log.borrow().oldest()
    }

    /// Whether a removal of acked segments is due.
    pub fn can_trim(&self) -> bool {
        !self.log.borrow().removable().is_empty()
    }

    /// Whether the last checkpoint lags behind so far that one is wanted for its own sake.
    pub fn checkpoint_is_stale(&self) -> bool {
        self.log.borrow().checkpoint_is_stale()
    }

    /// Forgets the cursor of a source that is no more.
    pub fn forget(&self, source: &Identity) {
        self.log.borrow_mut().cursors.forget(source);
    }

    /// Takes over a cursor from elsewhere (discovery, another shard): the later of two stays. True
    /// where it is news.
    pub fn adopt(&self, cursor: Cursor) -> bool {
        self.log.borrow_mut().cursors.take_in(cursor)
    }

    /// Writes a checkpoint, and when it is durable removes the segments it made needless.
    pub async fn checkpoint(&self) -> Result<(), DiskError> {
        let (checkpoint, writes, sinks, removable) = {
            let mut log = self.log.borrow_mut();
            (log.next_checkpoint(), log.options.writes, log.sinks(), log.removable())
        };
        if crate::planted!(UnlinkBeforeCheckpoint) && !removable.is_empty() {
            let names: Vec<String> = removable.iter().map(|seq| segment_name(*seq)).collect();
            self.disk.remove(&names).await?;
        }
        write_checkpoint(&self.disk, &checkpoint, writes).await?;
        self.log.borrow_mut().checkpointed(&checkpoint, sinks);
        if !removable.is_empty() {
            let names: Vec<String> = removable.iter().map(|seq| segment_name(*seq)).collect();
            self.disk.remove(&names).await?;
            self.log.borrow_mut().removed(&removable);
        }
        Ok(())
    }

    /// Closes the open segment; everything that was committed stays where it is.
    pub async fn close(self) -> Result<(), DiskError> {
        let file = self.open.borrow_mut().take();
        match file {
            Some((_, file)) => self.disk.close(file).await,
            None => Ok(()),
        }
    }
}

async fn write_checkpoint<D: Disk>(
    disk: &D,
    checkpoint: &Checkpoint,
    writes: FormatVersion,
) -> Result<(), DiskError> {
    let bytes = checkpoint.encode(writes);
    let mut buffer = disk.buffer(bytes.len().next_multiple_of(BLOCK_BYTES));
    buffer[..bytes.len()].copy_from_slice(&bytes);
    buffer[bytes.len()..].fill(0);
    let slot = CHECKPOINT_SLOTS[usize::try_from(checkpoint.generation % 2).expect("0 or 1")];
    let file = disk.create(slot, buffer.len() as u64, buffer).await?;
    disk.close(file).await
}

impl Durable {
    fn of(view: &FrameView<'_>, segment: Seq, offset: u64) -> Durable {
        let FrameHeader { seq, stream, oldest_arrival_ns, oldest_stamp_ns, .. } = view.header;
        let FrameHeader { tag_len, meta_len, raw_len, entries, .. } = view.header;
        let next_offset = offset + view.header.frame_bytes() as u64;
        Durable {
            seq,
            place: Place { segment, next_offset },
            tag: view.tag.to_vec(),
            sourced: meta_len > u32::from(tag_len),
            stream,
            oldest_arrival_ns,
            oldest_stamp_ns,
            raw_len,
            entries,
            body: view.body.to_vec(),
        }
    }
}

async fn read_segment_header<D: Disk>(
    disk: &D,
    file: &D::File,
) -> Result<Result<SegmentHeader, FormatError>, DiskError> {
    Ok(SegmentHeader::decode(&disk.read(file, 0, BLOCK_BYTES).await?))
}

impl SegmentHeader {
    /// As it has to be by its place.
    fn check(self, first_seq: Seq, owner: u32) -> Result<SegmentHeader, FormatError> {
        for (what, found, expected) in [
            ("the segment's owner", u64::from(self.owner), u64::from(owner)),
            ("the segment's first sequence number", self.first_seq.0, first_seq.0),
        ] {
            if found != expected {
                return Err(FormatError::Unexpected { what, found, expected });
            }
        }
        Ok(self)
    }
}
