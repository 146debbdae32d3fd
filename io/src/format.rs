//! The layout of everything in `data_dir`, and nothing else: this file is the only place that knows
//! an offset. Golden tests at its end pin the bytes.
//!
//! All integers are little-endian, reserved bytes are zero, and no length is used before the
//! checksum that covers it was found good. A file is a sequence of blocks of [`BLOCK_BYTES`].
//!
//! - Segment: one header block, then frames, each at the start of a fresh block, zero-padded to the
//!   next. A segment's first sequence number supersedes anything at or above it in older segments.
//! - Frame: fixed header, `meta` (tag and cursors), body. Three checksums, one for each part.
//! - Checkpoint: fixed header, then the payload, in two slots that are written in turn.
//!
//! Versions: a reader accepts [`READER_VERSION_OLDEST`]`..=`[`FORMAT_VERSION`], and refuses a file
//! whose `reader_version_min` is above its own [`FORMAT_VERSION`] without touching it. Which of them it
//! writes, it is told ([`FormatVersion`]).
//!
//! - 1: the first.
//! - 2: a frame says how old its oldest timestamp is, in bytes that were 0, which a reader of version 1
//!   reads past; a checkpoint may hold a position for a tag of a sink, and is refused by it then: it
//!   would take the sink's own for that of all.

use crate::tail::{Fingerprint, Identity};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub const BLOCK_BYTES: usize = 4096;
/// The newest version that this program writes.
pub const FORMAT_VERSION: u16 = FormatVersion::NEWEST.number();
/// The oldest version that this program reads.
pub const READER_VERSION_OLDEST: u16 = FormatVersion::OLDEST.number();

/// A version that this program can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FormatVersion {
    V1 = 1,
    V2 = 2,
}

impl FormatVersion {
    pub const ALL: [FormatVersion; 2] = [FormatVersion::V1, FormatVersion::V2];
    pub const OLDEST: FormatVersion = FormatVersion::ALL[0];
    pub const NEWEST: FormatVersion = FormatVersion::ALL[FormatVersion::ALL.len() - 1];

    #[must_use]
    pub fn of(number: u16) -> Option<FormatVersion> {
        FormatVersion::ALL.into_iter().find(|version| version.number() == number)
    }

    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

impl std::fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number().fmt(f)
    }
}

/// The newest format that this program reads: [`FORMAT_VERSION`], but where a test wants an older program.
#[must_use]
pub fn reads_up_to() -> u16 {
    crate::failpoint::told("format").and_then(|text| text.parse().ok()).unwrap_or(FORMAT_VERSION)
}

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Versions {
    /// That of the program that wrote it.
    pub written: u16,
    /// The oldest that reads it rightly.
    pub reader_min: u16,
}

impl Versions {
    /// Refuses what this program cannot read.
    pub fn check(self) -> Result<(), FormatError> {
        let Versions { written: found, reader_min } = self;
        if found < READER_VERSION_OLDEST || reader_min > reads_up_to() {
            return Err(FormatError::Version { found, reader_min });
        }
        Ok(())
    }

    fn put(self, header: &mut [u8], at: usize) {
        put_u16(header, at, self.written);
        put_u16(header, at + 2, self.reader_min);
    }

    fn get(header: &[u8], at: usize) -> Versions {
        Versions { written: get_u16(header, at), reader_min: get_u16(header, at + 2) }
    }
}

pub const META_BYTES_MAX: usize = 4 << 20;
pub const BODY_BYTES_MAX: usize = 8 << 20;
pub const TAG_BYTES_MAX: usize = 1024;
/// A path is at most Linux's PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4096;
pub const CHECKPOINT_BYTES_MAX: usize = 1 << 30;
/// The largest frame, padding included.
pub const FRAME_BYTES_MAX: usize =
    (FRAME_HEADER_BYTES + META_BYTES_MAX + BODY_BYTES_MAX).next_multiple_of(BLOCK_BYTES);

const SEGMENT_MAGIC: [u8; 8] = *b"LCAPWAL\n";
const FRAME_MAGIC: [u8; 8] = *b"LCAPFRM\n";
const CHECKPOINT_MAGIC: [u8; 8] = *b"LCAPCKP\n";

