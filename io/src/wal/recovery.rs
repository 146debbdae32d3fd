//! What an earlier run left, and what it means.
//!
//! The newest valid checkpoint, rolled forward over the frames above it. Segments below the
//! checkpoint are not read now (they are checked when they are read back), so that a start takes
//! the same time whatever the backlog. Nothing is written to a recovered segment again.

use super::ladder::Ladder;
use super::log::{Acked, CursorTable, Log, Options, Segment};
use super::scan::{Scan, SeqRange, Step};
use super::{WalError, read_segment_header};
use crate::disk::{Disk, DiskError};
use crate::format::{
    BLOCK_BYTES, CHECKPOINT_SLOTS, Checkpoint, Cursor, FormatError, Seq, parse_segment_name,
    segment_name,
};

/// Frames that were durable once and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub segment: String,
    pub frames: SeqRange,
    pub damage: Option<FormatError>,
}

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    pub cursors: Vec<Cursor>,
    /// Frames that wait to be sent to some sink, gaps included.
    pub unacked: u64,
    pub gaps: Vec<Gap>,
    /// The log ended in a group that was never synced: nothing of it was acknowledged.
    pub torn: bool,
    /// Checkpoint slots and segment headers that could not be used.
    pub damaged: Vec<(String, FormatError)>,
}

pub(super) async fn recover<D: Disk>(
    disk: &D,
    options: Options,
) -> Result<(Log, Recovered), WalError> {
    let mut recovered = Recovered::default();
    let entries = disk.list().await?;
    let mut checkpoint = Checkpoint::default();
    for slot in CHECKPOINT_SLOTS.iter().filter(|slot| entries.iter().any(|e| e.name == **slot)) {
        match read_checkpoint(disk, slot, options.owner).await? {
            Ok(found) if found.generation > checkpoint.generation => checkpoint = found,
            Ok(_) => {}
            Err(source @ FormatError::Version { .. }) => {
                return Err(WalError::Format { name: (*slot).into(), source });
            }
            Err(error) => recovered.damaged.push(((*slot).into(), error)),
        }
    }
    let segments = entries
        .iter()
        .filter_map(|entry| Some((parse_segment_name(&entry.name)?, entry.bytes)))
        .collect::<Vec<_>>();
    let mut roll = RollForward {
        disk,
        owner: options.owner,
        checkpointed: checkpoint.durable,
        watermark: checkpoint.durable,
        acked: Seq::NONE,
        cursors: CursorTable::default(),
        next: checkpoint.durable.next(),
        segments: Vec::new(),
        recovered,
    };
    let (generation, durable) = (checkpoint.generation, checkpoint.durable);
    let mut sinks: Vec<Option<Acked>> =
        options.sinks.iter().map(|sink| position(&checkpoint, sink)).collect();
    checkpoint.cursors.into_iter().for_each(|cursor| roll.cursors.replace(cursor));
    for (at, (first_seq, bytes)) in segments.iter().enumerate() {
        let successor = segments.get(at + 1).map(|(first_seq, _)| *first_seq);
        roll.segment(*first_seq, *bytes, successor).await?;
    }
    let checkpointed_durable = durable;
    let RollForward { segments, cursors, acked, next, mut recovered, .. } = roll;
    let durable = next.previous();
    let oldest = segments.first().map_or(next, |segment| segment.first_seq);
    let trimmed = oldest.previous().min(durable);
    // What the frames say counts for the sinks that were there when they were written.
    sinks.iter_mut().flatten().for_each(|sink| sink.raise(acked));
    let known = sinks.iter().flatten().map(Acked::floor).min();
    if let Some(acked) = known.filter(|_| sinks.iter().all(Option::is_some)) {
        // What every sink has is not lost: of segments that were being removed, some may be left.
        recovered.gaps.retain_mut(|gap| {
            gap.frames.first = gap.frames.first.max(acked.next());
            gap.frames.first <= gap.frames.last
        });
    }
    if let Some(floor) = known.filter(|floor| *floor < trimmed && generation > 0) {
        recovered.gaps.push(Gap {
            segment: segment_name(floor.next()),
            frames: SeqRange { first: floor.next(), last: trimmed },
            damage: None,
        });
    }
    let sinks: Vec<Acked> = sinks
        .into_iter()
        .map(|sink| {
            let mut sink = match sink {
                Some(sink) => sink,
                // Its position is lost with the checkpoints; the frames' is that of all sinks.
                None if generation == 0 => Acked::up_to(acked),
                // New: it gets all that is left.
                None => Acked::default(),
            };
            sink.raise(trimmed);
            sink.all = sink.all.min(durable);
            sink.raise(Seq::NONE);
            sink
        })
        .collect();
    let acked = sinks.iter().map(Acked::floor).min().expect("there is a sink");
    let newest = segments.last().map_or(acked, |segment| segment.last_seq.max(acked));
    if newest < durable {
        recovered.gaps.push(Gap {
            segment: segment_name(newest.next()),
            frames: SeqRange { first: newest.next(), last: durable },
            damage: None,
        });
    }
    recovered.cursors = cursors.to_vec();
    recovered.unacked = durable.0 - acked.0;
    let mut ladder = Ladder::recovered(trimmed, acked, durable);
    // Of tags that are not behind, frames above `acked` were sent, too, and are not sent again.
    ladder.send(sinks.iter().map(|sink| sink.all).max().expect("there is a sink"));
    let log =
        Log::recovered(options, ladder, cursors, segments, generation, sinks, checkpointed_durable);
    Ok((log, recovered))
}

