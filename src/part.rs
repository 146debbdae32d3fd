//! A part of a frame: some of its entries, taken out of its body so that they can go on by themselves.
//!
//! Frames are never taken apart on the way to a sink that takes them. It is done where one refuses: what
//! it refuses is looked for by halves, and streams with a limit of their own must not hold up others.

use crate::batch::Batch;
use crate::block::Block;
use crate::receive::push::{BadPush, Push};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Tells a stream from the others of its tenant, by its labels; never 0, which stands for a mix.
#[must_use]
pub fn stream_key(labels: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    labels.hash(&mut hasher);
    hasher.finish().max(1)
}

/// All entries of a frame, where they stand in its decompressed body.
#[derive(Debug)]
struct Content {
    raw: Vec<u8>,
    labels: Vec<String>,
    /// As they came: a stream may have several. None: it cannot be read as a push.
    elements: usize,
    /// Grouped by stream, in their order within one.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    stream: usize,
    at: Range<usize>,
    stamp_ns: i64,
}

/// Some entries of a frame: whole streams, or a piece of one.
#[derive(Debug, Clone)]
pub struct Part {
    content: Arc<Content>,
    entries: Vec<u32>,
}

/// One entry, as it stands in a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<'a> {
    pub labels: &'a str,
    pub stamp_ns: i64,
    pub line: &'a [u8],
    pub metadata: Vec<(&'a str, &'a str)>,
}

/// Why a body is no push.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it cannot be decompressed: {0}")]
    Compression(#[from] snap::Error),
    #[error("{0}")]
    Push(#[from] BadPush),
    #[error("it holds no entry")]
    Empty,
}

/// What cannot be read as a push is kept under these labels, as it is.
const UNREADABLE_LABELS: &str = "{log_capturer_unreadable=\"true\"}";
/// In lines of this size, as large as others may be.
const UNREADABLE_LINE_BYTES: usize = 1 << 20;

impl Part {
    /// The whole of a frame's body. One that nobody can read is a single entry, which is kept in lines
    /// as it is.
    #[must_use]
    pub fn of(body: &[u8]) -> Part {
        Part::read(body).unwrap_or_else(|_| {
            Part::all(Content {
                raw: body.to_vec(),
                labels: vec![UNREADABLE_LABELS.into()],
                elements: 0,
                entries: vec![Entry { stream: 0, at: 0..0, stamp_ns: 0 }],
            })
        })
    }

    /// Likewise, of one that can be read.
    pub fn read(body: &[u8]) -> Result<Part, Unreadable> {
        read(body).map(Part::all)
    }

    fn all(content: Content) -> Part {
        let count = u32::try_from(content.entries.len()).expect("a frame is small");
        Part { content: Arc::new(content), entries: (0..count).collect() }
    }

    /// These of its entries.
    #[must_use]
    pub fn with(&self, entries: Vec<u32>) -> Part {
        Part { content: self.content.clone(), entries }
    }

    fn entry(&self, at: u32) -> &Entry {
        &self.content.entries[at as usize]
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of the whole body that it is a part of, before compression.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.content.raw.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The labels of its stream, where it is only one.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        let (first, last) = (self.entries.first()?, self.entries.last()?);
        let stream = self.entry(*first).stream;
        (stream == self.entry(*last).stream).then(|| self.content.labels[stream].as_str())
    }

    #[must_use]
    pub fn oldest_stamp_ns(&self) -> i64 {
        self.entries.iter().map(|at| self.entry(*at).stamp_ns).min().unwrap_or(i64::MAX)
    }

    /// What each stream's entries come to, by its key.
    #[must_use]
    pub fn bytes_by_stream(&self) -> Vec<(u64, u64)> {
        let same = |a: &u32, b: &u32| self.entry(*a).stream == self.entry(*b).stream;
        let of = |entries: &[u32]| {
            let labels = &self.content.labels[self.entry(entries[0]).stream];
            (stream_key(labels), entries.iter().map(|at| self.entry(*at).at.len() as u64).sum())
        };
        self.entries.chunk_by(same).map(of).collect()
    }

    /// Two halves, cut between streams where there are several; only of one with more than one entry.
    #[must_use]
    pub fn halves(&self) -> (Part, Part) {
        assert!(self.entries.len() > 1, "a single entry has no halves");
        let middle = self.entries.len() / 2;
        let starts = self.entries.windows(2).enumerate().filter_map(|(at, pair)| {
            (self.entry(pair[0]).stream != self.entry(pair[1]).stream).then_some(at + 1)
        });
        let cut = starts.min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle);
        let (first, second) = self.entries.split_at(cut);
        (self.with(first.to_vec()), self.with(second.to_vec()))
    }

    /// One part for each stream.
    #[must_use]
    pub fn streams(&self) -> Vec<Part> {
        let same = |a: &u32, b: &u32| self.entry(*a).stream == self.entry(*b).stream;
        self.entries.chunk_by(same).map(|entries| self.with(entries.to_vec())).collect()
    }

    /// The entries older than this, and the others.
    #[must_use]
    pub fn by_age(&self, oldest_ns: i64) -> (Part, Part) {
        let (old, rest) = self.entries.iter().partition(|at| self.entry(**at).stamp_ns < oldest_ns);
        (self.with(old), self.with(rest))
    }

    /// Takes out the streams with these keys: each of them as a part, and the rest.
    #[must_use]
    pub fn without(&self, keys: &HashSet<u64>) -> (Vec<Part>, Part) {
        let keyed: Vec<u64> = self.content.labels.iter().map(|text| stream_key(text)).collect();
        let (taken, rest) =
            self.entries.iter().partition(|at| keys.contains(&keyed[self.entry(**at).stream]));
        (self.with(taken).streams(), self.with(rest))
    }

    /// As a push of its own.
    #[must_use]
    pub fn encode(&self) -> Block {
        let mut batch = Batch::default();
        for stream in self.streams() {
            let labels = stream.stream().expect("each is one stream");
            let mut element = batch.element(labels, 0);
            for at in &stream.entries {
                let Entry { at, stamp_ns, .. } = self.entry(*at);
                element.push_encoded(*stamp_ns, &self.content.raw[at.clone()], &[]);
            }
        }
        batch.compress()
    }

    /// For [`Part::with`].
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.entries
    }

    /// Where its entries stand in the frame, of which each stream stands in one piece.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.entries.iter().map(|at| *at as usize)
    }

    /// Its entries one by one.
    pub fn entries(&self) -> impl Iterator<Item = Taken<'_>> {
        let (read, unread) = match self.is_unreadable() {
            false => (&self.entries[..], &[][..]),
            true => (&[][..], &self.content.raw[..]),
        };
        let read = read.iter().map(|at| {
            let entry = self.entry(*at);
            let labels = self.content.labels[entry.stream].as_str();
            let bytes = &self.content.raw[entry.at.clone()];
            let read = crate::receive::push::Entry { bytes, plain: true };
            let metadata = read.metadata().collect();
            Taken { labels, stamp_ns: entry.stamp_ns, line: read.line(), metadata }
        });
        let labels = UNREADABLE_LABELS;
        let unread = unread.chunks(UNREADABLE_LINE_BYTES);
        read.chain(unread.map(move |line| Taken {
            labels,
            stamp_ns: 0,
            line,
            metadata: Vec::new(),
        }))
    }

    fn is_unreadable(&self) -> bool {
        self.content.elements == 0
    }
}

