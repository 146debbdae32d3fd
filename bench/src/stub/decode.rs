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
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub timestamp_ns: i64,
    pub line: &'a [u8],
}

impl<'a> Stream<'a> {
    /// The entries in the order they were sent.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> {
        let mut fields = Fields { rest: self.body };
        std::iter::from_fn(move || {
            loop {
                match fields.next().ok()?? {
                    (2, Value::Bytes(entry)) => return read_entry(entry).ok(),
                    _ => continue,
                }
            }
        })
    }
}

/// The elements of `streams` of a whole decoded body.
pub fn read_push(body: &[u8]) -> Result<Vec<Stream<'_>>, Malformed> {
    let mut streams = Vec::new();
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            streams.push(read_stream(value.bytes("Streams")?)?);
        }
    }
    Ok(streams)
}

fn read_stream(body: &[u8]) -> Result<Stream<'_>, Malformed> {
    let mut stream = Stream { labels: b"", entries: 0, line_bytes: 0, body };
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => stream.labels = value.bytes("Labels")?,
            2 => {
                let entry = read_entry(value.bytes("Entries")?)?;
                stream.entries += 1;
                stream.line_bytes += entry.line.len() as u64;
            }
            _ => {}
        }
    }
    Ok(stream)
}

#[inline]
fn read_entry(body: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut entry = Entry { timestamp_ns: 0, line: b"" };
    let mut fields = Fields { rest: body };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => entry.timestamp_ns = read_timestamp(value.bytes("Timestamp")?)?,
            2 => entry.line = value.bytes("Line")?,
            _ => {}
        }
    }
    Ok(entry)
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
    use crate::stub::encode::{entry, push, stream};

    #[test]
    fn a_push_is_read_back() {
        let body = push(&[
            stream("{a=\"b\"}", &[entry(1_700_000_000_000_000_001, b"one"), entry(2, b"")]),
            stream("{a=\"c\"}", &[]),
        ]);
        let streams = read_push(&body).unwrap();
        assert_eq!(streams.len(), 2);
        assert_eq!(streams[0].labels, b"{a=\"b\"}");
        assert_eq!((streams[0].entries, streams[0].line_bytes), (2, 3));
        let entries: Vec<_> = streams[0].entries().collect();
        assert_eq!(
            entries,
            [
                Entry { timestamp_ns: 1_700_000_000_000_000_001, line: b"one" },
                Entry { timestamp_ns: 2, line: b"" }
            ]
        );
    }

    #[test]
    fn padded_lengths_and_unknown_fields_are_valid() {
        let inner = stream("{a=\"b\"}", &[entry(7, b"x")]);
        let mut body = vec![0x0a];
        let len = u8::try_from(inner.len()).unwrap();
        body.extend([len | 0x80, 0x80, 0x80, 0x00]);
        body.extend(&inner);
        body.extend([0x50, 0x01]); // field 10, a varint
        body.extend([0x5d, 1, 2, 3, 4]); // field 11, four bytes
        let streams = read_push(&body).unwrap();
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].entries, 1);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_push() {
        let body = push(&[stream("{a=\"b\"}", &[entry(7, b"hello")])]);
        for len in 1..body.len() {
            assert_eq!(read_push(&body[..len]).unwrap_err(), Malformed::Short, "{len} bytes");
        }
        assert!(read_push(b"").unwrap().is_empty());
    }

    #[test]
    fn wrong_types_are_errors() {
        assert_eq!(
            read_push(&[0x08, 1]).unwrap_err(),
            Malformed::WireType { field: "Streams", wire_type: 0 }
        );
        assert_eq!(read_push(&[0x0b]).unwrap_err(), Malformed::IllegalWireType(3));
        assert_eq!(read_push(&[0x00]).unwrap_err(), Malformed::IllegalTag);
        assert_eq!(read_push(&[0x80; 11]).unwrap_err(), Malformed::Overflow);
    }
}