/// A frame's sequence number in its log; the first frame is 1, so 0 means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub const NONE: Seq = Seq(0);

    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    #[must_use]
    pub fn previous(self) -> Seq {
        Seq(self.0.checked_sub(1).expect("no sequence number comes before 0"))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why bytes are not what they should be. Never an I/O error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("expected magic {expected:02x?}, found {found:02x?}")]
    Magic { expected: [u8; 8], found: [u8; 8] },
    #[error("{part} checksum is {found:08x}, expected {expected:08x}")]
    Checksum { part: &'static str, expected: u32, found: u32 },
    #[error(
        "format version {found} needs a reader of version {reader_min}, this program reads \
         {READER_VERSION_OLDEST} to {FORMAT_VERSION}; start the newer program again, or empty its \
         write-ahead log with it first"
    )]
    Version { found: u16, reader_min: u16 },
    #[error("{what} is {found}, the limit is {max}")]
    TooLarge { what: &'static str, found: u64, max: u64 },
    #[error("ends after {found} bytes, expected {expected}")]
    Short { expected: usize, found: usize },
    #[error("{what} is {found}, expected {expected}")]
    Unexpected { what: &'static str, found: u64, expected: u64 },
}

// Segment header, offsets in its block.
const SH_MAGIC: usize = 0;
const SH_VERSIONS: usize = SH_MAGIC + 8;
const SH_OWNER: usize = SH_VERSIONS + 4;
const SH_SALT: usize = SH_OWNER + 4;
const SH_FIRST_SEQ: usize = SH_SALT + 8;
const SH_PREVIOUS_CRC: usize = SH_FIRST_SEQ + 8;
const SH_END: usize = SH_PREVIOUS_CRC + 4;
const SH_CRC: usize = BLOCK_BYTES - 4;
const _: () = assert!(SH_END <= SH_CRC);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log this is: a segment that strayed in from elsewhere is refused.
    pub owner: u32,
    /// Random per segment, repeated in each frame: a frame with another salt is stale.
    pub salt: u64,
    pub first_seq: Seq,
    /// Header checksum of the frame before `first_seq`; 0 where there is none.
    pub previous_crc: u32,
}

impl SegmentHeader {
    pub fn encode(&self, block: &mut [u8], writes: FormatVersion) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        block[SH_MAGIC..][..8].copy_from_slice(&SEGMENT_MAGIC);
        let reader_min = FormatVersion::V1.number();
        Versions { written: writes.number(), reader_min }.put(block, SH_VERSIONS);
        put_u32(block, SH_OWNER, self.owner);
        put_u64(block, SH_SALT, self.salt);
        put_u64(block, SH_FIRST_SEQ, self.first_seq.0);
        put_u32(block, SH_PREVIOUS_CRC, self.previous_crc);
        let crc = crc32c::crc32c(&block[..SH_CRC]);
        put_u32(block, SH_CRC, crc);
    }

    /// What it says, whether this program can read it or not.
    pub fn versions(block: &[u8]) -> Result<Versions, FormatError> {
        check_length(block, BLOCK_BYTES)?;
        check_magic(&block[SH_MAGIC..], SEGMENT_MAGIC)?;
        check_crc("segment header", &block[..SH_CRC], get_u32(block, SH_CRC))?;
        Ok(Versions::get(block, SH_VERSIONS))
    }

    pub fn decode(block: &[u8]) -> Result<SegmentHeader, FormatError> {
        SegmentHeader::versions(block)?.check()?;
        Ok(SegmentHeader {
            owner: get_u32(block, SH_OWNER),
            salt: get_u64(block, SH_SALT),
            first_seq: Seq(get_u64(block, SH_FIRST_SEQ)),
            previous_crc: get_u32(block, SH_PREVIOUS_CRC),
        })
    }
}

