//! Reads a push body: logproto protobuf, borrowed, without a copy of any line.
//!
//! Valid protobuf is all that is asked for: fields in any order, unknown fields skipped, one stream
//! in several elements, lengths padded with leading zero groups.

/// What Go's protobuf would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("unexpected EOF")]
    Short,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: wrong wireType = {wire_type} for field {field}")]
    WireType { field: &'static str, wire_type: u8 },
    #[error("proto: illegal wireType {0}")]
    IllegalWireType(u8),
    #[error("proto: illegal tag 0")]
    IllegalTag,
    #[error("timestamp: out of range")]
    Timestamp,
}

/// One element of `streams`, checked to its last byte.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    pub labels: &'a [u8],
    pub entries: u64,
    pub line_bytes: u64,
    /// Some of its metadata has no name.
    pub unnamed: bool,
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub timestamp_ns: i64,
    pub line: &'a [u8],
    pub metadata_pairs: usize,
    /// Names and values.
    pub metadata_bytes: usize,
    /// Some of it has no name.
    pub unnamed: bool,
}

impl<'a> Stream<'a> {
    /// The entries in the order they were sent, each with its structured metadata.
    pub fn entries(&self) -> impl Iterator<Item = (Entry<'a>, Metadata<'a>)> {
        let mut fields = Fields { rest: self.body };
        std::iter::from_fn(move || {
            loop {
                match fields.next().ok()?? {
                    (2, Value::Bytes(entry)) => {
                        return read_entry(entry).ok().map(|read| (read, Metadata(entry)));
                    }
                    _ => continue,
                }
            }
        })
    }
}

/// The structured metadata of an entry that was read.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a>(&'a [u8]);

impl Metadata<'_> {
    /// Names and values, in the order they were sent.
    #[must_use]
    pub fn pairs(self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut fields = Fields { rest: self.0 };
        while let Ok(Some((number, value))) = fields.next() {
            if let (3, Value::Bytes(pair)) = (number, value) {
                pairs.push((text_of(pair, 1), text_of(pair, 2)));
            }
        }
        pairs
    }
}

/// A field of a pair; of many, the last counts.
fn text_of(pair: &[u8], wanted: u64) -> String {
    let mut text = String::new();
    let mut fields = Fields { rest: pair };
    while let Ok(Some((number, value))) = fields.next() {
        if let (true, Value::Bytes(bytes)) = (number == wanted, value) {
            text = String::from_utf8_lossy(bytes).into_owned();
        }
    }
    text
}

/// The elements of `streams` of a whole decoded body. `each_line` sees the lines on the way, of a
/// malformed body those before the fault.
pub fn read_push<'a>(
    body: &'a [u8],
    mut each_line: impl FnMut(&'a [u8]),
) -> Result<Vec<Stream<'a>>, Malformed> {
    let mut streams = Vec::new();
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            streams.push(read_stream(value.bytes("Streams")?, &mut each_line)?);
        }
    }
    Ok(streams)
}

fn read_stream<'a>(
    body: &'a [u8],
    each_line: &mut impl FnMut(&'a [u8]),
) -> Result<Stream<'a>, Malformed> {
    let mut stream = Stream { labels: b"", entries: 0, line_bytes: 0, unnamed: false, body };
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => stream.labels = value.bytes("Labels")?,
            2 => {
                let entry = read_entry(value.bytes("Entries")?)?;
                stream.entries += 1;
                stream.line_bytes += entry.line.len() as u64;
                stream.unnamed |= entry.unnamed;
                each_line(entry.line);
            }
            _ => {}
        }
    }
    Ok(stream)
}

#[inline]
fn read_entry(body: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut entry =
        Entry { timestamp_ns: 0, line: b"", metadata_pairs: 0, metadata_bytes: 0, unnamed: false };
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => entry.timestamp_ns = read_timestamp(value.bytes("Timestamp")?)?,
            2 => entry.line = value.bytes("Line")?,
            3 => {
                entry.metadata_pairs += 1;
                let (name_bytes, value_bytes) = read_pair(value.bytes("StructuredMetadata")?)?;
                entry.metadata_bytes += name_bytes + value_bytes;
                entry.unnamed |= name_bytes == 0;
            }
            _ => {}
        }
    }
    Ok(entry)
}

/// The bytes of a name and its value.
fn read_pair(body: &[u8]) -> Result<(usize, usize), Malformed> {
    let (mut name_bytes, mut value_bytes) = (0, 0);
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name_bytes = value.bytes("LabelPair")?.len(),
            2 => value_bytes = value.bytes("LabelPair")?.len(),
            _ => {}
        }
    }
    Ok((name_bytes, value_bytes))
}

#[inline]
fn read_timestamp(body: &[u8]) -> Result<i64, Malformed> {
    let mut seconds = 0_i64;
    let mut nanos = 0_i64;
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.varint("Seconds")?.cast_signed(),
            2 => nanos = value.varint("Nanos")?.cast_signed(),
            _ => {}
        }
    }
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(Malformed::Timestamp);
    }
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(nanos))
        .ok_or(Malformed::Timestamp)
}

