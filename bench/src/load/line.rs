//! The lines of one writer, and the mark by which a receiver knows them:
//! `… id=WRITER:SEQUENCE t=NANOSECONDS crc=HEX …`
//!
//! The checksum covers all bytes of the line but its own digits, so that a receiver knows an intact
//! line without having seen it written. The mark may stand anywhere in the line's last
//! [`MARK_TAIL_BYTES`] bytes; in JSON it is a value.

use super::text::{Clock, Position, Stamp, Text, int};
use std::io::Write;
use std::sync::Arc;

const CRC: &[u8] = b"crc=";
const CRC_DIGITS: usize = 8;
/// A mark is looked for in this much of the line's end.
const MARK_TAIL_BYTES: usize = 160;

/// What a line says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub writer: u32,
    /// From 0, without gaps within a writer.
    pub sequence: u64,
    pub written_ns: i64,
}

/// What a receiver sees in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Intact(Mark),
    /// There is (a part of) a mark, but the checksum does not fit.
    Corrupted,
    Unmarked,
}

impl Mark {
    /// Reads the mark of a line without its newline.
    #[must_use]
    pub fn read(line: &[u8]) -> Reading {
        match intact(line) {
            Some(mark) => Reading::Intact(mark),
            None if names_itself(line) => Reading::Corrupted,
            None => Reading::Unmarked,
        }
    }
}

fn intact(line: &[u8]) -> Option<Mark> {
    let tail = line.len().saturating_sub(MARK_TAIL_BYTES);
    let at = tail + memchr::memmem::rfind(&line[tail..], CRC)? + CRC.len();
    let (before, rest) = line.split_at(at);
    let (hex, after) = rest.split_at_checked(CRC_DIGITS)?;
    let hex = std::str::from_utf8(hex).ok()?;
    if u32::from_str_radix(hex, 16).ok()? != checksum(before, after) {
        return None;
    }
    let text = before[tail..].strip_suffix(CRC)?;
    let text = &text[memchr::memmem::rfind(text, b"id=")? + 3..];
    let (id, time) = std::str::from_utf8(text).ok()?.trim_end().split_once(" t=")?;
    let (writer, sequence) = id.split_once(':')?;
    Some(Mark {
        writer: writer.parse().ok()?,
        sequence: sequence.parse().ok()?,
        written_ns: time.parse().ok()?,
    })
}

/// Whether something like `id=3:` stands there.
fn names_itself(line: &[u8]) -> bool {
    memchr::memmem::find_iter(line, b"id=").any(|at| {
        let digits = line[at + 3..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && line.get(at + 3 + digits) == Some(&b':')
    })
}

fn checksum(before: &[u8], after: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

pub(super) fn id(stamp: &Stamp<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id=");
    int(stamp.writer, out);
    out.push(b':');
    int(stamp.sequence, out);
}

/// The mark with room for its checksum, which [`seal`] fills in.
pub(super) fn mark(stamp: &Stamp<'_>, out: &mut Vec<u8>) {
    id(stamp, out);
    out.extend_from_slice(b" t=");
    int(stamp.time_ns, out);
    out.push(b' ');
    out.extend_from_slice(CRC);
    out.extend_from_slice(&[b'0'; CRC_DIGITS]);
}

/// Fills in the checksum of a line whose mark ends at `mark_end`.
pub(super) fn seal(line: &mut [u8], mark_end: usize) {
    let digits = mark_end - CRC_DIGITS;
    let crc = checksum(&line[..digits], &line[mark_end..]);
    // Eight digits fit.
    let _ = write!(&mut line[digits..mark_end], "{crc:08x}");
}

/// The lines of one writer, the same for the same text, seed, writer and times.
pub struct Lines {
    text: Arc<Text>,
    position: Position,
    rng: fastrand::Rng,
    writer: u32,
    sequence: u64,
    clock: Clock,
}

impl Lines {
    #[must_use]
    pub fn new(text: &Arc<Text>, seed: u64, writer: u32) -> Lines {
        Lines::from(text, seed, writer, 0)
    }

    /// The first line's sequence number is `sequence`.
    #[must_use]
    pub fn from(text: &Arc<Text>, seed: u64, writer: u32, sequence: u64) -> Lines {
        Lines {
            text: Arc::clone(text),
            position: Position::default(),
            rng: fastrand::Rng::with_seed(seed ^ (u64::from(writer) << 32 | 0x5eed)),
            writer,
            sequence,
            clock: Clock::default(),
        }
    }

    /// The next line's sequence number.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.sequence
    }

    /// Appends the next line with its newline.
    pub fn next(&mut self, time_ns: i64, out: &mut Vec<u8>) {
        let Lines { text, position, rng, writer, sequence, clock } = self;
        let stamp = Stamp { writer: *writer, sequence: *sequence, time_ns, clock };
        text.write(position, rng, stamp, out);
        out.push(b'\n');
        self.sequence += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Workload;

    fn sample(seed: u64, lines: usize) -> Vec<u8> {
        let mut writer = Lines::new(&Workload::service().text, seed, 3);
        let mut out = Vec::new();
        for i in 0..lines {
            writer.next(1_767_225_600_000_000_000 + 100_000 * i as i64, &mut out);
        }
        out
    }

    #[test]
    fn lines_are_reproducible_and_marked() {
        assert_eq!(sample(1, 100), sample(1, 100));
        assert_ne!(sample(1, 100), sample(2, 100));
        for (i, line) in sample(1, 100).split(|b| *b == b'\n').take(100).enumerate() {
            let Reading::Intact(mark) = Mark::read(line) else { panic!("{line:?}") };
            assert_eq!((mark.writer, mark.sequence), (3, i as u64));
            assert_eq!(mark.written_ns, 1_767_225_600_000_000_000 + 100_000 * i as i64);
            assert!(line.starts_with(b"2026-01-01T00:00:00.0"));
        }
    }

    #[test]
    fn no_flipped_or_missing_byte_goes_unseen() {
        let text = sample(1, 1);
        let line = &text[..text.len() - 1];
        for at in 0..line.len() {
            let mut flipped = line.to_vec();
            flipped[at] ^= 0x04;
            assert!(!matches!(Mark::read(&flipped), Reading::Intact(_)), "byte {at}");
            assert!(!matches!(Mark::read(&line[..at]), Reading::Intact(_)), "cut at {at}");
        }
        let glued = [line, line].concat();
        assert_eq!(Mark::read(&glued), Reading::Corrupted);
        assert_eq!(Mark::read(b"plain text, grid=7"), Reading::Unmarked);
        assert_eq!(Mark::read(b""), Reading::Unmarked);
    }

    #[test]
    fn what_stands_behind_the_mark_is_covered_too() {
        let text = Workload::named("json").unwrap().text;
        let mut out = Vec::new();
        Lines::new(&text, 1, 0).next(1_767_225_600_000_000_000, &mut out);
        let line = out.strip_suffix(b"\n").unwrap();
        assert!(line.ends_with(b"\"}"));
        assert!(matches!(Mark::read(line), Reading::Intact(_)));
        assert_eq!(Mark::read(&line[..line.len() - 1]), Reading::Corrupted);
        assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok());
    }
}
