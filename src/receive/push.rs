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

/// An entry as it came.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub bytes: &'a [u8],
    /// As a whole push.
    pub plain: bool,
}

#[derive(Debug)]
pub struct Stream<'a> {
    pub labels: &'a str,
    pub pairs: Vec<Pair<'a>>,
    pub entries: usize,
    pub line_bytes: usize,
    /// Of its entries.
    pub oldest_ns: i64,
    pub newest_ns: i64,
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

    /// Reads what came through a door before.
    pub fn read_stored(raw: &'a [u8]) -> Result<Push<'a>, BadPush> {
        Push::read(raw, Size { streams_max: usize::MAX, entries_max: usize::MAX }, &Door::OPEN)
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
        self.plain &= labels::is_plain(labels, &pairs);
        let mut stream = Stream {
            labels,
            pairs,
            entries: 0,
            line_bytes: 0,
            oldest_ns: i64::MAX,
            newest_ns: i64::MIN,
            passes: true,
            message,
        };
        for field in Fields::of(message) {
            match field? {
                (FIELD_ENTRIES, Value::Bytes(entry)) => {
                    stream.entries += 1;
                    if stream.entries > entries_max {
                        let what = "too many lines in one request";
                        return Err(BadPush::TooMany { what, found: 0, max: 0 });
                    }
                    let measure = measure(entry, &mut self.plain)?;
                    stream.line_bytes += measure.line_bytes;
                    stream.oldest_ns = stream.oldest_ns.min(measure.stamp_ns);
                    stream.newest_ns = stream.newest_ns.max(measure.stamp_ns);
                    stream.passes &= door.entry(labels, &measure).is_ok();
                }
                (FIELD_ENTRIES, _) => return Err(BadPush::Expected("an entry")),
                (FIELD_LABELS, _) | (FIELD_HASH, Value::Number(_)) => {}
                (FIELD_HASH, _) => return Err(BadPush::Expected("the hash of a stream")),
                _ => self.plain = false,
            }
        }
        self.entries += stream.entries;
        self.line_bytes += stream.line_bytes;
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
    pub fn encoded(&self) -> impl Iterator<Item = (Entry<'a>, Measure)> + use<'a> {
        Fields::of(self.message).filter_map(|field| match field {
            Ok((FIELD_ENTRIES, Value::Bytes(bytes))) => {
                let mut plain = true;
                let measure = measure(bytes, &mut plain).expect("it was read before");
                Some((Entry { bytes, plain }, measure))
            }
            _ => None,
        })
    }
}

impl<'a> Entry<'a> {
    /// Of several, the last counts.
    #[must_use]
    pub fn line(&self) -> &'a [u8] {
        let lines = Fields::of(self.bytes).filter_map(|field| match field {
            Ok((FIELD_LINE, Value::Bytes(line))) => Some(line),
            _ => None,
        });
        lines.last().unwrap_or_default()
    }

    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        Fields::of(self.bytes).filter_map(|field| match field {
            Ok((FIELD_METADATA, Value::Bytes(message))) => {
                Some(pair(message, &mut true).expect("it was read before"))
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
            (FIELD_METADATA, Value::Bytes(message)) => {
                let (name, value) = pair(message, plain)?;
                measure.metadata_pairs += 1;
                measure.metadata_bytes += name.len() + value.len();
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

/// A name and a value; of several, the last count.
fn pair<'a>(message: &'a [u8], plain: &mut bool) -> Result<(&'a str, &'a str), BadPush> {
    let (mut name, mut value) = (None, None);
    for field in Fields::of(message) {
        let (found, text) = match field? {
            (1, Value::Bytes(text)) => (&mut name, text),
            (2, Value::Bytes(text)) => (&mut value, text),
            (1 | 2, _) => return Err(BadPush::Expected("structured metadata of texts")),
            _ => {
                *plain = false;
                continue;
            }
        };
        let text = std::str::from_utf8(text);
        let text = text.map_err(|_| BadPush::Expected("UTF-8 in structured metadata"))?;
        *plain &= found.replace(text).is_none();
    }
    let name = name.filter(|name| !name.is_empty()).ok_or(BadPush::MetadataName)?;
    Ok((name, value.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::put_varint;
    use crate::receive::admit;
    use std::time::Duration;

    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number << 3 | 2);
        put_varint(&mut out, bytes.len() as u64);
        [out, bytes.to_vec()].concat()
    }

    /// A push of one stream with one entry, with more behind the labels and behind the entry's line.
    fn push(labels: &str, in_stream: &[u8], in_entry: &[u8]) -> Vec<u8> {
        let stamp = field(FIELD_TIMESTAMP, &[0x08, 7, 0x10, 9]);
        let entry = [stamp, field(FIELD_LINE, b"line"), in_entry.to_vec()].concat();
        let labels = field(FIELD_LABELS, labels.as_bytes());
        let stream = [labels, in_stream.to_vec(), field(FIELD_ENTRIES, &entry)].concat();
        field(FIELD_STREAMS, &stream)
    }

    /// Whether it is plain, and the line and the metadata of its entry.
    type Found<'a> = (bool, &'a [u8], Vec<(&'a str, &'a str)>);

    fn read(raw: &[u8]) -> Result<Found<'_>, BadPush> {
        let limits = admit::Limits {
            line_bytes_max: 100,
            label_names_max: 9,
            label_name_bytes_max: 100,
            label_value_bytes_max: 100,
            metadata_bytes_max: 100,
            metadata_pairs_max: 9,
            age_max: Duration::MAX,
            future_max: Duration::MAX,
        };
        let size = Size { streams_max: 9, entries_max: 9 };
        let push = Push::read(raw, size, &Door::new(&limits, 0))?;
        let (entry, measure) = push.streams[0].encoded().next().unwrap();
        let metadata: Vec<_> = entry.metadata().collect();
        let bytes = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert_eq!((measure.stamp_ns, measure.line_bytes), (7_000_000_009, entry.line().len()));
        assert_eq!((measure.metadata_pairs, measure.metadata_bytes), (metadata.len(), bytes));
        Ok((push.plain, entry.line(), metadata))
    }

    #[test]
    fn what_another_reader_would_read_otherwise_is_not_plain() {
        let pair = |bytes: &[u8]| field(FIELD_METADATA, bytes);
        let named = [field(1, b"a"), field(2, b"b")].concat();
        let labels = "{a=\"1\"}";
        for (raw, plain, line, metadata) in [
            (push(labels, &[0x18, 5], &pair(&named)), true, "line", vec![("a", "b")]),
            (push(labels, &field(9, b""), b""), false, "line", vec![]),
            (push(labels, b"", &field(4, b"")), false, "line", vec![]),
            (push(labels, b"", &[0x20, 1]), false, "line", vec![]),
            (push(labels, b"", &field(2, b"2")), false, "2", vec![]),
            (
                push(labels, b"", &pair(&[&named[..], &[0x18, 1]].concat())),
                false,
                "line",
                vec![("a", "b")],
            ),
            (
                push(labels, b"", &pair(&[&named[..], b"\x0a\x01c"].concat())),
                false,
                "line",
                vec![("c", "b")],
            ),
            (push("{a=\"1\", b=\"\"}", b"", b""), false, "line", vec![]),
            (push("{a=\"\u{fffd}\"}", b"", b""), false, "line", vec![]),
        ] {
            assert_eq!(read(&raw), Ok((plain, line.as_bytes(), metadata)), "{raw:?}");
        }
    }

    #[test]
    fn what_another_reader_would_refuse_is_refused() {
        let labels = "{a=\"1\"}";
        for raw in [
            push(labels, &field(FIELD_HASH, b"5"), b""),
            push(labels, b"", &field(FIELD_METADATA, &[0x08, 1])),
            push(labels, b"", &field(FIELD_METADATA, &field(1, b"\xff"))),
            push(labels, b"", &field(FIELD_METADATA, &field(1, b""))),
            push("{\u{c}a=\"1\"}", b"", b""),
        ] {
            assert!(read(&raw).is_err(), "{raw:?}");
        }
        // Cut to 32 bits it would be the line's.
        let far = field(1 << 32 | FIELD_LINE, b"x");
        let number = WireError::FieldNumber(1 << 32 | FIELD_LINE);
        assert_eq!(read(&push(labels, b"", &far)), Err(BadPush::Wire(number)));
    }
}
