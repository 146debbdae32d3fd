//! What is wrong with a log, what it costs, and what to do.
//!
//! Which frames count and which are lost is recovery's to say; here it gets its place and its words.

use super::CommandError;
use super::log::{Home, Log, LogError};
use crate::dlq::body::{self, Kind};
use crate::part::Part;
use io::format::{BLOCK_BYTES, FormatError, FrameView, Seq};
use io::wal::scan::{Damage, SeqRange};
use io::wal::survey::{Frame, Reach, Surveyed};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub weight: Weight,
    pub file: PathBuf,
    /// In the file, in bytes.
    pub offset: u64,
    /// Of the frames that it is about.
    pub frames: Option<SeqRange>,
    pub what: String,
    pub fix: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Damage,
    /// As it may be.
    Normal,
}

const FIX_SLOT: &str = "nothing: the other slot, or else the frames, say what it said; the next \
                        checkpoint takes its place";
const FIX_SLOTS: &str = "nothing: the frames say how far every sink was, and what is sent again Loki \
                         stores once; sources that no frame of the log names are read from their start";
const FIX_HEADER: &str = "nothing: its frames repeat what it said; the next start copies the segment \
                          to data_dir/quarantine and reads on";
const FIX_FOREIGN: &str = "move it back to where it belongs; the next start moves it to \
                           data_dir/quarantine";
const FIX_LOST: &str = "save what can be read by wal export, and look after the disk (dmesg, smartctl); \
                        the next start copies the segment to data_dir/quarantine and sends the rest. \
                        Lines of files that still exist are read again by positions import --force";
const FIX_LOST_LETTERS: &str = "save what can be read by dlq export, and look after the disk (dmesg, \
                                smartctl); the next start copies the segment to data_dir/quarantine and \
                                goes on with the rest";
const FIX_SENT: &str = "nothing for these frames, every sink has them; look after the disk (dmesg, \
                        smartctl)";
const FIX_MISSING: &str = "put the segments back while log-capturer does not run; without them the next \
                           start reports the gap and goes on behind it";
const FIX_UNREADABLE: &str = "look after the disk (dmesg, smartctl) and copy the file while it lasts; if \
                              only its permissions are wrong, run this as the user of log-capturer";
const FIX_CHAIN: &str = "put the segment back that was here, from the same backup as the others";
const FIX_BODY: &str =
    "keep the file and report it: its checksums are good, so that it was written so";
const FIX_CURSORS: &str = "keep the file and report it: its checksums are good, so that it was written \
                           so; its sources are read on from older positions, and may repeat lines";
const FIX_TORN: &str = "nothing: the next start leaves it out; what was in it was not acknowledged, and \
                        comes again from where it came";
const FIX_LEFT: &str = "nothing: what was to stand here stands in the next segment";
const FIX_STALE: &str = "nothing: they do not count";

impl Finding {
    fn damage(
        log: &Log,
        name: &str,
        offset: u64,
        frames: Option<SeqRange>,
        what: String,
        fix: &'static str,
    ) -> Finding {
        let file = log.home.dir.join(name);
        Finding { weight: Weight::Damage, file, offset, frames, what, fix }
    }

    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.weight == Weight::Damage
    }

    fn document(&self) -> Value {
        json!({
            "weight": if self.is_damage() { "damage" } else { "normal" },
            "file": self.file,
            "offset": self.offset,
            "first_seq": self.frames.map(|frames| frames.first.0),
            "last_seq": self.frames.map(|frames| frames.last.0),
            "what": self.what,
            "fix": self.fix,
        })
    }
}

/// Reads all of a log, bodies included.
pub fn verify(home: &Home, sinks: &[String]) -> Result<(Log, Vec<Finding>), CommandError> {
    steady(|| {
        let log = Log::read(home, sinks, Reach::Everything)?;
        let mut found = of(&log);
        bodies(&log, &mut found).map_err(CommandError::Output)?;
        Ok((log, found))
    })
}

