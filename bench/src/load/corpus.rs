//! A backlog for the product to catch up with: the same bytes for the same seed.

use super::{Error, Lines, Written, file_name};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const FLUSH_BYTES: usize = 1 << 20;
/// The first line's time, 2026-01-01; each file has one line every 100 microseconds.
const START_NS: i64 = 1_767_225_600_000_000_000;
const STEP_NS: i64 = 100_000;

#[derive(Debug)]
pub struct Corpus {
    pub files: Vec<PathBuf>,
    pub written: Written,
}

/// What stands in the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Marked, with a random trace id and a checksum: every line can be verified. About 197 bytes, 2.4
    /// times smaller by snappy.
    Marked,
    /// Key-value pairs as services log them. About 185 bytes, 5.6 times smaller by snappy.
    Plain,
}

/// Writes `lines` marked lines in all over `files` files; file I is writer I's.
pub fn prepare(dir: &Path, lines: u64, files: u32, seed: u64) -> Result<Corpus, Error> {
    prepare_text(dir, lines, files, seed, Text::Marked)
}

pub fn prepare_text(
    dir: &Path,
    lines: u64,
    files: u32,
    seed: u64,
    text: Text,
) -> Result<Corpus, Error> {
    assert!(files > 0);
    let start = Instant::now();
    let mut corpus = Corpus { files: Vec::new(), written: Written::default() };
    for writer in 0..files {
        let share =
            lines / u64::from(files) + u64::from(u64::from(writer) < lines % u64::from(files));
        let path = dir.join(file_name(writer));
        corpus.written.bytes += write_file(&path, share, writer, seed, text)?;
        corpus.written.lines.push(share);
        corpus.files.push(path);
    }
    corpus.written.elapsed = start.elapsed();
    Ok(corpus)
}

fn write_file(path: &Path, share: u64, writer: u32, seed: u64, text: Text) -> Result<u64, Error> {
    let mut file = File::create(path).map_err(Error::file("create", path))?;
    let mut lines = Lines::new(seed, writer);
    let mut buffer = Vec::with_capacity(FLUSH_BYTES + 1_024);
    let mut bytes = 0;
    let mut time_ns = START_NS;
    while lines.made() < share {
        match text {
            Text::Marked => lines.next(time_ns, &mut buffer),
            Text::Plain => lines.next_plain(time_ns, &mut buffer),
        }
        time_ns += STEP_NS;
        if buffer.len() >= FLUSH_BYTES || lines.made() == share {
            file.write_all(&buffer).map_err(Error::file("write", path))?;
            bytes += buffer.len() as u64;
            buffer.clear();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_has_the_asked_lines_and_is_reproducible() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let both = dirs.each_ref().map(|dir| prepare(dir.path(), 10_001, 4, 9).unwrap());
        assert_eq!(both[0].written.lines, [2501, 2500, 2500, 2500]);
        for (a, b) in both[0].files.iter().zip(&both[1].files) {
            let text = std::fs::read(a).unwrap();
            assert_eq!(text, std::fs::read(b).unwrap());
            assert!(matches!(text.iter().filter(|b| **b == b'\n').count(), 2500 | 2501));
        }
        let sizes: u64 = both[0].files.iter().map(|f| f.metadata().unwrap().len()).sum();
        assert_eq!(sizes, both[0].written.bytes);
    }

    #[test]
    fn plain_lines_are_as_long_and_as_compressible_as_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let lines = 20_000;
        let corpus = prepare_text(dir.path(), lines, 1, 9, Text::Plain).unwrap();
        let average = corpus.written.bytes / lines;
        assert!((180..=190).contains(&average), "{average} bytes a line");
        let text = std::fs::read(&corpus.files[0]).unwrap();
        let compressed = snap::raw::Encoder::new().compress_vec(&text).unwrap().len();
        let ratio = text.len() as f64 / compressed as f64;
        assert!((5.0..6.5).contains(&ratio), "snappy makes it {ratio:.2} times smaller");
    }
}
