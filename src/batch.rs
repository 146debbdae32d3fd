//! Lines become a frame: protobuf entries appended in place, then one snappy block.
//!
//! The bytes are those of a `logproto.PushRequest`: its field 1 holds streams; a stream's field 1
//! its labels, field 2 its entries; an entry's field 1 the timestamp, field 2 the line, field 3 a pair
//! of its structured metadata. A chunk of lines of one stream becomes one element of `streams`; Loki
//! takes several of equal labels, one after the other.

use crate::block::Block;
use crate::stream::Stream;
use io::wal::Sealed;

const TAG_STREAMS: u8 = 0x0a;
const TAG_LABELS: u8 = 0x0a;
const TAG_ENTRIES: u8 = 0x12;
const TAG_TIMESTAMP: u8 = 0x0a;
const TAG_LINE: u8 = 0x12;
const TAG_SECONDS: u8 = 0x08;
const TAG_NANOS: u8 = 0x10;
const TAG_METADATA: u8 = 0x1a;
const TAG_NAME: u8 = 0x0a;
const TAG_VALUE: u8 = 0x12;

/// An element's length is known only at its end: four bytes are kept free for it, and it is
/// written as a varint of exactly four (protobuf allows leading zero groups).
const LENGTH_BYTES: usize = 4;
const ELEMENT_BYTES_MAX: usize = 1 << (7 * LENGTH_BYTES);

/// The largest head of an entry: two tags and lengths around a timestamp, and the line's.
const ENTRY_HEAD_BYTES_MAX: usize = 40;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Collects lines of any streams of one tenant until it is sealed.
pub struct Batch {
    raw: Vec<u8>,
    entries: u32,
    oldest_arrival_ns: i64,
    oldest_stamp_ns: i64,
    encoder: snap::raw::Encoder,
    compressed: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            raw: Vec::new(),
            entries: 0,
            oldest_arrival_ns: i64::MAX,
            oldest_stamp_ns: i64::MAX,
            encoder: snap::raw::Encoder::new(),
            compressed: Vec::new(),
        }
    }
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The size of the body so far, before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// When the oldest line of the batch arrived; `i64::MAX` where there is none.
    #[must_use]
    pub fn oldest_arrival_ns(&self) -> i64 {
        self.oldest_arrival_ns
    }

    /// Opens an element for lines of the stream with these labels that arrived at `now_ns`.
    pub fn element(&mut self, labels: &str, now_ns: i64) -> Element<'_> {
        let start = self.raw.len();
        self.raw.push(TAG_STREAMS);
        self.raw.extend_from_slice(&[0; LENGTH_BYTES]);
        self.raw.push(TAG_LABELS);
        put_varint(&mut self.raw, labels.len() as u64);
        self.raw.extend_from_slice(labels.as_bytes());
        Element { batch: self, start, now_ns, oldest_stamp_ns: i64::MAX, count: 0 }
    }

    /// Opens an element for lines of `stream` that are given their timestamps here.
    pub fn lines<'a>(&'a mut self, stream: &'a mut Stream, now_ns: i64) -> Lines<'a> {
        let first_ns = stream.next_ns(now_ns);
        let stamp = Stamp::new(first_ns);
        let element = self.element(&stream.labels, now_ns);
        Lines { element, stream, first_ns, stamp }
    }

    /// Compresses what was collected and starts afresh.
    pub fn compress(&mut self) -> Block {
        assert!(!self.is_empty(), "an empty batch makes no block");
        self.compressed.resize(snap::raw::max_compress_len(self.raw.len()), 0);
        let len = self
            .encoder
            .compress(&self.raw, &mut self.compressed)
            .expect("the output has room for the worst case");
        let block = Block {
            body: self.compressed[..len].to_vec(),
            raw_len: u32::try_from(self.raw.len()).expect("a batch is small"),
            entries: self.entries,
            oldest_stamp_ns: self.oldest_stamp_ns.min(self.oldest_arrival_ns),
        };
        self.raw.clear();
        self.entries = 0;
        self.oldest_arrival_ns = i64::MAX;
        self.oldest_stamp_ns = i64::MAX;
        block
    }

    /// Makes a frame of what was collected. `meta` is the tag (the tenant) followed by the cursors of
    /// the sources whose lines are in it; `stream` the key of the one stream, or 0.
    pub fn seal(&mut self, meta: Vec<u8>, tag_len: u16, stream: u64) -> Sealed {
        let oldest_arrival_ns = self.oldest_arrival_ns;
        let Block { body, raw_len, entries, oldest_stamp_ns } = self.compress();
        Sealed { meta, tag_len, body, raw_len, entries, stream, oldest_arrival_ns, oldest_stamp_ns }
    }
}

