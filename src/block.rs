//! Snappy blocks, the form in which lines are stored and sent: made once, joined at will.
//!
//! A block is the length of its content as a varint, then elements. Elements refer backwards, by
//! distance, to what they themselves produced: so blocks joined behind the sum of their lengths are a
//! block of the joined contents. And joined protobuf messages are one message whose repeated fields
//! are joined.

/// The compressed bytes of a `logproto.PushRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub body: Vec<u8>,
    /// The length of its content.
    pub raw_len: u32,
    pub entries: u32,
    /// Of its entries, or of when they came, whichever is older.
    pub oldest_stamp_ns: i64,
}

/// Joins bodies whose contents have `raw_bytes` in all.
#[must_use]
pub fn join<'a>(bodies: impl Iterator<Item = &'a [u8]> + Clone, raw_bytes: u64) -> Vec<u8> {
    let bytes: usize = bodies.clone().map(<[u8]>::len).sum();
    let mut joined = Vec::with_capacity(bytes + 10);
    let mut length = raw_bytes;
    while length >= 0x80 {
        joined.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    joined.push((length & 0x7f) as u8);
    for body in bodies {
        let preamble = body.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        joined.extend_from_slice(&body[preamble..]);
    }
    joined
}
