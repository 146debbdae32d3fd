//! Files in memory: appended to, renamed, truncated, removed, and their inodes given to others.

use io::tail::{Contents, FileId, Identity};
use std::path::PathBuf;

/// A line says which stream it is of, which of it, and what Loki makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub stream: usize,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fine,
    /// Refused for good.
    Bad,
    /// Whatever holds it fails, like an overload.
    Poison,
}

impl Line {
    pub fn text(self, kind: Kind, filler: usize) -> String {
        let Line { stream, number } = self;
        format!("{stream} {number} {kind:?} {}", "x".repeat(filler))
    }

    pub fn parse(text: &[u8]) -> (Line, Kind) {
        let text = std::str::from_utf8(text).expect("lines are text");
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("half a line: {text:?}"));
        let line = Line { stream: word().parse().unwrap(), number: word().parse().unwrap() };
        let kind = match word() {
            "Fine" => Kind::Fine,
            "Bad" => Kind::Bad,
            "Poison" => Kind::Poison,
            other => panic!("half a line: {other:?}"),
        };
        (line, kind)
    }
}

/// Streams of which files are read.
pub const STREAMS: usize = 3;
/// A stream without faults: others have to pass, or nothing may be given up.
pub const OTHERS: usize = STREAMS;
/// With those that are pushed.
pub const STREAMS_ALL: usize = OTHERS + 4;

/// Of files, the sink's own; and those that clients name.
pub const TENANTS: [&str; 3] = ["", "a", "b"];

/// Whose a stream is.
pub fn tenant(stream: usize) -> &'static str {
    match stream.saturating_sub(OTHERS) {
        0 => TENANTS[0],
        1 | 2 => TENANTS[1],
        _ => TENANTS[2],
    }
}

pub fn labels(stream: usize) -> String {
    format!("{{s=\"{stream}\"}}")
}

#[derive(Clone, Debug)]
pub struct SimFile {
    pub id: FileId,
    pub identity: Identity,
    pub stream: usize,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// Without a name, it is there for as long as it is open.
    pub removed: bool,
    /// What it holds, complete or not, since it was truncated.
    pub lines: Vec<Line>,
}

impl Contents for SimFile {
    fn size(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let from = usize::try_from(offset).unwrap().min(self.bytes.len());
        let read = buffer.len().min(self.bytes.len() - from);
        buffer[..read].copy_from_slice(&self.bytes[from..from + read]);
        Ok(read)
    }
}
