//! Reads queues as they stand on the disk, and touches nothing: while a process runs as well.
//!
//! What it shows is what was durable at some moment since it was asked: a tail that is being
//! written is no end of the world, and a segment that vanishes meanwhile was done with.

use super::body::{self, BodyError, Kind};
use super::index::{FrameInfo, Index};
use super::record::Record;
use super::state::take_in;
use io::disk::{Disk, DiskError};
use io::format::{
    BLOCK_BYTES, CHECKPOINT_BYTES_MAX, CHECKPOINT_SLOTS, Checkpoint, FormatError, SegmentHeader,
    Seq, parse_segment_name,
};
use io::plain::{PlainDisk, run};
use io::wal::scan::{Found, Scan, Step};
use io::wal::{Durable, Place};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The queue of a shard and a sink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    pub shard: usize,
    pub sink: String,
    pub dir: PathBuf,
}

/// All queues under a `data_dir`, by shard and sink.
pub fn queues(data_dir: &Path) -> std::io::Result<Vec<Queue>> {
    let mut queues = Vec::new();
    for shard in directories(data_dir)? {
        let (name, path) = shard;
        let number = name.strip_prefix("shard-").and_then(|number| number.parse().ok());
        let dlq = path.join("dlq");
        let (Some(number), true) = (number, dlq.is_dir()) else { continue };
        for (sink, dir) in directories(&dlq)? {
            queues.push(Queue { shard: number, sink, dir });
        }
    }
    queues.sort();
    Ok(queues)
}

fn directories(of: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of)? {
        let path = entry?.path();
        if path.is_dir()
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            found.push((name.to_owned(), path.clone()));
        }
    }
    Ok(found)
}

/// What waits in a queue, without the entries themselves.
#[derive(Debug)]
pub struct Survey {
    pub index: Index,
    /// On the disk.
    pub bytes: u64,
    /// Frames that were durable once and cannot be read.
    pub damaged_frames: u64,
    pub damage: Vec<(String, FormatError)>,
    pub undecodable: Vec<(Seq, BodyError)>,
}

/// Reads all of a queue once.
pub fn survey(queue: &Queue) -> Result<Survey, DiskError> {
    let mut survey = Survey {
        index: Index::default(),
        bytes: 0,
        damaged_frames: 0,
        damage: Vec::new(),
        undecodable: Vec::new(),
    };
    let (index, undecodable) = (&mut survey.index, &mut survey.undecodable);
    let walked = run(walk(queue, &mut |frame| {
        if let Err(error) = take_in(index, &frame) {
            undecodable.push((frame.seq, error));
        }
        true
    }))?;
    (survey.bytes, survey.damaged_frames) = (walked.bytes, walked.damaged_frames);
    survey.damage = walked.damage;
    Ok(survey)
}

/// Gives the records of each frame that waits by `survey`, one frame at a time, until `take` has
/// enough. What was moved, or purged in part, since then is found where it is now.
pub fn each(
    queue: &Queue,
    survey: &Survey,
    take: &mut dyn FnMut(&FrameInfo, Vec<Record>) -> bool,
) -> Result<(), DiskError> {
    let mut shown = HashSet::new();
    run(walk(queue, &mut |frame| {
        let seq = match Kind::of(&frame.tag) {
            _ if survey.index.get(frame.seq).is_some() => frame.seq,
            Ok(Kind::Records { replaces: Some(seq) }) => seq,
            _ => return true,
        };
        let waits = survey.index.get(seq).filter(|info| !info.undecodable);
        let Some(info) = waits.filter(|_| shown.insert(seq)) else { return true };
        // It was decoded before, or its error was told.
        body::records(&frame.body).map_or(true, |records| take(info, records))
    }))
    .map(drop)
}

#[derive(Default)]
struct Walked {
    bytes: u64,
    damaged_frames: u64,
    damage: Vec<(String, FormatError)>,
}