/// Bodies of one stream as one body with a single element. Of a push Loki reports what it says of the
/// last element only, whichever stream it is of: of several, one that is refused may hide behind
/// another. None where it is a single element already, or where they cannot be merged.
#[must_use]
pub fn merge<'a>(bodies: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let contents: Vec<Content> = bodies.map(|body| read(body).ok()).collect::<Option<_>>()?;
    if matches!(&contents[..], [Content { elements: 1, .. }]) {
        return None;
    }
    let labels = contents.first()?.labels.first()?;
    if contents.iter().any(|content| content.labels.iter().any(|other| other != labels)) {
        return None;
    }
    let mut batch = Batch::default();
    let mut element = batch.element(labels, 0);
    for content in &contents {
        for Entry { at, stamp_ns, .. } in &content.entries {
            element.push_encoded(*stamp_ns, &content.raw[at.clone()], &[]);
        }
    }
    drop(element);
    Some(batch.compress().body)
}

fn read(body: &[u8]) -> Result<Content, Unreadable> {
    let raw = snap::raw::Decoder::new().decompress_vec(body)?;
    let push = Push::read_stored(&raw)?;
    let mut labels: Vec<String> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut entries = Vec::with_capacity(push.entries);
    for stream in &push.streams {
        let at = *known.entry(stream.labels).or_insert_with(|| {
            labels.push(stream.labels.to_owned());
            labels.len() - 1
        });
        for (entry, measure) in stream.encoded() {
            let start = entry.bytes.as_ptr() as usize - raw.as_ptr() as usize;
            let at_bytes = start..start + entry.bytes.len();
            entries.push(Entry { stream: at, at: at_bytes, stamp_ns: measure.stamp_ns });
        }
    }
    // Stable: those of a stream keep their order.
    entries.sort_by_key(|entry| entry.stream);
    let elements = push.streams.len();
    if entries.is_empty() {
        return Err(Unreadable::Empty);
    }
    Ok(Content { raw, labels, elements, entries })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::batch::put_metadata;

    /// A body of these (labels, timestamp, line), an element for each run of equal labels.
    pub fn body_of(entries: &[(&str, i64, &str)]) -> Vec<u8> {
        let mut batch = Batch::default();
        for run in entries.chunk_by(|a, b| a.0 == b.0) {
            let mut element = batch.element(run[0].0, 1);
            for (_, stamp_ns, line) in run {
                let mut metadata = Vec::new();
                put_metadata(&mut metadata, "of", line);
                element.push(*stamp_ns, line.as_bytes(), &metadata);
            }
        }
        batch.compress().body
    }

    fn lines(part: &Part) -> Vec<(String, String)> {
        let text = |taken: Taken<'_>| {
            let line = String::from_utf8(taken.line.to_vec()).unwrap();
            assert_eq!(taken.metadata, [("of", line.as_str())]);
            (taken.labels.to_owned(), line)
        };
        part.entries().map(text).collect()
    }

    const A: &str = "{a=\"1\"}";
    const B: &str = "{b=\"2\"}";

    fn mixed() -> Part {
        let entries = [(A, 5, "a1"), (B, 6, "b1"), (A, 7, "a2"), (B, 8, "b2"), (B, 9, "b3")];
        Part::of(&body_of(&entries))
    }

    #[test]
    fn what_is_encoded_again_is_what_was_taken_apart() {
        let part = mixed();
        let block = part.encode();
        assert_eq!((block.entries, part.len()), (5, 5));
        assert_eq!(block.raw_len as usize, snap::raw::decompress_len(&block.body).unwrap());
        assert_eq!(lines(&Part::of(&block.body)), lines(&part));
        let expected = [(A, "a1"), (A, "a2"), (B, "b1"), (B, "b2"), (B, "b3")];
        assert_eq!(lines(&part), expected.map(|(s, line)| (s.to_owned(), line.to_owned())));
    }

    #[test]
    fn halves_are_cut_between_streams_and_then_within_one() {
        let (first, second) = mixed().halves();
        assert_eq!((first.stream(), second.stream()), (Some(A), Some(B)));
        let (first, second) = second.halves();
        assert_eq!((first.len(), second.len()), (1, 2));
        assert_eq!(mixed().stream(), None);
        let bytes = mixed().bytes_by_stream();
        assert_eq!(bytes.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [A, B].map(stream_key));
        assert_eq!(bytes[0].1 * 3, bytes[1].1 * 2, "entries of one size");
    }

    #[test]
    fn entries_are_told_apart_by_age_and_by_stream() {
        let (old, rest) = mixed().by_age(7);
        assert_eq!((old.len(), rest.len(), rest.oldest_stamp_ns()), (2, 3, 7));
        let (taken, rest) = mixed().without(&HashSet::from([stream_key(B)]));
        assert_eq!((taken.len(), taken[0].stream(), rest.stream()), (1, Some(B), Some(A)));
        let (none, all) = mixed().without(&HashSet::from([stream_key("{}")]));
        assert_eq!((none.len(), all.len()), (0, 5));
    }

    #[test]
    fn bodies_of_one_stream_become_one_element() {
        let bodies = [body_of(&[(A, 5, "a1"), (A, 6, "a2")]), body_of(&[(A, 4, "a0")])];
        let of = |bodies: &[Vec<u8>]| merge(bodies.iter().map(Vec::as_slice));
        let merged = of(&bodies).unwrap();
        assert_eq!(read(&merged).unwrap().elements, 1);
        let expected = ["a1", "a2", "a0"].map(|line| (A.to_owned(), line.to_owned()));
        assert_eq!(lines(&Part::of(&merged)), expected);
        assert_eq!(of(&[merged]), None, "it is one already");
        assert_eq!(of(&[body_of(&[(A, 5, "a1"), (B, 6, "b1")])]), None);
        assert_eq!(of(&[b"no snappy".into(), body_of(&[(A, 5, "a1")])]), None);
    }

    #[test]
    fn what_nobody_can_read_is_one_entry_that_holds_it() {
        for bad in [&b"no snappy"[..], &snap::raw::Encoder::new().compress_vec(b"xx").unwrap()] {
            let part = Part::of(bad);
            assert_eq!(part.len(), 1);
            assert_eq!(part.entries().next().unwrap().line, bad);
        }
        let large = vec![0xff; 3 * UNREADABLE_LINE_BYTES / 2];
        let part = Part::of(&large);
        let lines: Vec<&[u8]> = part.entries().map(|taken| taken.line).collect();
        assert_eq!((part.len(), lines.len(), lines.concat() == large), (1, 2, true));
    }
}
