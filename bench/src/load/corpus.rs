//! A backlog for the product to catch up with: the same bytes for the same workload and seed.

use super::{Error, LineSum, Lines, Workload, Written, file_name};
use memmap2::Mmap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const FLUSH_BYTES: usize = 1 << 20;
/// The first line's time, 2026-01-01; each file has one line every 100 microseconds.
pub const START_NS: i64 = 1_767_225_600_000_000_000;
const STEP_NS: i64 = 100_000;

#[derive(Debug)]
pub struct Corpus {
    pub files: Vec<PathBuf>,
    pub written: Written,
}

/// Writes the workload's lines; file I is writer I's.
pub fn prepare(dir: &Path, workload: &Workload) -> Result<Corpus, Error> {
    assert!(workload.files > 0);
    let start = Instant::now();
    let mut corpus = Corpus { files: Vec::new(), written: Written::default() };
    let (lines, files) = (workload.lines, u64::from(workload.files));
    for writer in 0..workload.files {
        let share = lines / files + u64::from(u64::from(writer) < lines % files);
        let path = dir.join(file_name(writer));
        corpus.written.bytes += write_file(&path, share, writer, workload)?;
        corpus.written.lines.push(share);
        corpus.files.push(path);
    }
    corpus.written.elapsed = start.elapsed();
    Ok(corpus)
}

fn write_file(path: &Path, share: u64, writer: u32, workload: &Workload) -> Result<u64, Error> {
    let mut file = File::create(path).map_err(Error::file("create", path))?;
    let mut lines = Lines::new(&workload.text, workload.seed, writer);
    let mut buffer = Vec::with_capacity(FLUSH_BYTES + 1_024);
    let mut bytes = 0;
    let mut time_ns = START_NS;
    while lines.made() < share {
        lines.next(time_ns, &mut buffer);
        time_ns += STEP_NS;
        if buffer.len() >= FLUSH_BYTES || lines.made() == share {
            file.write_all(&buffer).map_err(Error::file("write", path))?;
            bytes += buffer.len() as u64;
            buffer.clear();
        }
    }
    Ok(bytes)
}

/// The corpus' file as memory, all of it touched, so that nobody waits for the disk later.
pub fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    // SAFETY: the corpus was written before, and nobody changes it during a measurement.
    let text = unsafe { Mmap::map(&file) }.map_err(Error::file("map", path))?;
    let touched = text.iter().step_by(4096).fold(0_u8, |sum, byte| sum ^ byte);
    std::hint::black_box(touched);
    Ok(text)
}

impl Corpus {
    /// What a receiver's sum must come to when every line arrives once.
    pub fn sum(&self) -> Result<LineSum, Error> {
        let mut sum = LineSum::default();
        for path in &self.files {
            sum.add_text(&map(path)?);
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_has_the_asked_lines_and_is_reproducible() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let workload = Workload { lines: 10_001, files: 4, seed: 9, ..Workload::service() };
        let both = dirs.each_ref().map(|dir| prepare(dir.path(), &workload).unwrap());
        assert_eq!(both[0].written.lines, [2501, 2500, 2500, 2500]);
        for (a, b) in both[0].files.iter().zip(&both[1].files) {
            let text = std::fs::read(a).unwrap();
            assert_eq!(text, std::fs::read(b).unwrap());
            assert!(matches!(text.iter().filter(|b| **b == b'\n').count(), 2500 | 2501));
        }
        let sum = both[0].sum().unwrap();
        assert_eq!(sum.lines, 10_001);
        assert_eq!(sum.bytes + sum.lines, both[0].written.bytes);
        assert_eq!(sum, both[1].sum().unwrap());
    }
}
