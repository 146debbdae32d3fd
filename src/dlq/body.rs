//! What a frame of the queue's log holds: records, or which frames are done with.
//!
//! The body is the length of its content (four bytes, little-endian) and one LZ4 block. The tag
//! says what the content is: `records`, lines of JSON; `records 17`, likewise, and frame 17 is done
//! with, since these are what is left of it; `settled`, a JSON array of the frames that are done
//! with.

use super::record::Record;
use io::format::{BODY_BYTES_MAX, Seq};
use io::wal::Sealed;

/// What a body may hold before compression; a frame of several records holds much less.
pub const RAW_BYTES_MAX: usize = 32 << 20;
/// LZ4 makes no more of a byte.
const RATIO_MAX: usize = 255;
const LENGTH_BYTES: usize = 4;
/// Sequence numbers of one settled-frame.
pub const SETTLED_MAX: usize = 100_000;

const RECORDS: &str = "records";
const SETTLED: &str = "settled";

/// What a frame is, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Records { replaces: Option<Seq> },
    Settled,
}

/// Why a whole frame means nothing to this program. Its bytes are as they were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error(
        "expected records or settled frames, found a frame of kind {0:?}; was it written by a later \
         version?"
    )]
    Kind(String),
    #[error("says that it holds {found} bytes, the limit is {max}")]
    TooLarge { found: usize, max: usize },
    #[error("cannot be decompressed: {0}")]
    Compression(String),
    #[error("line {line}: {error}")]
    Json { line: usize, error: String },
}

impl Kind {
    pub fn of(tag: &[u8]) -> Result<Kind, BodyError> {
        let text = String::from_utf8_lossy(tag);
        let (kind, replaces) = match text.split_once(' ') {
            Some((kind, number)) => (kind, number.parse().ok().map(Seq)),
            None => (&*text, None),
        };
        match kind {
            RECORDS if replaces.is_some() || !text.contains(' ') => Ok(Kind::Records { replaces }),
            SETTLED if *text == *SETTLED => Ok(Kind::Settled),
            _ => Err(BodyError::Kind(text.chars().take(64).collect())),
        }
    }

    #[must_use]
    pub fn tag(self) -> Vec<u8> {
        match self {
            Kind::Records { replaces: None } => RECORDS.into(),
            Kind::Records { replaces: Some(seq) } => format!("{RECORDS} {seq}").into_bytes(),
            Kind::Settled => SETTLED.into(),
        }
    }
}

/// Makes a frame. `None` where it is larger than a frame can be.
#[must_use]
pub fn seal(kind: Kind, raw: &[u8], entries: u32, oldest_arrival_ns: i64) -> Option<Sealed> {
    if raw.len() > RAW_BYTES_MAX {
        return None;
    }
    let body = lz4_flex::block::compress_prepend_size(raw);
    let meta = kind.tag();
    (body.len() <= BODY_BYTES_MAX).then(|| Sealed {
        tag_len: u16::try_from(meta.len()).expect("a tag is short"),
        meta,
        body,
        raw_len: u32::try_from(raw.len()).expect("limited"),
        entries,
        stream: 0,
        oldest_arrival_ns,
        oldest_stamp_ns: oldest_arrival_ns,
    })
}

#[must_use]
pub fn seal_settled(seqs: &[Seq]) -> Sealed {
    assert!(seqs.len() <= SETTLED_MAX);
    let numbers: Vec<u64> = seqs.iter().map(|seq| seq.0).collect();
    let raw = serde_json::to_vec(&numbers).expect("numbers are JSON");
    seal(Kind::Settled, &raw, 0, 0).expect("as many fit")
}

pub fn records(body: &[u8]) -> Result<Vec<Record>, BodyError> {
    let raw = decompress(body)?;
    let lines = raw.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate();
    lines.map(|(at, line)| json(at + 1, line)).collect()
}

pub fn settled(body: &[u8]) -> Result<Vec<Seq>, BodyError> {
    let numbers: Vec<u64> = json(1, &decompress(body)?)?;
    Ok(numbers.into_iter().map(Seq).collect())
}

fn json<'a, T: serde::Deserialize<'a>>(line: usize, text: &'a [u8]) -> Result<T, BodyError> {
    let error = |error: serde_json::Error| BodyError::Json { line, error: error.to_string() };
    serde_json::from_slice(text).map_err(error)
}

/// Nothing is allocated before what the body says of itself was found possible.
fn decompress(body: &[u8]) -> Result<Vec<u8>, BodyError> {
    let Some((length, block)) = body.split_at_checked(LENGTH_BYTES) else {
        return Err(BodyError::Compression("it is empty".into()));
    };
    let found = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    let max = RAW_BYTES_MAX.min(block.len().saturating_mul(RATIO_MAX));
    if found > max {
        return Err(BodyError::TooLarge { found, max });
    }
    let raw = lz4_flex::block::decompress(block, found)
        .map_err(|error| BodyError::Compression(error.to_string()))?;
    if raw.len() != found {
        let text = format!("{found} bytes were expected, there are {}", raw.len());
        return Err(BodyError::Compression(text));
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_settled_frames_come_back() {
        let of = [Record::for_tests("a"), Record::for_tests("b\n")];
        let mut raw = Vec::new();
        of.iter().for_each(|record| record.write_line(&mut raw));
        let kind = Kind::Records { replaces: Some(Seq(u64::MAX)) };
        let sealed = seal(kind, &raw, 2, 5).unwrap();
        assert_eq!(Kind::of(&sealed.meta), Ok(kind));
        assert_eq!(records(&sealed.body).unwrap(), of);
        let seqs: Vec<Seq> = (0..SETTLED_MAX as u64).map(|n| Seq(u64::MAX - n)).collect();
        let sealed = seal_settled(&seqs);
        assert_eq!(Kind::of(&sealed.meta), Ok(Kind::Settled));
        assert_eq!(settled(&sealed.body).unwrap(), seqs);
    }

    #[test]
    fn whatever_stands_in_a_body_is_an_error_at_most() {
        for tag in ["", "record", "records ", "records x", "records 1 2", "settled 1", "\u{fffd}"] {
            assert!(Kind::of(tag.as_bytes()).is_err(), "{tag}");
        }
        let bomb = [&u32::MAX.to_le_bytes()[..], &[0xff; 1000]].concat();
        assert!(matches!(records(&bomb), Err(BodyError::TooLarge { .. })));
        let mut raw = Vec::new();
        Record::for_tests("some text of some length").write_line(&mut raw);
        let good = seal(Kind::Settled, &raw.repeat(3), 3, 0).unwrap().body;
        for len in 0..good.len() {
            let _ = records(&good[..len]);
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = records(&bad);
            let _ = settled(&bad);
        }
        let text = lz4_flex::block::compress_prepend_size(b"{}\n");
        assert!(matches!(records(&text), Err(BodyError::Json { line: 1, .. })));
    }
}