// Frame header.
const FH_MAGIC: usize = 0;
const FH_SALT: usize = FH_MAGIC + 8;
const FH_SEQ: usize = FH_SALT + 8;
const FH_DURABLE: usize = FH_SEQ + 8;
const FH_ACKED: usize = FH_DURABLE + 8;
const FH_STREAM: usize = FH_ACKED + 8;
const FH_ARRIVAL: usize = FH_STREAM + 8;
const FH_META_LEN: usize = FH_ARRIVAL + 8;
const FH_BODY_LEN: usize = FH_META_LEN + 4;
const FH_RAW_LEN: usize = FH_BODY_LEN + 4;
const FH_ENTRIES: usize = FH_RAW_LEN + 4;
const FH_META_CRC: usize = FH_ENTRIES + 4;
const FH_BODY_CRC: usize = FH_META_CRC + 4;
const FH_TAG_LEN: usize = FH_BODY_CRC + 4;
/// Version 2; 0 in version 1.
const FH_STAMP: usize = FH_TAG_LEN + 2 + 6;
const FH_END: usize = FH_STAMP + 8;
const FH_CRC: usize = FRAME_HEADER_BYTES - 4;
pub const FRAME_HEADER_BYTES: usize = 128;
const _: () = assert!(FH_END <= FH_CRC && FRAME_HEADER_BYTES <= BLOCK_BYTES);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub salt: u64,
    pub seq: Seq,
    /// What was durable when this frame was written: a bad frame at or below it is corruption, one
    /// above it at the end of the log is a torn tail.
    pub durable: Seq,
    /// What was acked when this frame was written: bounds what a crash sends again.
    pub acked: Seq,
    /// The one stream of the body, or 0 for a mix.
    pub stream: u64,
    /// When the oldest line of the body arrived, Unix time in nanoseconds.
    pub oldest_arrival_ns: i64,
    /// The oldest timestamp of the body, likewise; where it is not known, the oldest arrival.
    pub oldest_stamp_ns: i64,
    pub meta_len: u32,
    pub body_len: u32,
    /// The length of the body before compression.
    pub raw_len: u32,
    pub entries: u32,
    pub meta_crc: u32,
    pub body_crc: u32,
    pub tag_len: u16,
}

impl FrameHeader {
    /// The whole frame on disk, padding included.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.meta_len as usize, self.body_len as usize)
    }

    #[must_use]
    pub fn body_range(&self) -> std::ops::Range<usize> {
        let start = FRAME_HEADER_BYTES + self.meta_len as usize;
        start..start + self.body_len as usize
    }

    pub fn encode(&self, out: &mut [u8], writes: FormatVersion) {
        let header = &mut out[..FRAME_HEADER_BYTES];
        header.fill(0);
        header[FH_MAGIC..][..8].copy_from_slice(&FRAME_MAGIC);
        put_u64(header, FH_SALT, self.salt);
        put_u64(header, FH_SEQ, self.seq.0);
        put_u64(header, FH_DURABLE, self.durable.0);
        put_u64(header, FH_ACKED, self.acked.0);
        put_u64(header, FH_STREAM, self.stream);
        put_i64(header, FH_ARRIVAL, self.oldest_arrival_ns);
        if writes >= FormatVersion::V2 {
            put_i64(header, FH_STAMP, self.oldest_stamp_ns);
        }
        put_u32(header, FH_META_LEN, self.meta_len);
        put_u32(header, FH_BODY_LEN, self.body_len);
        put_u32(header, FH_RAW_LEN, self.raw_len);
        put_u32(header, FH_ENTRIES, self.entries);
        put_u32(header, FH_META_CRC, self.meta_crc);
        put_u32(header, FH_BODY_CRC, self.body_crc);
        put_u16(header, FH_TAG_LEN, self.tag_len);
        let crc = crc32c::crc32c(&header[..FH_CRC]);
        put_u32(header, FH_CRC, crc);
    }

    /// Checks the header alone; `meta` and body have checksums of their own.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, FormatError> {
        check_length(bytes, FRAME_HEADER_BYTES)?;
        check_magic(&bytes[FH_MAGIC..], FRAME_MAGIC)?;
        check_crc("frame header", &bytes[..FH_CRC], get_u32(bytes, FH_CRC))?;
        let header = FrameHeader {
            salt: get_u64(bytes, FH_SALT),
            seq: Seq(get_u64(bytes, FH_SEQ)),
            durable: Seq(get_u64(bytes, FH_DURABLE)),
            acked: Seq(get_u64(bytes, FH_ACKED)),
            stream: get_u64(bytes, FH_STREAM),
            oldest_arrival_ns: get_i64(bytes, FH_ARRIVAL),
            oldest_stamp_ns: match get_i64(bytes, FH_STAMP) {
                0 => get_i64(bytes, FH_ARRIVAL),
                stamp_ns => stamp_ns,
            },
            meta_len: get_u32(bytes, FH_META_LEN),
            body_len: get_u32(bytes, FH_BODY_LEN),
            raw_len: get_u32(bytes, FH_RAW_LEN),
            entries: get_u32(bytes, FH_ENTRIES),
            meta_crc: get_u32(bytes, FH_META_CRC),
            body_crc: get_u32(bytes, FH_BODY_CRC),
            tag_len: get_u16(bytes, FH_TAG_LEN),
        };
        check_max("frame meta", header.meta_len as usize, META_BYTES_MAX)?;
        check_max("frame body", header.body_len as usize, BODY_BYTES_MAX)?;
        check_max("frame tag", header.tag_len as usize, header.meta_len as usize)?;
        Ok(header)
    }

    /// The header's own checksum, by which the next segment names its predecessor.
    #[must_use]
    pub fn crc_of(encoded: &[u8]) -> u32 {
        get_u32(encoded, FH_CRC)
    }
}