/// An open element of a batch; closed when it is dropped.
pub struct Element<'a> {
    batch: &'a mut Batch,
    start: usize,
    now_ns: i64,
    /// Of the entries that came with one.
    oldest_stamp_ns: i64,
    count: u32,
}

impl Element<'_> {
    /// Appends an entry with a timestamp of its own. `metadata` is its structured metadata, encoded by
    /// [`put_metadata`].
    pub fn push(&mut self, stamp_ns: i64, line: &[u8], metadata: &[u8]) {
        self.oldest_stamp_ns = self.oldest_stamp_ns.min(stamp_ns);
        self.put(Stamp::new(stamp_ns).encoded(), line, metadata);
    }

    /// Appends an entry that is encoded already, with its timestamp, and with more structured metadata
    /// behind it.
    pub fn push_encoded(&mut self, stamp_ns: i64, entry: &[u8], metadata: &[u8]) {
        self.oldest_stamp_ns = self.oldest_stamp_ns.min(stamp_ns);
        self.batch.raw.push(TAG_ENTRIES);
        put_varint(&mut self.batch.raw, (entry.len() + metadata.len()) as u64);
        self.batch.raw.extend_from_slice(entry);
        self.batch.raw.extend_from_slice(metadata);
        self.count += 1;
    }

    #[inline]
    fn put(&mut self, stamp: &[u8], line: &[u8], metadata: &[u8]) {
        let mut head = [0; ENTRY_HEAD_BYTES_MAX];
        // The part behind the entry's length comes first, since the length counts it.
        let mut at = 16;
        head[at] = TAG_TIMESTAMP;
        head[at + 1] = u8::try_from(stamp.len()).expect("20 bytes at most");
        head[at + 2..at + 2 + stamp.len()].copy_from_slice(stamp);
        at += 2 + stamp.len();
        head[at] = TAG_LINE;
        at = put_varint_at(&mut head, at + 1, line.len() as u64);
        let entry_len = at - 16 + line.len() + metadata.len();
        let length_bytes = varint_bytes(entry_len as u64);
        let start = 16 - length_bytes - 1;
        head[start] = TAG_ENTRIES;
        put_varint_at(&mut head, start + 1, entry_len as u64);
        self.batch.raw.reserve(at - start + line.len() + metadata.len());
        self.batch.raw.extend_from_slice(&head[start..at]);
        self.batch.raw.extend_from_slice(line);
        self.batch.raw.extend_from_slice(metadata);
        self.count += 1;
    }
}

impl Drop for Element<'_> {
    fn drop(&mut self) {
        let batch = &mut *self.batch;
        if self.count == 0 {
            batch.raw.truncate(self.start);
            return;
        }
        let length_at = self.start + 1;
        let len = batch.raw.len() - length_at - LENGTH_BYTES;
        assert!(len < ELEMENT_BYTES_MAX);
        for (i, byte) in batch.raw[length_at..length_at + LENGTH_BYTES].iter_mut().enumerate() {
            let group = u8::try_from((len >> (7 * i)) & 0x7f).expect("seven bits");
            *byte = if i + 1 < LENGTH_BYTES { group | 0x80 } else { group };
        }
        batch.entries += self.count;
        batch.oldest_arrival_ns = batch.oldest_arrival_ns.min(self.now_ns);
        batch.oldest_stamp_ns = batch.oldest_stamp_ns.min(self.oldest_stamp_ns);
    }
}

/// An open element whose lines are given their timestamps.
pub struct Lines<'a> {
    element: Element<'a>,
    stream: &'a mut Stream,
    first_ns: i64,
    stamp: Stamp,
}

impl Lines<'_> {
    /// Appends one line: its only copy on the way to Loki.
    #[inline]
    pub fn push(&mut self, line: &[u8]) {
        self.element.put(self.stamp.encoded(), line, &[]);
        self.stamp.advance();
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        if self.element.count > 0 {
            self.stream.gave(self.first_ns, self.element.count);
        }
    }
}