/// Where a sink was by the checkpoint.
fn position(checkpoint: &Checkpoint, sink: &str) -> Option<Acked> {
    let of_sink = || checkpoint.acked.iter().filter(|of| of.sink == sink);
    let all = of_sink().find(|of| of.tag.is_none())?.acked;
    let behind = of_sink().filter_map(|of| Some((of.tag.clone()?, of.acked)));
    Some(Acked { all, behind: behind.filter(|(_, acked)| *acked < all).collect() })
}

struct RollForward<'a, D: Disk> {
    disk: &'a D,
    owner: u32,
    /// Up to here the checkpoint has the cursors: what is left of older segments says less.
    checkpointed: Seq,
    /// What is known to have been durable.
    watermark: Seq,
    acked: Seq,
    cursors: CursorTable,
    /// The sequence number after everything that counts.
    next: Seq,
    segments: Vec<Segment>,
    recovered: Recovered,
}

impl<D: Disk> RollForward<'_, D> {
    async fn segment(
        &mut self,
        first_seq: Seq,
        bytes: u64,
        successor: Option<Seq>,
    ) -> Result<(), WalError> {
        let name = segment_name(first_seq);
        let file = self.disk.open(&name).await?;
        let salt = match read_segment_header(self.disk, &file, first_seq, self.owner).await? {
            Ok(header) => Some(header.salt),
            Err(source @ FormatError::Version { .. }) => {
                return Err(WalError::Format { name, source });
            }
            Err(error @ FormatError::Unexpected { .. }) => {
                // Whole, but not ours: out of the way, and kept.
                self.disk.close(file).await?;
                self.disk.quarantine(&name).await?;
                self.disk.remove(std::slice::from_ref(&name)).await?;
                self.recovered.damaged.push((name, error));
                return Ok(());
            }
            Err(error) => {
                // The frames repeat the salt: they can do without the header.
                self.disk.quarantine(&name).await?;
                self.recovered.damaged.push((name.clone(), error));
                None
            }
        };
        let last_seq = match successor {
            Some(successor) if successor.previous() <= self.watermark => successor.previous(),
            _ => self.frames(&name, &file, salt, first_seq, bytes, successor).await?,
        };
        self.disk.close(file).await?;
        self.next = self.next.max(last_seq.next());
        self.segments.push(Segment { first_seq, last_seq, bytes });
        Ok(())
    }

    /// Reads the segment's frames; the last one that counts.
    async fn frames(
        &mut self,
        name: &str,
        file: &D::File,
        salt: Option<u64>,
        first_seq: Seq,
        bytes: u64,
        successor: Option<Seq>,
    ) -> Result<Seq, WalError> {
        let mut scan = Scan::new(self.disk, file, salt, BLOCK_BYTES as u64, bytes);
        let mut seen = Vec::new();
        let mut cursors = Vec::new();
        let mut damage = None;
        loop {
            match scan.next().await? {
                Step::Frame(found) => {
                    damage = damage.or(found.damage.clone());
                    seen.push(Seen {
                        seq: found.header.seq,
                        durable: found.header.durable,
                        acked: found.header.acked,
                    });
                    cursors.push(scan.view(&found).cursors());
                }
                Step::End { damage: last } => {
                    damage = damage.or(last);
                    break;
                }
            }
        }
        let judged = judge(&seen, first_seq, self.watermark, successor);
        for (at, cursors) in cursors.into_iter().enumerate() {
            if judged.kept.contains(&at) {
                match cursors {
                    Ok(_) if seen[at].seq <= self.checkpointed => {}
                    Ok(cursors) => cursors.into_iter().for_each(|c| self.cursors.replace(c)),
                    Err(error) => self.recovered.damaged.push((name.to_owned(), error)),
                }
                self.acked = self.acked.max(seen[at].acked);
            }
        }
        if !judged.gaps.is_empty() {
            self.disk.quarantine(name).await?;
        }
        for frames in judged.gaps {
            let gap = Gap { segment: name.to_owned(), frames, damage: damage.clone() };
            self.recovered.gaps.push(gap);
        }
        self.recovered.torn |= judged.torn;
        self.watermark = self.watermark.max(judged.last);
        Ok(judged.last)
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

/// A whole frame, as far as the judgement needs it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    seq: Seq,
    durable: Seq,
    acked: Seq,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Judged {
    /// Which of the seen frames count, by their place in the list.
    kept: Vec<usize>,
    gaps: Vec<SeqRange>,
    torn: bool,
    /// The last sequence number that is taken, by a frame or by a gap.
    last: Seq,
}

/// Which frames of a segment count, given those that are whole, in the order of their places.
///
/// | what is met where `next` is expected | below the watermark | above it, last segment |
/// |---|---|---|
/// | the frame | counts | counts |
/// | a later frame | gap, goes on behind it | torn: it and the rest were never acknowledged |
/// | nothing more | gap up to the watermark | the end |
/// | an older frame | a stale copy, passed over | likewise |
///
/// The watermark: what was durable by the checkpoint, by what any frame says, or, where there is a
/// next segment, everything below its first frame (what is at or above it was superseded).
fn judge(seen: &[Seen], first: Seq, watermark: Seq, successor: Option<Seq>) -> Judged {
    let counts = |seen: &&Seen| successor.is_none_or(|successor| seen.seq < successor);
    let said = seen.iter().filter(counts).map(|s| s.durable).max().unwrap_or(Seq::NONE);
    let watermark = successor.map_or(watermark.max(said), Seq::previous);
    let mut judged = Judged::default();
    let mut next = first;
    for (at, seen) in seen.iter().enumerate().filter(|(_, seen)| counts(seen)) {
        if seen.seq < next {
            continue;
        }
        if seen.seq > next && seen.seq.previous() > watermark {
            // The hole reaches above the watermark: what is behind it was written, never synced.
            judged.torn = true;
            break;
        }
        if seen.seq > next {
            judged.gaps.push(SeqRange { first: next, last: seen.seq.previous() });
        }
        judged.kept.push(at);
        next = seen.seq.next();
    }
    if next <= watermark {
        judged.gaps.push(SeqRange { first: next, last: watermark });
        next = watermark.next();
    }
    judged.last = next.previous();
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every subset of four frames that may be whole, under every watermark: what was durable is
    /// kept or reported, what was not is never invented, and nothing counts twice.
    #[test]
    fn every_pattern_of_whole_frames_is_judged() {
        for pattern in 0_u32..16 {
            for watermark in 0_u64..=4 {
                for successor in [None, Some(Seq(5))] {
                    let whole: Vec<u64> =
                        (1..=4).filter(|seq| pattern & (1 << (seq - 1)) != 0).collect();
                    let seen: Vec<Seen> = whole
                        .iter()
                        .map(|seq| Seen { seq: Seq(*seq), durable: Seq(0), acked: Seq(0) })
                        .collect();
                    let judged = judge(&seen, Seq(1), Seq(watermark), successor);
                    let durable = if successor.is_some() { 4 } else { watermark };
                    let case = format!("{whole:?} watermark {watermark} {successor:?}: {judged:?}");
                    let kept: Vec<u64> = judged.kept.iter().map(|at| seen[*at].seq.0).collect();
                    assert!(kept.is_sorted_by(|a, b| a < b), "{case}");
                    for seq in 1..=4 {
                        let gap = judged.gaps.iter().any(|g| (g.first.0..=g.last.0).contains(&seq));
                        assert!(!(gap && kept.contains(&seq)), "kept and lost: {case}");
                        if seq <= durable {
                            assert_eq!(kept.contains(&seq), whole.contains(&seq), "{case}");
                            assert_eq!(gap, !whole.contains(&seq), "{case}");
                        }
                    }
                    let run = (1..=4).take_while(|s| *s <= durable || kept.contains(s)).count();
                    assert_eq!(judged.last.0, run as u64, "{case}");
                    assert_eq!(judged.torn, whole.iter().any(|s| *s > run as u64), "{case}");
                }
            }
        }
    }

    #[test]
    fn what_a_later_segment_superseded_does_not_count() {
        let seen: Vec<Seen> =
            (1..=4).map(|s| Seen { seq: Seq(s), durable: Seq(s), acked: Seq(0) }).collect();
        let judged = judge(&seen, Seq(1), Seq(0), Some(Seq(3)));
        assert_eq!(judged, Judged { kept: vec![0, 1], last: Seq(2), ..Judged::default() });
    }
}