#[must_use]
pub const fn frame_bytes(meta_len: usize, body_len: usize) -> usize {
    (FRAME_HEADER_BYTES + meta_len + body_len).next_multiple_of(BLOCK_BYTES)
}

/// A frame whose three checksums were found good; borrowed from the bytes that hold it.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    pub header: FrameHeader,
    pub tag: &'a [u8],
    cursors: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> FrameView<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<FrameView<'a>, FormatError> {
        let header = FrameHeader::decode(bytes)?;
        check_length(bytes, header.body_range().end)?;
        let meta = &bytes[FRAME_HEADER_BYTES..header.body_range().start];
        let body = &bytes[header.body_range()];
        check_crc("frame meta", meta, header.meta_crc)?;
        check_crc("frame body", body, header.body_crc)?;
        let (tag, cursors) = meta.split_at(header.tag_len as usize);
        Ok(FrameView { header, tag, cursors, body })
    }

    pub fn cursors(&self) -> Result<Vec<Cursor>, FormatError> {
        Cursor::decode_all(self.cursors)
    }
}

// Cursor, fixed part.
const CU_DEV: usize = 0;
const CU_INO: usize = CU_DEV + 8;
const CU_BIRTH: usize = CU_INO + 8;
const CU_OFFSET: usize = CU_BIRTH + 8;
const CU_STAMP: usize = CU_OFFSET + 8;
const CU_FINGERPRINT_CRC: usize = CU_STAMP + 8;
const CU_FINGERPRINT_LEN: usize = CU_FINGERPRINT_CRC + 4;
const CU_FLAGS: usize = CU_FINGERPRINT_LEN + 2;
const CU_PATH_LEN: usize = CU_FLAGS + 2;
const CU_PATH: usize = CU_PATH_LEN + 2;
const CU_FLAG_SKIPPING: u16 = 1;

/// How far a source was read: everything before `offset` stands in frames up to the one that
/// carries this cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    pub offset: u64,
    /// When this cursor was taken, Unix time in nanoseconds: of two for one source the later counts.
    pub stamp_ns: i64,
    /// The rest of a line that was cut is being skipped.
    pub skipping: bool,
    /// The path under which the source was first found.
    pub path: PathBuf,
}

impl Cursor {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let path = self.path.as_os_str().as_bytes();
        assert!(path.len() <= PATH_BYTES_MAX);
        let start = out.len();
        out.resize(start + CU_PATH, 0);
        let fixed = &mut out[start..];
        put_u64(fixed, CU_DEV, self.identity.dev);
        put_u64(fixed, CU_INO, self.identity.ino);
        put_i64(fixed, CU_BIRTH, self.identity.birth_ns);
        put_u64(fixed, CU_OFFSET, self.offset);
        put_i64(fixed, CU_STAMP, self.stamp_ns);
        put_u32(fixed, CU_FINGERPRINT_CRC, self.fingerprint.crc);
        put_u16(fixed, CU_FINGERPRINT_LEN, self.fingerprint.len);
        put_u16(fixed, CU_FLAGS, if self.skipping { CU_FLAG_SKIPPING } else { 0 });
        put_u16(fixed, CU_PATH_LEN, u16::try_from(path.len()).expect("checked above"));
        out.extend_from_slice(path);
    }

    pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Cursor>, FormatError> {
        let mut cursors = Vec::new();
        while !bytes.is_empty() {
            cursors.push(Cursor::decode(&mut bytes)?);
        }
        Ok(cursors)
    }

    fn decode(bytes: &mut &[u8]) -> Result<Cursor, FormatError> {
        check_length(bytes, CU_PATH)?;
        let (fixed, rest) = bytes.split_at(CU_PATH);
        let path_len = get_u16(fixed, CU_PATH_LEN) as usize;
        check_max("cursor path", path_len, PATH_BYTES_MAX)?;
        check_length(rest, path_len)?;
        let (path, rest) = rest.split_at(path_len);
        *bytes = rest;
        Ok(Cursor {
            identity: Identity {
                dev: get_u64(fixed, CU_DEV),
                ino: get_u64(fixed, CU_INO),
                birth_ns: get_i64(fixed, CU_BIRTH),
            },
            fingerprint: Fingerprint {
                len: get_u16(fixed, CU_FINGERPRINT_LEN),
                crc: get_u32(fixed, CU_FINGERPRINT_CRC),
            },
            offset: get_u64(fixed, CU_OFFSET),
            stamp_ns: get_i64(fixed, CU_STAMP),
            skipping: get_u16(fixed, CU_FLAGS) & CU_FLAG_SKIPPING != 0,
            path: Path::new(OsStr::from_bytes(path)).to_owned(),
        })
    }
}

