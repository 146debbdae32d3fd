//! Loki's push format in protobuf, read where it stands.

use super::admit::{Door, Measure};
use super::wire::{Fields, Value, WireError};
use crate::labels::{self, LabelsError, Pair};

/// Why a push as a whole is refused; nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPush {
    #[error("the body is no push request: {0}")]
    Wire(#[from] WireError),
    #[error("the body is no push request: {0} expected")]
    Expected(&'static str),
    #[error("couldn't parse labels: {source} of {labels:?}")]
    Labels { labels: String, source: LabelsError },
    #[error(
        "couldn't parse labels: {0:?} is no label name: letters, digits and _ only, no digit first"
    )]
    LabelName(String),
    /// Loki answers it as if it were overloaded, for ever.
    #[error("structured metadata without a name")]
    MetadataName,
    #[error("{what}: {found}, limit: {max}")]
    TooMany { what: &'static str, found: usize, max: usize },
}

/// What one request may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub streams_max: usize,
    pub entries_max: usize,
}

/// A push that was read to its end.
#[derive(Debug)]
pub struct Push<'a> {
    pub streams: Vec<Stream<'a>>,
    pub entries: usize,
    /// Of the lines.
    pub line_bytes: usize,
    /// Nothing in it but what is known, and each once: another reader finds the same.
    pub plain: bool,
}

#[derive(Debug)]
pub struct Stream<'a> {
    pub labels: &'a str,
    pub pairs: Vec<Pair<'a>>,
    pub entries: usize,
    /// Every entry passes the door.
    pub passes: bool,
    message: &'a [u8],
}

const FIELD_STREAMS: u64 = 1;
const FIELD_LABELS: u64 = 1;
const FIELD_ENTRIES: u64 = 2;
/// Loki computes it itself, whatever is sent.
const FIELD_HASH: u64 = 3;
const FIELD_TIMESTAMP: u64 = 1;
const FIELD_LINE: u64 = 2;
const FIELD_METADATA: u64 = 3;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// What of labels that cannot be read is repeated.
const LABELS_SHOWN_BYTES_MAX: usize = 1000;

impl<'a> Push<'a> {
    /// Reads a push whole, and finds out whether all of it passes `door`.
    pub fn read(raw: &'a [u8], size: Size, door: &Door<'_>) -> Result<Push<'a>, BadPush> {
        let mut push = Push { streams: Vec::new(), entries: 0, line_bytes: 0, plain: true };
        for field in Fields::of(raw) {
            match field? {
                (FIELD_STREAMS, Value::Bytes(message)) => {
                    let found = push.streams.len() + 1;
                    if found > size.streams_max {
                        let what = "too many streams in one request";
                        return Err(BadPush::TooMany { what, found, max: size.streams_max });
                    }
                    let left = size.entries_max - push.entries;
                    let stream = push.stream(message, left, door).map_err(|bad| match bad {
                        BadPush::TooMany { what, .. } => {
                            let max = size.entries_max;
                            BadPush::TooMany { what, found: max + 1, max }
                        }
                        other => other,
                    })?;
                    push.streams.push(stream);
                }
                (FIELD_STREAMS, _) => return Err(BadPush::Expected("a stream")),
                _ => push.plain = false,
            }
        }
        Ok(push)
    }

    fn stream(
        &mut self,
        message: &'a [u8],
        entries_max: usize,
        door: &Door<'_>,
    ) -> Result<Stream<'a>, BadPush> {
        let labels = self.labels(message)?;
        let pairs = labels::parse(labels).map_err(|source| {
            let cut = labels.floor_char_boundary(LABELS_SHOWN_BYTES_MAX);
            BadPush::Labels { labels: labels[..cut].to_owned(), source }
        })?;
        let mut stream = Stream { labels, pairs, entries: 0, passes: true, message };
        for field in Fields::of(message) {
            match field? {
                (FIELD_ENTRIES, Value::Bytes(entry)) => {
                    stream.entries += 1;
                    if stream.entries > entries_max {
                        let what = "too many lines in one request";
                        return Err(BadPush::TooMany { what, found: 0, max: 0 });
                    }
                    let measure = measure(entry, &mut self.plain)?;
                    self.line_bytes += measure.line_bytes;
                    stream.passes &= door.entry(labels, &measure).is_ok();
                }
                (FIELD_ENTRIES, _) => return Err(BadPush::Expected("an entry")),
                (FIELD_LABELS | FIELD_HASH, _) => {}
                _ => self.plain = false,
            }
        }
        self.entries += stream.entries;
        Ok(stream)
    }

    /// The labels, which stand first wherever somebody wrote them with care; of many, the last count.
    fn labels(&mut self, message: &'a [u8]) -> Result<&'a str, BadPush> {
        let mut found = None;
        for field in Fields::of(message) {
            match field? {
                (FIELD_LABELS, Value::Bytes(labels)) => {
                    self.plain &= found.is_none();
                    found = Some(labels);
                }
                (FIELD_LABELS, _) => return Err(BadPush::Expected("the labels of a stream")),
                _ => {}
            }
        }
        std::str::from_utf8(found.unwrap_or_default())
            .map_err(|_| BadPush::Expected("UTF-8 in the labels of a stream"))
    }
}

