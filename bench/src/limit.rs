//! The encode limit: what one core can do at most on the way that no product can leave out.
//!
//! Lines are found, framed as protobuf entries, compressed with snappy and checksummed: no reading,
//! no disk, no network. A product's figure is worth as much as its share of this, measured in the
//! same run.

use memmap2::Mmap;
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// As much as one frame holds before compression.
const FRAME_RAW_BYTES: usize = 256 << 10;
const START_NS: u64 = 1_767_225_600_000_000_000;

#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub lines: u64,
    pub cpu: Duration,
    /// So that nothing of the work can be left out.
    pub checksum: u32,
}

/// Encodes all lines of the files on this thread.
pub fn encode(files: &[PathBuf]) -> io::Result<Limit> {
    let mut limit = Limit { lines: 0, cpu: Duration::ZERO, checksum: 0 };
    let mut raw = Vec::with_capacity(2 * FRAME_RAW_BYTES);
    let mut compressed = vec![0; snap::raw::max_compress_len(2 * FRAME_RAW_BYTES)];
    let mut encoder = snap::raw::Encoder::new();
    for path in files {
        let file = File::open(path)?;
        // SAFETY: the corpus was written before, and nobody changes it during a measurement.
        let text = unsafe { Mmap::map(&file)? };
        // The pages are there before the clock starts.
        let touched: u64 = text.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        limit.checksum ^= u32::try_from(touched & 0xffff).expect("16 bits");
        let start = thread_cpu();
        let mut begin = 0;
        for (stamp, end) in (START_NS..).zip(memchr::memchr_iter(b'\n', &text)) {
            entry(&mut raw, stamp, &text[begin..end]);
            begin = end + 1;
            limit.lines += 1;
            if raw.len() >= FRAME_RAW_BYTES {
                limit.checksum ^= seal(&mut raw, &mut compressed, &mut encoder)?;
            }
        }
        limit.checksum ^= seal(&mut raw, &mut compressed, &mut encoder)?;
        limit.cpu += thread_cpu() - start;
    }
    Ok(limit)
}

fn seal(
    raw: &mut Vec<u8>,
    compressed: &mut [u8],
    encoder: &mut snap::raw::Encoder,
) -> io::Result<u32> {
    let len = encoder.compress(raw, compressed).map_err(io::Error::other)?;
    raw.clear();
    Ok(crc32c::crc32c(&compressed[..len]))
}

/// An entry of a stream: its timestamp and its line.
fn entry(raw: &mut Vec<u8>, stamp_ns: u64, line: &[u8]) {
    let mut head = [0_u8; 32];
    let mut at = 0;
    for (tag, value) in [(0x08, stamp_ns / 1_000_000_000), (0x10, stamp_ns % 1_000_000_000)] {
        head[at] = tag;
        at = varint(&mut head, at + 1, value);
    }
    let stamp_len = at;
    head[at] = 0x12;
    at = varint(&mut head, at + 1, line.len() as u64);
    let mut before = [0_u8; 16];
    before[0] = 0x12;
    let mut end = varint(&mut before, 1, (2 + at + line.len()) as u64);
    before[end] = 0x0a;
    end = varint(&mut before, end + 1, stamp_len as u64);
    raw.extend_from_slice(&before[..end]);
    raw.extend_from_slice(&head[..at]);
    raw.extend_from_slice(line);
}

fn varint(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = (value & 0x7f) as u8;
    at + 1
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below 1e9"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::corpus;

    #[test]
    fn every_line_is_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = corpus::prepare(dir.path(), 5_000, 2, 1).unwrap();
        let limit = encode(&corpus.files).unwrap();
        assert_eq!(limit.lines, 5_000);
        assert!(limit.cpu > Duration::ZERO);
        assert_eq!(encode(&corpus.files).unwrap().checksum, limit.checksum);
    }
}