/// Reads a log without its bodies.
pub fn read(home: &Home, sinks: &[String], reach: Reach) -> Result<(Log, Vec<Finding>), LogError> {
    steady(|| {
        let log = Log::read(home, sinks, reach)?;
        let found = of(&log);
        Ok((log, found))
    })
}

/// What a process that runs was just about to write looks damaged once, and not again.
fn steady<E>(look: impl Fn() -> Result<(Log, Vec<Finding>), E>) -> Result<(Log, Vec<Finding>), E> {
    let (log, found) = look()?;
    if !found.iter().any(Finding::is_damage) {
        return Ok((log, found));
    }
    let (log, mut again) = look()?;
    again.retain(|finding| !finding.is_damage() || found.contains(finding));
    Ok((log, again))
}

/// What is to be said of a log without its bodies.
#[must_use]
pub fn of(log: &Log) -> Vec<Finding> {
    let mut found = Vec::new();
    let fix = if log.survey.checkpoint.generation == 0 { FIX_SLOTS } else { FIX_SLOT };
    for slot in &log.survey.slots {
        let what = slot.found.as_ref().err().map(|error| format!("a checkpoint: {error}"));
        found.extend(what.map(|what| Finding::damage(log, slot.name, 0, None, what, fix)));
    }
    for gap in &log.standing.gaps {
        let what = "they were durable, and their segments are not there".to_owned();
        let frames = Some(gap.frames);
        found.push(Finding::damage(log, &gap.segment, 0, frames, what, FIX_MISSING));
    }
    let mut before: Option<&Surveyed> = None;
    let last = log.survey.ours().next_back().map(|segment| segment.first_seq);
    for segment in &log.survey.segments {
        Look { log, segment }.all(before, last, &mut found);
        before = Some(segment).filter(|segment| !segment.is_foreign()).or(before);
    }
    found
}

/// One segment.
struct Look<'a> {
    log: &'a Log,
    segment: &'a Surveyed,
}

