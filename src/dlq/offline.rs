//! Reads queues as they stand on the disk, and touches nothing: while a process runs as well.
//!
//! What it shows is what was durable at some moment since it was asked: a tail that is being
//! written is no end of the world, and a segment that vanishes meanwhile was done with.

use super::body::{self, BodyError, Kind};
use super::index::{FrameInfo, Index};
use super::record::Record;
use super::state::take_in;
use crate::inspect::findings::{self, Finding};
use crate::inspect::log::{self, Home, Log, LogError};
use io::format::{FrameView, Seq};
use io::wal::survey::{Frame, Reach, Surveyed};
use io::wal::{Durable, Place};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The queue of a shard and a sink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    pub shard: usize,
    pub sink: String,
    pub dir: PathBuf,
}

impl Queue {
    fn home(&self) -> Home {
        Home { shard: self.shard, queue: Some(self.sink.clone()), dir: self.dir.clone() }
    }
}

/// All queues under a `data_dir`, by shard and sink.
pub fn queues(data_dir: &Path) -> std::io::Result<Vec<Queue>> {
    let queue = |Home { shard, queue, dir }| Some(Queue { shard, sink: queue?, dir });
    let mut queues: Vec<Queue> =
        log::homes(data_dir, true)?.into_iter().filter_map(queue).collect();
    queues.sort();
    Ok(queues)
}

/// What waits in a queue, without the entries themselves.
#[derive(Debug)]
pub struct Survey {
    pub index: Index,
    /// On the disk.
    pub bytes: u64,
    /// Frames that wait and cannot be read.
    pub damaged_frames: u64,
    pub damage: Vec<Finding>,
    pub undecodable: Vec<(Seq, BodyError)>,
}

/// Reads all of a queue once.
pub fn survey(queue: &Queue) -> Result<Survey, LogError> {
    let (log, mut damage) = findings::read(&queue.home(), &[], Reach::Everything)?;
    damage.retain(Finding::is_damage);
    let acked = log.standing.acked;
    let lost = damage.iter().filter_map(|finding| finding.frames);
    let lost =
        lost.map(|frames| frames.last.0.saturating_sub(frames.first.previous().max(acked).0));
    let mut survey = Survey {
        index: Index::default(),
        bytes: log.survey.slots.iter().map(|slot| slot.bytes).sum::<u64>()
            + log.survey.segments.iter().map(|segment| segment.bytes).sum::<u64>(),
        damaged_frames: lost.sum(),
        damage,
        undecodable: Vec::new(),
    };
    waiting(&log, &mut |frame| {
        if let Err(error) = take_in(&mut survey.index, &frame) {
            survey.undecodable.push((frame.seq, error));
        }
        true
    })?;
    Ok(survey)
}

/// Gives the records of each frame that waits by `survey`, one frame at a time, until `take` has
/// enough. What was moved, or purged in part, since then is found where it is now.
pub fn each(
    queue: &Queue,
    survey: &Survey,
    take: &mut dyn FnMut(&FrameInfo, Vec<Record>) -> bool,
) -> Result<(), LogError> {
    let mut shown = HashSet::new();
    let log = Log::read(&queue.home(), &[], Reach::Everything)?;
    waiting(&log, &mut |frame| {
        let seq = match Kind::of(&frame.tag) {
            _ if survey.index.get(frame.seq).is_some() => frame.seq,
            Ok(Kind::Records { replaces: Some(seq) }) => seq,
            _ => return true,
        };
        let waits = survey.index.get(seq).filter(|info| !info.undecodable);
        let Some(info) = waits.filter(|_| shown.insert(seq)) else { return true };
        // It was decoded before, or its error was told.
        body::records(&frame.body).map_or(true, |records| take(info, records))
    })
}

/// Shows every frame that counts and is not acked, in order, until `show` has enough.
fn waiting(log: &Log, show: &mut dyn FnMut(Durable) -> bool) -> Result<(), LogError> {
    let acked = log.standing.acked;
    let mut ended = Ok(());
    let walked = log.each(|frame| frame.header.seq > acked, &mut |segment, frame, view| {
        let view = view.map_err(|lost| LogError::of_frame(&log.home, segment, lost));
        let goes_on = view.map(|view| show(durable(segment, frame, &view)));
        Ok(goes_on.unwrap_or_else(|error| {
            ended = Err(error);
            false
        }))
    });
    walked.expect("nothing above fails");
    ended
}

fn durable(segment: &Surveyed, frame: &Frame, view: &FrameView<'_>) -> Durable {
    let header = frame.header;
    let next_offset = frame.offset + header.frame_bytes() as u64;
    Durable {
        seq: header.seq,
        place: Place { segment: segment.first_seq, next_offset },
        tag: view.tag.to_vec(),
        sourced: false,
        stream: header.stream,
        oldest_arrival_ns: header.oldest_arrival_ns,
        oldest_stamp_ns: header.oldest_stamp_ns,
        raw_len: header.raw_len,
        entries: header.entries,
        body: view.body.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dlq, Filter};
    use super::*;
    use crate::options;
    use io::format::FormatVersion;
    use io::plain::PlainDisk;
    use io::sim::run;

    #[test]
    fn what_moves_or_goes_meanwhile_is_shown_once_or_was_done_with() {
        let dir = tempfile::tempdir().unwrap();
        let options = options::dlq_of(dir.path(), "loki", 2, 1 << 20, FormatVersion::NEWEST);
        let open = || {
            let disk = PlainDisk::open(&options.dir, &options.quarantine).unwrap();
            run(Dlq::open(disk, options.clone())).unwrap().0
        };
        let put = |lines: &[&str]| {
            let records: Vec<Record> = lines.iter().map(|line| Record::for_tests(line)).collect();
            run(open().put(&records)).unwrap();
        };
        put(&["a", "b"]);
        put(&["c"]);
        put(&["d"]);
        let queue = queues(dir.path()).unwrap().remove(0);
        assert_eq!((queue.shard, queue.sink.as_str()), (2, "loki"));
        let survey = survey(&queue).unwrap();
        let shown = || {
            let mut shown = Vec::new();
            each(&queue, &survey, &mut |info, records| {
                let line = |record: Record| String::from_utf8(record.line).unwrap();
                shown.extend(records.into_iter().map(|record| (info.seq.0, line(record))));
                true
            })
            .unwrap();
            shown
        };
        let expected = |of: &[(u64, &str)]| -> Vec<(u64, String)> {
            of.iter().map(|(seq, line)| (*seq, (*line).to_owned())).collect()
        };
        assert_eq!(shown(), expected(&[(1, "a"), (1, "b"), (2, "c"), (3, "d")]));
        let purge = |text: &str| run(open().purge(&Filter::parse(&[text]).unwrap(), 0)).unwrap();
        assert_eq!(purge("line~a"), 1);
        put(&["e"]);
        assert!(shown().contains(&(1, "b".into())) && !shown().contains(&(4, "e".into())));
        assert_eq!(purge("line~c"), 1);
        // Its segment is gone, and so is that of the first.
        assert_eq!(shown(), expected(&[(3, "d"), (1, "b")]));
    }
}