struct Fields<'a> {
    rest: &'a [u8],
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed { wire_type: u8 },
}

impl<'a> Value<'a> {
    #[inline]
    fn bytes(self, field: &'static str) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) => Err(Malformed::WireType { field, wire_type: 0 }),
            Value::Fixed { wire_type } => Err(Malformed::WireType { field, wire_type }),
        }
    }

    #[inline]
    fn varint(self, field: &'static str) -> Result<u64, Malformed> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Bytes(_) => Err(Malformed::WireType { field, wire_type: 2 }),
            Value::Fixed { wire_type } => Err(Malformed::WireType { field, wire_type }),
        }
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Malformed::IllegalTag);
        }
        let value = match (tag & 7) as u8 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Short)?;
                Value::Bytes(self.take(len)?)
            }
            wire_type @ 1 => {
                self.take(8)?;
                Value::Fixed { wire_type }
            }
            wire_type @ 5 => {
                self.take(4)?;
                Value::Fixed { wire_type }
            }
            other => return Err(Malformed::IllegalWireType(other)),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&first, rest)) = self.rest.split_first()
            && first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        self.varint_long()
    }

    fn varint_long(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Short)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::proto;

    fn read(body: &[u8]) -> Result<Vec<Stream<'_>>, Malformed> {
        read_push(body, |_| {})
    }

    fn stream(labels: &str, entries: &[(u64, &[u8])]) -> Vec<u8> {
        let (mut body, mut out) = (Vec::new(), Vec::new());
        entries.iter().for_each(|(stamp, line)| proto::entry(*stamp, line, &mut body));
        proto::stream(labels, &body, &mut out);
        out
    }

    fn entry(timestamp_ns: i64, line: &[u8]) -> Entry<'_> {
        Entry { timestamp_ns, line, metadata_pairs: 0, metadata_bytes: 0, unnamed: false }
    }

    #[test]
    fn a_push_is_read_back() {
        let body = [
            stream("{a=\"b\"}", &[(1_700_000_000_000_000_001, b"one"), (2, b"")]),
            stream("{a=\"c\"}", &[]),
        ]
        .concat();
        let mut lines = Vec::new();
        let streams = read_push(&body, |line| lines.push(line)).unwrap();
        assert_eq!(lines, [&b"one"[..], b""]);
        assert_eq!(streams.len(), 2);
        assert_eq!(streams[0].labels, b"{a=\"b\"}");
        assert_eq!((streams[0].entries, streams[0].line_bytes), (2, 3));
        let entries: Vec<_> = streams[0].entries().map(|(entry, _)| entry).collect();
        assert_eq!(entries, [entry(1_700_000_000_000_000_001, b"one"), entry(2, b"")]);
    }

    #[test]
    fn structured_metadata_is_counted_and_read() {
        // Timestamp 0.7, line x, metadata {ab: cde}.
        let inner = b"\x0a\x02\x10\x07\x12\x01x\x1a\x09\x0a\x02ab\x12\x03cde";
        let entries = [&[0x12, u8::try_from(inner.len()).unwrap()][..], inner].concat();
        let mut body = Vec::new();
        proto::stream("{}", &entries, &mut body);
        let streams = read(&body).unwrap();
        let (read, metadata) = streams[0].entries().next().unwrap();
        assert_eq!(read, Entry { metadata_pairs: 1, metadata_bytes: 5, ..entry(7, b"x") });
        assert_eq!(metadata.pairs(), [("ab".to_owned(), "cde".to_owned())]);
    }

    #[test]
    fn padded_lengths_and_unknown_fields_are_valid() {
        let whole = stream("{a=\"b\"}", &[(7, b"x")]);
        let inner = &whole[2..];
        let mut body = vec![0x0a];
        let len = u8::try_from(inner.len()).unwrap();
        body.extend([len | 0x80, 0x80, 0x80, 0x00]);
        body.extend(inner);
        body.extend([0x50, 0x01]); // field 10, a varint
        body.extend([0x5d, 1, 2, 3, 4]); // field 11, four bytes
        let streams = read(&body).unwrap();
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].entries, 1);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_push() {
        let body = stream("{a=\"b\"}", &[(7, b"hello")]);
        for len in 1..body.len() {
            assert_eq!(read(&body[..len]).unwrap_err(), Malformed::Short, "{len} bytes");
        }
        assert!(read(b"").unwrap().is_empty());
    }

    #[test]
    fn wrong_types_are_errors() {
        assert_eq!(
            read(&[0x08, 1]).unwrap_err(),
            Malformed::WireType { field: "Streams", wire_type: 0 }
        );
        assert_eq!(read(&[0x0b]).unwrap_err(), Malformed::IllegalWireType(3));
        assert_eq!(read(&[0x00]).unwrap_err(), Malformed::IllegalTag);
        assert_eq!(read(&[0x80; 11]).unwrap_err(), Malformed::Overflow);
    }
}