/// Shows every frame that is whole and not acked, in order, until `show` has enough.
async fn walk(queue: &Queue, show: &mut dyn FnMut(Durable) -> bool) -> Result<Walked, DiskError> {
    let disk = PlainDisk::read_only(&queue.dir);
    let mut walked = Walked::default();
    let checkpoint = checkpoint(&disk, &mut walked).await?;
    let of_sink = checkpoint.acked.iter().find(|of| of.sink == queue.sink);
    let acked = of_sink.map_or(Seq::NONE, |of| of.acked);
    let entries = disk.list().await?;
    walked.bytes = entries.iter().map(|entry| entry.bytes).sum();
    let segments: Vec<(Seq, &io::disk::Entry)> =
        entries.iter().filter_map(|e| Some((parse_segment_name(&e.name)?, e))).collect();
    let mut next: Option<Seq> = None;
    for (at, (first, entry)) in segments.iter().enumerate() {
        let successor = segments.get(at + 1).map(|(first, _)| *first);
        let Some(file) = present(disk.open(&entry.name).await)? else { continue };
        let head = disk.read(&file, 0, BLOCK_BYTES).await?;
        let salt = match SegmentHeader::decode(&head) {
            Ok(header) => Some(header.salt),
            Err(error @ FormatError::Version { .. }) => {
                walked.damage.push((entry.name.clone(), error));
                continue;
            }
            Err(error) => {
                walked.damage.push((entry.name.clone(), error));
                None
            }
        };
        let mut expected = next.map_or(*first, |next| next.max(*first));
        let mut watermark = successor.map_or(checkpoint.durable, Seq::previous);
        let mut scan = Scan::new(&disk, &file, salt, BLOCK_BYTES as u64, entry.bytes);
        while let Step::Frame(found) = scan.next().await? {
            let header = found.header;
            if header.seq < expected || successor.is_some_and(|successor| header.seq >= successor) {
                continue;
            }
            if successor.is_none() {
                watermark = watermark.max(header.durable);
            }
            if header.seq > expected {
                if header.seq.previous() > watermark {
                    // Written and never synced, or being written.
                    break;
                }
                walked.damaged_frames +=
                    header.seq.0 - expected.0.max(acked.0 + 1).min(header.seq.0);
            }
            expected = header.seq.next();
            if header.seq > acked && !show(durable(&scan, &found, *first)) {
                return Ok(walked);
            }
        }
        if expected <= watermark {
            let from = expected.0.max(acked.0 + 1);
            walked.damaged_frames += (watermark.0 + 1).saturating_sub(from);
            expected = watermark.next();
        }
        next = Some(expected);
    }
    Ok(walked)
}

fn durable(scan: &Scan<'_, PlainDisk>, found: &Found, segment: Seq) -> Durable {
    let (view, header) = (scan.view(found), found.header);
    let next_offset = found.offset + header.frame_bytes() as u64;
    Durable {
        seq: header.seq,
        place: Place { segment, next_offset },
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

/// The newest that is whole; an empty one where there is none.
async fn checkpoint(disk: &PlainDisk, walked: &mut Walked) -> Result<Checkpoint, DiskError> {
    let mut newest = Checkpoint::default();
    for slot in CHECKPOINT_SLOTS {
        let Some(file) = present(disk.open(slot).await)? else { continue };
        let mut bytes = Vec::new();
        while bytes.len() < CHECKPOINT_BYTES_MAX {
            let more = disk.read(&file, bytes.len() as u64, 1 << 20).await?;
            if more.is_empty() {
                break;
            }
            bytes.extend_from_slice(&more);
        }
        match Checkpoint::decode(&bytes) {
            Ok(found) if found.generation > newest.generation => newest = found,
            Ok(_) => {}
            Err(error) => walked.damage.push((slot.into(), error)),
        }
    }
    Ok(newest)
}

/// A file that vanished was done with.
fn present<T>(opened: Result<T, DiskError>) -> Result<Option<T>, DiskError> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dlq, Filter};
    use super::*;
    use crate::options;

    #[test]
    fn what_moves_or_goes_meanwhile_is_shown_once_or_was_done_with() {
        let dir = tempfile::tempdir().unwrap();
        let options = options::dlq_of(dir.path(), "loki", 2, 1 << 20);
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
