//! The encode limit: what one core can do at most on the way that no product can leave out.
//!
//! Lines are found, framed as protobuf entries, compressed with snappy and checksummed: no reading,
//! no disk, no network. A product's figure is worth as much as its share of this, measured in the
//! same run.

use crate::load::{self, corpus, proto};
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;
use std::time::Duration;

/// As much as one frame holds before compression.
const FRAME_RAW_BYTES: usize = 256 << 10;
const LINE_BYTES_MAX: usize = 1 << 20;
const START_NS: u64 = corpus::START_NS.cast_unsigned();

#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub lines: u64,
    pub cpu: Duration,
    /// So that nothing of the work can be left out.
    pub checksum: u32,
}

/// Encodes all lines of the files on this thread.
pub fn encode(files: &[PathBuf]) -> Result<Limit, load::Error> {
    let mut limit = Limit { lines: 0, cpu: Duration::ZERO, checksum: 0 };
    let mut raw = Vec::with_capacity(FRAME_RAW_BYTES + LINE_BYTES_MAX);
    let mut compressed = vec![0; snap::raw::max_compress_len(FRAME_RAW_BYTES + LINE_BYTES_MAX)];
    let mut encoder = snap::raw::Encoder::new();
    for path in files {
        let text = corpus::map(path)?;
        let start = thread_cpu();
        let mut begin = 0;
        for (stamp, end) in (START_NS..).zip(memchr::memchr_iter(b'\n', &text)) {
            proto::entry(stamp, &text[begin..end], &mut raw);
            begin = end + 1;
            limit.lines += 1;
            if raw.len() >= FRAME_RAW_BYTES {
                limit.checksum ^= seal(&mut raw, &mut compressed, &mut encoder);
            }
        }
        limit.checksum ^= seal(&mut raw, &mut compressed, &mut encoder);
        limit.cpu += thread_cpu() - start;
    }
    Ok(limit)
}

fn seal(raw: &mut Vec<u8>, compressed: &mut [u8], encoder: &mut snap::raw::Encoder) -> u32 {
    let len = encoder.compress(raw, compressed).expect("the buffer is made for it");
    raw.clear();
    crc32c::crc32c(&compressed[..len])
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below 1e9"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Workload;

    #[test]
    fn every_line_is_encoded() {
        let dir = tempfile::tempdir().unwrap();
        let corpus =
            corpus::prepare(dir.path(), &Workload { lines: 5_000, ..Workload::service() }).unwrap();
        let limit = encode(&corpus.files).unwrap();
        assert_eq!(limit.lines, 5_000);
        assert!(limit.cpu > Duration::ZERO);
        assert_eq!(encode(&corpus.files).unwrap().checksum, limit.checksum);
    }
}
