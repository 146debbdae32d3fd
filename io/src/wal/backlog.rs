//! Durable frames read back in order, for a sink that fell behind what was handed to it from memory.

use super::recovery::Gap;
use super::scan::{Scan, SeqRange, Step};
use super::{Durable, Place, Wal, WalError};
use crate::disk::Disk;
use crate::format::{BLOCK_BYTES, Seq, segment_name};

/// A reader of one log; keeps the segment it is in open.
pub struct Backlog<D: Disk> {
    next: Seq,
    place: Option<Place>,
    file: Option<(Seq, D::File)>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Batch {
    pub frames: Vec<Durable>,
    /// Durable frames that cannot be read: the batch goes on behind them.
    pub gaps: Vec<Gap>,
}

impl<D: Disk> Backlog<D> {
    /// Starts at `next`; `place` is where it stands, if its predecessor's is known.
    #[must_use]
    pub fn new(next: Seq, place: Option<Place>) -> Backlog<D> {
        Backlog { next, place, file: None }
    }

    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Where that stands, if it is known.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Goes on elsewhere; `place` as in [`Backlog::new`].
    pub fn seek(&mut self, next: Seq, place: Option<Place>) {
        if next != self.next {
            (self.next, self.place) = (next, place);
        }
    }

    /// The next durable frames, about `bytes_max` of bodies but at least one frame; empty where
    /// nothing durable is left.
    pub async fn read(&mut self, wal: &Wal<D>, bytes_max: usize) -> Result<Batch, WalError> {
        let mut batch = Batch::default();
        loop {
            let (durable, segment) = {
                let log = wal.log.borrow();
                (log.ladder.durable.0, log.segment_of(self.next))
            };
            if self.next > durable || !batch.frames.is_empty() {
                return Ok(batch);
            }
            let first = segment.as_ref().map_or(durable.next(), |segment| segment.first_seq);
            if self.next < first {
                // A whole segment is missing.
                batch.gaps.push(self.gap(self.next, first.previous(), None));
                self.next = first;
            }
            let Some(segment) = segment else { return Ok(batch) };
            self.open(wal, segment.first_seq).await?;
            let last = segment.last_seq.min(durable);
            self.read_segment(wal, segment.first_seq, last, segment.bytes, bytes_max, &mut batch)
                .await?;
        }
    }

    async fn open(&mut self, wal: &Wal<D>, segment: Seq) -> Result<(), WalError> {
        if self.file.as_ref().is_some_and(|(open, _)| *open == segment) {
            return Ok(());
        }
        self.close(wal).await?;
        self.file = Some((segment, wal.disk.open(&segment_name(segment)).await?));
        Ok(())
    }

    /// Reads frames `next..=last` of one segment until the batch has enough.
    async fn read_segment(
        &mut self,
        wal: &Wal<D>,
        segment: Seq,
        last: Seq,
        bytes: u64,
        bytes_max: usize,
        batch: &mut Batch,
    ) -> Result<(), WalError> {
        let (_, file) = self.file.as_ref().expect("just opened");
        // Not in the call below: a borrow there would last until its answer.
        let owner = wal.log.borrow().options.owner;
        let header = super::read_segment_header(&wal.disk, file).await?;
        let header = header.and_then(|header| header.check(segment, owner));
        let salt = header.ok().map(|header| header.salt);
        // Without a header, the first whole frame says which others count.
        let from = self.place.filter(|place| place.segment == segment && salt.is_some());
        let offset = from.map_or(BLOCK_BYTES as u64, |place| place.next_offset);
        let mut scan = Scan::new(&wal.disk, file, salt, offset, bytes);
        let mut taken = 0;
        let mut damage = None;
        while self.next <= last && taken < bytes_max {
            let found = match scan.next().await? {
                Step::Frame(found) => found,
                Step::End { damage: at_end } => {
                    damage = damage.or(at_end.map(|damage| damage.error));
                    batch.gaps.push(self.gap(segment, last, damage));
                    wal.disk.quarantine(&segment_name(segment)).await?;
                    self.next = last.next();
                    return Ok(());
                }
            };
            damage = damage.or(found.damage.as_ref().map(|damage| damage.error.clone()));
            let seq = found.header.seq;
            // Behind `last` stands what a later segment superseded, or what is not durable yet.
            if seq < self.next || seq > last {
                continue;
            }
            if seq > self.next {
                batch.gaps.push(self.gap(segment, seq.previous(), damage.take()));
                wal.disk.quarantine(&segment_name(segment)).await?;
            }
            let frame = Durable::of(&scan.view(&found), segment, found.offset);
            taken += frame.body.len();
            self.place = Some(frame.place);
            self.next = seq.next();
            batch.frames.push(frame);
        }
        Ok(())
    }

    fn gap(&self, segment: Seq, last: Seq, damage: Option<crate::format::FormatError>) -> Gap {
        let frames = SeqRange { first: self.next, last };
        Gap { segment: segment_name(segment), frames, damage }
    }

    pub async fn close(&mut self, wal: &Wal<D>) -> Result<(), WalError> {
        if let Some((_, file)) = self.file.take() {
            wal.disk.close(file).await?;
        }
        Ok(())
    }
}
