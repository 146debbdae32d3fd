//! What an earlier run left, and what it means.
//!
//! The newest valid checkpoint, rolled forward over the frames above it. Segments below the
//! checkpoint are not read now (they are checked when they are read back), so that a start takes
//! the same time whatever the backlog. Nothing is written to a recovered segment again.

use super::WalError;
use super::ladder::Ladder;
use super::log::{Acked, Log, Options};
use super::scan::SeqRange;
use super::survey::{Reach, Survey, Surveyed, survey};
use crate::disk::Disk;
use crate::format::{Checkpoint, Cursor, FormatError, Seq, segment_name};

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
    let mut survey = survey(disk, options.owner, Reach::Tail).await?;
    let mut recovered = Recovered::default();
    for slot in &survey.slots {
        let error = slot.found.as_ref().err();
        recovered.damaged.extend(error.map(|error| (slot.name.to_owned(), error.clone())));
    }
    for surveyed in &mut survey.segments {
        if let Some(error) = surveyed.unreadable.take() {
            return Err(error.into());
        }
        set_aside(disk, surveyed).await?;
        report(surveyed, &mut recovered);
    }
    let Standing { sinks, trimmed, acked, gaps } = standing(&survey, &options.sinks);
    if options.sinks.iter().all(|sink| position(&survey.checkpoint, sink).is_some()) {
        // What every sink has is not lost: of segments that were being removed, some may be left.
        recovered.gaps.retain_mut(|gap| {
            gap.frames.first = gap.frames.first.max(acked.next());
            gap.frames.first <= gap.frames.last
        });
    }
    recovered.gaps.extend(gaps);
    recovered.cursors = survey.cursors.to_vec();
    recovered.unacked = survey.durable.0 - acked.0;
    let mut ladder = Ladder::recovered(trimmed, acked, survey.durable);
    // Of tags that are not behind, frames above `acked` were sent, too, and are not sent again.
    ladder.send(sinks.iter().map(|sink| sink.all).max().expect("there is a sink"));
    let segments = survey.ours().map(Surveyed::segment).collect();
    let Survey { checkpoint, cursors, .. } = survey;
    let log = Log::recovered(
        options,
        ladder,
        cursors,
        segments,
        checkpoint.generation,
        sinks,
        checkpoint.durable,
    );
    Ok((log, recovered))
}

/// What is damaged is copied, and what is not of this log goes.
async fn set_aside<D: Disk>(disk: &D, surveyed: &Surveyed) -> Result<(), WalError> {
    if surveyed.header.is_err() || !surveyed.judged.gaps.is_empty() {
        disk.quarantine(&surveyed.name).await?;
    }
    if surveyed.is_foreign() {
        disk.remove(std::slice::from_ref(&surveyed.name)).await?;
    }
    Ok(())
}

fn report(surveyed: &Surveyed, recovered: &mut Recovered) {
    let name = || surveyed.name.clone();
    let errors = surveyed.header.as_ref().err().into_iter().chain(&surveyed.cursor_errors);
    recovered.damaged.extend(errors.map(|error| (name(), error.clone())));
    let damage = surveyed.damage.first().map(|damage| &damage.error);
    let gap = |frames: &SeqRange| Gap { segment: name(), frames: *frames, damage: damage.cloned() };
    recovered.gaps.extend(surveyed.judged.gaps.iter().map(gap));
    recovered.torn |= surveyed.judged.torn;
}

/// Where each sink stands in a log, and what is missing at the ends of it.
#[derive(Debug)]
pub struct Standing {
    /// Of each sink.
    pub sinks: Vec<Acked>,
    /// What is not there any more.
    pub trimmed: Seq,
    /// What every sink is past.
    pub acked: Seq,
    /// Segments that went before their frames were acked, and those behind the last one there is.
    pub gaps: Vec<Gap>,
}