impl<'a> Stream<'a> {
    /// Each entry in its encoded form; only of a stream that was read.
    pub fn encoded(&self) -> impl Iterator<Item = (&'a [u8], Measure)> + use<'a> {
        Fields::of(self.message).filter_map(|field| match field {
            Ok((FIELD_ENTRIES, Value::Bytes(entry))) => {
                Some((entry, measure(entry, &mut true).expect("it was read before")))
            }
            _ => None,
        })
    }
}

#[inline]
fn measure(entry: &[u8], plain: &mut bool) -> Result<Measure, BadPush> {
    let mut measure = Measure::default();
    let (mut stamps, mut lines) = (0, 0);
    for field in Fields::of(entry) {
        match field? {
            (FIELD_TIMESTAMP, Value::Bytes(message)) => {
                stamps += 1;
                measure.stamp_ns = stamp(message, plain)?;
            }
            (FIELD_LINE, Value::Bytes(line)) => {
                lines += 1;
                measure.line_bytes = line.len();
            }
            (FIELD_METADATA, Value::Bytes(pair)) => {
                measure.metadata_pairs += 1;
                measure.metadata_bytes += metadata_bytes(pair)?;
            }
            (FIELD_TIMESTAMP | FIELD_LINE | FIELD_METADATA, _) => {
                return Err(BadPush::Expected("an entry of a timestamp, a line and metadata"));
            }
            _ => *plain = false,
        }
    }
    *plain &= stamps == 1 && lines <= 1;
    Ok(measure)
}

#[inline]
fn stamp(message: &[u8], plain: &mut bool) -> Result<i64, BadPush> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for field in Fields::of(message) {
        match field? {
            // Signed numbers stand in protobuf as their two's complement.
            (1, Value::Number(number)) => seconds = number.cast_signed(),
            (2, Value::Number(number)) => nanos = number.cast_signed(),
            (1 | 2, _) => return Err(BadPush::Expected("a timestamp")),
            _ => *plain = false,
        }
    }
    if !(0..NANOS_PER_SECOND).contains(&nanos) {
        return Err(BadPush::Expected("a timestamp of less than 1e9 nanoseconds"));
    }
    let ns = seconds.checked_mul(NANOS_PER_SECOND).and_then(|ns| ns.checked_add(nanos));
    ns.ok_or(BadPush::Expected("a timestamp between the years 1677 and 2262"))
}

fn metadata_bytes(pair: &[u8]) -> Result<usize, BadPush> {
    let (mut name_bytes, mut value_bytes) = (0, 0);
    for field in Fields::of(pair) {
        if let (part @ (1 | 2), Value::Bytes(text)) = field? {
            let text = std::str::from_utf8(text);
            let bytes = text.map_err(|_| BadPush::Expected("UTF-8 in structured metadata"))?.len();
            *if part == 1 { &mut name_bytes } else { &mut value_bytes } = bytes;
        }
    }
    if name_bytes == 0 {
        return Err(BadPush::MetadataName);
    }
    Ok(name_bytes + value_bytes)
}