/// Encodes one pair of structured metadata, as a field of an entry.
pub fn put_metadata(out: &mut Vec<u8>, name: &str, value: &str) {
    let part_len = |text: &str| 1 + varint_bytes(text.len() as u64) + text.len();
    out.push(TAG_METADATA);
    put_varint(out, (part_len(name) + part_len(value)) as u64);
    for (tag, text) in [(TAG_NAME, name), (TAG_VALUE, value)] {
        out.push(tag);
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A timestamp that counts up by nanoseconds, kept in its encoded form.
struct Stamp {
    seconds: u64,
    nanos: u32,
    bytes: [u8; 20],
    /// Where the nanoseconds' varint begins.
    nanos_at: usize,
    end: usize,
}

impl Stamp {
    fn new(ns: i64) -> Stamp {
        let ns = u64::try_from(ns).expect("the clock stands after 1970");
        let per_second = u64::from(NANOS_PER_SECOND);
        let mut stamp = Stamp {
            seconds: ns / per_second,
            nanos: u32::try_from(ns % per_second).expect("below 1e9"),
            bytes: [0; 20],
            nanos_at: 0,
            end: 0,
        };
        stamp.encode_seconds();
        stamp
    }

    fn encode_seconds(&mut self) {
        self.bytes[0] = TAG_SECONDS;
        let at = put_varint_at(&mut self.bytes, 1, self.seconds);
        self.bytes[at] = TAG_NANOS;
        self.nanos_at = at + 1;
        self.encode_nanos();
    }

    fn encode_nanos(&mut self) {
        self.end = put_varint_at(&mut self.bytes, self.nanos_at, u64::from(self.nanos));
    }

    fn encoded(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    #[inline]
    fn advance(&mut self) {
        self.nanos += 1;
        if self.nanos == NANOS_PER_SECOND {
            self.nanos = 0;
            self.seconds += 1;
            self.encode_seconds();
        } else {
            self.encode_nanos();
        }
    }
}

#[inline]
fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The index behind the varint.
#[inline]
fn put_varint_at(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = (value & 0x7f) as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = (value & 0x7f) as u8;
    at + 1
}

pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; 10];
    let end = put_varint_at(&mut bytes, 0, value);
    out.extend_from_slice(&bytes[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Streams;

    /// A protobuf walk as dumb as can be: (field, bytes or value) of one message.
    fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..64).step_by(7) {
                let byte = message[0];
                *message = &message[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return value;
                }
            }
            panic!("a varint without end")
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let tag = varint(&mut message);
            let value = varint(&mut message);
            let bytes = if tag & 7 == 2 {
                let (bytes, rest) = message.split_at(usize::try_from(value).unwrap());
                message = rest;
                bytes
            } else {
                &message[..0]
            };
            found.push((tag >> 3, value, bytes));
        }
        found
    }

    /// (labels, timestamp, line) of each entry of a body.
    fn decode(body: &[u8]) -> Vec<(String, i64, Vec<u8>)> {
        let raw = snap::raw::Decoder::new().decompress_vec(body).unwrap();
        let mut entries = Vec::new();
        for (_, _, stream) in fields(&raw) {
            let parts = fields(stream);
            let labels = String::from_utf8(parts[0].2.to_vec()).unwrap();
            for (field, _, entry) in &parts[1..] {
                assert_eq!(*field, 2);
                let entry = fields(entry);
                let stamp = fields(entry[0].2);
                let ns = stamp[0].1 as i64 * 1_000_000_000 + stamp[1].1 as i64;
                entries.push((labels.clone(), ns, entry[1].2.to_vec()));
            }
        }
        entries
    }

    #[test]
    fn what_goes_in_comes_out_with_its_own_nanosecond() {
        let mut streams = Streams::default();
        let (a, _) = streams.acquire("{a=\"1\"}".into());
        let (b, _) = streams.acquire("{b=\"2\"}".into());
        let mut batch = Batch::default();
        // The run of timestamps crosses a second.
        let now = 1_700_000_000_999_999_999;
        {
            let mut lines = batch.lines(streams.get_mut(a), now);
            lines.push(b"first");
            lines.push(b"");
            lines.push(&[0, 0xff, 7]);
        }
        drop(batch.lines(streams.get_mut(b), now));
        batch.lines(streams.get_mut(b), now + 5).push(&[b'x'; 300_000]);
        batch.lines(streams.get_mut(a), now - 77).push(b"later, by an earlier clock");
        let sealed = batch.seal(b"tenant".to_vec(), 6, 0);
        assert!(batch.is_empty());
        assert_eq!((sealed.entries, sealed.oldest_arrival_ns), (5, now - 77));
        let a = || "{a=\"1\"}".to_owned();
        assert_eq!(
            decode(&sealed.body),
            [
                (a(), now, b"first".to_vec()),
                (a(), now + 1, b"".to_vec()),
                (a(), now + 2, vec![0, 0xff, 7]),
                ("{b=\"2\"}".to_owned(), now + 5, vec![b'x'; 300_000]),
                (a(), now + 3, b"later, by an earlier clock".to_vec()),
            ]
        );
    }

    #[test]
    fn varints_are_as_long_as_counted() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
        }
    }
}