impl Look<'_> {
    fn say(
        &self,
        offset: u64,
        frames: Option<SeqRange>,
        what: String,
        fix: &'static str,
    ) -> Finding {
        Finding::damage(self.log, &self.segment.name, offset, frames, what, fix)
    }

    fn all(&self, before: Option<&Surveyed>, last: Option<Seq>, found: &mut Vec<Finding>) {
        let segment = self.segment;
        if let Some(error) = &segment.unreadable {
            let (first, last) = (segment.first_seq, segment.last_seq.max(segment.first_seq));
            let what = format!("the file cannot be read: {error}");
            found.push(self.say(0, Some(SeqRange { first, last }), what, FIX_UNREADABLE));
            return;
        }
        if let Err(error) = &segment.header {
            let fix = if segment.is_foreign() { FIX_FOREIGN } else { FIX_HEADER };
            found.push(self.say(0, None, format!("the segment's header: {error}"), fix));
        }
        found.extend(before.and_then(|before| self.chain(before)));
        found.extend(segment.judged.gaps.iter().map(|gap| self.gap(*gap)));
        for error in &segment.cursor_errors {
            found.push(self.say(0, None, format!("positions in a frame: {error}"), FIX_CURSORS));
        }
        found.extend(self.tail(last == Some(segment.first_seq)));
        if let Some(offset) = segment.stale.first() {
            let count = segment.stale.len();
            let what = format!("{count} frames with another salt: older segments had these blocks");
            found.push(Finding {
                weight: Weight::Normal,
                ..self.say(*offset, None, what, FIX_STALE)
            });
        }
    }

    /// The segment says by a checksum which frame came before its first.
    fn chain(&self, before: &Surveyed) -> Option<Finding> {
        let expected = self.segment.header.as_ref().ok()?.previous_crc;
        let previous = before.kept().next_back()?;
        let follows = previous.header.seq.next() == self.segment.first_seq;
        if expected == 0 || !follows || previous.crc == expected {
            return None;
        }
        let what = format!(
            "it follows a frame {} with header checksum {expected:08x}, and that of {} has {:08x}",
            previous.header.seq, before.name, previous.crc
        );
        let first = self.segment.first_seq;
        Some(self.say(0, Some(SeqRange { first, last: first }), what, FIX_CHAIN))
    }

    fn gap(&self, frames: SeqRange) -> Finding {
        let (start, end) = self.room_of(frames);
        let damage = self.damage_in(start, end);
        let what = damage.map_or_else(
            || "they were durable, and are not there".to_owned(),
            |damage| format!("they were durable: {}", damage.error),
        );
        let sent = frames.last <= self.log.standing.acked;
        let fix = match &self.log.home.queue {
            _ if sent => FIX_SENT,
            Some(_) => FIX_LOST_LETTERS,
            None => FIX_LOST,
        };
        self.say(damage.map_or(start, |damage| damage.offset), Some(frames), what, fix)
    }

    /// Between the frames before and behind.
    fn room_of(&self, frames: SeqRange) -> (u64, u64) {
        let before = self.segment.kept().take_while(|frame| frame.header.seq < frames.first).last();
        let behind = self.segment.kept().find(|frame| frame.header.seq > frames.last);
        (before.map_or(BLOCK_BYTES as u64, end_of), behind.map_or(u64::MAX, |frame| frame.offset))
    }

    fn damage_in(&self, start: u64, end: u64) -> Option<&Damage> {
        self.segment.damage.iter().find(|damage| (start..end).contains(&damage.offset))
    }

    /// What stands behind the last frame that counts.
    fn tail(&self, is_last: bool) -> Option<Finding> {
        let segment = self.segment;
        let end = segment.kept().next_back().map_or(BLOCK_BYTES as u64, end_of);
        let lost_to_the_end =
            segment.judged.gaps.last().is_some_and(|gap| gap.last == segment.last_seq);
        let damage = self.damage_in(end, u64::MAX).filter(|_| !lost_to_the_end);
        if damage.is_none() && !segment.judged.torn {
            return None;
        }
        let first = segment.last_seq.next();
        let seqs = segment.frames.iter().map(|frame| frame.header.seq);
        let frames = Some(SeqRange { first, last: seqs.max().unwrap_or(first).max(first) });
        let (what, fix) = if is_last {
            let what = "torn tail: a write that did not come to its end, as after a power loss, or \
                        that is under way; nothing of it was acknowledged";
            (what, FIX_TORN)
        } else {
            ("what a write left that failed", FIX_LEFT)
        };
        let offset = damage.map_or(end, |damage| damage.offset);
        Some(Finding { weight: Weight::Normal, ..self.say(offset, frames, what.into(), fix) })
    }
}

fn end_of(frame: &Frame) -> u64 {
    frame.offset + frame.header.frame_bytes() as u64
}

/// Frames whose checksums are good may hold something else than their headers say.
fn bodies(log: &Log, found: &mut Vec<Finding>) -> std::io::Result<()> {
    let is_queue = log.home.queue.is_some();
    log.each(|_| true, &mut |segment, frame, view| {
        let checked = match &view {
            Ok(view) if is_queue => records(view),
            Ok(view) => push(view),
            Err(error) => Err(error.to_string()),
        };
        let seq = frame.header.seq;
        let fix = if view.is_ok() { FIX_BODY } else { FIX_UNREADABLE };
        found.extend(checked.err().map(|error| {
            let (frames, what) = (SeqRange { first: seq, last: seq }, format!("the body: {error}"));
            Finding::damage(log, &segment.name, frame.offset, Some(frames), what, fix)
        }));
        Ok(true)
    })
}

fn push(view: &FrameView<'_>) -> Result<(), String> {
    let part = Part::read(view.body).map_err(|error| error.to_string())?;
    expect("bytes before compression", view.header.raw_len, part.raw_bytes())?;
    expect("entries", view.header.entries, part.len())
}

fn records(view: &FrameView<'_>) -> Result<(), String> {
    let error = |error: body::BodyError| error.to_string();
    let entries = match Kind::of(view.tag).map_err(error)? {
        Kind::Records { .. } => body::records(view.body).map_err(error)?.len(),
        Kind::Settled => body::settled(view.body).map(|_| 0).map_err(error)?,
    };
    expect("entries", view.header.entries, entries)
}

