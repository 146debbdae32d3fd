//! Which whole frames stand in a segment: reads on past what is damaged.

use crate::disk::{Disk, DiskError};
use crate::format::{BLOCK_BYTES, FRAME_HEADER_BYTES, FormatError, FrameHeader, FrameView, Seq};

/// What one read asks for; a larger frame is read whole.
const WINDOW_BYTES: usize = 1 << 20;

/// Walks the blocks of one segment from `offset` to `end` and stops at each whole frame.
pub struct Scan<'a, D: Disk> {
    disk: &'a D,
    file: &'a D::File,
    /// Whose frames count; where the segment's header is lost, those of the first whole frame.
    salt: Option<u64>,
    offset: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
    stale: Vec<u64>,
}

/// A whole frame, and what was met before it.
pub struct Found {
    pub header: FrameHeader,
    /// The header's own checksum.
    pub crc: u32,
    pub offset: u64,
    /// The first damage since the frame before.
    pub damage: Option<Damage>,
}

/// Bytes that are no frame where one could begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    pub error: FormatError,
}

/// Where a scan ended: what was met since the last frame.
pub enum Step {
    Frame(Found),
    End { damage: Option<Damage> },
}

impl<'a, D: Disk> Scan<'a, D> {
    pub fn new(
        disk: &'a D,
        file: &'a D::File,
        salt: Option<u64>,
        offset: u64,
        end: u64,
    ) -> Scan<'a, D> {
        assert!(offset >= BLOCK_BYTES as u64 && offset.is_multiple_of(BLOCK_BYTES as u64));
        Scan {
            disk,
            file,
            salt,
            offset,
            end,
            window: Vec::new(),
            window_at: offset,
            stale: Vec::new(),
        }
    }

    pub async fn next(&mut self) -> Result<Step, DiskError> {
        let mut damage = None;
        while self.offset < self.end {
            let offset = self.offset;
            match self.frame_at(offset).await? {
                Block::Frame(header) => {
                    self.offset += header.frame_bytes() as u64;
                    let crc = FrameHeader::crc_of(&self.window[self.index(offset)..]);
                    return Ok(Step::Frame(Found { header, crc, offset, damage }));
                }
                Block::Damaged(error) => {
                    damage.get_or_insert(Damage { offset, error });
                }
                Block::Stale => self.stale.push(offset),
                Block::Blank => {}
            }
            self.offset += BLOCK_BYTES as u64;
        }
        Ok(Step::End { damage })
    }

    /// The frame that `next` stopped at last.
    #[must_use]
    pub fn view(&self, found: &Found) -> FrameView<'_> {
        let at = self.index(found.offset);
        FrameView::decode(&self.window[at..]).expect("next found it whole")
    }

    /// Where frames of older segments, whose blocks these were, were passed over.
    #[must_use]
    pub fn stale(self) -> Vec<u64> {
        self.stale
    }

    async fn frame_at(&mut self, offset: u64) -> Result<Block, DiskError> {
        if !self.load(offset, FRAME_HEADER_BYTES).await? {
            return Ok(Block::Blank);
        }
        let bytes = &self.window[self.index(offset)..];
        if bytes[..FRAME_HEADER_BYTES].iter().all(|b| *b == 0) {
            return Ok(Block::Blank);
        }
        let header = match FrameHeader::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Block::Damaged(error)),
        };
        if self.salt.is_some_and(|salt| salt != header.salt) && !crate::planted!(SaltIgnored) {
            return Ok(Block::Stale);
        }
        // Not the padding: a file that is cut there has all of the frame.
        let bytes = header.body_range().end;
        if !self.load(offset, bytes).await? {
            let (expected, found) = (bytes, self.window.len());
            return Ok(Block::Damaged(FormatError::Short { expected, found }));
        }
        match FrameView::decode(&self.window[self.index(offset)..]) {
            Ok(_) => {
                self.salt = Some(header.salt);
                Ok(Block::Frame(header))
            }
            Err(error) => Ok(Block::Damaged(error)),
        }
    }

    /// Has `bytes` from `offset` in the window; false where the segment ends before.
    async fn load(&mut self, offset: u64, bytes: usize) -> Result<bool, DiskError> {
        if offset + bytes as u64 > self.end {
            return Ok(false);
        }
        let there = self.window_at..self.window_at + self.window.len() as u64;
        if !there.contains(&offset) || offset + bytes as u64 > there.end {
            let left = usize::try_from(self.end - offset).expect("a segment is addressable");
            let wanted = bytes.max(WINDOW_BYTES).min(left).next_multiple_of(BLOCK_BYTES);
            self.window = self.disk.read(self.file, offset, wanted).await?;
            self.window_at = offset;
        }
        Ok(self.window.len() - self.index(offset) >= bytes)
    }

    fn index(&self, offset: u64) -> usize {
        usize::try_from(offset - self.window_at).expect("inside the window")
    }
}

enum Block {
    Frame(FrameHeader),
    /// Never written.
    Blank,
    /// A frame of an older segment that had these blocks.
    Stale,
    Damaged(FormatError),
}

/// A range of frames, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqRange {
    pub first: Seq,
    pub last: Seq,
}

impl std::fmt::Display for SeqRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}
