//! One log line: realistic text, and a mark that tells who wrote it, which one it is, and when.
//!
//! `2026-01-01T00:00:00.000000Z INFO svc-3 GET /api/v1/orders/8123 200 12ms … id=W:S t=NS crc=HEX`
//!
//! The checksum covers all bytes before ` crc=`, so that a receiver knows an intact line without
//! having seen it written.

use std::io::Write;
use std::ops::Range;

const CRC_TAIL_BYTES: usize = " crc=".len() + 8;
/// Where the mark may begin: ` id=`, two numbers, ` t=`, a number.
const MARK_BYTES_MAX: usize = 80;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

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
            None if memchr::memmem::find(line, b" id=").is_some() => Reading::Corrupted,
            None => Reading::Unmarked,
        }
    }
}

fn intact(line: &[u8]) -> Option<Mark> {
    let (covered, tail) = line.split_at_checked(line.len().checked_sub(CRC_TAIL_BYTES)?)?;
    let hex = std::str::from_utf8(tail.strip_prefix(b" crc=")?).ok()?;
    if u32::from_str_radix(hex, 16).ok()? != crc32c::crc32c(covered) {
        return None;
    }
    let from = covered.len().saturating_sub(MARK_BYTES_MAX);
    let at = from + memchr::memmem::rfind(&covered[from..], b" id=")?;
    let text = std::str::from_utf8(&covered[at + 4..]).ok()?;
    let (id, time) = text.split_once(" t=")?;
    let (writer, sequence) = id.split_once(':')?;
    Some(Mark {
        writer: writer.parse().ok()?,
        sequence: sequence.parse().ok()?,
        written_ns: time.parse().ok()?,
    })
}

const LEVELS: [&str; 8] = ["INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARN", "ERROR"];
const METHODS: [&str; 6] = ["GET", "GET", "GET", "POST", "PUT", "DELETE"];
const STATUSES: [u16; 10] = [200, 200, 200, 200, 200, 201, 204, 304, 404, 503];
const RESOURCES: [&str; 10] = [
    "orders",
    "users",
    "carts",
    "invoices",
    "sessions",
    "products",
    "payments",
    "search",
    "inventory",
    "shipments",
];
const REMARKS: [&str; 12] = [
    "cache hit",
    "cache miss, read from replica",
    "retried once after upstream timeout",
    "slow query",
    "token refreshed",
    "request completed",
    "validation failed: quantity",
    "rate limit near",
    "connection reused",
    "fallback to default region",
    "feature flag on",
    "response truncated",
];

/// The lines of one writer, the same for the same seed, writer and times.
pub struct Lines {
    rng: fastrand::Rng,
    writer: u32,
    sequence: u64,
    clock: Clock,
}

impl Lines {
    #[must_use]
    pub fn new(seed: u64, writer: u32) -> Lines {
        let rng = fastrand::Rng::with_seed(seed ^ (u64::from(writer) << 32 | 0x5eed));
        Lines { rng, writer, sequence: 0, clock: Clock::default() }
    }

    /// How many lines were made: the next one's sequence number.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.sequence
    }

    /// Appends the next line with its newline.
    pub fn next(&mut self, written_ns: i64, out: &mut Vec<u8>) {
        let start = out.len();
        self.clock.write(written_ns, out);
        let rng = &mut self.rng;
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            " {} svc-{} {} /api/v1/{}/{} {} {}ms bytes={} ip=10.{}.{}.{} trace={:016x} {}",
            pick(rng, &LEVELS),
            rng.u8(0..12),
            pick(rng, &METHODS),
            pick(rng, &RESOURCES),
            skewed(rng, 100_000),
            pick(rng, &STATUSES),
            skewed(rng, 3_000),
            skewed(rng, 60_000),
            rng.u8(0..4),
            rng.u8(0..32),
            rng.u8(1..),
            rng.u64(..),
            pick(rng, &REMARKS),
        );
        if rng.u8(0..6) == 0 {
            let _ = write!(
                out,
                " attempt={} pool=db-{} wait={}us",
                rng.u8(1..4),
                rng.u8(0..3),
                skewed(rng, 5_000)
            );
        }
        let _ = write!(out, " id={}:{} t={written_ns}", self.writer, self.sequence);
        let crc = crc32c::crc32c(&out[start..]);
        let _ = writeln!(out, " crc={crc:08x}");
        self.sequence += 1;
    }
}

impl Lines {
    /// As [`Lines::next`], a line that nothing marks.
    pub fn next_plain(&mut self, written_ns: i64, out: &mut Vec<u8>) {
        self.clock.write(written_ns, out);
        let rng = &mut self.rng;
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            " {} service=checkout env=production region=eu-1 msg=\"{}\" method={} \
             path=/api/v1/{}/{} status={} duration_ms={} remote=10.0.{}.{}",
            pick(rng, &LEVELS),
            pick(rng, &REMARKS),
            pick(rng, &METHODS),
            pick(rng, &RESOURCES),
            skewed(rng, 10_000),
            pick(rng, &STATUSES),
            skewed(rng, 3_000),
            rng.u8(0..4),
            rng.u8(1..),
        );
        self.sequence += 1;
    }
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}

/// Mostly small, sometimes near the maximum, as durations and sizes are.
fn skewed(rng: &mut fastrand::Rng, max: u32) -> u32 {
    let top = rng.u32(1..=max);
    rng.u32(0..=top)
}

/// Formats times; the part up to the second is kept.
#[derive(Default)]
struct Clock {
    seconds: Range<i64>,
    text: String,
}

impl Clock {
    fn write(&mut self, ns: i64, out: &mut Vec<u8>) {
        let second = ns.div_euclid(NANOS_PER_SECOND);
        if !self.seconds.contains(&second) {
            let time = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.text = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.seconds = second..second + 1;
        }
        let micros = ns.rem_euclid(NANOS_PER_SECOND) / 1_000;
        let _ = write!(out, "{}.{micros:06}Z", self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, lines: usize) -> Vec<u8> {
        let mut made = Lines::new(seed, 3);
        let mut out = Vec::new();
        for i in 0..lines {
            made.next(1_767_225_600_000_000_000 + 100_000 * i as i64, &mut out);
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
    fn lines_look_like_logs() {
        let lines = 20_000;
        let text = sample(7, lines);
        let average = text.len() / lines;
        assert!((175..=195).contains(&average), "{average} bytes a line");
        let compressed = snap::raw::Encoder::new().compress_vec(&text).unwrap().len();
        let ratio = text.len() as f64 / compressed as f64;
        assert!((1.8..4.0).contains(&ratio), "snappy makes it {ratio:.2} times smaller");
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
        assert_eq!(Mark::read(b"plain text"), Reading::Unmarked);
        assert_eq!(Mark::read(b""), Reading::Unmarked);
    }
}