fn expect(what: &'static str, said: u32, found: usize) -> Result<(), String> {
    let found = found as u64;
    if found == u64::from(said) {
        return Ok(());
    }
    Err(FormatError::Unexpected { what, found, expected: said.into() }.to_string())
}

/// The findings of a log and what was read, as JSON.
#[must_use]
pub fn document(log: &Log, found: &[Finding]) -> Value {
    let Sums { segments, frames, entries } = Sums::of(log);
    json!({
        "shard": log.home.shard,
        "dlq": log.home.queue,
        "dir": log.home.dir,
        "segments": segments,
        "frames": frames,
        "entries": entries,
        "findings": found.iter().map(Finding::document).collect::<Vec<_>>(),
    })
}

pub fn print(log: &Log, found: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    for finding in found {
        writeln!(out, "{finding}")?;
    }
    let Sums { segments, frames, entries } = Sums::of(log);
    let verdict = match found.iter().filter(|finding| finding.is_damage()).count() {
        0 => "clean".to_owned(),
        damaged => format!("damaged in {damaged} places"),
    };
    let home = &log.home;
    writeln!(out, "{home}: {segments} segments, {frames} frames, {entries} entries: {verdict}")
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { file, offset, frames, what, fix, .. } = self;
        let weight = if self.is_damage() { "damage" } else { "normal" };
        write!(f, "{}: byte {offset}: {weight}: ", file.display())?;
        if let Some(frames) = frames {
            let one = frames.first == frames.last;
            let which =
                if one { format!("frame {}", frames.first) } else { format!("frames {frames}") };
            write!(f, "{which}: ")?;
        }
        write!(f, "{what}\n    to do: {fix}")
    }
}

struct Sums {
    segments: usize,
    frames: usize,
    entries: u64,
}

impl Sums {
    fn of(log: &Log) -> Sums {
        let segments = log.survey.ours();
        let kept = || log.survey.ours().flat_map(Surveyed::kept);
        Sums {
            segments: segments.count(),
            frames: kept().count(),
            entries: kept().map(|frame| u64::from(frame.header.entries)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::tests::body_of;
    use io::format::{FormatVersion, segment_name};
    use io::plain::PlainDisk;
    use io::sim::{random, run};
    use io::wal::{Options, Sealed, Wal};
    use std::fs;
    use std::path::Path;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn sealed(body: Vec<u8>, entries: u32) -> Sealed {
        let raw_len = snap::raw::decompress_len(&body).unwrap_or(9);
        Sealed {
            meta: Vec::new(),
            tag_len: 0,
            raw_len: u32::try_from(raw_len).unwrap(),
            body,
            entries,
            stream: 0,
            oldest_arrival_ns: 5,
            oldest_stamp_ns: 5,
        }
    }

    fn good(n: i64) -> Sealed {
        sealed(body_of(&[("{a=\"1\"}", n, "line")]), 1)
    }

    /// Of shard 0, in segments of three frames; nothing is acked.
    fn log_of(dir: &Path, frames: Vec<Sealed>) -> Home {
        let home = Home { shard: 0, queue: None, dir: dir.join("wal") };
        let options = Options {
            owner: 0,
            sinks: vec!["loki".into()],
            segment_bytes: 4 * BLOCK,
            bytes_max: 1 << 30,
            group_bytes_max: 1,
            writes: FormatVersion::NEWEST,
        };
        let disk = PlainDisk::open(&home.dir, &dir.join("quarantine")).unwrap();
        let (wal, _) = run(Wal::open(disk, options)).unwrap();
        for frame in frames {
            wal.append(frame).unwrap();
            run(wal.commit()).unwrap();
        }
        run(wal.close()).unwrap();
        home
    }

    fn change(home: &Home, first_seq: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let path = home.dir.join(segment_name(Seq(first_seq)));
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }

    fn texts(home: &Home) -> Vec<String> {
        let (_, found) = verify(home, &["loki".into()]).unwrap();
        let prefix = format!("{}/", home.dir.display());
        found.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn a_body_that_is_no_push_or_holds_another_number_of_entries_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let two = body_of(&[("{a=\"1\"}", 1, "x"), ("{a=\"1\"}", 2, "y")]);
        let frames = vec![good(1), sealed(b"no snappy".to_vec(), 1), sealed(two, 3), good(4)];
        let found = texts(&log_of(dir.path(), frames));
        assert_eq!(found.len(), 2, "{found:?}");
        let file = segment_name(Seq(1));
        let starts = [
            format!(
                "{file}: byte {}: damage: frame 2: the body: it cannot be decompressed",
                2 * BLOCK
            ),
            format!(
                "{file}: byte {}: damage: frame 3: the body: entries is 2, expected 3",
                3 * BLOCK
            ),
        ];
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(&start) && found.contains("to do: keep the file"), "{found}");
        }
    }

    #[test]
    fn a_segment_that_does_not_follow_and_blocks_of_an_older_one_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = log_of(dir.path(), (1..=5).map(good).collect());
        assert_eq!(texts(&home), [""; 0]);
        let other = tempfile::tempdir().unwrap();
        let others = log_of(other.path(), (11..=15).map(good).collect());
        // The blocks that segment 4 has left were another's.
        let old = fs::read(others.dir.join(segment_name(Seq(1)))).unwrap();
        let free = 3 * BLOCK_BYTES;
        change(&home, 4, |bytes| bytes[free..].copy_from_slice(&old[BLOCK_BYTES..2 * BLOCK_BYTES]));
        let found = texts(&home);
        let start =
            format!("{}: byte {free}: normal: 1 frames with another salt", segment_name(Seq(4)));
        assert!(found.len() == 1 && found[0].starts_with(&start), "{found:?}");
        // All of segment 4 is from another log of the same shard.
        let foreign = fs::read(others.dir.join(segment_name(Seq(4)))).unwrap();
        change(&home, 4, |bytes| *bytes = foreign);
        let found = texts(&home);
        let start =
            format!("{}: byte 0: damage: frame 4: it follows a frame 3 with", segment_name(Seq(4)));
        assert!(found.len() == 1 && found[0].starts_with(&start), "{found:?}");
    }