// Checkpoint header.
const CH_MAGIC: usize = 0;
const CH_VERSIONS: usize = CH_MAGIC + 8;
const CH_OWNER: usize = CH_VERSIONS + 4;
const CH_GENERATION: usize = CH_OWNER + 4;
const CH_DURABLE: usize = CH_GENERATION + 8;
const CH_PAYLOAD_LEN: usize = CH_DURABLE + 8;
const CH_PAYLOAD_CRC: usize = CH_PAYLOAD_LEN + 4;
const CH_SINKS: usize = CH_PAYLOAD_CRC + 4;
const CH_CURSORS: usize = CH_SINKS + 4;
const CH_CRC: usize = CH_CURSORS + 4;
const CHECKPOINT_HEADER_BYTES: usize = CH_CRC + 4;

/// The cursor table and the acked positions of each sink, as they were when `durable` was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub owner: u32,
    pub generation: u64,
    pub durable: Seq,
    pub acked: Vec<SinkAcked>,
    pub cursors: Vec<Cursor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkAcked {
    pub sink: String,
    /// Where it is there: the position counts for the frames of this tag alone, and that of the sink
    /// itself for all others.
    pub tag: Option<String>,
    pub acked: Seq,
}

/// The oldest version that knows of positions for tags.
const TAGS_SINCE: FormatVersion = FormatVersion::V2;

/// Between the names of a sink and of a tag; no sink has it in its name.
const SINK_TAG_SIGN: char = '/';

impl Checkpoint {
    /// The positions as this version has them. Where it has none for tags, that of the sink is the least:
    /// more is sent again, and nothing is passed over.
    fn positions(&self, writes: FormatVersion) -> Vec<SinkAcked> {
        if writes >= TAGS_SINCE {
            return self.acked.clone();
        }
        let least =
            |sink: &str| self.acked.iter().filter(|of| of.sink == sink).map(|of| of.acked).min();
        let sinks = self.acked.iter().filter(|of| of.tag.is_none());
        sinks
            .map(|of| SinkAcked { acked: least(&of.sink).unwrap_or(of.acked), ..of.clone() })
            .collect()
    }