/// The positions of these sinks, by the checkpoint and by what the frames say.
#[must_use]
pub fn standing(survey: &Survey, sinks: &[String]) -> Standing {
    let Survey { checkpoint, durable, acked: told, .. } = survey;
    let missing = |first: Seq, last| Gap {
        segment: segment_name(first),
        frames: SeqRange { first, last },
        damage: None,
    };
    let mut gaps = Vec::new();
    let mut sinks: Vec<Option<Acked>> =
        sinks.iter().map(|sink| position(checkpoint, sink)).collect();
    let oldest = survey.ours().next().map_or(durable.next(), |segment| segment.first_seq);
    let trimmed = oldest.previous().min(*durable);
    // What the frames say counts for the sinks that were there when they were written.
    sinks.iter_mut().flatten().for_each(|sink| sink.raise(*told));
    // Where there never was a checkpoint, nothing was removed.
    let never = survey.slots.is_empty().then_some(*told);
    let known = sinks.iter().flatten().map(Acked::floor).min().or(never);
    if let Some(floor) = known.filter(|floor| *floor < trimmed) {
        gaps.push(missing(floor.next(), trimmed));
    }
    let sinks: Vec<Acked> = sinks
        .into_iter()
        .map(|sink| {
            let mut sink = match sink {
                Some(sink) => sink,
                // Its position is lost with the checkpoints; the frames' is that of all sinks.
                None if checkpoint.generation == 0 => Acked::up_to(*told),
                // New: it gets all that is left.
                None => Acked::default(),
            };
            sink.raise(trimmed);
            sink.all = sink.all.min(*durable);
            sink.raise(Seq::NONE);
            sink
        })
        .collect();
    let acked = sinks.iter().map(Acked::floor).min().expect("there is a sink");
    let newest = survey.ours().last().map_or(acked, |segment| segment.last_seq.max(acked));
    if newest < *durable {
        gaps.push(missing(newest.next(), *durable));
    }
    Standing { sinks, trimmed, acked, gaps }
}

/// Where a sink was by the checkpoint.
fn position(checkpoint: &Checkpoint, sink: &str) -> Option<Acked> {
    let of_sink = || checkpoint.acked.iter().filter(|of| of.sink == sink);
    let all = of_sink().find(|of| of.tag.is_none())?.acked;
    let behind = of_sink().filter_map(|of| Some((of.tag.clone()?, of.acked)));
    Some(Acked { all, behind: behind.filter(|(_, acked)| *acked < all).collect() })
}

/// A whole frame, as far as the judgement needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub seq: Seq,
    pub durable: Seq,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Which of the seen frames count, by their place in the list.
    pub kept: Vec<usize>,
    pub gaps: Vec<SeqRange>,
    pub torn: bool,
    /// The last sequence number that is taken, by a frame or by a gap.
    pub last: Seq,
}

/// Which frames of a segment count, given those that are whole, in the order of their places.
///
/// | what is met where `next` is expected | below the watermark | above it, last segment |
/// |---|---|---|
/// | the frame | counts | counts |
/// | a later frame | gap, goes on behind it | torn: it was never acknowledged |
/// | nothing more | gap up to the watermark | the end |
/// | an older frame | a stale copy, passed over | likewise |
///
/// The watermark: what was durable by the checkpoint, by what any frame says, or, where there is a
/// next segment, everything below its first frame (what is at or above it was superseded).
pub(super) fn judge(seen: &[Seen], first: Seq, watermark: Seq, successor: Option<Seq>) -> Judged {
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
            // The hole reaches above the watermark: what is behind it was written, never synced. Where blocks
            // changed places, what was durable may come later.
            judged.torn = true;
            continue;
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
                    let seen: Vec<Seen> =
                        whole.iter().map(|seq| Seen { seq: Seq(*seq), durable: Seq(0) }).collect();
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
    fn what_was_durable_counts_behind_what_was_not() {
        let seen = [(1, 0), (9, 3), (3, 2)].map(|(s, d)| Seen { seq: Seq(s), durable: Seq(d) });
        let judged = judge(&seen, Seq(1), Seq(0), None);
        let gaps = vec![SeqRange { first: Seq(2), last: Seq(2) }];
        assert_eq!(judged, Judged { kept: vec![0, 2], gaps, torn: true, last: Seq(3) });
    }

    #[test]
    fn what_a_later_segment_superseded_does_not_count() {
        let seen: Vec<Seen> = (1..=4).map(|s| Seen { seq: Seq(s), durable: Seq(s) }).collect();
        let judged = judge(&seen, Seq(1), Seq(0), Some(Seq(3)));
        assert_eq!(judged, Judged { kept: vec![0, 1], last: Seq(2), ..Judged::default() });
    }
}