    #[test]
    fn a_broken_header_costs_no_frame() {
        let dir = tempfile::tempdir().unwrap();
        let home = log_of(dir.path(), (1..=5).map(good).collect());
        change(&home, 1, |bytes| bytes[20] ^= 1);
        let found = texts(&home);
        assert!(found.len() == 1 && found[0].contains("the segment's header: "), "{found:?}");
        assert!(found[0].contains("its frames repeat what it said"), "{found:?}");
    }

    #[test]
    fn whatever_stands_in_the_files_is_a_finding_at_most() {
        let mut seed = 1;
        for _ in 0..200 {
            let dir = tempfile::tempdir().unwrap();
            let home = log_of(dir.path(), (1..=8).map(good).collect());
            let mut below = |max: usize| usize::try_from(random(&mut seed)).unwrap_or(0) % max;
            for _ in 0..=below(4) {
                let noise: Vec<u8> =
                    (0..=below(600)).map(|_| u8::try_from(below(256)).unwrap()).collect();
                change(&home, [1, 4, 7][below(3)], |bytes| match below(4) {
                    0 => bytes.truncate(below(4 * BLOCK_BYTES)),
                    1 => bytes.extend(&noise),
                    _ => {
                        let at = below(bytes.len().saturating_sub(noise.len()).max(1));
                        let end = bytes.len().min(at + noise.len());
                        bytes[at..end].copy_from_slice(&noise[..end - at]);
                    }
                });
            }
            let (log, found) = verify(&home, &[]).unwrap();
            let kept = log.survey.ours().flat_map(Surveyed::kept).count();
            let told = found.iter().filter_map(|finding| finding.frames);
            let told: u64 = told.map(|frames| frames.last.0 - frames.first.0 + 1).sum();
            // The tail may be gone without a trace.
            assert!(kept as u64 + told >= 6, "{kept} of 8, and {found:?}");
        }
    }
}