    #[must_use]
    pub fn encode(&self, writes: FormatVersion) -> Vec<u8> {
        let mut out = vec![0; CHECKPOINT_HEADER_BYTES];
        let positions = self.positions(writes);
        for SinkAcked { sink, tag, acked } in &positions {
            let name = match tag {
                None => sink.clone(),
                Some(tag) => format!("{sink}{SINK_TAG_SIGN}{tag}"),
            };
            let len = u16::try_from(name.len()).expect("a sink's name is short, and so is a tag");
            out.extend_from_slice(&acked.0.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        for cursor in &self.cursors {
            cursor.encode(&mut out);
        }
        assert!(out.len() <= CHECKPOINT_BYTES_MAX);
        let payload_len = as_u32(out.len() - CHECKPOINT_HEADER_BYTES);
        let payload_crc = crc32c::crc32c(&out[CHECKPOINT_HEADER_BYTES..]);
        let header = &mut out[..CHECKPOINT_HEADER_BYTES];
        header[CH_MAGIC..][..8].copy_from_slice(&CHECKPOINT_MAGIC);
        let has_tags = positions.iter().any(|of| of.tag.is_some());
        let reader_min = if has_tags { TAGS_SINCE } else { FormatVersion::V1 }.number();
        Versions { written: writes.number(), reader_min }.put(header, CH_VERSIONS);
        put_u32(header, CH_OWNER, self.owner);
        put_u64(header, CH_GENERATION, self.generation);
        put_u64(header, CH_DURABLE, self.durable.0);
        put_u32(header, CH_PAYLOAD_LEN, payload_len);
        put_u32(header, CH_PAYLOAD_CRC, payload_crc);
        put_u32(header, CH_SINKS, as_u32(positions.len()));
        put_u32(header, CH_CURSORS, as_u32(self.cursors.len()));
        let crc = crc32c::crc32c(&header[..CH_CRC]);
        put_u32(header, CH_CRC, crc);
        out
    }

    /// What it says, whether this program can read it or not.
    pub fn versions(bytes: &[u8]) -> Result<Versions, FormatError> {
        check_length(bytes, CHECKPOINT_HEADER_BYTES)?;
        check_magic(&bytes[CH_MAGIC..], CHECKPOINT_MAGIC)?;
        check_crc("checkpoint header", &bytes[..CH_CRC], get_u32(bytes, CH_CRC))?;
        Ok(Versions::get(bytes, CH_VERSIONS))
    }

    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, FormatError> {
        Checkpoint::versions(bytes)?.check()?;
        let (header, payload) = bytes.split_at(CHECKPOINT_HEADER_BYTES);
        let payload_len = get_u32(header, CH_PAYLOAD_LEN) as usize;
        check_length(payload, payload_len)?;
        let mut rest = &payload[..payload_len];
        check_crc("checkpoint payload", rest, get_u32(header, CH_PAYLOAD_CRC))?;
        let mut acked = Vec::new();
        for _ in 0..get_u32(header, CH_SINKS) {
            check_length(rest, 10)?;
            let len = get_u16(rest, 8) as usize;
            check_length(rest, 10 + len)?;
            let name = String::from_utf8_lossy(&rest[10..10 + len]);
            let (sink, tag) = match name.split_once(SINK_TAG_SIGN) {
                None => (name.into_owned(), None),
                Some((sink, tag)) => (sink.to_owned(), Some(tag.to_owned())),
            };
            acked.push(SinkAcked { sink, tag, acked: Seq(get_u64(rest, 0)) });
            rest = &rest[10 + len..];
        }
        let mut cursors = Vec::new();
        for _ in 0..get_u32(header, CH_CURSORS) {
            cursors.push(Cursor::decode(&mut rest)?);
        }
        Ok(Checkpoint {
            owner: get_u32(header, CH_OWNER),
            generation: get_u64(header, CH_GENERATION),
            durable: Seq(get_u64(header, CH_DURABLE)),
            acked,
            cursors,
        })
    }
}

/// The two checkpoint slots; generation `g` goes to slot `g % 2`.
pub const CHECKPOINT_SLOTS: [&str; 2] = ["checkpoint.a", "checkpoint.b"];
/// A file of this suffix was not finished, and means nothing.
pub const TMP_SUFFIX: &str = ".tmp";
const SEGMENT_SUFFIX: &str = ".wal";

#[must_use]
pub fn segment_name(first_seq: Seq) -> String {
    format!("{:020}{SEGMENT_SUFFIX}", first_seq.0)
}

#[must_use]
pub fn parse_segment_name(name: &str) -> Option<Seq> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok().map(Seq).filter(|seq| *seq > Seq::NONE))?
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by the limits of this file")
}

fn put_u16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}
fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}
fn put_u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}
fn put_i64(b: &mut [u8], at: usize, v: i64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}
fn get_u16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(b[at..at + 2].try_into().expect("two bytes"))
}
fn get_u32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}
fn get_u64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}
fn get_i64(b: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

fn check_length(bytes: &[u8], expected: usize) -> Result<(), FormatError> {
    if bytes.len() < expected {
        return Err(FormatError::Short { expected, found: bytes.len() });
    }
    Ok(())
}

fn check_magic(bytes: &[u8], expected: [u8; 8]) -> Result<(), FormatError> {
    let found: [u8; 8] = bytes[..8].try_into().expect("eight bytes");
    if found != expected {
        return Err(FormatError::Magic { expected, found });
    }
    Ok(())
}

fn check_crc(part: &'static str, bytes: &[u8], expected: u32) -> Result<(), FormatError> {
    let found = crc32c::crc32c(bytes);
    if found != expected {
        return Err(FormatError::Checksum { part, expected, found });
    }
    Ok(())
}

fn check_max(what: &'static str, found: usize, max: usize) -> Result<(), FormatError> {
    if found > max {
        return Err(FormatError::TooLarge { what, found: found as u64, max: max as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            identity: Identity { dev: 0xfe00, ino: 42, birth_ns: 1_700_000_000_123_456_789 },
            fingerprint: Fingerprint { len: 1024, crc: 0xdead_beef },
            offset: 987_654_321,
            stamp_ns: 1_700_000_001_000_000_000,
            skipping: true,
            path: PathBuf::from("/var/log/app.log"),
        }
    }

    fn frame() -> Vec<u8> {
        frame_of(FormatVersion::NEWEST)
    }

    fn frame_of(writes: FormatVersion) -> Vec<u8> {
        let mut meta = b"tenant-1".to_vec();
        cursor().encode(&mut meta);
        let body = b"not really snappy";
        let header = FrameHeader {
            salt: 0x0123_4567_89ab_cdef,
            seq: Seq(7),
            durable: Seq(5),
            acked: Seq(3),
            stream: 9,
            oldest_arrival_ns: 1_700_000_000_000_000_000,
            oldest_stamp_ns: 1_690_000_000_000_000_000,
            meta_len: as_u32(meta.len()),
            body_len: as_u32(body.len()),
            raw_len: 99,
            entries: 2,
            meta_crc: crc32c::crc32c(&meta),
            body_crc: crc32c::crc32c(body),
            tag_len: 8,
        };
        let mut out = vec![0; header.frame_bytes()];
        header.encode(&mut out, writes);
        out[FRAME_HEADER_BYTES..][..meta.len()].copy_from_slice(&meta);
        out[header.body_range()].copy_from_slice(body);
        out
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            owner: 2,
            generation: 11,
            durable: Seq(7),
            acked: vec![
                SinkAcked { sink: "loki".into(), tag: None, acked: Seq(6) },
                SinkAcked { sink: "loki".into(), tag: Some("team-a".into()), acked: Seq(4) },
                SinkAcked { sink: "loki".into(), tag: Some(String::new()), acked: Seq(5) },
            ],
            cursors: vec![cursor()],
        }
    }

    /// The first bytes in full and the checksum of the rest: a change of layout fails here, and
    /// needs a new FORMAT_VERSION.
    #[test]
    fn golden() {
        let mut block = vec![0; BLOCK_BYTES];
        SegmentHeader {
            owner: 3,
            salt: 0x1122_3344_5566_7788,
            first_seq: Seq(42),
            previous_crc: 5,
        }
        .encode(&mut block, FormatVersion::NEWEST);
        assert_eq!(
            hex(&block[..SH_END]),
            "4c43415057414c0a020001000300000088776655443322112a0000000000000005000000"
        );
        let frame = frame();
        assert_eq!(hex(&frame[..24]), "4c43415046524d0aefcdab89674523010700000000000000");
        assert_eq!(frame.len(), BLOCK_BYTES);
        assert_eq!(crc32c::crc32c(&frame), GOLDEN_FRAME_CRC, "the frame layout changed");
        // A header ends in its own checksum, behind which that of the whole is always the same.
        let heads = [&frame[..FH_CRC], &checkpoint().encode(FormatVersion::NEWEST)[..CH_CRC]]
            .map(crc32c::crc32c);
        assert_eq!(heads, GOLDEN_HEADER_CRCS, "the layout of a header changed");
        assert_eq!(
            crc32c::crc32c(&checkpoint().encode(FormatVersion::NEWEST)),
            GOLDEN_CHECKPOINT_CRC,
            "the checkpoint layout changed"
        );
        assert_eq!(segment_name(Seq(1)), "00000000000000000001.wal");
    }

    #[test]
    fn who_knows_no_tags_is_not_to_read_past_them() {
        let reader_min = |checkpoint: &Checkpoint| {
            Checkpoint::versions(&checkpoint.encode(FormatVersion::NEWEST)).unwrap().reader_min
        };
        let mut checkpoint = checkpoint();
        assert_eq!(reader_min(&checkpoint), 2);
        checkpoint.acked.retain(|of| of.tag.is_none());
        assert_eq!(reader_min(&checkpoint), 1);
    }

    /// As version 1 wrote them, with its golden checksums.
    #[test]
    fn version_1_is_written_as_it_was() {
        let mut block = vec![0; BLOCK_BYTES];
        SegmentHeader {
            owner: 3,
            salt: 0x1122_3344_5566_7788,
            first_seq: Seq(42),
            previous_crc: 5,
        }
        .encode(&mut block, FormatVersion::V1);
        assert_eq!(
            hex(&block[..SH_END]),
            "4c43415057414c0a010001000300000088776655443322112a0000000000000005000000"
        );
        let frame = frame_of(FormatVersion::V1);
        assert_eq!(frame[..FH_STAMP], frame_of(FormatVersion::NEWEST)[..FH_STAMP]);
        assert!(frame[FH_TAG_LEN + 2..FH_CRC].iter().all(|byte| *byte == 0));
        let header = FrameHeader::decode(&frame).unwrap();
        assert_eq!(header.oldest_stamp_ns, header.oldest_arrival_ns, "it is not known");

        let mut of_a_sink = checkpoint();
        of_a_sink.acked.truncate(1);
        let encoded = of_a_sink.encode(FormatVersion::V1);
        assert_eq!(crc32c::crc32c(&encoded), GOLDEN_CHECKPOINT_CRC_V1);
        assert_eq!(Checkpoint::decode(&encoded).unwrap(), of_a_sink);
    }

    #[test]
    fn version_1_has_no_tags_and_the_least_position_is_the_sinks() {
        let mut checkpoint = checkpoint();
        checkpoint.acked.push(SinkAcked { sink: "other".into(), tag: None, acked: Seq(7) });
        let encoded = checkpoint.encode(FormatVersion::V1);
        let versions = Checkpoint::versions(&encoded).unwrap();
        assert_eq!(versions, Versions { written: 1, reader_min: 1 });
        let of = |sink: &str, acked| SinkAcked { sink: sink.into(), tag: None, acked };
        let acked = vec![of("loki", Seq(4)), of("other", Seq(7))];
        assert_eq!(Checkpoint::decode(&encoded).unwrap(), Checkpoint { acked, ..checkpoint });
    }

    const GOLDEN_CHECKPOINT_CRC_V1: u32 = 1_674_729_051;
    const GOLDEN_HEADER_CRCS: [u32; 2] = [333_640_708, 1_947_908_730];
    const GOLDEN_FRAME_CRC: u32 = 3_923_261_661;
    const GOLDEN_CHECKPOINT_CRC: u32 = 12_415_122;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let bytes = frame();
        let view = FrameView::decode(&bytes).unwrap();
        assert_eq!(view.header.seq, Seq(7));
        assert_eq!(view.tag, b"tenant-1");
        assert_eq!(view.body, b"not really snappy");
        assert_eq!(view.cursors().unwrap(), [cursor()]);
        assert_eq!(
            Checkpoint::decode(&checkpoint().encode(FormatVersion::NEWEST)).unwrap(),
            checkpoint()
        );
        assert_eq!(parse_segment_name(&segment_name(Seq(99))), Some(Seq(99)));
        assert_eq!(parse_segment_name("99.wal"), None);
        assert_eq!(parse_segment_name(&segment_name(Seq::NONE)), None, "the first frame is 1");
        assert_eq!(parse_segment_name("0000000000000000000x.wal"), None);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let good = frame();
        let end = FrameHeader::decode(&good).unwrap().body_range().end;
        for at in 0..end * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(FrameView::decode(&bad).is_err(), "bit {at} of a frame");
        }
        let good = checkpoint().encode(FormatVersion::NEWEST);
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(Checkpoint::decode(&bad).is_err(), "bit {at} of a checkpoint");
        }
    }

    #[test]
    fn a_cut_anywhere_is_noticed() {
        let frame = frame();
        let end = FrameHeader::decode(&frame).unwrap().body_range().end;
        for len in 0..end {
            assert!(FrameView::decode(&frame[..len]).is_err(), "a frame of {len} bytes");
        }
        let checkpoint = checkpoint().encode(FormatVersion::NEWEST);
        for len in 0..checkpoint.len() {
            assert!(Checkpoint::decode(&checkpoint[..len]).is_err(), "a slot of {len} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_the_way_out() {
        let mut block = vec![0; BLOCK_BYTES];
        SegmentHeader { owner: 0, salt: 1, first_seq: Seq(1), previous_crc: 0 }
            .encode(&mut block, FormatVersion::NEWEST);
        Versions { written: 9, reader_min: 9 }.put(&mut block, SH_VERSIONS);
        let crc = crc32c::crc32c(&block[..SH_CRC]);
        put_u32(&mut block, SH_CRC, crc);
        let error = SegmentHeader::decode(&block).unwrap_err().to_string();
        assert!(error.contains("needs a reader of version 9"), "{error}");
        assert!(error.contains("start the newer program again"), "{error}");
    }
}
